"""Whole batches with detection targets, masks and videos, as far as torchvision's own models.

Pictures are coded: image i holds i + 1 everywhere, and 0 where it is erased. So the picture itself
says which pixels of which object are still to be seen.
"""

import collections
import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models, ops, tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as v2f

from tv_mixaug import (
    Chain,
    CutMix,
    Cutout,
    Mixup,
    OneOf,
    RandomErasing,
    functional,
    make_collate_fn,
)
from tv_mixaug.engine.plan import BLEND, make_plan

SIZE = (13, 17)
FORMATS = ("plain", "XYXY", "XYWH", "CXCYWH")
seeds = st.integers(0, 2**32)


def draw_target(first, owner, count, style, size=SIZE):
    """Draw a target with ``count`` rectangles, masks that fill them and a keypoint or two each."""
    height, width = size
    corners = torch.zeros(count, 4, dtype=torch.int64)
    masks = torch.zeros(count, height, width, dtype=torch.uint8)
    for row in range(count):
        x1, y1 = int(torch.randint(width, ())), int(torch.randint(height, ()))
        x2 = x1 + 1 + int(torch.randint(width - x1, ()))
        y2 = y1 + 1 + int(torch.randint(height - y1, ()))
        corners[row] = torch.tensor([x1, y1, x2, y2])
        masks[row, y1:y2, x1:x2] = 1
    data = corners.float()
    if style != "plain":
        boxes = tv_tensors.BoundingBoxes(data, format="XYXY", canvas_size=size)
        data = v2f.convert_bounding_box_format(boxes, new_format=style)
    points = torch.rand(count, 2, 3) * torch.tensor([width, height, 0.0])
    points[..., 2] = torch.randint(1, 3, (count, 2)).float()
    return {
        "boxes": data,
        "labels": torch.randint(1, 9, (count,)),
        "masks": tv_tensors.Mask(masks),
        "keypoints": points,
        "area": masks.flatten(1).sum(1).float(),
        "iscrowd": torch.zeros(count, dtype=torch.int64),
        "code": torch.arange(first, first + count),
        "image_id": 100 + owner,
        "file": f"{owner}.png",
    }


def draw_batch(style, most=8, count=5):
    """Draw images and their targets, with objects that have a number of their own."""
    images = torch.arange(1.0, count + 1).view(-1, 1, 1, 1).repeat(1, 3, *SIZE)
    targets, first = [], 0
    for owner in range(count):
        number = int(torch.randint(most + 1, ()))
        targets.append(draw_target(first, owner, number, style))
        first += number
    return images, targets


def to_corners(boxes):
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = v2f.convert_bounding_box_format(boxes, new_format="XYXY")
    return boxes.as_subclass(torch.Tensor)


def find_objects(targets):
    """List all objects by their number: owner, and everything that belongs to them."""
    found = {}
    for owner, target in enumerate(targets):
        for row, code in enumerate(target["code"].tolist()):
            found[code] = (
                owner,
                {k: target[k][row] for k in target if k not in ("image_id", "file")},
            )
    return found


def check_cut(images, targets, out, mixed, plan, min_visible):
    """Check every object of a batch that was cut against what the pictures show."""
    everything = find_objects(targets)
    for row, (picture, target) in enumerate(zip(out[:, 0], mixed, strict=True)):
        assert target["image_id"] == 100 + row
        assert target["file"] == f"{row}.png"
        lengths = {len(target[k]) for k in target if k not in ("image_id", "file")}
        assert len(lengths) == 1
        assert type(target["boxes"]) is type(targets[0]["boxes"])
        listed = {code: place for place, code in enumerate(target["code"].tolist())}
        assert len(listed) == len(target["code"])
        for code, (owner, thing) in everything.items():
            if owner not in (row, int(plan.partner[row])):
                assert code not in listed
                continue
            seen = thing["masks"].bool() & (picture == owner + 1)
            share = float(seen.sum()) / float(thing["masks"].sum())
            assert (code in listed) == (share >= min_visible)
            if code not in listed:
                continue
            place = listed[code]
            assert torch.equal(target["masks"][place].bool(), seen)
            assert target["labels"][place] == thing["labels"]
            assert float(target["area"][place]) == pytest.approx(float(seen.sum()), rel=1e-5)
            ys, xs = seen.nonzero(as_tuple=True)
            tight = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            corners = to_corners(target["boxes"])[place]
            torch.testing.assert_close(corners, torch.stack(tight).float(), atol=1e-4, rtol=0)
            for point, was in zip(target["keypoints"][place], thing["keypoints"], strict=True):
                assert torch.equal(point[:2], was[:2])
                on = picture[int(was[1]), int(was[0])] == owner + 1
                assert point[2] == (was[2] if on else 0)


