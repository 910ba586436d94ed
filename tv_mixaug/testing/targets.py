"""Check that masks and boxes go where the pixels of their image go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug._validation import check_choice
from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing._arguments import at_least, check_callable
from tv_mixaug.testing._causes import Cause
from tv_mixaug.testing._coded import (
    Case,
    Evidence,
    TruthReport,
    UntruthfulError,
    all_cases,
    because,
    call,
    coded_batch,
    colour_tolerance,
    decode,
    draw_palette,
    private_generator,
    smaller_cases,
    to_unit,
    unrepeatable,
)


class _Fault(NamedTuple):
    """What is wrong with one row, and why."""

    text: str
    cause: Cause


class _Rows(NamedTuple):
    """What is wrong with each row of a trial (None: nothing), and how many were mixed."""

    faults: list[_Fault | None]
    mixed: int
    evidence: Evidence | None = None


def assert_targets_follow_images(
    pipeline: Callable[..., Any],
    *,
    kind: Literal["masks", "boxes"],
    collate: bool = False,
    num_classes: int = 16,
    erased: bool = False,
    mask_fill: int | None = None,
    min_visible: float | None = None,
    batch_sizes: Sequence[int] = (1, 2, 5, 8),
    sizes: Sequence[tuple[int, int]] = ((8, 8), (17, 24), (32, 32)),
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    draws: int = 20,
    seed: int = 0,
) -> TruthReport:
    """Check that masks or boxes are mixed, moved and cut together with their images.

    Images have one colour per sample (and per object), so every pixel tells whose it is.

    - `kind="masks"`: `(images, masks) -> (images, masks)`. Masks go in as `Mask` (B, H, W) uint8
      that hold the sample's class everywhere. They may come back as class indices, which must
      name the class of the larger weight at each pixel, or as soft planes (B, K, H, W), which
      must hold each pixel's weights.
    - `kind="boxes"`: `(images, targets) -> (images, targets)` for pipelines that cut and do not
      blend. Targets are lists of dicts with `boxes` (`BoundingBoxes`, N of them) and `labels`
      (N,), a number of its own for each object. Each box that comes back must be the tight box of
      its object's visible pixels, objects no longer visible must be gone, and objects wholly
      visible must be there.

    Args:
        pipeline: the callable under test; images are `Image` (B, 3, H, W).
        kind: which targets.
        collate: the pipeline is a collate function, called with a list of `(image, mask)` or
            `(image, target)`.
        num_classes: number of mask classes K.
        erased: pixels may be erased; a mask is then checked at the other pixels only.
        mask_fill: with `erased`, the value that masks must hold at erased pixels; None: any.
        min_visible: objects are kept if and only if at least this share of their area is visible;
            None: those partly visible may be kept or dropped.
        batch_sizes: batch sizes to try.
        sizes: (height, width) of the images in pixels; at least 8 × 8 for boxes.
        dtypes: dtypes of the images.
        draws: calls per batch size, size and dtype.
        seed: seed of the first call; the n-th call has `seed + n`.

    Returns:
        The number of rows compared, and how many of their images hold pixels of two samples.

    Raises:
        UntruthfulError: a target does not follow its image; an `AssertionError` with the counts.
        TypeError: the pipeline is no callable, or returns something else.
        ValueError: an argument is out of range.

    Example:
        >>> from torchvision.transforms import v2
        >>> from tv_mixaug.testing import assert_targets_follow_images
        >>> assert_targets_follow_images(v2.RandomHorizontalFlip(), kind="masks", draws=1).rows
        48
    """
    __tracebackhide__ = True
    check_callable("pipeline", pipeline)
    check_choice("kind", kind, ("masks", "boxes"))
    cases = all_cases(batch_sizes, sizes, dtypes, draws, seed)
    if kind == "masks":
        at_least("num_classes", num_classes, max(batch_sizes))
    elif min(side for size in sizes for side in size) < 8:
        raise ValueError("sizes must be at least 8 × 8 pixels for boxes, got a smaller one.")

    def run(case: Case) -> _Rows:
        if kind == "masks":
            return _try_masks(pipeline, case, collate, num_classes, erased, mask_fill)
        return _try_boxes(pipeline, case, collate, min_visible)

    rows = wrong = mixed = 0
    first: Case | None = None
    for case in cases:
        outcome = run(case)
        rows += len(outcome.faults)
        mixed += outcome.mixed
        wrong += sum(fault is not None for fault in outcome.faults)
        if first is None and any(outcome.faults):
            first = case
    if first is None:
        return TruthReport(rows, mixed)
    head = f"{kind.capitalize()} do not follow their images in {wrong} of {rows} rows."
    smallest = _smallest(run, first, kind)
    if smallest is None:
        raise UntruthfulError(f"{head}\n{unrepeatable(first)}", wrong=wrong, rows=rows)
    where, fault, evidence = smallest
    raise UntruthfulError(
        f"{head}\nSmallest case found: {where}. {fault.text}\n{because(fault.cause)}",
        wrong=wrong,
        rows=rows,
        case=f"{where}: {fault.text}",
        cause=fault.cause.text,
        evidence=evidence,
    )


def _smallest(
    run: Callable[[Case], _Rows], failing: Case, kind: str
) -> tuple[str, _Fault, Evidence | None] | None:
    for case in [*smaller_cases(failing), failing]:
        if kind == "boxes" and min(case.size) < 8:
            continue
        try:
            outcome = run(case)
        except Exception:  # noqa: S112 - a batch that the pipeline refuses is no smaller example
            continue
        for row, fault in enumerate(outcome.faults):
            if fault is not None:
                return f"{case}, row {row}", fault, outcome.evidence
    return None


def _try_masks(
    pipeline: Callable[..., Any],
    case: Case,
    collate: bool,
    num_classes: int,
    erased: bool,
    mask_fill: int | None,
) -> _Rows:
    batch = coded_batch(case, num_classes=num_classes, channels=3)
    height, width = case.size
    masks = batch.classes.to(torch.uint8)[:, None, None].expand(-1, height, width).contiguous()
    given = tv_tensors.Image(batch.images.clone()), tv_tensors.Mask(masks)
    images, masks = call(pipeline, case, *given, collate=collate)
    if not isinstance(masks, Tensor) or masks.ndim not in (3, 4) or len(masks) != len(images):
        got = tuple(masks.shape) if isinstance(masks, Tensor) else type(masks).__name__
        raise TypeError(
            f"pipeline must return masks (B, H, W), (B, 1, H, W) or (B, K, H, W), got {got}."
        )
    masks = masks.detach().cpu().as_subclass(Tensor)
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    tolerance = 1.5 * max(colour_tolerance(d) for d in (case.dtype, images.dtype))
    in_step = len(images) == case.batch_size
    pixels = to_unit(images)
    weights = _pixel_weights(pixels, batch.colours, batch.present, tolerance)
    faults, mixed = [], 0
    for row, (held, mask) in enumerate(zip(weights, masks, strict=True)):
        mixed += int((held.nan_to_num(0).flatten(1).sum(1) > 0).sum() > 1)
        own = int(batch.classes[row]) if in_step else None
        faults.append(
            _mask_fault(pixels[row], mask, held, batch.colours, tolerance, erased, mask_fill, own)
        )
    wrong = [row for row, fault in enumerate(faults) if fault is not None][:8]
    planes = (
        masks if masks.ndim == 4 else masks[:, None] == torch.arange(num_classes)[:, None, None]
    )
    said, held = (x[wrong].double().nan_to_num(0).mean((2, 3)) for x in (planes, weights))
    samples = to_unit(batch.images)
    return _Rows(faults, mixed, Evidence(pixels[wrong], said, held, samples, batch.classes))


def _pixel_weights(pixels: Tensor, colours: Tensor, present: Tensor, tolerance: float) -> Tensor:
    """Return (B, K, H, W): the weight of each class at each pixel, NaN where no mix fits."""
    seen, index = _distinct_colours(pixels)
    held = torch.zeros(len(seen), len(colours), dtype=torch.float64)
    held[:, present] = decode(seen, colours[present], tolerance=tolerance)
    return held[index].movedim(-1, 1)


def _distinct_colours(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct colours (U, 3) of (B, 3, H, W), and which of them each pixel has."""
    # One number for each colour: distinct numbers are found much faster than distinct columns.
    levels = (pixels.clamp(0, 1) * 1e6).round().to(torch.int64)
    packed = levels[:, 0] << 40 | levels[:, 1] << 20 | levels[:, 2]
    seen, index = torch.unique(packed, return_inverse=True)
    return torch.stack([seen >> 40, seen >> 20 & 0xFFFFF, seen & 0xFFFFF], 1).double() / 1e6, index


