"""The epoch and the index that a collate function finds for a batch, and its warnings."""

import inspect
import multiprocessing
import threading
import time
import traceback
import warnings

import numpy as np
import pytest
import torch
from helpers.loading import Ask, AskForWarnings, Pictures, find_and_warn, make
from helpers.threads import run_threads
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from tv_mixaug.loading.batch_index import BatchIndex

EACH_WAY = pytest.mark.parametrize(
    "options",
    [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}],
    ids=["main process", "fresh workers", "persistent workers"],
)


def indices(loader):
    """Return the index and the number of calls before, for each call of each batch."""
    return [[numbers[1:] for numbers in found] for _, found in loader]


@EACH_WAY
def test_several_calls_for_one_batch_are_counted(options):
    """Each epoch starts at index 0, also after one that was left, and calls are numbered."""
    loader = DataLoader(range(10), 2, collate_fn=Ask(3), **options)
    for epoch in range(4):
        loader.collate_fn.batch_index.set_epoch(epoch)
        if epoch < 2:  # leave these epochs after the first batch
            assert next(iter(loader))[1] == [(epoch, 0, call) for call in range(3)]
        else:
            assert indices(loader) == [[(n, 0), (n, 1), (n, 2)] for n in range(5)]


def test_calls_outside_a_loader_are_counted():
    """Without a DataLoader, calls are counted from the first batch until the epoch is set."""
    batch_index = BatchIndex()
    assert [batch_index.find() for _ in range(3)] == [(0, -1, 0), (0, -1, 1), (0, -1, 2)]
    batch_index.set_epoch(0)
    assert batch_index.find() == (0, -1, 0)
    batch_index.set_epoch(1, first_batch=7)
    assert [batch_index.find() for _ in range(2)] == [(1, -1, 7), (1, -1, 8)]
    batch_index.set_epoch(2**63 - 1, 2**62 + 1)
    assert batch_index.find() == (2**63 - 1, -1, 2**62 + 1)


def test_the_innermost_loader_counts():
    """If a data set uses a DataLoader itself, its batches have the indices of that one."""
    inner = DataLoader(range(4), 2, collate_fn=Ask())

    class Outer(IterableDataset):
        def __iter__(self):
            for epoch in range(2):
                inner.collate_fn.batch_index.set_epoch(epoch)
                yield indices(inner)

    found = list(DataLoader(Outer(), batch_size=None))
    assert found == [[[[0, 0]], [[1, 0]]]] * 2  # the outer loader turns tuples into lists


TWICE = r"epoch 0 was started twice .* `collate_fn.set_epoch\(epoch\)`"
STARTS = {
    "the epoch is never set": "train train! train train",
    "the epoch is set once": "0 train train! train",
    "each epoch is set": "validate 0 train open validate validate 1 train open 0 train train",
    "several loaders": "train validate train",
    "a batch is taken before": "train 0 train 1 train",
}


@EACH_WAY
@pytest.mark.parametrize("name", STARTS)
def test_the_second_start_of_an_epoch_is_warned_of_once(name, options):
    """Only a loop that does not set its epochs is warned, with the line to add."""
    ask = Ask()
    loaders = {"train": DataLoader(range(10), 2, collate_fn=ask, **options)}
    loaders["validate"] = DataLoader(range(6), 2, collate_fn=ask, **options)
    for step in STARTS[name].split():
        if step.isdigit():
            ask.batch_index.set_epoch(int(step))
        elif step == "open":
            iter(loaders["train"])  # and no batch is taken
        elif step.endswith("!"):
            with pytest.raises(UserWarning, match=TWICE) as warned:  # an error leaves a worker
                next(iter(loaders[step[:-1]]))
            # A loader waits for its workers if the garbage collector finds it in these frames.
            traceback.clear_frames(warned.tb)
            del warned
        else:
            next(iter(loaders[step]))


@EACH_WAY
def test_loaders_that_start_together_are_not_warned_of(options):
    """Two interleaved loaders with one function may both start the epoch again."""
    ask = Ask()
    loaders = [DataLoader(range(n), 2, collate_fn=ask, **options) for n in (10, 6)]
    for _ in range(2):
        assert len(list(zip(*loaders, strict=False))) == 3


