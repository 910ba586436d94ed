"""What the tests of start methods run in workers; spawned workers import it."""

import contextlib
import os
import warnings
from collections import OrderedDict
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug.engine.sampling import seeded_global_rng


class Images(Tensor):
    """A user's kind of tensor."""


class Fields(OrderedDict[str, Any]):
    """A user's kind of mapping."""


class Items(list[Any]):
    """A user's kind of list."""


class Around:
    """Call a function with what a collate function returns in a worker."""

    def __init__(self, collate_fn: Any, change: Any) -> None:
        self.collate_fn, self.change = collate_fn, change

    def __call__(self, samples: Any) -> Any:
        """Return what the function makes of the batch."""
        return self.change(self.collate_fn(samples))


def every_form(batch: Any) -> dict[str, Any]:
    """Return tensors over the memory of a batch in every form that a wrapper may send."""
    images, masks = batch
    image = images.as_subclass(tv_tensors.Image)
    image.note, masks.pair = "a picture", (images, {"image": image})
    plain = images.as_subclass(Tensor)
    leaf = plain.detach().requires_grad_()
    views = [plain, plain[1:], plain[:, ::2], plain.transpose(1, 3), plain.view(torch.uint8)]
    return {
        "the batch": batch, "with an attribute": image, "again": [images, image],
        "views": views, "a leaf": leaf, "of a user's kind": plain[:1].as_subclass(Images),
        "a storage": plain.untyped_storage(), "a parameter": torch.nn.Parameter(plain[2:]),
        "other data": Items([plain + 1]), "conjugate": torch.view_as_complex(plain[..., :2]).conj(),
    }  # fmt: skip


def describe(value: Any, starts: list[int]) -> Any:
    """Return what a process can see of a sent value; memory is described by its first user."""
    if isinstance(value, torch.UntypedStorage):
        if value.data_ptr() in starts:
            return starts.index(value.data_ptr())
        starts.append(value.data_ptr())
        return torch.empty(0, dtype=torch.uint8).set_(value).numpy().tobytes()
    if isinstance(value, Tensor):
        traits = value.dtype, value.shape, value.stride(), value.requires_grad, value.is_conj()
        found = describe(value.untyped_storage(), starts)
        attributes = [(name, describe(one, starts)) for name, one in sorted(vars(value).items())]
        return type(value), *traits, value.storage_offset(), found, attributes
    if isinstance(value, dict):
        return type(value), [(key, describe(one, starts)) for key, one in value.items()]
    is_list = isinstance(value, (list, tuple))
    return (type(value), [describe(one, starts) for one in value]) if is_list else value


def send_by_value(worker: int) -> None:
    """Register a user's own way to send tensors, from which other numbers arrive."""
    ForkingPickler.register(Tensor, lambda tensor: (torch.full, ((2,), float(tensor.sum() + 1))))


def share_by_name(worker: int) -> None:
    """Share memory as users do whose loops keep many batches."""
    torch.multiprocessing.set_sharing_strategy("file_system")


class ForkedReader:
    """Let a child of the worker read the first batch again when ten others were made."""

    def __init__(self, collate_fn: Any) -> None:
        self.collate_fn, self.calls = collate_fn, 0

    def __call__(self, samples: Any) -> tuple[Tensor, bool]:
        """Return the images, and whether the child has read what it inherited."""
        images, is_same = self.collate_fn(samples)[0], True
        if self.calls == 0:
            array = images.numpy()
            (go, self.go), (answer, writing) = os.pipe(), os.pipe()
            self.answer, wanted = answer, array.tobytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
                if os.fork() == 0:
                    os.close(self.go)
                    os.read(go, 1)
                    os.write(writing, b"same" if array.tobytes() == wanted else b"other")
                    os._exit(0)
            os.close(writing)
        if self.calls == 10:
            os.write(self.go, b"1")
            is_same = os.read(self.answer, 5) == b"same"
        self.calls += 1
        return images, is_same


def use_locks(samples: Any) -> Tensor:
    """Call what takes a lock of the package."""
    with seeded_global_rng(torch.Generator()):
        return torch.rand(len(samples))


class _Iterator:
    """An object with the names of torch's iterators, and another meaning."""

    def __init__(self, collate_fn: Any, samples: Any) -> None:
        self._num_yielded = self._index_queues = self._index_sampler = "mine"
        self.found = collate_fn(samples)

    def _next_data(self, collate_fn: Any, samples: Any) -> Any:
        return collate_fn(samples)


def _worker_loop(idx: Any, data_queue: Any, collate_fn: Any, samples: Any) -> Any:
    return collate_fn(samples)


NAMESAKES = {
    "a function": lambda collate_fn, samples: _worker_loop("a", "b", collate_fn, samples),
    "an iterator": lambda collate_fn, samples: _Iterator(len, samples)._next_data(
        collate_fn, samples
    ),
    "a constructor": lambda collate_fn, samples: _Iterator(collate_fn, samples).found,
}


class Namesake:
    """Call a collate function in a function that has the name of one of torch's."""

    def __init__(self, name: str, collate_fn: Any) -> None:
        self.name, self.collate_fn = name, collate_fn

    def __call__(self, samples: Any) -> Any:
        """Collate the samples."""
        return NAMESAKES[self.name](self.collate_fn, samples)


def open_files() -> list[Path]:
    """Return the files that this process holds open."""
    return list(Path("/proc/self/fd").iterdir())


def allocated_memory() -> int:
    """Return the bytes of memory in the blocks that this process holds."""
    total = 0
    for file in open_files():
        with contextlib.suppress(FileNotFoundError):  # the folder itself, which was open
            if "tv_mixaug" in str(file.readlink()):
                total += 512 * file.stat().st_blocks
    return total
