"""Detection targets follow their pixels; a raster of quarter pixels is the judge."""

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
PLAIN = detection.BOX_FORMATS
DTYPES = (torch.int64, torch.float32, torch.float64)
POINTS = ("none", "visibility", "pairs") + (
    ("KeyPoints",) if hasattr(tv_tensors, "KeyPoints") else ()
)
FINE = 4  # cells of the raster for each pixel side


def check_objects(targets, size, where, box_format="xyxy"):
    """Check targets of images of one size."""
    detection.check_objects(targets, [size] * len(targets), where, box_format)


def mix_pair(op, own, partner, size, min_visible=0.1, lam=1.0, boxes=((0, 0, 0, 0),), **how):
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
    return detection.mix_objects(targets, plan, [size] * len(targets), min_visible, **how)[0]


def cutmix_objects(own, partner, box, size, min_visible, **how):
    return mix_pair(plans.PASTE, own, partner, size, min_visible, boxes=box, **how)


def cutout_objects(own, holes, size, min_visible, **how):
    return mix_pair(plans.FILL, own, own, size, min_visible, boxes=holes, **how)


def mixup_objects(own, partner, lam, size=(64, 64), **how):
    return mix_pair(plans.BLEND, own, partner, size, lam=lam, **how)


def plain_objects(own):
    return mix_pair(plans.NONE, own, own, (64, 64))


def tensors(target):
    return {key: value for key, value in target.items() if isinstance(value, torch.Tensor)}


def corners(boxes):
    """Read boxes of any format as corners, by torchvision's own conversion."""
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
    """Draw (N, 4) rectangles, one picture each."""
    pictures = torch.zeros(len(rectangles), size[0] * scale, size[1] * scale, dtype=torch.bool)
    for picture, rectangle in zip(pictures, rectangles, strict=True):
        x1, y1, x2, y2 = (int(edge * scale) for edge in rectangle)
        picture[y1:y2, x1:x2] = True
    return pictures


def bounds(picture, scale=1):
    """Give the tight box of what is drawn."""
    rows, columns = picture.any(1).nonzero(), picture.any(0).nonzero()
    edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [int(edge) / scale for edge in edges]


def brute(target, hidden, size, min_visible):
    """Say which objects stay, with which box and area: {id: (corners, area)}, cell by cell."""
    hidden = hidden.repeat_interleave(FINE, 0).repeat_interleave(FINE, 1)
    found = {}
    pictures = fill(corners(target["boxes"]), size, FINE)
    for name, picture in zip(target["id"].tolist(), pictures, strict=True):
        left = picture & ~hidden
        if int(left.sum()) / int(picture.sum()) >= min_visible:
            found[name] = (bounds(left, FINE), int(left.sum()) / FINE**2)
    return found


def result(target):
    """Give the same of a mixed target."""
    names, areas = target["id"].tolist(), target["area"].tolist()
    return dict(zip(names, zip(corners(target["boxes"]).tolist(), areas, strict=True), strict=True))


def hidden_by(rectangles, size):
    return fill(rectangles, size).any(0)


@st.composite
def rectangles(draw, size, fine=1, low=1):
    """Draw a rectangle inside the image, in whole pixels or in shares of them."""
    edges = []
    for side in (size[1], size[0]):
        start = draw(st.integers(0, side * fine - low))
        edges.append((start / fine, draw(st.integers(start + low, side * fine)) / fine))
    (x1, x2), (y1, y2) = edges
    return [x1, y1, x2, y2]


@st.composite
def batches(draw, masks=None, count=8):
    """Draw a whole batch of one data set: (targets, size)."""
    size = (draw(st.integers(4, 12)), draw(st.integers(4, 12)))
    style, dtype = draw(st.sampled_from(FORMATS)), draw(st.sampled_from(DTYPES))
    points = draw(st.sampled_from(POINTS))
    masks = draw(st.booleans()) if masks is None else masks
    fine = FINE if dtype.is_floating_point and not masks else 1
    noise = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    targets, number = [], 0
    for i in range(draw(st.integers(2, 4))):
        found = draw(st.lists(rectangles(size, fine), max_size=count))
        names = torch.arange(number, number + len(found))
        number += len(found)
        boxes = make_boxes(found, style, dtype, size)
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
        }
        low, high = corners(boxes).chunk(2, 1)
        target["area"] = (high - low).prod(1)
        if masks:
            target["masks"] = tv_tensors.Mask(fill(found, size).to(torch.uint8))
        if points != "none":
            where = torch.stack(
                [
                    torch.randint(0, side * 2, (len(found), 3), generator=noise) / 2
                    for side in reversed(size)
                ],
                -1,
            )
            if points == "visibility":
                where = torch.cat(
                    [where, torch.randint(0, 3, (len(found), 3, 1), generator=noise)], -1
                )
            if points == "KeyPoints":
                where = tv_tensors.KeyPoints(where, canvas_size=size)
            target["keypoints"] = where
        if not found and draw(st.booleans()):
            target = {"boxes": boxes, "image_id": target["image_id"], "path": target["path"]}
        targets.append(target)
    check_objects(targets, size, "targets")
    for target in targets:
        if "id" not in target:
            target |= {"id": torch.zeros(0).long(), "area": torch.zeros(0).double()}
    return targets, size


