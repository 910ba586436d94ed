"""ParseOptions and writing image files with OpenCV."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import stat
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from tv_mixaug._validation import check_count

MAX_PIXELS = 178_956_970  # where Pillow refuses a picture: twice its MAX_IMAGE_PIXELS
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tiff")  # what write_image writes

_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")
_LONGEST = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383, ".png": 1_000_000}  # sides


def read_image(
    path: str | os.PathLike[str], *, max_pixels: int | None = MAX_PIXELS
) -> tv_tensors.Image:
    """Read an image file as RGB.

    As with the default loader of ``ImageFolder``, grey becomes three equal channels and an alpha
    channel is dropped, so transparent pixels keep the colour stored in them. 16-bit PNG and TIFF
    files are scaled to 8 bits (65535 becomes 255) and rounded to nearest. The EXIF orientation of
    JPEG and PNG files is applied. The function can be pickled, so it serves as ``loader=`` of
    ``torchvision.datasets.ImageFolder`` under any start method of worker processes.

    Args:
        path: The file, in any format that the installed OpenCV reads. Any Unicode name works.
        max_pixels: Most pixels that a picture may have, so that no small file can fill the memory;
            None for no limit but OpenCV's own. PNG, JPEG, BMP, GIF, WebP and TIFF files are refused
            before they are decoded.

    Returns:
        A (3, H, W) uint8 image, contiguous.

    Raises:
        TypeError: If an argument is of the wrong kind.
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, is cut short, has too many pixels, is not an image,
            or is no regular file but a directory, pipe, socket or device.

    Example:
        >>> from torchvision.datasets import ImageFolder
        >>> from tv_mixaug.extras import flowers
        >>> root = getfixture("tmp_path")  # a folder of your own
        >>> files = flowers.write_image_folder(root, count_per_class=1, size=(24, 32))
        >>> read_image(files[0]).shape
        torch.Size([3, 24, 32])
        >>> image, label = ImageFolder(root, loader=read_image)[1]
        >>> image.dtype, label
        (torch.uint8, 1)
    """
    check_path("path", path)
    limit = math.inf if max_pixels is None else check_count("max_pixels", max_pixels)
    data, name = _read_bytes(path), os.fspath(path)
    width, height, has_end = _read_header(data)
    if not has_end:
        raise ValueError(f"path {name!r} is cut short; copy the file again.")
    _check_size(name, width, height, limit)
    # OpenCV's own step from 16 to 8 bits truncates. Other formats store 10 or 12 bits unscaled, so
    # for them that step is the right one.
    keep_depth = cv2.IMREAD_ANYDEPTH if data.startswith((_PNG, *_TIFF)) else 0
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | keep_depth)
        if pixels is None:
            raise ValueError(f"path {name!r} is not an image that OpenCV can decode.")
        _check_size(name, pixels.shape[1], pixels.shape[0], limit)
        if pixels.dtype == np.uint16:
            pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)  # which rounds to nearest
        if pixels.dtype != np.uint8:
            raise ValueError(f"path {name!r} must hold 8-bit or 16-bit pixels, got {pixels.dtype}.")
        blue, green, red = cv2.split(pixels)
        return tv_tensors.Image(torch.from_numpy(np.stack((red, green, blue))))
    except (cv2.error, MemoryError) as error:
        cause = "there is not enough memory" if isinstance(error, MemoryError) else error.err
        raise ValueError(f"path {name!r} cannot be decoded: {cause}.") from error


def write_image(path: str | os.PathLike[str], pixels: npt.NDArray[np.uint8]) -> None:
    """Write a picture to a file, in the format that its suffix names.

    It is written beside the file and then renamed: nobody reads half a picture, and one that was
    there stays whole if the disk is full.

    Args:
        path: The file; its suffix is one of ``SUFFIXES``, in any case. Any Unicode name works.
        pixels: (H, W, 3) uint8, RGB, as :func:`~tv_mixaug.extras.viz.draw_batch` returns it.

    Raises:
        TypeError: If ``path`` is not a path.
        ValueError: If ``pixels`` is of another shape or dtype, the suffix is another one, the
            format holds no picture of this size, or ``path`` is there and no regular file.
        OSError: If the file cannot be written.

    Example:
        >>> from tv_mixaug import viz
        >>> file = getfixture("tmp_path") / "sheet.png"
        >>> write_image(file, viz.draw_batch(torch.rand(2, 3, 32, 32)))
        >>> read_image(file).shape
        torch.Size([3, 224, 428])
    """
    file = check_output("path", path)
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or not pixels.size:
        raise ValueError(f"pixels must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}.")
    longest = _LONGEST.get(file.suffix.lower(), max(pixels.shape))
    if max(pixels.shape) > longest:  # OpenCV would find out as well, and print about it
        raise ValueError(
            f"path must end in the suffix of a format for {pixels.shape[0]} × {pixels.shape[1]} "
            f"pixels, got '{file}', whose sides are at most {longest}."
        )
    data = cv2.imencode(file.suffix, pixels[..., ::-1])[1].tobytes()
    beside = file.with_name(f".{secrets.token_hex(8)}.part")
    try:
        # Not cv2.imwrite: it fails on some names under Windows, and without an error.
        beside.write_bytes(data)
        beside.replace(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error  # as what it is
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def check_output(name: str, path: str | os.PathLike[str]) -> Path:
    """Return the file that a path leads to, or raise as :func:`write_image` does."""
    check_path(name, path)
    file = Path(os.path.realpath(path))  # else a rename would replace a link, not its file
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{name} must end in one of {', '.join(SUFFIXES)}, got '{path}'.")
    if file.exists():
        _check_regular(name, path, file.stat().st_mode)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{name} must be in a folder that exists, got '{path}'.")
    if not all(os.access(place, os.W_OK) for place in (file, file.parent) if place.exists()):
        raise PermissionError(f"{name} must be writable, got '{path}'.")
    return file


def check_path(name: str, path: object) -> None:
    """Raise TypeError for what is no path."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a str or a Path, got {type(path).__name__}.")


