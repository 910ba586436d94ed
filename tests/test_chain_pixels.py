"""Random chains agree with a tracker that reads from the pixels where they come from."""

import collections
import os

import torch
from hypothesis import HealthCheck, Phase, event, given, reject, settings
from hypothesis import strategies as st
from pixel_tracker import coded_pictures, expected_labels
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
COUNT = 3  # samples, and classes
NEAREST = InterpolationMode.NEAREST
NEARESTS = st.sampled_from([NEAREST, InterpolationMode.NEAREST_EXACT, "nearest", 0])
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)

shares = st.floats(0.0, 1.0)
sides = st.integers(1, 16)
sizes = st.tuples(sides, sides)
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
def ours(draw, blends, layout):
    """Transforms of the package; Mixup only where ``blends``."""
    shared = {
        "num_classes": COUNT,
        "p": draw(st.sampled_from([1.0, 0.6])),
        "mode": draw(st.sampled_from(["batch", "sample"])),
        "layout": layout,
    }
    kind = draw(st.sampled_from(["cutmix", "cutout", "mixup"] if blends else ["cutmix", "cutout"]))
    if kind == "cutout":
        half = st.lists(st.integers(0, 255), min_size=COUNT, max_size=COUNT)
        fill = draw(st.integers(0, 255) | half.map(lambda half: tuple(half + half)))
        size, holes = draw(st.floats(0.1, 0.8)), draw(st.integers(1, 3))
        return Cutout(size, holes=holes, fill=fill, **shared)
    shared["pairing"] = draw(st.sampled_from(["roll", "shuffle"]))
    return (CutMix if kind == "cutmix" else Mixup)(draw(st.sampled_from([0.3, 1.0, 3.0])), **shared)


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


@st.composite
def cases(draw):
    """Chains, with the dtype, size and form of a batch that suits them."""
    blends, form = draw(st.booleans()), draw(st.sampled_from(list(FORMS)))
    # A blend with a large fill is read back to 1e-6 only in float64.
    dtypes = (torch.float64,) if blends else DTYPES
    mix = ours(blends, "BHWC" if form == "channels last" else None)
    one = st.one_of(mix, geometries(), geometries(), dtype_changes(dtypes))
    steps = draw(st.lists(st.recursive(one, nested, max_leaves=4), min_size=1, max_size=4))
    steps.insert(draw(st.integers(0, len(steps))), draw(mix))
    return steps, draw(st.sampled_from(dtypes)), draw(st.tuples(sides, sides)), form, blends


# How a batch is given, and how its images are read afterwards.
FORMS = {
    "plain": (lambda images, labels: (images, labels), lambda out: out[0]),
    "tv": (lambda images, labels: [labels, tv_tensors.Image(images)], lambda out: out[1]),
    "channels last": (
        lambda images, labels: (images.movedim(1, -1), labels),
        lambda out: out[0].movedim(-1, 1),
    ),
    "mapping": (
        lambda images, labels: collections.UserDict(image=images, label=labels),
        lambda out: out["image"],
    ),
    "list": (
        lambda images, labels: (list(images.unbind()), labels),
        lambda out: torch.stack(out[0]),
    ),
}


def labels_of(out):
    """Return the labels of a batch in any form."""
    if isinstance(out, collections.UserDict):
        return out["label"]
    return out[0] if torch.is_tensor(out[0]) and out[0].ndim == 2 else out[1]


def check_chain(case, erased, seed):
    """Compare one chain with the tracker, and its pixels with those that v2 makes."""
    steps, dtype, size, form, _ = case
    images, (pack, unpack) = coded_pictures(COUNT, size, dtype), FORMS[form]
    torch.manual_seed(seed)
    try:
        expected, _ = v2.Compose(steps)((tv_tensors.Image(images), torch.arange(COUNT)))
        error = None
    except Exception as raised:  # what v2 refuses, such as a crop larger than the image
        error = raised
    torch.manual_seed(seed)
    chain, batch = Chain(steps, erased=erased), pack(images.clone(), torch.arange(COUNT))
    refused = None
    try:
        out = chain(batch)
    except Exception as raised:
        refused = raised
    # Coded pictures have many channels: narrow ones look as if these came last, and are refused.
    if any("channels before height" in str(one) for one in (error, refused)):
        reject()
    if error is not None:
        assert isinstance(refused, type(error))
        reject()
    if refused is not None:
        raise refused
    assert torch.equal(unpack(out).as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))
    labels = labels_of(out)
    assert (labels.dtype, labels.shape) == (torch.float32, (COUNT, COUNT))
    wanted = expected_labels(expected, erased)
    assert (labels.double() - wanted).abs().max() < 2e-6
    event("nothing left" if not wanted.any() else "mixed" if (wanted > 0).sum() > COUNT else "own")


@settings(
    max_examples=2000 if DEEP else 40,
    suppress_health_check=list(HealthCheck),
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # shrinking takes minutes and gains little
)
@given(cases(), st.sampled_from(["renormalise", "nobody"]), st.integers(0, 2**31))
def test_labels_agree_with_the_tracker(case, erased, seed):
    """Labels equal what the pixels show, whatever geometry, fill, dtype and nesting is between."""
    check_chain(case, erased, seed)
