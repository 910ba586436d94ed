"""Kernels: exact values for every dtype, in any memory, differentiable, and compiled whole."""

from typing import Any, NamedTuple

import pytest
import torch
from helpers.coded import DTYPES
from helpers.compiling import compile_counted
from helpers.reference import (
    apply_by_hand,
    assert_rounded,
    mix_by_hand,
    random_boxes,
    random_images,
)
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from tv_mixaug import functional
from tv_mixaug.engine import kernels
from tv_mixaug.engine.plan import BLEND, FILL, PASTE, Plan


class Values(NamedTuple):
    """The arguments of all kernels."""

    partner: torch.Tensor
    lam: torch.Tensor
    boxes: torch.Tensor
    fill: Any = 0.0


# Each kernel with the operation of a plan that asks for the same.
KERNELS = {
    "mixup": (lambda x, v: functional.mixup(x, v.partner, v.lam), BLEND),
    "cutmix": (lambda x, v: functional.cutmix(x, v.partner, v.boxes), PASTE),
    "cutout": (lambda x, v: functional.cutout(x, v.boxes, v.fill), FILL),
}
EACH = pytest.mark.parametrize("name", KERNELS)


def random_values(count, size, holes=1, fill=0.0):
    """Sample partners, lam and boxes, as (B, 4) for one box."""
    boxes = random_boxes((count, holes), size)
    partner = torch.randint(max(count, 1), (count,))
    return Values(partner, torch.rand(count), boxes if holes > 1 else boxes[:, 0], fill)


@EACH
@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64, torch.bool], ids=str)
@given(
    count=st.integers(0, 5),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    holes=st.integers(1, 3),
    fill=st.sampled_from([0.0, 1, (1, 0, 1)]),
    seed=st.integers(0, 2**32),
)
def test_kernels_do_what_a_loop_over_samples_does(name, dtype, count, size, holes, fill, seed):
    """Blends are rounded once; pasted and filled pixels are exact, and no other pixel changes."""
    if name == "mixup" and dtype not in DTYPES:
        return
    torch.manual_seed(seed)
    kernel, op = KERNELS[name]
    images = random_images((count, 3, *size), dtype)
    values, ops = random_values(count, size, holes, fill), torch.full((count,), op)
    boxes = values.boxes.view(count, holes, 4)
    plan = Plan(ops, values.partner, values.lam, boxes, torch.zeros(count))
    out, exact = kernel(images, values), apply_by_hand(images, plan, fill)
    assert out.dtype == dtype
    if op == BLEND:
        assert_rounded(out, exact)
    else:
        assert torch.equal(out.double(), exact)


def test_boxes_cut_the_named_axes():
    """Boxes can cut axes that are not the last, and cuboids cut three."""
    images = torch.rand(2, 6, 7, 3)  # (B, H, W, C)
    partner, boxes = torch.tensor([1, 0]), torch.tensor([[1, 2, 4, 6], [0, 0, 7, 1]])
    moved = images.permute(0, 3, 1, 2)
    for axes in ((1, 2), (-3, -2)):
        out = functional.cutmix(images, partner, boxes, axes=axes)
        expected = functional.cutmix(moved, partner, boxes).permute(0, 2, 3, 1)
        assert torch.equal(out, expected)
        out = functional.cutout(images, boxes, 2.0, axes=axes)
        assert torch.equal(out, functional.cutout(moved, boxes, 2.0).permute(0, 2, 3, 1))
    volumes = torch.rand(2, 1, 4, 5, 6)
    cuboids = torch.tensor([[1, 2, 0, 3, 5, 2], [0, 0, 0, 0, 0, 0]])
    expected = volumes.clone()
    expected[0, :, 0:2, 2:5, 1:3] = volumes[1, :, 0:2, 2:5, 1:3]
    assert torch.equal(functional.cutmix(volumes, partner, cuboids), expected)


def test_a_fill_may_be_a_tensor_that_broadcasts():
    """Pixels in the holes are those of the fill at the same place."""
    images, fill = torch.zeros(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    boxes = torch.tensor([[0, 0, 2, 2], [1, 1, 4, 4]])
    out = functional.cutout(images, boxes, fill)
    assert torch.equal(out, torch.where(kernels.box_mask(images, boxes), fill, images))
    assert torch.equal(out[1, :, 1:, 1:], fill[1, :, 1:, 1:])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool, torch.int16, torch.int64], ids=str)
