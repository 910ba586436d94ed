"""Say what each leaf of a batch is: found once for a signature, and remembered."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torchvision import tv_tensors

from tv_mixaug.execute import Samples
from tv_mixaug.kernels import MIXED_DTYPES
from tv_mixaug.labels import LabelFormat, NumClasses, PairedLabels, are_indices, check_labels

LabelsGetter = Callable[[Any], Any] | str | None
# A loader gives two signatures, of full batches and the last one; nobody needs as many as this.
MOST_LAYOUTS = 64


class Role(Enum):
    """Say what a leaf is, and so which rule treats it."""

    IMAGE = auto()
    MASK = auto()
    OBJECTS = auto()
    LABEL = auto()
    PAIRED = auto()  # labels that were mixed before
    OWN = auto()  # of a type that its user gave a rule
    PASSED = auto()  # left alone, as was asked for
    OTHER = auto()


# The rules for leaves of the users' own types, by type: ``LEAF_RULES[HeatMap] = rule``.
LEAF_RULES: dict[type, Callable[[Any, Any], Any]] = {}


class Leaf(NamedTuple):
    """Describe one leaf of a batch.

    Attributes:
        role: What it is.
        path: The steps to its place.
        kind: For labels, what they are encoded to: K, "multi", "regression" or None.
        indices: For labels, whether they are class indices.
        axes: For images, the axes that boxes cut, slowest first.
        channel_axis: For images, the axis of the channels; -1 where there is none.
    """

    role: Role
    path: tuple[Any, ...]
    kind: NumClasses = None
    indices: bool = False
    axes: tuple[int, ...] = ()
    channel_axis: int = -1

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


class Layout(NamedTuple):
    """Say what the leaves of all batches of one signature are.

    Attributes:
        leaves: What each leaf is, in order.
        steps: The places of the leaves that have a rule, images last: nothing is written to if
            another leaf cannot be mixed.
        length: B.
        size: The sides in pixels that boxes cut: (H, W), or with the time or depth first.
        sizes: (H, W) of each image of a list where they differ, else empty.
    """

    leaves: tuple[Leaf, ...]
    steps: tuple[int, ...]
    length: int
    size: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...] = ()


class Batch(NamedTuple):
    """Hold a batch taken apart.

    Attributes:
        values: The leaves in order: tensors, lists of images or of targets, or anything.
        layout: What they are.
        structure: The batch as it was given, whose nesting the result takes.
    """

    values: list[Any]
    layout: Layout
    structure: Any

    @property
    def length(self) -> int:
        """B, the number of samples."""
        return self.layout.length

    @property
    def size(self) -> tuple[int, ...]:
        """The sides in pixels that boxes cut: (H, W), or with the time or depth first."""
        return self.layout.size

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W) of each image."""
        height, width = self.size[-2:]
        return self.layout.sizes or ((height, width),) * self.length

    @property
    def labels(self) -> Tensor | None:
        """The first labels; None if there are none."""
        return next((value for leaf, value in self.pairs() if leaf.role is Role.LABEL), None)

    def pairs(self) -> Iterator[tuple[Leaf, Any]]:
        """Return what each leaf is, and its value."""
        return zip(self.layout.leaves, self.values, strict=True)


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
        unequal: Whether the images of a list may differ in height and width.
    """

    form: LabelFormat
    labels_getter: LabelsGetter
    layout: str | None
    cuboid: bool
    passthrough: tuple[str | int, ...]
    need_labels: bool
    one_size: bool
    unequal: bool = False


class Reader:
    """Read batches: find out what their leaves are, and refuse what would be left behind."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.layouts: dict[Any, Layout] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy begin without memories, whose keys may be types that cannot be pickled."""
        return Reader, (self.reading,)

    def read(self, batch: Any, check: Callable[[Leaf, Any], None]) -> Batch:
        """Take a batch apart, say what every leaf is and check all of them; change nothing.

        Args:
            batch: The batch.
            check: Raises if a leaf of these type, shape and dtype cannot be treated.

        Raises:
            TypeError: If a leaf is of the wrong kind, or a container cannot be looked into.
            ValueError: If shapes do not agree, labels are out of range or cannot be found, or a
                leaf would be left behind unmixed.
        """
        values: list[Any] = []
        if torch.compiler.is_compiling():
            _take_apart(batch, values)
            return Batch(values, self._find_layout(batch, values, check), batch)
        try:
            signature = _take_apart(batch, values)
        except RecursionError:
            raise ValueError(
                "the batch must not contain itself, got a container that does."
            ) from None
        layout = self.layouts.get(signature)
        if layout is None:
            layout = self._find_layout(batch, values, check)
            # Where a labels_getter finds the labels is no matter of types and shapes.
            if not callable(self.reading.labels_getter):
                if len(self.layouts) >= MOST_LAYOUTS:
                    self.layouts.clear()
                self.layouts[signature] = layout
        return Batch(values, layout, batch)

    def _find_layout(
        self, batch: Any, values: list[Any], check: Callable[[Leaf, Any], None]
    ) -> Layout:
        """Look at every leaf; a labels_getter's answer takes its leaf's place in the values."""
        reading = self.reading
        leaves = [Leaf(Role.OTHER, path) for path in _paths(batch, ())]
        for leaf, value in zip(leaves, values, strict=True):
            _check_container(leaf, value)
        leaves = _mark_images(leaves, values, reading)
        images = [place for place, leaf in enumerate(leaves) if leaf.role is Role.IMAGE]
        if not images:
            got = ", ".join(map(_describe, values)) or "an empty batch"
            axes = ", ".join(reading.layout or "BCHW")
            raise TypeError(
                f"images must be in the batch: ({axes}) tensors or tv_tensors.Image of uint8 or a "
                f"floating point dtype, got {got}."
            )
        first = values[images[0]]
        length = len(first) if _is_sequence(first) else first.shape[0]
        size = _check_images(leaves, values, length, reading)
        sizes = _find_sizes(leaves, values)
        leaves = _mark_labels(batch, leaves, values, length, reading)
        for leaf, value in zip(leaves, values, strict=True):
            _check_leaf(leaf, value, length, size, reading)
            check(leaf, value)
        treated = [
            place
            for place, leaf in enumerate(leaves)
            if leaf.role not in (Role.OTHER, Role.PASSED, Role.PAIRED)
            or isinstance(values[place], Samples)
        ]
        steps = sorted(treated, key=lambda place: leaves[place].role is Role.IMAGE)
        return Layout(tuple(leaves), tuple(steps), length, size, sizes)


