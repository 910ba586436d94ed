"""Detection targets in whole batches, up to a training step of torchvision's models.

Image i is 1 in channel i and 0 elsewhere, so channel i of an output shows the weight of image i at
each pixel.
"""

import collections
import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
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

FORMATS = ("plain", "XYXY", "XYWH", "CXCYWH", "cxcywh_normalised")
HAS_POINTS = hasattr(tv_tensors, "KeyPoints")  # a newer torchvision has them
KINDS = pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
SHARES = [0.05, 0.3, 1.0]
OPTIONS = {
    Mixup: {"pairing": ["roll", "shuffle"]},
    CutMix: {"pairing": ["roll", "shuffle"], "min_visible": SHARES},
    Cutout: {"holes": [1, 2, 3], "min_visible": SHARES},
    RandomErasing: {"count": [1, 2], "min_visible": SHARES},
}


def draw_target(first, owner, count, style="XYXY", size=(13, 17), typed=False):
    """Draw a target with ``count`` rectangles, masks that fill them and two keypoints each."""
    sides = torch.tensor([size[1], size[0]])
    low = (torch.rand(count, 2) * sides).long()
    high = low + 1 + (torch.rand(count, 2) * (sides - low)).long()
    boxes = torch.cat([low, high], 1).float()
    y, x = torch.arange(size[0])[:, None], torch.arange(size[1])
    x1, y1, x2, y2 = boxes.T[..., None, None]
    masks = ((x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)).to(torch.uint8)
    if style == "cxcywh_normalised":
        boxes = ops.box_convert(boxes, "xyxy", "cxcywh") / sides.repeat(2)
    elif style != "plain":
        boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
        boxes = v2f.convert_bounding_box_format(boxes, new_format=style)
    points = torch.rand(count, 2, 2) * sides
    flags = torch.randint(1, 3, (count, 2, 1)).float()
    return {
        "boxes": boxes,
        "labels": torch.randint(1, 9, (count,)),
        "masks": tv_tensors.Mask(masks) if typed else masks,
        "keypoints": tv_tensors.KeyPoints(points, canvas_size=size)
        if typed and HAS_POINTS
        else torch.cat([points, flags], 2),
        "area": masks.flatten(1).sum(1).float(),
        "iscrowd": torch.zeros(count, dtype=torch.int64),
        "code": torch.arange(first, first + count),
        "image_id": 100 + owner,
        "file": f"{owner}.png",
    }


def draw_batch(sizes, style="XYXY", most=6, typed=False):
    """Draw an image and a target per size; ``code`` numbers the objects of the batch."""
    images, targets, first = [], [], 0
    for owner, size in enumerate(sizes):
        images.append(torch.zeros(len(sizes), *size))
        images[owner][owner] = 1
        number = int(torch.randint(most + 1, ()))
        targets.append(draw_target(first, owner, number, style, size, typed))
        first += number
    return images, targets


def draw_sizes():
    return [tuple(torch.randint(5, 14, (2,)).tolist()) for _ in range(torch.randint(2, 6, ()))]


def find_objects(targets):
    """Return the owner and the entries of each object by its number."""
    found = {}
    for owner, target in enumerate(targets):
        for row, code in enumerate(target["code"].tolist()):
            keys = [key for key in target if key not in ("image_id", "file")]
            found[code] = owner, {key: target[key][row] for key in keys}
    return found


def lay(mask, size):
    """Crop and pad a mask to another size at its upper left corner."""
    return F.pad(mask.bool(), (0, size[1] - mask.shape[1], 0, size[0] - mask.shape[0]))


def to_corners(boxes, style, size):
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        assert boxes.canvas_size == size
        boxes = v2f.convert_bounding_box_format(boxes, new_format="XYXY")
    elif style == "cxcywh_normalised":
        boxes = ops.box_convert(boxes * torch.tensor([size[1], size[0]] * 2), "cxcywh", "xyxy")
    return boxes.as_subclass(torch.Tensor)


