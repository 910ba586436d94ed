"""Random chains agree with a tracker that reads from the pixels where they come from."""

import collections
import os
from typing import NamedTuple

import torch
from helpers.pixel_tracker import coded_pictures, expected_labels
from hypothesis import HealthCheck, Phase, event, given, reject, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup
from tv_mixaug.transforms import containers
from tv_mixaug.transforms.base import MixTransform

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
COUNT = 3  # samples, and classes
NEAREST = InterpolationMode.NEAREST
NEARESTS = st.sampled_from([NEAREST, InterpolationMode.NEAREST_EXACT, "nearest", 0])
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)

shares = st.floats(0.0, 1.0)
sides = st.integers(1, 16)
# Coded pictures have many channels: those of width 1, 3 or 4 look as if these came last.
sizes = st.tuples(sides, st.sampled_from([2, *range(5, 17)]))
numbers = st.sampled_from([0, 1, 2, 3.5, 77, 255, 1000, 10**6, -1, -7.25])
tuples = st.lists(numbers, min_size=COUNT, max_size=COUNT).map(lambda half: tuple(half + half))
plain_fills = st.one_of(st.none(), numbers, tuples)
kinds = st.sampled_from([tv_tensors.Image, tv_tensors.Mask, "others"])


def fills():
    """Fills of every kind that v2 takes; new dicts, since v2 writes into them."""
    return st.one_of(plain_fills, st.dictionaries(kinds, plain_fills, min_size=1))


@st.composite
def paddings(draw):
    """Pads, and random crops that pad."""
    padding = draw(st.one_of(st.integers(0, 6), st.tuples(*[st.integers(0, 6)] * 4)))
    mode = draw(st.sampled_from(["constant", "constant", "edge", "reflect", "symmetric"]))
    fill = draw(fills()) if mode == "constant" else 0
    if draw(st.booleans()):
        return v2.Pad(padding, fill, mode)
    return v2.RandomCrop(draw(sizes), padding, draw(st.booleans()), fill, mode)


@st.composite
def warps(draw):
    """Rotations, affine maps, perspectives and elastic deformations."""
    fill, degrees = draw(fills()), draw(st.sampled_from([0, 30, 180, (90, 90), (45, 45)]))
    centre = draw(st.none() | st.just([2.0, 3.0]))
    kind = draw(st.sampled_from(["rotate", "affine", "perspective", "elastic"]))
    if kind == "rotate":
        return v2.RandomRotation(degrees, expand=draw(st.booleans()), center=centre, fill=fill)
    if kind == "affine":
        translate = draw(st.none() | st.tuples(shares, shares))
        scale = draw(st.none() | st.just((0.5, 2.0)))
        shear = draw(st.none() | st.integers(0, 40))
        return v2.RandomAffine(degrees, translate, scale, shear, NEAREST, fill, centre)
    if kind == "perspective":
        return v2.RandomPerspective(draw(shares), draw(shares), NEAREST, fill)
    return v2.ElasticTransform(draw(st.floats(1, 200)), draw(st.floats(0.5, 3)), NEAREST, fill)


@st.composite
def resizings(draw):
    """Resizes and crops that resize, by any rule."""
    how, size, side = draw(NEARESTS), draw(sizes), draw(st.integers(4, 16))
    makers = (
        lambda: v2.Resize(size, how),
        lambda: v2.Resize(side, how, max_size=side + 9),
        lambda: v2.RandomResizedCrop(size, interpolation=how),
        lambda: v2.ScaleJitter((side, side), (0.5, 1.5), how),
        lambda: v2.RandomShortestSize([side, side + 3], 20, how),
        lambda: v2.RandomResize(side, side + 5, how),
        lambda: v2.CenterCrop(size),
    )
    return draw(st.sampled_from(makers))()


def geometries():
    """All that v2 has to move pixels with, to the nearest."""
    return st.one_of(
        st.builds(v2.RandomHorizontalFlip, shares),
        st.builds(v2.RandomVerticalFlip, shares),
        st.builds(v2.RandomZoomOut, fills(), st.just((1.0, 2.0)), shares),
        paddings(),
        warps(),
        warps(),
        resizings(),
    )


