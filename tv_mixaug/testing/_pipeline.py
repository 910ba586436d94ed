"""Somebody's pipeline: find it by its name, find out how it is called, feed it and read it."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from tv_mixaug.testing._coded import Case, coded_batch, make_samples, seeded

BATCH = 8  # samples in most questions
_Key = str | int

KINDS = {"collate": "collate function", "batch": "batch transform", "loader": "DataLoader"}


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

    def without_normalisation(
        self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
    ) -> Target:
        """Return a target whose images can be read as colours."""
        if mean is None or std is None:
            return self
        return replace(self, function=_Plain(self.function, mean, std, self.keys[0]))

    def _rows(self, leaf: Tensor) -> list[Any]:
        rows = [row for row, _ in make_samples(leaf, leaf)]
        return [row.numpy() for row in rows] if self.arrays and leaf.ndim > 2 else rows

    def _pack(self, leaves: tuple[Any, ...]) -> Any:
        placed = dict(zip(self.keys, leaves, strict=False))
        if isinstance(self.sample, Mapping):
            return {**self.sample, **placed}
        if isinstance(self.keys[0], str):
            return placed
        others = self.sample
        if others is None:
            others = [None] * (1 + max(key for key in placed if isinstance(key, int)))
        return tuple(placed.get(place, value) for place, value in enumerate(others))


@dataclass
class _Plain:
    """A pipeline with its normalisation undone, so that colours can be read."""

    function: Callable[..., Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    key: _Key

    def __call__(self, *given: Any) -> Any:
        result = self.function(*given)
        mean, std = (
            torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (self.mean, self.std)
        )
        plain = result[self.key].double() * std + mean
        if isinstance(result, Mapping):
            return {**result, self.key: plain}
        return [plain if n == self.key else value for n, value in enumerate(result)]


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
        draft = replace(draft, keys=tuple(args.keys))
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
        complaints.append(f"as a {KINDS[its_kind]} it {complaint}")
    hint = "" if args.kind else "; say which it is by --as"
    if loader is not None:
        hint = "; if its data set mixes, name what does that"
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
        raise ValueError(f"cannot import {module_name!r}: {in_a_line(error)}.") from error
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
        raise ValueError(f"{args.target} cannot be made: {in_a_line(error)}.") from error


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return []
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _count_required(function: Callable[..., Any]) -> int:
    return sum(p.default is p.empty for p in _parameters(function))


def in_a_line(error: BaseException) -> str:
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
    case = Case(BATCH, args.size, dtype, args.seed)
    batch = coded_batch(case, num_classes=target.num_classes, channels=3)
    try:
        with seeded(args.seed):
            for _ in range(200):
                images, labels = target(batch.images.clone(), batch.classes.clone())
                if not isinstance(images, Tensor) or images.ndim != 4:
                    return f"returns images that are {type(images).__name__}, not (B, C, H, W)"
                if len(images) != BATCH:
                    return f"returns {len(images)} images for {BATCH} samples"
                if images.shape != batch.images.shape or not torch.equal(images, batch.images):
                    return None
                weights = labels[2] if isinstance(labels, (tuple, list)) else labels
                if torch.as_tensor(weights).is_floating_point() and weights.amax(-1).min() < 1:
                    return None
    except (Exception, SystemExit) as error:
        return f"raises {in_a_line(error)}"
    return "mixes nothing in 200 batches (is it switched on?)"


def below(function: Callable[..., Any]) -> Any:
    """Return the user's own function."""
    return function.function if isinstance(function, _Plain) else function


def loader_of(target: Target, data: Dataset[Any], *, stay: bool = False) -> DataLoader[Any]:
    """Put the user's loader, or a new one with two workers, around a coded data set."""
    options: dict[str, Any] = {"num_workers": 2}
    if target.loader is not None:
        names = ("worker_init_fn", "multiprocessing_context", "persistent_workers", "generator")
        options = {name: getattr(target.loader, name) for name in names}
        options["num_workers"] = min(2, target.loader.num_workers)
    if stay:
        options |= {"persistent_workers": True, "num_workers": 1}
    return DataLoader(data, BATCH, collate_fn=target.collate, **options)


def switch(target: Target, name: str, loader: Any, on: bool) -> None:
    """Set an attribute of the user's function, or call its method, as a training loop does."""
    function = below(target.function)
    if callable(getattr(function, name)):
        getattr(function, name)(float(on))
    else:
        setattr(function, name, on)
