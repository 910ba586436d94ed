"""Chains count their labels from the pixels that are visible at the end."""

import pytest
import torch
from helpers.coded import coded_planes, expected_labels, seeded
from helpers.refusals import refused
from helpers.transforms import check_labels
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup, OneOf, RandomErasing, make_collate_fn
from tv_mixaug.engine.plan import BLEND, FILL, NONE, PASTE, Plan
from tv_mixaug.transforms import MixTransform

K = 5
LABELS = torch.arange(K)
CUT, CUT_EACH = CutMix(num_classes=K), CutMix(num_classes=K, mode="sample")
MIX, UNCORRECTED = Mixup(num_classes=K), CutMix(num_classes=K, correct_lam=False)
CROP = v2.RandomResizedCrop(24, interpolation=InterpolationMode.NEAREST)
PAD = v2.Pad((3, 1, 0, 2), fill=1)


CHAINS = {
    "one rule": [CUT_EACH],
    "two rules": [CUT, CUT_EACH],
    "a hole": [CUT, Cutout(0.5, num_classes=K)],
    "a blend": [Mixup(num_classes=K, mode="sample"), CUT],
    "three rules": [CutMix(num_classes=K, pairing="shuffle"), MIX, CUT_EACH],
    "a crop and a flip": [CUT_EACH, CROP, v2.RandomHorizontalFlip()],
    "a rotation between rules": [CUT, v2.RandomRotation(30), MIX],
    "a choice for the batch": [OneOf([CUT, RandomErasing(p=1.0, num_classes=K)]), PAD, CUT],
    "a choice for each sample": [OneOf([CUT, MIX], mode="sample"), PAD, CUT_EACH],
    "a choice of torchvision": [CUT, v2.RandomChoice([CROP, PAD]), v2.RandomOrder([CROP]), CUT],
}


@pytest.mark.parametrize("kind", [torch.Tensor, tv_tensors.Image])
@pytest.mark.parametrize("erased", ["renormalise", "nobody"])
@pytest.mark.parametrize("name", CHAINS)
def test_labels_are_the_visible_shares(name, erased, kind):
    """Labels are the shares of the visible pixels, whichever step comes after which."""
    chain, most = Chain(CHAINS[name], erased=erased), 0
    for seed in range(10):
        torch.manual_seed(seed)
        images, labels = chain(coded_planes(K, (33, 48)).as_subclass(kind), LABELS)
        assert type(images) is kind
        check_labels(chain, images, labels)
        most = max(most, int((labels > 0).sum(1).max()))
    rules = sum(isinstance(step, (CutMix, Mixup)) for step in CHAINS[name])
    assert most > rules or "choice" in name  # labels of several partners in one image


def test_labels_mixed_step_by_step_are_wrong():
    """Without provenance the same steps give labels that the pixels contradict."""
    chain, worst = Chain([CUT, CUT, UNCORRECTED], provenance=False), 0.0
    for seed in range(10):
        torch.manual_seed(seed)
        images, labels = chain(coded_planes(K, (33, 48)), LABELS)
        worst = max(worst, float((labels - expected_labels(images)).abs().max()))
    assert worst > 0.01


def test_erased_pixels_may_count_for_their_owner():
    """With erased="owner" labels are those of the images before the hole."""
    batch, hole = (coded_planes(K, (9, 12)), LABELS), Cutout(0.5, num_classes=K)
    for seed in range(10):
        chain = Chain([CUT_EACH, hole], erased="owner")
        (_, labels), _ = chain.mix(batch, generator=seeded(seed))
        (images, _), _ = Chain([CUT_EACH]).mix(batch, generator=seeded(seed))
        check_labels(chain, images, labels)


