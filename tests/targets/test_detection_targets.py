"""Functions of the detection module; a raster of quarter pixels gives the expected objects."""

import collections
import copy
import dataclasses
import itertools
import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import ops, tv_tensors
from torchvision.transforms.v2 import functional as v2

from tv_mixaug import CutMix, Cutout, Mixup
from tv_mixaug.engine import plan as plans
from tv_mixaug.targets import detection

FORMATS = ("plain", "XYXY", "XYWH", "CXCYWH")
DTYPES = (torch.int64, torch.float32, torch.float64)
POINTS = ["none", "visibility", "pairs", *["KeyPoints"] * hasattr(tv_tensors, "KeyPoints")]
FINE = 4  # cells of the raster for each pixel side


def check_objects(targets, size, box_format="xyxy"):
    """Check targets of images of one size."""
    detection.check_objects(targets, [size] * len(targets), "targets", box_format)


def mix_pair(op, own, partner, size, min_visible=0.1, lam=1.0, boxes=((0, 0, 0, 0),), **options):
    """Return the first of two targets, mixed with the second by a plan of one operation."""
    targets = [own] if partner is own else [own, partner]
    boxes = torch.as_tensor(boxes).long().view(1, -1, 4)
    plan = plans.Plan(
        op=torch.tensor([op, plans.NONE][: len(targets)], dtype=torch.uint8),
        partner=torch.tensor([1, 1] if len(targets) == 2 else [0]),
        lam=torch.tensor([lam, 1.0][: len(targets)], dtype=torch.float64),
        boxes=boxes.expand(len(targets), -1, -1),
        noise=torch.zeros(len(targets), dtype=torch.int64),
    )
    return detection.mix_objects(targets, plan, [size] * len(targets), min_visible, **options)[0]


def cutmix_objects(own, partner, boxes, size, min_visible, **options):
    return mix_pair(plans.PASTE, own, partner, size, min_visible, boxes=boxes, **options)


def cutout_objects(own, holes, size, min_visible, **options):
    return mix_pair(plans.FILL, own, own, size, min_visible, boxes=holes, **options)


def mixup_objects(own, partner, lam, size=(64, 64), **options):
    return mix_pair(plans.BLEND, own, partner, size, lam=lam, **options)


def plain_objects(own):
    return mix_pair(plans.NONE, own, own, (64, 64))


def corners(boxes):
    """Convert boxes of any format to corners by torchvision's own function."""
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = v2.convert_bounding_box_format(boxes, new_format="XYXY")
    return boxes.as_subclass(torch.Tensor).double()


def make_boxes(xyxy, style, dtype, size):
    """Write corners in the given format."""
    xyxy = torch.tensor(xyxy, dtype=torch.float64).reshape(-1, 4)
    low, sides = xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]
    half = sides / 2 if dtype.is_floating_point else (sides / 2).ceil()
    data = {"XYWH": torch.cat([low, sides], 1), "CXCYWH": torch.cat([low + half, sides], 1)}
    data = data.get(style, xyxy).to(dtype)
    if style == "plain":
        return data
    return tv_tensors.BoundingBoxes(data, format=style, canvas_size=size)


def fill(rectangles, size, scale=1):
    """Draw each rectangle on its own picture."""
    pictures = torch.zeros(len(rectangles), size[0] * scale, size[1] * scale, dtype=torch.bool)
    for picture, rectangle in zip(pictures, rectangles, strict=True):
        x1, y1, x2, y2 = (int(edge * scale) for edge in rectangle)
        picture[y1:y2, x1:x2] = True
    return pictures


def bounds(picture, scale=1):
    """Return the tight box of a picture."""
    rows, columns = picture.any(1).nonzero(), picture.any(0).nonzero()
    edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [int(edge) / scale for edge in edges]


def brute(target, hidden, size, min_visible):
    """Find the objects that stay on a raster, as {id: (corners, area)}."""
    hidden = hidden.repeat_interleave(FINE, 0).repeat_interleave(FINE, 1)
    found = {}
    pictures = fill(corners(target["boxes"]), size, FINE)
    for name, picture in zip(target["id"].tolist(), pictures, strict=True):
        left = picture & ~hidden
        if int(left.sum()) / int(picture.sum()) >= min_visible:
            found[name] = (bounds(left, FINE), int(left.sum()) / FINE**2)
    return found


def result(target):
    """Return the objects of a mixed target, as {id: (corners, area)}."""
    names, areas = target["id"].tolist(), target["area"].tolist()
    return dict(zip(names, zip(corners(target["boxes"]).tolist(), areas, strict=True), strict=True))


