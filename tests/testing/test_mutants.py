"""The test kit finds each of these faults when it is planted in our own kernels."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils.data import DataLoader

from tv_mixaug import CutMix, Cutout, Mixup
from tv_mixaug.engine import plan as plans
from tv_mixaug.engine.plan import CompactPlan
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
from tv_mixaug.transforms import base

# Where a box is square, a row too many is a column too many: this seed finds others.
FEW: dict[str, Any] = {"batch_sizes": (2, 5), "sizes": ((8, 12),), "draws": 6, "seed": 1}
MASK_SEED = 3  # nor is a mask left behind where the own image has the smaller weight
FLOAT, BYTES = (torch.float32,), (torch.uint8,)


def check_cutmix(**options: Any) -> None:
    """Compare labels and pixels of CutMix."""
    pipeline = CutMix(num_classes=10, mode="sample", **options)
    smoothing = options.get("label_smoothing", 0.0)
    assert_labels_match_pixels(pipeline, num_classes=10, label_smoothing=smoothing, **FEW)


def check_mixup(dtypes: Any = FLOAT, **options: Any) -> None:
    """Compare labels and pixels of Mixup."""
    pipeline = Mixup(num_classes=10, mode="sample", **options)
    assert_labels_match_pixels(pipeline, num_classes=10, dtypes=dtypes, **FEW)


def check_cutout() -> None:
    """Compare labels and pixels of Cutout, whose labels keep their weight."""
    pipeline = Cutout(num_classes=10)
    assert_labels_match_pixels(pipeline, num_classes=10, erased=0.0, **FEW)


def check_cut_masks() -> None:
    """Compare masks and pixels of CutMix."""
    pipeline = CutMix(mode="sample", labels_getter=None)
    assert_targets_follow_images(pipeline, kind="masks", **FEW)


def check_mixed_masks(masks: str = "dominant") -> None:
    """Compare masks and pixels of Mixup."""
    pipeline = Mixup(mode="sample", masks=masks, num_mask_classes=16, labels_getter=None)
    assert_targets_follow_images(pipeline, kind="masks", **FEW | {"seed": MASK_SEED})


def check_erased_masks() -> None:
    """Compare masks and pixels of Cutout."""
    pipeline = Cutout(mask_fill=15, labels_getter=None)
    assert_targets_follow_images(pipeline, kind="masks", erased=True, mask_fill=15, **FEW)


def check_unchanged() -> None:
    """Compare the inputs of CutMix before and after."""
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    assert_inputs_unchanged(CutMix(num_classes=4), images, labels)


def check_format() -> None:
    """Compare the labels of mixed and unmixed batches."""
    assert_one_label_format(lambda p: Mixup(num_classes=10, p=p), num_classes=10)


def with_plan(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Plant a fault in the plan that one rule is given."""

    def mutation(original: Any) -> Any:
        return lambda value, recipe, *rest, **options: original(
            value, CompactPlan.of(change(recipe.plan())), *rest, **options
        )

    return mutation


def with_images(change: Callable[[Any, Any, Any], Any]) -> Callable[[Any], Any]:
    """Plant a fault in the mixed images: `change(before, after, plan)`."""

    def mutation(original: Any) -> Any:
        return lambda images, recipe, *rest, inplace: change(
            images, original(images.clone(), recipe, *rest), recipe.plan()
        )

    return mutation


def with_area(change: Callable[[Any, int, int], Any]) -> Callable[[Any], Any]:
    """Plant a fault in the pasted area that CutMix counts: `change(boxes, height, width)`."""

    def mutation(original: Any) -> Any:
        def mutant(self: Any, batch: Any, *rest: Any) -> Any:
            plan = original(self, batch, *rest).plan()
            return plan._replace(lam=1 - change(plan.boxes[:, 0], *batch.size).float())

        return mutant

    return mutation


def inverse(partner: torch.Tensor) -> torch.Tensor:
    """Return the pairing in the other direction."""
    return torch.empty_like(partner).scatter_(0, partner, torch.arange(len(partner)))


def paste_in_a_row(images: Any, mixed: Any, plan: Any) -> Any:
    """Paste sample by sample from images that were already pasted into."""
    out = images.clone()
    for row, (x1, y1, x2, y2) in enumerate(plan.boxes[:, 0].tolist()):
        out[row, :, y1:y2, x1:x2] = out[plan.partner[row], :, y1:y2, x1:x2]
    return out


