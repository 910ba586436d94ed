"""Sampling: every random number of the package.

Each function takes a source: a generator, None for torch's global generator, or a device. Values
that all samples share are numbers if they come from the host; all others are tensors on the device
of the source, and no value on a device is looked at.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from tv_mixaug._validation import ensure

Pairing = Literal["roll", "shuffle"] | Callable[[Tensor], Tensor]
Source = Generator | torch.device | None

_global_rng_lock = threading.RLock()


def sampling_kwargs(source: Source) -> dict[str, Any]:
    """Return the device and generator arguments for torch's random functions."""
    if isinstance(source, torch.device):
        return {"device": source}
    return {"device": "cpu" if source is None else source.device, "generator": source}


def is_on_device(source: Source) -> bool:
    """Whether all sampled values are tensors: on a device, and in a traced graph."""
    return isinstance(source, torch.device) or (source is not None and source.device.type != "cpu")


def _shared(value: Tensor, source: Source) -> Any:
    return value if value.ndim or is_on_device(source) else value.item()


def sample_uniform(size: Sequence[int], source: Source = None) -> Any:
    """Sample float64 numbers in [0, 1); one number for the size ()."""
    kwargs = sampling_kwargs(source)
    is_mps = torch.device(kwargs["device"]).type == "mps"  # which has no float64
    dtype = torch.float32 if is_mps else torch.float64
    return _shared(torch.rand(tuple(size), dtype=dtype, **kwargs), source)


def sample_applied(batch_size: int, p: float, per_sample: bool, source: Source = None) -> Any:
    """Sample which samples are transformed: a bool for all, or (B,) bool if ``per_sample``."""
    if p in (0, 1):
        return bool(p)
    applied = sample_uniform((batch_size,) if per_sample else (), source) < p
    return applied.expand(batch_size) if isinstance(applied, Tensor) else applied


def sample_lam(
    alpha: float | tuple[float, float],
    count: int | None,
    source: Source = None,
    *,
    lam: float | tuple[float, float] | None = None,
) -> Any:
    """Sample (count,) float64 weights from Beta(alpha, alpha), or from Beta(a, b) for a pair.

    One number is sampled if ``count`` is None. No parameters > 0 give NaN. If ``lam`` is given it
    is used instead: one number, or the ends of a uniform distribution.
    """
    kwargs, size = sampling_kwargs(source), () if count is None else (count,)
    if isinstance(lam, float):
        fixed = torch.full(size, lam, dtype=torch.float64, device=kwargs["device"])
        return _shared(fixed, source)
    if isinstance(lam, tuple):
        return lam[0] + (lam[1] - lam[0]) * sample_uniform(size, source)
    pair = alpha if isinstance(alpha, tuple) else (alpha, alpha)
    if pair == (1, 1):
        return sample_uniform(size, source)
    generator = kwargs.get("generator")
    shape = torch.full((*size, 2), pair[0], dtype=torch.float64, device=kwargs["device"])
    if pair[0] != pair[1]:
        shape[..., 1] = pair[1]
    if min(pair) >= 0.1 and max(pair) <= 1e9:
        return _shared(torch._sample_dirichlet(shape, generator)[..., 0], source)
    # Gamma variates of small parameters underflow to 0 and those of large ones overflow. Their
    # logarithms do not: log Gamma(a) = log Gamma(a + 1) + log(U) / a.
    gamma = torch._standard_gamma(shape + 1, generator).log()
    uniform = torch.rand(shape.shape, dtype=torch.float64, **kwargs)
    log = gamma + torch.log1p(-uniform) / shape.clamp(min=1e-300)  # 1 / a of a subnormal overflows
    return _shared(torch.sigmoid(log[..., 0] - log[..., 1]), source)


