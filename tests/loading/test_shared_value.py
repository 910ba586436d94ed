"""Shared numbers: readers never see half of a change."""

import copy
import pickle

import pytest
import torch
from helpers.loading import make

from tv_mixaug.loading.shared_value import SharedValue

WIDTH = 4096  # a change of so many numbers takes a while


def read(shared, enough, ended, answer):
    """Read until an event, set another one after six values, and answer with torn reads."""
    seen, torn = set(), 0
    while not ended.is_set():
        values = shared.get()
        torn += len(set(values)) > 1
        seen.add(values[0])
        if len(seen) == 6:
            enough.set()
    answer.put(torn)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_another_process_never_sees_half_a_change():
    """A reader in a forked process finds all numbers alike while they change again and again."""
    fork = torch.multiprocessing.get_context("fork")
    shared = SharedValue([0.0] * WIDTH, "d")
    enough, ended, answer = fork.Event(), fork.Event(), fork.SimpleQueue()
    reader = fork.Process(target=read, args=(shared, enough, ended, answer), daemon=True)
    reader.start()
    for change in range(100_000):
        shared.set([float(change)] * WIDTH)
        if change > 1500 and enough.is_set():
            break
    ended.set()
    assert answer.get() == 0
    assert enough.is_set()
    reader.join()


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
