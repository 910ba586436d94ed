"""Infer the role of each field of a batch: images, masks, targets, labels, or none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug._tv_tensors import unwrap
from tv_mixaug._validation import ensure
from tv_mixaug.batch import tree, validate
from tv_mixaug.batch.spec import (
    FIELD_RULES,
    LABEL_NAMES,
    BatchOptions,
    BatchSpec,
    FieldSpec,
    NumClasses,
    PairedLabels,
    Path,
    Role,
)
from tv_mixaug.engine import kernels
from tv_mixaug.engine.apply import LazyStack

UNMIXED = (Role.OTHER, Role.PASSTHROUGH, Role.PAIRED)


def infer_spec(
    batch: Any,
    signature: tree.Signature,
    values: list[Any],
    options: BatchOptions,
    members: Sequence[BatchOptions],
    labels: int | None,
) -> BatchSpec:
    """Infer what each field of a batch is.

    Args:
        batch: The batch as given.
        signature: Its signature.
        values: Its fields.
        options: How it is read.
        members: The options of each transform that will be applied to it.
        labels: The index of the field that a ``labels_getter`` returned, or None.

    Raises:
        TypeError: If a field is of the wrong kind.
        ValueError: If shapes do not agree, labels cannot be found, or a field would be left behind.
    """
    paths = list(tree.field_paths(batch, signature))
    fields = _mark_images(paths, values, options)
    length = _images(fields, options)[0].shape[0]
    fields = _mark_labels(fields, values, length, options, labels)
    images = _images(fields, options)
    for field, value in zip(fields, values, strict=True):
        validate.check_field(field, value, length, options)
    validate.check_plain_images(images)
    size = validate.check_sizes(images, options)
    sizes = validate.check_ragged(zip(fields, values, strict=True))
    fields = [_with_mask_axes(field, images[0], size, options) for field in fields]
    lists = tree.find_lists(paths, length, [field.path for field in images])
    for field, value in zip(fields, values, strict=True):
        validate.check_other(field, value, length, lists)
        for member in members:
            validate.check_rules(field, member)
    _check_labels_found(fields, length, options)
    # Samples that are no images are not stacked yet, so they have a step, too.
    steps = [
        place
        for place, field in enumerate(fields)
        if field.role not in UNMIXED or isinstance(values[place], LazyStack)
    ]
    steps.sort(key=lambda place: fields[place].role is Role.IMAGE)
    return BatchSpec(tuple(fields), tuple(steps), length, size, sizes)


# --- Images -------------------------------------------------------------------------------------


def _mark_images(
    paths: Sequence[Path], values: list[Any], options: BatchOptions
) -> list[FieldSpec]:
    """Give every field but labels its role.

    Images are tv_tensors if there are any, and plain tensors otherwise. That is how torchvision's
    v2 chooses, but here all of them are images, not only the first.
    """
    fields = []
    for path, value in zip(paths, values, strict=True):
        is_list = type(value) in (list, tuple)
        one = value[0] if is_list else value
        kind = (one.tv_type or Tensor) if isinstance(one, LazyStack) else type(one)
        one = unwrap(one) if isinstance(one, Tensor) else one
        shape = (*((len(value),) if is_list else ()), *getattr(one, "shape", ()))
        dtype, where = getattr(one, "dtype", None), tree.format_path(path)
        field = FieldSpec(Role.OTHER, path, where, kind, shape, dtype, is_list=is_list)
        fields.append(field._replace(role=_role_of(field, value, options)))
    if not any(field.role is Role.IMAGE for field in fields):
        ndims = (4, 5) if options.layout is None else (len(options.layout),)
        for place, field in enumerate(fields):
            has_axes = len(field.shape) in ndims or field.is_list
            is_number = field.is_plain and field.dtype in kernels.MIXED_DTYPES
            if field.role is Role.OTHER and has_axes and is_number:
                fields[place] = field._replace(role=Role.IMAGE)
    return [_with_axes(field, options) if field.role is Role.IMAGE else field for field in fields]


def _role_of(field: FieldSpec, value: Any, options: BatchOptions) -> Role:
    """Return the role that follows from the type; plain tensors have none yet."""
    if any(key in options.passthrough for key in field.path):
        return Role.PASSTHROUGH
    if type(value) in FIELD_RULES:
        return Role.CUSTOM
    if isinstance(value, PairedLabels):
        return Role.PAIRED
    if field.is_list and isinstance(value[0], Mapping):
        return Role.DETECTION
    if issubclass(field.type, tv_tensors.Mask):
        return Role.MASK
    if issubclass(field.type, (tv_tensors.Image, tv_tensors.Video)):
        return Role.IMAGE
    is_dataclass = dataclasses.is_dataclass(value) and not isinstance(value, type)
    if is_dataclass or isinstance(value, (set, frozenset)):
        raise TypeError(
            f"batches must consist of mappings, lists, tuples and namedtuples of tensors, got a "
            f"{field.type.__name__} at {field.where}; return a dict of its contents instead."
        )
    return Role.OTHER


def _axes_of(field: FieldSpec, options: BatchOptions) -> str:
    """Return the names of an image's axes; ``layout`` names those of plain tensors."""
    if field.is_plain and options.layout:
        return options.layout
    return "BTCHW" if len(field.shape) == 5 else "BCHW"


