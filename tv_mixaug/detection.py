"""Detection targets: the objects of an image follow its pixels.

A target is a mapping as torchvision's detection references have it: ``boxes``, and beside it
entries that belong to the objects (``labels``, ``masks``, ``keypoints``, ``area``, ...) or to the
image (``image_id``, ...). CutMix and Cutout both hide rectangles from objects: Cutout the holes,
CutMix the patch from the own objects and what is around it from the partner's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug import plans
from tv_mixaug.leaves import rewrap
from tv_mixaug.plans import Plan

__all__ = [
    "check_objects",
    "cutmix_objects",
    "cutout_objects",
    "mix_objects",
    "mixup_objects",
    "plain_objects",
]

# Of the other entries those belong to the objects that are tensors with one value for each.
IMAGE_KEYS = frozenset({"image_id", "image_size", "orig_size", "original_size", "size"})
OBJECT_KEYS = frozenset({"iscrowd", "keypoints_visible", "labels", "mix_weight", "scores"})
SHAPES = {"area": "(N,)", "keypoints": "(N, K, 2) or (N, K, 3)", "masks": "(N, H, W)"}


def check_objects(targets: Sequence[Mapping[str, Any]], size: tuple[int, int], where: str) -> None:
    """Refuse detection targets that could not be mixed without leaving something behind.

    Entries that pass through are to be taken out of the targets before, here and below.

    Args:
        targets: One mapping for each image. ``boxes`` is (N, 4), N >= 0: axis-aligned
            ``BoundingBoxes``, or a plain tensor of pixels, XYXY. ``masks`` is (N, H, W);
            ``keypoints`` is (N, K, 2), or (N, K, 3) with the visibility last; ``area`` is (N,).
            Other tensors with N entries belong to the objects, all else to the image.
        size: Height and width of the images in pixels.
        where: The place of ``targets`` in the batch, for the error's text.

    Raises:
        TypeError: If a target is no mapping, or an entry of the objects is no tensor.
        ValueError: If boxes are rotated, or have no area in the image; if sizes disagree; if an
            entry has not one value for each box, or differs in kind between images; if no rule
            covers an entry.

    Example:
        >>> check_objects([{"boxes": torch.tensor([[2, 2, 2, 6]])}], (8, 8), "targets")
        Traceback (most recent call last):
            ...
        ValueError: targets[0]['boxes'][0] must have a positive width and height inside the image \
