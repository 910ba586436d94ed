"""Pictures of roses and tulips drawn with OpenCV, for examples and tests that need no download."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from tv_mixaug.arguments import check_choice, check_integer, kind_error
from tv_mixaug.io import write_image

CLASS_NAMES = ("rose", "tulip")

_Array = npt.NDArray[np.float64]
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
    height, width = _check_size(size)
    seed = check_integer("seed", seed, 0)
    import cv2

    scale = 2 if height * width <= 256 * 256 else 1  # small pictures show every jagged edge
    rng = np.random.default_rng((seed, CLASS_NAMES.index(kind)))
    petal = _colour(rng.choice(_PETALS[kind])) * rng.uniform(0.94, 1.04, 3)
    green = _colour(_GREEN) * rng.uniform(0.85, 1.15, 3)
    canvas = _Canvas(height * scale, width * scale, green, rng)
    head = np.array((rng.uniform(-0.08, 0.08), rng.uniform(-0.14, -0.06)))
    draw = _draw_rose if kind == "rose" else _draw_tulip
    draw(canvas, head, rng.uniform(0.27, 0.34), petal)

    pixels = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
    cover = cv2.resize(canvas.blossom, (width, height), interpolation=cv2.INTER_AREA)
    mask = cover >= min(128, int(cover.max()))  # a blossom smaller than a pixel still has one
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    image = np.ascontiguousarray((pixels * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1))
    return Flower(
        tv_tensors.Image(torch.from_numpy(image)),
        tv_tensors.Mask(torch.from_numpy(mask.astype(np.uint8))),
        tv_tensors.BoundingBoxes(
            torch.tensor([[int(side) for side in box]]),
            format="XYXY",
            canvas_size=(height, width),
        ),
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
    if not isinstance(root, (str, os.PathLike)):
        raise TypeError(f"root must be a str or a Path, got {type(root).__name__}.")
    check_integer("count_per_class", count_per_class, 1)
    seed = check_integer("seed", seed, 0)
    files = []
    for kind in CLASS_NAMES:
        folder = Path(root, kind)
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count_per_class):
            rgb = draw_flower(kind, size, seed + _SEED_STRIDE * i).image.permute(1, 2, 0).numpy()
            file = folder / f"{i:03d}{'.png' if i % 2 else '.jpg'}"
            write_image(file, rgb)
            files.append(file)
    return files


def _check_size(size: int | Sequence[int]) -> tuple[int, int]:
    pair = size if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or isinstance(size, str):
        raise kind_error("size", "an int or a (height, width) pair", size)
    return check_integer("size", pair[0], 1), check_integer("size", pair[1], 1)


def _colour(code: str) -> _Array:
    return np.frombuffer(bytes.fromhex(code), np.uint8) / 255.0


class _Canvas:
    """A picture in the making; points are in units of its shorter side, from its centre."""

    def __init__(self, height: int, width: int, green: _Array, rng: np.random.Generator) -> None:
        self.unit = min(height, width)
        self.centre = np.array((width / 2, height / 2))
        self.bottom = height / (2 * self.unit) + 0.1
        self.green = green
        self.rng = rng
        self.pixels = _backdrop(height, width, rng)
        self.blossom = np.zeros((height, width), np.uint8)

    def paint(
        self,
        outline: _Array,
        axis: tuple[_Array, _Array],
        dark: _Array,
        bright: _Array,
        *,
        shadow: float = 0.3,
        veins: float = 0.03,
        blossom: bool = False,
    ) -> None:
        """Paint a petal or leaf: shadow below it, shade from root to tip, veins, a lit rim."""
        import cv2

        points = outline * self.unit + self.centre
        height, width = self.blossom.shape
        pad = 0.05 * self.unit
        x1, y1 = np.maximum(np.floor(points.min(0) - pad), 0).astype(int)
        x2, y2 = np.minimum(np.ceil(points.max(0) + pad), (width, height)).astype(int)
        if x1 >= x2 or y1 >= y2:
            return
        shape = np.zeros((y2 - y1, x2 - x1), np.uint8)
        corners = np.round((points - (x1, y1)) * 16).astype(np.int32)
        cv2.fillPoly(shape, [corners], 255, cv2.LINE_AA, 4)
        below = self.pixels[y1:y2, x1:x2]
        reach = int(0.04 * self.unit) | 1
        below *= (1 - np.float32(shadow / 255) * cv2.stackBlur(shape, (reach, reach)))[..., None]

        root = (axis[0] * self.unit + self.centre).astype(np.float32)
        way = ((axis[1] - axis[0]) * self.unit).astype(np.float32)
        way /= way @ way
        right = np.arange(x1, x2, dtype=np.float32) - root[0]
        down = np.arange(y1, y2, dtype=np.float32)[:, None] - root[1]
        along = right * way[0] + down * way[1]
        across = down * way[0] - right * way[1]
        light = np.clip(along, 0, 1) ** np.float32(1.3)
        grain = 1 + np.float32(veins) * np.sin(45 * across / (np.abs(along) + np.float32(0.35)))
        # Without the bound a shape that covers the whole canvas has no rim and infinite depth.
        depth = np.minimum(cv2.distanceTransform(shape, cv2.DIST_L2, 3), self.unit)
        rim = np.float32(0.1) * np.exp(depth * np.float32(-100 / self.unit))
        colour = dark.astype(np.float32) + (bright - dark).astype(np.float32) * light[..., None]
        colour = np.clip(colour * grain[..., None] + rim[..., None], 0, 1)
        below += (shape / np.float32(255))[..., None] * (colour - below)
        if blossom:
            np.maximum(self.blossom[y1:y2, x1:x2], shape, out=self.blossom[y1:y2, x1:x2])


def _backdrop(height: int, width: int, rng: np.random.Generator) -> _Pixels:
    """Make a garden out of focus: a few slow waves of light with some bright spots."""
    import cv2

    rows, columns = -(-height // 4), -(-width // 4)  # nothing in it is sharp
    order = np.arange(5)
    waves = [np.cos(np.pi * np.linspace(0, 1, n)[:, None] * order) for n in (rows, columns)]
    tint = rng.normal(0, 1, (1, 5, 5)) + rng.normal(0, 0.35, (3, 5, 5))
    field = waves[0] @ (tint * 0.12 / (1 + order[:, None] + order)) @ waves[1].T
    slope = np.linspace(1.02, 0.85, rows)[:, None, None]
    light = _colour(rng.choice(_BACKDROPS)) * slope * np.exp(field.transpose(1, 2, 0))
    for _ in range(rng.integers(8, 16)):
        spot = np.zeros((rows, columns), np.float32)
        at = (int(rng.uniform(0, columns)), int(rng.uniform(0, rows)))
        radius = max(1, round(min(rows, columns) * rng.uniform(0.03, 0.11)))
        cv2.circle(spot, at, radius, rng.uniform(0.04, 0.16), -1)
        light += cv2.blur(spot, (3, 3))[..., None] * (1.1 - light)
    # Dimmed, not clipped: flat white areas of two pictures would be equal pixel by pixel.
    light = (light / max(1, light.max())).astype(np.float32)
    full: _Pixels = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    return full


def _blade(
    axis: tuple[_Array, _Array],
    width: float,
    bend: float = 0.0,
    fullness: float = 0.5,
    sharpness: float = 0.7,
) -> _Array:
    """Outline a leaf, petal or stem about a bent axis."""
    t = np.linspace(0, 1, 40)[:, None]
    root, way = axis[0], axis[1] - axis[0]
    normal = np.array((-way[1], way[0]))
    line = root + t * way + 2 * t * (1 - t) * bend * normal
    half = t**fullness * (1 - t) ** sharpness
    side = half / half.max() * width / 2 * normal / np.hypot(*normal)
    return np.concatenate((line + side, (line - side)[::-1]))


def _draw_stem(canvas: _Canvas, top: _Array) -> _Array:
    rng = canvas.rng
    foot = np.array((top[0] + rng.uniform(-0.12, 0.12), canvas.bottom))
    outline = _blade((top, foot), 0.034, rng.uniform(-0.05, 0.05), 0.01, 0.01)
    canvas.paint(outline, (top, foot), canvas.green * 0.85, canvas.green * 0.65)
    return foot


def _draw_rose(canvas: _Canvas, head: _Array, radius: float, petal: _Array) -> None:
    rng = canvas.rng
    foot = _draw_stem(canvas, head)
    for side in (-1, 1, rng.choice((-1, 1))):
        root = head + (foot - head) / (foot - head)[1] * radius * rng.uniform(1.15, 1.6)
        way = np.array((side * rng.uniform(0.75, 1.0), rng.uniform(-0.25, 0.3)))
        axis = (root, root + radius * way)
        leaf = _blade(axis, 0.42 * radius, rng.uniform(-0.15, 0.15))
        canvas.paint(leaf, axis, canvas.green * 0.7, canvas.green)
    for angle in np.arange(5) * 2 * np.pi / 5 + rng.uniform(0, 2):
        axis = (head, head + 1.12 * radius * np.array((np.cos(angle), np.sin(angle))))
        canvas.paint(_blade(axis, 0.35 * radius), axis, canvas.green * 0.6, canvas.green * 0.95)

    # From the outer ring of petals to the heart, each ring turned by about the golden angle.
    turn = rng.uniform(0, 2 * np.pi)
    rings = ((1.0, 6), (0.86, 5), (0.70, 5), (0.54, 4), (0.40, 4), (0.27, 3), (0.15, 2))
    across = np.linspace(-1, 1, 48)
    for ring, (reach, count) in enumerate(rings):
        turn += 2.4
        for angle in turn + np.arange(count) * 2 * np.pi / count + rng.uniform(-0.12, 0.12, count):
            length = radius * reach * rng.uniform(0.94, 1.04)
            wave = 1 + 0.02 * np.sin(9 * across + rng.uniform(0, 6))
            reaches = length * (0.25 + 0.75 * wave * (1 - np.abs(across) ** 3.2) ** 0.45)
            angles = angle + across * np.pi / count * rng.uniform(1.35, 1.55)
            rays = np.stack((np.cos(angles), 0.92 * np.sin(angles)), 1)
            axis = (head, head + length * np.array((np.cos(angle), 0.92 * np.sin(angle))))
            bright = petal * (1.06 - 0.05 * ring) * (1 + 0.1 * np.cos(angle - 3.9))
            dark = petal * (0.4 + 0.02 * ring)
            outline = head + reaches[:, None] * rays
            canvas.paint(outline, axis, dark, bright, shadow=0.42, veins=0.012, blossom=True)


def _draw_tulip(canvas: _Canvas, head: _Array, radius: float, petal: _Array) -> None:
    rng = canvas.rng
    root = head + np.array((0, 0.95 * radius))
    foot = _draw_stem(canvas, head + np.array((0, 0.85 * radius)))
    for side in (-1, 1):
        way = np.array((side * rng.uniform(0.2, 0.36), -0.75 + rng.uniform(-0.15, 0.2)))
        axis = (foot, foot + way)
        leaf = _blade(axis, 0.13, side * rng.uniform(0.1, 0.25), 0.35, 0.8)
        canvas.paint(leaf, axis, canvas.green * 0.65, canvas.green)
    warm = petal * 0.6 + np.array((0.24, 0.23, 0.1))
    opening = rng.uniform(0.85, 1.15)
    # Lean, height, width, bend, sharpness and brightness of the petals, from back to front.
    for lean, tall, wide, bend, sharpness, shade in (
        (-0.42, 1.9, 0.95, 0.1, 0.6, 0.72),
        (0.42, 1.9, 0.95, -0.1, 0.6, 0.74),
        (0.0, 2.0, 1.0, 0.0, 0.6, 0.8),
        (-0.55, 1.75, 1.05, 0.22, 0.6, 0.92),
        (0.55, 1.75, 1.05, -0.22, 0.6, 0.95),
        (0.0, 1.72, 1.2, 0.0, 0.75, 1.05),
    ):
        way = np.array((lean * opening, -tall)) + rng.uniform(-0.06, 0.06, 2)
        axis = (root, root + radius * way)
        outline = _blade(axis, wide * radius, bend, 0.42, sharpness)
        canvas.paint(outline, axis, warm * shade, petal * shade, shadow=0.35, blossom=True)
