"""Recover the index of a batch from the DataLoader's stack frames.

A reproducible mix depends on the index of its batch, which a collate function does not receive and
cannot count: batches are dealt to workers, workers may outlive an epoch, and an epoch may be left
early or resumed. It is read from frames of torch and torchdata, and calls are counted without them:

* ``_worker_loop`` in a worker: ``idx``, the index, and ``fetcher``, a new object for each epoch.
* ``_next_data`` in the main process: ``self``, the iterator.
* ``__init__`` of the iterator that pickles or forks a worker: ``self``, and ``next_iter_state``.
* ``load_state_dict`` in the main process, while a StatefulDataLoader skips batches of a stream.
"""

import itertools
import os
import sys
import warnings
from multiprocessing.context import get_spawning_popen
from typing import Any
from weakref import WeakKeyDictionary

from torch.utils.data import IterableDataset, get_worker_info

from tv_mixaug._validation import check_integer, ensure
from tv_mixaug.loading.shared_value import SharedValue, share_numbers


def find_frame(**marks: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the variables of the innermost frame of some functions, or ("", {}).

    A mark is a local variable, or attribute of ``self``, that only torch's function has.
    """
    frame: Any = sys._getframe()
    while frame is not None:
        mark = marks.get(frame.f_code.co_name, "")
        fits = mark and str(frame.f_globals.get("__name__")).startswith(("torch.", "torchdata."))
        if fits and (mark in frame.f_locals or hasattr(frame.f_locals.get("self"), mark)):
            return frame.f_code.co_name, frame.f_locals
        frame = frame.f_back
    return "", {}


class _Epoch:
    """The batches and calls that this process has counted in one epoch of one loader."""

    last, batches, calls = -1, 0, 0

    def __init__(self, skipped: int) -> None:
        self.skipped = skipped  # batches that a loader that resumes does not count

    def count(self, batch: int) -> int:
        """Return the number of earlier calls for a batch; pipelines may collate by themselves."""
        self.calls += 1
        if batch != self.last:
            self.last, self.calls, self.batches = batch, 0, self.batches + 1
        return self.calls


class BatchIndex:
    """Find the epoch and the index of the batch that a collate function is called for."""

    def __init__(self, epoch: int = 0, first_batch: int = 0) -> None:
        # The third number is 1 after a call of set_epoch, and 2 if a start or a call preceded it.
        self.numbers = SharedValue([epoch, first_batch, 0], "q")
        # The loader that has started an epoch, apart so that set_epoch does not undo a change.
        self._loader = share_numbers("q", [0])
        self.used_rank = share_numbers("q", [-1])  # the rank that was last a part of a seed
        self._own_epoch = epoch  # not shared: a worker keeps the epoch in which it was started
        self._own_start: tuple[int, int | None] | None = None
        self.home = os.getpid()
        self._counts: WeakKeyDictionary[Any, _Epoch] = WeakKeyDictionary()
        self._calls_outside = itertools.count()

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:
            return BatchIndex, tuple(self.numbers.get()[:2]), {"home": self.home}
        shared = "home", "used_rank", "numbers", "_loader", "_own_epoch"
        state = {name: getattr(self, name) for name in shared}
        return BatchIndex, (), {**state, "_own_start": _describe_start(os.getpid())}

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Set the epoch and the index of the loader's first batch."""
        for name, value in (("epoch", epoch), ("first_batch", first_batch)):
            ensure(0 <= check_integer(name, value) < 2**63, name, ">= 0 and below 2**63", value)
        has_begun = self._loader[0] or self.numbers.get()[2]
        self.numbers.set([int(epoch), int(first_batch), 2 if has_begun else 1])
        self._own_epoch, self._calls_outside = int(epoch), itertools.count()

    def find(self) -> tuple[int, int, int]:
        """Return the epoch, the index of the batch, and the number of earlier calls for it."""
        epoch, first_batch, _ = self.numbers.get()
        function, variables = find_frame(_worker_loop="idx", _next_data="_num_yielded")
        if function == "_worker_loop":
            index, calls = self._find_in_worker(variables, epoch)
        elif function:
            index, calls = self._find_in_main(variables["self"])
        elif os.getpid() == self.home:  # all calls outside a DataLoader have the index -1
            return epoch, -1, next(self._calls_outside) + first_batch
        else:
            text = "mixes outside a DataLoader cannot be reproduced in a process that did not make"
            advice = "make it here: `make_collate_fn(..., seed=seed, rank=number_of_the_process)`"
            warnings.warn(f"{text} the collate function; {advice}.", stacklevel=2)
            return epoch, -1, int.from_bytes(os.urandom(7), "little")
        return epoch, index + first_batch, calls

    def _find_in_worker(self, variables: dict[str, Any], epoch: int) -> tuple[int, int]:
        fetcher, index = variables["fetcher"], int(variables["idx"])
        counts = self._counts.get(fetcher)
        if counts is None:
            loader, skipped = self._own_start or _describe_start(os.getppid()) or (0, None)
            self._own_start = loader, None  # only the first epoch is resumed
            skipped = skipped if epoch == self._own_epoch else None
            counts = self._counts[fetcher] = _Epoch(skipped or 0)
            if skipped is None and index == 0:
                self._note_start(loader)
        calls, info = counts.count(index), get_worker_info()
        if info is None or info.num_workers == 1 or not isinstance(info.dataset, IterableDataset):
            return index + counts.skipped, calls
        # The loader's index depends on when it learns that a worker's stream has ended.
        before = counts.batches - 1 - (info.id - counts.skipped) // info.num_workers
        return before * info.num_workers + info.id, calls

    def _find_in_main(self, iterator: Any) -> tuple[int, int]:
        counts = self._counts.get(iterator)
        if counts is None:
            resuming = find_frame(load_state_dict="state_dict")[1]
            # An iterator that reads a stream again counts its batches on top of the saved number.
            again = resuming["state_dict"] if resuming.get("self") is iterator else {}
            counts = self._counts[iterator] = _Epoch(-int(again.get("_sampler_iter_yielded", 0)))
        # torchdata's iterator counts a batch when it is drawn, torch's when it is returned.
        drawn = int(getattr(iterator, "_sampler_iter_yielded", iterator._num_yielded + 1))
        calls = counts.count(drawn)
        if drawn == 1 and calls == 0:
            self._note_start(_identify(iterator, os.getpid()))
        return drawn - 1 + counts.skipped, calls

    def _note_start(self, loader: int) -> None:
        """Warn if the only loader that has started an epoch starts it again."""
        before = self._loader[0]
        self._loader[0] = -1 if before else loader  # -1 stands for several loaders
        epoch, _, is_set = self.numbers.get()
        if loader and loader == before and is_set != 2:
            text = f"epoch {epoch} was started twice with the same seed, so its mixes repeat"
            advice = "call `collate_fn.set_epoch(epoch)` before each epoch's loop"
            warnings.warn(f"{text}; {advice}.", stacklevel=2)


def _identify(iterator: Any, process: int) -> int:
    """Return a positive number by which every process knows a loader of ``process``."""
    return hash((process, id(iterator._index_sampler), id(iterator._dataset))) % 2**62 + 1


def _describe_start(process: int) -> tuple[int, int | None] | None:
    """Return the loader of ``process`` that starts a worker, and the batches that it skips."""
    variables = find_frame(__init__="_index_queues")[1]
    if not variables:
        return None
    iterator, state = variables["self"], variables.get("next_iter_state")
    loader, is_stream = _identify(iterator, process), isinstance(iterator._dataset, IterableDataset)
    if state is None:
        return loader, None
    snapshot = state["_snapshot"]
    workers = snapshot["_worker_snapshots"].values() if is_stream else ()
    states = [(w["dataset_state"], w["fetcher_state"]["dataset_iter_state"]) for w in workers]
    if state["_iterator_finished"] or any(one is other is None for one, other in states):
        return loader, 0  # the next epoch begins, or the streams are read again from their start
    return loader, snapshot["_main_snapshot"]["_sampler_iter_yielded"]
