"""The kit passes our transforms and finds each of these faults when it is planted in them."""

import warnings
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version

import pytest
import torch
from torch.utils.data import DataLoader

from tv_mixaug import CutMix, Cutout, Mixup, functional
from tv_mixaug.testing import (
    UntruthfulError,
    assert_draws_independent,
    assert_inputs_unchanged,
    assert_labels_match_pixels,
    assert_one_label_format,
    assert_probability,
    assert_switch_reaches_workers,
    assert_targets_follow_images,
)

# A row too many of a square box is also a column too many: this seed finds boxes of other shapes.
FEW = {"batch_sizes": (2, 5), "sizes": ((8, 12),), "draws": 6, "seed": 1}
CUT = CutMix(num_classes=10, mode="sample")
PAIR = CutMix(num_classes=10, mode="sample", targets="pair")
SMOOTH = CutMix(num_classes=10, mode="sample", label_smoothing=0.1)
MIX, BYTES = (Mixup(num_classes=10, mode="sample") for _ in range(2))
HOLES = Cutout(num_classes=10)
TOLD = {SMOOTH: {"label_smoothing": 0.1}, BYTES: {"dtypes": (torch.uint8,)}, HOLES: {"erased": 0}}


def with_faults(mix, pixels=None, labels=None):
    """Return a transform with faults in `(given, result, plan) -> result` of pixels or labels."""

    def pipeline(images, classes):
        (mixed, rows), plan = mix.mix((images, classes))
        mixed = mixed if pixels is None else pixels(images, mixed, plan)
        return mixed, rows if labels is None else labels(classes, rows, plan)

    return pipeline


def pixels_by(**changes):
    """Mix pixels by a plan with changed fields."""

    def pixels(images, _, plan):
        changed = {name: change(getattr(plan, name)) for name, change in changes.items()}
        return functional.replay(images, plan._replace(**changed))

    return {"pixels": pixels}


def labels_by(**changes):
    """Mix labels by a plan with changed fields."""

    def labels(classes, rows, plan):
        changed = {name: change(getattr(plan, name)) for name, change in changes.items()}
        plan = plan._replace(**changed)
        if isinstance(rows, tuple):
            return classes, classes[plan.partner], plan.lam
        one_hot = torch.nn.functional.one_hot(classes, 10).float()
        return functional.mix_labels(one_hot, plan.partner, plan.lam)

    return {"labels": labels}


def swap(lam):
    return 1 - lam


def inverse(partner):
    """Pair samples in the other direction."""
    return torch.empty_like(partner).scatter_(0, partner, torch.arange(len(partner)))


def counted(area):
    """Mix labels by another area of the boxes in images of 8 × 12 pixels."""

    def labels(classes, rows, plan):
        x1, y1, x2, y2 = plan.boxes[:, 0].unbind(1)
        lam = 1 - area(y2 - y1, x2 - x1, x2).float() / 96
        one_hot = torch.nn.functional.one_hot(classes, 10).float()
        return functional.mix_labels(one_hot, plan.partner, lam)

    return {"labels": labels}


def paste_in_a_row(images, _, plan):
    """Paste sample by sample from images that were already pasted into."""
    out = images.clone()
    for row, (x1, y1, x2, y2) in enumerate(plan.boxes[:, 0].tolist()):
        out[row, :, y1:y2, x1:x2] = out[plan.partner[row], :, y1:y2, x1:x2]
    return out


def truncated_blend(images, _, plan):
    """Truncate each term of a blend instead of rounding the sum."""
    lam = plan.lam.view(-1, 1, 1, 1)
    return (images * lam).byte() + (images[plan.partner] * (1 - lam)).byte()