@st.composite
def dtype_changes(draw, dtypes):
    """Changes of dtype, given for all images, or for each type, unknown types included or not."""
    dtype = draw(st.sampled_from(dtypes))
    given_types = {tv_tensors.Image: dtype, tv_tensors.Mask: torch.int64}
    return v2.ToDtype(
        draw(
            st.sampled_from(
                [dtype, given_types, {**given_types, "others": torch.bool}, {"others": dtype}]
            )
        )
    )


@st.composite
def ours(draw, blends, layout, num_classes):
    """Transforms of the package; Mixup only where ``blends``."""
    shared = {
        "num_classes": num_classes,
        "p": draw(st.sampled_from([1.0, 0.6])),
        "mode": draw(st.sampled_from(["batch", "sample"])),
        "layout": layout,
    }
    kind = draw(st.sampled_from(["cutmix", "cutout", "mixup"] if blends else ["cutmix", "cutout"]))
    if kind == "cutout":
        half = st.lists(st.integers(0, 255), min_size=COUNT, max_size=COUNT)
        fill = draw(st.integers(0, 255) | half.map(lambda half: tuple(half + half)))
        size, holes = draw(st.floats(0.1, 0.8)), draw(st.integers(1, 3))
        mask_fill = draw(st.none() | st.integers(0, COUNT))
        return Cutout(size, holes=holes, fill=fill, mask_fill=mask_fill, **shared)
    shared["pairing"] = draw(st.sampled_from(["roll", "shuffle"]))
    alpha = draw(st.sampled_from([0.3, 1.0, 3.0]))
    if kind == "cutmix":
        return CutMix(alpha, **shared)
    return Mixup(alpha, masks="dominant", **shared)


def nested(steps):
    """Containers of the steps, one in the other."""
    lists = st.lists(steps, min_size=1, max_size=3)
    return st.one_of(
        st.builds(v2.Compose, lists),
        st.builds(v1.Compose, lists),
        st.builds(v2.RandomApply, lists | lists.map(modules), shares),
        st.builds(v2.RandomOrder, lists),
        lists.map(lambda held: nn.Sequential(*modules(held))),
        lists.flatmap(
            lambda held: st.builds(
                v2.RandomChoice,
                st.just(held),
                st.none() | st.lists(st.floats(0.1, 1), min_size=len(held), max_size=len(held)),
            )
        ),
    )


def modules(steps):
    """Return the steps as a list of modules, which v1.Compose is none of."""
    return nn.ModuleList([s if isinstance(s, nn.Module) else v2.Compose([s]) for s in steps])


class Case(NamedTuple):
    """A chain, and what is given to it."""

    steps: list
    p: float
    masked: bool
    erased: str
    dtype: torch.dtype
    size: tuple
    form: str
    targets: torch.Tensor


# What the samples are labelled with: classes, rows, or numbers.
TARGETS = {
    "classes": (COUNT, torch.arange(COUNT)),
    "rows": (None, torch.eye(COUNT)),
    "numbers": ("regression", torch.tensor([-2.5, 0.75, 8.0])),
    "pairs of numbers": ("regression", torch.tensor([[0.5, 1.0], [-3.0, 0.0], [4.0, 2.0]])),
}


@st.composite
def cases(draw):
    """Chains, with the targets, dtype, size and form of a batch that suits them."""
    blends, form = draw(st.booleans()), draw(st.sampled_from(list(FORMS)))
    num_classes, targets = TARGETS[draw(st.sampled_from(list(TARGETS)))]
    # A blend with a large fill is read back to 1e-6 only in float64.
    dtypes = (torch.float64,) if blends else DTYPES
    mix = ours(blends, "BHWC" if form == "channels last" else None, num_classes)
    one = st.one_of(mix, geometries(), geometries(), dtype_changes(dtypes))
    steps = draw(st.lists(st.recursive(one, nested, max_leaves=4), min_size=1, max_size=4))
    steps.insert(draw(st.integers(0, len(steps))), draw(mix))
    return Case(
        steps,
        p=draw(st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.0])),
        masked=draw(st.booleans()),
        erased=draw(st.sampled_from(["renormalise", "nobody"])),
        dtype=draw(st.sampled_from(dtypes)),
        size=draw(sizes),
        form=form,
        targets=targets,
    )