def check_target(row, out, target, targets, least, style="XYXY"):
    """Check one target against the weight that the image shows of each object at each pixel."""
    size, own = tuple(out.shape[1:]), targets[row]
    pairs = own["keypoints"].shape[-1] == 2
    assert {*target, "masks"} == {*own, "mix_weight"} | ({"keypoints_visible"} if pairs else set())
    for key in target.keys() & own.keys():
        if key in ("image_id", "file"):
            assert target[key] is own[key]
        else:
            assert type(target[key]) is type(own[key])
            assert target[key].dtype == own[key].dtype
            assert target[key].shape[1:] == own[key].shape[1:]
            assert len(target[key]) == len(target["code"]) == len(target["mix_weight"])
    corners, listed = to_corners(target["boxes"], style, size), []
    for code, (owner, thing) in find_objects(targets).items():
        seen = lay(thing["masks"], size) & (out[owner] > 0)
        share = float(seen.sum()) / float(thing["masks"].sum())
        if share == 0 or share < least:
            continue
        listed.append((owner != row, code))
        place = target["code"].tolist().index(code)
        new = {
            key: value[place] for key, value in target.items() if key not in ("image_id", "file")
        }
        weight = float(out[owner][seen].mean())
        assert float(new["mix_weight"]) == pytest.approx(weight, abs=1e-5)
        if share == 1 and thing["masks"].shape == seen.shape:
            same = new.keys() & thing.keys() - {"keypoints"}
            assert all(torch.equal(new[key], thing[key]) for key in same)
        assert new["labels"] == thing["labels"]
        assert float(new["area"]) == pytest.approx(float(seen.sum()), rel=1e-5)
        assert torch.equal(new.get("masks", seen).bool(), seen)
        ys, xs = seen.nonzero(as_tuple=True)
        tight = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
        torch.testing.assert_close(corners[place], tight, atol=1e-3, rtol=0)
        points = thing["keypoints"]
        assert torch.equal(new["keypoints"][:, :2], points[:, :2])
        shown = F.pad(out[owner], (0, 14, 0, 14)) > 0
        on = shown[points[:, 1].long(), points[:, 0].long()]
        if pairs:
            assert torch.equal(new["keypoints_visible"], on)
        else:
            assert torch.equal(new["keypoints"][:, 2], points[:, 2] * on)
    assert target["code"].tolist() == [code for _, code in sorted(listed)]


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("sizes", ["equal", "overlap"])
@given(st.data(), st.sampled_from(["batch", "sample"]), st.sampled_from([0.0, 0.5, 1.0]))
def test_objects_follow_their_pixels(sizes, kind, style, data, mode, p):
    """Boxes, masks, keypoints, areas, weights and labels are those of the pixels of each image."""
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    shapes = draw_sizes() if sizes == "overlap" else [(13, 17)] * data.draw(st.integers(2, 5))
    flags = st.tuples(st.sampled_from([0, 6]), st.booleans(), st.booleans())
    most, typed, with_masks = data.draw(flags)
    images, targets = draw_batch(shapes, style, most, typed)
    given_targets = [{k: t[k] for k in t if with_masks or k != "masks"} for t in targets]
    before, count = copy.deepcopy((images, given_targets)), len(images)
    options = {name: data.draw(st.sampled_from(values)) for name, values in OPTIONS[kind].items()}
    plain = style if style == "cxcywh_normalised" else "xyxy"
    transform = kind(p=p, mode=mode, num_classes=count, sizes=sizes, box_format=plain, **options)
    batch = torch.stack(images) if sizes == "equal" else images
    (out, labels, mixed), plan = transform.mix((batch, torch.arange(count), given_targets))
    for row, (own, new, target) in enumerate(zip(images, out, mixed, strict=True)):
        assert new.shape == own.shape
        assert ("masks" in target) == with_masks
        label = own[:, 0, 0]
        if kind in (Mixup, CutMix):
            height, width = map(min, own.shape[1:], images[plan.partner[row]].shape[1:])
            assert torch.equal(new[:, height:], own[:, height:])
            assert torch.equal(new[..., width:], own[..., width:])
            label = new.double().mean((1, 2)).float()
        torch.testing.assert_close(labels[row], label, atol=1e-6, rtol=0)
        check_target(row, new, target, targets, options.get("min_visible", 0.1), style)
    assert all(map(torch.equal, batch, before[0]))
    for target, old in zip(given_targets, before[1], strict=True):
        assert target.keys() == old.keys()
        tensors = [key for key in old if isinstance(old[key], torch.Tensor)]
        assert all(torch.equal(target[key], old[key]) for key in tensors)


@KINDS
def test_entries_named_in_passthrough_stay_the_originals(kind):
    """passthrough= lets an entry through that no rule covers."""
    images, targets = draw_batch([(13, 17)] * 5)
    for target in targets:
        target["depth"] = torch.rand(13, 17)
    with pytest.raises(ValueError, match=r"\['depth'\].*passthrough"):
        kind()(images, targets)
    _, mixed = kind(passthrough=("depth",))(images, targets)
    assert all(new["depth"] is old["depth"] for new, old in zip(mixed, targets, strict=True))


