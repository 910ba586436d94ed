"""The scripts with other libraries run, and say so if a library is missing."""

import json
import os
import re
import runpy
import subprocess
import sys

import pytest
import torch
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


# Scripts without a loss; the others are trained. Smoothing, and erasing, change the labels' truth.
UNTRAINED = {"albumentations_dataset", "stateful_dataloader", "tensorboard_images", "torchrun_ddp"}
PRINTED = {
    "albumentations_dataset": r"image \(8, 3, 64, 64\) torch.uint8, Mask \(8, 64, 64\)",
    "tensorboard_images": "logged a picture of each epoch and 8 histograms",
}
SMOOTHING = {"deit_loop": 0.1, "timm_training": 0.1}
TRAINED = [script for script in SCRIPTS if script.stem not in UNTRAINED]


def run_script(arguments, folder):
    return subprocess.run(  # noqa: S603  # a script of this project
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **OFFLINE, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAINED, ids=lambda path: path.stem)
def test_script_mixes_truly_and_reproducibly(script, tmp_path):
    """Labels equal pixels, epochs differ, and a second run has the same mixes."""
    for package in NEEDS.get(script, ()):
        pytest.importorskip(package)
    recorder, runs = FOLDER.parents[1] / "tests" / "helpers" / "record_losses.py", []
    for _ in range(2):
        done = run_script([recorder, script], tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    assert runs[0] == runs[1]
    batches = [batch for batch in runs[0] if batch[0] is not None]  # validation has indices
    assert batches[: len(batches) // 2] != batches[len(batches) // 2 :]
    smoothing = SMOOTHING.get(script.stem, 0)
    labels = [(w - smoothing / 2) / (1 - smoothing) for batch in batches for w in batch[0]]
    assert any(0.01 < weight < 0.99 for weight in labels)
    if script.stem != "torchvision_references":  # which erases pixels
        means = [mean for batch in batches for mean in batch[1]]
        assert labels == pytest.approx(means, abs=0.003)


@pytest.mark.slow
@pytest.mark.parametrize("stem", sorted(UNTRAINED - {"torchrun_ddp"}))
def test_script_runs(stem, tmp_path):
    """A script runs without the network; tests/loading/test_distributed.py runs torchrun_ddp."""
    done = run_script([FOLDER / f"{stem}.py"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip())
    assert done.stdout.strip(), "it must print what it shows."
    if stem in PRINTED:
        assert re.search(PRINTED[stem], done.stdout), done.stdout


@pytest.mark.slow
def test_the_resumed_epoch_is_the_rest_of_the_whole_one(capsys):
    """A stopped epoch, resumed in another state of the global generator, has the same batches."""
    pytest.importorskip("torchdata")
    module = runpy.run_path(str(FOLDER / "stateful_dataloader.py"))
    torch.manual_seed(0)
    module["run_epoch"](epoch=1)
    whole = capsys.readouterr().out
    module["main"]()
    assert capsys.readouterr().out.replace("resumed, as in a new process:\n", "") == whole


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