@st.composite
def rectangles(draw, size, fine=1, low=1):
    """Draw a rectangle inside the image, in whole pixels or fractions of them."""
    edges = []
    for side in (size[1], size[0]):
        start = draw(st.integers(0, side * fine - low))
        edges.append((start / fine, draw(st.integers(start + low, side * fine)) / fine))
    (x1, x2), (y1, y2) = edges
    return [x1, y1, x2, y2]


@st.composite
def batches(draw, masks=None):
    """Draw targets of one data set and the size of its images."""
    size = (draw(st.integers(4, 12)), draw(st.integers(4, 12)))
    style, dtype = draw(st.sampled_from(FORMATS)), draw(st.sampled_from(DTYPES))
    points = draw(st.sampled_from(POINTS))
    masks = draw(st.booleans()) if masks is None else masks
    fine = FINE if dtype.is_floating_point and not masks else 1
    torch.manual_seed(draw(st.integers(0, 99)))
    targets, number = [], 0
    for i in range(draw(st.integers(2, 4))):
        found = draw(st.lists(rectangles(size, fine), max_size=8))
        names = torch.arange(number, number + len(found))
        number += len(found)
        boxes = make_boxes(found, style, dtype, size)
        low, high = corners(boxes).chunk(2, 1)
        target = {
            "image_id": torch.tensor([i]) if style == "XYWH" else i,
            "orig_size": torch.tensor(size),
            "boxes": boxes,
            "labels": names % 7,
            "id": names,
            "iscrowd": (names % 2).to(torch.uint8),
            "embedding": torch.stack([names, -names], 1).float(),
            "path": f"{i}.jpg",
            "depth": torch.tensor(0.5 + i),
            "area": (high - low).prod(1),
        }
        if masks:
            target["masks"] = tv_tensors.Mask(fill(found, size).to(torch.uint8))
        if points != "none":
            sides = torch.tensor([size[1], size[0]])
            places = (torch.rand(len(found), 3, 2) * 4 * sides).floor() / 2
            if points == "visibility":
                places = torch.cat([places, torch.randint(0, 3, (len(found), 3, 1))], -1)
            if points == "KeyPoints":
                places = tv_tensors.KeyPoints(places, canvas_size=size)
            target["keypoints"] = places
        if not found and draw(st.booleans()):
            target = {key: target[key] for key in ("boxes", "image_id", "path", "id", "area")}
        targets.append(target)
    check_objects(targets, size)
    return targets, size


def assert_aligned(mixed, own, size):
    """Assert that entries match their objects, boxes lie inside and image entries stay."""
    names = mixed["id"]
    for key in ("image_id", "orig_size", "path", "depth"):
        if key in own:
            assert mixed[key] is own[key]
    if len(names):
        assert torch.equal(mixed["labels"], names % 7)
        assert torch.equal(mixed["iscrowd"], (names % 2).to(torch.uint8))
        assert torch.equal(mixed["embedding"], torch.stack([names, -names], 1).float())
        assert mixed["mix_weight"].shape == names.shape
        assert mixed["mix_weight"].dtype == torch.float32
    low, high = corners(mixed["boxes"]).chunk(2, 1)
    assert ((low >= 0) & (high <= torch.tensor([size[1], size[0]])) & (high > low)).all()


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key]


@given(batches(), st.data(), st.floats(0.01, 1))
def test_cut_objects_agree_with_a_raster(batch, data, min_visible):
    """After Cutout and CutMix with overlapping boxes objects are as on a raster, masks included."""
    targets, size = batch
    boxes = data.draw(st.lists(rectangles(size, low=0), min_size=1, max_size=4))
    hidden, before = fill(boxes, size).any(0), copy.deepcopy(targets)
    for own, partner in itertools.pairwise(targets):
        expected = brute(own, hidden, size, min_visible)
        cut = cutout_objects(own, boxes, size, min_visible)
        assert result(cut) == expected
        pasted = cutmix_objects(own, partner, boxes, size, min_visible)
        assert result(pasted) == expected | brute(partner, ~hidden, size, min_visible)
        for mixed in (cut, pasted):
            assert_aligned(mixed, own, size)
            for row, name in enumerate(mixed["id"].tolist() if "masks" in mixed else ()):
                side, shown = (own, ~hidden) if name in own["id"] else (partner, hidden)
                whole = side["masks"][side["id"] == name][0]
                assert torch.equal(mixed["masks"][row].bool(), whole.bool() & shown)
    for one, other in zip(targets, before, strict=True):
        assert_same(one, other)


