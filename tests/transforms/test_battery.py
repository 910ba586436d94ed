"""One table of all transforms, and the checks that every one of them holds."""

import copy
import pickle

import pytest
import torch
from helpers.coded import bits, coded_images
from helpers.loading import CLASSES, Pictures, same
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from tv_mixaug import (
    CutMix,
    Cutout,
    Mixup,
    OneOf,
    PairedLabels,
    RandomErasing,
    functional,
    make_collate_fn,
    testing,
    timm,
)

K = 16


def erasing(**options):
    """Return Random Erasing that always erases, unless it is told otherwise."""
    return RandomErasing(**{"p": 1.0, **options})


def one_of(mode, p=1.0, **options):
    """Return a choice between a rule of each kind, which is made with probability p."""
    rules = [Mixup(0.8, **options), CutMix(**options), erasing(**options)]
    return OneOf(rules, [p / 3] * 3, mode=mode)


def by_timm(*alphas, mode="batch", p=1.0, **options):
    """Return timm's Mixup."""
    return timm.Mixup(*alphas, prob=p, mode=mode, label_smoothing=0.0, **options)


# Each makes a transform from what all take: num_classes, p, masks, ….
TABLE = {
    "mixup": lambda **options: Mixup(0.8, **options),
    "mixup, sample": lambda **options: Mixup(0.8, mode="sample", pairing="shuffle", **options),
    "mixup, lam": lambda **options: Mixup(lam=(0.3, 0.6), **options),
    "cutmix": CutMix,
    "cutmix, sample": lambda **options: CutMix((2, 1), mode="sample", **options),
    "cutout": lambda **options: Cutout(0.4, holes=2, **options),
    "cutout, batch": lambda **options: Cutout((3, 5), mode="batch", **options),
    "random erasing": erasing,
    "random erasing, batch": lambda **options: erasing(count=(1, 3), mode="batch", **options),
    "one of, batch": lambda **options: one_of("batch", **options),
    "one of, sample": lambda **options: one_of("sample", **options),
    "timm, batch": lambda **options: by_timm(0.8, 1.0, **options),
    "timm, pair": lambda **options: by_timm(0.8, 1.0, mode="pair", **options),
    "timm, elem": lambda **options: by_timm(0.8, 1.0, mode="elem", **options),
    "timm, cutmix": lambda **options: by_timm(0.0, 1.0, None, mode="elem", **options),
    "timm, minmax": lambda **options: by_timm(0.0, 0.0, (0.2, 0.7), mode="pair", **options),
}
BLENDS = {name for name in TABLE if name.startswith(("mixup", "one of"))}
BLENDS |= {"timm, batch", "timm, pair", "timm, elem"}
ERASES = {name for name in TABLE if name.startswith(("cutout", "random", "one of"))}
EACH = pytest.mark.parametrize("name", TABLE)
CUTS = pytest.mark.parametrize("name", sorted(TABLE.keys() - BLENDS))


def make(name, **options):
    """Return a transform of the table."""
    return TABLE[name](**{"num_classes": K, **options})


def seeded(seed=0):
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


def often(mix, *given):
    """Call a transform until a choice for the batch has fallen on each of its rules."""
    for _ in range(30):
        mix(*given)


def batch(count=6, **leaves):
    """Return coded images and their labels, and whatever else."""
    return {"image": coded_images(count, (12, 16)), "label": torch.arange(count), **leaves}


# --- Labels ---------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_labels_equal_pixels(name, dtype):
    """The truth kit finds in each label the shares of the pixels that can be seen."""
    report = testing.assert_labels_match_pixels(
        make(name), num_classes=K, erased=0.0 if name in ERASES else None, dtypes=(dtype,), draws=3
    )
    assert report.mixed or name not in BLENDS


@EACH
def test_labels_equal_pixels_where_they_are_collated(name):
    """The same of a collate function, whose samples are mixed before they are stacked."""
    testing.assert_labels_match_pixels(
        make_collate_fn(make(name), seed=0), num_classes=K, collate=True, draws=2,
        erased=0.0 if name in ERASES else None,
    )  # fmt: skip


