"""What people try first works, or its error says what to write."""

import copy
import pickle
from collections import UserList
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import tv_mixaug
from tv_mixaug import Chain, CutMix, Cutout, Mixup, OneOf, RandomErasing, make_collate_fn, timm

X, Y = torch.rand(4, 3, 8, 8), torch.arange(4)
SAMPLES = [(image, number) for number, image in enumerate(X)]
TYPED = [(tv_tensors.Image(image), number) for image, number in SAMPLES]
NAMED = [{"image": image, "label": number} for image, number in SAMPLES]
PICTURE = Image.new("RGB", (8, 8))
RULE, OPTIONS = CutMix(num_classes=4), {"num_classes": 4}


def load(samples, transform=RULE):
    return next(iter(DataLoader(samples, 4, collate_fn=transform)))


def guess(name):
    exec(f"from tv_mixaug import {name}", {})  # noqa: S102


WRAP = r"a list of samples; as collate_fn=, give make_collate_fn\(transform\)"
BATCH = r"image\[None\]"
GUESSES = {
    "a transform as collate_fn": (lambda: load(SAMPLES), WRAP),
    "typed images": (lambda: load(TYPED), WRAP),
    "samples that are dicts": (lambda: load(NAMED), WRAP),
    "pictures": (lambda: load([(PICTURE, 1)] * 4), WRAP),
    "a choice as collate_fn": (lambda: load(SAMPLES, OneOf([RULE])), WRAP),
    "a chain as collate_fn": (lambda: load(SAMPLES, Chain([RULE])), WRAP),
    "one image": (lambda: RULE(X[0], 1), BATCH),
    "one image of v2": (lambda: RULE(tv_tensors.Image(X[0]), Y[:3]), BATCH),
    "one picture": (lambda: RULE(PICTURE, 1), BATCH),
    "one array": (lambda: RULE(np.zeros((8, 8, 3)), 1), BATCH),
    "MixUp": (lambda: guess("MixUp"), "its name is 'Mixup'"),
    "CutOut": (lambda: guess("CutOut"), "its name is 'Cutout'"),
    "Cutmix": (lambda: guess("Cutmix"), "its name is 'CutMix'"),
    "alpha for classes": (lambda: CutMix(10)(X, Y), "None and alpha = 10; write num_classes=10"),
    "two transforms": (lambda: make_collate_fn(RULE, Mixup()), "transforms must be in a list"),
    "another number": (lambda: OneOf([RULE], num_classes=3), "num_classes must be 4 as in its"),
}


@pytest.mark.parametrize("name", GUESSES)
def test_an_error_answers_a_guess(name):
    """The error says what to write instead."""
    call, text = GUESSES[name]
    with pytest.raises((TypeError, ValueError, ImportError), match=text):
        call()


def test_other_calls_have_no_hint():
    """A fractional alpha is none of num_classes, and a wrong attribute is no ImportError."""
    for mix in (Mixup(0.2), Mixup()):
        with pytest.raises(ValueError, match=r"got None\.$"):
            mix(X, Y)
    assert not hasattr(tv_mixaug, "MixUp")
    assert import_module("tv_mixaug.timm") is timm


def test_a_number_of_classes_is_given_to_all_members():
    """Rules without a number of classes are copied with it; those of the caller stay unchanged."""
    members = [Mixup(), CutMix(), Cutout(num_classes=4)]
    for mode in ("batch", "sample"):
        either = OneOf(members, num_classes=4, mode=mode)
        assert either(X, Y)[1].shape == (4, 4)
        assert [rule.num_classes for rule in either.transforms] == [4, 4, 4]
    assert members[0].num_classes is members[1].num_classes is None
    assert either.transforms[2] is members[2]


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_alpha_zero_never_mixes(kind, mode):
    """Images are unchanged, also beside NaN, and the weight of the original is exactly 1."""
    images = X.clone()
    images[0] = torch.nan
    (out, labels), plan = kind(0.0, mode=mode, **OPTIONS).mix((images, Y))
    assert torch.equal(out[1:], images[1:])
    assert torch.equal(labels, torch.eye(4))
    assert (plan.lam.tolist(), plan.op.tolist()) == ([1.0] * 4, [0] * 4)


@pytest.mark.parametrize("p", [np.array([0.5, 0.25]), torch.tensor([0.5, 0.25]), (0.5, 0.25)])
def test_probabilities_are_any_sequence(p):
    """Arrays, tensors and tuples are lists of probabilities."""
    assert make_collate_fn([RULE, Mixup(**OPTIONS)], p=p).p == [0.5, 0.25]


def make_all():
    """Return one transform of each kind, and its repr."""
    rules = [Mixup(0.2, **OPTIONS), RULE]
    return {
        "CutMix(num_classes=4)": CutMix(**OPTIONS),
        "Mixup(mode='sample', alpha=0.5)": Mixup(0.5, mode="sample"),
        "Cutout()": Cutout(),
        "Cutout(size=8, fill='noise')": Cutout(8, fill="noise"),
        "RandomErasing(p=1.0)": RandomErasing(p=1.0),
        "OneOf(transforms=(Mixup(num_classes=4, alpha=0.2), CutMix(num_classes=4)))": OneOf(rules),
        "OneOf(transforms=(CutMix(num_classes=4),), p=[0.5])": OneOf([RULE], [0.5]),
        "Chain(transforms=(CutMix(num_classes=4),), erased='owner')": Chain([RULE], erased="owner"),
        "Mixup(mixup_alpha=0.8, cutmix_alpha=1.0)": timm.Mixup(0.8, 1.0),
    }


def test_transforms_are_shown_and_compared_by_their_arguments():
    """repr() shows what differs from the defaults; equal arguments make equal transforms."""
    first, second = make_all(), make_all()
    assert [repr(transform) for transform in first.values()] == list(first)
    for name, transform in first.items():
        assert [other for other, one in second.items() if one == transform] == [name]
        assert hash(transform) == hash(second[name])
        assert copy.deepcopy(transform) == pickle.loads(pickle.dumps(transform)) == transform  # noqa: S301
    changed = CutMix(**OPTIONS)
    changed.p = 0.5
    assert changed != CutMix(**OPTIONS)
    assert changed != "CutMix(num_classes=4)"
    changed.held = torch.ones(2)  # not an argument
    assert changed == copy.deepcopy(changed)


def test_equal_rules_in_a_module_are_both_applied():
    """A chain follows both of two equal rules in nn.Sequential."""
    rules = Chain([nn.Sequential(CutMix(**OPTIONS), CutMix(**OPTIONS)), v2.Identity()]).rules
    assert len(rules) == 2


def test_configured_sequences_are_arguments():
    """Sequences of other classes, such as OmegaConf's, are accepted for lists and tuples."""
    pair = UserList([0.25, 0.5])
    assert (Mixup(pair).alpha, Mixup(lam=pair).lam) == ((0.25, 0.5), (0.25, 0.5))
    assert Cutout(pair, fill=pair).size == (0.25, 0.5)
    erased = RandomErasing(pair, ratio=UserList([1, 2]), p=1.0)(X)
    assert (erased == 0).any()