def _check_regular(name: str, path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(mode), "device")
        raise ValueError(f"{name} {os.fspath(path)!r} must be a file, got a {kind}.")


def _check_size(name: str, width: int, height: int, limit: float) -> None:
    if width * height > limit:
        raise ValueError(
            f"path {name!r} must have at most {limit} pixels, got {width} × {height}; "
            "if you trust the file, raise max_pixels."
        )


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a regular file that has any.

    Not ``cv2.imread``: it fails on some names under Windows, and prints about a missing file.
    """
    try:
        mode = os.stat(path).st_mode
        # To open a pipe would wait for ever, and a device may do anything.
        data = Path(path).read_bytes() if stat.S_ISREG(mode) else b""
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"path {os.fspath(path)!r} does not exist.") from None
    except (OSError, ValueError, MemoryError) as error:
        raise ValueError(f"path {os.fspath(path)!r} cannot be read: {error}.") from error
    _check_regular("path", path, mode)
    if not data:
        raise ValueError(f"path {os.fspath(path)!r} is an empty file.")
    return data


def _read_header(data: bytes) -> tuple[int, int, bool]:
    """Return the width and height that a file says, or 0, and whether it has the end it needs."""
    # Not by Pillow's lazy open: it checks more than the size, and what it refuses has none.
    order: Literal["little", "big"] = "big"

    def read(at: int, length: int) -> int:
        return int.from_bytes(data[at : at + length], order)  # of what there is

    if data.startswith(_PNG):
        return read(16, 4), read(20, 4), b"IEND" in data
    if data.startswith(_JPEG):
        width, height, at = 0, 0, 2
        while read(at, 1) == 0xFF and read(at, 2) != 0xFFDA:  # up to the first scan
            marker = read(at + 1, 1)
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # tables, reserved
                height, width = read(at + 5, 2), read(at + 7, 2)
            at += 1 if marker == 0xFF else 2 + read(at + 2, 2)
        # OpenCV 4 fills a cut JPEG with grey. A thumbnail in the header has an end marker too.
        return width, height, b"\xff\xd9" in data[at:]
    if data.startswith(_TIFF):
        order, sides = "little" if data.startswith(b"II") else "big", {}
        first = read(4, 4) + 2
        for at in range(first, first + 12 * read(first - 2, 2), 12):
            sides[read(at, 2)] = read(at + 8, 2 if read(at + 2, 2) == 3 else 4)
        return sides.get(256, 0), sides.get(257, 0), True
    order = "little"
    if data.startswith(b"GIF8"):
        return read(6, 2), read(8, 2), True
    if data.startswith(b"BM"):  # the oldest kind of header is 12 bytes long
        if read(14, 1) == 12:
            return read(18, 2), read(20, 2), True
        height = int.from_bytes(data[22:26], order, signed=True)  # negative: from top to bottom
        return read(18, 4), abs(height), True
    if data[8:16] == b"WEBPVP8X":  # extended: 24 bits each, less one
        return 1 + read(24, 3), 1 + read(27, 3), True
    if data[8:16] == b"WEBPVP8L":  # lossless: 14 bits each, less one
        return 1 + read(21, 2) % 2**14, 1 + (read(22, 3) >> 6) % 2**14, True
    if data[8:16] == b"WEBPVP8 ":  # two bits of each are a scale
        return read(26, 2) % 2**14, read(28, 2) % 2**14, True
    return 0, 0, True
