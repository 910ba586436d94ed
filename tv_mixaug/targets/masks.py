"""Segmentation masks: class ids that follow pixels, and are never blended as numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from tv_mixaug._validation import ensure
from tv_mixaug.engine.sampling import constants
from tv_mixaug.engine.apply import apply_plan
from tv_mixaug.engine.plan import BLEND, NONE, PASTE, CompactPlan


def mix_masks(
    masks: Tensor, recipe: CompactPlan, blend: str | None, num_classes: int | None, fill: int | None
) -> Tensor:
    """Do to (B, ..., H, W) class ids, or float planes from a mix before, what a plan did to images.

    Filled boxes take ``fill``, or keep what they hold if it is None. Blending is ``"soft"``: then
    (B, K, H, W) float32 planes result in any case, one for each class; ``"dominant"``: the mask of
    the larger weight; or None where nothing is blended.
    """
    if blend == "soft":
        count = int(num_classes or 0)
        planes = None if fill is None else tuple(float(k == fill) for k in range(count))
        return apply_plan(_planes(masks, count), recipe, planes, channel_axis=1)
    if BLEND in recipe.ops:
        recipe = _by_majority(recipe, masks)
    return apply_plan(masks, recipe, fill)


def check_classes(masks: Tensor, count: int, ignore_index: int | None, where: str) -> None:
    """Raise unless masks are class ids or planes of them; on a GPU values are not looked at."""
    masks, name = masks.as_subclass(Tensor), f"masks at {where}"
    if masks.is_floating_point():
        fits = masks.ndim > 3 and masks.shape[1] == count
        # Weights that were added up may be a little above 1.
        fits &= not masks.is_cpu or bool(((masks >= 0) & (masks <= 1.001)).all())
        expected = f"integers, or (B, {count}, ...) planes in [0, 1] from a mix before"
        ensure(fits, name, expected, f"{masks.dtype} of shape {tuple(masks.shape)}")
    elif masks.is_cpu:
        wrong = (masks < 0) | (masks >= count)
        if ignore_index is not None:
            wrong &= masks != ignore_index
        if bool(wrong.any()):
            raise ValueError(
                f"{name} must be in [0, {count}), got {int(masks[wrong][0])}; name the value of "
                "unlabelled pixels with ignore_index=."
            )


def _planes(masks: Tensor, count: int) -> Tensor:
    """Return (B, K, ...) float32 planes; a pixel without a label is 0 in all of them."""
    if masks.is_floating_point():
        return masks  # planes already, from a mix before
    index = masks if masks.ndim == 4 and masks.shape[1] == 1 else masks[:, None]
    classes = torch.arange(count, device=masks.device)
    return (index == classes.view(1, -1, *[1] * (index.ndim - 2))).to(torch.float32)


def _by_majority(recipe: CompactPlan, masks: Tensor) -> CompactPlan:
    """Turn blends into pastes: of all of the partner's mask, or of nothing."""
    plan = recipe.plan()
    blended = plan.op == BLEND
    dims = plan.boxes.shape[-1] // 2
    whole = constants((0,) * dims + masks.shape[-dims:][::-1], torch.int64, plan.op.device)
    op = torch.where(blended, torch.where(plan.lam >= 0.5, NONE, PASTE), plan.op).to(torch.uint8)
    boxes = torch.where((blended & (op == PASTE))[:, None, None], whole, plan.boxes)
    return CompactPlan.of(plan._replace(op=op, boxes=boxes))
