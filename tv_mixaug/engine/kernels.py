"""Kernels: what blend, paste and fill are, as pure functions of tensors, without plan or state.

They take any device and any trailing shape, are differentiable, compile with ``fullgraph=True``
and never make a GPU wait: shapes are checked, values are not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tv_mixaug._validation import check_fill
from tv_mixaug.engine.sampling import constants

Bytes = npt.NDArray[np.uint8]
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
    check_batch(images, partner)
    check_blend(images)
    _check_rows("lam", lam, images, "floating point")
    if images.dtype == torch.uint8 and images.is_cpu and not torch.compiler.is_compiling():
        # A batch on the CPU is blended by OpenCV everywhere, so that all ways give the same bits.
        pixels, out = images.numpy(), np.empty(images.shape, np.uint8)
        for row, (other, own_weight) in enumerate(zip(partner.tolist(), lam.tolist(), strict=True)):
            blend_bytes(pixels[row], pixels[other], own_weight, out[row])
        return torch.from_numpy(out)
    return blend(images, images[partner.to(images.device, non_blocking=True)], column(lam, images))


def cutmix(
    images: Tensor, partner: Tensor, boxes: Tensor, *, axes: Sequence[int] | None = None
) -> Tensor:
    """Paste each sample's box from its partner, at the same place.

    From "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"
    (Yun et al., 2019).

    Args:
        images: (B, ..., H, W), or (B, ..., D, H, W) with cuboids; any dtype.
        partner: (B,) int64, values in [0, B).
        boxes: (B, 4) or (B, N, 4) int64 pixels x1, y1, x2, y2, half-open; 6 columns x1, y1, z1, x2,
            y2, z2 for cuboids.
        axes: The axes of ``images`` that the boxes cut, slowest first; by default the last 2 or 3.

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
    check_batch(images, partner)
    inside = inside_boxes(images, boxes, axes)
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
    inside = inside_boxes(images, boxes, axes)
    if isinstance(fill, str):
        raise TypeError(f"fill must be a number, a sequence or a tensor, got {fill!r}.")
    if not isinstance(fill, Tensor):
        fill = fill_tensor(check_fill(fill), images)
    check_broadcast(fill, images)
    return torch.where(inside, fill.to(images.device, images.dtype, non_blocking=True), images)


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
    _check_rows("partner", partner, labels, "int64")
    _check_rows("lam", lam, labels, "floating point")
    own = labels.to(torch.float32)
    partner = partner.to(own.device, non_blocking=True)
    return torch.lerp(own, own.index_select(0, partner), column(lam, own))


# --- What the kernels are made of ----------------------------------------------------------------


def blend(own: Tensor, other: Tensor, weight: float | Tensor, out: Tensor | None = None) -> Tensor:
    """Interpolate from ``own`` to ``other``, in float32 or wider; integers are rounded to nearest.

    Args:
        own: Any floating point dtype, or uint8.
        other: The same.
        weight: The share of ``other``: a number, or a float32 or float64 tensor that broadcasts.
        out: Where the result goes; new memory by default.
    """
    if own.dtype == torch.uint8:
        # What is stored as an integer loses its fraction: half a grey level rounds it to nearest.
        if isinstance(weight, float) and torch.get_default_dtype() != torch.float32:
            # Integers and numbers would be computed in that dtype.
            weight = torch.full((), weight, dtype=torch.float32, device=own.device)
        if isinstance(weight, float):
            mixed = torch.rsub(other, 0.5, alpha=-weight).add_(own, alpha=1 - weight)
        else:
            half = torch.full((), 0.5, dtype=weight.dtype, device=own.device)
            mixed = torch.addcmul(half, other, weight).addcmul_(own, 1 - weight)
    elif isinstance(weight, float) or weight.dtype == own.dtype:
        return torch.lerp(own, other, weight, out=out)
    else:
        mixed = own.to(weight.dtype).lerp(other.to(weight.dtype), weight)
    return mixed.to(own.dtype) if out is None else out.copy_(mixed)


