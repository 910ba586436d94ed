"""Detection targets: objects follow the pixels of their images, and no entry is left behind.

Image i is 1 in channel i and 0 elsewhere, so channel i of an output shows the weight of image i at
each pixel. Objects are drawn on a raster of quarter pixels.
"""

import collections
import copy
import dataclasses
import pathlib
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.loading import same
from helpers.reference import random_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as v2f

from tv_mixaug import CutMix, Cutout, Mixup, OneOf, RandomErasing, make_collate_fn
from tv_mixaug.batch.spec import BatchOptions, FieldSpec, Role
from tv_mixaug.engine import plan as plans
from tv_mixaug.targets import detection

TYPED = ("XYXY", "XYWH", "CXCYWH")
STYLES = (*detection.BOX_FORMATS, *TYPED)
POINTS = ["none", "flags", "pairs", *["KeyPoints"] * hasattr(tv_tensors, "KeyPoints")]
IMAGE_ENTRIES = ("image_id", "orig_size", "size", "path", "depth")
FINE = 4  # cells of the raster per side of a pixel
KINDS = pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])


class Patches(CutMix):
    """Paste several boxes, which may overlap, of partners in any order."""

    def sample(self, batch, p, source):
        """Return the plan."""
        count, number = batch.length, int(torch.randint(1, 5, ()))
        boxes = random_boxes((count, number), batch.size)
        applied, partner = torch.rand(count) < p, torch.randperm(count)
        plan = plans.make_plan(plans.PASTE, count, applied, partner=partner, boxes=boxes).plan()
        inside = torch.zeros(count, *batch.size, dtype=torch.bool)
        for row, box in enumerate(plan.boxes):
            for x1, y1, x2, y2 in box.tolist():
                inside[row, y1:y2, x1:x2] = True
        return plan._replace(lam=1 - inside.double().mean((1, 2)).float())


# --- Objects that are drawn at random -----------------------------------------------------------


class Traits(NamedTuple):
    """The form of all targets of a batch."""

    style: str = "XYXY"
    dtype: torch.dtype = torch.float32
    masks: bool = True
    typed: bool = False
    points: str = "flags"


def write_boxes(corners, style, size, dtype=torch.float32):
    """Write corners in a format, as a plain tensor or as BoundingBoxes."""
    boxes, name = torch.as_tensor(corners).double().reshape(-1, 4), style.lower().split("_")[0]
    low, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    if name != "xyxy":
        half = sides / 2 if dtype.is_floating_point else (sides / 2).ceil()
        boxes = torch.cat([low + half * (name == "cxcywh"), sides], 1)
    if style == "cxcywh_normalised":
        boxes = boxes / torch.tensor([size[1], size[0]] * 2)
    if style not in TYPED:
        return boxes.to(dtype)
    return tv_tensors.BoundingBoxes(boxes.to(dtype), format=style, canvas_size=size)


def read_boxes(boxes, style="xyxy", size=None):
    """Read boxes of a format as corners in pixels, by torchvision's own function."""
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        style = boxes.format.name
    boxes, name = boxes.as_subclass(torch.Tensor), style.lower().split("_")[0]
    if style == "cxcywh_normalised":
        boxes = boxes * torch.tensor([size[1], size[0]] * 2)
    return v2f.convert_bounding_box_format(boxes, name, "xyxy").double()


def fill(corners, size, scale=1):
    """Draw each rectangle on a raster of its own."""
    y, x = torch.arange(size[0] * scale)[:, None], torch.arange(size[1] * scale)
    x1, y1, x2, y2 = (scale * torch.as_tensor(corners).reshape(-1, 4)).T[..., None, None]
    return (x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)


def bounds(raster, scale=1):
    """Return the bounding box of a raster."""
    y, x = raster.nonzero(as_tuple=True)
    return [int(edge) / scale for edge in (x.min(), y.min(), x.max() + 1, y.max() + 1)]


def enlarge(pixels):
    return pixels.repeat_interleave(FINE, -2).repeat_interleave(FINE, -1)


