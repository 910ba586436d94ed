"""Coded images: the colours of the pixels tell which samples they come from."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors


class Case(NamedTuple):
    """Size, dtype and seed of one batch."""

    batch_size: int
    size: tuple[int, int]
    dtype: torch.dtype
    seed: int

    def __str__(self) -> str:
        height, width = self.size
        pixels = f"{height} × {width} pixels"
        return f"batch of {self.batch_size}, {pixels}, {self.dtype}, seed {self.seed}"


class CodedBatch(NamedTuple):
    """Images of one colour each; images of the same class have the same colour."""

    images: Tensor  # (B, C, H, W), the dtype under test
    classes: Tensor  # (B,) int64
    colours: Tensor  # (K, C) float64 in [0, 1]; 0 for classes that are not in the batch
    present: Tensor  # (M,) int64, the classes that are in the batch, ascending


def private_generator(seed: int) -> torch.Generator:
    """Return a generator with another stream than `torch.manual_seed(seed)`."""
    return torch.Generator().manual_seed(seed ^ 0x5DEECE66D)


def coded_batch(
    case: Case, num_classes: int, channels: int = 3, *, avoid: Any = None, classes: Any = None
) -> CodedBatch:
    """Fill each image of a batch with the colour of its class.

    Classes (B,) that are not given are sampled; in three of four seeds no class occurs twice, if
    there are enough. Every mix of the colours is far from the colour `avoid`, (C, 1, 1) in [0, 1].
    """
    generator, size = private_generator(case.seed), case.batch_size
    if classes is None and size <= num_classes and case.seed % 4 != 3:
        classes = torch.randperm(num_classes, generator=generator)[:size]
    elif classes is None:
        classes = torch.randint(num_classes, (size,), generator=generator)
    present, index = torch.unique(classes, return_inverse=True)
    palette = sample_palette((len(present), channels), case.dtype, generator, avoid)
    images = palette[index][:, :, None, None].expand(-1, -1, *case.size).contiguous()
    colours = torch.zeros(num_classes, channels, dtype=torch.float64)
    colours[present] = to_unit(palette)
    return CodedBatch(images, classes, colours, present)


def sample_palette(
    shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator, avoid: Any = None
) -> Tensor:
    """Sample (M, C) colours, each the farthest of 32 from the previous ones."""
    if not (dtype.is_floating_point or dtype == torch.uint8):
        raise ValueError(f"dtypes must be floating-point types or torch.uint8, got {dtype}.")
    count, channels = shape
    low, high = torch.full((channels,), 10.0), torch.full((channels,), 245.0)
    if avoid is not None:
        # All colours lie on one side of the value, so no weighted mean of them can reach it.
        value = 255 * avoid.flatten().float()
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


def make_samples(images: Tensor, targets: Any) -> list[tuple[Any, Any]]:
    """Split a batch into the `(image, target)` samples of a data set."""

    def rows(field: Any) -> list[Any]:
        if not isinstance(field, Tensor):
            return list(field)
        if field.ndim == 1:
            return field.tolist()
        return [tv_tensors.wrap(row, like=field) for row in field.as_subclass(Tensor)]

    return list(zip(rows(images), rows(targets), strict=True))


def per_channel(name: str, value: float | Sequence[float] | None, channels: int) -> Tensor | None:
    """Return one number, or one per channel, as float64 of shape (C, 1, 1)."""
    if value is None:
        return None
    values = torch.tensor(value, dtype=torch.float64)
    if values.ndim and len(values) != channels:
        raise ValueError(f"{name} must have one value per channel ({channels}), got {len(values)}.")
    return values.expand(channels)[:, None, None]


def to_unit(images: Tensor, mean: Tensor | None = None, std: Tensor | None = None) -> Tensor:
    """Return images as float64 in [0, 1], with a normalisation undone."""
    unit = images.detach().cpu().to(torch.float64).as_subclass(Tensor)
    if not images.dtype.is_floating_point:
        unit = unit / 255
    return unit if mean is None or std is None else unit * std + mean


def colour_tolerance(*dtypes: torch.dtype, roundings: int = 1) -> float:
    """Return the largest error in [0, 1] units of colours that are mixed in these dtypes."""
    rounding = 1e-5 + 0.5 * roundings / 255
    return max(
        max(1e-5, 2 * torch.finfo(dtype).eps) if dtype.is_floating_point else rounding
        for dtype in dtypes
    )


def pixel_weights(pixels: Tensor, palette: Tensor, tolerance: float) -> Tensor:
    """Solve for the weight (B, M, H, W) of each colour of a palette (M, C) in each pixel.

    As few colours are mixed as possible, and at most as many as there are channels. The weights of
    a pixel sum to 1, or are NaN where no such mix is within the tolerance.
    """
    levels = (pixels * 1e7).round().to(torch.int64).movedim(1, -1)
    # Each colour gets a number, since unique numbers are found much faster than unique rows.
    key = torch.randint(2**62, levels.shape[-1:], generator=private_generator(0)) | 1
    numbers, index = torch.unique((levels * key).sum(-1), return_inverse=True)
    colours = torch.empty(len(numbers), palette.shape[1], dtype=torch.float64)
    colours[index.flatten()] = pixels.movedim(1, -1).flatten(0, 2)
    weights = torch.full((len(colours), len(palette)), torch.nan, dtype=torch.float64)
    # With more colours than channels some mix always fits, which would explain nothing.
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
        fits = (smallest <= tolerance).nonzero()[:, 0]
        weights[todo[fits]] = 0.0
        weights[todo[fits, None], members[best[fits]]] = share[fits, best[fits]]
    return weights[index].movedim(-1, 1)
