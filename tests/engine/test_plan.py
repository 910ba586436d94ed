"""Plans: their shapes, their bounds and the laws they are drawn by.

Statistical tests reject at the level 1e-4 under fixed seeds, so they cannot fail by chance.
"""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.utils import _pytree as pytree

from tv_mixaug import CutMix, Cutout, Mixup, PairedLabels
from tv_mixaug.batch.spec import FieldSpec, ParsedBatch, Role
from tv_mixaug.engine import kernels
from tv_mixaug.engine import plan as plans
from tv_mixaug.engine import sampling as draws

LEVEL = 1e-4


def as_tensor(draw):
    """Let a draw be looked at as a tensor."""
    return lambda *args, **options: torch.as_tensor(draw(*args, **options))


sample_applied, sample_lam, sample_boxes = map(
    as_tensor, (draws.sample_applied, draws.sample_lam, draws.sample_boxes)
)


def sample_partner(count, pairing, labels):
    """Return partners as a tensor, whichever way they were drawn."""
    partner = draws.sample_partner(count, pairing, labels)
    return plans.make_plan(plans.PASTE, count, True, partner=partner).partners()


def draw_plan(transform, count, size, p=1.0):
    """Draw a transform's plan for a batch that nobody has to make."""
    labels = FieldSpec(Role.LABEL, ())  # callables are asked only where there are labels
    batch = ParsedBatch([torch.arange(count)], (labels,), (), count, tuple(size))
    return transform.sample_plan(batch, p, None).plan()


def mode(per_sample):
    return "sample" if per_sample else "batch"


def assert_mean(values, expected):
    """Compare a sample's mean with its expectation by a z-test."""
    values = values.double()
    error = float(values.std()) / math.sqrt(len(values))
    z = abs(float(values.mean()) - expected) / error
    assert 2 * stats.norm.sf(z) > LEVEL, f"mean {values.mean():.5f}, expected {expected:.5f}"


# --- The laws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("per_sample", [True, False])
def test_p_is_the_share_that_is_transformed(p, per_sample):
    """A sample, or a batch, is transformed with probability p."""
    if per_sample:
        hits, count = int(sample_applied(5000, p, True).sum()), 5000
    else:
        coins = [draws.sample_applied(3, p, False) for _ in range(2000)]
        assert {type(coin) for coin in coins} == {bool}
        hits, count = sum(coins), 2000
    assert stats.binomtest(hits, count, p).pvalue > LEVEL


@pytest.mark.parametrize("per_sample", [True, False])
def test_p_zero_is_never_and_p_one_is_always(per_sample):
    """The ends of the range of p are exact."""
    assert not sample_applied(5000, 0.0, per_sample).any()
    assert sample_applied(5000, 1.0, per_sample).all()


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 2.0, 30.0, 1000.0])
def test_lam_follows_its_beta_law(alpha):
    """Lam is Beta(alpha, alpha) by a Kolmogorov-Smirnov test."""
    lam = sample_lam(alpha, 20_000).numpy()
    assert stats.kstest(lam, stats.beta(alpha, alpha).cdf).pvalue > LEVEL


@pytest.mark.parametrize("alpha", [0.01, 0.03, 0.1])
def test_lam_follows_its_beta_law_for_tiny_alpha(alpha):
    """Where float64 rounds much of the mass to 1, the law holds at points from 1e-300 to 0.999."""
    lam, count = sample_lam(alpha, 20_000), 20_000
    points = [1e-300, 1e-100, 1e-10, 1e-3, 0.1, 0.5, 0.9, 0.999]
    for point in points:
        share = float(stats.beta(alpha, alpha).cdf(point))
        hits = int((lam <= point).sum())
        assert stats.binomtest(hits, count, share).pvalue > LEVEL / len(points), point


@given(
    alpha=st.one_of(st.floats(0.01, 1000), st.sampled_from([2.3e-308, 1e-300, 1e-9, 1e9, 1.7e308])),
    seed=st.integers(0, 2**32),
)
def test_lam_is_never_nan_nor_out_of_range(alpha, seed):
    """Every alpha gives numbers in [0, 1], without a warning."""
    torch.manual_seed(seed)
    for value in (alpha, 0.01, 1000.0):
        lam = sample_lam(value, 500)
        assert lam.isfinite().all()
        assert ((lam >= 0) & (lam <= 1)).all()