def draw_target(first, owner, size, traits):
    """Draw the target of an image and the raster of each object, numbered from ``first`` on."""
    count, is_fine = int(torch.randint(7, ())), traits.dtype.is_floating_point and not traits.masks
    scale = FINE if is_fine else 1
    limit = torch.tensor(size[::-1])
    low = (torch.rand(count, 2) * limit * scale).long()
    high = low + 1 + (torch.rand(count, 2) * (limit * scale - low)).long()
    corners = torch.cat([low, high], 1) / scale
    rasters = fill(corners, size, FINE)
    code = torch.arange(first, first + count)
    target = {
        "labels": code % 7, "class_labels": code % 5, "code": code,
        "iscrowd": (code % 2).to(torch.uint8), "embedding": torch.stack([code, -code], 1).float(),
        "image_id": owner, "orig_size": torch.tensor(size), "size": torch.tensor(size) // 2,
        "path": f"{owner}.png", "depth": torch.tensor(owner / 2),
    }  # fmt: skip
    if traits.masks:
        masks = fill(corners, size) & (torch.rand(count, *size) < 0.7)
        masks[torch.arange(count), low[:, 1], low[:, 0]] = True
        corners, rasters = [bounds(mask) for mask in masks], enlarge(masks)
        target["masks"] = tv_tensors.Mask(masks) if traits.typed else masks.to(torch.uint8)
    target["boxes"] = write_boxes(corners, traits.style, size, traits.dtype)
    target["area"] = rasters.flatten(1).sum(1).double() / FINE**2
    points = (torch.rand(count, 3, 2) * 8 * limit).floor() / 4 - limit / 2  # also outside the image
    if traits.points == "flags":
        points = torch.cat([points, torch.randint(0, 3, (count, 3, 1))], 2)
    if traits.points == "KeyPoints":
        points = tv_tensors.KeyPoints(points, canvas_size=size)
    if traits.points != "none":
        target["keypoints"] = points
    if not count and torch.rand(()) < 0.5:
        target = {key: target[key] for key in ("boxes", "code", "area", *IMAGE_ENTRIES)}
    return target, rasters


def draw_batch(sizes, traits=None):
    """Draw an image and a target per size, and the owner and raster of each object."""
    images, targets, objects = [], [], []
    for owner, size in enumerate(sizes):
        images.append(torch.zeros(len(sizes), *size))
        images[owner][owner] = 1
        target, rasters = draw_target(len(objects), owner, size, traits or Traits())
        targets.append(target)
        objects += [(owner, row, raster) for row, raster in enumerate(rasters)]
    return images, targets, objects


def lay(raster, size):
    """Crop and pad a raster at its upper left corner."""
    return F.pad(raster, (0, size[1] - raster.shape[1], 0, size[0] - raster.shape[0]))


def check_target(row, out, target, drawn, least=0.1, style="XYXY", lam=None):
    """Check a target against the weights in the image; with lam, weights must be exact."""
    _, targets, objects = drawn
    own, size, listed = targets[row], tuple(out.shape[1:]), []
    corners, fine = read_boxes(target["boxes"], style, size), tuple(FINE * n for n in size)
    for code, (owner, place, raster) in enumerate(objects):
        shown = out[owner] > 0
        seen = lay(raster, fine) & enlarge(shown)
        share = int(seen.sum()) / int(raster.sum())
        if share == 0 or share < least:
            continue
        listed.append((owner != row, code))
        at = target["code"].tolist().index(code)
        new = {key: target[key][at] for key in target.keys() - IMAGE_ENTRIES}
        old = {key: targets[owner][key][place] for key in targets[owner].keys() - IMAGE_ENTRIES}
        changing = set() if share == 1 and raster.shape == fine else {"boxes", "masks", "area"}
        assert all(torch.equal(new[key], old[key]) for key in old.keys() - changing - {"keypoints"})
        if lam is None:
            weight = float(enlarge(out[owner])[seen].mean())
            assert float(new["mix_weight"]) == pytest.approx(weight, abs=1e-5)
        else:
            assert torch.equal(new["mix_weight"], torch.tensor(lam if owner == row else 1 - lam))
        assert float(new["area"]) == pytest.approx(int(seen.sum()) / FINE**2, rel=1e-5)
        tight, slack = torch.tensor(bounds(seen, FINE)).double(), 1e-3 * (style == STYLES[3])
        torch.testing.assert_close(corners[at], tight, atol=slack, rtol=0)
        if "masks" in old:
            assert torch.equal(new["masks"].bool(), seen[::FINE, ::FINE])
        if "keypoints" in old:
            points, (height, width) = old["keypoints"], targets[owner]["orig_size"].tolist()
            x, y = points[:, 0].long().clamp(0, width - 1), points[:, 1].long().clamp(0, height - 1)
            on = F.pad(shown, (0, 20, 0, 20))[y, x]
            assert torch.equal(new["keypoints"][:, :2], points[:, :2])
            if points.shape[1] == 3:
                assert torch.equal(new["keypoints"][:, 2], points[:, 2] * on)
            else:
                assert torch.equal(new["keypoints_visible"], on)
    assert target["code"].tolist() == [code for _, code in sorted(listed)]
    check_format(target, own, targets, size)


