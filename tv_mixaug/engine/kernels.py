"""Kernels: blend, paste, fill and noise as pure functions of tensors.

They take any device and any trailing shape, are differentiable, compile with ``fullgraph=True`` and
never make a GPU wait: shapes are checked, values are not.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tv_mixaug._validation import check_fill, ensure, ensure_kind
from tv_mixaug.engine.sampling import constants, is_traced

MIXED_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
# A smaller sample, in bytes, costs less than the calls that would treat it by itself.
SMALL_SAMPLE = 1 << 16


def mixup(images: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
    """Blend every sample with its partner: ``lam * original + (1 - lam) * partner``.

    From "mixup: Beyond Empirical Risk Minimization" (Zhang et al., 2018).

    Args:
        images: (B, ...) uint8, float16, bfloat16, float32 or float64.
        partner: (B,) int64, values in [0, B).
        lam: (B,) float, values in [0, 1]: the weight of the original.

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
    check_tensor("images", images)
    check_blend(images)
    check_rows("partner", partner, images, "int64")
    check_rows("lam", lam, images, "floating point")
    partners = images[partner.to(images.device, non_blocking=True)]
    return blend(images, partners, lam_column(lam, images))


def cutmix(
    images: Tensor, partner: Tensor, boxes: Tensor, *, axes: Sequence[int] | None = None
) -> Tensor:
    """Paste each sample's boxes from its partner, at the same place.

    From "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"
    (Yun et al., 2019).

    Args:
        images: (B, ..., H, W), or (B, ..., D, H, W) with cuboids; any dtype.
        partner: (B,) int64, values in [0, B).
        boxes: (B, 4) or (B, N, 4) int64 pixels x1, y1, x2, y2, half-open; 6 columns x1, y1, z1, x2,
            y2, z2 for cuboids.
        axes: The axes of ``images`` that boxes cut, slowest first; by default the last 2 or 3.

    Returns:
        A new tensor like ``images``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If shapes do not agree.

    Example:
        >>> images = torch.tensor([[[1, 1]], [[2, 2]]])  # two pictures of 1 x 2 pixels
        >>> boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
        >>> cutmix(images, torch.tensor([1, 0]), boxes).tolist()
        [[[2, 1]], [[2, 2]]]
    """
    check_tensor("images", images)
    check_rows("partner", partner, images, "int64")
    inside = box_mask(images, boxes, axes)
    return torch.where(inside, images[partner.to(images.device, non_blocking=True)], images)


def cutout(
    images: Tensor,
    boxes: Tensor,
    fill: float | Sequence[float] | Tensor = 0.0,
    *,
    axes: Sequence[int] | None = None,
) -> Tensor:
    """Fill each sample's boxes.

    From "Improved Regularization of Convolutional Neural Networks with Cutout"
    (DeVries and Taylor, 2017).

    Args:
        images: (B, C, H, W) or any (B, ..., H, W); any dtype.
        boxes: (B, 4) int64 pixels x1, y1, x2, y2, half-open, or (B, N, 4) for N holes; 6 columns
            for cuboids.
        fill: A number, a value for each channel (the third axis from the end for a sequence), or
            a tensor that broadcasts to ``images``.
        axes: The axes of ``images`` that boxes cut, slowest first; by default the last 2 or 3.

    Returns:
        A new tensor like ``images``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If shapes do not agree.

    Example:
        >>> cutout(torch.ones(1, 1, 1, 3), torch.tensor([[0, 0, 2, 1]]), fill=0.5).tolist()
        [[[[0.5, 0.5, 1.0]]]]
    """
    check_tensor("images", images)
    inside, is_text = box_mask(images, boxes, axes), isinstance(fill, str)
    ensure_kind(not is_text, "fill", "a number, a sequence or a tensor", fill)
    value = fill_tensor(fill if isinstance(fill, Tensor) else check_fill("fill", fill), images)
    return torch.where(inside, value, images)


