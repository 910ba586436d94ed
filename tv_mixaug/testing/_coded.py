"""Pictures whose pixels say whose they are, and the way back from pixels to samples."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug.testing._arguments import at_least, check_dtypes
from tv_mixaug.testing._causes import Cause


class TruthReport(NamedTuple):
    """How much was compared.

    Attributes:
        rows: number of rows (samples of all batches) compared.
        mixed: how many of them were mixed; a check that never met one shows little.
    """

    rows: int
    mixed: int


class Evidence(NamedTuple):
    """The rows of the smallest case that are wrong, fit to be drawn."""

    images: Tensor  # (N, C, H, W) float64 in [0, 1]
    said: Tensor  # (N, K) float64, what the labels or targets say
    held: Tensor  # (N, K) float64, what the pixels hold, as far as they can be told
    samples: Tensor  # (B, C, H, W) float64 in [0, 1], what went in
    classes: Tensor  # (B,) int64


class UntruthfulError(AssertionError):
    """What was asked of a pipeline does not hold.

    Attributes:
        wrong: number of rows (or batches, as the text says) that are wrong; 0 if none is counted.
        rows: number of rows (or batches) compared.
        case: the smallest case found.
        cause: the probable cause.
        evidence: pictures of the wrong rows with what is said and held of them, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        wrong: int = 0,
        rows: int = 0,
        case: str = "",
        cause: str = "",
        evidence: Evidence | None = None,
    ) -> None:
        super().__init__(message)
        self.wrong, self.rows = wrong, rows
        self.case, self.cause, self.evidence = case, cause, evidence


def because(cause: Cause) -> str:
    """Write a cause, and what to do about it, in two lines."""
    return f"Probable cause: {cause.text}\nWhat to do: {cause.remedy}"


class Case(NamedTuple):
    """What one trial feeds to a pipeline."""

    batch_size: int
    size: tuple[int, int]
    dtype: torch.dtype
    seed: int

    def __str__(self) -> str:
        height, width = self.size
        return (
            f"batch of {self.batch_size}, {height} × {width} pixels, {self.dtype}, seed {self.seed}"
        )


class CodedBatch(NamedTuple):
    """One-coloured images; all images of a class have the colour of the class."""

    images: Tensor  # (B, C, H, W), the dtype under test
    classes: Tensor  # (B,) int64
    colours: Tensor  # (K, C) float64 in [0, 1]; 0 for classes that are not in the batch
    present: Tensor  # (M,) int64, the classes that are in the batch, ascending


def all_cases(
    batch_sizes: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    dtypes: Sequence[torch.dtype],
    draws: int,
    seed: int,
) -> list[Case]:
    """List the trials, small ones first, each with a seed of its own."""
    for batch_size in batch_sizes:
        at_least("batch_sizes", batch_size, 1)
    for side in (side for size in sizes for side in size):
        at_least("sizes", side, 1)
    check_dtypes(dtypes)
    grid = product(dtypes, sorted(batch_sizes), sorted(sizes), range(at_least("draws", draws, 1)))
    cases = [Case(b, s, d, seed + n) for n, (d, b, s, _) in enumerate(grid)]
    if not cases:
        raise ValueError("batch_sizes, sizes and dtypes must not be empty, got an empty one.")
    return cases


def smaller_cases(failing: Case) -> Iterator[Case]:
    """Yield trials that would explain a failure better, the smallest first."""
    squares = [(side, side) for side in (4, 8, 16) if side < min(failing.size)]
    sizes = [*squares, failing.size]
    for batch_size, size, n in product(range(1, failing.batch_size + 1), sizes, range(8)):
        yield Case(batch_size, size, failing.dtype, failing.seed + n)


