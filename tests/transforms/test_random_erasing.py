"""Random Erasing on a batch: the law of torchvision and timm, each sample its own box."""

import math

import pytest
import torch
from helpers.coded import DTYPES, SIZES, coded_images
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import Chain, RandomErasing, functional, make_collate_fn
from tv_mixaug.engine import kernels
from tv_mixaug.engine.plan import FILL, NONE

LEVEL = 1e-4
LAWS = [((32, 32), {}), ((17, 40), {"scale": (0.1, 0.5), "ratio": (0.2, 1.5)})]


def sides_and_places(plan, size):
    """Return area, log of the aspect ratio and relative places of the boxes that are not empty."""
    boxes = plan.boxes.flatten(0, 1).double()
    boxes = boxes[boxes.any(1)]
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    rows = boxes[:, 1] / (size[0] - height + 1)
    columns = boxes[:, 0] / (size[1] - width + 1)
    ratio = [math.log(h / w) for h, w in zip(height.tolist(), width.tolist(), strict=True)]
    return torch.stack([width * height, torch.tensor(ratio), rows, columns])


def count_boxes_of_torchvision(size, options, draws, p=1.0):
    """Return the same of torchvision's transform, asked for one image after the other."""
    transform, found = v2.RandomErasing(p=p, **options), []
    image = torch.zeros(1, *size)
    for _ in range(draws):
        params = transform.make_params([image])
        if params["v"] is not None:
            i, j, h, w = (float(params[key]) for key in "ijhw")
            found.append([h * w, math.log(h / w), i / (size[0] - h + 1), j / (size[1] - w + 1)])
    return torch.tensor(found, dtype=torch.float64).T


@pytest.mark.parametrize(("size", "options"), LAWS)
def test_boxes_have_the_law_of_torchvision(size, options):
    """Area, aspect ratio and place do not differ from torchvision's, by two-sample tests."""
    torch.manual_seed(0)
    _, plan = RandomErasing(p=1.0, **options).mix(torch.zeros(6000, 1, *size))
    ours = sides_and_places(plan, size)
    theirs = count_boxes_of_torchvision(size, options, 3000)
    for one, other in zip(ours, theirs, strict=True):
        assert stats.ks_2samp(one.numpy(), other.numpy()).pvalue > LEVEL


@pytest.mark.parametrize("counts", [(1, 1), (2, 4)])
def test_boxes_have_the_law_of_timm(counts):
    """Where timm is installed its boxes, of one number or several, do not differ from ours."""
    erasing = pytest.importorskip("timm.data.random_erasing")
    import random

    random.seed(0)
    torch.manual_seed(0)
    least, most = counts
    law = erasing.RandomErasing(
        1.0,
        max_area=0.3,
        min_aspect=0.3,
        mode="const",
        min_count=least,
        max_count=most,
        device="cpu",
    )
    theirs = torch.ones(3000, 1, 24, 24)
    for image in theirs:
        law(image)
    ours, plan = RandomErasing((0.02, 0.3), (0.3, 1 / 0.3), p=1.0, count=counts).mix(
        torch.ones(6000, 1, 24, 24)
    )
    shares = [(1 - images.mean((1, 2, 3))).numpy() for images in (ours, theirs)]
    assert stats.ks_2samp(*shares).pvalue > LEVEL
    for axis in (2, 3):  # where it is erased
        places = [(1 - images.mean((0, 1, 5 - axis))).numpy() for images in (ours, theirs)]
        assert abs(places[0] - places[1]).max() < 0.03
    numbers = (plan.boxes.any(-1)).sum(1)
    assert int(numbers.max()) == most
    assert int(numbers.min()) == least


def test_p_is_for_each_sample_and_each_has_its_own_box():
    """A share p of the samples is erased, all at different places; in mode batch all alike."""
    torch.manual_seed(0)
    images = torch.ones(4000, 1, 32, 32)
    _, plan = RandomErasing().mix(images)
    erased = int((plan.op == FILL).sum())
    assert stats.binomtest(erased, 4000, 0.5).pvalue > LEVEL
    assert len(plan.boxes[plan.op == FILL].unique(dim=0)) > 1000
    assert not plan.boxes[plan.op == NONE].any()
    _, plan = RandomErasing(p=1.0, mode="batch").mix(images[:8])
    assert len(plan.boxes.unique(dim=0)) == 1


