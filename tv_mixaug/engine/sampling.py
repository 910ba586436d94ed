"""Draws: the only randomness of the package.

Every draw takes a generator; None is torch's own, as in :mod:`torchvision.transforms.v2`. What is
drawn for all samples is one number. What follows from the draws is computed on arrays: for so few
numbers NumPy takes a third of torch's time. In the place of a generator of the host a device may
stand, or a generator of one: then all are tensors there, and no value is looked at.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

Pairing = Literal["roll", "shuffle"] | Callable[[Tensor], Tensor]

Source = Generator | torch.device | None

MPS = torch.device("mps")  # which has no float64

_fence = threading.RLock()


def origin(source: Source) -> dict[str, Any]:
    """Return where torch is to draw, and from what."""
    if isinstance(source, torch.device):
        return {"device": source}
    return {"device": "cpu" if source is None else source.device, "generator": source}


def is_on_device(source: Source) -> bool:
    """Tell whether tensors are drawn, and not the host's numbers and arrays."""
    return isinstance(source, torch.device) or (source is not None and source.device.type != "cpu")


def _given(values: Tensor, source: Source) -> Any:
    if is_on_device(source):
        return values
    return values.numpy() if values.ndim else values.item()


def _library(values: Any) -> Any:
    """Return what computes with tensors, or with arrays; the functions used have one name."""
    return torch if isinstance(values, Tensor) else np


def _as_like(size: Sequence[int], values: Any) -> Any:
    """Return the sides of an image in the library and on the device of values."""
    if isinstance(values, Tensor):
        return constants(size, torch.int64, values.device)
    return np.asarray(size)


def sample_uniform(size: Sequence[int], generator: Source = None) -> Any:
    """Draw numbers in [0, 1), float64; one number for the size ()."""
    where, wide = origin(generator), torch.float64
    if where["device"] == MPS:
        wide = torch.float32
    return _given(torch.rand(tuple(size), dtype=wide, **where), generator)


def sample_applied(batch_size: int, p: float, per_sample: bool, generator: Source = None) -> Any:
    """Draw which samples are transformed: a bool for all, or (B,) bool if ``per_sample``."""
    if p in (0, 1):  # no coin is needed
        return bool(p)
    drawn = sample_uniform((batch_size,) if per_sample else (), generator) < p
    return drawn.expand(batch_size) if isinstance(drawn, Tensor) else drawn


def sample_lam(
    alpha: float | tuple[float, float],
    count: int | None,
    generator: Source = None,
    *,
    lam: float | tuple[float, float] | None = None,
) -> Any:
    """Draw weights from Beta(alpha, alpha) or from Beta(a, b), without NaN for any parameters > 0.

    ``lam``, where it is given, takes the place of that law: one number, or the ends of a range.

    Returns:
        (count,) float64; one number where ``count`` is None.
    """
    where, size = origin(generator), () if count is None else (count,)
    if isinstance(lam, float):
        fixed = torch.full(size, lam, dtype=torch.float64, device=where["device"])
        return _given(fixed, generator)
    if isinstance(lam, tuple):
        return lam[0] + (lam[1] - lam[0]) * sample_uniform(size, generator)
    pair = alpha if isinstance(alpha, tuple) else (alpha, alpha)
    if pair == (1, 1):
        return sample_uniform(size, generator)
    rng = where.get("generator")
    shape = torch.full((*size, 2), pair[0], dtype=torch.float64, device=where["device"])
    if pair[0] != pair[1]:
        shape[..., 1] = pair[1]
    if min(pair) >= 0.1 and max(pair) <= 1e9:
        return _given(torch._sample_dirichlet(shape, rng)[..., 0], generator)
    # Both gamma variates of small parameters underflow to 0, and those of large ones overflow.
    # Their logarithms do not: log Gamma(a) = log Gamma(a + 1) + log(U) / a.
    gamma = torch._standard_gamma(shape + 1, rng).log()
    uniform = torch.rand(shape.shape, dtype=torch.float64, **where)
    log = gamma + torch.log1p(-uniform) / shape.clamp(min=1e-300)  # or it overflows
    return _given(torch.sigmoid(log[..., 0] - log[..., 1]), generator)


