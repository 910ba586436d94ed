"""Nothing is mixed as what it is not: class ids, boxes, doubtful columns, memory that is shared."""

import itertools

import numpy as np
import pytest
import torch
from helpers.coded import coded_images
from helpers.refusals import refused
from torchvision import tv_tensors

from tv_mixaug import Chain, CutMix, Cutout, Mixup, make_collate_fn

COUNT, K = 4, 5
ALL = (Mixup, CutMix, Cutout)
LABELS = torch.tensor([3, 0, 2, 1])
TYPES = (torch.uint8, torch.int16, torch.int64, torch.bool, torch.float32)
MASK_KEYS = (
    "mask", "masks", "image_mask", "gt", "seg", "semseg", "seg_map", "segmentation", "label",
    "labelmap", "annotation", "trimap", "panoptic_seg",
)  # fmt: skip
IMAGE_KEYS = ("image", "view2", "masked_image", "picture", "usegpu", "message", "x")


# --- Class ids beside images --------------------------------------------------------------------


def batch_of(form, images, beside, key):
    """Put a tensor beside images, stacked, in a list, in a tuple or in samples, by key or not."""
    held = {"tensor": lambda t: t, "samples": lambda t: t, "list": list, "tuple": tuple}[form]
    first, second = ("image", key) if key else (0, 1)
    batch = {first: held(images), second: held(beside), "label" if key else 2: LABELS}
    if form == "samples":
        samples = [[part[i] for part in batch.values()] for i in range(COUNT)]
        return [dict(zip(batch, s, strict=True)) if key else tuple(s) for s in samples]
    return batch if key else tuple(batch.values())


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("form", ["tensor", "list", "tuple", "samples"])
@pytest.mark.parametrize("key", [None, "view2", "target", "seg_mask"])
def test_a_plain_tensor_in_an_images_shape_is_mixed_or_refused(kind, form, key):
    """It is an image only if nothing speaks for class ids: its name, its dtype, its channels."""
    for channels, image_type, dtype in itertools.product(
        (1, 3), (torch.uint8, torch.float32), TYPES
    ):
        images = coded_images(COUNT, dtype=image_type)
        beside = coded_images(COUNT, dtype=torch.int64, channels=channels).to(dtype)
        batch = batch_of(form, images, beside, key)
        transform = kind(num_classes=K, mode="batch")
        call = make_collate_fn(transform) if form == "samples" else transform
        grey = dtype == torch.uint8 == image_type and key == "view2"
        is_image = dtype == torch.float32 or (dtype == torch.uint8 and channels == 3) or grey
        if key == "seg_mask" or not is_image:
            refused(lambda: call(batch), "left behind", "tv_tensors.Mask", "passthrough=")  # noqa: B023
            continue
        mixed = list(call(batch).values() if key else call(batch))
        one, two = (torch.stack(tuple(m)) if isinstance(m, (list, tuple)) else m for m in mixed[:2])
        tolerance = 1 if torch.uint8 in (dtype, image_type) else 1e-5
        torch.testing.assert_close(one[:, :1].double(), two[:, :1].double(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("key", MASK_KEYS)
@pytest.mark.parametrize("shape", [(COUNT, 1, 8, 8), (COUNT, 3, 8, 8), (COUNT, 1, 4, 4)])
@pytest.mark.parametrize("wrap", [lambda x: x, tv_tensors.Image])
def test_what_is_called_a_mask_is_not_mixed_as_an_image(key, shape, wrap):
    """Whatever its dtype and size, it is refused, also beside an Image; passthrough= lets it by."""
    beside = torch.rand(shape)
    batch = {"image": wrap(coded_images(COUNT)), key: beside, "y": LABELS}
    if key in ("label", "labelmap", "annotation") and shape[-1] == 4 and wrap is tv_tensors.Image:
        return  # of another size these may be anything
    refused(lambda: Mixup(num_classes=K)(batch), f"['{key}']", "tv_tensors.Mask")
    assert Mixup(num_classes=K, passthrough=(key,))(batch)[key] is beside


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_other_names_are_images(key):
    """A name that only looks like one of a mask is none."""
    images = coded_images(COUNT)
    out = CutMix(num_classes=K)({"first": images, key: images.clone(), "label": LABELS})
    assert torch.equal(out["first"], out[key])


@pytest.mark.parametrize("held", [list, tuple])
@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 8, 8), (2, 1, 8, 8)])
@pytest.mark.parametrize("dtype", TYPES)
def test_lists_beside_tv_tensors_are_not_left_behind(held, shape, dtype):
    """A map for each sample in a list, or in a dict for each, is refused as its stack would be."""
    maps, kind = torch.ones(COUNT, *shape).to(dtype), CutMix
    for images in (
        tv_tensors.Image(coded_images(COUNT)),
        list(map(tv_tensors.Image, coded_images(COUNT))),
    ):
        for beside in (
            held(maps),
            held({"depth": one} for one in maps),
            held([one] for one in maps),
        ):
            call = lambda b=(images, LABELS, beside): kind(num_classes=K)(b)  # noqa: E731
            refused(call, "[2]", "left behind", "passthrough=")
            out = kind(num_classes=K, passthrough=(2,))((images, LABELS, beside))
            assert all(map(torch.equal, torch.utils._pytree.tree_leaves(out[2]), maps))


