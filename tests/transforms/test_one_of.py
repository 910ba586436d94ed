"""One of several transforms, for a batch or for each sample; and the weights that are drawn."""

import copy
import pickle

import pytest
import torch
from helpers.coded import DTYPES, bits, coded_images, shares
from helpers.loading import Pictures
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import (
    Chain,
    CutMix,
    Cutout,
    Mixup,
    OneOf,
    PairedLabels,
    RandomErasing,
    functional,
    make_collate_fn,
)
from tv_mixaug.engine.plan import BLEND, FILL, NONE, PASTE

LEVEL = 1e-4
K = 6


def members(num_classes=K, **options):
    """Return a rule of each kind."""
    return [
        Mixup(0.8, num_classes=num_classes, **options),
        CutMix(num_classes=num_classes, **options),
        RandomErasing(p=1.0, num_classes=num_classes, **options),
    ]


# --- What is chosen -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_each_is_chosen_with_its_probability(mode):
    """The counts of the operations match p, and with the rest nothing is done."""
    torch.manual_seed(0)
    p = [0.2, 0.4, 0.1]
    either = OneOf(members(), p, mode=mode)
    images, labels = coded_images(K, (16, 16)), torch.arange(K)
    batches = 1500 if mode == "batch" else 250
    plans = [either.mix((images, labels))[1] for _ in range(batches)]
    if mode == "batch":
        assert all(len(plan.op.unique()) == 1 for plan in plans)
    ops = torch.cat([plan.op[:1] if mode == "batch" else plan.op for plan in plans])
    counts = torch.bincount(ops.long(), minlength=4)[[BLEND, PASTE, FILL, NONE]]
    wanted = torch.tensor([*p, 1 - sum(p)], dtype=torch.float64) * len(ops)
    assert stats.chisquare(counts.double().numpy(), wanted.numpy()).pvalue > LEVEL


@given(
    st.integers(0, 7),
    st.sampled_from(DTYPES),
    st.sampled_from(["batch", "sample"]),
    st.sampled_from(["roll", "shuffle"]),
    st.integers(0, 2**32),
)
def test_labels_tell_the_truth_whatever_was_chosen(count, dtype, mode, pairing, seed):
    """Pixels are those that the plan says, of the originals; labels are one-hot, mixed by it."""
    torch.manual_seed(seed)
    rules = [
        Mixup(0.8, num_classes=count + 1, pairing=pairing, mode="sample"),
        CutMix(num_classes=count + 1, pairing=pairing, p=0.7, mode="sample"),
        Cutout(0.4, num_classes=count + 1, holes=2),
    ]
    images = coded_images(count, (9, 12), dtype)
    before = images.clone()
    (out, labels), plan = OneOf(rules, mode=mode).mix((images, torch.arange(count)))
    assert torch.equal(bits(images), bits(before))
    assert torch.equal(bits(out), bits(functional.replay(images, plan)))
    assert labels.shape == (count, count + 1)
    expected = functional.mix_labels(torch.eye(count + 1)[:count], plan.partner, plan.lam)
    torch.testing.assert_close(labels, expected, atol=1e-6, rtol=0)
    pasted = plan.op == PASTE
    torch.testing.assert_close(
        labels[pasted].double(), shares(out, count + 1)[pasted], atol=1e-6, rtol=0
    )


def test_a_batch_for_each_sample_holds_all_operations():
    """One batch has blended, pasted and erased samples, and such as are left alone."""
    torch.manual_seed(0)
    either = OneOf(members(64), [0.3, 0.3, 0.3], mode="sample")
    (images, _), plan = either.mix((coded_images(64, (16, 16)), torch.arange(64)))
    assert set(plan.op.tolist()) == {NONE, FILL, BLEND, PASTE}
    untouched = plan.op == NONE
    assert torch.equal(images[untouched], coded_images(64, (16, 16))[untouched])


def test_p_can_be_set_and_shares_are_equal_by_default():
    """What is set holds from the next batch on, here and in a collate function that is made."""
    either = OneOf(members())
    assert either.p == [1 / 3] * 3
    batch = (coded_images(K, (16, 16)), torch.arange(K))
    either.p = [0, 0, 0]
    assert torch.equal(either(*batch)[0], batch[0])
    assert torch.equal(either(*batch)[1], torch.eye(K))
    either.p = (0, 1, 0)
    assert set(either.mix(batch)[1].op.tolist()) == {PASTE}
    assert set(either.mix(batch, p=[1, 0, 0])[1].op.tolist()) == {BLEND}
    collate = make_collate_fn(either)
    assert collate.p == [0, 1, 0]
    collate.set_p([0, 0, 0])
    assert either.p == [0, 1, 0]
    assert torch.equal(collate([(image, i) for i, image in enumerate(batch[0])])[0], batch[0])


