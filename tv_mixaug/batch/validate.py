"""Check the fields of a batch by type, dtype and shape; these checks run once per signature."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug._tv_tensors import unwrap
from tv_mixaug._validation import ensure
from tv_mixaug.batch.spec import BOX_NAME, MASK_NAME, BatchOptions, FieldSpec, Role
from tv_mixaug.engine import kernels
from tv_mixaug.engine.apply import LazyStack
from tv_mixaug.engine.plan import BLEND, FILL


def check_field(field: FieldSpec, value: Any, length: int, options: BatchOptions) -> None:
    """Check the memory, dtype and shape of a field with a rule."""
    if not isinstance(field.role.value, str):
        return
    place = f"{field.role.value} at {field.where}"
    tensors = [unwrap(v) for v in (value if field.is_list else [value]) if isinstance(v, Tensor)]
    for tensor in tensors:
        dense = tensor.layout is torch.strided and not tensor.is_quantized
        got = tensor.dtype if tensor.is_quantized else tensor.layout
        hint = "call to_dense(), dequantize() or torch.nested.to_padded_tensor()"
        ensure(dense, place, "dense", f"{got}; {hint}", TypeError)
    if field.role is Role.LABEL:
        _check_labels(field, value, place, options)
    elif field.role is Role.IMAGE:
        _check_image(field, tensors, length, place, options)
    fits, expected = field.shape[:1] == (length,), "of the batch's length {}"
    ensure(fits, place, expected, field.shape, ValueError, length)


def are_indices(labels: Any, kind: Any) -> bool:
    """Whether labels are class indices: (B,), or (B, 1) integers as FFCV and DALI return them."""
    if kind in ("multi", "regression") or not isinstance(labels, Tensor):
        return False
    is_float = labels.is_floating_point() or labels.dtype == torch.bool
    return labels.ndim == 1 or (labels.shape[1:] == (1,) and not is_float)


def _check_labels(field: FieldSpec, labels: Any, place: str, options: BatchOptions) -> None:
    kind, is_tensor = field.kind, isinstance(labels, Tensor)
    ensure(is_tensor, place, "a tensor", type(labels).__name__, TypeError)
    ensure(not labels.is_complex(), place, "real", labels.dtype, TypeError)
    if field.indices:
        is_integer = not (labels.is_floating_point() or labels.dtype == torch.bool)
        got = f"{labels.dtype}; float targets need num_classes='regression'"
        ensure(is_integer, f"{place} of shape (B,)", "integer class indices", got, TypeError)
        has_count = kind is not None or options.targets != "soft" or not options.mixes
        expected = f"given for the class indices at {field.where}"
        ensure(has_count, "num_classes", expected, options.no_classes)
    elif kind != "regression":
        ensure(labels.ndim == 2, place, "of shape (B,) or (B, K)", tuple(labels.shape))
        fits = not isinstance(kind, int) or labels.shape[1] == kind
        ensure(fits, place, f"of num_classes = {kind} columns", labels.shape[1])


def _check_image(
    field: FieldSpec, tensors: list[Tensor], length: int, place: str, options: BatchOptions
) -> None:
    shape, axes = field.shape, options.layout if field.is_plain else None
    # Compared, not put into a set: hashing a dynamic size would fix it in a graph.
    traits = [(v.shape, v.dtype, v.device) for v in tensors]
    if any(one != traits[0] for one in traits):
        raise ValueError(
            f"{place} must be of one size and dtype and on one device, got shapes "
            f"{sorted({tuple(v.shape) for v in tensors})}; resize or pad them in the data set "
            "or in collate_fn=."
        )
    known = field.dtype in kernels.MIXED_DTYPES
    ensure(known, place, "uint8 or floating point", field.dtype, TypeError)
    expected = " x ".join(axes) if axes else "(B, C, H, W), as image[None] is, or (B, T, C, H, W)"
    ensure(len(shape) in ((len(axes),) if axes else (4, 5)), place, expected, shape)
    # Images as cv2.imread returns them: the last axis holds 1, 3 or 4 channels, or few of more.
    last = (shape[-1] in (1, 3, 4) and shape[-3] > 4) or (0 < 4 * shape[-1] <= min(shape[-3:-1]))
    if axes is None and field.is_plain and last:
        raise ValueError(
            f"{place} must have channels before height and width, got shape {shape}; add "
            "v2.ToImage() to the data set, permute the axes, or pass "
            f"layout='{'BTHWC' if len(shape) == 5 else 'BHWC'}'."
        )
    deep = options.cut != "cuboid" or len(field.axes) == 3
    ensure(deep, place, "images with a time or depth axis for cut='cuboid'", shape)
    ensure(not length or 0 not in shape, place, "not empty", shape)


def check_sizes(images: Sequence[FieldSpec], options: BatchOptions) -> tuple[int, ...]:
    """Return the sides that boxes cut, the same for all images."""
    sizes = {field.where: tuple(field.shape[axis] for axis in field.axes) for field in images}
    first = next(iter(sizes.values()))
    if options.cut and any(size != first for size in sizes.values()):
        got = ", ".join(f"{size} at {where}" for where, size in sizes.items())
        raise ValueError(f"images that are cut alike must be of one size, got {got}.")
    return first


def check_plain_images(images: Sequence[FieldSpec]) -> None:
    """Refuse plain tensors with the shape of images that are called masks or may hold class ids.

    uint8 tensors with 3 or 4 channels, or as many as the first image, are images. With one channel
    they are images if they have a name and no floating point image is beside them.
    """
    floats = [field for field in images if field.dtype != torch.uint8]
    first = (floats or images)[0]
    for field in images:
        usual = field.channels in (3, 4) or 1 < field.channels == first.channels
        is_view = usual and len(field.shape) == len(first.shape)
        named = field.name and not field.is_called_label and not floats
        doubtful = field.dtype == torch.uint8 and field is not first and not (is_view or named)
        if field.is_plain and (doubtful or MASK_NAME.search(field.name)):
            raise _left_behind(field)


def check_rules(field: FieldSpec, options: BatchOptions) -> None:
    """Refuse a field that the transform has no rule for."""
    where, role, fill = field.where, field.role, options.fill
    if role is Role.PAIRED:
        expected = "soft rows to be mixed a second time, with targets='soft'"
        ensure(not options.mixes, f"labels at {where}", expected, "PairedLabels")
    elif role is Role.DETECTION:
        flat = options.cut != "cuboid"
        ensure(flat, "cut", f"'spatial' to mix the targets at {where}", "'cuboid'")
    elif role is Role.MASK:
        blends = BLEND in options.ops and options.masks is None
        expected = f"'soft' or 'dominant' to mix the mask at {where}, since ids cannot be blended"
        ensure(not blends, "masks", expected, None)
        if options.mask_fill is not None:
            kernels.check_fits("mask_fill", options.mask_fill, field.dtype)
    elif role is Role.IMAGE and _may_swap_channels(field, options):
        expected = "'BTCHW' for videos, or 'BCTHW' or 'BCDHW' for channels first"
        ensure(False, "layout", f"{expected}, at {where} of shape {field.shape}", None)
    elif role is Role.IMAGE and FILL in options.ops and not isinstance(fill, str):
        kernels.check_fits("fill", fill, field.dtype)
        fits = not isinstance(fill, tuple) or len(fill) == field.channels
        expected = f"a value for each channel of the images at {where}, shape {field.shape}"
        ensure(fits, "fill", expected, fill)


def _may_swap_channels(field: FieldSpec, options: BatchOptions) -> bool:
    """Whether a rule needs to know which of two axes holds the channels, and cannot."""
    needs = FILL in options.ops and (options.fill == "color" or isinstance(options.fill, tuple))
    if not (needs or options.cut == "cuboid") or options.layout or not field.is_plain:
        return False
    return len(field.shape) == 5 and field.shape[1] in (1, 3, 4) and field.shape[2] > field.shape[1]


def check_other(field: FieldSpec, value: Any, length: int, lists: Sequence[Any]) -> None:
    """Refuse a field without a rule that may depend on the pixels.

    Those are tv_tensors, boxes by their name or their place beside images, tensors of one value per
    pixel or patch, and objects that hold tensors.
    """
    if field.role is not Role.OTHER:
        return
    if issubclass(field.type, tv_tensors.TVTensor):
        raise _left_behind(field, boxed=True)
    held = [*getattr(value, "__dict__", {}).values()]
    held += [getattr(value, name, None) for name in getattr(value, "__slots__", ())]
    if not isinstance(value, (Tensor, LazyStack)) and any(isinstance(v, Tensor) for v in held):
        raise ValueError(
            f"{field} holds tensors that would be left behind unmixed; return a dict of them "
            "instead, or name it in passthrough=."
        )
    is_per_sample = any(field.path[: len(path)] == path for path in lists)
    for shape in {(length, *v.shape) for v in value} if field.is_list else {field.shape}:
        rows = (length, *shape) if is_per_sample else shape
        named = bool(BOX_NAME.search(field.name)) and shape[-1:] in ((2,), (3,), (4,))
        # Unnamed rows are what detectors collate: (N, 4) boxes, or an index, a class and a box.
        unnamed = not field.name or field.has_label_name
        is_rows = unnamed and field.is_plain and len(shape) == 2 and shape[1] in (4, 5, 6)
        is_box = len(shape) > 1 and (named or (is_rows and field.dtype.is_floating_point))
        if is_box or (len(rows) > 2 and rows[0] == length):
            raise _left_behind(field, boxed=is_box)


def _left_behind(field: FieldSpec, *, boxed: bool = False) -> ValueError:
    hint = (
        "put it under 'boxes' or 'keypoints' into a list of target dicts, one for each image"
        if boxed
        else "wrap class ids as tv_tensors.Mask, pictures as tv_tensors.Image or Video"
    )
    return ValueError(
        f"{field} would be left behind unmixed or blended as numbers; {hint}, or name it in "
        "passthrough=."
    )


def check_writable(fields: Iterable[tuple[FieldSpec, Any]]) -> None:
    """Raise if images that are written to require gradients or share memory with a field."""
    spans: list[tuple[int, int, FieldSpec]] = []
    for field, value in fields:
        is_image = field.role is Role.IMAGE
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
                continue
            plain = unwrap(tensor)
            fixed = is_image and plain.requires_grad and (plain.is_leaf or plain._is_view())
            got = f"True for the images at {field.where}, which require gradients"
            ensure(not fixed, "inplace", "False", got)
            start, reach, repeats = plain.data_ptr(), 0, False
            for stride, n in sorted(zip(plain.stride(), plain.shape, strict=True)):
                repeats |= n > 1 and stride <= reach
                reach += (n - 1) * stride
            if plain.numel() and start:  # tensors on the meta device have no memory
                span = (start, start + (reach + 1) * plain.element_size(), field)
                spans += [span] * (1 + repeats)  # twice if rows lie in one another
    end, before = 0, None
    for start, stop, field in sorted(spans, key=lambda span: span[:2]):
        if before and start < end and Role.IMAGE in (before.role, field.role):
            places = " and ".join(dict.fromkeys((before.where, field.where)))
            raise ValueError(f"inplace must be False, got True for {places}, which share memory.")
        end, before = (stop, field) if stop > end else (end, before)
