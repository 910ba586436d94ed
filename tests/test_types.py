"""Type checkers accept right uses of every public name, and find wrong ones."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tv_mixaug
from tv_mixaug import batch, engine, functional, loading, testing, transforms

FILE = Path(__file__).parent / "helpers" / "typed_user.py"
LINES = FILE.read_text("utf-8").splitlines()
WRONG = {number for number, line in enumerate(LINES, 1) if line.endswith("# wrong")}
PACKAGES = (tv_mixaug, batch, engine, functional, loading, testing, transforms)


def run(module, *arguments, folder):
    """Check the file outside the repository, as a user's, without its settings."""
    pytest.importorskip(module, reason="needs the dependency group `lint`")
    file = folder / "user.py"
    file.write_bytes(FILE.read_bytes())
    command = [sys.executable, "-m", module, *arguments, file.name]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)  # noqa: S603


@pytest.mark.parametrize("package", PACKAGES, ids=[package.__name__ for package in PACKAGES])
def test_every_public_name_is_used(package):
    """The file has each name that a package lists."""
    words = {*re.findall(r"\w+", "\n".join(LINES))}
    assert {*package.__all__} <= words


@pytest.mark.slow
def test_mypy_finds_the_wrong_calls_and_no_other_line(tmp_path):
    """``mypy --strict`` reports each line that is marked as wrong."""
    done = run("mypy", "--strict", "--config-file=", folder=tmp_path)
    found = {int(number) for number in re.findall(r"^user\.py:(\d+): error", done.stdout, re.M)}
    assert found == WRONG, done.stdout + done.stderr


@pytest.mark.slow
def test_pyright_finds_the_wrong_calls_and_no_other_line(tmp_path):
    """Pyright reports each line that is marked as wrong."""
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable, folder=tmp_path)
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}
    assert errors == WRONG, done.stdout
