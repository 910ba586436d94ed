"""The command ``tv-mixaug check``: find somebody's pipeline, ask it everything, say what holds."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from tv_mixaug import viz
from tv_mixaug.arguments import check_probability
from tv_mixaug.io import write_image
from tv_mixaug.testing._arguments import at_least, per_channel
from tv_mixaug.testing._coded import (
    Case,
    Evidence,
    UntruthfulError,
    coded_batch,
    make_samples,
    seeded,
)
from tv_mixaug.testing.contracts import assert_inputs_unchanged, assert_one_label_format
from tv_mixaug.testing.draws import (
    assert_draws_independent,
    assert_probability,
    assert_switch_reaches_workers,
)
from tv_mixaug.testing.targets import assert_targets_follow_images
from tv_mixaug.testing.truth import assert_labels_match_pixels

_BATCH = 8
_Key = str | int


@dataclass(frozen=True)
class Target:
    """Somebody's pipeline, with what is needed to feed it and to read what it gives.

    Called with `(images, labels)`, or `(images, labels, masks)`, it returns what comes out of each.
    """

    function: Callable[..., Any]
    kind: str  # "collate", "batch" or "loader"
    form: str  # "samples": a list of them; "batch": one value; "leaves": a value for each argument
    keys: tuple[_Key, ...]  # of image, label and mask, in a sample or batch
    num_classes: int
    soft: bool = False
    arrays: bool = False
    loader: DataLoader[Any] | None = None
    sample: Any = None  # of the loader's own data set; what else it has is handed on

    def feed(self, *leaves: Any) -> tuple[Any, ...]:
        """Return the arguments that the pipeline takes, of a batch's images, labels and masks."""
        images, labels, *masks = leaves
        if len(self.keys) > 2 and not masks:
            masks = [tv_tensors.Mask(torch.zeros_like(images[:, 0], dtype=torch.uint8))]
        if self.soft:
            labels = torch.nn.functional.one_hot(labels.long(), self.num_classes).float()
        leaves = (images, labels, *masks)
        if self.form == "samples":
            rows = zip(*(self._rows(leaf) for leaf in leaves), strict=True)
            return ([self._pack(row) for row in rows],)
        if self.form == "leaves":
            return leaves
        return (self._pack(leaves),)

    def __call__(self, *leaves: Any) -> tuple[Any, ...]:
        """Feed the pipeline and read the leaves from what it returns."""
        return self.read(self.function(*self.feed(*leaves)), len(leaves))

    def collate(self, samples: list[tuple[Any, Any]]) -> tuple[Any, ...]:
        """Call the pipeline on coded samples, as a loader does."""
        images, labels = zip(*samples, strict=True)
        return self(torch.stack(images), torch.tensor(labels))

    def read(self, result: Any, count: int = 2) -> tuple[Any, ...]:
        """Return the leaves of a batch that the pipeline gave."""
        try:
            return tuple(result[key] for key in self.keys[:count])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"the batch has no {error} for image, label and mask; say where by --keys"
            ) from error

    def _rows(self, leaf: Tensor) -> list[Any]:
        rows = [row for row, _ in make_samples(leaf, leaf)]
        return [row.numpy() for row in rows] if self.arrays and leaf.ndim > 2 else rows

    def _pack(self, leaves: tuple[Any, ...]) -> Any:
        placed = dict(zip(self.keys, leaves, strict=False))
        if isinstance(self.sample, Mapping):
            return {**self.sample, **placed}
        if isinstance(self.keys[0], str):
            return placed
        others = self.sample if self.sample is not None else [None] * len(placed)
        return tuple(placed.get(place, value) for place, value in enumerate(others))


class Answer(NamedTuple):
    """A row of the table."""

    question: str
    verdict: str  # "holds", "refuses", "wrong" or "not asked"
    text: str = ""
    error: UntruthfulError | None = None

    @property
    def short(self) -> str:
        """What stands in the table."""
        if self.verdict == "wrong" and self.error and self.error.rows:
            return f"WRONG in {self.error.wrong} of {self.error.rows}"
        return {"wrong": "WRONG"}.get(self.verdict, self.verdict)


