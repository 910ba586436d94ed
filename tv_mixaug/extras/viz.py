"""Draw batches as contact sheets, with label weights, plans, masks and boxes."""

import contextlib
import os
import sys
import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from tv_mixaug._validation import check_integer
from tv_mixaug.engine.plan import Plan
from tv_mixaug.extras.io import write_image
from tv_mixaug.targets.labels import weights_of

_PAPER, _INK, _FAINT, _EMPTY = "#fcfcfa", "#34363c", "#80828a", "#e4e4e0"
_COLOURS = ["#b3205d", "#2f6fb0", "#e29226", "#429156", "#8058a8"]  # of the classes
_COLOURS += ["#ce543c", "#349aa0", "#967648", "#d678a8", "#6e7480"]
_COLOURS += [f"hsv({i * 222.492 % 360:.1f},60%,{50 + i % 4 * 10}%)" for i in range(10, 1000)]
_MARGIN, _GAP, _BAR, _LINE, _TITLE, _MIN_WIDTH = 16, 12, 7, 18, 34, 96  # in pixels
_OPS = ("unchanged", "filled", "blended with {}", "pasted from {}")
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")


def draw_batch(
    images: Tensor,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    *,
    plan: Plan | None = None,
    masks: Tensor | None = None,
    boxes: Sequence[Mapping[str, Tensor]] | None = None,
    columns: int | None = None,
    cell: int = 192,
    title: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> npt.NDArray[np.uint8]:
    """Draw a batch as a contact sheet, (H, W, 3) uint8 RGB, with label weights below each picture.

    Args:
        images: (B, C, H, W), or (B, T, C, H, W), whose middle frame is drawn; C is 1 or 3. Floats
            outside [0, 1] are scaled by the extremes of the batch if ``mean`` is None.
        labels: (B,) class indices, (B, K) weights or ``PairedLabels``.
        class_names: Names of the classes; by default the indices are written.
        plan: The plan of the batch, written below the pictures.
        masks: (B, H, W) or (B, 1, H, W) class indices; every class but 0 is tinted.
        boxes: Detection targets. Plain ``"boxes"`` are XYXY; ``"labels"`` choose the colours.
        columns: Pictures in a row, by default all, but at most 8.
        cell: Longest side of a picture; small images are enlarged by a whole factor.
        title: Heading of the sheet.
        mean: Mean that was subtracted from float images, a number or one for each channel.
        std: Standard deviation that float images were divided by.
    """
    pictures = _to_uint8(images, mean, std)
    count, _, *size = pictures.shape
    for name, given in (("boxes", boxes), ("plan", plan and plan.op)):
        if given is not None and len(given) != count:
            raise ValueError(f"{name} must be of the {count} images, got {len(given)} entries.")
    classes = [] if masks is None else [int(i) for i in np.unique(masks.cpu()) if i > 0]
    if masks is not None and classes:
        layers = masks.cpu().reshape(count, 1, *size) == torch.tensor(classes).reshape(-1, 1, 1)
        colours = [_COLOURS[index % 1000] for index in classes]
        tint = partial(draw_segmentation_masks, alpha=0.5, colors=colours)
        pictures = torch.stack(list(map(tint, pictures, layers)))
    columns = min(count, 8) if columns is None else check_integer("columns", columns, 1)
    factor = check_integer("cell", cell, 1) / max(size)
    height, width = shown = [max(1, round(side * (int(factor) or factor))) for side in size]
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BILINEAR
    pictures = F.resize(pictures.float(), shown, how).round().byte()  # uint8 fails at 1 x 1
    rows = None if labels is None else _list_weights(labels, count, class_names)
    room, top = max(width, _MIN_WIDTH), _MARGIN + (_TITLE if title else 0)
    below = 0 if rows is None else _BAR + 7 + _LINE * max(1, *(len(row[:3]) for row in rows))
    stride = height + below + _LINE * (plan is not None) + _GAP
    wide, high = columns * (room + _GAP) - _GAP, -(-count // columns) * stride - _GAP
    sheet = Image.new("RGB", (wide + 2 * _MARGIN, top + high + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, _MARGIN + 17), title or "", wide, _INK, 19)
    for i, picture in enumerate(pictures):
        x, y = _MARGIN + i % columns * (room + _GAP), top + i // columns * stride
        if boxes is not None:
            picture = _outline(picture, boxes[i], height / size[0])
        sheet.paste(F.to_pil_image(picture), (x + (room - width) // 2, y))
        if rows is not None:
            _draw_label(draw, x, y + height + 4, room, rows[i], class_names)
        if plan is not None:
            deed = _OPS[int(plan.op[i])].format(int(plan.partner[i]))
            _write(draw, (x, y + stride - _GAP - 5), f"{i}: {deed}", room)
    return np.array(sheet)


def show(
    images: Tensor, labels: Any = None, class_names: Any = None, *, path: Any = None, **options: Any
) -> Path | None:
    """Show the sheet of :func:`draw_batch` in a notebook, or write it to a file and open that.

    With a ``path`` the sheet is only written. Return its path, or None in a notebook.
    """
    sheet = draw_batch(images, labels, class_names, **options)
    ipython = sys.modules.get("IPython")
    if path is None and ipython and getattr(ipython.get_ipython(), "kernel", None):
        ipython.display.display(Image.fromarray(sheet))
        return None
    file = Path(path or Path(tempfile.mkdtemp(prefix="tv_mixaug_"), "batch.png"))
    write_image(file, sheet)
    if path is None:
        print(f"Contact sheet: {file}")
        screens = ("DISPLAY", "WAYLAND_DISPLAY")
        if sys.platform in ("win32", "darwin") or any(map(os.environ.get, screens)):
            webbrowser.open(file.as_uri())
    return file


def _to_uint8(images: Tensor, mean: Any, std: Any) -> Tensor:
    """Return (B, 3, H, W) uint8 images on the CPU."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}.")
    if images.ndim not in (4, 5) or images.shape[-3] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must be (B, [T,] 1 or 3, H, W), got {tuple(images.shape)}.")
    pixels = images.detach().as_subclass(Tensor).cpu()
    pixels = pixels[:, pixels.shape[1] // 2] if pixels.ndim == 5 else pixels
    if (mean is None) != (std is None):
        raise ValueError("mean and std must be given together, got only one of them.")
    if pixels.dtype != torch.uint8:
        pixels = pixels.float()
        low, high = pixels.nan_to_num(0.0, 0.0, 0.0).aminmax()
        if mean is not None:
            shift, scale = (torch.as_tensor(n, dtype=torch.float32).cpu() for n in (mean, std))
            pixels = pixels * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)
        elif low < -0.05 or high > 1.05:  # cubic resizing oversteps [0, 1] a little
            pixels = (pixels - low) / (high - low).clamp_min(1e-30)
        pixels = (pixels.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1)


def _list_weights(labels: Any, count: int, names: Any) -> list[list[tuple[int, float]]]:
    """Return the classes of each sample with weights that are not written as 0.00."""
    classes, weights = (part.detach().cpu() for part in weights_of(labels, count))
    total = torch.zeros(count, int(classes.max()) + 1).scatter_add(1, classes, weights.float())
    if not total.isfinite().all():
        raise ValueError("labels must be finite, got NaN or infinity.")
    if names is not None and len(names) < total.shape[1]:
        raise ValueError(f"class_names must name {total.shape[1]} classes, got {len(names)} names.")
    rows = [[pair for pair in enumerate(row) if pair[1] > 0.005] for row in total.tolist()]
    return [sorted(row, key=lambda pair: -pair[1]) for row in rows]


def _draw_label(draw: Any, x: int, y: int, width: int, row: Any, names: Any) -> None:
    """Draw the bar of a label and write its largest weights below."""
    draw.rectangle((x, y, x + width - 1, y + _BAR - 1), _EMPTY)
    text, end = y + _BAR + 16, float(x)
    total = max(1.0, sum(weight for _, weight in row))  # multi-hot weights sum to more than 1
    for i, (index, weight) in enumerate(row):
        start, end, colour = end, end + width * weight / total, _COLOURS[index % 1000]
        draw.rectangle((start, y, end - 0.01, y + _BAR - 1), colour)
        if i < 3:
            draw.ellipse((x + 1, text - 8, x + 8, text - 1), colour)
            _write(draw, (x + 14, text), str(names[index] if names else index), width - 48, _INK)
            draw.text((x + width, text), f"{weight:.2f}", _FAINT, _font(12, plain=True), "rs")
            text += _LINE
    if not row:
        _write(draw, (x, text), "no label", width)


def _outline(image: Tensor, target: Mapping[str, Tensor], scale: float) -> Tensor:
    boxes = target["boxes"]
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = F.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
    colours = [_COLOURS[int(i) % 1000] for i in target.get("labels", torch.zeros(len(boxes)))]
    return draw_bounding_boxes(image, boxes * scale, None, colours, width=2) if colours else image


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
    font, shown = _font(size, text.isascii()), text
    while shown and draw.textlength(shown, font) > room:
        text = text[:-1]
        shown = text.rstrip() + ".." if text else ""
    draw.text(xy, shown, ink, font, "ls")
