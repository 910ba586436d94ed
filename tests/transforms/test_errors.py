"""Wrong calls raise a TypeError or ValueError that names the argument, and have no effect."""

import math
from dataclasses import make_dataclass

import numpy as np
import pytest
import torch
from helpers.refusals import refused
from helpers.transforms import MEMBERS, make, names
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors

from tv_mixaug import (
    CutMix,
    Cutout,
    MixCriterion,
    Mixup,
    PairedLabels,
    RandomErasing,
    functional,
    make_collate_fn,
)
from tv_mixaug.engine.plan import identity_plan

NAN, INF = math.nan, math.inf
EITHER = (TypeError, ValueError)

# --- Constructors ---------------------------------------------------------------------------------

NOT_NUMBERS = ("1", None, [1.0], torch.tensor(1.0), True, 1j, object())
SHARED = {  # argument: values of a wrong type, wrong values
    "p": (NOT_NUMBERS, (-0.1, 1.1, NAN, INF, 2, np.float32(7))),
    "mode": ((None, 1, b"batch", ["batch"], True), ("", "Batch", "elem")),
    "num_classes": (
        (2.0, True, [3], torch.tensor(3), {"a": 2.5}, {"a": True}, {"a": {"b": 3}}),
        (0, -1, "many", {}, {"a": 0}),
    ),
    "label_smoothing": (NOT_NUMBERS, (-0.1, 1.0, 1, NAN, INF)),
    "targets": ((None, 1, ["soft"]), ("", "hard")),
    "labels_getter": ((1, "labels", True, ["y"], torch.tensor([1, 2]), np.zeros(3)), ()),
    "ignore_index": ((1.0, "-1", True, [255]), ()),
    "passthrough": (("depth", 3, None, {"depth"}, [1.5], [None], [True], [["a"]]), ()),
    "layout": ((1, ["B", "C"], b"BCHW"), ("", "BCH", "BCHWW", "CBHW", "BCXHW", "bchw")),
    "inplace": ((1, None, "yes", torch.tensor(True)), ()),
    "masks": ((1, True, ["soft"]), ("", "hard")),
    "num_mask_classes": ((2.0, True, "3"), (0, -3)),
    "box_format": ((None, 1), ("", "XYXY")),
}
PAIRED = {
    "alpha": (
        (*NOT_NUMBERS, (1, (2, 3)), (1, "2"), (1, 2, 3), []),
        (-1, NAN, INF, -INF, (1.0, 0.0), 10**400, 10**5000),
    ),
    "lam": (("half", True, (0.5, "1")), (1.2, -0.1, NAN, (0.6, 0.5), (0.6, 1.5), (0.5,))),
    "pairing": ((None, 1, ["roll"], torch.arange(3)), ("", "flip", "Roll")),
}
BOXES = {
    "min_visible": (NOT_NUMBERS, (0, -0.1, 1.1, NAN)),
    "cut": ((None, 3, True), ("", "cube")),
}
HOLES = {
    "fill": (
        (None, True, {1}, (1, "2"), [None], 1j, torch.zeros(3), np.zeros(3)),
        ("", "random", (), [], NAN, (1, INF)),
    ),
    "mask_fill": ((1.0, "0", True, [0]), ()),
}
SIZE = {
    "size": (
        (None, True, "8", (4, "4"), {4, 5}, 1j, torch.tensor([4, 4]), np.array([4, 4]), (True, 4)),
        (0, -1, 0.0, 1.5, -0.5, NAN, INF, (4, 0), (), (4,), (4, 4, 4), [0.5, 2.5]),
    ),
    "holes": ((1.0, None, "1", True), (0, -1)),
}
SCALE = {
    "scale": ((0.3, None, (0.1, "1")), ((0.4, 0.2), (-0.1, 0.2), (0.1, 1.2), (0.1,))),
    "ratio": ((1, ("a", 2)), ((0, 2), (0.3,), (2, 1))),
    "count": ((1.5, "1", True, (1, 2)), (0, -1)),
}
ARGUMENTS = {
    Mixup: {**SHARED, **PAIRED},
    CutMix: {**SHARED, **PAIRED, **BOXES, "correct_lam": ((0, None, "no"), ())},
    Cutout: {**SHARED, **BOXES, **HOLES, **SIZE},
    RandomErasing: {**SHARED, **BOXES, **HOLES, **SCALE},
}
SOFT = {"masks": "soft"}
COMBINATIONS = [
    (Mixup, {"alpha": (1.0, 2.0, 3.0)}, TypeError, "alpha must be a number or a pair"),
    (Mixup, {"lam": 0.5, "alpha": 0.2}, ValueError, "alpha must be left out"),
    (CutMix, {"lam": 0.5, "alpha": 0.2}, ValueError, "alpha must be left out"),
    (Mixup, {"targets": "pair", "label_smoothing": 0.1}, ValueError, "label_smoothing must be 0"),
    (Mixup, SOFT, ValueError, "num_mask_classes must be given"),
    (Mixup, {"num_classes": "regression", "label_smoothing": 0.1}, ValueError, "label_smoothing"),
    (Cutout, {**SOFT, "num_mask_classes": 2, "mask_fill": 2}, ValueError, "mask_fill must be in"),
    (RandomErasing, {"scale": (0.4, 0.2)}, ValueError, "scale must be a pair"),
    (RandomErasing, {"cut": "cuboid"}, ValueError, "cut must be"),
]
TABLE = [
    (kind, {name: value}, error, f"{name} ")
    for kind, arguments in ARGUMENTS.items()
    for name, both in arguments.items()
    for error, values in zip(EITHER, both, strict=True)
    for value in values
]


