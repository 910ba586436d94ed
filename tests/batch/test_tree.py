"""Containers: every nesting is mixed and comes back, with other fields as the same objects."""

import collections
import copy
import gc
from collections import OrderedDict, namedtuple

import pytest
import torch
from helpers.coded import coded_images, shares
from helpers.refusals import refused
from torch.utils._pytree import tree_leaves, tree_structure
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup

COUNT = 5
IDS = torch.arange(100, 100 + COUNT)
Pair, Noted = namedtuple("Pair", "images labels"), namedtuple("Noted", "ids pair note")


def by_key(batch):
    return batch["image"], batch["label"]


# A way to nest images and labels, and a way to take them out again.
NESTINGS = {
    "arguments": (lambda x, y: (x, y), lambda b: b),
    "tuple": (lambda x, y: (x, y), lambda b: b),
    "list": (lambda x, y: [x, y], lambda b: b),
    "dict": (lambda x, y: {"image": x, "label": y}, by_key),
    "ordered dict": (lambda x, y: OrderedDict(y=y, x=x), lambda b: (b["x"], b["y"])),
    "namedtuple": (Pair, lambda b: (b.images, b.labels)),
    "nested": (
        lambda x, y: {"a": [("text", {"deep": (x,)}), None], "target": y},
        lambda b: (b["a"][0][1]["deep"][0], b["target"]),
    ),
    "named and nested": (lambda x, y: Noted(IDS, (x, y), "note"), lambda b: b.pair),
    "label first, in a dict": (lambda x, y: {"label": y, "image": x}, by_key),
    "label first, in a tuple": (lambda x, y: (y, x), lambda b: b[::-1]),
    "ids first": (lambda x, y: (IDS, x, y), lambda b: b[1:]),
    "index last": (lambda x, y: (x, y, IDS), lambda b: b[:2]),
    "ids and label, in a dict": (lambda x, y: {"id": IDS, "image": x, "label": y}, by_key),
    "beside scalars": (
        lambda x, y: (x, y, 3, "file", None, 0.5, torch.tensor(7.0), b"raw"),
        lambda b: b[:2],
    ),
    "beside features": (
        lambda x, y: {"image": x, "label": y, "features": torch.ones(COUNT, 9)},
        by_key,
    ),
}
# Where several columns may be labels, and no name decides, the user does.
CHOSEN = {
    "named and nested": {"passthrough": ("ids",)},
    "ids first": {"labels_getter": lambda batch: batch[2]},
    "index last": {"passthrough": (2,)},
}
FORMS = {
    "plain": lambda x: x,
    "Image": tv_tensors.Image,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "a view with gaps": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
}


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_nesting_is_mixed_and_comes_back(kind, nesting, form):
    """Images and labels are mixed together, and every other field is the same object."""
    nest, take = NESTINGS[nesting]
    images, labels = FORMS[form](coded_images(COUNT)), torch.arange(COUNT)
    batch, before = nest(images, labels), copy.deepcopy((images, labels))
    transform = kind(num_classes=COUNT, **CHOSEN.get(nesting, {}))
    out = transform(*batch) if nesting == "arguments" else transform(batch)
    mixed, soft = take(out)
    assert type(out) is type(batch)
    assert tree_structure(out) == tree_structure(batch)
    assert type(mixed) is type(images)
    assert (mixed.shape, mixed.dtype) == (images.shape, images.dtype)
    assert not torch.equal(mixed, before[0])
    assert all(map(torch.equal, (images, labels), before))
    if kind is CutMix:
        torch.testing.assert_close(soft.double(), shares(mixed), atol=1e-6, rtol=0)
    if kind is Mixup:
        expected = soft.double() @ torch.arange(1.0, COUNT + 1).double()
        torch.testing.assert_close(mixed[:, 0, 0, 0].double(), expected, atol=1e-4, rtol=0)
    if kind is Cutout:
        assert torch.equal(soft, torch.eye(COUNT))
    for old, new in zip(tree_leaves(batch), tree_leaves(out), strict=True):
        assert new is old or old is images or old is labels


@pytest.mark.parametrize("inplace", [False, True])
def test_a_list_of_images_is_mixed_like_a_batch(inplace):
    """A list comes back with the types of its images, or holds the result with inplace=True."""
    images = [tv_tensors.Image(image) for image in coded_images(COUNT)]
    out, soft = CutMix(num_classes=COUNT, inplace=inplace)(images, torch.arange(COUNT))
    assert type(out) is list
    assert all(type(image) is tv_tensors.Image for image in out)
    torch.testing.assert_close(soft.double(), shares(torch.stack(out)), atol=1e-6, rtol=0)
    assert (out is images) == inplace
    assert torch.equal(torch.stack(images), coded_images(COUNT)) != inplace


class TaggedDict(dict):
    """A dict with an attribute."""

    tag = "none"


@pytest.mark.parametrize("kind", [TaggedDict, collections.UserDict, collections.OrderedDict])
def test_mappings_of_any_class_keep_their_class_and_attributes(kind):
    """Images inside a mapping of a user's class are mixed, and the mapping itself stays."""
    batch = kind(label=torch.arange(3), views=[torch.rand(3, 1, 4, 4)], name="x")
    batch.tag = "kept"
    before = batch["views"][0].clone()
    out = CutMix(num_classes=3, pairing=lambda labels: (labels + 1) % 3)((batch, 7))[0]
    assert type(out) is kind
    assert (out.tag, out["name"], out["label"].shape) == ("kept", "x", (3, 3))
    assert out is not batch
    assert torch.equal(batch["views"][0], before)
    assert batch["label"].dtype == torch.int64


@pytest.mark.parametrize("kind", [list, dict, collections.UserDict, collections.OrderedDict])
@pytest.mark.parametrize("deep", [False, True])
def test_containers_that_hold_themselves_are_refused(kind, deep):
    """The error says that a batch leads back to itself, however it is nested."""
    images, labels = coded_images(COUNT), torch.arange(COUNT)
    batch = kind([images, labels]) if kind is list else kind(x=images, label=labels)
    inner = [("a", batch)] if deep else batch
    batch.append(inner) if kind is list else batch.update(me=inner)
    refused(lambda: CutMix(num_classes=COUNT)(batch), "not contain themselves", kind=TypeError)
    gc.collect()
