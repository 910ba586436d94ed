"""Check what a loader or a training loop relies on: unchanged inputs, one format, seeds."""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from tv_mixaug._validation import check_integer, ensure_kind
from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing import _runner as runner
from tv_mixaug.testing._coded import Case, coded_batch
from tv_mixaug.testing._runner import UntruthfulError


def assert_inputs_unchanged(
    pipeline: Callable[..., Any], *inputs: Any, calls: int = 10, seed: int = 0
) -> None:
    """Check that a pipeline does not write into its inputs, such as arrays that a data set caches.

    Args:
        pipeline: any callable of the inputs; a collate function takes one list of samples.
        *inputs: tensors, arrays and plain values, in any nesting of lists, tuples and dicts.
        calls: number of calls on the same inputs.
        seed: seed of torch, numpy and random for the first call; the n-th call has `seed + n`.

    Raises:
        UntruthfulError: an input has changed; an `AssertionError` that names its place.

    Example:
        >>> from torchvision.transforms import v2
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
        >>> assert_inputs_unchanged(v2.MixUp(num_classes=4), images, labels)
    """
    __tracebackhide__ = True
    ensure_kind(callable(pipeline), "pipeline", "a callable", pipeline)
    before = deepcopy(inputs)
    for n in range(check_integer("calls", calls, 1)):
        with runner.seeded(seed + n):
            pipeline(*inputs)
        difference = _first_difference(before, inputs)
        if difference is not None:
            case = f"The pipeline changed its inputs in call {n + 1}: {difference}"
            raise UntruthfulError(case, causes.INPUTS_CHANGED, case=case)


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
    """Check that labels have one type, shape and dtype, whether a batch was mixed or not.

    Args:
        make_pipeline: `p -> pipeline`, for a pipeline `(images, labels) -> (images, labels)`.
        num_classes: number of classes, at least 1.
        p: probabilities of mixing to try.
        collate: whether the pipelines are collate functions of a list of `(image, label)`.
        batch_size: number of samples.
        draws: calls per probability.
        seed: seed of the first call; the n-th call has `seed + n`.

    Raises:
        UntruthfulError: two calls returned labels of different formats; an `AssertionError`.

    Example:
        >>> from torchvision.transforms import v2
        >>> def sometimes(p):
        ...     return v2.RandomApply([v2.MixUp(num_classes=10)], p=p)
        >>> try:
        ...     assert_one_label_format(sometimes, num_classes=10)
        ... except AssertionError as error:
        ...     print(str(error).split(",")[0])
        Labels change their format: (4
    """
    __tracebackhide__ = True
    ensure_kind(callable(make_pipeline), "make_pipeline", "a callable", make_pipeline)
    check_integer("num_classes", num_classes, 1)
    check_integer("batch_size", batch_size, 1)
    check_integer("draws", draws, 1)
    formats: dict[str, str] = {}
    seeds = iter(range(seed, seed + draws * len(p)))
    for probability in p:
        run = runner.Pipeline(make_pipeline(probability), collate, "make_pipeline(p)")
        for _ in range(draws):
            case = Case(batch_size, (8, 8), torch.float32, next(seeds))
            batch = coded_batch(case, num_classes)
            _, labels = run(batch.images, batch.classes, case)
            formats.setdefault(runner.describe(labels), f"p={probability}, seed {case.seed}")
            if len(formats) > 1:
                (first, there), (second, here) = formats.items()
                text = (
                    f"Labels change their format: {first} with {there}, but {second} with {here}."
                )
                raise UntruthfulError(text, causes.TWO_FORMATS, case=text)


def assert_reproducible(
    make_loader: Callable[[int], Iterable[Any]],
    *,
    num_workers: Sequence[int] = (0, 1, 2),
    seed: int = 0,
) -> None:
    """Check that one seed gives the same batches, twice over and for every number of workers.

    Args:
        make_loader: `num_workers -> loader`; both the call and the iteration are seeded.
        num_workers: numbers of workers; the first is run twice.
        seed: seed of torch, numpy and random.

    Raises:
        UntruthfulError: two runs differ; an `AssertionError` that names the place.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> assert_reproducible(
        ...     lambda n: DataLoader(range(8), batch_size=4, shuffle=True, num_workers=n),
        ...     num_workers=(0,),
        ... )
    """
    __tracebackhide__ = True
    ensure_kind(callable(make_loader), "make_loader", "a callable", make_loader)
    if not num_workers:
        raise ValueError("num_workers must not be empty, got an empty sequence.")
    reference: list[Any] | None = None
    for workers in [num_workers[0], *num_workers]:
        with runner.seeded_epochs(seed):
            batches = [deepcopy(batch) for batch in make_loader(workers)]
        if not batches:
            raise ValueError("make_loader must return a loader of at least one batch, got none.")
        reference = reference or batches
        runs = f"{num_workers[0]} workers and {workers} workers under seed {seed}"
        if len(batches) != len(reference):
            raise UntruthfulError(f"{runs} give {len(reference)} and {len(batches)} batches.")
        for n, pair in enumerate(zip(reference, batches, strict=True)):
            difference = _first_difference(*pair)
            if difference is not None:
                raise UntruthfulError(f"{runs} differ in batch {n}: {difference}")


def _first_difference(before: Any, after: Any) -> str | None:
    """Describe the first difference of two nested values; None if they are equal."""
    old, old_spec = tree_flatten_with_path(before)
    new, new_spec = tree_flatten_with_path(after)
    if old_spec != new_spec:
        return "the containers have other lengths, keys or types."
    for (path, a), (_, b) in zip(old, new, strict=True):
        if not _same(a, b):
            return f"the value at {keystr(path) or 'the root'} is not the same."
    return None


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (Tensor, np.ndarray)) and (a.dtype != b.dtype or a.shape != b.shape):
        return False
    if isinstance(a, Tensor):
        a, b = (tensor.detach().cpu().as_subclass(Tensor) for tensor in (a, b))
        return bool(torch.isclose(a, b, 0, 0, equal_nan=True).all())
    return a.tobytes() == b.tobytes() if isinstance(a, np.ndarray) else bool(a == b)
