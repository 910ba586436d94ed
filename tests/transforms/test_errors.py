"""Bad calls: TypeError or ValueError that names the argument, and nothing changed or drawn.

Each row of a table is one bad call. No other exception may come out, whatever is handed in.
"""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import CutMix, Cutout, Mixup, PairedLabels, functional, make_collate_fn
from tv_mixaug.engine import plan as plans
from tv_mixaug.losses import MixCriterion

NAN, INF = math.nan, math.inf
NUMBERS = ("1", None, [1.0], torch.tensor(1.0), True, 1j, object())  # none is a real number


def refuse(call, kind, name, *inputs):
    """Make a bad call and check all that is promised of its refusal."""
    before, state = copy.deepcopy(inputs), torch.get_rng_state()
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    text = str(caught.value)
    assert type(caught.value) is kind, f"{type(caught.value).__name__}: {text}"
    assert name in text, text
    assert text.endswith("."), text
    assert "\n" not in text, text
    assert torch.equal(state, torch.get_rng_state()), "something was drawn"
    assert_same(before, inputs)


def assert_same(before, after):
    """Compare nested inputs tensor by tensor."""
    old, new = (torch.utils._pytree.tree_leaves(side) for side in (before, after))
    assert len(old) == len(new)
    for one, other in zip(old, new, strict=True):
        if isinstance(one, torch.Tensor):
            assert type(one) is type(other)
            assert torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


# --- Constructors -------------------------------------------------------------------------------

SHARED = [
    *[({"p": p}, TypeError, "p") for p in NUMBERS],
    *[({"p": p}, ValueError, "p") for p in (-0.1, 1.1, NAN, INF, 2, np.float32(7))],
    *[({"mode": m}, TypeError, "mode") for m in (None, 1, b"batch", ["batch"], True)],
    *[({"mode": m}, ValueError, "mode") for m in ("", "Batch", "elem")],
    *[({"num_classes": k}, TypeError, "num_classes") for k in (2.0, True, [3], torch.tensor(3))],
    *[({"num_classes": k}, ValueError, "num_classes") for k in (0, -1, "many", {}, {"a": 0})],
    *[({"num_classes": {"a": k}}, TypeError, "num_classes") for k in (2.5, True, {"b": 3})],
    *[({"label_smoothing": s}, TypeError, "label_smoothing") for s in NUMBERS],
    *[({"label_smoothing": s}, ValueError, "label_smoothing") for s in (-0.1, 1.0, 1, NAN, INF)],
    *[({"targets": t}, TypeError, "targets") for t in (None, 1, ["soft"])],
    *[({"targets": t}, ValueError, "targets") for t in ("", "hard")],
    ({"targets": "pair", "label_smoothing": 0.1}, ValueError, "label_smoothing"),
    *[
        ({"labels_getter": g}, TypeError, "labels_getter")
        for g in (1, "labels", True, ["y"], torch.tensor([1, 2]), np.zeros(3))
    ],
    *[({"ignore_index": i}, TypeError, "ignore_index") for i in (1.0, "-1", True, [255])],
    *[({"passthrough": x}, TypeError, "passthrough") for x in ("depth", 3, None, {"depth"})],
    *[({"passthrough": x}, TypeError, "passthrough") for x in ([1.5], [None], [True], [["a"]])],
    *[({"layout": x}, TypeError, "layout") for x in (1, ["B", "C"], b"BCHW")],
    *[({"layout": x}, ValueError, "layout") for x in ("", "BCH", "BCHWW", "CBHW", "BCXHW", "bchw")],
    *[({"inplace": i}, TypeError, "inplace") for i in (1, None, "yes", torch.tensor(True))],
]
ALPHA = [
    *[({"alpha": a}, TypeError, "alpha") for a in NUMBERS],
    *[({"alpha": a}, TypeError, "alpha") for a in ((1, (2, 3)), (1, "2"), (1, 2, 3), [])],
    *[({"alpha": a}, ValueError, "alpha") for a in (0, 0.0, -1, NAN, INF, -INF)],
    *[({"pairing": x}, TypeError, "pairing") for x in (None, 1, ["roll"], torch.arange(3))],
    *[({"pairing": x}, ValueError, "pairing") for x in ("", "flip", "Roll")],
]
MIXUP = [
    *[({"masks": m}, TypeError, "masks") for m in (1, True, ["soft"])],
    *[({"masks": m}, ValueError, "masks") for m in ("", "hard")],
    ({"masks": "soft"}, ValueError, "num_mask_classes"),
    *[({"num_mask_classes": k}, TypeError, "num_mask_classes") for k in (2.0, True, "3")],
    *[({"num_mask_classes": k}, ValueError, "num_mask_classes") for k in (0, -3)],
]
VISIBLE = [
    *[({"min_visible": v}, TypeError, "min_visible") for v in NUMBERS],
    *[({"min_visible": v}, ValueError, "min_visible") for v in (0, -0.1, 1.1, NAN)],
    *[({"cut": c}, TypeError, "cut") for c in (None, 3, True)],
    *[({"cut": c}, ValueError, "cut") for c in ("", "cube")],
]
CUTMIX = [({"correct_lam": c}, TypeError, "correct_lam") for c in (0, None, "no")]
CUTOUT = [
    *[({"size": s}, TypeError, "size") for s in (None, True, "8", (4, "4"), {4, 5}, 1j)],
    *[
        ({"size": s}, TypeError, "size")
        for s in (torch.tensor([4, 4]), np.array([4, 4]), (True, 4))
    ],
    *[({"size": s}, ValueError, "size") for s in (0, -1, 0.0, 1.5, -0.5, NAN, INF, (4, 0))],
    *[({"size": s}, ValueError, "size") for s in ((), (4,), (4, 4, 4), [0.5, 2.5])],
    *[({"holes": h}, TypeError, "holes") for h in (1.0, None, "1", True)],
    *[({"holes": h}, ValueError, "holes") for h in (0, -1)],
    *[({"fill": f}, TypeError, "fill") for f in (None, True, {1}, (1, "2"), [None], 1j)],
    *[({"fill": f}, TypeError, "fill") for f in (torch.zeros(3), np.zeros(3))],
    *[({"fill": f}, ValueError, "fill") for f in ("", "random", (), [], NAN, (1, INF))],
    *[({"mask_fill": f}, TypeError, "mask_fill") for f in (1.0, "0", True, [0])],
]
TABLE = [
    *[(kind, *row) for kind in (Mixup, CutMix, Cutout) for row in SHARED],
    *[(kind, *row) for kind in (Mixup, CutMix) for row in ALPHA],
    *[(Mixup, *row) for row in MIXUP],
    *[(kind, *row) for kind in (CutMix, Cutout) for row in VISIBLE],
    *[(CutMix, *row) for row in CUTMIX],
    *[(Cutout, *row) for row in CUTOUT],
]