@given(st.data(), st.floats(0.01, 1))
def test_masks_of_any_shape_count_their_pixels(data, min_visible):
    """Share, area and box of an object come from the visible pixels of its mask."""
    size = (6, 7)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    masks = torch.rand(5, *size) < 0.3
    masks[:, 2, 3] = True
    boxes = torch.tensor([bounds(mask) for mask in masks])
    own = {"boxes": boxes, "masks": masks, "area": masks.sum((1, 2)), "id": torch.arange(5)}
    hole = data.draw(rectangles(size))
    mixed = cutout_objects(own, hole, size, min_visible)
    left = masks & ~fill([hole], size)[0]
    keep = left.sum((1, 2)) / masks.sum((1, 2)).double() >= min_visible
    assert mixed["id"].tolist() == keep.nonzero()[:, 0].tolist()
    assert torch.equal(mixed["masks"], left[keep])
    assert torch.equal(mixed["area"], left[keep].sum((1, 2)))
    assert mixed["boxes"].tolist() == [bounds(mask) for mask in left[keep]]


@given(batches(), st.data())
def test_keypoints_stay_where_their_object_is_visible(batch, data):
    """A keypoint is visible after CutMix exactly if it was before and its pixel is visible."""
    targets, size = batch
    box = data.draw(rectangles(size, low=0))
    patch = fill([box], size)[0]
    for own, partner in itertools.pairwise(targets):
        mixed = cutmix_objects(own, partner, box, size, 0.01)
        for row, name in enumerate(mixed["id"].tolist() if "keypoints" in mixed else ()):
            side, hidden = (own, patch) if name in own["id"] else (partner, ~patch)
            was = side["keypoints"][side["id"] == name][0]
            x, y = was[:, 0].long().clamp(max=size[1] - 1), was[:, 1].long().clamp(max=size[0] - 1)
            now, seen = mixed["keypoints"][row], ~hidden[y, x]
            assert type(mixed["keypoints"]) is type(side["keypoints"])
            assert torch.equal(now[:, :2], was[:, :2])
            if was.shape[-1] == 3:
                assert torch.equal(now[:, 2], was[:, 2] * seen)
                assert "keypoints_visible" not in mixed
            else:
                assert torch.equal(mixed["keypoints_visible"][row], seen)


@given(batches(), st.floats(0, 1, width=32))
def test_mixup_keeps_every_object_of_weight(batch, lam):
    """Mixup concatenates the objects of both images, each with the exact weight of its image."""
    targets, size = batch
    before = copy.deepcopy(targets)
    for own, partner in itertools.pairwise(targets):
        mixed = mixup_objects(own, partner, lam)
        sides = [(own, lam), (partner, torch.tensor(1 - lam, dtype=torch.float32).item())]
        sides = [(side, weight) for side, weight in sides if weight > 0]
        expected = [item for side, _ in sides for item in result(side).items()]
        assert list(result(mixed).items()) == expected
        assert mixed["mix_weight"].tolist() == [w for side, w in sides for _ in side["id"]]
        assert_aligned(mixed, own, size)
    for one, other in zip(targets, before, strict=True):
        assert_same(one, other)


@given(batches(), st.data())
def test_every_operation_gives_one_format(batch, data):
    """Mixed or not, targets have the same keys, types, dtypes, formats and canvas sizes."""
    targets, size = batch
    targets = [target for target in targets if len(target["boxes"])]
    box = data.draw(rectangles(size))
    for own, partner in zip(targets, targets[1:] + targets[:1], strict=True):
        plain = plain_objects(own)
        for mixed in (
            cutmix_objects(own, partner, box, size, 0.3),
            mixup_objects(own, partner, 0.3),
            cutout_objects(own, box, size, 0.3),
        ):
            assert mixed.keys() == plain.keys()
            check_objects([mixed], size)
            for key in [key for key in plain if isinstance(plain[key], torch.Tensor)]:
                assert type(mixed[key]) is type(plain[key])
                assert mixed[key].shape[1:] == plain[key].shape[1:]
                for name in ("dtype", "format", "canvas_size"):
                    assert getattr(mixed[key], name, None) == getattr(plain[key], name, None)


@pytest.mark.parametrize(
    ("holes", "expected"),
    [
        ([(0, 0, 4, 8)], [4, 2, 7, 6]),  # the whole left side
        ([(0, 0, 8, 3)], [2, 3, 7, 6]),  # the whole upper side
        ([(0, 0, 4, 4)], [2, 2, 7, 6]),  # a corner
        ([(4, 0, 5, 8)], [2, 2, 7, 6]),  # a strip through the middle
        ([(3, 3, 5, 5)], [2, 2, 7, 6]),  # inside
        ([(0, 0, 4, 5), (0, 4, 4, 8)], [4, 2, 7, 6]),  # two holes that share the left side
    ],
)
@pytest.mark.parametrize("style", FORMATS)
def test_a_box_shrinks_only_with_a_whole_side(holes, expected, style):
    """A box shrinks when the patches take a whole side of it, otherwise it stays."""
    own = {"boxes": make_boxes([[2, 2, 7, 6]], style, torch.int64, (8, 8))}
    partner = {"boxes": make_boxes([], style, torch.int64, (8, 8))}
    for mixed in (
        cutmix_objects(own, partner, holes, (8, 8), 0.1),
        cutout_objects(own, holes, (8, 8), 0.1),
    ):
        assert corners(mixed["boxes"]).tolist() == [expected]