def assert_aligned(mixed, own):
    """Every field still tells of the same object, and the image's entries are the own image's."""
    names = mixed["id"]
    for key in ("image_id", "orig_size", "path", "depth"):
        if key in own:
            assert mixed[key] is own[key]
    if not len(names):
        return
    assert torch.equal(mixed["labels"], names % 7)
    assert torch.equal(mixed["iscrowd"], (names % 2).to(torch.uint8))
    assert torch.equal(mixed["embedding"], torch.stack([names, -names], 1).float())
    assert mixed["mix_weight"].shape == names.shape
    assert mixed["mix_weight"].dtype == torch.float32


def assert_inside(mixed, size):
    low, high = corners(mixed["boxes"]).chunk(2, 1)
    assert (low >= 0).all()
    assert (high <= torch.tensor([size[1], size[0]])).all()
    assert (high > low).all()


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key]


@given(batches(masks=False), st.data(), st.floats(0.01, 1))
def test_cutmix_agrees_with_a_raster(batch, data, min_visible):
    """After CutMix objects stay, shrink and vanish as a raster of quarter pixels says."""
    targets, size = batch
    box = data.draw(rectangles(size, low=0))
    before = copy.deepcopy(targets)
    patch = hidden_by([box], size)
    for own, partner in itertools.pairwise(targets):
        mixed = cutmix_objects(own, partner, torch.tensor(box).long(), size, min_visible)
        expected = brute(own, patch, size, min_visible) | brute(partner, ~patch, size, min_visible)
        assert result(mixed) == expected
        assert_aligned(mixed, own)
        assert_inside(mixed, size)
    for one, other in zip(targets, before, strict=True):
        assert_same(one, other)


@given(batches(masks=False), st.data(), st.floats(0.01, 1))
def test_cutout_agrees_with_a_raster(batch, data, min_visible):
    """After Cutout with overlapping holes objects are as a raster of quarter pixels says."""
    targets, size = batch
    holes = data.draw(st.lists(rectangles(size, low=0), min_size=1, max_size=4))
    before = copy.deepcopy(targets)
    for own in targets:
        mixed = cutout_objects(own, torch.tensor(holes).long(), size, min_visible)
        assert result(mixed) == brute(own, hidden_by(holes, size), size, min_visible)
        assert_aligned(mixed, own)
        assert_inside(mixed, size)
    for one, other in zip(targets, before, strict=True):
        assert_same(one, other)


@given(batches(masks=True), st.data(), st.floats(0.01, 1))
def test_masks_and_boxes_agree_with_the_picture(batch, data, min_visible):
    """In a coded picture a mask lies on its own image's pixels, and its tight box is the box."""
    targets, size = batch
    box = data.draw(rectangles(size, low=0))
    for i in range(len(targets) - 1):
        own, partner = targets[i : i + 2]
        picture = torch.full(size, i)
        picture[hidden_by([box], size)] = i + 1
        mixed = cutmix_objects(own, partner, torch.tensor(box).long(), size, min_visible)
        expected = {}
        for code, side in ((i, own), (i + 1, partner)):
            expected |= brute(side, picture != code, size, min_visible)
        assert result(mixed) == expected
        assert_aligned(mixed, own)
        full = {
            name: (code, mask)
            for code, side in ((i, own), (i + 1, partner))
            for name, mask in zip(side["id"].tolist(), side.get("masks", ()), strict=True)
        }
        for row, name in enumerate(mixed["id"].tolist()):
            mask, area = mixed["masks"][row], mixed["area"][row]
            code, whole = full[name]
            assert torch.equal(mask.bool(), whole.bool() & (picture == code))
            assert corners(mixed["boxes"])[row].tolist() == bounds(mask)
            assert area == int(mask.sum())


@given(st.data(), st.floats(0.01, 1))
def test_masks_of_any_shape_count_their_pixels(data, min_visible):
    """With masks that are no rectangles, share, area and box come from the visible pixels."""
    size = (6, 7)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    masks = torch.rand(5, *size) < 0.3
    masks[:, 2, 3] = True
    boxes = torch.tensor([bounds(mask) for mask in masks])
    own = {"boxes": boxes, "masks": masks, "area": masks.sum((1, 2)), "id": torch.arange(5)}
    hole = data.draw(rectangles(size))
    hidden = hidden_by([hole], size)
    mixed = cutout_objects(own, torch.tensor(hole).long(), size, min_visible)
    left = masks & ~hidden
    keep = left.sum((1, 2)) / masks.sum((1, 2)).double() >= min_visible
    assert mixed["id"].tolist() == keep.nonzero()[:, 0].tolist()
    assert torch.equal(mixed["masks"], left[keep])
    assert torch.equal(mixed["area"], left[keep].sum((1, 2)))
    assert mixed["boxes"].tolist() == [bounds(mask) for mask in left[keep]]


