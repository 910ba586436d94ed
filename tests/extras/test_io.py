"""Image files are read as RGB pixels, written completely or not at all, and named in errors."""

import os
import struct

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from tv_mixaug.extras import flowers
from tv_mixaug.extras.io import read_image, write_image

BGR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
HWC = np.ascontiguousarray(BGR[..., ::-1])
RGB = torch.from_numpy(HWC).permute(2, 0, 1)
TALL = np.zeros((65_501, 1, 3), np.uint8)


def write(path, pixels):
    suffix = ".png" if path.suffix in ("", ".") else path.suffix
    path.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    return path


@pytest.mark.parametrize("name", ["rosé 玫瑰.png", "a b.bmp", "a.tiff", "a.ppm", "dot.", "none"])
def test_lossless_formats_give_the_written_pixels(tmp_path, name):
    """Any format and any name, as str or Path, gives exactly the written pixels as RGB."""
    path = write(tmp_path / name, BGR)
    for image in (read_image(path), read_image(str(path))):
        assert (type(image), image.dtype) == (tv_tensors.Image, torch.uint8)
        assert image.is_contiguous()
        assert torch.equal(image, RGB)


def test_pixels_are_those_of_the_default_loader(tmp_path):
    """Grey gives three equal channels, alpha is dropped, and a JPEG differs by rounding only."""
    grey = read_image(write(tmp_path / "grey.png", BGR[..., 0]))
    assert torch.equal(grey, RGB[2].expand(3, -1, -1))
    path = write(tmp_path / "alpha.png", np.dstack((BGR, BGR[..., 0])))
    assert torch.equal(read_image(path), RGB)
    assert torch.equal(read_image(path), pil_to_tensor(pil_loader(path)))
    path = tmp_path / "rose.jpg"
    to_pil_image(flowers.draw_flower("rose", 64).image).save(path)
    expected = pil_to_tensor(pil_loader(path)).to(torch.int64)
    assert (read_image(path).to(torch.int64) - expected).abs().max() <= 3


# By tag: quarter turns to the left, after a mirror image or not.
TURNS = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (1, 1), 6: (3, 0), 7: (3, 1), 8: (1, 0)}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_applied(tmp_path, orientation):
    """A JPEG with an orientation tag equals the plain JPEG turned by hand, for all eight tags."""
    plain = write(tmp_path / "plain.jpg", BGR)
    tag = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"\xff\xe1" + struct.pack(">H", len(tag) + 8) + b"Exif\0\0" + tag
    data = plain.read_bytes()
    (tmp_path / "turned.jpg").write_bytes(data[:2] + segment + data[2:])
    turns, mirrored = TURNS[orientation]
    upright = read_image(plain).flip([2] * mirrored).rot90(turns, (1, 2))
    assert torch.equal(read_image(tmp_path / "turned.jpg"), upright)


def test_unreadable_paths_are_named(tmp_path):
    """A missing file and a folder raise the error of Python, which names them."""
    for path, error in ((tmp_path / "gone.png", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error, match=path.name):
            read_image(path)
    with pytest.raises(TypeError):
        read_image(None)


BOMB = b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, 2**16, 2**16, 1, 24) + bytes(24)


@pytest.mark.parametrize("data", [b"", b"not an image at all", b"\xff\xd8", BOMB])
def test_files_that_are_not_images_are_named(tmp_path, data):
    """An empty file, a text, a bare signature and 2 ** 32 pixels raise an error with the path."""
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"must be an image that OpenCV decodes, got '.*a\.png'"):
        read_image(path)


@pytest.mark.slow
def test_image_folder_reads_in_spawned_workers(tmp_path):
    """As the loader of ImageFolder it gives the same images in a spawned worker as here."""
    flowers.write_image_folder(tmp_path, 1, 16)
    folder = ImageFolder(tmp_path, loader=read_image)
    loader = DataLoader(folder, 2, num_workers=1, multiprocessing_context="spawn")
    images, labels = next(iter(loader))
    assert torch.equal(images, torch.stack([folder[0][0], folder[1][0]]))
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tiff", ".jpg", ".jpeg", ".webp"])
def test_a_written_image_reads_back(tmp_path, suffix):
    """Each format is written to one file, and the lossless ones give back each pixel."""
    path = tmp_path / f"Bild ü{suffix}"
    write_image(path, HWC)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert read_image(path).shape == RGB.shape
    if suffix not in (".jpg", ".jpeg", ".webp"):
        assert torch.equal(read_image(path), RGB)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    """If the disk is full, the old file stays as it was and no temporary file is left."""
    path = write(tmp_path / "a.png", BGR)
    before = path.read_bytes()

    def write_half(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", write_half)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.png"):
        write_image(path, HWC[::-1])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="needs links and permission bits")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_written_file_keeps_its_link_and_its_mode(tmp_path, monkeypatch, mode):
    """The temporary file has the mode of the file that it replaces before data is written."""
    path, modes, write_bytes = write(tmp_path / "a.png", BGR), [], type(tmp_path).write_bytes
    path.chmod(mode)
    (tmp_path / "link.png").symlink_to("a.png")

    def spy(self, data):
        modes.append(self.stat().st_mode & 0o777)
        return write_bytes(self, data)

    monkeypatch.setattr("pathlib.Path.write_bytes", spy)
    write_image(tmp_path / "link.png", HWC[::-1])
    assert modes == [mode] == [path.stat().st_mode & 0o777]
    assert (tmp_path / "link.png").is_symlink()
    assert torch.equal(read_image(path), RGB.flip(1))


@pytest.mark.parametrize(
    ("name", "pixels", "error", "text"),
    [
        ("a.png", BGR.astype(np.float32), ValueError, r"must be .H, W, 3. uint8 .* got .6, 9"),
        ("a.png", BGR[..., 0], ValueError, "image must be"),
        ("a.png", BGR[:0], ValueError, "image must be"),
        ("a.jpg", TALL, ValueError, "type '.jpg' can hold, got .65501, 1"),
        ("a.txt", BGR, ValueError, "type '.txt' can hold"),
        ("gone/a.png", BGR, OSError, "gone"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, name, pixels, error, text):
    """A wrong array or path raises an error that describes it, and nothing is written."""
    with pytest.raises(error, match=text):
        write_image(tmp_path / name, pixels)
    assert list(tmp_path.iterdir()) == []