@pytest.mark.parametrize("style", FORMATS)
@given(
    st.sampled_from(["batch", "sample"]),
    st.sampled_from(["roll", "shuffle"]),
    st.sampled_from([0.05, 0.3, 1.0]),
    st.sampled_from([1.0, 0.5]),
    seeds,
)
def test_cutmix_takes_objects_along_with_their_pixels(style, mode, pairing, min_visible, p, seed):
    """Boxes, masks, keypoints and areas are those of the pixels seen, and all are accounted for."""
    torch.manual_seed(seed)
    images, targets = draw_batch(style)
    transform = CutMix(mode=mode, pairing=pairing, min_visible=min_visible, p=p)
    (out, mixed), plan = transform.mix((images, targets))
    check_cut(images, targets, out, mixed, plan, min_visible)


@pytest.mark.parametrize("style", FORMATS)
@given(st.sampled_from(["batch", "sample"]), st.integers(1, 3), st.sampled_from([0.05, 1.0]), seeds)
def test_cutout_hides_objects_in_its_holes(style, mode, holes, min_visible, seed):
    """Objects in holes shrink, lose mask pixels and keypoints, or go."""
    torch.manual_seed(seed)
    images, targets = draw_batch(style)
    transform = Cutout(0.5, holes=holes, mode=mode, p=0.8, min_visible=min_visible)
    (out, mixed), plan = transform.mix((images, targets))
    check_cut(images, targets, out, mixed, plan, min_visible)


@pytest.mark.parametrize("style", FORMATS)
@given(st.sampled_from(["batch", "sample"]), st.sampled_from([1.0, 0.5]), seeds)
def test_mixup_lists_both_sets_with_their_weights(style, mode, p, seed):
    """Own objects come first, then the partner's, each unchanged and with its image's weight."""
    torch.manual_seed(seed)
    images, targets = draw_batch(style)
    transform = Mixup(mode=mode, pairing="shuffle", p=p)
    (out, mixed), plan = transform.mix((images, targets))
    everything = find_objects(targets)
    for row, target in enumerate(mixed):
        partner, lam = int(plan.partner[row]), float(plan.lam[row])
        both = [row] if partner == row else [row, partner]
        weights = {row: 1.0} if partner == row else {row: lam, partner: 1 - lam}
        wanted = [c for o in both if weights[o] > 0 for c in targets[o]["code"].tolist()]
        assert target["code"].tolist() == wanted
        assert target["image_id"] == 100 + row
        for place, code in enumerate(wanted):
            owner, thing = everything[code]
            assert float(target["mix_weight"][place]) == pytest.approx(weights[owner], abs=1e-6)
            for key, value in thing.items():
                assert torch.equal(target[key][place], value)
        shown = sum(weight * (owner + 1) for owner, weight in weights.items())
        assert float(out[row, 0, 0, 0]) == pytest.approx(shown, abs=1e-4)


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_targets_have_one_format_and_inputs_stay(kind, p):
    """The same keys and dtypes in every batch, images without objects included; nothing changed."""
    images, targets = draw_batch("XYXY", count=4)
    targets[1] = draw_target(90, 1, 0, "XYXY")
    before = [
        {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in t.items()} for t in targets
    ]
    _, mixed = kind(p=p)(images, targets)
    for target in mixed:
        assert set(target) == {*targets[0], "mix_weight"}
        assert all(
            value.dtype == targets[0][key].dtype
            for key, value in target.items()
            if key in targets[0] and isinstance(value, torch.Tensor)
        )
    for old, new in zip(before, targets, strict=True):
        assert old.keys() == new.keys()
        for key, value in old.items():
            same = (
                torch.equal(value, new[key])
                if isinstance(value, torch.Tensor)
                else value == new[key]
            )
            assert same
    assert mixed is not targets


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
def test_a_batch_without_any_object(kind):
    """Pictures of nothing are mixed all the same."""
    images, _ = draw_batch("XYXY", count=3)
    targets = [draw_target(0, owner, 0, "XYXY") for owner in range(3)]
    out, mixed = kind()(list(images), targets)
    assert len(out) == 3
    assert all(len(target["boxes"]) == 0 for target in mixed)


