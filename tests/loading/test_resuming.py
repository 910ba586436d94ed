"""Resuming: the index of each batch is the one that its samples imply, in resumed epochs too.

The samples are numbers in order, so the first sample of a batch implies its index: for a stream by
the number of batches that its worker gave before, for a map by the number that the loader gave.
"""

import copy
import itertools
import logging
import traceback

import pytest
from helpers.loading import Ask, StatefulStream, Stream
from torch.utils.data import DataLoader

COUNT, SIZE = 7, 2
BATCHES = 4  # with one worker or two

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
KINDS = {"map": range, "stream": lambda n: Stream(range(n))}
KINDS["stateful stream"] = lambda n: StatefulStream(range(n))
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
WAYS = [(0, 0, 1), (1, 0, 1), (1, 1, 1), (2, 0, 1), (2, 1, 1), (2, 1, 0)]
EACH_WAY = pytest.mark.parametrize(("workers", "persistent", "in_order"), WAYS)


@pytest.fixture
def stateful(monkeypatch):
    """Return StatefulDataLoader, which does not log that it reads streams again."""
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    monkeypatch.setattr(logging.getLogger("torchdata"), "level", logging.ERROR)
    return torchdata.StatefulDataLoader


def check(batches, kind, workers, epoch):
    dealt = max(workers, 1) if kind != "map" else 1
    for samples, found in batches:
        index = samples[0] // dealt // SIZE * dealt + samples[0] % dealt
        assert found == [(epoch, index, 0)], f"of {samples}"


@EACH_KIND
@EACH_WAY
def test_an_epoch_that_is_left_at_any_batch(kind, workers, persistent, in_order):
    """Whole epochs, and epochs after one that was left early, have the right indices."""
    ask = Ask()
    loader = DataLoader(
        KINDS[kind](COUNT), SIZE, collate_fn=ask, num_workers=workers,
        persistent_workers=bool(persistent), in_order=bool(in_order),
    )  # fmt: skip
    for epoch, place in enumerate([*range(0, BATCHES, 1 if persistent else 2), None]):
        ask.batch_index.set_epoch(epoch)
        check(found := list(itertools.islice(loader, place)), kind, workers, epoch)
    assert len(found) == BATCHES


@pytest.mark.slow
@EACH_KIND
@EACH_WAY
def test_an_epoch_that_is_resumed_at_any_batch(stateful, kind, workers, persistent, in_order):
    """Resumed after any batch, also the last, an epoch and the next one have the right indices."""

    def load(epoch):
        loader = stateful(
            KINDS[kind](COUNT), SIZE, collate_fn=Ask(), num_workers=workers,
            persistent_workers=bool(persistent), in_order=bool(in_order),
        )  # fmt: skip
        loader.collate_fn.batch_index.set_epoch(epoch)
        return loader

    loader = load(3)
    iterator, states = iter(loader), [copy.deepcopy(loader.state_dict())]
    for batch in iterator:
        check([batch], kind, workers, 3)
        states.append(copy.deepcopy(loader.state_dict()))
    states.append(loader.state_dict())  # the epoch is over: the next one starts
    if not in_order and kind == "stream":
        states = states[:1]  # torchdata refuses most of the others
    for place, state in enumerate(states):
        ended = place == BATCHES + 1
        resumed = load(3 + ended)
        resumed.load_state_dict(state)
        rest = list(resumed)
        if in_order or kind == "map":  # torchdata does not keep which worker gave what otherwise
            check(rest, kind, workers, 3 + ended)
            assert not in_order or len(rest) == BATCHES - place % (BATCHES + 1)
        resumed.collate_fn.batch_index.set_epoch(4 + ended)
        check(following := list(resumed), kind, workers, 4 + ended)
        assert len(following) == BATCHES


@pytest.mark.parametrize("prefetch", [1, 3])  # with 1, the loader's own indices have no gaps
def test_a_stream_that_ends_early_in_one_worker(prefetch):
    """Both workers are numbered by the batches that they give."""
    options = {"num_workers": 2, "prefetch_factor": prefetch}
    loader = DataLoader(Stream(range(COUNT), few=1), 1, collate_fn=Ask(), **options)
    indices = {samples[0]: found[0][1] for samples, found in loader}
    assert indices == {0: 0, 1: 1, 2: 2, 4: 4, 6: 6}


def test_a_second_epoch_without_set_epoch_after_a_resumed_one(stateful):
    """Persistent workers start the next epoch at index 0, also if it has the same number."""

    def load():
        options = {"num_workers": 1, "persistent_workers": True}
        return stateful(range(COUNT), SIZE, collate_fn=Ask(), **options)

    loader, resumed = load(), load()
    next(iter(loader))
    resumed.load_state_dict(loader.state_dict())
    check(list(resumed), "map", 1, 0)
    check(list(resumed), "map", 1, 0)


def test_a_loader_that_goes_back_in_its_epoch_is_not_warned_of(stateful):
    """Resuming an epoch that this process has started is not an oversight."""
    for workers in (0, 1):
        loader = stateful(range(COUNT), SIZE, collate_fn=Ask(), num_workers=workers)
        next(iter(loader))
        state = loader.state_dict()
        for _ in range(2):
            loader.load_state_dict(copy.deepcopy(state))
            check(list(loader), "map", workers, 0)


def test_a_resumed_stream_beside_another_loader(stateful):
    """In the main process each loader has its own indices, although one reads its stream again."""
    loader = stateful(Stream(range(COUNT)), SIZE, collate_fn=Ask())
    next(iter(loader))
    resumed = stateful(Stream(range(COUNT)), SIZE, collate_fn=Ask())
    resumed.load_state_dict(loader.state_dict())
    validation = DataLoader(range(COUNT), SIZE, collate_fn=resumed.collate_fn)
    pairs = list(zip(resumed, validation, strict=False))
    check([batch for batch, _ in pairs], "stream", 0, 0)
    check([batch for _, batch in pairs], "map", 0, 0)
    assert len(pairs) == BATCHES - 1


class Broken(list):
    """Numbers; some of them cannot be read."""

    def __getitem__(self, index):
        if index in (2, 3):
            raise OSError("cannot be read")
        return super().__getitem__(index)


class BrokenAsk(Ask):
    """A collate function that fails for one batch."""

    def __call__(self, samples):
        """Fail after the index was found."""
        asked = super().__call__(samples)
        if samples[0] == 2:
            raise OSError("cannot be collated")
        return asked


@pytest.mark.parametrize(
    ("workers", "kind"), [(1, "torch"), (2, "torch"), (0, "torchdata"), (2, "torchdata")]
)
@pytest.mark.parametrize(("data", "ask"), [(Broken, Ask), (list, BrokenAsk)])
def test_an_epoch_that_continues_after_an_error(stateful, data, ask, workers, kind):
    """A batch that cannot be read or collated keeps its index."""
    make = stateful if kind == "torchdata" else DataLoader
    iterator = iter(make(data(range(COUNT)), SIZE, collate_fn=ask(), num_workers=workers))
    batches = [next(iterator)]
    with pytest.raises(OSError, match="cannot be") as error:
        next(iterator)
    traceback.clear_frames(error.tb)
    check([*batches, *iterator], "map", workers, 0)