def run_check(args: argparse.Namespace) -> int:
    """Ask a pipeline everything and print the answers.

    Args:
        args: The parsed arguments of ``tv-mixaug check``.

    Returns:
        The exit code: 0 if labels tell the truth, 1 if something is wrong.

    Raises:
        ValueError: If the pipeline cannot be found, fed or read.
    """
    _check_arguments(args)
    torch.set_num_threads(1)  # the batches are small
    dtypes = [getattr(torch, name) for name in args.dtype or ["float32"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the pipeline warns of is not what is asked
        target = find_target(args, dtypes[0])
        described = f"{args.target} is a {_KINDS[target.kind]}"
        height, width = args.size
        print(
            f"{described}; fed with {_BATCH} × 3 × {height} × {width}, {target.num_classes} "
            f"classes, seed {args.seed}.\n",
            flush=True,
        )
        answers = []
        for answer in ask_all(target, args, dtypes):
            print(f"  {answer.question:<40}{answer.short}", flush=True)
            answers.append(answer)
    told: dict[str, str] = {}
    for answer in answers:
        if not answer.text:
            continue
        print(f"\n{answer.question}: {answer.verdict}")
        case = answer.error.case if answer.error else answer.text
        lines = answer.text.splitlines()
        if case in told:
            lines = [f"As above: {told[case]}."]
        print("\n".join(f"  {line}" for line in lines))
        told.setdefault(case, answer.question)
    pictures = {
        answer.error.case: (answer.question, answer.error.evidence)
        for answer in reversed(answers)  # of one case the first question is kept
        if answer.error is not None and answer.error.evidence is not None
    }
    if pictures:
        write_image(args.out, _draw_sheet(list(pictures.values())[::-1]))
        print(f"\nContact sheet: {args.out.resolve()}")
    return 1 if any(answer.verdict == "wrong" for answer in answers) else 0


def _check_arguments(args: argparse.Namespace) -> None:
    """Raise for numbers out of range before anything of the user's is run."""
    at_least("--num-classes", args.num_classes, 2)
    at_least("--draws", args.draws, 1)
    at_least("--seed", args.seed, 0)
    for side in args.size:
        at_least("--size", side, 8)
    if args.p is not None:
        check_probability("--p", args.p)
    if not 0 <= args.label_smoothing < 1:
        raise ValueError(f"--label-smoothing must be in [0, 1), got {args.label_smoothing}.")
    if (args.mean is None) != (args.std is None):
        raise ValueError("--mean and --std must be given together, got only one of them.")
    for name in ("mean", "std"):
        per_channel(f"--{name}", getattr(args, name), 3)


_KINDS = {"collate": "collate function", "batch": "batch transform", "loader": "DataLoader"}


def find_target(args: argparse.Namespace, dtype: torch.dtype) -> Target:
    """Import what is asked, and find out how it is called.

    Args:
        args: The parsed arguments.
        dtype: Of the images that it is tried with.

    Returns:
        The target, which has answered once.

    Raises:
        ValueError: If it cannot be imported, called or read; the text says what to do.
    """
    found = _make(_import(args.target), args)
    kind = args.kind
    loader = found if isinstance(found, DataLoader) else None
    if kind == "loader" and loader is None:
        raise ValueError(f"{args.target} must be a DataLoader, got {type(found).__name__}.")
    if loader is not None:
        if kind not in (None, "loader"):
            raise ValueError(f"{args.target} is a DataLoader, but --as says {kind}.")
        if loader.collate_fn is None:
            raise ValueError(f"{args.target} does not collate; name the function that mixes.")
        kind, found = "loader", loader.collate_fn
    if not callable(found):
        raise ValueError(
            f"{args.target} must be a function, transform or DataLoader, or a function without "
            f"arguments that makes one, got {type(found).__name__}."
        )
    draft = Target(
        found, kind or "collate", "samples", (0, 1), args.num_classes, args.label_format == "soft",
        args.arrays, loader,
    )  # fmt: skip
    if loader is not None:
        draft = _look_at_sample(draft, loader)
    if args.keys:
        draft = replace(draft, keys=tuple(int(k) if k.isdigit() else k for k in args.keys))
    if loader is not None or kind == "collate":
        forms = [("samples", draft.kind)]
    elif kind == "batch":
        forms = [("leaves", "batch"), ("batch", "batch")]
    else:  # a function of one argument most often collates, a module hardly ever
        forms = [("samples", "collate"), ("leaves", "batch"), ("batch", "batch")]
        if isinstance(found, torch.nn.Module) or _count_required(found) > 1:
            forms = [*forms[1:], forms[0]]
    complaints = []
    for form, its_kind in forms:
        if form == "leaves" and isinstance(draft.keys[0], str):
            continue
        target = replace(draft, form=form, kind=its_kind)
        complaint = _try(target, args, dtype)
        if complaint is None:
            if args.switch and not hasattr(found, args.switch):
                raise ValueError(
                    f"--switch must name an attribute or method of {type(found).__name__}, "
                    f"got {args.switch!r}."
                )
            return target
        complaints.append(f"as a {_KINDS[its_kind]} it {complaint}")
    hint = "" if len(forms) == 1 or args.kind else "; say which it is by --as"
    raise ValueError(
        f"{args.target} cannot be asked: {'; '.join(dict.fromkeys(complaints))}{hint}."
    )


def _import(name: str) -> Any:
    module_name, _, path = name.partition(":")
    module_name = module_name.removesuffix(".py").replace("/", ".")
    if not module_name or not path:
        raise ValueError(f"the target must be MODULE:NAME, such as train:collate, got {name!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot import {module_name!r}: {_sentence(error)}.") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module_name!r} has no {path!r}.")
        found = getattr(found, part)
    return found


def _make(found: Any, args: argparse.Namespace) -> Any:
    """Call a factory: what needs no argument, or the number of classes alone."""
    if isinstance(found, (DataLoader, torch.nn.Module)) or not callable(found):
        return found
    parameters = _parameters(found)
    required = [p for p in parameters if p.default is p.empty]
    takes_classes = "num_classes" in (p.name for p in parameters)
    if [p.name for p in required] not in ([], ["num_classes"]):
        if isinstance(found, type):
            raise ValueError(
                f"{args.target} is a class that needs {', '.join(p.name for p in required)}; name "
                "a function that makes one."
            )
        return found
    if not isinstance(found, type) and not inspect.isroutine(found):
        return found  # an object that takes any arguments
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(found).parameters.values()):
        return found
    try:
        return found(**({"num_classes": args.num_classes} if takes_classes else {}))
    except (Exception, SystemExit) as error:
        raise ValueError(f"{args.target} cannot be made: {_sentence(error)}.") from error


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return []
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _count_required(function: Callable[..., Any]) -> int:
    return sum(p.default is p.empty for p in _parameters(function))


