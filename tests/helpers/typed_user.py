"""A user's file for type checkers: every public name, and wrong calls, each marked `# wrong`.

It is never run. `tests/test_types.py` compares the marks with the errors of mypy and pyright.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import tv_mixaug.timm
from tv_mixaug import (
    Chain,
    CutMix,
    Cutout,
    MixCriterion,
    Mixup,
    OneOf,
    PairedLabels,
    Plan,
    RandomErasing,
    functional,
    losses,
    make_collate_fn,
    metrics,
    testing,
    viz,
)
from tv_mixaug.batch import FIELD_RULES, FieldRule, FieldSpec, ParsedBatch, Role
from tv_mixaug.engine import CompactPlan, apply_plan, box_volumes, identity_plan, make_plan
from tv_mixaug.extras import flowers, io
from tv_mixaug.loading import CollateFn
from tv_mixaug.transforms import BatchTransform, MixTransform


def use_transforms(images: Tensor, labels: Tensor) -> Tensor:
    mixed, soft = CutMix(num_classes=10)(images, labels)
    mixed, soft = Mixup(0.2, num_classes=10, mode="sample", pairing="shuffle")((mixed, soft))
    erased: Tensor = RandomErasing(scale=(0.02, 0.2), fill="noise")(mixed)
    batch = Cutout(16, holes=2)({"images": erased, "labels": soft})
    both: list[BatchTransform] = [Mixup(num_classes=10), CutMix(num_classes=10)]
    chain = Chain([OneOf(both, p=[0.5, 0.5], mode="sample"), Cutout(8)], erased="nobody")
    pair = CutMix(targets="pair", num_classes={"labels": 10, "ages": "regression"})
    pairs: PairedLabels = pair.cuda()(batch["images"], batch["labels"])[1]
    (mixed, _), plan = chain.eval().mix((mixed, labels), generator=torch.Generator())
    plan = pair.draw_plan((images, labels), device="cpu")
    weight: Tensor = plan.lam + pairs.lam
    timm = tv_mixaug.timm.Mixup(0.8, 1.0, mode="elem", num_classes=10)
    mixed, _ = timm(images, labels)
    return functional.replay(mixed, plan.to("cpu")) * weight


def use_loader(dataset: Sequence[tuple[Tensor, int]], logits: Tensor) -> Tensor:
    collate: CollateFn = make_collate_fn([Mixup(), CutMix()], p=[0.4, 0.4], seed=0, record=True)
    collate.set_epoch(1)
    collate.set_p([0.0, 0.0])
    loader: DataLoader[Any] = DataLoader(dataset, collate_fn=collate.for_validation())  # type: ignore[arg-type]
    tv_mixaug.timm.FastCollateMixup(0.8, 1.0).mixup_enabled = False
    criterion = MixCriterion(nn.CrossEntropyLoss(label_smoothing=0.1), reduction="sum")
    same: losses.MixCriterion = criterion
    for images, labels in loader:
        loss: Tensor = same(logits, labels) + metrics.mixed_accuracy(logits, labels, k=5)
        loss.backward()  # type: ignore[no-untyped-call]
        print(viz.draw_batch(images, labels, ["cat", "dog"]).shape)
        viz.show(images, labels).save("batch.jpg")
    return io.read_image(flowers.write_image_folder("flowers", 2)[0])  # type: ignore[no-any-return]


def use_functional(images: Tensor, partner: Tensor, lam: Tensor, plan: Plan) -> Tensor:
    mixed = functional.mixup(images, partner, lam)
    mixed = functional.cutmix(mixed, partner, plan.boxes)
    mixed = functional.cutout(mixed, plan.boxes, fill=0.5)
    region = functional.region_mask(plan, (32, 32))
    labels = functional.mix_labels(torch.rand(8, 10), partner, lam)
    return mixed * region + labels.sum()


class Half(MixTransform):
    """A rule of the user."""

    def sample(self, batch: ParsedBatch, p: float, source: Any) -> CompactPlan:
        """Sample the plan."""
        return make_plan(2, batch.length, True, partner=torch.arange(batch.length), lam=0.5)


def use_parts(images: Tensor, spec: FieldSpec, rule: FieldRule) -> Any:
    plan = identity_plan(len(images), 2)
    FIELD_RULES[Role.CUSTOM] = rule
    return Half(p=0.5, num_classes=3)(images), apply_plan, box_volumes(plan.boxes), spec


def use_testing(collate: CollateFn, make_loader: Any, switch: Any) -> None:
    report: testing.TruthReport = testing.assert_labels_match_pixels(CutMix(), num_classes=10)
    try:
        testing.assert_targets_follow_images(CutMix(), kind="masks")
        testing.assert_probability(CutMix(p=0.5), 0.5)
        testing.assert_draws_independent(collate, collate=True)
        testing.assert_switch_reaches_workers(make_loader, switch)
        testing.assert_inputs_unchanged(CutMix(), torch.rand(2, 3, 8, 8), torch.arange(2))
        testing.assert_one_label_format(lambda p: CutMix(p=p, num_classes=3), num_classes=3)
        testing.assert_reproducible(make_loader)
    except testing.UntruthfulError:
        print(report.rows)
    print(testing.image_batches(max_size=4).example() + 1, testing.label_batches(num_classes=3))
    print(testing.plans(image_size=(8, 8)), testing.samples(num_classes=3))
    print(testing.transforms(num_classes=3))


def use_wrongly(images: Tensor, labels: Tensor, logits: Tensor, collate: CollateFn) -> None:
    CutMix(num_clases=10)  # wrong
    CutMix(1.0, 10)  # wrong
    CutMix(alpha="1")  # wrong
    Mixup(mode="samples")  # wrong
    Mixup(pairing="random")  # wrong
    CutMix(targets="pairs")  # wrong
    CutMix(labels_getter="labels")  # wrong
    Cutout(fill="noize")  # wrong
    RandomErasing(scale=0.2)  # wrong
    OneOf(Mixup(), CutMix())  # wrong
    Chain([CutMix()], erased="owners")  # wrong
    MixCriterion(nn.CrossEntropyLoss(), reduction="average")  # wrong
    MixCriterion(nn.CrossEntropyLoss())(logits)  # wrong
    make_collate_fn(CutMix(), num_workers=2)  # wrong
    make_collate_fn(CutMix(), seed="0")  # wrong
    collate.set_epoch("1")  # wrong
    PairedLabels(labels, labels)  # wrong
    print(CutMix().draw_plan((images, labels)).weight)  # wrong
    CutMix().mix(images, labels)  # wrong
    tv_mixaug.timm.Mixup(mode="half")  # wrong
    tv_mixaug.CutMx(num_classes=10)  # wrong
    testing.assert_labels_match_pixel(CutMix(), num_classes=10)  # wrong
    metrics.mixed_accuracy(logits, labels, k="5")  # wrong