of size (8, 8), got [2, 2, 2, 6]; v2.SanitizeBoundingBoxes() drops such boxes.
    """
    for i, target in enumerate(targets):
        _check_target(target, size, f"{where}[{i}]")
    known = OBJECT_KEYS.union(SHAPES).intersection(*[{k for t in targets for k in t}])
    for key in sorted(known.union(*map(_object_keys, targets))):
        expected = ""
        for i, target in enumerate(targets):
            count, place = len(target["boxes"]), f"{where}[{i}][{key!r}]"
            if key not in target and not count:
                continue
            if key not in target:
                raise ValueError(f"{place} must be there, as in the other images, got none.")
            value = target[key]
            if not isinstance(value, Tensor):
                raise TypeError(f"{place} must be a tensor, got {type(value).__name__}.")
            if not value.ndim or len(value) != count:
                raise ValueError(
                    f"{place} must have one entry for each of the {count} boxes, got shape "
                    f"{tuple(value.shape)}; if it belongs to the image, name it in passthrough."
                )
            fits = {
                "area": value.ndim == 1,
                "keypoints": value.ndim > 1 and value.shape[-1] in (2, 3),
                "masks": value.shape[1:] == size,
            }
            if count and not fits.get(key, True):
                raise ValueError(f"{place} must be {SHAPES[key]}, got {tuple(value.shape)}.")
            if count and (kind := _kind(value)) != (expected := expected or kind):
                raise ValueError(f"{place} must be {expected} as in the images before, got {kind}.")


def mix_objects(
    targets: Sequence[Mapping[str, Any]], plan: Plan, size: tuple[int, ...], min_visible: float
) -> list[dict[str, Any]]:
    """Do to the objects of each image what a plan did to its pixels.

    Args:
        targets: One target for each image, as :func:`check_objects` accepts them.
        plan: The plan, on the CPU.
        size: Height and width of the images in pixels.
        min_visible: Share in (0, 1] of its area that an object must keep, else it is dropped.

    Returns:
        New dicts as :func:`plain_objects` gives them.
    """
    canvas = (size[0], size[1])
    rows = zip(targets, plan.op.tolist(), plan.partner.tolist(), plan.lam.tolist(), strict=True)
    mixed = []
    for row, (own, op, partner, lam) in enumerate(rows):
        match op:
            case plans.BLEND:
                mixed.append(mixup_objects(own, targets[partner], lam))
            case plans.PASTE:
                boxes = plan.boxes[row]
                mixed.append(cutmix_objects(own, targets[partner], boxes, canvas, min_visible))
            case plans.FILL:
                mixed.append(cutout_objects(own, plan.boxes[row], canvas, min_visible))
            case _:
                mixed.append(plain_objects(own))
    return mixed


def plain_objects(own: Mapping[str, Any]) -> dict[str, Any]:
    """Give a target the keys that a mixed target has, so that every batch has one format.

    Args:
        own: A target that :func:`check_objects` accepts.

    Returns:
        A new dict with the same values and ``mix_weight``, (N,) float32 ones; for keypoints without
        visibility also ``keypoints_visible``, bool, all true. Entries that exist are kept.

    Example:
        >>> plain_objects({"boxes": torch.tensor([[2, 2, 4, 6]])})["mix_weight"]
        tensor([1.])
    """
    device = own["boxes"].device
    added: dict[str, Any] = {"mix_weight": torch.ones(len(own["boxes"]), device=device)}
    points = own.get("keypoints")
    if points is not None and points.shape[-1] == 2:
        added["keypoints_visible"] = torch.ones(points.shape[:-1], dtype=torch.bool, device=device)
    return {**own, **{key: value for key, value in added.items() if key not in own}}


def cutmix_objects(
    own: Mapping[str, Any],
    partner: Mapping[str, Any],
    box: Tensor,
    size: tuple[int, int],
    min_visible: float,
) -> dict[str, Any]:
    """Join the own objects outside the patch and the partner's objects inside it.

    What is hidden counts as in :func:`cutout_objects`.

    Args:
        own: The target of the image that is pasted onto.
        partner: The target of the image that the patches come from.
        box: (4,) or (M, 4) int64 pixels, XYXY, half-open, clipped to the image.
        size: Height and width of the image in pixels.
        min_visible: Share in (0, 1] of its area that an object must keep, else it is dropped.

    Returns:
        A new dict as :func:`plain_objects` gives it, the own objects first. Entries that belong to
        the image are the own image's.

    Example:
        >>> own = {"boxes": torch.tensor([[0, 0, 8, 4]]), "labels": torch.tensor([1])}
        >>> partner = {"boxes": torch.tensor([[2, 2, 6, 6]]), "labels": torch.tensor([2])}
        >>> mixed = cutmix_objects(own, partner, torch.tensor([4, 0, 8, 8]), (8, 8), 0.5)
        >>> mixed["boxes"].tolist(), mixed["labels"].tolist()
        ([[0, 0, 4, 4], [4, 2, 6, 6]], [1, 2])
    """
    mine = plain_objects(own)
    if partner is own:  # An image that is pasted onto itself does not change.
        return mine
    theirs = plain_objects(partner)
    keys = _object_keys(mine) | _object_keys(theirs)
    patches = box.view(-1, 4)
    mine = _hide(mine, keys, patches, size, min_visible)
    return _join(mine, _hide(theirs, keys, _outside(patches, size), size, min_visible), keys)


def mixup_objects(
    own: Mapping[str, Any],
    partner: Mapping[str, Any],
    lam: float,
) -> dict[str, Any]:
    """Join the objects of both images, each with the weight of its image.

    Args:
        own: The target of the own image.
        partner: The target of the image that is blended in.
        lam: The weight of the own image, in [0, 1].

    Returns:
        A new dict as :func:`plain_objects` gives it, the own objects first, ``mix_weight`` times
        ``lam`` or ``1 - lam``; objects of weight 0 are left out. Entries that belong to the image
        are the own image's.

    Example:
        >>> own = {"boxes": torch.tensor([[0, 0, 8, 4]])}
        >>> mixup_objects(own, {"boxes": torch.tensor([[2, 2, 6, 6]])}, 0.75)["mix_weight"]
        tensor([0.7500, 0.2500])
    """
    mine = plain_objects(own)
    if partner is own:  # An image that is blended with itself does not change.
        return mine
    theirs = plain_objects(partner)
    keys = _object_keys(mine) | _object_keys(theirs)
    mine["mix_weight"] = mine["mix_weight"] * lam
    theirs["mix_weight"] = theirs["mix_weight"] * (1 - lam)
    mine = _take(mine, keys, mine["mix_weight"] > 0)
    return _join(mine, _take(theirs, keys, theirs["mix_weight"] > 0), keys)


def cutout_objects(
    own: Mapping[str, Any],
    holes: Tensor,
    size: tuple[int, int],
    min_visible: float,
) -> dict[str, Any]:
    """Hide from the objects what lies in the holes.

    An object's area is its mask's pixels, or its box where it has none. An object that keeps less
    than ``min_visible`` of it is dropped. Of the others the box shrinks to the bounding rectangle
    of what is visible, ``masks`` are 0 in the holes and ``area`` is scaled by the visible share.
    Keypoints in a hole get visibility 0, or false in ``keypoints_visible``; they do not move.

    Args:
        own: The target of the image.
        holes: (M, 4) int64 pixels, XYXY, half-open, clipped to the image; they may overlap.
        size: Height and width of the image in pixels.
        min_visible: Share in (0, 1] of its area that an object must keep, else it is dropped.

    Returns:
        A new dict as :func:`plain_objects` gives it.

    Example:
        >>> own = {"boxes": torch.tensor([[0, 0, 8, 4], [5, 0, 8, 4]])}
        >>> cutout_objects(own, torch.tensor([[4, 0, 8, 8]]), (8, 8), 0.5)["boxes"].tolist()
        [[0, 0, 4, 4]]
    """
    mine = plain_objects(own)
    return _hide(mine, _object_keys(mine), holes.view(-1, 4), size, min_visible)


def _check_target(target: Mapping[str, Any], size: tuple[int, int], place: str) -> None:
    """Check what concerns one image alone."""
    if not isinstance(target, Mapping):
        raise TypeError(f"{place} must be a mapping, got {type(target).__name__}.")
    boxes = target.get("boxes")
    if not isinstance(boxes, Tensor) or boxes.dtype == torch.bool or boxes.is_complex():
        got = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
        raise TypeError(f"{place}['boxes'] must be a tensor of integers or floats, got {got}.")
    if _format(boxes) not in ("XYXY", "XYWH", "CXCYWH"):
        raise ValueError(
            f"{place}['boxes'] must be XYXY, XYWH or CXCYWH, got {_format(boxes)}: "
            "what is visible of a rotated box is no box."
        )
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{place}['boxes'] must be (N, 4), got {tuple(boxes.shape)}.")
    low, high = _xyxy(boxes, size).chunk(2, dim=-1)
    for j in ((high > low).all(-1) & _raw(boxes).isfinite().all(-1)).logical_not().nonzero():
        raise ValueError(
            f"{place}['boxes'][{int(j)}] must have a positive width and height inside the image of "
            f"size {size}, got {boxes[j[0]].tolist()}; v2.SanitizeBoundingBoxes() drops such boxes."
        )
    for key, value in target.items():
        canvas = getattr(value, "canvas_size", size)
        if tuple(canvas) != size:
            raise ValueError(f"{place}[{key!r}] must have canvas_size {size}, got {tuple(canvas)}.")
        if key in {"boxes", *IMAGE_KEYS, *SHAPES}:
            continue
        if isinstance(value, list) and len(value) == len(boxes) > 0:
            raise TypeError(f"{place}[{key!r}] must be a tensor to follow the objects, got list.")
        if isinstance(value, Tensor) and (
            isinstance(value, tv_tensors.TVTensor) or value.shape[-2:] == size
        ):
            raise ValueError(
                f"{place}[{key!r}] must be named boxes, masks or keypoints to be mixed, or stand "
                f"in passthrough, got {type(value).__name__} of shape {tuple(value.shape)}."
            )


def _hide(
    target: dict[str, Any],
    keys: set[str],
    holes: Tensor,
    size: tuple[int, int],
    min_visible: float,
) -> dict[str, Any]:
    """Hide (M, 4) holes from the objects and take those that stay visible."""
    boxes = target["boxes"]
    if not len(boxes):
        return target
    target, holes = dict(target), holes.to(boxes.device)
    before = _xyxy(boxes, size)
    area, left, after = _cut(before, holes.double())

    if "masks" in keys:
        masks = _raw(target["masks"])
        masks_left = masks.clone()
        for x1, y1, x2, y2 in holes.tolist():
            masks_left[:, y1:y2, x1:x2] = 0
        target["masks"] = rewrap(masks_left, target["masks"])
        pixels, tight = _measure(masks)
        pixels_left, tight_left = _measure(masks_left)
        # Resizing leaves small objects without a pixel: those go by their box.
        some = pixels > 0
        area, left = pixels.where(some, area), pixels_left.where(some, left)
        before, after = tight.where(some[:, None], before), tight_left.where(some[:, None], after)
    if "keypoints" in keys:
        points = _raw(target["keypoints"])
        # A point on the border, or beyond it, goes by the nearest pixel.
        x = points[..., :1].long().clamp(0, size[1] - 1)
        y = points[..., 1:2].long().clamp(0, size[0] - 1)
        x1, y1, x2, y2 = holes.unbind(1)
        hidden = ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).any(-1)
        if "keypoints_visible" in keys:
            target["keypoints_visible"] = target["keypoints_visible"].masked_fill(hidden, 0)
        if points.shape[-1] == 3:
            seen = points[..., 2].masked_fill(hidden, 0)
            target["keypoints"] = torch.cat([points[..., :2], seen[..., None]], dim=-1)

    # A box that does not shrink keeps its own numbers, which may be finer than the mask's pixels.
    shrunk = (after != before).any(-1, keepdim=True)
    target["boxes"] = rewrap(_formatted(after, boxes).where(shrunk, _raw(boxes)), boxes)
    if "area" in keys:
        given = _raw(target["area"])
        scaled = given.double() * left / area
        scaled = scaled if given.is_floating_point() else scaled.round()
        target["area"] = scaled.to(given.dtype).where(left < area, given)
    return _take(target, keys, left / area >= min_visible)


def _outside(patches: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (M, 4) rectangles that cover all of an image but the patches."""
    height, width = size
    xs = sorted({0, width, *patches[:, 0::2].flatten().tolist()})
    ys = sorted({0, height, *patches[:, 1::2].flatten().tolist()})
    held = patches.tolist()
    cells = [
        (x1, y1, x2, y2)
        for x1, x2 in pairwise(xs)
        for y1, y2 in pairwise(ys)
        if not any(a <= x1 and b <= y1 and x2 <= c and y2 <= d for a, b, c, d in held)
    ]
    return torch.tensor(cells, dtype=torch.int64, device="cpu").view(-1, 4)