@given(batches(), st.data())
def test_keypoints_stay_where_their_object_is_visible(batch, data):
    """A keypoint is visible after CutMix exactly if it was, and its pixel is its image's."""
    targets, size = batch
    box = data.draw(rectangles(size, low=0))
    patch = hidden_by([box], size)
    for own, partner in itertools.pairwise(targets):
        mixed = cutmix_objects(own, partner, torch.tensor(box).long(), size, 0.01)
        for row, name in enumerate(mixed["id"].tolist() if "keypoints" in mixed else ()):
            side, hidden = (own, patch) if name in own["id"] else (partner, ~patch)
            was = side["keypoints"][side["id"] == name][0]
            seen = torch.tensor([not hidden[int(y), int(x)] for x, y in was[:, :2].tolist()])
            now = mixed["keypoints"][row]
            assert type(mixed["keypoints"]) is type(side["keypoints"])
            assert torch.equal(now[:, :2], was[:, :2])
            if was.shape[-1] == 3:
                assert torch.equal(now[:, 2], was[:, 2] * seen)
                assert "keypoints_visible" not in mixed
            else:
                assert torch.equal(mixed["keypoints_visible"][row], seen)


@given(batches(), st.floats(0, 1, width=32))
def test_mixup_keeps_every_object_of_weight(batch, lam):
    """Mixup joins both images' objects unchanged; their weights tell which image they are of."""
    targets, _ = batch
    before = copy.deepcopy(targets)
    for own, partner in itertools.pairwise(targets):
        mixed = mixup_objects(own, partner, lam)
        sides = [(own, lam), (partner, torch.tensor(1 - lam, dtype=torch.float32).item())]
        sides = [(side, weight) for side, weight in sides if weight > 0]
        expected = {k: v for side, _ in sides for k, v in result(side).items()}
        assert list(result(mixed)) == list(expected)
        assert result(mixed) == expected
        weights = [weight for side, weight in sides for _ in side["id"]]
        assert mixed["mix_weight"].tolist() == weights
        assert_aligned(mixed, own)
    for one, other in zip(targets, before, strict=True):
        assert_same(one, other)


@given(batches(), st.data())
def test_every_operation_gives_one_format(batch, data):
    """Mixed or not, targets have the same keys, types, dtypes, formats and canvas sizes."""
    targets, size = batch
    targets = [target for target in targets if len(target["boxes"])]
    box = torch.tensor(data.draw(rectangles(size))).long()
    for own, partner in zip(targets, targets[1:] + targets[:1], strict=True):
        plain = plain_objects(own)
        for mixed in (
            cutmix_objects(own, partner, box, size, 0.3),
            mixup_objects(own, partner, 0.3),
            cutout_objects(own, box[None], size, 0.3),
        ):
            assert mixed.keys() == plain.keys()
            check_objects([mixed], size, "targets")
            for key, value in tensors(plain).items():
                assert type(mixed[key]) is type(value)
                assert mixed[key].dtype == value.dtype
                assert mixed[key].shape[1:] == value.shape[1:]
                for name in ("format", "canvas_size"):
                    assert getattr(mixed[key], name, None) == getattr(value, name, None)


@pytest.mark.parametrize(
    ("hole", "expected"),
    [
        ((0, 0, 4, 8), [4, 2, 7, 6]),  # the whole left side
        ((0, 0, 8, 3), [2, 3, 7, 6]),  # the whole upper side
        ((0, 0, 4, 4), [2, 2, 7, 6]),  # a corner
        ((4, 0, 5, 8), [2, 2, 7, 6]),  # a strip through the middle
        ((3, 3, 5, 5), [2, 2, 7, 6]),  # inside
    ],
)
@pytest.mark.parametrize("style", FORMATS)
def test_a_box_shrinks_only_with_a_whole_side(hole, expected, style):
    """A box shrinks when the patch takes a whole side of it, else it stays."""
    own = {"boxes": make_boxes([[2, 2, 7, 6]], style, torch.int64, (8, 8))}
    partner = {"boxes": make_boxes([], style, torch.int64, (8, 8))}
    mixed = cutmix_objects(own, partner, torch.tensor(hole), (8, 8), 0.1)
    assert corners(mixed["boxes"]).tolist() == [expected]


