"""One engine: whichever way a plan comes to pixels, the bits are the same; draws touch nothing."""

import threading

import numpy as np
import pytest
import torch
from helpers.coded import DTYPES, bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

import tv_mixaug.testing as kit
from tv_mixaug import Chain, CutMix, Cutout, Mixup, functional, make_collate_fn
from tv_mixaug.engine import kernels
from tv_mixaug.engine.plan import BLEND, FILL, NONE, PASTE, Plan, make_plan

SIZES = [(3, 5, 7), (3, 150, 150)]  # below and above the size that is handled alone


class Given(CutMix):
    """Carry out a plan that is given, through all that a transform of ours goes through."""

    plan: Plan | None = None

    def sample(self, batch, p, source):
        """Return the plan that is given."""
        return self.plan


def by_hand(images, plan):
    """Say what the plan makes of each sample, pixel by pixel, from the originals alone."""
    out = images.clone()
    wide = images.double()
    for row, op in enumerate(plan.op.tolist()):
        x1, y1, x2, y2 = plan.boxes[row, 0].tolist()
        other, lam = int(plan.partner[row]), float(plan.lam[row])
        if op == FILL:
            out[row, :, y1:y2, x1:x2] = 0
        elif op == PASTE:
            out[row, :, y1:y2, x1:x2] = images[other, :, y1:y2, x1:x2]
        elif op == BLEND:
            mixed = lam * wide[row] + (1 - lam) * wide[other]
            out[row] = mixed.round() if images.dtype == torch.uint8 else mixed
    return out


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=12)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_replay_transform_collate_and_chain_agree_bit_for_bit(shape, dtype, data, seed):
    """A plan with any mix of operations gives the same bits by every way, from the originals."""
    plan = data.draw(kit.plans(image_size=shape[1:], max_size=6))
    count = len(plan.op)
    pixels = torch.randint(256, (count, *shape), generator=torch.Generator().manual_seed(seed))
    images = pixels.to(dtype) if dtype == torch.uint8 else (pixels / 255).to(dtype)
    labels, before = torch.arange(count), images.clone()
    given_plan = Given(num_classes=count)
    given_plan.plan = plan
    replayed = functional.replay(images, plan)
    transformed, soft = given_plan(images, labels)
    samples = list(zip(images.unbind(0), labels.tolist(), strict=True))
    collated, soft_there = make_collate_fn(given_plan)(samples)
    stacked, _ = make_collate_fn(given_plan, collate_fn=default_collate)(samples)
    chained, _ = Chain([given_plan])(images, labels)
    written, _ = given_plan.mix((before.clone(), labels), inplace=True)[0]
    for other in (transformed, collated, stacked, chained, written):
        assert torch.equal(bits(other), bits(replayed))
    assert torch.equal(soft, soft_there)
    assert torch.equal(bits(images), bits(before))
    slack = 1 if dtype == torch.uint8 else {2: 0.01, 4: 1e-6, 8: 1e-12}[dtype.itemsize]
    expected = by_hand(before, plan).double()
    torch.testing.assert_close(replayed.double(), expected, atol=slack, rtol=0)
    exact = plan.op != BLEND
    assert torch.equal(bits(replayed[exact]), bits(by_hand(before, plan)[exact]))


def test_plans_of_mixed_operations_are_drawn_by_the_kit():
    """The plans that this file goes through do hold all operations in one batch."""
    wanted = {NONE, FILL, BLEND, PASTE}
    from hypothesis import find

    strategy = kit.plans(image_size=(4, 4), min_size=4)
    plan = find(strategy, lambda plan: set(plan.op.tolist()) == wanted)
    assert len(plan.op) >= 4


# --- Randomness ---------------------------------------------------------------------------------

TRANSFORMS = [
    Mixup(0.2, num_classes=4, mode="sample", p=0.5),
    CutMix(num_classes=4, pairing="shuffle", p=0.7),
    Cutout(fill="noise", num_classes=4),
    [Mixup(num_classes=4), CutMix(num_classes=4)],
]


