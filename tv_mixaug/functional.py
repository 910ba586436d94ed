"""Kernels: pure functions of tensors and plan fields, without randomness or state.

They take any device and any trailing shape, are differentiable, compile with ``fullgraph=True``
and never make a GPU wait: shapes are checked, values are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tv_mixaug import execute as rows
from tv_mixaug import plans
from tv_mixaug.arguments import check_fill
from tv_mixaug.plans import Plan

__all__ = ["cutmix", "cutout", "mix_labels", "mixup", "replay"]

MIXED_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def mixup(images: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
    """Blend every sample with its partner: ``lam * own + (1 - lam) * partner``.

    From "mixup: Beyond Empirical Risk Minimization" (Zhang et al., 2018).

    Args:
        images: (B, ...) uint8, float16, bfloat16, float32 or float64.
        partner: (B,) int64, values in [0, B).
        lam: (B,) float, values in [0, 1]: the weight of the own sample.

    Returns:
        A new tensor like ``images``. The sum is computed in float32 or wider; uint8 is rounded to
        the nearest value.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If ``partner`` or ``lam`` is not (B,).

    Example:
        >>> images = torch.tensor([[0.0], [1.0]])
        >>> mixup(images, torch.tensor([1, 0]), torch.tensor([0.75, 0.5])).tolist()
        [[0.25], [0.5]]
    """
    _check_tensor("images", images)
    _check_index("partner", partner, images)
    _check_lam(lam, images)
    if images.dtype not in MIXED_DTYPES:
        raise TypeError(
            "images must be uint8, float16, bfloat16, float32 or float64, "
            f"got {_short(images.dtype)}; blending would make no sense of it."
        )
    partner = partner.to(images.device, non_blocking=True)
    if images.dtype == torch.uint8 and images.is_cpu and not torch.compiler.is_compiling():
        # The rows of a collated batch are blended by OpenCV; a replay has to give the same bits.
        out = torch.empty_like(images)
        rows.blend_rows(images, partner.tolist(), lam.tolist(), out)
        return out
    wide = torch.float64 if images.dtype == torch.float64 else torch.float32
    weight = 1 - lam.to(images.device, wide, non_blocking=True)
    own = images.to(wide)
    mixed = torch.lerp(own, own[partner], weight.view(-1, *[1] * (images.ndim - 1)))
    return (
        mixed.to(images.dtype) if images.dtype.is_floating_point else mixed.round().to(images.dtype)
    )


def cutmix(
    images: Tensor, partner: Tensor, boxes: Tensor, *, axes: Sequence[int] | None = None
) -> Tensor:
    """Paste each sample's box from its partner, at the same place.

    From "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"
    (Yun et al., 2019).

    Args:
        images: (B, ..., H, W), or (B, ..., D, H, W) with cuboids; any dtype.
        partner: (B,) int64, values in [0, B).
        boxes: (B, 4) int64 pixels x1, y1, x2, y2, or (B, 6) x1, y1, z1, x2, y2, z2; half-open.
        axes: The axes of ``images`` that the box cuts, slowest first; by default the last 2 or 3.

    Returns:
        A new tensor like ``images``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If shapes do not agree.

    Example:
        >>> images = torch.tensor([[[1, 1]], [[2, 2]]])  # two pictures, 1 x 2 pixels
        >>> boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
        >>> cutmix(images, torch.tensor([1, 0]), boxes).tolist()
        [[[2, 1]], [[2, 2]]]
    """
    _check_tensor("images", images)
    _check_index("partner", partner, images)
    _check_boxes(boxes, images, holes=False)
    _check_axes(axes, boxes, images)
    inside = rows.inside_boxes(images, boxes, rows.cut_axes(images.ndim, boxes, axes))
    return torch.where(inside, images[partner.to(images.device, non_blocking=True)], images)


def cutout(
    images: Tensor,
    boxes: Tensor,
    fill: float | Sequence[float] | Tensor = 0.0,
    *,
    axes: Sequence[int] | None = None,
) -> Tensor:
    """Overwrite each sample's boxes with ``fill``.

    From "Improved Regularization of Convolutional Neural Networks with Cutout"
    (DeVries and Taylor, 2017).

    Args:
        images: (B, C, H, W) or any (B, ..., H, W); any dtype.
        boxes: (B, 4) int64 pixels x1, y1, x2, y2, half-open, or (B, N, 4) for N holes; 6 columns
            for cuboids.
        fill: A number, a value for each channel (the third axis from the end for a sequence), or
            a tensor that broadcasts to ``images``.
        axes: The axes of ``images`` that the boxes cut, slowest first; by default the last 2 or 3.

    Returns:
        A new tensor like ``images``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If shapes do not agree.

    Example:
        >>> cutout(torch.ones(1, 1, 1, 3), torch.tensor([[0, 0, 2, 1]]), fill=0.5).tolist()
        [[[[0.5, 0.5, 1.0]]]]
    """
    _check_tensor("images", images)
    _check_boxes(boxes, images, holes=True)
    _check_axes(axes, boxes, images)
    if isinstance(fill, str):
        raise TypeError(f"fill must be a number, a sequence or a tensor, got {fill!r}.")
    if not isinstance(fill, Tensor):
        fill = torch.tensor(check_fill(fill), dtype=images.dtype, device=images.device)
        if fill.ndim == 1:
            fill = fill[:, None, None]
    _check_broadcast(fill, images)
    fill = fill.to(images.device, images.dtype, non_blocking=True)
    inside = torch.zeros((), dtype=torch.bool, device=images.device)
    for hole in boxes.unbind(1) if boxes.ndim == 3 else (boxes,):
        inside = inside | rows.inside_boxes(images, hole, rows.cut_axes(images.ndim, hole, axes))
    return torch.where(inside, fill, images)


def mix_labels(labels: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
    """Mix label rows: ``lam * own + (1 - lam) * partner``.

    Args:
        labels: (B, K) one-hot, multi-hot or soft labels, or any (B, ...) targets to be mixed
            linearly, of any real dtype.
        partner: (B,) int64, values in [0, B).
        lam: (B,) float in [0, 1].

    Returns:
        A new float32 tensor in the shape of ``labels``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If ``partner`` or ``lam`` is not (B,).

    Example:
        >>> mix_labels(torch.eye(2), torch.tensor([1, 0]), torch.tensor([0.75, 0.5])).tolist()
        [[0.75, 0.25], [0.5, 0.5]]
    """
    _check_tensor("labels", labels)
    _check_index("partner", partner, labels)
    _check_lam(lam, labels)
    own = labels.float()
    weight = lam.to(own.device, torch.float32, non_blocking=True).view(-1, *[1] * (own.ndim - 1))
    partner = partner.to(own.device, non_blocking=True)
    return torch.lerp(own, own.index_select(0, partner), 1 - weight)


def replay(
    images: Tensor,
    plan: Plan,
    fill: float | Sequence[float] | str | Tensor = 0.0,
    *,
    axes: Sequence[int] | None = None,
) -> Tensor:
    """Do to another tensor what a recorded plan did to the batch.

    Args:
        images: (B, ...) tensor that belongs to the same samples: a second view, features, a depth
            map. For cut plans its last axes are those of the images, in the same size.
        plan: The recorded plan, on any device.
        fill: What Cutout's holes take: a number, a value for each channel, a tensor that
            broadcasts to ``images``, or ``"noise"``.
        axes: The axes that boxes cut; by default the last 2 or 3.

    Returns:
        A new tensor, bit for bit what the transform makes of the same values on the same device.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If shapes do not agree.

    Example:
        >>> plan = plans.identity_plan(2)
        >>> replay(torch.eye(2), plan).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be a Plan, got {type(plan).__name__}.")
    _check_tensor("images", images)
    if isinstance(fill, str):
        check_fill(fill)
    _check_index("plan.partner", plan.partner, images)
    op = plan.op.to(images.device, non_blocking=True)
    held = range(4) if _values_unknown(plan.op) else set(plan.op.tolist())
    out = images.clone()
    if plans.MIXUP in held:
        out = mixup(images, plan.partner, torch.where(plan.op == plans.MIXUP, plan.lam, 1.0))
    for code in (plans.CUTMIX, plans.CUTOUT):
        if code not in held or (code == plans.CUTMIX and plan.boxes.ndim == 3):
            continue
        cut = (op == code).view(-1, *[1] * (images.ndim - 1))
        if code == plans.CUTMIX:
            done = cutmix(images, plan.partner, plan.boxes, axes=axes)
        elif isinstance(fill, str):
            done = out.clone()
            rows.fill_boxes(done, plan, "noise", rows.cut_axes(done.ndim, plan.boxes, axes))
        else:
            done = cutout(images, plan.boxes, fill, axes=axes)
        out = torch.where(cut, done, out)
    return out


