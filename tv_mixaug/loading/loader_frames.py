"""Read from the frames of a data loader what it does not tell a collate function.

In a worker these are the loop that serves it and, beyond that, the loader that started it; in the
main process the loader's iterator. Only names that torch and torchdata have kept over all supported
releases are used, and all of them are here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch.utils.data import IterableDataset


def is_starting_worker() -> bool:
    """Tell whether what is being pickled goes to a worker that a loader spawns."""
    return find_starting_frame(sys._getframe()) is not None


def find_serving_frame(frame: FrameType | None) -> FrameType | None:
    """Return the nearest frame of a loader that fetches a batch."""
    return _find(frame, {"_worker_loop": "idx", "_next_data": "_num_yielded"})


def find_starting_frame(frame: FrameType | None) -> FrameType | None:
    """Return the frame of a loader that starts workers; a forked worker still has it."""
    return _find(frame, {"__init__": "_index_queues"})


def _find(frame: FrameType | None, marks: dict[str, str]) -> FrameType | None:
    """Return the nearest frame of a function that has its mark: a variable, or one of self."""
    while frame is not None:
        mark = marks.get(frame.f_code.co_name)
        if mark and (mark in frame.f_locals or hasattr(frame.f_locals.get("self"), mark)):
            return frame
        frame = frame.f_back
    return None


def describe_start(frame: FrameType | None, process: int) -> tuple[int, int | None]:
    """Return a starting loader's mark, and how many batches it has had before if it is resumed."""
    frame = find_starting_frame(frame)
    if frame is None:
        return 0, None
    iterator, state = frame.f_locals["self"], frame.f_locals.get("next_iter_state")
    mark = mark_loader(iterator, process)
    if not isinstance(state, dict) or "_snapshot" not in state:
        return mark, None
    snapshot = state["_snapshot"]
    workers = snapshot.get("_worker_snapshots", {}).values()
    if state.get("_iterator_finished") or any(map(_starts_over, workers)):
        return mark, 0
    yielded = int(snapshot.get("_snapshot_step", 0))
    drawn = int(snapshot.get("_main_snapshot", {}).get("_sampler_iter_yielded", yielded))
    if not isinstance(iterator._dataset, IterableDataset):
        return mark, drawn
    # Unless the workers had taken turns so far, nobody knows what each has given: go beyond.
    in_turns = drawn == yielded and getattr(iterator, "_in_order", True)
    return mark, yielded if in_turns else yielded * len(workers)


def mark_loader(iterator: Any, process: int) -> int:
    """Return a number above 0 that tells a loader from others, in every process."""
    return hash((process, id(iterator._index_sampler), id(iterator._dataset))) % 2**62 + 1


def count_drawn(iterator: Any) -> int:
    """Return how many batches an iterator of the main process has drawn, yielded or not."""
    if hasattr(iterator, "_sampler_iter_yielded"):
        return int(iterator._sampler_iter_yielded)  # torchdata's counts them itself
    if not isinstance(iterator._sampler_iter, _Draws):
        iterator._sampler_iter = _Draws(iterator._sampler_iter, iterator._num_yielded + 1)
    return iterator._sampler_iter.count


def count_before_rerun(frame: FrameType | None, iterator: Any) -> int:
    """Return what is counted twice where a StatefulDataLoader runs through a stream to resume."""
    load = _find(frame, {"load_state_dict": "state_dict"})
    if load is None or load.f_locals.get("self") is not iterator:
        return 0
    return int(load.f_locals["state_dict"]["_sampler_iter_yielded"])


def _starts_over(worker: dict[str, Any]) -> bool:
    """Tell whether an iterable data set without a state is run through again from its start."""
    fetcher = worker.get("fetcher_state")
    if fetcher is None or worker.get("dataset_state") is not None:
        return False
    return fetcher.get("dataset_iter_state") is None


class _Draws:
    """Count what is drawn from a sampler: torch's iterator counts only what it has yielded.

    After an error of a batch, which was caught, its number must not go to the next one. Only what
    failed before the first batch that was collated stays unseen.
    """

    def __init__(self, draws: Iterator[Any], count: int) -> None:
        self.draws, self.count = draws, count

    def __iter__(self) -> _Draws:
        return self

    def __next__(self) -> Any:
        drawn = next(self.draws)
        self.count += 1
        return drawn
