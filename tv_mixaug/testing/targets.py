"""Check that masks and boxes follow the pixels of their images."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug._validation import check_choice, check_integer
from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing._coded import Case, coded_batch, colour_tolerance, pixel_weights, to_unit
from tv_mixaug.testing._runner import (
    Finding,
    Pipeline,
    Trial,
    TruthReport,
    all_cases,
    compare,
    describe,
)


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

    Images have one colour per sample (and per object), so the colour of a pixel tells its source.

    - `kind="masks"`: `(images, masks) -> (images, masks)`. The masks are a `Mask` (B, H, W) uint8,
      filled with the sample's class. They may be returned as class indices, which must name
      the class of the larger weight at each pixel, or as soft planes (B, K, H, W), which
      must hold the weights of each pixel.
    - `kind="boxes"`: `(images, targets) -> (images, targets)` for pipelines that cut and do not
      blend. Targets are lists of dicts with `boxes` (`BoundingBoxes`, N of them) and `labels`
      (N,), a different number for each object. Each returned box must be the tight box of
      the visible pixels of its object. Objects that are no longer visible must be missing, and
      wholly visible objects must be present.

    Args:
        pipeline: the callable under test; images are `Image` (B, 3, H, W).
        kind: kind of the targets.
        collate: whether the pipeline is a collate function of a list of `(image, target)`.
        num_classes: number of mask classes K.
        erased: whether pixels may be erased; a mask is then checked at the other pixels only.
        mask_fill: with `erased`, the value of masks at erased pixels; None: any value.
        min_visible: objects are kept if and only if at least this share of their area is visible;
            None: partly visible objects may be kept or dropped.
        batch_sizes: batch sizes to try.
        sizes: (height, width) of the images in pixels; at least 8 × 8 for boxes.
        dtypes: dtypes of the images.
        draws: calls per batch size, size and dtype.
        seed: seed of the first call; the n-th call has `seed + n`.

    Returns:
        The number of rows compared, and how many of their images hold pixels of two samples.

    Raises:
        UntruthfulError: a target does not follow its image; an `AssertionError` with the counts.

    Example:
        >>> from torchvision.transforms import v2
        >>> assert_targets_follow_images(v2.RandomHorizontalFlip(), kind="masks", draws=1).rows
        48
    """
    __tracebackhide__ = True
    run = Pipeline(pipeline, collate)
    check_choice("kind", kind, ("masks", "boxes"))
    cases = all_cases(batch_sizes, sizes, dtypes, draws, seed)
    if kind == "masks":
        check_integer("num_classes", num_classes, max(batch_sizes))
    elif min(side for size in sizes for side in size) < 8:
        raise ValueError("sizes must be at least 8 × 8 pixels for boxes, got a smaller one.")

    def attempt(case: Case) -> Trial:
        if kind == "masks":
            return _try_masks(run, case, num_classes, erased, mask_fill)
        return _try_boxes(run, case, min_visible)

    heading = f"{kind.capitalize()} do not follow their images"
    return compare(attempt, cases, heading, least_side=8 if kind == "boxes" else 1)


def _try_masks(
    run: Pipeline, case: Case, num_classes: int, erased: bool, mask_fill: int | None
) -> Trial:
    batch = coded_batch(case, num_classes)
    given = batch.classes.to(torch.uint8)[:, None, None].expand(-1, *case.size).contiguous()
    images, masks = run(tv_tensors.Image(batch.images.clone()), tv_tensors.Mask(given), case)
    if not isinstance(masks, Tensor) or masks.ndim not in (3, 4) or len(masks) != len(images):
        raise TypeError(
            "pipeline must return masks (B, H, W), (B, 1, H, W) or (B, K, H, W), "
            f"got {describe(masks)}."
        )
    masks = masks.detach().cpu().as_subclass(Tensor)
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    tolerance = 1.5 * colour_tolerance(case.dtype, images.dtype)
    pixels = to_unit(images)
    held = torch.zeros(len(pixels), num_classes, *pixels.shape[2:], dtype=torch.float64)
    held[:, batch.present] = pixel_weights(
        pixels, batch.colours[batch.present], tolerance=tolerance
    )
    foreign = held.isnan().any(1)
    held = held.nan_to_num(0)
    if masks.ndim == 4:
        named, planes = masks.argmax(1), masks.to(torch.float64)
        promised = torch.einsum("bkhw,kc->bchw", planes, batch.colours)
        bad = ((promised - pixels).abs().amax(1) > tolerance) & ~foreign
    else:
        named = masks.long()
        planes = (named[:, None] == torch.arange(num_classes)[:, None, None]).to(torch.float64)
        # Classes of almost equal weight: either may be named.
        bad = ((planes * held).sum(1) < held.amax(1) - 0.02) & ~foreign
        if mask_fill is not None:
            bad |= foreign & (named != mask_fill)

    def explain(row: int) -> Finding:
        own = int(batch.classes[row]) if len(pixels) == case.batch_size else None
        cause, sentence = _explain_mask(named[row], held[row], foreign[row], bad[row], own, erased)
        return Finding(cause, sentence, "", planes[row].mean((1, 2)), held[row].mean((1, 2)))

    mixed = int((held.flatten(2).any(2).sum(1) > 1).sum())
    gaps = (bad if erased else bad | foreign).flatten(1).double().mean(1)
    return Trial(pixels, gaps, gaps > 0, mixed, explain)


