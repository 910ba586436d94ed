"""Infer the role of each field of a batch: images, masks, targets, labels, or none."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

from tv_mixaug._tv_tensors import unwrap
from tv_mixaug._validation import ensure
from tv_mixaug.batch import tree, validate
from tv_mixaug.batch.spec import FIELD_RULES, TYPE_ROLES, BatchOptions, FieldSpec, ParsedBatch, Role
from tv_mixaug.engine import kernels
from tv_mixaug.engine.apply import LazyStack


class Inference:
    """Infer what the fields of one batch are, from their paths and values.

    ``labels`` is the index of the field that a ``labels_getter`` returned.
    """

    def __init__(
        self, paths: list[Any], values: list[Any], options: BatchOptions, labels: int | None
    ) -> None:
        self.values, self.options = values, options
        self.fields = [self._spec(path, value) for path, value in zip(paths, values, strict=True)]
        self._mark_plain_images()
        self.length = self._images()[0].shape[0]
        self._mark_labels(labels)

    def infer(self, members: Sequence[BatchOptions]) -> ParsedBatch:
        """Check the fields for all transforms that will be applied, and return what they are."""
        options, length, images = self.options, self.length, self._images()
        for field, value in zip(self.fields, self.values, strict=True):
            validate.check_field(field, value, length, options)
        validate.check_plain_images(images)
        size = validate.check_sizes(images, options)
        paths = [field.path for field in self.fields]
        lists = tree.find_lists(paths, length, [field.path for field in images])
        for place, value in enumerate(self.values):
            field = self.fields[place]
            if field.role is Role.MASK:
                self.fields[place] = field = self._with_mask_axes(field, images[0], size)
            validate.check_other(field, value, length, lists)
            for member in members:
                validate.check_rules(field, member)
        self._check_labels_found()
        steps = []
        for place, field in enumerate(self.fields):
            rule = FIELD_RULES.get(field.type if field.role is Role.CUSTOM else field.role)
            if rule or isinstance(self.values[place], LazyStack):
                steps.append((place, rule))
        steps.sort(key=lambda step: self.fields[step[0]].role is Role.IMAGE)
        return ParsedBatch(self.values, tuple(self.fields), tuple(steps), length, size)

    # --- Images ---------------------------------------------------------------------------------

    def _spec(self, path: Any, value: Any) -> FieldSpec:
        """Return the spec of a field with the role that follows from its type."""
        is_list = type(value) in (list, tuple)
        one = value[0] if is_list else value
        kind = (one.tv_type or Tensor) if isinstance(one, LazyStack) else type(one)
        one = unwrap(one) if isinstance(one, Tensor) else one
        shape = (*((len(value),) if is_list else ()), *getattr(one, "shape", ()))
        where, dtype = tree.format_path(path), getattr(one, "dtype", None)
        field = FieldSpec(Role.OTHER, path, where, kind, shape, dtype, is_list=is_list)
        if any(key in self.options.passthrough for key in path):
            return field._replace(role=Role.PASSTHROUGH)
        if type(value) in FIELD_RULES:
            return field._replace(role=Role.CUSTOM)
        if is_list and tree.is_detection(value):
            return field._replace(role=Role.DETECTION)
        for typed, role in TYPE_ROLES.items():
            if issubclass(kind, typed):
                field = field._replace(role=role)
                return self._as_image(field) if role is Role.IMAGE else field
        closed = is_dataclass(kind) or issubclass(kind, (set, frozenset))
        expected = "mappings, lists, tuples and namedtuples of tensors"
        ensure(not closed, "batches", expected, f"{field}; return a dict instead", TypeError)
        return field

    def _mark_plain_images(self) -> None:
        """Let plain tensors be images if no tv_tensor is one, as torchvision's v2 does.

        But all of them are images here, not only the first.
        """
        if any(field.role is Role.IMAGE for field in self.fields):
            return
        layout = self.options.layout
        ndims = (4, 5) if layout is None else (len(layout),)
        for place, field in enumerate(self.fields):
            has_axes = len(field.shape) in ndims or field.is_list
            is_number = field.is_plain and field.dtype in kernels.MIXED_DTYPES
            if field.role is Role.OTHER and has_axes and is_number:
                self.fields[place] = self._as_image(field)

    def _axes(self, field: FieldSpec) -> str:
        """Return the names of an image's axes; ``layout`` names those of plain tensors."""
        layout = self.options.layout if field.is_plain else None
        return layout or ("BTCHW" if len(field.shape) == 5 else "BCHW")

    def _as_image(self, field: FieldSpec) -> FieldSpec:
        axes, cuboid = self._axes(field), self.options.cut == "cuboid"
        names = [name for name in "TDHW" if name in axes and (cuboid or name in "HW")]
        channel_axis = axes.index("C") if "C" in axes else None
        cut = tuple(map(axes.index, names))
        return field._replace(role=Role.IMAGE, axes=cut, channel_axis=channel_axis)

    def _with_mask_axes(
        self, field: FieldSpec, image: FieldSpec, size: tuple[int, ...]
    ) -> FieldSpec:
        """Give a mask the axes of the first image, with or without an axis for channels."""
        names, count = self._axes(image), len(field.shape)
        plain = names.replace("C", "")
        # Without T or D, one mask is for all frames or slices.
        usual = [names, plain, "".join(name for name in plain if name in "BHW")]
        if self.options.masks == "soft" and field.dtype.is_floating_point:
            usual.insert(0, f"BC{plain[1:]}")  # planes from a mix before
        elif self.options.layout is None and count > 2:
            usual.append(f"B{'-' * (count - 3)}HW")
        axes = next((axes for axes in usual if len(axes) == count), "")
        cut = tuple(axes.find(names[axis]) for axis in image.axes)
        shape = tuple(field.shape[axis] for axis in cut if axis > 0)
        name, expected = f"masks at {field.where}", "of shape {} on the axes {}, with or without C"
        ensure(shape == size, name, expected, field.shape, ValueError, size, names)
        channel = axes.find("C")
        one_channel = channel > 0 and field.shape[channel] == 1
        return field._replace(axes=cut, channel_axis=channel if one_channel else None)

    def _images(self) -> list[FieldSpec]:
        images = [field for field in self.fields if field.role is Role.IMAGE]
        batched = any(field.is_plain or field.is_list or len(field.shape) > 3 for field in images)
        paths = [field.path for field in self.fields]
        in_list = bool(paths) and all(len(path) > 1 and isinstance(path[0], int) for path in paths)
        if images and (batched or not in_list):
            return images
        got = ", ".join(map(str, self.fields)) or "an empty batch"
        hint = "make tensors by v2.ToImage(), and batches by a DataLoader or image[None]"
        if in_list:
            got, hint = "a list of samples", "as collate_fn=, give make_collate_fn(transform)"
        elif any(field.role is Role.DETECTION for field in self.fields):
            hint = "mappings with boxes are targets: give images beside them, as (image, target)"
        axes = ", ".join(self.options.layout or "BCHW")
        raise TypeError(
            f"images must be in the batch: ({axes}) tensors or tv_tensors.Image of uint8 or a "
            f"floating point dtype, got {got}; {hint}."
        )

    # --- Labels ---------------------------------------------------------------------------------

    def _mark_labels(self, returned: int | None) -> None:
        """Give labels their role, and the kind they are encoded to."""
        kinds = self.options.num_classes
        if self.options.labels_getter is None:
            return
        if isinstance(kinds, Mapping):
            found, paths = {}, [field.path for field in self.fields]
            expected = "a mapping with keys, or paths such as (1, 0), that the batch has once"
            for key, kind in kinds.items():
                end = key if isinstance(key, tuple) else (key,)
                places = [i for i, path in enumerate(paths) if path[-len(end) :] == end]
                got = f"{key!r}, which it has {len(places)} times"
                ensure(len(places) == 1, "num_classes", expected, got)
                found[places[0]] = kind
        elif returned is not None:
            field = self.fields[returned]
            is_free = field.role is Role.OTHER
            ensure(is_free, "labels_getter", "a function that returns labels", field)
            found = {returned: kinds}
        else:
            found = dict.fromkeys(self._guess_labels(), kinds)
        for place, kind in found.items():
            value = self.values[place]
            shape = tuple(getattr(value, "shape", ()))  # a getter may return a view of the field
            indices = validate.are_indices(value, kind)
            changes = {"shape": shape, "kind": kind, "indices": indices}
            self.fields[place] = self.fields[place]._replace(role=Role.LABEL, **changes)

    def _guess_labels(self) -> list[int]:
        """Return the index of the labels, by name or by what fits, or nothing."""
        fields, values, options = self.fields, self.values, self.options
        kind = options.num_classes
        under = any(field.role is Role.OTHER and field.has_label_name for field in fields)
        rest = [p for p, field in enumerate(fields) if field.role is Role.OTHER and field.is_plain]
        named = [p for p in rest if fields[p].is_called_label]
        # A field with a name for labels that is no tensor is not replaced by another column.
        rest = [p for p in rest if fields[p].has_label_name] if under else rest
        found = named or [p for p in rest if _may_be_labels(fields[p], kind, self.length)]
        indices = [p for p in found if validate.are_indices(values[p], kind)]
        # Indices that stay unchanged, as in Cutout without num_classes, need no choice.
        unchanged = kind is None and options.targets == "soft" and not options.mixes
        if len(found) < 2 or (unchanged and found == indices):
            return found[:1]
        if kind == "regression":
            found = [p for p in found if values[p].is_floating_point()] or found
        elif isinstance(kind, int) and not self._are_in_one_tuple(found):
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

    def _are_in_one_tuple(self, places: list[int]) -> bool:
        """Whether fields are one target, such as (attributes, identity), and mixed together."""
        parents = {self.fields[place].path[:-1] for place in places}
        is_position = isinstance(self.fields[places[0]].path[-1], int)
        return is_position and len(parents) == 1 and parents != {()}

    def _check_labels_found(self) -> None:
        """Refuse a batch without labels if it needs some, and list what it holds."""
        kind, roles = self.options.num_classes, {field.role for field in self.fields}
        # With a number of classes labels are expected, even by transforms that need none.
        needed = self.options.mixes and not roles & {Role.MASK, Role.DETECTION}
        has_any = roles & {Role.LABEL, Role.PAIRED} or self.options.labels_getter is None
        if has_any or not (needed or kind is not None):
            return
        seen = [str(field) for field in self.fields if field.role is not Role.IMAGE]
        got = ", ".join([*seen[:6], *["and more"] * (len(seen) > 6)]) or "nothing but images"
        what = "a real (B, ...)" if kind == "regression" else "a (B,) integer or a (B, K)"
        raise ValueError(
            f"found no labels in the batch: expected {what} tensor with B = {self.length}, got "
            f"{got}; point to them with labels_getter=, or pass labels_getter=None to mix images "
            "without labels."
        )


def _may_be_labels(field: FieldSpec, kind: Any, length: int) -> bool:
    """Whether the type, shape and dtype of a field are those of labels."""
    if not field.is_plain or field.shape[:1] != (length,) or len(field.shape) > 2:
        return False
    is_index = not (field.dtype.is_floating_point or field.dtype == torch.bool)
    if kind == "regression":
        return is_index or bool(field.dtype.is_floating_point)
    return len(field.shape) == 2 or (kind != "multi" and is_index)