def _mask_fault(
    pixels: Tensor,
    mask: Tensor,
    held: Tensor,
    colours: Tensor,
    tolerance: float,
    erased: bool,
    mask_fill: int | None,
    own: int | None,
) -> _Fault | None:
    nobodys = held.isnan().any(0)
    if nobodys.any() and not erased:
        cause = causes.MASK_FOREIGN.of(count=int(nobodys.sum()))
        return _Fault("Its mask is there, its pixels are not all.", cause)
    if mask.ndim == 3:
        promised = (mask.to(torch.float64)[..., None] * colours[:, None, None]).sum(0)
        wrong = ((promised.movedim(-1, 0) - pixels).abs().amax(0) > tolerance) & ~nobodys
        named = mask.argmax(0)
    else:
        named = mask.long()
        known = (named >= 0) & (named < len(held))
        weight = held.gather(0, named.clamp(0, len(held) - 1)[None])[0]
        largest = held.nan_to_num(0).amax(0)
        # Classes of near-equal weight: either may be called the larger one.
        wrong = (~known | (weight < largest - 0.02)) & ~nobodys
        if mask_fill is not None:
            wrong |= nobodys & (named != mask_fill)
    if not wrong.any():
        return None
    y, x = (int(v) for v in wrong.nonzero()[0])
    holds = "an erased pixel" if nobodys[y, x] else f"class {int(held[:, y, x].argmax())}"
    return _Fault(
        f"At (y={y}, x={x}) the image holds {holds} and the mask says {int(named[y, x])}; "
        f"{int(wrong.sum())} of {wrong.numel()} pixels disagree.",
        _mask_cause(named, held, nobodys & wrong, own),
    )