def _cut(boxes: Tensor, holes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut (M, 4) holes out of (N, 4) boxes: areas before and after, and bounding rectangles after.

    The edges of the holes divide a box into cells, each hidden or visible as a whole, so the areas
    are exact however the holes overlap.
    """
    x, y = (
        torch.cat([b, h.flatten().clamp(b[:, :1], b[:, 1:])], dim=1).sort(dim=1).values
        for b, h in ((boxes[:, 0::2], holes[:, 0::2]), (boxes[:, 1::2], holes[:, 1::2]))
    )
    in_x = (x[:, :-1, None] >= holes[:, 0]) & (x[:, 1:, None] <= holes[:, 2])
    in_y = (y[:, :-1, None] >= holes[:, 1]) & (y[:, 1:, None] <= holes[:, 3])
    visible = ~(in_y[:, :, None] & in_x[:, None]).any(-1)
    area = y.diff()[:, :, None] * x.diff()[:, None]
    left = area * visible
    return area.sum((1, 2)), left.sum((1, 2)), _bounds(left > 0, x, y)


def _measure(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Count the pixels of (N, H, W) masks and find their tight boxes, both in float64."""
    y, x = (torch.arange(n + 1, dtype=torch.float64, device=masks.device) for n in masks.shape[1:])
    cells = masks.bool()
    # Counting mask by mask takes a tenth of the time of counting along two axes.
    pixels = torch.stack([mask.count_nonzero() for mask in cells])
    return pixels.double(), _bounds(cells, x, y)


def _bounds(cells: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Give (N, 4) bounding rectangles of the true cells between the edges x and y."""
    # The greatest byte is found many times faster than any true bool.
    columns, rows = (cells.view(torch.uint8).amax(axis).bool() for axis in (1, 2))
    low = [e[..., :-1].where(c, torch.inf).amin(-1) for e, c in ((x, columns), (y, rows))]
    high = [e[..., 1:].where(c, -torch.inf).amax(-1) for e, c in ((x, columns), (y, rows))]
    return torch.stack(low + high, dim=-1)


def _take(target: Mapping[str, Any], keys: set[str], keep: Tensor) -> dict[str, Any]:
    """Select objects in every entry that belongs to them."""
    rows = keep.nonzero()[:, 0]
    return {
        k: rewrap(_raw(v).index_select(0, rows), v) if k in keys else v for k, v in target.items()
    }


def _join(mine: dict[str, Any], theirs: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    """Append their objects to mine; a side without objects has no say in the types."""
    sides = [side for side in (mine, theirs) if len(side["boxes"])]
    if not sides:
        return mine
    joined = {k: rewrap(torch.cat([_raw(s[k]) for s in sides]), sides[0][k]) for k in sorted(keys)}
    return {**mine, **joined}


def _object_keys(target: Mapping[str, Any]) -> set[str]:
    """Name the entries with one value for each object."""
    count = len(target["boxes"])
    return {
        key
        for key, value in target.items()
        if key not in IMAGE_KEYS
        if isinstance(value, Tensor) and value.ndim and len(value) == count
    }


def _xyxy(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Convert boxes of any format to corners in float64, clipped to the image."""
    style = _format(boxes)
    corner, other = _raw(boxes).double().chunk(2, dim=-1)
    if style == "CXCYWH":
        corner = corner - _half(other, boxes)
    other = other if style == "XYXY" else corner + other
    height, width = size
    limit = torch.tensor([width, height, width, height], device=boxes.device)
    return torch.cat([corner, other], dim=-1).clamp(torch.zeros_like(limit), limit)


def _formatted(xyxy: Tensor, like: Tensor) -> Tensor:
    """Convert corners back to the format and dtype of ``like``."""
    style = _format(like)
    corner, other = xyxy.chunk(2, dim=-1)
    other = other if style == "XYXY" else other - corner
    if style == "CXCYWH":
        corner = corner + _half(other, like)
    return torch.cat([corner, other], dim=-1).to(like.dtype)


def _half(sides: Tensor, boxes: Tensor) -> Tensor:
    """Halve the sides; integer centres of odd sides are rounded up, as v2 reads them."""
    return sides / 2 if boxes.is_floating_point() else (sides / 2).ceil()


def _format(boxes: Tensor) -> str:
    return boxes.format.name if isinstance(boxes, tv_tensors.BoundingBoxes) else "XYXY"


def _kind(value: Tensor) -> str:
    style = f" {_format(value)}" if isinstance(value, tv_tensors.BoundingBoxes) else ""
    return f"{type(value).__name__}{style} ({', '.join(map(str, ('N', *value.shape[1:])))})"


def _raw(value: Tensor) -> Tensor:
    return value.as_subclass(Tensor)
