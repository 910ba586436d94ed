"""Shared numbers: readers never see half of a change."""

import copy
import pickle

import pytest
import torch
from helpers.loading import make

from tv_mixaug.loading.shared_value import SharedValue


def test_a_change_is_seen_when_it_is_complete(monkeypatch):
    """While the numbers of a change are written one by one, readers find those before."""
    shared, seen = SharedValue([1.0, 1.0], "d"), []

    class Slow:
        """A row whose readers come between two numbers."""

        def __init__(self, row):
            self.row = row

        def __getitem__(self, place):
            return self.row[place]

        def __setitem__(self, place, values):
            for number, value in enumerate(values):
                self.row[number] = value
                seen.append(shared.get())

    monkeypatch.setattr(shared, "_rows", [Slow(row) for row in shared._rows])
    for value in (2.0, 3.0, 4.0):
        shared.set([value, value])
        assert shared.get() == [value, value]
    assert seen == [[value, value] for value in (1.0, 1.0, 2.0, 2.0, 3.0, 3.0)]


def test_numbers_that_change_during_a_read_are_read_again(monkeypatch):
    """A read during which the numbers changed twice is not returned."""
    shared = SharedValue([1.0, 1.0], "d")
    first, changes = shared._rows[0], [[2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]

    class Interrupted:
        """The first row; while it is read, the numbers change twice."""

        def __setitem__(self, place, values):
            first[place] = values

        def __getitem__(self, place):
            before = first[place]
            for _ in range(2):
                if changes:
                    shared.set(changes.pop(0))
            return [before[0], first[1]]

    monkeypatch.setattr(shared, "_rows", (Interrupted(), shared._rows[1]))
    assert shared.get() == [4.0, 4.0]


def test_a_change_that_fails_changes_nothing():
    """After a list of a wrong length the old numbers are still valid."""
    shared = SharedValue([0.5, 0.25], "d")
    with pytest.raises(ValueError, match="sequence of same size"):
        shared.set([0.5])
    assert shared.get() == [0.5, 0.25]


@pytest.mark.parametrize("value", [0.25, [0.5], [0.1, 0.7]])
def test_values_keep_their_form_and_copies_share_nothing(value):
    """A number stays a number and a list a list; a copy does not follow the original."""
    shared = SharedValue(value, "d")
    assert shared.get() == value
    for other in (copy.copy(shared), copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):  # noqa: S301
        shared.set([0.0] * len(value) if isinstance(value, list) else 0.0)
        assert other.get() == value
        shared.set(value)


def test_p_is_read_once_for_each_batch(monkeypatch):
    """One batch is mixed with one p, even if another p is set in the meantime."""
    collate_fn, reads = make(p=[0.0, 1.0]), []
    whole = collate_fn._p.get
    monkeypatch.setattr(collate_fn._p, "get", lambda: reads.append(1) or whole())
    collate_fn([(torch.rand(3, 4, 4), 1)] * 2)
    assert len(reads) == 1