def unrepeatable(failing: Case) -> str:
    """Say of a failure that did not come again what that means."""
    return (
        f"First seen for a {failing}, but not again under the same seed: the pipeline has a "
        "source of randomness besides torch, numpy and random."
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and random, and give them their old state back."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would note down a call for each GPU library that is not in use.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def private_generator(seed: int) -> torch.Generator:
    """Return a generator whose stream has nothing to do with `torch.manual_seed(seed)`."""
    return torch.Generator().manual_seed(seed ^ 0x5DEECE66D)


def call(
    pipeline: Callable[..., Any], case: Case, images: Any, targets: Any, *, collate: bool
) -> tuple[Tensor, Any]:
    """Call a pipeline under the case's seed, on a batch or on samples; take images and the rest."""
    inputs = (make_samples(images, targets),) if collate else (images, targets)
    with seeded(case.seed):
        try:
            result = pipeline(*inputs)
        except Exception as error:
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note(f"Raised by the pipeline under test for a {case}.")
            raise
    return read_result(result)


def make_samples(images: Tensor, targets: Any) -> list[tuple[Any, Any]]:
    """Take a batch apart into the `(image, target)` that a data set yields."""

    def rows(leaf: Any) -> list[Any]:
        if not isinstance(leaf, Tensor):
            return list(leaf)
        if leaf.ndim == 1:
            return leaf.tolist()
        return [tv_tensors.wrap(row, like=leaf) for row in leaf.as_subclass(Tensor)]

    return list(zip(rows(images), rows(targets), strict=True))


def read_result(result: Any) -> tuple[Tensor, Any]:
    """Return the images and the targets that a pipeline gave, or say that these are none."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        got = (
            f"{len(result)} values" if isinstance(result, (tuple, list)) else type(result).__name__
        )
        raise TypeError(f"pipeline must return a pair, images first, got {got}; wrap it to do so.")
    images, rest = result
    if not isinstance(images, Tensor) or images.ndim != 4:
        got = (
            f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        )
        raise TypeError(
            f"pipeline must return images (B, C, H, W) first, got {got}; wrap it to do so."
        )
    return images, rest


def to_unit(
    images: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Tensor:
    """Return images (…, C, H, W) as float64 in [0, 1]: bytes scaled, a normalisation undone."""
    unit = images.detach().cpu().to(torch.float64).as_subclass(Tensor)
    if not images.dtype.is_floating_point:
        unit = unit / 255
    if mean is not None and std is not None:
        unit = unit * torch.tensor(std, dtype=torch.float64).reshape(-1, 1, 1)
        unit = unit + torch.tensor(mean, dtype=torch.float64).reshape(-1, 1, 1)
    return unit


def colour_tolerance(dtype: torch.dtype, roundings: int = 1) -> float:
    """Return how far a correctly mixed colour may be off, in [0, 1] units."""
    if dtype.is_floating_point:
        return max(1e-5, 2 * torch.finfo(dtype).eps)
    return 1e-5 + 0.5 * roundings / 255


def coded_batch(
    case: Case, *, num_classes: int, channels: int, avoid: Sequence[float] | None = None
) -> CodedBatch:
    """Draw classes and colours for one trial.

    Args:
        case: batch size, image size, dtype and seed.
        num_classes: number of classes. Three trials in four use no class twice if there are
            enough of them; the others draw classes freely, so that some repeat.
        channels: number of channels.
        avoid: per channel, a value in [0, 1] that no mix of colours may come near.

    Returns:
        The batch.
    """
    generator = private_generator(case.seed)
    size = case.batch_size
    if size <= num_classes and case.seed % 4 != 3:
        classes = torch.randperm(num_classes, generator=generator)[:size]
    else:
        classes = torch.randint(num_classes, (size,), generator=generator)
    present, index = torch.unique(classes, return_inverse=True)
    palette = draw_palette(len(present), channels, case.dtype, generator, avoid)
    images = palette[index][:, :, None, None].expand(-1, -1, *case.size).contiguous()
    colours = torch.zeros(num_classes, channels, dtype=torch.float64)
    colours[present] = to_unit(palette[:, :, None, None])[:, :, 0, 0]
    return CodedBatch(images, classes, colours, present)


def draw_palette(
    count: int,
    channels: int,
    dtype: torch.dtype,
    generator: torch.Generator,
    avoid: Sequence[float] | None = None,
) -> Tensor:
    """Draw (count, channels) colours, each the farthest of 32 from those before."""
    low, high = torch.full((channels,), 10.0), torch.full((channels,), 245.0)
    if avoid is not None:
        # All colours on one side of the value: no weighted mean of them can reach it.
        value = 255 * torch.tensor(avoid).expand(channels)
        low = torch.where(value < 128, (value + 25).clamp(min=10), low)
        high = torch.where(value >= 128, (value - 25).clamp(max=245), high)
    chosen = torch.empty(0, channels)
    for _ in range(count):
        candidates = low + (high - low) * torch.rand(32, channels, generator=generator)
        best = torch.cdist(candidates, chosen).amin(dim=1).argmax() if len(chosen) else 0
        chosen = torch.cat([chosen, candidates[best][None]])
    levels = chosen.round()
    if dtype.is_floating_point:
        return (levels.to(torch.float64) / 255).to(dtype)
    return levels.to(dtype)


def decode(colours: Tensor, palette: Tensor, *, tolerance: float) -> Tensor:
    """Solve for the weights of the palette in each colour, with as few colours mixed as will do.

    Args:
        colours: (U, C) float64, what is seen.
        palette: (M, C) float64, what may have been mixed.
        tolerance: how far from a seen colour the mix may be, in [0, 1] units.

    Returns:
        (U, M) float64: weights >= 0 that sum to 1 in each row, or NaN where no mix of up to as
        many colours as there are channels (three at most) fits.
    """
    weights = torch.full((len(colours), len(palette)), torch.nan, dtype=torch.float64)
    # More colours than channels always fit somehow, and would explain nothing.
    most = min(3 if len(palette) <= 16 else 2, palette.shape[1], len(palette))
    for parts in range(1, most + 1):
        todo = weights[:, 0].isnan().nonzero()[:, 0]
        if not len(todo):
            break
        members = torch.tensor(list(combinations(range(len(palette)), parts)))
        corner = palette[members[:, 0]]
        edges = (palette[members[:, 1:]] - corner[:, None]).mT
        offset = (colours[todo][:, None] - corner)[..., None]
        rest = (torch.linalg.pinv(edges) @ offset)[..., 0]
        share = torch.cat([1 - rest.sum(-1, keepdim=True), rest], dim=-1).clamp(min=0)
        share = share / share.sum(-1, keepdim=True)
        fitted = (share[..., None] * palette[members]).sum(-2)
        smallest, best = (fitted - colours[todo][:, None]).abs().amax(-1).min(dim=1)
        for at in (smallest <= tolerance).nonzero()[:, 0]:
            weights[todo[at]] = 0.0
            weights[todo[at], members[best[at]]] = share[at, best[at]]
    return weights
