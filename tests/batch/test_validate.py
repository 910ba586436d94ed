"""Nothing is left behind: fields without a rule, in the wrong memory or shared, are refused."""

import contextlib
import copy
import dataclasses
import itertools

import pytest
import torch
from helpers.coded import coded_images
from helpers.refusals import refused
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup, functional, make_collate_fn

COUNT, K = 4, 5
ALL = pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
X, LABELS = coded_images(COUNT), torch.tensor([3, 0, 2, 1])
LAST = torch.rand(COUNT, 8, 9, 3)  # channels last
MASKS = torch.randint(K, (COUNT, 8, 8))
TYPES = (torch.uint8, torch.int16, torch.int64, torch.bool, torch.float32)
WRAP = pytest.mark.parametrize("wrap", [lambda x: x, tv_tensors.Image], ids=["plain", "Image"])


def soft_masks(kind):
    return {"masks": "soft", "num_mask_classes": K} if kind is Mixup else {}


# --- Fields that depend on the pixels -----------------------------------------------------------


def nest(form, images, beside, key):
    """Put a tensor beside images and labels: stacked, in lists, in tuples or in samples."""
    hold = {"list": list, "tuple": tuple}.get(form, lambda tensor: tensor)
    first, second, third = ("image", key, "label") if key else (0, 1, 2)
    batch = {first: hold(images), second: hold(beside), third: LABELS}
    if form == "samples":
        samples = [[part[i] for part in batch.values()] for i in range(COUNT)]
        return [dict(zip(batch, s, strict=True)) if key else tuple(s) for s in samples]
    return batch if key else tuple(batch.values())


@ALL
@pytest.mark.parametrize("form", ["tensor", "list", "tuple", "samples"])
@pytest.mark.parametrize("key", [None, "view2", "target", "seg_mask"])
def test_a_plain_tensor_with_the_shape_of_images_is_mixed_or_refused(kind, form, key):
    """It is an image unless its name, dtype or channels are those of class ids."""
    images = (torch.uint8, torch.float32)
    for channels, image_type, dtype in itertools.product((1, 3), images, TYPES):
        beside = coded_images(COUNT, dtype=torch.int64, channels=channels).to(dtype)
        batch = nest(form, coded_images(COUNT, dtype=image_type), beside, key)
        transform = kind(num_classes=K, mode="batch")
        call = make_collate_fn(transform) if form == "samples" else transform
        grey = dtype == torch.uint8 == image_type and key == "view2"
        is_image = dtype == torch.float32 or (dtype == torch.uint8 and channels == 3) or grey
        if key == "seg_mask" or not is_image:
            refused(lambda: call(batch), "left behind", "tv_tensors.Mask", "passthrough=")  # noqa: B023
            continue
        mixed = list(call(batch).values() if key else call(batch))
        one, two = (torch.stack(tuple(m)) if isinstance(m, (list, tuple)) else m for m in mixed[:2])
        slack = 1 if torch.uint8 in (dtype, image_type) else 1e-5
        torch.testing.assert_close(one[:, :1].double(), two[:, :1].double(), atol=slack, rtol=0)


MASK_KEYS = (
    "mask", "masks", "image_mask", "gt", "seg", "semseg", "seg_map", "segmentation", "label",
    "labelmap", "annotation", "trimap", "panoptic_seg",
)  # fmt: skip


@pytest.mark.parametrize("key", MASK_KEYS)
@pytest.mark.parametrize("shape", [(COUNT, 1, 8, 8), (COUNT, 3, 8, 8), (COUNT, 1, 4, 4)])
@WRAP
def test_a_field_that_is_called_a_mask_is_not_mixed_as_an_image(key, shape, wrap):
    """It is refused whatever its dtype and size, also beside an Image, or named in passthrough."""
    batch = {"image": wrap(X), key: torch.rand(shape), "y": LABELS}
    if key in ("label", "labelmap", "annotation") and shape[-1] == 4 and wrap is tv_tensors.Image:
        return  # of another size these may be anything
    refused(lambda: Mixup(num_classes=K)(batch), f"['{key}']", "tv_tensors.Mask")
    assert Mixup(num_classes=K, passthrough=(key,))(batch)[key] is batch[key]


