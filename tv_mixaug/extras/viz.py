"""Contact sheets: what a batch looks like, with the label weights under every picture."""

from __future__ import annotations

import colorsys
import importlib
import os
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from tv_mixaug._validation import check_integer
from tv_mixaug.engine.plan import Plan
from tv_mixaug.extras.io import write_image
from tv_mixaug.targets.labels import weights_of

_Sheet = npt.NDArray[np.uint8]
_Colour = tuple[int, ...]  # red, green, blue
_Weights = list[tuple[int, float]]  # (class index, weight), the largest weight first
_Line = tuple[str, str, _Colour | None]  # what is said, a number, and the colour of its dot

_PAPER, _INK, _FAINT, _EMPTY = (252, 252, 250), (52, 54, 60), (128, 130, 138), (228, 228, 224)
_CLASS_COLOURS = (
    (179, 32, 93), (47, 111, 176), (226, 146, 38), (66, 145, 86), (128, 88, 168),
    (206, 84, 60), (52, 154, 160), (150, 118, 72), (214, 120, 168), (110, 116, 128),
)  # fmt: skip
_MARGIN, _GAP, _BAR, _LINE, _TITLE = 16, 12, 7, 18, 34
_MIN_WIDTH = 96  # of a cell, so that a name and a weight fit
_LEAST = 0.005  # smaller weights would be written as 0.00
_DEEDS = ("unchanged", "filled", "blended with {}", "pasted from {}")  # by the number of the op