def _explain_mask(
    named: Tensor, held: Tensor, foreign: Tensor, bad: Tensor, own: int | None, erased: bool
) -> tuple[causes.Cause, str]:
    """Explain a wrong mask by the classes (H, W) it names and the weights (K, H, W) of pixels."""
    if foreign.any() and not erased:
        cause = causes.MASK_FOREIGN.of(count=int(foreign.sum()))
        return cause, "Its image has pixels that belong to no sample."
    y, x = bad.nonzero()[0].tolist()
    holds = "an erased pixel" if foreign[y, x] else f"class {int(held[:, y, x].argmax())}"
    sentence = (
        f"At (y={y}, x={x}) the image holds {holds} and the mask says {int(named[y, x])}; "
        f"{int(bad.sum())} of {bad.numel()} pixels disagree."
    )
    present = (held > 1e-3).flatten(1).any(1).nonzero()[:, 0].tolist()
    if (foreign & bad).any():
        cause = causes.MASK_NOT_FILLED
    elif own is not None and bool((named == own).all()):
        cause = causes.MASK_LEFT_BEHIND
    elif own is not None and bool((held[own] > 1 - 1e-3).all()):
        cause = causes.MASK_ALONE
    elif not set(named.flatten().tolist()) <= set(present):
        cause = causes.MASK_OTHER_SAMPLES
    else:
        cause = causes.MASK_ELSEWHERE
    return cause, sentence


def _try_boxes(run: Pipeline, case: Case, min_visible: float | None) -> Trial:
    generator, rows = random.Random(~case.seed), range(case.batch_size)
    objects = [(row, *box) for row in rows for box in _sample_rectangles(case.size, generator)]
    table = torch.tensor(objects, dtype=torch.int64).reshape(-1, 5)
    owners, corners = table[:, 0], table[:, 1:]
    # The backgrounds come first, then an image for each object, from which it is pasted.
    classes = torch.arange(case.batch_size + len(table))
    batch = coded_batch(case, len(classes), classes=classes)
    images, patches = batch.images.tensor_split([case.batch_size])
    for patch, (row, x1, y1, x2, y2) in zip(patches, objects, strict=True):
        images[row, :, y1:y2, x1:x2] = patch[:, y1:y2, x1:x2]
    targets: Any = []
    for mine in owners == torch.tensor(rows)[:, None]:
        boxes = tv_tensors.BoundingBoxes(
            corners[mine].float(), format="XYXY", canvas_size=case.size
        )
        targets.append({"boxes": boxes, "labels": mine.nonzero()[:, 0]})

    images, targets = run(tv_tensors.Image(images.clone()), targets, case)
    if not isinstance(targets, (list, tuple)) or len(targets) != len(images):
        raise TypeError("pipeline must return one target dict per image in a list.")
    pixels = to_unit(images)
    colours = batch.colours[case.batch_size :, :, None, None]
    tolerance = min(1.5 * colour_tolerance(case.dtype, images.dtype), 1 / 255)
    visible = (pixels[:, None] - colours).abs().amax(2) <= tolerance
    areas = (corners[:, 2:] - corners[:, :2]).prod(1).tolist()
    faults = [
        _box_fault(seen, areas, target, min_visible)
        for seen, target in zip(visible, targets, strict=True)
    ]
    mixed = sum(len(set(owners[seen.flatten(1).any(1)].tolist())) > 1 for seen in visible)
    gaps = torch.tensor([float(fault is not None) for fault in faults])

    def explain(row: int) -> Finding:
        return Finding(causes.BOXES_BEHIND, faults[row] or "")

    return Trial(pixels, gaps, gaps > 0, mixed, explain)


def _sample_rectangles(
    size: tuple[int, int], generator: random.Random
) -> Iterator[tuple[int, int, int, int]]:
    """Sample up to one rectangle in each quarter of the image, so that they do not overlap."""
    height, width = size[0] // 2, size[1] // 2
    for top, left in product((0, height), (0, width)):
        if generator.random() < 0.5:
            y1, y2 = sorted(generator.sample(range(top, top + height + 1), 2))
            x1, x2 = sorted(generator.sample(range(left, left + width + 1), 2))
            yield x1, y1, x2, y2


def _box_fault(
    visible: Tensor, areas: list[int], target: Any, min_visible: float | None
) -> str | None:
    """Compare the boxes of a target with the visible pixels (N, H, W) of each object."""
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
    for label, (seen, area) in enumerate(zip(visible, areas, strict=True)):
        share = int(seen.sum()) / area
        if label not in listed:
            if share >= 1 or (min_visible is not None and share > 0 and share >= min_visible):
                return f"Object {label} is {share:.0%} visible but not listed."
            continue
        if share == 0:
            return f"Object {label} is listed but no pixel of it is there: its box was left behind."
        if min_visible is not None and share < min_visible:
            return f"Object {label} is listed but only {share:.0%} of it is visible."
        ys, xs = seen.nonzero(as_tuple=True)
        tight = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        if max(abs(a - b) for a, b in zip(listed[label], tight, strict=True)) > 1e-3:
            return f"Object {label} is seen in {tight} but its box is {listed[label]} (XYXY)."
    return None