@pytest.mark.parametrize(("kind", "arguments", "error", "text"), TABLE + COMBINATIONS)
def test_constructors_check_their_arguments(kind, arguments, error, text):
    """Constructors refuse each wrong argument by its name."""
    refused(lambda: kind(**arguments), text, kind=error)


# --- Batches --------------------------------------------------------------------------------------

X, Y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
IMAGE = tv_tensors.Image(X)
LAM, BOX = torch.rand(4), torch.tensor([[1.0, 1.0, 4.0, 4.0]])
INDEX, ONLY, BREED = {"num_classes": 3}, {"labels_getter": None}, {"num_classes": {"breed": 3}}
CUBOID, WRITE = {"cut": "cuboid", **INDEX}, {"inplace": True, **INDEX}


def mask(*shape, value=0):
    return tv_tensors.Mask(torch.full(shape, value, dtype=torch.uint8))


def target(count=1, size=(8, 8), **more):
    boxes = tv_tensors.BoundingBoxes(BOX.repeat(count, 1), format="XYXY", canvas_size=size)
    return {"boxes": boxes, "labels": torch.zeros(count).long(), **more}


def named(**fields):
    return ({"x": X, **fields},)


def get(value):
    """Return options with a labels_getter that returns a value, or that of a function."""
    return {**INDEX, "labels_getter": value if callable(value) else lambda batch: value}


