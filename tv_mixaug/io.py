"""Reading image files with OpenCV."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors

_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")


def read_image(path: str | os.PathLike[str]) -> tv_tensors.Image:
    """Read an image file as RGB.

    As with the default loader of ``ImageFolder``, grey becomes three equal channels and an alpha
    channel is dropped, so transparent pixels keep the colour stored in them. 16-bit PNG and TIFF
    files are scaled to 8 bits (65535 becomes 255) and rounded to nearest. The EXIF orientation of
    JPEG and PNG files is applied. The function can be pickled, so it serves as ``loader=`` of
    ``torchvision.datasets.ImageFolder`` under any start method of worker processes.

    Args:
        path: The file, in any format that the installed OpenCV reads. Any Unicode name works.

    Returns:
        A (3, H, W) uint8 image, contiguous.

    Raises:
        TypeError: If ``path`` is not a path.
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, is cut short, or is not an image.

    Example:
        >>> from torchvision.datasets import ImageFolder
        >>> from tv_mixaug import flowers
        >>> root = getfixture("tmp_path")  # a folder of your own
        >>> files = flowers.write_image_folder(root, count_per_class=1, size=(24, 32))
        >>> read_image(files[0]).shape
        torch.Size([3, 24, 32])
        >>> image, label = ImageFolder(root, loader=read_image)[1]
        >>> image.dtype, label
        (torch.uint8, 1)
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a Path, got {type(path).__name__}.")
    import cv2

    data = _read_bytes(path)
    if _is_cut_short(data):
        raise ValueError(f"path {os.fspath(path)!r} is cut short; copy the file again.")
    # OpenCV's own step from 16 to 8 bits truncates. Other formats store 10 or 12 bits unscaled, so
    # for them that step is the right one.
    keep_depth = cv2.IMREAD_ANYDEPTH if data.startswith((_PNG, *_TIFF)) else 0
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | keep_depth)
    except cv2.error as error:
        raise ValueError(f"path {os.fspath(path)!r} cannot be decoded: {error.err}.") from error
    if pixels is None:
        raise ValueError(f"path {os.fspath(path)!r} is not an image that OpenCV can decode.")
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"path {os.fspath(path)!r} must hold 8-bit or 16-bit pixels, got {pixels.dtype}."
        )
    blue, green, red = cv2.split(pixels)
    return tv_tensors.Image(torch.from_numpy(np.stack((red, green, blue))))


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file that has any.

    Reading the bytes here, not in ``cv2.imread``, makes every Unicode path work on Windows and
    keeps OpenCV from printing a warning about a missing file.
    """
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"path {os.fspath(path)!r} does not exist.") from None
    except IsADirectoryError:
        raise ValueError(f"path {os.fspath(path)!r} must be a file, got a directory.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"path {os.fspath(path)!r} cannot be read: {error}.") from error
    if not data:
        raise ValueError(f"path {os.fspath(path)!r} is an empty file.")
    return data


def _is_cut_short(data: bytes) -> bool:
    """Tell whether a JPEG or PNG file lacks its end: OpenCV 4 fills such a JPEG with grey."""
    if data.startswith(_PNG):
        return b"IEND" not in data
    if not data.startswith(_JPEG):
        return False
    # Walk the segments up to the first scan: a thumbnail in the header has an end marker too.
    at = len(_JPEG)
    while data[at : at + 1] == b"\xff" and data[at : at + 2] != b"\xff\xda":
        fill = data[at : at + 2] == b"\xff\xff"
        at += 1 if fill else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) < 0