@pytest.mark.skipif(not hasattr(tv_tensors, "KeyPoints"), reason="a newer torchvision has them")
@pytest.mark.parametrize("kind", [CutMix, Cutout])
def test_key_points_of_v2_say_whether_they_are_seen(kind):
    """tv_tensors.KeyPoints stay where they are, and keypoints_visible says which are seen."""
    images, targets = draw_batch("XYXY")
    for target in targets:
        points = target["keypoints"][..., :2].clone()
        target["keypoints"] = tv_tensors.KeyPoints(points, canvas_size=SIZE)
    (out, mixed), _ = kind(mode="sample", min_visible=0.01).mix((images, targets))
    everything = find_objects(targets)
    for picture, target in zip(out[:, 0], mixed, strict=True):
        assert type(target["keypoints"]) is tv_tensors.KeyPoints
        for place, code in enumerate(target["code"].tolist()):
            owner, thing = everything[code]
            assert torch.equal(target["keypoints"][place], thing["keypoints"])
            x, y = thing["keypoints"].long().unbind(-1)
            assert torch.equal(target["keypoints_visible"][place], picture[y, x] == owner + 1)


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
def test_entries_named_as_passing_through_stay_the_own_image_s(kind):
    """passthrough= lets an entry of the targets through that no rule covers."""
    images, targets = draw_batch("XYXY")
    for target in targets:
        target["depth"] = torch.rand(SIZE)
    with pytest.raises(ValueError, match=r"\['depth'\].*passthrough"):
        kind()(images, targets)
    _, mixed = kind(passthrough=("depth",))(images, targets)
    assert all(new["depth"] is old["depth"] for new, old in zip(mixed, targets, strict=True))


# --- From a loader ------------------------------------------------------------------------------


def test_samples_with_targets_are_collated_and_mixed():
    """The default collate keeps targets in a list, types included, and mixes them."""
    images, targets = draw_batch("XYXY", count=4)
    samples = [(tv_tensors.Image(i), t) for i, t in zip(images, targets, strict=True)]
    out, mixed, plan = make_collate_fn(CutMix(min_visible=0.2), record=True)(samples)
    assert type(out) is tv_tensors.Image
    assert type(mixed) is list
    check_cut(images, targets, out, mixed, plan, 0.2)


def test_images_of_several_sizes_need_a_collate_that_pads():
    """Different sizes are refused with a hint, and pass with a collate function that pads them."""
    samples = []
    for number, size in enumerate(((10, 12), (13, 9), (8, 8))):
        target = draw_target(9 * number, number, 2, "XYXY", size)
        samples.append((tv_tensors.Image(torch.full((3, *size), number + 1.0)), target))
    with pytest.raises(ValueError, match=r"resize them, or pass a collate_fn that pads\."):
        make_collate_fn(CutMix())(samples)

    def pad(samples):
        padded = []
        for image, target in samples:
            height, width = image.shape[-2:]
            step = v2.Pad([0, 0, SIZE[1] - width, SIZE[0] - height])
            # v2 knows keypoints by their type, not by their name.
            points = target["keypoints"]
            image, target = step(image, {k: v for k, v in target.items() if k != "keypoints"})
            padded.append((image, {**target, "keypoints": points}))
        images, targets = zip(*padded, strict=True)
        return list(images), list(targets)

    _, targets = pad(samples)
    out, mixed = make_collate_fn(CutMix(min_visible=0.2), collate_fn=pad)(samples)
    assert type(out) is list
    assert all(type(image) is tv_tensors.Image for image in out)
    everything = find_objects(targets)
    for picture, target in zip(out, mixed, strict=True):
        for place, code in enumerate(target["code"].tolist()):
            owner, thing = everything[code]
            seen = thing["masks"].bool() & (picture[0] == owner + 1)
            assert torch.equal(target["masks"][place].bool(), seen)


