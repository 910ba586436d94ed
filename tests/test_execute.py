"""The row path: each sample written once, in place or not, in any memory, for any partners."""

import copy

import pytest
import torch
from coded import DTYPES, bits
from hypothesis import given, settings
from hypothesis import strategies as st

from tv_mixaug import execute as rows
from tv_mixaug import plans

SIZES = [(3, 5, 4), (3, 150, 150)]  # below and above the size that is handled alone


def draw_pixels(shape, dtype):
    pixels = torch.randint(256, shape)
    return pixels.to(dtype) if dtype == torch.uint8 else (pixels / 255).to(dtype)


def mixup_by_hand(images, plan):
    weight = (1 - plan.lam).view(-1, *[1] * (images.ndim - 1))
    wide = torch.float64 if images.dtype == torch.float64 else torch.float32
    mixed = torch.lerp(images.to(wide), images[plan.partner].to(wide), weight.to(wide))
    return mixed if images.dtype.is_floating_point else mixed.round()


def cutmix_by_hand(images, plan):
    out = images.clone()
    for row, (x1, y1, x2, y2) in enumerate(plan.boxes.tolist()):
        out[row, :, y1:y2, x1:x2] = images[plan.partner[row], :, y1:y2, x1:x2]
    return out


def draw_plan(op, count, size, shared, partner):
    applied = torch.rand(count) < 0.8
    draw = {
        "mixup": lambda: plans.draw_mixup(count, applied, 1.0, not shared, partner),
        "cutmix": lambda: plans.draw_cutmix(count, applied, 1.0, not shared, partner, size, True),
        "cutout": lambda: plans.draw_cutout(count, applied, (3, 4), 2, not shared, size, False),
    }
    return draw[op]()


def run(op, images, plan, **kwargs):
    if op == "mixup":
        return rows.mixup_batch(images, plan, **kwargs)
    if op == "cutmix":
        return rows.cutmix_batch(images, plan, (2, 3), **kwargs)
    return rows.cutout_batch(images, plan, (1, 2, 3), (2, 3), **kwargs)


any_partner = st.integers(1, 7).flatmap(
    lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n)
)


# --- The order --------------------------------------------------------------------------------


@given(partner=any_partner)
def test_chains_allow_overwriting_in_place(partner):
    """Each sample is there once, and nobody's partner is overwritten before it is read."""
    order = rows.chains(partner)
    assert sorted(row for chain in order for row in chain) == list(range(len(partner)))
    written = set()
    for chain in order:
        for place, row in enumerate(chain):
            closes = place == len(chain) - 1 and partner[row] == chain[0] and len(chain) > 1
            if not closes:  # the first of a cycle is saved before it is overwritten
                assert partner[row] not in written or partner[row] == row
            written.add(row)


@given(count=st.integers(0, 8), shift=st.integers(0, 8), other=any_partner)
def test_roll_pieces_are_found_for_cyclic_shifts_alone(count, shift, other):
    """A cyclic shift is two pairs of slices that cover each row once; nothing else is."""
    for partner in (((torch.arange(count) - shift) % max(count, 1)), torch.tensor(other)):
        n = len(partner)
        is_roll = n > 0 and torch.equal(partner, (torch.arange(n) + partner[0]) % n)
        pieces = rows.roll_pieces(partner)
        assert (pieces is not None) == is_roll
        if pieces:
            index = torch.arange(n)
            assert torch.equal(
                torch.cat([index[there] for there, _ in pieces]).sort().values, index
            )
            for there, of in pieces:
                assert torch.equal(partner[there], index[of])


@given(count=st.one_of(st.integers(1, 9), st.integers(60, 80)), data=st.data())
def test_a_roll_in_place_reads_each_row_before_it_is_overwritten(count, data):
    """Every row is given once, with the pixels that its partner had before, for any shift."""
    shift = data.draw(st.integers(0, count - 1))
    batch = torch.arange(count)
    partner = (torch.arange(count) - shift) % count
    seen = []
    for there, partners in rows.roll_in_place(batch, rows.roll_pieces(partner)):
        assert torch.equal(partners, partner[there])
        seen += range(count)[there]
        batch[there] = -1
    assert sorted(seen) == list(range(count))


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
    fresh = run(op, images, plan)
    assert torch.equal(bits(images), bits(before))
    assert fresh.data_ptr() != images.data_ptr()
    same = run(op, images, plan, inplace=True)
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
        held = rows.Rows(samples, lambda size, kind: torch.empty(size, dtype=kind))
        out = run(op, held, plan)
        assert torch.equal(bits(out), bits(run(op, images, plan)))
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
        expected = run(op, images, plan)
        other = FORMS[form](images)
        strides = other.stride()
        assert torch.equal(bits(run(op, other, plan)), bits(expected))
        assert torch.equal(bits(other), bits(images))
        out = run(op, other, plan, inplace=True)
        assert out.stride() == strides
        assert torch.equal(bits(out), bits(expected))


def test_fill_tensor_puts_channels_on_their_axis():
    """A value for each channel broadcasts along the channel axis and no other."""
    batch = torch.zeros(2, 3, 4, 5, 3)
    assert rows.fill_tensor((1, 2, 3), batch, 1).shape == (3, 1, 1, 1)
    assert rows.fill_tensor((1, 2, 3), batch, -1).shape == (1, 1, 1, 3)
    assert rows.fill_tensor(7, batch, 1).shape == ()


def test_noise_is_written_in_the_holes_alone():
    """Each hole has noise of its own and all other pixels stay."""
    images = torch.zeros(3, 3, 20, 20)
    plan = plans.draw_cutout(3, torch.tensor([True, False, True]), (9, 9), 1, True, (20, 20), True)
    out = rows.cutout_batch(images, plan, "noise", (2, 3))
    inside = rows.inside_boxes(images, plan.boxes, (2, 3)).expand_as(images)
    assert not out[~inside].any()
    assert (out[inside] != 0).all()
    held = [out[row][inside[row]] for row in (0, 2)]
    assert not torch.equal(held[0][:50], held[1][:50])


def test_rows_can_be_copied():
    """A batch not yet stacked can be copied like any value."""
    held = rows.Rows([torch.zeros(1, 2, 2)] * 3, lambda size, kind: torch.empty(size, dtype=kind))
    assert copy.copy(held).stack().shape == (3, 1, 2, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("partner", [[3, 0, 1, 2], [1, 0, 0, 3]])
@pytest.mark.parametrize("inplace", [True, False])
def test_blending_all_at_once_as_a_gpu_does_rounds_alike(dtype, partner, inplace):
    """The way that a GPU takes gives the values of the way that the CPU takes, uint8 rounded."""
    images = draw_pixels((4, 3, 9, 7), dtype)
    plan = draw_plan("mixup", 4, (9, 7), False, torch.tensor(partner))
    expected = rows.mixup_batch(images, plan)
    source = images.clone()
    out = source if inplace else torch.empty_like(source)
    rows._blend_together(source, plan, out)
    # Where the exact value lies between two grey levels, the last bit of the sum decides.
    torch.testing.assert_close(out, expected, atol=dtype == torch.uint8, rtol=0)
    exact = mixup_by_hand(images, plan)
    assert torch.equal(out.double(), exact.to(dtype).double())
