"""The drawn flowers: repeatable, of any size, with a mask and box that fit the picture."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder

from tv_mixaug.extras import flowers
from tv_mixaug.extras.io import read_image

SIZES = [(1, 1), (1, 40), (28, 28), (33, 70), (300, 20)]


@pytest.mark.parametrize("kind", flowers.CLASS_NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_image_mask_and_box_have_the_asked_size(kind, size):
    """Every size gives an RGB uint8 image, a mask that is not empty and a box inside the image."""
    flower = flowers.draw_flower(kind, size, seed=3)
    assert type(flower.image) is tv_tensors.Image
    assert flower.image.dtype == torch.uint8
    assert flower.image.is_contiguous()
    assert tuple(flower.image.shape) == (3, *size)
    assert type(flower.mask) is tv_tensors.Mask
    assert flower.mask.dtype == torch.uint8
    assert tuple(flower.mask.shape) == size
    assert 0 < flower.mask.sum() <= size[0] * size[1]
    assert type(flower.box) is tv_tensors.BoundingBoxes
    assert flower.box.canvas_size == size


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(flowers.CLASS_NAMES),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 2**63),
)
def test_box_is_the_tight_box_of_the_mask(kind, size, seed):
    """The half-open box touches the mask on all four sides and holds all of it."""
    flower = flowers.draw_flower(kind, size, seed)
    rows, columns = np.nonzero(flower.mask.numpy())
    assert flower.box.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]


def test_one_number_means_a_square():
    """A size of one number is both sides."""
    one, pair = flowers.draw_flower("rose", 20), flowers.draw_flower("rose", [20, 20])
    assert torch.equal(one.image, pair.image)


def test_same_seed_same_picture_and_no_global_randomness():
    """A seed repeats its picture, another seed changes it, and no global generator moves."""
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = flowers.draw_flower("rose", 32, seed=1)
    again = flowers.draw_flower("rose", 32, seed=1)
    other = flowers.draw_flower("rose", 32, seed=2)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.mask, again.mask)
    assert not torch.equal(first.image, other.image)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_mask_lies_on_the_petals():
    """Inside the mask no pixel is as green as a leaf; green exists outside it."""
    flower = flowers.draw_flower("tulip", 96, seed=0)
    red, green, blue = flower.image.to(torch.int64)
    leaf = (green > red + 30) & (green > blue + 60)
    assert leaf[flower.mask == 0].sum() > 50
    assert leaf[flower.mask == 1].sum() == 0


def test_batch_alternates_classes_and_shares_no_picture_with_another_seed():
    """Roses and tulips come in turn; batches of two seeds have no picture in common."""
    images, labels = flowers.draw_flowers(5, (12, 16), seed=0)
    others, _ = flowers.draw_flowers(5, (12, 16), seed=1)
    assert type(images) is tv_tensors.Image
    assert tuple(images.shape) == (5, 3, 12, 16)
    assert labels.tolist() == [0, 1, 0, 1, 0]
    assert labels.dtype == torch.int64
    assert len({picture.numpy().tobytes() for picture in torch.cat((images, others))}) == 10


def test_image_folder_reads_back(tmp_path):
    """The written files are JPEG and PNG in turn and ImageFolder finds both classes."""
    files = flowers.write_image_folder(tmp_path / "Blüten", 2, (24, 32), seed=4)
    assert [file.suffix for file in files] == [".jpg", ".png"] * 2
    folder = ImageFolder(tmp_path / "Blüten", loader=read_image)
    assert tuple(folder.classes) == flowers.CLASS_NAMES
    assert [path for path, _ in folder.samples] == [str(file) for file in files]
    png, label = folder[1]
    expected, _ = flowers.draw_flowers(1, (24, 32), seed=4 + 1_000_003)
    assert label == 0
    assert torch.equal(png, expected[0])
    jpeg = folder[0][0].to(torch.int64)
    drawn = flowers.draw_flower("rose", (24, 32), seed=4).image.to(torch.int64)
    assert (jpeg - drawn).abs().float().mean() < 8


def test_files_are_what_their_names_say(tmp_path):
    """A .jpg holds JPEG and a .png holds PNG, in the right order of channels."""
    jpeg, png, *_ = flowers.write_image_folder(tmp_path, 2, 16)
    assert jpeg.read_bytes()[:2] == b"\xff\xd8"
    assert png.read_bytes()[1:4] == b"PNG"
    bgr = cv2.imread(str(png))
    drawn = flowers.draw_flower("rose", 16, seed=1_000_003).image
    assert (bgr[..., ::-1] == drawn.permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: flowers.draw_flower("daisy"), ValueError, "kind must be one of 'rose', 'tulip'"),
        (lambda: flowers.draw_flower(3), TypeError, "kind must be a str"),
        (lambda: flowers.draw_flower("rose", 0), ValueError, "size must be >= 1, got 0."),
        (lambda: flowers.draw_flower("rose", (4, -1)), ValueError, "size must be >= 1, got -1."),
        (lambda: flowers.draw_flower("rose", 4.0), TypeError, "size must be"),
        (lambda: flowers.draw_flower("rose", (4, 4.0)), TypeError, "size must be"),
        (lambda: flowers.draw_flower("rose", (4, 4, 4)), TypeError, "size must be"),
        (lambda: flowers.draw_flower("rose", True), TypeError, "size must be"),
        (lambda: flowers.draw_flower("rose", seed=-1), ValueError, "seed must be >= 0"),
        (lambda: flowers.draw_flower("rose", seed=None), TypeError, "seed must be"),
        (lambda: flowers.draw_flowers(0), ValueError, "count must be >= 1"),
        (lambda: flowers.draw_flowers(2, seed="x"), TypeError, "seed must be"),
        (lambda: flowers.write_image_folder(3), TypeError, "root must be"),
        (lambda: flowers.write_image_folder(".", 0), ValueError, "count_per_class must be"),
    ],
)
def test_bad_arguments_are_named(call, error, text):
    """A bad argument gives TypeError or ValueError with its own name."""
    with pytest.raises(error, match=text):
        call()


def test_numpy_integers_are_integers():
    """Counts, sizes and seeds may come out of an array."""
    one = np.int8(8)  # which a seed soon overflows
    images, _ = flowers.draw_flowers(one, (one, one), one)
    assert images.shape == (8, 3, 8, 8)
    assert torch.equal(images, flowers.draw_flowers(8, 8, 8)[0])
    assert flowers.draw_flower("rose", one).mask.shape == (8, 8)


def test_a_failed_write_leaves_no_half_of_a_flower(tmp_path, monkeypatch):
    """Flowers are written beside and renamed, so that ImageFolder never finds half of one."""
    (old,) = flowers.write_image_folder(tmp_path, 1, 8)[:1]
    before = old.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "")))
    with pytest.raises(OSError, match="rose"):
        flowers.write_image_folder(tmp_path, 1, 16)
    assert old.read_bytes() == before
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2
