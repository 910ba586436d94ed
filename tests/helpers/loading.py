"""Data sets and helpers for the tests of loaders, which spawned workers can import from here."""

import multiprocessing
import os
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.loading.batch_index import BatchIndex

CLASSES = 5

# What takes seconds to import is imported once, by the server that then forks the workers.
multiprocessing.set_forkserver_preload(["torch", "torchvision", "tv_mixaug.loading.collate"])


class Pictures(Dataset):
    """Random pictures with a label and a number, kept in memory."""

    def __init__(self, count: int = 26, size: int = 8) -> None:
        self.images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.images[index], index % CLASSES, index


class Stream(IterableDataset):
    """The same as a stream without a state, dealt to workers one by one."""

    def __init__(self, count: int = 26) -> None:
        self.pictures = Pictures(count)

    def __iter__(self) -> Any:
        info = get_worker_info()
        start, step = (0, 1) if info is None else (info.id, info.num_workers)
        return (self.pictures[i] for i in range(start, len(self.pictures), step))


class StatefulStream(Stream):
    """The same, with a state that can be saved."""

    def __iter__(self) -> Any:
        info = get_worker_info()
        start, step = (0, 1) if info is None else (info.id, info.num_workers)
        return StatefulIterator(self.pictures, start, step)


class StatefulIterator:
    """Walk through the pictures, remembering where."""

    def __init__(self, pictures: Pictures, start: int, step: int) -> None:
        self.pictures, self.place, self.step = pictures, start, step

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        if self.place >= len(self.pictures):
            raise StopIteration
        self.place += self.step
        return self.pictures[self.place - self.step]

    def state_dict(self) -> dict[str, int]:
        """Return the place."""
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to the place."""
        self.place = state["place"]


class Numbers(Dataset):
    """Ten samples of a picture and a label."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((3, 4, 4), float(index)), index % CLASSES


def ask_in_process(numbering: BatchIndex | None = None) -> tuple[Any, list[str], int]:
    """Return what the numbering tells in this process, what it warned of, and the process."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = (numbering or BatchIndex()).find()
    return found, [str(warning.message) for warning in caught], os.getpid()


class Telling:
    """A collate function that returns what its numbering tells and warns of."""

    def __init__(self) -> None:
        self.numbering = BatchIndex()

    def __call__(self, samples: Any) -> tuple[Any, list[str], int]:
        """Ask once for each batch."""
        return ask_in_process(self.numbering)


class Sample(NamedTuple):
    """A sample with names."""

    images: Tensor
    labels: int


def make(**options: Any) -> Any:
    """Return a collate function with two transforms, a seed and a record."""
    options = {"seed": 3, "record": True, **options}
    form = {"num_classes": CLASSES, "passthrough": (2,)}  # a picture's number is no label
    transforms = [CutMix(mode="sample", **form), Mixup(**form)]
    return make_collate_fn(transforms, **options)


def epochs(collate_fn: Any, count: int = 1, dataset: Any = None, **options: Any) -> list[Any]:
    """Return the batches of some epochs, a list for each."""
    options = {"batch_size": 4, **options}
    loader = DataLoader(dataset or Pictures(), collate_fn=collate_fn, **options)
    found = []
    for epoch in range(count):
        collate_fn.set_epoch(epoch)
        found.append(list(loader))
    return found


def same(one: Any, other: Any) -> bool:
    """Tell whether two nested batches are of one type and equal bit for bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
