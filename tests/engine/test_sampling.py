"""Sampling: the distributions of p, lam, boxes and partners, and where random numbers come from.

Statistical tests reject at the level 1e-4 under fixed seeds, so they cannot fail by chance.
"""

import math

import numpy as np
import pytest
import torch
from helpers.distributions import stats
from hypothesis import given
from hypothesis import strategies as st

from tv_mixaug import CutMix, Cutout, Mixup
from tv_mixaug.engine import plan as plans
from tv_mixaug.engine import sampling

LEVEL = 1e-4


def sample_lam(alpha, count):
    return torch.as_tensor(sampling.sample_lam(alpha, count))


def sample_boxes(sides, size, shape):
    return torch.as_tensor(sampling.sample_boxes(sides, size, shape))


def sample_partner(count, pairing):
    """Sample partners, as a tensor."""
    partner = sampling.sample_partner(count, pairing, None)
    return plans.make_plan(plans.PASTE, count, True, partner=partner).partners()


def sample_plan(transform, count, size, p=1.0):
    """Sample the plan of a transform for a batch of images that share a pixel."""
    images, labels = torch.zeros(()).expand(count, 1, *size), torch.zeros(count).long()
    return transform.draw_plan((images, labels), p=p)


# --- Distributions ------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 2.0, 30.0, 1000.0])
def test_lam_has_a_beta_distribution(alpha):
    """Lam is Beta(alpha, alpha) by a Kolmogorov-Smirnov test."""
    lam = sample_lam(alpha, 20_000).numpy()
    assert stats.kstest(lam, stats.beta(alpha, alpha).cdf).pvalue > LEVEL


@pytest.mark.parametrize("alpha", [0.01, 0.03, 0.1])
def test_lam_has_a_beta_distribution_for_tiny_alpha(alpha):
    """Where float64 rounds many values to 1, the distribution holds from 1e-300 to 0.999."""
    lam = sample_lam(alpha, 20_000)
    points = [1e-300, 1e-100, 1e-10, 1e-3, 0.1, 0.5, 0.9, 0.999]
    for point in points:
        share, hits = float(stats.beta(alpha, alpha).cdf(point)), int((lam <= point).sum())
        assert stats.binomtest(hits, 20_000, share).pvalue > LEVEL / len(points), point


@given(
    alpha=st.one_of(st.floats(0.01, 1000), st.sampled_from([2.3e-308, 1e-300, 1e-9, 1e9, 1.7e308])),
    seed=st.integers(0, 2**32),
)
def test_lam_is_a_number_in_range(alpha, seed):
    """Every alpha gives numbers in [0, 1], without a warning."""
    torch.manual_seed(seed)
    for value in (alpha, 0.01, 1000.0):
        lam = sample_lam(value, 500)
        assert lam.isfinite().all()
        assert ((lam >= 0) & (lam <= 1)).all()