@pytest.mark.parametrize("side", [1, 2, 5, 6])
def test_the_centre_of_a_box_is_uniform(side):
    """The box's start is uniform over the whole image, for odd and even sides alike."""
    size = 9
    boxes = sample_boxes((side, side), (size, size), (20_000,))
    for low, high in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        start = torch.where(high < size, high - side, low)
        if side % 2:  # the centre lies in one of the pixels
            expected = {s - side // 2: 1 / size for s in range(size)}
        else:  # the centre lies on one of the lines between pixels, half as often at the border
            expected = {s - side // 2: 1 / size for s in range(1, size)}
            expected |= {-side // 2: 0.5 / size, size - side // 2: 0.5 / size}
        seen = {s: int((start == s).sum()) for s in expected}
        assert sum(seen.values()) == len(start)
        counts = [seen[s] for s in sorted(expected)]
        wanted = [expected[s] * len(start) for s in sorted(expected)]
        assert stats.chisquare(counts, wanted).pvalue > LEVEL


@pytest.mark.parametrize("size", [(64, 64), (63, 63), (28, 28), (31, 65), (7, 7)])
def test_the_mean_pasted_share_is_that_of_the_paper(size):
    """With alpha = 1, CutMix pastes 1/2 - 1/5 + 1/48 = 0.321 of an image, at odd sizes too."""
    count = 20_000
    plan = draw_plan(CutMix(mode="sample"), count, size)
    # Sides are whole pixels, which makes the share of a tiny image a little larger.
    lam, expected = (np.arange(2000) + 0.5) / 2000, np.ones(2000)
    for full in size:
        side = np.rint(np.sqrt(1 - lam) * full)[:, None]
        start = np.floor((np.arange(20 * full) + 0.5) / 20 - side / 2 + 0.5)
        length = np.minimum(start + side, full) - np.maximum(start, 0)
        expected = expected * length.mean(1) / full
    assert expected.mean() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.25 / min(size) ** 2)
    assert_mean(1 - plan.lam, float(expected.mean()))


@pytest.mark.parametrize(
    ("size", "side"), [((28, 28), 14), ((28, 28), 7), ((27, 27), 13), ((32, 48), 16)]
)
def test_the_mean_erased_share_is_that_of_the_paper(size, side):
    """Cutout erases s/n (1 - s/4n) of each axis on average: 0.191 for side 14 at 28 x 28."""
    count = 20_000
    plan = draw_plan(Cutout(side), count, size)
    expected = 1.0
    for full in size:
        # The sum over all positions, exact for odd sides too.
        start = torch.arange(-side, full + 1)
        weight = torch.zeros(len(start), dtype=torch.float64)
        for u in (torch.arange(20 * full) + 0.5) / 20:
            weight[math.floor(u - side / 2 + 0.5) + side] += 1 / (20 * full)
        length = (start + side).clamp(max=full) - start.clamp(min=0)
        expected *= float((weight * length).sum()) / full
    if (size, side) == ((28, 28), 14):
        assert expected == pytest.approx(0.4375**2, abs=1e-9)
    assert_mean(plans.box_volumes(plan.boxes[:, 0]) / math.prod(size), expected)


def test_shuffle_is_a_uniform_permutation():
    """Each of the six permutations of three samples comes equally often."""
    seen = [tuple(sample_partner(3, "shuffle", None).tolist()) for _ in range(3000)]
    counts = [seen.count(permutation) for permutation in sorted(set(seen))]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > LEVEL


def test_roll_takes_every_shift_equally_often():
    """Each cyclic shift but none comes equally often, and no sample is its own partner."""
    seen = [sample_partner(5, "roll", None) for _ in range(2000)]
    own = torch.arange(5)
    shifts = [int(partner[0]) for partner in seen]
    for partner in seen:
        assert torch.equal(partner, (own + partner[0]) % 5)
        assert not (partner == own).any()
    assert stats.chisquare([shifts.count(s) for s in range(1, 5)]).pvalue > LEVEL


# --- Shapes and bounds --------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
cuboids = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))


