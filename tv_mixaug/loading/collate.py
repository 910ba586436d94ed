"""Collate samples into batches and mix them, in any DataLoader."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, nn

from tv_mixaug._validation import check_bool, check_integer
from tv_mixaug.engine.plan import Plan
from tv_mixaug.engine.sampling import seeded_global_rng
from tv_mixaug.loading import memory_pool as ring
from tv_mixaug.loading.batch_index import BatchIndex
from tv_mixaug.loading.default_collate import collate_samples
from tv_mixaug.loading.loader_frames import is_starting_worker
from tv_mixaug.loading.shared_value import SharedValue
from tv_mixaug.transforms.base import MixTransform
from tv_mixaug.transforms.one_of import OneOf, as_batch_transform

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def make_collate_fn(
    transforms: nn.Module | Callable[..., Any] | Sequence[Callable[..., Any]],
    p: float | Sequence[float] | None = None,
    *,
    collate_fn: Callable[[Sequence[Any]], Any] | None = None,
    seed: int | None = None,
    rank: int | None = None,
    record: bool = False,
    reuse_memory: bool | None = None,
) -> CollateFn:
    """Make a ``collate_fn`` that collates samples and mixes the batch.

    Args:
        transforms: One transform of a batch, ours or any other of ``torchvision.transforms.v2``;
            or a list of them, which stands for a :class:`~tv_mixaug.OneOf` of the list.
        p: The probability that it is applied; its own by default, or 1. For a choice the
            probability of each, with a sum of at most 1; equal shares by default.
        collate_fn: Function that collates the samples. By default they are collated as by
            ``torch.utils.data.default_collate``, except that tv_tensors keep their types and
            detection targets stay a list with one mapping for each image.
        seed: If given, the plan of a batch is a function of (seed, rank, epoch, batch index)
            alone: the same for every number of workers. Otherwise torch's global random generator
            is used, with which workers never repeat each other.
        rank: Rank of this process among those that train together, part of the seed. By default
            asked of ``torch.distributed``, or else the environment.
        record: Whether the :class:`~tv_mixaug.engine.plan.Plan` travels with the batch: as last element
            of a list or tuple, or under the key ``"mix"`` of a dict.
        reuse_memory: Whether workers write batches into memory of batches that are no longer in
            use. For the default collating, where it is the default; on Linux, elsewhere memory
            is fresh.

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
        p: Any = None,
        collate_fn: Any = None,
        seed: int | None = None,
        rank: int | None = None,
        record: bool = False,
        reuse_memory: bool | None = None,
    ) -> None:
        is_choice = isinstance(transforms, Sequence)
        self.transform = OneOf(transforms, p) if is_choice else as_batch_transform(transforms)
        if not (collate_fn is None or callable(collate_fn)):
            raise TypeError(f"collate_fn must be callable, got {type(collate_fn).__name__}.")
        for name, value in (("seed", seed), ("rank", rank)):
            if value is not None:
                check_integer(name, value, 0, expected="an int or None")
        check_bool("record", record)
        if reuse_memory is not None:
            check_bool("reuse_memory", reuse_memory, expected="a bool or None")
        if record and not self.transform.has_plan:
            raise ValueError(
                f"record must be False with {self.transform.display_name}, which has no plan, got True."
            )
        if collate_fn is torch.utils.data.default_collate:
            collate_fn = None
        if reuse_memory and collate_fn is not None:
            raise ValueError("reuse_memory must be False with a collate_fn of your own.")
        self.seed, self.rank = (None if n is None else int(n) for n in (seed, rank))
        self.collate_fn, self.record = collate_fn, record
        self.reuse_memory = collate_fn is None if reuse_memory is None else reuse_memory
        # Workers hold this memory too, so they see what is set while they run.
        self._p = SharedValue(
            self.transform.p if p is None else self.transform.check_p(p), torch.float64
        )
        self._numbering = BatchIndex()

    def __call__(self, samples: Sequence[Any]) -> Any:
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
        if torch.compiler.is_compiling():
            raise TypeError(
                "a collate function cannot be compiled, since it reads samples on the host; "
                "compile its transform."
            )
        if not isinstance(samples, (list, tuple)):
            raise TypeError(f"samples must be a list, got {type(samples).__name__}.")
        if not samples:
            raise ValueError("samples must hold at least one sample, got an empty list.")
        generator = self._generator()
        transform, p = self.transform.choose(self.p, generator)
        allocate = None
        if self.collate_fn is not None:
            # A copy of the generator: whoever collates, the mixes are the same.
            with seeded_global_rng(generator and generator.clone_state()):
                batch = self.collate_fn(samples)
        else:
            allocate = ring.allocator(self.reuse_memory)
            keep_apart = isinstance(transform, MixTransform)
            batch = collate_samples(samples, allocate, keep_apart=keep_apart)
        # What a function of the user's returns may be the data set's own memory.
        batch, recipe = transform.run(
            batch, p, inplace=False, generator=generator, allocate=allocate
        )
        return _with_plan(batch, recipe.plan()) if self.record and recipe else batch

    def __repr__(self) -> str:
        seed = "" if self.seed is None else f", seed={self.seed}"
        return f"{type(self).__name__}({self.transform.display_name}, p={self.p}{seed})"

    @property
    def p(self) -> float | list[float]:
        """The probability in use: a number for one transform, a list for a list."""
        p: float | list[float] = self._p.get()
        return p

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
        self._p.set(self.transform.check_p(p))

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

    def for_validation(self) -> CollateFn:
        """Make a function that collates alike and never mixes, for the validation loader.

        Its batches are those that this one leaves unmixed, with the same types and label format,
        smoothing included; steps of a chain that are not ours are made. ``set_p`` and
        ``set_epoch`` of the one do not reach the other.

        Returns:
            The function, with ``p`` 0 and without a seed, since nothing of ours is drawn.

        Raises:
            ValueError: If no transform is ours, so that none gives unmixed labels their format.

        Example:
            >>> from tv_mixaug import CutMix
            >>> collate = make_collate_fn(CutMix(num_classes=3), seed=0)
            >>> images, labels = collate.for_validation()([(torch.rand(3, 8, 8), 2)])
            >>> labels
            tensor([[0., 0., 1.]])
        """
        if self.transform.options is None:
            raise ValueError(
                "transforms must have one of tv_mixaug's, which gives unmixed labels the format of "
                f"mixed ones, got {self.transform.display_name}; make them a Chain of tv_mixaug's."
            )
        plain = copy.copy(self)
        plain.seed = None
        plain.set_p(self.transform.disabled_p)
        return plain

    def __getstate__(self) -> dict[str, Any]:
        """Return the state: shared with a worker that is spawned, a copy for anyone else."""
        if is_starting_worker():
            return {**self.__dict__, "rank": self._find_rank()}  # known only here
        copies = {"_p": copy.copy(self._p), "_numbering": copy.copy(self._numbering)}
        return {**self.__dict__, **copies}

    def _find_rank(self) -> int:
        if self.rank is not None:
            return self.rank
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank()
        found = (os.environ.get(name, "") for name in RANK_VARIABLES)
        return next((int(value) for value in found if value.isdigit()), 0)

    def _generator(self) -> Generator | None:
        """Return where the random numbers of this batch come from; None is torch's own."""
        if self.seed is None:
            return None
        key = ",".join(map(str, (self.seed, self._find_rank(), *self._numbering.find())))
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)


def _with_plan(batch: Any, plan: Plan) -> Any:
    if isinstance(batch, Mapping):
        if "mix" in batch:
            raise ValueError("record needs the key 'mix', but the batch has it; rename it.")
        return {**batch, "mix": plan}
    if isinstance(batch, list):
        return [*batch, plan]
    return (*batch, plan) if isinstance(batch, tuple) else (batch, plan)
