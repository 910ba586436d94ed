"""Collate samples into batches and mix them, in any DataLoader."""

from __future__ import annotations

import copy
import functools
import hashlib
import operator
import os
import warnings
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from tv_mixaug._validation import check_bool, check_choice, check_integer, ensure, ensure_kind
from tv_mixaug.batch.spec import ParsedBatch, Role
from tv_mixaug.batch.tree import flatten, rebuild, unflatten
from tv_mixaug.engine.sampling import leave_graph, seeded_global_rng, untraced
from tv_mixaug.loading import memory_pool
from tv_mixaug.loading.batch_index import BatchIndex, find_frame
from tv_mixaug.loading.default_collate import collate_samples
from tv_mixaug.loading.shared_value import SharedValue
from tv_mixaug.transforms.base import MixTransform
from tv_mixaug.transforms.one_of import OneOf, as_batch_transform

LAUNCHERS = "OMPI_COMM_WORLD", "PMI", "PMIX", "MV2_COMM_WORLD", "HOROVOD"
RANK_VARIABLES = "RANK", "SLURM_PROCID", *(f"{launcher}_RANK" for launcher in LAUNCHERS)


def make_collate_fn(
    transforms: torch.nn.Module | Callable[..., Any] | Sequence[Callable[..., Any]],
    p: float | Sequence[float] | None = None,
    *,
    collate_fn: Callable[[Sequence[Any]], Any] | None = None,
    seed: int | None = None,
    rank: int | None = None,
    record: bool = False,
    reuse_memory: bool | None = None,
) -> CollateFn:
    """Make a ``collate_fn`` that collates samples and mixes the batch; it can be pickled.

    Args:
        transforms: A transform of batches, from this package or ``torchvision.transforms.v2``; or a
            list of transforms, which stands for a :class:`~tv_mixaug.OneOf`.
        p: The probability that the transform is applied, by default its own or 1. For a list, the
            probability of each transform, with a sum of at most 1; equal shares by default.
        collate_fn: Collates the samples. The default does what ``default_collate`` does, but
            tv_tensors keep their types, and detection targets stay a list of mappings.
        seed: If given, a plan depends only on seed, rank, epoch and batch index, for any number of
            workers. Pipelines that are not a DataLoader number their batches by the calls in each
            process. Otherwise torch's global generator is used.
        rank: Rank of this process among those that train together; a part of the seed. By default
            that of ``torch.distributed`` or of the launcher's environment variables.
        record: Whether to add the :class:`~tv_mixaug.engine.plan.Plan` to the batch: as the last
            element, under the key ``"mix"`` of a dict, or as the field ``mix`` of a named tuple.
        reuse_memory: Whether workers write batches into the memory of batches that are no longer in
            use; by default with the default collating on Linux.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value, or the transforms differ in label format.

    Example:
        >>> from tv_mixaug import CutMix, Mixup
        >>> collate = make_collate_fn([Mixup(num_classes=3), CutMix(num_classes=3)], [0.4, 0.4])
        >>> images, labels = collate([(torch.rand(3, 8, 8), 0), (torch.rand(3, 8, 8), 2)])
        >>> images.shape, labels.shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 3]))
    """
    return CollateFn(transforms, p, collate_fn, seed, rank, record, reuse_memory)


