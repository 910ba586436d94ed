"""Kernels, the replay of a plan, and the region that it mixes: pure functions of tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tv_mixaug._validation import check_fill, ensure
from tv_mixaug.engine import kernels
from tv_mixaug.engine.apply import Fill, apply_plan
from tv_mixaug.engine.kernels import cutmix, cutout, mix_labels, mixup
from tv_mixaug.engine.plan import BLEND, FILL, PASTE, Plan, compact, resize_plan

__all__ = ["cutmix", "cutout", "mix_labels", "mixup", "region_mask", "replay"]


def replay(
    images: Tensor,
    plan: Plan,
    fill: Fill = 0.0,
    *,
    axes: Sequence[int] | None = None,
    channel_axis: int | None = -3,
) -> Tensor:
    """Apply a recorded plan to another tensor of the same batch.

    Args:
        images: (B, ...) tensor that belongs to the same samples: a second view, features, a depth
            map. Plans with boxes cut its last axes, in a size to which the boxes scale exactly.
        plan: The recorded plan, on any device.
        fill: What filled boxes take: a number, a value for each channel, a tensor that broadcasts
            to ``images``, ``"noise"`` or ``"color"`` from the plan's seeds, or None to leave them
            unchanged.
        axes: The axes that boxes cut; by default the last 2 or 3.
        channel_axis: The axis of the channels, which a fill has values for; None if there is none,
            as in tensors of fewer than four axes.

    Returns:
        A new tensor, equal bit for bit to what the transform returns on the same device.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If shapes do not agree.

    Example:
        >>> from tv_mixaug.engine import identity_plan
        >>> replay(torch.eye(2), identity_plan(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    ensure(isinstance(plan, Plan), "plan", "a Plan", type(plan).__name__, TypeError)
    if not (fill is None or isinstance(fill, Tensor)):
        fill = check_fill("fill", fill)
    kernels.check_tensor("images", images)
    axes_of = {"boxes": ", N, 2 d", "size": ", d"}
    names = Plan._fields[:5] if plan.size is None else Plan._fields
    for name in names:  # not zip, which torch 2.6 cannot compile
        rows, others = getattr(plan, name), axes_of.get(name, ",")
        got = tuple(getattr(rows, "shape", ())) or type(rows).__name__
        fits = isinstance(rows, Tensor) and rows.ndim == 1 + others.count(", ")
        fits, expected = fits and len(rows) == len(images), f"a tensor of shape ({{}}{others})"
        ensure(fits, f"plan.{name}", expected, got, ValueError, len(images))
    kernels.check_rows("plan.partner", plan.partner, images, "int64")
    applied = compact(plan)
    if applied.known and BLEND in applied.ops:
        kernels.check_blend(images)
    if PASTE in applied.ops or FILL in applied.ops:
        kernels.check_boxes(images, plan.boxes, axes)
        cut = range(-plan.boxes.shape[-1] // 2, 0) if axes is None else axes
        applied = compact(resize_plan(plan, [images.shape[axis] for axis in cut]))
    if isinstance(fill, Tensor):
        kernels.check_broadcast(fill, images)
    mixed = apply_plan(images, applied, fill, axes, channel_axis if images.ndim > 3 else None)
    return images.clone() if mixed is images else mixed


def region_mask(plan: Plan, size: Sequence[int]) -> Tensor:
    """Return the weight M of the originals: ``out = M * original + (1 - M) * partner``.

    Args:
        plan: The :class:`~tv_mixaug.engine.plan.Plan`.
        size: (height, width) in pixels, or (depth, height, width) for cuboids.

    Returns:
        (B, 1, H, W) or (B, 1, D, H, W) float32 in [0, 1]; its mean is lam if there are partners.

    Raises:
        ValueError: If the size has other axes than the boxes, or does not scale them exactly.

    Example:
        >>> from tv_mixaug.engine import identity_plan
        >>> region_mask(identity_plan(2), (4, 4)).mean((1, 2, 3)).tolist()
        [1.0, 1.0]
    """
    dims = plan.boxes.shape[-1] // 2
    ensure(len(size) == dims, "size", f"the {dims} sides that boxes cut", tuple(size))
    plan = resize_plan(plan, size)
    ones = torch.ones(len(plan.op), 1, *size, dtype=torch.float32, device=plan.op.device)
    op, lam = (x.view(-1, *[1] * (dims + 1)) for x in (plan.op, plan.lam))
    cut = (op == FILL) | (op == PASTE)
    weight = torch.where(op == BLEND, lam.to(torch.float32), ones)
    return torch.where(kernels.box_mask(ones, plan.boxes) & cut, 0.0, weight)
