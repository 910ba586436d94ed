"""The strategies generate valid batches, labels, plans, samples and transforms."""

import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis.errors import InvalidArgument

import tv_mixaug.testing as kit
from tv_mixaug import CutMix, Mixup, functional, make_collate_fn
from tv_mixaug.engine.plan import BLEND, FILL, NONE, PASTE


@given(kit.image_batches(min_size=2, max_size=3, min_side=4, max_side=6))
def test_image_batches_are_in_bounds(images):
    """Images keep the bounds asked for, and the range of their dtype."""
    assert len(images) in (2, 3)
    assert images.shape[1] in (1, 3)
    assert all(4 <= side <= 6 for side in images.shape[2:])
    assert images.min() >= 0
    assert images.max() <= (255 if images.dtype == torch.uint8 else 1)


@given(kit.label_batches(num_classes=200, max_size=4))
def test_label_batches_are_valid(labels):
    """Labels are indices in range, or rows of K."""
    assert 1 <= len(labels) <= 4
    if labels.ndim == 1:
        assert labels.min() >= 0
        assert labels.max() < 200
    else:
        assert labels.shape[1] == 200
        if labels.dtype != torch.bool:
            torch.testing.assert_close(labels.sum(1).float(), torch.ones(len(labels)))


@given(kit.plans(image_size=(5, 7), max_size=6))
def test_plans_are_valid(plan):
    """Plans are replayed on images of their size, and their labels are the shares of pixels."""
    size = len(plan.op)
    assert plan.boxes.shape == (size, 1, 4)
    assert ((plan.lam >= 0) & (plan.lam <= 1)).all()
    images = torch.eye(size)[:, :, None, None].expand(-1, -1, 5, 7).contiguous()
    mixed = functional.replay(images, plan, fill=2.0)
    labels = functional.mix_labels(torch.eye(size), plan.partner, plan.lam)
    clean = plan.op != FILL
    assert torch.allclose(mixed.mean((2, 3))[clean], labels[clean], atol=1e-6)


@given(kit.samples(num_classes=3, min_size=2, dtypes=[torch.float32]))
def test_samples_can_be_collated(samples):
    """Sample lists go through a collate function."""
    batch = make_collate_fn(Mixup(num_classes=3))(samples)
    labels = batch["label"] if isinstance(batch, dict) else batch[1]
    assert labels.shape == (len(samples), 3)


@given(kit.transforms(num_classes=3), kit.image_batches(channels=[3]))
def test_transforms_are_valid(transform, images):
    """Every configuration transforms every batch."""
    mixed, labels = transform(images, torch.arange(len(images)) % 3)
    assert mixed.shape == images.shape
    assert len(labels[0] if transform.targets == "pair" else labels) == len(images)


def simplest(strategy, condition):
    """Return what a failing example shrinks to."""
    phases = [Phase.generate, Phase.shrink]
    options = settings(max_examples=100, derandomize=True, phases=phases)
    return find(strategy, condition, settings=options)


def test_strategies_shrink_to_simple_examples():
    """Failing examples become few samples, small sides and plain settings."""
    images = simplest(kit.image_batches(max_side=16), lambda x: len(x) >= 2)
    assert (tuple(images.shape), images.dtype) == ((2, 3, 1, 1), torch.float32)
    plan = simplest(kit.plans(image_size=(8, 8)), lambda x: bool((x.op == PASTE).any()))
    assert (plan.op.tolist(), plan.boxes.tolist()) == ([PASTE], [[[0, 0, 0, 0]]])
    every = simplest(kit.plans(image_size=(4, 4)), lambda x: len(set(x.op.tolist())) == 4)
    assert sorted(every.op.tolist()) == [NONE, FILL, BLEND, PASTE]
    mix = simplest(kit.transforms(num_classes=3), lambda x: isinstance(x, CutMix))
    assert (mix.p, mix.alpha, mix.mode, mix.targets) == (1.0, 1.0, "batch", "soft")


BAD = [
    (kit.image_batches, {"min_size": 3, "max_size": 2}, "max_size must be >= min_size = 3"),
    (kit.image_batches, {"min_side": 0}, "min_side must be an int >= 1"),
    (kit.image_batches, {"dtypes": []}, "dtypes must be chosen from"),
    (kit.image_batches, {"channels": [0]}, "channels must be numbers >= 1"),
    (kit.label_batches, {"num_classes": 0}, "num_classes must be an int >= 1"),
    (kit.label_batches, {"num_classes": 2, "kinds": ["hard"]}, "kinds must be chosen from"),
    (kit.plans, {"image_size": (0, 4)}, "image_size must be"),
    (kit.plans, {"image_size": (4, 4), "ops": ["mosaic"]}, "ops must be chosen from"),
    (kit.samples, {"num_classes": 2, "min_size": 0}, "min_size must be an int >= 1"),
    (kit.samples, {"num_classes": 2, "layouts": ["set"]}, "layouts must be chosen from"),
    (kit.transforms, {"num_classes": True}, "num_classes must be an int >= 1"),
    (kit.transforms, {"num_classes": 2, "targets": ["hard"]}, "targets must be chosen from"),
    (kit.transforms, {"num_classes": 2, "max_smoothing": 1}, "max_smoothing must be in"),
]


@pytest.mark.parametrize(("strategy", "options", "text"), BAD)
def test_strategies_refuse_bad_arguments_at_once(strategy, options, text):
    """A bad bound is refused when the strategy is made, not when it is sampled from."""
    with pytest.raises(InvalidArgument, match=text):
        strategy(**options)