def test_features_in_a_list_pass():
    """What has no image's size, in a list or not, is nobody's business."""
    features = [torch.rand(7, 2), torch.rand(5, 2), torch.rand(8, 8), torch.rand(0, 2)]
    images = tv_tensors.Image(coded_images(COUNT))
    grid = torch.rand(8, 8)  # one for all, no list
    out = CutMix(num_classes=K)({"image": images, "label": LABELS, "f": features[:2], "grid": grid})
    assert out["f"][0] is features[0]
    assert out["grid"] is grid


def test_maps_beside_images_of_a_layout_are_found():
    """With channels last the map has its height and width in front, and is refused as well."""
    images = torch.rand(COUNT, 8, 9, 3)
    for maps in (torch.zeros(COUNT, 8, 9, 1).long(), torch.zeros(COUNT, 8, 9)):
        call = lambda m=maps: CutMix(num_classes=K, layout="BHWC")(images, LABELS, m)  # noqa: E731
        refused(call, "left behind")


@pytest.mark.parametrize("key", ["boxes", "bbox", "gt_boxes", "keypoints"])
@pytest.mark.parametrize("wrap", [lambda x: x, tv_tensors.Image])
@pytest.mark.parametrize(
    "boxes",
    [
        torch.rand(COUNT, 4),
        torch.rand(COUNT, 2, 4),
        [torch.rand(i, 4) for i in range(1, COUNT + 1)],
    ],
)
def test_boxes_that_are_no_targets_are_not_left_behind(key, wrap, boxes):
    """One dict of images, boxes and labels is refused, and says where boxes are to be."""
    batch = {"image": wrap(coded_images(COUNT)), key: boxes, "labels": LABELS}
    refused(lambda: Cutout(num_classes=K)(batch), f"['{key}']", "list of target dicts")
    out = Cutout(num_classes=K, passthrough=(key,))(batch)
    assert all(map(torch.equal, out[key], boxes))


def test_samples_of_one_dict_with_boxes_say_what_is_expected():
    """A data set of {"image", "boxes", "labels"} is told to give pairs."""
    sample = {"image": torch.rand(3, 8, 8), "boxes": torch.ones(1, 4), "labels": torch.tensor([1])}
    collate_fn = make_collate_fn(CutMix())
    refused(lambda: collate_fn([sample] * 2), "images", "(image, target)", kind=TypeError)


# --- Doubtful labels ----------------------------------------------------------------------------