def test_two_holes_together_take_a_side():
    """Two holes that only together cover a side shrink the box as one hole would."""
    own = {"boxes": torch.tensor([[0, 0, 8, 8]])}
    holes = torch.tensor([[0, 0, 3, 5], [0, 4, 3, 8]])
    assert cutout_objects(own, holes, (8, 8), 0.5)["boxes"].tolist() == [[3, 0, 8, 8]]


@pytest.mark.parametrize("tenths", range(1, 11))
def test_exactly_min_visible_is_enough(tenths):
    """An object that keeps exactly ``min_visible`` of its area stays, a pixel less and it goes."""
    own = {"boxes": torch.tensor([[0, 0, 10, 1]])}
    for hidden, count in ((10 - tenths, 1), (11 - tenths, 0)):
        mixed = cutout_objects(own, torch.tensor([0, 0, hidden, 1]), (4, 10), tenths / 10)
        assert len(mixed["boxes"]) == count


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        (torch.tensor([20, 7]), torch.tensor([10, 7])),
        (torch.tensor([23, 7]), torch.tensor([12, 7])),  # rounded to nearest, not truncated
        (torch.tensor([20.5, 0.1]), torch.tensor([10.25, 0.1])),
    ],
)
def test_area_keeps_its_meaning(area, expected):
    """An area that was smaller than the box, as a polygon's, is scaled by the visible share."""
    own = {"boxes": torch.tensor([[0, 0, 8, 4], [0, 4, 4, 8]]), "area": area}
    mixed = cutout_objects(own, torch.tensor([4, 0, 8, 8]), (8, 8), 0.1)
    assert torch.equal(mixed["area"], expected)


def test_area_of_a_visible_object_keeps_its_last_bit():
    """What is not hidden keeps its area to the bit, though x * a / a need not be x."""
    area = torch.linspace(0.1, 0.9, 64, dtype=torch.float64)
    assert not torch.equal(area * 49 / 49, area)
    own = {"boxes": torch.tensor([[0, 0, 7, 7]] * 64), "area": area}
    mixed = cutout_objects(own, torch.tensor([7, 7, 8, 8]), (8, 8), 0.1)
    assert torch.equal(mixed["area"], area)


def test_a_mask_without_pixels_leaves_the_judgement_to_the_box():
    """Objects too small for a pixel of mask are kept or dropped by their box."""
    own = {
        "boxes": torch.tensor(
            [[0.5, 0.5, 0.75, 0.75], [3.5, 1.0, 4.25, 2.0], [5.0, 5.0, 5.5, 5.5]]
        ),
        "masks": torch.zeros(3, 8, 8, dtype=torch.bool),
    }
    mixed = cutout_objects(own, torch.tensor([0, 0, 4, 4]), (8, 8), 0.5)
    assert mixed["boxes"].tolist() == [[5.0, 5.0, 5.5, 5.5]]


def test_a_box_finer_than_its_mask_keeps_its_numbers():
    """A box whose mask loses no side keeps coordinates between the pixels."""
    masks = fill([[1, 1, 7, 7]], (8, 8))
    own = {"boxes": torch.tensor([[1.25, 1.5, 6.5, 6.75]]), "masks": masks}
    mixed = cutout_objects(own, torch.tensor([0, 0, 3, 3]), (8, 8), 0.5)
    assert mixed["boxes"].tolist() == own["boxes"].tolist()
    assert mixed["masks"].sum() == 32


def test_a_box_beyond_the_border_is_what_the_image_shows_of_it():
    """The share of a box that sticks out counts inside the image only."""
    own = {"boxes": torch.tensor([[-4.0, 0.0, 4.0, 4.0]])}
    mixed = cutout_objects(own, torch.tensor([0, 0, 2, 8]), (8, 8), 0.5)
    assert mixed["boxes"].tolist() == [[2.0, 0.0, 4.0, 4.0]]


def test_an_image_mixed_with_itself_keeps_its_objects():
    """Pasting or blending an image onto itself neither doubles nor weakens an object."""
    own = {"boxes": torch.tensor([[0, 0, 8, 4]]), "labels": torch.tensor([1])}
    plain = plain_objects(own)
    assert_same(cutmix_objects(own, own, torch.tensor([0, 0, 4, 4]), (8, 8), 0.5), plain)
    assert_same(mixup_objects(own, own, 0.5), plain)


def test_weights_of_chained_operations_multiply():
    """Mixing a mixed target again multiplies the weights that it has."""
    a, b, c = ({"boxes": torch.tensor([[0, 0, i, i]])} for i in (2, 3, 4))
    mixed = mixup_objects(mixup_objects(a, b, 0.75), c, 0.5)
    assert mixed["mix_weight"].tolist() == [0.375, 0.125, 0.5]
    cut = cutmix_objects(mixed, c, torch.tensor([6, 6, 8, 8]), (8, 8), 0.5)
    assert cut["mix_weight"].tolist() == [0.375, 0.125, 0.5]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64])