def blend_bytes(own: Bytes, other: Bytes, lam: float, out: Bytes) -> None:
    """Blend uint8 arrays into ``out``, which is contiguous, rounded to nearest."""
    from cv2 import addWeighted  # slow to import, and only uint8 needs it

    addWeighted(own.reshape(1, -1), lam, other.reshape(1, -1), 1 - lam, 0.0, out.reshape(1, -1))


def column(lam: Tensor, images: Tensor) -> Tensor:
    """Return the partners' weights on the images' device, to be broadcast to their samples."""
    wide = torch.float64 if images.dtype == torch.float64 else torch.float32
    weight = 1 - lam.to(images.device, wide, non_blocking=True)
    return weight.view(-1, *[1] * (images.ndim - 1))


def cut_axes(ndim: int, boxes: Any, axes: Sequence[int] | None) -> tuple[int, ...]:
    """Return the axes that boxes cut, slowest first: as given, or the last ones."""
    dims = boxes.shape[-1] // 2
    return tuple(axis % ndim for axis in (range(-dims, 0) if axes is None else axes))


def inside_boxes(images: Tensor, boxes: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Return the bool mask of (B, 2 d) or (B, N, 2 d) boxes, to be broadcast to ``images``.

    Raises:
        TypeError: If boxes or axes are of the wrong kind.
        ValueError: If shapes do not agree.
    """
    check_boxes(images, boxes, axes)
    boxes = boxes.to(images.device, non_blocking=True)
    boxes = boxes[:, None] if boxes.ndim == 2 else boxes
    dims, sides = boxes.shape[-1] // 2, []
    for place, axis in enumerate(cut_axes(images.ndim, boxes, axes)):
        corner = dims - 1 - place  # the axes run from slow to fast, the corners start with x
        at = torch.arange(images.shape[axis], device=images.device)
        on_axis = (at >= boxes[..., corner, None]) & (at < boxes[..., dims + corner, None])
        shape = [1] * (images.ndim - 1)
        shape[axis - 1] = images.shape[axis]
        sides.append(on_axis.view(*boxes.shape[:2], *shape))
    inside = functools.reduce(torch.logical_and, sides)
    return inside[:, 0] if boxes.shape[1] == 1 else inside.any(1)


def fill_tensor(fill: float | Sequence[float], images: Tensor, channel_axis: int = -3) -> Tensor:
    """Return a number, or a value for each index of an axis, as a tensor to be broadcast."""
    check_fits("fill", fill, images.dtype)
    if not isinstance(fill, Sequence):
        return torch.full((), fill, dtype=images.dtype, device=images.device)
    values = constants(fill, images.dtype, images.device)
    return values.view(-1, *[1] * (images.ndim - 1 - channel_axis % images.ndim))


def noise(seeds: Tensor, images: Tensor, fill: str, channel_axis: int = -3) -> Tensor:
    """Make noise of seeds for a whole batch, on its device and without a look at values.

    A value depends on its sample's seed and on its place in the sample alone: both go through two
    rounds of an integer hash.

    Args:
        seeds: (B,) int64, >= 0.
        images: (B, ...) of the dtype and on the device wanted.
        fill: "noise": a value for each pixel and channel; "color": one for each channel.
        channel_axis: The axis of the channels.

    Returns:
        A tensor of the images' dtype that broadcasts to them: uniform over 0 to 255 for uint8,
        standard normal for floating point.
    """
    shape = list(images.shape)
    if fill == "color":
        shape[1:] = [n if a == channel_axis % len(shape) else 1 for a, n in enumerate(shape)][1:]
    low, high = ((seeds >> by & 0x7FFFFFFF).to(torch.int32)[:, None] for by in (0, 31))
    places = torch.arange(math.prod(shape[1:]), dtype=torch.int32, device=images.device)
    bits = _scramble(_scramble(places + low) ^ high).view(shape)
    if not images.is_floating_point():
        return (bits & 0xFF).to(images.dtype)
    uniform = ((bits >> 8 & 0xFFFFFF).to(torch.float32) + 0.5) * 2**-23 - 1  # in (-1, 1)
    return (torch.erfinv(uniform) * math.sqrt(2)).to(images.dtype)


def _scramble(bits: Tensor) -> Tensor:
    """Hash int32, each bit of the result by all of the argument's; products wrap."""
    bits = (bits ^ (bits >> 16 & 0xFFFF)) * 0x21F0AAAD
    bits = (bits ^ (bits >> 15 & 0x1FFFF)) * 0x735A2D97
    return bits ^ (bits >> 15 & 0x1FFFF)


# --- Checks: of kinds and shapes, never of a tensor's values ------------------------------------


def check_fits(name: str, value: float | Sequence[float], dtype: torch.dtype) -> None:
    """Raise unless a dtype holds a number, or each of several."""
    if dtype.is_complex:
        return
    whole = not dtype.is_floating_point
    low, high = 0.0, 1.0
    if dtype != torch.bool:
        info = torch.iinfo(dtype) if whole else torch.finfo(dtype)
        low, high = info.min, info.max
    for one in value if isinstance(value, (list, tuple)) else (value,):
        if not low <= one <= high or (whole and one != int(one)):
            limits = f"an integer in [{low:.0f}, {high:.0f}]" if whole else f"within ±{high}"
            raise ValueError(f"{name} must be {limits} for {_short(dtype)}, got {value}.")


def check_batch(images: Any, partner: Any, name: str = "partner") -> None:
    """Raise unless images and partners belong together."""
    _check_tensor("images", images)
    _check_rows(name, partner, images, "int64")


def check_blend(images: Tensor) -> None:
    """Raise unless images are of a dtype that can be blended."""
    if images.dtype not in MIXED_DTYPES:
        raise TypeError(
            "images must be uint8, float16, bfloat16, float32 or float64, "
            f"got {_short(images.dtype)}; blending would make no sense of it."
        )


def check_boxes(images: Tensor, boxes: Any, axes: Any) -> None:
    """Raise unless boxes and the axes that they cut fit the images."""
    _check_boxes(boxes, images)
    _check_axes(axes, boxes, images)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}.")
    if value.ndim == 0:
        raise ValueError(f"{name} must have a batch axis, got a tensor without axes.")


