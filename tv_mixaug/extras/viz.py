"""Draw batches as contact sheets, with label weights, plans, masks and boxes."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from tv_mixaug._validation import check_integer, ensure
from tv_mixaug.engine.plan import Plan
from tv_mixaug.targets.labels import weights_of

_PAPER, _INK, _FAINT, _EMPTY = "#fcfcfa", "#34363c", "#80828a", "#e4e4e0"
# Steps of the golden angle: neighbouring classes get colours that are far apart.
_COLOURS = [f"hsv({(338 + i * 222.49) % 360:.1f},75%,{70 - i % 4 // 2 * 15}%)" for i in range(1000)]
_MARGIN, _GAP, _BAR, _LINE, _TITLE, _MIN_WIDTH = 16, 12, 7, 18, 34, 96  # in pixels
_NOTES = ("unchanged", "filled", "blended with {}", "pasted from {}")
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")


def draw_batch(
    images: Tensor, labels: Any = None, class_names: Sequence[str] | None = None, *,
    plan: Plan | None = None, masks: Tensor | None = None,
    boxes: Sequence[Mapping[str, Tensor]] | None = None, columns: int | None = None,
    cell: int = 192, title: str | None = None,
) -> npt.NDArray[np.uint8]:  # fmt: skip
    """Draw a batch as a contact sheet, (H, W, 3) uint8 RGB, with label weights below each picture.

    Args:
        images: (B, C, H, W), or (B, T, C, H, W), whose middle frame is drawn; C is 1 or 3. Floats
            outside [0, 1] are scaled by the extremes of the batch.
        labels: (B,) class indices, (B, K) weights or ``PairedLabels``.
        class_names: Names of the classes; by default the indices are written.
        plan: The plan of the batch, written below the pictures.
        masks: (B, H, W) or (B, 1, H, W) class indices; every class but 0 is tinted.
        boxes: Detection targets. Plain ``"boxes"`` are XYXY; ``"labels"`` choose the colours.
        columns: Pictures in a row, by default all, but at most 8.
        cell: Longest side of a picture; small images are enlarged by a whole factor.
        title: Heading of the sheet.
    """
    pictures = _to_uint8(images)
    count, _, *size = pictures.shape
    for name, given in (("boxes", boxes), ("plan", plan and plan.op)):
        entries = count if given is None else len(given)
        ensure(entries == count, name, f"of the {count} images", f"{entries} entries")
    if masks is not None:
        index = masks.cpu().reshape(count, *size).long()
        tints = torch.tensor(list(map(ImageColor.getrgb, _COLOURS)), dtype=torch.uint8)
        tinted = (pictures / 2 + tints[index % 1000].movedim(-1, 1) / 2).byte()
        pictures = tinted.where(index[:, None] > 0, pictures)
    factor = check_integer("cell", cell, 1) / max(size)
    height, width = (max(1, round(side * (int(factor) or factor))) for side in size)
    rows = [] if labels is None else _list_weights(labels, count, class_names)
    room, top = max(width, _MIN_WIDTH), _MARGIN + (_TITLE if title else 0)
    below = _BAR + 7 + _LINE * max(1, *(len(row[:3]) for row in rows)) if rows else 0
    stride = height + below + _LINE * (plan is not None) + _GAP
    columns = min(count, 8) if columns is None else check_integer("columns", columns, 1)
    wide, high = columns * (room + _GAP) - _GAP, -(-count // columns) * stride - _GAP
    sheet = Image.new("RGB", (wide + 2 * _MARGIN, top + high + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, _MARGIN + 17), title or "", wide, _INK, 19)
    for i, pixels in enumerate(pictures):
        x, y = _MARGIN + i % columns * (room + _GAP), top + i // columns * stride
        picture = F.to_pil_image(pixels).resize((width, height), Image.Resampling.BOX)
        if boxes is not None:
            _outline(ImageDraw.Draw(picture), boxes[i], height / size[0])
        sheet.paste(picture, (x + (room - width) // 2, y))
        if rows:
            _draw_label(draw, x, y + height + 4, room, rows[i], class_names)
        if plan is not None:
            note = _NOTES[int(plan.op[i])].format(int(plan.partner[i]))
            _write(draw, (x, y + stride - _GAP - 5), f"{i}: {note}", room)
    return np.array(sheet)


def show(
    images: Tensor, labels: Any = None, class_names: Any = None, **options: Any
) -> Image.Image:
    """Return the sheet of :func:`draw_batch` as a Pillow image, which notebooks display."""
    return Image.fromarray(draw_batch(images, labels, class_names, **options))


def _to_uint8(images: Tensor) -> Tensor:
    """Return (B, 3, H, W) uint8 images on the CPU."""
    ensure(isinstance(images, Tensor), "images", "a tensor", type(images).__name__, TypeError)
    fits = images.ndim in (4, 5) and images.shape[-3] in (1, 3) and images.numel() > 0
    ensure(fits, "images", "(B, [T,] 1 or 3, H, W)", tuple(images.shape))
    pixels = images.detach().as_subclass(Tensor).cpu()
    pixels = pixels[:, pixels.shape[1] // 2] if pixels.ndim == 5 else pixels
    if pixels.dtype != torch.uint8:
        pixels = pixels.float()
        low, high = pixels.nan_to_num(0.0, 0.0, 0.0).aminmax()
        if low < -0.05 or high > 1.05:  # cubic resizing oversteps [0, 1] a little
            pixels = (pixels - low) / (high - low).clamp_min(1e-30)
        pixels = (pixels.nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
    return pixels.expand(-1, 3, -1, -1)


def _list_weights(labels: Any, count: int, names: Any) -> list[list[tuple[int, float]]]:
    """Return the classes of each sample with weights that are not written as 0.00."""
    classes, weights = (part.detach().cpu() for part in weights_of(labels, count))
    total = torch.zeros(count, int(classes.max()) + 1).scatter_add(1, classes, weights.float())
    ensure(bool(total.isfinite().all()), "labels", "finite", "NaN or infinity")
    named = total.shape[1] if names is None else len(names)
    ensure(named >= total.shape[1], "class_names", f"{total.shape[1]} names or more", named)
    rows = [[pair for pair in enumerate(row) if pair[1] > 0.005] for row in total.tolist()]
    return [sorted(row, key=lambda pair: -pair[1]) for row in rows]


def _draw_label(draw: Any, x: int, y: int, width: int, row: Any, names: Any) -> None:
    """Draw the bar of a label and write its largest weights below."""
    draw.rectangle((x, y, x + width - 1, y + _BAR - 1), _EMPTY)
    # Multi-hot weights sum to more than 1.
    end, scale = float(x), width / max(1.0, sum(weight for _, weight in row))
    for i, (index, weight) in enumerate(row):
        start, end, colour = end, end + scale * weight, _COLOURS[index % 1000]
        draw.rectangle((start, y, end - 0.01, y + _BAR - 1), colour)
        if i < 3:
            line = y + _BAR + 16 + i * _LINE
            draw.ellipse((x + 1, line - 8, x + 8, line - 1), colour)
            _write(draw, (x + 14, line), str(names[index] if names else index), width - 48, _INK)
            draw.text((x + width, line), f"{weight:.2f}", _FAINT, _font(12, plain=True), "rs")
    if not row:
        _write(draw, (x, y + _BAR + 16), "no label", width)


def _outline(draw: Any, target: Mapping[str, Any], scale: float) -> None:
    """Outline the boxes of a detection target."""
    boxes, form = target["boxes"], getattr(target["boxes"], "format", "XYXY")
    boxes = scale * F.convert_bounding_box_format(boxes.as_subclass(Tensor), form, "XYXY")
    for box, index in zip(boxes.tolist(), target.get("labels", len(boxes) * [0]), strict=True):
        draw.rectangle(box, None, _COLOURS[int(index) % 1000], 2)


@cache
def _font(size: int, plain: bool) -> Any:
    """Load Pillow's own font, which has only ASCII characters, or a font of the system."""
    for name in () if plain else _FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def _write(draw: Any, xy: Any, text: str, room: int, ink: str = _FAINT, size: int = 12) -> None:
    """Write a line on its baseline, shortened to fit."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    font = _font(size, text.isascii())
    while len(text) > 2 and draw.textlength(text, font) > room:
        text = text[:-3] + ".."
    draw.text(xy, text, ink, font, "ls")