def truncated_blend(images: Any, mixed: Any, plan: Any) -> Any:
    """Cut each term of a byte blend off instead of rounding the sum."""
    lam = plan.lam.view(-1, 1, 1, 1)
    return (images * lam).byte() + (images[plan.partner] * (1 - lam)).byte()


def without_last_column(area: Any, boxes: Any, width: int) -> Any:
    """Return an area that lacks the last column of the image."""
    return area - torch.where(boxes[:, 2] == width, boxes[:, 3] - boxes[:, 1], 0)


class Mutant(NamedTuple):
    """One fault: where it is planted, what finds it, and what the kit calls it."""

    name: str
    owner: Any
    attribute: str
    mutation: Callable[[Any], Any]
    check: Callable[[], None]
    cause: str | None = None


volumes = plans.box_volumes
MUTANTS = [
    Mutant(
        "labels of CutMix swapped",
        base,
        "mix_targets",
        with_plan(lambda plan: plan._replace(lam=1 - plan.lam)),
        check_cutmix,
        "swapped",
    ),
    Mutant(
        "labels of Mixup swapped",
        base,
        "mix_targets",
        with_plan(lambda plan: plan._replace(lam=1 - plan.lam)),
        check_mixup,
        "swapped",
    ),
    Mutant(
        "pair labels swapped",
        base,
        "mix_targets",
        with_plan(lambda plan: plan._replace(lam=1 - plan.lam)),
        lambda: check_cutmix(targets="pair"),
        "swapped",
    ),
    Mutant(
        "pixels of Mixup swapped",
        base,
        "apply_plan",
        with_plan(lambda plan: plan._replace(lam=1 - plan.lam)),
        check_mixup,
        "swapped",
    ),
    Mutant(
        "labels not mixed",
        base,
        "mix_targets",
        with_plan(lambda plan: plan._replace(lam=torch.ones_like(plan.lam))),
        check_mixup,
        "the images were mixed but the labels were not",
    ),
    Mutant(
        "images not mixed",
        base,
        "apply_plan",
        with_images(lambda before, after, plan: before),
        check_cutmix,
        "the labels were mixed but the images were not",
    ),
    Mutant(
        "labels rolled the wrong way",
        base,
        "mix_targets",
        with_plan(lambda plan: plan._replace(partner=inverse(plan.partner))),
        check_cutmix,
        "paired with different samples",
    ),
    Mutant(
        "labels not rolled",
        base,
        "mix_targets",
        with_plan(lambda plan: plan._replace(partner=torch.arange(len(plan.partner)))),
        check_mixup,
        "the images were mixed but the labels were not",
    ),
    Mutant(
        "one lam for all rows",
        base,
        "mix_targets",
        with_plan(lambda plan: plan._replace(lam=plan.lam[:1].expand_as(plan.lam))),
        check_cutmix,
    ),
    Mutant(
        "lam truncated to an integer",
        base,
        "mix_targets",
        with_plan(lambda plan: plan._replace(lam=plan.lam.long().float())),
        lambda: check_mixup(BYTES),
        "truncated integers",
    ),
    Mutant(
        "lam in half precision",
        base,
        "mix_targets",
        with_plan(lambda plan: plan._replace(lam=plan.lam.bfloat16().float())),
        check_cutmix,
    ),
    Mutant(
        "smoothing forgotten",
        base,
        "mix_targets",
        lambda original: (
            lambda value, recipe, kind, form, **options: original(
                value, recipe, kind, form._replace(smoothing=0.0), **options
            )
        ),
        lambda: check_cutmix(label_smoothing=0.1),
        "smoothed otherwise than stated",
    ),
    Mutant(
        "area not corrected after clipping",
        CutMix,
        "draw",
        lambda original: (
            lambda self, *rest: original(CutMix(mode=self.mode, correct_lam=False), *rest)
        ),
        check_cutmix,
        "the area was not corrected",
    ),
    Mutant(
        "area with one column too many",
        CutMix,
        "draw",
        with_area(lambda b, h, w: (volumes(b) + b[:, 3] - b[:, 1]) / (h * w)),
        check_cutmix,
        "off by one column",
    ),
    Mutant(
        "area with one row too many",
        CutMix,
        "draw",
        with_area(lambda b, h, w: (volumes(b) + b[:, 2] - b[:, 0]) / (h * w)),
        check_cutmix,
        "off by one row",
    ),
    Mutant(
        "area without the image's last column",
        CutMix,
        "draw",
        with_area(lambda b, h, w: without_last_column(volumes(b), b, w) / (h * w)),
        check_cutmix,
        "off by one column",
    ),
    Mutant(
        "area out of a square",
        CutMix,
        "draw",
        with_area(lambda b, h, w: volumes(b) / (h * h)),
        check_cutmix,
    ),
    Mutant(
        "box pasted with its end included",
        base,
        "apply_plan",
        with_plan(
            lambda plan: plan._replace(
                boxes=(plan.boxes + torch.tensor([0, 0, 1, 0])).clamp(max=torch.tensor(12))
            )
        ),
        check_cutmix,
        "off by one column",
    ),
    Mutant(
        "x and y of the box exchanged",
        base,
        "apply_plan",
        with_plan(lambda plan: plan._replace(boxes=plan.boxes[..., [1, 0, 3, 2]])),
        check_cutmix,
    ),
    Mutant(
        "only the first channel pasted",
        base,
        "apply_plan",
        with_images(lambda before, after, plan: torch.cat([after[:, :1], before[:, 1:]], 1)),
        check_cutmix,
    ),
    Mutant(
        "only the first half mixed",
        base,
        "apply_plan",
        with_images(
            lambda before, after, plan: torch.cat(
                [after[: len(after) // 2], before[len(after) // 2 :]]
            )
        ),
        check_mixup,
        "the labels were mixed but the images were not",
    ),
    Mutant(
        "pasted from what was already pasted into",
        base,
        "apply_plan",
        with_images(paste_in_a_row),
        check_cutmix,
    ),
    Mutant(
        "bytes truncated",
        base,
        "apply_plan",
        with_images(truncated_blend),
        lambda: check_mixup(BYTES),
        "truncated integers",
    ),
    Mutant(
        "Cutout takes weight away",
        base,
        "mix_targets",
        lambda original: (
            lambda value, recipe, *rest, **options: (
                original(value, recipe, *rest, **options)
                * (1 - volumes(recipe.plan().boxes).sum(1) / 96)[:, None]
            )
        ),
        check_cutout,
        "weights sum to",
    ),
    Mutant(
        "mask left behind",
        base,
        "mix_masks",
        lambda original: lambda value, *rest: value,
        check_cut_masks,
        "the mask was left behind",
    ),
    Mutant(
        "mask cut at another place",
        base,
        "mix_masks",
        with_plan(lambda plan: plan._replace(boxes=plan.boxes // 2)),
        check_cut_masks,
        "different places",
    ),
    Mutant(
        "mask paired with another sample",
        base,
        "mix_masks",
        with_plan(lambda plan: plan._replace(partner=inverse(plan.partner))),
        check_cut_masks,
        "different samples",
    ),
    Mutant(
        "mask of the smaller weight",
        base,
        "mix_masks",
        with_plan(lambda plan: plan._replace(lam=1 - plan.lam)),
        check_mixed_masks,
        "different weights",
    ),
    Mutant(
        "mask planes not mixed",
        base,
        "mix_masks",
        with_plan(lambda plan: plan._replace(lam=torch.ones_like(plan.lam))),
        lambda: check_mixed_masks("soft"),
        "the mask was left behind",
    ),
    Mutant(
        "mask not filled",
        base,
        "mix_masks",
        lambda original: lambda value, *rest: value,
        check_erased_masks,
        "the mask was not filled",
    ),
    Mutant(
        "inputs written to",
        base,
        "apply_plan",
        lambda original: lambda images, *rest, inplace: original(images, *rest, inplace=True),
        check_unchanged,
        "changed its inputs",
    ),
    Mutant(
        "labels of unmixed batches left alone",
        base,
        "mix_targets",
        lambda original: (
            lambda value, recipe, *rest, **options: (
                original(value, recipe, *rest, **options) if recipe.ops else value
            )
        ),
        check_format,
        "change their format",
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_fault_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check passes on the original, fails with the fault planted, and names the cause."""
    mutant.check()
    original = getattr(mutant.owner, mutant.attribute)
    monkeypatch.setattr(mutant.owner, mutant.attribute, mutant.mutation(original))
    with pytest.raises(AssertionError, match=mutant.cause):
        mutant.check()


def test_there_are_enough_faults() -> None:
    """At least twenty faults are told apart by their labels, pixels or masks."""
    contracts = {check_unchanged, check_format}
    assert len([m for m in MUTANTS if m.check not in contracts]) >= 20


def needs(package: str) -> Any:
    """Import a library whose defects are looked for, or skip; its warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(package)


def is_old(package: str, mended: tuple[int, ...]) -> bool:
    """Return whether the installed version is older than the one that mended a defect."""
    numbers = version(package).split(".")[: len(mended)]
    return tuple(int(number) for number in numbers) < mended


def found_if(defective: bool, cause: str) -> Any:
    """Expect the cause from a defective version, and nothing from a mended one."""
    return pytest.raises(UntruthfulError, match=cause) if defective else nullcontext()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["RandomCutMixV2", "RandomMixUpV2"])
def test_probability_that_kornia_squared_is_found(name: str) -> None:
    """Before 0.9 kornia drew p for the batch and again for each sample."""
    kind = getattr(needs("kornia.augmentation"), name)
    with found_if(is_old("kornia", (0, 9)), r"p was applied twice.*p² = 0\.25"):
        assert_probability(kind(p=0.5, data_keys=["input", "class"]), 0.5)


@pytest.mark.filterwarnings("ignore")
def test_place_that_kornia_shared_is_found() -> None:
    """Before 0.9 kornia cut all boxes of a batch at one share of their room."""
    cutmix = needs("kornia.augmentation").RandomCutMixV2(p=1.0, data_keys=["input", "class"])
    with found_if(is_old("kornia", (0, 9)), "share one place"):
        assert_draws_independent(cutmix, per="sample")


@pytest.mark.filterwarnings("ignore")
def test_class_numbers_that_kornia_rounded_are_found() -> None:
    """Before 0.9 kornia cast labels to the images' float16, which has no odd number above 2048."""
    cutmix = needs("kornia.augmentation").RandomCutMixV2(p=1.0, data_keys=["input", "class"])

    def pipeline(images: Any, labels: Any) -> Any:
        images, mixed = cutmix(images, labels)
        own, partner, pasted = mixed[0].float().unbind(1)
        return images, (own.long(), partner.long(), 1 - pasted)

    options = FEW | {"num_classes": 5000, "dtypes": (torch.float16,)}
    with found_if(is_old("kornia", (0, 9)), "class numbers were rounded"):
        assert_labels_match_pixels(pipeline, **options)


@pytest.mark.filterwarnings("ignore")
def test_switch_that_timm_loses_is_found() -> None:
    """Setting `mixup_enabled`, as timm's training script does, reaches no running worker."""
    mix = needs("timm.data.mixup").FastCollateMixup(num_classes=2)

    class Collate:
        """Hand bytes over as arrays, as timm's loader does."""

        def __call__(self, samples: Any) -> Any:
            return mix([(image.numpy(), label) for image, label in samples])

    def switch(loader: Any, on: bool) -> None:
        mix.mixup_enabled = on

    def loader(data: Any) -> Any:
        return DataLoader(data, 8, collate_fn=Collate(), num_workers=1, persistent_workers=True)

    with pytest.raises(UntruthfulError, match="running workers hold copies"):
        assert_switch_reaches_workers(loader, switch, dtype=torch.uint8)


ORIGINALS = {
    "mixup": (Mixup(num_classes=10, mode="sample"), {}),
    "mixup shuffled pairs": (Mixup(0.2, num_classes=10, pairing="shuffle", targets="pair"), {}),
    "cutmix": (CutMix(num_classes=10, mode="sample"), {}),
    "cutmix smoothed": (CutMix(0.3, num_classes=10, label_smoothing=0.1), {"label_smoothing": 0.1}),
    "cutout": (Cutout(0.4, holes=2, num_classes=10), {"erased": 0.0}),
    "cutout noise": (Cutout(num_classes=10, fill="noise"), {"erased": "noise"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORIGINALS)
def test_no_false_alarm_in_200_runs(name: str) -> None:
    """Correct transforms pass 200 checks with different seeds, in every dtype."""
    pipeline, options = ORIGINALS[name]
    dtypes = (torch.float32, torch.uint8, torch.float64, torch.float16, torch.bfloat16)
    for run in range(200):
        report = assert_labels_match_pixels(
            pipeline,
            num_classes=10,
            batch_sizes=(5,),
            sizes=((9, 14),),
            dtypes=(dtypes[run % 5],),
            draws=2,
            seed=1000 * run,
            **options,
        )
        assert report.rows == 10


def test_failure_is_the_kits_own() -> None:
    """A failed check is an AssertionError that carries the counts."""
    pipeline = CutMix(num_classes=10, correct_lam=False)
    with pytest.raises(UntruthfulError) as caught:
        assert_labels_match_pixels(pipeline, num_classes=10, **FEW)
    assert 0 < caught.value.wrong <= caught.value.rows == (2 + 5) * 6
