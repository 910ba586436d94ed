"""Collate samples as default_collate does, but keep tv_tensor types and detection targets."""

import contextlib
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass
from torch.utils.data._utils import collate as defaults
from torchvision import tv_tensors

from tv_mixaug._validation import ensure
from tv_mixaug.batch.tree import is_detection, rebuild
from tv_mixaug.engine.apply import Allocate, LazyStack
from tv_mixaug.engine.kernels import MIXED_DTYPES, SMALL_SAMPLE

Column = list[Any] | tuple[Any, ...]  # one field of all samples

# Samples of different types are collated together only if all are of one of these kinds.
KINDS = (Tensor, np.ndarray, str, bytes, (int, float, np.generic), Mapping, Sequence)
IMAGE_KINDS = (Tensor, tv_tensors.Image, tv_tensors.Video)
_traits = operator.attrgetter("is_cpu", "layout", "requires_grad", "is_nested", "is_quantized")
_dtype = Tensor.dtype.__get__  # type: ignore[attr-defined]  # a third of the time of t.dtype
PLAIN_TRAITS = (True, torch.strided, False, False, False)


def collate_samples(samples: Column, allocate: Allocate | None = None, lazy: bool = False) -> Any:
    """Collate samples with the functions that are registered for ``default_collate``.

    If ``lazy``, images become a LazyStack, which is stacked when it is mixed.
    """
    first, kinds, functions = samples[0], {*map(type, samples)}, defaults.default_collate_fn_map
    if (len(kinds) > 1 or isinstance(first, Mapping)) and is_detection(samples):
        return list(samples)
    if len(kinds) > 1:
        kind = next((kind for kind in KINDS if isinstance(first, kind)), object)
        if not all(issubclass(one, kind) for one in kinds):
            got = " and ".join(sorted(one.__name__ for one in kinds))
            raise TypeError(f"samples must be of one structure, got {got} in the same place.")
    inherited = (functions[kind] for kind in functions if isinstance(first, kind))
    function = functions.get(type(first)) or next(inherited, None)
    if function is not None:
        if function is defaults.collate_numpy_array_fn:
            samples, kinds, function = _to_tensors(samples), {Tensor}, functions[Tensor]
        if function is defaults.collate_tensor_fn:
            return _stack(samples, kinds, allocate, lazy)
        if function is defaults.collate_int_fn and kinds == {int}:
            return torch.from_numpy(np.array(samples, np.int64))  # in a third of torch's time
        return function(samples, collate_fn_map=functions)
    if isinstance(first, Mapping):
        alike = all(sample.keys() == first.keys() for sample in samples)
        ensure(alike, "samples", "mappings with the same keys", "mappings that differ in them")
        columns = ((key, [sample[key] for sample in samples]) for key in first)
        return rebuild(first, {key: collate_samples(col, allocate, lazy) for key, col in columns})
    if isinstance(first, Sequence):
        # Transforms look for images only in these, so nothing else would stack a lazy batch.
        lazy = lazy and isinstance(first, (list, tuple))
        alike = {*map(len, samples)} == {len(first)}
        ensure(alike, "samples", "sequences of the same length", "several lengths")
        parts = [collate_samples(column, allocate, lazy) for column in zip(*samples, strict=True)]
        is_plain_tuple = isinstance(first, tuple) and not hasattr(first, "_fields")
        return parts if is_plain_tuple else rebuild(first, parts)
    expected = f"tensors, arrays, numbers or strings, got {type(first)}"
    advice = "turn pictures into tensors with v2.ToImage() in the data set, or pass a collate_fn"
    raise TypeError(f"samples must hold {expected}; {advice}.")


def _to_tensors(arrays: Column) -> list[Tensor]:
    # torch accepts no negative strides, which a copy does not have.
    for convert in (torch.from_numpy, lambda array: torch.from_numpy(array.copy())):
        with contextlib.suppress(TypeError, ValueError):
            return list(map(convert, arrays))
    got = " and ".join(sorted({str(array.dtype) for array in arrays}))
    raise TypeError(f"samples must hold arrays of numbers, got dtype {got}; use astype().")


def _stack(tensors: Column, kinds: set[type], allocate: Allocate | None, lazy: bool) -> Any:
    """Stack tensors, but leave large images unstacked, so that mixing reads them only once."""
    first, kind = tensors[0], type(tensors[0])
    if issubclass(kind, (tv_tensors.BoundingBoxes, getattr(tv_tensors, "KeyPoints", ()))):
        raise ValueError(f"samples must hold {kind.__name__} in dicts with 'boxes', got them bare.")
    tv_type = kind if issubclass(kind, tv_tensors.TVTensor) else None
    with DisableTorchFunctionSubclass() if tv_type else contextlib.nullcontext():
        if len(kinds) > 1 or len({*map(_dtype, tensors)}) > 1:
            got = " and ".join(sorted({f"{type(t).__name__} of {t.dtype}" for t in tensors}))
            text = f"samples must hold tensors of one kind, got {got}"
            raise ValueError(f"{text}; convert them in the data set.")
        is_plain = _traits(first) == PLAIN_TRAITS
        is_image = kind in IMAGE_KINDS and first.dtype in MIXED_DTYPES and first.ndim in (3, 4)
        lazy = lazy and is_plain and is_image
        if lazy and first.nbytes >= SMALL_SAMPLE:
            plain = [t.as_subclass(Tensor) for t in tensors] if tv_type else tensors
            if len({t.shape for t in plain}) == 1 and {*map(_traits, plain)} == {PLAIN_TRAITS}:
                return LazyStack(plain, allocate, tv_type)
        try:
            if not is_plain:
                batch = defaults.collate_tensor_fn(tensors)
            elif allocate is None:
                batch = torch.stack(tensors).contiguous()  # as in a worker
            else:
                batch = LazyStack(tensors, allocate).stack()
        except (RuntimeError, TypeError) as error:
            text = "samples must hold dense tensors that can be stacked, got others"
            advice = (
                "resize, convert or detach() them in the data set, or pass a collate_fn that pads"
            )
            raise ValueError(f"{text} ({str(error).splitlines()[0]}); {advice}.") from error
        if lazy and not batch.requires_grad:
            return LazyStack(batch, allocate, tv_type)
        return batch if tv_type is None else batch.as_subclass(tv_type)
