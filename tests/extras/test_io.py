"""ParseOptions and writing files: the right pixels, or an error that names the path."""

import os
import socket
import struct
import subprocess
import sys
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

from tv_mixaug.extras import flowers
from tv_mixaug.extras.io import MAX_PIXELS, SUFFIXES, read_image, write_image

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


@pytest.mark.slow
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the special files of Unix")
def test_special_files_are_refused_before_they_are_opened(tmp_path):
    """A pipe, which would wait for ever, a socket and devices give ValueError with their kind."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
    kinds = {"pipe.png": "pipe", "link.png": "pipe", "socket.png": "socket"}
    kinds |= {"/dev/zero": "device", "/dev/null": "device"}
    for name, kind in kinds.items():
        with pytest.raises(ValueError, match=f"{name}' must be a file, got a {kind}."):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match=r"pipe.png' must be a file, got a pipe."):
        write_image(tmp_path / "pipe.png", BGR)


def with_size(suffix, width, height, *options):
    """Return a small file whose header claims to be large, as a bomb's does."""
    data = bytearray(cv2.imencode(suffix, BGR, list(options))[1].tobytes())
    if suffix == ".png":
        data[16:24] = struct.pack(">II", width, height)
    elif suffix == ".jpg":
        at = data.find(b"\xff\xc2" if options else b"\xff\xc0")  # the frame, progressive or not
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", width, -height)
    elif suffix == ".tiff":
        (at,) = struct.unpack_from("<I", data, 4)
        for entry in range(at + 2, at + 2 + 12 * data[at], 12):
            tag, kind = struct.unpack_from("<HH", data, entry)
            if tag in (256, 257):
                side = (width, height)[tag - 256]
                struct.pack_into("<H" if kind == 3 else "<I", data, entry + 8, side)
    elif options:  # lossy WebP
        data[26:30] = struct.pack("<HH", width, height)
    else:
        data[21:25] = struct.pack("<I", width - 1 | (height - 1) << 14)
    return bytes(data)


EXTENDED = b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (15_999).to_bytes(3, "little") * 2
BOMBS = {
    "png": with_size(".png", 16_000, 16_000),
    "jpeg": with_size(".jpg", 16_000, 16_000),
    "progressive": with_size(".jpg", 16_000, 16_000, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "bmp": with_size(".bmp", 16_000, 16_000),
    "old bmp": b"BM" + bytes(8) + struct.pack("<IIHHHH", 26, 12, 16_000, 16_000, 1, 24) + bytes(9),
    "gif": b"GIF89a" + struct.pack("<HH", 16_000, 16_000) + bytes(9),
    "webp": with_size(".webp", 16_000, 16_000),
    "lossy webp": with_size(".webp", 16_000, 16_000, cv2.IMWRITE_WEBP_QUALITY, 50),
    "extended webp": EXTENDED,
    "tiff": with_size(".tiff", 16_000, 16_000),
    "big-endian tiff": b"MM\0*\0\0\0\x08\0\x02"
    + struct.pack(">HHIHHHHII", 256, 3, 1, 16_000, 0, 257, 4, 1, 16_000),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_large_pictures_are_refused_before_they_are_decoded(tmp_path, monkeypatch, kind):
    """A header that says more pixels than Pillow's limit gives ValueError, and nothing decodes."""
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[kind])
    monkeypatch.setattr(cv2, "imdecode", None)
    text = rf"bomb' must have at most {MAX_PIXELS} pixels, got 16000 × 16000; .* raise max_pixels"
    with pytest.raises(ValueError, match=text):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".webp", ".tiff", ".ppm"])
def test_the_limit_of_pixels_can_be_set(tmp_path, suffix):
    """54 pixels pass a limit of 54 and fail one of 53, in every format, whoever finds the size."""
    path = write(tmp_path / f"a{suffix}", BGR)
    for limit in (54, None):
        assert read_image(path, max_pixels=limit).shape == (3, 6, 9)
    with pytest.raises(ValueError, match="must have at most 53 pixels, got 9 × 6"):
        read_image(path, max_pixels=53)


