"""Arguments of transforms: which values are accepted, how they are kept, shown and changed."""

import re

import numpy as np
import pytest
import torch
from helpers.coded import coded_images, seeded
from helpers.refusals import refused
from helpers.transforms import MEMBERS, make
from torchvision.transforms import v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup, OneOf, RandomErasing, make_collate_fn

BATCH, K = (coded_images(4), torch.arange(4)), {"num_classes": 4}
MIXED = {"age": "regression", "kind": 3}
KINDS = pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout, RandomErasing])


@pytest.mark.parametrize(
    ("kind", "arguments", "stored"),
    [
        (Mixup, {"alpha": np.float32(0.5), "p": np.float64(0.5)}, {"alpha": 0.5, "p": 0.5}),
        (Mixup, {"alpha": 1, "p": 1, "label_smoothing": 0}, {"alpha": 1.0}),
        (Mixup, {"num_classes": np.int64(3), "passthrough": ["a", 3]}, {"passthrough": ("a", 3)}),
        (Mixup, {"num_classes": MIXED, "label_smoothing": 0.1}, {"num_classes": MIXED}),
        (CutMix, {"min_visible": 1, "pairing": len}, {"min_visible": 1.0, "pairing": len}),
        (Cutout, {"size": np.int64(4), "holes": np.int32(2)}, {"size": 4, "holes": 2}),
        (Cutout, {"fill": np.float32(0.5), "mask_fill": -1}, {"fill": 0.5, "mask_fill": -1}),
        (Cutout, {"size": [0.5, 3], "fill": [1, 2.5]}, {"size": (0.5, 3), "fill": (1.0, 2.5)}),
    ],
)
def test_numbers_and_sequences_of_any_type_are_accepted(kind, arguments, stored):
    """NumPy's scalars are accepted for numbers, ints for floats and lists for tuples."""
    rule = kind(**arguments)
    assert {name: getattr(rule, name) for name in stored} == stored


@KINDS
def test_repr_shows_the_arguments_that_were_changed(kind):
    """A printed transform has its name and the arguments that differ from their defaults."""
    assert repr(kind(p=0.25)).startswith(f"{kind.__name__}(")
    assert "p=0.25" in repr(kind(p=0.25))
    assert "num_classes" not in repr(kind(p=0.25))


def test_constructors_copy_what_they_are_given():
    """Lists and dicts of the caller stay unchanged, and later changes of them have no effect."""
    fill, size, passthrough, classes = [1, 2, 3], [4, 5], ["depth"], {"label": 4}
    rules, p = [Mixup(num_classes=3), CutMix(num_classes=3)], [0.5, 0.5]
    for _ in range(2):
        rule = Cutout(size, fill=fill, passthrough=passthrough, num_classes=classes)
        collate_fn, chain = make_collate_fn(rules, p=p), Chain(rules)
        v2.Compose(rules)
    assert (fill, size, passthrough, classes) == ([1, 2, 3], [4, 5], ["depth"], {"label": 4})
    assert (len(rules), p) == (2, [0.5, 0.5])
    for changed in (fill, size, passthrough, rules):
        changed.clear()
    classes["other"] = p[0] = 9
    assert (rule.fill, rule.size, rule.passthrough) == ((1, 2, 3), (4, 5), ("depth",))
    assert rule.num_classes == {"label": 4}
    assert (collate_fn.p, len(chain.transforms)) == ([0.5, 0.5], 2)


@pytest.mark.parametrize(
    ("rule", "name", "value", "wrong", "text"),
    [
        (Mixup(**K), "alpha", 0.5, -1, "alpha must be >= 0, got -1"),
        (Mixup(**K), "lam", (0.25, 0.5), 2, "lam must be in [0, 1]"),
        (Mixup(lam=0.5, **K), "lam", 0.25, 2, "lam must be in [0, 1]"),
        (Mixup(lam=0.5, **K), "pairing", "shuffle", "random", "pairing must be one of"),
        (CutMix(**K), "mode", "sample", "each", "mode must be one of"),
        (CutMix(lam=0.5, **K), "p", 0.5, 2, "p must be in [0, 1]"),
        (Cutout(**K), "size", (3, 0.5), (1, 2, 3), "size must be one side or (height, width)"),
        (RandomErasing(**K), "count", 3, 0, "count must be >= 1, got 0"),
        (Mixup(lam=0.5, **K), "lam", None, 3, "lam must be"),
    ],
)
def test_arguments_of_the_distribution_can_be_set(rule, name, value, wrong, text):
    """A value is checked when it is set; a wrong one leaves the old value."""
    setattr(rule, name, value)
    rule(*BATCH)
    with pytest.raises(ValueError, match=re.escape(text)):
        setattr(rule, name, wrong)
    assert getattr(rule, name) == value
    rule(*BATCH)


OPTIONS = ("num_classes", "label_smoothing", "targets", "masks", "layout")


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout, RandomErasing, OneOf, Chain])
def test_what_decides_how_a_batch_is_read_cannot_be_set(kind):
    """Options of labels and masks, and what a choice or a chain is made of, are given once."""
    is_rule, text = kind not in (OneOf, Chain), f"cannot be set; make a new {kind.__name__}"
    rule = kind(**K) if is_rule else kind([CutMix(**K)])
    for name in OPTIONS if is_rule else rule.fixed:
        old = getattr(rule, name)
        with pytest.raises(AttributeError, match=f"{name} {text}"):
            setattr(rule, name, 6 if name == "num_classes" else old)
        assert getattr(rule, name) is old
    assert rule(*BATCH)[1].shape == (4, 4)


@pytest.mark.parametrize("name", MEMBERS)
def test_options_of_calls_are_checked(name):
    """The arguments of mix and draw_plan are checked before anything is sampled."""
    mix = make(name)
    for method in (mix.mix, mix.draw_plan):
        for p in (2, float("nan"), "1", [0.5]):
            refused(lambda p=p, m=method: m(BATCH, p=p), "p must", kind=(TypeError, ValueError))
    refused(lambda: mix.mix(BATCH, inplace=1), "inplace must be a bool", kind=TypeError)
    if MEMBERS[name].has_plan:
        call = lambda: mix.draw_plan(BATCH, device="meta", generator=seeded())  # noqa: E731
        refused(call, "generator must be on meta, got one on cpu")
    else:
        refused(lambda: mix.draw_plan(BATCH), "draw_plan() is not available for", "has no plan")