@given(
    count=st.integers(0, 9),
    size=st.one_of(sizes, cuboids),
    alpha=st.sampled_from([0.01, 0.2, 1.0, 50.0]),
    per_sample=st.booleans(),
    p=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_a_cutmix_plan_counts_whole_pixels(count, size, alpha, per_sample, p, seed):
    """Boxes lie inside the image, lam is the share of pixels left, untouched samples are alone."""
    torch.manual_seed(seed)
    partner = torch.randperm(count)
    cut = "cuboid" if len(size) == 3 else "spatial"
    pairing = {"pairing": lambda labels: partner, "cut": cut, "mode": mode(per_sample)}
    plan = draw_plan(CutMix(alpha, **pairing), count, size, p)
    applied, dims = plan.op != 0, len(size)
    assert plan.boxes.shape == (count, 1, 2 * dims)
    assert p not in (0, 1) or (applied == bool(p)).all()
    assert plan.boxes.dtype == torch.int64
    assert plan.lam.dtype == torch.float32
    low, high = plan.boxes[:, 0, :dims], plan.boxes[:, 0, dims:]
    limit = torch.tensor(size[::-1])
    assert (low >= 0).all()
    assert (low <= high).all()
    assert (high <= limit).all()
    share = 1 - (high - low).prod(-1).double() / math.prod(size)
    torch.testing.assert_close(plan.lam.double(), share, atol=1e-7, rtol=0)
    assert torch.equal(plan.op, applied.to(torch.uint8) * plans.PASTE)
    assert torch.equal(plan.partner, torch.where(applied, partner, torch.arange(count)))
    assert (plan.boxes[~applied] == 0).all()
    assert (plan.lam[~applied] == 1).all()
    if not per_sample and count:
        assert torch.equal(plan.boxes, plan.boxes[:1].expand_as(plan.boxes))


@given(
    count=st.integers(0, 9),
    alpha=st.sampled_from([0.01, 0.2, 1.0, 50.0]),
    per_sample=st.booleans(),
    p=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_a_mixup_plan_has_a_weight_for_each_applied_sample(count, alpha, per_sample, p, seed):
    """Lam lies in [0, 1], one for all unless drawn per sample, and nothing is cut."""
    torch.manual_seed(seed)
    partner = torch.arange(count).roll(count // 2)
    pairing = {"pairing": lambda labels: partner, "mode": mode(per_sample)}
    plan = draw_plan(Mixup(alpha, **pairing), count, (8, 8), p)
    applied = plan.op != 0
    assert p not in (0, 1) or (applied == bool(p)).all()
    assert plan.lam.dtype == torch.float32
    assert ((plan.lam >= 0) & (plan.lam <= 1)).all()
    assert (plan.lam[~applied] == 1).all()
    assert torch.equal(plan.op, applied.to(torch.uint8) * plans.BLEND)
    assert torch.equal(plan.partner, torch.where(applied, partner, torch.arange(count)))
    assert plan.boxes.shape == (count, 1, 4)
    assert not plan.boxes.any()
    if not per_sample and count:
        assert (plan.lam == plan.lam[0]).all()


@given(
    count=st.integers(0, 9),
    size=sizes,
    sides=sizes,
    holes=st.integers(1, 3),
    per_sample=st.booleans(),
    p=st.sampled_from([0.0, 0.5, 1.0]),
    noise=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_cutout_plan_keeps_everyone_to_themselves(
    count, size, sides, holes, per_sample, p, noise, seed
):
    """Holes lie inside the image, partners are oneself, weights 1, seeds drawn only for noise."""
    torch.manual_seed(seed)
    fill = "noise" if noise else 0.0
    transform = Cutout(sides, holes=holes, fill=fill, mode=mode(per_sample))
    plan = draw_plan(transform, count, size, p)
    applied = plan.op != 0
    assert plan.boxes.shape == (count, holes, 4)
    assert p not in (0, 1) or (applied == bool(p)).all()
    limit = torch.tensor(size[::-1])
    assert (plan.boxes[..., :2] >= 0).all()
    assert (plan.boxes[..., 2:] <= limit).all()
    sides_seen = plan.boxes[..., 2:] - plan.boxes[..., :2]
    assert (sides_seen >= 0).all()
    assert (sides_seen <= torch.tensor(sides[::-1])).all()
    assert torch.equal(plan.partner, torch.arange(count))
    assert (plan.lam == 1).all()
    assert not plan.boxes[~applied].any()
    if not noise:
        assert not plan.noise.any()
    if not per_sample and count:
        assert torch.equal(plan.boxes, plan.boxes[:1].expand_as(plan.boxes))


def test_correct_lam_off_keeps_the_drawn_weight():
    """Without the correction lam is the drawn one, which clipping makes differ from the pixels."""
    torch.manual_seed(3)
    raw = draw_plan(CutMix(mode="sample", correct_lam=False), 64, (8, 8))
    torch.manual_seed(3)
    right = draw_plan(CutMix(mode="sample"), 64, (8, 8))
    torch.manual_seed(3)
    sample_partner(64, "roll", None)
    assert torch.equal(raw.lam, sample_lam(1.0, 64).float())
    assert torch.equal(raw.boxes, right.boxes)
    assert (raw.lam < right.lam - 0.01).any()


def test_the_sides_of_an_unclipped_box_are_exact():
    """A box away from the border has the asked sides to the pixel, odd ones included."""
    for side in range(1, 8):
        boxes = sample_boxes((side, side), (40, 41), (200,))
        sides = boxes[:, 2:] - boxes[:, :2]
        inside = ((boxes[:, :2] > 0) & (boxes[:, 2:] < torch.tensor([41, 40]))).all(1)
        assert inside.any()
        assert (sides[inside] == side).all()


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("pairing", ["roll", "shuffle"])
def test_batches_of_none_and_one_have_partners(count, pairing):
    """An empty batch has no partners, and a single sample is its own."""
    assert sample_partner(count, pairing, None).tolist() == list(range(count))


def test_the_identity_plan_has_every_shape():
    """The plan that changes nothing comes for boxes, cuboids and several holes."""
    assert plans.identity_plan(3).boxes.shape == (3, 1, 4)
    assert plans.identity_plan(3, dims=3).boxes.shape == (3, 1, 6)
    assert plans.identity_plan(3, boxes=2).boxes.shape == (3, 2, 4)
    plan = plans.identity_plan(3)
    assert plan.partner.tolist() == [0, 1, 2]
    assert not plan.op.any()


def test_plans_are_plain_tensors():
    """A plan can be pinned, moved, pickled and stored: it is a tuple of plain CPU tensors."""
    plan = draw_plan(CutMix(), 4, (8, 8))
    assert plan._fields == ("op", "partner", "lam", "boxes", "noise")
    assert all(type(field) is torch.Tensor and field.device.type == "cpu" for field in plan)


def test_noise_belongs_to_its_seed():
    """The same seed gives the same noise, another one another, without the global generator."""
    before = torch.get_rng_state()
    places = torch.arange(4800, dtype=torch.int32)
    for dtype in (torch.uint8, torch.float32, torch.bfloat16):
        make = [kernels.noise(torch.tensor(s), places, dtype) for s in (1, 1, 2)]
        assert torch.equal(make[0], make[1])
        assert not torch.equal(make[0], make[2])
        assert make[0].dtype == dtype
    assert torch.equal(before, torch.get_rng_state())


def test_noise_has_the_law_of_its_dtype():
    """uint8 noise is uniform over all 256 values, floating point noise is standard normal."""
    places = torch.arange(25_600, dtype=torch.int32)
    grey = kernels.noise(torch.tensor(5), places, torch.uint8)
    assert stats.chisquare(torch.bincount(grey.long(), minlength=256).numpy()).pvalue > LEVEL
    normal = kernels.noise(torch.tensor(5), places, torch.float32)
    assert stats.kstest(normal.numpy(), "norm").pvalue > LEVEL


def test_plans_and_pairs_survive_whoever_walks_containers(tmp_path):
    """Made from items or an iterable, replaced, mapped, pickled or loaded, they stay the same."""
    pair = PairedLabels(torch.arange(3), torch.arange(3).flip(0), torch.rand(3))
    for value in (draw_plan(CutMix(), 3, (8, 8)), pair):
        kind = type(value)
        moved = [
            kind(*value),
            kind(field.clone() for field in value),
            kind([*value]),
            kind(**value._asdict()),
            kind._make(value),
            value._replace(lam=value.lam.clone()),
            pytree.tree_map(torch.clone, value),
            pickle.loads(pickle.dumps(value)),  # noqa: S301
            copy.deepcopy(value),
        ]
        torch.save({"value": value}, tmp_path / "value.pt")
        moved.append(torch.load(tmp_path / "value.pt", weights_only=True)["value"])
        for other in moved:
            assert type(other) is kind
            assert all(map(torch.equal, other, value))
    with pytest.raises(TypeError):
        plans.Plan(torch.zeros(1))