@given(
    st.integers(0, 6),
    st.sampled_from(SIZES),
    st.sampled_from(DTYPES),
    st.sampled_from([7.0, (1, 2, 3), "noise", "color"]),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_only_the_boxes_change_and_labels_keep_their_weight(count, size, dtype, fill, boxes, seed):
    """Pixels outside are the own ones, inside the fill; boxes are in the image, labels one-hot."""
    torch.manual_seed(seed)
    images = coded_images(count, size, dtype)
    before = images.clone()
    erase = RandomErasing((0.1, 0.6), fill=fill, count=(1, boxes), num_classes=count + 1, p=0.8)
    (out, labels), plan = erase.mix((images, torch.arange(count)))
    assert torch.equal(images, before)
    assert torch.equal(labels, torch.eye(count + 1)[:count])
    inside = functional.cutout(torch.zeros(count, 1, *size), plan.boxes, 1.0) == 1
    assert torch.equal(out.where(~inside, 0), images.where(~inside, 0))
    assert bool((plan.boxes[..., :2] >= 0).all())
    assert bool((plan.boxes[..., 2:] <= torch.tensor(size[::-1])).all())
    if not isinstance(fill, str):
        wanted = torch.tensor(fill, dtype=dtype).view(-1, 1, 1).expand_as(images)
        assert torch.equal(out.where(inside, 0), wanted.where(inside, 0))
    assert torch.equal(functional.replay(images, plan, fill), out)


def test_a_color_is_one_for_a_box_and_noise_one_for_a_pixel():
    """Every box has a colour of its own, and noise differs in all pixels; both by the right law."""
    torch.manual_seed(0)
    for dtype in (torch.uint8, torch.float32):
        images = torch.full((300, 3, 16, 16), 5, dtype=dtype)
        colours = []
        (out, plan) = RandomErasing((0.2, 0.3), fill="color", p=1.0).mix(images)
        for row, (x1, y1, x2, y2) in enumerate(plan.boxes[:, 0].tolist()):
            patch = out[row, :, y1:y2, x1:x2].flatten(1)
            assert torch.equal(patch, patch[:, :1].expand_as(patch))
            colours.append(patch[:, 0].double())
        values = torch.cat(colours)
        if dtype.is_floating_point:
            assert stats.kstest(values.numpy(), stats.norm.cdf).pvalue > LEVEL
        else:
            assert len(values.unique()) > 200
        noisy, plan = RandomErasing((0.2, 0.3), fill="noise", p=1.0).mix(images)
        x1, y1, x2, y2 = plan.boxes[0, 0].tolist()
        assert len(noisy[0, :, y1:y2, x1:x2].unique()) > 20


@pytest.mark.parametrize("fill", ["noise", "color"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_for_a_whole_batch_has_the_same_law(fill, dtype):
    """What devices use: a pure function of seed and place, of the law that the host's noise has."""
    seeds = torch.randint(2**62, (400,), generator=torch.Generator().manual_seed(0))
    places = torch.arange(192 if fill == "noise" else 3, dtype=torch.int32)
    seeds = seeds[:, None]
    noise = kernels.noise(seeds, places, dtype)
    assert noise.dtype == dtype
    assert noise.shape == (400, len(places))
    assert torch.equal(noise, kernels.noise(seeds, places, dtype))
    assert torch.equal(noise[5:, 1:], kernels.noise(seeds[5:], places[1:], dtype))
    values = noise.double().flatten(1)
    if dtype == torch.uint8:
        counts = torch.bincount(noise.flatten().long(), minlength=256)
        assert stats.chisquare(counts.numpy()).pvalue > LEVEL
    elif dtype.itemsize > 2:
        assert stats.kstest(values.flatten().numpy(), stats.norm.cdf).pvalue > LEVEL
    near = torch.corrcoef(torch.stack([values[:-1].flatten(), values[1:].flatten()]))[0, 1]
    assert abs(float(near)) < 0.11 if fill == "color" else abs(float(near)) < 0.02


def test_on_a_device_nothing_is_done_sample_by_sample():
    """The operations for a batch on a device do not grow with the batch, whatever the fill."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += 1
            return func(*args, **(kwargs or {}))

    for fill in (0.0, "noise", "color"):
        calls = []
        for count in (4, 64):
            erase = RandomErasing(p=1.0, fill=fill, labels_getter=None)
            with Count() as counted:
                erase(torch.zeros(count, 3, 16, 16, device="meta"))
            calls.append(counted.calls)
        assert calls[0] == calls[1]


def test_masks_and_objects_follow_as_with_cutout():
    """Masks take mask_fill in the boxes, and objects that are hidden are dropped."""
    torch.manual_seed(0)
    images = tv_tensors.Image(torch.ones(6, 3, 32, 32))
    masks = tv_tensors.Mask(torch.ones(6, 32, 32, dtype=torch.int64))
    targets = [{"boxes": torch.tensor([[0.0, 0.0, 32.0, 32.0]])} for _ in range(6)]
    erase = RandomErasing((0.2, 0.4), p=1.0, mask_fill=255, min_visible=0.9)
    batch, _ = erase.mix({"image": images, "mask": masks, "objects": targets})
    hidden = (batch["image"] == 0).all(1)
    assert torch.equal(batch["mask"] == 255, hidden)
    assert [len(t["boxes"]) for t in batch["objects"]] == [0] * 6


def test_in_a_chain_and_from_a_loader():
    """A chain counts erased pixels as nobody's, and a seed repeats over collate functions."""
    torch.manual_seed(0)
    chain = Chain([RandomErasing(p=1.0, num_classes=4)], erased="nobody")
    images, labels = chain(coded_images(4, (16, 16)), torch.arange(4))
    visible = (images > 0).double().mean((1, 2, 3))
    torch.testing.assert_close(labels.sum(1).double(), visible, atol=1e-6, rtol=0)
    samples = [(image, i) for i, image in enumerate(coded_images(4, (16, 16)))]
    erase = RandomErasing(fill="noise", num_classes=4)
    one, two = (make_collate_fn(erase, seed=3)(samples)[0] for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"scale": 0.3}, TypeError, "scale must be a pair"),
        ({"scale": (0.4, 0.2)}, ValueError, "scale must be a pair"),
        ({"scale": (-0.1, 0.2)}, ValueError, "scale must be in"),
        ({"scale": (0.1, 1.2)}, ValueError, "scale must be in"),
        ({"ratio": (0, 2)}, ValueError, "ratio must be > 0"),
        ({"ratio": (0.3,)}, ValueError, "ratio must be a pair"),
        ({"ratio": ("a", 2)}, TypeError, "ratio must be a number"),
        ({"count": 0}, ValueError, "count must be >= 1"),
        ({"count": (3, 2)}, ValueError, "count must be an int or"),
        ({"count": 1.5}, TypeError, "count must be an int"),
        ({"count": (1, 2, 3)}, ValueError, "count must be an int or"),
        ({"fill": "random"}, ValueError, "fill must be one of"),
        ({"cut": "cuboid"}, ValueError, "cut must be"),
        ({"p": 1.5}, ValueError, "p must be in"),
    ],
)
def test_wrong_arguments_are_named(arguments, kind, text):
    """Each wrong argument raises at once, with its name and what was expected."""
    with pytest.raises(kind, match=text):
        RandomErasing(**arguments)


