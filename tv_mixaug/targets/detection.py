"""Detection targets: the objects of an image follow its pixels.

A target is a mapping as torchvision's detection references or Hugging Face's image processors have
it: ``boxes``, and beside it entries that belong to the objects (``labels`` or ``class_labels``,
``masks``, ``keypoints``, ``area``, ...) or to the image (``image_id``, ...).

One rule serves all plans: of the own objects what lies inside rectangles is hidden, of the
partner's what lies outside, and what stays visible of both is joined. Boxes of every format are
read as corners in pixels, cut, and written back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors

from tv_mixaug._tv_tensors import rewrap, unwrap
from tv_mixaug._validation import ensure
from tv_mixaug.batch.spec import BatchOptions, FieldSpec, Mix, ParsedBatch
from tv_mixaug.engine import plan as plans
from tv_mixaug.engine.plan import Plan

__all__ = ["BOX_FORMATS", "BoxFormat", "check_objects", "mix_objects"]

BoxFormat = Literal["xyxy", "xywh", "cxcywh", "cxcywh_normalised"]
BOX_FORMATS: tuple[str, ...] = get_args(BoxFormat)
Size = tuple[int, int]

# These belong to the image. All other tensors with an axis belong to the objects, one row for each;
# these among them have to, and some to be of a shape.
IMAGE_KEYS = frozenset({"image_id", "image_size", "orig_size", "original_size", "size"})
SHAPES = {
    "area": "(N,)",
    "mix_weight": "(N,)",
    "keypoints": "(N, K, 2) or (N, K, 3)",
    "keypoints_visible": "(N, K), as keypoints are",
    "masks": "(N, H, W)",
}
OBJECT_KEYS = frozenset({"class_labels", "iscrowd", "labels", "scores", *SHAPES})


def mix_detection(value: Any, field: FieldSpec, mix: Mix) -> Any:
    """Mix the targets of all images; entries in ``passthrough`` stay with their image."""
    options = mix.options
    bare, kept = _split(value, options)
    how = mix.batch.sizes, options.min_visible, options.box_format
    mixed = mix_objects(bare, mix.plan, *how)
    return type(value)({**target, **rest} for target, rest in zip(mixed, kept, strict=True))


def check_detection(
    value: Any, field: FieldSpec, batch: ParsedBatch, options: BatchOptions
) -> None:
    """Check the targets of all images."""
    check_objects(_split(value, options)[0], batch.sizes, field.where, options.box_format)


def _split(targets: Any, options: BatchOptions) -> tuple[list[dict[str, Any]], ...]:
    """Split targets into the entries to be mixed and those in ``passthrough``."""
    names = options.passthrough
    bare = [{k: v for k, v in target.items() if k not in names} for target in targets]
    return bare, [{k: v for k, v in target.items() if k in names} for target in targets]


def check_objects(
    targets: Sequence[Mapping[str, Any]],
    sizes: Sequence[Size],
    where: str,
    box_format: str = "xyxy",
) -> None:
    """Refuse detection targets that could not be mixed without leaving something behind.

    Args:
        targets: One mapping for each image, without the entries that pass through. ``boxes`` is
            (N, 4), N >= 0: axis-aligned ``BoundingBoxes``, or a plain tensor. Other tensors belong
            to the objects and have N rows, but those of ``IMAGE_KEYS`` and those without an axis:
            they belong to the image, as strings and numbers do.
        sizes: Height and width of each image in pixels.
        where: The place of ``targets`` in the batch, for the error's text.
        box_format: How boxes in plain tensors are written, one of ``BOX_FORMATS``.

    Example:
        >>> check_objects([{"boxes": torch.zeros(2, 3)}], [(8, 8)], "targets")
        Traceback (most recent call last):
            ...
        ValueError: targets[0]['boxes'] must be (N, 4), got (2, 3).
    """
    for i, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        _check_boxes(target, size, f"{where}[{i}]", box_format)
        for key, value in target.items():
            if key not in IMAGE_KEYS:
                _check_entry(key, value, target, size, f"{where}[{i}][{key!r}]")
    full = [(i, target) for i, target in enumerate(targets) if len(target["boxes"])]
    for key in dict.fromkeys(key for target in targets for key in _object_keys(target)):
        kinds: list[str] = []
        for i, target in full:
            place = f"{where}[{i}][{key!r}]"
            if key not in _object_keys(target):
                raise ValueError(
                    f"{place} must be there, with one entry for each box, as in the other images, "
                    f"got {'a single value' if key in target else 'none'}."
                )
            kinds.append(_kind(key, target[key]))
            ensure(kinds[-1] == kinds[0], place, f"{kinds[0]} as in the images before", kinds[-1])


def mix_objects(
    targets: Sequence[Mapping[str, Any]],
    plan: Plan,
    sizes: Sequence[Size],
    min_visible: float,
    box_format: str = "xyxy",
) -> list[dict[str, Any]]:
    """Do to the objects of each image what a plan did to its pixels.

    An object's area is its mask's pixels, or its box where it has none. An object of which less
    than ``min_visible`` is to be seen is dropped. Of the others the box shrinks to the bounding
    rectangle of what is visible, ``masks`` are 0 where they are hidden and ``area`` is scaled by
    the visible share. Hidden keypoints get visibility 0, or false in ``keypoints_visible``; they do
    not move. Images of different sizes lie with their upper left corners on each other.

    Args:
        targets: One target for each image, as :func:`check_objects` accepts them.
        plan: The plan, on the CPU; its boxes lie where both images have pixels.
        sizes: Height and width of each image in pixels.
        min_visible: Share in (0, 1] of its area that an object must keep.
        box_format: How boxes in plain tensors are written, one of ``BOX_FORMATS``.

    Returns:
        New dicts, the own objects first, with the same keys whether mixed or not. They also have
        ``mix_weight``, (N,) float32: the mean weight of the object's image over its pixels, times
        the weight that it had; objects of weight 0 are left out. Keypoints without visibility get
        ``keypoints_visible``, (N, K) bool.

    Example:
        >>> targets = [{"boxes": torch.tensor([[0, 0, 8, 4]])}]
        >>> holes = {"op": torch.tensor([plans.FILL]), "boxes": torch.tensor([[[4, 0, 8, 8]]])}
        >>> plan = plans.identity_plan(1)._replace(**holes)
        >>> mix_objects(targets, plan, [(8, 8)], 0.5)[0]["boxes"].tolist()
        [[0, 0, 4, 4]]
    """
    mixed = []
    rows = zip(plan.op.tolist(), plan.partner.tolist(), plan.lam.tolist(), sizes, strict=True)
    for row, (op, other, lam, size) in enumerate(rows):
        mine, holes, their_size = _complete(targets[row]), plan.boxes[row], sizes[other]
        if other == row and op != plans.FILL:
            op = plans.NONE  # an image that is mixed with itself does not change
        if op in (plans.FILL, plans.PASTE):
            mine = _hide(mine, holes, False, size, size, box_format, min_visible)
        if op in (plans.BLEND, plans.PASTE):
            theirs = _complete(targets[other])
            if op == plans.BLEND:
                height, width = map(min, size, their_size)
                holes = torch.tensor([[0, 0, width, height]], device="cpu")
                weight: float | Tensor = plans.overlap_lam(lam, size, their_size)
                theirs = _weigh(theirs, 1 - weight)
                if size != their_size and len(mine["boxes"]):
                    _, _, area, alone, _ = _look(mine, holes, False, size, box_format)
                    weight = weight + (1 - weight) * alone / area
                mine = _weigh(mine, weight)
            if op == plans.PASTE or size != their_size:
                theirs = _hide(theirs, holes, True, their_size, size, box_format, min_visible)
            mine = _join(mine, theirs)
        mixed.append(mine)
    return mixed


def _hide(
    target: dict[str, Any],
    holes: Tensor,
    outside: bool,
    size: Size,
    canvas: Size,
    box_format: str,
    min_visible: float,
) -> dict[str, Any]:
    """Hide (M, 4) holes, or all outside them, and lay the objects still visible on a canvas."""
    boxes, moves = target["boxes"], canvas != size
    if not len(boxes):
        return target
    before, after, area, left, hidden = _look(target, holes, outside, size, box_format)
    # A box that does not shrink keeps its own numbers, which may be finer than the mask's pixels.
    shrinks = (after != before).any(-1, keepdim=True) | moves
    new = {"boxes": _written(after, boxes, canvas, box_format).where(shrinks, unwrap(boxes))}
    if "masks" in target:
        masks = unwrap(target["masks"]) * ~hidden  # many times faster than masked_fill
        borders = (0, canvas[1] - size[1], 0, canvas[0] - size[0])
        new["masks"] = F.pad(masks, borders) if moves else masks
    if "keypoints" in target:
        points = unwrap(target["keypoints"])
        # A point on the border, or beyond it, goes by the nearest pixel.
        x, y = points[..., 0].long(), points[..., 1].long()
        unseen = hidden[y.clamp(0, size[0] - 1), x.clamp(0, size[1] - 1)]
        if "keypoints_visible" in target:
            new["keypoints_visible"] = target["keypoints_visible"].masked_fill(unseen, 0)
        if points.shape[-1] == 3:
            points = points.clone()
            points[..., 2].masked_fill_(unseen, 0)
        new["keypoints"] = points
    if "area" in target:
        given = unwrap(target["area"])
        scaled = given.double() * left / area
        scaled = scaled if given.is_floating_point() else scaled.round()
        new["area"] = scaled.to(given.dtype).where(left < area, given)
    laid = {key: rewrap(value, target[key], canvas_size=canvas) for key, value in new.items()}
    return _take({**target, **laid}, left / area >= min_visible)


def _look(
    target: Mapping[str, Any], holes: Tensor, outside: bool, size: Size, box_format: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Find corners and areas of objects before and after hiding, and the pixels that are hidden.

    The edges of the holes divide a box into cells, each hidden or visible as a whole, so the areas
    are exact however the holes overlap.
    """
    before = _corners(target["boxes"], size, box_format)
    hidden = torch.full(size, outside, device=before.device)
    for x1, y1, x2, y2 in holes.tolist():
        hidden[y1:y2, x1:x2] = not outside
    holes = holes.to(before)
    x, y = (
        torch.cat([b, h.flatten().clamp(b[:, :1], b[:, 1:])], dim=1).sort(dim=1).values
        for b, h in ((before[:, 0::2], holes[:, 0::2]), (before[:, 1::2], holes[:, 1::2]))
    )
    in_x = (x[:, :-1, None] >= holes[:, 0]) & (x[:, 1:, None] <= holes[:, 2])
    in_y = (y[:, :-1, None] >= holes[:, 1]) & (y[:, 1:, None] <= holes[:, 3])
    visible = (in_y[:, :, None] & in_x[:, None]).any(-1) == outside
    areas = y.diff()[:, :, None] * x.diff()[:, None]
    area, seen = areas.sum((1, 2)), areas * visible
    left, after = seen.sum((1, 2)), _bounds(seen > 0, x, y)
    if "masks" in target:
        masks = unwrap(target["masks"]).bool()
        pixels, tight = _measure(masks)
        some = pixels > 0  # resizing leaves small objects without a pixel: those go by their box
        before, area = tight.where(some[:, None], before), pixels.where(some, area)
        pixels, tight = _measure(masks & ~hidden)
        after, left = tight.where(some[:, None], after), pixels.where(some, left)
    return before, after, area, left, hidden