@pytest.mark.parametrize(("kind", "named", "error", "name"), TABLE)
def test_constructors_check_their_arguments(kind, named, error, name):
    """Every constructor refuses every wrong argument at once, by its name."""
    refuse(lambda: kind(**named), error, f"{name} " if name != "size" else "size")


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Mixup, {"alpha": np.float32(0.2), "p": np.float64(0.5), "num_classes": np.int64(3)}),
        (Mixup, {"alpha": 1, "p": 1, "label_smoothing": 0, "passthrough": ["a", 3]}),
        (CutMix, {"min_visible": 1, "pairing": lambda labels: labels}),
        (Cutout, {"size": np.int64(4), "fill": np.float32(0.5), "holes": np.int32(2)}),
        (Cutout, {"size": [0.5, 3], "fill": [1, 2.5, 3], "mask_fill": -1}),
    ],
)
def test_numbers_of_numpy_are_numbers(kind, named):
    """What only looks unusual is accepted: NumPy's scalars, ints for floats, lists for tuples."""
    kind(**named)


# --- Batches ------------------------------------------------------------------------------------

IMAGES, LABELS = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
BOTH = (Mixup, CutMix)
ALL = (Mixup, CutMix, Cutout)


@dataclasses.dataclass
class Sample:
    """A container that cannot be looked into."""

    image: torch.Tensor
    label: torch.Tensor


def mask(*shape, dtype=torch.uint8):
    return tv_tensors.Mask(torch.zeros(shape, dtype=dtype))


def boxes(count=4, size=(8, 8)):
    data = torch.tensor([[1.0, 1.0, 4.0, 4.0]]).expand(count, 4).clone()
    return tv_tensors.BoundingBoxes(data, format="XYXY", canvas_size=size)


def target(count=1, **more):
    return {"boxes": boxes(count), "labels": torch.zeros(count).long(), **more}