class Numbered(torch.utils.data.Dataset):
    """A data set of four samples made by a function."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 4

    def __getitem__(self, index):
        torch.manual_seed(index)
        return self.make(index)


def load(make, transform):
    loader = DataLoader(Numbered(make), batch_size=4, collate_fn=make_collate_fn(transform))
    return next(iter(loader))


def gradient_is_finite(model, loss):
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(grads) and loss.isfinite() and all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("transform", [Mixup(), CutMix()], ids=["mixup", "cutmix"])
def test_faster_rcnn_takes_a_mixed_batch(transform):
    """Torchvision's detector does a backward pass on images and targets from a loader."""

    def make(index):
        number = index % 3  # one picture of nothing among them
        canvas = tv_tensors.BoundingBoxes(
            torch.tensor([[4.0, 4, 30, 28], [20, 10, 60, 50]])[:number],
            format="XYXY",
            canvas_size=(64, 64),
        )
        target = {"boxes": canvas, "labels": torch.ones(number).long(), "image_id": index}
        return tv_tensors.Image(torch.rand(3, 64, 64)), target

    images, targets = load(make, transform)
    model = models.detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=2,
        min_size=64,
        max_size=64,
        rpn_pre_nms_top_n_train=50,
        rpn_post_nms_top_n_train=20,
        box_batch_size_per_image=16,
    )
    losses = model(list(images.as_subclass(torch.Tensor)), targets)
    assert gradient_is_finite(model, sum(losses.values()))


@pytest.mark.parametrize(
    "transform", [CutMix(), Mixup(masks="soft", num_mask_classes=3)], ids=["cutmix", "mixup"]
)
def test_deeplab_takes_a_mixed_batch(transform):
    """Torchvision's segmentation model does a backward pass on hard and on soft masks."""

    def make(index):
        image = tv_tensors.Image(torch.rand(3, 33, 33))
        return image, tv_tensors.Mask(torch.randint(3, (33, 33)))

    images, masks = load(make, transform)
    model = models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=3
    )
    loss = nn.functional.cross_entropy(model(images)["out"], masks.as_subclass(torch.Tensor))
    assert gradient_is_finite(model, loss)


@pytest.mark.parametrize("transform", [CutMix(num_classes=4, cut="cuboid"), Mixup(num_classes=4)])
def test_r3d_takes_a_mixed_batch(transform):
    """Torchvision's video model does a backward pass on mixed videos and soft labels."""
    videos, labels = load(
        lambda index: (tv_tensors.Video(torch.rand(4, 3, 32, 32)), index), transform
    )
    assert type(videos) is tv_tensors.Video
    model = models.video.r3d_18(weights=None, num_classes=4)
    outputs = model(videos.as_subclass(torch.Tensor).transpose(1, 2))
    assert gradient_is_finite(model, nn.functional.cross_entropy(outputs, labels))


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_collate_that_zips_is_welcome(kind):
    """Images and targets zipped as in torchvision's references come back in their kind."""

    def zipped(samples):
        return kind(kind(column) for column in zip(*samples, strict=True))

    target = {"boxes": torch.tensor([[1.0, 1.0, 9.0, 9.0]]), "labels": torch.tensor([1])}
    samples = [(torch.full((3, 16, 16), i / 8), target) for i in range(4)]
    images, targets = make_collate_fn(CutMix(), collate_fn=zipped)(samples)
    assert type(images) is kind
    assert type(targets) is kind
    assert images[0].shape == (3, 16, 16)
    assert all("mix_weight" in one for one in targets)


# --- The DETR family ----------------------------------------------------------------------------


class Fixed(Mixup):
    """Mix each image with the one before it, by a weight that was chosen."""

    def sample(self, batch, p, source):
        """Draw nothing."""
        return make_plan(BLEND, batch.length, True, partner=1, lam=self.weight)


