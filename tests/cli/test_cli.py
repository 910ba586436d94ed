"""The command line runs the demo and previews, and ends with code 2 and one line on bad input."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tv_mixaug.cli import demo, preview
from tv_mixaug.cli import main as cli
from tv_mixaug.extras import flowers
from tv_mixaug.extras.io import read_image


@pytest.fixture
def folder(tmp_path):
    """Return an image folder of two roses and two tulips."""
    flowers.write_image_folder(tmp_path / "flowers", 2, (30, 40))
    return tmp_path / "flowers"


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # noqa: S603


@pytest.mark.slow
def test_demo_runs_as_a_module(tmp_path):
    """`python -m tv_mixaug demo` exits with 0, finds all labels right and writes the sheet."""
    result = run([sys.executable, "-m", "tv_mixaug", "demo", "--out", "a.png"], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert sum(" in 960 of 960 test pictures" in line for line in lines) == 4
    assert lines[-1].startswith("Next, on your own data: tv-mixaug preview DIR")
    assert str(tmp_path / "a.png") in result.stdout
    sheet = cv2.imread(str(tmp_path / "a.png"))
    assert sheet.shape[1] == 2 * 16 + 8 * 192 + 7 * 12
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


OPTIONS = ["", "--transform MixUp --alpha 0.2 --mode batch", "--transform cutout"]
OPTIONS += ["--transform RandomErasing", "--transform OneOf --alpha 2", "--transform chain"]
OPTIONS += ["--size 16 --batch-size 2 --seed 5"]


@pytest.mark.parametrize("options", OPTIONS)
def test_preview_writes_a_sheet(folder, tmp_path, capsys, options):
    """A preview writes a sheet in the format of the suffix."""
    out = tmp_path / "Vorschau ü.jpg"
    assert cli.main(["preview", str(folder), "--out", str(out), *options.split()]) == 0
    assert f"Contact sheet: {out}" in capsys.readouterr().out
    assert out.read_bytes()[:2] == b"\xff\xd8"


def test_preview_shows_the_pictures_before_and_after(folder, tmp_path):
    """The upper half shows the pictures as they are, and the lower half the holes of Cutout."""
    out = tmp_path / "sheet.png"
    options = ["--transform", "cutout", "--batch-size", "4", "--size", "192", "--out", str(out)]
    assert cli.main(["preview", str(folder), *options]) == 0
    sheet, line = read_image(out), 18  # of the plan, which only the lower half has
    before, after = sheet.split([(sheet.shape[1] - line) // 2, (sheet.shape[1] + line) // 2], 1)
    before, after = before[:, 50 : 50 + 192], after[:, 50 : 50 + 192]  # below the titles
    changed = (before != after).any(0)
    assert 0.05 < changed.float().mean() < 0.5
    assert (after[:, changed] == 0).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--alpha", "-1"], "alpha must be"),
        (["--alpha", "nan"], "alpha must be"),
        (["--size", "0"], "--size must be in [1, 4096], got 0."),
        (["--batch-size", "0"], "--batch-size must be"),
        (["--batch-size", "5000"], "--batch-size must be"),
        (["--seed", "-1"], "--seed must be in [0, 9223372036854775807], got -1."),
        (["--seed", str(2**70)], "--seed must be in [0, "),
        (["--out", "sheet.txt"], "--out must be a .png"),
        (["--out", "sheet"], "--out must be a .png"),
        (["--out", "gone/sheet.png"], "image in a folder that exists"),
        (["--out", "folder.png"], "image in a folder that exists"),
        (["demo", "--out", "gone/sheet.png"], "--out must be a .png or other image in a folder"),
    ],
)
def test_bad_options_end_with_code_two(folder, tmp_path, monkeypatch, capsys, options, text):
    """A bad option ends at once with code 2 and a line that names it; nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(options if options[0] == "demo" else ["preview", str(folder), *options]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("tv-mixaug: error: ")
    assert text in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


UNKNOWN = ["dance", "preview", "preview . --size x", "preview . --transform augmix"]
UNKNOWN += ["demo --unknown", "check a:b --num-classes 2 --size big"]
UNKNOWN += ["check a:b --num-classes 2 --erased black"]


@pytest.mark.parametrize(("command", "code"), [*((text, 2) for text in UNKNOWN), ("", 0)])
def test_unknown_arguments_end_with_code_two(command, code, capsys):
    """Arguments that the parser does not know end with the usage; no argument gives the help."""
    with pytest.raises(SystemExit) as caught:
        cli.main(command.split())
    assert caught.value.code == code
    assert "usage: tv-mixaug" in capsys.readouterr()[code == 2]


def test_bad_folders_end_with_code_two(tmp_path, capsys):
    """A missing folder, folders without pictures and a broken picture are named."""
    out = ["--out", str(tmp_path / "a.png")]
    broken = tmp_path / "broken" / "rose" / "0.jpg"
    for path in (tmp_path / "classless", tmp_path / "empty" / "rose", broken.parent):
        path.mkdir(parents=True)
    broken.write_bytes(b"\xff\xd8 no picture")
    for name, text in (
        ("gone", "DIR must be a folder with pictures"),
        ("classless", "DIR must be a folder with pictures"),
        ("empty", "DIR must be a folder with pictures"),
        ("broken", str(broken)),
    ):
        assert cli.main(["preview", str(tmp_path / name), *out]) == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_preview_skips_and_counts_what_cannot_be_read(folder, tmp_path, capsys):
    """Broken files are counted, and the others are shown with the plan of each."""
    options = ["--batch-size", "8", "--out", str(tmp_path / "sheet.png")]
    for number in range(2):
        (folder / "rose" / f"broken{number}.png").write_bytes(b"no picture")
    assert cli.main(["preview", str(folder), *options]) == 0
    assert "Skipped 2 files that cannot be read, such as " in capsys.readouterr().out


def test_preview_shows_all_classes_and_is_seeded(tmp_path, monkeypatch):
    """Four pictures of four classes are one of each, and a seed gives the same sheet again."""
    for label, count in enumerate((1, 2, 30, 1)):
        (tmp_path / "all" / str(label)).mkdir(parents=True)
        for number in range(count):
            picture = np.full((8, 8, 3), 60 * label, np.uint8)
            Image.fromarray(picture).save(tmp_path / "all" / str(label) / f"{number}.png")
    drawn, draw = [], preview.viz.draw_batch

    def record(*given, **named):
        drawn.append((given, named))
        return draw(*given, **named)

    monkeypatch.setattr(preview.viz, "draw_batch", record)
    sheets, out = [], tmp_path / "sheet.png"
    for seed in (0, 0, 1, 2):
        options = ["--batch-size", "4", "--seed", str(seed), "--out", str(out)]
        assert cli.main(["preview", str(tmp_path / "all"), *options]) == 0
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1]
    assert len(set(sheets)) == 3
    for (_, labels, *_), _ in drawn[::2]:
        assert sorted(labels.tolist()) == [0, 1, 2, 3]
    assert all((options["plan"].op == 3).all() for _, options in drawn[1::2])