def _measure(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Count the pixels of (N, H, W) bool masks and find their tight boxes, both in float64."""
    y, x = (torch.arange(n + 1, dtype=torch.float64, device=masks.device) for n in masks.shape[1:])
    # Counting mask by mask takes a tenth of the time of counting along two axes.
    pixels = torch.stack([mask.count_nonzero() for mask in masks])
    return pixels.double(), _bounds(masks, x, y)


def _bounds(cells: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Give (N, 4) bounding rectangles of the true cells between the edges x and y."""
    # The greatest byte is found many times faster than any true bool.
    columns, rows = (cells.view(torch.uint8).amax(axis).bool() for axis in (1, 2))
    low = [e[..., :-1].where(c, torch.inf).amin(-1) for e, c in ((x, columns), (y, rows))]
    high = [e[..., 1:].where(c, -torch.inf).amax(-1) for e, c in ((x, columns), (y, rows))]
    return torch.stack(low + high, dim=-1)


def _weigh(target: dict[str, Any], weight: float | Tensor) -> dict[str, Any]:
    """Multiply the weights of objects, and leave out those that have none."""
    new = (target["mix_weight"] * weight).float()
    return _take({**target, "mix_weight": new}, new > 0)


def _take(target: Mapping[str, Any], keep: Tensor) -> dict[str, Any]:
    """Select objects in every entry that belongs to them."""
    rows, taken = keep.nonzero()[:, 0], dict(target)
    for key in _object_keys(target):
        taken[key] = rewrap(unwrap(target[key]).index_select(0, rows), target[key])
    return taken


def _join(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Append their objects to mine; a side without objects has no say in the types."""
    sides = [side for side in (mine, theirs) if len(side["boxes"])]
    for key in _object_keys(sides[0]) if sides else ():
        mine[key] = rewrap(torch.cat([unwrap(side[key]) for side in sides]), sides[0][key])
    return mine


def _complete(own: Mapping[str, Any]) -> dict[str, Any]:
    """Give a target the keys that a mixed one has, so that every batch has one format."""
    new, points = dict(own), own.get("keypoints")
    ones = torch.ones(len(own["boxes"]), device=own["boxes"].device)
    new["mix_weight"] = unwrap(own.get("mix_weight", ones)).float()
    if points is not None and points.shape[-1] == 2:
        visible = torch.ones(points.shape[:-1], dtype=torch.bool, device=points.device)
        new.setdefault("keypoints_visible", visible)
    return new


def _object_keys(target: Mapping[str, Any]) -> list[str]:
    """Name the entries of a checked target that have a row for each object."""
    tensors = [key for key, value in target.items() if isinstance(value, Tensor) and value.ndim]
    return [key for key in tensors if key not in IMAGE_KEYS]


# --- Box formats --------------------------------------------------------------------------------


def _style(boxes: Tensor, box_format: str) -> str:
    """Name the format of boxes: their own, or that of plain tensors."""
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        return str(boxes.format.name).lower()
    return box_format


def _corners(boxes: Tensor, size: Size, box_format: str) -> Tensor:
    """Convert boxes of any format to corners in pixels, in float64 and clipped to the image."""
    style, values = _style(boxes, box_format), unwrap(boxes).double()
    limit = values.new_tensor([*reversed(size)] * 2)
    if style == "cxcywh_normalised":
        values = values * limit
    low, high = values.chunk(2, dim=-1)
    if style.startswith("cx"):
        low = low - _half(high, boxes)
    values = torch.cat([low, high if style == "xyxy" else low + high], dim=-1)
    if style == "cxcywh_normalised":
        # Shares in float32 miss whole pixels by a ten-thousandth, which would decide who stays.
        values = (values * 1024).round() / 1024
    return values.clamp(torch.zeros_like(limit), limit)


def _written(corners: Tensor, like: Tensor, size: Size, box_format: str) -> Tensor:
    """Convert corners back to the format and dtype of ``like``."""
    style = _style(like, box_format)
    low, high = corners.chunk(2, dim=-1)
    high = high if style == "xyxy" else high - low
    if style.startswith("cx"):
        low = low + _half(high, like)
    values = torch.cat([low, high], dim=-1)
    if style == "cxcywh_normalised":
        values = values / values.new_tensor([*reversed(size)] * 2)
    return values.to(like.dtype)


def _half(sides: Tensor, boxes: Tensor) -> Tensor:
    """Halve the sides; integer centres of odd sides are rounded up, as v2 reads them."""
    return sides / 2 if boxes.is_floating_point() else (sides / 2).ceil()


# --- Checks -------------------------------------------------------------------------------------


def _check_boxes(target: Any, size: Size, place: str, box_format: str) -> None:
    """Check the boxes of one image, by which all else is counted."""
    if not isinstance(target, Mapping):
        raise TypeError(f"{place} must be a mapping, got {type(target).__name__}.")
    boxes, place = target.get("boxes"), f"{place}['boxes']"
    if not isinstance(boxes, Tensor) or boxes.dtype == torch.bool or boxes.is_complex():
        got = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
        raise TypeError(f"{place} must be a tensor of integers or floats, got {got}.")
    _check_memory(boxes, boxes, place)
    style = _style(boxes, box_format)
    if style not in BOX_FORMATS:
        raise ValueError(
            f"{place} must be XYXY, XYWH or CXCYWH, got {style.upper()}: "
            "what is visible of a rotated box is no box."
        )
    if style == "cxcywh_normalised" and not boxes.is_floating_point():
        raise TypeError(f"{place} must be floating point to be {style}, got {boxes.dtype}.")
    ensure(boxes.ndim == 2 and boxes.shape[1] == 4, place, "(N, 4)", tuple(boxes.shape))
    low, high = _corners(boxes, size, box_format).chunk(2, dim=-1)
    for j in ((high > low).all(-1) & unwrap(boxes).isfinite().all(-1)).logical_not().nonzero():
        raise ValueError(
            f"{place}[{int(j)}] must have a positive width and height inside the image of size "
            f"{size}, got {boxes[j[0]].tolist()} read as {style}; box_format= says how plain boxes "
            "are written, and v2.SanitizeBoundingBoxes() drops empty ones."
        )


def _check_entry(key: str, value: Any, target: Mapping[str, Any], size: Size, place: str) -> None:
    """Refuse an entry that no rule covers, so that it would not stay with its objects."""
    hint = "if it belongs to the image, name it in passthrough."
    if not isinstance(value, Tensor):
        held = isinstance(value, Collection) and not isinstance(value, (str, bytes))
        if key in OBJECT_KEYS or held or dataclasses.is_dataclass(value):
            got = type(value).__name__
            raise TypeError(f"{place} must be a tensor to follow the objects, got {got}; {hint}")
        return
    canvas = getattr(value, "canvas_size", size)
    if tuple(canvas) != size:
        raise ValueError(f"{place} must have canvas_size {size}, got {tuple(canvas)}.")
    if not value.ndim and key not in OBJECT_KEYS:
        return
    shape, count = tuple(value.shape), len(target["boxes"])
    typed = isinstance(value, tv_tensors.TVTensor)
    if key not in {"boxes", *SHAPES} and (typed or shape[-2:] == size):
        raise ValueError(
            f"{place} must be named boxes, masks or keypoints to be mixed, or stand in "
            f"passthrough, got {type(value).__name__} of shape {shape}."
        )
    if shape[:1] != (count,):
        raise ValueError(
            f"{place} must have one entry for each of the {count} boxes, got shape {shape}; {hint}"
        )
    _check_memory(value, target["boxes"], place)
    points = tuple(getattr(target.get("keypoints"), "shape", shape))
    fits = {
        "area": len(shape) == 1,
        "mix_weight": len(shape) == 1,
        "keypoints": len(shape) > 1 and shape[-1] in (2, 3),
        "keypoints_visible": shape == points[: len(points) - ("keypoints" in target)],
        "masks": shape[1:] == size,
    }
    ensure(not count or fits.get(key, True), place, SHAPES.get(key, ""), shape)


def _check_memory(value: Tensor, boxes: Tensor, place: str) -> None:
    """Refuse tensors without values, and those whose rows cannot be taken with the boxes'."""
    dense = value.layout is torch.strided and not value.is_nested
    if not dense or value.is_meta or value.device != boxes.device:
        got = f"a {'' if dense else 'nested or sparse '}tensor on {value.device}"
        raise ValueError(
            f"{place} must be a dense tensor with values, on the device of the boxes, got {got}."
        )


def _kind(key: str, value: Tensor) -> str:
    """Describe what an entry has to share with those of other images."""
    style = f" {value.format.name}" if isinstance(value, tv_tensors.BoundingBoxes) else ""
    shape = f"({', '.join(map(str, ('N', *value.shape[1:])))})"
    shape = SHAPES[key] if key == "masks" else shape  # each as large as its image
    return f"{type(value).__name__}{style} {shape}{'' if value.is_cpu else f' on {value.device}'}"
