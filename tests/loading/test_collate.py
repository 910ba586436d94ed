"""make_collate_fn: how samples are collated and mixed, without a DataLoader."""

import copy
import pickle
from collections import OrderedDict, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.loading import Pictures, make, same
from torch.utils.data import default_collate
from torchvision.transforms import v2

from tv_mixaug import CutMix, Cutout, Mixup, Plan, make_collate_fn

ALL = [Mixup(num_classes=3), CutMix(num_classes=3), Cutout(num_classes=3)]
DTYPES = [torch.float32, torch.half, torch.bfloat16, torch.uint8, torch.double]
EACH = pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)


def pairs(count=4, dtype=torch.float32, size=8):
    images = (torch.rand(count, 3, size, size) * 255).to(dtype)
    return [(images[i], i % 3) for i in range(count)]


def detections(count=3):
    target = {"boxes": torch.tensor([[1.0, 1.0, 6.0, 6.0]]), "labels": torch.tensor([1])}
    return [(torch.rand(3, 8, 8), dict(target)) for _ in range(count)]


@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda **all_: defaultdict(list, all_)])
def test_mappings_keep_their_type_and_other_fields(kind):
    """A mapping keeps its type and order, and fields beside image and label are torch's."""
    extras = {"name": "a", "bytes": b"b", "id": 7, "score": 0.25, "flag": True, "path": ("x", 1)}
    extras |= {"array": np.arange(3, dtype=np.int16), "scalar": np.float32(2.0)}
    extras |= {"vector": torch.arange(5.0)}
    samples = [kind(labels=label, images=image, **extras) for image, label in pairs()]
    batch, expected = make_collate_fn(ALL)(samples), default_collate(samples)
    assert type(batch) is type(expected)
    assert list(batch) == ["labels", "images", *extras]
    assert all(same(batch[key], expected[key]) for key in extras)
    assert batch["labels"].shape == (4, 3)
    assert getattr(batch, "default_factory", None) is getattr(samples[0], "default_factory", None)
    assert isinstance(samples[0]["labels"], int)  # the sample itself stays as it is


def test_without_mixing_the_batch_is_that_of_default_collate():
    """With p = 0 and labels that stay as they are, the batch equals default_collate's."""
    samples = [(image, label, str(label), {"a": 1.0}) for image, label in pairs()]
    assert same(make_collate_fn(Cutout(), 0.0)(samples), default_collate(samples))


@EACH
@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [8, 160])
def test_collating_and_mixing_at_once_gives_the_same_bits(transform, mode, dtype, size):
    """The result is that of stacking first and mixing then, for small images and large ones."""
    samples, transform = pairs(5, dtype, size), copy.deepcopy(transform)
    transform.mode = mode
    at_once = make_collate_fn(transform, seed=4, record=True)(samples)
    own = {"collate_fn": lambda samples: default_collate(samples)}  # not recognised as torch's
    assert (at_once[0].dtype, at_once[1].dtype) == (dtype, torch.float32)
    assert same(at_once, make_collate_fn(transform, seed=4, record=True, **own)(samples))


def test_p_is_that_of_the_transform_by_default():
    """Without p= the transform's own probability is used, or equal shares for a list."""
    transform = CutMix(num_classes=3, p=0.25)
    assert make_collate_fn(transform).p == 0.25
    assert make_collate_fn(transform, 0.75).p == 0.75
    assert make_collate_fn([transform, transform]).p == [0.5, 0.5]


def test_the_plan_is_added_after_targets_and_replaces_nothing():
    """The plan follows a list of detection targets, and a key "mix" of the user is kept."""
    images, targets, plan = make_collate_fn(CutMix(), record=True, seed=0)(detections())
    assert isinstance(targets, list)
    assert isinstance(plan, Plan)
    assert len(targets) == len(images) == len(plan.lam) == 3
    assert all(len(target["boxes"]) == len(target["labels"]) for target in targets)
    samples = [{"images": image, "labels": label, "mix": 1} for image, label in pairs()]
    with pytest.raises(ValueError, match="record must be False for batches with the key 'mix'"):
        make_collate_fn(ALL, record=True)(samples)


