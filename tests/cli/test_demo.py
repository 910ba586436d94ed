"""The demo prints three lines of numbers, finds wrong labels, and its pictures show their mixes."""

from argparse import Namespace

import numpy as np
import pytest

from tv_mixaug import CutMix
from tv_mixaug.cli import demo


@pytest.fixture
def without_training(monkeypatch):
    monkeypatch.setattr(demo, "_train", lambda steps: None)


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
        sheet, equal = demo.run_demo(Namespace(verbose=True))
        assert equal
        texts.append(capsys.readouterr().out.splitlines())
        sheets.append(sheet)
    assert texts[0] == texts[1]
    assert np.array_equal(*sheets)
    shares = [float(line.split("rose ")[1][:5]) for line in texts[0] if ": rose " in line]
    assert len(shares) == 32
    assert set(shares[:16]) == {0.0, 1.0}
    assert all(0.005 < share < 0.995 for share in shares[16:])


def test_demo_is_short_without_verbose(without_training, capsys):
    """Without --verbose no label is printed, only a heading and the number of right labels."""
    assert demo.run_demo(Namespace(verbose=False))[1]
    text = "  labels equal pixels in 3840 of 3840 test pictures"
    assert capsys.readouterr().out.splitlines()[1:] == [text]


def test_demo_reports_false_labels(without_training, monkeypatch, capsys):
    """If the labels of CutMix are wrong, the demo says so and returns False."""

    class FalseCutMix(CutMix):
        def forward(self, images, labels):
            images, labels = super().forward(images, labels)
            return images, labels.roll(1, 1)

    monkeypatch.setattr(demo, "CutMix", FalseCutMix)
    assert not demo.run_demo(Namespace(verbose=False))[1]
    out = capsys.readouterr().out
    assert "  FalseCutMix: " in out
    assert "3840 of 3840" not in out
