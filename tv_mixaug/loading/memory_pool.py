"""Memory for batches: shared with the main process where a worker makes them, and used again.

A batch that a worker sends lies in shared memory, and fresh pages of it cost more than mixing
does. So a worker keeps a :class:`SharedMemoryPool` of blocks, and writes to one again as soon as nothing is
left, in the worker and in the main process, of the last tensor over it. Both know that from the
tensor's storage, which every view, array or capsule of the tensor keeps alive, however it was
made. It does so even where the pixels were moved to other memory and only an array still lies in
the block; therefore the storage also holds the block, which is unmapped with it and never before.

A block is an anonymous file of Linux and takes nothing of ``/dev/shm``, which is often small.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import sys
import threading
import weakref
from multiprocessing import reduction
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import get_worker_info
from torchvision.tv_tensors import Image, Mask, Video

from tv_mixaug.engine.apply import Allocate
from tv_mixaug.loading.loader_frames import find_serving_frame

# Enough for three tensors of each batch: a loader has two batches for each worker on their way,
# one is being made, and one or two are in use.
RING_BLOCKS = 16
# A block that is still in use when so many later tensors were lent is replaced.
PATIENCE = 64
# A smaller tensor is sent as fast in fresh memory.
WORTHWHILE = 1 << 16
# The last byte of a block says where the last tensor over it is. A block that a forked child of
# the main process may still read is given up.
FREE, SENT, RECEIVED, GIVEN_UP = range(4)

RingName = tuple[int, bytes]  # the worker's process, and what no other ring has

_ring: SharedMemoryPool | None = None  # of this process, where it is a worker
_received: dict[RingName, dict[int, Block]] = {}  # in the main process, by place
_forks = 0


def allocator(again: bool) -> Allocate | None:
    """Return what makes the memory of a batch that a worker sends; None where there is no worker.

    As with ``default_collate`` it is shared; ``again``: it may be that of an earlier batch.
    """
    if get_worker_info() is None:
        return None
    return allocate_pooled if again else allocate


def allocate(size: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor in fresh shared memory."""
    count = max(1, size.numel() * dtype.itemsize)
    storage = torch.UntypedStorage._new_shared(count)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, size)  # type: ignore[call-overload, no-any-return]