def test_several_targets_are_mixed_each_in_its_format():
    """Classes, tags and numbers are mixed by the shares of one image, and other fields pass."""
    rule = CutMix(num_classes={"breed": K, "tags": "multi", "age": "regression"})
    batch = {
        "id": ["a"] * K,
        "image": coded_planes(K, (9, 9)),
        "age": torch.rand(K, 2, dtype=torch.float64),
        "breed": LABELS,
        "tags": torch.randint(2, (K, 3)),
    }
    out = Chain([rule, v2.RandomRotation(30, fill=1), rule])(batch)
    assert list(out) == list(batch)
    assert out["id"] == batch["id"]
    weights = expected_labels(out["image"])
    for key, rows in (("breed", torch.eye(K)), ("tags", batch["tags"]), ("age", batch["age"])):
        assert out[key].dtype == torch.float32
        expected = weights @ rows.double()
        torch.testing.assert_close(out[key].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("provenance", [True, False])
def test_batches_without_a_rule_have_the_same_format(provenance):
    """Labels and masks have their format if no rule is applied to a batch."""
    mixup = Mixup(num_classes=K, masks="soft", num_mask_classes=3)
    mask = tv_tensors.Mask(torch.zeros(K, 8, 8, dtype=torch.int64))
    for p in (0.0, 1.0):
        chain = Chain([OneOf([mixup], [p]), v2.Pad(1)], provenance=provenance)
        _, planes, labels = chain(torch.rand(K, 1, 8, 8), mask, LABELS)
        assert (labels.dtype, labels.shape) == (torch.float32, (K, K))
        assert planes.shape[:2] == (K, 3)
        assert bool((labels > 0).sum() == K) is (p == 0.0)


def test_p_is_for_rules_alone():
    """All rules of a batch are applied or none, and other transforms and callables always are."""
    hole = Cutout(0.9, fill=7, num_classes=K)
    steps = [v2.Compose([CUT, nn.Sequential(hole)]), v2.Pad(2, fill=1), lambda b: (b[0] + 1, b[1])]
    for p, expected in ((0.0, {False}), (0.5, {False, True}), (1.0, {True})):
        chain, seen = Chain(steps, p=p, erased="nobody"), set()
        for seed in range(12):
            (images, labels), _ = chain.mix(
                (coded_planes(K, (9, 9)), LABELS), generator=seeded(seed)
            )
            assert images.shape == (K, 2 * K, 13, 13)
            assert float(images.min()) == 1
            check_labels(chain, images, labels)
            is_erased = (images == 8).flatten(1).any(1)
            assert is_erased.all() or not is_erased.any()
            assert bool(is_erased.any()) >= bool((labels > 0).sum() > K)
            seen.add(bool(is_erased.any()))
        assert seen == expected


class Given(CutMix):
    """Apply a plan that is given."""

    plan: Plan

    def sample(self, batch, p, source):
        """Return the plan."""
        return self.plan


@pytest.mark.parametrize("erased", ["nobody", "renormalise"])
def test_a_plan_may_hold_another_operation_for_each_sample(erased):
    """Pastes, blends and fills of one batch are followed, each from the originals."""
    given = Given(num_classes=K)
    boxes = [[0, 0, 8, 4], [0] * 4, [2, 2, 6, 6], [0] * 4, [4, 4, 8, 8]]
    given.plan = Plan(
        op=torch.tensor([PASTE, BLEND, FILL, NONE, PASTE], dtype=torch.uint8),
        partner=torch.tensor([1, 0, 2, 3, 2]),
        lam=torch.tensor([0.5, 0.25, 1.0, 1.0, 0.75]),
        boxes=torch.tensor(boxes)[:, None],
        noise=torch.zeros(K, dtype=torch.int64),
    )
    flip = v2.RandomHorizontalFlip(1.0)
    for steps in ([given], [CUT_EACH, given], [given, flip, CUT_EACH], [given, given]):
        chain = Chain(steps, erased=erased)
        images, labels = chain(coded_planes(K, (8, 8)), LABELS)
        check_labels(chain, images, labels)


def test_a_chain_is_a_module_without_a_plan():
    """A chain is used like a transform, but records no plan."""
    chain = Chain([CUT, v2.Pad(1)], p=0.25)
    assert not isinstance(chain, MixTransform)
    assert isinstance(chain, nn.Module)
    assert "CutMix" in repr(chain)
    assert chain.options.num_classes == K
    assert make_collate_fn(chain).p == 0.25
    refused(lambda: make_collate_fn(chain, record=True), "record")
    refused(lambda: make_collate_fn([chain, Mixup(num_classes=9)]), "agree on num_classes")
    collate_fn = make_collate_fn([chain, MIX], p=[0.0, 0.0])
    labels = collate_fn([(image, i) for i, image in enumerate(coded_planes(K, (9, 9)))])[1]
    assert torch.equal(labels, torch.eye(K))
    (images, _), plan = chain.mix((torch.rand(K, 3, 8, 8), LABELS), p=1)
    assert images.shape == (K, 3, 10, 10)
    assert not plan.op.any()


def test_images_that_no_step_changes_are_returned_as_they_are():
    """If nothing was done to the images, the same tensor comes back."""
    images = coded_planes(K, (9, 9))
    chain = Chain([CUT, v2.RandomHorizontalFlip(0.0)], p=0.0)
    assert chain(images, LABELS)[0] is images


def test_an_empty_batch_goes_through_all_steps():
    """A batch without images is resized as others are, and its labels have their format."""
    batch = torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64)
    images, labels = Chain([CUT, v2.RandomHorizontalFlip(1.0), v2.Pad(1)])(*batch)
    assert (images.shape, labels.shape) == ((0, 3, 10, 10), (0, K))


@pytest.mark.parametrize(
    ("steps", "options", "error", "text"),
    [
        ([], {}, ValueError, "at least one"),
        (CUT, {}, TypeError, "transforms"),
        ([v2.RandomHorizontalFlip()], {}, ValueError, "at least one"),
        ([3], {}, TypeError, "transforms"),
        ([CutMix], {}, TypeError, "transforms"),
        ([OneOf([CUT, v2.Pad(1)])], {}, TypeError, "a OneOf of rules"),
        ([v2.Compose([Chain([CUT])])], {}, TypeError, "Chain"),
        ([CUT, Mixup(num_classes=3)], {}, ValueError, "agree on num_classes"),
        ([v2.Compose([CUT, Mixup(num_classes=3)])], {}, ValueError, "agree on num_classes"),
        ([CUT, Cutout(num_classes=K, layout="BHWC")], {}, ValueError, "agree on layout"),
        (
            [CUT, Cutout(num_classes=K, passthrough=["depth"])],
            {},
            ValueError,
            "agree on passthrough",
        ),
        ([CUT, Cutout(num_classes=K, labels_getter=len)], {}, ValueError, "agree on labels_getter"),
        ([CutMix(num_classes=2, targets="pair")], {}, ValueError, "targets"),
        ([CutMix(num_classes=2, cut="cuboid")], {}, ValueError, "cut"),
        ([UNCORRECTED], {}, ValueError, "correct_lam must be True in a chain"),
        ([CUT], {"erased": "x"}, ValueError, "erased"),
        ([CUT], {"provenance": 1}, TypeError, "provenance"),
        ([CUT], {"p": 2}, ValueError, "p must"),
    ],
)
def test_wrong_arguments_are_refused(steps, options, error, text):
    """A chain that cannot count labels is refused by its constructor."""
    refused(lambda: Chain(steps, **options), text, kind=error)
