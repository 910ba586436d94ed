"""Compare the numbers of batches with those that their samples tell, in every kind of loader.

The samples are numbers and come in order, so a batch says by itself which one it is: for a stream
how many batches its worker gave before, and for a map how many the loader gave.
"""

import copy
import itertools
import logging
import time
import traceback

import pytest
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tv_mixaug.loading.batch_index import BatchIndex

COUNT, SIZE = 7, 2
BATCHES = 4  # of one worker or two


class Stream(IterableDataset):
    """Numbers, dealt to the workers one by one; the last worker may give but a few."""

    def __init__(self, few=None):
        self.few = few

    def __iter__(self):
        return (number for number in Walk(self.few))


class StatefulStream(Stream):
    """The same, with a state that can be saved."""

    def __iter__(self):
        return Walk(self.few)


class Walk:
    """Walk through a worker's numbers, remembering where."""

    end = COUNT

    def __init__(self, few):
        info = get_worker_info()
        self.id, self.step = (0, 1) if info is None else (info.id, info.num_workers)
        self.given, self.most = 0, few if few and self.id == self.step - 1 else COUNT

    def __iter__(self):
        return self

    def __next__(self):
        number = self.id + self.given * self.step
        if number >= self.end or self.given == self.most:
            raise StopIteration
        self.given += 1
        return number

    def state_dict(self):
        """Return the place."""
        return {"given": self.given}

    def load_state_dict(self, state):
        """Go to the place."""
        self.given = state["given"]


class Ask:
    """A collate function that returns the samples and what it was told."""

    def __init__(self):
        self.numbering = BatchIndex()

    def __call__(self, samples):
        """Ask once for each batch."""
        return samples, self.numbering.find()


def truth(samples, kind, workers):
    """Return the number that a batch has, by its first sample."""
    dealt = max(workers, 1) if kind != "map" else 1
    return samples[0] // dealt // SIZE * dealt + samples[0] % dealt


def check(batches, kind, workers, epoch):
    """Say which batches have another number than the truth."""
    for samples, found in batches:
        assert found == (epoch, truth(samples, kind, workers), 0), f"of {samples}"


KINDS = {"map": lambda: range(COUNT), "stream": Stream, "stateful stream": StatefulStream}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
EACH_WAY = pytest.mark.parametrize(
    ("workers", "persistent", "in_order"),
    [
        (0, False, True),
        (1, False, True),
        (1, True, True),
        (2, False, True),
        (2, True, True),
        (2, True, False),
    ],
    ids=lambda value: str(int(value)),
)


@EACH_KIND
@EACH_WAY
def test_an_epoch_left_at_any_place(kind, workers, persistent, in_order):
    """Whole epochs, and those after one that was left at any place, are numbered by the truth."""
    ask = Ask()
    loader = DataLoader(
        KINDS[kind](), SIZE, collate_fn=ask, num_workers=workers,
        persistent_workers=persistent, in_order=in_order,
    )  # fmt: skip
    for epoch, place in enumerate([*range(0, BATCHES, 1 if persistent else 2), None]):
        ask.numbering.set_epoch(epoch)
        check(found := list(itertools.islice(loader, place)), kind, workers, epoch)
    assert len(found) == BATCHES


