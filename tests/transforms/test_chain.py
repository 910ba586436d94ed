"""Chains count their labels from the pixels that are visible at the end."""

import collections
import pickle
import subprocess
import sys

import pytest
import torch
from helpers.pixel_tracker import coded_pictures, expected_labels, pixel_weights
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup, make_collate_fn
from tv_mixaug.engine.plan import BLEND, FILL, NONE, PASTE, Plan
from tv_mixaug.transforms import MixTransform, containers
from tv_mixaug.transforms import provenance as foreign

K = 5
ERASED_VALUE = -1.0


def coded_images(kind=torch.Tensor, channels=K):
    """Return images whose channel k is 1 in sample k only, so that pixels are label rows."""
    images = torch.eye(K)[:, :, None, None].expand(K, channels, 33, 48).contiguous()
    return images if kind is torch.Tensor else kind(images)


def shares_of(images):
    """Return for each image the share of each sample in its visible pixels."""
    plain = images.as_subclass(torch.Tensor).double()
    visible = (plain.sum(1, keepdim=True) > 0.5).double()
    return (plain * visible).sum((2, 3)) / visible.sum((2, 3))


CHAINS = {
    "cutmix twice": [CutMix(num_classes=K), CutMix(num_classes=K, mode="sample")],
    "cutmix, cutout": [CutMix(num_classes=K), Cutout(0.5, num_classes=K)],
    "cutmix, crop, flip": [
        CutMix(num_classes=K, mode="sample"),
        v2.RandomResizedCrop(24, interpolation=InterpolationMode.NEAREST),
        v2.RandomHorizontalFlip(),
    ],
    "mixup, cutmix": [Mixup(num_classes=K, mode="sample"), CutMix(num_classes=K)],
    "cutmix, mixup, cutmix": [
        CutMix(num_classes=K, pairing="shuffle"),
        Mixup(num_classes=K),
        CutMix(num_classes=K, mode="sample"),
    ],
    "cutmix, rotation": [CutMix(num_classes=K), v2.RandomRotation(30)],
}


@pytest.mark.parametrize("kind", [torch.Tensor, tv_tensors.Image])
@pytest.mark.parametrize("name", CHAINS)
def test_labels_are_the_visible_shares(name, kind):
    """Labels equal the shares of the visible pixels to 1e-6, whatever came after what."""
    chain = Chain(CHAINS[name])
    for seed in range(10):
        torch.manual_seed(seed)
        images, labels = chain(coded_images(kind), torch.arange(K))
        assert type(images) is kind
        assert (labels - shares_of(images)).abs().max() < 1e-6


def test_a_plain_composition_is_wrong_where_the_chain_is_right():
    """Without provenance the same steps give labels that the pixels contradict."""
    steps = [CutMix(num_classes=K), CutMix(num_classes=K)]
    torch.manual_seed(0)
    worst = 0.0
    for _ in range(10):
        images, labels = Chain(steps, provenance=False)(coded_images(), torch.arange(K))
        worst = max(worst, float((labels - shares_of(images)).abs().max()))
    assert worst > 0.01


@pytest.mark.parametrize("erased", ["nobody", "renormalise", "owner"])
def test_erased_pixels_count_as_asked(erased):
    """What is erased is missing from the sum, shared out, or still counted."""
    torch.manual_seed(0)
    cutout = Cutout((1.0, 0.5), num_classes=1)
    chain = Chain([cutout], erased=erased)
    images = torch.ones(1, 1, 8, 8)
    for _ in range(20):
        mixed, labels = chain(images, torch.tensor([0]))
        visible = float(mixed.mean())
        wanted = visible if erased == "nobody" else 1.0
        assert float(labels) == pytest.approx(wanted, abs=1e-6)


def test_a_label_first_and_other_leaves_stay_in_place():
    """The batch keeps its nesting, and what is no image or label passes through."""
    torch.manual_seed(0)
    batch = {"label": torch.arange(K), "id": ["a"] * K, "image": coded_images()}
    out = Chain([CutMix(num_classes=K), v2.RandomHorizontalFlip(1.0)])(batch)
    assert list(out) == ["label", "id", "image"]
    assert out["id"] == batch["id"]
    assert (out["label"] - shares_of(out["image"])).abs().max() < 1e-6


