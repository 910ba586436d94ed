"""Cutout and Random Erasing: places and sides of holes, and what fills them."""

import pytest
import torch
from helpers.coded import DTYPES, SIZES, coded_images
from helpers.distributions import stats
from helpers.refusals import refused
from helpers.transforms import K, check_mix
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import Cutout, RandomErasing, functional

LEVEL = 1e-4
sides = st.integers(1, 24)


@pytest.mark.parametrize("kind", [Cutout, RandomErasing])
@given(
    st.integers(0, 9),
    st.sampled_from(SIZES) | st.tuples(sides, sides),
    st.sampled_from(DTYPES),
    st.sampled_from([99.0, (7, 8, 9), "noise", "color"]),
    st.integers(1, 3),
    st.sampled_from(["batch", "sample"]),
    st.sampled_from([1.0, 0.6]),
    st.integers(0, 2**32),
)
def test_only_holes_are_filled(kind, count, size, dtype, fill, holes, mode, p, seed):
    """Pixels in the plan's holes have the fill, all others stay, and labels keep their weight."""
    options = {"fill": fill, "mode": mode, "p": p, "num_classes": K}
    if kind is Cutout:
        rule = Cutout(0.4, holes=holes, **options)
    else:
        rule = RandomErasing((0.1, 0.6), count=holes, **options)
    out, _, plan, filled = check_mix(rule, coded_images(count, size, dtype), seed)
    assert plan.op.any() or p < 1 or not count
    if not isinstance(fill, str):
        wanted = torch.tensor(fill, dtype=dtype).view(-1, 1, 1).expand_as(out)
        assert torch.equal(out.where(filled, 0), wanted.where(filled, 0))


@pytest.mark.parametrize(
    ("size", "height", "width"),
    [(4, 4, 4), (0.5, 10, 5), ((4, 0.2), 4, 2), ([0.25, 3], 5, 3), (50, 20, 10)],
)
def test_cutout_sizes_are_pixels_or_shares(size, height, width):
    """Sides in pixels or shares of the image, one for both or one for each."""
    images = torch.ones(400, 1, 20, 10)
    boxes = Cutout(size).draw_plan(images).boxes
    assert (boxes[..., 2:] - boxes[..., :2]).amax((0, 1)).tolist() == [width, height]
    assert len(Cutout(size, mode="batch").draw_plan(images).boxes.unique(dim=0)) == 1


# --- The distribution of Random Erasing -----------------------------------------------------------


def measure(boxes, size):
    """Return area, log aspect ratio and relative places of boxes that are not empty."""
    boxes = boxes.reshape(-1, 4).double()
    boxes = boxes[boxes.any(1)]
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    rows, columns = boxes[:, 1] / (size[0] - height + 1), boxes[:, 0] / (size[1] - width + 1)
    return torch.stack([width * height, (height / width).log(), rows, columns]).numpy()


