"""Reuse the shared memory of batches that a worker has sent.

Fresh pages of shared memory cost more time than mixing. A worker therefore keeps a pool of blocks,
and writes into a block again once neither the worker nor the main process holds the last tensor in
it: its storage, which every view, array or DLPack capsule keeps alive. The storage keeps the block
mapped, because an array may point into it even after torch has moved the tensor's data. Only
storages are sent in another way than torch's, so tensors keep their types, attributes, strides and
shared elements. A block is an anonymous file of Linux and takes no space in ``/dev/shm``.
"""

import contextlib
import mmap
import multiprocessing
import os
import threading
import weakref
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.multiprocessing import get_sharing_strategy
from torch.multiprocessing.reductions import reduce_storage
from torch.utils.data import get_worker_info

from tv_mixaug.engine.apply import Allocate
from tv_mixaug.loading.batch_index import find_frame

# Three tensors in each of five batches: two that wait, one that is made, one or two in use.
POOL_BLOCKS = 16
# Later tensors, after which an unused block returns its memory, and a used one may be replaced.
PATIENCE = 64
WORTHWHILE = 1 << 16  # bytes; smaller tensors are sent as fast in fresh memory
# The last byte of a block is its state. A block is given up if a forked child may still read it.
# The byte before it is 1 after the worker has ended.
FREE, SENT, RECEIVED, GIVEN_UP = range(4)


class Block:
    """Memory that a worker and the main process share."""

    def __init__(self, file: Connection) -> None:
        self.memory = mmap.mmap(file.fileno(), 0)
        self.storage: Any = lambda: None  # weak reference to the last tensor's storage
        self.start = self.lent_at = 0
        self.is_forked = False  # in a worker: whether a forked child may still read the block
        self.file: Connection | None = None  # in a worker, until it was sent

    def is_free(self) -> bool:
        """Whether no process holds the last tensor in the block."""
        return self.memory[-1] == FREE and self.storage() is None and not self.is_forked

    def lend(self, size: int) -> Any:
        """Return a storage over the block."""
        tensor = torch.frombuffer(self.memory, dtype=torch.uint8, count=size)
        storage: Any = tensor.untyped_storage()
        storage.block, self.storage, self.start = self, weakref.ref(storage), storage.data_ptr()
        return storage

    def empty(self) -> None:
        """Return the memory to the system; the block can still be used."""
        with contextlib.suppress(AttributeError, OSError):  # of systems without MADV_REMOVE
            self.memory.madvise(mmap.MADV_REMOVE)


