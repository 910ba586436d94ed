"""Find out which batch of the epoch a collate function is working on.

A collate function is told the samples, not the number of their batch, and no counter of its own
can know it: batches are dealt to workers, workers persist or not, an epoch may be left early or
resumed in the middle. The loader knows, so its frames are asked: in a worker the loop that serves
it, in the main process its iterator. Only names that torch and torchdata have kept over all
supported releases are used; where they are missing, calls are counted instead.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

from torch.utils.data import get_worker_info


class Position:
    """Number the calls of a collate function by the loader's batches."""

    def __init__(self) -> None:
        self._offset: int | None = None  # batches yielded before a resumed loader began
        self._fetcher: Any = None  # a loader makes a new one for each epoch
        self._last: tuple[int, int] | None = None
        self._calls = 0
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Tell a spawned worker what only the process that starts it can see."""
        return {"_offset": _resumed_at(sys._getframe())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self._offset = state["_offset"] or None

    def find(self) -> tuple[int, int]:
        """Return the batch's number in the epoch, and how many calls it has had before.

        Only pipelines that collate by themselves call more than once for one batch of the loader.
        """
        if self._process != os.getpid():
            self.__init__()  # type: ignore[misc]  # forked: the parent's epochs are not ours
        index = self._index(sys._getframe())
        if index is None:
            info = get_worker_info()
            index = -1 if info is None else -2 - info.id
        key = (index, id(self._fetcher))
        self._calls = self._calls + 1 if key == self._last else 0
        self._last = key
        return index, self._calls

    def restart(self) -> None:
        """Count calls outside a loader from 0 again."""
        self._last = None

    def _index(self, frame: FrameType | None) -> int | None:
        while frame is not None:
            name = frame.f_code.co_name
            if name == "_worker_loop" and "idx" in frame.f_locals:
                fetcher = frame.f_locals.get("fetcher")
                if self._fetcher is None:
                    self._offset = self._offset or _resumed_at(frame)
                elif self._fetcher is not fetcher:
                    self._offset = 0  # persistent workers have begun a new epoch
                self._fetcher = fetcher
                return int(frame.f_locals["idx"]) + (self._offset or 0)
            if name == "_next_data" and hasattr(frame.f_locals.get("self"), "_num_yielded"):
                iterator = frame.f_locals["self"]
                fetcher = getattr(iterator, "_dataset_fetcher", None)
                if self._fetcher is not fetcher:
                    self._offset = -iterator._num_yielded if _is_rerun(frame, iterator) else 0
                self._fetcher = fetcher
                return int(iterator._num_yielded) + (self._offset or 0)
            frame = frame.f_back
        return None


def is_starting_worker() -> bool:
    """Tell whether what is being pickled goes to a worker that a loader spawns."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        is_init = frame.f_code.co_name == "__init__"
        if is_init and hasattr(frame.f_locals.get("self"), "_index_queues"):
            return True
        frame = frame.f_back
    return False


def _resumed_at(frame: FrameType | None) -> int:
    """Return how many batches a StatefulDataLoader that is starting its workers has yielded before.

    A forked worker still has the frames of the process that started it.
    """
    while frame is not None:
        if frame.f_code.co_name == "__init__":
            state = frame.f_locals.get("next_iter_state")
            if isinstance(state, dict) and "_snapshot" in state:
                workers = state["_snapshot"].get("_worker_snapshots", {}).values()
                if any(_starts_over(worker) for worker in workers):
                    return 0
                return int(state["_snapshot"].get("_snapshot_step", 0))
        frame = frame.f_back
    return 0


def _is_rerun(frame: FrameType | None, iterator: Any) -> bool:
    """Tell whether a StatefulDataLoader without workers runs through the data again to resume.

    What it has yielded before is then in its count twice.
    """
    while frame is not None:
        is_load = frame.f_code.co_name == "load_state_dict"
        if is_load and frame.f_locals.get("self") is iterator:
            return True
        frame = frame.f_back
    return False


def _starts_over(worker: dict[str, Any]) -> bool:
    """Tell whether an iterable data set without a state is run through again from its start."""
    fetcher = worker.get("fetcher_state")
    return (
        fetcher is not None
        and worker.get("dataset_state") is None
        and fetcher.get("dataset_iter_state") is None
    )
