"""Test that one seed gives one result in every kind of loader, and that workers can be steered."""

import logging
import traceback
import warnings

import pytest
import torch
from helpers.loading import CLASSES, Pictures, StatefulStream, Stream, epochs, make, same
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler
from torchvision import tv_tensors

from tv_mixaug import CutMix, Mixup, functional, make_collate_fn
from tv_mixaug.engine.plan import Plan

STATEFUL_DATA = {"map": Pictures, "stream": Stream, "stateful stream": StatefulStream}


@pytest.fixture(autouse=True)
def _quiet():
    """Accept warnings of torch that are not about us: more workers than cores, old names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata still calls it
        yield


def plans(batches):
    return [batch[-1] for batch in batches]


# --- The same for every way of loading ----------------------------------------------------------


@pytest.fixture(scope="module")
def expected():
    """Three epochs without workers."""
    found = epochs(make(), 3)
    assert not same(found[0], found[1])
    assert not same(found[1], found[2])
    return found


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("persistent", [False, True])
def test_three_epochs_are_the_same_for_any_workers(expected, workers, persistent):
    """Forked workers, one to three, fresh or persistent: every bit is that of no workers."""
    options = {"num_workers": workers, "persistent_workers": persistent}
    assert same(epochs(make(), 3, **options, multiprocessing_context="fork"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_workers_give_the_same(expected, method):
    """Workers that import everything anew give the same, over epochs too."""
    options = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": method}
    assert same(epochs(make(), 3, **options), expected)


@pytest.mark.parametrize("prefetch", [1, 5])
def test_prefetching_changes_nothing(expected, prefetch):
    """Batches made long before they are used are the same."""
    assert same(epochs(make(), 1, num_workers=2, prefetch_factor=prefetch), expected[:1])


def test_the_last_batch_may_be_kept_or_dropped():
    """drop_last changes nothing but the last batch, which may be a batch of one."""
    for workers in (0, 2):
        kept = epochs(make(), 1, Pictures(9), num_workers=workers)[0]
        dropped = epochs(make(), 1, Pictures(9), num_workers=workers, drop_last=True)[0]
        assert len(kept[-1][0]) == 1
        assert same(kept[:-1], dropped)


def test_samplers_are_free(expected):
    """With samplers of batches and of samples, the plan is that of the batch's number."""
    order = BatchSampler(SequentialSampler(range(26)), 4, drop_last=False)
    for workers in (0, 2):
        options = {"batch_size": 1, "batch_sampler": order, "num_workers": workers}
        assert same(epochs(make(), 1, **options), expected[:1])
    mixed = []
    for workers in (0, 2):
        sampler = RandomSampler(range(26), generator=torch.Generator().manual_seed(4))
        mixed.append(epochs(make(), 2, sampler=sampler, num_workers=workers))
    assert same(*mixed)
    assert same(plans(mixed[0][0]), plans(expected[0]))


def test_batches_may_come_out_of_order(expected):
    """With in_order=False the same batches come, whatever their order."""
    found = epochs(make(), 1, num_workers=2, in_order=False)[0]
    assert same(sorted(found, key=lambda batch: int(batch[2][0])), expected[0])


def test_pinned_memory_holds_the_same(expected):
    """pin_memory keeps the values and the plan's type, with an accelerator and without."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pin_memory.*")
        for workers in (0, 2):
            found = epochs(make(), 1, num_workers=workers, pin_memory=True)[0]
            assert isinstance(found[0][-1], Plan)
            assert same(found, expected[0])


def test_a_recorded_plan_survives_to():
    """The plan's tensors, moved like any other, still replay the mix to the bit."""
    batch = epochs(make(), 1, num_workers=1)[0][0]
    plan = Plan(*(part.to("cpu", copy=True) for part in batch[-1]))
    assert same(functional.replay(Pictures().images[:4], plan), batch[0])


def test_one_worker_streams_as_none_does():
    """A stream without and with one worker gives the same epochs."""
    for kind in (Stream, StatefulStream):
        found = [epochs(make(), 2, kind(), num_workers=n, batch_size=3) for n in (0, 1)]
        assert same(*found)