def test_weights_are_shares_whatever_their_dtype(dtype):
    """Weights given as whole numbers are not truncated, and every batch has one dtype."""
    a, b = ({"boxes": GOOD, "mix_weight": torch.ones(2, dtype=dtype)} for _ in range(2))
    for mixed in (plain_objects(a), mixup_objects(a, b, 0.75)):
        assert mixed["mix_weight"].dtype == torch.float32
    assert mixed["mix_weight"].tolist() == [0.75, 0.75, 0.25, 0.25]


def test_keypoints_are_read_as_x_and_y():
    """A keypoint is hidden by the hole at its column and row, not at the transposed place."""
    points = torch.tensor([[[6.5, 1.0], [1.0, 6.5], [99.0, 2.0], [-9.0, 2.0]]])
    own = {"boxes": torch.tensor([[0, 0, 8, 10]]), "keypoints": points}
    mixed = cutout_objects(own, torch.tensor([6, 0, 8, 4]), (10, 8), 0.5)
    assert mixed["keypoints_visible"].tolist() == [[False, True, False, True]]


def test_marks_of_invisible_keypoints_are_kept():
    """A keypoint that was marked invisible stays so, wherever it lies."""
    own = {
        "boxes": torch.tensor([[0, 0, 8, 8]]),
        "keypoints": torch.tensor([[[1.0, 1.0], [7.0, 7.0], [6.0, 6.0]]]),
        "keypoints_visible": torch.tensor([[True, True, False]]),
    }
    mixed = cutout_objects(own, torch.tensor([0, 0, 4, 4]), (8, 8), 0.5)
    assert mixed["keypoints_visible"].tolist() == [[False, True, False]]


@pytest.mark.parametrize("empty_first", [True, False])
def test_an_image_without_objects_has_no_say_in_the_types(empty_first):
    """Empty entries of a wrong dtype or shape, or none at all, do not change the other image's."""
    full = {
        "boxes": make_boxes([[0, 0, 4, 4]], "XYWH", torch.int64, (8, 8)),
        "labels": torch.tensor([3]),
        "masks": tv_tensors.Mask(fill([[0, 0, 4, 4]], (8, 8))),
        "image_id": 1,
    }
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.tensor([]), "image_id": 0}
    check_objects([full, empty], (8, 8), "targets")
    own, partner = (empty, full) if empty_first else (full, empty)
    for mixed in (
        mixup_objects(own, partner, 0.5),
        cutmix_objects(own, partner, torch.tensor([0, 0, 4, 4]), (8, 8), 0.5)
        if empty_first
        else cutmix_objects(own, partner, torch.tensor([4, 4, 8, 8]), (8, 8), 0.5),
    ):
        assert mixed["boxes"].format.name == "XYWH"
        assert mixed["boxes"].tolist() == [[0, 0, 4, 4]]
        assert mixed["labels"].dtype == torch.int64
        assert isinstance(mixed["masks"], tv_tensors.Mask)
        assert mixed["image_id"] == own["image_id"]


def test_two_images_without_objects_give_none():
    """Two empty targets mix to an empty one with the weights' key."""
    own = {"boxes": torch.zeros(0, 4), "image_id": 0}
    for mixed in (
        mixup_objects(own, dict(own, image_id=1), 0.5),
        cutmix_objects(own, dict(own, image_id=1), torch.tensor([0, 0, 4, 4]), (8, 8), 0.5),
        cutout_objects(own, torch.tensor([0, 0, 4, 4]), (8, 8), 0.5),
    ):
        assert mixed["boxes"].shape == (0, 4)
        assert mixed["mix_weight"].shape == (0,)
        assert mixed["image_id"] == 0


def test_types_do_not_depend_on_torchvisions_return_type():
    """With ``set_return_type("TVTensor")`` plain entries stay plain, boxes stay boxes."""
    boxes = make_boxes([[0, 0, 4, 4], [2, 2, 8, 8]], "CXCYWH", torch.float32, (8, 8))
    masks = tv_tensors.Mask(fill(corners(boxes), (8, 8)))
    own = {"boxes": boxes, "labels": torch.arange(2), "masks": masks}
    with tv_tensors.set_return_type("TVTensor"):
        mixed = cutmix_objects(own, dict(own), torch.tensor([0, 0, 3, 3]), (8, 8), 0.1)
    assert [type(mixed[key]) for key in own] == [type(own[key]) for key in own]
    assert type(mixed["mix_weight"]) is torch.Tensor


GOOD = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 8.0, 6.0]])


def refused(target, **others):
    return [{"boxes": GOOD, **others}, {"boxes": GOOD, **others} | target]