def _mask_cause(named: Tensor, held: Tensor, unfilled: Tensor, own: int | None) -> Cause:
    if unfilled.any():
        return causes.MASK_NOT_FILLED
    if own is not None and bool((named == own).all()):
        return causes.MASK_LEFT_BEHIND
    if own is not None and bool((held[own] > 1 - 1e-3).all()):
        return causes.MASK_ALONE
    anywhere = (held.nan_to_num(0) > 1e-3).flatten(1).any(1).nonzero()[:, 0]
    if not set(named.flatten().tolist()) <= set(anywhere.tolist()):
        return causes.MASK_OTHER_SAMPLES
    return causes.MASK_ELSEWHERE


def _try_boxes(
    pipeline: Callable[..., Any], case: Case, collate: bool, min_visible: float | None
) -> _Rows:
    generator = private_generator(case.seed)
    height, width = case.size
    rects = [_draw_rectangles(case.size, generator) for _ in range(case.batch_size)]
    owners = torch.tensor([row for row, many in enumerate(rects) for _ in many], dtype=torch.int64)
    palette = draw_palette(case.batch_size + len(owners), 3, case.dtype, generator)
    background, colours = palette[: case.batch_size], palette[case.batch_size :]
    images = background[:, :, None, None].expand(-1, -1, height, width).contiguous()
    targets, number = [], 0
    for row, many in enumerate(rects):
        labels = torch.arange(number, number + len(many))
        for (x1, y1, x2, y2), label in zip(many, labels, strict=True):
            images[row, :, y1:y2, x1:x2] = colours[label][:, None, None]
        boxes = torch.tensor(many, dtype=torch.float32).reshape(-1, 4)
        canvas = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=case.size)
        targets.append({"boxes": canvas, "labels": labels})
        number += len(many)
    areas = [(x2 - x1) * (y2 - y1) for many in rects for x1, y1, x2, y2 in many]

    images, targets = call(pipeline, case, tv_tensors.Image(images), targets, collate=collate)
    if not isinstance(targets, (list, tuple)) or len(targets) != len(images):
        raise TypeError("pipeline must return one target dict per image in a list.")
    pixels, units = to_unit(images), to_unit(colours[:, :, None, None])[:, :, 0, 0]
    seen, index = _distinct_colours(pixels)
    # Objects are numbered from 1; 0 is the background, and whatever hides objects.
    tolerance = 1.5 * max(colour_tolerance(d) for d in (case.dtype, images.dtype))
    near = (seen[:, None] - units).abs().amax(2) <= min(tolerance, 1 / 255)
    numbers = (near * torch.arange(1, len(units) + 1)).sum(1)[index]
    faults, mixed = [], 0
    for row, target in enumerate(targets):
        there = numbers[row][numbers[row] > 0] - 1
        mixed += int(len(set(owners[there].tolist())) > 1)
        fault = _box_fault(numbers[row], areas, target, min_visible)
        faults.append(None if fault is None else _Fault(fault, causes.BOXES_BEHIND))
    return _Rows(faults, mixed)