ALL, MIXUPS = list(MEMBERS), [name for name in MEMBERS if name.startswith("mixup")]
DOMINANT = {"masks": "dominant", **ONLY}
BATCHES = [
    # transforms, error, {name: (options, batch, text)}
    (ALL, TypeError, {
        "nothing": (INDEX, (), "images"),
        "None": (INDEX, (None,), "images"),
        "a number": (INDEX, (3.0,), "images"),
        "an empty dict": (INDEX, ({},), "images"),
        "only labels": (INDEX, (Y,), "images"),
        "an array of images": (INDEX, (X.numpy(), Y), "images"),
        "an image without a batch": (INDEX, (X[0], Y), "images"),
        "int64 images": (INDEX, (X.long(), Y), "images"),
        "an int64 Image": (INDEX, (tv_tensors.Image(X.long()), Y), "images"),
        "bool images": (INDEX, (X > 0.5, Y), "images"),
        "complex images": (INDEX, (X.to(torch.complex64), Y), "images"),
        "more axes than the layout": ({"layout": "BCHW", **INDEX}, (X[:, :, None], Y), "images"),
        "float indices": (INDEX, named(label=Y.float()), "labels at ['label']"),
        "bool indices": (INDEX, named(y=Y > 0), "labels at ['y']"),
        "complex rows": (INDEX, named(y=torch.eye(4, 3).to(torch.complex64)), "labels"),
        "a label that is a number": (BREED, named(breed=7), "labels at ['breed']"),
        "a label that is the image": ({"num_classes": {"x": 3}}, named(y=Y), "images"),
        "a getter of None": (get(None), (X, Y), "labels_getter"),
        "a getter of a list": (get([1, 2, 3, 4]), (X, Y), "labels_getter"),
        "a dataclass": (INDEX, (make_dataclass("Sample", ["x", "y"])(X, Y),), "Sample"),
        "a set": (INDEX, (X, Y, {1, 2}), "set"),
        "boxes in a list": (ONLY, (X, [{"boxes": [[1, 1, 4, 4]]}] * 4), "boxes"),
    }),
    (ALL, ValueError, {
        "an Image without a batch": (INDEX, (tv_tensors.Image(X[0]), Y[:3]), "images"),
        "six axes": (INDEX, (tv_tensors.Image(X[:, None, None]), Y), "images"),
        "no pixels": (INDEX, (X[:, :, :0], Y), "images"),
        "no channels": (INDEX, (X[:, :0], Y), "images"),
        "two lengths of images": (INDEX, (X, X[:3], Y), "images"),
        "too few labels": (INDEX, (X, Y[:3]), "labels"),
        "too few named labels": (INDEX, named(label=Y[:3]), "labels at ['label']"),
        "a class too high": (INDEX, (X, Y + 1), "3 at position 2"),
        "a class too high, in place": (WRITE, (X, Y + 1), "3 at position 2"),
        "a class too low": (INDEX, (X, Y - 1), "-1 at position 0"),
        "a class that is not ignored": (
            {**INDEX, "ignore_index": -100}, (X, Y.where(Y < 2, -1)), "-1 at position 2",
        ),
        "uint8 classes": (INDEX, (X, (Y * 127).to(torch.uint8)), "127 at position 1"),
        "another K": (INDEX, (X, torch.eye(4)), "num_classes = 3"),
        "(B, 1) rows": (INDEX, (X, torch.rand(4, 1)), "num_classes = 3"),
        "(B, K, 1) rows": (INDEX, named(label=torch.zeros(4, 3, 1)), "labels"),
        "a label without axes": (INDEX, named(label=torch.tensor(1)), "labels"),
        "labels at two places": (INDEX, named(label=Y, target=Y), "at ['label'] or ['target']"),
        "multi-hot indices": ({"num_classes": "multi"}, (X, Y), "labels"),
        "a missing key": (BREED, named(label=Y), "has once, got 'breed'"),
        "a key twice": (BREED, named(breed=Y, more={"breed": Y}), "has once, got 'breed'"),
        "a key of text": (BREED, named(breed=list("abcd")), "has once, got 'breed'"),
        "one of two labels": ({"num_classes": {"y": 3, "z": 2}}, named(y=Y, z=Y), "at ['z']"),
        "a getter of images": (get(lambda batch: batch[0]), (X, Y), "labels_getter"),
        "a getter of a number": (get(torch.tensor(3)), (X, Y), "labels"),
        "a getter of too few": (get(torch.tensor([1, 2])), (X, Y), "labels"),
        "a getter of a copy": (get(lambda batch: batch[1] + 0), (X, Y), "labels_getter"),
        "in place with gradients": (WRITE, (X.clone().requires_grad_(), Y), "inplace"),
        "in place in shared memory": (WRITE, (X[:1].expand(4, 3, 8, 8), Y), "inplace"),
        "a plain mask": (INDEX, (X, Y, torch.zeros(4, 8, 8)), "left behind"),
        "boxes without targets": (INDEX, (IMAGE, target(4)["boxes"], Y), "left behind"),
        "boxes beside images": (ONLY, named(boxes=target(4)["boxes"]), "boxes"),
        "too few targets": (ONLY, (X, [target()] * 3), "targets"),
        "too few scores": (ONLY, (X, [target(), target(2, scores=LAM[:1])] * 2), "[1]['scores']"),
        "another canvas": (ONLY, (X, [target(size=(9, 9))] * 4), "canvas_size"),
        "an empty box": (ONLY, (X, [{"boxes": BOX[:, [0, 1, 0, 3]]}] * 4), "boxes"),
        "a box of NaN": (ONLY, (X, [{"boxes": BOX * NAN}] * 4), "boxes"),
        "a list of two sizes": (ONLY, ([X[0], X[0, :, 1:]], [target()] * 2), "images"),
        "a list of two dtypes": (ONLY, ([X[0], X[0].double()], [target()] * 2), "images"),
    }),
    (names(mixes=True), ValueError, {
        "float labels": (INDEX, (X, Y.float()), "labels"),
        "a list of labels": (INDEX, (X, Y.tolist()), "labels"),
        "an array of labels": (INDEX, (X, Y.numpy()), "labels"),
        "no labels": (INDEX, (X,), "labels"),
        "labels first at two places": (INDEX, (Y, Y.clone(), X), "labels could be at"),
        "paired labels": (INDEX, (X, PairedLabels(Y, Y, LAM)), "PairedLabels"),
    }),
    ([*MIXUPS, "cutmix", "cutmix, sample"], ValueError, {
        "no labels and no number of classes": ({"num_classes": None}, (X,), "labels"),
        "no number of classes": ({"num_classes": None}, (X, Y), "num_classes must be given"),
    }),
    (MIXUPS, ValueError, {
        "a mask without a rule": (ONLY, (IMAGE, mask(4, 8, 8)), "masks must be 'soft'"),
        "an unknown mask class": (
            {"masks": "soft", "num_mask_classes": 2, **ONLY}, (IMAGE, mask(4, 8, 8, value=255)),
            "masks at [1] must be in [0, 2), got 255",
        ),
    }),
    ([name for name in ALL if name not in MIXUPS], ValueError, {
        "too few masks": (DOMINANT, (IMAGE, mask(3, 8, 8)), "masks"),
        "a mask of another size": (DOMINANT, (IMAGE, mask(4, 8, 7)), "masks"),
        "a mask without a batch": (DOMINANT, (IMAGE, mask(8, 8)), "masks"),
        "views of two sizes": (INDEX, (X, X[..., :6, :6], Y), "images"),
    }),
    (["cutmix", "cutmix, sample", "cutout"], ValueError, {
        "a cuboid in time and depth": (
            {"layout": "BCTDHW", **CUBOID}, (torch.rand(4, 1, 2, 2, 8, 8), Y), "cut",
        ),
        "a cuboid of images": (CUBOID, (X, Y), "cut"),
    }),
    (names(mixes=False), ValueError, {
        "a fill for two channels": ({"fill": (0, 1), **INDEX}, (X, Y), "fill"),
        "a fill for one channel": ({"fill": (0.5,), **INDEX}, (X, Y), "fill"),
        "a fill without channels": (
            {"fill": (0, 1), "layout": "BDHW", **INDEX}, (X[:, :2], Y), "fill",
        ),
    }),
]  # fmt: skip
ROWS = [
    pytest.param(members, error, *row, id=name)
    for members, error, rows in BATCHES
    for name, row in rows.items()
]


