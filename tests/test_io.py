"""Reading files: the right pixels for every kind of file, or an error that names the path."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader
from torchvision.transforms.v2.functional import pil_to_tensor

from tv_mixaug import flowers
from tv_mixaug.io import read_image

BGR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
RGB = torch.from_numpy(BGR[..., ::-1].copy()).permute(2, 0, 1)


def write(path, pixels, *options):
    path.write_bytes(cv2.imencode(path.suffix, pixels, list(options))[1].tobytes())
    return path


def with_jpeg_orientation(data, orientation):
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def with_png_orientation(data, orientation):
    body = b"eXIf" + b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]  # after the signature and IHDR


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_colour_comes_back_as_rgb(tmp_path, suffix):
    """Every lossless format gives exactly the written pixels as a contiguous RGB Image."""
    image = read_image(write(tmp_path / f"a{suffix}", BGR))
    assert type(image) is tv_tensors.Image
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, RGB)


def test_jpeg_equals_the_default_loader(tmp_path):
    """A JPEG decodes to what ImageFolder's default loader gives, up to a rounding step."""
    path = flowers.write_image_folder(tmp_path, 1, 64)[0]
    theirs = pil_to_tensor(pil_loader(path)).to(torch.int64)
    assert (read_image(path).to(torch.int64) - theirs).abs().max() <= 3


def test_grey_gets_three_equal_channels(tmp_path):
    """A grey file becomes three equal channels."""
    image = read_image(write(tmp_path / "a.png", BGR[..., 0]))
    assert torch.equal(image, RGB[2].expand(3, -1, -1))


def test_alpha_is_dropped_as_the_default_loader_drops_it(tmp_path):
    """Transparent pixels keep their colour, exactly as with ImageFolder's default loader."""
    path = write(tmp_path / "a.png", np.dstack((BGR, BGR[..., 0])))
    assert torch.equal(read_image(path), RGB)
    assert torch.equal(read_image(path), pil_to_tensor(pil_loader(path)))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled_and_rounded(tmp_path, suffix, channels):
    """All 65,536 grey levels go to the nearest of 256, with 65535 at 255."""
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = write(tmp_path / f"a{suffix}", np.dstack([levels] * channels))
    expected = np.rint(levels / 65535 * 255).astype(np.uint8)
    for channel in read_image(path).numpy():
        assert (channel == expected).all()


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    """A file with an orientation tag equals the plain file turned by hand, for all eight tags."""
    data = cv2.imencode(suffix, BGR)[1].tobytes()
    plain, turned = tmp_path / f"plain{suffix}", tmp_path / f"turned{suffix}"
    plain.write_bytes(data)
    tag = with_jpeg_orientation if suffix == ".jpg" else with_png_orientation
    turned.write_bytes(tag(data, orientation))
    upright = TURNS[orientation](read_image(plain).permute(1, 2, 0).numpy())
    assert (read_image(turned).permute(1, 2, 0).numpy() == upright).all()


@pytest.mark.parametrize("name", ["rosé 玫瑰.png", "with space.png", "dot.", "no suffix"])
def test_any_name_works(tmp_path, name):
    """Names in any script, without a suffix or with spaces, as str or Path, are read."""
    path = tmp_path / name
    path.write_bytes(cv2.imencode(".png", BGR)[1].tobytes())
    assert torch.equal(read_image(path), RGB)
    assert torch.equal(read_image(str(path)), RGB)


def test_missing_file_is_named(tmp_path, capfd):
    """A missing file gives FileNotFoundError with the path, and OpenCV prints nothing."""
    for path in (tmp_path / "gone.png", tmp_path / "gone" / "a.png"):
        with pytest.raises(FileNotFoundError, match=path.name):
            read_image(path)
    assert capfd.readouterr().err == ""


def bad_files():
    png = cv2.imencode(".png", BGR)[1].tobytes()
    jpeg = cv2.imencode(".jpg", cv2.resize(BGR, (90, 60)))[1].tobytes()
    progressive = cv2.imencode(".jpg", cv2.resize(BGR, (90, 60)), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    # The thumbnail in this header is a whole JPEG with an end of its own.
    thumbnail = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(jpeg) + 2) + jpeg + jpeg[2:]
    yield "empty.png", b"", "empty"
    yield "text.jpg", b"not an image at all", "not an image"
    yield "short.png", png[: len(png) // 2], "cut short"
    yield "end.png", png[:-8], "cut short"
    for share in (0.3, 0.6, 0.95):
        yield f"short{share}.jpg", jpeg[: int(share * len(jpeg))], "cut short"
    yield "end.jpg", jpeg[:-2], "cut short"
    yield "soi.jpg", jpeg[:2], "cut short"
    yield "progressive.jpg", progressive[1].tobytes()[:-40], "cut short"
    yield "thumbnail.jpg", thumbnail[:-200], "cut short"


@pytest.mark.parametrize(("name", "data", "text"), list(bad_files()))
def test_files_that_are_not_whole_images_are_named(tmp_path, capfd, name, data, text):
    """Empty, cut and non-image files give ValueError with path and cause, and no other noise."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=text) as caught:
        read_image(path)
    assert repr(str(path)) in str(caught.value)
    assert capfd.readouterr().err == ""


def test_odd_but_whole_jpegs_are_read(tmp_path):
    """Fill bytes before a marker, a thumbnail and data after the end do no harm."""
    data = cv2.imencode(".jpg", BGR)[1].tobytes()
    plain = tmp_path / "plain.jpg"
    plain.write_bytes(data)
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    path = tmp_path / "odd.jpg"
    path.write_bytes(data[:2] + thumbnail + b"\xff\xff" + data[2:] + b"trailing \xff\xda bytes")
    assert torch.equal(read_image(path), read_image(plain))


def test_directory_and_float_pixels_are_refused(tmp_path):
    """A directory and pixels that have no 8-bit meaning give ValueError with the path."""
    with pytest.raises(ValueError, match="must be a file, got a directory"):
        read_image(tmp_path)
    path = write(tmp_path / "a.tiff", BGR.astype(np.float32))
    with pytest.raises(ValueError, match="must hold 8-bit or 16-bit pixels, got float32"):
        read_image(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_image("nul\0byte.png")


@pytest.mark.parametrize("path", [None, 3, b"a.png", ["a.png"]])
def test_wrong_kind_of_path_is_refused(path):
    """What is no path gives TypeError."""
    with pytest.raises(TypeError, match="path must be a str or a Path"):
        read_image(path)


def test_serves_as_loader_of_image_folder_in_spawned_workers(tmp_path):
    """It is picklable and gives the same pictures in a spawned worker as in this process."""
    flowers.write_image_folder(tmp_path, 1, 16)
    folder = ImageFolder(tmp_path, loader=read_image)
    loader = DataLoader(folder, 2, num_workers=1, multiprocessing_context="spawn")
    images, labels = next(iter(loader))
    assert torch.equal(images, torch.stack([folder[0][0], folder[1][0]]))
    assert labels.tolist() == [0, 1]


def test_threads_read_the_same(tmp_path):
    """Many threads reading at once all get the right pixels."""
    path = write(tmp_path / "a.png", BGR)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(image, RGB) for image in pool.map(read_image, [path] * 16))
