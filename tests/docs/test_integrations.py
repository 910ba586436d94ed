"""The scripts that show the package beside other libraries run, and say so where one is missing."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "integrations"
SCRIPTS = sorted(FOLDER.glob("*.py"))
NEEDY = [script for script in SCRIPTS if "skipped: " in script.read_text()]
PAGE = FOLDER / "index.md"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def find_needed(script):
    """Return the names of the packages without which a script skips; the first is said."""
    line = re.search(r"^(?:if find_spec|for package in )\((.+?)\)", script.read_text(), re.M)
    return re.findall(r'"(\w+)"', line[1])


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


@pytest.mark.parametrize("script", NEEDY, ids=lambda path: path.stem)
def test_script_says_what_is_missing(script, monkeypatch, capsys):
    """Without its package a script names it and how to install it, and ends as a success."""
    for package in find_needed(script):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert not end.value.code
    said = rf"skipped: {find_needed(script)[0]} is not installed; pip install .*\n"
    assert re.fullmatch(said, capsys.readouterr().out)


@pytest.mark.parametrize("script", NEEDY, ids=lambda path: path.stem)
def test_script_skips_for_no_other_reason(script, monkeypatch, tmp_path, capsys):
    """A package that is there and fails on import is an error, not a reason to skip."""
    monkeypatch.syspath_prepend(tmp_path)
    for package in find_needed(script):
        for module in [name for name in sys.modules if package in name.split(".")]:
            monkeypatch.delitem(sys.modules, module)  # torch.utils.tensorboard too
        (tmp_path / f"{package}.py").write_text("raise ImportError('it is broken')")
    with pytest.raises(ImportError, match="it is broken"):
        runpy.run_path(str(script), run_name="__main__")
    assert "skipped" not in capsys.readouterr().out


def test_scripts_without_a_package_of_their_own_are_few():
    """Every script names the library that it needs, but for those that need PyTorch alone."""
    others = {script.stem for script in SCRIPTS} - {script.stem for script in NEEDY}
    assert others == {"mmpretrain_augments", "torchrun_ddp", "torchvision_references"}


def test_page_shows_every_script():
    """The page has the code of each script of its folder, and of nothing else."""
    shown = re.findall(r"^```\{literalinclude\} (\S+)$", PAGE.read_text(), re.M)
    assert sorted(shown) == [script.name for script in SCRIPTS]