def _with_axes(field: FieldSpec, options: BatchOptions) -> FieldSpec:
    axes = _axes_of(field, options)
    cut = [axes.index(name) for name in "TD" if name in axes and options.cut == "cuboid"]
    cut += [axes.index("H"), axes.index("W")]
    channel_axis = axes.index("C") if "C" in axes else None
    return field._replace(axes=tuple(cut), channel_axis=channel_axis)


def _with_mask_axes(
    field: FieldSpec, image: FieldSpec, size: tuple[int, ...], options: BatchOptions
) -> FieldSpec:
    """Give a mask the axes of the first image, with or without an axis for channels."""
    if field.role is not Role.MASK:
        return field
    names, count = _axes_of(image, options), len(field.shape)
    plain = names.replace("C", "")
    # Without T or D, one mask is for all frames or slices.
    usual = [names, plain, "".join(name for name in plain if name in "BHW")]
    if options.masks == "soft" and field.dtype.is_floating_point:
        usual.insert(0, f"BC{plain[1:]}")  # planes from a mix before
    elif options.layout is None and count > 2:
        usual.append(f"B{'-' * (count - 3)}HW")
    axes = next((axes for axes in usual if len(axes) == count), "")
    cut = tuple(axes.find(names[axis]) for axis in image.axes)
    shape = tuple(field.shape[axis] for axis in cut if axis > 0)
    expected = f"of the images' size {size} on the axes {names}, with or without C"
    ensure(shape == size, f"masks at {field.where}", expected, f"shape {field.shape}")
    channel = axes.find("C")
    one_channel = channel > 0 and field.shape[channel] == 1
    return field._replace(axes=cut, channel_axis=channel if one_channel else None)


def _images(fields: list[FieldSpec], options: BatchOptions) -> list[FieldSpec]:
    images = [field for field in fields if field.role is Role.IMAGE]
    if images:
        return images
    got = ", ".join(map(str, fields)) or "an empty batch"
    if any(field.role is Role.DETECTION for field in fields):
        got += "; mappings with boxes are targets: give images beside them, as (image, target)"
    axes = ", ".join(options.layout or "BCHW")
    raise TypeError(
        f"images must be in the batch: ({axes}) tensors or tv_tensors.Image of uint8 or a floating "
        f"point dtype, got {got}."
    )


# --- Labels -------------------------------------------------------------------------------------


def _mark_labels(
    fields: list[FieldSpec],
    values: list[Any],
    length: int,
    options: BatchOptions,
    returned: int | None,
) -> list[FieldSpec]:
    """Give labels their role, and the kind they are encoded to."""
    kinds, getter = options.num_classes, options.labels_getter
    if getter is None:
        return fields
    if isinstance(kinds, Mapping):
        found = {_index_of_key(fields, key): kind for key, kind in kinds.items()}
    elif returned is not None:
        field = fields[returned]
        ensure(field.role is Role.OTHER, "labels_getter", "a function that returns labels", field)
        found = {returned: kinds}
    else:
        found = dict.fromkeys(_guess_labels(fields, values, length, options), kinds)
    fields = fields.copy()
    for place, kind in found.items():
        value = values[place]
        fields[place] = fields[place]._replace(
            role=Role.LABEL,
            shape=tuple(getattr(value, "shape", ())),  # a getter may return a view of the field
            kind=kind,
            indices=validate.are_indices(value, kind),
        )
    return fields


