"""Say what each leaf of a batch is: found once for a signature, and remembered."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug.targets import labels as rules
from tv_mixaug.batch import tree as nesting
from tv_mixaug.engine.apply import LazyStack
from tv_mixaug.engine.kernels import MIXED_DTYPES
from tv_mixaug.targets.labels import LabelFormat, NumClasses, PairedLabels, are_indices

LabelsGetter = Callable[[Any], Any] | str | None
# A loader gives two signatures, of full batches and the last one; nobody needs as many as this.
MAX_SPECS = 64
# Names of what depends on the pixels, in small letters.
MASK_NAME = re.compile(
    r"(masks?|seg(m|ments?|mentations?|maps?)?|trimaps?|panoptic|\bgts?)(?![a-z])|label|annotation"
)
LABEL_NAMES = ("label", "labels", "target", "targets", "y")
BOX_NAME = re.compile(r"(b?box(es)?|keypoints?)(?![a-z])")


class Role(Enum):
    """Say what a leaf is, and so which rule treats it."""

    IMAGE = auto()
    MASK = auto()
    DETECTION = auto()
    LABEL = auto()
    PAIRED = auto()  # labels that were mixed before
    CUSTOM = auto()  # of a type that its user gave a rule
    PASSTHROUGH = auto()  # left alone, as was asked for
    OTHER = auto()


NOUNS = {Role.IMAGE: "images", Role.MASK: "masks", Role.DETECTION: "targets", Role.LABEL: "labels"}
# The rules for leaves of the users' own types, by type: ``FIELD_RULES[HeatMap] = rule``.
FIELD_RULES: dict[type, Callable[[Any, Any], Any]] = {}


class FieldSpec(NamedTuple):
    """Describe one leaf of a batch.

    Attributes:
        role: What it is.
        path: The steps to its place.
        where: The same in words, such as ``[0]['image']``.
        type: Its class; for a list of images theirs.
        shape: Its shape, that of its batch for a list of images; () where there is none.
        dtype: Its dtype, or None.
        kind: For labels, what they are encoded to: K, "multi", "regression" or None.
        indices: For labels, whether they are class indices.
        axes: For images, the axes that boxes cut, slowest first.
        channel_axis: For images, the axis of the channels; -1 where there is none.
    """

    role: Role
    path: nesting.Path
    where: str = ""
    type: type = object
    shape: tuple[int, ...] = ()
    dtype: Any = None
    kind: NumClasses = None
    indices: bool = False
    axes: tuple[int, ...] = ()
    channel_axis: int = -1

    @property
    def name(self) -> str:
        """Return the nearest key that is a text, in small letters; an empty text without one."""
        keys = map(nesting.key_of, reversed(self.path))
        return next((key.lower() for key in keys if isinstance(key, str)), "")

    @property
    def is_called_label(self) -> bool:
        """Tell whether its own key is a name for labels."""
        named = self.path and isinstance(nesting.key_of(self.path[-1]), str)
        return bool(named) and ("label" in self.name or self.name in LABEL_NAMES)

    @property
    def is_plain(self) -> bool:
        """Tell a tensor of no tv_tensor class."""
        return issubclass(self.type, Tensor) and not issubclass(self.type, tv_tensors.TVTensor)

    def __str__(self) -> str:
        """Return what it is and where, for errors."""
        if self.dtype is None:
            return f"a {self.type.__name__} at {self.where}"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"a {self.type.__name__} of shape {self.shape} and dtype {dtype} at {self.where}"


class BatchSpec(NamedTuple):
    """Say what the leaves of all batches of one signature are.

    Attributes:
        leaves: What each leaf is, in order.
        steps: The places of the leaves that have a rule, images last: nothing is written to if
            another leaf cannot be mixed.
        length: B.
        size: The sides in pixels that boxes cut: (H, W), or with the time or depth first.
        sizes: (H, W) of each image of a list where they differ, else empty.
        valued: The places of the leaves whose values are checked in every batch.
    """

    leaves: tuple[FieldSpec, ...]
    steps: tuple[int, ...]
    length: int
    size: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...] = ()
    valued: tuple[int, ...] = ()


class ParsedBatch(NamedTuple):
    """Hold a batch taken apart.

    Attributes:
        values: The leaves in order: tensors, lists of images or of targets, or anything.
        layout: What they are.
        structure: The batch as it was given, whose nesting the result takes.
    """

    values: list[Any]
    layout: BatchSpec
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

    def pairs(self) -> Iterator[tuple[FieldSpec, Any]]:
        """Return what each leaf is, and its value."""
        return zip(self.layout.leaves, self.values, strict=True)


class ParseOptions(NamedTuple):
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


class BatchParser:
    """Read batches: find out what their leaves are, and refuse what would be left behind."""

    def __init__(self, reading: ParseOptions) -> None:
        self.reading = reading
        self.layouts: dict[Any, BatchSpec] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy begin without memories, whose keys may be types that cannot be pickled."""
        return BatchParser, (self.reading,)

    def read(self, batch: Any, check: Callable[[FieldSpec, Any], None] = lambda *_: None) -> ParsedBatch:
        """Take a batch apart, say what every leaf is and check all of them; change nothing.

        Args:
            batch: The batch.
            check: Raises if a leaf of these type, shape and dtype cannot be treated.

        Raises:
            TypeError: If a leaf is of the wrong kind, or a container cannot be looked into.
            ValueError: If shapes do not agree, labels are out of range or cannot be found, or a
                leaf would be left behind unmixed.
        """
        reading = self.reading
        values: list[Any] = []  # list[Any]() cannot be compiled
        if torch.compiler.is_compiling():  # once, while the graph is made: without a look at values
            nesting.flatten(batch, values)
            return ParsedBatch(values, self._find_layout(batch, values, check), batch)
        try:
            signature = nesting.flatten(batch, values)
        except RecursionError:
            raise ValueError(
                "the batch must not contain itself, got a container that does."
            ) from None
        except RuntimeError as error:  # torch's, of a nested tensor
            raise TypeError(
                "the batch must hold tensors that have a shape, got a nested one; pad it with "
                "torch.nested.to_padded_tensor()."
            ) from error
        layout = self.layouts.get(signature)
        if layout is None:
            layout = self._find_layout(batch, values, check)
            # Where a labels_getter finds the labels is no matter of types and shapes.
            if not callable(reading.labels_getter):
                if len(self.layouts) >= MAX_SPECS:
                    self.layouts.clear()
                self.layouts[signature] = layout
        for place in layout.valued:
            leaf, form = layout.leaves[place], reading.form
            if leaf.role is Role.LABEL:
                rules.check_values(values[place], leaf.kind, form, leaf.where, indices=leaf.indices)
        return ParsedBatch(values, layout, batch)

    def _find_layout(
        self, batch: Any, values: list[Any], check: Callable[[FieldSpec, Any], None]
    ) -> BatchSpec:
        """Look at every leaf; a labels_getter's answer takes its leaf's place in the values."""
        reading, paths = self.reading, list(nesting.leaf_paths(batch))
        leaves = _mark_images(paths, values, reading)
        length = _images_of(leaves, reading)[0].shape[0]
        leaves = _mark_labels(batch, leaves, values, length, reading)
        images = _images_of(leaves, reading)
        for leaf, value in zip(leaves, values, strict=True):
            if leaf.role in NOUNS:
                _check_leaf(leaf, value, length, reading)
        _check_pictures(images)
        size, sizes = _find_size(images, reading), _find_sizes(leaves, values)
        lists = nesting.find_lists(paths, length, [leaf.path for leaf in images])
        for leaf, value in zip(leaves, values, strict=True):
            _check_beside(leaf, value, length, size, lists)
            check(leaf, value)
        _check_labels_found(leaves, length, lists, reading)
        still = (Role.OTHER, Role.PASSTHROUGH, Role.PAIRED)
        steps = [
            place
            for place, leaf in enumerate(leaves)
            if leaf.role not in still or isinstance(values[place], LazyStack)
        ]
        steps.sort(key=lambda place: leaves[place].role is Role.IMAGE)
        valued = (Role.LABEL, Role.MASK, Role.DETECTION)
        checked = tuple(place for place in steps if leaves[place].role in valued)
        return BatchSpec(tuple(leaves), tuple(steps), length, size, sizes, checked)


