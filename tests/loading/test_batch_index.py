"""Test how a collate function finds out which batch it works on."""

import copy
import inspect
import multiprocessing
import pickle
import threading
import time
import traceback
import warnings

import numpy as np
import pytest
import torch
from helpers.loading import Numbers, Telling, ask_in_process, make
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler


from tv_mixaug.loading.batch_index import BatchIndex

AGAIN = r"epoch 0 was started twice .* `collate_fn.set_epoch\(epoch\)`"


class Ask:
    """A collate function that returns the numbers that it finds, of a batch and of its calls."""

    def __init__(self, calls=1):
        self.numbering, self.calls = BatchIndex(), calls

    def __call__(self, samples):
        """Return a number and a count for each call."""
        return [self.numbering.find()[1:] for _ in range(self.calls)]


class Uneven(IterableDataset):
    """A stream of ten numbers."""

    def __iter__(self):
        return iter(range(10))


def test_batches_are_numbered_from_zero_in_every_epoch():
    """The main process numbers batches anew in each epoch."""
    loader = DataLoader(range(10), 2, collate_fn=Ask())
    for epoch in range(2):
        loader.collate_fn.numbering.set_epoch(epoch)
        assert [found[0] for found in loader] == [(number, 0) for number in range(5)]


def test_workers_find_the_number_of_the_loader():
    """Workers, fresh and persistent, find the loader's numbers and not their own."""
    for persistent in (False, True):
        loader = DataLoader(
            range(10), 2, collate_fn=Ask(), num_workers=2, persistent_workers=persistent
        )
        for epoch in range(2):
            loader.collate_fn.numbering.set_epoch(epoch)
            assert [found[0] for found in loader] == [(number, 0) for number in range(5)]


def test_several_calls_for_one_batch_are_counted():
    """Only the second number tells the calls for one batch apart."""
    for workers in (0, 1):
        loader = DataLoader(range(4), 2, collate_fn=Ask(3), num_workers=workers)
        assert list(loader) == [[(n, 0), (n, 1), (n, 2)] for n in range(2)]


def test_a_new_epoch_begins_its_calls_anew():
    """After a break in the first batch the next epoch's first call is the first again."""
    loader = DataLoader(range(4), 2, collate_fn=Ask())
    for epoch in range(3):
        loader.collate_fn.numbering.set_epoch(epoch)
        assert next(iter(loader)) == [(0, 0)]


def test_a_stream_is_numbered():
    """Batches of a stream have the numbers of the loader."""
    for workers in (0, 1):
        loader = DataLoader(Uneven(), 3, collate_fn=Ask(), num_workers=workers)
        assert [found[0][0] for found in loader] == [0, 1, 2, 3]


def test_calls_without_a_loader_are_counted():
    """Outside of any loader the calls are counted until the count is restarted."""
    numbering = BatchIndex()
    assert [numbering.find() for _ in range(3)] == [(0, -1, 0), (0, -1, 1), (0, -1, 2)]
    numbering.set_epoch(0)
    assert numbering.find() == (0, -1, 0)


def test_the_nearest_loader_counts():
    """A data set that uses a loader itself: its batches have that loader's numbers."""
    inner = DataLoader(range(4), 2, collate_fn=Ask())

    class Outer(IterableDataset):
        def __iter__(self):
            for epoch in range(2):
                inner.collate_fn.numbering.set_epoch(epoch)
                yield list(inner)

    found = list(DataLoader(Outer(), batch_size=None))
    assert found == [[[[0, 0]], [[1, 0]]]] * 2  # the outer loader turns tuples into lists


def test_a_copy_counts_for_itself():
    """A copy begins its own count."""
    numbering = BatchIndex()
    numbering.find()
    for other in (copy.deepcopy(numbering), pickle.loads(pickle.dumps(numbering))):  # noqa: S301
        assert other.find() == (0, -1, 0)
    assert numbering.find() == (0, -1, 1)


def test_only_a_loader_starts_workers():
    """An __init__ around a call is not taken for a loader that starts workers."""

    class Other:
        def __init__(self):
            self.answer = is_starting_worker()

    class Iterator:
        def __init__(self):
            self._index_queues = []
            self.answer = is_starting_worker()

    assert not Other().answer
    assert Iterator().answer


# --- An epoch that begins again -----------------------------------------------------------------

EACH_WAY = pytest.mark.parametrize(
    "options",
    [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}],
    ids=["main process", "fresh workers", "persistent workers"],
)


def begin(loader):
    """Ask a loader for its first batch only."""
    iterator = iter(loader)
    next(iterator)


def expect_warning(loader):
    """Expect the warning when a loader begins: as an error, so that it leaves a worker."""
    with pytest.raises(UserWarning, match=AGAIN) as warned:
        begin(loader)
    # A loader whose frames the garbage collector has to find waits for its workers.
    traceback.clear_frames(warned.tb)
    del warned