# --- From a loader ------------------------------------------------------------------------------


def test_samples_with_targets_are_collated_and_mixed():
    """The default collate function keeps targets in a list, types included, and mixes them."""
    images, targets = draw_batch([(13, 17)] * 4)
    samples = list(zip(map(tv_tensors.Image, images), targets, strict=True))
    out, mixed, _ = make_collate_fn(CutMix(min_visible=0.2), record=True)(samples)
    assert type(out) is tv_tensors.Image
    assert type(mixed) is list
    for row, (image, target) in enumerate(zip(out, mixed, strict=True)):
        check_target(row, image, target, targets, 0.2)


def test_images_of_several_sizes_need_a_collate_that_pads():
    """Different sizes are refused with a hint, and pass with a collate function that pads them."""
    images, targets = draw_batch([(10, 12), (13, 9), (8, 8)], typed=True)
    samples = list(zip(map(tv_tensors.Image, images), targets, strict=True))
    with pytest.raises(ValueError, match="or pass a collate_fn that pads"):
        make_collate_fn(CutMix())(samples)

    def pad(samples):
        steps = (v2.Pad([0, 0, 17 - x.shape[-1], 13 - x.shape[-2]]) for x, _ in samples)
        padded = [step(*sample) for step, sample in zip(steps, samples, strict=True)]
        return [image for image, _ in padded], [target for _, target in padded]

    _, targets = pad(samples)
    out, mixed = make_collate_fn(CutMix(min_visible=0.2), collate_fn=pad)(samples)
    assert type(out) is list
    for row, (image, target) in enumerate(zip(out, mixed, strict=True)):
        assert type(image) is tv_tensors.Image
        check_target(row, image, target, targets, 0.2)


def load(samples, transform):
    return next(iter(DataLoader(samples, batch_size=4, collate_fn=make_collate_fn(transform))))


def assert_trains(model, loss):
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("transform", [Mixup(), CutMix()], ids=["mixup", "cutmix"])
def test_faster_rcnn_takes_a_mixed_batch(transform):
    """Torchvision's detector does a backward pass on images and targets from a loader."""
    boxes = torch.tensor([[4.0, 4, 30, 28], [20, 10, 60, 50]])
    samples = []
    for index, count in enumerate((0, 1, 2, 0)):
        typed = tv_tensors.BoundingBoxes(boxes[:count], format="XYXY", canvas_size=(64, 64))
        target = {"boxes": typed, "labels": torch.ones(count).long(), "image_id": index}
        samples.append((tv_tensors.Image(torch.rand(3, 64, 64)), target))
    images, targets = load(samples, transform)
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
    assert_trains(model, sum(model(list(images.as_subclass(torch.Tensor)), targets).values()))


@pytest.mark.parametrize(
    "transform", [CutMix(), Mixup(masks="soft", num_mask_classes=3)], ids=["cutmix", "mixup"]
)
def test_deeplab_takes_a_mixed_batch(transform):
    """Torchvision's segmentation model does a backward pass on hard and on soft masks."""
    masks = map(tv_tensors.Mask, torch.randint(3, (4, 33, 33)))
    images, masks = load(list(zip(torch.rand(4, 3, 33, 33), masks, strict=True)), transform)
    model = models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=3
    )
    loss = nn.functional.cross_entropy(model(images)["out"], masks.as_subclass(torch.Tensor))
    assert_trains(model, loss)


@pytest.mark.parametrize("transform", [CutMix(num_classes=4, cut="cuboid"), Mixup(num_classes=4)])
def test_r3d_takes_a_mixed_batch(transform):
    """Torchvision's video model does a backward pass on mixed videos and soft labels."""
    samples = [(tv_tensors.Video(torch.rand(4, 3, 32, 32)), index) for index in range(4)]
    videos, labels = load(samples, transform)
    assert type(videos) is tv_tensors.Video
    model = models.video.r3d_18(weights=None, num_classes=4)
    outputs = model(videos.as_subclass(torch.Tensor).transpose(1, 2))
    assert_trains(model, nn.functional.cross_entropy(outputs, labels))


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_collate_function_may_zip_samples(kind):
    """Images and targets zipped as in torchvision's references come back in the same container."""

    def zipped(samples):
        return kind(kind(column) for column in zip(*samples, strict=True))

    target = {"boxes": torch.tensor([[1.0, 1.0, 9.0, 9.0]]), "labels": torch.tensor([1])}
    samples = [(torch.full((3, 16, 16), i / 8), target) for i in range(4)]
    images, targets = make_collate_fn(CutMix(), collate_fn=zipped)(samples)
    assert type(images) is kind
    assert type(targets) is kind
    assert images[0].shape == (3, 16, 16)
    assert all("mix_weight" in one for one in targets)


