"""Draw pictures of roses and tulips: sample data that needs no download."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from tv_mixaug._opencv import cv2
from tv_mixaug._validation import check_choice, check_integer
from tv_mixaug.extras.io import write_image

CLASS_NAMES = ("rose", "tulip")
_PETALS = ((204, 15, 33), (237, 107, 140), (250, 206, 84), (247, 237, 230), (133, 51, 148))


class Flower(NamedTuple):
    """A drawn flower: (3, H, W) RGB image, (H, W) mask of the petals and its (1, 4) XYXY box."""

    image: tv_tensors.Image
    mask: tv_tensors.Mask
    box: tv_tensors.BoundingBoxes


def draw_flower(kind: str, size: int | Sequence[int] = 256, seed: int = 0) -> Flower:
    """Draw a ``"rose"`` or a ``"tulip"`` of ``size``: (height, width), or the side of a square.

    Example:
        >>> draw_flower("tulip", (24, 32), seed=7).image.shape
        torch.Size([3, 24, 32])
    """
    check_choice("kind", kind, CLASS_NAMES)
    sides = size if isinstance(size, Sequence) else (size, size)
    height, width = (check_integer("size", side, 1) for side in sides)
    rng = np.random.default_rng((check_integer("seed", seed, 0), CLASS_NAMES.index(kind)))
    garden = rng.uniform(80, 210, 3) * rng.normal(1, 0.1, (4, 4, 3))
    garden = cv2.resize(garden, (2 * width, 2 * height), interpolation=cv2.INTER_CUBIC)
    canvas = np.dstack((garden.clip(0, 255), 0 * garden[..., :1])).astype(np.uint8)
    _paint_flower(canvas, kind, rng)
    pixels = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)  # smooth edges
    planes = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    mask = (planes[3:] >= planes[3:].max().clamp(max=128)).byte()  # never empty
    corners = masks_to_boxes(mask).long() + torch.tensor([0, 0, 1, 1])
    box = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width))
    return Flower(tv_tensors.Image(planes[:3]), tv_tensors.Mask(mask[0]), box)


def draw_flowers(
    count: int, size: int | Sequence[int] = 256, seed: int = 0
) -> tuple[tv_tensors.Image, torch.Tensor]:
    """Draw (B, 3, H, W) roses and tulips in turn, with (B,) int64 indices into ``CLASS_NAMES``."""
    count, seed = check_integer("count", count, 1), check_integer("seed", seed, 0)
    seeds = (seed + 1_000_003 * i for i in range(count))  # other pictures for another seed
    images = [draw_flower(CLASS_NAMES[i % 2], size, s).image for i, s in enumerate(seeds)]
    return tv_tensors.Image(torch.stack(images)), torch.arange(count) % 2


def write_image_folder(
    root: str | os.PathLike[str], count_per_class: int = 4, size: int | Sequence[int] = 256,
    seed: int = 0,
) -> list[Path]:  # fmt: skip
    """Write flowers for ``torchvision.datasets.ImageFolder``; return the PNG files."""
    files = []
    for i, image in enumerate(draw_flowers(2 * count_per_class, size, seed)[0]):
        file = Path(root, CLASS_NAMES[i % 2], f"{i // 2:03d}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(file, image.permute(1, 2, 0).numpy())
        files.append(file)
    return sorted(files)


def _paint_flower(canvas: npt.NDArray[np.uint8], kind: str, rng: np.random.Generator) -> None:
    """Paint stem, leaves and petals; points are x + iy from the centre, in short sides."""
    uniform, petal, green = rng.uniform, rng.choice(_PETALS), np.array((71, 133, 47))
    top, radius = complex(uniform(-0.08, 0.08), uniform(-0.14, -0.06)), uniform(0.27, 0.34)
    foot = complex(uniform(-0.15, 0.15), 0.5 * canvas.shape[0] / min(canvas.shape[:2]) + 0.1)
    _paint(canvas, foot, top - foot, 0.03, 0.85 * green, 0)
    for side in (-1, 1):
        leaf = complex(side * uniform(0.2, 0.32), uniform(-0.7, -0.6) + 0.4 * (kind == "rose"))
        _paint(canvas, foot, leaf, 0.13, green, 0)
    if kind == "rose":
        turn = uniform(0, 7)
        for i, reach in enumerate(np.linspace(1, 0.15, 24)):  # from the outer petals to the heart
            way = radius * reach * np.exp(1j * (turn + 2.4 * i))  # about the golden angle
            light = 1.06 + 0.1 * np.cos(np.angle(way) - 3.9)
            _paint(canvas, top, way, 1.3 * abs(way), light * petal, 255)
        return
    for tall, light in ((1.95, 0.9), (1.73, 1.1)):  # behind, in front
        for lean in (-0.4, 0.4, 0.0):
            way = radius * complex(lean + uniform(-0.06, 0.06), -tall)
            bright = (light - 0.2 * abs(lean)) * petal
            _paint(canvas, top + 0.95j * radius, way, 0.85 * radius, bright, 255)


def _paint(canvas: Any, root: complex, way: complex, width: float, colour: Any, cover: int) -> None:
    """Paint an elliptic leaf or petal in layers, from the dark whole to the bright tip.

    The fourth channel gets ``cover``: 255 for petals, which are the mask, and otherwise 0.
    """
    unit, centre = min(canvas.shape[:2]), complex(canvas.shape[1], canvas.shape[0]) / 2
    for share in np.linspace(1, 0, 12, endpoint=False):
        middle = centre + unit * (root + (1 - share / 2) * way)
        axes = share * unit * abs(way), share * unit * width
        ellipse = (middle.real, middle.imag), axes, np.angle(way, deg=True)
        ink = (colour * (1 - 0.5 * share**1.5)).clip(0, 255)
        cv2.ellipse(canvas, ellipse, (*ink, cover), -1, cv2.LINE_AA)