INDEX = {"num_classes": 3}
ONLY = {"labels_getter": None}
BATCHES = {
    # name: (transforms, arguments, batch, error, what the text names)
    "nothing": (ALL, INDEX, (), TypeError, "images"),
    "none": (ALL, INDEX, (None,), TypeError, "images"),
    "a number": (ALL, INDEX, (3.0,), TypeError, "images"),
    "an empty dict": (ALL, INDEX, ({},), TypeError, "images"),
    "labels alone": (ALL, INDEX, (LABELS,), TypeError, "images"),
    "an array": (ALL, INDEX, (IMAGES.numpy(), LABELS), TypeError, "images"),
    "one image without a batch": (ALL, INDEX, (IMAGES[0], LABELS), TypeError, "images"),
    "an Image without a batch": (
        ALL,
        INDEX,
        (tv_tensors.Image(IMAGES[0]), LABELS[:3]),
        ValueError,
        "images",
    ),
    "int64 images": (ALL, INDEX, (IMAGES.long(), LABELS), TypeError, "images"),
    "int64 Images": (ALL, INDEX, (tv_tensors.Image(IMAGES.long()), LABELS), TypeError, "images"),
    "bool images": (ALL, INDEX, (IMAGES > 0.5, LABELS), TypeError, "images"),
    "complex images": (ALL, INDEX, (IMAGES.to(torch.complex64), LABELS), TypeError, "images"),
    "images of six axes": (
        ALL,
        INDEX,
        (tv_tensors.Image(torch.rand(4, 1, 1, 3, 8, 8)), LABELS),
        ValueError,
        "images",
    ),
    "images without pixels": (ALL, INDEX, (torch.rand(4, 3, 0, 8), LABELS), ValueError, "images"),
    "images without channels": (ALL, INDEX, (torch.rand(4, 0, 8, 8), LABELS), ValueError, "images"),
    "two lengths of images": (ALL, INDEX, (IMAGES, IMAGES[:3], LABELS), ValueError, "images"),
    "too few labels": (ALL, INDEX, (IMAGES, LABELS[:3]), ValueError, "labels"),
    "too few labels, by key": (
        ALL,
        INDEX,
        ({"image": IMAGES, "label": LABELS[:3]},),
        ValueError,
        "labels at ['label']",
    ),
    "a class too high": (BOTH, INDEX, (IMAGES, LABELS + 1), ValueError, "3 at position 2"),
    "a class too low": (BOTH, INDEX, (IMAGES, LABELS - 1), ValueError, "-1 at position 0"),
    "a class too high for Cutout": ((Cutout,), INDEX, (IMAGES, LABELS + 1), ValueError, "labels"),
    "a class that is not the ignored one": (
        ALL,
        {"num_classes": 3, "ignore_index": -100},
        (IMAGES, torch.tensor([0, -100, -1, 2])),
        ValueError,
        "-1 at position 2",
    ),
    "uint8 classes too high": (
        ALL,
        INDEX,
        (IMAGES, torch.tensor([0, 255, 1, 2], dtype=torch.uint8)),
        ValueError,
        "255 at position 1",
    ),
    "wrong K": (ALL, INDEX, (IMAGES, torch.eye(4)), ValueError, "num_classes = 3"),
    "(B, 1) labels": (ALL, INDEX, (IMAGES, torch.rand(4, 1)), ValueError, "num_classes = 3"),
    "(B, K, 1) labels": (
        ALL,
        INDEX,
        ({"x": IMAGES, "label": torch.zeros(4, 3, 1)},),
        ValueError,
        "labels",
    ),
    "0-d label": (ALL, INDEX, ({"x": IMAGES, "label": torch.tensor(1)},), ValueError, "labels"),
    "float indices": (
        ALL,
        INDEX,
        ({"x": IMAGES, "label": LABELS.float()},),
        TypeError,
        "labels at ['label']",
    ),
    "bool indices": (ALL, INDEX, ({"x": IMAGES, "y": LABELS > 0},), TypeError, "labels"),
    "complex labels": (
        ALL,
        INDEX,
        ({"x": IMAGES, "y": torch.eye(4)[:, :3].to(torch.complex64)},),
        TypeError,
        "labels",
    ),
    "float labels, unnamed": (BOTH, INDEX, (IMAGES, LABELS.float()), ValueError, "labels"),
    "a list of labels": (BOTH, INDEX, (IMAGES, [0, 1, 2, 1]), ValueError, "labels"),
    "an array of labels": (BOTH, INDEX, (IMAGES, LABELS.numpy()), ValueError, "labels"),
    "no labels": (BOTH, INDEX, (IMAGES,), ValueError, "labels"),
    "no labels and no number": (BOTH, {}, (IMAGES,), ValueError, "labels"),
    "no number of classes": (BOTH, {}, (IMAGES, LABELS), ValueError, "num_classes"),
    "labels in two places": (
        ALL,
        INDEX,
        ({"x": IMAGES, "label": LABELS, "target": LABELS},),
        ValueError,
        "labels could be at ['label'] or ['target']",
    ),
    "labels before the image in two places": (
        BOTH,
        INDEX,
        (LABELS, LABELS.clone(), IMAGES),
        ValueError,
        "labels could be at",
    ),
    "multi-hot indices": (ALL, {"num_classes": "multi"}, (IMAGES, LABELS), ValueError, "labels"),
    "a key that is not there": (
        ALL,
        {"num_classes": {"breed": 3}},
        ({"image": IMAGES, "label": LABELS},),
        ValueError,
        "keys that the batch has once, got 'breed'",
    ),
    "a key that is there twice": (
        ALL,
        {"num_classes": {"y": 3}},
        ({"image": IMAGES, "y": LABELS, "more": {"y": LABELS}},),
        ValueError,
        "keys that the batch has once, got 'y'",
    ),
    "a key that holds text": (
        ALL,
        {"num_classes": {"y": 3}},
        ({"image": IMAGES, "y": list("abcd")},),
        ValueError,
        "keys that the batch has once, got 'y'",
    ),
    "a key that holds the image": (
        ALL,
        {"num_classes": {"image": 3}},
        ({"image": IMAGES, "y": LABELS},),
        (TypeError, ValueError),
        "image",
    ),
    "a key that holds a number": (
        ALL,
        {"num_classes": {"y": 3}},
        ({"image": IMAGES, "y": 7},),
        TypeError,
        "labels at ['y']",
    ),
    "one of several labels out of range": (
        ALL,
        {"num_classes": {"a": 3, "b": 2}},
        ({"image": IMAGES, "a": LABELS, "b": LABELS},),
        ValueError,
        "labels at ['b']",
    ),
    "a getter that returns none": (
        ALL,
        {"num_classes": 3, "labels_getter": lambda batch: None},
        (IMAGES, LABELS),
        TypeError,
        "labels_getter",
    ),
    "a getter that returns a list": (
        ALL,
        {"num_classes": 3, "labels_getter": lambda batch: [1, 2, 3, 4]},
        (IMAGES, LABELS),
        TypeError,
        "labels_getter",
    ),
    "a getter that returns the images": (
        ALL,
        {"num_classes": 3, "labels_getter": lambda batch: batch[0]},
        (IMAGES, LABELS),
        ValueError,
        "labels_getter",
    ),
    "a getter that returns a number": (
        ALL,
        {"num_classes": 3, "labels_getter": lambda batch: torch.tensor(3)},
        (IMAGES, LABELS),
        ValueError,
        "labels",
    ),
    "a getter that returns too few": (
        ALL,
        {"num_classes": 3, "labels_getter": lambda batch: torch.tensor([1, 2])},
        (IMAGES, LABELS),
        ValueError,
        "labels",
    ),
    "a getter whose place cannot be told": (
        ALL,
        {"num_classes": 3, "labels_getter": lambda batch: torch.arange(4) % 3},
        (IMAGES, LABELS, LABELS.clone()),
        ValueError,
        "labels_getter",
    ),
    "a dataclass": (ALL, INDEX, (Sample(IMAGES, LABELS),), TypeError, "Sample"),
    "a set": (ALL, INDEX, (IMAGES, LABELS, {1, 2}), TypeError, "set"),
    "a mask without a rule": (
        (Mixup,),
        ONLY,
        (tv_tensors.Image(IMAGES), mask(4, 8, 8)),
        ValueError,
        "masks",
    ),
    "a mask of another length": (
        (CutMix, Cutout),
        ONLY,
        (tv_tensors.Image(IMAGES), mask(3, 8, 8)),
        ValueError,
        "masks",
    ),
    "a mask of another size": (
        (CutMix, Cutout),
        ONLY,
        (tv_tensors.Image(IMAGES), mask(4, 8, 7)),
        ValueError,
        "masks",
    ),
    "a mask without a batch": (
        (CutMix, Cutout),
        ONLY,
        (tv_tensors.Image(IMAGES), mask(8, 8)),
        ValueError,
        "masks",
    ),
    "an unknown mask class": (
        (Mixup,),
        {"masks": "soft", "num_mask_classes": 2, **ONLY},
        (tv_tensors.Image(IMAGES), tv_tensors.Mask(torch.full((4, 8, 8), 255))),
        ValueError,
        "masks at [1] must be in [0, 2), got 255",
    ),
    "a plain mask": (ALL, INDEX, (IMAGES, LABELS, torch.zeros(4, 8, 8)), ValueError, "left behind"),
    "views of two sizes": (
        (CutMix, Cutout),
        INDEX,
        (IMAGES, torch.rand(4, 3, 6, 6), LABELS),
        ValueError,
        "images",
    ),
    "more axes than the layout": (
        ALL,
        {"layout": "BCHW", **INDEX},
        (torch.rand(4, 2, 3, 8, 8), LABELS),
        TypeError,
        "images",
    ),
    "a cuboid in time and depth": (
        (CutMix,),
        {"cut": "cuboid", "layout": "BCTDHW", **INDEX},
        (torch.rand(4, 1, 2, 2, 8, 8), LABELS),
        ValueError,
        "cut",
    ),
    "a cuboid from images": (
        (CutMix, Cutout),
        {"cut": "cuboid", **INDEX},
        (IMAGES, LABELS),
        ValueError,
        "cut",
    ),
    "boxes outside targets": (
        ALL,
        INDEX,
        (tv_tensors.Image(IMAGES), boxes(), LABELS),
        ValueError,
        "left behind",
    ),
    "boxes in one dict with the images": (
        ALL,
        ONLY,
        ({"image": tv_tensors.Image(IMAGES), "boxes": boxes()},),
        (TypeError, ValueError),
        "boxes",
    ),
    "too few targets": (ALL, ONLY, (IMAGES, [target()] * 3), ValueError, "targets"),
    "targets with too few labels": (
        ALL,
        ONLY,
        (IMAGES, [*[target(2, scores=torch.rand(2))] * 3, target(1, scores=torch.rand(2))]),
        ValueError,
        "[3]['scores']",
    ),
    "targets of another canvas": (
        ALL,
        ONLY,
        (IMAGES, [{**target(), "boxes": boxes(1, (9, 9))}] * 4),
        ValueError,
        "canvas_size",
    ),
    "targets with boxes in a list": (
        ALL,
        ONLY,
        (IMAGES, [{"boxes": [[1, 1, 4, 4]]}] * 4),
        TypeError,
        "boxes",
    ),
    "degenerate boxes": (
        ALL,
        ONLY,
        (IMAGES, [{"boxes": torch.tensor([[3.0, 3.0, 3.0, 5.0]])}] * 4),
        ValueError,
        "boxes",
    ),
    "boxes of NaN": (
        ALL,
        ONLY,
        (IMAGES, [{"boxes": torch.full((1, 4), NAN)}] * 4),
        ValueError,
        "boxes",
    ),
    "images of two sizes in a list": (
        ALL,
        ONLY,
        ([torch.rand(3, 8, 8), torch.rand(3, 8, 9)], [target(), target()]),
        ValueError,
        "images",
    ),
    "images of two dtypes in a list": (
        ALL,
        ONLY,
        ([torch.rand(3, 8, 8), torch.rand(3, 8, 8).double()], [target(), target()]),
        ValueError,
        "images",
    ),
    "paired labels again": (
        BOTH,
        INDEX,
        (IMAGES, PairedLabels(LABELS, LABELS, torch.rand(4))),
        ValueError,
        "PairedLabels",
    ),
    "a pairing without labels": (
        BOTH,
        {"pairing": lambda labels: labels, **ONLY},
        (IMAGES, LABELS),
        ValueError,
        "pairing",
    ),
    "fractional fill of uint8": (
        (Cutout,),
        {"fill": 0.5, **INDEX},
        (IMAGES.to(torch.uint8), LABELS),
        ValueError,
        "fill",
    ),
    "fill of uint8 too high": (
        (Cutout,),
        {"fill": 256, **INDEX},
        (IMAGES.to(torch.uint8), LABELS),
        ValueError,
        "fill",
    ),
    "fill of uint8 below zero": (
        (Cutout,),
        {"fill": (0, -1, 0), **INDEX},
        (IMAGES.to(torch.uint8), LABELS),
        ValueError,
        "fill",
    ),
    "fill for other channels": (
        (Cutout,),
        {"fill": (0, 1), **INDEX},
        (IMAGES, LABELS),
        ValueError,
        "fill",
    ),
    "fill for one channel of three": (
        (Cutout,),
        {"fill": (0.5,), **INDEX},
        (IMAGES, LABELS),
        ValueError,
        "fill",
    ),
    "fill for channels that are not there": (
        (Cutout,),
        {"fill": (0, 1), "layout": "BDHW", **INDEX},
        (torch.rand(4, 2, 8, 8), LABELS),
        ValueError,
        "fill",
    ),
    "in place through gradients": (
        ALL,
        {"inplace": True, **INDEX},
        (torch.rand(4, 3, 8, 8, requires_grad=True), LABELS),
        ValueError,
        "inplace",
    ),
    "in place in shared memory": (
        ALL,
        {"inplace": True, **INDEX},
        (torch.rand(1, 3, 8, 8).expand(4, 3, 8, 8), LABELS),
        ValueError,
        "inplace",
    ),
}
PAIRINGS = {
    "none": (lambda labels: None, TypeError),
    "a list": (lambda labels: [1, 0, 3, 2], TypeError),
    "an array": (lambda labels: np.array([1, 0, 3, 2]), TypeError),
    "floats": (lambda labels: torch.tensor([1.0, 0, 3, 2]), TypeError),
    "bools": (lambda labels: labels > 0, TypeError),
    "complex": (lambda labels: labels.to(torch.complex64), TypeError),
    "too few": (lambda labels: torch.tensor([1, 0]), ValueError),
    "two axes": (lambda labels: torch.zeros(4, 1).long(), ValueError),
    "a number": (lambda labels: torch.tensor(1), ValueError),
    "too high": (lambda labels: torch.tensor([1, 0, 4, 2]), ValueError),
    "negative": (lambda labels: torch.tensor([1, 0, -1, 2]), ValueError),
}