def check_format(target, own, targets, size):
    """Check that a target has the entries, types and formats of those that it is mixed from."""
    assert all(target[key] is own[key] for key in IMAGE_ENTRIES)
    usual = next(t for t in targets if len(t["code"])) if len(target["code"]) else own
    pairs = "keypoints" in target and target["keypoints"].shape[-1] == 2
    assert target.keys() == {*usual, "mix_weight", *["keypoints_visible"] * pairs}
    assert target["mix_weight"].dtype == torch.float32
    for key in usual.keys() - IMAGE_ENTRIES:
        new, old = target[key], usual[key]
        assert (type(new), new.dtype, len(new)) == (type(old), old.dtype, len(target["code"]))
        assert new.shape[1:] == (size if key == "masks" else old.shape[1:])
        assert getattr(new, "format", None) == getattr(old, "format", None)
        assert getattr(new, "canvas_size", size) == size


OPTIONS = {
    Mixup: st.fixed_dictionaries({"pairing": st.sampled_from(["roll", "shuffle"])}),
    CutMix: st.fixed_dictionaries({"pairing": st.sampled_from(["roll", "shuffle"])}),
    Patches: st.just({}),
    Cutout: st.fixed_dictionaries({"holes": st.integers(1, 4)}),
    RandomErasing: st.fixed_dictionaries({"count": st.integers(1, 2)}),
}
TRAITS = st.builds(
    Traits, st.sampled_from(STYLES), st.sampled_from([torch.float32, torch.float64, torch.int64]),
    st.booleans(), st.booleans(), st.sampled_from(POINTS),
)  # fmt: skip
LEAST = st.one_of(st.sampled_from([0.05, 0.3, 1.0]), st.floats(0.01, 1))


@pytest.mark.parametrize("kind", OPTIONS)
@settings(max_examples=4 * settings().max_examples)
@given(
    data=st.data(),
    traits=TRAITS,
    mode=st.sampled_from(["batch", "sample"]),
    p=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_objects_follow_their_pixels(kind, data, traits, mode, p, seed):
    """Boxes, masks, keypoints, areas and weights are those of the visible pixels of each image."""
    torch.manual_seed(seed)
    if traits.style == "cxcywh_normalised" and traits.dtype == torch.int64:
        traits = traits._replace(dtype=torch.float32)
    size = data.draw(st.sampled_from([(9, 13), (12, 5), (7, 7)]))
    drawn = images, targets, _ = draw_batch([size] * data.draw(st.integers(2, 5)), traits)
    before, count, options = copy.deepcopy((images, targets)), len(images), data.draw(OPTIONS[kind])
    least = 0.1 if kind is Mixup else data.draw(LEAST)
    options["box_format"] = traits.style if traits.style not in TYPED else "cxcywh_normalised"
    options |= {"min_visible": least} if kind is not Mixup else {}
    transform = kind(p=p, mode=mode, num_classes=count, **options)
    batch = torch.stack(images) if data.draw(st.booleans()) else images
    (out, labels, mixed), plan = transform.mix((batch, torch.arange(count), targets))
    for row, (own, new, target) in enumerate(zip(images, out, mixed, strict=True)):
        assert new.shape == own.shape
        label = own[:, 0, 0]
        if kind in (Mixup, CutMix, Patches):
            label = new.double().mean((1, 2)).float()
        torch.testing.assert_close(labels[row], label, atol=1e-6, rtol=0)
        is_blend = plan.op[row] == plans.BLEND and plan.partner[row] != row
        lam = float(plan.lam[row]) if is_blend else None
        check_target(row, new, target, drawn, least, traits.style, lam)
    assert same((list(batch), targets), before)


# --- Single objects -----------------------------------------------------------------------------

GOOD = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 8.0, 6.0]])


