"""The command line: a truthful demo, previews of any folder, and exit code 2 on bad input."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tv_mixaug.cli import demo
from tv_mixaug.cli import main as cli
from tv_mixaug.extras import flowers
from tv_mixaug.extras.io import read_image, write_image


@pytest.fixture
def folder(tmp_path):
    """Return an image folder of two roses and two tulips."""
    flowers.write_image_folder(tmp_path / "flowers", 2, (30, 40))
    return tmp_path / "flowers"


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


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--transform", "MixUp", "--alpha", "0.2", "--mode", "batch"],
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
        (["--seed", "-1"], "--seed must be in [0, 9223372036854775807], got -1."),
        (["--seed", str(2**70)], "--seed must be in [0, "),
        (["--out", "sheet.txt"], "--out must end in one of .png"),
        (["--out", "sheet"], "--out must end in one of .png"),
        (["--out", "gone/sheet.png"], "--out must be in a folder that exists"),
        (["--out", "folder.png"], "--out 'folder.png' must be a file, got a directory."),
        (["--out", "pipe.png"], "--out 'pipe.png' must be a file, got a pipe."),
    ],
)
def test_bad_options_end_with_code_two(folder, tmp_path, monkeypatch, capsys, options, text):
    """A bad option ends with code 2 and one line on stderr that names it; nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
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