@pytest.mark.parametrize("tenths", range(1, 11))
def test_an_object_may_keep_exactly_min_visible(tenths):
    """An object that keeps ``min_visible`` of its area stays; with a pixel less it is dropped."""
    own = {"boxes": torch.tensor([[0, 0, 10, 1]])}
    for hidden, count in ((10 - tenths, 1), (11 - tenths, 0)):
        mixed = cutout_objects(own, [0, 0, hidden, 1], (4, 10), tenths / 10)
        assert len(mixed["boxes"]) == count


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        (torch.tensor([20, 7]), torch.tensor([10, 7])),
        (torch.tensor([23, 7]), torch.tensor([12, 7])),  # rounded to nearest, not truncated
        (torch.tensor([20.5, 0.1]), torch.tensor([10.25, 0.1])),
    ],
)
def test_area_is_scaled_by_the_visible_share(area, expected):
    """An area that was smaller than the box, as a polygon's, stays smaller."""
    own = {"boxes": torch.tensor([[0, 0, 8, 4], [0, 4, 4, 8]]), "area": area}
    assert torch.equal(cutout_objects(own, [4, 0, 8, 8], (8, 8), 0.1)["area"], expected)


def test_area_of_a_visible_object_keeps_its_last_bit():
    """The area of a visible object stays bit for bit, though x * a / a need not equal x."""
    area = torch.linspace(0.1, 0.9, 64, dtype=torch.float64)
    assert not torch.equal(area * 49 / 49, area)
    own = {"boxes": torch.tensor([[0, 0, 7, 7]] * 64), "area": area}
    assert torch.equal(cutout_objects(own, [7, 7, 8, 8], (8, 8), 0.1)["area"], area)


def test_an_object_with_an_empty_mask_is_judged_by_its_box():
    """Objects without a pixel of mask are kept or dropped by their box, others by their mask."""
    boxes = [[0.5, 0.5, 0.75, 0.75], [3.5, 1.0, 4.25, 2.0], [5.0, 5.0, 5.5, 5.5], [3, 3, 8, 8]]
    own = {"boxes": torch.tensor(boxes), "masks": torch.zeros(4, 8, 8, dtype=torch.bool)}
    own["masks"][3, 3, 3] = True
    mixed = cutout_objects(own, [0, 0, 4, 4], (8, 8), 0.5)
    assert mixed["boxes"].tolist() == [[5.0, 5.0, 5.5, 5.5]]


def test_a_box_finer_than_its_mask_keeps_its_numbers():
    """A box whose mask loses no side keeps coordinates between the pixels."""
    masks = fill([[1, 1, 7, 7]], (8, 8))
    own = {"boxes": torch.tensor([[1.25, 1.5, 6.5, 6.75]]), "masks": masks}
    mixed = cutout_objects(own, [0, 0, 3, 3], (8, 8), 0.5)
    assert mixed["boxes"].tolist() == own["boxes"].tolist()
    assert mixed["masks"].sum() == 32


def test_a_box_beyond_the_border_counts_inside_the_image():
    """The visible share of a box that sticks out is that of its part inside the image."""
    own = {"boxes": torch.tensor([[-4.0, 0.0, 4.0, 4.0]])}
    mixed = cutout_objects(own, [0, 0, 2, 8], (8, 8), 0.5)
    assert mixed["boxes"].tolist() == [[2.0, 0.0, 4.0, 4.0]]


def test_an_image_mixed_with_itself_keeps_its_objects():
    """Pasting or blending an image onto itself neither doubles nor weakens an object."""
    own = {"boxes": torch.tensor([[0, 0, 8, 4]]), "labels": torch.tensor([1])}
    plain = plain_objects(own)
    assert_same(cutmix_objects(own, own, [0, 0, 4, 4], (8, 8), 0.5), plain)
    assert_same(mixup_objects(own, own, 0.5), plain)


def test_weights_of_chained_operations_multiply():
    """Mixing a mixed target again multiplies the weights that it has."""
    a, b, c = ({"boxes": torch.tensor([[0, 0, i, i]])} for i in (2, 3, 4))
    mixed = mixup_objects(mixup_objects(a, b, 0.75), c, 0.5)
    assert mixed["mix_weight"].tolist() == [0.375, 0.125, 0.5]
    cut = cutmix_objects(mixed, c, [6, 6, 8, 8], (8, 8), 0.5)
    assert cut["mix_weight"].tolist() == [0.375, 0.125, 0.5]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64])