def test_the_list_form_of_the_factory_is_the_same_object():
    """make_collate_fn([...], p) and make_collate_fn(OneOf([...], p)) give the same batches."""
    samples = [(image, i) for i, image in enumerate(coded_images(K, (16, 16)))]
    for p in (None, [0.5, 0.2, 0.1]):
        as_list = make_collate_fn(members(), p, seed=4, record=True)
        as_one = make_collate_fn(OneOf(members(), p), seed=4, record=True)
        for _ in range(8):
            one, other = as_list(samples), as_one(samples)
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
            assert all(torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))
    assert repr(as_list) == repr(as_one)


@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_a_seed_gives_the_same_for_every_number_of_workers(mode):
    """In a loader the choice is a function of the seed, and set_p reaches running workers."""
    loaders, found = [], []
    for workers in (0, 2):
        either = OneOf(members(5, passthrough=(2,)), mode=mode)
        collate = make_collate_fn(either, seed=3, record=True)
        loader = DataLoader(
            Pictures(), 8, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
        )
        loaders.append((collate, loader))
        found.append([(images, plan.op) for images, *_, plan in loader])
    for (one, op), (other, same) in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(op, same)
    collate, loader = loaders[1]
    collate.set_epoch(1)
    collate.set_p([0, 0, 0])
    assert not any(plan.op.any() for *_, plan in loader)


# --- Leaves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("masks", ["soft", "dominant"])
def test_masks_have_one_format_whatever_was_chosen(mode, masks):
    """Class ids or planes in every batch, and in them the pixels of whoever is in the image."""
    options = {"masks": masks, "num_mask_classes": K if masks == "soft" else None}
    cuts = options if masks == "soft" else {}
    rules = [
        Mixup(num_classes=K, **options),
        CutMix(num_classes=K, **cuts),
        Cutout(num_classes=K, mask_fill=0, **cuts),
    ]
    either = OneOf(rules, mode=mode)
    ids = torch.arange(K).view(-1, 1, 1).expand(-1, 16, 16)
    seen = set()
    torch.manual_seed(0)
    for _ in range(30):
        batch = {"image": coded_images(K, (16, 16)), "mask": tv_tensors.Mask(ids)}
        (mixed), plan = either.mix({**batch, "label": torch.arange(K)})
        seen |= set(plan.op.tolist())
        mask = mixed["mask"]
        assert mask.shape == ((K, K, 16, 16) if masks == "soft" else (K, 16, 16))
        pasted = plan.op == PASTE
        found = mask.argmax(1) if masks == "soft" else mask
        assert torch.equal(found[pasted], (mixed["image"][pasted, 0] - 1).long())
        filled = plan.op == FILL
        hidden = functional.cutout(torch.zeros(K, 16, 16), plan.boxes, 1.0) == 1
        assert not found[filled][hidden[filled]].any()
        if masks == "soft":
            torch.testing.assert_close(mask.sum(1), torch.ones(K, 16, 16))
    assert seen == {BLEND, PASTE, FILL}


def test_pairs_and_objects_are_mixed_by_the_same_plan():
    """Paired labels name the plan's partner; objects follow the operation of their image."""
    torch.manual_seed(0)
    either = OneOf(members(targets="pair", mode="sample"), mode="sample")
    (_, labels), plan = either.mix((coded_images(K, (16, 16)), torch.arange(K)))
    assert isinstance(labels, PairedLabels)
    assert torch.equal(labels.partner_labels, plan.partner)
    assert torch.equal(labels.lam, plan.lam)
    targets = [{"boxes": torch.tensor([[0.0, 0, 16, 16]]), "id": i} for i in range(K)]
    rules = [Mixup(labels_getter=None), CutMix(labels_getter=None), Cutout(0.5)]
    rules[2] = Cutout(0.5, labels_getter=None)
    (_, mixed), plan = OneOf(rules, mode="sample").mix((coded_images(K, (16, 16)), targets))
    for op, target in zip(plan.op.tolist(), mixed, strict=True):
        assert len(target["boxes"]) <= (1 if op == FILL else 2)


