"""assert_targets_follow_images passes targets that follow their images, and explains faults."""

import pytest
import torch
from torch.nn.functional import one_hot
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import CutMix, Cutout, Mixup, functional, make_collate_fn
from tv_mixaug.testing import UntruthfulError, assert_targets_follow_images

FEW = {"batch_sizes": (1, 4), "sizes": ((8, 12),), "draws": 5}
DTYPES = {"dtypes": (torch.float32, torch.uint8, torch.float64, torch.float16, torch.bfloat16)}
cutmix = CutMix(labels_getter=None)


def check(pipeline, kind, **options):
    """Check targets with few draws."""
    return assert_targets_follow_images(pipeline, kind=kind, **{**FEW, **options})


MASKS_RIGHT = {
    "nothing": (lambda images, masks: (images, masks), {}),
    "flip": (v2.RandomHorizontalFlip(), {}),
    "cut": (CutMix(mode="sample", labels_getter=None), DTYPES),
    "soft": (Mixup(masks="soft", num_mask_classes=16, labels_getter=None), DTYPES),
    "dominant": (Mixup(masks="dominant", mode="sample", labels_getter=None), {}),
    "erased": (Cutout(labels_getter=None), {"erased": True}),
    "filled": (Cutout(labels_getter=None, mask_fill=15), {"erased": True, "mask_fill": 15}),
    "extra axis": (lambda images, masks: (images, masks[:, None]), {}),
}


@pytest.mark.parametrize("name", MASKS_RIGHT)
def test_right_masks_pass(name):
    """Masks that follow their images pass: index masks, soft planes, filled or not."""
    pipeline, options = MASKS_RIGHT[name]
    report = check(pipeline, "masks", **options)
    assert report.rows == 25 * len(options.get("dtypes", [1]))
    assert report.mixed or name not in ("cut", "soft", "dominant")


def blend_numbers(images, masks):
    mixed = (masks.float() + masks.flip(0).float()) / 2
    return (images + images.flip(0)) / 2, mixed.to(masks.dtype)


def fault(name, make):
    """Return a transform of the table above with masks made of `(masks, plan)`."""

    def pipeline(images, masks):
        (mixed, _), plan = MASKS_RIGHT[name][0].mix((images, masks))
        return mixed, make(masks.as_subclass(torch.Tensor), plan)

    return pipeline


def cut_by(name, change):
    """Return a pipeline that cuts masks by a plan with a changed field."""

    def make(masks, plan):
        plan = plan._replace(**{name: change(getattr(plan, name))})
        return functional.replay(masks[:, None], plan)[:, 0]

    return fault("cut", make)


def smaller(masks, plan):
    return torch.where((plan.lam < 0.5)[:, None, None], masks, masks[plan.partner])


def planes(masks, plan):
    return one_hot(masks.long(), 16).movedim(-1, 1).float()