def _values_unknown(tensor: Tensor) -> bool:
    return not tensor.is_cpu or torch.compiler.is_compiling()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}.")
    if value.ndim == 0:
        raise ValueError(f"{name} must have a batch axis, got a tensor without axes.")


def _check_index(name: str, value: Any, batch: Tensor) -> None:
    _check_tensor(name, value)
    if value.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {_short(value.dtype)}.")
    if value.shape != batch.shape[:1]:
        raise ValueError(f"{name} must be of shape ({batch.shape[0]},), got {tuple(value.shape)}.")


def _check_lam(lam: Any, batch: Tensor) -> None:
    _check_tensor("lam", lam)
    if not lam.is_floating_point():
        raise TypeError(f"lam must be floating point, got {_short(lam.dtype)}.")
    if lam.shape != batch.shape[:1]:
        raise ValueError(f"lam must be of shape ({batch.shape[0]},), got {tuple(lam.shape)}.")


def _check_axes(axes: Any, boxes: Tensor, batch: Tensor) -> None:
    if axes is None:
        return
    dims = boxes.shape[-1] // 2
    if not isinstance(axes, (tuple, list)) or not all(type(axis) is int for axis in axes):
        raise TypeError(f"axes must be a tuple of {dims} ints, got {axes!r}.")
    places = {axis % batch.ndim for axis in axes if -batch.ndim <= axis < batch.ndim}
    if len(axes) != dims or len(places) != dims or 0 in places:
        raise ValueError(
            f"axes must be {dims} different axes of images of shape {tuple(batch.shape)} behind "
            f"the first, got {axes!r}."
        )