@ALL
@pytest.mark.parametrize(
    ("images", "key", "field"),
    [
        (X, "depth", torch.rand(COUNT, 8, 8)),
        (LAST, "depth", torch.zeros(COUNT, 8, 9, 1).long()),
        (LAST, "depth", torch.zeros(COUNT, 8, 9)),
        (X, 2, torch.rand(COUNT, 8, 8)),
        (tv_tensors.Image(X), "flow", torch.rand(COUNT, 2, 8, 8)),
        (tv_tensors.Image(X), "maps", torch.rand(COUNT, 16, 2, 2)),
    ],
)
def test_a_field_without_a_rule_is_named_or_passes_through(kind, images, key, field):
    """A tensor of the images' size stops the call, unless its key or position is listed."""
    batch = (images, LABELS, field) if key == 2 else {"image": images, key: field, "label": LABELS}
    options = {"num_classes": K, "layout": "BHWC" if images is LAST else None}
    refused(lambda: kind(**options)(batch), f"[{key!r}]", "left behind", "passthrough=")
    assert kind(**options, passthrough=(key,))(batch)[key] is field


@pytest.mark.parametrize("hold", [list, tuple])
@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 8, 8), (2, 1, 8, 8)])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_lists_of_maps_are_refused_as_their_stack_is(hold, shape, dtype):
    """A map for each sample in a list, or in a container for each, would be left behind."""
    maps = torch.ones(COUNT, *shape).to(dtype)
    parts = hold(maps), hold({"depth": one} for one in maps), hold([one] for one in maps)
    images = tv_tensors.Image(X), list(map(tv_tensors.Image, X))
    for batch in itertools.product(images, [LABELS], parts):
        refused(lambda b=batch: CutMix(num_classes=K)(b), "[2]", "left behind", "passthrough=")
        out = CutMix(num_classes=K, passthrough=(2,))(batch)
        assert all(map(torch.equal, tree_leaves(out[2]), maps))


def test_features_and_grids_pass():
    """Tensors in a list with other sizes than B, and one map for all samples, stay."""
    batch = {
        "image": tv_tensors.Image(X),
        "label": LABELS,
        "features": [torch.rand(7, 2), torch.rand(5, 2)],
        "grid": torch.rand(8, 8),
    }
    out = CutMix(num_classes=K)(batch)
    assert out["features"][0] is batch["features"][0]
    assert out["grid"] is batch["grid"]


@pytest.mark.parametrize("key", ["boxes", "bbox", "gt_boxes", "keypoints"])
@WRAP
@pytest.mark.parametrize("shape", [(COUNT, 4), (COUNT, 2, 4), None], ids=str)
def test_boxes_outside_targets_are_refused(key, wrap, shape):
    """Boxes beside an image and its labels are refused, and the error says where they belong."""
    boxes = [torch.rand(i, 4) for i in range(1, COUNT + 1)] if shape is None else torch.rand(shape)
    batch = {"image": wrap(X), key: boxes, "labels": LABELS}
    refused(lambda: Cutout(num_classes=K)(batch), f"['{key}']", "list of target dicts")
    out = Cutout(num_classes=K, passthrough=(key,))(batch)
    assert all(map(torch.equal, out[key], boxes))


def test_samples_of_one_dict_with_boxes_say_what_is_expected():
    """A data set of {"image", "boxes", "labels"} should return (image, target)."""
    sample = {"image": torch.rand(3, 8, 8), "boxes": torch.ones(1, 4), "labels": torch.tensor([1])}
    collate_fn = make_collate_fn(CutMix())
    refused(lambda: collate_fn([sample] * 2), "images", "(image, target)", kind=TypeError)


# --- Layout, memory and device ------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("channels", [1, 3, 4, 13])
@pytest.mark.parametrize("frames", [(), (5,)], ids=["images", "videos"])
def test_images_with_channels_last_need_a_layout(kind, channels, frames):
    """Images as cv2.imread returns them are refused, and the error names three remedies."""
    images = torch.rand(COUNT, *frames, 64, 52, channels)
    samples, layout = [(x.numpy(), 1) for x in images], "BTHWC" if frames else "BHWC"
    transform, allowed = kind(num_classes=K), kind(num_classes=K, layout=layout)
    texts = "channels before height", "permute the axes", f"layout='{layout}'", "v2.ToImage()"
    refused(lambda: transform(images, LABELS), *texts)
    refused(lambda: make_collate_fn(transform)(samples), *texts)
    assert allowed(images, LABELS)[0].shape == images.shape
    assert make_collate_fn(allowed)(samples)[0].shape == images.shape
    for narrow in (torch.rand(COUNT, 3, 8, channels), tv_tensors.Image(images[:, ..., :5, :, :])):
        assert transform(narrow, LABELS)[0].shape == narrow.shape  # columns, and not channels
    refused(lambda: transform(images[..., :0], LABELS), "images at ", "must be not empty")


