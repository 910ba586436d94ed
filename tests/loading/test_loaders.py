"""Loaders: one seed gives one result in every DataLoader, and running workers follow changes."""

import logging
import os

import pytest
import torch
from helpers.loading import CLASSES, Pictures, StatefulStream, Stream, epochs, make, same
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torchvision import tv_tensors

from tv_mixaug import CutMix, Plan, functional, make_collate_fn

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than cores
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata calls it
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def plans(batches):
    return [batch[-1] for batch in batches]


def count_plans(batches):
    """Return the number of different plans."""
    return len({str(tuple(plan)) for plan in plans(batches)})


@pytest.fixture(scope="module")
def expected():
    """Three epochs without workers."""
    found = epochs(make(), 3)
    assert not same(found[0], found[1])
    assert not same(found[1], found[2])
    return found


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(
    ("workers", "method"),
    [
        *[(workers, "fork") for workers in (1, 2, 3)],
        *[pytest.param(*way, marks=pytest.mark.slow) for way in ((1, "spawn"), (2, "forkserver"))],
    ],
)
def test_three_epochs_are_the_same_for_any_workers(expected, workers, method, persistent):
    """Batches from any number of workers, fresh or persistent, have every bit of no workers'."""
    options = {"num_workers": workers, "persistent_workers": persistent}
    assert same(epochs(make(), 3, **options, multiprocessing_context=method), expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_have_the_rank_of_their_process(monkeypatch, method):
    """A rank that only the main process can find is that of its workers too."""
    for name, value in {"is_initialized": True, "get_rank": 3, "get_world_size": 4}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    found = epochs(make(), num_workers=1, multiprocessing_context=method)
    assert same(found, epochs(make(rank=3)))


def train(collate_fn, answers):
    os.environ["RANK"] = "1"
    answers.put(same(epochs(collate_fn, num_workers=1), epochs(make(rank=1))))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_training_process_has_a_rank_of_its_own(monkeypatch, method):
    """A function from the parent process finds the rank of the process that uses it."""
    monkeypatch.setenv("RANK", "0")
    context = torch.multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    context.Process(target=train, args=(make(), answers)).start()
    assert answers.get()


def test_the_plan_does_not_depend_on_the_sampler(expected):
    """With samplers of batches and of samples, the plan belongs to the index of the batch."""
    order = BatchSampler(SequentialSampler(range(26)), 4, drop_last=False)
    mixed = []
    for workers in (0, 2):
        options = {"batch_size": 1, "batch_sampler": order, "num_workers": workers}
        assert same(epochs(make(), 1, **options), expected[:1])
        sampler = RandomSampler(range(26), generator=torch.Generator().manual_seed(4))
        mixed.append(epochs(make(), 2, sampler=sampler, num_workers=workers))
    assert same(*mixed)
    assert same(plans(mixed[0][0]), plans(expected[0]))


@pytest.mark.filterwarnings("ignore:.*pin_memory")
@pytest.mark.parametrize(
    "options",
    [
        {"prefetch_factor": 1, "num_workers": 2},
        {"prefetch_factor": 5, "num_workers": 2},
        {"in_order": False, "num_workers": 2},
        {"pin_memory": True, "num_workers": 2},
        {"pin_memory": True},
        {"drop_last": True, "num_workers": 2},
        {"drop_last": True},
    ],
    ids=str,
)
def test_options_of_the_loader_change_nothing(expected, options):
    """Prefetched, unordered and pinned batches are the same, and the plan keeps its type."""
    found = epochs(make(), 1, **options)[0]
    assert isinstance(found[0][-1], Plan)
    wanted = expected[0][:-1] if "drop_last" in options else expected[0]
    assert same(sorted(found, key=lambda batch: int(batch[2][0])), wanted)


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
    """Several calls for one batch have different mixes, the same ones with a worker and without."""
    found = []
    for workers in (0, 1):
        loader = DataLoader(Rebatched(make()), batch_size=None, num_workers=workers)
        found.append(list(loader))
    assert same(*found)
    assert count_plans([batch for pair in found[0] for batch in pair]) == 12


def test_without_a_seed_workers_do_not_repeat_each_other():
    """Without seed= no two batches of two epochs have the same plan."""
    found = epochs(make(seed=None), 2, num_workers=2, persistent_workers=True)
    assert count_plans([batch for epoch in found for batch in epoch[:-1]]) == 12


TYPED = [
    {
        "image": tv_tensors.Image(torch.rand(3, 160, 160)),
        "mask": tv_tensors.Mask(torch.full((160, 160), index)),
        "labels": index % CLASSES,
        "name": f"picture {index}",
    }
    for index in range(8)
]


@pytest.mark.parametrize(("reuse", "p"), [(False, 1.0), (True, 1.0), (True, 0.0)])
def test_tv_tensors_pass_through_workers(reuse, p):
    """tv_tensors keep their types and values in workers, and can be replayed."""
    options = {"seed": 0, "record": True, "reuse_memory": reuse}
    function = make_collate_fn(CutMix(num_classes=CLASSES), p, **options)
    found = [epochs(function, 1, TYPED, num_workers=workers)[0] for workers in (0, 2)]
    assert same(*found)
    first, second = found[1]
    for key, kind in (("image", tv_tensors.Image), ("mask", tv_tensors.Mask)):
        assert type(first[key]) is kind
        if key == "image" or p == 0:  # torch shares mixed masks, and not what lies in a block
            assert first[key].is_shared() != reuse
        fields = torch.stack([one[key] for one in TYPED[:4]])
        assert torch.equal(functional.replay(fields, first["mix"]), first[key])
        assert torch.equal(fields, first[key].as_subclass(torch.Tensor)) == (p == 0)
    assert second["name"] == [f"picture {i}" for i in range(4, 8)]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_set_p_reaches_running_workers(method):
    """In persistent workers set_p holds for all batches that are collated after the call."""
    collate_fn = make()
    options = {"persistent_workers": True, "multiprocessing_context": method}
    loader = DataLoader(Pictures(), 2, collate_fn=collate_fn, num_workers=2, **options)
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
    # Two batches of each worker may have been collated before.
    assert all((plan.op == 2).all() for plan in plans(rest[4:]))
    assert len(rest) > 6


@pytest.mark.parametrize("reused", [False, True], ids=["fresh function", "same function"])
@pytest.mark.parametrize("data", [Pictures, Stream, StatefulStream])
@pytest.mark.parametrize(
    ("workers", "every", "persistent"), [(0, 1, False), (2, 1, False), (2, 3, True)]
)
def test_a_stateful_loader_resumes_with_the_same_mixes(
    monkeypatch, data, workers, every, persistent, reused
):
    """From a state saved in mid-epoch the same batches follow bit for bit, and the next epoch."""
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    # It logs that it reads streams again.
    monkeypatch.setattr(logging.getLogger("torchdata"), "level", logging.ERROR)
    options = {"num_workers": workers, "persistent_workers": persistent}

    def load(collate_fn, epoch, state=None):
        collate_fn.set_epoch(epoch)
        options.update(collate_fn=collate_fn, snapshot_every_n_steps=every)
        loader = torchdata.StatefulDataLoader(data(), 3, **options)
        loader.load_state_dict(state or {})
        return loader

    function = make()
    loader = load(function, 1)
    iterator = iter(loader)
    for _ in range(4):
        next(iterator)
    state, rest = loader.state_dict(), list(iterator)
    function.set_epoch(2)
    following = list(loader)

    resumed = load(function if reused else make(), 1, state)
    iterator = iter(resumed)
    first = next(iterator)
    second_state = resumed.state_dict()
    assert len(rest) > 2
    assert same([first, *iterator], rest)
    resumed.collate_fn.set_epoch(2)
    assert same(list(resumed), following)
    if data is not Stream:  # torchdata counts such streams twice once they were resumed
        assert same(list(load(resumed.collate_fn, 1, second_state)), rest[1:])