@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        ([GOOD], TypeError, r"targets\[0\] must be a mapping"),
        ([{}], TypeError, r"targets\[0\]\['boxes'\] must be a tensor"),
        (refused({"boxes": GOOD > 2}), TypeError, r"\[1\]\['boxes'\] must be .* got torch.bool"),
        (refused({"boxes": GOOD[0]}), ValueError, r"\[1\]\['boxes'\] must be \(N, 4\), got \(4,\)"),
        (refused({"boxes": GOOD[:, :3]}), ValueError, r"must be \(N, 4\), got \(2, 3\)"),
        (refused({"labels": [1, 2]}), TypeError, r"\[1\]\['labels'\] must be a tensor"),
        (refused({"segmentation": [1, 2]}), TypeError, r"'segmentation'\] must be a tensor"),
        (refused({}, labels=torch.ones(3)), ValueError, r"\['labels'\] .* each of the 2 boxes"),
        (refused({}, labels=torch.tensor(1)), ValueError, r"\['labels'\] .* each of the 2 boxes"),
        (refused({"labels": torch.ones(2)}), ValueError, r"\[0\]\['labels'\] must be there"),
        (refused({"poses": torch.ones(2)}, poses=torch.ones(3)), ValueError, r"name it in passth"),
        (refused({"poses": torch.ones(2, 3)}, poses=torch.ones(2)), ValueError, r"\(N\) as in the"),
        (refused({"masks": torch.ones(2, 8, 8)}), ValueError, r"\[0\]\['masks'\] must be there"),
        (
            refused({}, masks=torch.ones(2, 8, 7)),
            ValueError,
            r"must be \(N, H, W\), got \(2, 8, 7\)",
        ),
        (refused({}, keypoints=torch.ones(2, 3, 4)), ValueError, r"must be \(N, K, 2\) or"),
        (refused({}, area=torch.ones(2, 1)), ValueError, r"must be \(N,\), got \(2, 1\)"),
        (refused({}, mix_weight=torch.ones(2, 1)), ValueError, r"must be \(N,\), got \(2, 1\)"),
        (
            refused({}, keypoints=torch.ones(2, 3, 2), keypoints_visible=torch.ones(2, 2)),
            ValueError,
            r"'keypoints_visible'\] must be \(N, K\), as keypoints are, got \(2, 2\)",
        ),
        (refused({}, heat=torch.ones(8, 8)), ValueError, r"'heat'\] must be named boxes, masks or"),
        (
            refused({}, scene=tv_tensors.Mask(torch.ones(4, 4))),
            ValueError,
            r"'scene'\] must be named boxes, masks or",
        ),
        (
            [{"boxes": make_boxes([[0, 0, 4, 4]], "XYXY", torch.int64, (4, 8))}],
            ValueError,
            r"canvas_size \(8, 8\), got \(4, 8\)",
        ),
        (
            [
                {"boxes": make_boxes([[0, 0, 4, 4]], s, torch.int64, (8, 8))}
                for s in ("XYXY", "XYWH")
            ],
            ValueError,
            r"must be BoundingBoxes XYXY \(N, 4\) as in the images before, got BoundingBoxes XYWH",
        ),
    ],
)
def test_targets_that_cannot_be_mixed_are_refused(targets, error, text):
    """A batch that would leave something behind is refused with the place and the way out."""
    with pytest.raises(error, match=text) as caught:
        check_objects(targets, (8, 8), "targets")
    assert str(caught.value).endswith(".")


@pytest.mark.skipif(
    not hasattr(tv_tensors.BoundingBoxFormat, "XYWHR"), reason="torchvision without rotated boxes"
)
def test_rotated_boxes_are_refused():
    """A rotated box has no rectangle that remains of it, and the error says so."""
    boxes = tv_tensors.BoundingBoxes(torch.ones(1, 5), format="XYWHR", canvas_size=(8, 8))
    with pytest.raises(ValueError, match="XYXY, XYWH or CXCYWH, got XYWHR"):
        check_objects([{"boxes": boxes}], (8, 8), "targets")


@given(st.sampled_from(FORMATS), st.integers(0, 7), st.data())
def test_degenerate_boxes_are_refused_by_name(style, row, data):
    """One box without area, outside or not finite is named with its image and its row."""
    size = (8, 8)
    empty = [[2, 2, 2, 6], [2, 6, 4, 6], [5, 2, 3, 6]]
    outside = [[8, 0, 9, 4], [-4, 0, 0, 4]]
    endless = [[1, 1, float("nan"), 4], [1, 1, float("inf"), 4]]
    found = [[1, 1, 4, 4]] * 8
    found[row] = data.draw(st.sampled_from(empty + outside + endless))
    boxes = make_boxes(found, style, torch.float32, size)
    good = {"boxes": make_boxes([], style, torch.float32, size)}
    with pytest.raises(ValueError, match=rf"targets\[1\]\['boxes'\]\[{row}\] must have a positive"):
        check_objects([good, {"boxes": boxes}], size, "targets")


