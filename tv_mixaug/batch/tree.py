"""Flatten nested batches into fields, name their places, and put new fields back."""

import copy
import operator
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug._tv_tensors import unwrap
from tv_mixaug.batch.spec import PairedLabels, ParsedBatch, Path
from tv_mixaug.engine.kernels import MIXED_DTYPES

# A field's part of the signature is (type, ...), a container's (None, type, keys, *parts).
Signature = tuple[Any, ...]
_TRAITS = operator.attrgetter("shape", "dtype", "device", "layout")
_TV_TRAITS = operator.attrgetter("shape", "dtype", "device")  # always strided; each one is slow


def flatten(value: Any, fields: list[Any]) -> Signature:
    """Append the fields of mappings of any class, lists, tuples and namedtuples to a list.

    The signature that is returned is hashable and decides the roles of the fields.
    """
    kind = type(value)
    if isinstance(value, Tensor):
        fields.append(value)
        return kind, _traits(value)
    if _is_field(value):
        fields.append(value)
        if kind in (list, tuple):  # images, each of which has a shape, or detection targets
            each = map(_traits, value) if isinstance(value[0], Tensor) else ()
            return kind, *map(type, value), *each
        shape = getattr(value, "shape", None)
        if not isinstance(shape, tuple):
            return (kind,)
        return kind, shape, getattr(value, "dtype", None), getattr(value, "tv_type", None)
    if isinstance(value, Mapping):
        return None, kind, tuple(value), *[flatten(value[key], fields) for key in value]
    return None, kind, None, *[flatten(part, fields) for part in value]


def _traits(tensor: Tensor) -> Any:
    if torch.compiler.is_compiling():  # the graph has its own guards
        return type(tensor)
    return (_TRAITS if type(tensor) is Tensor else _TV_TRAITS)(tensor)


def field_paths(value: Any, signature: Signature, path: Path = ()) -> Iterator[Path]:
    """Yield the keys and positions that lead to each field, in the order of :func:`flatten`."""
    if signature[0] is not None:
        yield path
        return
    keys, parts = signature[2], signature[3:]
    inner = value if keys is None else [value[key] for key in keys]
    names = keys or getattr(value, "_fields", range(len(parts)))
    for name, part, one in zip(names, parts, inner, strict=True):
        yield from field_paths(one, part, (*path, name))


def unflatten(batch: ParsedBatch) -> Any:
    """Return the fields nested as the batch was given."""
    return _unflatten(batch.structure, batch.signature, iter(batch.values))


def _unflatten(value: Any, signature: Signature, fields: Iterator[Any]) -> Any:
    if signature[0] is not None:
        return next(fields)
    keys, parts = signature[2], signature[3:]
    if keys is None:
        pairs = zip(value, parts, strict=True)
        return rebuild(value, [_unflatten(one, part, fields) for one, part in pairs])
    new = {k: _unflatten(value[k], part, fields) for k, part in zip(keys, parts, strict=True)}
    return rebuild(value, new)


def rebuild(container: Any, parts: Any) -> Any:
    """Put parts, a dict or a list, into a container like another one.

    As with ``default_collate``, a container of a user's class keeps its attributes, and becomes a
    dict or list if it cannot be built again.
    """
    kind = type(container)
    if kind in (dict, list, tuple):
        return tuple(parts) if kind is tuple else parts
    if isinstance(container, tuple) and hasattr(container, "_fields"):
        return kind(*parts)
    try:
        if not isinstance(container, (MutableMapping, MutableSequence)):
            return kind(parts)
        new: Any = copy.copy(container)
        if isinstance(new, MutableMapping):
            new.update(parts)
            return new
        for place, part in enumerate(parts):
            new[place] = part
        return new
    except TypeError:
        return parts


def _is_field(value: Any) -> bool:
    """Whether a value is one field, not a container of fields."""
    if not isinstance(value, (list, tuple, Mapping)) or isinstance(value, PairedLabels):
        return True
    if type(value) not in (list, tuple) or not value:
        return False
    return all(map(_is_one_image, value)) if isinstance(value[0], Tensor) else is_detection(value)


def _is_one_image(value: Any) -> bool:
    """Whether an item of a list is an image; a list of batches has one more axis."""
    other = (tv_tensors.Mask, tv_tensors.BoundingBoxes)
    is_image = isinstance(value, Tensor) and not isinstance(value, other)
    value = unwrap(value) if is_image else value  # a graph knows the attributes of plain tensors
    return is_image and value.ndim == 3 and value.dtype in MIXED_DTYPES


def is_detection(values: Any) -> bool:
    """Whether the items of a list are detection targets: mappings, of which any has boxes."""
    are_targets = all(value is None or isinstance(value, Mapping) for value in values)
    return are_targets and any("boxes" in value for value in values if value)


def format_path(path: Path) -> str:
    """Return a path as text, such as ``[0]['image']``."""
    return "".join(f"[{key!r}]" for key in path) or "the top"


def find_lists(paths: Sequence[Path], length: int, images: Sequence[Path]) -> list[Path]:
    """Return the paths of lists with ``length`` items that hold no images."""
    counts: dict[Path, int] = {}
    for path in paths:
        counts.update({path[:i]: key + 1 for i, key in enumerate(path) if isinstance(key, int)})
    above = {path[:depth] for path in images for depth in range(len(path))}
    return [path for path, count in counts.items() if count == length and path not in above]