def test_a_stream_in_two_workers_is_reproducible():
    """A stream dealt to two workers: persistent ones and fresh ones give the same epochs."""
    options = {"num_workers": 2, "batch_size": 3}
    first = epochs(make(), 3, Stream(), **options)
    assert same(first, epochs(make(), 3, Stream(), **options, persistent_workers=True))


class Rebatched(Stream):
    """A pipeline that collates by itself, twice for each batch of the loader."""

    def __init__(self, collate_fn):
        super().__init__()
        self.collate_fn = collate_fn

    def __iter__(self):
        samples = list(super().__iter__())
        for start in range(0, len(samples) - 4, 4):
            halves = samples[start : start + 2], samples[start + 2 : start + 4]
            yield [self.collate_fn(half) for half in halves]


def test_a_pipeline_may_collate_by_itself():
    """Several calls for one batch have mixes of their own, the same with a worker as without."""
    found = []
    for workers in (0, 1):
        collate_fn = make()
        loader = DataLoader(Rebatched(collate_fn), batch_size=None, num_workers=workers)
        found.append(list(loader))
    assert same(*found)
    every = [str(tuple(plan)) for pair in found[0] for plan in plans(pair)]
    assert len(set(every)) == len(every)


def test_without_a_seed_workers_do_not_repeat_each_other():
    """Without seed= no two batches of an epoch have one plan, and epochs differ."""
    options = {"num_workers": 2, "persistent_workers": True}
    found = epochs(make(seed=None), 2, **options)
    every = [str(tuple(plan)) for epoch in found for plan in plans(epoch[:-1])]
    assert len(set(every)) == len(every)


def test_two_loaders_may_share_one_collate_function():
    """Two interleaved loaders with one collate function give what each gives alone."""
    collate_fn = make()
    loaders = [DataLoader(Pictures(n), 4, collate_fn=collate_fn, num_workers=w)
               for n, w in ((26, 0), (20, 0), (26, 2))]  # fmt: skip
    alone = [list(loader) for loader in loaders]
    together = zip(*loaders, strict=False)  # as long as the shortest
    for place, batches in enumerate(together):
        assert same(list(batches), [batches[place] for batches in alone])
    assert place == 4


@pytest.mark.parametrize("persistent", [False, True])
def test_an_epoch_may_be_left_early(expected, persistent):
    """After a break the next epoch is what it would have been."""
    collate_fn = make()
    loader = DataLoader(
        Pictures(), 4, collate_fn=collate_fn, num_workers=2, persistent_workers=persistent
    )
    for epoch, stop in ((0, 1), (1, 3)):
        collate_fn.set_epoch(epoch)
        for place, batch in enumerate(loader):
            assert same(batch, expected[epoch][place])
            if place == stop:
                break
    collate_fn.set_epoch(2)
    assert same(list(loader), expected[2])


# --- Kinds of samples, through workers ----------------------------------------------------------


