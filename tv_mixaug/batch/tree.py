"""Walk nested batches: take their leaves out, name their places, put new ones there."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torchvision import tv_tensors

from tv_mixaug.engine.kernels import MIXED_DTYPES
from tv_mixaug.targets.labels import PairedLabels

Path = tuple[Any, ...]
TYPED_TRAITS = operator.attrgetter("shape", "dtype", "device")
PLAIN_TRAITS = operator.attrgetter("shape", "dtype", "device", "layout")


def flatten(value: Any, leaves: list[Any]) -> Any:
    """Collect the leaves of mappings of any class, lists, tuples and namedtuples.

    Returns:
        The signature: all that decides what the leaves are, as a key of a dictionary.
    """
    kind = type(value)
    if isinstance(value, Tensor):
        leaves.append(value)
        return kind, _traits(value)(value)
    if is_leaf(value):
        leaves.append(value)
        if kind in (list, tuple):  # images, of which each has a shape, or detection targets
            each = map(_traits(value[0]), value) if isinstance(value[0], Tensor) else ()
            return kind, *map(type, value), *each
        shape = getattr(value, "shape", None)
        if not isinstance(shape, tuple):
            return kind
        return kind, shape, getattr(value, "dtype", None), getattr(value, "tv_type", None)
    if isinstance(value, Mapping):
        return kind, tuple(value), *[flatten(value[key], leaves) for key in value]
    return kind, *[flatten(one, leaves) for one in value]


def _traits(tensor: Tensor) -> Callable[[Tensor], Any]:
    """Return what gets all that matters of a tensor at once; tv_tensors are strided, and slow."""
    if torch.compiler.is_compiling():  # a graph is made for them in any case
        return type
    return PLAIN_TRAITS if type(tensor) is Tensor else TYPED_TRAITS


def leaf_paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Name the places of the leaves, in the order in which they are collected."""
    if is_leaf(value):
        yield path
    elif isinstance(value, Mapping):
        for key in value:
            yield from leaf_paths(value[key], (*path, pytree.MappingKey(key)))
    elif hasattr(value, "_fields"):
        for name, one in zip(value._fields, value, strict=True):
            yield from leaf_paths(one, (*path, pytree.GetAttrKey(name)))
    else:
        for place, one in enumerate(value):
            yield from leaf_paths(one, (*path, pytree.SequenceKey(place)))


def unflatten(values: Sequence[Any], structure: Any) -> Any:
    """Return a new batch in the nesting of ``structure`` with new leaves in the old places."""
    return _put_back(structure, iter(values))


def _put_back(value: Any, leaves: Iterator[Any]) -> Any:
    if is_leaf(value):
        return next(leaves)
    if isinstance(value, Mapping):
        return rebuild(value, {key: _put_back(value[key], leaves) for key in value})
    return rebuild(value, [_put_back(one, leaves) for one in value])


def rebuild(container: Any, parts: Any) -> Any:
    """Put parts, a dict or a list, into a container of the kind of another one.

    As with ``default_collate``, one of a class of its own keeps what it holds beside its parts,
    and becomes a dict or list if it cannot be made anew.
    """
    kind = type(container)
    if kind in (dict, list):
        return parts
    if kind is tuple:
        return tuple(parts)
    if isinstance(container, tuple) and hasattr(container, "_fields"):
        return kind(*parts)
    try:
        if isinstance(container, MutableMapping):
            new = copy.copy(container)
            new.update(parts)
            return new
        if isinstance(container, MutableSequence):
            copied = copy.copy(container)
            for place, part in enumerate(parts):
                copied[place] = part
            return copied
        return kind(parts)
    except TypeError:
        return parts


def is_leaf(value: Any) -> bool:
    """Tell what is not looked into."""
    if isinstance(value, Tensor) or not isinstance(value, (list, tuple, Mapping)):
        return True
    return isinstance(value, PairedLabels) or is_image_list(value) or is_objects(value)


def is_image_list(value: Any) -> bool:
    """Tell the images of a detection batch; a list of batches has one axis more."""
    return (
        type(value) in (list, tuple)
        and len(value) > 0
        and all(isinstance(v, Tensor) and v.ndim == 3 and v.dtype in MIXED_DTYPES for v in value)
        and not any(isinstance(v, (tv_tensors.Mask, tv_tensors.BoundingBoxes)) for v in value)
    )


def is_objects(value: Any) -> bool:
    """Tell detection targets: a list or tuple of mappings with boxes."""
    return (
        type(value) in (list, tuple)
        and len(value) > 0
        and all(isinstance(v, Mapping) and "boxes" in v for v in value)
    )


def key_of(step: Any) -> Any:
    """Return the key, name or position of one step of a path."""
    return next((getattr(step, a) for a in ("key", "name", "idx") if hasattr(step, a)), None)


def is_in_order(path: Path) -> bool:
    """Tell a place that no mapping leads to, whose keys may come in any order."""
    return not any(isinstance(step, pytree.MappingKey) for step in path)


def format_path(path: Path) -> str:
    """Return a place in words, such as ``[0]['image']``."""
    return pytree.keystr(path) or "the top"


def find_lists(paths: Sequence[Path], length: int, without: Sequence[Path]) -> list[Path]:
    """Return the places of lists with ``length`` items that hold none of certain leaves."""
    counts: dict[Path, int] = {}
    for path in paths:
        for depth, step in enumerate(path):
            if isinstance(step, pytree.SequenceKey):
                counts[path[:depth]] = step.idx + 1
    held = {path[:depth] for path in without for depth in range(len(path))}
    return [path for path, count in counts.items() if count == length and path not in held]


def is_under(path: Path, lists: Sequence[Path]) -> Path | None:
    """Return which of certain lists a leaf lies in, if it is in one."""
    return next((held for held in lists if path[: len(held)] == held), None)
