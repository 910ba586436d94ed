"""Kernels: what they compute, what flows through them, and that they compile whole."""

import pytest
import torch
from helpers.coded import DTYPES, bits, coded_images
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup, functional
from tv_mixaug.engine import plan as plans


def draw_pixels(shape, dtype):
    pixels = torch.randint(256, shape)
    return pixels.to(dtype) if dtype == torch.uint8 else (pixels / 255).to(dtype)


def make_boxes(count, size, dims=2):
    """Draw boxes of any sides, empty ones included."""
    corners = [torch.stack([torch.randint(n + 1, (count, 2)) for n in size[::-1]], 2)]
    corners = torch.cat(corners).sort(1).values
    return corners.reshape(count, 2 * dims)


def paste(images, partner, boxes):
    """Paste as a beginner would, box by box."""
    out = images.clone()
    for row, (other, (x1, y1, x2, y2)) in enumerate(
        zip(partner.tolist(), boxes.tolist(), strict=True)
    ):
        out[row, ..., y1:y2, x1:x2] = images[other, ..., y1:y2, x1:x2]
    return out


# --- Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@given(count=st.integers(0, 5), side=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_mixup_is_the_weighted_sum(dtype, count, side, seed):
    """Every pixel is lam * own + (1 - lam) * partner, rounded once to the images' dtype."""
    torch.manual_seed(seed)
    images = draw_pixels((count, 2, side, side + 1), dtype)
    partner, lam = torch.randint(max(count, 1), (count,)), torch.rand(count)
    out = functional.mixup(images, partner, lam)
    weight = lam.double().view(-1, 1, 1, 1)
    exact = weight * images.double() + (1 - weight) * images[partner].double()
    assert out.dtype == dtype
    if dtype == torch.uint8:
        # Half a grey level, and a hair for values that lie between two.
        assert ((out.double() - exact).abs() <= 0.5 + 1e-4).all()
    else:
        slack = max(1e-6, torch.finfo(dtype).eps)
        torch.testing.assert_close(out.double(), exact, atol=slack, rtol=0)