def test_inputs_are_not_changed_and_labels_have_one_format():
    """With p below 1 every batch has (B, K) float32 labels, and the inputs stay as they were."""
    torch.manual_seed(0)
    collate = make_collate_fn(Chain([CutMix(num_classes=K), Cutout(num_classes=K)], p=0.5))
    images = coded_images()
    before = images.clone()
    seen = set()
    for _ in range(10):
        mixed, labels = collate([(images[i], i) for i in range(K)])
        assert labels.dtype == torch.float32
        assert labels.shape == (K, K)
        seen.add(torch.equal(mixed, before))
    assert seen == {True, False}
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("steps", "options", "error", "text"),
    [
        ([], {}, ValueError, "at least one"),
        ([v2.RandomHorizontalFlip()], {}, ValueError, "at least one"),
        ([CutMix(num_classes=2), v2.MixUp(num_classes=2)], {}, ValueError, "torchvision's MixUp"),
        ([CutMix(num_classes=2), Mixup(num_classes=3)], {}, ValueError, "num_classes"),
        ([CutMix(num_classes=2, targets="pair")], {}, ValueError, "targets"),
        ([CutMix(num_classes=2, cut="cuboid")], {}, ValueError, "cut"),
        ([CutMix(num_classes=2)], {"erased": "x"}, ValueError, "erased"),
        ([CutMix(num_classes=2)], {"provenance": 1}, TypeError, "provenance"),
        ([CutMix(num_classes=2)], {"p": 2}, ValueError, "p must"),
        ([3], {}, TypeError, "transforms"),
        ([CutMix], {}, TypeError, "transforms"),
        ([v2.Compose([Chain([CutMix(num_classes=2)])])], {}, TypeError, "Chain"),
        ([CutMix(num_classes=2), v2.Compose([v2.CutMix(num_classes=2)])], {}, ValueError, "CutMix"),
        ([CutMix(num_classes=2), v2.RandAugment()], {}, ValueError, "RandAugment"),
        ([CutMix(num_classes=2), v2.RandomApply([v2.AugMix()])], {}, ValueError, "AugMix"),
        ([CutMix(2.0), CutMix(layout="BHWC")], {}, ValueError, "layout"),
        (
            [v2.Compose([CutMix(num_classes=2), Mixup(num_classes=3)])],
            {},
            ValueError,
            "num_classes",
        ),
        (CutMix(num_classes=2), {}, TypeError, "transforms"),
    ],
)
def test_bad_chains_are_refused(steps, options, error, text):
    """A chain that could not keep its promise is refused when it is made."""
    with pytest.raises(error, match=text):
        Chain(steps, **options)


# Everything that v2 moves pixels by, so that what comes after depends on where they are.
GEOMETRY = {
    "horizontal flip": v2.RandomHorizontalFlip(1.0),
    "vertical flip": v2.RandomVerticalFlip(1.0),
    "resize": v2.Resize((20, 31), InterpolationMode.NEAREST),
    "resize, exact": v2.Resize((20, 31), InterpolationMode.NEAREST_EXACT),
    "affine": v2.RandomAffine(20, (0.2, 0.2), (0.8, 1.2), 10, fill=1),
    "rotate": v2.RandomRotation(60, expand=True, fill=1),
    "pad": v2.Pad((3, 1, 0, 2), fill=1),
    "crop": v2.RandomCrop((20, 30)),
    "center crop": v2.CenterCrop((25, 50)),
    "resized crop": v2.RandomResizedCrop(20, interpolation=InterpolationMode.NEAREST),
    "perspective": v2.RandomPerspective(0.6, 1.0, InterpolationMode.NEAREST, fill=1),
    "elastic": v2.ElasticTransform(90.0, 2.0, InterpolationMode.NEAREST, fill=1),
    "zoom out": v2.RandomZoomOut(1, (1.5, 1.5), p=1.0),
}


def check_pixels(chain, dtype=torch.float32, size=(33, 48), times=3):
    """Assert that the labels are what an independent reading of the pixels says."""
    for seed in range(times):
        torch.manual_seed(seed)
        images, labels = chain(coded_pictures(K, size, dtype), torch.arange(K))
        wanted = expected_labels(images, chain.erased)
        torch.testing.assert_close(labels.double(), wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", GEOMETRY)
def test_pixels_are_followed_through_all_geometry(name, dtype):
    """Between two cuts every pixel is followed, in the precision that the dtype gives it."""
    cuts = [CutMix(num_classes=K, mode="sample") for _ in range(2)]
    check_pixels(Chain([cuts[0], GEOMETRY[name], cuts[1]], erased="nobody"), dtype)


@pytest.mark.parametrize(
    "fill",
    [
        *(None, 1, 3, 255, 1000, -7.5),
        *([0.5] * 2 * K, tuple(range(K)) * 2),
        *({tv_tensors.Mask: 1, "others": 2}, {tv_tensors.Image: 3}, {tv_tensors.Mask: 1}),
    ],
    ids=str,
)
def test_filled_pixels_are_nobodys_whatever_the_fill(fill):
    """A fill is never taken for the number of a sample, be it given for masks or for all."""
    steps = [
        lambda: v2.Pad(2, fill=fill),
        lambda: v2.RandomCrop(40, pad_if_needed=True, fill=fill),
        lambda: v2.RandomZoomOut(fill, p=1.0),
        lambda: v2.RandomRotation(45, fill=fill),
    ]
    for step in steps:
        check_pixels(Chain([CutMix(num_classes=K), step()], erased="nobody"), times=1)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.uint8,
        {tv_tensors.Image: torch.float64, tv_tensors.Mask: torch.int64},
        {tv_tensors.Image: torch.float32, "others": torch.bool},
        {"others": torch.uint8},
    ],
    ids=str,
)
def test_dtypes_for_masks_and_others_leave_the_weights_alone(dtype):
    """Weights are not truncated by a dtype that is meant for the user's masks."""
    mix = (CutMix if "uint8" in str(dtype) else Mixup)(num_classes=K)
    change, cut = v2.ToDtype(dtype), CutMix(num_classes=K, mode="sample")
    check_pixels(Chain([mix, change, v2.RandomVerticalFlip(1.0), v2.Compose([change]), cut]))