def mix_pair(op, own, partner, size=(8, 8), least=0.1, lam=1.0, boxes=((0, 0, 0, 0),), **options):
    """Return the first of two targets, mixed with the second by a plan of one operation."""
    count, boxes = 1 + (partner is not own), torch.as_tensor(boxes).view(1, -1, 4)
    plan = plans.identity_plan(count)._replace(
        op=torch.tensor([op, plans.NONE][:count]), partner=torch.tensor([count - 1] * count),
        lam=torch.tensor([lam, 1.0][:count]).double(), boxes=boxes.expand(count, -1, -1),
    )  # fmt: skip
    return detection.mix_objects([own, partner][:count], plan, size, least, **options)[0]


def paste(own, partner, boxes, least=0.1, **options):
    return mix_pair(plans.PASTE, own, partner, least=least, boxes=boxes, **options)


def cut(own, holes, least=0.1, **options):
    return mix_pair(plans.FILL, own, own, least=least, boxes=holes, **options)


def blend(own, partner, lam):
    return mix_pair(plans.BLEND, own, partner, lam=lam)


def check(targets, size=(8, 8), box_format="xyxy"):
    """Check targets of images of one size."""
    field, batch = FieldSpec(Role.DETECTION, (), "targets"), SimpleNamespace(size=size)
    detection.check_detection(targets, field, batch, BatchOptions(box_format=box_format))


@pytest.mark.parametrize("tenths", range(1, 11))
@pytest.mark.parametrize("style", ["xyxy", "cxcywh_normalised"])
def test_an_object_may_keep_exactly_min_visible(tenths, style):
    """With exactly ``min_visible`` of its area it stays, whatever float32 shares round to."""
    for x in range(20):
        own = {"boxes": write_boxes([[x, 2, x + 10, 3]], style, (7, 30))}
        for hidden, count in ((x + 10 - tenths, 1), (x + 11 - tenths, 0)):
            mixed = cut(own, [0, 0, hidden, 7], tenths / 10, size=(7, 30), box_format=style)
            assert len(mixed["boxes"]) == count


HALVES, AREA = torch.tensor([[0, 0, 8, 4], [0, 4, 4, 8]]), torch.linspace(0.1, 0.9, 64).double()
SMALL = torch.tensor([[0.5, 0.5, 0.75, 0.75], [3.5, 1, 4.25, 2], [5, 5, 5.5, 5.5], [3, 3, 8, 8]])
ONE_PIXEL = fill([[8, 8, 8, 8]] * 3 + [[3, 3, 4, 4]], (8, 8))
FINER, COARSE = torch.tensor([[1.25, 1.5, 6.5, 6.75]]), fill([[1, 1, 7, 7]], (8, 8))
# A target of 8 × 8 pixels, the hole in it, min_visible, and the entries that are left.
HOLES = {
    "an area smaller than the box": (
        {"boxes": HALVES, "area": torch.tensor([20.5, 0.1])},
        ([4, 0, 8, 8], 0.1, {"area": torch.tensor([10.25, 0.1])}),
    ),
    "an area rounded to nearest": (
        {"boxes": HALVES, "area": torch.tensor([23, 7])},
        ([4, 0, 8, 8], 0.1, {"area": torch.tensor([12, 7])}),
    ),
    "the last bit of the area of a visible object": (  # x * a / a need not equal x
        {"boxes": torch.tensor([[0, 0, 7, 7]] * 64), "area": AREA},
        ([7, 7, 8, 8], 0.1, {"area": AREA}),
    ),
    "objects without a pixel of mask, measured by their boxes": (
        {"boxes": SMALL, "masks": ONE_PIXEL},
        ([0, 0, 4, 4], 0.5, {"boxes": SMALL[2:3]}),
    ),
    "a box finer than its mask that loses no side": (
        {"boxes": FINER, "masks": COARSE},
        ([0, 0, 3, 3], 0.5, {"boxes": FINER, "masks": COARSE & ~fill([[0, 0, 3, 3]], (8, 8))}),
    ),
    "a box beyond the border, which counts inside": (
        {"boxes": torch.tensor([[-4.0, 0, 4, 4]])},
        ([0, 0, 2, 8], 0.5, {"boxes": torch.tensor([[2.0, 0, 4, 4]])}),
    ),
}