# How a batch is given, and where its images and targets are.
FORMS = {
    "plain": (lambda images, *rest: (images, *rest), lambda out: out[:2]),
    "tv": (
        lambda images, labels, *rest: [labels, tv_tensors.Image(images), *rest],
        lambda out: (out[1], out[0]),
    ),
    "channels last": (
        lambda images, *rest: (images.movedim(1, -1), *rest),
        lambda out: (out[0].movedim(-1, 1), out[1]),
    ),
    "mapping": (
        lambda images, labels, *rest: collections.UserDict(image=images, label=labels, rest=rest),
        lambda out: (out["image"], out["label"]),
    ),
    "list": (
        lambda images, *rest: (list(images.unbind()), *rest),
        lambda out: (torch.stack(out[0]), out[1]),
    ),
}


def apply_all(case, batch):
    """Do as ``v2.Compose`` does, with the probability that a chain has for ours."""
    chances = {
        one: one.p for one, _ in containers.look_inside(case.steps) if isinstance(one, MixTransform)
    }
    if case.p == 0 or (case.p < 1 and float(torch.rand(1, dtype=torch.float64)) >= case.p):
        for one in chances:
            one.p = 0.0
    try:
        return v2.Compose(case.steps)(batch)
    finally:
        for one, p in chances.items():
            one.p = p


def check_chain(case, seed):
    """Compare one chain with the tracker, and its pixels and masks with those that v2 makes."""
    images, (pack, unpack) = coded_pictures(COUNT, case.size, case.dtype), FORMS[case.form]
    masks = [tv_tensors.Mask(torch.arange(1, COUNT + 1).view(-1, 1, 1).repeat(1, *case.size))]
    masks = masks if case.masked else []
    torch.manual_seed(seed)
    try:
        expected, _, *rest = apply_all(case, (tv_tensors.Image(images), case.targets, *masks))
        error = None
    except Exception as raised:  # what v2 refuses, such as a crop larger than the image
        error = raised
    torch.manual_seed(seed)
    chain = Chain(case.steps, erased=case.erased, p=case.p)
    batch, refused = pack(images.clone(), case.targets, *masks), None
    try:
        out = chain(batch)
    except Exception as raised:
        refused = raised
    # Narrow pictures, see above, are made here and there.
    if any("channels before height" in str(one) for one in (error, refused)):
        reject()
    if error is not None:
        assert isinstance(refused, type(error))
        reject()
    if refused is not None:
        raise refused
    found, labels = unpack(out)
    assert torch.equal(found.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))
    moved = out["rest"] if case.form == "mapping" else out[2:]
    assert len(moved) == len(rest)
    for one, other in zip(moved, rest, strict=True):
        assert type(one) is tv_tensors.Mask
        assert torch.equal(one, other)
    shares = expected_labels(expected, case.erased)
    rows = torch.eye(COUNT) if case.targets.dtype == torch.int64 else case.targets
    wanted = (shares @ rows.double()[:, None].flatten(1)).view(rows.shape)
    assert (labels.dtype, labels.shape) == (torch.float32, rows.shape)
    assert (labels.double() - wanted).abs().max() < 2e-6 * max(1, float(rows.abs().max()))
    event("nothing left" if not shares.any() else "mixed" if (shares > 0).sum() > COUNT else "own")


@settings(
    max_examples=2000 if DEEP else 40,
    suppress_health_check=list(HealthCheck),
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # shrinking takes minutes and gains little
)
@given(cases(), st.integers(0, 2**31))
def test_labels_agree_with_the_tracker(case, seed):
    """Labels equal what the pixels show, whatever geometry, fill, dtype and nesting is between.

    Pixels and masks are those of ``v2.Compose``, for any form of batch, targets and ``p``.
    """
    check_chain(case, seed)