HELD = [Cutout(0.4, num_classes=K, fill=1), Mixup(num_classes=K), v2.RandomRotation(90, fill=1)]
NESTED = {
    "compose": v2.Compose(HELD),
    "v1 compose": v1.Compose(HELD),
    "sequential": nn.Sequential(*HELD),
    "apply": v2.RandomApply(HELD, p=0.5),
    "apply, modules": v2.RandomApply(nn.ModuleList(HELD), p=0.5),
    "choice": v2.RandomChoice(HELD, p=[3, 1, 1]),
    "order": v2.RandomOrder(HELD),
    "deep": v2.RandomApply([v2.RandomChoice([nn.Sequential(v2.RandomOrder(HELD)), HELD[0]])]),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_transforms_are_followed_and_drawn_as_torchvision_draws(name):
    """In any container ours are followed, and the pixels are those of ``v2.Compose``."""
    steps = [CutMix(num_classes=K), NESTED[name], CutMix(num_classes=K)]
    chain = Chain(steps)
    check_pixels(chain, times=6)
    for seed in range(6):
        batch = tv_tensors.Image(coded_pictures(K, (9, 9))), torch.arange(K)
        torch.manual_seed(seed)
        expected, _ = v2.Compose(steps)(batch)
        for one in (chain, Chain(steps, provenance=False)):
            torch.manual_seed(seed)
            images, labels = one(batch)
            assert torch.equal(images, expected)
            assert labels.shape == (K, K)


class Block(nn.Module):
    """Hold a transform in a way of its own."""

    def __init__(self):
        super().__init__()
        self.held = v2.Compose([CutMix(num_classes=K)])


class Wrapped(nn.Module):
    """Call a transform in a way of its own."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, batch):
        """Call it."""
        return self.held(batch)


class Twice(v2.Compose):
    """Run what a container holds in a way of its own."""

    def forward(self, *inputs):
        """Run it twice."""
        return super().forward(super().forward(*inputs))


@pytest.mark.parametrize("held", [Block(), Twice([CutMix(num_classes=K)])])
def test_a_container_that_is_not_torchvisions_is_refused(held):
    """Ours in a container that runs them by a rule unknown is an error, not a wrong label."""
    with pytest.raises(ValueError, match=f"got CutMix in {type(held).__name__}"):
        Chain([CutMix(num_classes=K), held])


@pytest.mark.parametrize("layout", ["BHWC", "BWHC"])
def test_a_layout_is_moved_by_its_own_axes(layout):
    """Geometry and normalisation of v2 act on height, width and channels, wherever they are."""
    order = ["BCHW".index(axis) for axis in layout]
    back = [layout.index(axis) for axis in "BCHW"]
    cut = CutMix(num_classes=K, layout=layout)
    steps = [cut, v2.RandomVerticalFlip(1.0), v2.Pad((4, 1), fill=1), v2.Normalize([0], [1]), cut]
    torch.manual_seed(0)
    coded = coded_pictures(K, (9, 20))
    expected, _ = v2.Compose(steps)(tv_tensors.Image(coded), torch.arange(K))
    torch.manual_seed(0)
    images, labels = Chain(steps)(coded.permute(order), torch.arange(K))
    assert type(images) is torch.Tensor
    assert torch.equal(images.permute(back), expected)
    wanted = expected_labels(expected, "renormalise")
    torch.testing.assert_close(labels.double(), wanted, atol=1e-6, rtol=0)


def test_volumes_and_grey_pictures_keep_their_layout():
    """A layout with depth or without channels is given back as it came."""
    for layout, shape in (("BHW", (K, 8, 9)), ("BHWDC", (K, 8, 9, 4, 2)), ("BDHW", (K, 4, 8, 9))):
        cut = CutMix(num_classes=K, layout=layout)
        images = torch.rand(shape)
        out, labels = Chain([cut, v2.RandomHorizontalFlip(1.0), v2.Pad(1)])(images, torch.arange(K))
        padded = [n + 2 if axis in "HW" else n for n, axis in zip(shape, layout, strict=True)]
        assert list(out.shape) == padded
        torch.testing.assert_close(labels.sum(1), torch.ones(K))


def test_lists_of_images_and_mappings_of_any_class_are_followed():
    """What torchvision does not look into is transformed with its labels all the same."""
    steps = [CutMix(num_classes=K), v2.Pad(3, fill=1), v2.RandomVerticalFlip(1.0)]
    for batch in (
        {"image": list(coded_pictures(K, (9, 9))), "label": torch.arange(K)},
        collections.UserDict(image=coded_pictures(K, (9, 9)), label=torch.arange(K)),
        collections.UserDict(
            label=torch.arange(K), image=tuple(map(tv_tensors.Image, coded_pictures(K, (9, 9))))
        ),
    ):
        out = Chain([*steps, *steps])(batch)
        assert type(out) is type(batch)
        assert type(out["image"]) is type(batch["image"])
        assert type(out["image"][0]) is type(batch["image"][0])
        images = torch.stack([*out["image"]])
        assert images.shape[-2:] == (21, 21)
        wanted = expected_labels(images, "renormalise")
        torch.testing.assert_close(out["label"].double(), wanted, atol=1e-6, rtol=0)


def test_videos_and_masks_of_the_user_are_transformed_as_without_a_chain():
    """Frames are moved together, and a user's mask by its own fill."""
    video = tv_tensors.Video(coded_pictures(K, (9, 9))[:, None].repeat(1, 3, 1, 1, 1))
    mask = tv_tensors.Mask(torch.arange(1, K + 1).view(-1, 1, 1).repeat(1, 9, 9))
    pad = v2.Pad(2, fill={tv_tensors.Mask: 9, "others": 1})
    steps = [CutMix(num_classes=K), pad, v2.ToDtype({tv_tensors.Mask: torch.uint8, "others": None})]
    out, masks, labels = Chain(steps, erased="nobody")(video, mask, torch.arange(K))
    shares = [(masks == k + 1).double().mean((1, 2)) for k in range(K)]
    assert (masks.dtype, int(masks[0, 0, 0])) == (torch.uint8, 9)
    torch.testing.assert_close(labels.double(), torch.stack(shares, 1), atol=1e-6, rtol=0)
    wanted = expected_labels(out[:, 1], "nobody")
    torch.testing.assert_close(labels.double(), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(K,), (K, 3)])