def preview(folder, tmp_path, *options):
    """Return the sheet of a preview, and what of it shows the pictures as they are."""
    out = tmp_path / "sheet.png"
    assert cli.main(["preview", str(folder), "--out", str(out), *options]) == 0
    sheet = read_image(out)
    return sheet, sheet[:, : sheet.shape[1] // 2]


def test_preview_keeps_the_aspect(tmp_path, monkeypatch):
    """A picture of 40 x 120 is not squeezed: its middle is shown, a disc stays round."""
    picture = np.zeros((40, 120, 3), np.uint8)
    cv2.circle(picture, (60, 20), 16, (255, 255, 255), -1)
    (tmp_path / "discs").mkdir()
    write_image(tmp_path / "discs" / "0.png", picture)
    _, plain = preview(tmp_path / "discs", tmp_path, "--size", "120")
    disc = (plain[0, 50 : 50 + 120, 16 : 16 + 120] > 128).nonzero()
    height, width = (disc.max(0).values - disc.min(0).values + 1).tolist()
    assert (height, width) == pytest.approx((96, 96), abs=3)


def test_preview_takes_a_flat_folder_as_one_class(tmp_path, monkeypatch):
    """Pictures that lie in no class folder are of one class, that of the folder's name."""
    folder = tmp_path / "garden"
    for i, file in enumerate(flowers.write_image_folder(tmp_path / "flowers", 2, 24)):
        folder.mkdir(exist_ok=True)
        file.rename(folder / f"{i}{file.suffix}")
    names, pictures = cli._find_pictures(folder)
    assert names == ["garden"]
    assert [(path.name, label) for path, label in pictures] == [
        ("0.jpg", 0), ("1.png", 0), ("2.jpg", 0), ("3.png", 0),
    ]  # fmt: skip
    monkeypatch.chdir(folder)
    assert cli.main(["preview", ".", "--out", str(tmp_path / "sheet.png")]) == 0
    assert cli._find_pictures(Path())[0] == ["garden"]


def test_preview_skips_what_is_hidden_or_empty(folder):
    """Hidden folders and files, and folders without pictures, are neither classes nor pictures."""
    expected = cli._find_pictures(folder)
    assert expected[0] == ["rose", "tulip"]
    picture = next(folder.rglob("*.png")).read_bytes()
    for path in (".git/a.png", ".a.png", "rose/._a.png", "rose/.ipynb_checkpoints/a.png"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(picture)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").touch()
    (folder / "rose" / "folder.png").mkdir()
    assert cli._find_pictures(folder) == expected


def test_preview_refuses_special_files_and_bombs(folder, tmp_path, capsys):
    """A pipe among the pictures or a picture of gigapixels ends with code 2, not with a wait."""
    os.mkfifo(folder / "rose" / "pipe.png")
    out = ["--out", str(tmp_path / "sheet.png")]
    assert cli.main(["preview", str(folder), *out]) == 2
    assert "pipe.png' must be a file, got a pipe" in capsys.readouterr().err
    (folder / "rose" / "pipe.png").unlink()
    bomb = bytearray((folder / "rose" / "001.png").read_bytes())
    bomb[16:24] = b"\0\1\0\0" * 2
    (folder / "rose" / "001.png").write_bytes(bomb)
    assert cli.main(["preview", str(folder), *out]) == 2
    assert "must have at most 178956970 pixels, got 65536 × 65536" in capsys.readouterr().err


def test_preview_refuses_a_batch_that_is_too_large(tmp_path, capsys):
    """Many large pictures, which together would fill the memory, are refused before any is read."""
    (tmp_path / "rose").mkdir()
    for i in range(11):
        (tmp_path / "rose" / f"{i}.png").touch()
    argv = ["preview", str(tmp_path), "--size", "4096", "--batch-size", "11"]
    assert cli.main([*argv, "--out", str(tmp_path / "sheet.png")]) == 2
    text = "--size and --batch-size must come to at most 178956970 pixels, got 11 × 4096 × 4096."
    assert text in capsys.readouterr().err


def test_demo_keeps_its_flowers_where_asked(tmp_path, monkeypatch, capsys):
    """--keep names a new or empty folder, in which the flowers stay; another one is refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_train", lambda steps: None)
    assert cli.main(["demo", "--keep", "flowers"]) == 0
    assert len(list(Path("flowers").glob("*/*"))) == 8
    before = sorted(tmp_path.rglob("*"))
    for folder in ("flowers", "tv_mixaug_demo.png"):
        assert cli.main(["demo", "--keep", folder]) == 2
        text = f"--keep must be a new or empty folder, got '{folder}'."
        assert text in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_help_imports_nothing_heavy():
    """What only asks for help or the version does not wait for torch."""
    for argv in (["--help"], ["demo", "--help"], ["preview", "-h"], ["--version"]):
        code = (
            "import sys; from tv_mixaug import cli\n"
            f"try: cli.main({argv})\n"
            "finally: print(*sys.modules, file=sys.stderr)"
        )
        done = run([sys.executable, "-c", code])
        assert done.stdout
        assert not {"torch", "numpy", "cv2"} & set(done.stderr.split())


def run(command, **options):
    return subprocess.run(  # noqa: S603
        command, capture_output="stdout" not in options, text=True, check=False, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["preview"]])
def test_a_lost_reader_is_no_error(folder, tmp_path, argv):
    """Behind `| head`, which has gone, the command ends quietly."""
    if argv[0] == "preview":
        argv = [*argv, str(folder), "--out", str(tmp_path / "sheet.png")]
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tv_mixaug", *argv]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = run(command, stdout=write, stderr=subprocess.PIPE, env=env)
    os.close(write)
    assert done.returncode == 141
    assert "Error" not in done.stderr


# Ready means: the command has begun. The worst moments are those of imports and of workers.
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs the signals of Unix")
@pytest.mark.parametrize(
    ("start", "line", "seconds"),
    [
        ("fork", "ready", 0.1),
        ("fork", "ready", 0.6),
        ("fork", "Eight", 0.1),
        ("fork", "Cutout", 0.0),
        ("spawn", "Eight", 2.0),
        ("spawn", "Cutout", 0.0),
    ],
)
def test_ctrl_c_is_quiet_at_any_moment(tmp_path, start, line, seconds):
    """Ctrl-C, which reaches workers too, ends with 130 and no text, and leaves no file behind."""
    code = (
        "import sys, multiprocessing; from tv_mixaug import cli\n"
        "def parser(make=cli._make_parser): print('ready', flush=True); return make()\n"
        "cli._make_parser = parser\n"
        f"if __name__ == '__main__': multiprocessing.set_start_method({start!r})\n"
        "if __name__ == '__main__': sys.exit(cli.main())"
    )
    (tmp_path / "main.py").write_text(code)
    # A short path: torch sends memory through sockets in it, whose names have 108 letters at most.
    scratch = Path(tempfile.mkdtemp())
    process = subprocess.Popen(
        [sys.executable, "-u", "main.py", "demo"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert any(text.startswith(line) for text in iter(process.stdout.readline, ""))
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)  # once more, as the impatient do
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "")
    left = [path.name for path in scratch.iterdir()]
    shutil.rmtree(scratch)
    assert not [name for name in left if name.startswith(("tv_mixaug", "pymp"))]
