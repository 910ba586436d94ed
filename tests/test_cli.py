"""The command line: a truthful demo, previews of any folder, and exit code 2 on bad input."""

import subprocess
import sys

import cv2
import pytest
import torch

from tv_mixaug import cli, flowers
from tv_mixaug.transforms import CutMix, Cutout, Mixup

PLAIN, CLASSES = flowers.draw_flowers(6, 40, seed=3)
NAMES = flowers.CLASS_NAMES
ARMS = {
    "cutout": (Cutout(num_classes=2), cli.find_hole),
    "mixup": (Mixup(num_classes=2, mode="sample"), cli.find_blend),
    "cutmix": (CutMix(num_classes=2, mode="sample"), cli.find_paste),
}


@pytest.fixture
def folder(tmp_path):
    """Return an image folder of two roses and two tulips."""
    flowers.write_image_folder(tmp_path / "flowers", 2, (30, 40))
    return tmp_path / "flowers"


def check(images, labels, find):
    return cli.check_labels(images, labels, PLAIN, CLASSES, find, NAMES)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("seed", range(20))
def test_check_accepts_true_labels(arm, seed):
    """The demo's check finds share and partner from the pixels and agrees with our labels."""
    torch.manual_seed(seed)
    transform, find = ARMS[arm]
    assert check(*transform(PLAIN, CLASSES), find)


@pytest.mark.parametrize("arm", ARMS)
def test_check_refuses_false_labels(arm):
    """Labels off by a hundredth, or of a picture's partner, are found out."""
    transform, find = ARMS[arm]
    images, labels = transform(PLAIN, CLASSES)
    assert not check(images, labels + torch.tensor([0.01, -0.01]), find)
    assert not check(images, labels.roll(1, 1), find)


@pytest.mark.parametrize("arm", ARMS)
def test_check_refuses_false_pixels(arm, capsys):
    """One wrong pixel in one picture is found out and said."""
    transform, find = ARMS[arm]
    images, labels = transform(PLAIN, CLASSES)
    x = int((images[2] != 128).any(0)[0].nonzero()[0])
    images[2, :, 0, x] = 128
    images[2, :, -1, -1] = 255 - images[2, :, -1, -1]
    assert not check(images, labels, find)
    assert "no picture explains them" in capsys.readouterr().out


def test_check_of_unmixed_pictures():
    """Without mixing every pixel must be its own and every label one-hot."""
    one_hot = torch.eye(2)[CLASSES]
    assert check(PLAIN.clone(), one_hot, cli.find_unchanged)
    assert not check(PLAIN.clone(), one_hot * 0.9, cli.find_unchanged)
    assert not check(PLAIN.roll(1, 0), one_hot, cli.find_unchanged)


def test_find_paste_names_partner_and_share():
    """A box pasted by hand is found with its share and the picture it came from."""
    mixed = PLAIN[0].clone()
    mixed[:, 4:14, 10:30] = PLAIN[3, :, 4:14, 10:30]
    finding = cli.find_paste(0, mixed, PLAIN)
    assert finding.partner == 3
    assert finding.own == pytest.approx(1 - 200 / 1600)
    assert "12.5% pasted from 4" in finding.note


def test_find_blend_solves_for_the_weight():
    """A blend made by hand is found with its weight and the picture it was made with."""
    mixed = (0.3 * PLAIN[1].double() + 0.7 * PLAIN[2].double()).round().to(torch.uint8)
    finding = cli.find_blend(1, mixed, PLAIN)
    assert finding.partner == 2
    assert finding.own == pytest.approx(0.3, abs=finding.slack)
    assert 0 < finding.slack < 1e-3


def test_demo_pairs_roses_with_tulips():
    """Every picture of the demo gets a partner of the other class, and each is used once."""
    labels = torch.tensor([0, 1, 1, 0, 0, 1])
    partner = cli.pair_with_other_class(labels)
    assert (labels[partner] != labels).all()
    assert sorted(partner.tolist()) == list(range(6))


def test_training_on_mixed_labels_lowers_the_loss(capsys):
    """Forty steps are enough for the loss to fall, and what is returned is what is printed."""
    first, last, right = cli.train(40, size=24)
    assert last < first - 0.1
    assert right > 0.8
    assert f"loss {first:.3f} -> {last:.3f}" in capsys.readouterr().out