def test_regression_targets_are_mixed_by_the_visible_shares(shape):
    """Targets with one axis and with two become the weighted mean of what is visible."""
    targets = torch.rand(shape, dtype=torch.float64)
    cut = CutMix(num_classes="regression")
    images, out = Chain([cut, v2.Pad(2, fill=1), cut])(coded_pictures(K, (9, 9)), targets)
    wanted = expected_labels(images, "renormalise") @ targets
    assert (out.dtype, out.shape) == (torch.float32, shape)
    torch.testing.assert_close(out.double(), wanted, atol=1e-6, rtol=0)


def test_several_targets_are_mixed_each_in_its_own_form():
    """Classes, tags and numbers of one image are set by the same shares."""
    cut = CutMix(num_classes={"breed": K, "tags": "multi", "age": "regression"})
    batch = {
        "image": coded_pictures(K, (9, 9)),
        "age": torch.rand(K),
        "breed": torch.arange(K),
        "tags": torch.randint(2, (K, 3)),
    }
    out = Chain([cut, v2.RandomRotation(30, fill=1), cut])(batch)
    wanted = expected_labels(out["image"], "renormalise").float()
    torch.testing.assert_close(out["breed"], wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(out["tags"], wanted @ batch["tags"].float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(out["age"], wanted @ batch["age"], atol=1e-6, rtol=0)


def test_callables_get_the_batch_that_was_passed():
    """A function of the batch sees it in its own structure, and what it returns is used."""
    images, cut = coded_pictures(K, (9, 9)), CutMix(num_classes=K)
    torch.manual_seed(0)
    plain, labels = Chain([cut])(images, torch.arange(K))
    for provenance in (True, False):
        torch.manual_seed(0)
        chain = Chain([cut, lambda b: (b[0] * 2, b[1])], provenance=provenance)
        doubled, same = chain(images, torch.arange(K))
        assert torch.equal(doubled, plain * 2)
        # By its own rule CutMix gives the partner 1 - lam, in float32.
        torch.testing.assert_close(same, labels, atol=0 if provenance else 1e-7, rtol=0)
    torch.manual_seed(0)
    out = Chain([cut, lambda b: {**b, "image": b["image"] + 1, "seen": True}])(
        {"image": images, "label": torch.arange(K)}
    )
    assert torch.equal(out["image"], plain + 1)
    assert torch.equal(out["label"], labels)
    assert out["seen"]


class Tilt(v2.Transform):
    """Flip every second sample, by functionals of v2 or by hand."""

    def transform(self, inpt, params):
        """Flip a leaf."""
        flipped = v2.functional.vertical_flip(inpt)
        rows = [(flipped if i % 2 else inpt)[i] for i in range(len(inpt))]
        return tv_tensors.wrap(torch.stack(rows), like=inpt)


def test_a_transform_of_ones_own_may_move_each_sample_in_another_way():
    """Where a transform has a geometry for each sample, each is followed by its own."""
    cut = CutMix(num_classes=K, mode="sample")
    check_pixels(Chain([cut, Tilt(), v2.Pad(2, fill=1), Tilt(), cut, Tilt()], erased="nobody"))
    # One tilt between the cuts: a second one would undo the first, followed or not.
    check_pixels(Chain([cut, Tilt(), v2.Pad(2, fill=1), cut], erased="nobody"))


class InPlace(v2.Transform):
    """Flip what is given in its own memory."""

    def transform(self, inpt, params):
        """Flip a leaf."""
        inpt.copy_(inpt.flip(-1))
        return inpt


def test_what_is_moved_in_place_is_followed_or_refused():
    """One sample is followed through what writes to it; several share a probe, so torch refuses."""
    steps = [Cutout(0.5, num_classes=1), InPlace(), v2.RandomCrop(8), InPlace()]
    for seed in range(10):
        torch.manual_seed(seed)
        chain = Chain(steps, erased="nobody")
        images, labels = chain(coded_pictures(1, (16, 16)), torch.tensor([0]))
        wanted = expected_labels(images, "nobody")
        torch.testing.assert_close(labels.double(), wanted, atol=1e-6, rtol=0)
    with pytest.raises(RuntimeError, match="single memory location"):
        Chain([CutMix(num_classes=K), InPlace()])(coded_pictures(K, (9, 9)), torch.arange(K))


def test_a_probe_of_numbers_that_the_image_has_not_is_refused():
    """Digits that fit together are no source if there is no such pixel."""
    larger, probe = (foreign.make_probe(torch.zeros(1, 1, side, side)) for side in (4, 3))
    assert foreign.read_probe(probe, probe) is not None
    assert foreign.read_probe(larger, probe) is None


def test_images_that_no_step_touched_come_back_themselves():
    """What was not transformed is the tensor that was given, not a copy or an alias."""
    images = coded_images()
    chain = Chain([CutMix(num_classes=K), v2.RandomHorizontalFlip(0.0)], p=0.0)
    assert chain(images, torch.arange(K))[0] is images


BILINEAR = InterpolationMode.BILINEAR
# How much of a pixel at a seam can be wrong: the nearest of 2 x 2 pixels weighs a quarter at least;
# where more pixels are averaged, as by an antialiased resize to a smaller size, it can weigh less.
INTERPOLATED = {
    "resize": (v2.Resize((71, 53)), 0.75),
    "smaller": (v2.Resize((13, 17)), 1.0),
    "smaller, not antialiased": (v2.Resize((13, 17), antialias=False), 0.75),
    "crop": (v2.RandomResizedCrop(32), 1.0),
    "bicubic": (v2.RandomResizedCrop(32, interpolation=InterpolationMode.BICUBIC), 1.0),
    "rotate": (v2.RandomRotation(60, BILINEAR, expand=True), 0.75),
    "affine": (v2.RandomAffine(40, (0.2, 0.2), (0.6, 1.5), 20, BILINEAR), 0.75),
    "perspective": (v2.RandomPerspective(0.5, 1.0, BILINEAR), 0.75),
    "elastic": (v2.ElasticTransform(60.0, 3.0, BILINEAR), 0.75),
    "flip": (v2.RandomHorizontalFlip(1.0), 0.75),
    "nearest": (v2.RandomResizedCrop(32, interpolation=InterpolationMode.NEAREST), 0.75),
}


@pytest.mark.parametrize("name", INTERPOLATED)
def test_labels_differ_from_interpolated_images_at_seams_only(name):
    """A pixel counts for a source that is in it: the error is a part of the pixels of several.

    So a label is at least the share of the pixels that are wholly of its sample, at most that of
    those that have anything of it, and exact where nothing is blended.
    """
    step, part = INTERPOLATED[name]
    chain, seams = Chain([CutMix(num_classes=K, mode="sample"), step], erased="nobody"), 0.0
    for seed in range(20):
        torch.manual_seed(seed)
        images, labels = chain(coded_pictures(K, (48, 40)), torch.arange(K))
        weights = pixel_weights(images)
        least, most = ((weights > at).double().mean((2, 3)) for at in (1 - 1e-4, 1e-4))
        assert (labels >= least - 1e-6).all()
        assert (labels <= most + 1e-6).all()
        errors, seam = (labels - weights.mean((2, 3))).abs(), most - least
        assert (errors <= part * seam + 1e-6).all()
        seams = max(seams, float(seam.max()))
    assert (seams == 0) is (name in ("flip", "nearest"))


class Shift(v2.Transform):
    """Move the images, and leave everything else where it is."""

    def transform(self, inpt, params):
        """Change a leaf."""
        return inpt[..., 1:] if isinstance(inpt, tv_tensors.Image) else inpt


class Scale(v2.Transform):
    """Change the values of whatever comes."""

    def transform(self, inpt, params):
        """Change a leaf."""
        return inpt * 2


class Split(v2.Transform):
    """Make several images of each."""

    def transform(self, inpt, params):
        """Change a leaf."""
        return (inpt, inpt)


def halve(batch):
    return batch[0][..., ::2, ::2], batch[1]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (halve, "halve must be a transform that leaves 5 images .* got 5 of size \\(5, 5\\)"),
        (lambda b: (b[0][:2], b[1][:2]), "leaves 5 images .* got 2 of"),
        (lambda b: b[0], "cannot be read: found no labels"),
        (lambda b: b[1], "left a batch that cannot be read"),
        (Shift(), "Shift must be .* got 5 of size \\(9, 8\\)"),
        (Scale(), "Scale must be a transform that only moves pixels"),
        (v2.Lambda(lambda x: x / 2), "Lambda must be a transform that only moves pixels"),
        (v2.Lambda(lambda x: x[..., None] if x.ndim > 1 else x), "Lambda"),
        (Split(), "Split must be a transform that keeps the structure"),
        (
            v2.Lambda(lambda x: x[:, 0], tv_tensors.Image),
            "Lambda must be a transform that keeps the structure",
        ),
        (
            lambda b: (b[0].flip(0), b[1].flip(0)),
            "<lambda> must be a transform that keeps the labels",
        ),
        (
            lambda b: (b[0], b[1] + 1),
            "<lambda> left a batch that cannot be read: labels at \\[1\\]",
        ),
    ],
)
def test_what_cannot_be_followed_is_named(step, text):
    """One error says which transform it was, before a label is wrong."""
    with pytest.raises((TypeError, ValueError), match=text):
        Chain([CutMix(num_classes=K), step])(coded_pictures(K, (9, 9)), torch.arange(K))