def _check_rows(name: str, value: Any, batch: Tensor, kind: str) -> None:
    """Raise unless a value is a tensor of (B,) numbers of a kind."""
    _check_tensor(name, value)
    if not (value.dtype == torch.int64 if kind == "int64" else value.is_floating_point()):
        raise TypeError(f"{name} must be {kind}, got {_short(value.dtype)}.")
    if value.shape != batch.shape[:1]:
        raise ValueError(f"{name} must be of shape ({batch.shape[0]},), got {tuple(value.shape)}.")


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


def check_broadcast(fill: Tensor, images: Tensor) -> None:
    """Raise unless a fill broadcasts to the images without making them larger."""
    sides = images.shape[max(0, images.ndim - fill.ndim) :]
    if len(sides) != fill.ndim or not all(
        one in (1, side) for one, side in zip(fill.shape, sides, strict=True)
    ):
        raise ValueError(
            f"fill must broadcast to images of shape {tuple(images.shape)}, got shape "
            f"{tuple(fill.shape)}."
        )


def _check_boxes(boxes: Any, batch: Tensor) -> None:
    _check_tensor("boxes", boxes)
    if boxes.dtype != torch.int64:
        raise TypeError(f"boxes must be int64, got {_short(boxes.dtype)}.")
    if boxes.ndim not in (2, 3) or boxes.shape[-1] not in (4, 6):
        raise ValueError(
            "boxes must be of shape (B, 4), (B, 6), (B, N, 4) or (B, N, 6), got "
            f"{tuple(boxes.shape)}."
        )
    if boxes.shape[0] != batch.shape[0]:
        raise ValueError(f"boxes must have {batch.shape[0]} rows, got {boxes.shape[0]}.")
    if batch.ndim <= boxes.shape[-1] // 2:
        raise ValueError(
            f"images must have a batch axis and {boxes.shape[-1] // 2} axes to cut, "
            f"got shape {tuple(batch.shape)}."
        )