def mix_labels(labels: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
    """Mix label rows: ``lam * original + (1 - lam) * partner``.

    Args:
        labels: (B, K) one-hot, multi-hot or soft labels, or any (B, ...) targets to be mixed
            linearly, of any real dtype.
        partner: (B,) int64, values in [0, B).
        lam: (B,) float in [0, 1].

    Returns:
        A new float32 tensor with the shape of ``labels``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If ``partner`` or ``lam`` is not (B,).

    Example:
        >>> mix_labels(torch.eye(2), torch.tensor([1, 0]), torch.tensor([0.75, 0.5])).tolist()
        [[0.75, 0.25], [0.5, 0.5]]
    """
    check_tensor("labels", labels)
    check_rows("partner", partner, labels, "int64")
    check_rows("lam", lam, labels, "floating point")
    rows = labels.to(torch.float32)
    partners = rows.index_select(0, partner.to(rows.device, non_blocking=True))
    return torch.lerp(rows, partners, 1 - lam_column(lam, rows))


# --- Parts of the kernels -----------------------------------------------------------------------


def is_small(batch: Any) -> bool:
    """Whether the samples of a batch are mixed faster together than one by one."""
    size: int = batch.shape[1:].numel() * batch.dtype.itemsize
    return size < SMALL_SAMPLE


def lam_column(lam: Tensor, images: Tensor) -> Tensor:
    """Return (B,) weights in float32 or wider, where the images are and broadcastable to them."""
    wide = torch.float64 if images.dtype == torch.float64 else torch.float32
    return lam.to(images.device, wide, non_blocking=True).view(-1, *[1] * (images.ndim - 1))


def blend(
    images: Tensor, partners: Tensor, lam: float | Tensor, out: Tensor | None = None
) -> Tensor:
    """Return ``lam * images + (1 - lam) * partners``, computed in float32 or wider.

    ``lam`` is a number, or a float32 or float64 tensor that broadcasts to the images.
    """
    if images.dtype == torch.uint8 and images.is_cpu and not is_traced():
        mixed = _blend_host_bytes(images, partners, lam, out)
    elif images.dtype == torch.uint8:
        mixed = _blend_bytes(images, partners, lam)
    elif isinstance(lam, float) or lam.dtype == images.dtype:
        return torch.lerp(images, partners, 1 - lam, out=out)
    else:
        mixed = images.to(lam.dtype).lerp(partners.to(lam.dtype), 1 - lam).to(images.dtype)
    return mixed if out is None or out is mixed else out.copy_(mixed)


def _blend_bytes(images: Tensor, partners: Tensor, lam: float | Tensor) -> Tensor:
    """Blend in float32; the conversion to uint8 cuts the fraction, so 0.5 is added before."""
    if isinstance(lam, float):  # integers times a number are computed in the default dtype
        lam = torch.full((), lam, dtype=torch.float32, device=images.device)
    half = torch.full((), 0.5, dtype=lam.dtype, device=images.device)
    return torch.addcmul(half, partners, 1 - lam).addcmul_(images, lam).to(torch.uint8)


def _blend_host_bytes(
    images: Tensor, partners: Tensor, lam: float | Tensor, out: Tensor | None
) -> Tensor:
    """Blend with OpenCV, in a sixth of torch's time."""
    from tv_mixaug._opencv import cv2  # slow to import, and only uint8 needs it

    done = out if out is not None and out.is_contiguous() else torch.empty_like(images).contiguous()
    lams = [lam] if isinstance(lam, float) else lam.flatten().tolist()
    shape = (len(lams), 1, images.numel() // max(len(lams), 1))
    rows = [x.numpy().reshape(shape) for x in (images, partners, done)]
    for weight, original, partner, result in zip(lams, *rows, strict=False):  # strict is slow
        cv2.addWeighted(original, weight, partner, 1 - weight, 0.0, result)
    return done


def box_mask(images: Tensor, boxes: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Return the bool mask of (B, 2 d) or (B, N, 2 d) boxes, broadcastable to ``images``.

    Raises:
        TypeError: If boxes or axes are of the wrong kind.
        ValueError: If shapes do not agree.
    """
    check_boxes(images, boxes, axes)
    boxes = boxes.to(images.device, non_blocking=True)
    boxes = boxes[:, None] if boxes.ndim == 2 else boxes
    dims, sides = boxes.shape[-1] // 2, []
    for place, axis in enumerate(range(-dims, 0) if axes is None else axes):
        axis %= images.ndim
        corner = dims - 1 - place  # the slowest axis comes first in axes and last in corners
        at = torch.arange(images.shape[axis], device=images.device)
        on_axis = (at >= boxes[..., corner, None]) & (at < boxes[..., dims + corner, None])
        shape = [1] * (images.ndim - 1)
        shape[axis - 1] = images.shape[axis]
        sides.append(on_axis.view(*boxes.shape[:2], *shape))
    inside = functools.reduce(torch.logical_and, sides)
    return inside[:, 0] if boxes.shape[1] == 1 else inside.any(1)


def fill_tensor(
    fill: float | Sequence[float] | Tensor, images: Tensor, channel_axis: int | None = -3
) -> Tensor:
    """Return a fill as a tensor of the images' dtype and device, broadcastable to them."""
    if isinstance(fill, Tensor):
        check_broadcast(fill, images)
        return fill.to(images.device, images.dtype, non_blocking=True)
    check_fits("fill", fill, images.dtype)
    if not isinstance(fill, Sequence):
        return torch.full((), fill, dtype=images.dtype, device=images.device)
    values = constants(fill, images.dtype, images.device)
    channel_axis = -1 if channel_axis is None else channel_axis
    value = values.view(-1, *[1] * (images.ndim - 1 - channel_axis % images.ndim))
    check_broadcast(value, images)
    return value


def noise(seeds: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor:
    """Generate the noise of places in samples, the same on every device.

    A value depends only on the int64 seed of its box, >= 0, and its int32 place in the sample: both
    go through two rounds of an integer hash. Integers are uniform over 0 to 255, floating point
    numbers are standard normal.
    """
    low, high = ((seeds >> by & 0x7FFFFFFF).to(torch.int32) for by in (0, 31))
    bits = _scramble(_scramble(places + low) ^ high)
    if not dtype.is_floating_point:
        return (bits & 0xFF).to(dtype)
    uniform = ((bits >> 8 & 0xFFFFFF).to(torch.float32) + 0.5) * 2**-23 - 1  # in (-1, 1)
    return (torch.erfinv(uniform) * math.sqrt(2)).to(dtype)


def _scramble(bits: Tensor) -> Tensor:
    """Hash int32 so that each bit of the result depends on all bits; products wrap."""
    bits = (bits ^ (bits >> 16 & 0xFFFF)) * 0x21F0AAAD
    bits = (bits ^ (bits >> 15 & 0x1FFFF)) * 0x735A2D97
    return bits ^ (bits >> 15 & 0x1FFFF)


# --- Checks: kinds and shapes, never a tensor's values --------------------------------------------


def check_fits(name: str, value: float | Sequence[float], dtype: torch.dtype) -> None:
    """Raise if a dtype cannot hold a number, or one of several."""
    if dtype.is_complex:
        return
    whole, low, high = not dtype.is_floating_point, 0.0, 1.0
    if dtype != torch.bool:
        info = torch.iinfo(dtype) if whole else torch.finfo(dtype)
        low, high = info.min, info.max
    values = value if isinstance(value, (list, tuple)) else (value,)
    if not all(low <= one <= high and (one == int(one) or not whole) for one in values):
        limits = f"an integer in [{low:.0f}, {high:.0f}]" if whole else f"within ±{high}"
        raise ValueError(f"{name} must be {limits} for {_short(dtype)}, got {value}.")


def check_tensor(name: str, value: Any) -> None:
    """Raise unless a value is a tensor with a batch axis."""
    ensure(isinstance(value, Tensor), name, "a tensor", type(value).__name__, TypeError)
    ensure(value.ndim > 0, name, "a tensor with a batch axis", "one without axes")


def check_rows(name: str, value: Any, batch: Tensor, kind: str) -> None:
    """Raise unless a value is a tensor of (B,) int64 or floating point numbers."""
    check_tensor(name, value)
    fits = value.dtype == torch.int64 if kind == "int64" else value.is_floating_point()
    ensure(fits, name, kind, _short(value.dtype), TypeError)
    fits, shape = value.shape == batch.shape[:1], tuple(value.shape)
    ensure(fits, name, "of shape ({},)", shape, ValueError, len(batch))


def check_blend(images: Tensor) -> None:
    """Raise unless the dtype of images can be blended."""
    fits = images.dtype in MIXED_DTYPES
    ensure(fits, "images", "uint8 or floating point to be blended", _short(images.dtype), TypeError)


def check_broadcast(fill: Tensor, images: Tensor) -> None:
    """Raise unless a fill broadcasts to the shape of the images."""
    sides = images.shape[max(0, images.ndim - fill.ndim) :]
    pairs = zip(fill.shape, sides, strict=False)
    fits = len(sides) == fill.ndim and all(n in (1, side) for n, side in pairs)
    got, shape = tuple(fill.shape), tuple(images.shape)
    ensure(fits, "fill", "a value that broadcasts to shape {}", got, ValueError, shape)


def check_boxes(images: Tensor, boxes: Any, axes: Any = None) -> None:
    """Raise unless boxes, and the axes that they cut, fit the images."""
    check_tensor("boxes", boxes)
    ensure(boxes.dtype == torch.int64, "boxes", "int64", _short(boxes.dtype), TypeError)
    shape, dims = tuple(boxes.shape), boxes.shape[-1] // 2
    fits = boxes.ndim in (2, 3) and shape[-1] in (4, 6)
    ensure(fits, "boxes", "of shape (B, 4), (B, 6), (B, N, 4) or (B, N, 6)", shape)
    fits, sides = shape[0] == len(images) and images.ndim > dims, tuple(images.shape)
    expected = "of one row for each image, cutting {} axes of images of shape {}"
    ensure(fits, "boxes", expected, shape, ValueError, dims, sides)
    if axes is None:
        return
    are_ints = isinstance(axes, (tuple, list)) and all(type(axis) is int for axis in axes)
    ensure(are_ints, "axes", f"a tuple of {dims} ints", repr(axes), TypeError)
    places = {axis % images.ndim for axis in axes if -images.ndim <= axis < images.ndim}
    fits = len(axes) == dims == len(places) and 0 not in places
    expected = "{} different axes of images of shape {} after the first"
    ensure(fits, "axes", expected, axes, ValueError, dims, sides)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