@EACH
@pytest.mark.parametrize("collate", [False, True])
def test_one_label_format(name, collate):
    """Labels have one type, shape and dtype, whatever p is and whether a batch was mixed."""

    def sometimes(p):
        return make_collate_fn(make(name, p=p)) if collate else make(name, p=p)

    testing.assert_one_label_format(sometimes, num_classes=K, collate=collate, draws=8)


@EACH
def test_p_leaves_some_batches_alone(name):
    """With p=0.3 some samples are mixed and some are not, and plans say which."""
    torch.manual_seed(0)
    mix, seen = make(name, p=0.3), set()
    for _ in range(40):
        given = batch()
        out, plan = mix.mix(given)
        alone = plan.op == 0
        assert torch.equal(out["image"][alone], given["image"][alone])
        assert torch.equal(out["label"][alone], torch.eye(K)[:6][alone])
        seen |= set((plan.op != 0).tolist())
    assert seen == {True, False}


@EACH
def test_labels_that_are_mixed_already_are_refused(name):
    """Pairs cannot be mixed a second time, so whoever mixes says so and leaves nothing behind."""
    pairs = PairedLabels(torch.arange(6), torch.arange(6).flip(0), torch.full((6,), 0.5))
    if name in ERASES and "one of" not in name:
        assert same(make(name).mix(batch(label=pairs))[0]["label"], pairs)
    else:
        with pytest.raises(ValueError, match="to be mixed a second time"):
            often(make(name), batch(label=pairs))


# --- Inputs, batches of any length, copies --------------------------------------------------------


@EACH
def test_inputs_stay_as_they_were(name):
    """Neither a batch nor the samples of a data set are written to."""
    images, labels = coded_images(5, (9, 12)), torch.arange(5)
    testing.assert_inputs_unchanged(make(name), images, labels, calls=8)
    arrays = [(image.numpy(), i) for i, image in enumerate(images.byte())]
    testing.assert_inputs_unchanged(make_collate_fn(make(name)), arrays, calls=8)


@EACH
@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_of_none_or_one(name, count):
    """An empty batch stays empty, one of one has no partner; labels take their format."""
    given = batch(count)
    out, plan = make(name).mix(given)
    assert out["image"].shape == given["image"].shape
    assert len(plan.op) == count
    assert torch.equal(out["label"], torch.eye(K)[:count])
    if name not in ERASES:
        assert torch.equal(out["image"], given["image"])


@EACH
@pytest.mark.parametrize("how", [copy.deepcopy, lambda mix: pickle.loads(pickle.dumps(mix))])  # noqa: S301
def test_copies_draw_the_same(name, how):
    """A copied or pickled transform makes the same of the same generator."""
    mix = make(name)
    results = [each.mix(batch(), generator=seeded(5)) for each in (mix, how(mix))]
    assert same(*results)
    assert not same(results[0], mix.mix(batch(), generator=seeded(6)))


@EACH
def test_a_seed_gives_the_same_for_every_number_of_workers(name):
    """Batches and plans of a loader are a function of the seed alone."""
    mix = make(name, num_classes=CLASSES, passthrough=(2,))
    testing.assert_reproducible(
        lambda workers: DataLoader(
            Pictures(), 8, num_workers=workers,
            collate_fn=make_collate_fn(mix, seed=3, record=True),
        ),
        num_workers=(0, 2),
    )  # fmt: skip


# --- Plans ----------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32], ids=str)
def test_a_plan_repeats_it_all(name, dtype):
    """A replay gives the pixels bit for bit, the plan's mask the weights, and lam the labels."""
    torch.manual_seed(0)
    mix = make(name)
    for _ in range(6):
        images = coded_images(6, (12, 16), dtype)
        (out, labels), plan = mix.mix((images, torch.arange(6)))
        assert torch.equal(bits(out), bits(functional.replay(images, plan)))
        own = functional.region_mask(plan, (12, 16)).flatten(1).mean(1)
        filled = plan.op == 1
        torch.testing.assert_close(own[~filled], plan.lam[~filled], atol=1e-6, rtol=0)
        expected = functional.mix_labels(torch.eye(K)[:6], plan.partner, plan.lam)
        torch.testing.assert_close(labels, expected, atol=1e-6, rtol=0)