def read_batch(batch: Any, reading: Reading) -> Batch:
    """Read one batch without a transform; see :meth:`Reader.read`."""
    return Reader(reading).read(batch, lambda leaf, value: None)


def rewrap(new: Tensor, old: Any) -> Tensor:
    """Give a plain tensor the tv_tensor type of the one that it replaces."""
    return tv_tensors.wrap(new, like=old) if isinstance(old, tv_tensors.TVTensor) else new


def put_together(values: Sequence[Any], structure: Any) -> Any:
    """Return a new batch in the nesting of ``structure`` with new leaves in the old places."""
    return _rebuild(structure, iter(values))


# --- The walk -----------------------------------------------------------------------------------


def _take_apart(value: Any, leaves: list[Any]) -> Any:
    """Collect the leaves of mappings of any class, lists, tuples and namedtuples.

    Returns:
        The signature: all that decides what the leaves are, as a key of a dictionary.
    """
    kind = type(value)
    if isinstance(value, Tensor):
        leaves.append(value)
        return kind, value.shape, value.dtype, value.device
    if _is_leaf(value):
        leaves.append(value)
        if kind in (list, tuple):  # images, of which each has a shape, or detection targets
            return (
                kind,
                *[(type(v), v.shape, v.dtype) for v in value if isinstance(v, Tensor)],
                len(value),
            )
        shape = getattr(value, "shape", None)
        if not isinstance(shape, tuple):
            return kind
        return kind, shape, getattr(value, "dtype", None), getattr(value, "tv_type", None)
    if isinstance(value, Mapping):
        return kind, tuple(value), *[_take_apart(value[key], leaves) for key in value]
    return kind, *[_take_apart(one, leaves) for one in value]


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Name the places of the leaves, in the order in which they are collected."""
    if _is_leaf(value):
        yield path
    elif isinstance(value, Mapping):
        for key in value:
            yield from _paths(value[key], (*path, pytree.MappingKey(key)))
    elif hasattr(value, "_fields"):
        for name, one in zip(value._fields, value, strict=True):
            yield from _paths(one, (*path, pytree.GetAttrKey(name)))
    else:
        for place, one in enumerate(value):
            yield from _paths(one, (*path, pytree.SequenceKey(place)))


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
    if isinstance(value, Tensor) or not isinstance(value, (list, tuple, Mapping)):
        return True
    return isinstance(value, PairedLabels) or _is_image_list(value) or is_objects(value)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))


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


# --- What a leaf is -----------------------------------------------------------------------------


def _check_container(leaf: Leaf, value: Any) -> None:
    """Refuse what the walk cannot open: a mask inside it would be left behind."""
    is_dataclass = dataclasses.is_dataclass(value) and not isinstance(value, type)
    if is_dataclass or isinstance(value, (set, frozenset)):
        raise TypeError(
            f"the {type(value).__name__} at {leaf.where} cannot be looked into; expected mappings, "
            "lists, tuples and namedtuples of tensors: pass a dict of what it holds."
        )


def _mark_images(leaves: list[Leaf], values: list[Any], reading: Reading) -> list[Leaf]:
    """Give all but labels their role. Images are tv_tensors if there are any, else plain tensors.

    That is how torchvision's v2 chooses, but here all of them are taken, not only the first.
    """
    roles = [_find_role(leaf, value, reading) for leaf, value in zip(leaves, values, strict=True)]
    plain = Role.OTHER if Role.IMAGE in roles else Role.IMAGE
    marked = []
    for leaf, value, role in zip(leaves, values, roles, strict=True):
        leaf = leaf._replace(role=plain if role is None else role)
        if leaf.role is Role.IMAGE:
            axes, channel_axis = _image_axes(value, reading)
            leaf = leaf._replace(axes=axes, channel_axis=channel_axis)
        marked.append(leaf)
    return marked


def _find_role(leaf: Leaf, value: Any, reading: Reading) -> Role | None:
    """Return the role of a leaf by its type; None for what is an image if no tv_tensor is one."""
    if any(_key(step) == name for step in leaf.path for name in reading.passthrough):
        return Role.PASSED
    if type(value) in LEAF_RULES:
        return Role.OWN
    if isinstance(value, PairedLabels):
        return Role.PAIRED
    if is_objects(value):
        return Role.OBJECTS
    if isinstance(value, tv_tensors.Mask):
        return Role.MASK
    is_list = _is_image_list(value)
    one = value[0] if is_list else value
    if isinstance(one, (tv_tensors.Image, tv_tensors.Video)):
        return Role.IMAGE
    if isinstance(one, Samples):
        return None if one.tv_type is None else Role.IMAGE
    ndims = (4, 5) if reading.layout is None else (len(reading.layout),)
    if is_list or (_is_plain(value) and value.ndim in ndims and value.dtype in MIXED_DTYPES):
        return None
    return Role.OTHER


def _layout_of(value: Any, reading: Reading) -> str | None:
    """Return the axes that were named for plain images; tv_tensors have their own."""
    typed = isinstance(value, tv_tensors.TVTensor) or getattr(value, "tv_type", None) is not None
    return None if typed else reading.layout


def _image_axes(value: Any, reading: Reading) -> tuple[tuple[int, ...], int]:
    """Return the axes of an image leaf that boxes cut, slowest first, and its channel axis."""
    ndim = value[0].ndim + 1 if _is_sequence(value) else value.ndim
    layout = _layout_of(value, reading) or ("BTCHW" if ndim == 5 else "BCHW")
    depth = [layout.index(name) for name in "TD" if name in layout] if reading.cuboid else []
    return (*depth, layout.index("H"), layout.index("W")), layout.find("C")


def _mark_labels(
    batch: Any, leaves: list[Leaf], values: list[Any], length: int, reading: Reading
) -> list[Leaf]:
    """Give labels their role, and what they are encoded to."""
    kinds, getter = reading.form.num_classes, reading.labels_getter
    if getter is None:
        return leaves
    if isinstance(kinds, Mapping):
        found = {_place_of_key(leaves, key): kind for key, kind in kinds.items()}
    elif callable(getter):
        labels = getter(batch)
        place = _place_of_labels(labels, leaves, values, length)
        values[place] = labels
        found = {place: kinds}
    else:
        guess = _guess_labels(leaves, values, length, reading)
        found = {} if guess is None else {guess: kinds}
    return [
        leaf._replace(
            role=Role.LABEL,
            kind=found[place],
            indices=are_indices(values[place], found[place]),
        )
        if place in found
        else leaf
        for place, leaf in enumerate(leaves)
    ]


def _guess_labels(
    leaves: list[Leaf], values: list[Any], length: int, reading: Reading
) -> int | None:
    """Find the labels by name, or else by type; None where a batch need not have any."""
    kind = reading.form.num_classes
    rest = [p for p, leaf in enumerate(leaves) if leaf.role is Role.OTHER and _is_plain(values[p])]
    named = [p for p in rest if leaves[p].is_called_label]
    typed = [p for p in rest if _may_be_labels(values[p], kind, length)]
    found = named or typed
    if len(found) > 1 and isinstance(kind, int):
        fitting = [p for p in found if values[p].shape[1:] in ((), (kind,))]
        found = fitting or found
    if len(found) > 1 and not named:
        # By custom labels follow the image: (image, label, index), (index, image, label).
        first = next(p for p, leaf in enumerate(leaves) if leaf.role is Role.IMAGE)
        found = [p for p in found if p > first][:1] or found
    if len(found) > 1:
        raise ValueError(
            f"labels could be at {' or '.join(leaves[p].where for p in found)}; say which with "
            "labels_getter=, name several with num_classes={key: ...}, or list the others in "
            "passthrough=."
        )
    roles = {leaf.role for leaf in leaves}
    other_targets = roles & {Role.MASK, Role.OBJECTS, Role.PAIRED}
    # A number of classes says that there are labels, also where the transform can do without.
    if not found and (kind is not None or (reading.need_labels and not other_targets)):
        if Role.PAIRED in roles:
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


def _place_of_labels(labels: Any, leaves: list[Leaf], values: list[Any], length: int) -> int:
    """Find the leaf that a labels_getter's answer stands for, be it itself, a view or a copy."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels_getter must return a tensor, got {type(labels).__name__}.")
    tensors = [p for p, value in enumerate(values) if isinstance(value, Tensor)]
    same = [p for p in tensors if values[p] is labels]
    views = [p for p in tensors if _shares_memory(values[p], labels)]
    rest = [
        p
        for p in tensors
        if leaves[p].role is Role.OTHER and values[p].shape[:1] == labels.shape[:1] == (length,)
    ]
    named = [p for p in rest if leaves[p].is_called_label]
    for places in (same, views, named, rest):
        if len(places) == 1 and leaves[places[0]].role is Role.OTHER:
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
    if isinstance(value, (Tensor, Samples)):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {type(value).__name__} of shape {tuple(value.shape)} and dtype {dtype}"
    return f"a {type(value).__name__}"


