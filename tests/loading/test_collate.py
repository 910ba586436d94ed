"""Test what make_collate_fn makes of samples, without any loader."""

import copy
import pickle
from collections import OrderedDict, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.loading import Pictures, Sample, make, same
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import CutMix, Cutout, Mixup, functional, make_collate_fn
from tv_mixaug.targets.labels import PairedLabels
from tv_mixaug.engine.plan import Plan

ALL = [Mixup(num_classes=3), CutMix(num_classes=3), Cutout(num_classes=3)]


def pairs(count: int = 4, dtype: torch.dtype = torch.float32) -> list:
    images = (torch.rand(count, 3, 8, 8) * 255).to(dtype)
    return [(images[i], i % 3) for i in range(count)]


def detections(count: int = 3) -> list:
    target = {"boxes": torch.tensor([[1.0, 1.0, 6.0, 6.0]]), "labels": torch.tensor([1])}
    return [(torch.rand(3, 8, 8), dict(target)) for _ in range(count)]


# --- Structure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tuple, list])
def test_tuples_and_lists_become_a_list(kind):
    """Samples that are tuples or lists become a list, as default_collate makes it."""
    batch = make_collate_fn(ALL)([kind(sample) for sample in pairs()])
    assert type(batch) is type(default_collate([kind(sample) for sample in pairs()]))
    assert batch[0].shape == (4, 3, 8, 8)
    assert batch[1].shape == (4, 3)


def test_a_namedtuple_keeps_its_type():
    """A batch of namedtuples is the same namedtuple."""
    batch = make_collate_fn(ALL)([Sample(*sample) for sample in pairs()])
    assert isinstance(batch, Sample)
    assert batch.labels.shape == (4, 3)


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_mappings_keep_their_type(kind):
    """A batch of dicts is a dict of the same kind with the same keys in the same order."""
    samples = [kind(labels=label, images=image) for image, label in pairs()]
    batch = make_collate_fn(ALL)(samples)
    assert type(batch) is kind
    assert list(batch) == ["labels", "images"]
    assert batch["labels"].shape == (4, 3)


def test_a_defaultdict_keeps_its_factory():
    """A batch of defaultdicts is a defaultdict with the same factory."""
    samples = [defaultdict(list, images=image, labels=label) for image, label in pairs()]
    batch = make_collate_fn(ALL)(samples)
    assert isinstance(batch, defaultdict)
    assert batch.default_factory is list
    assert isinstance(samples[0]["labels"], int), "the sample itself must stay as it is"


def test_nested_samples_keep_their_nesting():
    """Samples nested in dicts and tuples come back in the same nesting."""
    samples = [
        {"input": {"image": tv_tensors.Image(image), "name": f"{label}"}, "more": (label, [0.5])}
        for image, label in pairs()
    ]
    transform = CutMix(num_classes=3, labels_getter=lambda batch: batch["more"][0])
    batch = make_collate_fn(transform)(samples)
    assert isinstance(batch["input"]["image"], tv_tensors.Image)
    assert batch["input"]["name"] == ["0", "1", "2", "0"]
    assert batch["more"][0].shape == (4, 3)
    assert same(batch["more"][1], [torch.full((4,), 0.5, dtype=torch.float64)])


def test_extra_fields_are_collated_as_default_collate_does():
    """Strings, numbers and arrays beside image and label come out as from default_collate."""
    extras = {
        "name": "a",
        "bytes": b"b",
        "id": 7,
        "score": 0.25,
        "flag": True,
        "array": np.arange(3, dtype=np.int16),
        "scalar": np.float32(2.0),
        "vector": torch.arange(5.0),
        "path": ("x", 1),
    }
    samples = [{"images": image, "labels": label, **extras} for image, label in pairs()]
    batch = make_collate_fn(CutMix(num_classes=3))(samples)
    expected = default_collate(samples)
    for key in extras:
        assert same(batch[key], expected[key]), key


def test_without_mixing_the_batch_is_that_of_default_collate():
    """With p = 0 and labels that stay as they are, the batch equals default_collate's."""
    samples = [(image, label, str(label), {"a": 1.0}) for image, label in pairs()]
    assert same(make_collate_fn(Cutout(), 0.0)(samples), default_collate(samples))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_images_keep_their_dtype(dtype):
    """Images of every dtype that can be mixed keep it."""
    for transform in ALL:
        images, labels = make_collate_fn(transform)(pairs(dtype=dtype))
        assert images.dtype == dtype
        assert labels.dtype == torch.float32


