"""Roles: which field is an image, which are the labels, and which choice is left to the user."""

import numpy as np
import pytest
import torch
from helpers.coded import coded_images, shares
from helpers.reference import mix_by_hand
from helpers.refusals import refused
from helpers.transforms import make
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup, make_collate_fn

COUNT, K = 4, 5
ALL = pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
X, LABELS, IDS = coded_images(COUNT), torch.tensor([3, 0, 2, 1]), torch.arange(COUNT)
ROWS = torch.eye(K)[LABELS]


# --- Images -------------------------------------------------------------------------------------


def test_views_of_two_sizes_are_blended_alike():
    """Mixup has no boxes, so views of different sizes share partner and weight."""
    out = Mixup(num_classes=K)(X, coded_images(COUNT, (3, 5)), IDS)
    torch.testing.assert_close(out[0][:, 0, 0, 0], out[1][:, 0, 0, 0])


@pytest.mark.parametrize("key", ["image", "view2", "masked_image", "picture", "usegpu", "message"])
def test_names_that_contain_a_part_of_mask_are_those_of_images(key):
    """Only whole words such as "mask" and "seg" mark a mask."""
    out = CutMix(num_classes=K)({"first": X, key: X.clone(), "label": LABELS})
    assert torch.equal(out["first"], out[key])


# --- Labels -------------------------------------------------------------------------------------


NAMES = ("label", "labels", "target", "targets", "y", "fine_label")


@pytest.mark.parametrize(
    ("batch", "key"),
    [
        *[({"index": IDS, "image": X, name: LABELS, "camera": IDS}, name) for name in NAMES],
        ({"image": X, "box": torch.rand(COUNT, 7), "cls": LABELS}, "cls"),
        ((X, torch.rand(COUNT, 9), ROWS), 2),
        ((IDS, X, LABELS), 2),
    ],
    ids=[*NAMES, "the only integers", "K columns", "behind the image"],
)
def test_labels_are_found_without_a_choice(batch, key):
    """Name, number of columns and position decide, and all other fields stay."""
    out = CutMix(num_classes=K)(batch)
    fields = dict(batch if isinstance(batch, dict) else enumerate(batch))
    (image,) = (out[k] for k, v in fields.items() if v is X)
    torch.testing.assert_close(out[key], shares(image).float() @ ROWS)
    assert all(out[k] is v for k, v in fields.items() if v is not X and k != key)


def test_labels_that_stay_need_no_choice():
    """Without a getter all integers stay, and Cutout without classes leaves indices as they are."""
    mixed, labels = CutMix(labels_getter=None)(X, LABELS)
    assert labels is LABELS
    assert not torch.equal(mixed, X)
    out = Cutout()(X, IDS, LABELS)
    assert out[1] is IDS
    assert out[2] is LABELS
    column = LABELS[:, None]
    assert Cutout()(X, column)[1] is column


DOUBTFUL = {
    "image, index, label": ((X, IDS, LABELS), 2),
    "image, label, index": ((X, LABELS, IDS), 1),
    "label, index, image": ((LABELS, IDS, X), 0),
    "a dict without a name": ({"image": X, "index": IDS, "cls": LABELS}, "cls"),
    "a dict in another order": ({"cls": LABELS, "image": X, "index": IDS}, "cls"),
    "columns of (B, 1)": ((X, IDS[:, None], LABELS[:, None]), 2),
    "(B,) and (B, 1)": ((X, IDS, LABELS[:, None]), 2),
    "(B,) and K columns": ((X, IDS, ROWS), 2),
    "two names": ({"x": X, "label": LABELS, "target": IDS}, "label"),
    "two in a list of a name": ({"x": X, "labels": [LABELS, IDS]}, 0),
}


@ALL
@pytest.mark.parametrize("row", DOUBTFUL)
def test_doubtful_labels_are_refused_until_one_is_named(kind, row):
    """Where several columns fit, the error says how to choose, and each way that it names works."""
    batch, key = DOUBTFUL[row]
    refused(
        lambda: kind(num_classes=K)(batch),
        "labels could be at", " or ", "labels_getter=", "passthrough=", "num_classes={key: ...}",
    )  # fmt: skip

    def fields(batch):
        parts = dict(batch if isinstance(batch, dict) else enumerate(batch))
        return dict(enumerate(parts["labels"])) if "labels" in parts else parts

    given = fields(batch)
    rest = [k for k, v in given.items() if v is not X and k != key]
    ways = [{"num_classes": K, "passthrough": rest}]
    if "labels" not in batch:
        ways += [{"num_classes": {key: K}}]
        ways += [{"num_classes": K, "labels_getter": lambda batch: batch[key]}]
    for way in ways:
        found = fields(kind(**way)(batch))
        assert all(found[k] is given[k] for k in rest)
        assert found[key].shape == (COUNT, K)
        assert found[key] is not given[key]


