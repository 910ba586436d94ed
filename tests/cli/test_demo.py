"""The demo: its check sees through every false label and pixel, and it shows what it says."""

import sys

import numpy as np
import pytest
import torch

from tv_mixaug.cli import demo
from tv_mixaug.extras import flowers
from tv_mixaug.transforms import CutMix, Cutout, Mixup

PLAIN, CLASSES = flowers.draw_flowers(6, 40, seed=3)
NAMES = flowers.CLASS_NAMES
ARMS = {
    "cutout": Cutout(num_classes=2),
    "mixup": Mixup(num_classes=2, mode="sample"),
    "cutmix": CutMix(num_classes=2, mode="sample"),
}


def check(images, labels):
    return demo._check_labels(images, labels, PLAIN, CLASSES, NAMES)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("seed", range(20))
def test_check_accepts_true_labels(arm, seed):
    """The demo's check finds share and partner from the pixels and agrees with our labels."""
    torch.manual_seed(seed)
    transform = ARMS[arm]
    assert check(*transform(PLAIN, CLASSES))


@pytest.mark.parametrize("arm", ARMS)
def test_check_refuses_false_labels(arm):
    """Labels off by a hundredth, or of a picture's partner, are found out."""
    transform = ARMS[arm]
    images, labels = transform(PLAIN, CLASSES)
    assert not check(images, labels + torch.tensor([0.01, -0.01]))
    assert not check(images, labels.roll(1, 1))


@pytest.mark.parametrize("arm", ARMS)
def test_check_refuses_false_pixels(arm, capsys):
    """One wrong pixel in one picture is found out and said."""
    transform = ARMS[arm]
    images, labels = transform(PLAIN, CLASSES)
    x = int((images[2] != 128).any(0)[0].nonzero()[0])
    images[2, :, 0, x] = 128
    images[2, :, -1, -1] = 255 - images[2, :, -1, -1]
    assert not check(images, labels)
    assert "no picture explains them" in capsys.readouterr().out


def test_check_of_unmixed_pictures():
    """Without mixing every pixel must be its own and every label one-hot."""
    one_hot = torch.eye(2)[CLASSES]
    assert check(PLAIN.clone(), one_hot)
    assert not check(PLAIN.clone(), one_hot * 0.9)
    assert not check(PLAIN.roll(1, 0), one_hot)


def test_a_pasted_box_is_found_with_partner_and_share():
    """A box pasted by hand is found with its share and the picture it came from."""
    mixed = PLAIN[0].clone()
    mixed[:, 4:14, 10:30] = PLAIN[3, :, 4:14, 10:30]
    finding = demo._find_mix(0, mixed, PLAIN)
    assert finding.partner == 3
    assert finding.own == pytest.approx(1 - 200 / 1600)
    assert "12.5% pasted from 4" in finding.note


def test_a_blend_is_solved_for_its_weight():
    """A blend made by hand is found with its weight and the picture it was made with."""
    mixed = (0.3 * PLAIN[1].double() + 0.7 * PLAIN[2].double()).round().to(torch.uint8)
    finding = demo._find_mix(1, mixed, PLAIN)
    assert finding.partner == 2
    assert finding.own == pytest.approx(0.3, abs=finding.slack)
    assert 0 < finding.slack < 1e-3


def test_demo_pairs_roses_with_tulips():
    """Every picture of the demo gets a partner of the other class, and each is used once."""
    labels = torch.tensor([0, 1, 1, 0, 0, 1])
    partner = demo._pair_with_other_class(labels)
    assert (labels[partner] != labels).all()
    assert sorted(partner.tolist()) == list(range(6))


def test_training_on_mixed_labels_lowers_the_loss(capsys):
    """Forty steps are enough for the loss to fall, and what is returned is what is printed."""
    first, last, right = demo._train(40, size=24)
    assert last < first - 0.1
    assert right > 0.8
    assert f"loss {first:.3f} -> {last:.3f}" in capsys.readouterr().out


def test_demo_is_seeded(tmp_path, capsys, monkeypatch):
    """Two runs print the same labels and draw the same picture."""
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


def test_demo_says_when_a_label_lies(tmp_path, monkeypatch, capsys):
    """A transform whose labels lie makes the demo say NO and return it."""
    mix_truly = CutMix.run

    def mix(self, *given):
        (images, labels), recipe = mix_truly(self, *given)
        return [images, labels.roll(1, 1)], recipe

    monkeypatch.setattr(demo, "_train", lambda steps: None)
    monkeypatch.setattr(CutMix, "run", mix)
    assert not demo.run_demo(tmp_path, size=32)[1]
    assert capsys.readouterr().out.count("labels equal pixels: NO") == 1


@pytest.mark.parametrize("number", [1, 2])
def test_every_picture_of_the_demo_shows_its_mix(number):
    """Whatever the seed, Mixup and CutMix mix in something of the other class."""
    samples = list(zip(PLAIN, CLASSES.tolist(), strict=True))
    for seed in range(200):
        collate_fn = demo._make_mixes(seed)
        collate_fn.set_p([float(i == number) for i in range(3)])
        _, labels = collate_fn(samples)
        assert labels.min() > 0.005


def test_progress_yields_everything_and_ends_with_a_full_bar(capsys, monkeypatch):
    """The items pass unchanged; a terminal sees the bar grow, a file only the last line."""
    assert list(demo.show_progress("abc", 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err == f"reading [{'#' * 30}] 3/3\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(demo.show_progress("abc", 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err.count("\r") == 3