def test_tv_tensors_keep_their_types():
    """Image, Video and Mask are still that after collating and mixing."""
    samples = [
        {
            "image": tv_tensors.Image(torch.rand(3, 8, 8)),
            "video": tv_tensors.Video(torch.rand(2, 3, 8, 8)),
            "mask": tv_tensors.Mask(torch.randint(3, (8, 8))),
            "labels": 1,
        }
        for _ in range(4)
    ]
    for transform in (CutMix(num_classes=3), Mixup(num_classes=3, masks="dominant")):
        batch = make_collate_fn(transform)(samples)
        assert type(batch["image"]) is tv_tensors.Image
        assert type(batch["video"]) is tv_tensors.Video
        assert type(batch["mask"]) is tv_tensors.Mask
        assert batch["video"].shape == (4, 2, 3, 8, 8)


def test_detection_targets_stay_a_list():
    """A detection target for each image: the targets come back as a list of dicts."""
    images, targets = make_collate_fn(CutMix(), seed=0)(detections())
    assert images.shape == (3, 3, 8, 8)
    assert isinstance(targets, list)
    assert all(len(target["boxes"]) == len(target["labels"]) for target in targets)


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.float64])
@pytest.mark.parametrize("size", [8, 160])
def test_the_fast_path_equals_the_plain_path(transform, mode, dtype, size):
    """Collating and mixing in one step gives the bits of stacking first, for small and large."""
    images = (torch.rand(5, 3, size, size) * 255).to(dtype)
    samples = [(images[i], i % 3) for i in range(5)]
    transform = copy.deepcopy(transform)
    transform.mode = mode
    fast = make_collate_fn(transform, seed=4, record=True)(samples)
    plain = make_collate_fn(transform, seed=4, record=True, collate_fn=lambda s: default_collate(s))
    assert same(fast, plain(samples))


# --- One of several -----------------------------------------------------------------------------


def test_shares_of_the_list_are_kept():
    """Each transform of a list gets its share of the batches, and one label format holds."""
    collate_fn = make_collate_fn(ALL, [0.5, 0.2, 0.1], seed=0, record=True)
    samples, count = pairs(), torch.zeros(4)
    for _ in range(300):
        _, labels, plan = collate_fn(samples)
        assert labels.shape == (4, 3)
        assert labels.dtype == torch.float32
        count[plan.op[0].item()] += 1
    expected = torch.tensor([0.2, 0.1, 0.5, 0.2])
    # Four standard deviations of a share of 300 draws.
    assert ((count / 300 - expected).abs() < 4 * (expected * (1 - expected) / 300).sqrt()).all()


def test_a_transform_of_torchvision_may_be_in_the_list():
    """v2's own MixUp works beside ours and gives the same label format."""
    collate_fn = make_collate_fn([v2.MixUp(num_classes=3), CutMix(num_classes=3)], [1.0, 0.0])
    images, labels = collate_fn(pairs())
    assert images.shape == (4, 3, 8, 8)
    assert labels.shape == (4, 3)


def test_p_of_one_transform_is_its_own_by_default():
    """Without p= the transform's own probability is used, with it that one."""
    transform = CutMix(num_classes=3, p=0.25)
    assert make_collate_fn(transform).p == 0.25
    assert make_collate_fn(transform, 0.75).p == 0.75
    assert make_collate_fn([transform, transform]).p == [0.5, 0.5]


def test_set_p_changes_p_and_the_batches():
    """set_p takes effect at once and can be read back."""
    collate_fn = make_collate_fn(ALL, seed=0, record=True)
    collate_fn.set_p([0.0, 0.0, 0.0])
    assert collate_fn.p == [0.0, 0.0, 0.0]
    assert not collate_fn(pairs())[2].op.any()
    collate_fn.set_p([0.0, 1.0, 0.0])
    assert (collate_fn(pairs())[2].op == 3).all()