@pytest.mark.parametrize(
    ("fill", "mask_fill", "image", "mask", "text"),
    [
        (300, None, torch.uint8, torch.int64, "fill must be an integer in \\[0, 255\\] for uint8"),
        (0.5, None, torch.uint8, torch.int64, "fill must be an integer"),
        (1e6, None, torch.float16, torch.int64, "fill must be within"),
        (0, 256, torch.uint8, torch.uint8, "mask_fill must be an integer in \\[0, 255\\]"),
        (0, -1, torch.uint8, torch.uint8, "mask_fill must be an integer"),
        (0, 2, torch.uint8, torch.bool, "mask_fill must be an integer in \\[0, 1\\] for bool"),
    ],
)
def test_a_fill_that_a_dtype_cannot_hold_is_refused(fill, mask_fill, image, mask, text):
    """Nothing wraps round: what images or masks cannot hold is an error before a draw."""
    batch = {
        "image": torch.zeros(2, 1, 8, 8, dtype=image),
        "mask": tv_tensors.Mask(torch.zeros(2, 8, 8, dtype=mask)),
    }
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=text):
        RandomErasing(fill=fill, mask_fill=mask_fill)(batch)
    assert torch.equal(torch.get_rng_state(), state)
    if mask_fill is None:
        plan = RandomErasing(p=1.0).mix(batch["image"])[1]
        with pytest.raises(ValueError, match=text):
            functional.replay(batch["image"], plan, fill)
