"""Numbers that the main process sets and running workers read."""

from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawArray
from typing import Any

_kept: list[Any] = []


def share_numbers(kind: str, numbers: list[Any]) -> Any:
    """Return an array that this process shares with the children that it forks or spawns.

    Many arrays lie in one open file. Memory is never freed, because a child may still read it.
    """
    _kept.append(RawArray(kind, numbers))
    return _kept[-1]


class SharedValue:
    """A number or a list of numbers in shared memory, which readers never see half changed.

    A change goes to one of two rows, selected by the parity of a count, before the count increases.
    A reader that finds the same count before and after it reads a row has read one change.
    """

    def __init__(self, value: Any, kind: str) -> None:
        self._is_list = isinstance(value, list)
        row = value if self._is_list else [value]
        self._rows = share_numbers(kind, row), share_numbers(kind, row)
        self._count = share_numbers("q", [0])

    def get(self) -> Any:
        """Return the number or the list that was set last."""
        while True:
            count = self._count[0]
            row = self._rows[count % 2][:]
            if self._count[0] == count:
                return row if self._is_list else row[0]

    def set(self, value: Any) -> None:
        """Change all numbers at once; one thread of one process may do this at a time."""
        self._rows[(self._count[0] + 1) % 2][:] = value if self._is_list else [value]
        self._count[0] += 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Share memory with a process that is being spawned; copy the value otherwise."""
        if get_spawning_popen() is None:
            return SharedValue, (self.get(), self._rows[0]._type_)
        return object.__new__, (SharedValue,), self.__dict__