def draw_batch(
    images: Tensor,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    *,
    plan: Plan | None = None,
    columns: int | None = None,
    cell: int = 192,
    title: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> _Sheet:
    """Draw a batch as a contact sheet, each picture with its label weights as text and bar.

    The three largest weights are written, and none below 0.005. Small pictures are enlarged by
    whole factors so that every pixel shows; large ones are reduced.

    Args:
        images: (B, C, H, W), or (B, T, C, H, W) of which the middle frame is shown; C is 1 or 3.
            uint8 and bool are shown as they are, and so are floats in [0, 1]. Other floats, which
            were normalised, are stretched from the batch's smallest value to its largest, unless
            ``mean`` and ``std`` are given. NaN is shown black.
        labels: (B,) class indices, (B, K) weights, a :class:`~tv_mixaug.targets.labels.PairedLabels`, or
            None. Negative indices and empty rows count as unlabelled.
        class_names: The K names; without them the indices are written. OpenCV 4 can write ASCII
            only.
        plan: The plan by which the batch was mixed, as ``record=True`` gives it: under each picture
            stands its place in the batch, what was done to it and which place its partner has.
        columns: Pictures per row; by default all in one row, but at most 8.
        cell: Largest side of a picture on the sheet, in pixels.
        title: Heading of the sheet.
        mean: Mean that was subtracted from float images, a number or one per channel; it is added
            back.
        std: Standard deviation that float images were divided by, likewise.

    Returns:
        (H, W, 3) uint8 RGB, ready for ``SummaryWriter.add_image(..., dataformats="HWC")`` and
        ``plt.imshow``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a shape does not fit or a value is out of range.

    Example:
        >>> images, labels = torch.rand(4, 3, 32, 32), torch.tensor([[0.7, 0.3]] * 4)
        >>> draw_batch(images, labels, ["rose", "tulip"], columns=2).shape
        (528, 428, 3)
    """
    cell = check_integer("cell", cell, 1)
    pictures = _to_pictures(images, mean, std, cell)
    count, height, width, _ = pictures.shape
    weights = [] if labels is None else _list_weights(labels, count)
    _check_names(class_names, weights, labels)
    columns = min(count, 8) if columns is None else check_integer("columns", columns, 1)
    if not (title is None or isinstance(title, str)):
        raise TypeError(f"title must be a str or None, got {type(title).__name__}.")
    colours = _choose_colours(weights)
    deeds: list[list[_Line]] = [[]] * count if plan is None else _describe_plan(plan, count)
    names = [_describe_label(row, class_names, colours) for row in weights] or [[]] * count
    lines = [above + below for above, below in zip(names, deeds, strict=True)]

    bar = height + 4  # where it begins
    text = bar + _BAR + 3 if weights else height
    top, step = _MARGIN + (_TITLE if title else 0), max(width, _MIN_WIDTH) + _GAP
    stride = text + _LINE * max(map(len, lines)) + _GAP
    room = columns * step - _GAP
    high = top + -(-count // columns) * stride - _GAP + _MARGIN
    sheet = np.full((high, room + 2 * _MARGIN, 3), _PAPER, np.uint8)
    if title:
        _write(sheet, title, _MARGIN, _MARGIN + 17, room, _INK, scale=0.66)
    for i, picture in enumerate(pictures):
        y, x = top + i // columns * stride, _MARGIN + i % columns * step
        area = sheet[y:, x : x + step - _GAP]
        left = (area.shape[1] - width) // 2
        area[:height, left : left + width] = picture
        if weights:
            _draw_bar(area[bar : bar + _BAR], weights[i], colours)
        for number, line in enumerate(lines[i]):
            _draw_line(area[text + _LINE * number :], *line)
    return sheet


def show(
    images: Tensor,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Path | None:
    """Show a batch: below the cell in a notebook, in the system's viewer, or as a file.

    Args:
        images: As in :func:`draw_batch`.
        labels: As in :func:`draw_batch`.
        class_names: As in :func:`draw_batch`.
        path: The file to be written, and nothing else is done. By default a notebook shows the
            sheet and writes none; elsewhere it is a new file in a temporary folder, which is opened
            if there is a screen.
        **options: The other arguments of :func:`draw_batch`.

    Returns:
        The file that was written, or None.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a shape does not fit or a value is out of range.
        OSError: If the file cannot be written.

    Example:
        >>> from tv_mixaug import CutMix
        >>> from tv_mixaug.extras import flowers
        >>> mixed, weights = CutMix(num_classes=2)(*flowers.draw_flowers(4, size=32))
        >>> file = getfixture("tmp_path") / "batch.png"
        >>> show(mixed, weights, flowers.CLASS_NAMES, path=file).name
        'batch.png'
    """
    sheet = draw_batch(images, labels, class_names, **options)
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if path is None and getattr(shell, "kernel", None):  # IPython in a terminal has none
        notebook = importlib.import_module("IPython.display")
        data = cv2.imencode(".png", sheet[..., ::-1])[1].tobytes()
        notebook.display(notebook.Image(data=data))
        return None
    file = Path(path or Path(tempfile.mkdtemp(prefix="tv_mixaug_"), "batch.png"))
    write_image(file, sheet)
    if path is None:
        print(f"Contact sheet: {file}")
        screens = ("DISPLAY", "WAYLAND_DISPLAY")
        if sys.platform in ("win32", "darwin") or any(map(os.environ.get, screens)):
            webbrowser.open(file.as_uri())
    return file


def _to_pictures(images: Tensor, mean: Any, std: Any, cell: int) -> _Sheet:
    """Return (B, H, W, 3) uint8 of the size to be shown, whatever the dtype of the batch."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}.")
    if images.ndim not in (4, 5) or images.shape[-3] not in (1, 3):
        raise ValueError(
            "images must be (B, C, H, W) or (B, T, C, H, W) with 1 or 3 channels, got "
            f"{tuple(images.shape)}."
        )
    if 0 in images.shape:
        raise ValueError(f"images must not be empty, got {tuple(images.shape)}.")
    if (mean is None) != (std is None):
        raise ValueError("mean and std must be given together, got only one of them.")
    pixels = images.detach().as_subclass(Tensor)
    pixels = (pixels[:, pixels.shape[1] // 2] if pixels.ndim == 5 else pixels).cpu()
    if pixels.is_floating_point():
        pixels = pixels.float()
        if mean is not None:
            channels = pixels.shape[1]
            scale = _per_channel("std", std, channels)
            if not bool((scale > 0).all()):
                raise ValueError(f"std must be > 0, got {std}.")
            pixels = pixels * scale + _per_channel("mean", mean, channels)
        elif len(finite := pixels[pixels.isfinite()]):
            low, high = finite.aminmax()
            # Resizing with a cubic filter oversteps [0, 1] a little; that is no reason to stretch.
            if low < -0.05 or high > 1.05:
                pixels = (pixels - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
        pixels = (pixels.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    elif pixels.dtype == torch.bool:
        pixels = pixels.to(torch.uint8) * 255
    elif pixels.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, bool or floating point, got {images.dtype}.")
    height, width = pixels.shape[2:]
    factor, how = cell / max(height, width), InterpolationMode.BILINEAR
    if factor >= 1:
        factor, how = int(factor), InterpolationMode.NEAREST_EXACT
    size = [max(1, round(side * factor)) for side in (height, width)]
    shown: Tensor = F.resize(pixels, size, how)
    return shown.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _per_channel(name: str, value: Any, channels: int) -> Tensor:
    try:
        numbers = torch.as_tensor(value, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number or a sequence of them, got {value!r}.") from None
    if numbers.ndim > 1 or numbers.numel() not in (1, channels):
        raise ValueError(f"{name} must be one number or {channels}, got {value!r}.")
    return numbers.reshape(1, -1, 1, 1)


def _list_weights(labels: Any, count: int) -> list[_Weights]:
    """Return for each sample its classes and their weights, the largest first."""
    classes, weights = weights_of(labels, count)
    if not bool(weights.isfinite().all()):
        raise ValueError("labels must be finite, got NaN or infinity.")
    rows = []
    for numbers, shares in zip(classes.tolist(), weights.detach().tolist(), strict=True):
        total: dict[int, float] = {}  # a pair may name a class twice
        for number, share in zip(numbers, shares, strict=True):
            total[number] = total.get(number, 0.0) + share
        rows.append(sorted(total.items(), key=lambda pair: -pair[1]))
    return rows


def _written(weights: _Weights) -> _Weights:
    return [pair for pair in weights[:3] if pair[1] > _LEAST]


def _describe_label(
    weights: _Weights, names: Sequence[str] | None, colours: dict[int, _Colour]
) -> list[_Line]:
    lines: list[_Line] = [
        (str(index if names is None else names[index]), f"{weight:.2f}", colours[index])
        for index, weight in _written(weights)
    ]
    return lines or [("no label", "", None)]


def _describe_plan(plan: Any, count: int) -> list[list[_Line]]:
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be a Plan, got {type(plan).__name__}.")
    if len(plan.op) != count:
        raise ValueError(f"plan must be of the {count} images, got one of {len(plan.op)}.")
    deeds = enumerate(zip(plan.op.tolist(), plan.partner.tolist(), strict=True))
    return [[(f"{i}: {_DEEDS[op].format(partner)}", "", None)] for i, (op, partner) in deeds]


def _check_names(names: Any, weights: list[_Weights], labels: Any) -> None:
    if names is None:
        return
    if isinstance(names, (str, Plan)) or not isinstance(names, Sequence):
        hint = "; give a plan as plan=" if isinstance(names, Plan) else ""
        raise TypeError(f"class_names must be a sequence of str, got {type(names).__name__}{hint}.")
    given, top = len(names), max((index for row in weights for index, _ in row), default=-1)
    if top >= given:
        raise ValueError(f"class_names must name every class, got {given} names and class {top}.")
    if isinstance(labels, Tensor) and labels.ndim == 2 and labels.shape[1] != given:
        classes = f"each of the {labels.shape[1]} classes"
        raise ValueError(f"class_names must have a name for {classes}, got {given}.")


def _draw_bar(bar: _Sheet, weights: _Weights, colours: dict[int, _Colour]) -> None:
    # Multi-hot rows sum to more than 1; their bar shows proportions.
    ends = np.cumsum([max(weight, 0.0) for _, weight in weights] or [0.0])
    at = np.linspace(0, max(1.0, ends[-1]), bar.shape[1], endpoint=False)
    shown = [colours[index] for index, _ in weights]
    bar[:] = np.array([*shown, _EMPTY, _EMPTY])[np.searchsorted(ends, at, "right")]


def _draw_line(area: _Sheet, text: str, number: str, colour: _Colour | None) -> None:
    """Write a text on the left, after a dot if it has a colour, and its number on the right."""
    width, room = area.shape[1], _text_width(number, 0.42)
    if colour is None:
        return _write(area, text, 0, 13, width, _FAINT)
    cv2.circle(area, (5 * 16, 9 * 16), 56, colour, -1, cv2.LINE_AA, 4)
    _write(area, number, width - room, 13, room, _FAINT)
    return _write(area, text, 14, 13, width - 14 - room - 6, _INK)


def _choose_colours(rows: list[_Weights]) -> dict[int, _Colour]:
    """Give every class of a sheet a colour of its own, if it can the same as on every sheet."""
    written = {index for row in rows for index, _ in _written(row)}
    others = {index for row in rows for index, _ in row} - written
    classes = (*sorted(written), *sorted(others))  # what is written has the clearest colours
    free: dict[int, _Colour] = dict(enumerate(_CLASS_COLOURS))
    for slot in range(len(free), len(classes)):
        # Steps of the golden ratio come nowhere near each other soon.
        colour = colorsys.hsv_to_rgb(slot * 0.618034 % 1, 0.6, 0.5 + 0.1 * (slot % 4))
        free[slot] = tuple(round(part * 255) for part in colour)
    usual, spare = len(_CLASS_COLOURS), (slot for slot in range(len(free)) if slot in free)
    return {i: free.pop(i % usual if i % usual in free else next(spare)) for i in classes}


def _text_width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0])


def _write(
    area: _Sheet, text: str, x: int, y: int, room: int, colour: _Colour, scale: float = 0.42
) -> None:
    """Write a line from (x, y) on its baseline, shortened to the room there is."""
    shown = text
    while shown and _text_width(shown, scale) > room:
        text = text[:-1]
        shown = text.rstrip() + ".." if text else ""
    cv2.putText(area, shown, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