def test_preview_keeps_the_aspect(tmp_path):
    """The middle of a picture of 40 x 120 is shown, and a disc stays round."""
    picture = np.zeros((40, 120, 3), np.uint8)
    cv2.circle(picture, (60, 20), 16, (255, 255, 255), -1)
    (tmp_path / "discs").mkdir()
    Image.fromarray(picture).save(tmp_path / "discs" / "0.png")
    out = tmp_path / "sheet.png"
    assert cli.main(["preview", str(tmp_path / "discs"), "--out", str(out), "--size", "120"]) == 0
    disc = (read_image(out)[0, 50 : 50 + 120, 16 : 16 + 120] > 128).nonzero()
    height, width = (disc.max(0).values - disc.min(0).values + 1).tolist()
    assert (height, width) == pytest.approx((96, 96), abs=3)


def test_preview_takes_a_flat_folder_as_one_class(folder, tmp_path, monkeypatch):
    """Pictures without class folders are of one class with the name of the folder."""
    names, pictures = preview._find_pictures(folder / "rose")
    assert names == ["rose"]
    assert [(path.name, label) for path, label in pictures] == [("000.png", 0), ("001.png", 0)]
    monkeypatch.chdir(folder / "rose")
    assert cli.main(["preview", ".", "--out", str(tmp_path / "sheet.png")]) == 0
    assert preview._find_pictures(Path())[0] == ["rose"]


def test_preview_skips_what_is_hidden_or_no_picture(folder):
    """Hidden folders and files, folders without pictures and special files are skipped."""
    expected = preview._find_pictures(folder)
    assert expected[0] == ["rose", "tulip"]
    assert [label for _, label in expected[1]] == [0, 0, 1, 1]
    picture = next(folder.rglob("*.png")).read_bytes()
    for path in (".git/a.png", ".a.png", "rose/._a.png", "rose/.ipynb_checkpoints/a.png", "b.png"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(picture)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").touch()
    (folder / "rose" / "folder.png").mkdir()
    os.mkfifo(folder / "rose" / "pipe.png")
    assert preview._find_pictures(folder) == expected


def test_a_wrong_label_ends_with_code_one(tmp_path, monkeypatch):
    """The demo's sheet is written and the exit code is 1 if a label differs from the pixels."""
    sheet = np.zeros((4, 4, 3), np.uint8)
    monkeypatch.setattr(demo, "run_demo", lambda _: (sheet, False))
    assert cli.main(["demo", "--out", str(tmp_path / "a.png")]) == 1
    assert read_image(tmp_path / "a.png").shape == (3, 4, 4)


def test_help_imports_nothing_heavy():
    """Help and version do not wait for torch, NumPy or OpenCV."""
    for argv in (["--help"], ["demo", "-h"], ["preview", "-h"], ["check", "-h"], ["--version"]):
        code = (
            "import sys; from tv_mixaug.cli.main import main\n"
            f"try: main({argv})\n"
            "finally: print(*sys.modules, file=sys.stderr)"
        )
        done = run([sys.executable, "-c", code])
        assert done.stdout
        assert "tv_mixaug.cli.main" in done.stderr.split()
        assert not {"torch", "numpy", "cv2", "PIL"} & set(done.stderr.split())


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names that are any bytes")
def test_names_that_are_not_utf8_are_drawn_and_printed(tmp_path, monkeypatch, capsys):
    """A folder, a class and an output whose names are not UTF-8 end with 0, as others do."""
    folder = tmp_path / "caf\udce9"
    for name in ("ros\udce9", "tulip"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(folder / name / "a.png")
    monkeypatch.chdir(folder)
    for pictures in (folder, folder / "ros\udce9"):
        assert cli.main(["preview", str(pictures), "--size", "32", "--batch-size", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.encode().count("caf\ufffd/tv_mixaug_preview.png".encode()) == 2