def test_a_batch_of_one_can_be_mixed():
    """A last batch of one sample passes every transform and keeps its label."""
    for transform in [*ALL, CutMix(num_classes=3, mode="sample")]:
        images, labels = make_collate_fn(transform)(pairs(1))
        assert images.shape == (1, 3, 8, 8)
        assert labels.tolist() == [[1.0, 0.0, 0.0]]


# --- Record and replay --------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_the_recorded_plan_replays_the_mix(transform):
    """Replaying the plan on the samples gives the same bits, and on another view another mix."""
    samples = pairs(6)
    images, _, plan = make_collate_fn(transform, seed=1, record=True)(samples)
    originals = torch.stack([image for image, _ in samples])
    assert isinstance(plan, Plan)
    assert same(functional.replay(originals, plan), images)
    depth = torch.rand(6, 1, 8, 8)
    mixed = functional.replay(depth, plan)
    again, _ = transform.mix((depth, torch.arange(6) % 3), p=0.0)
    assert not torch.equal(mixed, depth)
    assert torch.equal(again[0], depth)


def test_the_plan_goes_where_the_batch_has_room():
    """The plan is last in lists and tuples, and at "mix" in dicts."""
    collate_fn = make_collate_fn(ALL, record=True)
    assert isinstance(collate_fn(pairs())[-1], Plan)
    as_dicts = [{"images": image, "labels": label} for image, label in pairs()]
    assert isinstance(collate_fn(as_dicts)["mix"], Plan)
    assert isinstance(collate_fn([Sample(*sample) for sample in pairs()])[-1], Plan)
    images, targets, plan = make_collate_fn(CutMix(), record=True)(detections())
    assert len(targets) == len(images) == len(plan.lam)


def test_the_plan_has_one_form_for_all_transforms():
    """Mixed or not, the plan has the same dtypes and a row for each sample."""
    collate_fn = make_collate_fn(ALL, record=True, seed=0)
    for p in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]):
        collate_fn.set_p(p)
        plan = collate_fn(pairs())[-1]
        assert [part.dtype for part in plan] == [
            torch.uint8, torch.int64, torch.float32, torch.int64, torch.int64
        ]  # fmt: skip
        assert [tuple(part.shape) for part in plan] == [(4,), (4,), (4,), (4, 1, 4), (4,)]


def test_a_key_called_mix_is_refused():
    """A batch that has the key "mix" already is refused with record=True."""
    samples = [{"images": image, "labels": label, "mix": 1} for image, label in pairs()]
    with pytest.raises(ValueError, match="record needs the key 'mix'"):
        make_collate_fn(ALL, record=True)(samples)


def test_paired_labels_come_out_as_such():
    """targets="pair" gives PairedLabels from every batch, mixed or not."""
    collate_fn = make_collate_fn(CutMix(num_classes=3, targets="pair"), seed=0)
    for p in (0.0, 1.0):
        collate_fn.set_p(p)
        assert isinstance(collate_fn(pairs())[1], PairedLabels)


# --- The data set's own memory ------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_cached_data_set_is_never_written_to(kind, inplace, dtype):
    """After twenty epochs the cached samples are bit-identical, small and large ones."""
    for size in (8, 160):
        images = (torch.rand(4, 3, size, size) * 255).to(dtype)
        before = images.clone()
        samples = [(images[i], i % 3) for i in range(4)]
        collate_fn = make_collate_fn(kind(num_classes=3, inplace=inplace), seed=0)
        own = make_collate_fn(
            kind(num_classes=3, inplace=inplace),
            collate_fn=lambda s, images=images: (images, torch.tensor([label for _, label in s])),
            seed=0,
        )
        for epoch in range(20):
            for function in (collate_fn, own):
                function.set_epoch(epoch)
                mixed, _ = function(samples)
                assert mixed.data_ptr() != images.data_ptr()
        assert torch.equal(images, before)