@pytest.mark.parametrize("p", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
def test_the_plan_has_one_form_for_all_transforms(p):
    """Mixed or not, the plan has the same dtypes and a row for each sample."""
    plan = make_collate_fn(ALL, p, record=True, seed=0)(pairs())[-1]
    assert [part.dtype for part in plan] == [
        torch.uint8, torch.int64, torch.float32, torch.int64, torch.int64, torch.int64
    ]  # fmt: skip
    assert [tuple(part.shape) for part in plan] == [(4,), (4,), (4,), (4, 1, 4), (4,), (4, 2)]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("size", [8, 160])
def test_a_cached_data_set_is_never_written_to(kind, inplace, dtype, size):
    """After twenty epochs the cached samples are the same bit for bit."""
    images = (torch.rand(4, 3, size, size) * 255).to(dtype)
    before, transform = images.clone(), kind(num_classes=3, inplace=inplace)
    own = {"collate_fn": lambda samples: (images, torch.tensor([label for _, label in samples]))}
    for function in (make_collate_fn(transform, seed=0), make_collate_fn(transform, seed=0, **own)):
        for epoch in range(20):
            function.set_epoch(epoch)
            mixed, _ = function([(images[i], i % 3) for i in range(4)])
            assert mixed.data_ptr() != images.data_ptr()
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "transforms",
    [
        ALL,
        Mixup(0.2, num_classes=3, mode="sample", p=0.5),
        CutMix(num_classes=3, pairing=lambda labels: torch.randperm(len(labels))),
        Cutout(fill="noise", num_classes=3),
    ],
    ids=["list", "mixup", "pairing", "noise"],
)
def test_with_a_seed_the_global_generator_is_left_alone(transforms):
    """With seed= a call neither depends on torch's global generator nor changes it."""
    samples, found = pairs(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(make_collate_fn(transforms, seed=5, record=True)(samples))
        assert torch.equal(torch.get_rng_state(), state)
    assert same(*found)


def test_without_a_seed_the_global_generator_decides():
    """Without seed=, torch.manual_seed makes the batch reproducible."""
    samples, results = pairs(), []
    for _ in range(2):
        torch.manual_seed(8)
        results.append(make_collate_fn(ALL)(samples))
    assert same(*results)
    assert not same(results[0], make_collate_fn(ALL)(samples))


@pytest.mark.parametrize("change", [{"seed": 6}, {"rank": 1}, {"epoch": 1}, {"calls": 1}])
def test_seed_rank_epoch_and_calls_each_change_the_mix(change):
    """Another seed, rank, epoch or number of calls before gives another plan."""

    def plan(seed=5, rank=0, epoch=0, calls=0):
        collate_fn = make_collate_fn(CutMix(num_classes=3), seed=seed, rank=rank, record=True)
        collate_fn.set_epoch(epoch)
        return [collate_fn(pairs(8))[2] for _ in range(calls + 1)][-1]

    assert same(plan(), plan())
    assert not same(plan(), plan(**change))


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_a_copy_is_alike_and_shares_nothing(how):
    """A copy gives the same mixes, with its own p and epoch."""
    collate_fn = make(p=[0.75, 0.25])
    collate_fn.set_epoch(4)
    pickled = pickle.dumps(collate_fn)
    other = pickle.loads(pickled) if how == "pickle" else getattr(copy, how)(collate_fn)  # noqa: S301
    assert (other.p, other.epoch) == ([0.75, 0.25], 4)
    samples = [Pictures()[i] for i in range(6)]
    assert same(collate_fn(samples), other(samples))
    other.set_p([0.0, 0.0])
    other.set_epoch(5)
    assert (collate_fn.p, collate_fn.epoch) == ([0.75, 0.25], 4)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"transforms": [3]}, TypeError, "transforms must be callable, got int"),
        ({"p": 1.5}, ValueError, r"p must be in \[0, 1\], got 1.5"),
        ({"p": "1"}, TypeError, "p must be a number"),
        ({"p": [1.0]}, TypeError, "p must be a number"),
        ({"transforms": ALL, "p": 0.5}, TypeError, "p must be a list"),
        ({"transforms": CutMix}, TypeError, r"got CutMix; make one: CutMix\(...\)"),
        ({"collate_fn": 3}, TypeError, "collate_fn must be callable, got int"),
        ({"seed": 1.0}, TypeError, "seed must be an int or None, got float"),
        ({"seed": True}, TypeError, "seed must be an int or None, got bool"),
        ({"seed": -1}, ValueError, "seed must be >= 0, got -1"),
        ({"rank": -1}, ValueError, "rank must be >= 0, got -1"),
        ({"record": 1}, TypeError, "record must be a bool, got int"),
        ({"reuse_memory": 1}, TypeError, "reuse_memory must be a bool or None, got int"),
        ({"reuse_memory": True, "collate_fn": list}, ValueError, "reuse_memory must be False with"),
        ({"transforms": v2.MixUp(num_classes=3), "record": True}, ValueError, "record must be"),
        ({"transforms": [ALL[0], CutMix(num_classes=4)]}, ValueError, "3 of Mixup and 4 of CutMix"),
    ],
)
def test_wrong_arguments_are_named(arguments, kind, text):
    """Each wrong argument raises at once, with its name and what was expected."""
    with pytest.raises(kind, match=text):
        make_collate_fn(**{"transforms": Mixup(num_classes=3), **arguments})