@EACH_WAY
def test_an_epoch_that_begins_again_is_warned_of_once(options):
    """A loader that begins the same epoch again says so, with the line to add, and only once."""
    ask = Ask()
    loader = DataLoader(range(10), 2, collate_fn=ask, **options)
    begin(loader)
    expect_warning(loader)
    for _ in range(2):
        begin(loader)


@EACH_WAY
def test_one_call_before_all_epochs_is_warned_of(options):
    """It does not help to set the epoch once, before the first one."""
    ask = Ask()
    ask.numbering.set_epoch(0)
    loader = DataLoader(range(10), 2, collate_fn=ask, **options)
    begin(loader)
    expect_warning(loader)


@EACH_WAY
def test_who_sets_the_epoch_is_not_warned(options):
    """Epochs that are left early, sanity checks, and a second look at an epoch are no oversight."""
    ask = Ask()
    loader, validation = (DataLoader(range(n), 2, collate_fn=ask, **options) for n in (10, 6))
    begin(validation)
    for epoch in range(2):
        ask.numbering.set_epoch(epoch)
        begin(loader)
        iter(loader)  # and no batch is taken
        begin(validation)
        begin(validation)
    ask.numbering.set_epoch(0)
    begin(loader)
    begin(loader)


@EACH_WAY
def test_several_loaders_are_not_warned_of(options):
    """Loaders that share a function may each begin the epoch, at once or one after the other."""
    ask = Ask()
    loaders = [DataLoader(range(n), 2, collate_fn=ask, **options) for n in (10, 6)]
    for _ in range(2):
        assert len(list(zip(*loaders, strict=False))) == 3
    begin(loaders[0])


def test_a_look_at_the_first_batch_is_not_warned_of():
    """A batch that is looked at before the loop sets its epochs does not count."""
    ask = Ask()
    loader = DataLoader(range(10), 2, collate_fn=ask)
    begin(loader)
    for epoch in range(2):
        ask.numbering.set_epoch(epoch)
        begin(loader)


class Slow:
    """Numbers, of which the first takes its time."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 0:
            time.sleep(0.2)
        return index


def test_a_loader_that_was_begun_too_early_is_not_warned_of():
    """What persistent workers begin before the epoch is set, and nobody takes, does not count."""
    ask = Ask()
    loader = DataLoader(Slow(), 2, collate_fn=ask, num_workers=1, persistent_workers=True)
    ask.numbering.set_epoch(0)
    iter(loader)
    ask.numbering.set_epoch(1)  # before the worker asks for its number
    begin(loader)


def test_a_start_that_is_noted_while_the_epoch_is_set_is_not_warned_of():
    """A worker that looks before set_epoch and notes a start after it undoes nothing of it."""
    numbering = BatchIndex()
    numbering.set_epoch(0)
    marks = numbering._mark

    class Late:
        """The marks, between whose reading and writing another process sets the epoch."""

        def __getattr__(self, name):
            def read():
                values = getattr(marks, name)()
                numbering._mark = marks
                numbering.set_epoch(1)
                return values

            return read

    numbering._mark = Late()
    numbering._note_start(7)
    for _ in range(2):
        numbering._note_start(7)


@pytest.mark.slow
def test_workers_that_are_not_forked_warn_too():
    """A worker that gets everything pickled knows that its loader begins again."""
    options = {"num_workers": 1, "multiprocessing_context": "forkserver"}
    loader = DataLoader(Numbers(), 2, collate_fn=Telling(), **options)
    said = ["".join(text for _, texts, _ in loader for text in texts) for _ in range(3)]
    assert said[0] == said[2] == ""
    assert said[1].count("epoch 0 was started twice") == 1


def test_without_a_seed_nothing_repeats():
    """Without seed= a loader may begin as often as it likes."""
    loader = DataLoader(Numbers(), 2, collate_fn=make(seed=None))
    for _ in range(3):
        begin(loader)


# --- Epochs that begin behind what was consumed elsewhere ---------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_begin_at_the_first_batch(workers):
    """A loader that leaves batches out, as Accelerate's, goes on with the numbers of the epoch."""
    ask = Ask()
    rest = list(BatchSampler(SequentialSampler(range(10)), 2, drop_last=False))[3:]
    loader = DataLoader(range(10), batch_sampler=rest, collate_fn=ask, num_workers=workers)
    ask.numbering.set_epoch(4, first_batch=3)
    assert [found[0] for found in loader] == [(3, 0), (4, 0)]
    ask.numbering.set_epoch(5)
    assert [found[0] for found in loader] == [(0, 0), (1, 0)]


def test_calls_begin_at_the_first_batch():
    """Outside of any loader the count of calls begins there."""
    numbering = BatchIndex()
    numbering.set_epoch(1, first_batch=7)
    assert [numbering.find() for _ in range(2)] == [(1, -1, 7), (1, -1, 8)]


