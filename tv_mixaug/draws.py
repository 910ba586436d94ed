"""Draws: the only randomness of the package.

Every draw takes a generator; None is torch's own, as in :mod:`torchvision.transforms.v2`. What is
drawn for all samples is one number. What follows from the draws is computed on arrays: for so few
numbers NumPy takes a third of torch's time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

Pairing = Literal["roll", "shuffle"] | Callable[[Tensor], Tensor]

_fence = threading.RLock()


def draw_uniform(size: Sequence[int], generator: Generator | None = None) -> Any:
    """Draw an array of numbers in [0, 1), float64."""
    values = torch.rand(tuple(size), generator=generator, dtype=torch.float64, device="cpu")
    return values.numpy()


def draw_applied(
    batch_size: int, p: float, per_sample: bool, generator: Generator | None = None
) -> Any:
    """Draw which samples are transformed: a bool for all, or (B,) bool if ``per_sample``."""
    if p in (0, 1):  # no coin is needed
        return bool(p)
    if per_sample:
        return draw_uniform((batch_size,), generator) < p
    return float(draw_uniform((1,), generator)[0]) < p


def draw_lam(
    alpha: float | tuple[float, float],
    count: int,
    generator: Generator | None = None,
    *,
    lam: float | tuple[float, float] | None = None,
) -> Any:
    """Draw weights from Beta(alpha, alpha) or Beta(*alpha), without NaN for any parameters > 0.

    ``lam``, where it is given, takes the place of that law: one number, or the ends of a range.

    Returns:
        (count,) float64.
    """
    if isinstance(lam, float):
        return np.full(count, lam)
    if isinstance(lam, tuple):
        return lam[0] + (lam[1] - lam[0]) * draw_uniform((count,), generator)
    pair = alpha if isinstance(alpha, tuple) else (alpha, alpha)
    if pair == (1, 1):
        return draw_uniform((count,), generator)
    concentration = torch.tensor(pair, dtype=torch.float64, device="cpu")
    if min(pair) >= 0.1 and max(pair) <= 1e9:
        shape = concentration.expand(count, 2)
        return torch._sample_dirichlet(shape, generator).numpy()[:, 0]
    # Both gamma variates of small parameters underflow to 0, and those of large ones overflow.
    # Their logarithms do not: log Gamma(a) = log Gamma(a + 1) + log(U) / a.
    shape = (concentration[:, None] + 1).expand(2, count)
    gamma = np.log(torch._standard_gamma(shape, generator).numpy())
    least = np.maximum(np.array(pair), 1e-300)  # or the quotient overflows
    power = np.log1p(-draw_uniform((2, count), generator)) / least[:, None]
    odds = gamma[0] + power[0] - gamma[1] - power[1]
    return torch.sigmoid(torch.from_numpy(odds)).numpy()


def draw_boxes(sides: Any, size: Sequence[int], generator: Generator | None = None) -> Any:
    """Place boxes with uniformly distributed centres and clip them to the image.

    Args:
        sides: (..., d) array, the sides in whole pixels, in the order of ``size``.
        size: The d sides of the image in pixels: (height, width) or (depth, height, width).
        generator: Where the centres come from.

    Returns:
        (..., 2 d) int64, the lower corner and then the upper one, x first, half-open, clipped. The
        centre is uniform over the image, whatever the parity of the side.
    """
    sizes, dims = np.asarray(size), len(size)
    start = np.floor(draw_uniform(sides.shape, generator) * sizes - (sides / 2 - 0.5))
    boxes = np.empty((*sides.shape[:-1], 2 * dims), np.int64)
    stop = (start + sides)[..., ::-1]
    np.maximum(start[..., ::-1], 0, out=boxes[..., :dims], casting="unsafe")
    np.minimum(stop, sizes[::-1], out=boxes[..., dims:], casting="unsafe")
    return boxes


def draw_inner_boxes(
    areas: Any, ratios: Any, size: Sequence[int], generator: Generator | None = None
) -> Any:
    """Place boxes of given areas uniformly inside the image, by the law of Random Erasing.

    Args:
        areas: (..., T) array, the areas in pixels that are tried one after the other, until a box
            is smaller than the image.
        ratios: (..., T) array, height / width of the boxes that are tried.
        size: (height, width) of the image in pixels.
        generator: Where the places come from.

    Returns:
        (..., 4) int64: x1, y1, x2, y2; all zeros where none of the T boxes is small enough.
    """
    sides = np.rint(np.sqrt(areas[..., None] * np.stack([ratios, 1 / ratios], -1)))
    fits = (sides < size).all(-1)
    first = fits.argmax(-1)[..., None, None]
    sides = np.take_along_axis(sides, first, -2)[..., 0, :] * fits.any(-1)[..., None]
    free = np.asarray(size) - sides + 1
    start = np.floor(draw_uniform(sides.shape, generator) * free) * (sides > 0)
    boxes = np.concatenate([start[..., ::-1], (start + sides)[..., ::-1]], -1)
    return (boxes * (sides > 0).all(-1)[..., None]).astype(np.int64)


def draw_partner(
    batch_size: int, pairing: Pairing, labels: Tensor | None, generator: Generator | None = None
) -> Any:
    """Draw the partners by the named rule, or ask the caller's.

    Returns:
        A cyclic shift, by which the partner of sample i is i - shift, or (B,) int64.

    Raises:
        TypeError: If a callable ``pairing`` does not return an integer tensor.
        ValueError: If what it returns is not (B,) or holds an index outside [0, B).
    """
    if pairing == "roll":
        if batch_size < 2:
            return 0
        return int(torch.randint(1, batch_size, (1,), generator=generator, device="cpu"))
    if pairing == "shuffle":
        return torch.randperm(batch_size, generator=generator, device="cpu").numpy()
    if labels is None:
        raise ValueError("pairing is a function of the labels, but the batch has none.")
    with fenced(generator):
        partner = pairing(labels)
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
    return partner.numpy()


def draw_seeds(count: int, generator: Generator | None = None) -> Any:
    """Draw (B,) int64 seeds of noise."""
    return torch.randint(2**62, (count,), generator=generator, device="cpu").numpy()


@contextlib.contextmanager
def fenced(generator: Generator | None) -> Iterator[None]:
    """Let foreign code draw from torch's global generator, seeded from ``generator``.

    The global state is put back afterwards, and only one thread at a time is inside: what other
    threads draw from it meanwhile is not kept apart. Nothing happens without a generator.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (1,), generator=generator, device="cpu"))
    with _fence:
        state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.default_generator.set_state(state)


def draw_noise(shape: Sequence[int], seed: int, dtype: torch.dtype) -> Tensor:
    """Generate the noise that belongs to a seed on the CPU: the same for the same arguments.

    uint8: uniform over 0 to 255. Floating point: standard normal, as in Random Erasing.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    if dtype.is_floating_point:
        normal = torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")
        return normal.to(dtype)
    return torch.randint(256, tuple(shape), generator=generator, dtype=dtype, device="cpu")
