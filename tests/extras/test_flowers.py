"""Drawn flowers repeat, have any size, and come with a mask and a box that fit the picture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder

from tv_mixaug.extras import flowers
from tv_mixaug.extras.io import read_image


@pytest.mark.parametrize("kind", flowers.CLASS_NAMES)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (28, 28), (33, 70), (300, 20)])
def test_image_mask_and_box_have_the_size_asked_for(kind, size):
    """Every size gives an RGB uint8 image, a mask that is not empty and a box on its canvas."""
    image, mask, box = flowers.draw_flower(kind, size, seed=3)
    assert (type(image), image.dtype, image.shape) == (tv_tensors.Image, torch.uint8, (3, *size))
    assert image.is_contiguous()
    assert (type(mask), mask.dtype, mask.shape) == (tv_tensors.Mask, torch.uint8, size)
    assert mask.max() == 1
    assert (type(box), box.dtype) == (tv_tensors.BoundingBoxes, torch.int64)
    assert box.canvas_size == size


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(flowers.CLASS_NAMES),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 2**63),
)
def test_box_is_the_tight_box_of_the_mask(kind, size, seed):
    """The half-open box touches the mask on all four sides and contains all of it."""
    flower = flowers.draw_flower(kind, size, seed)
    rows, columns = np.nonzero(flower.mask.numpy())
    assert flower.box.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]


def test_a_seed_repeats_its_picture_without_global_randomness():
    """A seed repeats its picture, another seed changes it, and no global generator moves."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again = (flowers.draw_flower("rose", size, seed=1) for size in (32, np.int8(32)))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.mask, again.mask)
    assert not torch.equal(first.image, flowers.draw_flower("rose", 32, seed=2).image)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", flowers.CLASS_NAMES)
def test_mask_covers_petals_and_not_leaves(kind, seed):
    """No pixel of the mask has the colour of a leaf, and most leaf pixels are outside it."""
    flower = flowers.draw_flower(kind, 96, seed)
    red, green, blue = flower.image.to(torch.int64)
    leaf = (green > red + 30) & (green > blue + 30)
    assert leaf[flower.mask == 0].sum() > 50
    assert leaf[flower.mask == 1].float().mean() < 0.005


def test_a_batch_alternates_classes_and_shares_no_picture_with_another_seed():
    """Roses and tulips alternate, and batches of two seeds have no picture in common."""
    five = np.int8(5)  # counts and sizes may be NumPy integers
    images, labels = flowers.draw_flowers(five, (12, np.int8(16)), seed=np.int8(0))
    others, _ = flowers.draw_flowers(5, (12, 16), seed=1)
    assert (type(images), images.shape) == (tv_tensors.Image, (5, 3, 12, 16))
    assert (labels.tolist(), labels.dtype) == ([0, 1, 0, 1, 0], torch.int64)
    assert len({picture.numpy().tobytes() for picture in torch.cat((images, others))}) == 10


def test_image_folder_reads_the_written_files(tmp_path):
    """ImageFolder finds both classes, and the files hold the drawn pixels."""
    files = flowers.write_image_folder(tmp_path / "Blüten", 2, (24, 32), seed=4)
    names = ["rose/000.png", "rose/001.png", "tulip/000.png", "tulip/001.png"]
    assert files == [tmp_path / "Blüten" / name for name in names]
    folder = ImageFolder(tmp_path / "Blüten", loader=read_image)
    assert tuple(folder.classes) == flowers.CLASS_NAMES
    assert [path for path, _ in folder.samples] == [str(file) for file in files]
    drawn, _ = flowers.draw_flowers(4, (24, 32), seed=4)
    assert [label for _, label in folder] == [0, 0, 1, 1]
    assert torch.equal(torch.stack([folder[i][0] for i in (0, 2, 1, 3)]), drawn)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: flowers.draw_flower("daisy"), ValueError, "kind must be one of 'rose', 'tulip'"),
        (lambda: flowers.draw_flower(3), TypeError, "kind must be a str"),
        (lambda: flowers.draw_flower("rose", 0), ValueError, "size must be >= 1, got 0."),
        (lambda: flowers.draw_flower("rose", seed=-1), ValueError, "seed must be >= 0"),
        (lambda: flowers.draw_flowers(0), ValueError, "count must be >= 1"),
        (lambda: flowers.draw_flowers(2, seed="x"), TypeError, "seed must be"),
    ],
)
def test_bad_arguments_are_named(call, error, text):
    """A bad argument raises a TypeError or ValueError with its name."""
    with pytest.raises(error, match=text):
        call()