def constants(values: Sequence[float], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return given numbers as a tensor that is made on its device, not copied to it."""
    if torch.device(device).type == "cpu" and not torch.compiler.is_compiling():
        return torch.tensor(values, dtype=dtype, device=device)
    # Not stacked: in a graph this is part of what it is needed for, and no kernel of its own.
    place = torch.arange(len(values), device=device)
    made = torch.full((len(values),), values[0], dtype=dtype, device=device)
    for number, value in enumerate(values[1:], 1):
        made = torch.where(place == number, torch.full((), value, dtype=dtype, device=device), made)
    return made


def repeat(values: Sequence[int], shape: Sequence[int], source: Source) -> Any:
    """Return an array of given numbers, repeated to a shape, where the source draws."""
    if is_on_device(source):
        return constants(values, torch.int64, origin(source)["device"]).expand(*shape)
    return np.broadcast_to(values, shape)


def share_sides(share: Any, size: Sequence[int]) -> Any:
    """Return (..., d) whole sides of boxes that have a share (...) of each side of the image."""
    if isinstance(share, float):
        return [round(share * side) for side in size]
    return (share[..., None] * _as_like(size, share)).round()


def sample_boxes(sides: Any, size: Sequence[int], generator: Source = None) -> Any:
    """Place boxes with uniformly distributed centres and clip them to the image.

    Args:
        sides: (..., d) array, or d numbers, the sides in whole pixels, in the order of ``size``.
        size: The d sides of the image in pixels: (height, width) or (depth, height, width).
        generator: Where the centres come from.

    Returns:
        (..., 2 d) int64, the lower corner and then the upper one, x first, half-open, clipped. The
        centre is uniform over the image, whatever the parity of the side.
    """
    if isinstance(sides, list):  # for so few numbers NumPy would take ten times as long
        centres = sample_uniform((len(sides),), generator).tolist()
        ends = [_clip(math, *axis) for axis in zip(sides, size, centres, strict=True)]
        return np.array([*zip(*ends[::-1], strict=True)], np.int64).reshape(-1)
    lib, sizes = _library(sides), _as_like(size, sides)
    return corners(*_clip(lib, sides, sizes, sample_uniform(sides.shape, generator)))


def _clip(lib: Any, side: Any, size: Any, centre: Any) -> tuple[Any, Any]:
    """Return the ends of a side in whole pixels, whose centre is a share of the image's side."""
    start = lib.floor(centre * size - (side / 2 - 0.5))
    end = start + side
    return start * (start > 0), end - (end - size) * (end > size)


def sample_inner_boxes(areas: Any, ratios: Any, size: Sequence[int], generator: Source = None) -> Any:
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
    lib, sizes = _library(areas), _as_like(size, areas)
    sides = lib.round(lib.sqrt(areas[..., None] * lib.stack([ratios, 1 / ratios], -1)))
    fits = (sides < sizes).all(-1)
    rank = lib.cumsum(fits, -1)
    first = fits & (rank == 1)  # all False where none fits: then the sides are 0
    sides = (sides * first[..., None]).sum(-2)
    start = lib.floor(sample_uniform(sides.shape, generator) * (sizes - sides + 1))
    return corners(start, start + sides) * (sides > 0).all(-1)[..., None]


def corners(lower: Any, upper: Any) -> Any:
    """Return (..., 2 d) int64 boxes of corners whose axes run from slow to fast."""
    if isinstance(lower, Tensor):
        return torch.cat([lower.flip(-1), upper.flip(-1)], -1).to(torch.int64)
    dims = lower.shape[-1]
    boxes = np.empty((*lower.shape[:-1], 2 * dims), np.int64)
    boxes[..., :dims], boxes[..., dims:] = lower[..., ::-1], upper[..., ::-1]
    return boxes


def sample_partner(
    batch_size: int, pairing: Pairing, labels: Tensor | None, generator: Source = None
) -> Any:
    """Draw the partners by the named rule, or ask the caller's.

    Returns:
        A cyclic shift, by which the partner of sample i is i - shift, or (B,) int64.

    Raises:
        TypeError: If a callable ``pairing`` does not return an integer tensor.
        ValueError: If what it returns is not (B,) or holds an index outside [0, B).
    """
    where = origin(generator)
    if pairing == "roll":
        if batch_size < 2:
            return 0
        shift = torch.randint(1, batch_size, (1,), **where)
        if not is_on_device(generator):
            return int(shift)
        return (torch.arange(batch_size, device=where["device"]) - shift) % batch_size
    if pairing == "shuffle":
        return _given(torch.randperm(batch_size, **where), generator)
    if labels is None:
        raise ValueError("pairing is a function of the labels, but the batch has none.")
    with seeded_global_rng(generator):
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
    if is_on_device(generator):
        return partner.detach().to(where["device"], torch.int64)
    partner = partner.detach().to("cpu", torch.int64)
    if batch_size and not (int(partner.min()) >= 0 and int(partner.max()) < batch_size):
        raise ValueError(
            f"pairing must return indices in [0, {batch_size}), got values from "
            f"{int(partner.min())} to {int(partner.max())}."
        )
    return partner.numpy()


def sample_seeds(count: int, generator: Source = None) -> Any:
    """Draw (B,) int64 seeds of noise."""
    return _given(torch.randint(2**62, (count,), **origin(generator)), generator)


@contextlib.contextmanager
def seeded_global_rng(generator: Source) -> Iterator[None]:
    """Let foreign code draw from torch's global generator, seeded from ``generator``.

    The global state is put back afterwards, and only one thread at a time is inside: what other
    threads draw from it meanwhile is not kept apart. Nothing happens without a generator.
    """
    if not isinstance(generator, Generator) or is_on_device(generator):
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


def sample_noise(shape: Sequence[int], seed: int, dtype: torch.dtype) -> Tensor:
    """Generate the noise that belongs to a seed on the CPU: the same for the same arguments.

    uint8: uniform over 0 to 255. Floating point: standard normal, as in Random Erasing.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    if dtype.is_floating_point:
        normal = torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")
        return normal.to(dtype)
    return torch.randint(256, tuple(shape), generator=generator, dtype=dtype, device="cpu")