@pytest.mark.parametrize("name", HOLES)
def test_a_hole_leaves_the_visible_part(name):
    """Entries are those of the visible part, bit for bit."""
    own, (hole, least, expected) = HOLES[name]
    mixed = cut(own, hole, least)
    assert all(torch.equal(mixed[key], value) for key, value in expected.items())


def test_an_image_mixed_with_itself_keeps_its_objects():
    """An object is neither doubled nor weakened."""
    own = {"boxes": torch.tensor([[0, 0, 8, 4]]), "labels": torch.tensor([1])}
    plain = mix_pair(plans.NONE, own, own)
    assert same(paste(own, own, [0, 0, 4, 4], 0.5), plain)
    assert same(blend(own, own, 0.5), plain)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64], ids=str)
def test_weights_multiply_in_float32(dtype):
    """Mixing a mixed target again multiplies weights; given integers are not truncated."""
    a, b, c = ({"boxes": torch.tensor([[0, 0, i, i]])} for i in (2, 3, 4))
    a["mix_weight"] = b["mix_weight"] = torch.ones(1, dtype=dtype)
    mixed = blend(blend(a, b, 0.75), c, 0.5)
    for target in (mixed, paste(mixed, c, [6, 6, 8, 8], 0.5)):
        assert target["mix_weight"].tolist() == [0.375, 0.125, 0.5]
    for target in (mixed, blend(a, b, 0.75), mix_pair(plans.NONE, a, a)):
        assert target["mix_weight"].dtype == torch.float32


def test_keypoints_are_x_and_y_and_stay_invisible():
    """A hole hides the keypoints at its columns and rows; invisible ones stay so."""
    points = torch.tensor([[[6.5, 1.0], [1.0, 6.5], [99.0, 2.0], [-9.0, 2.0], [1.0, 7.0]]])
    own = {"boxes": torch.tensor([[0, 0, 8, 10]]), "keypoints": points}
    for flags, last in (({}, True), ({"keypoints_visible": torch.arange(5)[None] < 4}, False)):
        mixed = cut({**own, **flags}, [6, 0, 8, 4], 0.5, size=(10, 8))
        assert mixed["keypoints_visible"].tolist() == [[False, True, False, True, last]]


@pytest.mark.parametrize("empty_first", [True, False])
def test_an_image_without_objects_does_not_decide_the_types(empty_first):
    """Empty entries of a wrong dtype or shape do not change those of the other image."""
    boxes, masks = write_boxes([[0, 0, 4, 4]], "XYWH", (8, 8)), fill([[0, 0, 4, 4]], (8, 8))
    full = {"boxes": boxes, "labels": torch.tensor([3]), "masks": tv_tensors.Mask(masks)}
    full, wrong = full | {"image_id": 1}, {"labels": torch.tensor([]), "masks": torch.zeros(0, 3)}
    empty = {"boxes": torch.zeros(0, 4), **wrong, "image_id": 0}
    check([full, empty])
    own, partner = (empty, full) if empty_first else (full, empty)
    box = [0, 0, 4, 4] if empty_first else [4, 4, 8, 8]
    for mixed in (blend(own, partner, 0.5), paste(own, partner, box, 0.5)):
        assert mixed["boxes"].format.name == "XYWH"
        assert mixed["boxes"].tolist() == [[0, 0, 4, 4]]
        assert mixed["labels"].dtype == torch.int64
        assert isinstance(mixed["masks"], tv_tensors.Mask)
        assert mixed["image_id"] == own["image_id"]