def test_entries_of_the_image_are_told_from_those_of_the_objects():
    """With one object, or two, what is known to belong to the image stays the own image's."""
    own = {"boxes": GOOD, "image_id": torch.tensor([4, 4]), "orig_size": torch.tensor([8, 8])}
    partner = {"boxes": GOOD, "image_id": torch.tensor([5, 5]), "orig_size": torch.tensor([9, 9])}
    check_objects([own, partner], (8, 8), "targets")
    mixed = mixup_objects(own, partner, 0.5)
    assert mixed["image_id"].tolist() == [4, 4]
    assert mixed["orig_size"].tolist() == [8, 8]
    assert len(mixed["boxes"]) == 4


# --- Box formats --------------------------------------------------------------------------------


def rewrite(boxes, box_format, size, back=False):
    """Write corners in a format of plain tensors, or read them, by torchvision's conversion."""
    scale = torch.tensor([size[1], size[0]] * 2).to(boxes)
    style = box_format.removesuffix("_normalised")
    scale = scale if box_format.endswith("_normalised") else torch.ones_like(scale)
    if back:
        return ops.box_convert(boxes * scale, style, "xyxy")
    return ops.box_convert(boxes, "xyxy", style) / scale


@pytest.mark.parametrize("box_format", PLAIN)
@given(batches(), st.data(), st.floats(0.05, 1))
def test_a_plain_format_changes_nothing_but_the_numbers(box_format, batch, data, min_visible):
    """Mixing and then writing boxes in a format is writing them and then mixing, on each target."""
    targets, size = batch
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    box = data.draw(rectangles(size, low=0))
    plain = [{**t, "boxes": corners(t["boxes"]).to(dtype)} for t in targets]
    written = [{**t, "boxes": rewrite(t["boxes"], box_format, size)} for t in plain]
    check_objects(written, size, "targets", box_format)
    for i in range(len(targets) - 1):
        for mix in (
            lambda own, other, **how: cutmix_objects(own, other, box, size, min_visible, **how),
            lambda own, _, **how: cutout_objects(own, [box], size, min_visible, **how),
            lambda own, other, **how: mixup_objects(own, other, 0.25, size, **how),
        ):
            expected = mix(plain[i], plain[i + 1])
            mixed = mix(written[i], written[i + 1], box_format=box_format)
            assert mixed["boxes"].dtype == dtype
            found = rewrite(mixed["boxes"], box_format, size, back=True)
            torch.testing.assert_close(found, expected["boxes"], atol=1e-4, rtol=0)
            rest = {key: value for key, value in expected.items() if key != "boxes"}
            assert_same({key: mixed[key] for key in rest}, rest)


@pytest.mark.parametrize("tenths", range(1, 11))
def test_exactly_min_visible_is_enough_in_shares_too(tenths):
    """Shares in float32 miss whole pixels a little, which must not decide who stays."""
    size = (7, 30)
    lines = [[x, 2, x + 10, 3] for x in range(20)]
    shares = rewrite(torch.tensor(lines).float(), "cxcywh_normalised", size)
    for x, line in enumerate(shares):
        own = {"boxes": line[None]}
        for hidden, count in ((x + 10 - tenths, 1), (x + 11 - tenths, 0)):
            how = {"box_format": "cxcywh_normalised"}
            mixed = cutout_objects(own, [[0, 0, hidden, 7]], size, tenths / 10, **how)
            assert len(mixed["boxes"]) == count


def test_typed_boxes_keep_their_own_format():
    """BoundingBoxes say themselves how they are written, whatever is said of plain tensors."""
    own = {"boxes": make_boxes([[2, 2, 7, 6]], "XYWH", torch.float32, (8, 8))}
    mixed = cutout_objects(own, [[0, 0, 4, 8]], (8, 8), 0.1, box_format="cxcywh_normalised")
    assert mixed["boxes"].format.name == "XYWH"
    assert mixed["boxes"].tolist() == [[4, 2, 3, 4]]


def test_shares_must_be_floating_point():
    """Integers cannot be shares of a side; the error says which format was said."""
    with pytest.raises(TypeError, match=r"\['boxes'\] must be floating point to be cxcywh_norm"):
        check_objects([{"boxes": torch.ones(1, 4).long()}], (8, 8), "t", "cxcywh_normalised")


@pytest.mark.parametrize(
    ("said", "boxes"),
    [("xyxy", [[0.5, 0.5, 0.2, 0.2]]), ("cxcywh_normalised", [[40.0, 40.0, 20.0, 20.0]])],
)
def test_boxes_of_another_format_are_told_how_to_say_so(said, boxes):
    """Shares read as corners, and pixels read as shares, are refused with the argument to set."""
    with pytest.raises(ValueError, match=f"read as {said}; box_format= says how"):
        check_objects([{"boxes": torch.tensor(boxes)}], (64, 64), "targets", said)


# --- Nothing stays behind -----------------------------------------------------------------------


@dataclasses.dataclass
class Crowd:
    """An entry that no rule knows."""

    numbers: list