class SharedMemoryPool:
    """Blocks for the batches that a worker sends through a queue."""

    def __init__(self, queue: Any) -> None:
        self.name, self._queue, self._lent = (os.getpid(), os.urandom(8)), queue, 0
        self._blocks: list[Block] = []
        self._lock = threading.Lock()

    def allocate(self, size: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor in a block, or in fresh memory if there is no block."""
        count = size.numel() * dtype.itemsize
        if count < WORTHWHILE:
            return allocate(size, dtype)
        with self._lock:
            self._lent += 1
            free = [block for block in self._blocks if block.is_free()]
            for old in free:
                if (self._lent - old.lent_at) % PATIENCE == 0:
                    old.empty()
            fitting = (block for block in free if count + 2 <= len(block.memory) <= 2 * count + 4)
            block = next(fitting, None) or self._make_block(count + 2)
            if block:
                block.lent_at = self._lent
            return allocate(size, dtype, block)

    def _make_block(self, size: int) -> Block | None:
        """Add a block, or replace one if the pool is full; a tensor in it keeps its memory."""
        blocks, place, late = self._blocks, len(self._blocks), self._lent - PATIENCE
        if place == POOL_BLOCKS:
            old = [b for b in blocks if b.is_free() or (b.lent_at < late and b.memory[-1] != SENT)]
            if not old:
                return None
            place = blocks.index(min(old, key=lambda block: block.lent_at))
        try:  # A Connection sends its file when it is pickled, and closes it when it is dropped.
            file = Connection(os.memfd_create("tv_mixaug"))
            os.ftruncate(file.fileno(), size)
            block = Block(file)
        except OSError:  # too many open files, or too little memory
            return None
        block.file = file
        blocks[place : place + 1] = [block]
        return block

    def reduce(self, storage: UntypedStorage) -> Any:
        """Describe a storage for the main process by its block, or as torch does.

        The file of a block is sent only once, so other processes get no blocks.
        """
        block = getattr(storage, "block", None)
        in_queue = threading.current_thread() is self._queue._thread
        if block is not None and in_queue and storage.data_ptr() == block.start:
            with self._lock:
                if block in self._blocks and block.memory[-1] == FREE:
                    block.memory[-1], file, block.file = SENT, block.file, None
                    return _receive, (self.name, self._blocks.index(block), file, storage.nbytes())
        return reduce_storage(storage)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Return the memory of blocks that the main process does not use."""
        for block in self._blocks:
            block.memory[-2] = 1
            if block.is_free():
                block.empty()


_pool: SharedMemoryPool | None = None  # of this process, if it is a worker
_received: dict[tuple[int, bytes], dict[int, Block]] = {}  # in the main process, by pool and place


def allocator(reuse: bool) -> Allocate | None:
    """Return the function that allocates a worker's batches; None outside workers."""
    global _pool
    if get_worker_info() is None:
        return None
    # A mapped block keeps a file open, which the strategy "file_system" is there to avoid.
    if not (reuse and hasattr(os, "memfd_create")) or get_sharing_strategy() == "file_system":  # type: ignore[no-untyped-call]
        return allocate
    if _pool is None or _pool.name[0] != os.getpid():
        queue = find_frame(_worker_loop="data_queue")[1].get("data_queue")
        if not hasattr(queue, "_thread"):  # the thread that sends batches
            return allocate
        _pool = SharedMemoryPool(queue)
        ForkingPickler.register(UntypedStorage, _pool.reduce)
        Finalize(None, _pool.close, exitpriority=0)
    return _pool.allocate


def allocate(size: torch.Size, dtype: torch.dtype, block: Block | None = None) -> Tensor:
    """Return an uninitialised tensor in a block, or in fresh shared memory."""
    count = max(1, size.numel() * dtype.itemsize)
    storage = block.lend(count) if block else UntypedStorage._new_shared(count)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, size)  # type: ignore[call-overload, no-any-return]


def _receive(pool: Any, place: int, file: Any, size: int) -> Any:
    """Return a storage in the main process, which frees its block when it is dropped."""
    if pool not in _received:
        _received[pool] = {}
        for process in multiprocessing.active_children():
            if process.pid == pool[0]:  # the blocks stay until the loader drops its worker
                weakref.finalize(process, _received.pop, pool, None).atexit = False
    if file is not None:
        _received[pool][place] = Block(file)
    block = _received[pool][place]
    block.memory[-1] = RECEIVED
    storage = block.lend(size)
    weakref.finalize(storage, _release, block, os.getpid()).atexit = False
    return storage


def _release(block: Block, process: int) -> None:
    # A forked child that drops its copy does not free the tensor of its parent.
    if os.getpid() == process and block.memory[-1] == RECEIVED:
        block.memory[-1] = FREE
        if block.memory[-2]:
            block.empty()


def _give_up_blocks() -> None:
    """Give up the blocks of the tensors that a forked child inherits."""
    for block in [b for blocks in list(_received.values()) for b in list(blocks.values())]:
        if block.memory[-1] == RECEIVED:
            block.memory[-1] = GIVEN_UP
    for block in _pool._blocks if _pool else []:
        block.is_forked |= block.storage() is not None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_give_up_blocks, after_in_parent=_give_up_blocks)
