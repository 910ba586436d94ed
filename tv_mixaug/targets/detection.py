"""Detection targets: apply a plan to the objects of each image.

A target is a mapping of ``boxes``, entries with a row per object (``labels``, ``masks``, ...) and
entries of the image (``image_id``, ...). A plan's boxes hide the original's objects inside them and
the partner's objects outside them; the visible objects of both images are concatenated.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import convert_bounding_box_format

from tv_mixaug._tv_tensors import rewrap, unwrap
from tv_mixaug._validation import ensure
from tv_mixaug.batch.spec import BatchOptions, FieldSpec, Mix, ParsedBatch
from tv_mixaug.engine import plan as plans

BoxFormat = Literal["xyxy", "xywh", "cxcywh", "cxcywh_normalised"]
BOX_FORMATS: tuple[str, ...] = get_args(BoxFormat)
Target = Mapping[str, Any]
Targets = Sequence[Target]
Size = tuple[int, ...]  # (H, W)
Region = tuple[Tensor, bool]  # (M, 4) rectangles, and whether the pixels in them are visible

# Tensors with an axis belong to the objects and have a row for each, unless under IMAGE_KEYS.
IMAGE_KEYS = frozenset({"idx", "image_id", "image_size", "orig_size", "original_size", "size"})
RULE_KEYS = frozenset({"area", "boxes", "keypoints", "keypoints_visible", "masks", "mix_weight"})
OBJECT_KEYS = RULE_KEYS | {"class_labels", "iscrowd", "labels", "scores"}


def mix_detection(value: Any, field: FieldSpec, mix: Mix) -> Any:
    """Mix the targets of all images; entries in ``passthrough`` stay with their image."""
    options = mix.options
    bare, kept = _split(value, options)
    how = mix.batch.size, options.min_visible, options.box_format
    mixed = mix_objects(bare, mix.compact.plan(), *how)
    return type(value)({**target, **rest} for target, rest in zip(mixed, kept, strict=True))


def check_detection(
    value: Any, field: FieldSpec, batch: ParsedBatch, options: BatchOptions
) -> None:
    """Raise unless a rule covers each entry of the targets."""
    where, size = field.where, batch.size
    for i, target in enumerate(value):
        has_boxes, got = bool(target) and "boxes" in target, target and list(target)
        expected = "a dict with 'boxes', torch.zeros(0, 4) if there are none"
        ensure(has_boxes, f"{where}[{i}]", expected, got)
    targets = _split(value, options)[0]
    for i, target in enumerate(targets):
        _check_boxes(target["boxes"], size, f"{where}[{i}]['boxes']", options.box_format)
        for key in (key for key in target if key not in IMAGE_KEYS):
            _check_entry(target, key, size, f"{where}[{i}][{key!r}]")
    full = [i for i, target in enumerate(targets) if len(target["boxes"])]
    keys = [_object_keys(target) for target in targets]
    kinds: dict[str, str] = {}
    for key, i in itertools.product(dict.fromkeys(itertools.chain(*keys)), full):
        value, place = targets[i].get(key), f"{where}[{i}][{key!r}]"
        got = "nothing" if value is None else "a single value"
        ensure(key in keys[i], place, "a tensor with a row per box, as in other images", got)
        style = f" {_style(value, '')}" if isinstance(value, tv_tensors.BoundingBoxes) else ""
        shape = "(H, W)" if key == "masks" else tuple(value.shape[1:])
        kind = f"{type(value).__name__}{style} on {value.device} with rows of shape {shape}"
        ensure(kind == kinds.setdefault(key, kind), place, f"{kinds[key]} as in other images", kind)


def _split(targets: Any, options: BatchOptions) -> tuple[list[dict[str, Any]], ...]:
    """Split targets into the entries to be mixed and those in ``passthrough``."""
    names = options.passthrough
    bare = [{k: v for k, v in target.items() if k not in names} for target in targets]
    return bare, [{k: v for k, v in target.items() if k in names} for target in targets]


def mix_objects(
    targets: Targets, plan: plans.Plan, size: Size, min_visible: float, box_format: str = "xyxy"
) -> list[dict[str, Any]]:
    """Apply a plan to the objects of each image.

    An object's area is that of its mask, or of its box without a mask. The object is dropped if
    less than ``min_visible`` of its area is visible. Otherwise its box shrinks to the bounding
    rectangle of the visible part, hidden mask pixels become 0 and ``area`` is scaled. Hidden
    keypoints get visibility 0 or false.

    The plan is on the CPU and its boxes lie inside the images. Returns new dicts with
    ``keypoints_visible`` (N, K) for keypoints without a third column, and with ``mix_weight`` (N,)
    float32: the mean weight of the image over the object's visible pixels, times an earlier weight.
    Objects of weight 0 are dropped.

    Example:
        >>> targets = [{"boxes": torch.tensor([[0, 0, 8, 4]])}]
        >>> holes = {"op": torch.tensor([plans.FILL]), "boxes": torch.tensor([[[4, 0, 8, 8]]])}
        >>> plan = plans.identity_plan(1)._replace(**holes)
        >>> mix_objects(targets, plan, (8, 8), 0.5)[0]["boxes"].tolist()
        [[0, 0, 4, 4]]
    """
    mixed, how = [], (size, box_format, min_visible)
    rows = zip(plan.op.tolist(), plan.partner.tolist(), plan.lam.tolist(), plan.boxes, strict=True)
    for row, (op, partner, lam, boxes) in enumerate(rows):
        kept, added = _complete(targets[row]), _complete(targets[partner])
        if op == plans.FILL:
            kept = _cut(kept, (boxes, False), *how)
        elif op == plans.PASTE and partner != row:  # an image mixed with itself does not change
            kept = _concatenate(_cut(kept, (boxes, False), *how), _cut(added, (boxes, True), *how))
        elif op == plans.BLEND and partner != row:
            kept = _concatenate(_weigh(kept, lam), _weigh(added, 1 - lam))
        mixed.append(kept)
    return mixed


def _cut(
    target: Target, region: Region, size: Size, box_format: str, min_visible: float
) -> dict[str, Any]:
    """Keep the visible objects of an image."""
    boxes = target["boxes"]
    if not len(boxes):
        return dict(target)
    before, after, area, seen, visible = _measure(target, region, size, box_format)
    # A box that does not shrink keeps its own numbers, which may be finer than the mask's pixels.
    shrinks = (after != before).any(-1, keepdim=True)
    new = {"boxes": _from_corners(after, boxes, size, box_format).where(shrinks, unwrap(boxes))}
    if "masks" in target:
        new["masks"] = unwrap(target["masks"]) * visible  # many times faster than masked_fill
    if "keypoints" in target:
        points = unwrap(target["keypoints"])
        # A point on the border or outside the image is as visible as the nearest pixel.
        x, y = points[..., 0].long(), points[..., 1].long()
        hidden = ~visible[y.clamp(0, size[0] - 1), x.clamp(0, size[1] - 1)]
        flags = points[..., 2:].masked_fill(hidden[..., None], 0)
        new["keypoints"] = torch.cat([points[..., :2], flags], dim=-1)
        if "keypoints_visible" in target:
            new["keypoints_visible"] = target["keypoints_visible"].masked_fill(hidden, 0)
    if "area" in target:
        given = unwrap(target["area"])
        scaled = given.double() * seen / area
        scaled = scaled if given.is_floating_point() else scaled.round()
        new["area"] = scaled.to(given.dtype).where(seen < area, given)
    typed = {key: rewrap(value, target[key]) for key, value in new.items()}
    return _take({**target, **typed}, seen / area >= min_visible)


def _measure(target: Target, region: Region, size: Size, box_format: str) -> tuple[Tensor, ...]:
    """Return corners before and after hiding, areas before and after, and the visible pixels."""
    rectangles, inside = region
    before = _to_corners(target["boxes"], size, box_format)
    visible = torch.full(size, not inside, device=before.device)
    for x1, y1, x2, y2 in rectangles.tolist():
        visible[y1:y2, x1:x2] = inside
    # The edges of all rectangles divide a box into cells that are visible or hidden as a whole.
    # Axes: N objects, (x, y), edges or cells, M rectangles.
    low, high = before.view(-1, 2, 2, 1).unbind(1)
    starts, stops = rectangles.to(before).T.reshape(2, 2, 1, -1)
    clipped = torch.cat([starts, stops], dim=-1)[:, 0].clamp(low, high)
    edges = torch.cat([low, high, clipped], dim=-1).sort(dim=-1).values
    covered = (edges[..., :-1, None] >= starts) & (edges[..., 1:, None] <= stops)
    shown = (covered[:, 1, :, None] & covered[:, 0, None]).any(-1) == inside
    x, y = edges.unbind(1)
    cells = y.diff().unsqueeze(2) * x.diff().unsqueeze(1)
    area, cells = cells.sum((1, 2)), cells * shown
    seen, after = cells.sum((1, 2)), _bounds(cells > 0, x, y)
    if "masks" in target and len(before):
        masks = unwrap(target["masks"]).bool()
        pixels, tight = _measure_masks(masks)
        some = pixels > 0  # resizing leaves small objects without pixels, which are measured by box
        before, area = tight.where(some[:, None], before), pixels.where(some, area)
        pixels, tight = _measure_masks(masks & visible)
        after, seen = tight.where(some[:, None], after), pixels.where(some, seen)
    return before, after, area, seen, visible


def _measure_masks(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Count the pixels of (N, H, W) bool masks and find their bounding boxes, both in float64."""
    y, x = (torch.arange(n + 1, dtype=torch.float64, device=masks.device) for n in masks.shape[1:])
    # Counting mask by mask takes a tenth of the time of counting along two axes.
    pixels = torch.stack([mask.count_nonzero() for mask in masks])
    return pixels.double(), _bounds(masks, x, y)


