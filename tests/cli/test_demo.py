"""The demo finds every wrong label and pixel, and its pictures show their mixes."""

import sys

import numpy as np
import pytest
import torch

from tv_mixaug import CutMix, Cutout, Mixup
from tv_mixaug.cli import demo
from tv_mixaug.engine.plan import PASTE
from tv_mixaug.extras import flowers
from tv_mixaug.loading.collate import CollateFn

RAW, KINDS = flowers.draw_flowers(6, 40, seed=3)
TRANSFORMS = {
    "nothing": Cutout(num_classes=2, p=0.0),
    "cutout": Cutout(num_classes=2),
    "mixup": Mixup(num_classes=2, mode="sample"),
    "cutmix": CutMix(num_classes=2, mode="sample"),
}


def mix(name, seed=0):
    torch.manual_seed(seed)
    (images, labels), plan = TRANSFORMS[name].mix((RAW, KINDS))
    return images, labels, plan


def check(images, labels, plan):
    return demo._check_batch(images, labels, plan, RAW, KINDS)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_true_labels_are_accepted(name):
    """The check agrees with the labels of each transform for many plans."""
    assert all(check(*mix(name, seed)) for seed in range(20))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_false_labels_are_found(name):
    """Labels that are off by a hundredth, or exchanged, are found."""
    images, labels, plan = mix(name)
    assert not check(images, labels + torch.tensor([0.01, -0.01]), plan)
    assert not check(images, labels.roll(1, 1), plan)
    assert not check(images, torch.full_like(labels, torch.nan), plan)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_false_pixel_is_found(name, capsys):
    """One wrong pixel in one picture is found and reported for that picture alone."""
    images, labels, plan = mix(name)
    images = images.clone()
    images[2, 1, 0, 7] ^= 1
    assert not check(images, labels, plan)
    lines = capsys.readouterr().out.splitlines()
    assert ["not those of the plan" in line for line in lines[:6]] == [i == 2 for i in range(6)]
    assert "labels equal pixels: NO" in lines[6]


def test_a_plan_is_printed_with_partner_and_share(capsys):
    """A box of an eighth of the picture is printed with its share and the number of its source."""
    images, labels, plan = mix("nothing")
    plan = plan._replace(op=plan.op.clone(), partner=plan.partner.clone(), boxes=plan.boxes.clone())
    plan.op[0], plan.partner[0] = PASTE, 3
    plan.boxes[0, 0] = torch.tensor([10, 4, 30, 14])
    images[0, :, 4:14, 10:30] = RAW[3, :, 4:14, 10:30]
    labels[0] = torch.tensor([0.875, 0.125])
    assert check(images, labels, plan)
    line = capsys.readouterr().out.splitlines()[0]
    text = "1 rose label: rose 0.875 tulip 0.125 pixels: 12.5% pasted from 4"
    assert " ".join(line.split()) == text


def test_the_kit_finds_a_false_transform(capsys):
    """The test kit accepts each transform of the demo and refuses one with wrong labels."""
    assert all(map(demo._check_transform, demo._make_transforms()))
    assert capsys.readouterr().out.count("the test kit agrees for 960 other images") == 3
    assert not demo._check_transform(lambda *batch: (batch[0], TRANSFORMS["cutmix"](*batch)[1]))
    assert "the test kit finds a difference" in capsys.readouterr().out


def test_demo_pairs_roses_with_tulips():
    """Every picture of the demo gets a partner of the other class, and each is used once."""
    labels = torch.tensor([0, 1, 1, 0, 0, 1])
    partner = demo._pair_classes(labels)
    assert (labels[partner] != labels).all()
    assert sorted(partner.tolist()) == list(range(6))


@pytest.mark.parametrize("number", [1, 2])
def test_every_picture_of_the_demo_shows_its_mix(number):
    """For many seeds, Mixup and CutMix mix in some of the other class."""
    transform = demo._make_transforms()[number]
    for seed in range(200):
        torch.manual_seed(seed)
        _, labels = transform(RAW, KINDS)
        assert labels.min() > 0.005


def test_training_on_mixed_labels_lowers_the_loss(capsys):
    """In forty steps the loss falls, and the returned numbers are printed."""
    first, last, right = demo._train(40, size=24)
    assert last < first - 0.1
    assert right > 0.8
    assert f"loss {first:.3f} -> {last:.3f}" in capsys.readouterr().out


def test_training_mixes_differently_in_each_epoch():
    """Batches are repeated for any number of steps, with the epoch set before each loop."""
    epochs = []

    class Loader(list):
        def collate_fn(self):
            raise AssertionError

    Loader.collate_fn.set_epoch = epochs.append
    assert list(demo._repeat(Loader("abc"), 7)) == list("abcabca")
    assert epochs == [0, 1, 2]


def test_demo_is_seeded(tmp_path, capsys, monkeypatch):
    """Two runs print the same labels and draw the same sheet."""
    monkeypatch.setattr(demo, "_train", lambda steps: None)
    texts, sheets = [], []
    for name in "ab":
        sheet, equal = demo.run_demo(tmp_path / name, size=32, steps=1)
        assert equal
        texts.append(capsys.readouterr().out.splitlines()[1:])  # without the path
        sheets.append(sheet)
    assert texts[0] == texts[1]
    assert np.array_equal(*sheets)
    kept = sorted(path.suffix for path in (tmp_path / "a").rglob("*.*"))
    assert kept == [".jpg"] * 4 + [".png"] * 4


class FalseCollateFn(CollateFn):
    """A collate function that exchanges the labels of pasted batches."""

    def __call__(self, samples):
        """Collate and mix."""
        images, labels, plan = super().__call__(samples)
        return images, labels.roll(1, 1) if PASTE in plan.op else labels, plan


def test_demo_reports_false_labels(tmp_path, monkeypatch, capsys):
    """If the labels of CutMix are wrong, the demo prints NO once and returns False."""
    monkeypatch.setattr(demo, "_train", lambda steps: None)
    monkeypatch.setattr(demo, "make_collate_fn", FalseCollateFn)
    assert not demo.run_demo(tmp_path, size=32)[1]
    assert capsys.readouterr().out.count("labels equal pixels: NO") == 1


def test_progress_yields_everything_and_ends_with_a_full_bar(capsys, monkeypatch):
    """The items pass unchanged; a terminal shows the bar growing, a file only the last line."""
    full = f"reading [{'#' * 30}] 3/3\n"
    assert list(demo.show_progress("abc", 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err == full
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(demo.show_progress("abc", 3, "reading")) == ["a", "b", "c"]
    first, second, last = capsys.readouterr().err.split("\r")
    assert (first.split()[-1], second.split()[-1], last) == ("1/3", "2/3", full)
