"""The demo prints three lines of numbers, finds wrong labels, and its pictures show their mixes."""

from argparse import Namespace

import numpy as np

from tv_mixaug import CutMix
from tv_mixaug.cli import demo


def test_demo_is_seeded_and_every_picture_shows_its_mix(capsys):
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


def test_demo_is_short_without_verbose(capsys):
    """Without --verbose a heading and a line for each transform are printed."""
    assert demo.run_demo(Namespace(verbose=False))[1]
    names = ["No mixing ", "Cutout    ", "Mixup     ", "CutMix    "]
    texts = [f"  {name} in 960 of 960 test pictures" for name in names]
    assert capsys.readouterr().out.splitlines()[1:] == texts


def test_demo_reports_false_labels(monkeypatch, capsys):
    """If the labels of CutMix are wrong, the demo says so and returns False."""

    class FalseCutMix(CutMix):
        def forward(self, images, labels):
            images, labels = super().forward(images, labels)
            return images, labels.roll(1, 1)

    monkeypatch.setattr(demo, "CutMix", FalseCutMix)
    assert not demo.run_demo(Namespace(verbose=False))[1]
    out = capsys.readouterr().out
    assert "  FalseCutMix: " in out
    assert "CutMix     in" not in out
