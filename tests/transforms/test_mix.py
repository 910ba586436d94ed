"""Mixup and CutMix: weights, partners and boxes, and the same results as torchvision's."""

import pytest
import torch
from helpers.coded import DTYPES, SIZES, coded_images, seeded, shares
from helpers.distributions import stats
from helpers.transforms import K, check_mix
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import CutMix, Mixup, functional

LEVEL = 1e-4
BOTH = pytest.mark.parametrize("kind", [Mixup, CutMix])
PAIRINGS = {
    "roll": "roll",
    "shuffle": "shuffle",
    "next": lambda labels: torch.arange(len(labels)).roll(-1),
    "first": lambda labels: labels * 0,
}
seeds = st.integers(0, 2**32)
sides = st.integers(1, 24)


@BOTH
@given(
    st.integers(0, 9),
    st.sampled_from(SIZES) | st.tuples(sides, sides),
    st.sampled_from(DTYPES),
    st.sampled_from(list(PAIRINGS)),
    st.sampled_from([0.05, 0.4, 1.0, 8.0, (0.5, 2.0)]),
    st.sampled_from(["batch", "sample"]),
    st.sampled_from([1.0, 0.6]),
    seeds,
)
def test_labels_are_the_weights_of_pixels(kind, count, size, dtype, pairing, alpha, mode, p, seed):
    """For every pairing and alpha, images and labels are mixed by the same weights."""
    images = coded_images(count, size, dtype) * (25 if dtype == torch.uint8 else 1)
    rule = kind(alpha, num_classes=K, pairing=PAIRINGS[pairing], mode=mode, p=p)
    _, soft, plan, _ = check_mix(rule, images, seed)
    torch.testing.assert_close(soft.sum(1), torch.ones(count), atol=1e-6, rtol=0)
    if pairing == "roll" and count > 1:
        assert (plan.partner != torch.arange(count))[plan.op > 0].all()
    if mode == "batch" and count:
        assert len(plan.op.unique()) == len(plan.lam.unique()) == 1


@BOTH
@pytest.mark.parametrize(
    ("a", "b"), [(0.4, 0.4), (2.0, 5.0), (0.4, 3.0), (1e-3, 2e-3), (1e-320, 1.0)]
)
def test_lam_follows_alpha(kind, a, b):
    """Weights are Beta(a, b) before CutMix counts pixels, also where gamma variates underflow."""
    options = {"correct_lam": False} if kind is CutMix else {}
    rule = kind(a if a == b else (a, b), num_classes=2, mode="sample", **options)
    batch = torch.zeros(4000, 1, 2, 2), torch.zeros(4000, dtype=torch.int64)
    lam = rule.draw_plan(batch).lam.double().numpy()
    assert ((lam >= 0) & (lam <= 1)).all()
    assert abs(lam.mean() - a / (a + b)) < 5 * max((lam.var() / 4000) ** 0.5, 1e-3)
    if min(a, b) > 0.1:
        assert stats.kstest(lam, stats.beta(a, b).cdf).pvalue > LEVEL


def test_labels_keep_the_sampled_lam_without_correction():
    """With correct_lam=False labels hold the sampled weight, which is less than the share."""
    rules = [CutMix(num_classes=64, mode="sample", correct_lam=exact) for exact in (False, True)]
    batch = coded_images(64), torch.arange(64)
    ((images, soft), plan), (_, exact) = (rule.mix(batch, generator=seeded()) for rule in rules)
    kept = shares(images).diagonal()
    torch.testing.assert_close(soft.diagonal(), plan.lam, atol=1e-6, rtol=0)
    assert torch.equal(plan.boxes, exact.boxes)
    assert (plan.lam < kept + 0.1).all()
    assert (plan.lam < kept - 0.05).any()


@BOTH
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_lam_can_be_fixed(kind, mode):
    """A fixed lam is the weight of every sample, or the share outside a box before clipping."""
    batch = (coded_images(400, (40, 40), channels=1), torch.arange(400))
    _, plan = kind(lam=0.75, num_classes=400, mode=mode, pairing="shuffle").mix(batch)
    if kind is Mixup:
        assert plan.lam.tolist() == [0.75] * 400
        return
    assert int((plan.boxes[:, 0, 2:] - plan.boxes[:, 0, :2]).max()) <= 20
    assert (plan.lam >= 0.75).all()


@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_lam_can_be_uniform_over_a_range(mode):
    """The ends of a range give a uniform lam, for the batch or for each sample."""
    rule = Mixup(lam=(0.45, 0.55), num_classes=10, mode=mode)
    batch = (coded_images(10), torch.arange(10))
    plans = [rule.draw_plan(batch) for _ in range(200)]
    lam = torch.cat([plan.lam[:1] if mode == "batch" else plan.lam for plan in plans]).double()
    assert stats.kstest((lam.numpy() - 0.45) / 0.1, "uniform").pvalue > LEVEL