def test_a_loader_zips_unequal_samples_and_mixes_them():
    """Lists of unequal images and their targets are mixed, and the plan has the pixel shares."""
    images, targets = draw_batch(draw_sizes())
    samples = list(zip(map(tv_tensors.Image, images), targets, strict=True))
    either = [Mixup(sizes="overlap"), CutMix(sizes="overlap", min_visible=0.1)]
    collate = make_collate_fn(
        either, collate_fn=lambda samples: tuple(zip(*samples, strict=True)), seed=0, record=True
    )
    for _ in range(6):
        out, mixed, plan = collate(samples)
        assert len(plan.lam) == len(images)
        for row, (image, target) in enumerate(zip(out, mixed, strict=True)):
            assert type(image) is tv_tensors.Image
            pixels = image.as_subclass(torch.Tensor)
            assert float(plan.lam[row]) == pytest.approx(float(pixels[row].mean()), abs=1e-6)
            check_target(row, pixels, target, targets, 0.1)


# --- The DETR family ----------------------------------------------------------------------------


class Fixed(Mixup):
    """Mix each image with the previous one by a chosen weight."""

    def sample(self, batch, p, source):
        """Return the plan."""
        return make_plan(BLEND, batch.length, True, partner=1, lam=self.weight)


@pytest.mark.parametrize("lam", [0.45, 0.5, 0.55])
def test_mixup_is_that_of_the_detr_family(lam):
    """A plan gives the images and targets of a plain loop that rolls the batch by one."""
    images, targets = torch.rand(4, 3, 32, 48), []
    for count in (2, 0, 3, 1):
        centres, sides = torch.rand(count, 2) / 2 + 0.25, torch.rand(count, 2) / 2 + 0.01
        labels, area = torch.randint(80, (count,)), torch.rand(count)
        boxes = torch.cat([centres, sides], 1)
        targets.append({"boxes": boxes, "labels": labels, "area": area, "image_id": count})
    transform = Fixed(box_format="cxcywh_normalised")
    transform.weight = lam
    mixed_images, mixed = transform(images, targets)
    torch.testing.assert_close(mixed_images, lam * images + (1 - lam) * images.roll(1, dims=0))
    for target, own, other in zip(mixed, targets, targets[-1:] + targets[:-1], strict=True):
        assert target.keys() == {*own, "mix_weight"}
        assert target["image_id"] == own["image_id"]
        for key in ("boxes", "labels", "area"):
            assert torch.equal(target[key], torch.cat([own[key], other[key]]))
        weights = [lam] * len(own["boxes"]) + [1 - lam] * len(other["boxes"])
        torch.testing.assert_close(target["mix_weight"], torch.tensor(weights))


@KINDS
@given(st.lists(st.integers(0, 4), min_size=2, max_size=4), st.integers(0, 2**32))
def test_targets_of_hugging_face_processors_follow(kind, counts, seed):
    """Entries under Hugging Face's names are mixed as under torchvision's, and sizes stay."""
    torch.manual_seed(seed)
    size, scale = (24, 32), torch.tensor([32, 24] * 2)
    labels, targets = [], []
    for owner, count in enumerate(counts):
        low, sides = torch.rand(count, 2) * 0.5, torch.rand(count, 2) * 0.4 + 0.1
        boxes = torch.cat([low + sides / 2, sides], 1)
        target = {
            "area": sides.prod(1) * 24 * 32,
            "iscrowd": torch.zeros(count, dtype=torch.int64),
            "class_labels": torch.arange(count) + 10 * owner,
        }
        fixed = {"size": torch.tensor(size), "orig_size": torch.tensor([480, 640])}
        labels.append(collections.UserDict({"boxes": boxes, **target, **fixed}))
        targets.append({"boxes": ops.box_convert(boxes * scale, "cxcywh", "xyxy"), **target})
    pixels = torch.rand(len(counts), 3, *size)
    torch.manual_seed(seed)
    batch = kind(box_format="cxcywh_normalised")({"pixel_values": pixels, "labels": labels})
    torch.manual_seed(seed)
    _, expected = kind()(pixels, targets)
    for target, wanted, own in zip(batch["labels"], expected, labels, strict=True):
        assert target["size"] is own["size"]
        assert target["orig_size"] is own["orig_size"]
        boxes = ops.box_convert(target["boxes"] * scale, "cxcywh", "xyxy")
        torch.testing.assert_close(boxes, wanted["boxes"], atol=1e-3, rtol=0)
        for key in ("area", "iscrowd", "class_labels", "mix_weight"):
            torch.testing.assert_close(target[key], wanted[key], atol=0, rtol=1e-3)


