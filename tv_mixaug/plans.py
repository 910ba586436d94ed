"""Plans: what is mixed with what, how much and where, drawn once and kept as plain tensors.

This is the only module that uses randomness. Everything drawn here comes from torch's global
random generator, as in :mod:`torchvision.transforms.v2`. What follows from the draws is computed
on arrays: for so few numbers NumPy takes a third of torch's time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

NONE, CUTOUT, MIXUP, CUTMIX = range(4)
OP_NAMES = ("none", "cutout", "mixup", "cutmix")

Pairing = str | Callable[[Tensor], Tensor]


class Plan(NamedTuple):
    """Hold one batch's mix as plain tensors, so that it can be pinned, moved, stored and replayed.

    Attributes:
        op: (B,) uint8, what was done to each sample: 0 none, 1 cutout, 2 mixup, 3 cutmix
            (names in ``OP_NAMES``).
        partner: (B,) int64, index in the batch of the sample mixed in; oneself where there is none.
        lam: (B,) float32 in [0, 1], the label weight of the sample's own image; the partner has
            ``1 - lam``.
        boxes: int64 pixels, half-open and clipped to the image, (B, 4) as x1, y1, x2, y2.
            (B, 6) as x1, y1, z1, x2, y2, z2 for cuboids; (B, N, 4) for Cutout with N holes.
            Empty (all zeros) where nothing is cut.
        noise: (B,) int64, the seeds from which ``fill="noise"`` is generated.
    """

    op: Tensor
    partner: Tensor
    lam: Tensor
    boxes: Tensor
    noise: Tensor


def identity_plan(batch_size: int, dims: int = 2, holes: int = 1) -> Plan:
    """Return the plan that changes nothing.

    Args:
        batch_size: B, at least 0.
        dims: Axes of a box: 2, or 3 for a cuboid.
        holes: Boxes for each sample; above 1 the boxes are (B, holes, 2 * dims).

    Returns:
        A :class:`Plan` with every sample on its own, ``lam`` 1 and empty boxes.

    Example:
        >>> identity_plan(2).lam.tolist()
        [1.0, 1.0]
    """
    shape = (batch_size, 2 * dims) if holes == 1 else (batch_size, holes, 2 * dims)
    return Plan(
        op=torch.zeros(batch_size, dtype=torch.uint8, device="cpu"),
        partner=torch.arange(batch_size, device="cpu"),
        lam=torch.ones(batch_size, device="cpu"),
        boxes=torch.zeros(shape, dtype=torch.int64, device="cpu"),
        noise=torch.zeros(batch_size, dtype=torch.int64, device="cpu"),
    )


def draw_applied(batch_size: int, p: float, per_sample: bool) -> Tensor:
    """Draw which samples are transformed: (B,) bool, one coin for all unless ``per_sample``."""
    coins = torch.rand(batch_size if per_sample else 1, device="cpu")
    return (coins < p).expand(batch_size)


def draw_lam(alpha: float, count: int) -> Tensor:
    """Draw ``count`` values from Beta(alpha, alpha), float64, without NaN for any alpha > 0.

    A small alpha makes both gamma variates of the usual ratio underflow to 0; their logarithms do
    not: log Gamma(a) = log Gamma(a + 1) + log(U) / a.
    """
    shape = torch.full((2, count), float(alpha) + 1, dtype=torch.float64, device="cpu")
    uniform = torch.rand(2, count, dtype=torch.float64, device="cpu").numpy()
    power = np.log1p(-uniform) / max(alpha, 1e-300)  # below that the quotient would overflow
    log_gamma = np.log(torch._standard_gamma(shape).numpy()) + power
    return torch.sigmoid(torch.from_numpy(log_gamma[0] - log_gamma[1]))


def draw_boxes(sides: Tensor, size: Sequence[int]) -> Tensor:
    """Place boxes with uniformly distributed centres and clip them to the image.

    Args:
        sides: (..., d) int64, the sides in pixels, in the order of ``size``.
        size: The d sides of the image in pixels: (height, width) or (depth, height, width).

    Returns:
        (..., 2 d) int64, the lower corner and then the upper one, x first, half-open, clipped. The
        centre is uniform over the image, whatever the parity of the side.
    """
    centre = torch.rand(sides.shape, dtype=torch.float64, device="cpu").numpy() * size
    start = np.floor(centre - sides.numpy() / 2 + 0.5).astype(np.int64)
    stop = np.minimum(start + sides.numpy(), size)
    corners = [corner[..., ::-1] for corner in (start, stop)]
    return torch.from_numpy(np.maximum(np.concatenate(corners, -1), 0))


def draw_partner(batch_size: int, pairing: Pairing, labels: Tensor | None) -> Tensor:
    """Draw (B,) int64 partners by the named rule, or ask the caller's.

    Raises:
        TypeError: If a callable ``pairing`` does not return an integer tensor.
        ValueError: If what it returns is not (B,) or holds an index outside [0, B).
    """
    if pairing == "shuffle":
        return torch.randperm(batch_size, device="cpu")
    if pairing == "roll":
        shift = int(torch.randint(1, batch_size, (), device="cpu")) if batch_size > 1 else 0
        return torch.from_numpy((np.arange(batch_size, dtype=np.int64) - shift) % batch_size)
    if labels is None:
        raise ValueError("pairing is a function of the labels, but the batch has none.")
    partner = pairing(labels)  # type: ignore[operator]
    if (
        not isinstance(partner, Tensor)
        or partner.is_floating_point()
        or partner.is_complex()
        or partner.dtype == torch.bool
    ):
        got = partner.dtype if isinstance(partner, Tensor) else type(partner).__name__
        raise TypeError(f"pairing must return an int64 tensor of partners, got {got}.")
    if partner.shape != (batch_size,):
        raise ValueError(
            f"pairing must return a tensor of shape ({batch_size},), got {tuple(partner.shape)}."
        )
    partner = partner.detach().to("cpu", torch.int64)
    if batch_size and not (int(partner.min()) >= 0 and int(partner.max()) < batch_size):
        raise ValueError(
            f"pairing must return indices in [0, {batch_size}), got values from "
            f"{int(partner.min())} to {int(partner.max())}."
        )
    return partner


def draw_mixup(
    batch_size: int, applied: Tensor, alpha: float, per_sample: bool, partner: Tensor
) -> Plan:
    """Draw a Mixup plan: lam from Beta(alpha, alpha), one for the batch or one for each sample."""
    lam = draw_lam(alpha, batch_size if per_sample else 1)
    return _applied_plan(MIXUP, applied, np.zeros((1, 4), np.int64), partner, lam)


def draw_cutmix(
    batch_size: int,
    applied: Tensor,
    alpha: float,
    per_sample: bool,
    partner: Tensor,
    size: Sequence[int],
    correct_lam: bool,
) -> Plan:
    """Draw a CutMix plan: boxes whose share is ``1 - lam`` before they are clipped.

    The label weight is counted from the clipped box, in whole pixels, unless ``correct_lam`` is
    off, where it is the drawn lam.
    """
    drawn = draw_lam(alpha, batch_size if per_sample else 1)
    sides = np.rint((1 - drawn.numpy()[:, None]) ** (1 / len(size)) * size).astype(np.int64)
    boxes = draw_boxes(torch.from_numpy(sides), size)
    lam = 1 - box_volumes(boxes) / math.prod(size) if correct_lam else drawn
    return _applied_plan(CUTMIX, applied, boxes.numpy(), partner, lam)


def draw_cutout(
    batch_size: int,
    applied: Tensor,
    sides: Sequence[int],
    holes: int,
    per_sample: bool,
    size: Sequence[int],
    noise: bool,
) -> Plan:
    """Draw a Cutout plan: ``holes`` boxes of the given sides, and seeds where noise will fill."""
    rows = batch_size if per_sample else 1
    wanted = torch.tensor(sides, dtype=torch.int64, device="cpu").expand(rows, holes, len(size))
    boxes = draw_boxes(wanted, size).numpy()
    plan = _applied_plan(CUTOUT, applied, boxes[:, 0] if holes == 1 else boxes)
    if noise:
        plan = plan._replace(noise=torch.randint(2**62, (batch_size,), device="cpu"))
    return plan


def _applied_plan(
    op: int, applied: Tensor, boxes: Any, partner: Tensor | None = None, lam: Tensor | None = None
) -> Plan:
    """Return the plan that does what was drawn to the samples chosen; one draw may serve all."""
    holes = boxes.shape[1] if boxes.ndim == 3 else 1
    plan = identity_plan(len(applied), boxes.shape[-1] // 2, holes)
    on = applied.numpy()
    plan.op.numpy()[on] = op
    if partner is not None and lam is not None:
        np.copyto(plan.partner.numpy(), partner.numpy(), where=on)
        np.copyto(plan.lam.numpy(), lam.numpy(), where=on)
    np.copyto(plan.boxes.numpy(), boxes, where=on.reshape(-1, *[1] * (boxes.ndim - 1)))
    return plan


def draw_noise(shape: Sequence[int], seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Generate the noise that belongs to a seed: the same values for the same arguments.

    uint8: uniform over 0 to 255. Floating point: standard normal, as in Random Erasing.
    """
    generator = torch.Generator(device).manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(tuple(shape), generator=generator, device=device).to(dtype)
    return torch.randint(256, tuple(shape), generator=generator, device=device, dtype=dtype)


def box_volumes(boxes: Tensor) -> Tensor:
    """Count the pixels of (..., 2 d) boxes: (...,) int64."""
    lower, upper = boxes.tensor_split(2, -1)
    return (upper - lower).prod(-1)
