"""Contact sheets: the pictures, weights and colours are where they belong, for any batch."""

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torchvision import tv_tensors

from tv_mixaug import CutMix, make_collate_fn, viz
from tv_mixaug.engine.plan import Plan, identity_plan
from tv_mixaug.extras.viz import draw_batch
from tv_mixaug import PairedLabels

MARGIN, GAP = 16, 12


@pytest.fixture
def written(monkeypatch):
    """Collect the texts that are written on sheets."""
    texts = []
    put_text = cv2.putText

    def record(area, text, *args):
        texts.append(text)
        return put_text(area, text, *args)

    monkeypatch.setattr(cv2, "putText", record)
    return texts


def first_picture(sheet, height, width):
    return sheet[MARGIN : MARGIN + height, MARGIN : MARGIN + width]


def bar_shares(sheet, picture_height, width):
    """Return the share of each class colour in the bar under the first picture."""
    row = sheet[MARGIN + picture_height + 4 + 3, MARGIN : MARGIN + width]
    return [(row == colour).all(-1).mean() for colour in viz._CLASS_COLOURS]


def test_uint8_pictures_are_shown_pixel_by_pixel():
    """A uint8 picture of the size of a cell appears unchanged."""
    images = torch.randint(0, 256, (2, 3, 100, 100), dtype=torch.uint8)
    sheet = draw_batch(images, cell=100)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * MARGIN + 100, 2 * MARGIN + 200 + GAP, 3)
    assert (first_picture(sheet, 100, 100) == images[0].permute(1, 2, 0).numpy()).all()
    second = sheet[MARGIN : MARGIN + 100, MARGIN + 100 + GAP : MARGIN + 200 + GAP]
    assert (second == images[1].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_in_the_unit_range_are_shown_as_such(dtype):
    """Floats in [0, 1] are scaled by 255, not stretched, even in a dark batch."""
    images = torch.full((1, 3, 96, 96), 0.25, dtype=dtype)
    assert (first_picture(draw_batch(images, cell=96), 96, 96) == 64).all()


def test_normalised_floats_are_undone_by_mean_and_std():
    """With mean and std the original picture comes back to a grey level."""
    images = torch.rand(2, 3, 96, 96)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), [0.2, 0.3, 0.1]
    normal = (images - mean.view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    sheet = draw_batch(normal, cell=96, mean=mean.tolist(), std=std).astype(int)
    assert abs(sheet - draw_batch(images, cell=96).astype(int)).max() <= 1


def test_normalised_floats_without_mean_are_stretched_over_the_batch():
    """Other floats go from the batch's smallest value (black) to its largest (white)."""
    images = torch.zeros(2, 1, 96, 96)
    images[0], images[1] = -2.0, 2.0
    sheet = draw_batch(images, cell=96)
    assert (first_picture(sheet, 96, 96) == 0).all()
    assert (sheet[MARGIN + 1, -MARGIN - 90] == 255).all()


def test_nan_and_infinity_do_no_harm():
    """NaN is black, infinities are black and white, and finite pixels keep their grey."""
    images = torch.full((1, 1, 96, 96), 0.5)
    images[..., 0, 0], images[..., 0, 1], images[..., 0, 2] = torch.nan, torch.inf, -torch.inf
    picture = first_picture(draw_batch(images, cell=96), 96, 96)
    assert picture[0, :4, 0].tolist() == [0, 255, 0, 128]
    assert (first_picture(draw_batch(images * torch.nan, cell=96), 96, 96) == 0).all()
    assert draw_batch(torch.full((1, 3, 4, 4), 7.0)).shape  # a constant has no range to stretch


def test_grey_bool_video_and_tv_tensors():
    """One channel becomes grey, bool black and white, and a video shows its middle frame."""
    grey = torch.randint(0, 256, (1, 1, 96, 96), dtype=torch.uint8)
    picture = first_picture(draw_batch(grey, cell=96), 96, 96)
    assert (picture == grey[0, 0].numpy()[..., None]).all()
    assert (
        first_picture(draw_batch(grey > 127, cell=96), 96, 96)[..., 0]
        == 255 * (grey[0, 0].numpy() > 127)
    ).all()
    video = tv_tensors.Video(
        torch.arange(5, dtype=torch.uint8).view(1, 5, 1, 1, 1).expand(2, 5, 3, 96, 96)
    )
    assert (first_picture(draw_batch(video, cell=96), 96, 96) == 2).all()


def test_small_pictures_grow_by_whole_factors_and_large_ones_shrink():
    """A 28-pixel picture grows sixfold with hard pixels; 400 x 200 shrinks to fit the cell."""
    small = torch.randint(0, 256, (1, 3, 28, 28), dtype=torch.uint8)
    picture = first_picture(draw_batch(small), 168, 168)
    assert (picture == small[0].permute(1, 2, 0).numpy().repeat(6, 0).repeat(6, 1)).all()
    large = torch.full((1, 3, 400, 200), 9, dtype=torch.uint8)
    sheet = draw_batch(large, cell=200)
    assert sheet.shape[:2] == (2 * MARGIN + 200, 2 * MARGIN + 100)
    assert (first_picture(sheet, 200, 100) == 9).all()


def test_weights_are_written_and_drawn(written):
    """The text has name and weight, largest first, and the bar has their shares."""
    sheet = draw_batch(torch.rand(1, 3, 96, 96), torch.tensor([[0.25, 0.75]]), ["rose", "tulip"])
    assert written == ["0.75", "tulip", "0.25", "rose"]
    shares = bar_shares(sheet, 192, 192)
    assert shares[:2] == pytest.approx([0.25, 0.75], abs=0.01)


def test_only_three_weights_above_the_least_are_written(written):
    """Weights that would read 0.00 are left out, and never more than three are written."""
    labels = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.996, 0.004, 0.0, 0.0]])
    draw_batch(torch.rand(2, 3, 8, 8), labels)
    assert written == ["0.40", "0", "0.30", "1", "0.20", "2", "1.00", "0"]