def match_kind(call, kind, name, *inputs):
    """Refuse where either kind of error is fine."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    with pytest.raises(kinds) as caught:
        call()
    refuse(call, type(caught.value), name, *inputs)


@pytest.mark.parametrize("row", BATCHES)
def test_batches_are_checked_before_anything_is_drawn(row):
    """Every bad batch is refused by name, with nothing changed and no number drawn."""
    kinds, named, batch, error, name = BATCHES[row]
    for kind in kinds:
        transform = kind(**named)
        tensors = [t for t in torch.utils._pytree.tree_leaves(batch) if isinstance(t, torch.Tensor)]
        plain = [t.detach() for t in tensors]
        match_kind(lambda transform=transform: transform(*batch), error, name, *plain)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("row", PAIRINGS)
def test_a_pairing_function_is_checked(kind, row):
    """Whatever a user's pairing function returns, it is refused in words."""
    pairing, error = PAIRINGS[row]
    transform = kind(num_classes=3, pairing=pairing)
    refuse(lambda: transform(IMAGES, LABELS), error, "pairing", IMAGES, LABELS)


def test_nothing_is_written_in_place_when_the_batch_is_bad():
    """A refused batch keeps its pixels even where they were to be overwritten."""
    for kind in ALL:
        images = IMAGES.clone()
        transform = kind(num_classes=3, inplace=True)
        refuse(lambda: transform(images, LABELS + 5), ValueError, "labels", images)  # noqa: B023


