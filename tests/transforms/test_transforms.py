"""Cutout, Mixup and CutMix as a whole: labels tell the truth, inputs stay, seeds repeat."""

import copy
import pickle

import pytest
import torch
from helpers.coded import DTYPES, SIZES, bits, coded_images, shares
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup, make_collate_fn
from tv_mixaug.engine import plan as plans

LEVEL = 1e-4
ALL = (Mixup, CutMix, Cutout)


def other_class(labels):
    """Pair each sample with the next one, a rule of the user's."""
    return torch.arange(len(labels)).roll(-1)


pairings = st.sampled_from(["roll", "shuffle", other_class, lambda labels: labels * 0])
modes = st.sampled_from(["batch", "sample"])
dtypes = st.sampled_from(DTYPES)
sizes = st.one_of(st.sampled_from(SIZES), st.tuples(st.integers(1, 24), st.integers(1, 24)))
counts = st.integers(0, 9)
seeds = st.integers(0, 2**32)
probabilities = st.sampled_from([1.0, 0.6])
alphas = st.sampled_from([0.05, 0.4, 1.0, 8.0])


# --- Labels tell the truth ----------------------------------------------------------------------


@given(counts, sizes, dtypes, modes, pairings, probabilities, alphas, st.booleans(), seeds)
def test_cutmix_labels_equal_the_share_of_pixels(
    count, size, dtype, mode, pairing, p, alpha, inplace, seed
):
    """Each weight is, to 1e-6, the share of the pixels that the class holds."""
    torch.manual_seed(seed)
    transform = CutMix(
        alpha, num_classes=count + 1, mode=mode, pairing=pairing, p=p, inplace=inplace
    )
    images, soft = transform(coded_images(count, size, dtype), torch.arange(count))
    assert soft.shape == (count, count + 1)
    assert images.dtype == dtype
    torch.testing.assert_close(soft.double(), shares(images, count + 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(soft.sum(1), torch.ones(count), atol=1e-6, rtol=0)


@given(counts, sizes, dtypes, modes, pairings, probabilities, alphas, st.booleans(), seeds)
def test_mixup_pixels_equal_the_label_weighted_sum(
    count, size, dtype, mode, pairing, p, alpha, inplace, seed
):
    """Each pixel is the samples' sum weighted by the label: to 1e-4, or half a grey level."""
    torch.manual_seed(seed)
    level = 25 if dtype == torch.uint8 else 0.1  # codes from 0 to 1, or over the grey levels
    codes = coded_images(count, size, torch.float64) * level
    images = codes.to(dtype)
    transform = Mixup(
        alpha, num_classes=count + 1, mode=mode, pairing=pairing, p=p, inplace=inplace
    )
    mixed, soft = transform(images.clone(), torch.arange(count))
    expected = torch.einsum("ij,jchw->ichw", soft[:, :count].double(), images.double())
    assert mixed.dtype == dtype
    slack = {torch.uint8: 0.5 + 1e-4, torch.float16: 1e-3, torch.bfloat16: 8e-3}
    error = (mixed.double() - expected).abs()
    assert (error <= slack.get(dtype, 1e-4)).all()
    torch.testing.assert_close(soft.sum(1), torch.ones(count), atol=1e-6, rtol=0)
    if count:  # convex: no new extremes
        assert mixed.min() >= images.min()
        assert mixed.max() <= images.max()


@given(counts, sizes, dtypes, modes, st.integers(1, 3), probabilities, seeds)
def test_cutout_erases_its_holes_and_keeps_the_labels(count, size, dtype, mode, holes, p, seed):
    """Pixels are their own or the fill, the holes are the plan's, and labels keep their weight."""
    torch.manual_seed(seed)
    transform = Cutout(0.4, holes=holes, fill=99, mode=mode, p=p, num_classes=count + 1)
    images = coded_images(count, size, dtype)
    (out, soft), plan = transform.mix((images, torch.arange(count)))
    assert torch.equal(soft, torch.eye(count + 1)[:count])
    hole = out == 99
    assert torch.equal(out[~hole], images[~hole])
    canvas = torch.zeros(count, 1, *size, dtype=torch.bool)
    boxes = plan.boxes.reshape(count, -1 if count else 0, 4) if plan.op.any() else []
    for row, some in enumerate(boxes):
        for x1, y1, x2, y2 in some.tolist():
            canvas[row, :, y1:y2, x1:x2] = True
    assert torch.equal(hole, canvas.expand_as(hole))


def test_without_correction_labels_keep_the_drawn_lam():
    """correct_lam=False is there for those who want the drawn weight, against the pixels."""
    torch.manual_seed(0)
    transform = CutMix(num_classes=64, mode="sample", correct_lam=False)
    images, soft = transform(coded_images(64, (8, 8)), torch.arange(64))
    own = shares(images).diagonal()
    assert (soft.diagonal().double() < own + 0.1).all()
    assert (soft.diagonal().double() < own - 0.05).any()


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_mode_batch_has_one_draw_and_mode_sample_one_for_each(kind):
    """One lam and box for the batch, or each sample its own."""
    images, labels = coded_images(16), torch.arange(16)
    _, plan = kind(num_classes=16, mode="batch").mix((images, labels))
    assert len(plan.lam.unique()) == 1
    assert len(plan.boxes.unique(dim=0)) == 1
    _, plan = kind(num_classes=16, mode="sample").mix((images, labels))
    assert len((plan.lam if kind is Mixup else plan.boxes).unique(dim=0)) > 8


def test_cutout_modes_and_sizes():
    """Sizes in pixels and in shares, square and not, one hole for all or each its own."""
    images = torch.ones(400, 1, 20, 10)
    for size, height, width in (
        (4, 4, 4),
        (0.5, 10, 5),
        ((4, 0.2), 4, 2),
        ([0.25, 3], 5, 3),
        (50, 20, 10),
    ):
        _, plan = Cutout(size).mix(images)
        sides = plan.boxes[..., 2:] - plan.boxes[..., :2]
        assert sides.amax((0, 1)).tolist() == [width, height]
    _, plan = Cutout(4, mode="batch").mix(images)
    assert len(plan.boxes.unique(dim=0)) == 1


def test_a_callable_pairing_gets_the_labels_and_decides():
    """The partner is the one that the function of the labels names."""
    seen = []

    def pairing(labels):
        seen.append(labels)
        return torch.tensor([2, 2, 0])

    labels = torch.tensor([1, 0, 2])
    (images, soft), plan = CutMix(num_classes=3, pairing=pairing).mix((coded_images(3), labels))
    assert torch.equal(seen[0], labels)
    assert plan.partner.tolist() == [2, 2, 0]
    torch.testing.assert_close(soft[:, labels].double(), shares(images), atol=1e-6, rtol=0)


# --- Randomness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_p_is_the_share_of_batches_or_samples(kind, mode):
    """With p = 0.3, three batches (or samples) in ten are transformed."""
    transform = kind(p=0.3, mode=mode, labels_getter=None)
    if mode == "sample":
        hits = transform.mix(torch.rand(3000, 1, 2, 2))[1].op > 0
    else:
        ops = torch.stack([transform.mix(torch.rand(3, 1, 2, 2))[1].op for _ in range(600)])
        assert (ops == ops[:, :1]).all()
        hits = ops[:, 0] > 0
    assert stats.binomtest(int(hits.sum()), len(hits), 0.3).pvalue > LEVEL


@pytest.mark.parametrize("kind", ALL)
def test_p_zero_changes_nothing_but_the_label_format(kind):
    """With p = 0 images come back as they are and labels in the common format."""
    images, labels = torch.rand(4, 3, 5, 5), torch.arange(4)
    out, soft = kind(num_classes=4, p=0.0)(images, labels)
    assert torch.equal(out, images)
    assert torch.equal(soft, torch.eye(4))


@pytest.mark.parametrize("kind", ALL)
@given(seeds, modes, dtypes)
def test_a_seed_repeats_itself(kind, seed, mode, dtype):
    """torch.manual_seed decides everything: the same seed, the same batch, to the last bit."""
    images, labels = coded_images(5, (9, 7), dtype), torch.arange(5)
    transform = kind(num_classes=5, mode=mode, p=0.8)
    runs = []
    for _ in range(2):
        torch.manual_seed(seed)
        runs.append(transform(images, labels))
    assert torch.equal(bits(runs[0][0]), bits(runs[1][0]))
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_lam_follows_alpha_through_the_transform(kind):
    """The weights of the labels follow Beta(alpha, alpha), drawn for each sample."""
    transform = kind(
        0.4, num_classes=2000, mode="sample", **({"correct_lam": False} if kind is CutMix else {})
    )
    _, plan = transform.mix((torch.zeros(2000, 1, 2, 2), torch.arange(2000)))
    assert stats.kstest(plan.lam.numpy(), stats.beta(0.4, 0.4).cdf).pvalue > LEVEL


def test_a_gpu_plan_is_drawn_on_the_host():
    """Only torch's CPU generator is used, so that a plan never waits for a device."""
    _, plan = CutMix(num_classes=4).mix((torch.zeros(4, 1, 4, 4), torch.arange(4)))
    assert all(field.is_cpu for field in plan)
    assert isinstance(plan, plans.Plan)


# --- Inputs -------------------------------------------------------------------------------------


def memory_forms(images):
    wide = torch.cat([images, images], -1)[..., : images.shape[-1]]
    return [
        images,
        images.contiguous(memory_format=torch.channels_last),
        wide,
        images.transpose(2, 3).contiguous().transpose(2, 3),
        images[:1].expand(len(images), -1, -1, -1),
    ]


@pytest.mark.parametrize("kind", ALL)
@given(seeds, dtypes, modes)
def test_inputs_are_never_changed(kind, seed, dtype, mode):
    """Images in any memory, labels and their versions are as before, and outputs are no views."""
    torch.manual_seed(seed)
    for images in memory_forms(coded_images(4, (6, 5), dtype)):
        labels, before = torch.arange(4), images.clone()
        versions = images._version, labels._version
        out, _ = kind(num_classes=4, mode=mode)(images, labels)
        assert torch.equal(bits(images), bits(before))
        assert torch.equal(labels, torch.arange(4))
        assert (images._version, labels._version) == versions
        assert out.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()


@pytest.mark.parametrize("kind", ALL)
@given(seeds, dtypes, modes, st.sampled_from([(6, 5), (160, 150)]))
def test_in_place_equals_out_of_place(kind, seed, dtype, mode, size):
    """inplace=True writes into the images given, bit for bit what is returned without it."""
    torch.manual_seed(seed)
    for images in memory_forms(coded_images(3, size, dtype))[:-1]:
        labels = torch.arange(3)
        state = torch.get_rng_state()
        fresh, soft = kind(num_classes=3, mode=mode)(images, labels)
        torch.set_rng_state(state)
        strides = images.stride()
        same, again = kind(num_classes=3, mode=mode, inplace=True)(images, labels)
        assert same is images
        assert images.stride() == strides
        assert torch.equal(bits(images), bits(fresh))
        assert torch.equal(soft, again)


@pytest.mark.parametrize("kind", ALL)
def test_in_place_keeps_the_type_and_the_labels(kind):
    """In place, an Image stays the same object, and labels are new tensors all the same."""
    images, labels = tv_tensors.Image(coded_images(4)), torch.eye(4)
    out, soft = kind(num_classes=4, inplace=True)(images, labels)
    assert out is images
    assert type(out) is tv_tensors.Image
    assert torch.equal(labels, torch.eye(4))
    assert soft is not labels


@pytest.mark.parametrize("wrap", [tv_tensors.Image, tv_tensors.Video])
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_tv_tensor_types_are_kept(kind, wrap, p):
    """Images stay Images and videos Videos, transformed or not."""
    images = torch.rand(4, 3, 3, 8, 8) if wrap is tv_tensors.Video else torch.rand(4, 3, 8, 8)
    out, _ = kind(num_classes=4, p=p)(wrap(images), torch.arange(4))
    assert type(out) is wrap


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("pairing", ["roll", "shuffle"])
@pytest.mark.parametrize("inplace", [True, False])
def test_batches_of_none_and_one(kind, count, pairing, inplace):
    """Empty batches and batches of one image pass; a single sample keeps its label."""
    named = {} if kind is Cutout else {"pairing": pairing}
    for dtype in DTYPES:
        images = coded_images(count, (4, 4), dtype)
        out, soft = kind(num_classes=3, inplace=inplace, **named)(images, torch.zeros(count).long())
        assert out.shape == (count, 3, 4, 4)
        assert torch.equal(soft, torch.eye(3)[:1].expand(count, 3))
        if count and kind is not Cutout:
            assert torch.equal(out, coded_images(count, (4, 4), dtype))


@pytest.mark.parametrize("kind", ALL)
def test_channels_last_stays_channels_last(kind):
    """A batch that is channels last in memory comes back so."""
    images = torch.rand(4, 3, 40, 40).contiguous(memory_format=torch.channels_last)
    out, _ = kind(num_classes=4)(images, torch.arange(4))
    assert out.is_contiguous(memory_format=torch.channels_last)


# --- As objects -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_transforms_are_copied_and_pickled(kind):
    """Copies and pickles do what the original does."""
    transform = kind(num_classes=4, mode="sample")
    images, labels = coded_images(4), torch.arange(4)
    results = []
    loaded = pickle.loads(pickle.dumps(transform))  # noqa: S301 - our own
    for one in (transform, copy.deepcopy(transform), loaded):
        torch.manual_seed(0)
        results.append(one(images, labels)[0])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_building_a_transform_changes_no_argument():
    """Lists and dicts that are passed to constructors are copied, and can be used again."""
    fill, size, passthrough = [1, 2, 3], [4, 5], ["depth"]
    classes = {"label": 4}
    for _ in range(2):
        Cutout(size, fill=fill, passthrough=passthrough, num_classes=classes)
    assert (fill, size, passthrough, classes) == ([1, 2, 3], [4, 5], ["depth"], {"label": 4})
    transform = Cutout(size, fill=fill, num_classes=classes)
    fill.append(4)
    classes["other"] = 9
    assert transform.fill == (1, 2, 3)
    assert transform.num_classes == {"label": 4}


@pytest.mark.parametrize("kind", ALL)
def test_the_repr_names_the_transform(kind):
    """A printed pipeline says what is in it."""
    assert repr(kind(p=0.25)).startswith(f"{kind.__name__}(")
    assert "p=0.25" in repr(kind(p=0.25))


def test_noise_fills_are_right_for_the_dtype():
    """Noise differs from pixel to pixel; uint8 noise uses the whole range of grey levels."""
    for dtype in DTYPES:
        images = torch.full((4, 3, 32, 32), 7, dtype=dtype)
        (out, _), plan = Cutout(40, fill="noise").mix((images, torch.eye(4)))
        x1, y1, x2, y2 = plan.boxes[0, 0].tolist()
        hole = out[0, :, y1:y2, x1:x2]
        assert out.dtype == dtype
        assert len(hole.unique()) > 50
        if dtype == torch.uint8:
            assert hole.min() < 10
            assert hole.max() > 245
        else:
            assert hole.double().min() < -1
            assert hole.double().max() > 1


@pytest.fixture
def another_default_device():
    """Make new tensors on a device without memory, as ``set_default_device("cuda")`` would."""
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_the_default_device_does_not_move_a_batch(kind, mode, another_default_device):
    """Plans and results lie where they belong, whatever device torch makes new tensors on."""
    images = torch.ones(4, 3, 8, 8, device="cpu")
    labels = torch.arange(4, device="cpu") % 3
    transform = kind(num_classes=3, mode=mode)
    (mixed, soft), plan = transform.mix((images, labels))
    assert {tensor.device.type for tensor in (mixed, soft, *plan)} == {"cpu"}
    samples = [(image, label) for image, label in zip(images, labels, strict=True)]
    mixed, soft, plan = make_collate_fn(transform, seed=1, record=True)(samples)
    assert {tensor.device.type for tensor in (mixed, soft, *plan)} == {"cpu"}