def make_samples():
    images = torch.rand(6, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    return [(images[i], i % 4) for i in range(6)]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_a_seed_neither_reads_nor_changes_the_global_state(transform):
    """Under a seed torch's own stream stays where it is, and where it is does not matter."""
    samples = make_samples()
    found = []
    for start in (0, 99):
        torch.manual_seed(start)
        before = torch.get_rng_state()
        found.append(make_collate_fn(transform, seed=5)(samples))
        assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_pairing_of_the_users_is_fenced():
    """A callable pairing may draw from torch's own stream, which is seeded for it and put back."""
    pairing = CutMix(num_classes=4, pairing=lambda labels: torch.randperm(len(labels)))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = make_collate_fn(pairing, seed=5, record=True)(make_samples())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again = make_collate_fn(pairing, seed=5, record=True)(make_samples())
    assert torch.equal(first[-1].partner, again[-1].partner)


def test_threads_do_not_see_each_other():
    """Loaders in several threads, each with a seed, give what they give alone."""
    samples = make_samples()

    def collate(seed, into):
        function = make_collate_fn(TRANSFORMS[3], seed=seed, record=True)
        into[seed] = [function(samples) for _ in range(60)]

    alone, together = {}, {}
    for seed in range(4):
        collate(seed, alone)
    before = torch.get_rng_state()
    threads = [threading.Thread(target=collate, args=(seed, together)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)
    for seed, batches in alone.items():
        for one, other in zip(batches, together[seed], strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("transform", TRANSFORMS[:3], ids=str)
def test_a_generator_is_passed_down_to_every_draw(transform):
    """The same generator gives the same mix, and only it is moved on."""
    images, labels = torch.rand(6, 3, 9, 9), torch.arange(6) % 4
    before = torch.get_rng_state()
    (one, _), first = transform.mix((images, labels), generator=torch.Generator().manual_seed(3))
    (two, _), second = transform.mix((images, labels), generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- Decided once -------------------------------------------------------------------------------


def test_a_layout_is_found_once_for_a_signature(monkeypatch):
    """Batches of one signature are looked at once; another shape, and only it, once more."""
    from tv_mixaug.batch.parser import BatchParser

    looks, find = [], BatchParser._infer
    monkeypatch.setattr(BatchParser, "_infer", lambda *args: looks.append(1) or find(*args))
    mix = CutMix(num_classes=4)
    for count in (6, 6, 6, 5, 6, 5):
        mix({"image": torch.rand(count, 3, 9, 9), "label": torch.arange(count) % 4})
    assert len(looks) == 2
    with pytest.raises(ValueError, match="in \\[0, 4\\)"):  # values are looked at every time
        mix({"image": torch.rand(6, 3, 9, 9), "label": torch.full((6,), 4)})
    assert len(looks) == 2


def test_the_memory_of_layouts_is_bounded():
    """However many signatures come, few are remembered."""
    from tv_mixaug.batch.parser import MAX_SPECS

    mix = Mixup(labels_getter=None)
    for side in range(1, 3 * MAX_SPECS):
        mix(torch.zeros(1, 1, 1, side))
    assert len(mix.parser.known) <= MAX_SPECS


def test_soft_labels_are_written_into_the_memory_that_is_given():
    """Rows go straight to where they are sent from, zeros and two entries, unseen classes apart."""
    made = []

    def allocate(size, dtype):
        made.append(torch.full(size, np.nan, dtype=dtype))
        return made[-1]

    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 99])
    mix = CutMix(num_classes=100, ignore_index=-1)
    (_, soft), recipe = mix.run((images, labels), 1.0, allocate=allocate)
    plan = recipe.plan()
    assert soft.data_ptr() == made[0].data_ptr()
    expected = functional.mix_labels(torch.eye(100)[labels], plan.partner, plan.lam)
    torch.testing.assert_close(soft, expected, atol=1e-6, rtol=0)


# --- Odd plans, labels and defaults ---------------------------------------------------------------


@pytest.mark.parametrize("default", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("transform", TRANSFORMS[:3], ids=str)
def test_the_default_dtype_of_torch_changes_nothing(transform, default):
    """Plans, labels and pixels have the same bits and dtypes under any default dtype."""
    batches = [torch.randint(256, (6, 3, 9, 9), dtype=torch.uint8), torch.rand(6, 3, 9, 9)]
    for images in batches:
        batch = (images, torch.arange(6) % 4)
        expected, plan = transform.mix(batch, generator=torch.Generator().manual_seed(3))
        try:
            torch.set_default_dtype(default)
            found, again = transform.mix(batch, generator=torch.Generator().manual_seed(3))
        finally:
            torch.set_default_dtype(torch.float32)
        for one, other in zip((*expected, *plan), (*found, *again), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize("default", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weight", [0.3, torch.full((6, 1, 1, 1), 0.3)], ids=["one", "each"])
def test_bytes_are_blended_alike_under_any_default_dtype(weight, default):
    """The way of a device computes bytes in float32, whatever torch's default dtype."""
    own, other = torch.randint(256, (2, 6, 3, 9, 9), dtype=torch.uint8)
    expected = kernels.blend(own, other, 1 - weight)
    exact = (0.7 * own.double() + 0.3 * other.double()).round()
    assert (expected.double() - exact).abs().max() <= 1
    # Given as one number or as tensors the last bit of a near-tie may differ, not more.
    try:
        torch.set_default_dtype(default)
        found = kernels.blend(own, other, 1 - weight)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (found.int() - expected.int()).abs().double().mean() < 1e-3


@pytest.mark.parametrize("field", Plan._fields)
def test_a_plan_with_a_field_of_another_length_is_not_replayed(field):
    """A field that has not a row for each sample is refused by its name, not guessed at."""
    plan = Plan(
        op=torch.full((4,), BLEND, dtype=torch.uint8),
        partner=torch.tensor([1, 2, 3, 0]),
        lam=torch.full((4,), 0.5),
        boxes=torch.zeros(4, 1, 4, dtype=torch.int64),
        noise=torch.zeros(4, dtype=torch.int64),
    )
    assert functional.replay(torch.rand(4, 1, 4, 4), plan).shape == (4, 1, 4, 4)
    for wrong in (getattr(plan, field)[:3], getattr(plan, field)[None]):
        with pytest.raises(ValueError, match=f"plan.{field} must be"):
            functional.replay(torch.rand(4, 1, 4, 4), plan._replace(**{field: wrong}))


def test_class_indices_in_a_column_stay_what_they_are_without_num_classes():
    """Cutout leaves (B, 1) class indices alone, the very tensor, if it is not told their number."""
    labels = torch.arange(4)[:, None]
    assert Cutout()(torch.rand(4, 3, 8, 8), labels)[1] is labels


def test_a_rule_need_not_draw_seeds_to_fill_with_noise():
    """Where a rule of one's own says nothing of seeds, noise is that of seed 0, as in any plan."""

    class Corner(Cutout):
        def sample(self, batch, p, source):
            return make_plan(FILL, batch.length, True, boxes=[[0, 0, 3, 3]])

    images = torch.rand(4, 3, 8, 8)
    (mixed, plan), again = Corner(fill="noise").mix(images), Corner(fill="noise")(images)
    assert not plan.noise.any()
    assert torch.equal(mixed, again)
    assert torch.equal(mixed, functional.replay(images, plan, "noise"))
    assert torch.equal(mixed[:, :, 3:], images[:, :, 3:])
