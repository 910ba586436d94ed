"""The row path: each sample written once, in place or not, in any memory, for any partners."""

import copy

import pytest
import torch
from helpers.coded import DTYPES, bits
from hypothesis import given, settings
from hypothesis import strategies as st

from tv_mixaug.engine import apply as execute
from tv_mixaug.engine import kernels
from tv_mixaug.engine import plan as plans
from tv_mixaug.engine import sampling as draws
from tv_mixaug.engine.plan import BLEND, FILL, PASTE, CompactPlan, compact, make_plan

SIZES = [(3, 5, 4), (3, 150, 150)]  # below and above the size that is handled alone


def draw_pixels(shape, dtype):
    pixels = torch.randint(256, shape)
    return pixels.to(dtype) if dtype == torch.uint8 else (pixels / 255).to(dtype)


def mixup_by_hand(images, plan):
    wide = torch.float64 if images.dtype == torch.float64 else torch.float32
    weight = (1 - plan.lam.to(wide)).view(-1, *[1] * (images.ndim - 1))
    mixed = torch.lerp(images.to(wide), images[plan.partner].to(wide), weight)
    return mixed if images.dtype.is_floating_point else mixed.round()


def cutmix_by_hand(images, plan):
    out = images.clone()
    for row, (x1, y1, x2, y2) in enumerate(plan.boxes[:, 0].tolist()):
        out[row, :, y1:y2, x1:x2] = images[plan.partner[row], :, y1:y2, x1:x2]
    return out


def draw_plan(op, count, size, shared, partner):
    """Make a plan of one operation for some samples, one draw for all or one for each."""
    shape = (1 if shared else count, 2 if op == "cutout" else 1)
    sides = torch.randint(1, 5, (2, *shape)).numpy()
    boxes = draws.sample_boxes(sides, size, shape)
    lam = draws.sample_lam(1.0, None) if shared else draws.sample_lam(1.0, count)
    applied = True if shared else torch.rand(count) < 0.8
    code = {"mixup": BLEND, "cutmix": PASTE, "cutout": FILL}[op]
    given = {"boxes": boxes} if op != "mixup" else {}
    if op != "cutout":
        given |= {"partner": partner, "lam": lam}
    return make_plan(code, count, applied, **given).plan()


def run(images, plan, **kwargs):
    recipe = compact(plan)
    return execute.apply_plan(images, recipe, (1, 2, 3), (2, 3), 1, **kwargs)


any_partner = st.integers(1, 7).flatmap(
    lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n)
)


# --- The order --------------------------------------------------------------------------------


@given(partner=any_partner, data=st.data())
def test_samples_are_visited_once_each_and_then_their_partners(partner, data):
    """Every sample comes once, and behind it its partner unless that has been there."""
    rows = sorted(data.draw(st.sets(st.sampled_from(range(len(partner))))))
    order = list(execute._by_partner(rows, partner))
    assert sorted(order) == rows
    for place, row in enumerate(order[:-1]):
        other = partner[row]
        assert other not in rows or other in order[: place + 1] or order[place + 1] == other


@given(count=st.integers(0, 8), shift=st.integers(0, 8), other=any_partner)
def test_cyclic_shifts_are_found_and_nothing_else(count, shift, other):
    """A plan whose partners are a cyclic shift is known as one; nothing else is."""
    for partner in (((torch.arange(count) - shift) % max(count, 1)), torch.tensor(other)):
        n = len(partner)
        plan = plans.identity_plan(n)._replace(partner=partner)
        is_roll = n == 0 or torch.equal(partner, (torch.arange(n) + partner[0]) % n)
        recipe = compact(plan)
        assert (recipe.shift is not None) == is_roll
        assert torch.equal(recipe.partners(), partner)


@given(count=st.one_of(st.integers(1, 9), st.integers(60, 80)), data=st.data())
def test_pieces_of_a_batch_hold_each_row_with_its_partner(count, data):
    """Every row is given once, with its partner's pixels and its own place in the result."""
    shift = data.draw(st.integers(0, count - 1))
    batch, out = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    recipe = CompactPlan(count, BLEND, shift)
    for rows, own, other, place in execute._Job(recipe, 0.0, None, None, 1).pieces(batch, out):
        assert torch.equal(own, batch[rows])
        place.copy_(other)
    assert torch.equal(out, (torch.arange(count) - shift) % count)


# --- The result -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["mixup", "cutmix", "cutout"])
@settings(max_examples=8)
@given(partner=any_partner, shared=st.booleans(), seed=st.integers(0, 2**32))
def test_in_place_gives_the_same_bits(shape, dtype, op, partner, shared, seed):
    """Writing into the batch gives bit for bit what writing elsewhere gives, for any partners."""
    torch.manual_seed(seed)
    images = draw_pixels((len(partner), *shape), dtype)
    before = images.clone()
    plan = draw_plan(op, len(partner), shape[1:], shared, torch.tensor(partner))
    fresh = run(images, plan)
    assert torch.equal(bits(images), bits(before))
    assert (fresh is images) == (not plan.op.any())
    same = run(images, plan, inplace=True)
    assert same.data_ptr() == images.data_ptr()
    assert torch.equal(bits(same), bits(fresh))
    if op == "mixup":
        slack = 1 if dtype == torch.uint8 else 1e-6 if dtype.itemsize > 2 else 0.01
        exact = mixup_by_hand(before, plan).double()
        torch.testing.assert_close(fresh.double(), exact, atol=slack, rtol=0)
    elif op == "cutmix":
        assert torch.equal(bits(fresh), bits(cutmix_by_hand(before, plan)))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["mixup", "cutmix", "cutout"])