def test_a_custom_collate_fn_does_the_stacking():
    """A padding collate function is used, and its batch is mixed."""

    def pad(samples):
        images = torch.zeros(len(samples), 3, 9, 9)
        for row, (image, _) in zip(images, samples, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return images, torch.tensor([label for _, label in samples])

    samples = [(torch.rand(3, 6 + i, 9 - i), i) for i in range(3)]
    images, labels = make_collate_fn(Mixup(num_classes=3), collate_fn=pad)(samples)
    assert images.shape == (3, 3, 9, 9)
    assert labels.sum(1).tolist() == pytest.approx([1.0, 1.0, 1.0])


# --- Seeds --------------------------------------------------------------------------------------


def test_the_global_random_state_is_left_alone_with_a_seed():
    """With seed= a call neither depends on torch's global generator nor moves it."""
    samples = pairs()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = make_collate_fn(ALL, seed=5)(samples)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(first, make_collate_fn(ALL, seed=5)(samples))


def test_without_a_seed_the_global_generator_decides():
    """Without seed= torch.manual_seed makes the batch reproducible."""
    samples, results = pairs(), []
    for _ in range(2):
        torch.manual_seed(8)
        results.append(make_collate_fn(ALL)(samples))
    assert same(*results)
    assert not same(results[0], make_collate_fn(ALL)(samples))


@pytest.mark.parametrize("change", [{"seed": 6}, {"rank": 1}, {"epoch": 1}])
def test_seed_rank_and_epoch_each_change_the_mix(change):
    """Another seed, another rank or another epoch gives another plan."""

    def plan(seed=5, rank=0, epoch=0):
        collate_fn = make_collate_fn(CutMix(num_classes=3), seed=seed, rank=rank, record=True)
        collate_fn.set_epoch(epoch)
        return collate_fn(pairs(8))[2]

    assert same(plan(), plan())
    assert not same(plan(), plan(**change))


def test_calls_outside_a_loader_are_counted():
    """Called by hand, each call has a mix of its own, and set_epoch begins again."""
    samples, collate_fn = pairs(), make_collate_fn(CutMix(num_classes=3), seed=0)
    first, second = collate_fn(samples), collate_fn(samples)
    assert not same(first, second)
    collate_fn.set_epoch(0)
    assert same([collate_fn(samples), collate_fn(samples)], [first, second])


def test_the_rank_comes_from_the_environment(monkeypatch):
    """Without torch.distributed the rank is what the launcher's variables say."""
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    samples = pairs(8)
    plans = {}
    for name, value in (("RANK", "0"), ("RANK", "1"), ("SLURM_PROCID", "1"), ("PMI_RANK", "2")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            plans[name, value] = make_collate_fn(CutMix(num_classes=3), seed=0)(samples)
    assert same(plans["RANK", "1"], plans["SLURM_PROCID", "1"])
    assert not same(plans["RANK", "0"], plans["RANK", "1"])
    assert not same(plans["RANK", "1"], plans["PMI_RANK", "2"])


# --- Copies -------------------------------------------------------------------------------------


def repickle(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301  # what this test has just written


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, repickle])
def test_a_copy_is_independent_and_alike(copied):
    """A copy mixes alike, with p and epoch of its own, which its workers will share."""
    collate_fn = make(p=[0.75, 0.25])
    collate_fn.set_epoch(4)
    other = copied(collate_fn)
    assert other.p == [0.75, 0.25]
    assert other.epoch == 4
    samples = [Pictures()[i] for i in range(6)]
    assert same(collate_fn(samples), other(samples))
    other.set_p([0.0, 0.0])
    other.set_epoch(5)
    assert collate_fn.p == [0.75, 0.25]
    assert collate_fn.epoch == 4


def test_a_copy_learns_its_rank_where_it_is(monkeypatch):
    """What is pickled in one process does not carry that process's rank to another."""
    samples = pairs(8)
    monkeypatch.setenv("RANK", "0")
    data = pickle.dumps(make_collate_fn(CutMix(num_classes=3), seed=0))
    monkeypatch.setenv("RANK", "1")
    there = make_collate_fn(CutMix(num_classes=3), seed=0)(samples)
    assert same(pickle.loads(data)(samples), there)  # noqa: S301  # written above


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"transforms": []}, ValueError, "transforms must have at least one"),
        ({"transforms": [3]}, TypeError, "transforms must be callable, got int"),
        ({"p": 1.5}, ValueError, r"p must be in \[0, 1\], got 1.5"),
        ({"p": "1"}, TypeError, "p must be a number"),
        ({"p": [1.0]}, TypeError, "p must be a number"),
        ({"transforms": ALL, "p": 0.5}, TypeError, "p must be a list"),
        ({"transforms": ALL, "p": [0.5]}, ValueError, "p must have 3 values"),
        ({"transforms": ALL, "p": [0.5, 0.5, 0.5]}, ValueError, "p must have a sum of at most 1"),
        ({"collate_fn": 3}, TypeError, "collate_fn must be callable, got int"),
        ({"seed": 1.0}, TypeError, "seed must be an int or None, got float"),
        ({"seed": True}, TypeError, "seed must be an int or None, got bool"),
        ({"seed": -1}, ValueError, "seed must be >= 0, got -1"),
        ({"rank": -1}, ValueError, "rank must be >= 0, got -1"),
        ({"record": 1}, TypeError, "record must be a bool, got int"),
        ({"reuse_memory": 1}, TypeError, "reuse_memory must be a bool or None, got int"),
        ({"reuse_memory": True, "collate_fn": list}, ValueError, "reuse_memory must be False"),
        ({"transforms": v2.MixUp(num_classes=3), "record": True}, ValueError, "record must be"),
        (
            {"transforms": [Mixup(num_classes=3), CutMix(num_classes=4)]},
            ValueError,
            "agree on the label format, got num_classes=3 of Mixup and num_classes=4 of CutMix",
        ),
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
        ([(torch.rand(3, 8, 8), 0), (torch.rand(3, 8, 9), 0)], ValueError, r"shapes \(3, 8, 8\)"),
        ([(torch.rand(3, 8, 8), 0), (torch.rand(3, 8, 8),)], ValueError, "same length"),
        ([{"images": torch.rand(3, 8, 8)}, {"image": torch.rand(3, 8, 8)}], ValueError, "keys"),
        ([(SimpleNamespace(), 0)], TypeError, "SimpleNamespace; turn pictures into tensors"),
        ([(torch.rand(3, 8, 8), 5)], ValueError, r"must be in \[0, 3\), got 5"),
        ([(torch.rand(3, 8, 8), None)], TypeError, "got builtins.NoneType"),
    ],
)
def test_wrong_samples_are_explained(samples, kind, text):
    """Samples that cannot be a batch raise an error that says what is wrong with them."""
    with pytest.raises(kind, match=text):
        make_collate_fn(Mixup(num_classes=3))(samples)


