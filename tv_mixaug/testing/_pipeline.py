"""Find a user's pipeline by its name, feed it coded batches and read its output."""

import argparse
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from tv_mixaug.testing._coded import Case, coded_batch, make_samples, to_unit
from tv_mixaug.testing._runner import join_pair, read_output, seeded

BATCH = 8  # samples in most batches
KINDS = {"collate": "collate function", "batch": "batch transform", "loader": "DataLoader"}
# Inputs of each kind: a list of samples, one argument per field, or one value that has all fields.
FORMS = {"collate": ["samples"], "batch": ["fields", "batch"], "loader": ["samples"]}


@dataclass(frozen=True)
class Target:
    """A user's pipeline, and how it is fed and read.

    Called with `(images, labels)`, or `(images, labels, masks)`, it returns the same fields of its
    output.
    """

    function: Callable[..., Any]
    kind: str  # a key of KINDS
    form: str  # one of its FORMS
    keys: tuple[str | int, ...]  # of image, label and mask, in a sample or batch
    num_classes: int
    soft: bool = False  # labels go in as (B, K)
    arrays: bool = False  # images of samples are NumPy arrays
    loader: DataLoader[Any] | None = None
    sample: Any = None  # of the loader's own data set: its other fields are passed on
    mean: Tensor | None = None  # (C, 1, 1), normalisation to undo in the output
    std: Tensor | None = None

    def feed(self, *fields: Any) -> tuple[Any, ...]:
        """Return the arguments that the pipeline takes, for images, labels and perhaps masks."""
        images, labels, *masks = fields
        if len(self.keys) > 2 and not masks:
            masks = [tv_tensors.Mask(torch.zeros_like(images[:, 0], dtype=torch.uint8))]
        if self.soft:
            labels = torch.nn.functional.one_hot(labels.long(), self.num_classes).float()
        fields = (images, labels, *masks)
        if self.form == "samples":
            rows = zip(*(self._rows(field) for field in fields), strict=True)
            return ([self._pack(row) for row in rows],)
        return fields if self.form == "fields" else (self._pack(fields),)

    def __call__(self, *fields: Any) -> tuple[Any, ...]:
        """Call the pipeline and return the fields of its output."""
        result = self.function(*self.feed(*fields))
        if len(self.keys) == 2 and (self.sample is None or len(self.sample) == 2):
            result = join_pair(result)
        try:
            images, *targets = (result[key] for key in self.keys[: len(fields)])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"the batch has no {error} for image, label and mask; say where by --keys"
            ) from error
        return (images if self.mean is None else to_unit(images, self.mean, self.std), *targets)

    def collate(self, samples: list[tuple[Any, Any]]) -> tuple[Any, ...]:
        """Call the pipeline with coded samples, as a loader does."""
        images, labels = zip(*samples, strict=True)
        return self(torch.stack(images), torch.tensor(labels))

    def make_loader(self, data: Dataset[Any]) -> DataLoader[Any]:
        """Make a loader of coded samples, with the options of the user's loader if there is one."""
        options: dict[str, Any] = {"num_workers": 2}
        if self.loader is not None:
            names = ("worker_init_fn", "multiprocessing_context", "persistent_workers", "generator")
            options = {name: getattr(self.loader, name) for name in names}
            options["num_workers"] = min(2, self.loader.num_workers)
        return DataLoader(data, BATCH, collate_fn=self.collate, **options)

    def _rows(self, field: Tensor) -> list[Any]:
        rows = [row for row, _ in make_samples(field, field)]
        return [row.numpy() for row in rows] if self.arrays and field.ndim > 2 else rows

    def _pack(self, fields: tuple[Any, ...]) -> Any:
        placed = dict(zip(self.keys, fields, strict=False))
        if isinstance(self.sample, Mapping):
            return {**self.sample, **placed}
        if isinstance(self.keys[0], str):
            return placed
        others = self.sample
        if others is None:
            others = [None] * (1 + max(key for key in placed if isinstance(key, int)))
        return tuple(placed.get(place, value) for place, value in enumerate(others))