# --- Beside torchvision's -------------------------------------------------------------------------


def sample_torchvisions(kind, alpha, seed, images, labels):
    """Return the result of a transform of torchvision, and its random numbers."""
    transform = kind(alpha=alpha, num_classes=5)
    torch.manual_seed(seed)
    out = transform(images, labels)
    torch.manual_seed(seed)
    return out, transform.make_params([images])


@pytest.mark.parametrize("wrap", [torch.Tensor, tv_tensors.Image, tv_tensors.Video])
@given(
    st.integers(1, 6),
    st.tuples(sides, sides),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([0.2, 1.0]),
    st.booleans(),
    seeds,
)
def test_results_equal_torchvisions(wrap, count, size, dtype, alpha, is_soft, seed):
    """With torchvision's random numbers images and labels are torchvision's, cuts bit for bit."""
    torch.manual_seed(seed)
    frames = (4,) if wrap is tv_tensors.Video else ()
    images = torch.rand(count, *frames, 3, *size, dtype=dtype).as_subclass(wrap)
    labels, partner = torch.randint(5, (count,)), (torch.arange(count) - 1) % count
    rows = one_hot(labels, 5).float()
    batch = images, rows if is_soft else labels

    (blended, soft), params = sample_torchvisions(v2.MixUp, alpha, seed, *batch)
    lam = torch.full((count,), params["lam"])
    close = {"atol": 1e-6, "rtol": 0}
    mixed = functional.mixup(images, partner, lam)
    torch.testing.assert_close(mixed, blended.as_subclass(torch.Tensor), **close)
    torch.testing.assert_close(functional.mix_labels(rows, partner, lam), soft, **close)

    (pasted, soft), params = sample_torchvisions(v2.CutMix, alpha, seed, *batch)
    x1, y1, x2, y2 = map(int, params["box"])
    box = torch.tensor([x1, y1, x2, y2]).expand(count, 4)
    lam = torch.full((count,), 1 - (x2 - x1) * (y2 - y1) / (size[0] * size[1]))
    assert torch.equal(functional.cutmix(images, partner, box), pasted.as_subclass(torch.Tensor))
    torch.testing.assert_close(functional.mix_labels(rows, partner, lam), soft, **close)


@pytest.mark.parametrize(("ours", "theirs"), [(Mixup, v2.MixUp), (CutMix, v2.CutMix)])
def test_arguments_and_results_are_torchvisions(ours, theirs):
    """The same arguments and calls return the same types, shapes and dtypes."""
    images, labels = tv_tensors.Image(torch.rand(4, 3, 8, 8)), torch.arange(4)
    tuples, nested = (images, labels), {"image": images, "a": {"b": labels}}
    calls = [({}, tuples), ({}, (tuples,)), ({}, ({"image": images, "labels": labels},))]
    calls.append(({"labels_getter": lambda batch: batch["a"]["b"]}, (nested,)))
    for options, args in calls:
        new, old = (kind(alpha=0.5, num_classes=4, **options)(*args) for kind in (ours, theirs))
        assert type(new) is type(old)
        for one, two in zip(tree_leaves(new), tree_leaves(old), strict=True):
            assert (type(one), one.dtype, one.shape) == (type(two), two.dtype, two.shape)


@pytest.mark.parametrize("shape", [(1, 64), (64, 1)])
def test_images_of_one_row_are_cut_along_it(shape):
    """A side of one pixel is cut whole, and lam has the distribution of one axis."""
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, *shape)
    cut, lams = CutMix(num_classes=2), []
    for _ in range(400):
        mixed, labels = cut(images, torch.arange(2))
        lams.append(float(labels[0, 0]))
        assert float((mixed[0] == 0).float().mean()) == lams[-1]
    # Half of the uniform centres are so near to a border that a box of the mean side is clipped.
    uniform = torch.rand(100_000, 2, dtype=torch.float64)
    side, centre = (uniform[:, 0] * 64).round(), uniform[:, 1] * 64
    low, high = ((centre + sign * side / 2).clamp(0, 64) for sign in (-1, 1))
    assert stats.ks_2samp(lams, (1 - (high - low) / 64).numpy()).pvalue > LEVEL


def test_a_function_for_partners_gets_positions_without_labels():
    """Masks alone can be paired by a function."""
    mask = tv_tensors.Mask(torch.arange(4).view(4, 1, 1).expand(4, 8, 8))
    cut = CutMix(lam=0.0, pairing=lambda rows: rows.flip(0))
    _, mixed = cut(torch.rand(4, 3, 8, 8), mask)
    assert mixed[mixed != mask].numel() > 0
    assert cut.draw_plan((torch.rand(4, 3, 8, 8), mask)).partner.tolist() == [3, 2, 1, 0]