def _sentence(error: BaseException) -> str:
    """Write an error in a line."""
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _look_at_sample(draft: Target, loader: DataLoader[Any]) -> Target:
    """Find out from the loader's own data set where image, label and mask are."""
    try:
        sample = loader.dataset[0]
    except Exception:  # its files may be elsewhere: samples are then taken to be pairs
        return draft
    if isinstance(sample, Mapping):
        items: list[tuple[Any, Any]] = list(sample.items())
    elif isinstance(sample, (tuple, list)):
        items = list(enumerate(sample))
    else:
        return draft

    def first(test: Callable[[Any], bool]) -> list[Any]:
        return [key for key, value in items if test(value)][:1]

    masks = first(lambda v: isinstance(v, tv_tensors.Mask))
    images = first(lambda v: getattr(v, "ndim", 0) == 3 and not isinstance(v, tv_tensors.Mask))
    soft = first(lambda v: isinstance(v, Tensor) and v.shape == (draft.num_classes,))
    labels = first(lambda v: isinstance(v, (int, np.integer)) or getattr(v, "ndim", 1) == 0) or soft
    if not images or not labels:
        return draft
    keys = (images[0], labels[0], *masks)
    arrays = draft.arrays or isinstance(dict(items)[images[0]], np.ndarray)
    is_soft = draft.soft or labels == soft
    return replace(draft, sample=sample, keys=keys, arrays=arrays, soft=is_soft)


