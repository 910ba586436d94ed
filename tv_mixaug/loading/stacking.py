"""Collate samples as default_collate does, keeping tv_tensor types and detection targets."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug.execute import Samples
from tv_mixaug.kernels import MIXED_DTYPES
from tv_mixaug.leaves import is_objects
from tv_mixaug.loading import ring

# What default_collate turns into tensors or keeps, one kind for all samples of a place.
PLAIN_KINDS = (str, bytes, np.ndarray, (int, float, complex, np.generic))
OUTSIDE_TARGETS = tuple(
    getattr(tv_tensors, name)
    for name in ("BoundingBoxes", "KeyPoints")
    if hasattr(tv_tensors, name)
)
# What decides how a sample is stacked, fetched for hundreds of samples without a line of Python.
_traits = operator.attrgetter("dtype", "shape", "is_cpu", "requires_grad", "layout")


def collate_samples(
    samples: Sequence[Any],
    allocate: Callable[[torch.Size, torch.dtype], Tensor] = ring.allocate,
    *,
    keep_apart: bool = False,
) -> Any:
    """Collate samples as ``default_collate`` does, keeping tv_tensor types and detection targets.

    Args:
        samples: B > 0 samples of one structure.
        allocate: Makes the memory that tensors are stacked into.
        keep_apart: Whether images are left unstacked, as :class:`~tv_mixaug.execute.Samples`.

    Returns:
        The batch: tuples and lists of a sample become a list, mappings and namedtuples keep their
        type, mappings with ``"boxes"`` become a list of B mappings.

    Raises:
        TypeError: If samples hold what cannot be collated.
        ValueError: If samples differ in structure or in the shape of a tensor.
    """

    def stack(tensors: list[Tensor]) -> Any:
        first = tensors[0]
        if isinstance(first, OUTSIDE_TARGETS):
            raise ValueError(
                "samples must hold boxes and keypoints in a dict with the key 'boxes', as "
                f"detection targets do, got {type(first).__name__} of their own."
            )
        tv_type = type(first) if isinstance(first, tv_tensors.TVTensor) else None
        plain = [t.as_subclass(Tensor) for t in tensors] if tv_type else tensors
        kinds, traits = set(map(type, tensors)), set(map(_traits, plain))
        if len(kinds) > 1 or len({(dtype, shape) for dtype, shape, *_ in traits}) > 1:
            shapes = sorted({str(tuple(t.shape)) for t in tensors})
            dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in tensors})
            raise ValueError(
                "samples must hold tensors of one type, shape and dtype, got "
                f"shapes {', '.join(shapes)} of dtypes {', '.join(dtypes)}; resize them, or pass a "
                "collate_fn that pads."
            )
        if {(True, False, torch.strided)} != {trait[2:] for trait in traits}:
            batch = torch.stack(plain)
            return tv_tensors.wrap(batch, like=first) if tv_type else batch
        if tv_type not in (None, tv_tensors.Image, tv_tensors.Video):
            # A mask is known by its type, which samples do not have.
            return tv_tensors.wrap(Samples(plain, allocate).stack(), like=first)
        held = Samples(plain, allocate, tv_type)
        is_image = first.ndim in (3, 4) and first.dtype in MIXED_DTYPES
        return held if keep_apart and is_image else held.finish(held.stack())

    return _collate(list(samples), stack)


def _collate(samples: Any, stack: Callable[[list[Tensor]], Any]) -> Any:
    first = samples[0]
    if isinstance(first, Tensor):
        if not _all_are(Tensor, samples):
            raise TypeError("samples must be of one structure, got tensors and other things.")
        return stack(list(samples))
    if is_objects([first]):
        return list(samples)
    if isinstance(first, Mapping):
        keys = first.keys()
        if not _all_are(Mapping, samples) or any(s.keys() != keys for s in samples):
            raise ValueError("samples must have the same keys, got mappings that differ in them.")
        merged = {key: _collate([s[key] for s in samples], stack) for key in first}
        try:
            if isinstance(first, MutableMapping):
                batch = copy.copy(first)  # default dictionaries and such keep what they hold beside
                batch.update(merged)
                return batch
            return type(first)(merged)  # type: ignore[call-arg]
        except TypeError:
            return merged
    if isinstance(first, (list, tuple)):
        if not _all_are((list, tuple), samples) or len(set(map(len, samples))) > 1:
            raise ValueError("samples must have the same length, got sequences that differ in it.")
        columns = [_collate(column, stack) for column in zip(*samples, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else columns
    kind = next((kind for kind in PLAIN_KINDS if isinstance(first, kind)), None)
    if kind is None or (isinstance(first, np.ndarray) and first.dtype.kind not in "biufc"):
        raise TypeError(
            "samples must hold tensors, arrays, numbers or strings, got "
            f"{type(first).__module__}.{type(first).__name__}; turn pictures into tensors with "
            "v2.ToImage() in the data set, or pass a collate_fn of your own."
        )
    if not _all_are(kind, samples):
        raise TypeError(
            f"samples must be of one structure, got {type(first).__name__} and other things."
        )
    if isinstance(first, np.ndarray):
        dense = map(np.ascontiguousarray, samples)  # torch takes no negative strides
        return stack([torch.as_tensor(sample, device="cpu") for sample in dense])
    return torch.utils.data.default_collate(samples)


def _all_are(kinds: Any, samples: list[Any]) -> bool:
    """Tell whether all samples are of the kinds; each type is asked once, not each sample."""
    return all(issubclass(kind, kinds) for kind in set(map(type, samples)))