def test_types_do_not_depend_on_the_return_type_of_torchvision():
    """With ``set_return_type("TVTensor")`` plain entries stay plain, and boxes stay boxes."""
    masks = tv_tensors.Mask(fill(GOOD, (8, 8)))
    own = {"boxes": write_boxes(GOOD, "CXCYWH", (8, 8)), "labels": torch.arange(2), "masks": masks}
    with tv_tensors.set_return_type("TVTensor"):
        mixed = paste(own, dict(own), [0, 0, 3, 3])
    assert [type(mixed[key]) for key in own] == [type(own[key]) for key in own]
    assert type(mixed["mix_weight"]) is torch.Tensor


# --- Refusals -----------------------------------------------------------------------------------


def two(target=(), **others):
    """Return two targets with common entries, of which the second differs."""
    return [{"boxes": GOOD, **others}, {"boxes": GOOD, **others, **dict(target)}]


SQUARE = [write_boxes([[0, 0, 4, 4]], style, (8, 8)) for style in ("XYXY", "XYWH")]
NARROW = write_boxes([[0, 0, 4, 4]], "XYXY", (4, 8))
ONES = torch.ones
UNFIT = [
    ([{"boxes": [1]}], TypeError, r"targets\[0\]\['boxes'\] must be a tensor"),
    (two({"boxes": GOOD > 2}), TypeError, r"\[1\]\['boxes'\] must be .* got torch.bool"),
    (two({"boxes": GOOD[0]}), ValueError, r"\[1\]\['boxes'\] must be \(N, 4\), got \(4,\)"),
    (two({"boxes": GOOD[:, :3]}), ValueError, r"must be \(N, 4\), got \(2, 3\)"),
    (two({"boxes": ONES(2, 5)}), ValueError, r"must be \(N, 4\), got \(2, 5\)"),
    (two({"boxes": GOOD.to("meta")}), ValueError, r"\['boxes'\] must be a dense tensor"),
    (two({"boxes": GOOD.to_sparse()}), ValueError, r"\['boxes'\] must be a dense tensor"),
    (two({"labels": [1, 2]}), TypeError, r"\[1\]\['labels'\] must be a tensor"),
    (two({"segmentation": [1, 2]}), TypeError, r"'segmentation'\] must be a tensor"),
    (two(labels=ONES(3)), ValueError, r"\['labels'\] .* each of 2 boxes"),
    ([{"boxes": GOOD[:1], "area": ONES(2)}], ValueError, "each of 1 boxes, filtered with them"),
    (two(labels=torch.tensor(1)), ValueError, r"\['labels'\] .* each of 2 boxes"),
    (two({"labels": ONES(2)}), ValueError, r"\[0\]\['labels'\] .* row per box.*, got nothing"),
    (two({"masks": ONES(2, 8, 8)}), ValueError, r"\[0\]\['masks'\] .* got nothing"),
    (
        two({"depth": ONES(2)}, depth=torch.tensor(1.0)),
        ValueError,
        r"\[0\]\['depth'\] must be .* with a row per box, .* got a single value",
    ),
    (two({"poses": ONES(2)}, poses=ONES(3)), ValueError, "or (named )?in passthrough"),
    (two({"poses": ONES(2, 3)}, poses=ONES(2)), ValueError, r"shape \(\) as in other"),
    (two(masks=ONES(2, 8, 7)), ValueError, r"must be \(N, H, W\), got \(2, 8, 7\)"),
    (two(keypoints=ONES(2, 3, 4)), ValueError, r"must be \(N, K, 2\) or"),
    (two(area=ONES(2, 1)), ValueError, r"must be \(N,\), got \(2, 1\)"),
    (two(mix_weight=ONES(2, 1)), ValueError, r"must be \(N,\), got \(2, 1\)"),
    (
        two(keypoints=ONES(2, 3, 2), keypoints_visible=ONES(2, 2)),
        ValueError,
        r"'keypoints_visible'\] must be \(N, K\), as keypoints are, got \(2, 2\)",
    ),
    (two(heat=ONES(8, 8)), ValueError, r"'heat'\] must be called boxes, masks or"),
    (two(scene=tv_tensors.Mask(ONES(4, 4))), ValueError, r"'scene'\] must be called boxes"),
    ([{"boxes": NARROW}], ValueError, r"canvas_size must be \(8, 8\), got \(4, 8\)"),
    (
        [{"boxes": boxes} for boxes in SQUARE],
        ValueError,
        r"\[1\]\['boxes'\] must be BoundingBoxes xyxy .* as in other .*, got BoundingBoxes xywh",
    ),
]
if hasattr(tv_tensors.BoundingBoxFormat, "XYWHR"):  # a newer torchvision has rotated boxes
    rotated = tv_tensors.BoundingBoxes(ONES(1, 5), format="XYWHR", canvas_size=(8, 8))
    UNFIT.append(([{"boxes": rotated}], ValueError, r"axis-aligned \(XYXY, .*\), got XYWHR"))


