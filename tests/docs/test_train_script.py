"""The training script runs, resumes and reports, on a synthetic data set in the raw layout."""

import importlib.util
import struct
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "docs" / "benchmarks" / "train_fashion_mnist.py"

pytest.importorskip("tqdm", reason="needs the extra `bench`")
pytest.importorskip("matplotlib", reason="needs the extra `bench`")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_fashion_mnist", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise with a bright row at the height of the class, written as torchvision reads it."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for prefix, count in (("train", 100), ("t10k", 60)):
        labels = torch.randint(10, (count,), generator=generator, dtype=torch.uint8)
        images = torch.randint(100, (count, 28, 28), generator=generator, dtype=torch.uint8)
        images[torch.arange(count), 2 * labels.long() + 4] = 255
        header = struct.pack(">4i", 2051, count, 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.numpy().tobytes())
        header = struct.pack(">2i", 2049, count)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.numpy().tobytes())
    return folder


@pytest.fixture
def size(script):
    return script.Size(
        ("small",), 100, 60, epochs=2, warm_up=1, seeds=(0,), redrawn=(0.0,), batch_size=50
    )


def test_every_arm_ends_in_the_reports(script, size, data, tmp_path):
    """One command trains every arm and writes a CSV, a table with a line for each, and a plot."""
    script.run_all("tiny", size, data, tmp_path)
    rows = script.read_rows(tmp_path / "tiny.csv")
    assert [row["arm"] for row in rows] == list(script.ARMS)
    assert all(0 <= float(row["error"]) <= 100 and float(row["nll"]) > 0 for row in rows)
    table = (tmp_path / "tiny.md").read_text(encoding="utf-8")
    assert all(f"| {arm} | " in table for arm in script.ARMS)
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "runs" / "tiny").iterdir())


def test_finished_runs_are_not_repeated(script, size, data, tmp_path, monkeypatch):
    """A second call trains only what is new, and keeps the old rows as they are."""
    script.run_all("tiny", size, data, tmp_path, arms=["none"])
    before = (tmp_path / "tiny.csv").read_text(encoding="utf-8")
    trained = []
    train = script.train
    monkeypatch.setattr(script, "train", lambda run, *a: trained.append(run.arm) or train(run, *a))
    script.run_all("tiny", size, data, tmp_path, arms=["none", "CutMix"])
    assert trained == ["CutMix"]
    assert (tmp_path / "tiny.csv").read_text(encoding="utf-8").startswith(before)


def test_an_interrupted_run_goes_on_exactly(script, size, data, tmp_path, monkeypatch):
    """A run stopped after its first epoch and resumed gives the row of one in a single piece."""
    run = script.Run("small", 0.4, "CutMix or Mixup", 0)
    whole = script.train(run, size, data, tmp_path / "whole.pt")
    replace = script.os.replace

    def stop(partial, checkpoint):
        replace(partial, checkpoint)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(script.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            script.train(run, size, data, tmp_path / "resumed.pt")
    assert torch.load(tmp_path / "resumed.pt", weights_only=True)["epochs"] == 1
    resumed = script.train(run, size, data, tmp_path / "resumed.pt")
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}


def test_redrawn_labels(script, size, data):
    """The stated share of labels is redrawn, the same for every arm, the images untouched."""
    clean, noisy, other_arm = (
        script.training_set(data, size, script.Run("small", redrawn, arm, 0))
        for redrawn, arm in ((0.0, "none"), (0.4, "none"), (0.4, "CutMix"))
    )
    changed = int((clean.labels != noisy.labels).sum())
    assert 25 <= changed <= 40  # 40 of 100 are redrawn, a tenth of them to what they were
    assert torch.equal(noisy.labels, other_arm.labels)
    assert torch.equal(clean.images, noisy.images)


def test_parameters(script):
    """The models have the sizes that the text names."""
    counts = {
        name: sum(parameter.numel() for parameter in build().parameters())
        for name, build in script.MODELS.items()
    }
    assert counts["small"] == 308_074
    assert 270_000 < counts["resnet20"] < 276_000
    assert 11_100_000 < counts["preact18"] < 11_200_000


@pytest.mark.parametrize("model", ["small", "resnet20", "preact18"])
def test_model_shapes(script, model):
    """Every model maps 28 × 28 grey images to ten logits."""
    assert script.MODELS[model]()(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_calibration_error_by_hand(script):
    """Confidence 0.9 and 0.6 with one of two right in each bin gives (0.4 + 0.1) / 2."""
    confident, unsure = [0.9, 0.1], [0.6, 0.4]
    probabilities = torch.tensor([confident, confident, unsure, unsure])
    labels = torch.tensor([0, 1, 0, 1])
    assert script.calibration_error(probabilities, labels) == pytest.approx(0.25, abs=1e-6)


def test_table_pairs_seeds(script):
    """The difference to no mixing is taken seed by seed, with its own deviation."""
    common = {"model": "small", "redrawn": "0.0", "parameters": "1", "images": "1", "epochs": "1"}
    common |= {"nll": "1", "ece": "1", "train_loss": "1", "seconds": "1", "machine": "m"}
    common |= {"torch": "t", "torchvision": "v", "tv_mixaug": "a"}
    errors = {("none", 0): 10, ("none", 1): 14, ("CutMix", 0): 9, ("CutMix", 1): 13}
    rows = [
        {**common, "arm": arm, "seed": str(seed), "error": str(error)}
        for (arm, seed), error in errors.items()
    ]
    assert "| CutMix | 11.00 ± 2.83 | -1.00 ± 0.00 |" in script.table("tiny", rows)


def test_published_table_is_that_of_the_published_runs(script):
    """The table in the documentation is what the script writes for the CSV beside it."""
    folder = SCRIPT.with_suffix("")
    published = script.read_rows(folder / "cpu.csv")
    assert (folder / "cpu.md").read_text(encoding="utf-8") == script.table("cpu", published)