def _guess_labels(
    fields: list[FieldSpec], values: list[Any], length: int, options: BatchOptions
) -> list[int]:
    """Return the index of the labels, by name or by what fits, or nothing."""
    kind = options.num_classes
    under = any(field.role is Role.OTHER and field.name in LABEL_NAMES for field in fields)
    rest = [p for p, field in enumerate(fields) if field.role is Role.OTHER and field.is_plain]
    named = [p for p in rest if fields[p].is_called_label]
    # A field with a name for labels that is no tensor is not replaced by another column.
    rest = [p for p in rest if fields[p].name in LABEL_NAMES] if under else rest
    found = named or [p for p in rest if _may_be_labels(fields[p], kind, length)]
    indices = [p for p in found if validate.are_indices(values[p], kind)]
    # Indices that stay unchanged, as in Cutout without num_classes, need no choice.
    unchanged = kind is None and options.targets == "soft" and not options.mixes
    if len(found) < 2 or (unchanged and found == indices):
        return found[:1]
    if kind == "regression":
        found = [p for p in found if values[p].is_floating_point()] or found
    elif isinstance(kind, int):
        found = [p for p in found if p in indices or fields[p].shape[1:] == (kind,)] or found
    if not named and all(isinstance(key, int) for p in found for key in fields[p].path):
        # By custom, ids stand before an image and its label after it.
        first = next(place for place, field in enumerate(fields) if field.role is Role.IMAGE)
        after = [place for place in found if place > first]
        found = after if len(after) == 1 else found
    if len(found) > 1:
        raise ValueError(
            f"labels could be at {' or '.join(fields[p].where for p in found)}; say which with "
            "labels_getter=, name several with num_classes={key: ...}, or list the others in "
            "passthrough=."
        )
    return found


def _may_be_labels(field: FieldSpec, kind: NumClasses, length: int) -> bool:
    """Whether the type, shape and dtype of a field are those of labels."""
    if not field.is_plain or field.shape[:1] != (length,) or len(field.shape) > 2:
        return False
    if kind == "regression":
        return bool(field.dtype != torch.bool)
    is_index = not (field.dtype.is_floating_point or field.dtype == torch.bool)
    fits = len(field.shape) == 2 or (kind != "multi" and is_index)
    return bool(fits)


def _check_labels_found(fields: list[FieldSpec], length: int, options: BatchOptions) -> None:
    """Refuse a batch without labels if it needs some, and list what it holds."""
    kind, roles = options.num_classes, {field.role for field in fields}
    # With a number of classes labels are expected, even by transforms that need none.
    needed = options.mixes and not roles & {Role.MASK, Role.DETECTION}
    has_any = roles & {Role.LABEL, Role.PAIRED} or options.labels_getter is None
    if has_any or not (needed or kind is not None):
        return
    seen: dict[str, None] = {}
    for field in fields:
        if field.role is Role.PASSTHROUGH:
            seen[f"{field} (listed in passthrough)"] = None
        elif field.role is Role.OTHER:
            in_list = field.dtype is None and isinstance((*field.path, "")[-2], int)
            where = f"in a list at {tree.format_path(field.path[:-1])}"
            seen[f"a {field.type.__name__} {where}" if in_list else str(field)] = None
    got = ", ".join([*list(seen)[:6], *["and more"] * (len(seen) > 6)]) or "nothing but images"
    what = "a real (B, ...)" if kind == "regression" else "a (B,) integer or a (B, K)"
    raise ValueError(
        f"found no labels in the batch: expected {what} tensor with B = {length}, got {got}; point "
        "to them with labels_getter=, or pass labels_getter=None to mix images without labels."
    )


def _index_of_key(fields: list[FieldSpec], key: Any) -> int:
    found = [p for p, field in enumerate(fields) if key in field.path[-1:]]
    if len(found) != 1:
        raise ValueError(
            f"num_classes names the label {key!r}, which must be in the batch once, got it "
            f"{len(found)} times."
        )
    return found[0]