# --- Whether it can be mixed --------------------------------------------------------------------


def _check_images(
    leaves: list[Leaf], values: list[Any], length: int, reading: Reading
) -> tuple[int, ...]:
    """Check every image leaf and return the sides that boxes cut."""
    sizes = {}
    for leaf, value in zip(leaves, values, strict=True):
        if leaf.role is not Role.IMAGE:
            continue
        if _is_sequence(value):
            shapes = {tuple(v.shape) for v in value}
            free = leaf.axes if reading.unequal else ()
            alike = {tuple(n for a, n in enumerate(s, 1) if a not in free) for s in shapes}
            if len(alike) > 1 or len({v.dtype for v in value}) > 1:
                raise ValueError(
                    f"images at {leaf.where} must be of one size and dtype, got shapes "
                    f"{sorted(shapes)}; resize or pad them first, in collate_fn= for example, or "
                    "mix them where both have pixels, with sizes='overlap'."
                )
            shape, dtype = (len(value), *value[0].shape), value[0].dtype
        else:
            shape, dtype = tuple(value.shape), value.dtype
        if dtype not in MIXED_DTYPES:
            raise TypeError(
                f"images at {leaf.where} must be uint8, float16, bfloat16, float32 or float64, got "
                f"{str(dtype).removeprefix('torch.')}."
            )
        named = _layout_of(value, reading)
        if len(shape) not in ((len(named),) if named else (4, 5)):
            expected = " x ".join(named) if named else "(B, C, H, W) or (B, T, C, H, W)"
            raise ValueError(
                f"images at {leaf.where} must be a batch {expected}, got shape {shape}."
            )
        if named is None and _has_channels_last(shape):
            raise ValueError(
                f"images at {leaf.where} must have their channels before height and width, got "
                f"shape {shape}; give v2.ToImage() to the data set, permute them, or say "
                f"layout='{'BTHWC' if len(shape) == 5 else 'BHWC'}'."
            )
        if shape[0] != length:
            raise ValueError(
                f"images at {leaf.where} must have the batch's length {length}, got {shape[0]}."
            )
        sizes[leaf.where] = tuple(shape[axis] for axis in leaf.axes)
        if reading.cuboid and len(leaf.axes) != 3:
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


