"""Test how a collate function finds out which batch it works on."""

import copy
import pickle

from torch.utils.data import DataLoader, IterableDataset

from tv_mixaug.loading.numbering import Position, is_starting_worker


class Ask:
    """A collate function that returns what Position finds, how often it was asked before too."""

    def __init__(self, calls=1):
        self.position, self.calls = Position(), calls

    def __call__(self, samples):
        """Return a number and a count for each call."""
        return [self.position.find() for _ in range(self.calls)]


class Uneven(IterableDataset):
    """A stream of ten numbers."""

    def __iter__(self):
        return iter(range(10))


def test_batches_are_numbered_from_zero_in_every_epoch():
    """The main process numbers batches anew in each epoch."""
    loader = DataLoader(range(10), 2, collate_fn=Ask())
    for _ in range(2):
        assert [found[0] for found in loader] == [(number, 0) for number in range(5)]


def test_workers_find_the_number_of_the_loader():
    """Workers, fresh and persistent, find the loader's numbers and not their own."""
    for persistent in (False, True):
        loader = DataLoader(
            range(10), 2, collate_fn=Ask(), num_workers=2, persistent_workers=persistent
        )
        for _ in range(2):
            assert [found[0] for found in loader] == [(number, 0) for number in range(5)]


def test_several_calls_for_one_batch_are_counted():
    """Only the second number tells the calls for one batch apart."""
    for workers in (0, 1):
        loader = DataLoader(range(4), 2, collate_fn=Ask(3), num_workers=workers)
        assert list(loader) == [[(n, 0), (n, 1), (n, 2)] for n in range(2)]


def test_a_new_epoch_begins_its_calls_anew():
    """After a break in the first batch the next epoch's first call is the first again."""
    loader = DataLoader(range(4), 2, collate_fn=Ask())
    for _ in range(3):
        assert next(iter(loader)) == [(0, 0)]


def test_a_stream_is_numbered():
    """Batches of a stream have the numbers of the loader."""
    for workers in (0, 1):
        loader = DataLoader(Uneven(), 3, collate_fn=Ask(), num_workers=workers)
        assert [found[0][0] for found in loader] == [0, 1, 2, 3]


def test_calls_without_a_loader_are_counted():
    """Outside of any loader the calls are counted until the count is restarted."""
    position = Position()
    assert [position.find() for _ in range(3)] == [(-1, 0), (-1, 1), (-1, 2)]
    position.restart()
    assert position.find() == (-1, 0)


def test_the_nearest_loader_counts():
    """A data set that uses a loader itself: its batches have that loader's numbers."""
    inner = DataLoader(range(4), 2, collate_fn=Ask())

    class Outer(IterableDataset):
        def __iter__(self):
            for _ in range(2):
                yield list(inner)

    found = list(DataLoader(Outer(), batch_size=None))
    assert found == [[[[0, 0]], [[1, 0]]]] * 2  # the outer loader turns tuples into lists


def test_a_copy_counts_for_itself():
    """A copy begins its own count."""
    position = Position()
    position.find()
    for other in (copy.deepcopy(position), pickle.loads(pickle.dumps(position))):  # noqa: S301
        assert other.find() == (-1, 0)
    assert position.find() == (-1, 1)


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
