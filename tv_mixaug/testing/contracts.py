"""Check what a loader or a training loop takes for granted of a pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing._arguments import at_least, check_callable
from tv_mixaug.testing._coded import Case, UntruthfulError, because, call, coded_batch, seeded


def assert_inputs_unchanged(
    pipeline: Callable[..., Any], *inputs: Any, calls: int = 10, seed: int = 0
) -> None:
    """Check that a pipeline leaves its inputs as they were, a data set's cached arrays included.

    Args:
        pipeline: any callable of the inputs; a collate function takes one list of samples.
        *inputs: tensors, arrays and plain values, in any nesting of lists, tuples and dicts.
        calls: number of calls on the same inputs.
        seed: seed of torch, numpy and random for the first call; the n-th call has `seed + n`.

    Raises:
        AssertionError: an input has changed; the text names its place.
        TypeError: the pipeline is no callable.
        ValueError: `calls` is less than 1.

    Example:
        >>> import torch
        >>> from torchvision.transforms import v2
        >>> from tv_mixaug.testing import assert_inputs_unchanged
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
        >>> assert_inputs_unchanged(v2.MixUp(num_classes=4), images, labels)
    """
    __tracebackhide__ = True
    check_callable("pipeline", pipeline)
    before = deepcopy(inputs)
    for n in range(at_least("calls", calls, 1)):
        with seeded(seed + n):
            pipeline(*inputs)
        difference = _first_difference(before, inputs)
        if difference is not None:
            case = f"The pipeline changed its inputs in call {n + 1}: {difference}"
            raise UntruthfulError(
                f"{case}\n{because(causes.INPUTS_CHANGED)}",
                case=case,
                cause=causes.INPUTS_CHANGED.text,
            )


def assert_one_label_format(
    make_pipeline: Callable[[float], Callable[..., Any]],
    *,
    num_classes: int,
    p: Sequence[float] = (0.0, 0.3, 1.0),
    collate: bool = False,
    batch_size: int = 4,
    draws: int = 20,
    seed: int = 0,
) -> None:
    """Check that labels have one type, shape and dtype whether a batch was mixed or not.

    Args:
        make_pipeline: `p -> pipeline`, for a pipeline `(images, labels) -> (images, labels)`.
        num_classes: number of classes, at least 1.
        p: the probabilities of mixing to try.
        collate: the pipelines are collate functions, called with a list of `(image, label)`.
        batch_size: number of samples.
        draws: calls per probability.
        seed: seed of the first call; the n-th call has `seed + n`.

    Raises:
        AssertionError: two calls returned labels of different formats.
        TypeError: what should be a callable is none.
        ValueError: an argument is out of range.

    Example:
        >>> from torchvision.transforms import v2
        >>> from tv_mixaug.testing import assert_one_label_format
        >>> def sometimes(p):
        ...     return v2.RandomApply([v2.MixUp(num_classes=10)], p=p)
        >>> try:
        ...     assert_one_label_format(sometimes, num_classes=10)
        ... except AssertionError as error:
        ...     print(str(error).split(",")[0])
        Labels change their format: (4
    """
    __tracebackhide__ = True
    check_callable("make_pipeline", make_pipeline)
    at_least("num_classes", num_classes, 1)
    at_least("batch_size", batch_size, 1)
    first: tuple[str, str] | None = None
    case_seed = seed
    for probability in p:
        pipeline = make_pipeline(probability)
        check_callable("make_pipeline(p)", pipeline)
        for _ in range(at_least("draws", draws, 1)):
            case = Case(batch_size, (8, 8), torch.float32, case_seed)
            batch = coded_batch(case, num_classes=num_classes, channels=3)
            _, labels = call(pipeline, case, batch.images, batch.classes, collate=collate)
            now = (_format(labels), f"p={probability}, seed {case_seed}")
            first = first or now
            if now[0] != first[0]:
                text = (
                    f"Labels change their format: {first[0]} with {first[1]}, "
                    f"but {now[0]} with {now[1]}."
                )
                raise UntruthfulError(
                    f"{text}\n{because(causes.TWO_FORMATS)}",
                    case=text,
                    cause=causes.TWO_FORMATS.text,
                )
            case_seed += 1


def assert_reproducible(
    make_loader: Callable[[int], Iterable[Any]],
    *,
    num_workers: Sequence[int] = (0, 1, 2),
    seed: int = 0,
) -> None:
    """Check that one seed gives the same batches, for every number of workers and twice over.

    Args:
        make_loader: `num_workers -> loader`; called under the seed, as iterating over it is.
        num_workers: numbers of workers; the first is run twice.
        seed: seed of torch, numpy and random.

    Raises:
        AssertionError: two runs differ; the text names the batch and the place in it.
        TypeError: `make_loader` is no callable.
        ValueError: `num_workers` is empty, or the loader yields nothing.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from tv_mixaug.testing import assert_reproducible
        >>> assert_reproducible(
        ...     lambda n: DataLoader(range(8), batch_size=4, shuffle=True, num_workers=n),
        ...     num_workers=(0,),
        ... )
    """
    __tracebackhide__ = True
    check_callable("make_loader", make_loader)
    if not num_workers:
        raise ValueError("num_workers must not be empty, got an empty sequence.")
    reference: list[Any] | None = None
    for workers in [num_workers[0], *num_workers]:
        with seeded(seed), warnings.catch_warnings():
            # To begin the same epoch again is the very question.
            warnings.filterwarnings("ignore", ".* begins epoch .* again", UserWarning)
            batches = [deepcopy(batch) for batch in make_loader(workers)]
        if not batches:
            raise ValueError("make_loader must return a loader of at least one batch, got none.")
        if reference is None:
            reference = batches
            continue
        runs = f"{num_workers[0]} workers and {workers} workers under seed {seed}"
        if len(batches) != len(reference):
            raise UntruthfulError(f"{runs} give {len(reference)} and {len(batches)} batches.")
        for n, pair in enumerate(zip(reference, batches, strict=True)):
            difference = _first_difference(*pair)
            if difference is not None:
                raise UntruthfulError(f"{runs} differ in batch {n}: {difference}")


def _format(labels: Any) -> str:
    if isinstance(labels, Tensor):
        return f"{tuple(labels.shape)} {labels.dtype} ({type(labels).__name__})"
    if isinstance(labels, (tuple, list)):
        return f"{type(labels).__name__}[{', '.join(map(_format, labels))}]"
    return type(labels).__name__


def _first_difference(before: Any, after: Any) -> str | None:
    """Say where two nested values differ first, or None."""
    old, old_spec = tree_flatten_with_path(before)
    new, new_spec = tree_flatten_with_path(after)
    if old_spec != new_spec:
        return "the containers have other lengths, keys or types."
    for (path, a), (_, b) in zip(old, new, strict=True):
        if not _same(a, b):
            return f"the value at {keystr(path) or 'the root'} is not the same."
    return None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or type(a) is not type(b):
            return False
        a, b = a.detach().cpu().as_subclass(Tensor), b.detach().cpu().as_subclass(Tensor)
        return bool(((a == b) | ((a != a) & (b != b))).all())  # NaN equals NaN here
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes() and a.shape == b.shape
    return type(a) is type(b) and bool(a == b)