def constants(values: Sequence[float], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return numbers as a tensor that is filled on its device, not copied to it."""
    if torch.device(device).type == "cpu" and not torch.compiler.is_compiling():
        return torch.tensor(values, dtype=dtype, device=device)
    # Not torch.stack: a graph fuses this into the kernels that use it.
    place = torch.arange(len(values), device=device)
    out = torch.full((len(values),), values[0], dtype=dtype, device=device)
    for number, value in enumerate(values[1:], 1):
        out = torch.where(place == number, torch.full((), value, dtype=dtype, device=device), out)
    return out


def sample_boxes(sides: Any, size: Sequence[int], source: Source = None) -> Any:
    """Place boxes at uniformly distributed centres and clip them to the image.

    Args:
        sides: (..., d) tensor, or d ints of one box: the sides in whole pixels, ordered as
            ``size``.
        size: The d sides of the image in pixels: (height, width) or (depth, height, width).
        source: The source of the centres.

    Returns:
        (..., 2 d) int64, or 2 d ints of one box: the lower corner and then the upper one, x first,
        half-open, clipped. The centre is uniform over the image for odd and even sides.
    """
    if isinstance(sides, list):  # two numbers take Python a tenth of torch's time
        low, high = [], []
        centres = sample_uniform((len(sides),), source).tolist()
        for side, full, centre in zip(sides, size, centres, strict=True):
            start = math.floor(centre * full - (side / 2 - 0.5))
            low.append(max(start, 0))
            high.append(min(start + side, full))
        return [*reversed(low), *reversed(high)]
    full_sides = constants(size, torch.int64, sides.device)
    start = (sample_uniform(sides.shape, source) * full_sides - (sides / 2 - 0.5)).floor()
    return corners(start.clamp(min=0), torch.minimum(start + sides, full_sides))


def sample_inner_boxes(
    areas: Tensor, ratios: Tensor, size: Sequence[int], source: Source = None
) -> Tensor:
    """Place boxes of given areas uniformly inside the image, as Random Erasing does.

    Args:
        areas: (..., T) areas in pixels, tried in order until a box is smaller than the image.
        ratios: (..., T) ratios height / width of these boxes.
        size: (height, width) of the image in pixels.
        source: The source of the places.

    Returns:
        (..., 4) int64: x1, y1, x2, y2; all zeros if none of the T boxes is smaller than the image.
    """
    full = constants(size, torch.int64, areas.device)
    sides = (areas[..., None] * torch.stack([ratios, 1 / ratios], -1)).sqrt().round()
    fits = (sides < full).all(-1)
    first = fits & (fits.cumsum(-1) == 1)
    sides = (sides * first[..., None]).sum(-2)
    start = (sample_uniform(sides.shape, source) * (full - sides + 1)).floor()
    return corners(start, start + sides) * (sides > 0).all(-1)[..., None]


def corners(lower: Tensor, upper: Tensor) -> Tensor:
    """Return (..., 2 d) int64 boxes from corners whose slowest axis comes first."""
    return torch.cat([lower.flip(-1), upper.flip(-1)], -1).to(torch.int64)


def sample_partner(
    batch_size: int, pairing: Pairing, labels: Tensor | None, source: Source = None
) -> Any:
    """Sample partners by a named rule, or call the user's function.

    Returns:
        A cyclic shift s, by which sample i has the partner i - s, or (B,) int64.

    Raises:
        TypeError: If a callable ``pairing`` does not return an integer tensor.
        ValueError: If its result is not (B,) or holds an index outside [0, B).
    """
    kwargs = sampling_kwargs(source)
    if pairing == "roll":
        if batch_size < 2:
            return 0
        shift = torch.randint(1, batch_size, (1,), **kwargs)
        if not is_on_device(source):
            return int(shift)
        return (torch.arange(batch_size, device=kwargs["device"]) - shift) % batch_size
    if pairing == "shuffle":
        return torch.randperm(batch_size, **kwargs)
    name = "pairing"
    ensure(labels is not None, name, "a name if the batch has no labels", "a function of them")
    with seeded_global_rng(source):
        partner = pairing(labels)  # type: ignore[arg-type]
    got = partner.dtype if isinstance(partner, Tensor) else type(partner).__name__
    is_integer = isinstance(got, torch.dtype) and not (got.is_floating_point or got.is_complex)
    expected = "a function that returns an int64 tensor of partners"
    ensure(is_integer and got != torch.bool, name, expected, got, TypeError)
    shape = tuple(partner.shape)
    ensure(shape == (batch_size,), name, f"a function that returns shape ({batch_size},)", shape)
    partner = partner.detach().to(kwargs["device"], torch.int64)
    if not is_on_device(source) and batch_size:
        low, high = int(partner.min()), int(partner.max())
        expected = f"a function that returns indices in [0, {batch_size})"
        ensure(low >= 0 and high < batch_size, name, expected, f"values from {low} to {high}")
    return partner


def sample_seeds(count: int, source: Source = None) -> Tensor:
    """Sample (B,) int64 seeds for noise."""
    return torch.randint(2**62, (count,), **sampling_kwargs(source))


@contextlib.contextmanager
def seeded_global_rng(source: Source) -> Iterator[None]:
    """Run user code with the global RNG seeded from ``source``, then restore it.

    One thread at a time runs such code; numbers that other threads draw from the global generator
    meanwhile are not kept apart. Without a generator of the host nothing is changed.
    """
    if not isinstance(source, Generator) or is_on_device(source):
        yield
        return
    seed = int(torch.randint(2**62, (1,), generator=source, device="cpu"))
    with _global_rng_lock:
        state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.default_generator.set_state(state)
