"""Memory for batches: shared with the main process where a worker makes them, used again if asked.

A batch that a worker sends lies in shared memory, and fresh pages of it cost more than mixing
does. A :class:`Ring` keeps a few blocks in a worker and writes to one again as soon as the main
process has dropped the last tensor over it.
"""

from __future__ import annotations

import os
import weakref
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

# A loader has two batches for each worker on their way, one being made and one or two in use.
RING_BLOCKS = 8
# The last bytes of a block say whether the main process still uses it.
FLAG_BYTES = 64
# A smaller tensor is sent as fast in fresh memory.
WORTHWHILE = 1 << 16

# The blocks that this process has received, by ring (a worker's process and a name) and number.
_received: dict[tuple[tuple[int, str], int], Tensor] = {}


def allocate(size: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor, in shared memory in a worker, as ``default_collate`` does."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=dtype)
    return _shared_bytes(size.numel() * dtype.itemsize).view(dtype).view(size)


class Ring:
    """Lend blocks of shared memory to batches and take them back when they are no longer used.

    Args:
        name: A name that no other ring has; the main process keeps the blocks under it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._blocks: list[Tensor] = []
        self._sent: set[int] = set()

    def allocate(self, size: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor over a block that is free, else over fresh memory."""
        count = size.numel() * dtype.itemsize
        if get_worker_info() is None or count < WORTHWHILE:
            return allocate(size, dtype)
        need = count + FLAG_BYTES
        free = (n for n, b in enumerate(self._blocks) if not b[-1] and len(b) >= need)
        number = next(free, len(self._blocks))
        if number == RING_BLOCKS:
            return allocate(size, dtype)
        if number == len(self._blocks):
            self._blocks.append(_shared_bytes(need))
        block = self._blocks[number]
        block[-1] = 1
        lent = block[:count].view(dtype).view(size).as_subclass(LentTensor)
        lent.ring, lent.number = self, number
        return lent

    def send(self, lent: LentTensor) -> tuple[Any, ...]:
        """Describe a lent tensor for the main process; the block itself goes only once."""
        first = lent.number not in self._sent
        self._sent.add(lent.number)
        block = self._blocks[lent.number]
        # The block and the lent tensor use the memory. Whoever made a view of it sends that on its
        # own, and nobody would know when it is dropped: then the block is not taken back.
        returns = _users(block) == 2
        key = ((os.getpid(), self.name), lent.number)
        return key, block if first else None, tuple(lent.shape), lent.dtype, lent.tv_type, returns


class LentTensor(Tensor):
    """Hold a batch in a block of a ring; the main process receives it as an ordinary tensor."""

    ring: Ring
    number: int
    tv_type: type[Tensor] | None = None
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def forget_blocks(name: str) -> None:
    """Drop the received blocks of all rings of a name."""
    for key in [key for key in _received if key[0][1] == name]:
        _received.pop(key, None)


def _shared_bytes(count: int) -> Tensor:
    storage = torch.UntypedStorage._new_shared(max(1, count))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)[:count]


def _users(tensor: Tensor) -> int:
    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))


def _reduce(lent: LentTensor) -> tuple[Any, ...]:
    return _receive, lent.ring.send(lent)


def _receive(
    key: tuple[tuple[int, str], int],
    block: Tensor | None,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    tv_type: type[Tensor] | None,
    returns: bool,
) -> Tensor:
    """Make the tensor in the main process, and see to it that its end frees the block."""
    if block is not None:
        _forget_dead()
        _received[key] = block
    memory = _received[key].numpy()
    size = torch.Size(shape)
    pixels = memory[: size.numel() * dtype.itemsize]
    if returns:
        # Every tensor over these pixels keeps the array alive, however it was made.
        end = weakref.finalize(pixels, _release, memory[-1:], key[0], os.getpid())
        end.atexit = False
    batch = torch.from_numpy(pixels).view(dtype).view(size)
    return batch if tv_type is None else batch.as_subclass(tv_type)


def _release(flag: Any, ring: tuple[int, str], process: int) -> None:
    if os.getpid() != process:
        return  # a forked child's copies say nothing about the batches of its parent
    flag[0] = 0
    if not _is_alive(ring[0]):
        _forget_dead()


def _forget_dead() -> None:
    """Drop the blocks of workers that have ended."""
    for key in list(_received):
        if not _is_alive(key[0][0]):
            _received.pop(key, None)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


ForkingPickler.register(LentTensor, _reduce)