def test_indices_and_unlabelled_samples(written):
    """Class indices have weight 1; a negative index and an empty row are called unlabelled."""
    draw_batch(torch.rand(2, 3, 8, 8), torch.tensor([1, -100], dtype=torch.int32), ["a", "b"])
    draw_batch(torch.rand(1, 3, 8, 8), torch.zeros(1, 2))
    assert written == ["1.00", "b", "no label", "no label"]


@pytest.mark.parametrize("rows", [False, True])
def test_paired_labels_are_merged(written, rows):
    """Pairs of indices or rows are drawn with lam and 1 - lam; equal classes add up."""
    own, partner = torch.tensor([0, 2]), torch.tensor([1, 2])
    if rows:
        own, partner = torch.eye(3)[own], torch.eye(3)[partner]
    draw_batch(torch.rand(2, 3, 8, 8), PairedLabels(own, partner, torch.tensor([0.25, 0.5])))
    assert written == ["0.75", "1", "0.25", "0", "1.00", "2"]


def test_classes_of_a_sheet_have_colours_of_their_own():
    """Classes 3, 13 and 23 differ, as do fifty at once; a class below ten always looks the same."""

    def colours_of(*classes):
        sheet = draw_batch(torch.rand(len(classes), 3, 96, 96), torch.tensor(classes), cell=96)
        bar = sheet[MARGIN + 96 + 4]
        return [tuple(bar[x].tolist()) for x in range(MARGIN, bar.shape[0] - MARGIN, 96 + GAP)]

    assert len(set(colours_of(3, 13, 23, 33, 4, 14))) == 6
    assert colours_of(3) == colours_of(4, 3, 13)[1:2] == [viz._CLASS_COLOURS[3]]
    rows = torch.full((1, 200), 0.005)
    soft = viz._choose_colours(viz._list_weights(rows, 1))
    assert len(set(soft.values())) == 200


def test_written_classes_have_the_clearest_colours():
    """The ten colours go to the classes that are written, not to those of a smoothed rest."""
    rows = torch.full((1, 100), 0.001)
    rows[0, [50, 77]] = 0.4
    colours = viz._choose_colours(viz._list_weights(rows, 1))
    assert [colours[50], colours[77]] == [viz._CLASS_COLOURS[0], viz._CLASS_COLOURS[7]]


def test_multi_hot_bar_shows_proportions(written):
    """Rows that sum to more than one fill the bar by proportion and keep their numbers."""
    sheet = draw_batch(torch.rand(1, 3, 96, 96), torch.tensor([[True, True, False]]))
    assert written == ["1.00", "0", "1.00", "1"]
    assert bar_shares(sheet, 192, 192)[:2] == pytest.approx([0.5, 0.5], abs=0.01)


def test_long_names_and_titles_are_shortened(written):
    """A text never leaves its room: it is cut and ends in two dots."""
    draw_batch(torch.rand(1, 3, 8, 8), torch.tensor([0]), ["long " * 30], title="wide " * 80)
    assert written[0].startswith("wide wide")
    assert written[0].endswith("..")
    assert written[2].startswith("long long")
    assert written[2].endswith("..")


