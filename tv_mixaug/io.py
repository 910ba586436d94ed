"""Reading and writing image files with OpenCV."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from tv_mixaug.arguments import check_count

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
        >>> from tv_mixaug import flowers
        >>> root = getfixture("tmp_path")  # a folder of your own
        >>> files = flowers.write_image_folder(root, count_per_class=1, size=(24, 32))
        >>> read_image(files[0]).shape
        torch.Size([3, 24, 32])
        >>> image, label = ImageFolder(root, loader=read_image)[1]
        >>> image.dtype, label
        (torch.uint8, 1)
    """
    _check_path(path)
    if max_pixels is not None:
        check_count("max_pixels", max_pixels)
    import cv2

    data, name = _read_bytes(path), os.fspath(path)
    if _is_cut_short(data):
        raise ValueError(f"path {name!r} is cut short; copy the file again.")
    _check_size(name, _read_size(data), max_pixels)
    # OpenCV's own step from 16 to 8 bits truncates. Other formats store 10 or 12 bits unscaled, so
    # for them that step is the right one.
    keep_depth = cv2.IMREAD_ANYDEPTH if data.startswith((_PNG, *_TIFF)) else 0
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | keep_depth)
        if pixels is None:
            raise ValueError(f"path {name!r} is not an image that OpenCV can decode.")
        _check_size(name, pixels.shape[1::-1], max_pixels)
        if pixels.dtype == np.uint16:
            pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
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
        pixels: (H, W, 3) uint8, RGB, as :func:`~tv_mixaug.viz.draw_batch` returns it.

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
    _check_path(path)
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or not pixels.size:
        raise ValueError(f"pixels must be (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}.")
    import cv2

    path = Path(os.path.realpath(path))  # else the rename would replace a link, not its file
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"path must end in one of {', '.join(SUFFIXES)}, got '{path}'.")
    if path.exists():
        _check_regular(path, path.stat().st_mode)
    longest = _LONGEST.get(suffix, max(pixels.shape))
    if max(pixels.shape) > longest:  # OpenCV would find out as well, and print about it
        raise ValueError(
            f"path must end in the suffix of a format for {pixels.shape[0]} × {pixels.shape[1]} "
            f"pixels, got '{path}', whose sides are at most {longest}."
        )
    data = cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes()
    beside = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        # Not cv2.imwrite: it fails on some names under Windows, and without an error.
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # as what it is
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _check_path(path: object) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a Path, got {type(path).__name__}.")


def _check_regular(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(mode), "device")
        raise ValueError(f"path {os.fspath(path)!r} must be a file, got a {kind}.")


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a regular file that has any.

    Reading the bytes here, not in ``cv2.imread``, makes every Unicode path work on Windows and
    keeps OpenCV from printing a warning about a missing file.
    """
    try:
        mode = os.stat(path).st_mode
        # To open a pipe would wait for ever, and a device may do anything.
        data = Path(path).read_bytes() if stat.S_ISREG(mode) else b""
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"path {os.fspath(path)!r} does not exist.") from None
    except (OSError, ValueError, MemoryError) as error:
        raise ValueError(f"path {os.fspath(path)!r} cannot be read: {error}.") from error
    _check_regular(path, mode)
    if not data:
        raise ValueError(f"path {os.fspath(path)!r} is an empty file.")
    return data


def _check_size(name: str, size: Sequence[int], max_pixels: int | None) -> None:
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        raise ValueError(
            f"path {name!r} must have at most {max_pixels} pixels, got {size[0]} × {size[1]}; "
            "if you trust the file, raise max_pixels."
        )


def _read_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) as the header says; zeros for a format that is not known here."""
    try:
        if data.startswith(_PNG):
            return struct.unpack_from(">II", data, 16)
        if data.startswith(_JPEG):
            return _walk_jpeg(data)[0]
        if data.startswith(b"GIF8"):
            return struct.unpack_from("<HH", data, 6)
        if data.startswith(b"BM"):  # the oldest kind of header is 12 bytes long
            width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
            return width, abs(height)  # negative: from top to bottom
        if data.startswith(_TIFF):
            return _read_tiff_size(data)
        if data.startswith(b"RIFF") and data[8:15] == b"WEBPVP8":
            return _read_webp_size(data)
    except (struct.error, IndexError):
        pass  # too short for a header, which OpenCV will say
    return 0, 0


def _read_tiff_size(data: bytes) -> tuple[int, int]:
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    sides = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    return sides.get(256, 0), sides.get(257, 0)


def _read_webp_size(data: bytes) -> tuple[int, int]:
    if data[15:16] == b"X":  # extended: 24 bits each, less one
        return (
            1 + int.from_bytes(data[24:27], "little"),
            1 + int.from_bytes(data[27:30], "little"),
        )
    if data[15:16] == b"L":  # lossless: 14 bits each, less one
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)  # two bits of each are a scale
    return width & 0x3FFF, height & 0x3FFF


def _walk_jpeg(data: bytes) -> tuple[tuple[int, int], int]:
    """Return the size that a JPEG's frame header says, and where its first scan begins."""
    size, at = (0, 0), len(_JPEG)
    while data[at : at + 1] == b"\xff" and data[at : at + 2] != b"\xff\xda":
        marker = data[at + 1 : at + 2]
        if b"\xc0" <= marker <= b"\xcf" and marker not in b"\xc4\xc8\xcc":  # tables, reserved
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            size = int.from_bytes(width, "big"), int.from_bytes(height, "big")
        at += 1 if marker == b"\xff" else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return size, at


def _is_cut_short(data: bytes) -> bool:
    """Tell whether a JPEG or PNG file lacks its end: OpenCV 4 fills such a JPEG with grey."""
    if data.startswith(_PNG):
        return b"IEND" not in data
    # Not in the header: a thumbnail in it has an end marker too.
    return data.startswith(_JPEG) and data.find(b"\xff\xd9", _walk_jpeg(data)[1]) < 0
