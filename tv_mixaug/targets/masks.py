"""Segmentation masks: class ids that follow the pixels and are never blended as numbers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tv_mixaug._tv_tensors import rewrap, unwrap
from tv_mixaug._validation import ensure
from tv_mixaug.batch.spec import BatchOptions, FieldSpec, Mix, ParsedBatch
from tv_mixaug.engine.apply import apply_plan
from tv_mixaug.engine.plan import BLEND, NONE, PASTE, Plan, compact
from tv_mixaug.engine.sampling import constants


def mix_masks(value: Any, field: FieldSpec, mix: Mix) -> Any:
    """Mix class ids, or (B, K, ...) float planes from a mix before.

    With ``masks="soft"`` the result is (B, K, ...) float32 planes in any case, which are 0 where a
    pixel has no label; otherwise a blend takes the mask of the larger weight.
    """
    plan, options, masks = mix.compact, mix.options, unwrap(value)
    axes: Sequence[int] = field.axes
    fill: Any = options.mask_fill
    if options.masks == "soft":
        count, ignored = int(options.num_mask_classes or 0), options.ignore_index
        if masks.is_floating_point():  # perhaps planes that an earlier step of a chain made
            axes = [axis + masks.ndim - len(field.shape) for axis in axes]
        else:
            channel_axis = field.channel_axis
            index = masks if channel_axis is None else masks.squeeze(channel_axis)
            axes = [axis + 1 - (channel_axis is not None and axis > channel_axis) for axis in axes]
            classes = torch.arange(count, device=masks.device).view(1, -1, *[1] * (index.ndim - 1))
            known = index[:, None] == classes
            known = known if ignored is None else known & (classes != ignored)
            masks = known.to(torch.float32)
        if fill is not None:
            fill = tuple(float(k == fill != ignored) for k in range(count))
        return rewrap(apply_plan(masks, plan, fill, axes, 1), value)
    if BLEND in plan.ops:
        plan = compact(_by_majority(plan.plan(masks.device), masks, axes))
    mixed = apply_plan(masks, plan, fill, axes)
    return value if mixed is masks else rewrap(mixed, value)


def check_mask_values(
    value: Tensor, field: FieldSpec, batch: ParsedBatch, options: BatchOptions
) -> None:
    """Raise unless soft masks are class ids or planes of them; not on a GPU, which would wait."""
    if options.masks != "soft":
        return
    masks, name = unwrap(value), f"masks at {field.where}"
    count = int(options.num_mask_classes or 0)
    if masks.is_floating_point():
        fits = masks.ndim > 3 and masks.shape[1] == count
        # Sums of weights may be a little above 1.
        fits &= not masks.is_cpu or bool(((masks >= 0) & (masks <= 1.001)).all())
        expected = f"integers, or (B, {count}, ...) planes in [0, 1] from a mix before"
        ensure(fits, name, expected, (masks.dtype, tuple(masks.shape)))
    elif masks.is_cpu:
        wrong = (masks < 0) | (masks >= count)
        if options.ignore_index is not None:
            wrong &= masks != options.ignore_index
        if bool(wrong.any()):
            got = f"{int(masks[wrong][0])}; pass the id of unlabelled pixels as ignore_index="
            raise ValueError(f"{name} must be in [0, {count}), got {got}.")


def _by_majority(plan: Plan, masks: Tensor, axes: Sequence[int]) -> Plan:
    """Turn blends into pastes of the whole mask of the partner, or into nothing."""
    blended, dims = plan.op == BLEND, plan.boxes.shape[-1] // 2
    sides = [masks.shape[axis] for axis in axes[-dims:]]
    whole = constants((0,) * dims + tuple(sides[::-1]), torch.int64, plan.op.device)
    op = torch.where(blended, torch.where(plan.lam >= 0.5, NONE, PASTE), plan.op).to(torch.uint8)
    boxes = torch.where((blended & (op == PASTE))[:, None, None], whole, plan.boxes)
    return plan._replace(op=op, boxes=boxes)