def test_in_a_chain_the_choice_is_followed():
    """A choice in a chain gives labels that are counted in the pixels at the end."""
    torch.manual_seed(0)
    for mode in ("batch", "sample"):
        either = OneOf(members()[1:], mode=mode)
        chain = Chain([either, v2.RandomHorizontalFlip(), either], erased="nobody")
        kinds = set()
        for _ in range(12):
            images, labels = chain(coded_images(K, (16, 16)), torch.arange(K))
            wanted = shares(images)
            torch.testing.assert_close(labels.double(), wanted, atol=1e-6, rtol=0)
            kinds.add(tuple((labels > 0).sum(1).tolist()))
        assert len(kinds) > 2


def test_foreign_transforms_can_be_chosen_for_a_batch():
    """Torchvision's own may stand beside ours in mode batch, but have no plan."""
    either = OneOf([v2.MixUp(num_classes=K), CutMix(num_classes=K)], p=[1, 0])
    _, labels = either(coded_images(K), torch.arange(K))
    assert labels.shape == (K, K)
    with pytest.raises(ValueError, match="plan"):
        either.mix((coded_images(K), torch.arange(K)))
    either.p = [0, 0]  # ours gives labels their format
    assert torch.equal(either(coded_images(K), torch.arange(K))[1], torch.eye(K))
    assert repr(either).startswith("OneOf([MixUp(")  # what was given, without what is inside
    assert "p=[0.0, 0.0], mode='batch')" in repr(either)
    nested = OneOf([OneOf(members(), [0, 1, 0]), Mixup(num_classes=K)], [1, 0])
    assert set(nested.mix((coded_images(K), torch.arange(K)))[1].op.tolist()) == {PASTE}
    nested.p = [0, 0]
    assert torch.equal(nested(coded_images(K), torch.arange(K))[1], torch.eye(K))


@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_it_writes_into_the_images_if_its_rules_do(mode):
    """inplace=True of all rules is kept, whatever was chosen; rules must agree on it."""
    torch.manual_seed(0)
    images = coded_images(K)
    out, _ = OneOf(members(inplace=True), mode=mode)(images, torch.arange(K))
    assert out is images
    assert not torch.equal(images, coded_images(K))
    if mode == "sample":
        with pytest.raises(ValueError, match="agree on inplace"):
            OneOf([Mixup(inplace=True), CutMix()], mode=mode)


def test_it_can_be_copied_and_pickled():
    """A copy draws the same from the same generator."""
    either = OneOf(members(), mode="sample")
    for other in (copy.deepcopy(either), pickle.loads(pickle.dumps(either))):  # noqa: S301
        results = [
            each.mix((coded_images(K), torch.arange(K)), generator=torch.Generator().manual_seed(5))
            for each in (either, other)
        ]
        assert torch.equal(results[0][0][0], results[1][0][0])


def test_an_argument_changed_later_is_checked_and_reaches_everything():
    """What is set on a transform, or on one of a choice, holds from the next batch on."""
    batch = (coded_images(K), torch.arange(K))
    mix = CutMix(num_classes=K)
    mix(*batch)
    mix.num_classes = K + 2
    assert mix(*batch)[1].shape == (K, K + 2)
    mix.alpha = -1
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="alpha must be > 0"):
        mix(*batch)
    assert torch.equal(torch.get_rng_state(), state)
    rules = members()
    either = OneOf(rules, mode="sample")
    either(*batch)
    for rule in rules:
        rule.num_classes = K + 1
    assert either(*batch)[1].shape == (K, K + 1)
    rules[0].num_classes = K
    with pytest.raises(ValueError, match="agree on num_classes"):
        either(*batch)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: OneOf(Mixup(num_classes=K)), TypeError, "transforms must be a list"),
        (lambda: OneOf([]), ValueError, "at least one"),
        (lambda: OneOf([Mixup]), TypeError, "make one"),
        (lambda: OneOf([3]), TypeError, "callable"),
        (lambda: OneOf(members(), [0.5]), ValueError, "p must be a list of 3 values"),
        (lambda: OneOf(members(), [0.5, 0.5, 0.5]), ValueError, "sum of at most 1"),
        (lambda: OneOf(members(), 0.5), TypeError, "p must be a list"),
        (lambda: OneOf(members(), mode="each"), ValueError, "mode must be"),
        (
            lambda: OneOf([Mixup(num_classes=2), CutMix(num_classes=3)]),
            ValueError,
            "agree on num_classes",
        ),
        (
            lambda: OneOf([Mixup(masks="soft", num_mask_classes=2), CutMix()]),
            ValueError,
            "agree on masks",
        ),
        (lambda: OneOf([lambda b: b], mode="sample"), TypeError, "mode='sample'"),
        (
            lambda: OneOf([Cutout(fill=1), RandomErasing(fill="noise")], mode="sample"),
            ValueError,
            "agree on fill",
        ),
        (
            lambda: OneOf([Mixup(layout="BHWC"), CutMix()], mode="sample"),
            ValueError,
            "agree on layout",
        ),
    ],
)
def test_wrong_arguments_are_named(call, kind, text):
    """Each wrong argument raises at once, with its name and what was expected."""
    with pytest.raises(kind, match=text):
        call()


