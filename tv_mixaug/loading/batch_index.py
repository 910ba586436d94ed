"""Number the batches of an epoch for a collate function, which is told the samples alone.

No counter of its own can know the number: batches are dealt to workers, workers persist or not, an
epoch may be left early or resumed in the middle. The loader knows, so its frames are asked, and
calls are counted only where no loader is found.
"""

from __future__ import annotations

import functools
import os
import secrets
import sys
import threading
import warnings
from dataclasses import dataclass
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.data import IterableDataset, get_worker_info

from tv_mixaug._validation import check_integer
from tv_mixaug.loading import loader_frames as frames
from tv_mixaug.loading.shared_value import SharedValue

OUTSIDE = -1  # the number of calls outside a loader; threads of workers have numbers below it
SEVERAL = -1  # in place of a loader's mark: none of them is warned of
BEFORE, BETWEEN = 1, 2


@dataclass(eq=False)
class _Source:
    """Where calls come from: a loader's epoch, or outside of one."""

    before: int = 0  # to be added to the loader's own number
    index: int = -1
    served: int = 0
    last: tuple[int, int] | None = None
    calls: int = 0

    def count(self, number: int, epoch: int) -> int:
        """Return how many calls have been counted for the number before."""
        self.calls = self.calls + 1 if (number, epoch) == self.last else 0
        self.last = number, epoch
        return self.calls


class BatchIndex:
    """Number the calls of a collate function by the loader's batches, in all processes.

    Workers share the epoch, its first batch, the mark of the one loader that has begun an epoch, 0
    before and ``SEVERAL`` where there are more, and when :meth:`restart` was called: ``BETWEEN``
    epochs, to begin one again is no oversight. Who begins an epoch writes the mark alone,
    :meth:`restart` the other alone: neither can undo what the other has said.
    """

    def __init__(self, epoch: int = 0, first_batch: int = 0) -> None:
        self._shared = SharedValue([epoch, first_batch], torch.int64)
        mark = torch.zeros(2, dtype=torch.int64, device="cpu")
        self._mark = mark.share_memory_()  # type: ignore[no-untyped-call]
        self._epoch_here = epoch  # not shared: a worker has the one in which it was started
        self._home = os.getpid()
        self._start: tuple[int, int | None] | None = None
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._sources: WeakKeyDictionary[Any, _Source] = WeakKeyDictionary()
        self._outside = _Source()

    def __getstate__(self) -> dict[str, Any]:
        """Share with a spawned worker, and tell it what only this process can see; else copy."""
        if not frames.is_starting_worker():
            return {"values": self._shared.get(), "_home": self._home}
        kept = {name: self.__dict__[name] for name in ("_shared", "_mark", "_epoch_here", "_home")}
        return {**kept, "_start": frames.describe_start(sys._getframe(), os.getpid())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self.__init__(*state.pop("values", ()))  # type: ignore[misc]
        self.__dict__.update(state)

    @property
    def epoch(self) -> int:
        """The epoch that was set last."""
        return int(self._shared.get()[0])

    def restart(self, epoch: int, first_batch: int = 0) -> None:
        """Begin an epoch, of which another loader has given ``first_batch`` batches."""
        for name, value in (("epoch", epoch), ("first_batch", first_batch)):
            if not 0 <= check_integer(name, value) < 2**63:
                raise ValueError(f"{name} must be >= 0 and below 2**63, got {value}.")
        self._shared.set([int(epoch), int(first_batch)])
        # For good: a worker may note a start that was long ago.
        self._mark[1] = BETWEEN if self._mark.any() else BEFORE
        self._epoch_here = int(epoch)
        self._outside = _Source()

    def find(self) -> tuple[int, int, int]:
        """Return the epoch, the batch's number in it, and how many calls it has had before.

        Only pipelines that collate by themselves call more than once for one batch of the loader.
        """
        if self._process != os.getpid():
            self._forget()  # forked: the parent's loaders are not ours
        with self._lock:  # no two threads may be told the same
            epoch, first_batch = self._shared.get()
            frame, info = frames.find_serving_frame(sys._getframe()), get_worker_info()
            if frame is None:
                if info is None and self._process != self._home:
                    _warn_of_processes()
                    return epoch, OUTSIDE, secrets.randbits(62)
                number = OUTSIDE if info is None else OUTSIDE - 1 - info.id
                return epoch, number, self._outside.count(number, epoch) + first_batch
            if frame.f_code.co_name == "_worker_loop":
                source, number = self._in_worker(frame, epoch)
            else:
                source, number = self._in_main(frame)
            return epoch, number + first_batch, source.count(number, epoch)

    def _in_worker(self, frame: FrameType, epoch: int) -> tuple[_Source, int]:
        fetcher, index = frame.f_locals["fetcher"], int(frame.f_locals["idx"])
        source = self._sources.get(fetcher)  # a loader makes a new one for each epoch
        if source is None:
            start = self._start or frames.describe_start(frame, os.getppid())
            # A worker may have had no batch of the epoch that was resumed.
            before = start[1] if epoch == self._epoch_here else None
            source = self._sources[fetcher] = _Source(before or 0)
            self._start = start[0], None
            if before is None and index == 0:
                self._note_start(start[0])
        info = get_worker_info()
        if info is None or info.num_workers == 1 or not isinstance(info.dataset, IterableDataset):
            return source, index + source.before
        # Streams of workers end in their own time, and the loader's number depends on when it has
        # heard of that. What each worker has given does not.
        if index != source.index:
            source.index, source.served = index, source.served + 1
        served = source.served - 1 - (info.id - source.before) // info.num_workers
        return source, served * info.num_workers + info.id

    def _in_main(self, frame: FrameType) -> tuple[_Source, int]:
        iterator = frame.f_locals["self"]
        source = self._sources.get(iterator)
        if source is None:
            source = self._sources[iterator] = _Source(-frames.count_before_rerun(frame, iterator))
            if frames.count_drawn(iterator) == 1:
                self._note_start(frames.mark_loader(iterator, os.getpid()))
        return source, frames.count_drawn(iterator) - 1 + source.before

    def _note_start(self, loader: int) -> None:
        before, restarted = self._mark.tolist()
        self._mark[0] = SEVERAL if before else loader
        if loader and loader == before and restarted != BETWEEN:
            warnings.warn(
                f"the loader begins epoch {self.epoch} again and repeats its mixes; call"
                " `collate_fn.set_epoch(epoch)` before each epoch's loop.",
                stacklevel=2,
            )


@functools.cache
def _warn_of_processes() -> None:
    warnings.warn(
        "the collate function runs in a process that is neither the one that made it nor a"
        " loader's worker, so its mixes cannot be reproduced; make it in that process, with"
        " `make_collate_fn(..., seed=seed, rank=number_of_the_process)`.",
        stacklevel=2,
    )