def half(images, mixed, _):
    return torch.cat([mixed[: len(mixed) // 2], images[len(mixed) // 2 :]])


def one_channel(images, mixed, _):
    return torch.cat([mixed[:, :1], images[:, 1:]], 1)


def erased_share(_, rows, plan):
    x1, y1, x2, y2 = plan.boxes.unbind(-1)
    return rows * (1 - ((y2 - y1) * (x2 - x1)).sum(1) / 96)[:, None]


def longer(boxes):
    """Return boxes that include one more column."""
    return (boxes + torch.tensor([0, 0, 1, 0])).clamp(max=torch.tensor([12, 8, 12, 8]))


LABELS = {
    "labels of CutMix swapped": (CUT, labels_by(lam=swap), "swapped"),
    "labels of Mixup swapped": (MIX, labels_by(lam=swap), "swapped"),
    "pair labels swapped": (PAIR, labels_by(lam=swap), "swapped"),
    "pixels of Mixup swapped": (MIX, pixels_by(lam=swap), "swapped"),
    "labels not mixed": (MIX, labels_by(lam=torch.ones_like), "were mixed but the labels were not"),
    "images not mixed": (CUT, pixels_by(op=torch.zeros_like), "mixed but the images were not"),
    "labels rolled the wrong way": (CUT, labels_by(partner=inverse), "paired with different"),
    "labels not rolled": (MIX, labels_by(partner=lambda p: p.sort()[0]), "the labels were not"),
    "one lam for all rows": (CUT, labels_by(lam=lambda lam: lam[:1].expand_as(lam)), None),
    "lam truncated": (BYTES, labels_by(lam=lambda lam: lam.long().float()), "truncated integers"),
    "lam in half precision": (CUT, labels_by(lam=lambda lam: lam.bfloat16().float()), None),
    "smoothing forgotten": (SMOOTH, labels_by(), "not smoothed as stated"),
    "a column too many": (CUT, counted(lambda h, w, x2: h * (w + 1)), "off by one column"),
    "a row too many": (CUT, counted(lambda h, w, x2: (h + 1) * w), "off by one row"),
    "without the last column": (
        CUT,
        counted(lambda h, w, x2: h * (w - (x2 == 12).int())),
        "one column",
    ),
    "area out of a square": (CUT, counted(lambda h, w, x2: h * w * 1.5), None),
    "box pasted with its end": (CUT, pixels_by(boxes=longer), "off by one column"),
    "x and y exchanged": (CUT, pixels_by(boxes=lambda b: b[..., [1, 0, 3, 2]].clamp(max=8)), None),
    "only the first channel pasted": (CUT, {"pixels": one_channel}, None),
    "only the first half mixed": (MIX, {"pixels": half}, "mixed but the images were not"),
    "pasted from what was pasted into": (CUT, {"pixels": paste_in_a_row}, None),
    "bytes truncated": (BYTES, {"pixels": truncated_blend}, "truncated integers"),
    "Cutout takes weight away": (HOLES, {"labels": erased_share}, "weights sum to"),
}


@pytest.mark.parametrize("name", LABELS)
def test_a_fault_in_labels_or_pixels_is_found(name):
    """The check passes the transform, fails it with the fault, and names the cause."""
    mix, faults, cause = LABELS[name]
    check = partial(assert_labels_match_pixels, num_classes=10, **FEW, **TOLD.get(mix, {}))
    assert check(mix).mixed or mix is HOLES
    check(with_faults(mix))
    with pytest.raises(UntruthfulError, match=cause) as caught:
        check(with_faults(mix, **faults))
    assert 0 < caught.value.wrong <= caught.value.rows == 42


def test_an_area_that_is_not_corrected_is_found():
    """Labels that keep lam as it was drawn fail if boxes are clipped."""
    mix = CutMix(num_classes=10, mode="sample", correct_lam=False)
    with pytest.raises(UntruthfulError, match="the area was not corrected"):
        assert_labels_match_pixels(mix, num_classes=10, **FEW)


def mask_by(**changes):
    """Cut masks by a plan with changed fields."""
    replay = pixels_by(**changes)["pixels"]
    return lambda masks, _, plan: replay(masks[:, None], None, plan)[:, 0]


def left_behind(masks, *_):
    return masks


def smaller(masks, _, plan):
    """Return the mask of the smaller weight."""
    return torch.where((plan.lam < 0.5)[:, None, None], masks, masks[plan.partner])


def planes(masks, *_):
    return torch.nn.functional.one_hot(masks.long(), 16).movedim(-1, 1).float()


MASK_CUT = CutMix(mode="sample", labels_getter=None)
MASK_MIX = Mixup(mode="sample", masks="dominant", labels_getter=None)
MASK_SOFT = Mixup(mode="sample", masks="soft", num_mask_classes=16, labels_getter=None)
MASK_HOLES = Cutout(mask_fill=15, labels_getter=None)
FILLED = {"erased": True, "mask_fill": 15}
MASKS = {
    "left behind": (MASK_CUT, left_behind, {}, "the mask was left behind"),
    "cut at another place": (MASK_CUT, mask_by(boxes=lambda b: b // 2), {}, "different places"),
    "paired with another sample": (MASK_CUT, mask_by(partner=inverse), {}, "different partners"),
    "of the smaller weight": (MASK_MIX, smaller, {"seed": 3}, "different weights"),
    "planes not mixed": (MASK_SOFT, planes, {"seed": 3}, "the mask was left behind"),
    "not filled": (MASK_HOLES, left_behind, FILLED, "the mask was not filled"),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_fault_in_masks_is_found(name):
    """The check passes the transform, fails it with the fault, and names the cause."""
    mix, fault, options, cause = MASKS[name]
    check = partial(assert_targets_follow_images, kind="masks", **FEW | options)

    def pipeline(images, masks):
        (mixed, result), plan = mix.mix((images, masks))
        return mixed, fault(masks.as_subclass(torch.Tensor), result, plan)

    check(mix)
    with pytest.raises(UntruthfulError, match=cause):
        check(pipeline)


def test_a_write_into_the_inputs_is_found():
    """Inputs that the transform leaves alone are changed by its faulty twin."""
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    assert_inputs_unchanged(CUT, images, labels)
    with pytest.raises(UntruthfulError, match="changed its inputs"):
        assert_inputs_unchanged(
            with_faults(CUT, pixels=lambda images, mixed, _: images.copy_(mixed)), images, labels
        )


def test_labels_of_unmixed_batches_that_are_left_alone_are_found():
    """Labels that are encoded in mixed batches only have two formats."""

    def lazy(p):
        return with_faults(
            Mixup(num_classes=10, p=p),
            labels=lambda classes, rows, plan: rows if plan.op.any() else classes,
        )

    assert_one_label_format(lambda p: Mixup(num_classes=10, p=p), num_classes=10)
    with pytest.raises(UntruthfulError, match="change their format"):
        assert_one_label_format(lazy, num_classes=10)


def needs(package):
    """Import a library whose defects are looked for, or skip; its warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(package)


def found_before(package, mended, cause):
    """Expect the cause from versions older than the one that mended a defect, else nothing."""
    installed = tuple(int(number) for number in version(package).split(".")[: len(mended)])
    return pytest.raises(UntruthfulError, match=cause) if installed < mended else nullcontext()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["RandomCutMixV2", "RandomMixUpV2"])
def test_probability_that_kornia_squared_is_found(name):
    """Before 0.9 kornia drew p for the batch and again for each sample."""
    kind = getattr(needs("kornia.augmentation"), name)
    with found_before("kornia", (0, 9), r"p was applied twice.*p² = 0\.25"):
        assert_probability(kind(p=0.5, data_keys=["input", "class"]), 0.5)


@pytest.mark.filterwarnings("ignore")
def test_place_that_kornia_shared_is_found():
    """Before 0.9 kornia cut all boxes of a batch at one share of their room."""
    cutmix = needs("kornia.augmentation").RandomCutMixV2(p=1.0, data_keys=["input", "class"])
    with found_before("kornia", (0, 9), "share one place"):
        assert_draws_independent(cutmix, per="sample")


@pytest.mark.filterwarnings("ignore")
def test_class_numbers_that_kornia_rounded_are_found():
    """Before 0.9 kornia cast labels to the images' float16, which has no odd number above 2048."""
    cutmix = needs("kornia.augmentation").RandomCutMixV2(p=1.0, data_keys=["input", "class"])

    def pipeline(images, labels):
        images, mixed = cutmix(images, labels)
        original, partner, pasted = mixed[0].float().unbind(1)
        return images, (original.long(), partner.long(), 1 - pasted)

    with found_before("kornia", (0, 9), "class numbers were rounded"):
        assert_labels_match_pixels(pipeline, num_classes=5000, dtypes=(torch.float16,), **FEW)


@pytest.mark.filterwarnings("ignore")
def test_switch_that_timm_loses_is_found():
    """Setting `mixup_enabled`, as timm's training script does, reaches no running worker."""
    mix = needs("timm.data.mixup").FastCollateMixup(num_classes=2)

    class Collate:
        def __call__(self, samples):
            return mix([(image.numpy(), label) for image, label in samples])

    def switch(loader, on):
        mix.mixup_enabled = on

    def loader(data):
        return DataLoader(data, 8, collate_fn=Collate(), num_workers=1, persistent_workers=True)

    with pytest.raises(UntruthfulError, match="running workers hold copies"):
        assert_switch_reaches_workers(loader, switch, dtype=torch.uint8)


ORIGINALS = {
    "mixup": (MIX, {}),
    "mixup shuffled pairs": (Mixup(0.2, num_classes=10, pairing="shuffle", targets="pair"), {}),
    "cutmix": (CUT, {}),
    "cutmix smoothed": (CutMix(0.3, num_classes=10, label_smoothing=0.1), {"label_smoothing": 0.1}),
    "cutout": (Cutout(0.4, holes=2, num_classes=10), {"erased": 0.0}),
    "cutout noise": (Cutout(num_classes=10, fill="noise"), {"erased": "noise"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORIGINALS)
def test_no_false_alarm_in_200_runs(name):
    """Correct transforms pass 200 checks with different seeds, in every dtype."""
    pipeline, options = ORIGINALS[name]
    dtypes = (torch.float32, torch.uint8, torch.float64, torch.float16, torch.bfloat16)
    few = {"batch_sizes": (5,), "sizes": ((9, 14),), "draws": 2}
    for run in range(200):
        report = assert_labels_match_pixels(
            pipeline, num_classes=10, dtypes=(dtypes[run % 5],), seed=1000 * run, **few, **options
        )
        assert report.rows == 10