@pytest.mark.parametrize("epoch", [-1, 1.0, True, None, 2**70, np.True_])
def test_a_wrong_epoch_is_refused(epoch):
    """set_epoch takes ints from 0 and leaves the epoch alone otherwise."""
    collate_fn = make()
    with pytest.raises((TypeError, ValueError), match="epoch must be"):
        collate_fn.set_epoch(epoch)
    assert collate_fn.epoch == 0


def test_integers_of_numpy_are_taken():
    """NumPy's integers are stored as Python's and give the same mixes."""
    samples = pairs(8)
    collate_fn = make(seed=np.int64(5), rank=np.uint8(2))
    assert type(collate_fn.seed) is type(collate_fn.rank) is int
    collate_fn.set_epoch(np.int32(3), first_batch=np.int16(4))
    plain = make(seed=5, rank=2)
    plain.set_epoch(3, first_batch=4)
    assert same(collate_fn(samples), plain(samples))
    plain.set_epoch(3)
    assert not same(collate_fn(samples), plain(samples))


@pytest.mark.parametrize(
    ("collate_fn", "text"),
    [
        (make_collate_fn(Mixup(p=0.5)), "CollateFn(Mixup, p=0.5)"),
        (make(p=[0.25, 0.5]), "CollateFn([CutMix, Mixup], p=[0.25, 0.5], seed=3)"),
        (make_collate_fn(functional.replay, seed=0), "CollateFn(replay, p=1.0, seed=0)"),
    ],
)
def test_it_shows_what_it_does(collate_fn, text):
    """repr() names the transforms, their probabilities, and the seed if there is one."""
    assert repr(collate_fn) == text


@pytest.mark.parametrize("p", [None, 0.5, [0.5], [2.0, 0.0], [0.6, 0.6]])
def test_a_wrong_p_is_refused(p):
    """set_p refuses what make_collate_fn would refuse, and leaves p alone."""
    collate_fn = make()
    with pytest.raises((TypeError, ValueError), match="p must"):
        collate_fn.set_p(p)
    assert collate_fn.p == [0.5, 0.5]