NEAREST = InterpolationMode.NEAREST
HALF, IMAGES = [0.5] * 3, (tv_tensors.Image, tv_tensors.Video)
# Every transform of v2, by what a chain does with it.
MOVED = {
    "CenterCrop": lambda: v2.CenterCrop((7, 12)),
    "ElasticTransform": lambda: v2.ElasticTransform(90.0, 2.0, NEAREST),
    "Pad": lambda: v2.Pad(2, fill=1),
    "RandomAffine": lambda: v2.RandomAffine(30, fill=1),
    "RandomCrop": lambda: v2.RandomCrop(5),
    "RandomHorizontalFlip": lambda: v2.RandomHorizontalFlip(1.0),
    "RandomPerspective": lambda: v2.RandomPerspective(0.5, 1.0, NEAREST),
    "RandomResize": lambda: v2.RandomResize(5, 20, NEAREST),
    "RandomResizedCrop": lambda: v2.RandomResizedCrop(7, interpolation=NEAREST),
    "RandomRotation": lambda: v2.RandomRotation(90),
    "RandomShortestSize": lambda: v2.RandomShortestSize([5, 20], interpolation=NEAREST),
    "RandomVerticalFlip": lambda: v2.RandomVerticalFlip(1.0),
    "RandomZoomOut": lambda: v2.RandomZoomOut(1, p=1.0),
    "Resize": lambda: v2.Resize(7, NEAREST),
    "ScaleJitter": lambda: v2.ScaleJitter((9, 12), (0.6, 1.5), NEAREST),
}
STAYING = {
    "ClampBoundingBoxes": lambda: v2.ClampBoundingBoxes(),
    "ClampKeyPoints": lambda: v2.ClampKeyPoints(),
    "ColorJitter": lambda: v2.ColorJitter(0.5, 0.5, 0.5, 0.2),
    "ConvertBoundingBoxFormat": lambda: v2.ConvertBoundingBoxFormat("XYXY"),
    "ConvertImageDtype": lambda: v2.ConvertImageDtype(torch.float64),
    "GaussianBlur": lambda: v2.GaussianBlur(3),
    "GaussianNoise": lambda: v2.GaussianNoise(),
    "Grayscale": lambda: v2.Grayscale(3),
    "Identity": lambda: v2.Identity(),
    "JPEG": lambda: v2.JPEG(50),
    "Lambda": lambda: v2.Lambda(lambda x: x),
    "Normalize": lambda: v2.Normalize(HALF, HALF),
    "PILToTensor": lambda: v2.PILToTensor(),
    "RGB": lambda: v2.RGB(),
    "RandomAdjustSharpness": lambda: v2.RandomAdjustSharpness(2, 1.0),
    "RandomAutocontrast": lambda: v2.RandomAutocontrast(1.0),
    "RandomChannelPermutation": lambda: v2.RandomChannelPermutation(),
    "RandomEqualize": lambda: v2.RandomEqualize(1.0),
    "RandomErasing": lambda: v2.RandomErasing(1.0, value=7),
    "RandomGrayscale": lambda: v2.RandomGrayscale(1.0),
    "RandomInvert": lambda: v2.RandomInvert(1.0),
    "RandomPhotometricDistort": lambda: v2.RandomPhotometricDistort(p=1.0),
    "RandomPosterize": lambda: v2.RandomPosterize(2, 1.0),
    "RandomSolarize": lambda: v2.RandomSolarize(99, 1.0),
    "SetClampingMode": lambda: v2.SetClampingMode("hard"),
    "ToDtype": lambda: v2.ToDtype(dict.fromkeys(IMAGES, torch.float64)),
    "ToImage": lambda: v2.ToImage(),
    "ToPureTensor": lambda: v2.ToPureTensor(),
    "ToTensor": lambda: quietly(v2.ToTensor),
    "UniformTemporalSubsample": lambda: v2.UniformTemporalSubsample(2),
}
REFUSED = {
    "AugMix": lambda: v2.AugMix(),
    "AutoAugment": lambda: v2.AutoAugment(),
    "CutMix": lambda: v2.CutMix(num_classes=K),
    "FiveCrop": lambda: v2.FiveCrop(5),
    "LinearTransformation": lambda: v2.LinearTransformation(torch.eye(27).flip(0), torch.zeros(27)),
    "MixUp": lambda: v2.MixUp(num_classes=K),
    "RandAugment": lambda: v2.RandAugment(),
    "RandomIoUCrop": lambda: v2.RandomIoUCrop(),
    "SanitizeBoundingBoxes": lambda: v2.SanitizeBoundingBoxes(),
    "SanitizeKeyPoints": lambda: v2.SanitizeKeyPoints(),
    "TenCrop": lambda: v2.TenCrop(5),
    "ToPILImage": lambda: v2.ToPILImage(),
    "TrivialAugmentWide": lambda: v2.TrivialAugmentWide(),
}
CONTAINERS = {"Compose", "RandomApply", "RandomChoice", "RandomOrder", "Transform"}
OF_V2 = {
    name
    for name in dir(v2)
    if isinstance(getattr(v2, name), type) and issubclass(getattr(v2, name), nn.Module)
}