FILLED, FIVE = {"erased": True, "mask_fill": 15}, {"batch_sizes": (5,)}
MASKS_WRONG = {
    "blended": (blend_numbers, {}, "class ids were blended"),
    "alone": (lambda i, m: (i, m.roll(1, 0)), {}, "the mask was mixed and the image was not"),
    "soft": (lambda i, m: (i, planes(m, i) * 0 + 1 / 16), {}, "and the mask says 0"),
    "erased": (Cutout(labels_getter=None), {}, "pass `erased=True`"),
    "no class": (lambda i, m: (i, m.long() - 300), {}, r"the mask says -\d+; 16 of 16 pixels"),
    "left behind": (fault("cut", lambda m, _: m), {}, "the mask was left behind"),
    "elsewhere": (cut_by("boxes", lambda boxes: boxes // 2), {}, "different places"),
    "paired in another way": (cut_by("partner", torch.argsort), FIVE, "different partners"),
    "of the smaller weight": (fault("dominant", smaller), {}, "different weights"),
    "planes left behind": (fault("soft", planes), {}, "the mask was left behind"),
    "not filled": (fault("filled", lambda m, _: m), FILLED, "the mask was not filled"),
}


@pytest.mark.parametrize("name", MASKS_WRONG)
def test_wrong_masks_fail(name):
    """Masks that do not fit their images fail, and the text says how."""
    pipeline, options, text = MASKS_WRONG[name]
    with pytest.raises(UntruthfulError, match=text) as caught:
        check(pipeline, "masks", **options)
    assert caught.value.evidence.said.shape == caught.value.evidence.held.shape


def flip(images, targets):
    """Flip each image with its target."""
    pairs = [
        v2.RandomHorizontalFlip()(tv_tensors.Image(image), target)
        for image, target in zip(images, targets, strict=True)
    ]
    return torch.stack([image for image, _ in pairs]), [target for _, target in pairs]


@pytest.mark.parametrize("min_visible", [0.1, 0.6])
@pytest.mark.parametrize("transform", [CutMix, Cutout])
def test_right_boxes_pass(transform, min_visible):
    """Boxes that are the tight boxes of what is visible pass, and so do flipped ones."""
    pipeline = transform(mode="sample", labels_getter=None, min_visible=min_visible)
    report = check(pipeline, "boxes", min_visible=min_visible)
    assert report.mixed or transform is Cutout
    assert check(flip, "boxes", min_visible=min_visible).rows == 25


def relist(change):
    """Change boxes and labels of every target."""
    return lambda images, targets: (
        images,
        [dict(zip(t, change(*t.values()), strict=True)) for t in targets],
    )


BOXES_WRONG = {
    "left behind": (lambda i, t: (i.roll(1, 0), t), "its box was left behind"),
    "dropped": (relist(lambda b, y: (b[:0], y[:0])), "is 100% visible but not listed"),
    "moved": (relist(lambda b, y: (b + 1, y)), r"is seen in \[.*\] but its box is"),
    "labels lost": (relist(lambda b, y: (b, y[:0])), "boxes and 0 labels"),
    "doubled": (relist(lambda *t: [torch.cat([x, x]) for x in t]), "listed twice"),
    "unknown": (relist(lambda b, y: (b, y + 100)), "is 100% visible but not listed"),
}


@pytest.mark.parametrize("name", BOXES_WRONG)
def test_wrong_boxes_fail(name):
    """Boxes that do not fit what is seen fail, and the text says how."""
    pipeline, text = BOXES_WRONG[name]
    with pytest.raises(UntruthfulError, match=text):
        check(pipeline, "boxes")


def test_a_share_other_than_min_visible_fails():
    """Objects that are kept below the stated share, or dropped above it, are found."""
    mix = CutMix(mode="sample", labels_getter=None, min_visible=0.5)
    with pytest.raises(UntruthfulError, match="visible but not listed"):
        check(mix, "boxes", min_visible=0.1)
    with pytest.raises(UntruthfulError, match=r"is listed but only \d+% of it is visible"):
        check(mix, "boxes", min_visible=0.9)


BAD = [
    ({"kind": "points"}, ValueError, "kind must be one of"),
    ({"kind": "masks", "num_classes": 4}, ValueError, "num_classes must be >= 8"),
    ({"kind": "boxes", "sizes": ((8, 4),)}, ValueError, "sizes must be at least 8"),
    ({"kind": "masks", "pipeline": lambda i, m: (i, None)}, TypeError, "must return masks"),
    ({"kind": "boxes", "pipeline": lambda i, t: (i, t[:0])}, TypeError, "one target dict per"),
    ({"kind": "masks", "pipeline": None}, TypeError, "must be a callable, got NoneType"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD)
def test_bad_arguments_are_named(options, error, text):
    """Wrong arguments and unreadable targets are refused with their names."""
    with pytest.raises(error, match=text):
        assert_targets_follow_images(**{"pipeline": lambda images, rest: (images, rest), **options})


@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_collated_masks_and_boxes_are_checked(kind):
    """Collate functions get samples of image and mask, or image and target."""
    check(make_collate_fn(cutmix), kind, collate=True)

    def leave(samples):
        mixed, targets = make_collate_fn(v2.Identity())(samples)
        return cutmix(mixed), targets

    with pytest.raises(UntruthfulError, match=r"was left behind|not listed"):
        check(leave, kind, collate=True)
