"""Parse a batch: every nesting comes back, every leaf by its rule or with a word about it."""

import collections
import copy
import gc
import weakref
from collections import OrderedDict, namedtuple
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.coded import coded_images, shares
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import CutMix, Cutout, MixCriterion, Mixup, make_collate_fn

Pair = namedtuple("Pair", "images labels")


class Typed(NamedTuple):
    """A namedtuple of the typed kind."""

    ids: torch.Tensor
    pair: tuple
    note: str


COUNT = 5
IDS = torch.arange(100, 100 + COUNT)


def images(dtype=torch.float32):
    return coded_images(COUNT, (8, 8), dtype)


def labels():
    return torch.arange(COUNT)


# Each nesting: a way to build the batch and one to take images and labels out of it.
NESTINGS = {
    "two arguments": (lambda x, y: (x, y), lambda b: b),
    "list": (lambda x, y: [x, y], lambda b: b),
    "dict": (lambda x, y: {"images": x, "labels": y}, lambda b: (b["images"], b["labels"])),
    "ordered dict": (lambda x, y: OrderedDict(y=y, x=x), lambda b: (b["x"], b["y"])),
    "namedtuple": (Pair, lambda b: (b.images, b.labels)),
    "nested": (
        lambda x, y: {"a": [("text", {"deep": (x,)}), None], "target": y},
        lambda b: (b["a"][0][1]["deep"][0], b["target"]),
    ),
    "typed and nested": (lambda x, y: Typed(IDS, (x, y), "note"), lambda b: b.pair),
    "label first, in a dict": (
        lambda x, y: {"label": y, "image": x},
        lambda b: (b["image"], b["label"]),
    ),
    "label first, in a tuple": (lambda x, y: (y, x), lambda b: b[::-1]),
    "ids first": (lambda x, y: (IDS, x, y), lambda b: b[1:]),
    "index last": (lambda x, y: (x, y, IDS), lambda b: b[:2]),
    "ids and label, in a dict": (
        lambda x, y: {"id": IDS, "image": x, "label": y},
        lambda b: (b["image"], b["label"]),
    ),
    "beside scalars": (
        lambda x, y: (x, y, 3, "file", None, 0.5, torch.tensor(7.0), b"raw"),
        lambda b: b[:2],
    ),
    "beside features": (
        lambda x, y: {"image": x, "label": y, "features": torch.ones(COUNT, 9)},
        lambda b: (b["image"], b["label"]),
    ),
}
# Where several columns fit and no name decides, the user does.
CHOSEN = {
    "typed and nested": {"passthrough": ("ids",)},
    "ids first": {"labels_getter": lambda batch: batch[2]},
    "index last": {"passthrough": (2,)},
}
FORMS = {
    "plain": lambda x: x,
    "Image": tv_tensors.Image,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "view with gaps": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
}


def others(batch, x, y):
    """List what is neither images nor labels, to see that it comes back."""
    flat = torch.utils._pytree.tree_leaves(batch)
    return [leaf for leaf in flat if leaf is not x and leaf is not y]


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_nesting_is_mixed_and_comes_back(kind, nesting, form):
    """In each container images and labels are mixed together and all else is the same object."""
    build, take = NESTINGS[nesting]
    x, y = FORMS[form](images()), labels()
    batch = build(x, y)
    before = [copy.deepcopy(leaf) for leaf in (x, y)]
    transform = kind(num_classes=COUNT, **CHOSEN.get(nesting, {}))
    out = transform(*batch) if nesting == "two arguments" else transform(batch)
    mixed, soft = take(out)
    assert type(out) is type(batch)
    assert torch.utils._pytree.tree_structure(out) == torch.utils._pytree.tree_structure(batch)
    assert type(mixed) is type(x)
    assert (mixed.shape, mixed.dtype) == (x.shape, x.dtype)
    assert not torch.equal(mixed, before[0])
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert soft.shape == (COUNT, COUNT)
    if kind is CutMix:
        torch.testing.assert_close(soft.double(), shares(mixed), atol=1e-6, rtol=0)
    if kind is Mixup:
        expected = soft.double() @ torch.arange(1.0, COUNT + 1).double()
        torch.testing.assert_close(mixed[:, 0, 0, 0].double(), expected, atol=1e-4, rtol=0)
    for old, new in zip(others(batch, x, y), others(out, mixed, soft), strict=True):
        assert new is old


def test_a_tuple_in_one_argument_comes_back_as_a_tuple():
    """t(images, labels) and t((images, labels)) are the same call."""
    transform = Mixup(num_classes=COUNT)
    torch.manual_seed(0)
    first = transform(images(), labels())
    torch.manual_seed(0)
    second = transform((images(), labels()))
    assert type(first) is type(second) is tuple
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("wrap", [lambda x: x, tv_tensors.Image])
@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
def test_every_view_is_mixed_alike(kind, wrap):
    """A second view of other dtype gets the same partner, weight and box as the first."""
    batch = {
        "weak": wrap(images()),
        "strong": wrap(images(torch.float64)),
        "label": labels(),
    }
    out = kind(num_classes=COUNT)(batch)
    torch.testing.assert_close(out["weak"].double(), out["strong"].double(), atol=1e-5, rtol=0)
    assert not torch.equal(out["weak"], batch["weak"])


