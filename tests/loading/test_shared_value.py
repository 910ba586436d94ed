"""Test that what is set while others read arrives whole: p, the epoch and its first batch."""

import copy
import pickle
import threading

import pytest
import torch
from helpers.loading import make

from tv_mixaug.loading.batch_index import BatchIndex
from tv_mixaug.loading.shared_value import SharedValue

WIDTH = 4096  # so wide that a change takes a while


def read(shared, ready, ended, answer):
    """Read until it has ended, and answer with the number of reads and of halves."""
    reads, halves, seen = 0, 0, set()
    ready.set()
    while not ended.is_set():
        values = shared.get()
        reads, halves = reads + 1, halves + (len(set(values)) > 1)
        seen.add(values[0])
    answer.put((reads, halves, len(seen)))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_another_process_never_sees_half_a_change():
    """While all numbers are changed again and again, whoever reads them finds them alike."""
    fork = torch.multiprocessing.get_context("fork")
    shared = SharedValue([0.0] * WIDTH, "d")
    ready, ended, answer = fork.Event(), fork.Event(), fork.SimpleQueue()
    reader = fork.Process(target=read, args=(shared, ready, ended, answer), daemon=True)
    reader.start()
    assert ready.wait(30)
    for change in range(1500):
        shared.set([change / 1500] * WIDTH)
    ended.set()
    reads, halves, seen = answer.get()
    reader.join()
    assert halves == 0
    assert min(reads, seen) > 5


def test_a_change_between_two_looks_is_read_again(monkeypatch):
    """What was written to while it was read is not believed."""
    shared = SharedValue([1.0, 1.0], "d")
    memory, changes = shared._memory, [[2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]

    class Interrupted:
        """The memory, of which each look at the rows sees what is half written by changes."""

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
    """Threads that set at once do not mix what they set."""
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


@pytest.mark.parametrize("values", [0.25, [0.5], [0.1, 0.7]])
def test_numbers_and_lists_come_back_as_they_were_set(values):
    """A number stays a number, a list a list, in copies too, which share nothing."""
    shared = SharedValue(values, "d")
    assert shared.get() == values
    for other in (copy.copy(shared), copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):  # noqa: S301
        shared.set(0.0 if isinstance(values, float) else [0.0] * len(values))
        assert other.get() == values
        shared.set(values)


def test_the_whole_range_of_epochs_is_kept():
    """Epochs and first batches are whole numbers of 64 bits, and change together."""
    numbering = BatchIndex()
    for epoch, first in ((2**63 - 1, 5), (3, 2**62 + 1)):
        numbering.set_epoch(epoch, first)
        assert numbering.find() == (epoch, -1, first)


def test_p_is_read_once_for_a_batch(monkeypatch):
    """A batch is mixed by one p, although another one may be set meanwhile."""
    collate_fn = make(p=[0.0, 1.0])
    looks = []
    whole = collate_fn._p.get
    monkeypatch.setattr(collate_fn._p, "get", lambda: looks.append(1) or whole())
    collate_fn([(torch.rand(3, 4, 4), 1)] * 2)
    assert len(looks) == 1
