"""Collate samples into batches and mix them, in any DataLoader."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import operator
import os
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from tv_mixaug.arguments import check_integer, check_probability
from tv_mixaug.execute import Rows
from tv_mixaug.functional import MIXED_DTYPES
from tv_mixaug.labels import check_one_format
from tv_mixaug.leaves import is_objects
from tv_mixaug.loading import ring as memory
from tv_mixaug.loading.frames import is_starting_worker
from tv_mixaug.loading.numbering import Numbering
from tv_mixaug.plans import Plan
from tv_mixaug.transforms import MixTransform

Samples = Sequence[Any]
# What default_collate turns into tensors or keeps, one kind for all samples of a place.
PLAIN_KINDS = (str, bytes, np.ndarray, (int, float, complex, np.generic))
OUTSIDE_TARGETS = tuple(
    getattr(tv_tensors, name)
    for name in ("BoundingBoxes", "KeyPoints")
    if hasattr(tv_tensors, name)
)
# What decides how a sample is stacked, fetched for hundreds of samples without a line of Python.
_traits = operator.attrgetter("dtype", "shape", "is_cpu", "requires_grad", "layout")
RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def make_collate_fn(
    transforms: nn.Module | Callable[..., Any] | Sequence[Callable[..., Any]],
    p: float | Sequence[float] | None = None,
    *,
    collate_fn: Callable[[Samples], Any] | None = None,
    seed: int | None = None,
    rank: int | None = None,
    record: bool = False,
    reuse_memory: bool = False,
) -> CollateFn:
    """Make a ``collate_fn`` that collates samples and mixes the batch.

    Args:
        transforms: One transform of a batch, ours or any other of ``torchvision.transforms.v2``;
            or a list of them, of which at most one is applied to a batch.
        p: For one transform the probability that it is applied; its own by default, or 1. For a
            list the probability of each, with a sum of at most 1; equal shares by default.
        collate_fn: Function that collates the samples. By default they are collated as by
            ``torch.utils.data.default_collate``, except that tv_tensors keep their types and
            detection targets stay a list with one mapping for each image.
        seed: If given, the plan of a batch is a function of (seed, rank, epoch, batch index)
            alone: the same for every number of workers. Otherwise torch's global random generator
            is used, with which workers never repeat each other.
        rank: Rank of this process among those that train together, part of the seed. By default
            asked of ``torch.distributed``, or else the environment.
        record: Whether the :class:`~tv_mixaug.plans.Plan` travels with the batch: as last element
            of a list or tuple, or under the key ``"mix"`` of a dict.
        reuse_memory: Whether workers write batches into memory of batches that are no longer in
            use. For the default collating.

    Returns:
        The function, a :class:`CollateFn`, which can be pickled.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value, or the transforms differ in label format.

    Example:
        >>> from tv_mixaug import CutMix, Mixup
        >>> transforms = [Mixup(0.2, num_classes=3), CutMix(num_classes=3)]
        >>> collate = make_collate_fn(transforms, p=[0.4, 0.4])
        >>> images, labels = collate([(torch.rand(3, 8, 8), 0), (torch.rand(3, 8, 8), 2)])
        >>> images.shape, labels.shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 3]))
    """
    return CollateFn(transforms, p, collate_fn, seed, rank, record, reuse_memory)


class CollateFn:
    """Collate and mix; made by :func:`make_collate_fn`.

    With ``seed=`` what cannot be promised is: the same batches for another number of workers from
    an iterable data set, which deals its samples to the workers by itself; the same mixes outside a
    loader's own loop where calls are repeated in another order. An epoch is what
    :meth:`set_epoch` says: without it every epoch has the same mixes, as with
    ``DistributedSampler``. Make the function in each training process: processes that were forked
    after it was made share its ``p`` and epoch, and in other processes than the one that made it
    and its loaders' workers, such as those of a pool, mixes are never the same. Threads may share
    it; which of them gets which mix is a matter of time, unless each has a loader.

    A copy, by ``copy.deepcopy`` (of a loader too), ``sklearn.clone`` or ``pickle``, begins with the
    ``p`` and epoch of the original and shares neither with it.
    """

    def __init__(
        self,
        transforms: Any,
        p: Any,
        collate_fn: Any,
        seed: int | None,
        rank: int | None,
        record: bool,
        reuse_memory: bool,
    ) -> None:
        self._is_list = isinstance(transforms, Sequence)
        self.transforms: tuple[Any, ...] = tuple(transforms) if self._is_list else (transforms,)
        if not self.transforms:
            raise ValueError("transforms must have at least one transform, got an empty list.")
        for transform in self.transforms:
            if not callable(transform):
                raise TypeError(f"transforms must be callable, got {type(transform).__name__}.")
        ours = [t for t in self.transforms if isinstance(t, MixTransform)]
        check_one_format([(type(t).__name__, t.label_format) for t in ours])
        if not (collate_fn is None or callable(collate_fn)):
            raise TypeError(f"collate_fn must be callable, got {type(collate_fn).__name__}.")
        for name, value in (("seed", seed), ("rank", rank)):
            if value is not None and check_integer(name, value, "an int or None") < 0:
                raise ValueError(f"{name} must be >= 0, got {value}.")
        for name, switch in (("record", record), ("reuse_memory", reuse_memory)):
            if not isinstance(switch, bool):
                raise TypeError(f"{name} must be a bool, got {type(switch).__name__}.")
        if record and (len(ours) < len(self.transforms) or not all(t.has_plan for t in ours)):
            raise ValueError(
                "record must be False unless all are Cutout, Mixup or CutMix, got True."
            )
        if collate_fn is torch.utils.data.default_collate:
            collate_fn = None
        if reuse_memory and collate_fn is not None:
            raise ValueError("reuse_memory must be False with a collate_fn of your own.")
        self.seed, self.rank = (None if n is None else int(n) for n in (seed, rank))
        self.collate_fn, self.record = collate_fn, record
        self.reuse_memory = reuse_memory
        # Workers hold this memory too, so they see what is set while they run.
        self._p = _shared(self._check_p(p), torch.float64)
        self._numbering = Numbering()
        self._open_ring(uuid.uuid4().hex)

    def __call__(self, samples: Samples) -> Any:
        """Collate samples and mix them.

        Args:
            samples: The samples of a batch, each a tuple, list, namedtuple or mapping of an image
                (C, H, W), a label and whatever else, nested at will.

        Returns:
            The batch, collated and mixed, with the plan where ``record`` is set.

        Raises:
            TypeError: If the samples are of the wrong kind.
            ValueError: If they cannot be stacked, or the transform refuses the batch.
        """
        if not isinstance(samples, (list, tuple)):
            raise TypeError(f"samples must be a list, got {type(samples).__name__}.")
        if not samples:
            raise ValueError("samples must hold at least one sample, got an empty list.")
        with self._random_state():
            chosen, p = self._choose()
            return self._mix(samples, chosen, p)

    def __repr__(self) -> str:
        names = [getattr(t, "__name__", type(t).__name__) for t in self.transforms]
        shown = f"[{', '.join(names)}]" if self._is_list else names[0]
        seed = "" if self.seed is None else f", seed={self.seed}"
        return f"{type(self).__name__}({shown}, p={self.p}{seed})"

    @property
    def p(self) -> float | list[float]:
        """The probability in use: a number for one transform, a list for a list."""
        values: list[float] = self._p.tolist()
        return values if self._is_list else values[0]

    def set_p(self, p: float | Sequence[float]) -> None:
        """Set the probability for the batches collated from now on, in running workers too.

        Args:
            p: As in :func:`make_collate_fn`.

        Raises:
            TypeError: If ``p`` is of the wrong kind.
            ValueError: If it is out of range, or of another length than the list of transforms.
        """
        if p is None:
            raise TypeError("p must be a number or a list of numbers, got None.")
        self._p.copy_(torch.tensor(self._check_p(p), dtype=torch.float64, device="cpu"))

    @property
    def epoch(self) -> int:
        """The epoch that was set last."""
        return self._numbering.epoch

    def set_epoch(self, epoch: int, *, first_batch: int = 0) -> None:
        """Set the epoch, part of the seed; call it before each epoch's loop, as for a sampler.

        Args:
            epoch: >= 0.
            first_batch: The number of the loader's first batch, >= 0: above 0 where an epoch is
                resumed by a loader that begins behind the batches that were trained on before, as
                that of Accelerate's ``skip_first_batches`` does. A ``StatefulDataLoader`` knows.

        Raises:
            TypeError: If a number is not an int.
            ValueError: If it is negative, or not below 2**63.
        """
        self._numbering.restart(epoch, first_batch)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state: shared with a worker that is spawned, a copy for anyone else."""
        if is_starting_worker():
            # The rank is known only here, and this process keeps the worker's blocks by the name.
            return {**self.__dict__, "rank": self._find_rank(), "_ring": None}
        values = {"_p": self._p.tolist(), "_numbering": copy.copy(self._numbering)}
        return {**self.__dict__, **values, "_name": uuid.uuid4().hex, "_ring": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._p = _shared(self._p, torch.float64)
        self._open_ring(self._name)

    def _open_ring(self, name: str) -> None:
        self._name = name
        self._ring = memory.Ring(name)
        weakref.finalize(self, memory.forget_blocks, name).atexit = False

    def _check_p(self, p: Any) -> list[float]:
        count = len(self.transforms)
        if not self._is_list:
            if p is None:
                only = self.transforms[0]
                p = only.p if isinstance(only, MixTransform) else 1.0
            return [check_probability("p", p)]
        if p is None:
            return [1 / count] * count
        if isinstance(p, (str, bytes)) or not isinstance(p, Sequence):
            raise TypeError(
                f"p must be a list with a probability for each transform, got {type(p).__name__}."
            )
        if len(p) != count:
            raise ValueError(f"p must have {count} values, one for each transform, got {len(p)}.")
        values = [check_probability("p", value) for value in p]
        if sum(values) > 1 + 1e-9:
            raise ValueError(f"p must have a sum of at most 1, got {sum(values)}.")
        return values

    def _find_rank(self) -> int:
        if self.rank is not None:
            return self.rank
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank()
        found = (os.environ.get(name) for name in RANK_VARIABLES)
        return next((int(value) for value in found if value and value.isdigit()), 0)

    def _random_state(self) -> contextlib.AbstractContextManager[Any]:
        if self.seed is None:
            return contextlib.nullcontext()
        return _seeded(self.seed, self._find_rank(), *self._numbering.find())

    def _choose(self) -> tuple[Any, float]:
        """Draw the transform of this batch and the probability it is to use itself."""
        values = self._p.tolist()
        first = self.transforms[0]
        if not self._is_list:
            if isinstance(first, MixTransform):
                return first, values[0]
            return (first, 1.0) if float(torch.rand((), device="cpu")) < values[0] else (None, 0.0)
        point = float(torch.rand((), dtype=torch.float64, device="cpu"))
        for transform, share in zip(self.transforms, values, strict=True):
            if point < share:
                return transform, getattr(transform, "p", 1.0)
            point -= share
        return next((t for t in self.transforms if isinstance(t, MixTransform)), None), 0.0

    def _mix(self, samples: Samples, transform: Any, p: float) -> Any:
        ours = isinstance(transform, MixTransform)
        if self.collate_fn is not None:
            batch = self.collate_fn(samples)
        else:
            allocate = self._ring.allocate if self.reuse_memory else memory.allocate
            batch = collate_samples(samples, allocate, rows=ours and transform.takes_rows)
        if transform is None:
            return batch
        if not ours:
            return transform(batch)
        # What a collate function of the user's returns may be the data set's own memory.
        batch, plan = transform.mix(batch, p=p, inplace=self.collate_fn is None)
        return _with_plan(batch, plan) if self.record else batch


def collate_samples(
    samples: Samples,
    allocate: Callable[[torch.Size, torch.dtype], Tensor] = memory.allocate,
    *,
    rows: bool = False,
) -> Any:
    """Collate samples as ``default_collate`` does, keeping tv_tensor types and detection targets.

    Args:
        samples: B > 0 samples of one structure.
        allocate: Makes the memory that tensors are stacked into.
        rows: Whether images are left unstacked, as :class:`~tv_mixaug.execute.Rows`.

    Returns:
        The batch: tuples and lists of a sample become a list, mappings and namedtuples keep their
        type, mappings with ``"boxes"`` become a list of B mappings.

    Raises:
        TypeError: If samples hold what cannot be collated.
        ValueError: If samples differ in structure or in the shape of a tensor.
    """

    def stack(tensors: list[Tensor]) -> Any:
        first = tensors[0]
        if isinstance(first, OUTSIDE_TARGETS):
            raise ValueError(
                "samples must hold boxes and keypoints in a dict with the key 'boxes', as "
                f"detection targets do, got {type(first).__name__} of their own."
            )
        tv_type = type(first) if isinstance(first, tv_tensors.TVTensor) else None
        plain = [t.as_subclass(Tensor) for t in tensors] if tv_type else tensors
        kinds, traits = set(map(type, tensors)), set(map(_traits, plain))
        if len(kinds) > 1 or len({(dtype, shape) for dtype, shape, *_ in traits}) > 1:
            shapes = sorted({str(tuple(t.shape)) for t in tensors})
            dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in tensors})
            raise ValueError(
                "samples must hold tensors of one type, shape and dtype, got "
                f"shapes {', '.join(shapes)} of dtypes {', '.join(dtypes)}; resize them, or pass a "
                "collate_fn that pads."
            )
        if {(True, False, torch.strided)} != {trait[2:] for trait in traits}:
            batch = torch.stack(plain)
            return tv_tensors.wrap(batch, like=first) if tv_type else batch
        if tv_type not in (None, tv_tensors.Image, tv_tensors.Video):
            # A mask is known by its type, which a lent tensor has only when it is received.
            return tv_tensors.wrap(Rows(plain, memory.allocate).stack(), like=first)
        held = Rows(plain, allocate, tv_type)
        is_image = first.ndim in (3, 4) and first.dtype in MIXED_DTYPES
        return held if rows and is_image else held.finish(held.stack())

    return _collate(list(samples), stack)


