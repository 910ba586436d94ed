"""The demo finds every wrong label and pixel, and its pictures show their mixes."""

from argparse import Namespace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from tv_mixaug import CutMix, Cutout, Mixup
from tv_mixaug.cli import demo
from tv_mixaug.engine.plan import PASTE
from tv_mixaug.extras import flowers

RAW, KINDS = flowers.draw_flowers(6, 40, seed=3)
TRANSFORMS = {
    "nothing": Cutout(num_classes=2, p=0.0),
    "cutout": Cutout(num_classes=2),
    "mixup": Mixup(num_classes=2, mode="sample"),
    "cutmix": CutMix(num_classes=2, mode="sample"),
}


@pytest.fixture
def without_kit(monkeypatch):
    """Let the test kit agree at once."""
    kit = Mock(return_value=SimpleNamespace(rows=0))
    monkeypatch.setattr(demo, "assert_labels_match_pixels", kit)


@pytest.fixture
def without_training(monkeypatch):
    monkeypatch.setattr(demo, "_train", lambda steps: None)


def mix(name, seed=0):
    torch.manual_seed(seed)
    (images, labels), plan = TRANSFORMS[name].mix((RAW, KINDS))
    return images, labels, plan


def check(name, images, labels, plan):
    """Return what the demo concludes if a transform returns this batch and plan."""
    transform = Mock(spec=type(TRANSFORMS[name]), p=1.0, mix=lambda batch: ((images, labels), plan))
    return demo._mix(transform, RAW, KINDS)[1]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_true_labels_are_accepted(name, without_kit):
    """The check agrees with the labels of each transform for many plans."""
    assert all(check(name, *mix(name, seed)) for seed in range(20))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_false_labels_are_found(name, without_kit):
    """Labels that are off by a hundredth or exchanged are found; NaN is refused."""
    images, labels, plan = mix(name)
    assert not check(name, images, labels + torch.tensor([0.01, -0.01]), plan)
    assert not check(name, images, labels.roll(1, 1), plan)
    with pytest.raises(ValueError, match="labels must be finite"):
        check(name, images, torch.full_like(labels, torch.nan), plan)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_false_pixel_is_found(name, without_kit, capsys):
    """One wrong pixel in one picture is found and reported for that picture alone."""
    images, labels, plan = mix(name)
    images = images.clone()
    images[2, 1, 0, 7] ^= 1
    assert not check(name, images, labels, plan)
    lines = capsys.readouterr().out.splitlines()[2:]
    assert ["not those of the plan" in line for line in lines[:6]] == [i == 2 for i in range(6)]
    assert "labels equal pixels: NO" in lines[6]


def test_a_plan_is_printed_with_partner_and_share(without_kit, capsys):
    """A box of an eighth of the picture is printed with its share and the number of its source."""
    images, labels, plan = mix("nothing")
    plan = plan._replace(op=plan.op.clone(), partner=plan.partner.clone(), boxes=plan.boxes.clone())
    plan.op[0], plan.partner[0] = PASTE, 3
    plan.boxes[0, 0] = torch.tensor([10, 4, 30, 14])
    images[0, :, 4:14, 10:30] = RAW[3, :, 4:14, 10:30]
    labels[0] = torch.tensor([0.875, 0.125])
    assert check("cutmix", images, labels, plan)
    line = capsys.readouterr().out.splitlines()[2]
    text = "1 rose label: rose 0.875 tulip 0.125 pixels: 12.5% pasted from 4"
    assert " ".join(line.split()) == text


def test_the_kit_finds_a_false_transform(capsys):
    """A transform whose labels are wrong in other batches than the demo's is refused."""
    cutmix = TRANSFORMS["cutmix"]
    assert demo._mix(cutmix, RAW, KINDS)[1]
    assert "the test kit agrees for 960 other images" in capsys.readouterr().out
    false = Mock(spec=CutMix, p=1.0, mix=cutmix.mix)
    false.side_effect = lambda images, labels: (images, cutmix(images, labels)[1])
    assert not demo._mix(false, RAW, KINDS)[1]
    out = capsys.readouterr().out
    assert "labels equal pixels: yes" in out
    assert "the test kit finds a difference" in out


def test_training_on_mixed_labels_lowers_the_loss(capsys):
    """In forty steps the loss falls, and the returned numbers are printed."""
    first, last, right = demo._train(40, size=24)
    assert last < first - 0.1
    assert right > 0.8
    assert f"loss {first:.3f} -> {last:.3f}" in capsys.readouterr().out


def test_demo_is_seeded_and_every_picture_shows_its_mix(without_training, capsys):
    """Two runs print the same labels and draw the same sheet; Mixup and CutMix mix all pictures."""
    texts, sheets = [], []
    for _ in range(2):
        sheet, equal = demo.run_demo(Namespace())
        assert equal
        texts.append(capsys.readouterr().out.splitlines())
        sheets.append(sheet)
    assert texts[0] == texts[1]
    assert np.array_equal(*sheets)
    mixed = [line for line in texts[0] if "% of" in line or "% pasted" in line]
    assert len(mixed) == 16
    assert all(0.005 < float(line.split("rose ")[-1][:5]) < 0.995 for line in mixed)


def test_demo_reports_false_labels(without_training, monkeypatch, capsys):
    """If the labels of CutMix are wrong, the demo prints NO once and returns False."""

    class FalseCutMix(CutMix):
        def mix(self, batch):
            (images, labels), plan = super().mix(batch)
            return (images, labels.roll(1, 1)), plan

    monkeypatch.setattr(demo, "CutMix", FalseCutMix)
    assert not demo.run_demo(Namespace())[1]
    assert capsys.readouterr().out.count("labels equal pixels: NO") == 1