@pytest.mark.parametrize("number", [2**70, 2**63, -1, np.uint64(2**63)])
@pytest.mark.parametrize("name", ["epoch", "first_batch"])
def test_numbers_beyond_the_range_are_refused(name, number):
    """What does not fit the memory that workers share is refused, and nothing is changed."""
    numbering = BatchIndex(3)
    with pytest.raises(ValueError, match=rf"{name} must be >= 0 and below 2\*\*63, got {number}"):
        numbering.set_epoch(**{"epoch": 1, name: number})
    assert numbering.epoch == 3


@pytest.mark.parametrize("number", [True, np.True_, 1.0, "1", None, torch.tensor(1)])
@pytest.mark.parametrize("name", ["epoch", "first_batch"])
def test_other_kinds_of_numbers_are_refused(name, number):
    """Only integers count, and bools are none."""
    numbering = BatchIndex(3)
    with pytest.raises(TypeError, match=f"{name} must be an int, got"):
        numbering.set_epoch(**{"epoch": 1, name: number})
    assert numbering.epoch == 3


def test_integers_of_numpy_are_taken():
    """NumPy's integers mean what Python's do, up to the end of the range."""
    numbering = BatchIndex()
    numbering.set_epoch(np.int64(2), np.uint8(5))
    assert numbering.find() == (2, -1, 5)
    numbering.set_epoch(2**63 - 1)
    assert numbering.epoch == 2**63 - 1


# --- Threads and processes ----------------------------------------------------------------------


def run_threads(*calls):
    """Run functions in a thread each, at once."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def _hasty():
    """Let another thread go on after every line that numbers batches."""

    def trace(frame, event, argument):
        if frame.f_code.co_filename != inspect.getfile(BatchIndex):
            return None
        time.sleep(0)
        return trace

    threading.settrace(trace)
    yield
    threading.settrace(None)


@pytest.mark.usefixtures("_hasty")
def test_threads_never_get_the_same():
    """Calls by hand from several threads are counted together, without a gap."""
    numbering, found = BatchIndex(), []

    def ask():
        found.extend(numbering.find() for _ in range(300))

    run_threads(*[ask] * 4)
    assert sorted(found) == [(0, -1, call) for call in range(1200)]


@pytest.mark.usefixtures("_hasty")
def test_a_loader_in_each_thread():
    """Loaders in threads of their own do not disturb each other's numbers."""
    ask, found = Ask(3), []
    loaders = [DataLoader(range(200), 2, collate_fn=ask) for _ in range(3)]
    run_threads(*[lambda loader=loader: found.append(list(loader)) for loader in loaders])
    assert found == [[[(n, 0), (n, 1), (n, 2)] for n in range(100)]] * 3


class Threaded(IterableDataset):
    """A stream that asks from a thread of its own, where the loader's frames are out of sight."""

    def __init__(self):
        self.numbering, self.found = BatchIndex(), []

    def __iter__(self):
        run_threads(lambda: self.found.extend(self.numbering.find() for _ in range(2)))
        return iter(self.found)


def test_threads_in_workers_are_told_apart():
    """Threads of a worker count for themselves, and those of another have other numbers."""
    loader = DataLoader(Threaded(), batch_size=None, num_workers=2)
    found = sorted(tuple(numbers) for numbers in loader)
    assert found == [(0, -3, 0), (0, -3, 1), (0, -2, 0), (0, -2, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_processes_never_get_the_same(method):
    """In a pool no call repeats another's numbers, and each process says once what to do."""
    numbering = BatchIndex()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.map(ask_in_process, [numbering] * 12, chunksize=1)
    assert len({numbers for numbers, *_ in found}) == 12
    for process in {process for *_, process in found}:
        said = [text for _, texts, asked in found if asked == process for text in texts]
        assert len(said) == 1
        assert "make_collate_fn(..., seed=seed, rank=number_of_the_process)" in said[0]
    assert numbering.find() == (0, -1, 0)


def test_a_function_made_in_a_process_is_at_home_there():
    """Made in the process of a pool, as the warning advises, it counts its calls."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(ask_in_process)[:2] == ((0, -1, 0), [])


@pytest.mark.parametrize("method", ["thread", "process"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_nodes_never_get_the_same(method):
    """torchdata.nodes calls from threads or processes, and no two calls have one plan."""
    nodes = pytest.importorskip("torchdata.nodes")
    collate_fn = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its processes inherit this
        batches = nodes.Batcher(nodes.SamplerWrapper(SequentialSampler(range(24))), 4)
        load = nodes.ParallelMapper(batches, lambda batch: [Numbers()[n] for n in batch], 0)
        mixed = nodes.ParallelMapper(load, collate_fn, num_workers=2, method=method)
        found = [str(tuple(batch[-1])) for batch in nodes.Loader(mixed)]
    assert len(found) == len(set(found)) == 6
