"""OneOf: which transform is chosen, and one format of labels and masks whichever it is."""

import pytest
import torch
from helpers.coded import coded_images
from helpers.distributions import stats
from helpers.loading import same
from helpers.refusals import refused
from torchvision.transforms import v2

from tv_mixaug import (
    CutMix,
    Cutout,
    Mixup,
    OneOf,
    PairedLabels,
    RandomErasing,
    make_collate_fn,
)
from tv_mixaug.engine.plan import BLEND, FILL, NONE, PASTE

K = 6
MODES = pytest.mark.parametrize("mode", ["batch", "sample"])
BATCH = (coded_images(K, (16, 16)), torch.arange(K))
SAMPLES = list(zip(BATCH[0], range(K), strict=True))


def make_rules(num_classes=K, **options):
    """Return a rule of each kind."""
    options["num_classes"] = num_classes
    return [Mixup(0.8, **options), CutMix(**options), RandomErasing(p=1.0, **options)]


@MODES
def test_each_transform_is_chosen_with_its_probability(mode):
    """The counts of the operations match p, and otherwise nothing is done."""
    p = [0.2, 0.4, 0.1]
    either = OneOf(make_rules(), p, mode=mode)
    ops = torch.stack([either.draw_plan(BATCH).op for _ in range(1500 if mode == "batch" else 250)])
    if mode == "batch":
        assert (ops == ops[:, :1]).all()
        ops = ops[:, 0]
    else:
        assert any(len(row.unique()) == 4 for row in ops)
    counts = torch.bincount(ops.flatten().long(), minlength=4)[[BLEND, PASTE, FILL, NONE]]
    wanted = torch.tensor([*p, 1 - sum(p)], dtype=torch.float64) * ops.numel()
    assert stats.chisquare(counts.double().numpy(), wanted.numpy()).pvalue > 1e-4


@MODES
def test_the_chosen_rule_uses_its_own_probability_and_mode(mode):
    """A rule that is chosen samples with its own p, and for each sample if that is its mode."""
    options = {"num_classes": K, "mode": "sample"}
    either = OneOf([CutMix(p=0.7, **options), Mixup(p=0.0, **options)], [1, 0], mode=mode)
    ops = torch.stack([either.draw_plan(BATCH).op for _ in range(300)])
    assert stats.binomtest(int((ops == PASTE).sum()), ops.numel(), 0.7).pvalue > 1e-4
    assert not (ops == ops[:, :1]).all()
    either.p = [0, 1]
    assert not either.draw_plan(BATCH).op.any()


def test_p_can_be_set():
    """Shares are equal by default; p is used from the next batch on, by copies on their own."""
    either = OneOf(make_rules())
    assert either.p == [1 / 3] * 3
    for p, op in (((0, 1, 0), PASTE), ([0, 0, 0], NONE), ([1, 0, 0], BLEND)):
        either.p = p
        assert either.p == list(p)
        assert set(either.mix(BATCH)[1].op.tolist()) == {op}
    assert set(either.mix(BATCH, p=[0, 1, 0])[1].op.tolist()) == {PASTE}
    collate_fn = make_collate_fn(either)
    assert collate_fn.p == [1, 0, 0]
    collate_fn.set_p([0, 0, 0])
    assert either.p == [1, 0, 0]
    assert torch.equal(collate_fn(SAMPLES)[0], BATCH[0])


@pytest.mark.parametrize("p", [None, [0.5, 0.2, 0.1]])
def test_a_list_of_transforms_is_a_choice(p):
    """make_collate_fn([...], p) and make_collate_fn(OneOf([...], p)) give the same batches."""
    as_list = make_collate_fn(make_rules(), p, seed=4, record=True)
    as_one = make_collate_fn(OneOf(make_rules(), p), seed=4, record=True)
    for _ in range(8):
        assert same(as_list(SAMPLES), as_one(SAMPLES))
    assert (as_list.p, repr(as_list.transform)) == (as_one.p, repr(as_one.transform))


