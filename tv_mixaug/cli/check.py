"""The command ``tv-mixaug check``: ask somebody's pipeline everything, and say what holds."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tv_mixaug import viz
from tv_mixaug._validation import check_probability
from tv_mixaug.extras.io import write_image
from tv_mixaug.testing._arguments import at_least, per_channel
from tv_mixaug.testing._coded import Case, Evidence, UntruthfulError, coded_batch
from tv_mixaug.testing._pipeline import (
    BATCH,
    KINDS,
    Target,
    below,
    find_target,
    in_a_line,
    loader_of,
    switch,
)
from tv_mixaug.testing.contracts import assert_inputs_unchanged, assert_one_label_format
from tv_mixaug.testing.draws import (
    assert_draws_independent,
    assert_probability,
    assert_switch_reaches_workers,
)
from tv_mixaug.testing.targets import assert_targets_follow_images
from tv_mixaug.testing.truth import assert_labels_match_pixels


class Answer(NamedTuple):
    """A row of the table."""

    question: str
    verdict: str  # "holds", "refuses" or "wrong"
    text: str = ""
    error: UntruthfulError | None = None

    @property
    def short(self) -> str:
        """What stands in the table."""
        if self.error is None:
            return self.verdict
        return f"WRONG in {self.error.wrong} of {self.error.rows}" if self.error.rows else "WRONG"


def run_check(args: argparse.Namespace) -> int:
    """Ask a pipeline everything and print the answers.

    Args:
        args: The parsed arguments of ``tv-mixaug check``.

    Returns:
        The exit code: 0 if labels tell the truth, 1 if something is wrong.

    Raises:
        ValueError: If the pipeline cannot be found, fed or read.
    """
    args = _read_arguments(args)
    torch.set_num_threads(1)  # the batches are small
    dtypes = [getattr(torch, name) for name in args.dtype or ["float32"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the pipeline warns of is not what is asked
        target = find_target(args, dtypes[0])
        described = f"{args.target} is a {KINDS[target.kind]}"
        height, width = args.size
        print(
            f"{described}; fed with {BATCH} × 3 × {height} × {width}, {target.num_classes} "
            f"classes, seed {args.seed}.\n",
            flush=True,
        )
        answers = []
        for answer in ask_all(target, args, dtypes):
            print(f"  {answer.question:<40}{answer.short}", flush=True)
            answers.append(answer)
    _print_reasons(answers)
    pictures = {
        answer.error.case: (answer.question, answer.error.evidence)
        for answer in reversed(answers)  # of one case the first question is kept
        if answer.error is not None and answer.error.evidence is not None
    }
    if pictures:
        write_image(args.out, _draw_sheet(list(pictures.values())[::-1]))
        print(f"\nContact sheet: {args.out.resolve()}")
    return 1 if any(answer.verdict == "wrong" for answer in answers) else 0


def _print_reasons(answers: list[Answer]) -> None:
    """Print what was wrong, or refused; a case that two questions have in common once."""
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


def _read_arguments(given: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments as values; raise if one is out of range, before anything is run."""
    args = argparse.Namespace(**vars(given))
    args.keys = [int(k) if k.isdigit() else k for k in args.keys.split(",")] if args.keys else None
    sides = _read_numbers("--size", args.size.replace("x", ","), int)
    args.size = (sides[0], sides[-1])
    for name in ("mean", "std"):
        text = getattr(args, name)
        numbers = text and per_channel(f"--{name}", _read_numbers(f"--{name}", text, float), 3)
        setattr(args, name, numbers)
    if args.erased not in (None, "noise"):
        values = _read_numbers("--erased", args.erased, float)
        args.erased = values[0] if len(values) == 1 else per_channel("--erased", values, 3)
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
    return args


def _read_numbers(name: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be made of numbers, got {text!r}.") from None


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
            f"labels equal pixels, {name}", partial(labels, dtypes=(dtype,), batch_sizes=(BATCH,))
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
    target = target.without_normalisation(args.mean, args.std)
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
                partial(loader_of, target, stay=True),
                partial(switch, target, args.switch),
                **fed,
            ),
        )


def _ask(question: str, ask: Callable[[], Any]) -> Answer:
    try:
        ask()
    except UntruthfulError as error:
        return Answer(question, "wrong", str(error), error)
    except (Exception, SystemExit) as error:
        return Answer(question, "refuses", f"{in_a_line(error)}.")
    return Answer(question, "holds")


def _ask_masks(target: Target, args: argparse.Namespace, dtype: torch.dtype) -> None:
    def pipeline(images: Tensor, masks: Tensor) -> tuple[Any, Any]:
        labels = torch.arange(len(images)) % target.num_classes
        images, _, masks = target(images, labels, masks)
        return images, masks

    classes = min(256, max(BATCH, target.num_classes))  # masks are of bytes
    assert_targets_follow_images(
        pipeline, kind="masks", num_classes=classes, seed=args.seed,
        batch_sizes=(BATCH,), sizes=(args.size,), dtypes=(dtype,), draws=args.draws,
        erased=args.erased is not None,
    )  # fmt: skip


def _ask_inputs(target: Target, args: argparse.Namespace, dtype: torch.dtype) -> None:
    case = Case(BATCH, args.size, dtype, args.seed)
    batch = coded_batch(case, num_classes=target.num_classes, channels=3)
    given = target.feed(batch.images, batch.classes)
    assert_inputs_unchanged(target.function, *given, seed=args.seed)


def _ask_draws(target: Target, args: argparse.Namespace, fed: dict[str, Any]) -> None:
    assert_draws_independent(target, per=args.per, **fed)
    if target.kind != "batch":
        set_epoch = getattr(below(target.function), "set_epoch", None)
        make = partial(loader_of, target)
        assert_draws_independent(make, per=args.per, loader=True, set_epoch=set_epoch, **fed)


def _draw_sheet(pictures: list[tuple[str, Evidence]]) -> npt.NDArray[np.uint8]:
    """Draw the wrong rows of each answer with what their labels say, and what they hold."""
    strips = []
    for question, evidence in pictures:
        for title, images, labels in (
            (f"{question}: these went in", evidence.samples[:BATCH], evidence.classes[:BATCH]),
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