@pytest.mark.parametrize(("targets", "error", "text"), UNFIT)
def test_targets_that_cannot_be_mixed_are_refused(targets, error, text):
    """The error names the place, what was expected and what came."""
    with pytest.raises(error, match=text) as caught:
        check(targets)
    assert str(caught.value).endswith(".")


DEGENERATE = [
    [2, 2, 2, 6], [2, 6, 4, 6], [5, 2, 3, 6], [8, 0, 9, 4], [-4, 0, 0, 4],
    [1, 1, float("nan"), 4], [1, 1, float("inf"), 4],
]  # fmt: skip


@pytest.mark.parametrize("style", ["xyxy", *TYPED])
@pytest.mark.parametrize("corners", DEGENERATE, ids=str)
def test_degenerate_boxes_are_refused_by_name(style, corners):
    """A box without area, outside the image or not finite is named with its image and row."""
    for row in range(3):
        found = [[1, 1, 4, 4]] * 3
        found[row] = corners
        targets = [{"boxes": write_boxes(b, style, (8, 8))} for b in ([], found)]
        text = rf"targets\[1\]\['boxes'\]\[{row}\] must be a box of pos"
        with pytest.raises(ValueError, match=text):
            check(targets)


@pytest.mark.parametrize(
    ("box_format", "box", "error", "text"),
    [
        ("xyxy", [0.5, 0.5, 0.2, 0.2], ValueError, "read as xyxy; set box_format="),
        (STYLES[3], [40.0, 40.0, 20.0, 20.0], ValueError, f"read as {STYLES[3]}; set box_format="),
        (STYLES[3], [1, 1, 1, 1], TypeError, r"\['boxes'\] must be floating point to be cxcywh_n"),
    ],
)
def test_boxes_of_another_format_are_refused_with_the_argument_to_set(box_format, box, error, text):
    """Normalised boxes read as corners, and pixels read as normalised, are outside the image."""
    with pytest.raises(error, match=text):
        check([{"boxes": torch.tensor([box])}], (64, 64), box_format)


# --- Entries with other names -------------------------------------------------------------------


@dataclasses.dataclass
class Crowd:
    """An entry without a rule."""

    numbers: list


