"""The scripts with other libraries run, and say so if a library is missing."""

import json
import os
import re
import runpy
import subprocess
import sys

import pytest
from helpers.scripts import DOCS

FOLDER = DOCS / "integrations"
SCRIPTS = sorted(FOLDER.glob("*.py"))
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
# Most scripts start by looking for the packages without which they skip.
LOOK = re.compile(r"^(?:if find_spec|for package in )\((.+?)\)", re.M)
NEEDS = {script: LOOK.search(script.read_text("utf-8")) for script in SCRIPTS}
NEEDS = {script: re.findall(r'"(\w+)"', look[1]) for script, look in NEEDS.items() if look}
EACH_NEED = pytest.mark.parametrize(
    ("script", "packages"), [pytest.param(*item, id=item[0].stem) for item in NEEDS.items()]
)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_runs(script, tmp_path):
    """A script runs without the network, and the properties that it checks hold."""
    if script.stem == "torchrun_ddp":
        pytest.skip("tests/loading/test_distributed.py runs it with two processes")
    done = subprocess.run(  # noqa: S603  # a script of this project
        [sys.executable, script],
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


RECORDER = """
import json, runpy, sys
from torch.nn import functional as F
plain, seen = F.cross_entropy, []
def record(logits, labels, *arguments, **options):
    seen.append(labels.tolist())
    return plain(logits, labels, *arguments, **options)
F.cross_entropy = record
runpy.run_path(sys.argv[1], run_name="__main__")
print("\\n" + json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["accelerate_loop", "hf_trainer", "lightning_module"])
def test_script_mixes_training_batches_reproducibly(stem, tmp_path):
    """Losses of two runs get the same soft labels, some of them mixed, in every epoch others."""
    script, runs = FOLDER / f"{stem}.py", []
    for package in NEEDS[script]:
        pytest.importorskip(package)
    for _ in range(2):
        done = subprocess.run(  # noqa: S603  # a script of this project
            [sys.executable, "-c", RECORDER, script],
            cwd=tmp_path,
            env={**os.environ, **OFFLINE, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    assert runs[0] == runs[1]
    training = [rows for rows in runs[0] if isinstance(rows[0], list)]  # validation has indices
    rows = [tuple(row) for batch in training for row in batch]
    assert all(len(row) == 2 for row in rows)
    weights = [max(row) for row in rows]
    assert 0 < sum(weight < 1 for weight in weights) < len(weights)
    half = len(training) // 2
    assert training[:half] != training[half:]


@EACH_NEED
def test_script_names_a_missing_package(script, packages, monkeypatch, capsys):
    """Without its package a script prints how to install it, and exits with status 0."""
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert not end.value.code
    expected = rf"skipped: {packages[0]} is not installed; pip install .*\n"
    assert re.fullmatch(expected, capsys.readouterr().out)


@EACH_NEED
def test_script_does_not_skip_if_an_import_fails(script, packages, monkeypatch, tmp_path, capsys):
    """A package that is installed and fails on import is an error, not a reason to skip."""
    monkeypatch.syspath_prepend(tmp_path)
    for package in packages:
        for module in [name for name in sys.modules if package in name.split(".")]:
            monkeypatch.delitem(sys.modules, module)  # torch.utils.tensorboard, too
        (tmp_path / f"{package}.py").write_text("raise ImportError('it is broken')")
    with pytest.raises(ImportError, match="it is broken"):
        runpy.run_path(str(script), run_name="__main__")
    assert "skipped" not in capsys.readouterr().out


def test_all_scripts_but_three_look_for_their_package():
    """Only the scripts that need nothing but PyTorch do not look for a package."""
    others = {script.stem for script in SCRIPTS if script not in NEEDS}
    assert others == {"mmpretrain_augments", "torchrun_ddp", "torchvision_references"}


def test_pages_show_every_script():
    """The pages include the scripts of their folder and no other file, and the index lists them."""
    pages = {page.stem: page.read_text("utf-8") for page in FOLDER.glob("*.md")}
    shown = re.findall(r"^```\{literalinclude\} (\S+)$", "\n".join(pages.values()), re.M)
    assert sorted(shown) == [script.name for script in SCRIPTS]
    assert {*re.findall(r"\((\w+)\.md\)", pages.pop("index"))} == pages.keys()