def test_weights_become_float32(dtype):
    """Weights given as integers are not truncated, and every batch has one dtype."""
    a, b = ({"boxes": GOOD, "mix_weight": torch.ones(2, dtype=dtype)} for _ in range(2))
    for mixed in (plain_objects(a), mixup_objects(a, b, 0.75)):
        assert mixed["mix_weight"].dtype == torch.float32
    assert mixed["mix_weight"].tolist() == [0.75, 0.75, 0.25, 0.25]


def test_keypoints_are_read_as_x_and_y():
    """A keypoint is hidden by the hole at its column and row, not at the transposed place."""
    points = torch.tensor([[[6.5, 1.0], [1.0, 6.5], [99.0, 2.0], [-9.0, 2.0]]])
    own = {"boxes": torch.tensor([[0, 0, 8, 10]]), "keypoints": points}
    mixed = cutout_objects(own, [6, 0, 8, 4], (10, 8), 0.5)
    assert mixed["keypoints_visible"].tolist() == [[False, True, False, True]]


def test_invisible_keypoints_stay_invisible():
    """A keypoint that was marked invisible stays so, wherever it lies."""
    own = {
        "boxes": torch.tensor([[0, 0, 8, 8]]),
        "keypoints": torch.tensor([[[1.0, 1.0], [7.0, 7.0], [6.0, 6.0]]]),
        "keypoints_visible": torch.tensor([[True, True, False]]),
    }
    mixed = cutout_objects(own, [0, 0, 4, 4], (8, 8), 0.5)
    assert mixed["keypoints_visible"].tolist() == [[False, True, False]]


@pytest.mark.parametrize("empty_first", [True, False])
def test_an_image_without_objects_does_not_decide_the_types(empty_first):
    """Empty entries of a wrong dtype or shape, or none at all, do not change the other image's."""
    full = {
        "boxes": make_boxes([[0, 0, 4, 4]], "XYWH", torch.int64, (8, 8)),
        "labels": torch.tensor([3]),
        "masks": tv_tensors.Mask(fill([[0, 0, 4, 4]], (8, 8))),
        "image_id": 1,
    }
    wrong = {"labels": torch.tensor([]), "masks": torch.zeros(0, 3)}
    empty = {"boxes": torch.zeros(0, 4), **wrong, "image_id": 0}
    check_objects([full, empty], (8, 8))
    own, partner = (empty, full) if empty_first else (full, empty)
    box = [0, 0, 4, 4] if empty_first else [4, 4, 8, 8]
    for mixed in (mixup_objects(own, partner, 0.5), cutmix_objects(own, partner, box, (8, 8), 0.5)):
        assert mixed["boxes"].format.name == "XYWH"
        assert mixed["boxes"].tolist() == [[0, 0, 4, 4]]
        assert mixed["labels"].dtype == torch.int64
        assert isinstance(mixed["masks"], tv_tensors.Mask)
        assert mixed["image_id"] == own["image_id"]


def test_types_do_not_depend_on_the_return_type_of_torchvision():
    """With ``set_return_type("TVTensor")`` plain entries stay plain, boxes stay boxes."""
    boxes = make_boxes([[0, 0, 4, 4], [2, 2, 8, 8]], "CXCYWH", torch.float32, (8, 8))
    masks = tv_tensors.Mask(fill(corners(boxes), (8, 8)))
    own = {"boxes": boxes, "labels": torch.arange(2), "masks": masks}
    with tv_tensors.set_return_type("TVTensor"):
        mixed = cutmix_objects(own, dict(own), [0, 0, 3, 3], (8, 8), 0.1)
    assert [type(mixed[key]) for key in own] == [type(own[key]) for key in own]
    assert type(mixed["mix_weight"]) is torch.Tensor


GOOD = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 8.0, 6.0]])


def two(target=(), **others):
    """Return two targets with common entries, of which the second differs."""
    return [{"boxes": GOOD, **others}, {"boxes": GOOD, **others, **dict(target)}]