# --- The weights that are drawn -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_lam_can_be_fixed_or_drawn_from_a_range(kind, mode):
    """A number is the weight of every sample; a range is drawn from uniformly."""
    torch.manual_seed(0)
    batch = (coded_images(400, (40, 40), channels=1), torch.arange(400))
    _, plan = kind(lam=0.75, num_classes=400, mode=mode, pairing="shuffle").mix(batch)
    if kind is Mixup:
        assert plan.lam.tolist() == [0.75] * 400
    else:  # the share before clipping
        sides = plan.boxes[:, 0, 2:] - plan.boxes[:, 0, :2]
        assert int(sides.max()) <= 20
        assert (plan.lam >= 0.75).all()
    if kind is Mixup:
        drawn = kind(lam=(0.45, 0.55), num_classes=400, mode=mode)
        lams = torch.cat(
            [drawn.mix(batch)[1].lam[: 400 if mode == "sample" else 1] for _ in range(200)]
        )
        scaled = (lams.double().numpy() - 0.45) / 0.1
        assert stats.kstest(scaled[:2000], "uniform").pvalue > LEVEL


@pytest.mark.parametrize("pair", [(2.0, 5.0), (0.4, 3.0), (1e-3, 2e-3), (1e-320, 1.0)])
def test_alpha_may_be_a_pair(pair):
    """Lam is drawn from Beta(a, b), also where gamma variates underflow."""
    torch.manual_seed(0)
    _, plan = Mixup(pair, num_classes=2, mode="sample").mix(
        (torch.zeros(4000, 1, 1, 1), torch.zeros(4000, dtype=torch.int64))
    )
    lam = plan.lam.double().numpy()
    assert (lam >= 0).all()
    assert (lam <= 1).all()
    mean = pair[0] / sum(pair)
    assert abs(lam.mean() - mean) < 5 * max((lam.var() / 4000) ** 0.5, 1e-3)
    if min(pair) > 0.1:
        assert stats.kstest(lam, stats.beta(*pair).cdf).pvalue > LEVEL


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"alpha": (1.0, 0.0)}, ValueError, "alpha must be > 0"),
        ({"alpha": (1.0, 2.0, 3.0)}, TypeError, "alpha must be a number or a pair"),
        ({"alpha": ("1", 2.0)}, TypeError, "alpha must be a number"),
        ({"alpha": 10**400}, ValueError, "alpha must be finite"),
        ({"alpha": 10**5000}, ValueError, "alpha must be finite"),
        ({"lam": 1.2}, ValueError, "lam must be in"),
        ({"lam": float("nan")}, ValueError, "lam must be"),
        ({"lam": (0.6, 0.5)}, ValueError, "lam must be a pair"),
        ({"lam": (0.6, 1.5)}, ValueError, "lam must be in"),
        ({"lam": "half"}, TypeError, "lam must be a number"),
        ({"lam": 0.5, "alpha": 0.2}, ValueError, "alpha must be left out"),
    ],
)
def test_wrong_weights_are_named(arguments, kind, text):
    """Alpha and lam say what they take."""
    for rule in (Mixup, CutMix):
        with pytest.raises(kind, match=text):
            rule(**arguments)


@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_rules_that_are_set_apart_later_are_refused(mode):
    """What is set on one rule alone fails in every batch; set on all, labels keep one format."""
    rules = [Mixup(num_classes=4), CutMix(num_classes=4)]
    either = OneOf(rules, mode=mode)
    batch = torch.rand(4, 3, 8, 8), torch.arange(4)
    rules[0].num_classes = 6
    for _ in range(2):
        with pytest.raises(ValueError, match=r"agree on .*num_classes"):
            either(batch)
    rules[1].num_classes = 6
    assert either(batch)[1].shape == (4, 6)
    assert either.options.num_classes == 6