def _check_broadcast(fill: Tensor, images: Tensor) -> None:
    sides = images.shape[max(0, images.ndim - fill.ndim) :]
    if len(sides) != fill.ndim or not all(
        one in (1, side) for one, side in zip(fill.shape, sides, strict=True)
    ):
        raise ValueError(
            f"fill must broadcast to images of shape {tuple(images.shape)}, got shape "
            f"{tuple(fill.shape)}."
        )


def _check_boxes(boxes: Any, batch: Tensor, *, holes: bool) -> None:
    _check_tensor("boxes", boxes)
    if boxes.dtype != torch.int64:
        raise TypeError(f"boxes must be int64, got {_short(boxes.dtype)}.")
    many = boxes.ndim == 3 and holes
    if not (boxes.ndim == 2 or many) or boxes.shape[-1] not in (4, 6):
        kinds = "(B, 4), (B, 6), (B, N, 4) or (B, N, 6)" if holes else "(B, 4) or (B, 6)"
        raise ValueError(f"boxes must be of shape {kinds}, got {tuple(boxes.shape)}.")
    if boxes.shape[0] != batch.shape[0]:
        raise ValueError(f"boxes must have {batch.shape[0]} rows, got {boxes.shape[0]}.")
    if batch.ndim <= boxes.shape[-1] // 2:
        raise ValueError(
            f"images must have a batch axis and {boxes.shape[-1] // 2} axes to cut, "
            f"got shape {tuple(batch.shape)}."
        )
