"""Sampling: every random number of the package.

Each function takes a source: a generator, None for torch's global generator, or a device. From the
host come NumPy arrays, which take a third of torch's time at these sizes, and a plain number where
all samples share a value. From a device, or a generator on one, come tensors there, and no value is
looked at. What follows from the numbers is computed by operators that both kinds have.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Generator, Tensor
from torch.compiler import is_compiling

from tv_mixaug._validation import ensure

Pairing = Literal["roll", "shuffle"] | Callable[[Tensor], Tensor]
Source = Generator | torch.device | None
Method = TypeVar("Method", bound=Callable[..., Any])

_global_rng_locks: dict[int, Any] = {}  # by process: a fork copies a lock that a thread holds


TRACES = torch.__version__ >= "2.12"  # older releases of torch trace no named tuples


class TracingError(TypeError):
    """What is done to a batch cannot be a part of a graph, or of torch.func."""


def is_traced() -> bool:
    """Whether values cannot be looked at: while a graph is traced, and inside torch.func."""
    return is_compiling() or torch._C._are_functorch_transforms_active()


def untraced(what: str, source: Source = None) -> None:
    """Raise if the host cannot look at values, or samples on a device."""
    if is_traced() or is_on_device(source):
        where = "compiled, used inside torch.func or sampled on a device"
        raise TracingError(f"{what} cannot be {where}; use rules or a OneOf of them.")


def leave_graph(method: Method) -> Method:
    """Let a method that raises TracingError run outside of the graph, with all that it calls."""
    run_outside = torch.compiler.disable(method)  # type: ignore[no-untyped-call]

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not TRACES and is_compiling():  # an error with fullgraph, which shows the next line
            torch._dynamo.graph_break()  # torch.compile needs torch 2.12 or newer for transforms.
            return run_outside(*args, **kwargs)
        try:
            return method(*args, **kwargs)
        except TracingError as error:
            if not is_compiling():
                raise
            reason = str(error)
        torch._dynamo.graph_break(msg=f"raised exception {reason}")  # an error with fullgraph
        return run_outside(*args, **kwargs)

    return cast(Method, run)


def sampling_kwargs(source: Source) -> dict[str, Any]:
    """Return the device and generator arguments for torch's random functions."""
    if isinstance(source, torch.device):
        return {"device": source}
    return {"device": "cpu" if source is None else source.device, "generator": source}


def is_on_device(source: Source) -> bool:
    """Whether all sampled values are tensors: on a device, and in a traced graph."""
    return isinstance(source, torch.device) or (source is not None and source.device.type != "cpu")


def _for_source(value: Tensor, source: Source) -> Any:
    if is_on_device(source):
        return value
    return value.numpy() if value.ndim else value.item()


def sample_uniform(size: Sequence[int], source: Source = None) -> Any:
    """Sample float64 numbers in [0, 1); one number for the size ()."""
    device = source.device if isinstance(source, Generator) else source
    is_mps = device is not None and device.type == "mps"  # which has no float64
    dtype = torch.float32 if is_mps else torch.float64
    return _for_source(torch.rand(size, dtype=dtype, **sampling_kwargs(source)), source)


def sample_applied(batch_size: int, p: float, per_sample: bool, source: Source = None) -> Any:
    """Sample which samples are transformed: a bool for all, or (B,) bool if ``per_sample``."""
    for always in (False, True):
        if p == always:
            return always
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
    if lam is not None:
        low, high = lam if isinstance(lam, tuple) else (lam, lam)
        return low + (high - low) * sample_uniform(size, source)
    pair = alpha if isinstance(alpha, tuple) else (alpha, alpha)
    if pair == (1, 1):
        return sample_uniform(size, source)
    generator = kwargs.get("generator")
    shape = torch.full((*size, 2), pair[0], dtype=torch.float64, device=kwargs["device"])
    if pair[0] != pair[1]:
        shape[..., 1] = pair[1]
    if not is_compiling() and min(pair) >= 0.1 and max(pair) <= 1e9:  # graphs have no Dirichlet
        return _for_source(torch._sample_dirichlet(shape, generator)[..., 0], source)
    # Gamma variates of small parameters underflow to 0 and those of large ones overflow. Their
    # logarithms do not: log Gamma(a) = log Gamma(a + 1) + log(U) / a.
    gamma = torch._standard_gamma(shape + 1, generator).log()
    uniform = torch.rand(shape.shape, dtype=torch.float64, **kwargs)
    log = gamma + torch.log1p(-uniform) / shape.clamp(min=1e-300)  # 1 / a of a subnormal overflows
    return _for_source(torch.sigmoid(log[..., 0] - log[..., 1]), source)


