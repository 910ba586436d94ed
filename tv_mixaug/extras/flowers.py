"""Pictures of roses and tulips drawn with OpenCV, for examples and tests that need no download."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from tv_mixaug._validation import check_choice, check_integer, kind_error
from tv_mixaug.extras.io import check_path, write_image

CLASS_NAMES = ("rose", "tulip")

_Colour = npt.NDArray[np.float64]
_Pixels = npt.NDArray[np.float32]
_PETALS = {
    "rose": ("cc0f21", "ed6b8c", "f7cca8", "fad666", "f7ede6", "9e0d47"),
    "tulip": ("de1a1f", "fac726", "f280a8", "853394", "f78024", "f5f0eb"),
}
_BACKDROPS = ("8cb8db", "9ec294", "e0ccad", "5c806b", "b8b3d6", "3d4d61")
_GREEN = "47852f"
_SEED_STRIDE = 1_000_003  # keeps the pictures of neighbouring seeds apart


class Flower(NamedTuple):
    """One drawn flower with its ground truth.

    Attributes:
        image: (3, H, W) uint8, RGB.
        mask: (H, W) uint8, 1 on the blossom (petals only), else 0; never empty.
        box: (1, 4) int64, the tight XYXY box of the mask, half-open, in pixels.
    """

    image: tv_tensors.Image
    mask: tv_tensors.Mask
    box: tv_tensors.BoundingBoxes


def draw_flower(kind: str, size: int | Sequence[int] = 256, seed: int = 0) -> Flower:
    """Draw a flower.

    Args:
        kind: ``"rose"`` or ``"tulip"``.
        size: (height, width) in pixels, or one number for both.
        seed: Any number >= 0; it settles colours, shapes, light and background.

    Returns:
        The picture, the mask of the blossom and its box.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If ``kind`` is unknown, a side is < 1 or ``seed`` is negative.

    Example:
        >>> flower = draw_flower("tulip", (24, 32), seed=7)
        >>> flower.image.shape, flower.mask.shape, flower.box.shape
        (torch.Size([3, 24, 32]), torch.Size([24, 32]), torch.Size([1, 4]))
    """
    check_choice("kind", kind, CLASS_NAMES)
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2:
        raise kind_error("size", "an int or a (height, width) pair", size)
    height, width = (check_integer("size", side, 1) for side in sides)
    seed = check_integer("seed", seed, 0)
    scale = 2 if height * width <= 128 * 128 else 1  # small pictures show every jagged edge
    rng = np.random.default_rng((seed, CLASS_NAMES.index(kind)))
    canvas = _Canvas(height * scale, width * scale, rng)
    petal = _colour(rng.choice(_PETALS[kind])) * rng.uniform(0.94, 1.04, 3)
    top = complex(rng.uniform(-0.08, 0.08), rng.uniform(-0.14, -0.06))
    foot = complex(top.real + rng.uniform(-0.12, 0.12), canvas.centre.imag / canvas.unit + 0.1)
    dark, bright = canvas.green * 0.65, canvas.green * 0.85
    canvas.paint(foot, top - foot, 0.038, dark, bright, sharpness=0.01)
    draw = _draw_rose if kind == "rose" else _draw_tulip
    draw(canvas, top, foot, rng.uniform(0.27, 0.34), petal)

    pixels = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
    cover = cv2.resize(canvas.blossom, (width, height), interpolation=cv2.INTER_AREA)
    mask = cover >= min(128, int(cover.max()))  # a blossom smaller than a pixel still has one
    where = np.argwhere(mask)[:, ::-1]
    box = np.array([[*where.min(0), *where.max(0) + 1]], np.int64)
    image = np.ascontiguousarray((pixels * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1))
    return Flower(
        tv_tensors.Image(torch.from_numpy(image)),
        tv_tensors.Mask(torch.from_numpy(mask.astype(np.uint8))),
        tv_tensors.BoundingBoxes(torch.from_numpy(box), format="XYXY", canvas_size=(height, width)),
    )


def draw_flowers(
    count: int, size: int | Sequence[int] = 256, seed: int = 0
) -> tuple[tv_tensors.Image, torch.Tensor]:
    """Draw a batch of flowers, roses and tulips in turn.

    Args:
        count: Number of pictures B, >= 1.
        size: (height, width) in pixels, or one number for both.
        seed: Any number >= 0; batches of different seeds share no picture.

    Returns:
        (B, 3, H, W) uint8 images and (B,) int64 indices into ``CLASS_NAMES``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a number is out of range.

    Example:
        >>> images, labels = draw_flowers(3, size=16)
        >>> images.shape, labels
        (torch.Size([3, 3, 16, 16]), tensor([0, 1, 0]))
    """
    check_integer("count", count, 1)
    seed = check_integer("seed", seed, 0)
    labels = torch.arange(count) % len(CLASS_NAMES)
    flowers = [
        draw_flower(CLASS_NAMES[label], size, seed + _SEED_STRIDE * i)
        for i, label in enumerate(labels.tolist())
    ]
    return tv_tensors.Image(torch.stack([flower.image for flower in flowers])), labels


def write_image_folder(
    root: str | os.PathLike[str],
    count_per_class: int = 4,
    size: int | Sequence[int] = 256,
    seed: int = 0,
) -> list[Path]:
    """Write flowers as files that ``torchvision.datasets.ImageFolder`` reads.

    Args:
        root: The folder, made if missing; the files are ``root/rose/000.jpg``, ``001.png``, ...,
            JPEG and PNG in turn, and the same for ``tulip``. Files of these names are replaced.
        count_per_class: Number of pictures of each class, >= 1.
        size: (height, width) in pixels, or one number for both.
        seed: Any number >= 0; folders of different seeds share no picture.

    Returns:
        The paths of all files, sorted, so in the order of ``ImageFolder``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a number is out of range.
        OSError: If the folder cannot be written.

    Example:
        >>> files = write_image_folder(getfixture("tmp_path"), count_per_class=2, size=32)
        >>> [f"{file.parent.name}/{file.name}" for file in files]
        ['rose/000.jpg', 'rose/001.png', 'tulip/000.jpg', 'tulip/001.png']
    """
    check_path("root", root)
    check_integer("count_per_class", count_per_class, 1)
    seed = check_integer("seed", seed, 0)
    files = []
    for kind in CLASS_NAMES:
        Path(root, kind).mkdir(parents=True, exist_ok=True)
        for i in range(count_per_class):
            files.append(Path(root, kind, f"{i:03d}{'.png' if i % 2 else '.jpg'}"))
            flower = draw_flower(kind, size, seed + _SEED_STRIDE * i)
            write_image(files[-1], flower.image.permute(1, 2, 0).numpy())
    return files


def _colour(code: str) -> _Colour:
    return np.frombuffer(bytes.fromhex(code), np.uint8) / 255.0


class _Canvas:
    """A picture in the making; points are x + iy from its centre, in units of its shorter side."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.rng, self.green = rng, _colour(_GREEN) * rng.uniform(0.85, 1.15, 3)
        self.unit, self.centre = min(height, width), complex(width, height) / 2
        self.pixels = _backdrop(height, width, rng)
        self.blossom = np.zeros((height, width), np.uint8)

    def paint(
        self,
        root: complex,
        way: complex,
        width: float,
        dark: _Colour,
        bright: _Colour,
        *,
        bend: float = 0.0,
        sharpness: float = 0.7,
        blossom: bool = False,
    ) -> None:
        """Paint a petal, leaf or stem with a shadow below; its tip is brighter than its root."""
        t = np.linspace(0, 1, 40)
        half = t**0.5 * (1 - t) ** sharpness
        side = 0.5j * width * half / half.max() * way / abs(way)
        axis = root + way * (t + 2j * bend * t * (1 - t))
        outline = np.concatenate((axis + side, (axis - side)[::-1])) * self.unit + self.centre
        points = np.stack((outline.real, outline.imag), 1)
        pad, ends = 0.04 * self.unit, self.blossom.shape[::-1]
        x1, y1 = np.clip(points.min(0) - pad, 0, ends).astype(int)
        x2, y2 = np.clip(points.max(0) + pad, 0, ends).astype(int)
        below, petals = self.pixels[y1:y2, x1:x2], self.blossom[y1:y2, x1:x2]
        if not below.size:
            return
        shape = np.zeros_like(petals)
        cv2.fillPoly(shape, [((points - (x1, y1)) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        reach = int(pad) | 1
        below *= 1 - np.float32(0.45 / 255) * cv2.stackBlur(shape, (reach, reach))[..., None]
        y, x = np.ogrid[y1:y2, x1:x2]
        place = ((x + 1j * y - self.centre) / self.unit - root) / way
        place = place.astype(np.complex64)  # half the work in all that follows
        light = np.clip(place.real, 0, 1)[..., None] ** 1.3
        veins = np.sin(45 * abs(way) * place.imag / (abs(place.real) + 0.35))[..., None]
        colour = np.float32(dark) + np.float32(bright - dark) * light
        colour = np.clip(colour * (1 + 0.025 * veins), 0, 1)
        below += shape[..., None] / np.float32(255) * (colour - below)
        if blossom:
            np.maximum(petals, shape, out=petals)


def _backdrop(height: int, width: int, rng: np.random.Generator) -> _Pixels:
    """Make a garden out of focus: slow changes of colour with some bright spots."""
    rows, columns = -(-height // 4), -(-width // 4)  # nothing in it is sharp
    tones = np.exp(rng.normal(0, 0.16, (4, 4, 1)) + rng.normal(0, 0.06, (4, 4, 3)))
    tones *= _colour(rng.choice(_BACKDROPS))
    light = cv2.resize(tones, (columns, rows), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(8, 16)):
        at = (int(rng.uniform(0, columns)), int(rng.uniform(0, rows)))
        radius = max(1, round(min(rows, columns) * rng.uniform(0.03, 0.11)))
        spot = cv2.blur(cv2.circle(light.copy(), at, radius, (1.1, 1.1, 1.1), -1), (3, 3))
        light += rng.uniform(0.04, 0.16) * (spot - light)
    # Dimmed, not clipped: flat white areas of two pictures would be equal pixel by pixel.
    light = (light / max(1, light.max())).astype(np.float32)
    full: _Pixels = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    return full


def _draw_rose(canvas: _Canvas, top: complex, foot: complex, radius: float, petal: _Colour) -> None:
    rng, green = canvas.rng, canvas.green
    for side in (-1, 1):
        root = top + (foot - top) / (foot - top).imag * radius * rng.uniform(1.15, 1.6)
        way = radius * complex(side * rng.uniform(0.75, 1.0), rng.uniform(-0.25, 0.3))
        canvas.paint(root, way, 0.42 * radius, green * 0.7, green, bend=rng.uniform(-0.15, 0.15))
    turn = np.exp(1j * rng.uniform(0, 7))
    for i in range(5):
        way = 1.12 * radius * turn * np.exp(0.4j * np.pi * i)
        canvas.paint(top, way, 0.35 * radius, green * 0.6, green * 0.95)
    # From the outer ring of petals to the heart, each turned by about the golden angle.
    rings = ((1.0, 6), (0.86, 5), (0.70, 5), (0.54, 4), (0.40, 4), (0.27, 3), (0.15, 2))
    for ring, (reach, count) in enumerate(rings):
        turn *= np.exp(2.4j)
        for i in range(count):
            tip = turn * np.exp(2j * np.pi * (i + rng.uniform(-0.05, 0.05)) / count)
            way = radius * reach * rng.uniform(0.94, 1.04) * tip
            bright = petal * (1.06 - 0.05 * ring) * (1 + 0.1 * np.cos(np.angle(tip) - 3.9))
            width = abs(way) * min(1.7, 7 / count)
            canvas.paint(top, way, width, petal * 0.4, bright, sharpness=0.4, blossom=True)


def _draw_tulip(
    canvas: _Canvas, top: complex, foot: complex, radius: float, petal: _Colour
) -> None:
    rng, green = canvas.rng, canvas.green
    for side in (-1, 1):
        way = complex(side * rng.uniform(0.2, 0.36), rng.uniform(-0.9, -0.55))
        canvas.paint(foot, way, 0.13, green * 0.65, green, bend=side * rng.uniform(0.1, 0.25))
    root, warm = top + 0.95j * radius, petal * 0.6 + (0.24, 0.23, 0.1)
    opening = rng.uniform(0.85, 1.15)
    # Three petals behind, then three in front, of which the one in the middle is the brightest.
    for tall, wide, shade in ((1.95, 0.95, 0.8), (1.73, 1.15, 1.03)):
        for lean in (-0.5, 0.5, 0.0):
            way = radius * complex(lean * opening + rng.uniform(-0.06, 0.06), -tall)
            light, bend = shade - 0.2 * abs(lean), -0.4 * lean
            dark, bright = warm * light, petal * light
            canvas.paint(root, way, wide * radius, dark, bright, bend=bend, blossom=True)
