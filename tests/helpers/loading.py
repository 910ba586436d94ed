"""Data sets and collate functions for the tests of loaders; spawned workers import them."""

import multiprocessing
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.loading.batch_index import BatchIndex

CLASSES = 5
TRAITS = ("dtype", "shape", "device", "requires_grad", "format", "canvas_size")

# The server imports these once and then forks the workers, which saves seconds for each of them.
multiprocessing.set_forkserver_preload(["torch", "torchvision", "tv_mixaug.loading.collate"])


class Pictures(Dataset):
    """Random pictures with a label and a number, kept in memory."""

    def __init__(self, count: int = 26, size: int = 8) -> None:
        self.images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.images[index], index % CLASSES, index


class Share:
    """Iterate over the items that one worker gets, with a state that can be saved."""

    def __init__(self, items: Any, few: int | None = None) -> None:
        info = get_worker_info()
        self.items, self.given = items, 0
        self.worker, self.step = (0, 1) if info is None else (info.id, info.num_workers)
        self.most = few if few and self.worker == self.step - 1 else len(items)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        index = self.worker + self.given * self.step
        if index >= len(self.items) or self.given == self.most:
            raise StopIteration
        self.given += 1
        return self.items[index]

    def state_dict(self) -> dict[str, int]:
        """Return the state."""
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a state."""
        self.given = state["given"]


class Stream(IterableDataset):
    """A stream without a state, dealt to the workers item by item.

    Args:
        items: What is dealt.
        few: The number of items from the last worker; all of its share by default.
    """

    def __init__(self, items: Any = None, few: int | None = None) -> None:
        self.items, self.few = Pictures() if items is None else items, few

    def __iter__(self) -> Any:
        return (item for item in Share(self.items, self.few))


class StatefulStream(Stream):
    """The same stream with a state."""

    def __iter__(self) -> Any:
        return Share(self.items, self.few)


class Ask:
    """A collate function that returns the samples and what each of some calls finds."""

    def __init__(self, calls: int = 1) -> None:
        self.batch_index, self.calls = BatchIndex(), calls

    def __call__(self, samples: Any) -> tuple[Any, list[Any]]:
        """Find the batch index once for each call."""
        return samples, [self.batch_index.find() for _ in range(self.calls)]


def find_and_warn(batch_index: BatchIndex | None = None) -> tuple[Any, list[str]]:
    """Return what a batch index finds in this process, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = (batch_index or BatchIndex()).find()
    return found, [str(warning.message) for warning in caught]


class AskForWarnings(Ask):
    """A collate function that returns the warnings of a worker."""

    def __call__(self, samples: Any) -> list[str]:
        """Find the batch index once."""
        return find_and_warn(self.batch_index)[1]


class Sample(NamedTuple):
    """A sample with names."""

    images: Tensor
    labels: int


def make(**options: Any) -> Any:
    """Return a collate function with two transforms, a seed and a record."""
    options = {"seed": 3, "record": True, **options}
    form = {"num_classes": CLASSES, "passthrough": (2,)}  # a picture's number is not a label
    transforms = [CutMix(mode="sample", **form), Mixup(**form)]
    return make_collate_fn(transforms, **options)


def epochs(collate_fn: Any, count: int = 1, dataset: Any = None, **options: Any) -> list[Any]:
    """Return the batches of some epochs, one list for each epoch; workers send them in blocks."""
    options = {"batch_size": 4, **options}
    loader = DataLoader(dataset or Pictures(size=80), collate_fn=collate_fn, **options)
    found = []
    for epoch in range(count):
        collate_fn.set_epoch(epoch)
        found.append(list(loader))
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two nested batches agree in structure, types, dtypes, devices and every value."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        if any(getattr(one, name, None) != getattr(other, name, None) for name in TRAITS):
            return False
        if one.is_quantized:
            return same(one.dequantize(), other.dequantize())
        return one.is_meta or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Sequence) and not isinstance(one, (str, bytes)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