def _try(target: Target, args: argparse.Namespace, dtype: torch.dtype) -> str | None:
    """Call a pipeline until it changes something; say what is wrong with it, or None."""
    case = Case(_BATCH, args.size, dtype, args.seed)
    batch = coded_batch(case, num_classes=target.num_classes, channels=3)
    try:
        with seeded(args.seed):
            for _ in range(20):
                images, labels = target(batch.images.clone(), batch.classes.clone())
                if not isinstance(images, Tensor) or images.ndim != 4:
                    return f"returns images that are {type(images).__name__}, not (B, C, H, W)"
                if len(images) != _BATCH:
                    return f"returns {len(images)} images for {_BATCH} samples"
                if images.shape != batch.images.shape or not torch.equal(images, batch.images):
                    return None
                weights = labels[2] if isinstance(labels, (tuple, list)) else labels
                if torch.as_tensor(weights).is_floating_point() and weights.amax(-1).min() < 1:
                    return None
    except (Exception, SystemExit) as error:
        return f"raises {_sentence(error)}"
    return "mixes nothing in 20 batches (is it switched on?)"


def ask_all(
    target: Target, args: argparse.Namespace, dtypes: list[torch.dtype]
) -> Iterator[Answer]:
    """Ask a target every question that it can be asked.

    Args:
        target: What is asked.
        args: The parsed arguments.
        dtypes: Of the images, the first for all questions, the others for the labels alone.

    Yields:
        An answer for each question.

    Raises:
        ValueError: If labels and pixels could not be compared even once.
    """
    fed: dict[str, Any] = {"seed": args.seed, "size": args.size, "dtype": dtypes[0]}
    labels = partial(
        assert_labels_match_pixels, target, num_classes=target.num_classes, seed=args.seed,
        label_smoothing=args.label_smoothing, mean=args.mean, std=args.std, erased=args.erased,
        sizes=(args.size,), draws=args.draws,
    )  # fmt: skip
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        answer = _ask(
            f"labels equal pixels, {name}", partial(labels, dtypes=(dtype,), batch_sizes=(_BATCH,))
        )
        if dtype is dtypes[0] and answer.verdict == "refuses":
            raise ValueError(f"{args.target} cannot be asked: {answer.text.rstrip('.')}.")
        yield answer
    for size in (5, 1):
        yield _ask(
            f"labels equal pixels, batch of {size}",
            partial(labels, dtypes=dtypes[:1], batch_sizes=(size,)),
        )
    if len(target.keys) > 2:
        yield _ask("masks follow images", partial(_ask_masks, target, args, dtypes[0]))
    yield _ask(
        "labels have one format",
        partial(
            assert_one_label_format,
            lambda p: target,
            num_classes=target.num_classes,
            p=(0,),
            draws=2 * args.draws,
            seed=args.seed,
        ),
    )
    yield _ask("inputs stay as they are", partial(_ask_inputs, target, args, dtypes[0]))
    target = replace(target, function=_Plain(target.function, args.mean, args.std, target.keys[0]))
    if args.p is not None:
        yield _ask(
            f"{'batches' if args.per == 'batch' else 'samples'} are mixed as often as said",
            partial(assert_probability, target, args.p, per=args.per, **fed),
        )
    if not args.fixed:
        yield _ask("draws are independent", partial(_ask_draws, target, args, fed))
    if args.switch:
        yield _ask(
            "the switch reaches running workers",
            partial(
                assert_switch_reaches_workers,
                partial(_loader_of, target, stay=True),
                partial(_switch, target, args.switch),
                **fed,
            ),
        )