@pytest.mark.parametrize(("members", "error", "options", "batch", "text"), ROWS)
def test_batches_are_checked_before_anything_is_sampled(members, error, options, batch, text):
    """Every transform refuses a wrong batch by the name of the field."""
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    for name in members:
        mix = make(name, **options)
        calls = [lambda mix=mix: mix(*batch)]
        if MEMBERS[name].has_plan and len(batch) > 1 and "inplace" not in options:
            calls.append(lambda mix=mix: mix.draw_plan(batch))
        for call in calls:
            refused(call, text, kind=error, inputs=tensors)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize(
    ("error", "pairing"),
    [
        *[(TypeError, value) for value in (None, [1, 0, 3, 2], np.array([1, 0, 3, 2]))],
        *[(TypeError, value) for value in (Y.double(), Y > 0, Y.to(torch.complex64))],
        *[(ValueError, value) for value in (Y[:2], Y[:, None], Y[0], Y + 2, Y - 1)],
    ],
)
def test_the_result_of_a_pairing_function_is_checked(kind, error, pairing):
    """A pairing that is not a (B,) int64 tensor of partners is refused."""
    rule = kind(num_classes=3, pairing=lambda labels: pairing)
    refused(lambda: rule(X, Y), "pairing", kind=error, inputs=(X, Y))


# --- Functions ------------------------------------------------------------------------------------

