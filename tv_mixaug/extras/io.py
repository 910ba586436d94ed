"""Read and write image files with OpenCV."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from tv_mixaug._opencv import cv2
from tv_mixaug._validation import ensure


def read_image(path: str | os.PathLike[str]) -> tv_tensors.Image:
    """Read a file as a (3, H, W) uint8 RGB image, upright by its EXIF orientation.

    Raises ValueError if OpenCV cannot decode the file or it has more pixels than the variable
    ``OPENCV_IO_MAX_IMAGE_PIXELS`` allows (by default 2**30), and OSError if it cannot be read.
    """
    data = np.frombuffer(Path(path).read_bytes(), np.uint8)  # cv2.imread returns None if missing
    try:
        planes = cv2.split(cv2.imdecode(data, cv2.IMREAD_COLOR))
        return tv_tensors.Image(torch.from_numpy(np.stack(planes[::-1])))
    except (cv2.error, ValueError) as error:  # imdecode raises or returns None
        raise ValueError(f"path must be an image that OpenCV decodes, got '{path}'.") from error


def write_image(path: str | os.PathLike[str], image: npt.NDArray[np.uint8]) -> None:
    """Write an (H, W, 3) uint8 RGB array, replacing an existing file only by a complete one.

    Raises ValueError if the file's format is unknown or cannot store the array, and OSError if the
    file cannot be written.
    """
    file, fits = Path(path).resolve(), image.dtype == np.uint8 and image.shape[2:] == (3,)
    try:
        encoded, data = cv2.imencode(file.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    expected = f"(H, W, 3) uint8 that a file of type '{file.suffix}' can hold"
    ensure(fits and encoded, "image", expected, f"{image.shape} {image.dtype}")
    temporary = file.with_name(f".{file.name[:40]}.{os.urandom(4).hex()}")
    try:
        if file.exists():  # its mode is set first, so that nobody else can read the new data
            temporary.touch(0o600)
            temporary.chmod(file.stat().st_mode)
        temporary.write_bytes(data.tobytes())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