@pytest.mark.parametrize("lam", [0.45, 0.5, 0.55])
def test_mixup_is_that_of_the_detr_family(lam):
    """For one plan images and targets are those of a plain loop that rolls the batch by one."""
    torch.manual_seed(0)
    images, targets = torch.rand(4, 3, 32, 48), []
    for count in (2, 0, 3, 1):
        middle = torch.rand(count, 2) / 2 + 0.25
        boxes = torch.cat([middle, torch.rand(count, 2) / 2 + 0.01], 1)
        labels, area = torch.randint(80, (count,)), torch.rand(count)
        targets.append({"boxes": boxes, "labels": labels, "area": area, "image_id": count})

    rolled = images.roll(1, dims=0)
    expected = []
    for own, other in zip(targets, targets[-1:] + targets[:-1], strict=True):
        joined = {key: torch.cat([own[key], other[key]]) for key in ("boxes", "labels", "area")}
        weights = [lam] * len(own["boxes"]) + [1 - lam] * len(other["boxes"])
        expected.append({**own, **joined, "mix_weight": torch.tensor(weights)})

    transform = Fixed(box_format="cxcywh_normalised")
    transform.weight = lam
    mixed_images, mixed = transform(images, targets)
    torch.testing.assert_close(mixed_images, lam * images + (1 - lam) * rolled)
    for target, wanted in zip(mixed, expected, strict=True):
        assert target.keys() == wanted.keys()
        assert target["image_id"] == wanted["image_id"]
        for key in ("boxes", "labels", "area"):
            assert torch.equal(target[key], wanted[key])
        torch.testing.assert_close(target["mix_weight"], wanted["mix_weight"])