def test_columns_and_title_set_the_layout():
    """Columns wrap the pictures, a title adds its height, and eight is the default."""
    images = torch.rand(9, 3, 96, 96)
    plain = draw_batch(images, cell=96)
    assert plain.shape == (2 * MARGIN + 2 * 96 + GAP, 2 * MARGIN + 8 * 96 + 7 * GAP, 3)
    assert draw_batch(images, cell=96, title="t").shape[0] > plain.shape[0]
    assert draw_batch(images, cell=96, columns=3).shape[1] == 2 * MARGIN + 3 * 96 + 2 * GAP


def test_a_plan_is_written_below(written):
    """What a plan did to each picture, and with which other, stands below it, labelled or not."""
    op, own = torch.tensor([0, 1, 2, 3], dtype=torch.uint8), torch.arange(4)
    plan = identity_plan(4)._replace(op=op, partner=own.flip(0))
    deeds = ["0: unchanged", "1: filled", "2: blended with 1", "3: pasted from 0"]
    without = draw_batch(torch.rand(4, 3, 8, 8), plan=plan)
    assert written == deeds
    sheet = draw_batch(torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64), plan=plan)
    assert [text for text in written[4:] if ":" in text] == deeds
    assert sheet.shape[0] > without.shape[0]


def test_a_recorded_batch_is_shown_as_it_comes(written, tmp_path):
    """Images, labels and plan of a collate function go into show, and each deed is said."""
    collate_fn = make_collate_fn(CutMix(num_classes=3, mode="sample", p=0.5), seed=1, record=True)
    images, labels, plan = collate_fn([(torch.rand(3, 16, 16), i % 3) for i in range(6)])
    viz.show(images, labels, ["a", "b", "c"], plan=plan, path=tmp_path / "a.png")
    said = [text for text in written if ":" in text]
    pairs = enumerate(zip(plan.op.tolist(), plan.partner.tolist(), strict=True))
    assert said == [f"{i}: pasted from {k}" if op else f"{i}: unchanged" for i, (op, k) in pairs]
    assert len(set(plan.op.tolist())) == 2


@given(
    batch=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    columns=st.integers(1, 6),
    cell=st.integers(1, 50),
    labelled=st.booleans(),
)
def test_every_size_gives_a_sheet(batch, channels, height, width, columns, cell, labelled):
    """Any batch, size, column count and cell gives an RGB sheet and leaves the batch alone."""
    images = torch.rand(batch, channels, height, width)
    before = images.clone()
    labels = torch.rand(batch, 4) if labelled else None
    sheet = draw_batch(images, labels, columns=columns, cell=cell)
    assert sheet.ndim == 3
    assert sheet.shape[2] == 3
    assert torch.equal(images, before)


def test_tensorboard_takes_the_sheet(tmp_path):
    """The sheet can be handed to TensorBoard's image summary with dataformats HWC."""
    summary = pytest.importorskip("torch.utils.tensorboard.summary")
    sheet = draw_batch(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    assert summary.image("batch", sheet, dataformats="HWC").value[0].image.width == sheet.shape[1]


def test_images_that_need_gradients_are_drawn():
    """A batch that is part of a graph is drawn without touching the graph."""
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert draw_batch(images * 1).any()


IMAGES = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("args", "options", "error", "text"),
    [
        ((None,), {}, TypeError, "images must be a tensor, got NoneType."),
        ((np.zeros((1, 3, 2, 2)),), {}, TypeError, "images must be a tensor, got ndarray."),
        ((IMAGES[0],), {}, ValueError, "images must be .B, C, H, W."),
        ((torch.rand(1, 2, 4, 4),), {}, ValueError, "with 1 or 3 channels"),
        ((IMAGES[:0],), {}, ValueError, "images must not be empty"),
        ((torch.zeros(1, 3, 2, 2, dtype=torch.int64),), {}, TypeError, "images must be uint8"),
        ((IMAGES, [0, 1]), {}, TypeError, "labels must be a tensor"),
        ((IMAGES, torch.tensor([0])), {}, ValueError, "labels must have one entry"),
        ((IMAGES, torch.tensor(0)), {}, ValueError, "labels must have one entry"),
        ((IMAGES, torch.rand(2)), {}, ValueError, "labels must be .B,. class indices"),
        ((IMAGES, torch.rand(2, 2, 2)), {}, ValueError, "labels must be .B,. class indices"),
        ((IMAGES, torch.full((2, 2), torch.nan)), {}, ValueError, "labels must be finite"),
        ((IMAGES, torch.tensor([0, 2]), ["a", "b"]), {}, ValueError, "class_names must name"),
        ((IMAGES, torch.rand(2, 2), ["a", "b", "c"]), {}, ValueError, "class_names must have"),
        ((IMAGES, torch.tensor([0, 1]), "ab"), {}, TypeError, "class_names must be a sequence"),
        ((IMAGES, None, identity_plan(2)), {}, TypeError, "got Plan; give a plan as plan=."),
        ((IMAGES,), {"plan": (0, 0)}, TypeError, "plan must be a Plan, got tuple."),
        ((IMAGES,), {"plan": identity_plan(3)}, ValueError, "plan must be of the 2 images, got on"),
        ((IMAGES,), {"columns": 0}, ValueError, "columns must be >= 1, got 0."),
        ((IMAGES,), {"columns": 2.0}, TypeError, "columns must be an int"),
        ((IMAGES,), {"cell": 0}, ValueError, "cell must be >= 1, got 0."),
        ((IMAGES,), {"title": 3}, TypeError, "title must be a str"),
        ((IMAGES,), {"mean": 0.5}, ValueError, "mean and std must be given together"),
        ((IMAGES,), {"mean": 0.5, "std": 0}, ValueError, "std must be > 0"),
        ((IMAGES,), {"mean": [1, 2], "std": 1}, ValueError, "mean must be one number or 3"),
        ((IMAGES,), {"mean": "x", "std": 1}, TypeError, "mean must be a number"),
    ],
)
def test_bad_arguments_are_named(args, options, error, text):
    """A bad argument gives TypeError or ValueError with its own name."""
    with pytest.raises(error, match=text):
        draw_batch(*args, **options)