IDS = torch.arange(COUNT)
X = coded_images(COUNT)
DOUBTFUL = {
    "image, index, label": ((X, IDS, LABELS), 2),
    "image, label, index": ((X, LABELS, IDS), 1),
    "label, index, image": ((LABELS, IDS, X), 0),
    "a dict without a name": ({"image": X, "index": IDS, "cls": LABELS}, "cls"),
    "a dict in another order": ({"cls": LABELS, "image": X, "index": IDS}, "cls"),
    "columns of (B, 1)": ((X, IDS[:, None], LABELS[:, None]), 2),
    "(B,) and (B, 1)": ((X, IDS, LABELS[:, None]), 2),
    "(B,) and K columns": ((X, IDS, torch.eye(K)[LABELS]), 2),
    "two names": ({"x": X, "label": LABELS, "target": IDS}, "label"),
    "two in a list of a name": ({"x": X, "labels": [LABELS, IDS]}, 0),
}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("row", DOUBTFUL)
def test_doubtful_labels_are_refused_until_one_is_named(kind, row):
    """Where several columns fit, the error says how to choose, and each way it names works."""
    batch, key = DOUBTFUL[row]
    refused(
        lambda: kind(num_classes=K)(batch),
        "labels could be at", " or ", "labels_getter=", "passthrough=", "num_classes={key: ...}",
    )  # fmt: skip
    parts = dict(batch if isinstance(batch, dict) else enumerate(batch))
    parts = dict(enumerate(parts["labels"])) if "labels" in parts else parts
    label, rest = parts[key], [k for k, v in parts.items() if v is not X and k != key]
    ways = [{"num_classes": K, "passthrough": rest}]
    if "labels" not in batch:
        ways.append({"num_classes": {key: K}})
        ways.append({"num_classes": K, "labels_getter": lambda given: given[key]})
    for way in ways:
        out = kind(**way)(batch)
        found = dict(out if isinstance(out, dict) else enumerate(out))
        found = dict(enumerate(found["labels"])) if "labels" in found else found
        assert all(found[k] is parts[k] for k in rest)
        assert found[key].shape == (COUNT, K)
        assert found[key] is not label


def test_what_decides_without_a_word():
    """A name, K columns, a position behind the image, or that nothing is done to any of them."""
    rows = torch.eye(K)[LABELS]
    for batch, key in (
        ({"index": IDS, "image": X, "label": LABELS}, "label"),
        ({"image": X, "box": torch.rand(COUNT, 7), "cls": LABELS}, "cls"),
        ((X, torch.rand(COUNT, 9), rows), 2),
        ((IDS, X, LABELS), 2),
    ):
        assert CutMix(num_classes=K)(batch)[key].shape == (COUNT, K)
    out = Cutout()(X, IDS, LABELS)
    assert out[1] is IDS
    assert out[2] is LABELS


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("key", ["label", "labels", "target", "y"])
@pytest.mark.parametrize("labels", [list("abcd"), [3, 0, 2, 1], [torch.tensor(1)] * COUNT, None])
def test_a_named_label_that_is_no_tensor_is_not_replaced_by_an_index(kind, key, labels):
    """The name decides: if what is called a label cannot be one, nothing else is taken for it."""
    batch = {"image": X, key: labels, "index": IDS}
    refused(lambda: kind(num_classes=K)(batch), "found no labels", f"['{key}']", "labels_getter=")


SEEN = {
    "strings": (["a"] * COUNT, "str at ['seen'][0]"),
    "floats": (torch.rand(COUNT), "shape (4,) and dtype float32"),
    "bools": (torch.ones(COUNT).bool(), "shape (4,) and dtype bool"),
    "a list": ([1, 2, 3, 0], "int at ['seen'][0]"),
    "none": (None, "a NoneType at ['seen']"),
    "an array": (np.arange(COUNT), "a ndarray of shape (4,)"),
    "a wrong length": (torch.arange(COUNT + 1), "shape (5,)"),
    "a number": (torch.tensor(3), "shape ()"),
}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("row", SEEN)
def test_no_labels_says_what_was_seen(kind, row):
    """The error lists what is in the batch, with its type, shape and dtype."""
    seen, text = SEEN[row]
    refused(
        lambda: kind(num_classes=K)({"x": X, "seen": seen}), "found no labels", "['seen']", text
    )