def allocate_pooled(size: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor over the memory of an earlier one, fresh if there is none."""
    ring = _open_ring() if size.numel() * dtype.itemsize >= WORTHWHILE else None
    lent = None if ring is None else ring.lend(size, dtype)
    return allocate(size, dtype) if lent is None else lent


class Block:
    """Memory that two processes share, a file of ``size`` bytes, and what one knows about it."""

    def __init__(self, file: int, size: int) -> None:
        self.memory = mmap.mmap(file, size)
        self.tenant: weakref.ref[Any] | None = None  # the storage of the last tensor
        # For the worker: where that begins, when it was lent, the place in the ring, and the file
        # until the main process has it.
        self.start = self.lent_at = self.place = 0
        self.file: Any = None

    def is_free(self) -> bool:
        """Tell whether nothing is left of the last tensor in either process."""
        return self.memory[-1] == FREE and (self.tenant is None or self.tenant() is None)

    def lend(self, size: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return a tensor over the block."""
        tensor = torch.frombuffer(self.memory, dtype=dtype, count=size.numel()).view(size)
        storage: Any = tensor.untyped_storage()
        storage.block, self.tenant, self.start = self, weakref.ref(storage), tensor.data_ptr()
        return tensor


class SharedMemoryPool:
    """Lend blocks to the batches that a worker sends by a queue, whatever functions collate."""

    def __init__(self, queue: Any) -> None:
        self.name: RingName = (os.getpid(), os.urandom(8))
        self._queue = queue
        self._blocks: list[Block] = []
        self._lent = 0
        self._lock = threading.Lock()

    def lend(self, size: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """Return an uninitialised tensor over a block, None if there is none."""
        with self._lock:
            self._lent += 1
            block = self._find_block(size.numel() * dtype.itemsize + 1)
            if block is None:
                return None
            block.lent_at = self._lent
            return block.lend(size, dtype)

    def send(self, tensor: Tensor) -> tuple[Any, ...] | None:
        """Describe a lent tensor for the main process; the block's file goes only once.

        None is returned for all other tensors: for what goes elsewhere, since that process would
        not have the block next time, for what the main process still has, and for what is not the
        block's bytes in their order.
        """
        if threading.current_thread() is not self._queue._thread or tensor.layout != torch.strided:
            return None
        block = getattr(tensor.untyped_storage(), "block", None)
        with self._lock:
            if (
                block not in self._blocks
                or block.memory[-1] != FREE
                or tensor.data_ptr() != block.start
                or not tensor.is_contiguous()
                or tensor.requires_grad
            ):
                return None
            block.memory[-1] = SENT
            file, block.file = block.file, None
        what = tensor.shape, tensor.dtype, type(tensor)
        return self.name, block.place, file, len(block.memory), *what

    def _find_block(self, size: int) -> Block | None:
        for block in self._blocks:
            if block.is_free() and size <= len(block.memory) <= 2 * size:
                return block
        place = self._choose_place()
        try:
            return None if place is None else self._make_block(place, size)
        except OSError:  # too many open files, or too little memory
            return None

    def _choose_place(self) -> int | None:
        """Return where a new block may stand; the old one lasts as long as what lies in it."""
        late, is_full = self._lent - PATIENCE, len(self._blocks) == RING_BLOCKS
        for block in sorted(self._blocks, key=lambda block: block.lent_at):
            state = block.memory[-1]
            is_late = block.lent_at < late and state != SENT
            if is_late or state == GIVEN_UP or (is_full and block.is_free()):
                return block.place
        return None if is_full else len(self._blocks)

    def _make_block(self, place: int, size: int) -> Block:
        file = os.memfd_create("tv_mixaug")
        try:
            os.ftruncate(file, size)
            block = Block(file, size)
            block.place, block.file = place, reduction.DupFd(file)
        finally:
            os.close(file)
        for old in self._blocks[place : place + 1]:
            if old.file is not None:
                os.close(old.file.detach())
        self._blocks[place : place + 1] = [block]
        return block


def _open_ring() -> SharedMemoryPool | None:
    """Return the ring of this process if it is a loader's worker that can share memory."""
    global _ring
    if _ring is None and hasattr(os, "memfd_create"):
        frame = find_serving_frame(sys._getframe())
        queue = frame.f_locals.get("data_queue") if frame else None
        if hasattr(queue, "_thread"):  # which sends the batches
            _ring = SharedMemoryPool(queue)
            for kind in (Tensor, Image, Mask, Video):
                reduction.ForkingPickler.register(kind, _reduce)
    return _ring


def _reduce(tensor: Tensor) -> Any:
    """Describe a tensor for another process: as a block, else as torch does it."""
    sent = None if _ring is None else _ring.send(tensor)
    if sent is not None:
        return _receive, sent
    if type(tensor) is Tensor:
        return reduce_tensor(tensor)  # type: ignore[no-untyped-call]
    return tensor.__reduce_ex__(pickle.DEFAULT_PROTOCOL)  # type: ignore[no-untyped-call]


def _receive(
    ring: RingName, place: int, file: Any, length: int, size: Any, dtype: Any, kind: type[Tensor]
) -> Tensor:
    """Make the tensor in the main process, and see to it that its end frees the block."""
    blocks = _blocks_of(ring)
    if file is not None:
        number = file.detach()
        try:
            blocks[place] = Block(number, length)
        finally:
            os.close(number)
    block = blocks[place]
    block.memory[-1] = RECEIVED
    batch = block.lend(size, dtype)
    end = weakref.finalize(batch.untyped_storage(), _release, block.memory, os.getpid(), _forks)
    end.atexit = False
    return batch.as_subclass(kind)


def _blocks_of(ring: RingName) -> dict[int, Block]:
    """Return the received blocks of a ring, which stay until the loader lets go of the worker."""
    if ring not in _received:
        _received[ring] = {}
        for process in multiprocessing.active_children():
            if process.pid == ring[0]:
                weakref.finalize(process, _received.pop, ring, None).atexit = False
    return _received[ring]


def _release(memory: mmap.mmap, process: int, forks: int) -> None:
    # A forked child's copies say nothing about the batches of its parent.
    if os.getpid() == process:
        memory[-1] = FREE if forks == _forks else GIVEN_UP


def _count_fork() -> None:
    global _forks
    _forks += 1


def _leave_ring() -> None:
    global _ring
    _ring = None  # it is that of the worker that forked this process


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_count_fork, after_in_parent=_count_fork, after_in_child=_leave_ring)