SQUARE = [make_boxes([[0, 0, 4, 4]], style, torch.int64, (8, 8)) for style in ("XYXY", "XYWH")]
UNFIT = [
    ([{}], TypeError, r"targets\[0\]\['boxes'\] must be a tensor"),
    (two({"boxes": GOOD > 2}), TypeError, r"\[1\]\['boxes'\] must be .* got torch.bool"),
    (two({"boxes": GOOD[0]}), ValueError, r"\[1\]\['boxes'\] must be \(N, 4\), got \(4,\)"),
    (two({"boxes": GOOD[:, :3]}), ValueError, r"must be \(N, 4\), got \(2, 3\)"),
    (two({"boxes": torch.ones(2, 5)}), ValueError, r"must be \(N, 4\), got \(2, 5\)"),
    (two({"boxes": GOOD.to("meta")}), ValueError, r"\['boxes'\] must be a dense tensor"),
    (two({"boxes": GOOD.to_sparse()}), ValueError, r"\['boxes'\] must be a dense tensor"),
    (two({"labels": [1, 2]}), TypeError, r"\[1\]\['labels'\] must be a tensor"),
    (two({"segmentation": [1, 2]}), TypeError, r"'segmentation'\] must be a tensor"),
    (two(labels=torch.ones(3)), ValueError, r"\['labels'\] .* each of 2 boxes"),
    (two(labels=torch.tensor(1)), ValueError, r"\['labels'\] .* each of 2 boxes"),
    (
        two({"labels": torch.ones(2)}),
        ValueError,
        r"\[0\]\['labels'\] .* row per box.*, got nothing",
    ),
    (two({"masks": torch.ones(2, 8, 8)}), ValueError, r"\[0\]\['masks'\] .* got nothing"),
    (
        two({"depth": torch.ones(2)}, depth=torch.tensor(1.0)),
        ValueError,
        r"\[0\]\['depth'\] must be .* with a row per box, .* got a single value",
    ),
    (two({"poses": torch.ones(2)}, poses=torch.ones(3)), ValueError, "or named in passthrough"),
    (two({"poses": torch.ones(2, 3)}, poses=torch.ones(2)), ValueError, r"shape \(\) as in other"),
    (two(masks=torch.ones(2, 8, 7)), ValueError, r"must be \(N, H, W\), got \(2, 8, 7\)"),
    (two(keypoints=torch.ones(2, 3, 4)), ValueError, r"must be \(N, K, 2\) or"),
    (two(area=torch.ones(2, 1)), ValueError, r"must be \(N,\), got \(2, 1\)"),
    (two(mix_weight=torch.ones(2, 1)), ValueError, r"must be \(N,\), got \(2, 1\)"),
    (
        two(keypoints=torch.ones(2, 3, 2), keypoints_visible=torch.ones(2, 2)),
        ValueError,
        r"'keypoints_visible'\] must be \(N, K\), as keypoints are, got \(2, 2\)",
    ),
    (two(heat=torch.ones(8, 8)), ValueError, r"'heat'\] must be called boxes, masks or"),
    (two(scene=tv_tensors.Mask(torch.ones(4, 4))), ValueError, r"'scene'\] must be called boxes"),
    (
        [{"boxes": make_boxes([[0, 0, 4, 4]], "XYXY", torch.int64, (4, 8))}],
        ValueError,
        r"canvas_size must be \(8, 8\), got \(4, 8\)",
    ),
    (
        [{"boxes": boxes} for boxes in SQUARE],
        ValueError,
        r"\[1\]\['boxes'\] must be BoundingBoxes xyxy .* as in other .*, got BoundingBoxes xywh",
    ),
]
if hasattr(tv_tensors.BoundingBoxFormat, "XYWHR"):  # a newer torchvision has rotated boxes
    rotated = tv_tensors.BoundingBoxes(torch.ones(1, 5), format="XYWHR", canvas_size=(8, 8))
    UNFIT.append(([{"boxes": rotated}], ValueError, r"axis-aligned \(XYXY, .*\), got XYWHR"))


@pytest.mark.parametrize(("targets", "error", "text"), UNFIT)
def test_targets_that_cannot_be_mixed_are_refused(targets, error, text):
    """The error names the place, what was expected and what came."""
    with pytest.raises(error, match=text) as caught:
        check_objects(targets, (8, 8))
    assert str(caught.value).endswith(".")


@given(st.sampled_from(FORMATS), st.integers(0, 7), st.data())
def test_degenerate_boxes_are_refused_by_name(style, row, data):
    """A box without area, outside the image or not finite is named with its image and row."""
    empty = [[2, 2, 2, 6], [2, 6, 4, 6], [5, 2, 3, 6]]
    outside = [[8, 0, 9, 4], [-4, 0, 0, 4]]
    endless = [[1, 1, float("nan"), 4], [1, 1, float("inf"), 4]]
    found = [[1, 1, 4, 4]] * 8
    found[row] = data.draw(st.sampled_from(empty + outside + endless))
    boxes = make_boxes(found, style, torch.float32, (8, 8))
    good = {"boxes": make_boxes([], style, torch.float32, (8, 8))}
    with pytest.raises(ValueError, match=rf"targets\[1\]\['boxes'\]\[{row}\] must be a box of pos"):
        check_objects([good, {"boxes": boxes}], (8, 8))