@MODES
def test_pairs_name_the_partner_of_the_plan(mode):
    """Paired labels hold the partner and the weight of the plan, whichever rule is chosen."""
    either = OneOf(make_rules(targets="pair"), mode=mode)
    for _ in range(8):
        (_, labels), plan = either.mix(BATCH)
        assert same(labels, PairedLabels(BATCH[1], plan.partner, plan.lam))


def test_other_transforms_can_be_chosen_for_a_batch():
    """Transforms of others are applied beside rules of this package, but have no plan."""
    either = OneOf([v2.MixUp(num_classes=K), CutMix(num_classes=K)], p=[1, 0])
    images, labels = either(*BATCH)
    assert not torch.equal(images, BATCH[0])
    assert labels.shape == (K, K)
    with pytest.raises(ValueError, match="has no plan"):
        either.mix(BATCH)
    either.p = [0, 0]  # rules of this package still give labels their format
    assert torch.equal(either(*BATCH)[1], torch.eye(K))
    assert repr(either).startswith("OneOf(transforms=(MixUp(")
    assert repr(either).endswith("p=[0.0, 0.0])")


def test_choices_can_be_nested():
    """A choice that is chosen chooses by its own p."""
    nested = OneOf([OneOf(make_rules(), [0, 1, 0]), Mixup(num_classes=K)], [1, 0])
    assert set(nested.mix(BATCH)[1].op.tolist()) == {PASTE}
    nested.p = [0, 0]
    assert torch.equal(nested(*BATCH)[1], torch.eye(K))


SAMPLE = {"mode": "sample"}


@pytest.mark.parametrize(
    ("transforms", "options", "kind", "text"),
    [
        (Mixup(num_classes=K), {}, TypeError, "transforms must be a list"),
        ([], {}, ValueError, "at least one"),
        ([Mixup], {}, TypeError, "make one"),
        ([3], {}, TypeError, "callable"),
        (make_rules(), {"p": [0.5]}, ValueError, "p must be a list of 3 values"),
        (make_rules(), {"p": [0.5, 0.5, 0.5]}, ValueError, "sum of at most 1"),
        (make_rules(), {"p": 0.5}, TypeError, "p must be a list"),
        (make_rules(), {"mode": "each"}, ValueError, "mode must be"),
        ([Mixup(num_classes=2), CutMix(num_classes=3)], {}, ValueError, "agree on num_classes"),
        ([Mixup(masks="soft", num_mask_classes=2), CutMix()], {}, ValueError, "agree on masks"),
        ([lambda b: b], SAMPLE, TypeError, "mode='sample'"),
        ([Cutout(fill=1), RandomErasing(fill="noise")], SAMPLE, ValueError, "agree on fill"),
        ([Mixup(layout="BHWC"), CutMix()], SAMPLE, ValueError, "agree on layout"),
        ([Mixup(inplace=True), CutMix()], SAMPLE, ValueError, "agree on inplace"),
    ],
)
def test_wrong_arguments_are_refused(transforms, options, kind, text):
    """Each wrong argument raises an error in the constructor."""
    refused(lambda: OneOf(transforms, **options), text, kind=kind)


@pytest.mark.parametrize(
    "choice",
    [
        OneOf([CutMix(num_classes=K), lambda batch: (batch[0].flip(-1), batch[1])], [0.4, 0.4]),
        OneOf([v2.MixUp(num_classes=K), v2.CutMix(num_classes=K)], [0.3, 0.3]),
        make_collate_fn(v2.MixUp(num_classes=K), 0.5),
    ],
    ids=["function", "torchvision", "torchvision alone"],
)
def test_foreign_transforms_have_one_label_format(choice):
    """Labels are rows whether a foreign transform leaves them alone, mixes them or is skipped."""
    arguments = BATCH if isinstance(choice, OneOf) else (SAMPLES,)
    found = {
        (tuple(labels.shape), labels.dtype) for _, labels in (choice(*arguments) for _ in range(30))
    }
    assert found == {((K, K), torch.float32)}