@ALL
@pytest.mark.parametrize("key", ["label", "labels", "target", "y"])
@pytest.mark.parametrize("labels", [list("abcd"), [3, 0, 2, 1], [torch.tensor(1)] * COUNT, None])
def test_a_named_label_that_is_no_tensor_is_not_replaced_by_an_index(kind, key, labels):
    """If a field with a name for labels cannot be one, no other field is taken for it."""
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
    "a mask": (tv_tensors.Mask(torch.zeros(COUNT, 8, 8).long()), "a Mask of shape (4, 8, 8)"),
}


@ALL
@pytest.mark.parametrize("row", SEEN)
def test_an_error_without_labels_lists_the_fields(kind, row):
    """The fields of the batch are listed with type, shape and dtype."""
    seen, text = SEEN[row]
    batch = {"x": X, "seen": seen}
    transform = kind(num_classes=K, masks="dominant")
    refused(lambda: transform(batch), "found no labels", "['seen']", text)


def test_an_error_without_labels_names_the_fields():
    """A label that is listed in passthrough is mentioned, and long lists are cut short."""
    batch = {"x": X, "label": LABELS, **{f"n{i}": i for i in range(20)}}
    transform = Mixup(num_classes=K, passthrough=("label",))
    refused(lambda: transform(batch), "['label'] (listed in passthrough)", "and more;")


@ALL
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(COUNT,), (COUNT, 1), (COUNT, 3)])
def test_regression_targets_may_be_integers(kind, dtype, shape):
    """Integers are mixed as numbers, unless a floating point column is there."""
    targets = (torch.rand(shape) * 90).to(dtype)
    (_, mixed), plan = kind(num_classes="regression", mode="batch").mix((X, targets))
    torch.testing.assert_close(mixed.double(), mix_by_hand(targets, plan), atol=1e-4, rtol=0)
    assert kind(num_classes="regression")((X, IDS, torch.rand(COUNT)))[1] is IDS


@pytest.mark.parametrize("name", ["mixup", "cutmix", "cutout", "chain"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64], ids=str)
def test_integers_mean_the_same_in_every_batch(name, dtype):
    """(B, 1) are class indices in range, and (B, K) rows hold 0 and 1, before anything is drawn."""
    transform = make(name, num_classes=K)
    collate_fn = make_collate_fn(transform)
    column, rows = LABELS.to(dtype)[:, None], ROWS.to(dtype)
    for mix in (
        lambda labels: transform(X, labels)[1],
        lambda labels: transform({"x": X, "label": labels})["label"],
        lambda labels: collate_fn([(X[i], labels[i]) for i in range(COUNT)])[1],
    ):
        found = []
        for labels in (column, column[:, 0], rows):
            torch.manual_seed(1)
            found.append(mix(labels))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        refused(lambda: mix(column + 3), "in [0, 5), got 6 at position 0")  # noqa: B023
        refused(lambda: mix(rows * 2), "must be 0 or 1")  # noqa: B023
    if name != "cutout":
        refused(lambda: make(name, num_classes=None)(X, column), "num_classes must be given")


# --- Several labels -----------------------------------------------------------------------------

AGE = torch.rand(COUNT)


def test_labels_are_named_by_their_keys_at_any_depth():
    """A key names a label deep in the batch, and a position or a path one in a tuple."""
    nested = {"image": X, "about": [{"breed": LABELS}, {"age": AGE}]}
    breed, age = CutMix(num_classes={"breed": K, "age": "regression"})(nested)["about"]
    assert breed["breed"].shape == (COUNT, K)
    assert age["age"].dtype == torch.float32
    out = CutMix(num_classes={1: K, 2: "regression"})(X, LABELS, AGE)
    assert [part.shape for part in out[1:]] == [(COUNT, K), (COUNT,)]
    batch, doubt = (X, (ROWS, LABELS)), "labels could be at [1][0] or [1][1]"
    refused(lambda: CutMix(num_classes=8)(batch), doubt)
    images, (rows, labels) = CutMix(num_classes={(1, 0): "multi", (1, 1): K})(batch)
    assert torch.equal(rows, labels)
    torch.testing.assert_close(labels, shares(images).float() @ ROWS)


def test_a_pairing_function_gets_the_first_label():
    """With several labels, the function is called with the first of them in the batch."""
    seen = []
    kinds = {"breed": K, "age": "regression"}
    transform = Mixup(num_classes=kinds, pairing=lambda labels: seen.append(labels) or IDS.flip(0))
    _, plan = transform.mix({"image": X, "breed": LABELS, "age": AGE})
    assert torch.equal(seen[0], LABELS)
    assert torch.equal(plan.partner, IDS.flip(0))


@pytest.mark.parametrize("getter", [None, lambda batch: batch["a"]])
def test_a_mapping_of_labels_takes_no_getter(getter):
    """Labels named by key cannot be pointed to a second time."""
    with pytest.raises(ValueError, match="labels_getter"):
        Mixup(num_classes={"a": 3}, labels_getter=getter)