def find_target(args: argparse.Namespace, dtype: torch.dtype) -> Target:
    """Import a pipeline and find out how it is called, by calling it on images of a dtype.

    A ValueError says what to do if it cannot be imported, called or read.
    """
    found, name, kind = _make(_import(args.target), args), args.target, args.kind
    loader = found if isinstance(found, DataLoader) else None
    if kind and (kind == "loader") != (loader is not None):
        raise ValueError(f"{name} is a {type(found).__name__}, but --as says {kind}.")
    function = found if loader is None else loader.collate_fn
    class_name = type(function).__name__
    if not callable(function):
        raise ValueError(
            f"{name} must be a function, transform or DataLoader, or a function without arguments "
            f"that makes one, got {class_name}."
        )
    draft = Target(
        function, "loader", "samples", (0, 1), args.num_classes, args.label_format == "soft",
        args.arrays, loader,
    )  # fmt: skip
    if loader is not None:
        draft = _look_at_sample(draft, loader)
    if args.keys:
        draft = replace(draft, keys=tuple(args.keys))
    kinds = [kind or "loader"]
    if loader is None and kind is None:
        kinds = ["batch", "collate"]
        if not isinstance(function, torch.nn.Module) and not _bind_error(function, None):
            kinds.reverse()  # most functions of one argument are collate functions
    complaints = []
    for target in [replace(draft, kind=k, form=form) for k in kinds for form in FORMS[k]]:
        if target.form == "fields" and isinstance(target.keys[0], str):
            continue
        complaint = _try(target, args, dtype)
        if complaint is None:
            return target
        complaints.append(f"as a {KINDS[target.kind]} it {complaint}")
    hint = "" if args.kind else "; say which it is by --as"
    if loader is not None:
        hint = "; if its data set mixes, name the function that does"
    raise ValueError(f"{name} cannot be checked: {'; '.join(dict.fromkeys(complaints))}{hint}.")


def in_a_line(error: BaseException) -> str:
    """Write an error in one line."""
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _import(name: str) -> Any:
    module_name, _, path = name.partition(":")
    module_name = module_name.removesuffix(".py").replace("/", ".")
    if not module_name or not path:
        raise ValueError(f"the target must be MODULE:NAME, such as train:collate, got {name!r}.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot import {module_name!r}: {in_a_line(error)}.") from error
    try:
        return attrgetter(path)(module)
    except AttributeError:
        raise ValueError(f"{module_name!r} has no {path!r}.") from None


def _make(found: Any, args: argparse.Namespace) -> Any:
    """Call a factory: a function or class that needs no argument but the number of classes."""
    is_class = isinstance(found, type)
    if not is_class and not inspect.isroutine(found):
        return found
    parameters = inspect.signature(found).parameters
    options = {"num_classes": args.num_classes} if "num_classes" in parameters else {}
    missing = _bind_error(found, **options)
    if is_class and missing:
        raise ValueError(f"{args.target} is a class: {missing}; name a function that makes one.")
    if not is_class and (missing or any(p.kind is p.VAR_POSITIONAL for p in parameters.values())):
        return found
    try:
        return found(**options)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{args.target} cannot be made: {in_a_line(error)}.") from error


def _bind_error(function: Callable[..., Any], *args: Any, **options: Any) -> str:
    """Return why a function cannot be called with these arguments; empty if it can."""
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError as error:
        return str(error)
    return ""


def _look_at_sample(draft: Target, loader: DataLoader[Any]) -> Target:
    """Find image, label and mask in a sample of the loader's own data set."""
    try:
        sample = loader.dataset[0]
    except Exception:  # its files may be elsewhere: samples are then assumed to be pairs
        return draft
    if not isinstance(sample, (Mapping, tuple, list)):
        return draft
    items = dict(sample if isinstance(sample, Mapping) else enumerate(sample))

    def first(test: Callable[[Any], bool]) -> list[Any]:
        return [key for key, value in items.items() if test(value)][:1]

    masks = first(lambda v: isinstance(v, tv_tensors.Mask))
    images = first(lambda v: getattr(v, "ndim", 0) == 3 and not isinstance(v, tv_tensors.Mask))
    soft = first(lambda v: isinstance(v, Tensor) and v.shape == (draft.num_classes,))
    labels = first(lambda v: isinstance(v, (int, np.integer)) or getattr(v, "ndim", 1) == 0) or soft
    if not images or not labels:
        return draft
    arrays = draft.arrays or isinstance(items[images[0]], np.ndarray)
    keys = (images[0], labels[0], *masks)
    return replace(
        draft, sample=sample, keys=keys, arrays=arrays, soft=draft.soft or labels == soft
    )


def _try(target: Target, args: argparse.Namespace, dtype: torch.dtype) -> str | None:
    """Call a pipeline until it changes something; return what is wrong with it, or None."""
    batch = coded_batch(Case(BATCH, args.size, dtype, args.seed), target.num_classes)
    try:
        with seeded(args.seed):
            for _ in range(200):
                images, labels = read_output(target(batch.images.clone(), batch.classes.clone()))
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
