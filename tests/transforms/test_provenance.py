"""Chains follow every pixel through fills, dtypes, layouts and transforms of the user's own."""

import collections
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.coded import DTYPES, coded_planes, expected_labels, pixel_weights
from helpers.transforms import check_chain, check_labels
from hypothesis import HealthCheck, Phase, event, given, reject, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import InterpolationMode, v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup
from tv_mixaug.transforms import provenance

K = 5
LABELS = torch.arange(K)
CUT, CUT_EACH = CutMix(num_classes=K), CutMix(num_classes=K, mode="sample")
NEAREST, EXACT = InterpolationMode.NEAREST, InterpolationMode.NEAREST_EXACT
BILINEAR, BICUBIC = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC
IMAGE, MASK = tv_tensors.Image, tv_tensors.Mask


# How (B, C, H, W) images are arranged in a layout.
LAYOUTS = {
    "BHWC": lambda images: images.permute(0, 2, 3, 1),
    "BWHC": lambda images: images.permute(0, 3, 2, 1),
    "BHW": lambda images: images[:, 0],
    "BDHW": lambda images: images,
    "BHWDC": lambda images: images.unflatten(1, (2, K)).permute(0, 3, 4, 1, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_of_a_layout_are_moved_along_their_axes(layout):
    """Transforms of v2 get height, width and channels where they expect them."""
    arrange, batch = LAYOUTS[layout], coded_planes(K, (9, 20))
    others = [v2.RandomVerticalFlip(1.0), v2.Pad((4, 1), fill=1), v2.Normalize([0], [1])]
    torch.manual_seed(0)
    expected, _ = v2.Compose([CUT, *others, CUT])(IMAGE(batch), LABELS)
    torch.manual_seed(0)
    rule = CutMix(num_classes=K, layout=layout)
    chain = Chain([rule, *others, rule])
    images, labels = chain(arrange(batch), LABELS)
    assert type(images) is torch.Tensor
    assert torch.equal(images, arrange(expected.as_subclass(torch.Tensor)))
    check_labels(chain, expected, labels)


def test_videos_and_masks_are_transformed_as_without_a_chain():
    """Frames are moved together, and masks are padded with their own fill."""
    video = tv_tensors.Video(coded_planes(K, (9, 9))[:, None].repeat(1, 3, 1, 1, 1))
    mask = MASK(torch.arange(1, K + 1).view(-1, 1, 1).repeat(1, 9, 9))
    pad = v2.Pad(2, fill={MASK: 9, "others": 1})
    steps = [CUT, pad, v2.ToDtype({MASK: torch.uint8, "others": None})]
    out, masks, labels = Chain(steps, erased="nobody")(video, mask, LABELS)
    assert (masks.dtype, int(masks[0, 0, 0])) == (torch.uint8, 9)
    shown = torch.stack([(masks == k + 1).double().mean((1, 2)) for k in range(K)], 1)
    torch.testing.assert_close(labels.double(), shown, atol=1e-6, rtol=0)
    for frame in out.unbind(1):
        expected = expected_labels(frame, "nobody")
        torch.testing.assert_close(labels.double(), expected, atol=1e-6, rtol=0)


def test_callables_get_the_batch_as_it_was_given():
    """A function gets the batch in its own structure, and may change dtypes and add fields."""
    batch = {"image": coded_planes(K, (9, 9)), "label": LABELS}

    def change(batch):
        return {**batch, "image": batch["image"].double() * 2, "label": LABELS.int(), "seen": True}

    torch.manual_seed(0)
    plain = Chain([CUT])(batch)
    for is_followed in (True, False):
        torch.manual_seed(0)
        out = Chain([CUT, change] if is_followed else [change, CUT], provenance=is_followed)(batch)
        assert out["image"].dtype == torch.float64
        assert torch.equal(out["image"], plain["image"].double() * 2)
        # By its own rule CutMix gives the partner 1 - lam, in float32.
        tolerance = 0 if is_followed else 1e-7
        torch.testing.assert_close(out["label"], plain["label"], atol=tolerance, rtol=0)
        assert out["seen"] is True


# --- Transforms of the user's own -----------------------------------------------------------------


class Apply(v2.Transform):
    """Apply a function to each field."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def transform(self, inpt, params):
        """Apply it."""
        return self.function(inpt)


def tilt(field):
    """Flip every second sample."""
    flipped = v2.functional.vertical_flip(field)
    rows = [(flipped if i % 2 else field)[i] for i in range(len(field))]
    return tv_tensors.wrap(torch.stack(rows), like=field)


def test_each_sample_may_be_moved_in_another_way():
    """If a transform has a geometry for each sample, each sample is followed by its own."""
    step, pad = Apply(tilt), v2.Pad(2, fill=1)
    check_chain([CUT_EACH, step, pad, step, CUT_EACH, step])
    # Two tilts between the cuts cancel out, followed or not, so here is only one.
    check_chain([CUT_EACH, step, pad, CUT_EACH])


def test_moves_in_place_are_followed_or_refused():
    """One sample is followed; several share the memory of a probe, so torch refuses to write."""
    flip = Apply(lambda field: field.copy_(field.flip(-1)))
    chain = Chain([Cutout(0.5, num_classes=1), flip, v2.RandomCrop(8), flip], erased="nobody")
    for seed in range(10):
        torch.manual_seed(seed)
        images, labels = chain(coded_planes(1, (16, 16)), torch.tensor([0]))
        check_labels(chain, images, labels)
    with pytest.raises(RuntimeError, match="single memory location"):
        Chain([CUT, flip])(coded_planes(K, (9, 9)), LABELS)


def halve(batch):
    return batch[0][..., ::2, ::2], batch[1]


def outside(field):
    """Add 1 to the numbers of pixels, so that the last one lies outside the image."""
    shift = torch.tensor([1.0, -1.0]).view(2, 1, 1)
    return field + shift if isinstance(field, provenance.Probe) else field


@pytest.mark.parametrize(
    ("step", "texts"),
    [
        (halve, ["halve must be a transform that leaves 5 images", "got 5 of size (5, 5)"]),
        (lambda b: (b[0][:2], b[1][:2]), ["leaves 5 images", "got 2 of"]),
        (lambda b: b[0], ["cannot be read: found no labels"]),
        (lambda b: b[1], ["left a batch that cannot be read"]),
        (lambda b: (b[0].flip(0), b[1].flip(0)), ["<lambda> must be a transform that keeps the"]),
        (lambda b: (b[0], b[1] + 1), ["<lambda> left a batch that cannot be read: labels at [1]"]),
        (
            Apply(lambda x: x[..., 1:] if isinstance(x, IMAGE) else x),
            ["Apply must be", "got 5 of size (9, 8)"],
        ),
        (Apply(lambda x: x * 2), ["Apply must be a transform that only moves pixels"]),
        (Apply(outside), ["Apply must be a transform that only moves pixels"]),
        (v2.Lambda(lambda x: x / 2), ["Lambda must be a transform that only moves pixels"]),
        (v2.Lambda(lambda x: x[..., None] if x.ndim > 1 else x), ["Lambda"]),
        (Apply(lambda x: (x, x)), ["Apply must be a transform that keeps the structure"]),
        (v2.Lambda(lambda x: x[:, 0], IMAGE), ["Lambda must be a transform that keeps the struct"]),
        (v2.Resize((0, 3)), ["Resize failed: Input and output sizes"]),
    ],
)
def test_steps_that_cannot_be_followed_are_named(step, texts):
    """An error names the transform instead of a wrong label."""
    with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
        Chain([CUT, step])(coded_planes(K, (9, 9)), LABELS)
    assert all(text in str(caught.value) for text in texts), caught.value


# --- Interpolation --------------------------------------------------------------------------------

# How much of a pixel at a seam can be wrong: the nearest of 2 x 2 pixels weighs a quarter at least;
# where more pixels are averaged, as by an antialiased resize to a smaller size, it can weigh less.
INTERPOLATED = {
    "resize": (v2.Resize((71, 53)), 0.75),
    "smaller": (v2.Resize((13, 17)), 1.0),
    "smaller, not antialiased": (v2.Resize((13, 17), antialias=False), 0.75),
    "crop": (v2.RandomResizedCrop(32), 1.0),
    "bicubic": (v2.RandomResizedCrop(32, interpolation=BICUBIC), 1.0),
    "rotate": (v2.RandomRotation(60, BILINEAR, expand=True), 0.75),
    "affine": (v2.RandomAffine(40, (0.2, 0.2), (0.6, 1.5), 20, BILINEAR), 0.75),
    "perspective": (v2.RandomPerspective(0.5, 1.0, BILINEAR), 0.75),
    "elastic": (v2.ElasticTransform(60.0, 3.0, BILINEAR), 0.75),
    "flip": (v2.RandomHorizontalFlip(1.0), 0.75),
    "nearest": (v2.RandomResizedCrop(32, interpolation=NEAREST), 0.75),
}


@pytest.mark.parametrize("name", INTERPOLATED)
def test_labels_differ_from_interpolated_images_at_seams_only(name):
    """A pixel counts for one of its sources, so errors are a part of the pixels with several.

    A label is at least the share of the pixels that are wholly of its sample, at most the share of
    those that hold anything of it, and exact where nothing is blended.
    """
    step, part = INTERPOLATED[name]
    chain, seams = Chain([CUT_EACH, step], erased="nobody"), 0.0
    for seed in range(20):
        torch.manual_seed(seed)
        images, labels = chain(coded_planes(K, (48, 40)), LABELS)
        weights = pixel_weights(images)
        least, most = ((weights > at).double().mean((2, 3)) for at in (1 - 1e-4, 1e-4))
        assert (labels >= least - 1e-6).all()
        assert (labels <= most + 1e-6).all()
        errors, seam = (labels - weights.mean((2, 3))).abs(), most - least
        assert (errors <= part * seam + 1e-6).all()
        seams = max(seams, float(seam.max()))
    assert (seams == 0) is (name in ("flip", "nearest"))


@pytest.mark.slow
def test_kernels_are_registered_in_each_process_that_uses_a_chain():
    """Importing the package registers nothing; a chain that is unpickled follows pixels."""
    chain = Chain([CutMix(num_classes=2, p=0.0), v2.Pad(2, fill=1)], erased="nobody")
    program = (
        "import pickle, sys, torch, tv_mixaug\n"
        "assert 'tv_mixaug.transforms.provenance' not in sys.modules\n"
        f"chain = pickle.loads({pickle.dumps(chain)!r})\n"
        "print(chain(torch.zeros(2, 1, 4, 4), torch.arange(2))[1].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)  # noqa: S603
    assert done.stdout.strip() == "[[0.25, 0.0], [0.0, 0.25]]", done.stderr


# --- Random chains --------------------------------------------------------------------------------

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
COUNT = 3  # samples, and classes

shares = st.floats(0.0, 1.0)
margins = st.integers(0, 6)
# Coded planes have many channels: a width of 1, 3 or 4 would look as if the channels were last.
sizes = st.tuples(st.integers(1, 16), st.sampled_from([2, *range(5, 17)]))
numbers = st.sampled_from([0, 1, 2, 3.5, 77, 255, 1000, 10**6, -1, -7.25])
halves = st.lists(numbers, min_size=COUNT, max_size=COUNT)
plain_fills = st.one_of(st.none(), numbers, halves.map(lambda half: tuple(half + half)))
# New dicts for each transform, since v2 writes into them.
fills = plain_fills | st.dictionaries(
    st.sampled_from([IMAGE, MASK, "others"]), plain_fills, min_size=1
)


paddings = margins | st.tuples(*[margins] * 4)
modes = st.sampled_from(["edge", "reflect", "symmetric"])
degrees = st.sampled_from([0, 30, 180, (90, 90), (45, 45)])
centres, shears = st.none() | st.just([2.0, 3.0]), st.none() | st.integers(0, 40)
translations, scales = st.none() | st.tuples(shares, shares), st.none() | st.just((0.5, 2.0))
warps = st.one_of(
    st.builds(v2.RandomRotation, degrees, st.just(NEAREST), st.booleans(), centres, fills),
    st.builds(
        v2.RandomAffine, degrees, translations, scales, shears, st.just(NEAREST), fills, centres
    ),
    st.builds(v2.RandomPerspective, shares, st.just(0.8), st.just(NEAREST), fills),
    st.builds(v2.ElasticTransform, st.floats(1, 200), st.floats(0.5, 3), st.just(NEAREST), fills),
)
sides, nearest = st.integers(4, 16), st.sampled_from([NEAREST, EXACT, "nearest", 0])
resizings = st.one_of(
    st.builds(v2.Resize, sizes, nearest),
    st.builds(lambda side, mode: v2.Resize(side, mode, max_size=side + 9), sides, nearest),
    st.builds(v2.RandomResizedCrop, sizes, interpolation=nearest),
    st.builds(lambda side, mode: v2.ScaleJitter((side,) * 2, (0.5, 1.5), mode), sides, nearest),
    st.builds(lambda side, mode: v2.RandomShortestSize([side, side + 3], 20, mode), sides, nearest),
    st.builds(lambda side, mode: v2.RandomResize(side, side + 5, mode), sides, nearest),
    st.builds(v2.CenterCrop, sizes),
)
geometries = st.one_of(
    st.builds(v2.RandomHorizontalFlip, shares),
    st.builds(v2.RandomVerticalFlip, shares),
    st.builds(v2.RandomZoomOut, fills, st.just((1.0, 2.0)), shares),
    st.builds(v2.Pad, paddings, fills) | st.builds(v2.Pad, paddings, padding_mode=modes),
    st.builds(v2.RandomCrop, sizes, paddings, st.booleans(), fills),
    st.builds(v2.RandomCrop, sizes, paddings, st.booleans(), padding_mode=modes),
    warps,
    resizings,
)


@st.composite
def dtype_changes(draw, dtypes):
    """Generate changes of dtype for images, masks or fields of unknown types."""
    dtype = draw(st.sampled_from(dtypes))
    typed = {IMAGE: dtype, MASK: torch.int64}
    options = [dtype, typed, {**typed, "others": torch.bool}, {"others": dtype}]
    return v2.ToDtype(draw(st.sampled_from(options)))


@st.composite
def rules(draw, blends, layout, num_classes):
    """Generate rules; Mixup only if ``blends``."""
    shared = {
        "num_classes": num_classes,
        "p": draw(st.sampled_from([1.0, 0.6])),
        "mode": draw(st.sampled_from(["batch", "sample"])),
        "layout": layout,
    }
    kind = draw(st.sampled_from([CutMix, Cutout, Mixup] if blends else [CutMix, Cutout]))
    if kind is Cutout:
        half = st.lists(st.integers(0, 255), min_size=COUNT, max_size=COUNT)
        fill = draw(st.integers(0, 255) | half.map(lambda half: tuple(half + half)))
        size, holes = draw(st.floats(0.1, 0.8)), draw(st.integers(1, 3))
        mask_fill = draw(st.none() | st.integers(0, COUNT))
        return Cutout(size, holes=holes, fill=fill, mask_fill=mask_fill, **shared)
    shared["pairing"] = draw(st.sampled_from(["roll", "shuffle"]))
    alpha = draw(st.sampled_from([0.3, 1.0, 3.0]))
    return CutMix(alpha, **shared) if kind is CutMix else Mixup(alpha, masks="dominant", **shared)


def as_modules(steps):
    """Return the steps as a list of modules, which v1.Compose is not."""
    return nn.ModuleList([s if isinstance(s, nn.Module) else v2.Compose([s]) for s in steps])


def nest(steps):
    """Generate containers of the steps that apply them all."""
    lists = st.lists(steps, min_size=1, max_size=3)
    return st.one_of(
        st.builds(v2.Compose, lists),
        st.builds(v1.Compose, lists),
        lists.map(lambda held: nn.Sequential(*as_modules(held))),
    )


def sample_some(steps):
    """Generate containers of torchvision that sample which of the steps they apply."""
    lists = st.lists(steps, min_size=1, max_size=3)

    def choices(held):
        weights = st.lists(st.floats(0.1, 1), min_size=len(held), max_size=len(held))
        return st.builds(v2.RandomChoice, st.just(held), st.none() | weights)

    applied = st.builds(v2.RandomApply, lists | lists.map(nn.ModuleList), shares)
    return st.one_of(applied, st.builds(v2.RandomOrder, lists), lists.flatmap(choices))


# num_classes, and the labels of the samples.
TARGETS = {
    "classes": (COUNT, torch.arange(COUNT)),
    "rows": (None, torch.eye(COUNT)),
    "numbers": ("regression", torch.tensor([-2.5, 0.75, 8.0], dtype=torch.float64)),
    "pairs of numbers": ("regression", torch.tensor([[0.5, 1.0], [-3.0, 0.0], [4.0, 2.0]])),
}
# How a batch is packed, and how its images, labels and masks are unpacked.
FORMS = {
    "plain": (lambda images, *rest: (images, *rest), lambda out: out),
    "typed": (
        lambda images, labels, *rest: [labels, IMAGE(images), *rest],
        lambda out: (out[1], out[0], *out[2:]),
    ),
    "channels last": (
        lambda images, *rest: (images.movedim(1, -1), *rest),
        lambda out: (out[0].movedim(-1, 1), *out[1:]),
    ),
    "mapping": (
        lambda images, labels, *rest: collections.UserDict(image=images, label=labels, rest=rest),
        lambda out: (out["image"], out["label"], *out["rest"]),
    ),
    "list": (
        lambda images, *rest: (list(images.unbind()), *rest),
        lambda out: (torch.stack(out[0]), *out[1:]),
    ),
    "mapping of a tuple": (
        lambda images, labels, *rest: {"a": labels, "b": tuple(map(IMAGE, images)), "c": rest},
        lambda out: (torch.stack(out["b"]), out["a"], *out["c"]),
    ),
}


@st.composite
def cases(draw):
    """Generate chains with batches that suit them."""
    blends, form = draw(st.booleans()), draw(st.sampled_from(list(FORMS)))
    num_classes, targets = TARGETS[draw(st.sampled_from(list(TARGETS)))]
    # A blend with a large fill is read back to 1e-6 only in float64.
    dtypes = (torch.float64,) if blends else DTYPES
    rule = rules(blends, "BHWC" if form == "channels last" else None, num_classes)
    sampled = st.recursive(geometries, sample_some, max_leaves=3)
    step = st.one_of(rule, geometries, sampled, dtype_changes(dtypes))
    steps = draw(st.lists(st.recursive(step, nest, max_leaves=4), min_size=1, max_size=4))
    steps.insert(draw(st.integers(0, len(steps))), draw(rule))
    return SimpleNamespace(
        steps=steps,
        masked=draw(st.booleans()),
        erased=draw(st.sampled_from(["renormalise", "nobody"])),
        dtype=draw(st.sampled_from(dtypes)),
        size=draw(sizes),
        form=form,
        targets=targets,
    )


@settings(
    max_examples=2000 if DEEP else 40,
    suppress_health_check=list(HealthCheck),
    # Shrinking takes minutes and gains little.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(cases(), st.integers(0, 2**31))
def test_labels_agree_with_the_pixels_of_random_chains(case, seed):
    """Labels are what the pixels show for any geometry, fill, dtype, nesting and form of batch.

    Pixels and masks are those of ``v2.Compose``.
    """
    images, (pack, unpack) = coded_planes(COUNT, case.size, case.dtype), FORMS[case.form]
    masks = [MASK(torch.arange(1, COUNT + 1).view(-1, 1, 1).repeat(1, *case.size))] * case.masked
    chain = Chain(case.steps, erased=case.erased)
    batch = pack(images.clone(), case.targets, *masks)
    results = []
    for function in (
        lambda: v2.Compose(case.steps)((IMAGE(images), case.targets, *masks)),
        lambda: chain(batch),
    ):
        torch.manual_seed(seed)
        try:
            results.append(function())
        except Exception as error:  # what v2 refuses, such as a crop larger than the image
            results.append(error)
    errors = [result for result in results if isinstance(result, Exception)]
    if any("channels before height" in str(error) for error in errors):
        reject()  # a step made the images narrow, see above
    if isinstance(results[0], Exception):
        assert isinstance(results[1], type(results[0]))
        reject()
    if errors:
        raise errors[0]

    out = results[1]
    (expected, _, *expected_masks), (found, labels, *found_masks) = results[0], unpack(out)
    assert type(out) is type(batch)
    assert torch.equal(found.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))
    for one, two in zip(found_masks, expected_masks, strict=True):
        assert type(one) is MASK
        assert torch.equal(one, two)
    weights = expected_labels(expected, case.erased)
    rows = torch.eye(COUNT) if case.targets.dtype == torch.int64 else case.targets
    wanted = (weights @ rows.double()[:, None].flatten(1)).view(rows.shape)
    assert (labels.dtype, labels.shape) == (torch.float32, rows.shape)
    assert (labels.double() - wanted).abs().max() < 2e-6 * max(1, float(rows.abs().max()))
    count = int((weights > 0).sum())
    event("nothing visible" if not count else "mixed" if count > COUNT else "not mixed")


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["cutout", "cutmix", "flip", "crop"]), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_boxes_end_at_the_last_visible_pixels(names, seed):
    """Hidden in several steps, an object has the rectangle of what is visible, or is dropped."""
    torch.manual_seed(seed)
    size, images, targets = (12, 13), torch.zeros(3, 1, 12, 13, dtype=torch.uint8), []
    steps = {
        "cutout": Cutout((9, 5), min_visible=1e-6),
        "cutmix": CutMix(mode="sample", min_visible=1e-6),
        "flip": v2.RandomHorizontalFlip(0.5),
        "crop": v2.CenterCrop((11, 12)),
    }
    for i, image in enumerate(images, 1):
        (x, y), (width, height) = torch.randint(8, (2,)), torch.randint(3, 6, (2,))
        image[0, y : y + height, x : x + width] = i
        boxes = torch.tensor([[x, y, min(x + width, 13), min(y + height, 12)]])
        boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
        targets.append({"boxes": boxes, "labels": torch.tensor([i])})
    out, found = Chain([steps["cutout"], *map(steps.get, names)])(images, targets)
    for image, target in zip(out[:, 0], found, strict=True):
        assert {*target["labels"].tolist()} == {*image.unique().tolist()} - {0}
        for k in target["labels"].unique():  # two pastes may show two parts of an object
            parts = target["boxes"][target["labels"] == k]
            whole = torch.cat([parts[:, :2].amin(0), parts[:, 2:].amax(0)])
            tight = masks_to_boxes((image == k)[None])[0] + torch.tensor([0, 0, 1, 1])
            assert (whole - tight).abs().amax() <= ("crop" in names)


@pytest.mark.parametrize("rows", [slice(1, 2), [1, 0]], ids=["dropped", "swapped"])
def test_objects_that_a_function_replaces_are_taken_as_they_are(rows):
    """Rows of targets that a callable drops or moves keep their boxes and their labels together."""

    def take(batch):
        targets = [{key: value[rows] for key, value in target.items()} for target in batch[1]]
        return batch[0], targets

    boxes = torch.tensor([[0.0, 0, 12, 6], [0, 6, 12, 12]])
    targets = [{"boxes": boxes.clone(), "labels": torch.arange(2)} for _ in range(2)]
    steps = [Cutout((12, 2), min_visible=1e-6), take, Cutout((1, 1), min_visible=1e-6)]
    _, found = Chain(steps)(torch.ones(2, 1, 12, 12), targets)
    for target in found:
        assert target["labels"].tolist() == torch.arange(2)[rows].tolist()
        for (_, top, _, bottom), label in zip(target["boxes"], target["labels"], strict=True):
            assert (6 * label <= top) & (bottom <= 6 * label + 6)