def test_views_of_two_sizes_are_blended_together():
    """Mixup has no boxes, so views of different sizes share partner and weight."""
    out = Mixup(num_classes=COUNT)(images(), coded_images(COUNT, (3, 5)), labels())
    torch.testing.assert_close(out[0][:, 0, 0, 0], out[1][:, 0, 0, 0])


def test_tv_tensors_decide_what_an_image_is():
    """Beside an Image, a plain tensor of another size is not an image and is refused."""
    features = torch.rand(COUNT, 16, 2, 2)
    batch = {"image": tv_tensors.Image(images()), "maps": features, "label": labels()}
    with pytest.raises(ValueError, match=r"\['maps'\].*left behind"):
        CutMix(num_classes=COUNT)(batch)
    out = CutMix(num_classes=COUNT, passthrough=("maps",))(batch)
    assert out["maps"] is features
    assert not torch.equal(out["image"], batch["image"])


def test_a_list_of_images_comes_back_as_a_list():
    """Equally sized images in a list, as detection has them, are mixed like a batch."""
    single = [tv_tensors.Image(image) for image in images()]
    out, soft = CutMix(num_classes=COUNT)(single, labels())
    assert type(out) is list
    assert all(type(image) is tv_tensors.Image for image in out)
    torch.testing.assert_close(soft.double(), shares(torch.stack(out)), atol=1e-6, rtol=0)
    assert all(torch.equal(old, new) for old, new in zip(single, images(), strict=True))


def test_a_list_of_images_is_written_in_place_if_asked():
    """With inplace=True each image of the list holds the result."""
    single = list(images())
    out, soft = CutMix(num_classes=COUNT, inplace=True)(single, labels())
    assert out is single
    torch.testing.assert_close(soft.double(), shares(torch.stack(single)), atol=1e-6, rtol=0)