@pytest.mark.parametrize(
    ("box_format", "error"), [("yxyx", ValueError), (3, TypeError), (None, TypeError)]
)
def test_an_unknown_box_format_is_refused_in_the_constructor(box_format, error):
    """The error names the argument."""
    with pytest.raises(error, match="box_format must be"):
        CutMix(box_format=box_format)


# --- Images of unequal size ---------------------------------------------------------------------


UNEQUAL = [torch.rand(3, 6, 9), torch.rand(3, 8, 5)]


@KINDS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_overlap_changes_nothing_where_sizes_agree(kind, dtype):
    """A list of equal images gives the same bits and plan with sizes="equal" and "overlap"."""
    images = list((torch.rand(4, 3, 9, 7) * 255).to(dtype))
    results = []
    for sizes in ("equal", "overlap"):
        torch.manual_seed(3)
        results.append(kind(mode="sample", sizes=sizes, labels_getter=None).mix(images))
    (one, plan), (other, same_plan) = results
    assert all(map(torch.equal, one, other))
    assert all(map(torch.equal, plan, same_plan))


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
def test_unequal_images_go_through_the_same_kernels(kind, dtype):
    """Where two images overlap, the pixels are what the kernel makes of the two crops."""
    first, second = ((image * 255).to(dtype) for image in UNEQUAL)
    (one, other), plan = kind(sizes="overlap", labels_getter=None).mix([first, second])
    crops = torch.stack([first[:, :6, :5], second[:, :6, :5]])
    inner = torch.tensor([1 - (1 - float(plan.lam[0])) * 54 / 30, 0])
    if kind is Mixup:
        expected = functional.mixup(crops, plan.partner, inner)[0]
    else:
        expected = functional.cutmix(crops, plan.partner, plan.boxes)[0]
    assert one.dtype == other.dtype == dtype
    assert torch.equal(one[:, :6, :5], expected)
    assert torch.equal(one[:, :, 5:], first[:, :, 5:])
    assert torch.equal(other[:, 6:], second[:, 6:])


def test_unequal_images_are_written_to_only_in_place():
    """With inplace=True the given images hold the mix, for the same plan as without."""
    images = [*UNEQUAL, torch.rand(3, 7, 7)]
    copied, results = (copy.deepcopy(images) for _ in range(2)), []
    for inplace, batch in zip((False, True), copied, strict=True):
        torch.manual_seed(1)
        out = CutMix(sizes="overlap", labels_getter=None, inplace=inplace)(batch)
        results.append((batch, out))
    (kept, expected), (written, _) = results
    assert all(map(torch.equal, kept, images))
    assert all(map(torch.equal, written, expected))
    assert not all(map(torch.equal, written, images))


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
def test_fields_that_do_not_fit_unequal_images_are_refused(batch, text):
    """Second views of other sizes, stacked masks, other channels or dtypes are named."""
    with pytest.raises(ValueError, match=text):
        Mixup(sizes="overlap", labels_getter=None, masks="dominant")(batch)


@KINDS
def test_unequal_images_are_refused_by_default(kind):
    """The error names the argument that allows them."""
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
    """A wrong choice is refused, and so are weights that do not count pixels."""
    with pytest.raises(error, match=text):
        CutMix(**options)


def test_a_chain_with_provenance_takes_one_size():
    """Without provenance a chain takes unequal images too."""
    steps = [Mixup(num_classes=2, sizes="overlap"), CutMix(num_classes=2, sizes="overlap")]
    with pytest.raises(ValueError, match="sizes must be 'equal' in a chain with provenance"):
        Chain(steps)
    images, labels = Chain(steps, provenance=False)(UNEQUAL, torch.arange(2))
    assert [image.shape for image in images] == [image.shape for image in UNEQUAL]
    torch.testing.assert_close(labels.sum(1), torch.ones(2))


@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_one_of_mixes_unequal_images(mode):
    """Each sample's label counts the pixels of the operation that was chosen for it."""
    images, _ = draw_batch(draw_sizes())
    count = len(images)
    rules = [kind(num_classes=count, sizes="overlap") for kind in (Mixup, CutMix)]
    for _ in range(5):
        out, labels = OneOf(rules, mode=mode)(images, torch.arange(count))
        shares = torch.stack([image.mean((1, 2)) for image in out])
        torch.testing.assert_close(labels, shares, atol=1e-6, rtol=0)