MAKES = {
    "sparse": lambda x: x.to_sparse(),
    "mkldnn": lambda x: x.float().to_mkldnn(),
    "quantised": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
    "jagged": lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
}


@pytest.mark.filterwarnings("ignore")  # torch warns when it makes such tensors
@ALL
@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("place", ["images", "labels", "masks"])
def test_tensors_without_dense_memory_are_refused(kind, make, place):
    """The error says how to convert them, also after batches with dense tensors."""
    transform = kind(num_classes=K, **soft_masks(kind))
    batch = {"images": X, "labels": torch.eye(K)[LABELS], "masks": tv_tensors.Mask(MASKS)}
    assert transform(batch)["labels"].shape == (COUNT, K)
    batch[place] = MAKES[make](batch[place].as_subclass(torch.Tensor))
    if place == "masks" and make in ("sparse", "mkldnn", "jagged"):  # which cannot be a Mask
        refused(lambda: transform(batch), "left behind")
        return
    if place == "masks":
        batch[place] = batch[place].as_subclass(tv_tensors.Mask)
    text = "to_padded_tensor" if make in ("nested", "jagged") else place
    refused(lambda: transform(batch), text, kind=TypeError)


@ALL
@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("moved", ["image", "view", "label", "rows", "mask"])
def test_fields_on_several_devices_stay_on_their_device(kind, mode, moved):
    """Images on one device and labels or masks on another are mixed where they are."""
    transform = kind(num_classes={"label": K, "rows": K}, mode=mode, **soft_masks(kind))
    batch = {"image": tv_tensors.Image(X), "view": tv_tensors.Image(X), "label": LABELS}
    batch |= {"rows": torch.eye(K)[LABELS], "mask": tv_tensors.Mask(MASKS)}
    plain = batch[moved].as_subclass(torch.Tensor).to("meta")
    batch[moved] = plain.as_subclass(type(batch[moved]))
    for key, value in transform(batch).items():
        assert value.device.type == ("meta" if key == moved else "cpu")
        assert type(value) is type(batch[key])


@ALL
def test_a_list_of_images_on_two_devices_is_refused(kind):
    """They cannot be stacked, which is found also after a list on one device."""
    transform, images = kind(num_classes=K), list(X)
    assert len(transform(images, LABELS)[0]) == COUNT
    images[1] = images[1].to("meta")
    refused(lambda: transform(images, LABELS), "images at [0]", "one device")


# --- Writing in place ---------------------------------------------------------------------------

# Fields that are made of one tensor (B, 6, 16, 16).
SHARED = {
    "one tensor twice": lambda b: {"a": b, "b": b},
    "a view of all": lambda b: {"a": b, "b": b[:]},
    "a view of some channels": lambda b: {"a": b, "b": b[:, 2:4]},
    "views that overlap": lambda b: {"a": b[:, :4], "b": b[:, 3:]},
    "a transposed view": lambda b: {"a": b, "b": b.transpose(2, 3)},
    "two Images of a tensor": lambda b: {"a": tv_tensors.Image(b), "b": tv_tensors.Image(b)},
    "expanded": lambda b: {"a": b[:1].expand(COUNT, 6, 16, 16)},
    "windows that overlap": lambda b: {"a": b.flatten().as_strided((4, 3, 8, 8), (100, 64, 8, 1))},
    "one image twice in a list": lambda b: {"a": [b[0], b[1], b[0], b[2]]},
    "a list and its stack": lambda b: {"a": b, "b": list(b)},
    "a field in passthrough": lambda b: {"a": b, "kept": b},
    "rows of an image": lambda b: {"a": b, "kept": b[:, 0, 0]},
    "halves that lie in one another": lambda b: {"a": b[:, :3], "b": b[:, 3:]},
    "rows that cross": lambda b: {"a": b.flatten().as_strided((4, 3, 2, 3), (64, 20, 3, 2))},
}
APART = {
    "two tensors": lambda b: {"a": b, "b": b.clone()},
    "channels last": lambda b: {"a": b.contiguous(memory_format=torch.channels_last)},
    "transposed": lambda b: {"a": b.transpose(2, 3)},
    "a list of views": lambda b: {"a": list(b)},
    "parts one after the other": lambda b: {"a": b[:2], "b": b[2:]},
}