# What N objects may carry under a name of the user's: each keeps the number of its object.
FOLLOWS = {
    "int": lambda n, at: at,
    "float": lambda n, at: at.double(),
    "half": lambda n, at: at.half(),
    "bool": lambda n, at: at % 2 == 0,
    "rows": lambda n, at: at[:, None].expand(n, 3),
    "boxed": lambda n, at: at[:, None, None].expand(n, 2, 3).float(),
    "grad": lambda n, at: at.float().requires_grad_(),
}
# What an image may carry.
STAYS = {
    "number": lambda n: 7,
    "real": lambda n: 0.5,
    "none": lambda n: None,
    "text": lambda n: "ab",
    "bytes": lambda n: b"ab",
    "scalar": lambda n: torch.tensor(3),
    "numpy": lambda n: np.float32(0.5),
    "path": lambda n: pathlib.Path("ab"),
}
# What no rule covers: it could belong to the objects.
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
    """Make a target of numbered objects with one entry of a kind."""
    at = torch.arange(first, first + count)
    low = at[:, None] % 5 + torch.tensor([[0, 1]])
    target = {"boxes": torch.cat([low, low + 7], 1).float(), "code": at, "image_id": first}
    if name in FOLLOWS:
        return {**target, "entry": FOLLOWS[name](count, at)}
    return {**target, "entry": {**STAYS, **REFUSED}[name](count)}


@pytest.mark.parametrize("name", [*FOLLOWS, *STAYS, *REFUSED])
@given(
    st.sampled_from([Mixup, CutMix, Cutout]),
    st.lists(st.integers(0, 3), min_size=2, max_size=4),
    st.integers(0, 2**32),
)
def test_every_entry_follows_its_objects_or_is_refused(name, kind, counts, seed):
    """An entry of any kind goes with its object or stays with its image, or its place is named."""
    torch.manual_seed(seed)
    firsts = [sum(counts[:i]) for i in range(len(counts))]
    targets = [carry(name, *pair) for pair in zip(counts, firsts, strict=True)]
    images = torch.rand(len(counts), 3, 16, 16)
    if name in REFUSED:
        with pytest.raises((TypeError, ValueError), match=r"\[1\]\[\d\]\['entry'\] must"):
            kind()(images, targets)
        _, mixed = kind(passthrough=["entry"])(images, targets)
    else:
        _, mixed = kind()(images, targets)
    for own, target in zip(targets, mixed, strict=True):
        assert target["image_id"] == own["image_id"]
        assert len(target["code"]) == len(target["boxes"]) == len(target["mix_weight"])
        if name not in FOLLOWS:
            assert target["entry"] is own["entry"]
        elif len(target["code"]):
            expected = FOLLOWS[name](len(target["code"]), target["code"])
            assert torch.equal(target["entry"], expected)
            assert target["entry"].dtype == expected.dtype


@pytest.mark.parametrize("key", sorted(detection.OBJECT_KEYS))
@pytest.mark.parametrize("value", [None, 3, "a", [1, 2], (1, 2), np.arange(2), torch.tensor(1)])
def test_what_is_known_to_belong_to_objects_must_have_rows(key, value):
    """Under a name of the objects nothing but a tensor with a row for each passes."""
    with pytest.raises((TypeError, ValueError), match=rf"\[1\]\['{key}'\] must"):
        check_objects([{"boxes": GOOD}, {"boxes": GOOD, key: value}], (8, 8), "targets")


@pytest.mark.parametrize("key", sorted(detection.IMAGE_KEYS))
@pytest.mark.parametrize("value", [3, [1, 2], (1, 2), np.arange(2), torch.tensor([1, 2]), {1: 2}])
def test_what_is_known_to_belong_to_the_image_may_be_anything(key, value):
    """Under a name of the image any value passes and stays the own image's, rows or not."""
    own = {"boxes": GOOD, key: value}
    check_objects([own, {"boxes": GOOD, key: value}], (8, 8), "targets")
    assert mixup_objects(own, {"boxes": GOOD, key: value}, 0.5)[key] is value


def test_boxes_without_values_are_refused():
    """Boxes on the meta device and sparse ones are refused before anything is asked."""
    for boxes in (GOOD.to("meta"), GOOD.to_sparse()):
        with pytest.raises(ValueError, match=r"\[0\]\['boxes'\] must be a dense tensor"):
            check_objects([{"boxes": boxes}], (8, 8), "targets")


def test_an_entry_that_one_image_has_for_each_object_is_asked_of_all():
    """A single value beside rows in another image is an error, not an entry of the image."""
    targets = [{"boxes": GOOD, "depth": torch.tensor(1.0)}, {"boxes": GOOD, "depth": torch.ones(2)}]
    with pytest.raises(ValueError, match=r"\[0\]\['depth'\] must be there, .* got a single value"):
        check_objects(targets, (8, 8), "targets")