@given(
    dtype=st.sampled_from([*DTYPES, torch.int64, torch.bool]),
    count=st.integers(0, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_cutmix_pastes_exactly_the_box(dtype, count, height, width, seed):
    """Inside the box every bit is the partner's, outside it is the own image's, for any dtype."""
    torch.manual_seed(seed)
    images = torch.randint(256, (count, 3, height, width)).to(dtype)
    partner = torch.randint(max(count, 1), (count,))
    boxes = make_boxes(count, (height, width))
    out = functional.cutmix(images, partner, boxes)
    assert torch.equal(out, paste(images, partner, boxes))


def test_cutmix_cuts_the_named_axes():
    """A box can cut axes that are not the last, and a cuboid cuts three."""
    images = torch.rand(2, 6, 7, 3)  # (B, H, W, C)
    partner, boxes = torch.tensor([1, 0]), torch.tensor([[1, 2, 4, 6], [0, 0, 7, 1]])
    out = functional.cutmix(images, partner, boxes, axes=(1, 2))
    expected = paste(images.permute(0, 3, 1, 2), partner, boxes).permute(0, 2, 3, 1)
    assert torch.equal(out, expected)
    assert torch.equal(functional.cutmix(images, partner, boxes, axes=(-3, -2)), expected)
    volumes = torch.rand(2, 1, 4, 5, 6)
    cuboids = torch.tensor([[1, 2, 0, 3, 5, 2], [0, 0, 0, 0, 0, 0]])
    out = functional.cutmix(volumes, partner, cuboids)
    expected = volumes.clone()
    expected[0, :, 0:2, 2:5, 1:3] = volumes[1, :, 0:2, 2:5, 1:3]
    assert torch.equal(out, expected)


@given(
    dtype=st.sampled_from(DTYPES),
    holes=st.integers(1, 3),
    fill=st.sampled_from([0.0, 7, (1, 2, 3)]),
    seed=st.integers(0, 2**32),
)
def test_cutout_overwrites_exactly_the_holes(dtype, holes, fill, seed):
    """Inside each hole is the fill, for each channel its own if asked, and nothing else changed."""
    torch.manual_seed(seed)
    images = draw_pixels((4, 3, 8, 9), dtype)
    boxes = torch.stack([make_boxes(4, (8, 9)) for _ in range(holes)], 1)
    out = functional.cutout(images, boxes if holes > 1 else boxes[:, 0], fill)
    expected = images.clone()
    value = torch.tensor(fill).to(dtype).expand(3)[:, None, None]
    for row, some in enumerate(boxes.tolist()):
        for x1, y1, x2, y2 in some:
            expected[row, :, y1:y2, x1:x2] = value
    assert out.dtype == dtype
    assert torch.equal(out, expected)


def test_cutout_takes_a_tensor_as_fill():
    """A fill that broadcasts to the images, such as noise, is written in the holes alone."""
    images, fill = torch.zeros(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    out = functional.cutout(images, torch.tensor([[0, 0, 2, 2], [1, 1, 4, 4]]), fill)
    assert torch.equal(out[0, :, :2, :2], fill[0, :, :2, :2])
    assert torch.equal(out[1, :, 1:, 1:], fill[1, :, 1:, 1:])
    assert not out[0, :, 2:].any()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool, torch.int16, torch.int64])
def test_mixed_labels_are_float32_and_keep_their_sum(dtype):
    """Rows of any dtype become float32 and the weights of a one-hot row still sum to 1."""
    labels = torch.eye(5)[torch.randint(5, (6,))].to(dtype)
    partner, lam = torch.randint(6, (6,)), torch.rand(6)
    mixed = functional.mix_labels(labels, partner, lam)
    assert mixed.dtype == torch.float32
    expected = lam[:, None].double() * labels.double()
    expected += (1 - lam[:, None].double()) * labels[partner].double()
    torch.testing.assert_close(mixed.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed.sum(1), torch.ones(6), atol=1e-6, rtol=0)


@given(count=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_mixing_is_convex(count, seed):
    """No mixed pixel or label leaves the range of the two that were mixed."""
    torch.manual_seed(seed)
    partner, lam = torch.randperm(count), torch.rand(count).mul(3).sub(1).clamp(0, 1)
    for dtype in DTYPES:
        images = draw_pixels((count, 1, 4, 4), dtype)
        out, other = functional.mixup(images, partner, lam), images[partner]
        assert (out >= torch.minimum(images, other)).all()
        assert (out <= torch.maximum(images, other)).all()
    labels = torch.rand(count, 3)
    mixed = functional.mix_labels(labels, partner, lam)
    assert (mixed >= torch.minimum(labels, labels[partner])).all()
    assert (mixed <= torch.maximum(labels, labels[partner])).all()


def test_lam_one_is_the_own_image_and_zero_the_partner_bit_for_bit():
    """The ends of lam's range change no bit."""
    for dtype in DTYPES:
        images, partner = draw_pixels((2, 3, 5, 5), dtype), torch.tensor([1, 0])
        assert torch.equal(functional.mixup(images, partner, torch.ones(2)), images)
        assert torch.equal(functional.mixup(images, partner, torch.zeros(2)), images[partner])


def test_kernels_change_no_input():
    """Images, partners, weights and boxes are only read."""
    images, partner, lam = torch.rand(3, 2, 4, 4), torch.tensor([1, 2, 0]), torch.rand(3)
    boxes = make_boxes(3, (4, 4))
    before = [t.clone() for t in (images, partner, lam, boxes)]
    functional.mixup(images, partner, lam)
    functional.cutmix(images, partner, boxes)
    functional.cutout(images, boxes, 0.5)
    functional.mix_labels(images, partner, lam)
    for old, new in zip(before, (images, partner, lam, boxes), strict=True):
        assert torch.equal(old, new)


# --- The same bits as the transforms ------------------------------------------------------------

SHAPES = [(5, 3, 9, 7), (4, 3, 160, 150)]  # small samples are blended together, large ones alone


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pairing", ["roll", "shuffle", lambda labels: torch.zeros_like(labels)])
@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_kernels_give_the_bits_of_the_transforms(shape, dtype, pairing, mode, kind):
    """What a transform made of a batch, its kernel and replay make again, to the last bit."""
    images, labels = draw_pixels(shape, dtype), torch.arange(shape[0])
    transform = kind(num_classes=shape[0], pairing=pairing, mode=mode, p=0.9)
    for seed in range(2):
        torch.manual_seed(seed)
        (out, _), plan = transform.mix((images, labels))
        if kind is Mixup:
            again = functional.mixup(images, plan.partner, plan.lam)
        else:
            again = functional.cutmix(images, plan.partner, plan.boxes)
        assert torch.equal(bits(again), bits(out))
        assert torch.equal(bits(functional.replay(images, plan)), bits(out))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fill", [0.0, 3, (1, 2, 3), "noise"])
@pytest.mark.parametrize("holes", [1, 2])
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_replayed_holes_have_the_bits_of_the_transform(dtype, fill, holes, mode):
    """Replay fills the same holes with the same values, noise included."""
    images = draw_pixels((4, 3, 11, 8), dtype)
    transform = Cutout(5, holes=holes, fill=fill, mode=mode, p=0.7)
    (out, _), plan = transform.mix((images, torch.arange(4)))
    assert torch.equal(bits(functional.replay(images, plan, fill)), bits(out))
    if fill != "noise":
        assert torch.equal(bits(functional.cutout(images, plan.boxes, fill)), bits(out))


def test_a_plan_replays_on_anything_of_the_same_samples():
    """Features without height and width, labels and a depth map take the plan of the images."""
    (_, soft), plan = Mixup(num_classes=4).mix((torch.rand(4, 3, 8, 8), torch.arange(4)))
    torch.testing.assert_close(functional.replay(torch.eye(4), plan), soft)
    features = functional.replay(torch.rand(4, 7), plan)
    assert features.shape == (4, 7)
    (_, _), plan = CutMix(num_classes=4).mix((torch.rand(4, 3, 8, 8), torch.arange(4)))
    depth = torch.rand(4, 8, 8)
    expected = paste(depth, plan.partner, plan.boxes[:, 0])
    assert torch.equal(functional.replay(depth, plan), expected)


def test_replay_keeps_to_the_operation_of_each_sample():
    """In a plan of several operations each sample gets its own and no other."""
    images = torch.rand(4, 1, 4, 4)
    plan = plans.Plan(
        op=torch.tensor([0, 1, 2, 3], dtype=torch.uint8),
        partner=torch.tensor([0, 1, 0, 0]),
        lam=torch.tensor([1.0, 1.0, 0.25, 0.75]),
        boxes=torch.tensor([[[0, 0, 0, 0]], [[0, 0, 2, 2]], [[0, 0, 0, 0]], [[2, 0, 4, 2]]]),
        noise=torch.zeros(4, dtype=torch.int64),
    )
    out = functional.replay(images, plan, fill=9.0)
    assert torch.equal(out[0], images[0])
    assert (out[1, :, :2, :2] == 9).all()
    assert torch.equal(out[1, :, 2:], images[1, :, 2:])
    torch.testing.assert_close(out[2], 0.25 * images[2] + 0.75 * images[0])
    assert torch.equal(out[3, :, :2, 2:], images[0, :, :2, 2:])
    assert torch.equal(out[3, :, 2:], images[3, :, 2:])


# --- Gradients ----------------------------------------------------------------------------------


def test_gradients_flow_through_every_kernel():
    """Finite differences confirm the gradients with respect to images, weights and fill."""
    images = torch.rand(3, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    lam = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    fill = torch.rand(2, 1, 1, dtype=torch.float64, requires_grad=True)
    partner, boxes = torch.tensor([1, 2, 0]), torch.tensor([[0, 0, 2, 2], [1, 1, 4, 3], [0] * 4])
    check = torch.autograd.gradcheck
    assert check(lambda x, weight: functional.mixup(x, partner, weight), (images, lam))
    assert check(lambda x: functional.cutmix(x, partner, boxes), (images,))
    assert check(lambda x, value: functional.cutout(x, boxes, value), (images, fill))


@pytest.mark.parametrize(
    "transform",
    [
        Mixup(num_classes=4),
        Mixup(num_classes=4, mode="sample", pairing="shuffle"),
        CutMix(num_classes=4),
        CutMix(num_classes=4, mode="sample"),
        Cutout(3),
        Cutout(3, holes=2, fill=(0.1, 0.2, 0.3)),
        Cutout(3, fill="noise"),
    ],
    ids=repr,
)
def test_gradients_flow_through_the_transforms(transform):
    """Images that require gradients get them, and the same pixels as images that do not."""
    images, labels = torch.rand(4, 3, 6, 6), torch.arange(4)
    torch.manual_seed(1)
    expected = transform(images, labels)[0]
    leaf = images.clone().requires_grad_()
    torch.manual_seed(1)
    out = transform(leaf, labels)[0]
    assert torch.equal(out, expected)
    out.sum().backward()
    # All the weight that the result has of the images, and none that the fill has, comes back.
    torch.manual_seed(1)
    ones = transform(torch.ones(4, 3, 6, 6), labels)[0]
    kept = (ones == 1).sum() if isinstance(transform, Cutout) else ones.sum()
    assert float(leaf.grad.sum()) == pytest.approx(float(kept), rel=1e-5)


@pytest.mark.parametrize("layout", ["BCDHW", "BHWC"])
def test_gradients_flow_through_other_layouts(layout):
    """A fill for each channel finds the channel axis of the layout, with gradients or without."""
    shape = (2, 3, 4, 5, 6) if layout == "BCDHW" else (2, 5, 6, 3)
    transform = Cutout(3, fill=(0.1, 0.2, 0.3), layout=layout)
    images = torch.rand(shape)
    torch.manual_seed(1)
    expected = transform(images, torch.arange(2))[0]
    torch.manual_seed(1)
    out = transform(images.clone().requires_grad_(), torch.arange(2))[0]
    assert torch.equal(out, expected)


def test_no_grad_is_respected():
    """Under no_grad, images that require gradients are mixed without a graph."""
    images = torch.rand(4, 3, 6, 6, requires_grad=True)
    for transform in (Mixup(num_classes=4), CutMix(num_classes=4), Cutout(3)):
        with torch.no_grad():
            assert not transform(images, torch.arange(4))[0].requires_grad


# --- Compiling ----------------------------------------------------------------------------------


def mix_all(images, labels, partner, lam, boxes):
    """Use all four kernels."""
    images = functional.mixup(images, partner, lam)
    images = functional.cutmix(images, partner, boxes)
    images = functional.cutout(images, boxes, 0.5 if images.is_floating_point() else 128)
    return images, functional.mix_labels(labels, partner, lam)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_kernels_compile_whole_and_once(dtype):
    """One graph without breaks serves every value of partner, lam and boxes."""
    counter = CompileCounter()
    compiled = torch.compile(mix_all, fullgraph=True, backend=counter)
    images = draw_pixels((4, 3, 8, 8), dtype)
    for _ in range(3):
        values = torch.randperm(4), torch.rand(4), make_boxes(4, (8, 8))
        out = compiled(images, torch.eye(4), *values)
        expected = mix_all(images, torch.eye(4), *values)
        # uint8 goes through OpenCV when it is not compiled; a tie may be rounded another way.
        torch.testing.assert_close(out[0], expected[0], atol=dtype == torch.uint8, rtol=0)
        assert torch.equal(out[1], expected[1])
    assert counter.frame_count == 1


def test_kernels_compile_for_training():
    """The graph is traced ahead of time, gradients included."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(mix_all, fullgraph=True, backend=counter)
    leaf, same = (torch.ones(4, 3, 8, 8).requires_grad_() for _ in range(2))
    values = torch.randperm(4), torch.rand(4), make_boxes(4, (8, 8))
    compiled(leaf, torch.eye(4), *values)[0].square().sum().backward()
    mix_all(same, torch.eye(4), *values)[0].square().sum().backward()
    torch.testing.assert_close(leaf.grad, same.grad)
    assert counter.frame_count == 1


def test_replay_compiles_whole_and_once():
    """A recorded plan is replayed on the device by one graph, whatever the operation."""
    counter = CompileCounter()
    compiled = torch.compile(functional.replay, fullgraph=True, backend=counter)
    images = torch.rand(4, 3, 8, 8)
    for transform in (Mixup(num_classes=4), CutMix(num_classes=4), Cutout(3)):
        (out, _), plan = transform.mix((images, torch.arange(4)))
        torch.testing.assert_close(compiled(images, plan), out)
    assert counter.frame_count == 1


def test_kernels_read_no_value():
    """On the meta device, where no value exists, shapes and dtypes come out: no value is read."""
    images = torch.empty(4, 3, 8, 8, device="meta")
    index, boxes = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 4, dtype=torch.int64)
    for dtype in DTYPES:
        some = images.to(dtype)
        for out in (
            functional.mixup(some, index, torch.ones(4)),
            functional.cutmix(some, index, boxes),
            functional.cutout(some, boxes, 1.0),
        ):
            assert (out.shape, out.dtype, out.device.type) == (images.shape, dtype, "meta")


def test_kernels_take_tv_tensors_and_any_memory_format():
    """Images may be tv_tensors, channels last or views with gaps; values do not depend on it."""
    images = torch.rand(4, 3, 6, 6)
    partner, lam, boxes = torch.tensor([1, 2, 3, 0]), torch.rand(4), make_boxes(4, (6, 6))
    wide = torch.rand(4, 3, 6, 12)
    wide[..., ::2] = images
    for form in (
        tv_tensors.Image(images),
        images.contiguous(memory_format=torch.channels_last),
        wide[..., ::2],
    ):
        for kernel, values in (
            (functional.mixup, (partner, lam)),
            (functional.cutmix, (partner, boxes)),
            (functional.cutout, (boxes,)),
        ):
            assert torch.equal(kernel(form, *values), kernel(images, *values))


def test_coded_images_survive_every_dtype():
    """The codes that other tests read back are exact in every dtype."""
    for dtype in DTYPES:
        images = coded_images(9, (2, 3), dtype)
        assert images[:, 0, 0, 0].tolist() == list(range(1, 10))
