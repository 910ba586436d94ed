"""Read image files with OpenCV."""

import os
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors

from tv_mixaug._opencv import cv2


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