PARTNER, CUT = torch.tensor([1, 2, 3, 0]), torch.tensor([[0, 0, 4, 4]]).repeat(4, 1)
PLAN = identity_plan(4)
NOT_IMAGES = ((X.numpy(), None, [1, 2]), (torch.tensor(1.0),))
NOT_BOXES = (
    (CUT.tolist(), CUT.float(), CUT.int()),
    (CUT[:3], CUT[:, :3], CUT[0], CUT[:, None, None]),
)
NOT_PARTNERS = (
    ([1, 2, 3, 0], PARTNER.int(), PARTNER.float()),
    (PARTNER[:3], PARTNER[:, None], torch.tensor(1)),
)
NOT_AXES = (("hw", 3, (2.0, 3.0)), ((3,), (1, 2, 3), (3, 9), (3, 3), (0, 3)))
NOT_WEIGHTS = ((0.5, PARTNER, LAM.to(torch.complex64)), (LAM[:2], LAM[:, None]))
ENTROPY = MixCriterion(torch.nn.CrossEntropyLoss())
FUNCTIONS = [
    # function, its right arguments, the wrong values of each
    (functional.mixup, {"images": X, "partner": PARTNER, "lam": LAM}, {
        "images": ((*NOT_IMAGES[0], X.long(), X > 0), NOT_IMAGES[1]),
        "partner": NOT_PARTNERS,
        "lam": NOT_WEIGHTS,
    }),
    (functional.cutmix, {"images": X, "partner": PARTNER, "boxes": CUT}, {
        "images": (NOT_IMAGES[0], (torch.rand(4, 8),)),
        "partner": NOT_PARTNERS,
        "boxes": NOT_BOXES,
        "axes": NOT_AXES,
    }),
    (functional.cutout, {"images": X, "boxes": CUT}, {
        "images": (NOT_IMAGES[0], (torch.rand(4, 8),)),
        "boxes": NOT_BOXES,
        "axes": NOT_AXES,
        "fill": (("noise", None, (1, "2", 3)), ((1, 2), torch.zeros(5))),
    }),
    (functional.mix_labels, {"labels": torch.eye(4), "partner": PARTNER, "lam": LAM}, {
        "labels": (([0, 1], None), (torch.tensor(1.0),)),
        "partner": NOT_PARTNERS,
        "lam": NOT_WEIGHTS,
    }),
    (functional.replay, {"images": X, "plan": PLAN}, {
        "images": (([X], None), ()),
        "plan": ((tuple(PLAN), None), (identity_plan(3),)),
        "fill": ((), ("random",)),
    }),
    (MixCriterion, {"criterion": torch.nn.CrossEntropyLoss()}, {
        "criterion": (("mse", None), ()),
        "reduction": ((), ("max", "batchmean")),
        "ignore_index": ((1.5, True), ()),
    }),
    (ENTROPY, {"outputs": torch.rand(4, 3), "labels": Y}, {
        "labels": ((None, [0, 1], "ab", (Y, Y, LAM), Y.numpy()), ()),
    }),
]  # fmt: skip
CALLS = [
    (function, {**right, name: value}, error, name)
    for function, right, wrong in FUNCTIONS
    for name, both in wrong.items()
    for error, values in zip(EITHER, both, strict=True)
    for value in values
]


@pytest.mark.parametrize(("function", "arguments", "error", "name"), CALLS)
def test_functions_check_types_and_shapes(function, arguments, error, name):
    """Functions refuse wrong types, dtypes and shapes by the argument's name."""
    refused(lambda: function(**arguments), name, kind=error, inputs=arguments)


# --- Collate functions ----------------------------------------------------------------------------