def test_show_writes_a_file_where_there_is_no_screen(tmp_path, monkeypatch, capsys):
    """Without a screen the sheet becomes a file, which is named and not opened."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(viz.webbrowser, "open", None)
    monkeypatch.setattr(viz.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    labels = torch.tensor([0, 1])
    file = viz.show(IMAGES, labels, ["a", "b"], title="t", columns=1)
    assert capsys.readouterr().out == f"Contact sheet: {file}\n"
    expected = draw_batch(IMAGES, labels, ["a", "b"], title="t", columns=1)
    assert (cv2.imread(str(file))[..., ::-1] == expected).all()


@pytest.mark.parametrize("screen", ["DISPLAY", "WAYLAND_DISPLAY", "darwin", "win32"])
def test_show_opens_the_file_where_there_is_a_screen(tmp_path, monkeypatch, screen):
    """With a screen the file is handed to the system's viewer; with a path it is only written."""
    opened = []
    monkeypatch.setattr(viz.webbrowser, "open", opened.append)
    monkeypatch.setattr(viz.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setattr(sys, "platform", screen.lower())
    monkeypatch.setenv(screen, ":0")
    assert viz.show(IMAGES, path=tmp_path / "a.png") == tmp_path / "a.png"
    assert opened == []
    file = viz.show(IMAGES)
    assert opened == [file.as_uri()]


def test_show_renders_inline_in_a_notebook(monkeypatch, tmp_path):
    """In a notebook the PNG goes to IPython's display and no file is made; a path makes one."""
    shown = []
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    display = SimpleNamespace(display=shown.append, Image=lambda data: data)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(viz.tempfile, "mkdtemp", None)
    assert viz.show(IMAGES, torch.tensor([0, 1])) is None
    (data,) = shown
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert (pixels == draw_batch(IMAGES, torch.tensor([0, 1]))).all()
    assert viz.show(IMAGES, path=tmp_path / "a.png").exists()
    assert len(shown) == 1
    shell.kernel = None  # IPython in a terminal
    assert viz.show(IMAGES, path=tmp_path / "b.png").exists()


def test_plans_and_pairs_are_printed_in_a_line():
    """What stands in a notebook's cell is what was done and the shapes, not every number."""
    plan = identity_plan(3)._replace(op=torch.tensor([3, 0, 3], dtype=torch.uint8))
    plan = plan._replace(lam=torch.tensor([0.25, 1.0, 0.5]))
    text = "partner=(3,) int64, lam=[0.25 to 1.00], boxes=(3, 1, 4) int64, noise=(3,) int64)"
    assert repr(plan) == f"Plan(op=[1 none, 2 paste], {text}"
    pair = PairedLabels(torch.arange(3), torch.zeros(3, 5), plan.lam)
    text = "labels=(3,) int64, partner_labels=(3, 5) float32, lam=[0.25 to 1.00]"
    assert repr(pair) == f"PairedLabels({text})"


@pytest.mark.parametrize("kind", [Plan, PairedLabels])
def test_anything_in_a_plan_can_be_printed(kind):
    """What frameworks put in a field, a tensor without values or none at all, is printed too."""
    for item in (None, "leaf", torch.empty(0), torch.empty(2, device="meta"), torch.tensor(7)):
        text = repr(kind(*[item] * len(kind._fields)))
        assert text.startswith(f"{kind.__name__}({kind._fields[0]}=")
    with FakeTensorMode():
        assert "lam=(2,) float32" in repr(kind(*[torch.empty(2)] * len(kind._fields)))