def _collate(samples: Any, stack: Callable[[list[Tensor]], Any]) -> Any:
    first = samples[0]
    if isinstance(first, Tensor):
        if not _all_are(Tensor, samples):
            raise TypeError("samples must be of one structure, got tensors and other things.")
        return stack(list(samples))
    if is_objects([first]):
        return list(samples)
    if isinstance(first, Mapping):
        keys = first.keys()
        if not _all_are(Mapping, samples) or any(s.keys() != keys for s in samples):
            raise ValueError("samples must have the same keys, got mappings that differ in them.")
        merged = {key: _collate([s[key] for s in samples], stack) for key in first}
        try:
            if isinstance(first, MutableMapping):
                batch = copy.copy(first)  # default dictionaries and such keep what they hold beside
                batch.update(merged)
                return batch
            return type(first)(merged)  # type: ignore[call-arg]
        except TypeError:
            return merged
    if isinstance(first, (list, tuple)):
        if not _all_are((list, tuple), samples) or len(set(map(len, samples))) > 1:
            raise ValueError("samples must have the same length, got sequences that differ in it.")
        columns = [_collate(column, stack) for column in zip(*samples, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else columns
    kind = next((kind for kind in PLAIN_KINDS if isinstance(first, kind)), None)
    if kind is None or (isinstance(first, np.ndarray) and first.dtype.kind not in "biufc"):
        raise TypeError(
            "samples must hold tensors, arrays, numbers or strings, got "
            f"{type(first).__module__}.{type(first).__name__}; turn pictures into tensors with "
            "v2.ToImage() in the data set, or pass a collate_fn of your own."
        )
    if not _all_are(kind, samples):
        raise TypeError(
            f"samples must be of one structure, got {type(first).__name__} and other things."
        )
    if isinstance(first, np.ndarray):
        return stack([torch.as_tensor(sample, device="cpu") for sample in samples])
    return torch.utils.data.default_collate(samples)


def _all_are(kinds: Any, samples: list[Any]) -> bool:
    """Tell whether all samples are of the kinds; each type is asked once, not each sample."""
    return all(issubclass(kind, kinds) for kind in set(map(type, samples)))


@contextlib.contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed torch's random generator of the CPU from the key, and put it back afterwards."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(_hash(key))
    try:
        yield
    finally:
        generator.set_state(state)


def _shared(value: Any, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(value, dtype=dtype, device="cpu").share_memory_()  # type: ignore[no-untyped-call,no-any-return]


def _hash(key: tuple[int, ...]) -> int:
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _with_plan(batch: Any, plan: Plan) -> Any:
    if isinstance(batch, Mapping):
        if "mix" in batch:
            raise ValueError("record needs the key 'mix', but the batch has it; rename it.")
        return {**batch, "mix": plan}
    if isinstance(batch, list):
        return [*batch, plan]
    return (*batch, plan) if isinstance(batch, tuple) else (batch, plan)