class Slow:
    """Numbers; the first one takes a while."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        time.sleep(0 if index else 0.2)
        return index


def test_a_loader_that_is_started_too_early_is_not_warned_of():
    """An epoch that persistent workers start before it is set, without a taker, does not count."""
    ask = Ask()
    loader = DataLoader(Slow(), 2, collate_fn=ask, num_workers=1, persistent_workers=True)
    ask.batch_index.set_epoch(0)
    iter(loader)
    ask.batch_index.set_epoch(1)  # before the worker asks for its index
    next(iter(loader))


def test_a_worker_does_not_undo_set_epoch():
    """A start that a worker notes while the main process sets the epoch does not warn later."""
    batch_index = BatchIndex()
    batch_index.set_epoch(0)
    before = batch_index._loader

    class Late:
        """The number of the loader; between its read and its write the epoch is set."""

        def __getitem__(self, place):
            batch_index._loader = before
            batch_index.set_epoch(1)
            return 0

        def __setitem__(self, place, value):
            before[place] = value

    batch_index._loader = Late()
    for _ in range(3):
        batch_index._note_start(7)


@pytest.mark.slow
def test_workers_that_are_not_forked_warn_too():
    """A worker that is started by the forkserver knows that its loader starts twice."""
    options = {"num_workers": 1, "multiprocessing_context": "forkserver"}
    loader = DataLoader(range(10), 2, collate_fn=AskForWarnings(), **options)
    said = ["".join(text for texts in loader for text in texts) for _ in range(3)]
    assert said[0] == said[2] == ""
    assert said[1].count("epoch 0 was started twice") == 1


def test_without_a_seed_an_epoch_may_start_twice():
    """Without seed= no mix repeats, so nothing warns."""
    loader = DataLoader(Pictures(), 2, collate_fn=make(seed=None))
    for _ in range(3):
        next(iter(loader))


@pytest.mark.parametrize("workers", [0, 2])
def test_indices_start_at_the_first_batch(workers):
    """A loader that leaves batches out, as Accelerate's, continues with the epoch's indices."""
    ask = Ask()
    rest = list(BatchSampler(SequentialSampler(range(10)), 2, drop_last=False))[3:]
    loader = DataLoader(range(10), batch_sampler=rest, collate_fn=ask, num_workers=workers)
    ask.batch_index.set_epoch(4, first_batch=3)
    assert indices(loader) == [[(3, 0)], [(4, 0)]]
    ask.batch_index.set_epoch(5)
    assert indices(loader) == [[(0, 0)], [(1, 0)]]


RANGE = r"must be >= 0 and below 2\*\*63, got"


@pytest.mark.parametrize("name", ["epoch", "first_batch"])
@pytest.mark.parametrize(
    ("number", "error", "text"),
    [(n, ValueError, f"{RANGE} {n}") for n in (2**70, 2**63, -1, np.uint64(2**63))]
    + [(n, TypeError, "must be an int, got") for n in (True, np.True_, 1.0, "1", None)]
    + [(torch.tensor(1), TypeError, "must be an int, got")],
)
def test_wrong_numbers_are_refused(name, number, error, text):
    """Only integers that fit the shared memory are accepted, and an error changes nothing."""
    batch_index = BatchIndex(3)
    with pytest.raises(error, match=f"{name} {text}"):
        batch_index.set_epoch(**{"epoch": 1, name: number})
    assert batch_index.numbers.get()[0] == 3


@pytest.fixture
def _hasty():
    """Let another thread continue after every line that finds an index."""

    def trace(frame, event, argument):
        if frame.f_code.co_filename != inspect.getfile(BatchIndex):
            return None
        time.sleep(0)
        return trace

    threading.settrace(trace)
    yield
    threading.settrace(None)


@pytest.mark.usefixtures("_hasty")
def test_threads_never_find_the_same():
    """Calls from several threads are counted together, without a gap."""
    batch_index, found = BatchIndex(), []
    run_threads(*[lambda: found.extend(batch_index.find() for _ in range(300))] * 4)
    assert sorted(found) == [(0, -1, call) for call in range(1200)]


@pytest.mark.usefixtures("_hasty")
def test_loaders_in_several_threads_keep_their_indices():
    """DataLoaders in threads of their own, with one function, do not disturb each other."""
    ask, found = Ask(3), []
    loaders = [DataLoader(range(200), 2, collate_fn=ask) for _ in range(3)]
    run_threads(*[lambda loader=loader: found.append(indices(loader)) for loader in loaders])
    assert found == [[[(n, 0), (n, 1), (n, 2)] for n in range(100)]] * 3


ADVICE = "make_collate_fn(..., seed=seed, rank=number_of_the_process)"


class AskInThread(Ask):
    """A collate function that asks in a thread, where the loader's frames are out of sight."""

    def __call__(self, samples):
        """Return what the thread finds, and its warnings."""
        run_threads(lambda: samples.append(find_and_warn(self.batch_index)))
        return samples[-1]


def test_threads_of_workers_never_find_the_same():
    """A thread of a worker finds random numbers and warns."""
    found = list(DataLoader(range(6), 2, collate_fn=AskInThread(), num_workers=2))
    assert len({numbers for numbers, _ in found}) == 3
    assert all(ADVICE in text for _, (text,) in found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_processes_of_a_pool_never_find_the_same(method):
    """In a pool no call repeats the numbers of another call, and each call warns."""
    batch_index = BatchIndex()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.map(find_and_warn, [batch_index] * 12, chunksize=1)
    assert len({numbers for numbers, _ in found}) == 12
    assert all(ADVICE in text for _, (text,) in found)
    assert batch_index.find() == (0, -1, 0)


def test_a_function_that_a_process_makes_counts_its_calls():
    """Made in the process of a pool, as the warning advises, it does not warn."""
    with multiprocessing.Pool(1) as pool:
        assert pool.apply(find_and_warn) == ((0, -1, 0), [])
