"""The scripts that show the package beside other libraries run, and say so where one is missing."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "integrations"
SCRIPTS = sorted(FOLDER.glob("*.py"))
PAGE = FOLDER / "index.md"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [script for script in SCRIPTS if script.stem != "torchrun_ddp"],  # test_distributed runs it
    ids=lambda path: path.stem,
)
def test_script_runs(script, tmp_path):
    """A script runs from start to end without the network, and finds what it shows to hold."""
    done = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, **OFFLINE, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip())
    assert done.stdout.strip(), "it must print what it shows."


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_says_what_is_missing(script, monkeypatch, capsys):
    """Without its package a script names it and how to install it, and ends as a success."""
    needed = re.search(r"^try:\n    (?:import|from) (\w+)", script.read_text(), re.M)
    if needed is None:
        pytest.skip(f"{script.name} needs nothing but this package and PyTorch")
    monkeypatch.setitem(sys.modules, needed[1], None)  # makes its import fail
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert not end.value.code
    said = rf"skipped: {needed[1]} is not installed; pip install .*\n"
    assert re.fullmatch(said, capsys.readouterr().out)


def test_page_shows_every_script():
    """The page has the code of each script of its folder, and of nothing else."""
    shown = re.findall(r"^```\{literalinclude\} (\S+)$", PAGE.read_text(), re.M)
    assert sorted(shown) == [script.name for script in SCRIPTS]