@pytest.mark.slow
@EACH_KIND
@EACH_WAY
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_an_epoch_resumed_at_any_place(kind, workers, persistent, in_order):
    """Resumed at any place, its very end too, an epoch goes on by the truth, as does the next."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    logging.getLogger("torchdata").setLevel(logging.ERROR)  # it warns that it runs through again

    def make():
        return stateful.StatefulDataLoader(
            KINDS[kind](), SIZE, collate_fn=Ask(), num_workers=workers,
            persistent_workers=persistent, in_order=in_order,
        )  # fmt: skip

    loader = make()
    loader.collate_fn.numbering.set_epoch(3)
    iterator, states, before = iter(loader), [copy.deepcopy(loader.state_dict())], []
    for batch in iterator:
        before.append(batch)
        states.append(copy.deepcopy(loader.state_dict()))
    check(before, kind, workers, 3)
    states.append(loader.state_dict())  # all is done: the next epoch begins
    if not in_order and kind == "stream":
        states = states[:1]  # torchdata refuses the others, mostly
    for place, state in enumerate(states):
        ended = place == BATCHES + 1
        ask, resumed = Ask(), make()
        ask.numbering.set_epoch(3 + ended)
        resumed.collate_fn = ask
        resumed.load_state_dict(state)
        rest = list(resumed)
        if in_order or kind == "map":
            check(rest, kind, workers, 3 + ended)
            assert not in_order or len(rest) == BATCHES - place % (BATCHES + 1)
        elif not ended:  # which worker gave what is unknown: others get numbers beyond
            given = {(*samples, found) for samples, found in before[:place] + rest}
            assert len({found for *_, found in given}) == len(given)
        ask.numbering.set_epoch(4 + ended)
        check(following := list(resumed), kind, workers, 4 + ended)
        assert len(following) == BATCHES


def test_a_worker_whose_stream_ends_early_shifts_no_number():
    """Where one worker gives less than the other, both are numbered by what they give."""
    ask = Ask()
    for prefetch in (1, 3):  # with one, the loader's own numbers have no gaps
        loader = DataLoader(
            Stream(few=1), 1, collate_fn=ask, num_workers=2, prefetch_factor=prefetch
        )
        ask.numbering.set_epoch(prefetch)
        numbers = {samples[0]: found[1] for samples, found in loader}
        assert numbers == {0: 0, 1: 1, 2: 2, 4: 4, 6: 6}


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_an_epoch_that_begins_again_after_it_was_resumed():
    """Without a word from the loop, too, the workers begin at 0 after the resumed epoch."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make():
        return stateful.StatefulDataLoader(
            range(COUNT), SIZE, collate_fn=Ask(), num_workers=1, persistent_workers=True
        )

    loader, resumed = make(), make()
    next(iter(loader))
    resumed.load_state_dict(loader.state_dict())
    check(list(resumed), "map", 1, 0)
    check(list(resumed), "map", 1, 0)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_stream_resumed_after_a_worker_has_ended_repeats_no_number():
    """What each worker gave is unknown then, so the batches get new numbers."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make():
        return stateful.StatefulDataLoader(
            StatefulStream(few=1), 1, collate_fn=Ask(), num_workers=2, persistent_workers=True
        )

    loader = make()
    iterator = iter(loader)
    before = [next(iterator) for _ in range(3)]
    assert [samples for samples, _ in before] == [[0], [1], [2]]
    before.append(next(iterator))  # the second worker has ended
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    rest = list(resumed)
    assert [samples for samples, _ in rest] == [[6]]
    assert len({found for _, found in before + rest}) == 5


class Tardy(Walk):
    """Numbers of two workers, of which the second gives three before the first gives two."""

    end = 9

    def __next__(self):
        time.sleep(0.3 if self.id == 0 else 0.35 * (self.given == 2))
        return super().__next__()


class TardyStream(StatefulStream):
    """The same as a stream."""

    def __iter__(self):
        return Tardy(self.few)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_stream_resumed_out_of_order_repeats_no_number():
    """Where workers do not take turns, nobody knows what each gave: others get numbers beyond."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    logging.getLogger("torchdata").setLevel(logging.ERROR)  # it warns that it promises nothing

    def make():
        return stateful.StatefulDataLoader(
            TardyStream(), 1, collate_fn=Ask(), num_workers=2, in_order=False, prefetch_factor=1
        )

    loader = make()
    iterator = iter(loader)
    before = [next(iterator) for _ in range(4)]
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    given = {(*samples, found) for samples, found in [*before, *resumed]}
    assert len({found for *_, found in given}) == len(given)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_loader_that_goes_back_in_its_epoch_is_not_warned_of():
    """To resume an epoch that this process has begun is no oversight, with workers and without."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    for workers in (0, 1):
        loader = stateful.StatefulDataLoader(
            range(COUNT), SIZE, collate_fn=Ask(), num_workers=workers
        )
        next(iter(loader))
        state = loader.state_dict()
        for _ in range(2):
            loader.load_state_dict(copy.deepcopy(state))
            check(list(loader), "map", workers, 0)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_resumed_stream_beside_another_loader():
    """In the main process each loader's numbers are its own, although one ran through again."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    logging.getLogger("torchdata").setLevel(logging.ERROR)
    loader = stateful.StatefulDataLoader(Stream(), SIZE, collate_fn=Ask())
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    ask = Ask()
    resumed = stateful.StatefulDataLoader(Stream(), SIZE, collate_fn=ask)
    resumed.load_state_dict(state)
    validation = DataLoader(range(COUNT), SIZE, collate_fn=ask)
    pairs = list(zip(resumed, validation, strict=False))
    check([batch for batch, _ in pairs], "stream", 0, 0)
    check([batch for _, batch in pairs], "map", 0, 0)
    assert len(pairs) == BATCHES - 1


class Broken:
    """Numbers, some of which cannot be read."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        if index in (2, 3):
            raise OSError("cannot be read")
        return index


class BrokenAsk(Ask):
    """A collate function that fails for a batch."""

    def __call__(self, samples):
        """Fail after the question."""
        asked = super().__call__(samples)
        if samples[0] == 2:
            raise OSError("cannot be collated")
        return asked


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(("data", "ask"), [(Broken, Ask), (lambda: range(COUNT), BrokenAsk)])
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_going_on_after_an_error(data, ask, workers, stateful):
    """A batch that failed, in reading or collating, keeps its number, with workers and without."""
    kind = DataLoader
    if stateful:
        kind = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    iterator = iter(kind(data(), SIZE, collate_fn=ask(), num_workers=workers))
    batches = [next(iterator)]
    with pytest.raises(OSError, match="cannot be") as error:
        next(iterator)
    traceback.clear_frames(error.tb)
    check([*batches, *iterator], "map", workers, 0)