def draw_processed(count, owner, size):
    """Make a target as the image processors of Hugging Face make them."""
    low = torch.rand(count, 2) * 0.5
    sides = torch.rand(count, 2) * 0.4 + 0.1
    height, width = size
    return collections.UserDict(
        size=torch.tensor(size),
        image_id=torch.tensor([owner]),
        class_labels=torch.arange(count) + 10 * owner,
        boxes=torch.cat([low + sides / 2, sides], 1),
        area=sides.prod(1) * width * height,
        iscrowd=torch.zeros(count, dtype=torch.int64),
        orig_size=torch.tensor([480, 640]),
    )


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@given(st.lists(st.integers(0, 4), min_size=2, max_size=4), seeds)
def test_targets_of_hugging_face_s_processors_follow(kind, counts, seed):
    """class_labels, boxes, area and iscrowd go with their object; the sizes stay the image's."""
    torch.manual_seed(seed)
    size = (24, 32)
    labels = [draw_processed(count, owner, size) for owner, count in enumerate(counts)]
    pixels = torch.arange(1.0, len(counts) + 1).view(-1, 1, 1, 1).expand(-1, 3, *size)
    transform = kind(box_format="cxcywh_normalised")
    batch, plan = transform.mix({"pixel_values": pixels, "labels": labels})
    scale = torch.tensor([size[1], size[0]] * 2)
    for row, target in enumerate(batch["labels"]):
        own = labels[row]
        for key in ("size", "image_id", "orig_size"):
            assert target[key] is own[key]
        for place, code in enumerate(target["class_labels"].tolist()):
            owner, index = divmod(code, 10)
            assert owner in (row, int(plan.partner[row]))
            before = ops.box_convert(labels[owner]["boxes"][index] * scale, "cxcywh", "xyxy")
            after = ops.box_convert(target["boxes"][place] * scale, "cxcywh", "xyxy")
            assert (after[:2] >= before[:2] - 1e-3).all()
            assert (after[2:] <= before[2:] + 1e-3).all()
            assert 0 < target["area"][place] <= labels[owner]["area"][index]
            if kind is Mixup:
                assert torch.equal(target["boxes"][place], labels[owner]["boxes"][index])
            elif kind is CutMix:  # every side of a box lies at pixels of its image
                x1, y1, x2, y2 = (after + torch.tensor([1e-3, 1e-3, -1e-3, -1e-3])).tolist()
                seen = batch["pixel_values"][row, 0] == owner + 1
                shown = seen[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
                assert all(edge.any() for edge in (shown[0], shown[-1], shown[:, 0], shown[:, -1]))
        assert (target["iscrowd"] == 0).all()
        lengths = {len(target[k]) for k in ("boxes", "class_labels", "area", "iscrowd")}
        assert lengths == {len(target["mix_weight"])}


@pytest.mark.parametrize(
    ("box_format", "error"), [("yxyx", ValueError), (3, TypeError), (None, TypeError)]
)
def test_an_unknown_box_format_is_refused_at_once(box_format, error):
    """The constructor says which formats there are."""
    with pytest.raises(error, match="box_format must be"):
        CutMix(box_format=box_format)


# --- Images of unequal size ---------------------------------------------------------------------


def draw_sized(style, with_masks, most=4):
    """Draw images of unequal size, of which each has a channel of its own, and their targets."""
    count = int(torch.randint(2, 6, ()))
    sizes = [tuple(torch.randint(5, 14, (2,)).tolist()) for _ in range(count)]
    images, targets, first = [], [], 0
    for owner, size in enumerate(sizes):
        image = torch.zeros(count, *size)
        image[owner] = 1
        number = int(torch.randint(most + 1, ()))
        target = draw_target(first, owner, number, style if style in FORMATS else "plain", size)
        target["masks"] = target["masks"].as_subclass(torch.Tensor)
        if style == "cxcywh_normalised":
            scale = torch.tensor([size[1], size[0]] * 2)
            target["boxes"] = ops.box_convert(target["boxes"], "xyxy", "cxcywh") / scale
        images.append(image)
        targets.append(target)
        first += number
    given = targets if with_masks else [{k: t[k] for k in t if k != "masks"} for t in targets]
    return images, targets, given


def lay(mask, size):
    """Lay a mask on a canvas of another size, upper left corners on each other."""
    height, width = map(min, mask.shape, size)
    out = torch.zeros(size, dtype=torch.bool)
    out[:height, :width] = mask[:height, :width].bool()
    return out


def check_objects_of(row, out, target, targets, least):
    """Check the objects of one image against the weights that each image has in its pixels."""
    size = tuple(out.shape[1:])
    listed = {code: place for place, code in enumerate(target["code"].tolist())}
    assert len(listed) == len(target["code"]) == len(target["mix_weight"])
    for code, (owner, thing) in find_objects(targets).items():
        seen = lay(thing["masks"], size) & (out[owner] > 0)
        share = float(seen.sum()) / float(thing["masks"].sum())
        assert (code in listed) == (share > 0 and share >= least)
        if code not in listed:
            continue
        place = listed[code]
        weight = float(out[owner][seen].mean())
        assert float(target["mix_weight"][place]) == pytest.approx(weight, abs=1e-5)
        assert float(target["area"][place]) == pytest.approx(float(seen.sum()), rel=1e-5)
        if "masks" in target:
            assert torch.equal(target["masks"][place].bool(), seen)
        ys, xs = seen.nonzero(as_tuple=True)
        tight = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
        boxes = target["boxes"]
        if isinstance(boxes, tv_tensors.BoundingBoxes):
            assert boxes.canvas_size == size
        elif boxes.max() <= 1 and boxes.numel() and "normalised" in target:
            scale = torch.tensor([size[1], size[0]] * 2)
            boxes = ops.box_convert(boxes * scale, "cxcywh", "xyxy")
        torch.testing.assert_close(to_corners(boxes)[place], tight, atol=1e-3, rtol=0)
        for point, was in zip(target["keypoints"][place], thing["keypoints"], strict=True):
            x, y = int(was[0]), int(was[1])
            on = y < size[0] and x < size[1] and out[owner, y, x] > 0
            assert torch.equal(point[:2], was[:2])
            assert point[2] == (was[2] if on else 0)


@pytest.mark.parametrize("style", [*FORMATS, "cxcywh_normalised"])
@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout, RandomErasing])
@given(st.sampled_from(["batch", "sample"]), st.sampled_from([0.5, 1.0]), st.booleans(), seeds)
def test_images_of_unequal_size_are_mixed_where_they_overlap(style, kind, mode, p, masks, seed):
    """Sizes stay, and labels, boxes, masks and weights are those of the pixels of each image."""
    torch.manual_seed(seed)
    images, targets, given = draw_sized(style, masks)
    count, before = len(images), copy.deepcopy((images, given))
    plain = style if style == "cxcywh_normalised" else "xyxy"
    more = {} if kind is Mixup else {"min_visible": 0.3}
    transform = kind(p=p, mode=mode, num_classes=count, sizes="overlap", box_format=plain, **more)
    (out, labels, mixed), plan = transform.mix((images, torch.arange(count), given))
    for row, (own, new, target) in enumerate(zip(images, out, mixed, strict=True)):
        other = int(plan.partner[row])
        assert new.shape == own.shape
        height, width = map(min, own.shape[1:], images[other].shape[1:])
        outside = new.clone()
        if kind in (Mixup, CutMix):
            outside[:, :height, :width] = own[:, :height, :width]
            assert torch.equal(outside, own)
            share = new.mean((1, 2))
            if kind is CutMix:
                counted = new.double().sum((1, 2)) / (new[0].numel())
                share = counted.float()
        else:
            share = own[:, 0, 0]
        torch.testing.assert_close(labels[row], share, atol=1e-6, rtol=0)
        if plain != "xyxy":
            target = {**target, "normalised": True}
        assert target["image_id"] == 100 + row
        check_objects_of(row, new, target, targets, more.get("min_visible", 0.1))
    for old, now in zip(before[0], images, strict=True):
        assert torch.equal(old, now)
    for old, now in zip(before[1], given, strict=True):
        assert all(torch.equal(old[k], now[k]) for k in now if isinstance(now[k], torch.Tensor))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