class Typed(Dataset):
    """Dicts of tv_tensors and strings."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {
            "image": tv_tensors.Image(torch.rand(3, 160, 160, generator=generator)),
            "mask": tv_tensors.Mask(torch.full((160, 160), index)),
            "labels": index % CLASSES,
            "name": f"picture {index}",
        }


class Detections(Typed):
    """Images with targets."""

    def __getitem__(self, index):
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                [[1, 1, 60, 60]], format="XYXY", canvas_size=(160, 160)
            ),
            "labels": torch.tensor([index]),
        }
        return super().__getitem__(index)["image"], target


@pytest.mark.parametrize("reuse", [False, True])
def test_tv_tensors_keep_their_types_in_workers(reuse):
    """Image and Mask come out of workers as such, with the names, and can be replayed."""
    transform = CutMix(num_classes=CLASSES)
    found = [
        epochs(
            make_collate_fn(transform, seed=0, record=True, reuse_memory=reuse),
            1, Typed(), num_workers=workers,
        )[0]
        for workers in (0, 2)
    ]  # fmt: skip
    assert same(*found)
    assert type(found[1][0]["image"]) is tv_tensors.Image
    assert type(found[1][0]["mask"]) is tv_tensors.Mask
    assert found[1][1]["name"] == [f"picture {i}" for i in range(4, 8)]
    masks = torch.stack([Typed()[i]["mask"] for i in range(4)])
    assert torch.equal(functional.replay(masks, found[1][0]["mix"]), found[1][0]["mask"])


@pytest.mark.parametrize("reuse", [False, True])
def test_detection_targets_in_workers(reuse):
    """Lists of targets are the same with workers, and the record comes last."""
    found = [
        epochs(
            make_collate_fn(CutMix(), seed=0, record=True, reuse_memory=reuse),
            1, Detections(), num_workers=workers,
        )[0]
        for workers in (0, 1)
    ]  # fmt: skip
    assert same(*found)
    images, targets, plan = found[1][0]
    assert len(images) == len(targets) == len(plan.op)


# --- Steering -----------------------------------------------------------------------------------


def test_set_p_reaches_running_workers():
    """In persistent workers set_p holds for all batches that are collated after the call."""
    collate_fn = make()
    loader = DataLoader(
        Pictures(), 2, collate_fn=collate_fn, num_workers=2, persistent_workers=True
    )
    stages = ([0.0, 0.0], False), ([0.0, 1.0], True), ([0.0, 0.0], False)
    for epoch, (p, mixed) in enumerate(stages):
        collate_fn.set_epoch(epoch)
        collate_fn.set_p(p)
        assert collate_fn.p == p
        assert all(bool(plan.op.any()) == mixed for plan in plans(loader))
    iterator = iter(loader)
    next(iterator)
    collate_fn.set_p([0.0, 1.0])
    rest = list(iterator)
    # Two batches for each worker may have been under way.
    assert all((plan.op == 2).all() for plan in plans(rest[4:]))
    assert len(rest) > 6


def test_an_error_in_a_worker_reaches_the_user():
    """What the transform says in a worker is raised in the main process."""
    collate_fn = make_collate_fn(Mixup(num_classes=2, passthrough=(2,)))
    loader = DataLoader(Pictures(), 4, num_workers=2, timeout=60, collate_fn=collate_fn)
    with pytest.raises(ValueError, match=r"labels at \[1\] must be in \[0, 2\), got 2") as error:
        list(loader)
    # The frames hold the loader's iterator, which has to end before the garbage collector finds it.
    traceback.clear_frames(error.tb)


# --- Resuming in the middle of an epoch ---------------------------------------------------------


def stateful(collate_fn, data, workers, every, persistent):
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    return torchdata.StatefulDataLoader(
        STATEFUL_DATA[data](), 3, collate_fn=collate_fn, num_workers=workers,
        snapshot_every_n_steps=every, persistent_workers=persistent,
    )  # fmt: skip


@pytest.mark.parametrize("again", [False, True], ids=["fresh", "same object"])
@pytest.mark.parametrize(
    ("data", "workers", "every", "persistent"),
    [
        ("map", 0, 1, False),
        ("map", 2, 1, False),
        ("map", 2, 3, True),
        ("stream", 0, 1, False),
        ("stream", 2, 1, False),
        ("stream", 2, 3, True),
        ("stateful stream", 0, 1, False),
        ("stateful stream", 2, 3, True),
    ],
)
def test_a_stateful_loader_resumes_with_the_same_mixes(data, workers, every, persistent, again):
    """From a state saved in mid-epoch the same batches follow bit for bit, and the next epoch."""
    logging.getLogger("torchdata").setLevel(logging.ERROR)  # it warns that it runs through again
    arguments = (data, workers, every, persistent)
    collate_fn = make()
    collate_fn.set_epoch(1)
    loader = stateful(collate_fn, *arguments)
    iterator = iter(loader)
    for _ in range(4):
        next(iterator)
    state = loader.state_dict()
    rest = list(iterator)
    collate_fn.set_epoch(2)
    following = list(loader)

    resumed_fn = collate_fn if again else make()
    resumed_fn.set_epoch(1)
    resumed = stateful(resumed_fn, *arguments)
    resumed.load_state_dict(state)
    iterator = iter(resumed)
    first = next(iterator)
    second_state = resumed.state_dict()
    assert len(rest) > 2
    assert same([first, *iterator], rest)
    resumed_fn.set_epoch(2)
    assert same(list(resumed), following)
    if data != "stream":  # torchdata counts such streams twice once they were resumed
        resumed_fn.set_epoch(1)
        once_more = stateful(resumed_fn, *arguments)
        once_more.load_state_dict(second_state)
        assert same(list(once_more), rest[1:])
