"""Look at a batch once: find out what every leaf is, and refuse what would be left behind."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torchvision import tv_tensors

from tv_mixaug.detection import check_objects
from tv_mixaug.execute import Rows
from tv_mixaug.functional import MIXED_DTYPES
from tv_mixaug.labels import LabelFormat, NumClasses, PairedLabels, check_labels

IMAGE, MASK, OBJECTS, LABEL, PAIRED = "image", "mask", "objects", "label", "paired labels"
PASSED, OTHER = "passed", "other"

LabelsGetter = Callable[[Any], Any] | str | None


class Leaf(NamedTuple):
    """Hold one leaf of a batch.

    Attributes:
        value: The tensor, the list of image tensors, the list of target mappings, or anything.
        role: What it is, and so which rule treats it.
        path: The steps to its place.
        kind: For labels, what they are encoded to: K, "multi", "regression" or None.
    """

    value: Any
    role: str
    path: tuple[Any, ...]
    kind: NumClasses = None

    @property
    def where(self) -> str:
        """Return its place in words, such as ``[0]['image']``."""
        return pytree.keystr(self.path) or "the top"

    @property
    def is_called_label(self) -> bool:
        """Tell whether its key is a name for labels."""
        key = _key(self.path[-1]) if self.path else None
        name = key.lower() if isinstance(key, str) else ""
        return "label" in name or name in ("target", "targets", "y")


class Batch(NamedTuple):
    """Hold a batch taken apart.

    Attributes:
        leaves: The leaves in order.
        structure: The batch as it was given, whose nesting the result takes.
        length: B.
        size: The sides in pixels that boxes cut: (H, W), or with the time or depth first.
        labels: The first label tensor, for pairing by label; None if there is none.
    """

    leaves: list[Leaf]
    structure: Any
    length: int
    size: tuple[int, ...]
    labels: Tensor | None


class Reading(NamedTuple):
    """Say how a batch is to be read; a transform makes one from its arguments.

    Attributes:
        form: The label format.
        labels_getter: ``"default"``, a function of the batch that returns its labels, or None.
        layout: The axes of plain image tensors, such as "BCDHW"; None for (B, ..., H, W).
        cuboid: Whether boxes also cut the time or depth axis.
        passthrough: Keys or positions of leaves to be left alone.
        need_labels: Whether a batch without labels is an error.
        one_size: Whether all images have to be of one size.
    """

    form: LabelFormat
    labels_getter: LabelsGetter
    layout: str | None
    cuboid: bool
    passthrough: tuple[str | int, ...]
    need_labels: bool
    one_size: bool


def read_batch(batch: Any, reading: Reading) -> Batch:
    """Take a batch apart, give every leaf its role and check all of them; change nothing.

    Raises:
        TypeError: If a leaf is of the wrong kind, or a container cannot be looked into.
        ValueError: If shapes do not agree, labels are out of range or cannot be found, or a leaf
            would be left behind unmixed.
    """
    leaves = [Leaf(value, OTHER, path) for path, value in _take_apart(batch, ())]
    for leaf in leaves:
        _check_container(leaf)
    leaves = _mark_images(leaves, reading)
    images = [leaf for leaf in leaves if leaf.role == IMAGE]
    if not images:
        got = ", ".join(_describe(leaf.value) for leaf in leaves) or "an empty batch"
        axes = ", ".join(reading.layout or "BCHW")
        raise TypeError(
            f"images must be in the batch: ({axes}) tensors or tv_tensors.Image of uint8 or a "
            f"floating point dtype, got {got}."
        )
    first = images[0].value
    length = len(first) if isinstance(first, (list, tuple)) else first.shape[0]
    size = _check_images(images, length, reading)
    leaves = _mark_labels(batch, leaves, length, reading)
    for leaf in leaves:
        _check_leaf(leaf, length, size, reading)
    labels = next((leaf.value for leaf in leaves if leaf.role == LABEL), None)
    return Batch(leaves, batch, length, size, labels)


def put_together(values: Sequence[Any], structure: Any) -> Any:
    """Return a new batch in the nesting of ``structure`` with new leaves in the old places."""
    return _rebuild(structure, iter(values))


def image_axes(value: Any, reading: Reading) -> tuple[tuple[int, ...], int]:
    """Return the axes of an image leaf that boxes cut, slowest first, and its channel axis."""
    ndim = value[0].ndim + 1 if isinstance(value, (list, tuple)) else value.ndim
    layout = reading.layout
    if layout is None or isinstance(value, (tv_tensors.Image, tv_tensors.Video)):
        layout = "BTCHW" if ndim == 5 else "BCHW"
    depth = [layout.index(name) for name in "TD" if name in layout] if reading.cuboid else []
    return (*depth, layout.index("H"), layout.index("W")), layout.find("C")


# --- What a leaf is -----------------------------------------------------------------------------


def _take_apart(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Walk through mappings of any class, lists, tuples and namedtuples to the leaves."""
    if _is_leaf(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key in value:
            yield from _take_apart(value[key], (*path, pytree.MappingKey(key)))
    elif hasattr(value, "_fields"):
        for name, one in zip(value._fields, value, strict=True):
            yield from _take_apart(one, (*path, pytree.GetAttrKey(name)))
    else:
        for place, one in enumerate(value):
            yield from _take_apart(one, (*path, pytree.SequenceKey(place)))


def _rebuild(value: Any, leaves: Iterator[Any]) -> Any:
    """Put leaves back; a mapping of a class of its own keeps what it holds beside its items."""
    if _is_leaf(value):
        return next(leaves)
    if isinstance(value, Mapping):
        items = {key: _rebuild(value[key], leaves) for key in value}
        if not isinstance(value, MutableMapping):
            return items
        new = copy.copy(value)
        for key, item in items.items():
            new[key] = item
        return new
    if hasattr(value, "_fields"):
        return type(value)(*[_rebuild(one, leaves) for one in value])
    return type(value)([_rebuild(one, leaves) for one in value])


def _is_leaf(value: Any) -> bool:
    if not isinstance(value, (Mapping, list, tuple)):
        return True
    return isinstance(value, PairedLabels) or _is_image_list(value) or is_objects(value)


def _is_image_list(value: Any) -> bool:
    """Detection batches hold their images in a list; a list of batches has one axis more."""
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


def split_objects(
    targets: Sequence[Mapping[str, Any]], passthrough: tuple[str | int, ...]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split detection targets into the entries to be mixed and those that pass through."""
    bare = [{k: v for k, v in target.items() if k not in passthrough} for target in targets]
    passed = [{k: v for k, v in target.items() if k in passthrough} for target in targets]
    return bare, passed


def _check_container(leaf: Leaf) -> None:
    """Refuse what the walk cannot open: a mask inside it would be left behind."""
    value = leaf.value
    is_dataclass = dataclasses.is_dataclass(value) and not isinstance(value, type)
    if is_dataclass or isinstance(value, (set, frozenset)):
        raise TypeError(
            f"the {type(value).__name__} at {leaf.where} cannot be looked into; expected mappings, "
            "lists, tuples and namedtuples of tensors: pass a dict of what it holds."
        )


def _mark_images(leaves: list[Leaf], reading: Reading) -> list[Leaf]:
    """Give images their role: tv_tensors if there are any, else plain tensors.

    That is how torchvision's v2 chooses, but here all of them are taken, not only the first.
    """
    ndims = (4, 5) if reading.layout is None else (len(reading.layout),)

    def kind(leaf: Leaf) -> str:
        value = leaf.value
        if any(_key(step) == name for step in leaf.path for name in reading.passthrough):
            return PASSED
        if isinstance(value, PairedLabels):
            return PAIRED
        if is_objects(value):
            return OBJECTS
        if isinstance(value, tv_tensors.Mask):
            return MASK
        one = value[0] if _is_image_list(value) else value
        if isinstance(one, (tv_tensors.Image, tv_tensors.Video)) or (
            isinstance(one, Rows) and one.tv_type is not None
        ):
            return IMAGE
        if _is_image_list(value) or isinstance(value, Rows):
            return "plain"
        if _is_plain(value) and value.ndim in ndims and value.dtype in MIXED_DTYPES:
            return "plain"
        return OTHER

    kinds = [kind(leaf) for leaf in leaves]
    plain = OTHER if IMAGE in kinds else IMAGE
    return [
        leaf._replace(role=plain if role == "plain" else role)
        for leaf, role in zip(leaves, kinds, strict=True)
    ]


def _mark_labels(batch: Any, leaves: list[Leaf], length: int, reading: Reading) -> list[Leaf]:
    """Give labels their role, and what they are encoded to."""
    kinds, getter = reading.form.num_classes, reading.labels_getter
    if getter is None:
        return leaves
    if isinstance(kinds, Mapping):
        found = {_place_of_key(leaves, key): kind for key, kind in kinds.items()}
        return [
            leaf._replace(role=LABEL, kind=found[place]) if place in found else leaf
            for place, leaf in enumerate(leaves)
        ]
    if callable(getter):
        labels = getter(batch)
        place: int | None = _place_of_labels(labels, leaves, length)
    else:
        place = _guess_labels(leaves, length, reading)
        labels = leaves[place].value if place is not None else None
    if place is None:
        return leaves
    marked = leaves[place]._replace(role=LABEL, kind=kinds, value=labels)
    return [*leaves[:place], marked, *leaves[place + 1 :]]


def _guess_labels(leaves: list[Leaf], length: int, reading: Reading) -> int | None:
    """Find the labels by name, or else by type; None where a batch need not have any."""
    kind = reading.form.num_classes
    rest = [p for p, leaf in enumerate(leaves) if leaf.role == OTHER and _is_plain(leaf.value)]
    named = [p for p in rest if leaves[p].is_called_label]
    typed = [p for p in rest if _may_be_labels(leaves[p].value, kind, length)]
    found = named or typed
    if len(found) > 1 and isinstance(kind, int):
        fitting = [p for p in found if leaves[p].value.shape[1:] in ((), (kind,))]
        found = fitting or found
    if len(found) > 1 and not named:
        # By custom labels follow the image: (image, label, index), (index, image, label).
        first = next(p for p, leaf in enumerate(leaves) if leaf.role == IMAGE)
        found = [p for p in found if p > first][:1] or found
    if len(found) > 1:
        raise ValueError(
            f"labels could be at {' or '.join(leaves[p].where for p in found)}; say which with "
            "labels_getter=, name several with num_classes={key: ...}, or list the others in "
            "passthrough=."
        )
    other_targets = any(leaf.role in (MASK, OBJECTS, PAIRED) for leaf in leaves)
    # A number of classes says that there are labels, also where the transform can do without.
    if not found and (kind is not None or (reading.need_labels and not other_targets)):
        if any(leaf.role == PAIRED for leaf in leaves):
            return None
        raise ValueError(
            f"found no labels in the batch: expected a (B,) integer or a (B, K) tensor, B = "
            f"{length}; point to them with labels_getter=, or pass labels_getter=None to mix "
            "images without labels."
        )
    return found[0] if found else None


def _may_be_labels(value: Tensor, kind: NumClasses, length: int) -> bool:
    if value.shape[:1] != (length,):
        return False
    if kind == "regression":
        return value.ndim in (1, 2) and value.is_floating_point()
    if value.ndim == 1:
        return kind != "multi" and not (value.is_floating_point() or value.dtype == torch.bool)
    return value.ndim == 2


def _place_of_key(leaves: list[Leaf], key: Any) -> int:
    places = [p for p, leaf in enumerate(leaves) if leaf.path and _key(leaf.path[-1]) == key]
    if len(places) != 1:
        raise ValueError(
            f"num_classes names the label {key!r}, expected once in the batch, got it "
            f"{len(places)} times."
        )
    return places[0]


def _place_of_labels(labels: Any, leaves: list[Leaf], length: int) -> int:
    """Find the leaf that a labels_getter's answer stands for, be it itself, a view or a copy."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels_getter must return a tensor, got {type(labels).__name__}.")
    tensors = [p for p, leaf in enumerate(leaves) if isinstance(leaf.value, Tensor)]
    same = [p for p in tensors if leaves[p].value is labels]
    views = [p for p in tensors if _shares_memory(leaves[p].value, labels)]
    rest = [
        p
        for p in tensors
        if leaves[p].role == OTHER and leaves[p].value.shape[:1] == labels.shape[:1] == (length,)
    ]
    named = [p for p in rest if leaves[p].is_called_label]
    for places in (same, views, named, rest):
        if len(places) == 1 and leaves[places[0]].role == OTHER:
            return places[0]
    raise ValueError(
        "labels_getter must return labels of the batch, or a view or copy whose place can be told, "
        f"got a tensor of shape {tuple(labels.shape)}."
    )


def _shares_memory(one: Tensor, other: Tensor) -> bool:
    return (
        other.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, tv_tensors.TVTensor)


def _key(step: Any) -> Any:
    """Return the key, name or position of one step of a path."""
    return next((getattr(step, a) for a in ("key", "name", "idx") if hasattr(step, a)), None)


def _describe(value: Any) -> str:
    if isinstance(value, (Tensor, Rows)):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {type(value).__name__} of shape {tuple(value.shape)} and dtype {dtype}"
    return f"a {type(value).__name__}"


# --- Whether it can be mixed --------------------------------------------------------------------


def _check_images(images: list[Leaf], length: int, reading: Reading) -> tuple[int, ...]:
    """Check every image leaf and return the sides that boxes cut."""
    sizes = {}
    for leaf in images:
        value = leaf.value
        if isinstance(value, (list, tuple)):
            shapes = {tuple(v.shape) for v in value}
            if len(shapes) > 1 or len({v.dtype for v in value}) > 1:
                raise ValueError(
                    f"images at {leaf.where} must be of one size and dtype, got shapes "
                    f"{sorted(shapes)}; resize or pad them first, in collate_fn= for example."
                )
            shape, dtype = (len(value), *value[0].shape), value[0].dtype
        else:
            shape, dtype = tuple(value.shape), value.dtype
        if dtype not in MIXED_DTYPES:
            raise TypeError(
                f"images at {leaf.where} must be uint8, float16, bfloat16, float32 or float64, got "
                f"{str(dtype).removeprefix('torch.')}."
            )
        named = reading.layout if _is_plain(value) else None
        if len(shape) not in ((len(named),) if named else (4, 5)):
            expected = " x ".join(named) if named else "(B, C, H, W) or (B, T, C, H, W)"
            raise ValueError(
                f"images at {leaf.where} must be a batch {expected}, got shape {shape}."
            )
        if shape[0] != length:
            raise ValueError(
                f"images at {leaf.where} must have the batch's length {length}, got {shape[0]}."
            )
        axes, _ = image_axes(value, reading)
        sizes[leaf.where] = tuple(shape[axis] for axis in axes)
        if reading.cuboid and len(axes) != 3:
            raise ValueError(
                f"cut='cuboid' needs a time or depth axis, got images of shape {shape} at "
                f"{leaf.where}."
            )
        if length and 0 in shape:
            raise ValueError(f"images at {leaf.where} must not be empty, got shape {shape}.")
    if reading.one_size and len(set(sizes.values())) > 1:
        raise ValueError(
            "images that are cut alike must be of one size, got "
            + ", ".join(f"{size} at {where}" for where, size in sizes.items())
            + "."
        )
    return next(iter(sizes.values()))


def _check_leaf(leaf: Leaf, length: int, size: tuple[int, ...], reading: Reading) -> None:
    value = leaf.value
    if leaf.role == LABEL:
        needed = reading.need_labels
        check_labels(value, leaf.kind, reading.form, leaf.where, need_classes=needed)
        if value.shape[:1] != (length,):
            raise ValueError(
                f"labels at {leaf.where} must have the batch's length {length}, got shape "
                f"{tuple(value.shape)}."
            )
    elif leaf.role == MASK:
        sides = tuple(value.shape[value.ndim - len(size) :])
        if value.ndim < 1 + len(size) or value.shape[0] != length or sides != size:
            raise ValueError(
                f"masks at {leaf.where} must have the batch's length {length} and the images' size "
                f"{size}, got shape {tuple(value.shape)}."
            )
    elif leaf.role == OBJECTS:
        if len(value) != length:
            raise ValueError(
                f"targets at {leaf.where} must be one mapping for each of the {length} images, "
                f"got {len(value)}."
            )
        bare, _ = split_objects(value, reading.passthrough)
        check_objects(bare, (size[-2], size[-1]), leaf.where)
    elif leaf.role == OTHER:
        shape = tuple(getattr(value, "shape", ()))
        boxed = isinstance(value, tv_tensors.TVTensor)
        if boxed or (len(shape) >= 3 and shape[0] == length and shape[-2:] == size[-2:]):
            hint = (
                "put boxes and keypoints into a list of target dicts, one for each image"
                if boxed
                else "wrap it as tv_tensors.Image, Video or Mask to have it mixed"
            )
            raise ValueError(
                f"{_describe(value)} at {leaf.where} would be left behind unmixed; {hint}, or name "
                "it in passthrough=."
            )