def constants(values: Sequence[float], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return numbers as a tensor that is filled on its device, not copied to it."""
    if torch.device(device).type == "cpu" and not is_compiling():
        return torch.tensor(values, dtype=dtype, device=device)
    # Not torch.stack: a graph fuses this into the kernels that use it.
    place = torch.arange(len(values), device=device)
    out = torch.full((len(values),), values[0], dtype=dtype, device=device)
    for number, value in enumerate(values[1:], 1):
        out = torch.where(place == number, torch.full((), value, dtype=dtype, device=device), out)
    return out


def sample_boxes(
    sides: Sequence[Any], size: Sequence[int], shape: Sequence[int] = (), source: Source = None
) -> Any:
    """Place boxes at uniformly distributed centres and clip them; see :func:`join_corners`.

    Args:
        sides: d numbers, or d arrays of a shape: the sides in whole pixels, ordered as ``size``.
        size: The d sides of the image in pixels: (height, width) or (depth, height, width).
        shape: The shape of the boxes; () for one box.
        source: The source of the centres, which are uniform for odd and even sides.
    """
    centres = sample_uniform((len(size), *shape), source)
    centres = centres if len(shape) or is_on_device(source) else centres.tolist()
    low, high = [], []
    for side, full, centre in zip(sides, size, centres, strict=True):
        start = (centre * full - (side / 2 - 0.5)) // 1
        low.append(start * (start > 0))
        over = start + side - full
        high.append(full + over * (over < 0))
    return join_corners(low, high)


def sample_inner_boxes(areas: Any, ratios: Any, size: Sequence[int], source: Source = None) -> Any:
    """Place (..., 4) boxes of given areas uniformly inside the image, as Random Erasing does.

    Args:
        areas: (..., T) areas in pixels, tried in order until a box is smaller than the image; the
            box is all zeros if none is.
        ratios: (..., T) ratios height / width of these boxes.
        size: (height, width) of the image in pixels.
        source: The source of the places.
    """
    # Rounding takes a fiftieth of the time of a floor division by 1.
    sides = [(area**0.5).round() for area in (areas * ratios, areas / ratios)]
    if 1 in size:  # the box of an image with one row or column is as high or as wide as it
        sides = [areas * 0 + 1 if n == 1 else areas.round() for n in size]
    below = [side <= max(n - 1, 1) for side, n in zip(sides, size, strict=True)]
    fits = below[0] & below[1]
    first = fits & (fits.cumsum(-1) == 1)
    sides = [(side * first).sum(-1) for side in sides]
    places = sample_uniform((2, *sides[0].shape), source)
    room = [n - side + 1 for n, side in zip(size, sides, strict=True)]
    low = [place * free // 1 for place, free in zip(places, room, strict=True)]
    return join_corners(low, [start + side for start, side in zip(low, sides, strict=True)])


def join_corners(low: Sequence[Any], high: Sequence[Any]) -> Any:
    """Join the ends of boxes on each axis, slowest first, to half-open boxes with x first.

    They are (..., 2 d) int64 arrays or tensors, or 2 d ints if the ends are numbers. Boxes without
    an area become zeros.
    """
    whole: Any = True
    for start, stop in zip(low, high, strict=True):
        whole = whole & (stop > start)
    ends = [end * whole for end in (*low[::-1], *high[::-1])]
    if isinstance(ends[0], Tensor):
        return torch.stack(ends, -1).to(torch.int64)
    if isinstance(ends[0], np.ndarray):
        return np.array(ends, np.int64).transpose(*range(1, ends[0].ndim + 1), 0)
    return list(map(int, ends))


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
        return _for_source(torch.randperm(batch_size, **kwargs), source)
    name, rows = "pairing", torch.arange(batch_size, device=kwargs["device"])
    with seeded_global_rng(source):
        partner = pairing(rows if labels is None else labels)
    got = partner.dtype if isinstance(partner, Tensor) else type(partner).__name__
    is_integer = isinstance(got, torch.dtype) and not (got.is_floating_point or got.is_complex)
    expected = "a function that returns an int64 tensor of partners"
    ensure(is_integer and got != torch.bool, name, expected, got, TypeError)
    shape = tuple(partner.shape)
    expected = "a function that returns shape ({},)"
    ensure(shape == (batch_size,), name, expected, shape, ValueError, batch_size)
    partner = partner.detach().to(kwargs["device"], torch.int64)
    if not is_on_device(source) and batch_size:
        low, high = int(partner.min()), int(partner.max())
        expected = f"a function that returns indices in [0, {batch_size})"
        ensure(low >= 0 and high < batch_size, name, expected, f"values from {low} to {high}")
    return _for_source(partner, source)


def sample_seeds(count: int, source: Source = None) -> Any:
    """Sample (B,) int64 seeds for noise."""
    return _for_source(torch.randint(2**62, (count,), **sampling_kwargs(source)), source)


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
    with _global_rng_locks.setdefault(os.getpid(), threading.RLock()):
        state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.default_generator.set_state(state)