def _find_sizes(leaves: list[Leaf], values: list[Any]) -> tuple[tuple[int, int], ...]:
    """Return the size of each image if those of a list differ: then all of them are such lists."""
    images = {
        leaf.where: tuple((v.shape[leaf.axes[-2] - 1], v.shape[leaf.axes[-1] - 1]) for v in value)
        for leaf, value in zip(leaves, values, strict=True)
        if leaf.role is Role.IMAGE and _is_sequence(value)
    }
    found = next((sizes for sizes in images.values() if len(set(sizes)) > 1), ())
    for leaf in leaves if found else ():
        beside = leaf.role in (Role.IMAGE, Role.MASK)
        if beside and images.get(leaf.where) != found:
            raise ValueError(
                f"images of unequal size must be alone or beside lists of the same sizes {found}, "
                f"got other sizes or a mask at {leaf.where}."
            )
    return found


def _has_channels_last(shape: tuple[int, ...]) -> bool:
    """Tell what cv2.imread gives: the last axis is 1, 3 or 4, and that of channels is longer."""
    return shape[-1] in (1, 3, 4) and shape[-3] > 4


def _check_leaf(
    leaf: Leaf, value: Any, length: int, size: tuple[int, ...], reading: Reading
) -> None:
    shape = tuple(getattr(value, "shape", ()))
    match leaf.role:
        case Role.LABEL:
            needed = reading.need_labels
            check_labels(value, leaf.kind, reading.form, leaf.where, need_classes=needed)
            if shape[:1] != (length,):
                raise ValueError(
                    f"labels at {leaf.where} must have the batch's length {length}, got shape "
                    f"{shape}."
                )
        case Role.MASK:
            if len(shape) < 1 + len(size) or shape[0] != length or shape[-len(size) :] != size:
                raise ValueError(
                    f"masks at {leaf.where} must have the batch's length {length} and the images' "
                    f"size {size}, got shape {shape}."
                )
        case Role.OBJECTS:
            if len(value) != length:
                raise ValueError(
                    f"targets at {leaf.where} must be one mapping for each of the {length} images, "
                    f"got {len(value)}."
                )
        case Role.OTHER:
            boxed = isinstance(value, tv_tensors.TVTensor)
            if boxed or (len(shape) >= 3 and shape[0] == length and shape[-2:] == size[-2:]):
                hint = (
                    "put boxes and keypoints into a list of target dicts, one for each image"
                    if boxed
                    else "wrap it as tv_tensors.Image, Video or Mask to have it mixed"
                )
                raise ValueError(
                    f"{_describe(value)} at {leaf.where} would be left behind unmixed; {hint}, or "
                    "name it in passthrough=."
                )