def test_overlap_changes_nothing_where_sizes_agree(kind, dtype):
    """A list of equal images gets the same bits and the same plan with either choice."""
    images = list((torch.rand(4, 3, 9, 7) * 255).to(dtype))
    results = []
    for sizes in ("equal", "overlap"):
        torch.manual_seed(3)
        results.append(kind(mode="sample", sizes=sizes, labels_getter=None).mix(images))
    (one, plan), (other, same_plan) = results
    assert all(map(torch.equal, one, other))
    assert all(map(torch.equal, plan, same_plan))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
def test_unequal_images_go_through_the_same_kernels(dtype):
    """Where two images overlap, the pixels are what the kernel makes of the two crops."""
    torch.manual_seed(0)
    first, second = ((torch.rand(3, *size) * 255).to(dtype) for size in ((6, 9), (8, 5)))
    for transform in (Mixup(sizes="overlap"), CutMix(sizes="overlap")):
        transform.labels_getter = None
        (one, other), plan = transform.mix([first, second])
        crops = torch.stack([first[:, :6, :5], second[:, :6, :5]])
        inner = torch.tensor([1 - (1 - float(plan.lam[0])) * 54 / 30, 0])
        if isinstance(transform, Mixup):
            expected = functional.mixup(crops, plan.partner, inner)[0]
        else:
            expected = functional.cutmix(crops, plan.partner, plan.boxes)[0]
        assert one.dtype == other.dtype == dtype
        assert torch.equal(one[:, :6, :5], expected)
        assert torch.equal(one[:, :, 5:], first[:, :, 5:])
        assert torch.equal(other[:, 6:], second[:, 6:])


def test_unequal_images_are_written_to_only_in_place():
    """With inplace=True the images given hold the mix, at the same plan as without."""

    def draw():
        torch.manual_seed(1)
        return [torch.rand(3, 6, 9), torch.rand(3, 8, 5), torch.rand(3, 7, 7)]

    images = draw()
    expected = CutMix(sizes="overlap", labels_getter=None)(images)
    again = draw()
    assert CutMix(sizes="overlap", labels_getter=None, inplace=True)(again) is not None
    assert all(map(torch.equal, again, expected))
    assert all(map(torch.equal, images, draw()))


