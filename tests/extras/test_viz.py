"""Contact sheets show pictures, weights and plans in their places, for any batch."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageColor, ImageDraw
from torchvision import tv_tensors

from tv_mixaug import CutMix, PairedLabels, make_collate_fn, viz
from tv_mixaug.engine.plan import identity_plan
from tv_mixaug.extras.viz import draw_batch

MARGIN, GAP = 16, 12
IMAGES = torch.rand(2, 3, 8, 8)
COLOURS = [ImageColor.getrgb(colour) for colour in viz._COLOURS]


@pytest.fixture
def written(monkeypatch):
    """Collect the texts that are written on sheets."""
    texts = []
    write = ImageDraw.ImageDraw.text

    def record(self, xy, text, *args):
        if text:
            texts.append(text)
        return write(self, xy, text, *args)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return texts


def first_picture(sheet, height, width):
    return sheet[MARGIN : MARGIN + height, MARGIN : MARGIN + width]


def drawn(images):
    return first_picture(draw_batch(images, cell=96), 96, 96)


def test_uint8_pictures_are_shown_pixel_by_pixel():
    """A uint8 picture of the size of a cell appears unchanged."""
    images = torch.randint(0, 256, (2, 3, 100, 100), dtype=torch.uint8)
    sheet = draw_batch(images, cell=100)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * MARGIN + 100, 2 * MARGIN + 200 + GAP, 3)
    assert (first_picture(sheet, 100, 100) == images[0].permute(1, 2, 0).numpy()).all()
    second = first_picture(sheet[:, 100 + GAP :], 100, 100)
    assert (second == images[1].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_in_the_unit_range_are_not_stretched(dtype):
    """Floats in [0, 1] are scaled by 255 and not stretched, even in a dark batch."""
    images = torch.full((1, 3, 96, 96), 0.25, dtype=dtype, requires_grad=True)
    assert (drawn(images) == 64).all()


def test_other_floats_are_stretched_and_finite_pixels_keep_their_grey():
    """The batch's extremes are black and white; so are infinities, and NaN is black."""
    images = torch.tensor([-2.0, 2.0]).reshape(2, 1, 1, 1).expand(-1, -1, 96, 96)
    sheet = draw_batch(images, cell=96)
    assert (first_picture(sheet, 96, 96) == 0).all()
    assert (sheet[MARGIN + 1, -MARGIN - 90] == 255).all()
    images = torch.full((1, 1, 96, 96), 0.5)
    images[..., 0, 0], images[..., 0, 1], images[..., 0, 2] = torch.nan, torch.inf, -torch.inf
    picture = drawn(images)
    assert picture[0, :4, 0].tolist() == [0, 255, 0, 128]
    assert (drawn(images * torch.nan) == 0).all()
    assert (drawn(torch.full((1, 3, 96, 96), 7.0)) == 0).all()


def test_grey_bool_and_video():
    """One channel is grey, bool is black and white, and a video shows its middle frame."""
    grey = torch.randint(0, 256, (1, 1, 96, 96), dtype=torch.uint8)
    assert (drawn(grey) == grey[0, 0].numpy()[..., None]).all()
    assert (drawn(grey > 127)[..., 0] == 255 * (grey[0, 0].numpy() > 127)).all()
    frames = torch.arange(5, dtype=torch.uint8).view(1, 5, 1, 1, 1).expand(2, 5, 3, 96, 96)
    assert (drawn(tv_tensors.Video(frames)) == 2).all()


def test_small_pictures_grow_by_whole_factors_and_large_ones_shrink():
    """A 28-pixel picture is enlarged sixfold without smoothing; 400 x 200 shrinks to the cell."""
    small = torch.randint(0, 256, (1, 3, 28, 28), dtype=torch.uint8)
    picture = first_picture(draw_batch(small), 168, 168)
    assert (picture == small[0].permute(1, 2, 0).numpy().repeat(6, 0).repeat(6, 1)).all()
    large = torch.full((1, 3, 400, 200), 9, dtype=torch.uint8)
    sheet = draw_batch(large, cell=200)
    assert sheet.shape[:2] == (2 * MARGIN + 200, 2 * MARGIN + 100)
    assert (first_picture(sheet, 200, 100) == 9).all()


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        # The largest first, at most three, and none that would read 0.00.
        ([[0.4, 0.3, 0.2, 0.1], [0.004, 0.996, 0.0, 0.0]], "a 0.40 b 0.30 c 0.20 b 1.00"),
        ([[0.25, 0.75], [0.0, 0.0]], "b 0.75 a 0.25 no label"),
        ([1, -100], "b 1.00 no label"),
        ([[3], [1]], "d 1.00 b 1.00"),
    ],
)
def test_weights_are_written(written, labels, texts):
    """The text has names and weights; a negative index and an empty row are no label.

    (B, 1) integers name one class each, as (B,) do.
    """
    draw_batch(IMAGES, torch.tensor(labels), ["a", "b", "c", "d"])
    assert " ".join(written) == texts


