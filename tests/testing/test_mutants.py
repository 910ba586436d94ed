"""The kit passes the transforms, and finds each fault that is planted in them."""

import warnings
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version

import pytest
import torch
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader

from tv_mixaug import CutMix, Cutout, Mixup, functional
from tv_mixaug.testing import (
    UntruthfulError,
    assert_draws_independent,
    assert_labels_match_pixels,
    assert_probability,
    assert_switch_reaches_workers,
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


def change(plan, changes):
    """Return a plan with changed fields."""
    return plan._replace(**{name: make(getattr(plan, name)) for name, make in changes.items()})


def pixels_by(**changes):
    """Mix pixels by a plan with changed fields."""
    return {"pixels": lambda images, _, plan: functional.replay(images, change(plan, changes))}


def labels_by(**changes):
    """Mix labels by a plan with changed fields."""

    def labels(classes, rows, plan):
        _, partner, lam, *_ = change(plan, changes)
        if isinstance(rows, tuple):
            return classes, classes[partner], lam
        return functional.mix_labels(one_hot(classes, 10).float(), partner, lam)

    return {"labels": labels}


def counted(area):
    """Mix labels by another area of the boxes in images of 8 × 12 pixels."""

    def labels(classes, rows, plan):
        x1, y1, x2, y2 = plan.boxes[:, 0].unbind(1)
        lam = 1 - area(y2 - y1, x2 - x1, x2).float() / 96
        return labels_by(lam=lambda _: lam)["labels"](classes, rows, plan)

    return {"labels": labels}


def swap(lam):
    return 1 - lam


def longer(boxes):
    """Add a column to each box."""
    return (boxes + torch.tensor([0, 0, 1, 0])).clamp(max=torch.tensor([12, 8, 12, 8]))


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


def erased_share(_, rows, plan):
    x1, y1, x2, y2 = plan.boxes.unbind(-1)
    return rows * (1 - ((y2 - y1) * (x2 - x1)).sum(1) / 96)[:, None]


HALF = {"pixels": lambda x, mixed, _: torch.cat([mixed[: len(x) // 2], x[len(x) // 2 :]])}
ONE_CHANNEL = {"pixels": lambda x, mixed, _: torch.cat([mixed[:, :1], x[:, 1:]], 1)}
LABELS = {
    "labels of CutMix swapped": (CUT, labels_by(lam=swap), "swapped"),
    "labels of Mixup swapped": (MIX, labels_by(lam=swap), "swapped"),
    "pair labels swapped": (PAIR, labels_by(lam=swap), "swapped"),
    "pixels of Mixup swapped": (MIX, pixels_by(lam=swap), "swapped"),
    "labels not mixed": (MIX, labels_by(lam=torch.ones_like), "were mixed but the labels were not"),
    "images not mixed": (CUT, pixels_by(op=torch.zeros_like), "mixed but the images were not"),
    "labels rolled the wrong way": (CUT, labels_by(partner=torch.argsort), "paired with different"),
    "labels not rolled": (MIX, labels_by(partner=lambda p: p.sort()[0]), "the labels were not"),
    "one lam for all rows": (CUT, labels_by(lam=lambda lam: lam[:1].expand_as(lam)), None),
    "lam truncated": (BYTES, labels_by(lam=lambda lam: lam.long().float()), "truncated integers"),
    "lam in half precision": (CUT, labels_by(lam=lambda lam: lam.bfloat16().float()), None),
    "smoothing forgotten": (SMOOTH, labels_by(), "not smoothed as stated"),
    "a column too many": (CUT, counted(lambda h, w, x2: h * (w + 1)), "off by one column"),
    "a row too many": (CUT, counted(lambda h, w, x2: (h + 1) * w), "off by one row"),
    "no last column": (CUT, counted(lambda h, w, x2: h * (w - (x2 == 12).int())), "one column"),
    "area out of a square": (CUT, counted(lambda h, w, x2: h * w * 1.5), None),
    "box pasted with its end": (CUT, pixels_by(boxes=longer), "off by one column"),
    "x and y exchanged": (CUT, pixels_by(boxes=lambda b: b[..., [1, 0, 3, 2]].clamp(max=8)), None),
    "only the first channel pasted": (CUT, ONE_CHANNEL, None),
    "only the first half mixed": (MIX, HALF, "mixed but the images were not"),
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


# --- Faults of other libraries ------------------------------------------------------------------


def import_or_skip(package):
    """Import a library, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(package)


def paired(cutmix):
    """Return a pipeline with the labels of kornia's CutMix as pairs."""

    def pipeline(images, labels):
        images, mixed = cutmix(images, labels)
        original, partner, pasted = mixed[0].float().unbind(1)
        return images, (original.long(), partner.long(), 1 - pasted)

    return pipeline


# Before version 0.9 p was sampled for the batch and for each sample, the boxes of a batch shared
# the place as a share of the room, and labels were cast to the dtype of the images.
LARGE = {"num_classes": 5000, "dtypes": (torch.float16,), **FEW}
labels_of = partial(assert_labels_match_pixels, **LARGE)
TWICE = (0.5, lambda mix: assert_probability(mix, 0.5), r"twice.*p² = 0\.25")
KORNIA = [
    ("RandomCutMixV2", *TWICE),
    ("RandomMixUpV2", *TWICE),
    ("RandomCutMixV2", 1.0, partial(assert_draws_independent, per="sample"), "share one place"),
    ("RandomCutMixV2", 1.0, lambda mix: labels_of(paired(mix)), "class numbers were rounded"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "p", "check", "cause"), KORNIA)
def test_faults_of_kornia_are_found(name, p, check, cause):
    """The kit finds the fault in versions before 0.9, and nothing in later ones."""
    kind = getattr(import_or_skip("kornia.augmentation"), name)
    is_old = tuple(map(int, version("kornia").split(".")[:2])) < (0, 9)
    found = pytest.raises(UntruthfulError, match=cause) if is_old else nullcontext()
    with found:
        check(kind(p=p, data_keys=["input", "class"]))


@pytest.mark.filterwarnings("ignore")
def test_switch_that_timm_loses_is_found():
    """Setting `mixup_enabled`, as timm's training script does, reaches no running worker."""
    mix = import_or_skip("timm.data.mixup").FastCollateMixup(num_classes=2)

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
