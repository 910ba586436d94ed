"""Memory for batches: shared with the main process where a worker makes them, used again if asked.

A batch that a worker sends lies in shared memory, and fresh pages of it cost more than mixing
does. A :class:`Ring` keeps a few blocks in a worker and writes to one again as soon as nothing is
left, in the worker and in the main process, of the last tensor over it. Both sides know from an
array under the tensor, which every view of it keeps alive; it owns no shared memory itself, so
that a view which is sent to another process on its own is sent as a copy.
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
# The last bytes of a block say how the main process uses it.
FLAG_BYTES = 64
# A block that a forked child of the main process may still read is given up, not used again.
FREE, IN_USE, GIVEN_UP = range(3)
# A smaller tensor is sent as fast in fresh memory.
WORTHWHILE = 1 << 16

# The blocks that this process has received, by ring (a worker's process and a name) and number.
_received: dict[tuple[tuple[int, str], int], Tensor] = {}
_forks = 0


def allocate(size: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor, in shared memory in a worker, as ``default_collate`` does."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=dtype, device="cpu")
    return _shared_bytes(size.numel() * dtype.itemsize).view(dtype).view(size)


class Ring:
    """Lend blocks of shared memory to batches and take them back when they are no longer used.

    Args:
        name: A name that no other ring has; the main process keeps the blocks under it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._blocks: dict[int, Tensor] = {}
        self._arrays: dict[int, weakref.ref[Any]] = {}  # under the tensors that were lent
        self._sent: set[int] = set()
        self._made = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy begin without blocks."""
        return Ring, (self.name,)

    def allocate(self, size: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor over a block that is free, else over fresh memory."""
        count = size.numel() * dtype.itemsize
        if get_worker_info() is None or count < WORTHWHILE or os.name == "nt":
            return allocate(size, dtype)
        number = self._find_block(count + FLAG_BYTES)
        if number is None:
            return allocate(size, dtype)
        pixels = self._blocks[number].numpy()[:count]
        self._arrays[number] = weakref.ref(pixels)
        lent = torch.from_numpy(pixels).view(dtype).view(size).as_subclass(LentTensor)
        lent.ring, lent.number = self, number
        return lent

    def send(self, lent: LentTensor) -> tuple[Any, ...] | None:
        """Describe a lent tensor for the main process; the block itself goes only once.

        None is returned for what is not just the block's pixels in their order.
        """
        block = self._blocks.get(lent.number)
        if (
            block is None
            or lent.data_ptr() != block.data_ptr()
            or int(block[-1]) != FREE  # sent before
            or not lent.is_contiguous()
            or lent.requires_grad
        ):
            return None
        first = lent.number not in self._sent
        self._sent.add(lent.number)
        block[-1] = IN_USE
        key = ((os.getpid(), self.name), lent.number)
        return key, block if first else None, tuple(lent.shape), lent.dtype, lent.tv_type

    def _find_block(self, need: int) -> int | None:
        for number in [n for n, block in self._blocks.items() if block[-1] == GIVEN_UP]:
            del self._blocks[number]
        for number, block in self._blocks.items():
            array = self._arrays[number]()
            if array is None and block[-1] == FREE and len(block) >= need:
                return number
        if len(self._blocks) == RING_BLOCKS:
            return None
        self._made += 1
        self._blocks[self._made] = _shared_bytes(need)
        return self._made


class LentTensor(Tensor):
    """Hold a batch in a block of a ring; the main process receives it as an ordinary tensor."""

    ring: Ring
    number: int
    tv_type: type[Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """Return an ordinary tensor."""
        return _copy(self)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def wrap(batch: Tensor, tv_type: type[Tensor]) -> Tensor:
    """Give a batch its type: at once, or where it is received if it is lent."""
    if not isinstance(batch, LentTensor):
        return batch.as_subclass(tv_type)
    batch.tv_type = tv_type
    return batch


def forget_blocks(name: str) -> None:
    """Drop the received blocks of all rings of a name."""
    for key in [key for key in list(_received) if key[0][1] == name]:
        _received.pop(key, None)


def _shared_bytes(count: int) -> Tensor:
    storage = torch.UntypedStorage._new_shared(max(1, count))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage)[:count]


def _reduce(lent: LentTensor) -> tuple[Any, ...]:
    sent = lent.ring.send(lent)
    if sent is not None:
        return _receive, sent
    return _itself, (_copy(lent),)


def _copy(lent: LentTensor) -> Tensor:
    copy = lent.detach().clone().requires_grad_(lent.requires_grad)
    return copy if lent.tv_type is None else copy.as_subclass(lent.tv_type)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _receive(
    key: tuple[tuple[int, str], int],
    block: Tensor | None,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    tv_type: type[Tensor] | None,
) -> Tensor:
    """Make the tensor in the main process, and see to it that its end frees the block."""
    if block is not None:
        _forget_dead()
        _received[key] = block
    memory = _received[key].numpy()
    size = torch.Size(shape)
    pixels = memory[: size.numel() * dtype.itemsize]
    # Every tensor over these pixels keeps the array alive, however it was made.
    end = weakref.finalize(pixels, _release, memory[-1:], key, os.getpid(), _forks)
    end.atexit = False
    batch = torch.from_numpy(pixels).view(dtype).view(size)
    return batch if tv_type is None else batch.as_subclass(tv_type)


def _release(flag: Any, key: tuple[tuple[int, str], int], process: int, forks: int) -> None:
    if os.getpid() != process:
        return  # a forked child's copies say nothing about the batches of its parent
    if forks == _forks:
        flag[0] = FREE
    else:
        flag[0] = GIVEN_UP
        _received.pop(key, None)
    if not _is_alive(key[0][0]):
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


def _count_fork() -> None:
    global _forks
    _forks += 1


ForkingPickler.register(LentTensor, _reduce)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_count_fork, after_in_parent=_count_fork)
