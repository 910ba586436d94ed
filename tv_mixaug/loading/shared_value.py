"""Numbers that the main process sets and workers read while they run, never half a change."""

from __future__ import annotations

import threading
from typing import Any

import torch

from tv_mixaug.loading.loader_frames import is_starting_worker

_setting = threading.Lock()


class SharedValue:
    """Hold a number or a list of numbers in memory that all processes share.

    They stand in two rows in turn. The count of changes says which one holds, and whoever reads it
    again after the row knows that the row was not written to meanwhile.
    """

    def __init__(self, values: Any, dtype: torch.dtype) -> None:
        rows = torch.tensor([values, values], dtype=dtype, device="cpu")
        count = torch.zeros((), dtype=torch.int64, device="cpu")
        self._rows, self._count = (t.share_memory_() for t in (rows, count))  # type: ignore[no-untyped-call]

    def get(self) -> Any:
        """Return a number or a list, as it was set last."""
        while True:
            count = self._count.item()
            values = self._rows.tolist()[count % 2]
            if self._count.item() == count:
                return values

    def set(self, values: Any) -> None:
        """Set all at once; workers only read."""
        with _setting:
            count = self._count.item() + 1
            self._rows[count % 2] = torch.tensor(values, dtype=self._rows.dtype, device="cpu")
            self._count.fill_(count)

    def __getstate__(self) -> Any:
        """Share with a worker that is spawned; else copy."""
        return self.__dict__ if is_starting_worker() else (self.get(), self._rows.dtype)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.__init__(*state)  # type: ignore[misc]