def sample_torchvisions_boxes(size, scale, ratio, count):
    """Return the boxes that torchvision's transform samples for one image after the other."""
    transform, image, boxes = v2.RandomErasing(1.0, scale, ratio), torch.zeros(1, *size), []
    for _ in range(count):
        params = transform.make_params([image])
        if params["v"] is not None:
            top, left, height, width = (params[key] for key in "ijhw")
            boxes.append([left, top, left + width, top + height])
    return torch.tensor(boxes)


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [((32, 32), (0.02, 0.33), (0.3, 3.3)), ((17, 40), (0.1, 0.5), (0.2, 1.5))],
)
@pytest.mark.parametrize("count", [1, 3])
def test_boxes_are_distributed_as_torchvisions(size, scale, ratio, count):
    """Each of N boxes has the area, ratio and place of torchvision's for an N-th of the area."""
    rule = RandomErasing(scale, ratio, p=1.0, count=count)
    boxes = rule.draw_plan(torch.zeros(6000 // count, 1, *size)).boxes
    assert (boxes.any(-1).sum(1) == count).all()
    assert RandomErasing() == RandomErasing((0.02, 0.33), (0.3, 3.3), p=0.5, mode="sample")
    scale = [end / count for end in scale]
    theirs = sample_torchvisions_boxes(size, scale, ratio, 3000)
    for one, two in zip(measure(boxes, size), measure(theirs, size), strict=True):
        assert stats.ks_2samp(one, two).pvalue > LEVEL


# --- What fills holes -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_one_value_for_a_pixel_and_color_one_for_a_box(dtype):
    """Colours of boxes and noise of pixels are uniform in uint8, and otherwise normal."""
    images = torch.full((300, 3, 16, 16), 5, dtype=dtype)
    for fill in ("noise", "color"):
        out, plan = RandomErasing((0.2, 0.3), fill=fill, p=1.0).mix(images)
        values = []
        for row, (x1, y1, x2, y2) in enumerate(plan.boxes[:, 0].tolist()):
            patch = out[row, :, y1:y2, x1:x2].flatten(1).double()
            assert fill == "noise" or torch.equal(patch, patch[:, :1].expand_as(patch))
            values.append(patch.flatten() if fill == "noise" else patch[:, 0])
        assert fill == "color" or len(values[0].unique()) > 20
        values = torch.cat(values)
        if dtype == torch.uint8:
            counts = torch.bincount(values.long(), minlength=256)
            assert stats.chisquare(counts.numpy()).pvalue > LEVEL
        elif dtype.itemsize > 2:
            assert stats.kstest(values.numpy(), stats.norm.cdf).pvalue > LEVEL
        else:
            assert values.min() < -2 < 2 < values.max()


class CountCalls(TorchDispatchMode):
    """Count the operations that are run."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fill", [0.0, "noise", "color"])
def test_on_a_device_nothing_is_done_sample_by_sample(fill):
    """The number of operations on a device does not grow with the batch."""
    calls = []
    for count in (4, 64):
        with CountCalls() as counted:
            rule = RandomErasing(p=1.0, fill=fill, labels_getter=None)
            rule(torch.zeros(count, 3, 16, 16, device="meta"))
        calls.append(counted.calls)
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    ("fill", "mask_fill", "image", "mask", "text"),
    [
        (300, None, torch.uint8, torch.int64, "fill must be an integer in [0, 255] for uint8"),
        (0.5, None, torch.uint8, torch.int64, "fill must be an integer"),
        ((0, -1, 0), None, torch.uint8, torch.int64, "fill must be an integer"),
        (1e6, None, torch.float16, torch.int64, "fill must be within"),
        (0, 256, torch.uint8, torch.uint8, "mask_fill must be an integer in [0, 255]"),
        (0, -1, torch.uint8, torch.uint8, "mask_fill must be an integer"),
        (0, 2, torch.uint8, torch.bool, "mask_fill must be an integer in [0, 1] for bool"),
    ],
)
def test_a_fill_that_a_dtype_cannot_represent_is_refused(fill, mask_fill, image, mask, text):
    """A fill outside the range of images or masks is an error before anything is sampled."""
    images = torch.zeros(2, 3, 8, 8, dtype=image)
    batch = {"image": images, "mask": tv_tensors.Mask(torch.zeros(2, 8, 8, dtype=mask))}
    for kind in (Cutout, RandomErasing):
        rule = kind(fill=fill, mask_fill=mask_fill)
        refused(lambda rule=rule: rule(batch), text)
    if mask_fill is None:
        plan = Cutout().draw_plan(images)
        refused(lambda: functional.replay(images, plan, fill), text)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1)])
def test_images_of_one_row_are_erased_along_it(shape):
    """A side of one pixel is erased whole."""
    images = torch.ones(64, 1, *shape)
    assert (Cutout(0.5)(images) == 0).flatten(1).sum(1).amax() == 20
    erased = (RandomErasing(p=1.0)(images) == 0).flatten(1).float().mean(1)
    assert 0.02 <= erased.min() <= erased.max() <= 0.34
