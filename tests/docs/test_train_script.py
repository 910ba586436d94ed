"""The training script runs, resumes and reports, on a synthetic data set in the raw layout."""

from pathlib import Path

import pytest
import torch
from helpers.scripts import DOCS, load_script, write_fashion_mnist

for package in ("tqdm", "matplotlib"):
    pytest.importorskip(package, reason="needs the dependency group `bench`")
script = load_script("train_fashion_mnist")
SIZE = script.Size(("small",), 100, 60, 2, warm_up=1, seeds=(0,), redrawn=(0.0,), batch_size=50)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write noise with a bright row at the height of the class, as torchvision reads it."""
    folder, generator = tmp_path_factory.mktemp("data"), torch.Generator().manual_seed(0)
    for part, count in (("train", 100), ("t10k", 60)):
        labels = torch.randint(10, (count,), generator=generator, dtype=torch.uint8)
        images = torch.randint(100, (count, 28, 28), generator=generator, dtype=torch.uint8)
        images[torch.arange(count), 2 * labels.long() + 4] = 255
        write_fashion_mnist(folder, part, images, labels.tolist())
    return folder


def test_every_arm_is_reported(data, tmp_path):
    """One command trains all arms, and writes a CSV, a table with a row for each, and a plot."""
    script.run_all("tiny", SIZE, data, tmp_path)
    rows = script.read_rows(tmp_path / "tiny.csv")
    assert [row["arm"] for row in rows] == list(script.ARMS)
    assert all(0 <= float(row["error"]) <= 100 and float(row["nll"]) > 0 for row in rows)
    table = (tmp_path / "tiny.md").read_text(encoding="utf-8")
    assert all(f"| {arm} | " in table for arm in script.ARMS)
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "runs" / "tiny").iterdir())


def test_finished_runs_are_not_repeated(data, tmp_path, monkeypatch):
    """A second call trains only new runs and keeps the old rows."""
    script.run_all("tiny", SIZE, data, tmp_path, arms=["none"])
    before = (tmp_path / "tiny.csv").read_text(encoding="utf-8")
    trained, train = [], script.train
    monkeypatch.setattr(script, "train", lambda run, *a: trained.append(run.arm) or train(run, *a))
    script.run_all("tiny", SIZE, data, tmp_path, arms=["none", "CutMix"])
    assert trained == ["CutMix"]
    assert (tmp_path / "tiny.csv").read_text(encoding="utf-8").startswith(before)


def test_an_interrupted_run_resumes_exactly(data, tmp_path, monkeypatch):
    """A run that is stopped after its first epoch and resumed equals an uninterrupted run."""
    run = script.Run("small", 0.4, "CutMix or Mixup", 0)
    whole = script.train(run, SIZE, data, tmp_path / "whole.pt")
    replace = Path.replace

    def stop(partial, checkpoint):
        replace(partial, checkpoint)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            script.train(run, SIZE, data, tmp_path / "resumed.pt")
    assert torch.load(tmp_path / "resumed.pt", weights_only=True)["epochs"] == 1
    resumed = script.train(run, SIZE, data, tmp_path / "resumed.pt")
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}


def test_labels_are_redrawn(data):
    """The stated share of labels is redrawn, the same for all arms, and images do not change."""
    clean, noisy, other_arm = (
        script.training_set(data, SIZE, script.Run("small", redrawn, arm, 0))
        for redrawn, arm in ((0.0, "none"), (0.4, "none"), (0.4, "CutMix"))
    )
    changed = int((clean.labels != noisy.labels).sum())
    assert 25 <= changed <= 40  # of 40 redrawn labels a tenth stays the same
    assert torch.equal(noisy.labels, other_arm.labels)
    assert torch.equal(clean.images, noisy.images)


def test_models():
    """The models have the stated sizes and map 28 × 28 greyscale images to ten logits."""
    limits = {"small": (308_074, 308_074), "resnet20": (270_000, 276_000)}
    limits["preact18"] = (11_100_000, 11_200_000)
    assert limits.keys() == script.MODELS.keys()
    for name, (least, most) in limits.items():
        model = script.MODELS[name]()
        assert least <= sum(parameter.numel() for parameter in model.parameters()) <= most
        assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_calibration_error():
    """Confidences 0.9 and 0.6 with accuracy 0.5 in each bin give (0.4 + 0.1) / 2."""
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    error = script.calibration_error(probabilities, torch.tensor([0, 1, 0, 1]))
    assert error == pytest.approx(0.25, abs=1e-6)


def test_the_table_pairs_seeds():
    """The difference to no mixing is computed per seed and has its own deviation."""
    common = {"model": "small", "redrawn": "0.0", "machine": "m", "torch": "t", "torchvision": "v"}
    common |= dict.fromkeys(("parameters", "images", "epochs", "nll", "ece", "train_loss"), "1")
    errors = {("none", 0): 10, ("none", 1): 14, ("CutMix", 0): 9, ("CutMix", 1): 13}
    rows = [
        {**common, "tv_mixaug": "a", "arm": arm, "seed": str(seed), "error": str(error)}
        for (arm, seed), error in errors.items()
    ]
    assert "| CutMix | 11.00 ± 2.83 | -1.00 ± 0.00 |" in script.table("tiny", rows)


def test_the_published_table_is_that_of_the_published_runs():
    """The table in the documentation is the one that the script writes for the CSV."""
    folder = DOCS / "benchmarks" / "train_fashion_mnist"
    published = script.read_rows(folder / "cpu.csv")
    assert (folder / "cpu.md").read_text(encoding="utf-8") == script.table("cpu", published)