@pytest.mark.parametrize("side", range(1, 8))
def test_the_centre_of_a_box_is_uniform(side):
    """The start of a box is uniform over the whole image, and its sides are exact inside it."""
    size = 9
    boxes = sample_boxes((side, side), (size, size), (20_000,))
    for low, high in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        start, inside = torch.where(high < size, high - side, low), (low > 0) & (high < size)
        assert inside.any()
        assert ((high - low)[inside] == side).all()
        if side % 2:  # the centre lies in one of the pixels
            expected = {s - side // 2: 1 / size for s in range(size)}
        else:  # the centre lies on a line between pixels, half as often at the border
            expected = {s - side // 2: 1 / size for s in range(1, size)}
            expected |= {-side // 2: 0.5 / size, size - side // 2: 0.5 / size}
        counts = [int((start == s).sum()) for s in expected]
        assert sum(counts) == len(start)
        wanted = [share * len(start) for share in expected.values()]
        assert stats.chisquare(counts, wanted).pvalue > LEVEL


def mean_length(full, sides):
    """Return the mean length of sides that are clipped, over all centres on an axis."""
    sides = np.asarray(sides)[..., None]
    start = np.floor((np.arange(20 * full) + 0.5) / 20 - sides / 2 + 0.5)
    return (np.minimum(start + sides, full) - np.maximum(start, 0)).mean(-1) / full


@pytest.mark.parametrize("size", [(64, 64), (63, 63), (28, 28), (31, 65), (7, 7)])
def test_the_mean_pasted_share_is_that_of_the_paper(size):
    """With alpha = 1, CutMix pastes 1/2 - 1/5 + 1/48 = 0.321 of an image, at odd sizes too."""
    plan = sample_plan(CutMix(num_classes=1, mode="sample"), 20_000, size)
    # Sides are whole pixels, which makes the share of a tiny image a little larger.
    shares = np.sqrt(1 - (np.arange(2000) + 0.5) / 2000)
    expected = math.prod(mean_length(full, np.rint(shares * full)) for full in size).mean()
    assert expected == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.25 / min(size) ** 2)
    assert stats.ttest_1samp(1 - plan.lam.double(), expected).pvalue > LEVEL


@pytest.mark.parametrize(
    ("size", "side"), [((28, 28), 14), ((28, 28), 7), ((27, 27), 13), ((32, 48), 16)]
)
def test_the_mean_erased_share_is_that_of_the_paper(size, side):
    """Cutout erases s/n (1 - s/4n) of each axis on average: 0.191 for side 14 at 28 x 28."""
    plan = sample_plan(Cutout(side), 20_000, size)
    expected = math.prod(mean_length(full, side) for full in size)
    if (size, side) == ((28, 28), 14):
        assert expected == pytest.approx(0.4375**2, abs=1e-9)
    erased = plans.box_volumes(plan.boxes[:, 0]).double() / math.prod(size)
    assert stats.ttest_1samp(erased, expected).pvalue > LEVEL


def test_shuffle_is_a_uniform_permutation():
    """Each of the six permutations of three samples comes equally often."""
    seen = [tuple(sample_partner(3, "shuffle").tolist()) for _ in range(3000)]
    counts = [seen.count(permutation) for permutation in sorted(set(seen))]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > LEVEL


def test_roll_takes_every_shift_equally_often():
    """Each cyclic shift but 0 comes equally often, and no sample is its own partner."""
    seen, rows = [sample_partner(5, "roll") for _ in range(2000)], torch.arange(5)
    for partner in seen:
        assert torch.equal(partner, (rows + partner[0]) % 5)
        assert not (partner == rows).any()
    shifts = [int(partner[0]) for partner in seen]
    assert stats.chisquare([shifts.count(s) for s in range(1, 5)]).pvalue > LEVEL


# --- The plans of the rules ---------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
cuboids = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@given(
    data=st.data(),
    count=st.integers(0, 9),
    size=st.one_of(sizes, cuboids),
    mode=st.sampled_from(["batch", "sample"]),
    p=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_a_plan_counts_whole_pixels(kind, data, count, size, mode, p, seed):
    """Boxes lie inside the image, lam is the share of pixels left, samples left out are alone."""
    torch.manual_seed(seed)
    partner, dims = torch.randperm(count), 2 if kind is Mixup else len(size)
    layout = "BCHW" if len(size) == 2 else "BCDHW"
    options, number, sides = {"mode": mode, "layout": layout, "num_classes": 1}, 1, size
    if kind is not Mixup:
        options["cut"] = "cuboid" if dims == 3 else "spatial"
    if kind is Cutout:
        number, fill = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([0.0, "noise"]))
        sides = tuple(data.draw(st.integers(1, 40)) for _ in size)
        transform, partner = Cutout(sides, holes=number, fill=fill, **options), torch.arange(count)
    else:
        alpha = data.draw(st.sampled_from([0.01, 0.2, 1.0, 50.0]))
        fill, transform = 0.0, kind(alpha, pairing=lambda labels: partner, **options)
    plan = sample_plan(transform, count, size, p)
    applied = plan.op != plans.NONE
    assert p not in (0, 1) or (applied == bool(p)).all()
    assert torch.equal(plan.op, applied.to(torch.uint8) * transform.ops[0])
    assert torch.equal(plan.partner, torch.where(applied, partner, torch.arange(count)))
    assert [field.dtype for field in plan[2:5]] == [torch.float32, torch.int64, torch.int64]
    assert plan.boxes.shape == (count, number, 2 * dims)
    low, high = plan.boxes[..., :dims], plan.boxes[..., dims:]
    assert not plan.boxes[plans.box_volumes(plan.boxes) == 0].any()  # an empty box has no place
    assert (low >= 0).all()
    assert (low <= high).all()
    if kind is not Mixup:
        assert (high <= torch.tensor(size[::-1])).all()
        assert (high - low <= torch.tensor(sides[::-1])).all()
    if kind is CutMix:
        share = 1 - (high - low).prod(-1).double()[:, 0] / math.prod(size)
        torch.testing.assert_close(plan.lam.double(), share, atol=1e-7, rtol=0)
    assert ((plan.lam >= 0) & (plan.lam <= 1)).all()
    assert (plan.lam[~applied] == 1).all()
    assert not plan.boxes[~applied].any()
    assert kind is not Cutout or (plan.lam == 1).all()
    assert kind is not Mixup or not plan.boxes.any()
    assert fill == "noise" or not plan.noise.any()
    if mode == "batch" and count:
        assert (plan.lam == plan.lam[0]).all()
        assert torch.equal(plan.boxes, plan.boxes[:1].expand_as(plan.boxes))


def test_a_box_inside_the_image_reaches_every_place():
    """Boxes of 3 x 2 pixels in 4 x 3 pixels start at 0 and at 1 on each axis, equally often."""
    ones = np.ones((4000, 1))
    boxes = sampling.sample_inner_boxes(6 * ones, 1.5 * ones, (4, 3))
    assert (boxes[:, 2:] - boxes[:, :2] == [2, 3]).all()
    assert {*map(tuple, boxes[:, :2].tolist())} == {(x, y) for x in (0, 1) for y in (0, 1)}
    assert np.abs(boxes[:, :2].mean(0) - 0.5).max() < 4 * 0.5 / 4000**0.5