def test_entries_of_the_image_are_not_taken_for_those_of_objects():
    """With as many objects as an entry has rows, an entry of the image stays the original's."""
    own = {"boxes": GOOD, "image_id": torch.tensor([4, 4]), "orig_size": torch.tensor([8, 8])}
    partner = {"boxes": GOOD, "image_id": torch.tensor([5, 5]), "orig_size": torch.tensor([9, 9])}
    check_objects([own, partner], (8, 8))
    mixed = mixup_objects(own, partner, 0.5)
    assert mixed["image_id"].tolist() == [4, 4]
    assert mixed["orig_size"].tolist() == [8, 8]
    assert len(mixed["boxes"]) == 4


# --- Box formats --------------------------------------------------------------------------------


def rewrite(boxes, box_format, size, back=False):
    """Convert corners to a format of plain tensors, or back, by torchvision's own function."""
    style = box_format.removesuffix("_normalised")
    scale = torch.tensor([size[1], size[0]] * 2 if style != box_format else [1] * 4).to(boxes)
    if back:
        return ops.box_convert(boxes * scale, style, "xyxy")
    return ops.box_convert(boxes, "xyxy", style) / scale


@pytest.mark.parametrize("box_format", detection.BOX_FORMATS)
@given(batches(), st.data(), st.floats(0.05, 1))
def test_a_plain_format_changes_only_the_numbers(box_format, batch, data, min_visible):
    """Mixing commutes with the conversion of boxes, on each target."""
    targets, size = batch
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    box = data.draw(rectangles(size, low=0))
    plain = [{**t, "boxes": corners(t["boxes"]).to(dtype)} for t in targets]
    written = [{**t, "boxes": rewrite(t["boxes"], box_format, size)} for t in plain]
    check_objects(written, size, box_format)
    for op, i in itertools.product((plans.PASTE, plans.FILL, plans.BLEND), range(len(targets) - 1)):
        more = {"min_visible": min_visible, "lam": 0.25, "boxes": box}
        expected = mix_pair(op, *plain[i : i + 2], size, **more)
        mixed = mix_pair(op, *written[i : i + 2], size, **more, box_format=box_format)
        assert mixed["boxes"].dtype == dtype
        found = rewrite(mixed["boxes"], box_format, size, back=True)
        torch.testing.assert_close(found, expected["boxes"], atol=1e-4, rtol=0)
        assert_same({**mixed, "boxes": expected["boxes"]}, expected)


@pytest.mark.parametrize("tenths", range(1, 11))
def test_normalised_boxes_may_keep_exactly_min_visible(tenths):
    """Rounding errors of float32 shares do not decide which objects stay."""
    size, options = (7, 30), {"box_format": "cxcywh_normalised"}
    lines = [[x, 2, x + 10, 3] for x in range(20)]
    for x, line in enumerate(rewrite(torch.tensor(lines).float(), "cxcywh_normalised", size)):
        for hidden, count in ((x + 10 - tenths, 1), (x + 11 - tenths, 0)):
            hole = [0, 0, hidden, 7]
            mixed = cutout_objects({"boxes": line[None]}, hole, size, tenths / 10, **options)
            assert len(mixed["boxes"]) == count


def test_typed_boxes_keep_their_own_format():
    """box_format does not apply to BoundingBoxes."""
    own = {"boxes": make_boxes([[2, 2, 7, 6]], "XYWH", torch.float32, (8, 8))}
    mixed = cutout_objects(own, [[0, 0, 4, 8]], (8, 8), 0.1, box_format="cxcywh_normalised")
    assert mixed["boxes"].format.name == "XYWH"
    assert mixed["boxes"].tolist() == [[4, 2, 3, 4]]


def test_normalised_boxes_must_be_floating_point():
    """The error names the format."""
    with pytest.raises(TypeError, match=r"\['boxes'\] must be floating point to be cxcywh_norm"):
        check_objects([{"boxes": torch.ones(1, 4).long()}], (8, 8), "cxcywh_normalised")


@pytest.mark.parametrize(
    ("box_format", "boxes"),
    [("xyxy", [[0.5, 0.5, 0.2, 0.2]]), ("cxcywh_normalised", [[40.0, 40.0, 20.0, 20.0]])],
)
def test_boxes_of_another_format_are_refused_with_the_argument_to_set(box_format, boxes):
    """Normalised boxes read as corners, and pixels read as normalised, are outside the image."""
    with pytest.raises(ValueError, match=f"read as {box_format}; set box_format="):
        check_objects([{"boxes": torch.tensor(boxes)}], (64, 64), box_format)


# --- Nothing stays behind -----------------------------------------------------------------------


@dataclasses.dataclass
class Crowd:
    """An entry that no rule covers."""

    numbers: list


