"""Checks of inputs, label formats and seeds, and what the kit itself imports and documents."""

import ast
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

import tv_mixaug.testing as kit
from tv_mixaug import CutMix, Cutout, Mixup, make_collate_fn
from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing import assert_inputs_unchanged, assert_one_label_format, assert_reproducible


def test_unchanged_inputs_pass():
    """Tensors, arrays, NaN and plain values that stay as they are pass."""
    inputs = {"images": torch.tensor([torch.nan, 1.0]), "array": np.arange(3), "name": "a"}
    assert_inputs_unchanged(lambda batch: None, inputs)


CHANGES = {
    "tensor": (lambda x: x["tensor"].add_(1), r"\['tensor'\]"),
    "dtype": (lambda x: x.update(tensor=x["tensor"].double()), r"\['tensor'\]"),
    "array": (lambda x: np.add(x["array"], 1, out=x["array"]), r"\['array'\]"),
    "nested": (lambda x: x["list"][1].zero_(), r"\['list'\]\[1\]"),
    "list": (lambda x: x["list"].pop(), "containers have other lengths"),
    "value": (lambda x: x.update(number=2), r"\['number'\]"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_inputs_fail(name):
    """A change of any kind of field or container is found and its place named."""
    change, place = CHANGES[name]
    inputs = {"tensor": torch.zeros(2), "array": np.arange(3), "list": [1, torch.ones(2)]}
    with pytest.raises(AssertionError, match=place):
        assert_inputs_unchanged(change, inputs | {"number": 1})


def test_one_label_format_holds_for_ours():
    """Our labels have one format for every p, in a collate function and with pairs."""
    assert_one_label_format(lambda p: Cutout(num_classes=3, p=p), num_classes=3)
    assert_one_label_format(lambda p: CutMix(targets="pair", p=p), num_classes=3)
    mix = Mixup(num_classes=3)
    assert_one_label_format(lambda p: make_collate_fn(mix, p=p), num_classes=3, collate=True)


def test_second_label_format_is_found():
    """RandomApply(MixUp) of torchvision alternates two formats."""
    mix = v2.MixUp(num_classes=3)
    with pytest.raises(AssertionError, match=r"\(4,\) torch.int64 .* but \(4, 3\) torch.float32"):
        assert_one_label_format(lambda p: v2.RandomApply([mix], p=p), num_classes=3)


def test_reproducible_loaders_pass():
    """A seeded collate function gives the same batches with and without a worker."""
    data = TensorDataset(torch.arange(8.0).view(8, 1, 1, 1).expand(-1, 1, 4, 4), torch.arange(8))
    collate = make_collate_fn(CutMix(num_classes=8), seed=1)
    assert_reproducible(
        lambda n: DataLoader(data, 4, num_workers=n, collate_fn=collate), num_workers=(0, 1)
    )


def test_irreproducible_loaders_fail():
    """Batches that differ from run to run, in value or number, fail with their number."""
    count = iter(range(100))
    with pytest.raises(AssertionError, match=r"differ in batch 0: the value at \[1\]"):
        assert_reproducible(lambda n: [("a", next(count))], num_workers=(0,))
    with pytest.raises(AssertionError, match="give 1 and 2 batches"):
        assert_reproducible(range, num_workers=(1, 2))
    with pytest.raises(ValueError, match="at least one batch"):
        assert_reproducible(lambda n: [])
    with pytest.raises(ValueError, match="num_workers must not be empty"):
        assert_reproducible(lambda n: [1], num_workers=())


def test_pipelines_must_be_callable():
    """Every check refuses something that cannot be called."""
    formats = partial(assert_one_label_format, num_classes=2)
    for check in (assert_inputs_unchanged, assert_reproducible, formats):
        with pytest.raises(TypeError, match="must be a callable, got NoneType"):
            check(None)
    with pytest.raises(TypeError, match=r"make_pipeline\(p\) must be a callable, got NoneType"):
        formats(lambda p: None)


def test_guide_says_what_to_do_for_each_cause():
    """Every cause that the kit can name stands in the guide with its remedy."""
    guide = Path(__file__).parents[2] / "docs" / "guide" / "truth.md"
    rows = [line for line in guide.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    known = [value for value in vars(causes).values() if isinstance(value, causes.Cause)]
    assert len(known) > 30
    for cause in known:
        begin = cause.text.split("{")[0].strip("., ").lower()
        found = [row for row in rows if begin in row.lower() and cause.remedy.rstrip(".") in row]
        assert len(found) == 1, cause


def top_level_imports(path):
    """Return the modules and names that a file imports when it is imported."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return set(names)


def test_assertions_need_no_hypothesis():
    """Only the strategies import hypothesis, and nothing imports them before they are used."""
    package = Path(kit.__file__).parents[1]
    users = {f.name for f in package.rglob("*.py") if "hypothesis" in top_level_imports(f)}
    assert users == {"strategies.py"}
    assert not any("strategies" in name for name in top_level_imports(Path(kit.__file__)))


def test_referee_shares_no_code_with_players():
    """The assertions import only checks of arguments, the strategies only public names."""
    public = {"CutMix", "Cutout", "Mixup", "Plan"}
    for path in Path(kit.__file__).parent.glob("*.py"):
        names = {name for name in top_level_imports(path) if name.startswith("tv_mixaug.")}
        allowed = {"testing", "_validation"} | (public if path.name == "strategies.py" else set())
        assert {name.split(".")[1] for name in names} <= allowed, path.name


def test_unknown_names_are_unknown():
    """A misspelt name is an AttributeError, and dir() lists the strategies."""
    with pytest.raises(AttributeError, match="no attribute 'image_batch'"):
        _ = kit.image_batch
    assert {"plans", "assert_probability"} <= set(dir(kit)) == set(kit.__all__)