def quietly(make):
    """Make what warns that it is deprecated."""
    with pytest.warns(UserWarning, match="deprecated"):
        return make()


def test_every_transform_of_torchvision_has_a_row():
    """What a release brings is in one table, and in one only."""
    tables = [set(MOVED), set(STAYING), set(REFUSED), CONTAINERS]
    assert set.union(*tables) >= OF_V2
    assert sum(map(len, tables)) == len(set.union(*tables))
    assert set.union(*tables) - set(REFUSED) == containers.FOLLOWED


@pytest.mark.parametrize("name", sorted(OF_V2 & set(MOVED)))
def test_what_moves_pixels_is_followed(name):
    """Between cuts, and twice, every pixel is followed."""
    cut, step = CutMix(num_classes=K, mode="sample"), MOVED[name]()
    check_pixels(Chain([cut, step, cut], erased="nobody"), size=(9, 12))
    check_pixels(Chain([v2.RandomApply([step, cut], p=1.0), step, cut]), size=(9, 12))


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(OF_V2 & set(STAYING)))
def test_what_leaves_pixels_in_place_changes_no_label(name):
    """The labels are those without it, for images and for videos."""
    step, cut = STAYING[name](), CutMix(num_classes=K, mode="sample")
    dtype = torch.float32 if name in ("GaussianNoise", "Normalize") else torch.uint8
    video = tv_tensors.Video(torch.randint(256, (K, 4, 3, 9, 12)).to(dtype))
    for images in (video, tv_tensors.Image(video[:, 0]), video[:, 1].as_subclass(torch.Tensor)):
        same, labels = (
            Chain([cut, one, cut], erased="nobody").mix(
                (images, torch.arange(K)), generator=torch.Generator().manual_seed(0)
            )[0][1]
            for one in (v2.Lambda(lambda x: x), step)
        )
        assert torch.equal(labels, same)