def rewrap(new: Tensor, old: Any, **canvas: tuple[int, int]) -> Tensor:
    """Give a plain tensor the type of the one it replaces, perhaps on a canvas of another size."""
    if not isinstance(old, tv_tensors.TVTensor):
        return new
    if torch.compiler.is_compiling():  # where no boxes are, which alone hold more than their type
        wrapped: Tensor = new.as_subclass(type(old))
    else:
        wrapped = tv_tensors.wrap(new, like=old, **canvas)
    return wrapped


def unwrap(tensor: Tensor) -> Tensor:
    """Return a plain tensor with the memory of one that may be a tv_tensor."""
    if type(tensor) is Tensor:
        return tensor
    if torch.compiler.is_compiling():  # a tv_tensor has no shape to ask for, this is its way out
        return tensor.view_as(tensor)
    return tensor if tensor.is_nested else tensor.as_subclass(Tensor)  # what no view can be made of


def split_objects(
    targets: Sequence[Mapping[str, Any]], passthrough: Sequence[str | int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split detection targets into the entries to be mixed and those that pass through."""
    bare = [{k: v for k, v in target.items() if k not in passthrough} for target in targets]
    passed = [{k: v for k, v in target.items() if k in passthrough} for target in targets]
    return bare, passed


# --- Which leaves are images --------------------------------------------------------------------


def _mark_images(paths: Sequence[nesting.Path], values: list[Any], reading: ParseOptions) -> list[FieldSpec]:
    """Give all but labels their role. Images are tv_tensors if there are any, else plain tensors.

    That is how torchvision's v2 chooses, but here all of them are taken, not only the first.
    """
    leaves = []
    for path, value in zip(paths, values, strict=True):
        one = value[0] if _is_list(value) else value
        kind = (one.tv_type or Tensor) if isinstance(one, LazyStack) else type(one)
        shape = (len(value),) if _is_list(value) else ()
        one = unwrap(one) if isinstance(one, Tensor) else one
        shape, dtype = (*shape, *getattr(one, "shape", ())), getattr(one, "dtype", None)
        leaf = FieldSpec(Role.OTHER, path, nesting.format_path(path), kind, shape, dtype)
        leaves.append(leaf._replace(role=_find_role(leaf, value, reading)))
    if not any(leaf.role is Role.IMAGE for leaf in leaves):
        ndims = (4, 5) if reading.layout is None else (len(reading.layout),)
        for place, leaf in enumerate(leaves):
            is_picture = len(leaf.shape) in ndims or _is_list(values[place])
            if (
                leaf.role is Role.OTHER
                and is_picture
                and leaf.is_plain
                and leaf.dtype in MIXED_DTYPES
            ):
                leaves[place] = leaf._replace(role=Role.IMAGE)
    return [_with_axes(leaf, reading) if leaf.role is Role.IMAGE else leaf for leaf in leaves]


def _find_role(leaf: FieldSpec, value: Any, reading: ParseOptions) -> Role:
    """Return the role of a leaf by its type: plain tensors have none yet."""
    if any(nesting.key_of(step) in reading.passthrough for step in leaf.path):
        return Role.PASSTHROUGH
    if type(value) in FIELD_RULES:
        return Role.CUSTOM
    if isinstance(value, PairedLabels):
        return Role.PAIRED
    if nesting.is_objects(value):
        return Role.DETECTION
    if issubclass(leaf.type, tv_tensors.Mask):
        return Role.MASK
    if issubclass(leaf.type, (tv_tensors.Image, tv_tensors.Video)):
        return Role.IMAGE
    is_dataclass = dataclasses.is_dataclass(value) and not isinstance(value, type)
    if is_dataclass or isinstance(value, (set, frozenset)):  # a mask inside would be left behind
        raise TypeError(
            f"the {leaf.type.__name__} at {leaf.where} cannot be looked into; expected mappings, "
            "lists, tuples and namedtuples of tensors: pass a dict of what it holds."
        )
    return Role.OTHER


def _axes_of(leaf: FieldSpec, reading: ParseOptions) -> str | None:
    """Return the axes that were named for plain images; tv_tensors have their own."""
    return reading.layout if leaf.is_plain else None


def _with_axes(leaf: FieldSpec, reading: ParseOptions) -> FieldSpec:
    """Tell the axes of an image leaf that boxes cut, slowest first, and its channel axis."""
    axes = _axes_of(leaf, reading) or ("BTCHW" if len(leaf.shape) == 5 else "BCHW")
    cut = [axes.index(name) for name in "TD" if name in axes] if reading.cuboid else []
    cut += [axes.index("H"), axes.index("W")]
    return leaf._replace(axes=tuple(cut), channel_axis=axes.find("C"))


def _images_of(leaves: list[FieldSpec], reading: ParseOptions) -> list[FieldSpec]:
    images = [leaf for leaf in leaves if leaf.role is Role.IMAGE]
    if images:
        return images
    got = ", ".join(map(str, leaves)) or "an empty batch"
    if any(leaf.role is Role.DETECTION for leaf in leaves):
        got += "; mappings with boxes are targets: give images beside them, as (image, target)"
    axes = ", ".join(reading.layout or "BCHW")
    raise TypeError(
        f"images must be in the batch: ({axes}) tensors or tv_tensors.Image of uint8 or a floating "
        f"point dtype, got {got}."
    )


def _check_pictures(images: list[FieldSpec]) -> None:
    """Refuse plain tensors that are shaped as images but called masks, or perhaps hold class ids.

    Bytes with 3 or 4 channels, or with those of the first image, are an image too. With one channel
    they are one if a name says so, and no other is of floating point.
    """
    floats = [leaf for leaf in images if leaf.dtype != torch.uint8]
    first = (floats or images)[0]
    for leaf in images:
        count = leaf.shape[leaf.channel_axis] if leaf.channel_axis > 0 else 1
        usual = count in (3, 4) or 1 < count == first.shape[first.channel_axis]
        is_view = usual and len(leaf.shape) == len(first.shape)
        named = leaf.name and not leaf.is_called_label and not floats
        doubtful = leaf.dtype == torch.uint8 and leaf is not first and not (is_view or named)
        if leaf.is_plain and (doubtful or MASK_NAME.search(leaf.name)):
            raise _left_behind(leaf)


# --- Which are labels ---------------------------------------------------------------------------


def _mark_labels(
    batch: Any, leaves: list[FieldSpec], values: list[Any], length: int, reading: ParseOptions
) -> list[FieldSpec]:
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
        found = dict.fromkeys(_guess_labels(leaves, values, length, reading), kinds)
    leaves = leaves.copy()
    for place, kind in found.items():
        value = values[place]
        leaves[place] = leaves[place]._replace(
            role=Role.LABEL,
            shape=tuple(getattr(value, "shape", ())),  # of what a getter made of the leaf
            kind=kind,
            indices=are_indices(value, kind),
        )
    return leaves


def _guess_labels(
    leaves: list[FieldSpec], values: list[Any], length: int, reading: ParseOptions
) -> list[int]:
    """Find the labels by name, or else by what fits: one place or none."""
    form, kind = reading.form, reading.form.num_classes
    under = any(leaf.role is Role.OTHER and leaf.name in LABEL_NAMES for leaf in leaves)
    rest = [p for p, leaf in enumerate(leaves) if leaf.role is Role.OTHER and leaf.is_plain]
    named = [p for p in rest if leaves[p].is_called_label]
    # What lies under a name for labels, but is no tensor, is not replaced by another column.
    rest = [p for p in rest if leaves[p].name in LABEL_NAMES] if under else rest
    found = named or [p for p in rest if not _why_no_labels(leaves[p], kind, length)]
    indices = [p for p in found if are_indices(values[p], kind)]
    # Indices that are left alone, as Cutout does without num_classes, need not be told apart.
    alone = kind is None and form.targets == "soft" and not reading.need_labels
    if len(found) < 2 or (alone and found == indices):
        return found[:1]
    if kind == "regression":
        found = [p for p in found if values[p].is_floating_point()] or found
    elif isinstance(kind, int):
        found = [p for p in found if p in indices or leaves[p].shape[1:] == (kind,)] or found
    if not named and all(nesting.is_in_order(leaves[p].path) for p in found):
        # By custom ids come before an image and its label behind, which mappings do not tell.
        first = next(place for place, leaf in enumerate(leaves) if leaf.role is Role.IMAGE)
        behind = [place for place in found if place > first]
        found = behind if len(behind) == 1 else found
    if len(found) > 1:
        raise ValueError(
            f"labels could be at {' or '.join(leaves[p].where for p in found)}; say which with "
            "labels_getter=, name several with num_classes={key: ...}, or list the others in "
            "passthrough=."
        )
    return found


def _why_no_labels(leaf: FieldSpec, kind: NumClasses, length: int) -> str:
    """Say why a leaf cannot be labels; nothing if it may be."""
    if not leaf.is_plain:
        return "no plain tensor"
    if leaf.shape[:1] != (length,):
        return f"not of length {length}"
    if len(leaf.shape) > 2:
        return "too many axes"
    if kind == "regression":
        return "no numbers" if leaf.dtype == torch.bool else ""
    if len(leaf.shape) == 1 and kind == "multi":
        return "multi-hot labels are (B, K)"
    if len(leaf.shape) == 1 and (leaf.dtype.is_floating_point or leaf.dtype == torch.bool):
        return "class indices are integers; real targets need num_classes='regression'"
    return ""


def _check_labels_found(
    leaves: list[FieldSpec], length: int, lists: list[nesting.Path], reading: ParseOptions
) -> None:
    """Refuse a batch that should have labels, and say why each of its leaves is none."""
    kind, roles = reading.form.num_classes, {leaf.role for leaf in leaves}
    # A number of classes says that there are labels, also where the transform can do without.
    needed = reading.need_labels and not roles & {Role.MASK, Role.DETECTION}
    has_any = roles & {Role.LABEL, Role.PAIRED} or reading.labels_getter is None
    if has_any or not (needed or kind is not None):
        return
    seen: dict[str, None] = {}
    for leaf in leaves:
        if leaf.role is Role.PASSTHROUGH:
            seen[f"{leaf} (listed in passthrough)"] = None
        elif leaf.role is Role.OTHER and (path := nesting.is_under(leaf.path, lists)):
            seen[f"{leaf.type.__name__} in a list at {nesting.format_path(path)} (no tensor)"] = None
        elif leaf.role is Role.OTHER:
            seen[f"{leaf} ({_why_no_labels(leaf, kind, length)})"] = None
    listed = ", ".join([*list(seen)[:6], *["and more"] * (len(seen) > 6)]) or "nothing but images"
    raise ValueError(
        f"found no labels in the batch: expected a (B,) integer or a (B, K) tensor, B = {length}, "
        f"got {listed}; point to them with labels_getter=, or pass labels_getter=None to mix "
        "images without labels."
    )


def _place_of_key(leaves: list[FieldSpec], key: Any) -> int:
    places = [p for p, leaf in enumerate(leaves) if key in map(nesting.key_of, leaf.path[-1:])]
    if len(places) != 1:
        raise ValueError(
            f"num_classes names the label {key!r}, expected once in the batch, got it "
            f"{len(places)} times."
        )
    return places[0]


def _place_of_labels(labels: Any, leaves: list[FieldSpec], values: list[Any], length: int) -> int:
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
    dense = one.layout is other.layout is torch.strided and other.numel() > 0
    return dense and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


# --- Whether they can be mixed ------------------------------------------------------------------


def _check_leaf(leaf: FieldSpec, value: Any, length: int, reading: ParseOptions) -> None:
    """Check a leaf that has a rule by itself."""
    place = f"{NOUNS[leaf.role]} at {leaf.where}"
    tensors = [unwrap(v) for v in (value if _is_list(value) else [value]) if isinstance(v, Tensor)]
    for tensor in tensors:
        if tensor.layout is not torch.strided or tensor.is_quantized:
            got = tensor.dtype if tensor.is_quantized else tensor.layout
            raise TypeError(
                f"{place} must be dense, got {got}; call to_dense(), dequantize() or "
                "torch.nested.to_padded_tensor()."
            )
    if leaf.role is Role.LABEL:
        needed = reading.need_labels
        rules.check_labels(value, leaf.kind, reading.form, leaf.where, need_classes=needed)
    elif leaf.role is Role.IMAGE:
        _check_image(leaf, tensors, length, place, reading)
    if leaf.shape[:1] != (length,):
        raise ValueError(f"{place} must have the batch's length {length}, got {leaf.shape}.")


def _check_image(
    leaf: FieldSpec, tensors: list[Tensor], length: int, place: str, reading: ParseOptions
) -> None:
    shape, axes = leaf.shape, _axes_of(leaf, reading)
    free = leaf.axes if reading.unequal else ()
    # Compared, not put in a set: to hash a size that may change would fix it in a graph.
    alike = [
        ([n for a, n in enumerate(v.shape, 1) if a not in free], v.dtype, v.device) for v in tensors
    ]
    if any(one != alike[0] for one in alike):
        raise ValueError(
            f"{place} must be of one size and dtype and on one device, got shapes "
            f"{sorted({tuple(v.shape) for v in tensors})}; resize or pad them first, in "
            "collate_fn= for example, or mix them where both have pixels, with sizes='overlap'."
        )
    if leaf.dtype not in MIXED_DTYPES:
        raise TypeError(
            f"{place} must be uint8, float16, bfloat16, float32 or float64, got {leaf.dtype}."
        )
    if len(shape) not in ((len(axes),) if axes else (4, 5)):
        expected = " x ".join(axes) if axes else "(B, C, H, W) or (B, T, C, H, W)"
        raise ValueError(f"{place} must be a batch {expected}, got shape {shape}.")
    # What cv2.imread gives: the last axis is 1, 3 or 4, and that of channels is longer.
    if axes is None and shape[-1] in (1, 3, 4) and shape[-3] > 4:
        raise ValueError(
            f"{place} must have their channels before height and width, got shape {shape}; give "
            "v2.ToImage() to the data set, permute them, or say "
            f"layout='{'BTHWC' if len(shape) == 5 else 'BHWC'}'."
        )
    if reading.cuboid and len(leaf.axes) != 3:
        raise ValueError(f"cut='cuboid' needs a time or depth axis, got {leaf}.")
    if length and 0 in shape:
        raise ValueError(f"{place} must not be empty, got shape {shape}.")


def _find_size(images: list[FieldSpec], reading: ParseOptions) -> tuple[int, ...]:
    """Return the sides that boxes cut."""
    sizes = {leaf.where: tuple(leaf.shape[axis] for axis in leaf.axes) for leaf in images}
    first = next(iter(sizes.values()))
    if reading.one_size and any(size != first for size in sizes.values()):
        got = ", ".join(f"{size} at {where}" for where, size in sizes.items())
        raise ValueError(f"images that are cut alike must be of one size, got {got}.")
    return first


def _find_sizes(leaves: list[FieldSpec], values: list[Any]) -> tuple[tuple[int, int], ...]:
    """Return the size of each image if those of a list differ: then all of them are such lists."""
    images = {
        leaf.where: tuple((v.shape[leaf.axes[-2] - 1], v.shape[leaf.axes[-1] - 1]) for v in value)
        for leaf, value in zip(leaves, values, strict=True)
        if leaf.role is Role.IMAGE and _is_list(value)
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


def _check_beside(
    leaf: FieldSpec, value: Any, length: int, size: tuple[int, ...], lists: list[nesting.Path]
) -> None:
    """Check what lies beside the images, perhaps in a list with an item for each of them.

    What depends on the pixels by its type, shape or name must have a rule.
    """
    shape, rank = leaf.shape, len(size)
    if leaf.role is Role.MASK and (len(shape) <= rank or shape[-rank:] != size):
        raise ValueError(f"masks at {leaf.where} must have the images' size {size}, got {shape}.")
    if leaf.role is not Role.OTHER:
        return
    if issubclass(leaf.type, tv_tensors.TVTensor):
        raise _left_behind(leaf, boxed=True)
    for shape in {(length, *v.shape) for v in value} if _is_list(value) else {leaf.shape}:
        shape = (length, *shape) if nesting.is_under(leaf.path, lists) else shape
        if len(shape) < 2 or shape[0] != length:
            continue
        sides = [shape[axis : axis + 2] for axis in range(1, len(shape) - 1)]
        is_map = len(shape) > 2 and (size[-2:] in sides or MASK_NAME.search(leaf.name))
        is_box = shape[-1] in (2, 3, 4) and BOX_NAME.search(leaf.name)
        if is_map or is_box:
            raise _left_behind(leaf, boxed=bool(is_box))


def _left_behind(leaf: FieldSpec, *, boxed: bool = False) -> ValueError:
    hint = (
        "unmixed; put boxes and keypoints into a list of target dicts, one for each image"
        if boxed
        else "unmixed or blended as numbers; wrap class ids as tv_tensors.Mask, pictures as "
        "tv_tensors.Image or Video"
    )
    return ValueError(f"{leaf} would be left behind {hint}, or name it in passthrough=.")


def _is_list(value: Any) -> bool:
    """Tell images or targets in a list: all other lists are looked into."""
    return type(value) in (list, tuple)
