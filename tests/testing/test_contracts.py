"""Checks of inputs, label formats and seeds; the public names and the guide of the kit."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import tv_mixaug.testing as kit
from tv_mixaug import CutMix
from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing import assert_inputs_unchanged, assert_one_label_format, assert_reproducible


def test_unchanged_inputs_pass():
    """Tensors, arrays, NaN and plain values that do not change pass."""
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


def test_a_second_label_format_fails():
    """RandomApply(MixUp) of torchvision alternates between two formats; pairs have one."""
    assert_one_label_format(lambda p: CutMix(targets="pair", p=p), num_classes=3)
    mix = v2.MixUp(num_classes=3)
    with pytest.raises(AssertionError, match=r"\(4,\) torch.int64 .* but \(4, 3\) torch.float32"):
        assert_one_label_format(lambda p: v2.RandomApply([mix], p=p), num_classes=3)


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


def test_the_guide_lists_each_cause_with_its_remedy():
    """Every cause that the kit can name has a row in the guide."""
    guide = Path(__file__).parents[2] / "docs" / "guide" / "truth.md"
    rows = [line for line in guide.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    known = [value for value in vars(causes).values() if isinstance(value, causes.Cause)]
    assert len(known) > 30
    for cause in known:
        begin = cause.text.split("{")[0].strip("., ").lower()
        found = [row for row in rows if begin in row.lower() and cause.remedy.rstrip(".") in row]
        assert len(found) == 1, cause


def test_names_are_complete():
    """A misspelt name is an AttributeError, and dir() lists the strategies."""
    with pytest.raises(AttributeError, match="no attribute 'image_batch'"):
        _ = kit.image_batch
    assert {"plans", "assert_probability"} <= set(dir(kit)) == set(kit.__all__)