@pytest.mark.parametrize("provenance", [True, False])
@pytest.mark.parametrize("name", sorted(OF_V2 & set(REFUSED)))
def test_what_cannot_be_followed_is_refused(name, provenance):
    """One error names it when the chain is made, however nested, and says what to do."""
    step, mine, cut = REFUSED[name](), REFUSED[name](), CutMix(num_classes=K)
    mine.__class__ = type("Mine", (type(step),), {})
    for one in (step, mine, v2.RandomApply([step]), Twice([step])):
        if not provenance:
            Chain([cut, one], provenance=False)
            continue
        with pytest.raises(ValueError, match=f"got torchvision's {name}; (use|apply) "):
            Chain([cut, one])


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (v1.RandomHorizontalFlip(), "torchvision's RandomHorizontalFlip; use v2.RandomHoriz"),
        (v1.Lambda(lambda batch: batch), "torchvision's Lambda; use v2.Lambda"),
        (v1.RandomApply([v2.Pad(1)]), "torchvision's RandomApply; use v2.RandomApply"),
        (v1.TenCrop(3), "torchvision's TenCrop; apply it in the data set"),
        (v2.Lambda(v2.RandomHorizontalFlip()), "got RandomHorizontalFlip in Lambda"),
        (Wrapped(v2.RandomHorizontalFlip()), "got RandomHorizontalFlip in Wrapped"),
        (v2.Compose([Wrapped(v2.Compose([v2.Pad(1)]))]), "got Pad in Wrapped"),
    ],
)
def test_transforms_that_would_be_called_unseen_are_refused(step, text):
    """What is older than v2, or runs what it holds by itself, would move pixels unnoticed."""
    with pytest.raises(ValueError, match=text):
        Chain([CutMix(num_classes=K), step])


@pytest.mark.parametrize(
    "option",
    [
        {"layout": "BHWC"},
        {"passthrough": ["depth"]},
        {"labels_getter": lambda batch: batch["label"]},
    ],
    ids=lambda option: next(iter(option)),
)
def test_transforms_that_read_a_batch_differently_are_refused(option):
    """Which leaf is what is one question for all of a chain."""
    with pytest.raises(ValueError, match=f"agree on {next(iter(option))}"):
        Chain([CutMix(num_classes=K), Cutout(num_classes=K, **option)])
    Chain([CutMix(num_classes=K, **option), Cutout(num_classes=K, **option)])


def test_transforms_that_move_nothing_leave_the_shares_alone():
    """Values, types and dtypes of images may change, by name or for all types."""
    steps = [
        v2.ToDtype(torch.uint8, scale=True),
        v2.RandomInvert(1.0),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
        v2.Lambda(lambda x: x * 2, tv_tensors.Image),
        v2.GaussianBlur(3),
        v2.ToPureTensor(),
        v2.Identity() if hasattr(v2, "Identity") else v2.Lambda(lambda x: x),
    ]
    cut, images = CutMix(num_classes=K, mode="sample"), torch.rand(K, 3, 9, 9)
    torch.manual_seed(0)
    _, expected = Chain([cut, cut])(images, torch.arange(K))
    torch.manual_seed(0)
    out, labels = Chain([cut, cut, *steps])(tv_tensors.Image(images), torch.arange(K))
    assert torch.equal(labels, expected)
    assert type(out) is torch.Tensor
    assert not torch.equal(out, images)


def test_what_random_erasing_of_torchvision_erases_counts_for_its_owner():
    """Erased pixels keep their owner, as they do for torchvision."""
    erase = v2.RandomErasing(1.0, value=1)
    images, labels = Chain([CutMix(num_classes=K, p=0.0), erase], erased="nobody")(
        coded_images(), torch.arange(K)
    )
    assert not torch.equal(images, coded_images())
    assert torch.equal(labels, torch.eye(K))


def test_p_is_for_ours_alone():
    """Batches have one shape, whether ours were applied or not, and labels that are true."""
    steps = [CutMix(num_classes=K), v2.Pad(2, fill=1), lambda b: (b[0] + 1, b[1])]
    chain, mixed = Chain(steps, p=0.5, erased="nobody"), set()
    for _ in range(12):
        images, labels = chain(coded_pictures(K, (9, 9)), torch.arange(K))
        assert images.shape == (K, 2 * K, 13, 13)
        assert float(images.min()) == 1
        wanted = expected_labels(images, "nobody")
        torch.testing.assert_close(labels.double(), wanted, atol=1e-6, rtol=0)
        mixed.add(bool((labels > 0).sum() > K))
    assert mixed == {True, False}
    for p in (2, float("nan"), "1"):
        with pytest.raises((TypeError, ValueError), match="p must"):
            chain.mix((coded_images(), torch.arange(K)), p=p)