# Entries of N objects, made of the numbers of the objects.
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
# Entries without a rule, since they could belong to N objects.
REFUSED = {
    "list": lambda n: [0] * n,
    "array": lambda n: np.arange(n),
    "dict of rows": lambda n: {"score": torch.arange(n)},
    "deque": lambda n: collections.deque(range(n)),
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
    makers = FOLLOWS.get(name), STAYS.get(name), REFUSED.get(name)
    entry = next(m(x) for m, x in zip(makers, (at, first, count), strict=True) if m is not None)
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


ENTRIES = [None, 3, "a", [1, 2], (1, 2), np.arange(2), torch.tensor(1), torch.arange(2), {1: 2}]


@pytest.mark.parametrize("key", sorted(detection.OBJECT_KEYS))
@pytest.mark.parametrize("value", ENTRIES[:7], ids=repr)
def test_entries_known_to_belong_to_objects_must_have_rows(key, value):
    """Under the key of an object only a tensor with a row per object is accepted."""
    with pytest.raises((TypeError, ValueError), match=rf"\[1\]\['{key}'\] must"):
        check(two({key: value}))


@pytest.mark.parametrize("key", sorted(detection.IMAGE_KEYS))
@pytest.mark.parametrize("value", ENTRIES[1:], ids=repr)
def test_entries_known_to_belong_to_the_image_may_be_anything(key, value):
    """Under the key of an image any value stays that of the original, with rows or without."""
    own, partner = two(**{key: value})
    check([own, {**partner, key: torch.zeros(2)}])
    mixed = blend(own, {**partner, key: torch.zeros(2)}, 0.5)
    assert mixed[key] is value
    assert len(mixed["boxes"]) == 4


# --- Data sets, loaders and models --------------------------------------------------------------


def test_samples_with_targets_are_collated_and_mixed():
    """The default collate function keeps targets in a list, types included, and mixes them."""
    images, targets, _ = drawn = draw_batch([(13, 17)] * 4)
    samples = list(zip(map(tv_tensors.Image, images), targets, strict=True))
    collate_fn = make_collate_fn(CutMix(min_visible=0.2), record=True)
    out, mixed, _ = collate_fn(samples)
    assert type(out) is tv_tensors.Image
    assert type(mixed) is list
    for row, (image, target) in enumerate(zip(out, mixed, strict=True)):
        check_target(row, image, target, drawn, 0.2)
    samples[1] = tv_tensors.Image(images[1][:, 1:]), targets[1]
    with pytest.raises(ValueError, match=r"resize, .* or pass a collate_fn that pads\."):
        collate_fn(samples)


@pytest.mark.parametrize(("kind", "mode"), [(list, "batch"), (tuple, "sample")])
def test_a_loader_zips_samples_and_mixes_them(kind, mode):
    """Images, labels and targets zipped as in torchvision's references keep their container."""
    images, targets, _ = drawn = draw_batch([(9, 13)] * 4)
    count = len(images)
    samples = list(zip(map(tv_tensors.Image, images), torch.arange(count), targets, strict=True))
    rules = OneOf([Mixup(), CutMix(min_visible=0.1)], mode=mode, num_classes=count)

    def zipped(samples):
        images, labels, targets = zip(*samples, strict=True)
        return kind((kind(images), torch.stack(labels), kind(targets)))

    collate = make_collate_fn(rules, collate_fn=zipped, seed=0, record=True)
    for _ in range(6):
        out, labels, mixed, plan = collate(samples)
        assert (type(out), type(mixed), len(plan.lam)) == (kind, kind, count)
        for row, (image, target) in enumerate(zip(out, mixed, strict=True)):
            assert type(image) is tv_tensors.Image
            pixels = image.as_subclass(torch.Tensor)
            torch.testing.assert_close(labels[row], pixels.mean((1, 2)), atol=1e-6, rtol=0)
            assert float(plan.lam[row]) == pytest.approx(float(pixels[row].mean()), abs=1e-6)
            check_target(row, pixels, target, drawn, 0.1)


@KINDS
@given(st.integers(2, 4), st.integers(0, 2**32))
def test_targets_of_hugging_face_processors_follow(kind, count, seed):
    """Entries under Hugging Face's names, in its mappings, are mixed, and sizes stay."""
    torch.manual_seed(seed)
    drawn = draw_batch([(8, 11)] * count, Traits("cxcywh_normalised", masks=False))
    targets = list(map(collections.UserDict, drawn[1]))
    batch = {"pixel_values": torch.stack(drawn[0]), "labels": targets}
    out = kind(box_format="cxcywh_normalised")(batch)
    for row, (image, target) in enumerate(zip(*out.values(), strict=True)):
        check_target(row, image, target, drawn, style="cxcywh_normalised")


@pytest.mark.parametrize("other", [{"image_id": 7}, {}, None, {"bboxes": GOOD[:0]}], ids=str)
@pytest.mark.parametrize("first", [False, True])
def test_a_target_without_boxes_is_named(other, first):
    """Alone or in a loader, the error says which target it is and what an empty one holds."""
    targets = [{"boxes": GOOD}, other][:: -1 if first else 1]
    images, place = torch.rand(2, 3, 8, 8), int(not first)
    text = rf"\[{place}\] must be a dict with 'boxes', torch.zeros\(0, 4\) if there are none"
    with pytest.raises(ValueError, match=text):
        CutMix()(images, targets)
    with pytest.raises(ValueError, match=text):
        make_collate_fn(CutMix())(list(zip(images, targets, strict=True)))