def test_no_labels_names_what_was_passed_through():
    """A label that stands in passthrough= is mentioned, and long batches are cut short."""
    batch = {"x": X, "label": LABELS, **{f"n{i}": i for i in range(20)}}
    call = lambda: Mixup(num_classes=K, passthrough=("label",))(batch)  # noqa: E731
    refused(call, "['label'] (listed in passthrough)", "and more;")


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float16])
@pytest.mark.parametrize("shape", [(COUNT,), (COUNT, 1), (COUNT, 3)])
def test_real_targets_may_be_integers(kind, dtype, shape):
    """With "regression" integers are found and mixed as numbers; a float column goes first."""
    targets = (torch.rand(shape) * 90).to(dtype)
    (_, mixed), plan = kind(num_classes="regression", mode="batch").mix((X, targets))
    lam = plan.lam.double().view(-1, *[1] * (targets.ndim - 1))
    expected = lam * targets.double() + (1 - lam) * targets[plan.partner].double()
    torch.testing.assert_close(mixed.double(), expected, atol=1e-4, rtol=0)
    out = kind(num_classes="regression")((X, IDS, torch.rand(COUNT)))
    assert out[1] is IDS


def ways_to_mix(kind, **named):
    """Return all ways from a label tensor to mixed labels."""
    transform = kind(num_classes=K, **named) if kind is not Chain else None
    transform = transform or Chain([CutMix(num_classes=K, **named)])
    collate_fn = make_collate_fn(transform)
    return [
        lambda labels: transform(X, labels)[1],
        lambda labels: transform({"x": X, "label": labels})["label"],
        lambda labels: collate_fn([(X[i], labels[i]) for i in range(COUNT)])[1],
    ]


@pytest.mark.parametrize("kind", [*ALL, Chain])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_a_column_of_indices_is_indices_everywhere(kind, dtype):
    """(B, 1) integers are classes: encoded alike on every way, and out of range on none."""
    for mix in ways_to_mix(kind):
        torch.manual_seed(1)
        expected = mix(LABELS.to(dtype))
        torch.manual_seed(1)
        assert torch.equal(mix(LABELS.to(dtype)[:, None]), expected)
        refused(lambda: mix(LABELS.to(dtype)[:, None] + 3), "in [0, 5), got 6 at position 0")  # noqa: B023
    if kind is not Cutout:
        unnumbered = Chain([CutMix()]) if kind is Chain else kind()
        refused(lambda: unnumbered(X, LABELS.to(dtype)[:, None]), "num_classes must be given")


@pytest.mark.parametrize("kind", [*ALL, Chain])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_integer_rows_hold_zeros_and_ones_everywhere(kind, dtype):
    """(B, K) integers other than 0 and 1 are refused on every way, before anything is drawn."""
    rows = torch.eye(K)[LABELS].to(dtype)
    for mix in ways_to_mix(kind):
        assert mix(rows).shape == (COUNT, K)
        refused(lambda: mix(rows * 2), "must be 0 or 1")  # noqa: B023


@pytest.mark.parametrize("kind", ALL)
def test_a_getters_answer_is_checked_as_it_is(kind):
    """Labels that are a view of a leaf have the view's shape, not the leaf's."""
    both = torch.stack([LABELS, IDS], 1)
    transform = kind(num_classes=K, labels_getter=lambda batch: batch["both"][:, 0])
    assert transform({"x": X, "both": both})["both"].shape == (COUNT, K)
    transform = kind(num_classes=K, labels_getter=lambda batch: batch["both"][1:, 0])
    refused(lambda: transform({"x": X, "both": both}), "labels at ['both']", "length 4", "(3,)")