@pytest.mark.slow
def test_demo_runs_as_a_module(tmp_path):
    """`python -m tv_mixaug demo` exits with 0, says four times yes and writes the sheet."""
    result = subprocess.run(
        [sys.executable, "-m", "tv_mixaug", "demo", "--out", "a.png"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("labels equal pixels: yes") == 4
    assert "loss " in result.stdout
    assert str(tmp_path / "a.png") in result.stdout
    assert "training [##############################] 200/200" in result.stderr
    sheet = cv2.imread(str(tmp_path / "a.png"))
    assert sheet.shape[1] == 2 * 16 + 8 * 192 + 7 * 12
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_demo_is_seeded(tmp_path, capsys, monkeypatch):
    """Two runs print the same labels and write the same picture."""
    monkeypatch.setattr(cli, "train", lambda steps: None)
    texts, sheets = [], []
    for name in ("a.png", "b.png"):
        assert cli.run_demo(tmp_path / name, size=32, steps=1) == 0
        texts.append(capsys.readouterr().out.splitlines()[1:-1])  # without the paths
        sheets.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1]
    assert sheets[0] == sheets[1]


def test_demo_fails_when_a_label_lies(tmp_path, monkeypatch, capsys):
    """A transform whose labels lie makes the demo say NO and exit with 1."""
    true_labels = CutMix.mix_labels
    monkeypatch.setattr(cli, "train", lambda steps: None)
    monkeypatch.setattr(CutMix, "mix_labels", lambda *args: true_labels(*args).roll(1, 1))
    assert cli.run_demo(tmp_path / "a.png", size=32) == 1
    assert capsys.readouterr().out.count("labels equal pixels: NO") == 1


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--transform", "mixup", "--alpha", "0.2", "--mode", "batch"],
        ["--transform", "cutout", "--hole", "0.3"],
        ["--size", "16", "--batch-size", "2", "--seed", "5"],
    ],
)
def test_preview_writes_a_sheet(folder, tmp_path, capsys, options):
    """A preview shows the pictures as they are and mixed, and reports progress."""
    out = tmp_path / "Vorschau ü.jpg"
    assert cli.main(["preview", str(folder), "--out", str(out), *options]) == 0
    captured = capsys.readouterr()
    assert f"Contact sheet: {out}" in captured.out
    assert captured.err.startswith("reading [####")
    assert out.read_bytes()[:2] == b"\xff\xd8"


def test_preview_is_seeded(folder, tmp_path):
    """The same seed gives the same sheet, another seed another."""
    sheets = []
    for i, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{i}.png"
        assert cli.main(["preview", str(folder), "--seed", str(seed), "--out", str(out)]) == 0
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--alpha", "0"], "alpha must be"),
        (["--alpha", "nan"], "alpha must be"),
        (["--transform", "cutout", "--hole", "-1"], "size must be"),
        (["--transform", "cutout", "--alpha", "1"], "--alpha must not be given"),
        (["--hole", "0.5"], "--hole must not be given"),
        (["--size", "0"], "--size must be in [1, 4096], got 0."),
        (["--batch-size", "0"], "--batch-size must be"),
        (["--batch-size", "5000"], "--batch-size must be"),
        (["--seed", "-1"], "--seed must be >= 0, got -1."),
        (["--out", "sheet.txt"], "--out must end in one of .png"),
        (["--out", "sheet"], "--out must end in one of .png"),
        (["--out", "gone/sheet.png"], "--out must be in a folder that exists"),
        (["--out", "folder.png"], "--out must be a file, got the folder"),
    ],
)
def test_bad_options_end_with_code_two(folder, tmp_path, monkeypatch, capsys, options, text):
    """A bad option ends with code 2 and one line on stderr that names it; nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["preview", str(folder), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tv-mixaug: error: ")
    assert text in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["demonstrate"],
        ["preview"],
        ["preview", ".", "--size", "big"],
        ["preview", ".", "--transform", "augmix"],
        ["demo", "--unknown"],
    ],
)
def test_unknown_arguments_end_with_code_two(argv, capsys):
    """What the parser does not know ends with code 2 and the usage."""
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "usage: tv-mixaug" in capsys.readouterr().err


def test_bad_folders_end_with_code_two(tmp_path, capsys):
    """A missing folder, one without classes, an empty class and a broken picture are named."""
    out = ["--out", str(tmp_path / "a.png")]
    broken = tmp_path / "broken" / "rose" / "0.jpg"
    for path in (tmp_path / "classless", tmp_path / "empty" / "rose", broken.parent):
        path.mkdir(parents=True)
    broken.write_bytes(b"\xff\xd8 no picture")
    for name, text in (
        ("gone", "DIR must be a folder"),
        ("classless", "DIR must hold one folder of pictures for each class"),
        ("empty", "DIR must hold one folder of pictures for each class"),
        ("broken", str(broken)),
    ):
        assert cli.main(["preview", str(tmp_path / name), *out]) == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_demo_checks_its_output_before_it_works(tmp_path, capsys):
    """A demo whose sheet could not be written ends at once with code 2."""
    assert cli.main(["demo", "--out", str(tmp_path / "gone" / "a.png")]) == 2
    captured = capsys.readouterr()
    assert "--out must be in a folder that exists" in captured.err
    assert captured.out == ""


def test_progress_yields_everything_and_ends_with_a_full_bar(capsys, monkeypatch):
    """The items pass unchanged; a terminal sees the bar grow, a file only the last line."""
    assert list(cli.show_progress("abc", 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err == f"reading [{'#' * 30}] 3/3\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(cli.show_progress("abc", 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err.count("\r") == 3
