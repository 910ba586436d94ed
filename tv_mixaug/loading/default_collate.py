"""Collate samples as default_collate does, keeping tv_tensor types and detection targets."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass
from torch.utils.data._utils import collate as torchs
from torchvision import tv_tensors

from tv_mixaug.batch.tree import is_detection, rebuild
from tv_mixaug.engine.apply import Allocate, LazyStack
from tv_mixaug.engine.kernels import MIXED_DTYPES, SMALL_SAMPLE

Column = list[Any] | tuple[Any, ...]  # what the samples have in one place

# A column of one of these kinds holds nothing else.
PLAIN_KINDS = (Tensor, np.ndarray, str, bytes, (int, float, np.generic))
# Numbers that NumPy takes in a fifth of torch's time.
NUMBERS = {torchs.collate_int_fn: (int, np.int64), torchs.collate_float_fn: (float, np.float64)}
IMAGE_KINDS = (Tensor, tv_tensors.Image, tv_tensors.Video)
BOXES = tv_tensors.BoundingBoxes
OUTSIDE_TARGETS = (BOXES, getattr(tv_tensors, "KeyPoints", BOXES))
# What tensors must have in common, and what to do where they do not.
ADVICE = {
    "type": "wrap all of them alike in the data set, or pass a collate_fn of your own",
    "shape": "resize them, or pass a collate_fn that pads",
    "dtype": "convert them in the data set, with array.astype or v2.ToDtype",
    "device": "leave them on one device",
}
# What tensors have in common, of hundreds of them without a line of Python.
_traits = operator.attrgetter("shape", "is_cpu", "requires_grad", "layout")
# The properties of tv_tensors themselves take five times as long.
_dtype = Tensor.dtype.__get__  # type: ignore[attr-defined]
AS_THEY_ARE = contextlib.nullcontext()


def collate_samples(
    samples: Sequence[Any], allocate: Allocate | None = None, *, keep_apart: bool = False
) -> Any:
    """Return what ``default_collate`` makes of samples, types registered with it included.

    But mappings with ``"boxes"`` become a list of B mappings, and tv_tensors keep their types.

    Args:
        samples: B > 0 samples of one structure.
        allocate: Makes the memory that tensors are stacked into; fresh by default.
        keep_apart: Whether images are handed over as :class:`~tv_mixaug.engine.apply.LazyStack`.
    """
    try:
        return _collate(list(samples), allocate, keep_apart)
    except RecursionError:
        raise ValueError("samples must not contain themselves, got one that does.") from None


def _collate(samples: Column, allocate: Allocate | None, keep_apart: bool) -> Any:
    first, kinds = samples[0], {*map(type, samples)}
    function = _registered(first)
    if function is not None:
        if len(kinds) > 1:
            kind = next((kind for kind in PLAIN_KINDS if isinstance(first, kind)), object)
            if not _all_are(kind, kinds):
                names = " and ".join(sorted(one.__name__ for one in kinds))
                raise TypeError(f"samples must be of one structure, got {names} in the same place.")
        if function is torchs.collate_numpy_array_fn:
            samples, kinds = _as_tensors(samples), {Tensor}
            function = torchs.default_collate_fn_map[Tensor]
        if function is torchs.collate_tensor_fn:
            return _stack(samples, kinds, allocate, keep_apart)
        exact, dtype = NUMBERS.get(function, (None, None))
        if kinds == {exact}:
            try:
                return torch.from_numpy(np.array(samples, dtype))
            except OverflowError as error:
                raise ValueError("samples must hold ints of 64 bits, got larger ones.") from error
        return function(samples, collate_fn_map=torchs.default_collate_fn_map)
    if isinstance(first, Mapping):
        if "boxes" in first and is_detection(samples):
            return list(samples)
        places = _by_key(samples, kinds)
        return rebuild(first, {k: _collate(v, allocate, keep_apart) for k, v in places.items()})
    if isinstance(first, Sequence):
        columns = _by_place(samples, kinds)
        # In sequences of other kinds no transform finds images, so nobody would stack them.
        apart = keep_apart and isinstance(first, (list, tuple))
        parts = [_collate(column, allocate, apart) for column in columns]
        is_bare = isinstance(first, tuple) and not hasattr(first, "_fields")
        return parts if is_bare else rebuild(first, parts)
    raise TypeError(
        "samples must hold tensors, arrays, numbers or strings, got "
        f"{type(first).__module__}.{type(first).__name__}; turn pictures into tensors with "
        "v2.ToImage() in the data set, or pass a collate_fn of your own."
    )


def _registered(sample: Any) -> Callable[..., Any] | None:
    """Return what default_collate calls for such samples; None where it looks into them."""
    functions = torchs.default_collate_fn_map
    if type(sample) in functions:
        return functions[type(sample)]
    if not isinstance(sample, tuple(functions)):
        return None
    return next(functions[kind] for kind in functions if isinstance(sample, kind))


def _by_key(samples: Column, kinds: set[type]) -> dict[Any, list[Any]]:
    keys = samples[0].keys()
    if kinds == {dict}:
        alike = {*map(len, samples)} == {len(keys)}
    else:  # some make what they are asked for
        alike = _all_are(Mapping, kinds) and all(sample.keys() == keys for sample in samples)
    try:
        if alike:
            return {key: [sample[key] for sample in samples] for key in keys}
    except KeyError:
        if kinds != {dict}:
            raise  # it came from within a sample
    raise ValueError("samples must have the same keys, got mappings that differ in them.")


def _by_place(samples: Column, kinds: set[type]) -> list[tuple[Any, ...]]:
    try:
        if _all_are(Sequence, kinds):
            return list(zip(*samples, strict=True))
    except ValueError:
        if len({*map(len, samples)}) == 1:  # it came from within a sample
            raise
    raise ValueError("samples must have the same length, got sequences that differ in it.")


def _as_tensors(arrays: Column) -> list[Tensor]:
    try:
        return [_as_tensor(array) for array in arrays]
    except (TypeError, ValueError) as error:
        got = ", ".join(sorted({str(array.dtype) for array in arrays}))
        raise TypeError(
            f"samples must hold arrays of numbers that torch knows, got dtype {got}; convert them "
            "in the data set, with array.astype(...), or leave them out."
        ) from error


def _as_tensor(array: Any) -> Tensor:
    try:
        return torch.from_numpy(array)
    except ValueError:  # torch takes no negative strides
        return torch.from_numpy(array.copy())


def _stack(tensors: Column, kinds: set[type], allocate: Allocate | None, keep_apart: bool) -> Any:
    """Stack tensors; large images are left for what mixes them, which reads them only once."""
    first, kind = tensors[0], type(tensors[0])
    if issubclass(kind, OUTSIDE_TARGETS):
        raise ValueError(
            "samples must hold boxes and keypoints in a dict with the key 'boxes', as detection "
            f"targets do, got {kind.__name__} of their own."
        )
    tv_type = kind if issubclass(kind, tv_tensors.TVTensor) else None
    with DisableTorchFunctionSubclass() if tv_type else AS_THEY_ARE:
        dtypes = {*map(_dtype, tensors)} if tv_type else {tensor.dtype for tensor in tensors}
        if len(kinds) > 1 or len(dtypes) > 1:
            raise _refusal(tensors)
        is_plain = (
            first.is_cpu
            and first.layout == torch.strided
            and not (first.requires_grad or first.is_nested or first.is_quantized)
        )
        is_image = kind in IMAGE_KINDS and first.dtype in MIXED_DTYPES and first.ndim in (3, 4)
        apart = keep_apart and is_plain and is_image
        if apart and first.nbytes >= SMALL_SAMPLE:
            plain = [t.as_subclass(Tensor) for t in tensors] if tv_type else tensors
            if len({*map(_traits, plain)}) == 1:
                return LazyStack(plain, allocate, tv_type)
        try:
            if not is_plain:
                batch = torchs.collate_tensor_fn(tensors)
            elif allocate is None:
                batch = torch.stack(tensors).contiguous()  # as in a worker
            else:
                size = torch.Size((len(tensors), *first.shape))
                batch = torch.stack(tensors, out=allocate(size, first.dtype))
        except (RuntimeError, TypeError) as error:
            raise _refusal(tensors) from error
        if apart and not batch.requires_grad:
            return LazyStack(batch, allocate, tv_type)
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
    return len(kinds) == 1 or all(issubclass(one, kind) for one in kinds)