# --- Kernels ------------------------------------------------------------------------------------

PARTNER, LAM = torch.tensor([1, 2, 3, 0]), torch.rand(4)
CUT = torch.tensor([[0, 0, 4, 4]]).repeat(4, 1)
PLAN = plans.identity_plan(4)
KERNELS = [
    (functional.mixup, (IMAGES.numpy(), PARTNER, LAM), TypeError, "images"),
    (functional.mixup, (None, PARTNER, LAM), TypeError, "images"),
    (functional.mixup, (torch.tensor(1.0), PARTNER, LAM), ValueError, "images"),
    (functional.mixup, (IMAGES.long(), PARTNER, LAM), TypeError, "images"),
    (functional.mixup, (IMAGES > 0, PARTNER, LAM), TypeError, "images"),
    (functional.mixup, (IMAGES, [1, 2, 3, 0], LAM), TypeError, "partner"),
    (functional.mixup, (IMAGES, PARTNER.int(), LAM), TypeError, "partner"),
    (functional.mixup, (IMAGES, PARTNER.float(), LAM), TypeError, "partner"),
    (functional.mixup, (IMAGES, PARTNER[:3], LAM), ValueError, "partner"),
    (functional.mixup, (IMAGES, PARTNER[:, None], LAM), ValueError, "partner"),
    (functional.mixup, (IMAGES, torch.tensor(1), LAM), ValueError, "partner"),
    (functional.mixup, (IMAGES, PARTNER, 0.5), TypeError, "lam"),
    (functional.mixup, (IMAGES, PARTNER, PARTNER), TypeError, "lam"),
    (functional.mixup, (IMAGES, PARTNER, LAM[:2]), ValueError, "lam"),
    (functional.mixup, (IMAGES, PARTNER, LAM[:, None]), ValueError, "lam"),
    (functional.mixup, (IMAGES, PARTNER, LAM.to(torch.complex64)), TypeError, "lam"),
    (functional.cutmix, ([1, 2], PARTNER, CUT), TypeError, "images"),
    (functional.cutmix, (torch.rand(4, 8), PARTNER, CUT), ValueError, "images"),
    (functional.cutmix, (IMAGES, PARTNER[:3], CUT), ValueError, "partner"),
    (functional.cutmix, (IMAGES, PARTNER, CUT.tolist()), TypeError, "boxes"),
    (functional.cutmix, (IMAGES, PARTNER, CUT.float()), TypeError, "boxes"),
    (functional.cutmix, (IMAGES, PARTNER, CUT[:3]), ValueError, "boxes"),
    (functional.cutmix, (IMAGES, PARTNER, CUT[:, :3]), ValueError, "boxes"),
    (functional.cutmix, (IMAGES, PARTNER, CUT[0]), ValueError, "boxes"),
    (functional.cutmix, (IMAGES, PARTNER, CUT[:, None, None]), ValueError, "boxes"),
    (functional.cutout, (None, CUT), TypeError, "images"),
    (functional.cutout, (IMAGES, CUT[:3]), ValueError, "boxes"),
    (functional.cutout, (IMAGES, CUT.int()), TypeError, "boxes"),
    (functional.cutout, (IMAGES, CUT, "noise"), TypeError, "fill"),
    (functional.cutout, (IMAGES, CUT, None), TypeError, "fill"),
    (functional.cutout, (IMAGES, CUT, (1, "2", 3)), TypeError, "fill"),
    (functional.cutout, (IMAGES, CUT, (1, 2)), ValueError, "fill"),
    (functional.cutout, (IMAGES, CUT, torch.zeros(5)), ValueError, "fill"),
    (functional.mix_labels, ([0, 1], PARTNER, LAM), TypeError, "labels"),
    (functional.mix_labels, (torch.eye(4), PARTNER[:3], LAM), ValueError, "partner"),
    (functional.mix_labels, (torch.eye(4), PARTNER, LAM[:3]), ValueError, "lam"),
    (functional.mix_labels, (torch.tensor(1.0), PARTNER, LAM), ValueError, "labels"),
    (functional.replay, (IMAGES, tuple(PLAN)), TypeError, "plan"),
    (functional.replay, (IMAGES, None), TypeError, "plan"),
    (functional.replay, ([IMAGES], PLAN), TypeError, "images"),
    (functional.replay, (IMAGES[:3], PLAN), ValueError, "plan"),
    (functional.replay, (IMAGES, PLAN, "random"), ValueError, "fill"),
]
AXES = [
    ((3,), ValueError),
    ((1, 2, 3), ValueError),
    ((3, 9), ValueError),
    ((3, 3), ValueError),
    ((0, 3), ValueError),
    ("hw", TypeError),
    (3, TypeError),
    ((2.0, 3.0), TypeError),
]