@dataclass
class _Plain:
    """A pipeline with its normalisation undone, so that colours can be read."""

    function: Callable[..., Any]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    key: _Key

    def __call__(self, *given: Any) -> Any:
        result = self.function(*given)
        if self.mean is None or self.std is None:
            return result
        mean, std = (
            torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (self.mean, self.std)
        )
        plain = result[self.key].double() * std + mean
        if isinstance(result, Mapping):
            return {**result, self.key: plain}
        return [plain if n == self.key else value for n, value in enumerate(result)]


def _ask(question: str, ask: Callable[[], Any]) -> Answer:
    try:
        ask()
    except UntruthfulError as error:
        return Answer(question, "wrong", str(error), error)
    except (Exception, SystemExit) as error:
        return Answer(question, "refuses", f"{_sentence(error)}.")
    return Answer(question, "holds")


def _ask_masks(target: Target, args: argparse.Namespace, dtype: torch.dtype) -> None:
    def pipeline(images: Tensor, masks: Tensor) -> tuple[Any, Any]:
        labels = torch.arange(len(images)) % target.num_classes
        images, _, masks = target(images, labels, masks)
        return images, masks

    assert_targets_follow_images(
        pipeline, kind="masks", num_classes=max(_BATCH, target.num_classes), seed=args.seed,
        batch_sizes=(_BATCH,), sizes=(args.size,), dtypes=(dtype,), draws=args.draws,
        erased=args.erased is not None,
    )  # fmt: skip


def _ask_inputs(target: Target, args: argparse.Namespace, dtype: torch.dtype) -> None:
    case = Case(_BATCH, args.size, dtype, args.seed)
    batch = coded_batch(case, num_classes=target.num_classes, channels=3)
    given = target.feed(batch.images, batch.classes)
    assert_inputs_unchanged(target.function, *given, seed=args.seed)


def _ask_draws(target: Target, args: argparse.Namespace, fed: dict[str, Any]) -> None:
    assert_draws_independent(target, per=args.per, **fed)
    if target.kind != "batch":
        set_epoch = getattr(_below(target.function), "set_epoch", None)
        make = partial(_loader_of, target)
        assert_draws_independent(make, per=args.per, loader=True, set_epoch=set_epoch, **fed)


def _below(function: Callable[..., Any]) -> Any:
    """Return the user's own function."""
    return function.function if isinstance(function, _Plain) else function


def _loader_of(target: Target, data: Dataset[Any], *, stay: bool = False) -> DataLoader[Any]:
    """Put the user's loader, or a new one with two workers, around a coded data set."""
    options: dict[str, Any] = {"num_workers": 2}
    if target.loader is not None:
        names = ("worker_init_fn", "multiprocessing_context", "persistent_workers", "generator")
        options = {name: getattr(target.loader, name) for name in names}
        options["num_workers"] = min(2, target.loader.num_workers)
    if stay:
        options |= {"persistent_workers": True, "num_workers": 1}
    return DataLoader(data, _BATCH, collate_fn=target.collate, **options)


def _switch(target: Target, name: str, loader: Any, on: bool) -> None:
    """Set an attribute of the user's function, or call its method, as a training loop does."""
    function = _below(target.function)
    if callable(getattr(function, name)):
        getattr(function, name)(float(on))
    else:
        setattr(function, name, on)


def _draw_sheet(pictures: list[tuple[str, Evidence]]) -> npt.NDArray[np.uint8]:
    """Draw the wrong rows of each answer with what their labels say, and what they hold."""
    strips = []
    for question, evidence in pictures:
        for title, images, labels in (
            (f"{question}: these went in", evidence.samples[:_BATCH], evidence.classes[:_BATCH]),
            ("These came out, and the labels say", evidence.images, evidence.said),
            ("Their pixels hold", evidence.images, evidence.held),
        ):
            shown = images.nan_to_num(0).clamp(0, 1).float()
            weights = labels.nan_to_num(0).clamp(min=0).float() if labels.ndim == 2 else labels
            strips.append(viz.draw_batch(shown, weights, title=title))
    width = max(strip.shape[1] for strip in strips)
    wide = [
        np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), mode="edge")
        for strip in strips
    ]
    return np.concatenate(wide)