# --- Where the labels are -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["label", "labels", "target", "targets", "y", "fine_label"])
def test_labels_are_found_by_their_names(name):
    """A key that says label or target wins over other integer tensors."""
    batch = {"index": IDS, "image": images(), name: labels(), "camera": torch.zeros(COUNT).long()}
    out = CutMix(num_classes=COUNT)(batch)
    assert out["index"] is IDS
    assert out["camera"] is batch["camera"]
    torch.testing.assert_close(out[name].double(), shares(out["image"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "getter",
    [
        lambda batch: batch["code"],
        lambda batch: batch["code"].view(-1),
        lambda batch: batch["code"][:],
    ],
)
def test_a_labels_getter_may_return_a_view(getter):
    """The labels themselves, or a view of them, are found again in the batch and replaced there."""
    batch = {"image": images(), "id": IDS, "code": labels()}
    out = CutMix(num_classes=COUNT, labels_getter=getter)(batch)
    assert out["id"] is IDS
    torch.testing.assert_close(out["code"].double(), shares(out["image"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "getter", [lambda batch: batch["label"] % COUNT, lambda batch: batch["label"].clone()]
)
def test_a_labels_getter_that_returns_a_copy_is_refused(getter):
    """A tensor that is not a view of a field has no place in the batch."""
    batch = {"image": images(), "id": IDS, "label": labels()}
    with pytest.raises(ValueError, match="a field of the batch or a view of one"):
        CutMix(num_classes=COUNT, labels_getter=getter)(batch)


def test_without_a_labels_getter_images_are_mixed_alone():
    """labels_getter=None leaves every integer tensor as it is."""
    batch = {"image": images(), "label": labels()}
    out = CutMix(labels_getter=None)(batch)
    assert out["label"] is batch["label"]
    assert not torch.equal(out["image"], batch["image"])


def test_columns_tell_labels_from_other_tensors():
    """Of several (B, K) tensors the one with num_classes columns is the label."""
    x, soft, scores = images(), torch.eye(COUNT), torch.rand(COUNT, 7)
    out = CutMix(num_classes=COUNT)(x, scores, soft)
    assert out[1] is scores
    torch.testing.assert_close(out[2].double(), shares(out[0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("key", ["depth", "extra"])
def test_a_leaf_named_as_passing_through_comes_back_untouched(key):
    """passthrough= lets a tensor in the images' size through, by key or by position."""
    depth = torch.rand(COUNT, 8, 8)
    batch = {"image": images(), key: depth, "label": labels()}
    assert CutMix(num_classes=COUNT, passthrough=(key,))(batch)[key] is depth
    out = CutMix(num_classes=COUNT, passthrough=(2,))(images(), labels(), depth)
    assert out[2] is depth


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
def test_what_would_be_left_behind_is_an_error_that_names_it(kind):
    """A tensor in the images' height and width without a rule stops the call, by its place."""
    with pytest.raises(ValueError, match=r"\['depth'\].*left behind.*passthrough="):
        kind(num_classes=COUNT)(
            {"image": images(), "depth": torch.rand(COUNT, 8, 8), "label": labels()}
        )
    with pytest.raises(ValueError, match=r"\['flow'\].*left behind"):
        kind(num_classes=COUNT)(
            {
                "image": tv_tensors.Image(images()),
                "flow": torch.rand(COUNT, 2, 8, 8),
                "label": labels(),
            }
        )


# --- In company of torchvision ------------------------------------------------------------------


def test_the_transforms_work_inside_compose():
    """In a v2.Compose after other batch transforms they see and return the same structure."""
    pipeline = v2.Compose(
        [
            v2.RandomHorizontalFlip(p=1.0),
            v2.ToDtype(torch.float32, scale=True),
            CutMix(num_classes=COUNT),
            v2.Normalize([0.0], [1 / 255]),
        ]
    )
    out, soft = pipeline(tv_tensors.Image(images(torch.uint8)[:, :1]), labels())
    assert type(out) is tv_tensors.Image
    torch.testing.assert_close(soft.double(), shares(out.round()), atol=1e-6, rtol=0)


def test_the_transforms_work_inside_random_choice_and_modules():
    """They are modules: containers of torch and torchvision take them."""
    choice = v2.RandomChoice([Mixup(num_classes=COUNT), CutMix(num_classes=COUNT)])
    assert choice(images(), labels())[1].shape == (COUNT, COUNT)
    assert len(nn.ModuleList([Mixup(), CutMix(), Cutout()])) == 3
    assert isinstance(Mixup(), v2.Transform)


class TaggedDict(dict):
    """A dict with something beside its items."""

    tag = "none"


@pytest.mark.parametrize("kind", [TaggedDict, collections.UserDict, collections.OrderedDict])
def test_mappings_of_any_class_are_walked_and_kept(kind):
    """Images inside a mapping of its own class are mixed, and it comes back in its class."""
    batch = kind(label=torch.arange(3), views=[torch.rand(3, 1, 4, 4)], name="x")
    batch.tag = "kept"
    before = batch["views"][0].clone()
    out = CutMix(num_classes=3, pairing=lambda labels: (labels + 1) % 3)((batch, 7))[0]
    assert type(out) is kind
    assert out.tag == "kept"
    assert out is not batch
    assert out["label"].shape == (3, 3)
    assert out["name"] == "x"
    assert torch.equal(batch["views"][0], before)
    assert batch["label"].dtype == torch.int64


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
def test_a_batch_is_let_go_at_once(kind):
    """Nothing that is remembered, and no cycle, keeps a batch or its result in memory."""
    transform = kind(num_classes=COUNT)
    gc.disable()
    try:
        for _ in range(3):
            batch = {"a": [images(), {"view": images()}], "label": labels()}
            out = transform(batch)
            seen = [weakref.ref(leaf) for b in (batch, out) for leaf in (b["label"], *b["a"][:1])]
            del batch, out
            assert not any(one() is not None for one in seen)
    finally:
        gc.enable()


# --- Channels last ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("frames", [(), (5,)])
def test_pictures_with_channels_last_are_refused_unless_a_layout_says_so(kind, channels, frames):
    """What cv2.imread gives is not cut in width and channel: the error names three ways out."""
    pictures = torch.rand(COUNT, *frames, 9, 12, channels)
    samples = [(picture.numpy(), 1) for picture in pictures]
    layout = "BTHWC" if frames else "BHWC"
    for call in (
        lambda: kind(num_classes=COUNT)(pictures, labels()),
        lambda: make_collate_fn(kind(num_classes=COUNT))(samples),
    ):
        with pytest.raises(ValueError, match="channels before height") as caught:
            call()
        assert f"layout='{layout}'" in str(caught.value)
        assert "v2.ToImage()" in str(caught.value)
    allowed = kind(num_classes=COUNT, layout=layout)
    assert allowed(pictures, labels())[0].shape == pictures.shape
    assert make_collate_fn(allowed)(samples)[0].shape == pictures.shape


def test_narrow_pictures_with_channels_first_are_taken():
    """A width of 1, 3 or 4 is no sign of channels where the channels are in their place."""
    for width in (1, 3, 4):
        mixed, _ = CutMix(num_classes=COUNT)(torch.rand(COUNT, 3, 8, width), labels())
        assert mixed.shape == (COUNT, 3, 8, width)


def test_negative_strides_are_taken_as_they_are():
    """A picture flipped by NumPy is collated as what it shows."""
    plain = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    collate_fn = make_collate_fn(Mixup(num_classes=2, p=0.0))
    images, _ = collate_fn([(picture[..., ::-1], 0) for picture in plain])
    assert torch.equal(images, torch.from_numpy(plain[..., ::-1].copy()))


def test_classes_in_the_place_of_instances_are_refused():
    """A class handed over where one of its instances is meant says how to make one."""
    with pytest.raises(TypeError, match=r"got CutMix; make one: CutMix\(...\)"):
        make_collate_fn(CutMix)
    with pytest.raises(TypeError, match=r"make one: CrossEntropyLoss\(...\)"):
        MixCriterion(nn.CrossEntropyLoss)