def test_paired_labels_are_merged(written):
    """Pairs of indices or rows are drawn with lam and 1 - lam; equal classes add up."""
    parts, lam = torch.tensor([[0, 2], [1, 2]]), torch.tensor([0.25, 0.5])
    for pair in (parts, torch.eye(3)[parts]):
        draw_batch(IMAGES, PairedLabels(*pair, lam))
    assert written == 2 * ["1", "0.75", "0", "0.25", "2", "1.00"]


def test_a_class_has_the_same_colour_on_every_sheet():
    """The bar has the colour of its class, and a thousand classes have different colours."""
    for index in (3, 13, 999):
        sheet = draw_batch(torch.rand(2, 3, 96, 96), torch.tensor([index, 4]), cell=96)
        assert (sheet[MARGIN + 96 + 4, MARGIN : MARGIN + 96] == COLOURS[index]).all()
    assert len(set(viz._COLOURS)) == 1000
    assert len(set(COLOURS[:200])) == 200


@pytest.mark.parametrize(
    ("labels", "shares"),
    [([[0.25, 0.75]], [0.25, 0.75]), ([[1, 1, 0]], [0.5, 0.5]), ([[0.2, 0.3]], [0.2, 0.3])],
)
def test_the_bar_shows_proportions(labels, shares):
    """The bar has the shares of the weights; rows that sum to more than one fill it."""
    sheet = draw_batch(torch.rand(1, 3, 96, 96), torch.tensor(labels))
    row = sheet[MARGIN + 192 + 4 + 3, MARGIN : MARGIN + 192]
    found = [(row == colour).all(-1).mean() for colour in COLOURS[:2]]
    assert found == pytest.approx(shares, abs=0.01)


def test_long_names_and_titles_are_shortened(written):
    """A text never leaves its room: it is cut and ends in two dots."""
    sheet = draw_batch(IMAGES[:1], torch.tensor([0]), ["long " * 30], title="wide " * 80)
    for text, start in zip(written, ("wide wide", "long long"), strict=False):
        assert text.startswith(start)
        assert text.endswith("..")
    assert (sheet[:, -MARGIN:] == sheet[0, 0]).all()


def test_any_text_is_written(written, monkeypatch):
    """Text beyond ASCII takes a system font; undecodable and control characters become '?'."""
    names = ["rosé 玫瑰", "undecodable \udcff", "two\nlines"]
    draw_batch(torch.rand(3, 3, 8, 8), torch.arange(3), names, title="Überblick")
    texts = [text for text in written if text != "1.00"]
    assert texts == ["Überblick", "rosé 玫瑰", "undecodable ?", "two?lines"]
    monkeypatch.setattr(viz.ImageFont, "truetype", Mock(side_effect=[OSError, "installed"]))
    assert viz._font.__wrapped__(12, plain=False) == "installed"


def test_columns_and_title_set_the_layout():
    """Columns wrap the pictures, a title adds its height, and eight columns are the default."""
    images = torch.rand(9, 3, 96, 96)
    plain = draw_batch(images, cell=96)
    assert plain.shape == (2 * MARGIN + 2 * 96 + GAP, 2 * MARGIN + 8 * 96 + 7 * GAP, 3)
    assert draw_batch(images, cell=96, title="t").shape[0] > plain.shape[0]
    assert draw_batch(images, cell=96, columns=3).shape[1] == 2 * MARGIN + 3 * 96 + 2 * GAP


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 1, 8, 8)])
def test_masks_are_tinted(shape):
    """Pixels of class 0 stay, others are half the colour of their class, on enlarged pixels too."""
    masks = torch.zeros(shape, dtype=torch.int64)
    masks[0, ..., :4, :], masks[0, ..., 4:, :4] = 2, 255
    sheet = draw_batch(torch.zeros(2, 3, 8, 8), masks=masks, cell=96)
    picture = first_picture(sheet, 96, 96).astype(int)
    assert abs(picture[:48] - np.array(COLOURS[2]) / 2).max() <= 1
    assert abs(picture[48:, :48] - np.array(COLOURS[255]) / 2).max() <= 1
    assert (picture[48:, 48:] == 0).all()
    assert (sheet[MARGIN : MARGIN + 96, -MARGIN - 96 : -MARGIN] == 0).all()