class CollateFn:
    """Collate samples and mix them; made by :func:`make_collate_fn`.

    With ``seed=``, mixes still depend on the number of workers of an iterable data set, which deals
    its samples itself, and on the order of calls outside a DataLoader. Every epoch has the same
    mixes unless :meth:`set_epoch` is called. Make the function in each training process: processes
    that are forked or spawned with it share its ``p`` and epoch. A copy shares nothing.
    """

    labels = "same"

    def __init__(
        self, transforms: Any, p: Any, collate: Any, seed: Any, rank: Any, record: Any, reuse: Any
    ) -> None:
        one, got = not isinstance(p, torch.nn.Module), "a transform as p; write [..., ...]"
        ensure(one, "transforms", "in a list if there are several", got, TypeError)
        is_list = isinstance(transforms, Sequence)
        self.transform = OneOf(transforms, p) if is_list else as_batch_transform(transforms)
        ensure_kind(collate is None or callable(collate), "collate_fn", "callable", collate)
        kind = "an int or None"
        self.seed = None if seed is None else check_integer("seed", seed, 0, expected=kind)
        self.rank = None if rank is None else check_integer("rank", rank, 0, expected=kind)
        self.record = check_bool("record", record)
        expected = f"False for {self.transform.display_name}, which has no plan"
        ensure(self.transform.has_plan or not record, "record", expected, record)
        self.collate_fn = None if collate is torch.utils.data.default_collate else collate
        reuse = self.collate_fn is None if reuse is None else reuse
        self.reuse_memory = check_bool("reuse_memory", reuse, expected="a bool or None")
        allowed = self.collate_fn is None or not reuse
        ensure(allowed, "reuse_memory", "False with a collate_fn", True)
        self._p = SharedValue(self.transform.p if p is None else self.transform.check_p(p), "d")
        self._batch_index = BatchIndex()

    @leave_graph
    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate a list of samples, each a tuple or mapping of an image and other fields."""
        untraced("a collate function")
        is_list = isinstance(samples, (list, tuple))
        ensure(is_list, "samples", "a list", type(samples).__name__, TypeError)
        ensure(len(samples) > 0, "samples", "a list of at least one sample", "an empty list")
        generator = None if self.seed is None else self._make_generator()  # None: the global one
        transform, p = self.transform.choose(self.p, generator)
        allocate = memory_pool.allocator(self.reuse_memory) if self.collate_fn is None else None
        if self.collate_fn is None:
            batch = collate_samples([*samples], allocate, lazy=isinstance(transform, MixTransform))
        else:
            # A copy of the generator, so that the mixes do not depend on the collate function.
            with seeded_global_rng(generator and generator.clone_state()):
                batch = self.collate_fn(samples)
        # Not in place, because a user's function may return the data set's own memory.
        mixed, plan = transform.run(batch, p, inplace=False, generator=generator, allocate=allocate)
        if self.labels == "index":
            parser: Any = transform.parser
            mixed = _put_indices(parser.parse(batch), mixed)
        return _add_plan(mixed, plan.plan()) if self.record and plan else mixed

    @property
    def p(self) -> float | list[float]:
        """The probability in use: a number for one transform, a list for a list."""
        return self._p.get()  # type: ignore[no-any-return]

    def set_p(self, p: float | Sequence[float]) -> None:
        """Set ``p`` for the batches that are collated from now on, also in running workers."""
        ensure(p is not None, "p", "a number or a list of numbers", None, TypeError)
        p = self.transform.check_p(p)
        fits = self.labels == "same" or p == self.transform.disabled_p
        ensure(fits, "p", "0 with labels='index'", p)
        self._p.set(p)

    @property
    def epoch(self) -> int:
        """The epoch that was set last."""
        return int(self._batch_index.numbers.get()[0])

    def set_epoch(self, epoch: int, *, first_batch: int = 0) -> None:
        """Set the epoch, a part of the seed; call it before each epoch's loop, as for a sampler.

        Args:
            epoch: The epoch, >= 0.
            first_batch: The index of the loader's first batch, >= 0, if an epoch is resumed by
                Accelerate's ``skip_first_batches`` or the like; not for a ``StatefulDataLoader``.
        """
        self._batch_index.set_epoch(epoch, first_batch)
        used, rank = self._batch_index.used_rank[0], self._find_rank()
        if os.getpid() == self._batch_index.home and used not in (-1, rank):
            text = f"batches were mixed as rank {used}, but this is rank {rank}; start workers"
            warnings.warn(f"{text} after init_process_group, or give `rank=`.", stacklevel=2)

    def for_validation(self, *, labels: Literal["same", "index"] = "same") -> CollateFn:
        """Return a function that collates alike and applies no mix, only other steps of a Chain.

        Args:
            labels: ``"same"``: the label format of unmixed batches, label smoothing included;
                ``"index"``: the (B,) class indices of the samples.

        Raises:
            ValueError: If no transform of this package gives unmixed labels their format.

        Example:
            >>> from tv_mixaug import CutMix
            >>> keep = make_collate_fn(CutMix(num_classes=3)).for_validation(labels="index")
            >>> keep([(torch.rand(3, 8, 8), 2)])[1]
            tensor([2])
        """
        expected = "of tv_mixaug, whose transforms give unmixed labels the format of mixed ones"
        got = f"{self.transform.display_name}; put it into a Chain with one of these"
        ensure(self.transform.options is not None, "transforms", expected, got)
        plain = copy.copy(self)
        plain.seed = None
        plain.set_p(self.transform.disabled_p)
        plain.labels = check_choice("labels", labels, ("same", "index"))
        return plain

    def __getstate__(self) -> dict[str, Any]:
        shared = {"_p": copy.copy(self._p), "_batch_index": copy.copy(self._batch_index)}
        # A worker that is being started cannot find its rank.
        rank = self._find_rank() if find_frame(__init__="_index_queues")[0] else self.rank
        return {**self.__dict__, **shared, "rank": rank}

    def _find_rank(self) -> int:
        if self.rank is not None:
            return self.rank
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank()
        found = (os.environ.get(name, "") for name in RANK_VARIABLES)
        return next((int(value) for value in found if value.isdigit()), 0)

    def _make_generator(self) -> torch.Generator:
        self._batch_index.used_rank[0] = rank = self._find_rank()
        key = ",".join(map(str, (self.seed, rank, *self._batch_index.find())))
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)


def _put_indices(batch: ParsedBatch, mixed: Any) -> Any:
    values: list[Any] = []
    signature = flatten(mixed, values)
    for place, (field, value) in enumerate(batch.fields()):
        if field.role is Role.LABEL:
            name, got = f"labels at {field.where}", f"{field.shape} {field.dtype}"
            ensure(field.indices, name, "class indices for labels='index'", got)
            values[place] = value.flatten()
    return unflatten(batch._replace(values=values, structure=mixed, signature=signature))


def _add_plan(batch: Any, plan: Any) -> Any:
    names = batch if isinstance(batch, Mapping) else getattr(batch, "_fields", ())
    expected = "False for batches with the key 'mix', which is the plan's"
    ensure("mix" not in names, "record", expected, True)
    if isinstance(batch, Mapping):
        return rebuild(batch, {**batch, "mix": plan})
    if names:
        return _name_fields(type(batch), *batch, plan)
    if isinstance(batch, list):  # perhaps of a user's class, which += keeps
        return operator.iconcat(copy.copy(batch), [plan])  # type: ignore[no-untyped-call]
    return rebuild(batch, (*batch, plan)) if isinstance(batch, tuple) else (batch, plan)


@functools.cache
def _with_mix(kind: Any) -> Any:
    """Return the class of a named tuple with the further field ``mix``."""
    longer: Any = namedtuple(kind.__name__, (*kind._fields, "mix"))  # type: ignore[misc]
    members = {"__slots__": (), "__reduce__": lambda self: (_name_fields, (kind, *self))}
    return type(kind.__name__, (longer, kind), members)


def _name_fields(kind: Any, *values: Any) -> Any:
    return _with_mix(kind)(*values)