ONE, TWO = Mixup(num_classes=3), [Mixup(num_classes=3), CutMix(num_classes=3)]
OPTIONS = {
    "collate_fn": ((1, "default", []), ()),
    "seed": ((1.0, "1", True, torch.tensor(1)), (-1,)),
    "rank": ((1.0, "1", True), (-1,)),
    "record": ((1, None, "yes"), ()),
    "reuse_memory": ((1, 0.0, "yes"), ()),
}
FACTORY = [
    *[(value, {}, TypeError, "transforms") for value in (None, 3, "mixup", [ONE, None])],
    ([ONE, CutMix(num_classes=3, targets="pair")], {}, ValueError, "agree on targets"),
    ([ONE, CutMix(num_classes=3, label_smoothing=0.1)], {}, ValueError, "agree on label_smoothing"),
    *[(ONE, {"p": p}, TypeError, "p ") for p in ("1", [0.5], True, torch.tensor(0.5))],
    *[(ONE, {"p": p}, ValueError, "p ") for p in (-0.1, 1.5, NAN, INF)],
    *[(TWO, {"p": p}, TypeError, "p ") for p in (0.5, "ab", {"a": 1}, ["a", "b"], [True, 0])],
    *[(TWO, {"p": p}, ValueError, "p ") for p in ([0.1] * 3, [0.6, 0.6], [-0.1, 0.5], [NAN, 0])],
    *[
        (ONE, {name: value}, error, name)
        for name, both in OPTIONS.items()
        for error, values in zip(EITHER, both, strict=True)
        for value in values
    ],
]


@pytest.mark.parametrize(("transforms", "options", "error", "text"), FACTORY)
def test_make_collate_fn_checks_its_arguments(transforms, options, error, text):
    """make_collate_fn refuses wrong arguments when it is called, before there are workers."""
    refused(lambda: make_collate_fn(transforms, **options), text, kind=error)


@pytest.mark.parametrize(
    ("method", "error", "value"),
    [
        *[("set_p", TypeError, p) for p in (None, "1")],
        *[("set_p", ValueError, p) for p in (2.0, NAN)],
        *[("set_epoch", TypeError, epoch) for epoch in (None, 1.0, True)],
        ("set_epoch", ValueError, -1),
    ],
)
def test_setters_check_their_arguments(method, error, value):
    """set_p and set_epoch refuse wrong values and keep the previous ones."""
    collate_fn = make_collate_fn(ONE, p=0.25)
    refused(lambda: getattr(collate_fn, method)(value), method.removeprefix("set_"), kind=error)
    assert (collate_fn.p, collate_fn.epoch) == (0.25, 0)


def image(*shape, dtype=torch.float32):
    return torch.zeros(shape or (3, 8, 8), dtype=dtype)


A = image()
TYPED = tv_tensors.Image(A)
SAMPLES = [
    # error, {name: (samples, text)}
    (TypeError, {
        "None": (None, "samples"),
        "an iterator": (iter([(A, 0)]), "samples"),
        "a tensor and a number": ([(A, torch.tensor(0)), (A, 1)], "samples"),
        "a number and a tensor": ([(A, 0), (A, torch.tensor(1))], "samples"),
        "a number and a string": ([(A, 0), (A, "1")], "samples"),
        "a string and a number": ([(A, "0"), (A, 1)], "samples"),
        "a number and None": ([(A, 0), (A, None)], "samples"),
        "a dict and a tuple": ([{"x": A, "y": 0}, (A, 0)], "samples"),
        "a tuple and a dict": ([(A, 0), {"x": A, "y": 0}], "samples"),
        "int images": ([(image(dtype=torch.int64), 0)] * 2, "images"),
        "images without channels": ([(image(8, 8), 0)] * 2, "images"),
        "boxes beside the image": ([{"image": TYPED, **target(2)}] * 2, "images"),
    }),
    (ValueError, {
        "only images": ([A, A], "labels"),
        "a mask without a rule": ([{"x": TYPED, "m": mask(8, 8), "y": 0}] * 2, "masks"),
        "boxes without targets": ([(TYPED, target(2)["boxes"], 0)] * 2, "samples"),
        "a plain picture beside an Image": ([(A, TYPED, 0)] * 2, "pictures as tv_tensors.Image"),
    }),
]  # fmt: skip
COLLATED = [
    pytest.param(error, *row, id=name) for error, rows in SAMPLES for name, row in rows.items()
]


@pytest.mark.parametrize(("error", "samples", "text"), COLLATED)
def test_samples_are_checked(error, samples, text):
    """Samples that cannot be stacked or mixed are refused, with a seed and without."""
    for seed in (None, 1):
        collate_fn = make_collate_fn(Mixup(num_classes=3), seed=seed)
        refused(lambda call=collate_fn: call(samples), text, kind=error)