@pytest.mark.parametrize(
    ("samples", "kind", "text"),
    [
        ([], ValueError, "at least one sample"),
        (torch.rand(2, 3, 8, 8), TypeError, "samples must be a list, got Tensor"),
        ([(torch.rand(3, 8, n), 0) for n in (8, 9)], ValueError, r"\[3, 8, 8\] .* resize"),
        ([(torch.rand(3, 8, 8), 0), (torch.rand(3, 8, 8),)], ValueError, "same length"),
        ([{"images": torch.rand(3, 8, 8)}, {"image": torch.rand(3, 8, 8)}], ValueError, "keys"),
        ([(SimpleNamespace(), 0)], TypeError, "SimpleNamespace'>; turn pictures into tensors"),
        ([(torch.rand(3, 8, 8), 5)], ValueError, r"must be in \[0, 3\), got 5"),
        ([(torch.rand(3, 8, 8), None)], TypeError, "got <class 'NoneType'>"),
    ],
)
def test_wrong_samples_are_explained(samples, kind, text):
    """Samples that cannot become a batch raise an error that names the reason."""
    with pytest.raises(kind, match=text):
        make_collate_fn(Mixup(num_classes=3))(samples)


@pytest.mark.parametrize("p", [None, 0.5, [0.5], [2.0, 0.0], [0.6, 0.6]])
def test_a_wrong_p_is_refused(p):
    """set_p refuses what make_collate_fn refuses, and an error does not change p."""
    collate_fn = make()
    with pytest.raises((TypeError, ValueError), match="p must"):
        collate_fn.set_p(p)
    assert collate_fn.p == [0.5, 0.5]


def test_integers_of_numpy_are_accepted():
    """NumPy's integers are stored as Python's and give the same mixes; the first batch counts."""
    samples, found = pairs(8), []
    for kind, first in ((np.int64, 4), (int, 4), (int, 3)):
        collate_fn = make(seed=kind(5), rank=kind(2))
        assert type(collate_fn.seed) is type(collate_fn.rank) is int
        collate_fn.set_epoch(kind(3), first_batch=kind(first))
        found.append(collate_fn(samples))
    assert same(found[0], found[1])
    assert not same(found[1], found[2])