@pytest.mark.parametrize("form", [None, "XYXY", "XYWH", "CXCYWH"])
def test_boxes_are_outlined(form):
    """Boxes of any format are scaled and outlined in the colours of their classes."""
    boxes = torch.tensor([[2.0, 1.0, 6.0, 4.0], [0.0, 5.0, 3.0, 7.0]])
    if form is not None:
        boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(8, 8))
        boxes = viz.F.convert_bounding_box_format(boxes, new_format=form)
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 4])}, {"boxes": torch.zeros(0, 4)}]
    sheet = draw_batch(torch.zeros(2, 3, 8, 8), boxes=targets, cell=96)
    picture = first_picture(sheet, 96, 96)
    for colour, left, top, right, bottom in ((1, 24, 12, 72, 48), (4, 0, 60, 36, 84)):
        y, x = np.nonzero((picture == COLOURS[colour]).all(-1))
        assert [x.min(), y.min(), x.max(), y.max()] == [left, top, right, bottom]
        assert (picture[top + 3 : bottom - 3, left + 3 : right - 3] == 0).all()
    assert (sheet[MARGIN : MARGIN + 96, -MARGIN - 96 : -MARGIN] == 0).all()
    unlabelled = draw_batch(torch.zeros(2, 3, 8, 8), boxes=[{"boxes": boxes}] * 2, cell=96)
    assert (first_picture(unlabelled, 96, 96)[12, 24] == COLOURS[0]).all()


def test_a_plan_is_written_below(written):
    """The operation and partner of each sample are written below it, labelled or not."""
    op, order = torch.tensor([0, 1, 2, 3], dtype=torch.uint8), torch.arange(4)
    plan = identity_plan(4)._replace(op=op, partner=order.flip(0))
    texts = ["0: unchanged", "1: filled", "2: blended with 1", "3: pasted from 0"]
    without = draw_batch(torch.rand(4, 3, 8, 8), plan=plan)
    assert written == texts
    sheet = draw_batch(torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64), plan=plan)
    assert [text for text in written[4:] if ":" in text] == texts
    assert sheet.shape[0] > without.shape[0]


def test_a_recorded_batch_is_shown(written):
    """Images, labels and plan of a collate function go into show as they come."""
    collate_fn = make_collate_fn(CutMix(num_classes=3, mode="sample", p=0.5), seed=1, record=True)
    images, labels, plan = collate_fn([(torch.rand(3, 16, 16), i % 3) for i in range(6)])
    viz.show(images, labels, ["a", "b", "c"], plan=plan)
    texts = [f"pasted from {k}" if k != i else "unchanged" for i, k in enumerate(plan.partner)]
    assert [text[3:] for text in written if ":" in text] == texts
    assert set(plan.op.tolist()) == {0, 3}


SHAPES = st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), *[st.integers(1, 40)] * 2)


@given(shape=SHAPES, columns=st.integers(1, 6), cell=st.integers(1, 50), labelled=st.booleans())
def test_every_size_gives_a_sheet(shape, columns, cell, labelled):
    """Any batch, size, column count and cell gives an RGB sheet and leaves the batch alone."""
    images = torch.rand(shape)
    before = images.clone()
    labels = torch.rand(len(images), 4) if labelled else None
    assert draw_batch(images, labels, columns=columns, cell=cell).shape[2:] == (3,)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("args", "options", "error", "text"),
    [
        ((None,), {}, TypeError, "images must be a tensor, got NoneType."),
        ((IMAGES[0],), {}, ValueError, "images must be .B, .T,. 1 or 3, H, W., got .3, 8, 8."),
        ((IMAGES[:0],), {}, ValueError, "images must be"),
        ((IMAGES, [0, 1]), {}, TypeError, "labels must be a tensor"),
        ((IMAGES, torch.tensor([0])), {}, ValueError, "labels must be of one entry"),
        ((IMAGES, torch.rand(2)), {}, ValueError, "labels must be .B,. class indices"),
        ((IMAGES, torch.full((2, 2), torch.nan)), {}, ValueError, "labels must be finite"),
        ((IMAGES, torch.tensor([0, 2]), ["a", "b"]), {}, ValueError, "3 names or more, got 2."),
        ((IMAGES,), {"boxes": [{}]}, ValueError, "boxes must be of the 2 images, got 1"),
        ((IMAGES,), {"plan": identity_plan(3)}, ValueError, "plan must be of the 2 images, got 3"),
        ((IMAGES,), {"columns": 0}, ValueError, "columns must be >= 1, got 0."),
        ((IMAGES,), {"cell": 0}, ValueError, "cell must be >= 1, got 0."),
    ],
)
def test_bad_arguments_are_named(args, options, error, text):
    """A bad argument raises a TypeError or ValueError with its name."""
    with pytest.raises(error, match=text):
        draw_batch(*args, **options)


def test_show_returns_the_sheet():
    """Notebooks display the returned image."""
    options = {"labels": torch.tensor([0, 1]), "class_names": ["a", "b"], "title": "t"}
    shown = viz.show(IMAGES, **options)
    assert shown._repr_png_()[1:4] == b"PNG"
    assert (np.asarray(shown) == draw_batch(IMAGES, **options)).all()