def test_a_bad_limit_is_named(tmp_path):
    """A limit that is no number of pixels is refused by name."""
    with pytest.raises(ValueError, match=r"max_pixels must be > 0, got 0."):
        read_image(tmp_path, max_pixels=0)
    with pytest.raises(TypeError, match="max_pixels must be an int"):
        read_image(tmp_path, max_pixels=1e6)


def test_any_header_may_be_cut_or_garbled(tmp_path):
    """No cut and no wrong byte of a header gives an error other than ValueError."""
    path = tmp_path / "a"
    rng = np.random.default_rng(0)
    for data in BOMBS.values():
        for length in range(1, min(len(data), 40), 3):
            garbled = bytearray(data[:length] + bytes(8))
            garbled[rng.integers(length)] = rng.integers(256)
            for content in (data[:length], bytes(garbled)):
                path.write_bytes(content)
                with pytest.raises(ValueError, match="path"):
                    read_image(path, max_pixels=1)


@pytest.mark.parametrize("where", ["imdecode", "split"])
def test_too_little_memory_is_a_clear_error(tmp_path, monkeypatch, where):
    """Memory that runs out while decoding gives ValueError with the path."""

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(cv2, where, fail)
    with pytest.raises(ValueError, match=r"a.png' cannot be decoded: there is not enough memory."):
        read_image(write(tmp_path / "a.png", BGR))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
def test_a_real_lack_of_memory_is_a_clear_error(tmp_path):
    """In a process that may not have the memory of a picture, OpenCV's error is translated."""
    path = write(tmp_path / "a.png", np.zeros((9000, 9000), np.uint8))
    code = (
        "import resource, sys, cv2, torch; from tv_mixaug.extras.io import read_image\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)\n"
        f"try: read_image({str(path)!r})\n"
        "except ValueError as error: print(error)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert "cannot be decoded: " in done.stdout, done


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
def test_a_written_picture_reads_back(tmp_path, suffix):
    """Every suffix is written as what it says; the lossless ones give back each pixel."""
    path = tmp_path / f"Bild ü{suffix}"
    write_image(path, RGB.permute(1, 2, 0).numpy())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix not in (".jpg", ".jpeg", ".webp"):
        assert torch.equal(read_image(path), RGB)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    """A disk that is full costs neither the old picture nor leaves half a new one."""
    path = write(tmp_path / "a.png", BGR)
    before = path.read_bytes()

    def write_half(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", write_half)
    with pytest.raises(OSError, match=r"No space left on device: '.*a.png'"):
        write_image(path, BGR[::-1])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path):
    """What a link points to is written, and the file has the rights of any new file."""
    (tmp_path / "link.png").symlink_to("real.png")
    write_image(tmp_path / "link.png", BGR)
    assert (tmp_path / "link.png").is_symlink()
    assert torch.equal(read_image(tmp_path / "real.png"), RGB.flip(0))
    (tmp_path / "plain").touch()
    assert (tmp_path / "real.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("name", "pixels", "error", "text"),
    [
        ("a.png", BGR.astype(np.float32), ValueError, r"pixels must be .H, W, 3. uint8, got .6, 9"),
        ("a.png", BGR[..., 0], ValueError, "pixels must be"),
        ("a.png", BGR[:0], ValueError, "pixels must be"),
        ("a.txt", BGR, ValueError, r"path must end in one of .png, .jpg"),
        ("a.webp", np.zeros((1, 16_384, 3), np.uint8), ValueError, "sides are at most 16383"),
        ("a.jpg", np.zeros((65_501, 1, 3), np.uint8), ValueError, "sides are at most 65500"),
        ("gone/a.png", BGR, FileNotFoundError, "gone/a.png"),
        (".", BGR, ValueError, "path must end"),
        (3, BGR, TypeError, "path must be a str"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, capfd, name, pixels, error, text):
    """A wrong picture or name gives an error that says so, and OpenCV prints nothing."""
    with pytest.raises(error, match=text):
        write_image(tmp_path / name if isinstance(name, str) else name, pixels)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""