def _draw_rectangles(
    size: tuple[int, int], generator: torch.Generator
) -> list[tuple[int, int, int, int]]:
    """Draw up to one rectangle in each quarter of the image, so that none covers another."""
    half_h, half_w = size[0] // 2, size[1] // 2
    drawn = []
    for top, left in ((0, 0), (0, half_w), (half_h, 0), (half_h, half_w)):
        if torch.rand((), generator=generator) < 0.5:
            continue
        y1, x1 = (int(torch.randint(h - 1, (), generator=generator)) for h in (half_h, half_w))
        tall = 1 + int(torch.randint(half_h - y1, (), generator=generator))
        wide = 1 + int(torch.randint(half_w - x1, (), generator=generator))
        drawn.append((left + x1, top + y1, left + x1 + wide, top + y1 + tall))
    return drawn


def _box_fault(
    numbers: Tensor, areas: list[int], target: Any, min_visible: float | None
) -> str | None:
    """Compare a target's boxes with the tight boxes of (H, W) object numbers, counted from 1."""
    boxes, labels = target["boxes"], target["labels"].tolist()
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = v2.functional.convert_bounding_box_format(
            boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY
        )
    if len(boxes) != len(labels):
        return f"There are {len(boxes)} boxes and {len(labels)} labels."
    if len(set(labels)) != len(labels):
        return f"An object is listed twice: labels {labels}."
    listed = dict(zip(labels, boxes.to(torch.float64).tolist(), strict=True))
    counts = numbers.flatten().bincount(minlength=len(areas) + 1)[1:].tolist()
    for label, (count, area) in enumerate(zip(counts, areas, strict=True)):
        share = count / area
        if label not in listed:
            if share >= 1 or (min_visible is not None and share > 0 and share >= min_visible):
                return f"Object {label} is {share:.0%} visible but not listed."
            continue
        if share == 0:
            return f"Object {label} is listed but no pixel of it is there: its box was left behind."
        if min_visible is not None and share < min_visible:
            return f"Object {label} is listed but only {share:.0%} of it is visible."
        ys, xs = (numbers == label + 1).nonzero(as_tuple=True)
        tight = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        if max(abs(a - b) for a, b in zip(listed[label], tight, strict=True)) > 1e-3:
            return f"Object {label} is seen in {tight} but its box is {listed[label]} (XYXY)."
    return None