@pytest.mark.parametrize(("kernel", "values", "error", "name"), KERNELS)
def test_kernels_check_kinds_and_shapes(kernel, values, error, name):
    """Kernels refuse wrong kinds, dtypes and shapes by the argument's name."""
    refuse(lambda: kernel(*values), error, name, *values)


@pytest.mark.parametrize(("axes", "error"), AXES)
def test_kernels_check_axes(axes, error):
    """The axes that a box cuts must be two (or three) different ones that are there."""
    for call in (
        lambda: functional.cutmix(IMAGES, PARTNER, CUT, axes=axes),
        lambda: functional.cutout(IMAGES, CUT, axes=axes),
    ):
        refuse(call, error, "axes", IMAGES)


# --- Criterion and factory ----------------------------------------------------------------------

CRITERIA = [
    (("mse",), {}, TypeError, "criterion"),
    ((None,), {}, TypeError, "criterion"),
    ((torch.nn.CrossEntropyLoss(),), {"reduction": "max"}, ValueError, "reduction"),
    ((torch.nn.CrossEntropyLoss(),), {"reduction": None}, ValueError, "reduction"),
    ((torch.nn.CrossEntropyLoss(),), {"ignore_index": 1.5}, TypeError, "ignore_index"),
    ((torch.nn.CrossEntropyLoss(),), {"ignore_index": True}, TypeError, "ignore_index"),
]