# Entries of N objects under a user's name, made of the objects' numbers.
FOLLOWS = {
    "int": lambda at: at,
    "float": lambda at: at.double(),
    "half": lambda at: at.half(),
    "bool": lambda at: at % 2 == 0,
    "rows": lambda at: at[:, None].expand(-1, 3),
    "boxed": lambda at: at[:, None, None].expand(-1, 2, 3).float(),
    "grad": lambda at: at.float().requires_grad_(),
}
# Entries of an image, made of a number.
STAYS = {
    "number": int,
    "real": float,
    "none": lambda i: None,
    "text": str,
    "bytes": lambda i: b"%d" % i,
    "scalar": torch.tensor,
    "numpy": np.float32,
    "path": lambda i: pathlib.Path(f"{i}"),
}
# Entries that no rule covers, since they could belong to the objects.
REFUSED = {
    "list": lambda n: [0] * n,
    "longer list": lambda n: [0] * (n + 1),
    "tuple": lambda n: (0,) * n,
    "array": lambda n: np.arange(n),
    "table": lambda n: np.zeros((n, 2)),
    "dict of rows": lambda n: {"score": torch.arange(n)},
    "dict of objects": lambda n: dict.fromkeys(range(n), "a"),
    "set": lambda n: set(range(n)),
    "deque": lambda n: collections.deque(range(n)),
    "user list": lambda n: collections.UserList(range(n)),
    "tensors": lambda n: [torch.zeros(2)] * n,
    "dataclass": lambda n: Crowd([0] * n),
    "more rows": lambda n: torch.zeros(n + 1),
    "sparse": lambda n: torch.eye(max(n, 1))[:n].to_sparse(),
    "meta": lambda n: torch.zeros(n, device="meta"),
    "picture": lambda n: torch.zeros(16, 16),
    "mask": lambda n: tv_tensors.Mask(torch.zeros(n, 16, 16)),
}


def carry(name, count, first):
    """Return a target of numbered objects with an entry from a table."""
    at = torch.arange(first, first + count)
    low = at[:, None] % 5 + torch.tensor([[0, 1]])
    if name in FOLLOWS:
        entry = FOLLOWS[name](at)
    else:
        entry = REFUSED[name](count) if name in REFUSED else STAYS[name](first)
    boxes = torch.cat([low, low + 7], 1).float()
    return {"boxes": boxes, "code": at, "image_id": first, "entry": entry}


@pytest.mark.parametrize("name", [*FOLLOWS, *STAYS, *REFUSED])
@given(
    st.sampled_from([Mixup, CutMix, Cutout]),
    st.lists(st.integers(0, 3), min_size=2, max_size=4),
    st.integers(0, 2**32),
)
def test_every_entry_follows_its_objects_or_is_refused(name, kind, counts, seed):
    """An entry follows its object, stays with its image, or is refused with its place."""
    torch.manual_seed(seed)
    targets = [carry(name, n, sum(counts[:i])) for i, n in enumerate(counts)]
    images = torch.rand(len(counts), 3, 16, 16)
    if name in REFUSED:
        with pytest.raises((TypeError, ValueError), match=r"\[1\]\[\d\]\['entry'\] must"):
            kind()(images, targets)
    passthrough = ["entry"] if name in REFUSED else []
    _, mixed = kind(passthrough=passthrough)(images, targets)
    for own, target in zip(targets, mixed, strict=True):
        assert target["image_id"] == own["image_id"]
        assert len(target["code"]) == len(target["boxes"]) == len(target["mix_weight"])
        if name not in FOLLOWS:
            assert target["entry"] is own["entry"]
        elif len(target["code"]):
            expected = FOLLOWS[name](target["code"])
            assert torch.equal(target["entry"], expected)
            assert target["entry"].dtype == expected.dtype


@pytest.mark.parametrize("key", sorted(detection.OBJECT_KEYS))
@pytest.mark.parametrize("value", [None, 3, "a", [1, 2], (1, 2), np.arange(2), torch.tensor(1)])
def test_entries_known_to_belong_to_objects_must_have_rows(key, value):
    """Under an object's key only a tensor with a row per object passes."""
    with pytest.raises((TypeError, ValueError), match=rf"\[1\]\['{key}'\] must"):
        check_objects(two({key: value}), (8, 8))


@pytest.mark.parametrize("key", sorted(detection.IMAGE_KEYS))
@pytest.mark.parametrize("value", [3, [1, 2], (1, 2), np.arange(2), torch.tensor([1, 2]), {1: 2}])
def test_entries_known_to_belong_to_the_image_may_be_anything(key, value):
    """Under an image's key any value passes and stays the original's, with rows or without."""
    own, partner = two(**{key: value})
    check_objects([own, partner], (8, 8))
    assert mixup_objects(own, partner, 0.5)[key] is value
