"""Test that readers of shared numbers never see half of a change."""

import copy
import pickle
import threading

import pytest
import torch
from helpers.loading import make

from tv_mixaug.loading.shared_value import SharedValue

WIDTH = 4096  # a change of so many numbers takes a while


def read(shared, ready, ended, answer):
    """Read until the event, and answer with all values of reads and the number of torn reads."""
    seen, torn = [], 0
    ready.set()
    while not ended.is_set():
        values = shared.get()
        torn += len(set(values)) > 1
        seen.append(values[0])
    answer.put((len(set(seen)), torn))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_another_process_never_sees_half_a_change():
    """A reader in a forked process finds all numbers alike while they change again and again."""
    fork = torch.multiprocessing.get_context("fork")
    shared = SharedValue([0.0] * WIDTH, "d")
    ready, ended, answer = fork.Event(), fork.Event(), fork.SimpleQueue()
    reader = fork.Process(target=read, args=(shared, ready, ended, answer), daemon=True)
    reader.start()
    assert ready.wait(30)
    for change in range(1500):
        shared.set([change / 1500] * WIDTH)
    ended.set()
    seen, torn = answer.get()
    reader.join()
    assert torn == 0
    assert seen > 5


def test_numbers_that_change_during_a_read_are_read_again(monkeypatch):
    """A read during which the numbers changed twice is not returned."""
    shared = SharedValue([1.0, 1.0], "d")
    memory, changes = shared._memory, [[2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]

    class Interrupted:
        """The memory; while all of it is read, both rows change."""

        def __len__(self):
            return len(memory)

        def __setitem__(self, place, values):
            memory[place] = values

        def __getitem__(self, place):
            before = memory[place]
            if place != slice(None) or not changes:
                return before
            for change in (changes.pop(0), changes.pop(0) if changes else [9.0, 9.0]):
                shared.set(change)
            return [before[0], before[1], memory[2], before[3], memory[4]]

    monkeypatch.setattr(shared, "_memory", Interrupted())
    assert shared.get() == [9.0, 9.0]


def test_changes_from_several_threads_stay_whole():
    """Threads that set values at the same time do not mix their numbers."""
    shared = SharedValue([0.0] * 512, "d")

    def change(number):
        for _ in range(200):
            shared.set([float(number)] * 512)
            assert len(set(shared.get())) == 1

    threads = [threading.Thread(target=change, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(shared.get())) == 1
    assert shared._memory[0] == 600


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