def test_a_loader_zips_unequal_samples_and_mixes_them():
    """As torchvision's references collate: a list of images, a list of targets, and the plan."""
    torch.manual_seed(0)
    images, targets, _ = draw_sized("XYXY", True)
    samples = list(zip(map(tv_tensors.Image, images), targets, strict=True))

    def zipped(samples):
        return tuple(zip(*samples, strict=True))

    either = [Mixup(sizes="overlap"), CutMix(sizes="overlap", min_visible=0.1)]
    collate = make_collate_fn(either, collate_fn=zipped, seed=0, record=True)
    for _ in range(6):
        out, mixed, plan = collate(samples)
        assert len(plan.lam) == len(images)
        for row, (image, target) in enumerate(zip(out, mixed, strict=True)):
            assert type(image) is tv_tensors.Image
            pixels = image.as_subclass(torch.Tensor)
            assert float(plan.lam[row]) == pytest.approx(float(pixels[row].mean()), abs=1e-6)
            check_objects_of(row, pixels, target, targets, 0.1)


UNEQUAL = [torch.rand(3, 6, 9), torch.rand(3, 8, 5)]


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (
            {"a": UNEQUAL, "b": UNEQUAL[::-1]},
            r"lists of sizes \(\(6, 9\), \(8, 5\)\), .* at \['b'\]",
        ),
        ({"a": UNEQUAL, "b": torch.rand(2, 3, 6, 9)}, r"other sizes or a mask at \['b'\]"),
        (
            {"a": UNEQUAL, "m": tv_tensors.Mask(torch.zeros(2, 6, 9).long())},
            r"other sizes or a mask at \['m'\]",
        ),
        ([torch.rand(3, 6, 9), torch.rand(1, 8, 5)], "of one size"),
        ([torch.rand(3, 6, 9), torch.rand(3, 8, 5).double()], "of one size"),
    ],
)
def test_what_does_not_fit_unequal_images_is_refused(batch, text):
    """Second views of other sizes, stacked masks, other channels or dtypes are named."""
    with pytest.raises(ValueError, match=text):
        Mixup(sizes="overlap", labels_getter=None, masks="dominant")(batch)


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
def test_unequal_images_are_refused_by_default(kind):
    """Without a word images of unequal size are an error, which says what could be said."""
    with pytest.raises(ValueError, match=r"must be of one size .* or .*sizes='overlap'"):
        kind(labels_getter=None)(UNEQUAL)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"sizes": "any"}, ValueError, "sizes must be one of 'equal', 'overlap'"),
        ({"sizes": 3}, TypeError, "sizes must be a string"),
        ({"sizes": "overlap", "correct_lam": False}, ValueError, "correct_lam must be True"),
    ],
)
def test_sizes_are_checked_in_the_constructor(options, error, text):
    """A wrong choice is refused at once, and weights against the pixels with it."""
    with pytest.raises(error, match=text):
        CutMix(**options)


def test_a_chain_that_follows_pixels_takes_one_size():
    """Provenance is counted on one canvas; step by step a chain takes unequal images too."""
    steps = [Mixup(num_classes=2, sizes="overlap"), CutMix(num_classes=2, sizes="overlap")]
    with pytest.raises(ValueError, match="sizes must be 'equal' in a chain with provenance"):
        Chain(steps)
    images, labels = Chain(steps, provenance=False)(UNEQUAL, torch.arange(2))
    assert [image.shape for image in images] == [image.shape for image in UNEQUAL]
    torch.testing.assert_close(labels.sum(1), torch.ones(2))


@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_one_of_several_rules_mixes_unequal_images(mode):
    """Each sample's label counts the pixels of the operation that was chosen for it."""
    torch.manual_seed(2)
    images, _, _ = draw_sized("XYXY", False)
    count = len(images)
    rules = [kind(num_classes=count, sizes="overlap") for kind in (Mixup, CutMix)]
    for _ in range(5):
        out, labels = OneOf(rules, mode=mode)(images, torch.arange(count))
        shares = torch.stack([image.mean((1, 2)) for image in out])
        torch.testing.assert_close(labels, shares, atol=1e-6, rtol=0)