@ALL
@pytest.mark.parametrize("row", SHARED)
def test_images_that_share_memory_are_not_written_to(kind, row):
    """Writing in place to memory that another field or sample sees is refused before drawing."""
    batch = SHARED[row](torch.rand(COUNT, 6, 16, 16))
    before, options = copy.deepcopy(batch), {"labels_getter": None, "passthrough": ("kept",)}
    transform = kind(inplace=True, **options)
    refused(lambda: transform(batch), "inplace must be False", "['a']", "share memory")
    kind(**options)(batch)
    assert all(map(torch.equal, tree_leaves(before), tree_leaves(batch)))


@ALL
@pytest.mark.parametrize("row", APART)
def test_images_that_lie_apart_are_written_to(kind, row):
    """In place they become what they become out of place, where the batch is unchanged."""
    batch = APART[row](torch.rand(COUNT, 6, 16, 16))
    before, transform = copy.deepcopy(batch), kind(labels_getter=None)
    expected, _ = transform.mix(batch, generator=torch.Generator().manual_seed(1))
    assert all(map(torch.equal, tree_leaves(batch), tree_leaves(before)))
    transform.mix(batch, inplace=True, generator=torch.Generator().manual_seed(1))
    assert all(map(torch.equal, tree_leaves(batch), tree_leaves(expected)))


views = st.tuples(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 9)] * 4),
    st.integers(0, 20),
)


@given(views, views)
def test_two_views_are_written_to_only_if_they_share_no_element(one, other):
    """All pairs of views that share an address are refused."""
    base = torch.arange(256.0)
    tensors = [base.as_strided(*view) for view in (one, other)]
    count = min(map(len, tensors))
    tensors = [tensor[:count] for tensor in tensors]
    addresses = torch.cat([tensor.flatten() for tensor in tensors])
    transform = Mixup(labels_getter=None, inplace=True)
    if len(addresses.unique()) < len(addresses):
        refused(lambda: transform(tensors), "share memory")
        return
    with contextlib.suppress(ValueError):  # views that lie in one another are refused, too
        assert transform(tensors)[0] is tensors[0]


def test_images_in_a_graph_are_written_to_as_torch_allows():
    """A leaf that requires gradients, or a view of it, is refused; a computed tensor is not."""
    images = X.clone().requires_grad_()
    transform = CutMix(labels_getter=None, inplace=True)
    for batch in (images, images[:], list(images)):
        refused(lambda: transform(batch), "require gradients")  # noqa: B023
    computed = images * 2
    out, plan = transform.mix(computed)
    assert out is computed
    torch.testing.assert_close(out, functional.replay(images * 2, plan))
    (slope,) = torch.autograd.grad(out.sum(), images)
    assert float(slope.sum()) == pytest.approx(2 * images.numel())


VIDEO = torch.rand(COUNT, 3, 5, 8, 8)
NEEDS_CHANNELS = [CutMix(cut="cuboid", num_classes=K), Cutout(fill="color"), Cutout(fill=(0, 1, 2))]


@pytest.mark.parametrize("transform", NEEDS_CHANNELS, ids=str)
def test_rules_that_need_the_channels_ask_for_the_layout(transform):
    """Three channels before five frames are not taken for three frames of five channels."""
    with pytest.raises(ValueError, match=r"layout must be 'BTCHW' .* 'BCTHW' or 'BCDHW'"):
        transform(VIDEO, LABELS)
    transform(tv_tensors.Video(VIDEO.movedim(1, 2)), LABELS)
    dataclasses.replace(transform, layout="BCTHW")(VIDEO, LABELS)
    CutMix(num_classes=K)(VIDEO, LABELS)  # which cuts height and width in either case