@pytest.mark.parametrize(("values", "named", "error", "name"), CRITERIA)
def test_the_criterion_checks_its_arguments(values, named, error, name):
    """MixCriterion refuses what is no criterion and no reduction."""
    refuse(lambda: MixCriterion(*values, **named), error, name)


@pytest.mark.parametrize("labels", [None, [0, 1], "ab", (LABELS, LABELS, LAM), LABELS.numpy()])
def test_the_criterion_checks_the_labels(labels):
    """Labels that are neither a tensor nor pairs are refused by name."""
    loss, outputs = MixCriterion(torch.nn.CrossEntropyLoss()), torch.rand(4, 3)
    refuse(lambda: loss(outputs, labels), TypeError, "labels", outputs)


ONE = Mixup(num_classes=3)
TWO = [Mixup(num_classes=3), CutMix(num_classes=3)]
FACTORY = [
    ((None,), {}, TypeError, "transforms"),
    ((3,), {}, TypeError, "transforms"),
    (("mixup",), {}, TypeError, "transforms"),
    (([],), {}, ValueError, "transforms"),
    (([ONE, None],), {}, TypeError, "transforms"),
    (([Mixup(num_classes=3), CutMix(num_classes=4)],), {}, ValueError, "num_classes"),
    (([ONE, CutMix(num_classes=3, targets="pair")],), {}, ValueError, "targets"),
    (([ONE, CutMix(num_classes=3, label_smoothing=0.1)],), {}, ValueError, "smoothing"),
    *[((ONE,), {"p": p}, TypeError, "p ") for p in ("1", [0.5], True, torch.tensor(0.5))],
    *[((ONE,), {"p": p}, ValueError, "p ") for p in (-0.1, 1.5, NAN, INF)],
    *[((TWO,), {"p": p}, TypeError, "p ") for p in (0.5, "ab", {"a": 1}, ["a", "b"], [True, 0])],
    *[((TWO,), {"p": p}, ValueError, "p ") for p in ([0.5], [0.6, 0.6], [-0.1, 0.5], [NAN, 0.1])],
    ((TWO,), {"p": [0.1, 0.2, 0.3]}, ValueError, "p "),
    *[((ONE,), {"collate_fn": c}, TypeError, "collate_fn") for c in (1, "default", [])],
    *[((ONE,), {"seed": s}, TypeError, "seed") for s in (1.0, "1", True, torch.tensor(1))],
    ((ONE,), {"seed": -1}, ValueError, "seed"),
    *[((ONE,), {"rank": r}, TypeError, "rank") for r in (1.0, "1", True)],
    ((ONE,), {"rank": -1}, ValueError, "rank"),
    *[((ONE,), {"record": r}, TypeError, "record") for r in (1, None, "yes")],
    *[((ONE,), {"reuse_memory": r}, TypeError, "reuse_memory") for r in (1, 0.0, "yes")],
    ((v2.Identity(),), {"record": True}, ValueError, "record"),
    ((ONE,), {"reuse_memory": True, "collate_fn": list}, ValueError, "reuse_memory"),
]