def _bounds(cells: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return (N, 4) bounding boxes of the true cells between the edges x and y."""
    # amax of bytes is many times faster than any of bools.
    columns, rows = (cells.view(torch.uint8).amax(axis).bool() for axis in (1, 2))
    low = [e[..., :-1].where(c, torch.inf).amin(-1) for e, c in ((x, columns), (y, rows))]
    high = [e[..., 1:].where(c, -torch.inf).amax(-1) for e, c in ((x, columns), (y, rows))]
    return torch.stack(low + high, dim=-1)


def cover_boxes(boxes: Tensor, size: Size, box_format: str) -> Tensor:
    """Return (N, H, W) bool: the pixels that each box touches."""
    x1, y1, x2, y2 = _to_corners(boxes, size, box_format)[..., None].unbind(1)
    y, x = (torch.arange(n, device=boxes.device) for n in size)
    columns, rows = (x < x2) & (x + 1 > x1), (y < y2) & (y + 1 > y1)
    return rows[:, :, None] & columns[:, None]


def shrink_boxes(target: Target, masks: Tensor, size: Size, box_format: str) -> dict[str, Any]:
    """Shrink boxes to the visible pixels of their objects, and drop objects that have none.

    A box may be up to a pixel wider, and an object of less than two pixels may have none, since
    geometric transforms move pixels to the nearest.
    """
    boxes = target["boxes"]
    if not len(boxes):
        return dict(target)
    before, (pixels, tight) = _to_corners(boxes, size, box_format), _measure_masks(masks)
    after = tight.where(((tight - before).abs() > 1) & (pixels > 0)[:, None], before)
    changed = (after != before).any(-1, keepdim=True)
    new = _from_corners(after, boxes, size, box_format).where(changed, unwrap(boxes))
    keep = (pixels > 0) | ((before[:, 2:] - before[:, :2]).amin(-1) < 2)
    return _take({**target, "boxes": rewrap(new, boxes)}, keep)


def _weigh(target: Target, weight: float) -> dict[str, Any]:
    """Multiply the weights of objects and drop objects of weight 0."""
    new = (target["mix_weight"] * weight).float()
    return _take({**target, "mix_weight": new}, new > 0)


def _take(target: Target, keep: Tensor) -> dict[str, Any]:
    """Select objects in each of their entries."""
    rows, taken = keep.nonzero()[:, 0], dict(target)
    for key in _object_keys(target):
        taken[key] = rewrap(unwrap(target[key]).index_select(0, rows), target[key])
    return taken


def _concatenate(original: dict[str, Any], partner: Target) -> dict[str, Any]:
    """Append the partner's objects; a target without objects does not decide the types."""
    sides = [side for side in (original, partner) if len(side["boxes"])]
    for key in _object_keys(sides[0]) if sides else ():
        original[key] = rewrap(torch.cat([unwrap(side[key]) for side in sides]), sides[0][key])
    return original


def _complete(target: Target) -> dict[str, Any]:
    """Return a copy of a target with the keys that mixing adds."""
    new, points = dict(target), target.get("keypoints")
    ones = torch.ones(len(target["boxes"]), device=target["boxes"].device)
    new["mix_weight"] = unwrap(target.get("mix_weight", ones)).float()
    if points is not None and points.shape[-1] == 2:
        visible = torch.ones(points.shape[:-1], dtype=torch.bool, device=points.device)
        new.setdefault("keypoints_visible", visible)
    return new


def _object_keys(target: Target) -> list[str]:
    """Return the keys of a checked target's entries with a row per object."""
    tensors = [key for key, value in target.items() if isinstance(value, Tensor) and value.ndim]
    return [key for key in tensors if key not in IMAGE_KEYS]


def _style(boxes: Tensor, box_format: str) -> str:
    """Return the format that ``BoundingBoxes`` carry, or the given format of plain tensors."""
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        return str(boxes.format.name).lower()
    return box_format


def _to_corners(boxes: Tensor, size: Size, box_format: str) -> Tensor:
    """Convert boxes of any format to corners in pixels, in float64 and clipped to the image."""
    style, values = _style(boxes, box_format), unwrap(boxes)
    values = values.double() if values.is_floating_point() else values.long()
    limit = values.new_tensor([size[1], size[0]] * 2)
    if style == "cxcywh_normalised":
        values = convert_bounding_box_format(values * limit, "cxcywh", "xyxy")
        # Rounding errors of float32 shares, about 1e-4 pixels, must not decide which objects stay.
        values = (values * 1024).round() / 1024
    else:
        values = convert_bounding_box_format(values, style, "xyxy").double()
    return limit.minimum(values.clamp(min=0))


def _from_corners(corners: Tensor, like: Tensor, size: Size, box_format: str) -> Tensor:
    """Convert corners to the format and dtype of ``like``."""
    style = _style(like, box_format)
    values: Tensor = convert_bounding_box_format(corners, "xyxy", style.split("_")[0])
    if style == "cxcywh_normalised":
        values = values / values.new_tensor([size[1], size[0]] * 2)
    # torchvision reads integer centres of odd sides as rounded up.
    return (values if like.is_floating_point() else values.ceil()).to(like.dtype)


def _check_boxes(boxes: Any, size: Size, place: str, box_format: str) -> None:
    """Raise unless boxes can be read and have an area inside the image."""
    if not isinstance(boxes, Tensor) or boxes.dtype == torch.bool or boxes.is_complex():
        got = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
        raise TypeError(f"{place} must be a tensor of integers or floats, got {got}.")
    _check_memory(boxes, boxes, place)
    style = _style(boxes, box_format)
    if style == "cxcywh_normalised" and not boxes.is_floating_point():
        raise TypeError(f"{place} must be floating point to be {style}, got {boxes.dtype}.")
    ensure(style in BOX_FORMATS, place, "axis-aligned (XYXY, XYWH or CXCYWH)", style.upper())
    ensure(boxes.ndim == 2 and boxes.shape[1] == 4, place, "(N, 4)", tuple(boxes.shape))
    low, high = _to_corners(boxes, size, box_format).chunk(2, dim=-1)
    valid = (high > low).all(1) & unwrap(boxes).isfinite().all(1)
    for row in valid.logical_not().nonzero()[:1, 0].tolist():
        hint = "set box_format= for plain boxes, or drop empty ones by v2.SanitizeBoundingBoxes()"
        got = f"{boxes[row].tolist()} read as {style}; {hint}"
        ensure(False, f"{place}[{row}]", f"a box of positive area in an image of size {size}", got)


def _check_entry(target: Target, key: str, size: Size, place: str) -> None:
    """Raise unless an entry clearly belongs to the image or can follow the objects."""
    value, kind, count = target[key], type(target[key]).__name__, target["boxes"].shape[0]
    if not isinstance(value, Tensor):
        holds_items = isinstance(value, Collection) and not isinstance(value, (str, bytes))
        if key in OBJECT_KEYS or holds_items or dataclasses.is_dataclass(value):
            raise TypeError(f"{place} must be a tensor or named in passthrough, got {kind}.")
        return
    shape, canvas = tuple(value.shape), tuple(getattr(value, "canvas_size", size))
    ensure(canvas == size, f"{place}.canvas_size", str(size), canvas)
    if not shape and key not in OBJECT_KEYS:
        return
    got = f"{kind} of shape {shape}"
    is_picture = isinstance(value, tv_tensors.TVTensor) or shape[-2:] == size
    wanted = "called boxes, masks or keypoints, or named in passthrough"
    ensure(key in RULE_KEYS or not is_picture, place, wanted, got)
    wanted = f"a tensor with a row for each of {count} boxes, filtered with them, or in passthrough"
    ensure(shape[:1] == (count,), place, wanted, got)
    _check_memory(value, target["boxes"], place)
    points = tuple(getattr(target.get("keypoints", value[..., None]), "shape", ()))
    fits, wanted = {
        "area": (len(shape) == 1, "(N,)"),
        "keypoints": (len(shape) > 1 and shape[-1] in (2, 3), "(N, K, 2) or (N, K, 3)"),
        "keypoints_visible": (shape == points[:-1], "(N, K), as keypoints are"),
        "masks": (shape[1:] == size, "(N, H, W)"),
        "mix_weight": (len(shape) == 1, "(N,)"),
    }.get(key, (True, ""))
    ensure(fits or not count, place, wanted, shape)


def _check_memory(value: Tensor, boxes: Tensor, place: str) -> None:
    """Raise unless a tensor has values and lies on the device of the boxes."""
    plain = unwrap(value)  # attributes of tv_tensors are slow
    dense = plain.layout is torch.strided and not plain.is_nested
    if not dense or plain.is_meta or plain.device != boxes.device:
        got = f"a {'' if dense else 'nested or sparse '}tensor on {plain.device}"
        ensure(False, place, "a dense tensor with values, on the device of the boxes", got)
