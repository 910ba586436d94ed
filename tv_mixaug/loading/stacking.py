"""Collate samples as default_collate does, keeping tv_tensor types and detection targets."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data._utils import collate as torchs
from torchvision import tv_tensors

from tv_mixaug.execute import SMALL_SAMPLE, Samples
from tv_mixaug.kernels import MIXED_DTYPES
from tv_mixaug.loading import ring
from tv_mixaug.nesting import is_objects, rebuild

Column = list[Any] | tuple[Any, ...]  # what the samples have in one place
Allocate = Callable[[torch.Size, torch.dtype], Tensor]

# A column of one of these kinds holds nothing else.
PLAIN_KINDS = (Tensor, np.ndarray, str, bytes, (int, float, np.generic))
IMAGE_KINDS = (Tensor, tv_tensors.Image, tv_tensors.Video)
OUTSIDE_TARGETS = tuple(
    getattr(tv_tensors, name)
    for name in ("BoundingBoxes", "KeyPoints")
    if hasattr(tv_tensors, name)
)
# What tensors must have in common, and what to do where they do not.
ADVICE = {
    "type": "wrap all of them alike in the data set, or pass a collate_fn of your own",
    "shape": "resize them, or pass a collate_fn that pads",
    "dtype": "convert them in the data set, with array.astype or v2.ToDtype",
    "device": "leave them on one device",
}
# What samples have in common, fetched for hundreds of them without a line of Python.
_dtype = operator.attrgetter("dtype")
_traits = operator.attrgetter("dtype", "shape", "is_cpu", "requires_grad", "layout")


def collate_samples(
    samples: Sequence[Any], allocate: Allocate = ring.allocate, *, keep_apart: bool = False
) -> Any:
    """Collate samples as ``default_collate`` does, keeping tv_tensor types and detection targets.

    Args:
        samples: B > 0 samples of one structure.
        allocate: Makes the memory that tensors are stacked into.
        keep_apart: Whether images are handed over as :class:`~tv_mixaug.execute.Samples`.

    Returns:
        The batch: what ``default_collate`` returns, types registered with it included; but
        mappings with ``"boxes"`` become a list of B mappings, and tv_tensors keep their types.

    Raises:
        TypeError: If samples hold what cannot be collated.
        ValueError: If samples differ in structure, or in the shape or dtype of a tensor.
    """
    try:
        return _collate(list(samples), allocate, keep_apart)
    except RecursionError:
        raise ValueError("samples must not contain themselves, got one that does.") from None


def _collate(samples: Column, allocate: Allocate, keep_apart: bool) -> Any:
    first, kinds = samples[0], set(map(type, samples))
    function = _registered(first)
    if function is not None:
        kind = next((kind for kind in PLAIN_KINDS if isinstance(first, kind)), object)
        if not _all_are(kind, kinds):
            names = " and ".join(sorted(one.__name__ for one in kinds))
            raise TypeError(f"samples must be of one structure, got {names} in the same place.")
        if function is torchs.collate_numpy_array_fn:
            samples, kinds = _as_tensors(samples), {Tensor}
            function = torchs.default_collate_fn_map[Tensor]
        if function is torchs.collate_tensor_fn:
            return _stack(samples, kinds, allocate, keep_apart)
        return function(samples, collate_fn_map=torchs.default_collate_fn_map)
    if is_objects(samples):
        return list(samples)
    if isinstance(first, Mapping):
        keys = first.keys()
        if not _all_are(Mapping, kinds) or any(s.keys() != keys for s in samples):
            raise ValueError("samples must have the same keys, got mappings that differ in them.")
        places = {key: [sample[key] for sample in samples] for key in first}
        return rebuild(first, {k: _collate(v, allocate, keep_apart) for k, v in places.items()})
    if isinstance(first, Sequence):
        if not _all_are(Sequence, kinds) or len(set(map(len, samples))) > 1:
            raise ValueError("samples must have the same length, got sequences that differ in it.")
        # In sequences of other kinds no transform finds images, so nobody would stack them.
        apart = keep_apart and isinstance(first, (list, tuple))
        columns = [_collate(column, allocate, apart) for column in zip(*samples, strict=True)]
        is_bare = isinstance(first, tuple) and not hasattr(first, "_fields")
        return columns if is_bare else rebuild(first, columns)
    raise TypeError(
        "samples must hold tensors, arrays, numbers or strings, got "
        f"{type(first).__module__}.{type(first).__name__}; turn pictures into tensors with "
        "v2.ToImage() in the data set, or pass a collate_fn of your own."
    )


def _registered(sample: Any) -> Callable[..., Any] | None:
    """Return what default_collate calls for such samples; None where it looks into them."""
    functions = torchs.default_collate_fn_map
    exact = functions.get(type(sample))
    return exact or next((functions[kind] for kind in functions if isinstance(sample, kind)), None)


def _as_tensors(arrays: Column) -> list[Tensor]:
    # torch takes no negative strides.
    dense = [a.copy() if any(step < 0 for step in a.strides) else a for a in arrays]
    try:
        return [torch.as_tensor(array, device="cpu") for array in dense]
    except (TypeError, ValueError) as error:
        got = ", ".join(sorted({str(array.dtype) for array in arrays}))
        raise TypeError(
            f"samples must hold arrays of numbers that torch knows, got dtype {got}; convert them "
            "in the data set, with array.astype(...), or leave them out."
        ) from error


def _stack(tensors: Column, kinds: set[type], allocate: Allocate, keep_apart: bool) -> Any:
    """Stack tensors; large images are left for what mixes them, which reads them only once."""
    first, kind = tensors[0], type(tensors[0])
    if issubclass(kind, OUTSIDE_TARGETS):
        raise ValueError(
            "samples must hold boxes and keypoints in a dict with the key 'boxes', as detection "
            f"targets do, got {kind.__name__} of their own."
        )
    if len(kinds) > 1 or len(set(map(_dtype, tensors))) > 1:
        raise _refusal(tensors)
    tv_type = kind if issubclass(kind, tv_tensors.TVTensor) else None
    is_image = kind in IMAGE_KINDS and first.dtype in MIXED_DTYPES and first.ndim in (3, 4)
    if keep_apart and is_image and first.numel() * first.itemsize >= SMALL_SAMPLE:
        plain = [t.as_subclass(Tensor) for t in tensors] if tv_type else tensors
        traits = set(map(_traits, plain))
        if len(traits) == 1 and traits.pop()[2:] == (True, False, torch.strided):
            return Samples(plain, allocate, tv_type)
    try:
        size = torch.Size((len(tensors), *first.shape))
        batch = torch.stack(tensors, out=allocate(size, first.dtype))
    except (RuntimeError, TypeError):  # of several shapes, on a device, with gradients, sparse, ...
        try:
            batch, is_image = torchs.collate_tensor_fn(tensors), False
        except (RuntimeError, TypeError) as error:
            raise _refusal(tensors) from error
    if keep_apart and is_image:
        return Samples(batch, allocate, tv_type)
    return batch if tv_type is None else batch.as_subclass(tv_type)


def _refusal(tensors: Column) -> ValueError:
    """Say why tensors cannot be stacked."""
    first = tensors[0]
    if all(tensor.layout == torch.strided and not tensor.is_nested for tensor in tensors):
        traits = [(type(t).__name__, tuple(t.shape), t.dtype, t.device) for t in tensors]
        for (name, advice), column in zip(ADVICE.items(), zip(*traits, strict=True), strict=True):
            found = sorted({str(trait).removeprefix("torch.") for trait in column})
            if len(found) > 1:
                return ValueError(
                    f"samples must hold tensors of one {name}, got {name}s {', '.join(found)}; "
                    f"{advice}."
                )
    kind = "nested" if first.is_nested else str(first.layout).removeprefix("torch.")
    return ValueError(
        f"samples must hold dense tensors that can be stacked, got {kind} ones"
        f"{' that require gradients' if first.requires_grad else ''}; convert or detach() them in "
        "the data set, or pass a collate_fn of your own."
    )


def _all_are(kind: Any, kinds: set[type]) -> bool:
    return all(issubclass(one, kind) for one in kinds)