def test_mixed_labels_are_float32_and_keep_their_sum(dtype):
    """Rows of any dtype become float32, and the weights of a one-hot row still sum to 1."""
    labels, values = torch.eye(5)[torch.randint(5, (6,))].to(dtype), random_values(6, (4, 4))
    mixed = functional.mix_labels(labels, values.partner, values.lam)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.double(), mix_by_hand(labels, values), atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed.sum(1), torch.ones(6), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(count=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_mixing_is_convex(dtype, count, seed):
    """A mix lies between the two that were mixed, and equals one of them where lam is 1 or 0."""
    torch.manual_seed(seed)
    partner, lam = torch.randperm(count), torch.rand(count).mul(3).sub(1).clamp(0, 1)
    images, labels = random_images((count, 1, 4, 4), dtype), torch.rand(count, 3)
    for mix, rows in ((functional.mixup, images), (functional.mix_labels, labels)):
        out, other = mix(rows, partner, lam), rows[partner]
        assert (out >= torch.minimum(rows, other)).all()
        assert (out <= torch.maximum(rows, other)).all()
        assert torch.equal(out[lam == 1], rows[lam == 1])
        assert torch.equal(out[lam == 0], other[lam == 0])


@EACH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_only_read_and_take_any_memory(name, dtype):
    """Tv_tensors, channels last and views with gaps give the same values; no input changes."""
    kernel, _ = KERNELS[name]
    images, values = random_images((4, 3, 6, 6), dtype), random_values(4, (6, 6))
    wide = torch.zeros(4, 3, 6, 12, dtype=dtype)
    wide[..., ::2] = images
    inputs = [images, wide, values.partner, values.lam, values.boxes]
    before, expected = [tensor.clone() for tensor in inputs], kernel(images, values)
    last = images.contiguous(memory_format=torch.channels_last)
    for form in (tv_tensors.Image(images), last, wide[..., ::2]):
        assert torch.equal(kernel(form, values), expected)
    assert all(map(torch.equal, inputs, before))
    # No value is read: there is none on the meta device.
    out = kernel(images.to("meta"), Values(*(value.to("meta") for value in values[:3])))
    assert (out.shape, out.dtype, out.is_meta) == (images.shape, dtype, True)


def test_gradients_flow_through_kernels():
    """Finite differences confirm the gradients with respect to images, weights and fill."""
    images = torch.rand(3, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    lam = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    fill = torch.rand(2, 1, 1, dtype=torch.float64, requires_grad=True)
    partner, boxes = torch.tensor([1, 2, 0]), torch.tensor([[0, 0, 2, 2], [1, 1, 4, 3], [0] * 4])
    check = torch.autograd.gradcheck
    assert check(lambda x, weight: functional.mixup(x, partner, weight), (images, lam))
    assert check(lambda x: functional.cutmix(x, partner, boxes), (images,))
    assert check(lambda x, value: functional.cutout(x, boxes, value), (images, fill))


def use_all(images, labels, values):
    """Use all four kernels, and replay a plan of any operations."""
    for kernel, _ in KERNELS.values():
        images = kernel(images, values)
    op = (10 * values.lam).to(torch.uint8) % 4
    plan = Plan(op, values.partner, values.lam, values.boxes[:, None], 0 * values.partner)
    images = functional.replay(images, plan, values.fill)
    return images, functional.mix_labels(labels, values.partner, values.lam)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_kernels_compile_once(dtype):
    """One graph without breaks serves every operation, partner, lam and box, and gradients."""
    compiled, counter = compile_counted(use_all, "aot_eager", fullgraph=True)
    for _ in range(3):
        images = random_images((4, 3, 8, 8), dtype).requires_grad_(dtype.is_floating_point)
        values = random_values(4, (8, 8))._replace(fill=0.5 if images.requires_grad else 128)
        out, expected = (f(images, torch.eye(4), values) for f in (compiled, use_all))
        # OpenCV blends bytes outside a graph, and may round halves in the other direction.
        torch.testing.assert_close(out[0], expected[0], atol=dtype == torch.uint8, rtol=0)
        assert torch.equal(out[1], expected[1])
        if images.requires_grad:
            losses = (mixed.square().sum() for mixed, _ in (out, expected))
            slopes = (torch.autograd.grad(loss, images)[0] for loss in losses)
            torch.testing.assert_close(*slopes)
    assert counter.frame_count == 1


# --- Noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["noise", "color"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise_depends_on_seed_and_place_alone(fill, dtype):
    """Noise is the same for any part of a batch, and independent from one seed to the next."""
    state = torch.get_rng_state()
    seeds = torch.randint(2**62, (400, 1), generator=torch.Generator().manual_seed(0))
    places = torch.arange(192 if fill == "noise" else 3, dtype=torch.int32)
    noise = kernels.noise(seeds, places, dtype)
    assert (noise.dtype, noise.shape) == (dtype, (400, len(places)))
    assert torch.equal(noise, kernels.noise(seeds, places, dtype))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(noise[5:, 1:], kernels.noise(seeds[5:], places[1:], dtype))
    values = noise.double()
    near = torch.corrcoef(torch.stack([values[:-1].flatten(), values[1:].flatten()]))[0, 1]
    assert abs(float(near)) < (0.11 if fill == "color" else 0.02)
