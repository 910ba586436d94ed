"""Draw pictures of roses and tulips: sample data that needs no download."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from tv_mixaug._validation import check_choice, check_integer, ensure_kind
from tv_mixaug.extras.io import write_image

CLASS_NAMES = ("rose", "tulip")
_RGB = npt.NDArray[np.float64]  # in [0, 1]
_ROSES = ("cc0f21", "ed6b8c", "f7cca8", "fad666", "f7ede6", "9e0d47")
_TULIPS = ("de1a1f", "fac726", "f280a8", "853394", "f78024", "f5f0eb")
_GARDENS = ("8cb8db", "9ec294", "e0ccad", "5c806b", "b8b3d6", "3d4d61")
_RINGS = ((1.0, 6), (0.86, 5), (0.70, 5), (0.54, 4), (0.40, 4), (0.27, 3), (0.15, 2))


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
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    ensure_kind(len(sides) == 2, "size", "an int or a (height, width) pair", size)
    height, width = (check_integer("size", side, 1) for side in sides)
    rng = np.random.default_rng((check_integer("seed", seed, 0), CLASS_NAMES.index(kind)))
    canvas = _Canvas(2 * height, 2 * width, rng)
    (_draw_rose if kind == "rose" else _draw_tulip)(canvas)
    pixels = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
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
    seeds = range(seed, seed + 1_000_003 * count, 1_000_003)  # other pictures for another seed
    images = [draw_flower(CLASS_NAMES[i % 2], size, s).image for i, s in enumerate(seeds)]
    return tv_tensors.Image(torch.stack(images)), torch.arange(count) % 2


def write_image_folder(
    root: str | os.PathLike[str],
    count_per_class: int = 4,
    size: int | Sequence[int] = 256,
    seed: int = 0,
) -> list[Path]:
    """Write flowers for ``torchvision.datasets.ImageFolder``, JPEG and PNG files in turn.

    Returns:
        The files: ``root/rose/000.jpg``, ``root/rose/001.png``, ..., and the same for tulips.
    """
    count = check_integer("count_per_class", count_per_class, 1)
    images, labels = draw_flowers(2 * count, size, seed)
    files = []
    for kind, name in enumerate(CLASS_NAMES):
        Path(root, name).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images[labels == kind].permute(0, 2, 3, 1).numpy()):
            files.append(Path(root, name, f"{i:03d}{'.png' if i % 2 else '.jpg'}"))
            write_image(files[-1], image)
    return files


class _Canvas:
    """A blurred garden with a stem; points are x + iy from its centre, in short sides."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.rng, self.unit, self.centre = rng, min(height, width), complex(width, height) / 2
        size = (width + 3) // 4, (height + 3) // 4  # enlarged later, which blurs
        tones = np.exp(rng.normal(0, 0.16, (4, 4, 1)) + rng.normal(0, 0.06, (4, 4, 3)))
        light = cv2.resize(self.choose(_GARDENS) * tones, size, interpolation=cv2.INTER_CUBIC)
        glow = np.zeros_like(light)
        for _ in range(12):
            radius = round(min(size) * rng.uniform(0.03, 0.11))
            cv2.circle(glow, rng.integers(size).tolist(), radius, [rng.uniform(0.04, 0.16)] * 3, -1)
        light += cv2.blur(glow, (3, 3)) * (1 - light)
        light = cv2.resize(light / max(1, light.max()), (width, height)).clip(0)
        self.pixels = np.dstack((255 * light, np.zeros((height, width)))).astype(np.uint8)
        self.cover = 0  # the fourth channel of what is painted: 255 for petals
        self.top = complex(rng.uniform(-0.08, 0.08), rng.uniform(-0.14, -0.06))
        self.foot = complex(rng.uniform(-0.15, 0.15), self.centre.imag / self.unit + 0.1)
        self.radius, self.green = rng.uniform(0.27, 0.34), self.choose(("47852f",))
        self.paint(self.foot, self.top - self.foot, 0.038, self.green * 0.85, self.green * 0.65)

    def choose(self, codes: Sequence[str]) -> _RGB:
        """Choose one of some hexadecimal colours and vary it."""
        code = bytes.fromhex(self.rng.choice(codes))
        return np.frombuffer(code, np.uint8) / 255 * self.rng.uniform(0.94, 1.04, 3)

    def paint(
        self, root: complex, way: complex, width: float, bright: _RGB, dark: _RGB, bend: float = 0
    ) -> None:
        """Paint a leaf or petal in layers, from the dark whole to the bright tip."""
        t = np.linspace(0, 1, 40)
        side = 1.1j * width * t**0.5 * (1 - t) ** 0.65 * way / abs(way)
        axis = way * (t - 1 + 2j * bend * t * (1 - t))  # from the tip
        outline = np.concatenate((axis + side, (axis - side)[::-1]))
        for share in np.linspace(1, 0, 12, endpoint=False):
            points = (root + way + share * outline) * self.unit + self.centre
            corners = (np.stack((points.real, points.imag), 1) * 16).astype(np.int32)
            colour = 255 * (bright + (dark - bright) * share**1.5).clip(0, 1)
            cv2.fillPoly(self.pixels, [corners], (*colour, self.cover), cv2.LINE_AA, 4)


def _draw_rose(canvas: _Canvas) -> None:
    rng, top, radius, green = canvas.rng, canvas.top, canvas.radius, canvas.green
    petal, turn = canvas.choose(_ROSES), np.exp(1j * rng.uniform(0, 7))
    for side in (-1, 1):
        root = top + (canvas.foot - top) * rng.uniform(0.55, 0.75)
        way = radius * complex(side * rng.uniform(0.75, 1.0), rng.uniform(-0.25, 0.3))
        canvas.paint(root, way, 0.42 * radius, green, green * 0.7, rng.uniform(-0.15, 0.15))
    for way in 1.12 * radius * turn * np.exp(0.4j * np.pi * np.arange(5)):
        canvas.paint(top, way, 0.35 * radius, green, green * 0.6)
    canvas.cover = 255
    for ring, (reach, count) in enumerate(_RINGS):  # from the outer petals to the heart
        turn *= np.exp(2.4j)  # about the golden angle
        for i in range(count):
            tip = turn * np.exp(2j * np.pi * (i + rng.uniform(-0.05, 0.05)) / count)
            way = radius * reach * rng.uniform(0.94, 1.04) * tip
            bright = petal * (1.06 - 0.05 * ring) * (1 + 0.1 * np.cos(np.angle(tip) - 3.9))
            canvas.paint(top, way, abs(way) * min(1.7, 7 / count), bright, petal * 0.4)


def _draw_tulip(canvas: _Canvas) -> None:
    rng, radius, green, petal = canvas.rng, canvas.radius, canvas.green, canvas.choose(_TULIPS)
    for side in (-1, 1):
        way = complex(side * rng.uniform(0.2, 0.36), rng.uniform(-0.9, -0.55))
        canvas.paint(canvas.foot, way, 0.13, green, green * 0.7, side * rng.uniform(0.05, 0.15))
    canvas.cover = 255
    root, warm = canvas.top + 0.95j * radius, petal * 0.6 + (0.24, 0.23, 0.1)
    for tall, wide, light in ((1.95, 0.95, 0.8), (1.73, 1.15, 1.03)):  # behind, in front
        for lean in (-0.5, 0.5, 0.0):
            way = radius * complex(lean + rng.uniform(-0.06, 0.06), -tall)
            bright, dark = (colour * (light - 0.2 * abs(lean)) for colour in (petal, warm))
            canvas.paint(root, way, wide * radius, bright, dark, -0.4 * lean)
