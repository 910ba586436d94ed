"""The collate function of the validation loader: the same format, never mixed, independent."""

import pytest
import torch
from helpers.loading import CLASSES, Pictures, make, same
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup, OneOf, make_collate_fn, timm

MIXUP, CUTMIX = Mixup(num_classes=CLASSES), CutMix(num_classes=CLASSES)
COLLATE_FNS = {
    "one": make_collate_fn(CUTMIX),
    "list": make_collate_fn([MIXUP, CUTMIX, Cutout(num_classes=CLASSES)], seed=1),
    "sample": make_collate_fn(CutMix(num_classes=CLASSES, mode="sample", p=0.9)),
    "pair": make_collate_fn(Mixup(num_classes=CLASSES, targets="pair")),
    "smoothed": make_collate_fn(Mixup(num_classes=CLASSES, label_smoothing=0.1)),
    "with torchvision's": make_collate_fn([v2.RandomHorizontalFlip(1.0), CUTMIX]),
    "chain": make_collate_fn(Chain([CUTMIX, v2.Normalize([0.5] * 3, [0.5] * 3), MIXUP])),
    "own stacking": make_collate_fn(CUTMIX, collate_fn=lambda samples: default_collate(samples)),
    "record": make(),
    "one of, each sample": make_collate_fn(OneOf([MIXUP, CUTMIX], mode="sample")),
    "a chain of one of": make_collate_fn(OneOf([Chain([CUTMIX, MIXUP]), MIXUP], [0.5, 0.5])),
    "as timm": make_collate_fn(timm.Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=CLASSES)),
}


def samples(count=8):
    return [Pictures()[i][:2] for i in range(count)]


@pytest.mark.parametrize("collate_fn", COLLATE_FNS.values(), ids=COLLATE_FNS)
def test_a_validation_batch_is_an_unmixed_training_batch(collate_fn):
    """It is what the training function makes with p = 0, in every format."""
    p = collate_fn.p
    found = [collate_fn.for_validation()(samples()) for _ in range(3)]
    try:
        collate_fn.set_p([0.0] * len(p) if isinstance(p, list) else 0.0)
        plain = collate_fn(samples())
    finally:
        collate_fn.set_p(p)
    for batch in found:
        assert same(batch, plain)


def test_what_training_sets_does_not_reach_it():
    """Neither p nor epoch is shared, in either direction."""
    training = make()
    valid = training.for_validation()
    training.set_p([0.0, 1.0])
    training.set_epoch(2)
    assert (valid.p, valid.epoch) == ([0.0, 0.0], 0)
    valid.set_p([1.0, 0.0])
    valid.set_epoch(9)
    assert (training.p, training.epoch) == ([0.0, 1.0], 2)


def test_epochs_of_a_seeded_function_are_validated_without_a_warning():
    """No mix repeats in a second epoch, so nothing warns."""
    loader = DataLoader(Pictures(8), batch_size=4, collate_fn=make(record=False).for_validation())
    first, second = list(loader), list(loader)  # a warning is an error here
    assert same(first, second)


@pytest.mark.parametrize("transforms", [v2.Compose([CUTMIX]), [v2.CutMix(num_classes=CLASSES)]])
def test_transforms_that_give_no_format_are_refused(transforms):
    """Without a transform of this package, unmixed labels would have another format."""
    with pytest.raises(ValueError, match=r"of tv_mixaug.*got (Compose|\[CutMix\]); put it"):
        make_collate_fn(transforms).for_validation()


@pytest.mark.parametrize("collate_fn", COLLATE_FNS.values(), ids=COLLATE_FNS)
def test_class_indices_are_given_on_request(collate_fn):
    """Labels are the samples' (B,) indices in every format; nothing else changes or is mixed."""
    valid = collate_fn.for_validation(labels="index")
    batch, usual = valid(samples()), collate_fn.for_validation()(samples())
    assert torch.equal(batch[1], torch.tensor([label for _, label in samples()]))
    assert batch[1].dtype == torch.int64
    assert same([batch[0], *batch[2:]], [usual[0], *usual[2:]])
    with pytest.raises(ValueError, match="p must be 0 with labels='index'"):
        valid.set_p([0.5] + [0.0] * (len(valid.p) - 1) if isinstance(valid.p, list) else 0.5)


def test_labels_without_indices_are_refused():
    """Rows are no class indices, and an unknown format is named."""
    rows = [(image, torch.eye(CLASSES)[label]) for image, label in samples()]
    with pytest.raises(ValueError, match=r"labels at \[1\] must be class indices"):
        COLLATE_FNS["one"].for_validation(labels="index")(rows)
    with pytest.raises(ValueError, match="labels must be one of 'same', 'index', got 'soft'"):
        COLLATE_FNS["one"].for_validation(labels="soft")