@pytest.mark.parametrize("roll", [True, False])
def test_samples_not_yet_stacked_give_the_same_bits(shape, dtype, op, roll):
    """Samples that were never stacked give what the stacked batch gives."""
    images = draw_pixels((5, *shape), dtype)
    partner = (torch.arange(5) - 2) % 5 if roll else torch.tensor([1, 0, 0, 3, 2])
    for shared in (True, False):
        plan = draw_plan(op, 5, shape[1:], shared, partner)
        samples = [image.clone() for image in images]
        held = execute.LazyStack(samples, lambda size, kind: torch.empty(size, dtype=kind))
        out = run(held, plan)
        assert torch.equal(bits(out), bits(run(images, plan)))
        for sample, image in zip(samples, images, strict=True):
            assert torch.equal(bits(sample), bits(image))


def gappy(images):
    wide = torch.zeros(*images.shape[:-1], 2 * images.shape[-1], dtype=images.dtype)
    wide[..., ::2] = images
    return wide[..., ::2]


FORMS = {
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "a view with gaps": gappy,
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "part of a batch": lambda t: torch.cat([t[:1], t])[1:],
}


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["mixup", "cutmix", "cutout"])
@pytest.mark.parametrize("form", FORMS)
def test_memory_format_makes_no_difference(shape, dtype, op, form):
    """Channels last, views with gaps and transposed images give the same values, in place too."""
    images = draw_pixels((4, *shape), dtype)
    for partner in (torch.tensor([3, 0, 1, 2]), torch.tensor([1, 0, 0, 3])):
        plan = draw_plan(op, 4, shape[1:], False, partner)
        expected = run(images, plan)
        other = FORMS[form](images)
        strides = other.stride()
        assert torch.equal(bits(run(other, plan)), bits(expected))
        assert torch.equal(bits(other), bits(images))
        out = run(other, plan, inplace=True)
        assert out.stride() == strides
        assert torch.equal(bits(out), bits(expected))


def test_fill_tensor_puts_channels_on_their_axis():
    """A value for each channel broadcasts along the channel axis and no other."""
    batch = torch.zeros(2, 3, 4, 5, 3)
    assert kernels.fill_tensor((1, 2, 3), batch, 1).shape == (3, 1, 1, 1)
    assert kernels.fill_tensor((1, 2, 3), batch, -1).shape == (3,)
    assert kernels.fill_tensor(7, batch, 1).shape == ()


def test_noise_is_written_in_the_holes_alone():
    """Each hole has noise of its own and all other pixels stay."""
    images = torch.zeros(3, 3, 20, 20)
    recipe = make_plan(
        FILL,
        3,
        torch.tensor([True, False, True]),
        boxes=draws.sample_boxes((9, 9), (20, 20), (3, 1)),
        noise=draws.sample_seeds(3),
    )
    out = execute.apply_plan(images, recipe, "noise", (2, 3))
    inside = kernels.box_mask(images, recipe.plan().boxes, (2, 3)).expand_as(images)
    assert not out[~inside].any()
    assert (out[inside] != 0).all()
    held = [out[row][inside[row]] for row in (0, 2)]
    assert not torch.equal(held[0][:50], held[1][:50])


def test_rows_can_be_copied():
    """A batch not yet stacked can be copied like any value."""
    held = execute.LazyStack(
        [torch.zeros(1, 2, 2)] * 3, lambda size, kind: torch.empty(size, dtype=kind)
    )
    assert copy.copy(held).stack().shape == (3, 1, 2, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("partner", [[3, 0, 1, 2], [1, 0, 0, 3]])
@pytest.mark.parametrize("inplace", [True, False])
def test_blending_all_at_once_as_a_gpu_does_rounds_alike(dtype, partner, inplace):
    """The way that a GPU takes gives the values of the way that the CPU takes, uint8 rounded."""
    images = draw_pixels((4, 3, 9, 7), dtype)
    plan = draw_plan("mixup", 4, (9, 7), False, torch.tensor(partner))
    expected = run(images, plan)
    source = images.clone()
    out = execute._Job(compact(plan), 0.0, None, 1, source.ndim).mix_tensors(source)
    out = source.copy_(out) if inplace else out
    # Where the exact value lies between two grey levels, the last bit of the sum decides.
    torch.testing.assert_close(out, expected, atol=dtype == torch.uint8, rtol=0)
    exact = mixup_by_hand(images, plan)
    assert torch.equal(out.double(), exact.to(dtype).double())