@EACH
def test_a_plan_can_be_drawn_alone(name):
    """draw_plan draws what mix would draw from the same generator, and changes nothing."""
    mix = make(name)
    given = batch()
    plan = mix.draw_plan(given, generator=seeded(2))
    assert same(given, batch())
    assert same(tuple(plan), tuple(mix.mix(given, generator=seeded(2))[1]))


# --- Other leaves ---------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("masks", ["dominant", "soft"])
def test_masks_follow_their_images(name, masks):
    """Each pixel of a mask names the class that its image holds there, or all by their weights."""
    choice = {"masks": masks, "num_mask_classes": K if masks == "soft" else None}
    if masks == "dominant" and name not in BLENDS:
        choice = {}  # cuts need none
    mix = make(name, labels_getter=None, **choice)
    testing.assert_targets_follow_images(
        mix, kind="masks", num_classes=K, erased=name in ERASES, draws=2, batch_sizes=(1, 2, 5)
    )


@pytest.mark.parametrize("name", sorted(BLENDS))
def test_masks_that_would_be_blended_need_a_choice(name):
    """Class ids cannot be blended: who may blend a mask asks for a rule before it draws."""
    mask = tv_tensors.Mask(torch.zeros(6, 12, 16, dtype=torch.uint8))
    given = batch(mask=mask, image=tv_tensors.Image(batch()["image"]))
    with pytest.raises(ValueError, match="masks must be 'soft' or 'dominant'"):
        often(make(name), given)


@CUTS
def test_boxes_follow_their_images(name):
    """Each box is that of its object's visible pixels, and objects of both pictures are there."""
    testing.assert_targets_follow_images(
        make(name, labels_getter=None), kind="boxes", draws=2, min_visible=0.1
    )


@pytest.mark.parametrize("name", sorted(BLENDS))
def test_boxes_of_blended_images_are_joined(name):
    """A picture that was blended has the objects of both, and others only what is left of them."""
    torch.manual_seed(0)
    mix = make(name, labels_getter=None)
    for _ in range(6):
        targets = [
            {"boxes": torch.tensor([[2.0, 2, 14, 10]]), "labels": torch.tensor([i])}
            for i in range(6)
        ]
        given = {"image": tv_tensors.Image(coded_images(6, (12, 16))), "target": targets}
        out, plan = mix.mix(given)
        for row, target in enumerate(out["target"]):
            held = {row, int(plan.partner[row])}
            if plan.op[row] == 2:
                assert set(target["labels"].tolist()) == held
            assert set(target["labels"].tolist()) <= held


@EACH
def test_a_second_image_of_the_same_size_is_mixed_alike(name):
    """Two images of a sample are mixed by one plan; of two sizes they cannot be cut alike."""
    first, second = (tv_tensors.Image(coded_images(6, (12, 16)) * factor) for factor in (1, 2))
    torch.manual_seed(0)
    one, other, _ = make(name)(first, second, torch.arange(6))
    torch.testing.assert_close(other.as_subclass(Tensor), 2 * one.as_subclass(Tensor))
    if not name.startswith("mixup"):
        with pytest.raises(ValueError, match="must be of one size"):
            often(make(name), first, tv_tensors.Image(second[..., :8, :8]), torch.arange(6))


# --- The compiled step ----------------------------------------------------------------------------

COMPILED = [  # each takes seconds, and this one has rules of every kind in it
    pytest.param(name, marks=[] if name == "one of, sample" else pytest.mark.slow)
    for name in TABLE
    if not name.startswith("timm")
]


@pytest.mark.skipif(torch.__version__ < "2.7", reason="torch 2.6 traces no namedtuples")
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_step_is_one_graph(name):
    """A compiled step draws, mixes and labels in one graph, and its labels equal the pixels."""
    torch.manual_seed(0)
    torch.compiler.reset()  # what was compiled for others counts against a limit
    mix = make(name)
    compiled = torch.compile(lambda *given: mix(*given), fullgraph=True, backend="aot_eager")
    report = testing.assert_labels_match_pixels(
        compiled, num_classes=K, erased=0.0 if name in ERASES else None, batch_sizes=(5,),
        sizes=((9, 12),), draws=12,
    )  # fmt: skip
    assert report.mixed or name not in BLENDS
