"""Labels: every form is encoded and mixed by one rule, alone and beside other labels."""

import numpy as np
import pytest
import torch
from helpers.reference import mix_by_hand
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from tv_mixaug import CutMix, Cutout, Mixup, PairedLabels, functional

KINDS = pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
IMAGES = torch.rand(6, 1, 8, 8)
INDEX = torch.tensor([3, 0, 2, 2, 1, 3])
ROWS = one_hot(INDEX, 4)
TAGS = torch.rand(6, 5) < 0.5
UNKNOWN = torch.tensor([1, 0, 1, 0, 1, 1])[:, None]
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
REAL = {"num_classes": "regression", "labels_getter": lambda batch: batch[1]}

# Labels of six samples, arguments, and the rows that stand for them.
FORMS = {
    **{f"indices {t}": (INDEX.to(t), {"num_classes": 4}, ROWS) for t in (*INTEGERS, *UNSIGNED)},
    **{
        f"rows {t}, {count}": (ROWS.to(t), {"num_classes": count}, ROWS)
        for t in (torch.bool, *INTEGERS, torch.float16, torch.float32, torch.float64)
        for count in (4, None)
    },
    **{
        f"multi-hot {t}": (TAGS.to(t), {"num_classes": "multi"}, TAGS)
        for t in (torch.bool, torch.int64, torch.float32)
    },
    "one class": (INDEX * 0, {"num_classes": 1}, torch.ones(6, 1)),
    "unknown": (
        torch.where(UNKNOWN[:, 0] == 1, INDEX, -100),
        {"num_classes": 4, "ignore_index": -100},
        ROWS * UNKNOWN,
    ),
    **{
        f"real {shape} {t}": ((x := (torch.randn(shape) * 9).to(t)), REAL, x)
        for shape in ((6,), (6, 3), (6, 2, 2))
        for t in (torch.float32, torch.float64, torch.int64)
    },
}


def mix(kind, labels, seed, **options):
    """Mix with p = 0.7 per sample, and return the labels and the plan."""
    torch.manual_seed(seed)
    (_, mixed), plan = kind(mode="sample", p=0.7, **options).mix((IMAGES, labels))
    return mixed, plan


@KINDS
@pytest.mark.parametrize("form", FORMS)
@given(smoothing=st.sampled_from([0.0, 0.1]) | st.floats(0, 0.9), seed=st.integers(0, 2**32))
def test_labels_of_every_form_are_mixed_linearly(kind, form, smoothing, seed):
    """Indices and rows of any dtype become new float32 rows, smoothed as their sum."""
    labels, options, rows = FORMS[form]
    rows, before = rows.double(), labels.clone()
    if options is not REAL:
        options = {**options, "label_smoothing": smoothing}
        rows = rows * (1 - smoothing) + rows.sum(1, keepdim=True) * smoothing / rows.shape[1]
    mixed, plan = mix(kind, labels, seed, **options)
    assert mixed.dtype == torch.float32
    slack = 1e-5 if options is REAL else 1e-6
    torch.testing.assert_close(mixed.double(), mix_by_hand(rows, plan), atol=slack, rtol=0)
    assert torch.equal(labels, before)
    assert mixed.untyped_storage().data_ptr() != labels.untyped_storage().data_ptr()
    if form.startswith("rows") and smoothing == 0:
        assert torch.equal(mixed, mix(kind, INDEX, seed, **{**options, "num_classes": 4})[0])


def test_soft_labels_are_written_into_the_given_memory():
    """Only two entries of each row are not zero, and other classes are cleared."""
    made = []

    def allocate(size, dtype):
        made.append(torch.full(size, np.nan, dtype=dtype))
        return made[-1]

    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 99])
    transform = CutMix(num_classes=100, ignore_index=-1)
    (_, soft), plan = transform.run((images, labels), 1.0, allocate=allocate)
    assert soft.data_ptr() == made[0].data_ptr()
    expected = functional.mix_labels(torch.eye(100)[labels], *plan.plan()[1:3])
    torch.testing.assert_close(soft, expected, atol=1e-6, rtol=0)


@KINDS
@pytest.mark.parametrize("targets", ["soft", "pair"])
@given(p=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 2**32))
def test_several_labels_are_mixed_by_one_plan(kind, targets, p, seed):
    """Classes, tags and numbers keep one format; unknown labels add nothing, unnamed ones stay."""
    torch.manual_seed(seed)
    batch = {
        "image": IMAGES,
        "breed": torch.randint(-1, 4, (6,)),
        "coat": torch.randint(-1, 7, (6,)),
        "tags": torch.rand(6, 3) < 0.5,
        "age": torch.rand(6) * 90,
        "name": list("abcdef"),
        "label": torch.arange(6),
    }
    kinds = {"breed": 4, "coat": 7, "tags": "multi", "age": "regression"}
    transform = kind(num_classes=kinds, ignore_index=-1, mode="sample", p=p, targets=targets)
    out, plan = transform.mix(batch)
    assert list(out) == list(batch)
    assert out["name"] == batch["name"]
    assert out["label"] is batch["label"]
    rows = {key: (batch[key][:, None] == torch.arange(kinds[key])) for key in ("breed", "coat")}
    for key, given_rows in (rows | {"tags": batch["tags"], "age": batch["age"]}).items():
        if targets == "pair" and key != "age":
            assert type(out[key]) is PairedLabels
            expected = batch[key], batch[key][plan.partner], plan.lam
            assert all(map(torch.equal, out[key], expected))
        else:
            assert type(out[key]) is torch.Tensor
            assert out[key].dtype == torch.float32
            expected = mix_by_hand(given_rows, plan)
            torch.testing.assert_close(out[key].double(), expected, atol=1e-4, rtol=0)