@pytest.mark.parametrize(("values", "named", "error", "name"), FACTORY)
def test_the_factory_checks_its_arguments(values, named, error, name):
    """make_collate_fn refuses every wrong argument when it is called, not in a worker."""
    refuse(lambda: make_collate_fn(*values, **named), error, name)


@pytest.mark.parametrize(
    ("method", "value", "error"),
    [
        ("set_p", None, TypeError),
        ("set_p", "1", TypeError),
        ("set_p", 2.0, ValueError),
        ("set_p", NAN, ValueError),
        ("set_epoch", None, TypeError),
        ("set_epoch", 1.0, TypeError),
        ("set_epoch", True, TypeError),
        ("set_epoch", -1, ValueError),
    ],
)
def test_the_setters_check_their_arguments(method, value, error):
    """set_p and set_epoch refuse what the factory would, and keep what was set before."""
    collate = make_collate_fn(ONE, p=0.25)
    refuse(lambda: getattr(collate, method)(value), error, method.removeprefix("set_"))
    assert collate.p == 0.25
    assert collate.epoch == 0


def image(*shape, dtype=torch.float32):
    return torch.zeros(shape or (3, 8, 8), dtype=dtype)


SAMPLES = {
    "none": (None, TypeError, "samples"),
    "a tensor": (torch.rand(2, 3, 8, 8), TypeError, "samples"),
    "an iterator": (iter([(image(), 0)]), TypeError, "samples"),
    "empty": ([], ValueError, "samples"),
    "two sizes": ([(image(), 0), (image(3, 8, 9), 1)], ValueError, "samples"),
    "two dtypes": ([(image(), 0), (image(dtype=torch.uint8), 1)], ValueError, "samples"),
    "two types": ([(image(), 0), (tv_tensors.Image(image()), 1)], ValueError, "samples"),
    "two lengths": ([(image(), 0), (image(), 1, 2)], ValueError, "samples"),
    "two sets of keys": ([{"x": image(), "y": 0}, {"x": image()}], ValueError, "samples"),
    "a dict and a tuple": ([{"x": image(), "y": 0}, (image(), 0)], ValueError, "samples"),
    "a tuple and a dict": ([(image(), 0), {"x": image(), "y": 0}], ValueError, "samples"),
    "a tensor and a number": ([(image(), torch.tensor(0)), (image(), 1)], TypeError, "samples"),
    "a number and a tensor": ([(image(), 0), (image(), torch.tensor(1))], TypeError, "samples"),
    "a number and a string": ([(image(), 0), (image(), "1")], TypeError, "samples"),
    "a string and a number": ([(image(), "0"), (image(), 1)], TypeError, "samples"),
    "a number and none": ([(image(), 0), (image(), None)], TypeError, "samples"),
    "an object": ([(image(), object()), (image(), object())], TypeError, "samples"),
    "none for a label": ([(image(), None), (image(), None)], TypeError, "samples"),
    "arrays of two sizes": (
        [(image(), np.zeros(2)), (image(), np.zeros(3))],
        (TypeError, ValueError),
        "samples",
    ),
    "arrays of text": (
        [(image(), np.array(["a"])), (image(), np.array(["b"]))],
        TypeError,
        "samples",
    ),
    "images without a batch axis of their own": ([image(), image()], ValueError, "labels"),
    "a label out of range": ([(image(), 0), (image(), 3)], ValueError, "3 at position 1"),
    "int images": ([(image(dtype=torch.int64), 0)] * 2, TypeError, "images"),
    "two-dimensional images": ([(image(8, 8), 0)] * 2, TypeError, "images"),
    "a mask without a rule": (
        [{"x": tv_tensors.Image(image()), "m": mask(8, 8), "y": 0}] * 2,
        ValueError,
        "masks",
    ),
    "boxes outside targets": (
        [(tv_tensors.Image(image()), boxes(2), 0)] * 2,
        ValueError,
        "samples",
    ),
    "boxes in one dict with the image": (
        [{"image": tv_tensors.Image(image()), "boxes": boxes(2), "labels": torch.zeros(2)}] * 2,
        TypeError,
        "images",
    ),
}


@pytest.mark.parametrize("row", SAMPLES)
def test_collating_checks_its_samples(row):
    """Samples that cannot be stacked or mixed are refused in words, by default and with a seed."""
    samples, error, name = SAMPLES[row]
    collate = make_collate_fn(Mixup(num_classes=3), seed=1)
    match_kind(lambda: collate(samples), error, name)