@pytest.mark.parametrize("provenance", [True, False])
def test_what_is_not_drawn_keeps_the_format_of_labels_and_masks(provenance):
    """A batch for which a container drew none of ours has labels and masks like any other."""
    mixup = Mixup(num_classes=K, masks="soft", num_mask_classes=3)
    mask = tv_tensors.Mask(torch.zeros(K, 8, 8, dtype=torch.int64))
    for p in (0.0, 1.0):
        chain = Chain([v2.RandomApply([mixup], p=p), v2.Pad(1)], provenance=provenance)
        _, planes, labels = chain(torch.rand(K, 1, 8, 8), mask, torch.arange(K))
        assert (labels.dtype, labels.shape) == (torch.float32, (K, K))
        assert planes.shape[:2] == (K, 3)
        assert bool((labels > 0).sum() == K) is (p == 0.0)


class Given(CutMix):
    """Carry out a plan that is given."""

    plan: Plan

    def sample(self, batch, p, source):
        """Draw nothing."""
        return self.plan


@pytest.mark.parametrize("erased", ["nobody", "renormalise"])
def test_a_plan_may_hold_another_operation_for_every_sample(erased):
    """Pastes, blends and fills of one batch are told apart by sample, each from the originals."""
    given = Given(num_classes=K)
    given.plan = Plan(
        op=torch.tensor([PASTE, BLEND, FILL, NONE, PASTE], dtype=torch.uint8),
        partner=torch.tensor([1, 0, 2, 3, 2]),
        lam=torch.tensor([0.5, 0.25, 1.0, 1.0, 0.75]),
        boxes=torch.tensor([[[0, 0, 8, 4], [0] * 4, [2, 2, 6, 6], [0] * 4, [4, 4, 8, 8]]]).view(
            -1, 1, 4
        ),
        noise=torch.zeros(K, dtype=torch.int64),
    )
    flip, cut = v2.RandomHorizontalFlip(1.0), CutMix(num_classes=K, mode="sample")
    for steps in ([given], [cut, given], [given, flip, cut], [given, given]):
        check_pixels(Chain(steps, erased=erased), size=(8, 8))


def test_a_chain_holds_transforms_and_is_none():
    """It composes, copies and collates as a transform does, but has no plan to record."""
    chain = Chain([CutMix(num_classes=K), v2.Pad(1)], p=0.25)
    assert not isinstance(chain, MixTransform)
    assert isinstance(chain, nn.Module)
    assert "CutMix" in repr(chain)
    assert chain.options.num_classes == K
    with pytest.raises(ValueError, match="record"):
        make_collate_fn(chain, record=True)
    with pytest.raises(ValueError, match="agree on num_classes"):
        make_collate_fn([chain, Mixup(num_classes=K + 1)])
    assert make_collate_fn(chain).p == 0.25
    batch = make_collate_fn([chain, Mixup(num_classes=K)], p=[0.0, 0.0])(
        [(coded_images()[i], i) for i in range(K)]
    )
    assert torch.equal(batch[1], torch.eye(K))
    out, plan = pickle.loads(pickle.dumps(chain)).mix((coded_images(), torch.arange(K)), p=1)  # noqa: S301
    assert not plan.op.any()
    assert out[0].shape[-2:] == (35, 50)


def test_labels_are_checked_before_anything_is_drawn():
    """A class out of range is named, whatever comes first, and no random number is used up."""
    chain = Chain([v2.RandomRotation(30), CutMix(num_classes=K)], p=0.5)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="labels at \\[1\\] must be in \\[0, 5\\), got 5"):
        chain(coded_images(), torch.arange(1, K + 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_may_change_dtype_and_device_on_the_way():
    """What counts is that a step leaves their values as they are."""
    steps = [CutMix(num_classes="regression"), lambda b: (b[0].double(), b[1].double())]
    images, ages = Chain(steps)(coded_images(), torch.rand(K))
    assert (images.dtype, ages.dtype) == (torch.float64, torch.float32)


def test_an_empty_batch_passes():
    """No images give no labels, of the common format."""
    images, labels = Chain([CutMix(num_classes=K), v2.RandomHorizontalFlip(1.0), v2.Pad(1)])(
        torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64)
    )
    assert images.shape == (0, 3, 10, 10)
    assert labels.shape == (0, K)


@pytest.mark.slow
def test_kernels_are_registered_in_each_process_that_uses_a_chain():
    """Importing the package registers nothing; a chain that was sent to a worker follows pixels."""
    chain = Chain([CutMix(num_classes=2, p=0.0), v2.Pad(2, fill=1)], erased="nobody")
    program = (
        "import pickle, sys, torch, tv_mixaug\n"
        "assert 'tv_mixaug.transforms.provenance' not in sys.modules\n"
        f"chain = pickle.loads({pickle.dumps(chain)!r})\n"
        "print(chain(torch.zeros(2, 1, 4, 4), torch.arange(2))[1].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)  # noqa: S603
    assert done.stdout.strip() == "[[0.25, 0.0], [0.0, 0.25]]", done.stderr


def test_what_is_set_on_a_rule_later_reaches_its_chain():
    """Labels take the format that the rule now has; what the rules no longer share is refused."""
    first, second = Mixup(num_classes=4), CutMix(num_classes=4)
    chain = Chain([first, second])
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    assert chain(images, labels)[1].shape == (4, 4)
    first.num_classes = second.num_classes = 6
    assert chain(images, labels)[1].shape == (4, 6)
    first.label_smoothing = 0.5
    with pytest.raises(ValueError, match="agree on label_smoothing"):
        chain(images, labels)
    first.label_smoothing, first.passthrough = 0.0, ("ids",)
    for _ in range(2):  # not only once
        with pytest.raises(ValueError, match="agree on passthrough"):
            chain(images, labels)
