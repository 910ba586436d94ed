"""What does mixing cost? Measure it beside plain collating, torchvision, timm and kornia.

    python run.py                  # all but gpu: about half an hour
    python run.py collate --quick  # one of them, a few rounds: shows that everything runs
    python run.py trace            # counts instead of timing: seconds, and no GPU
    python run.py gpu              # needs a CUDA device

Each writes a table (.md), the numbers (.csv) and, where many are compared, a plot (.svg) to
``results/`` beside this script, or to ``--out``. Needs the extra ``bench``.

How it is measured: in rounds. In each round every contender runs once, in an order that moves on
from round to round, so that whatever else the machine does hits all of them alike. Times are
medians over the rounds; ratios are medians of the ratios within a round. Where one thread does the
work, its processor time is taken, which other programs do not lengthen; elsewhere the clock's.

* ``collate``: samples to a finished batch, as in a worker of a DataLoader: the batch has to end in
  shared memory, with one thread; and in the main process, with one and two threads. What each
  library needs is counted: its collating, its mixing, and the copy into shared memory of a result
  that does not lie there yet.
* ``loader``: a DataLoader with two workers over images in memory, run until its batches flow.
* ``batch``: a batch tensor to a mixed one, beside ``clone()``.
* ``bounds``: what no collate function gets around: fresh pages, stacking, blending, each alone.
* ``labels``: soft and pair targets, for few and for many classes.
* ``import``: what importing this package adds to importing torchvision's v2.
* ``lines``: what the package is made of, counted: code, docstrings, and the rest.
* ``trace``: what a transform asks of a device, counted without one, see :class:`Trace`.
* ``kernels``: how many kernels ``torch.compile`` makes of a transform, counted where it has fused
  them and before it writes them: minutes, and no GPU and no C++ compiler.
* ``small``: batches of small pictures, where calls take the time and not pixels, each of ours
  beside what does the same elsewhere. Memory that was given back is kept for the next batch.
* ``gpu``: transforms, eager and compiled, beside a copy on the device; without one it says so and
  writes nothing.
"""

import argparse
import ast
import csv
import ctypes
import datetime
import io
import itertools
import math
import mmap
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data._utils import worker
from torchvision.transforms import v2
from tqdm import tqdm

from tv_mixaug import CutMix, Cutout, Mixup, OneOf, PairedLabels, RandomErasing, make_collate_fn
from tv_mixaug.engine.apply import LazyStack, apply_plan
from tv_mixaug.engine.kernels import SMALL_SAMPLE
from tv_mixaug.engine.plan import compact
from tv_mixaug.losses import MixCriterion
from tv_mixaug.transforms import mix as transforms

OURS, PLAIN = "tv_mixaug", "plain"
CLASSES = 10
SHAPES = {"128x3x224x224": (128, 3, 224, 224), "512x3x32x32": (512, 3, 32, 32)}
SHAPES["256x1x28x28"] = (256, 1, 28, 28)
SMALL = {"8x3x32x32": (8, 3, 32, 32), "128x3x32x32": (128, 3, 32, 32)}
SMALL |= {name: SHAPES[name] for name in ("256x1x28x28", "512x3x32x32")}
DTYPES = {"float32": torch.float32, "uint8": torch.uint8}
COLOURS = {OURS: "#0b6e4f", "torchvision": "#d1495b", "timm": "#edae49", "kornia": "#7d83ff"}


class Contender(NamedTuple):
    """One way to do one kind of work."""

    work: str  # plain, Mixup, CutMix or Cutout
    library: str
    how: str
    run: Callable[[], Any]


class Row(NamedTuple):
    """One line of a table; ratios are to plain, and to the first of ours for the same work."""

    case: str
    work: str
    library: str
    how: str
    ms: float
    to_plain: float
    to_ours: float

    HEAD = ("work", "", "", "ms", "/ plain", "/ ours")

    def cells(self) -> Sequence[str]:
        versus = f"{self.to_ours:.2f}" if self.library not in (OURS, PLAIN) else ""
        return (
            self.work,
            bold(self.library),
            self.how,
            f"{self.ms:.3g}",
            f"{self.to_plain:.2f}",
            versus,
        )


class Versus(NamedTuple):
    """One line of a table that sets one of ours beside one of another library."""

    case: str
    work: str
    how: str
    library: str
    their_how: str
    us: float
    their_us: float
    to_theirs: float

    HEAD = ("work", "ours", "beside", "", "ours, µs", "theirs, µs", "ours / theirs")

    def cells(self) -> Sequence[str]:
        return (
            *self[1:5],
            f"{self.us:.0f}",
            f"{self.their_us:.0f}",
            f"{self.to_theirs:.2f}",
        )


class Counted(NamedTuple):
    """One line of a table of what was counted, over several draws."""

    case: str
    work: str
    library: str
    how: str
    launches: float  # the median
    most_launches: int
    copies: int  # the most
    moved: float  # the mean, as a multiple of the bytes of the batch
    limit: int

    HEAD = ("work", "", "", "launches", "at most", "copies to the device", "moved", "limit")

    def cells(self) -> Sequence[str]:
        return (
            self.work,
            bold(self.library),
            self.how,
            f"{self.launches:g}",
            f"{self.most_launches}",
            f"{self.copies}",
            f"{self.moved:.1f}",
            f"{self.limit}",
        )


def bold(library: str) -> str:
    return f"**{library}**" if library == OURS else library


# --- Contenders ---------------------------------------------------------------------------------


def ours(work: str, *, num_classes: int = CLASSES, **options: Any) -> nn.Module:
    if work == "OneOf":
        rules = [ours(rule, num_classes=num_classes, **options) for rule in ("Mixup", "CutMix")]
        return OneOf(rules, mode=options["mode"])
    rules = {"Mixup": Mixup, "CutMix": CutMix, "Cutout": Cutout, "RandomErasing": RandomErasing}
    return rules[work](num_classes=num_classes, **options)


def of_timm(work: str, mode: str, num_classes: int = CLASSES) -> Callable[..., Any]:
    """Return timm's function of images and labels, which writes into the images."""
    from timm.data.mixup import Mixup as TimmMixup

    return TimmMixup(
        mixup_alpha=float(work == "Mixup"),
        cutmix_alpha=float(work == "CutMix"),
        mode=mode,
        label_smoothing=0.0,
        num_classes=num_classes,
    )


def batch_transforms(dtype: torch.dtype) -> list[tuple[str, str, str, Callable[..., Any]]]:
    """Return (work, library, how, function of images and labels) of the other libraries."""
    from kornia.augmentation import RandomCutMixV2, RandomMixUpV2

    erase = v2.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    found = [
        ("CutMix", "torchvision", "CutMix", v2.CutMix(num_classes=CLASSES)),
        ("Cutout", "torchvision", "RandomErasing", lambda x, y: (erase(x), y)),
    ]
    if dtype == torch.uint8:
        return found  # the others raise, or truncate to zero, on a uint8 batch
    keys = {"data_keys": ["input", "class"], "p": 1.0}
    return [
        ("Mixup", "torchvision", "MixUp", v2.MixUp(num_classes=CLASSES)),
        *found,
        ("Mixup", "timm", "Mixup batch", of_timm("Mixup", "batch")),
        ("Mixup", "timm", "Mixup elem", of_timm("Mixup", "elem")),
        ("CutMix", "timm", "Mixup batch", of_timm("CutMix", "batch")),
        ("CutMix", "timm", "Mixup elem", of_timm("CutMix", "elem")),
        ("Mixup", "kornia", "RandomMixUpV2", RandomMixUpV2(**keys)),
        ("CutMix", "kornia", "RandomCutMixV2", RandomCutMixV2(**keys)),
    ]


def collate_functions(dtype: torch.dtype) -> list[tuple[str, str, str, Callable[..., Any], bool]]:
    """Return (work, library, how, collate function, whether it takes NumPy samples)."""
    from timm.data.mixup import FastCollateMixup

    found: list[Any] = [("plain", PLAIN, "default_collate", default_collate, False)]
    for work, mode in itertools.product(("Mixup", "CutMix", "Cutout"), ("batch", "sample")):
        function = make_collate_fn(ours(work, mode=mode))
        found.append((work, OURS, f'mode="{mode}"', function, False))
    for work, library, how, transform in batch_transforms(dtype):
        found.append((work, library, how, after_collating(transform), False))
    if dtype == torch.uint8:
        for work, mode in itertools.product(("Mixup", "CutMix"), ("batch", "elem")):
            alphas = {
                "mixup_alpha": float(work == "Mixup"),
                "cutmix_alpha": float(work == "CutMix"),
            }
            options = {"label_smoothing": 0.0, "num_classes": CLASSES, "mode": mode}
            function = FastCollateMixup(**alphas, **options)
            found.append((work, "timm", f"FastCollateMixup {mode}", function, True))
    return found


def after_collating(transform: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda samples: transform(*default_collate(samples))


def random_batch(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    if dtype == torch.uint8:
        return torch.randint(256, shape, dtype=dtype, device=device)
    return torch.rand(shape, dtype=dtype, device=device)


# --- Measuring ----------------------------------------------------------------------------------


def measure(
    case: str,
    contenders: list[Contender],
    rounds: int,
    least: float = 0.02,
    clock: Callable[[], float] = time.thread_time,
) -> list[Row]:
    """Run the contenders in rounds, and compare them with the first and with the first of ours."""
    times = times_of(case, contenders, rounds, least, clock)
    plain = times[0]
    first_of_ours = {
        c.work: times[place]
        for place, c in reversed(list(enumerate(contenders)))
        if c.library == OURS
    }
    return [
        Row(
            case,
            c.work,
            c.library,
            c.how,
            1000 * statistics.median(times[place]),
            ratio(times[place], plain),
            ratio(times[place], first_of_ours.get(c.work, times[place])),
        )
        for place, c in enumerate(contenders)
    ]


def times_of(
    case: str,
    contenders: Sequence[Contender],
    rounds: int,
    least: float,
    clock: Callable[[], float],
) -> list[list[float]]:
    """Time each in each round; a short one is repeated within its turn for ``least`` s."""
    repeats = []
    for contender in contenders:
        seconds_of(contender.run, 1, clock)  # what is imported or compiled on first use
        enough = least and least / seconds_of(contender.run, 1, clock)
        repeats.append(max(1, round(enough)))
    times: list[list[float]] = [[] for _ in contenders]
    order = list(range(len(contenders)))
    for number in tqdm(range(rounds), desc=case, leave=False):
        start = number * 5 % len(order)
        for place in order[start:] + order[:start]:
            times[place].append(seconds_of(contenders[place].run, repeats[place], clock))
    return times


def seconds_of(run: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    """Time one run; a contender that measures a stretch of its own returns it as a float."""
    start = clock()
    for _ in range(repeats):
        told = run()
    seconds = (clock() - start) / repeats
    return told if isinstance(told, float) else seconds


def ratio(times: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def set_threads(count: int) -> Callable[[], float]:
    """Let torch and OpenCV have so many threads; return the clock to be used."""
    import cv2

    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    return time.thread_time if count == 1 else time.perf_counter


def share(batch: Any) -> None:
    """Put tensors into shared memory, as sending them from a worker does."""
    for leaf in batch:
        if isinstance(leaf, PairedLabels):
            share(leaf)
        else:
            leaf.share_memory_()


# --- What is measured ---------------------------------------------------------------------------


def collate(options: argparse.Namespace) -> list[Row]:
    rows = []
    places = [("worker, 1 thread", True, 1)]
    places += [(f"main process, {n} thread{'s' * (n > 1)}", False, n) for n in options.threads]
    for (shape_name, shape), dtype_name in itertools.product(options.shapes, options.dtypes):
        pixels = random_batch(shape, DTYPES[dtype_name])
        tensors = [(own.clone(), row % CLASSES) for row, own in enumerate(pixels)]
        arrays = [(own.numpy(), label) for own, label in tensors]
        for place, in_worker, threads in places:
            clock = set_threads(threads)
            contenders = [
                Contender(
                    work,
                    library,
                    how,
                    collate_run(function, arrays if numpy else tensors, in_worker),
                )
                for work, library, how, function, numpy in collate_functions(DTYPES[dtype_name])
            ]
            case = f"{shape_name} {dtype_name}, {place}"
            rows += measure(case, contenders, options.rounds, clock=clock)
    return rows


def collate_run(function: Any, samples: Any, in_worker: bool) -> Callable[[], None]:
    info = worker.WorkerInfo(id=0, num_workers=1, seed=0, dataset=None) if in_worker else None

    def run() -> None:
        worker._worker_info = info
        try:
            batch = function(samples)
            if in_worker:
                share(batch)
        finally:
            worker._worker_info = None

    return run


class InMemory(Dataset):
    """Images that need no decoding, so that nothing but collating takes time."""

    def __init__(self, pixels: torch.Tensor, batches: int, as_arrays: bool) -> None:
        self.pixels = [own.clone().numpy() if as_arrays else own.clone() for own in pixels]
        self.batches = batches

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.pixels[index % len(self.pixels)], index % CLASSES


def loader(options: argparse.Namespace) -> list[Row]:
    rows = []
    set_threads(1)
    for (shape_name, shape), dtype_name in itertools.product(options.shapes, options.dtypes):
        dtype = DTYPES[dtype_name]
        batches = options.batches if shape[-1] > 100 else 4 * options.batches
        sets = {
            numpy: InMemory(random_batch(shape, dtype), batches, numpy) for numpy in (False, True)
        }
        contenders = []
        for work, library, how, function, numpy in collate_functions(dtype):
            if "elem" in how:
                continue  # slow enough in batch mode
            run = loader_run(sets[numpy], function, recycles=library == OURS)
            contenders.append(Contender(work, library, how, run))
            if library == OURS and how == 'mode="batch"':
                contenders += loaders_by_memory(work, sets[numpy], CLASSES)
        case = f"{shape_name} {dtype_name}, two workers"
        rounds = max(2, options.rounds // 3)
        rows += measure(case, contenders, rounds, least=0.0)
        if shape_name == "512x3x32x32" or options.tiny:  # where labels are most of a batch
            plain = loader_run(sets[False], default_collate, recycles=False)
            contenders = [Contender("plain", PLAIN, "default_collate, class indices", plain)]
            for work in ("Mixup", "CutMix"):
                function = make_collate_fn(ours(work, num_classes=1000))
                run = loader_run(sets[False], function, recycles=True)
                contenders.append(Contender(work, OURS, 'mode="batch"', run))
                contenders += loaders_by_memory(work, sets[False], 1000)
            rows += measure(f"{case}, K = 1,000", contenders, rounds, least=0.0)
    return rows


def loaders_by_memory(work: str, data: InMemory, num_classes: int) -> Iterator[Contender]:
    """Yield ours with memory that is used again, and with fresh memory, whatever is the default."""
    for reuse in (True, False):
        transform = ours(work, num_classes=num_classes, mode="batch")
        function = make_collate_fn(transform, reuse_memory=reuse)
        run = loader_run(data, function, recycles=reuse)
        yield Contender(work, OURS, f"reuse_memory={reuse}", run)


def loader_run(data: InMemory, function: Any, recycles: bool) -> Callable[[], float]:
    # The first batches start the workers; more of them fill the pages of recycled memory.
    skipped = 24 if recycles else 8
    size = len(data.pixels)
    order = range(size * (skipped + data.batches))

    def run() -> float:
        """Return the seconds a batch takes once they flow."""
        loader = DataLoader(data, size, sampler=order, num_workers=2, collate_fn=function)
        batches = iter(loader)
        for _ in range(skipped):
            next(batches)
        start = time.perf_counter()
        count = sum(1 for _ in batches)
        return (time.perf_counter() - start) / count

    return run


def bounds(options: argparse.Namespace) -> list[Row]:
    """Time the parts of a worker's batch alone, to say what bounds the whole."""
    rows = []
    set_threads(1)
    for (shape_name, shape), dtype_name in itertools.product(options.shapes, options.dtypes):
        pixels = random_batch(shape, DTYPES[dtype_name])
        samples = [own.clone() for own in pixels]
        labelled = [(own, row % CLASSES) for row, own in enumerate(samples)]
        contenders = [
            Contender(
                "plain",
                PLAIN,
                "default_collate in a worker",
                collate_run(default_collate, labelled, in_worker=True),
            ),
            Contender(
                "pages",
                PLAIN,
                "fresh shared memory, a byte written to each page",
                bind(touch_pages, pixels.numel() * pixels.itemsize),
            ),
            Contender(
                "stack",
                PLAIN,
                "torch.stack into the same memory again",
                bind(torch.stack, samples, out=pixels),
            ),
        ]
        for work, transform in (("Mixup", Mixup()), ("CutMix", CutMix())):
            drawn = [transform.mix((pixels, torch.eye(len(samples))))[1] for _ in range(32)]
            mix = mix_again(samples, pixels, list(map(compact, drawn)))
            contenders.append(Contender(work, OURS, "pixels, into the same memory again", mix))
        case = f"{shape_name} {dtype_name}, 1 thread"
        rows += measure(case, contenders, options.rounds)
    return rows


def mix_again(samples: Any, out: torch.Tensor, recipes: Sequence[Any]) -> Callable[[], None]:
    """Return what mixes samples by each recipe in turn; small ones are stacked before."""
    in_turn, spare = itertools.cycle(recipes), torch.empty_like(out)
    is_small = samples[0].nbytes < SMALL_SAMPLE

    def run() -> None:
        held = torch.stack(samples, out=spare) if is_small else samples
        apply_plan(LazyStack(held, lambda size, dtype: out), next(in_turn))

    return run


def touch_pages(count: int) -> None:
    storage = torch.UntypedStorage._new_shared(count)
    torch.empty(0, dtype=torch.uint8).set_(storage)[:: mmap.PAGESIZE] = 1


def batch(options: argparse.Namespace) -> list[Row]:
    rows = []
    for (shape_name, shape), dtype_name in itertools.product(options.shapes, options.dtypes):
        images = random_batch(shape, DTYPES[dtype_name])
        labels = torch.arange(len(images)) % CLASSES
        for threads in options.threads:
            clock = set_threads(threads)
            contenders = [Contender("plain", PLAIN, "clone()", bind(images.clone))]
            for work, mode in itertools.product(("Mixup", "CutMix", "Cutout"), ("batch", "sample")):
                run = bind(ours(work, mode=mode), images, labels)
                contenders.append(Contender(work, OURS, f'mode="{mode}"', run))
            for work in ("Mixup", "CutMix"):
                run = bind(ours(work, inplace=True), images, labels)
                contenders.append(Contender(work, OURS, "inplace=True", run))
            for work, library, how, transform in batch_transforms(images.dtype):
                name = f"{how}, in place" if library == "timm" else how
                contenders.append(Contender(work, library, name, bind(transform, images, labels)))
            case = f"{shape_name} {dtype_name}, {threads} thread{'s' * (threads > 1)}"
            rows += measure(case, contenders, options.rounds, clock=clock)
    return rows


def bind(function: Any, *arguments: Any, **named: Any) -> Callable[[], None]:
    def run() -> None:
        function(*arguments, **named)  # the result is dropped within the time, like everybody's

    return run


def small(options: argparse.Namespace) -> list[Versus]:
    """Set ours beside what does the same, where calls take the time, and not pixels."""
    rows = []
    clock = set_threads(1)
    keep_memory()
    shapes = dict(options.shapes) if options.tiny else SMALL
    cases = [(*case, CLASSES) for case in itertools.product(shapes.items(), DTYPES.items())]
    if not options.tiny:
        cases.append((("128x3x32x32", SMALL["128x3x32x32"]), ("float32", torch.float32), 1000))
    for (shape_name, shape), (dtype_name, dtype), num_classes in cases:
        groups = small_contenders(random_batch(shape, dtype), num_classes)
        case = f"{shape_name} {dtype_name}, K = {num_classes:,}"
        flat = list(itertools.chain.from_iterable(groups))
        times = iter(times_of(case, flat, options.rounds, 0.02, clock))
        for mine, *others in groups:
            own = next(times)
            for other in others:
                theirs = next(times)
                us, their_us = (1e6 * statistics.median(each) for each in (own, theirs))
                sides = (mine.how, other.library, other.how)
                rows.append(Versus(case, mine.work, *sides, us, their_us, ratio(own, theirs)))
    return rows


def keep_memory() -> None:
    """Let glibc keep what is given back to it, for the rest of the process.

    By default it returns memory of some MB to the system, or not, by what happened before. The
    next batch then has to touch fresh pages, or not, which makes a contender four times as slow or
    fast from run to run. What fresh pages cost is what ``batch`` and ``bounds`` tell.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3  # of malloc.h
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**25)


def small_contenders(images: torch.Tensor, num_classes: int) -> list[list[Contender]]:
    """Return groups of one of ours, and of what does the same work elsewhere.

    Nobody else mixes a uint8 batch by one weight: torchvision and timm refuse it. Ours on bytes
    stands there beside timm on the same pictures given as float32, and beside torchvision after a
    conversion that is timed.
    """
    from timm.data.mixup import FastCollateMixup

    labels = torch.arange(len(images)) % num_classes
    samples = [(own.clone(), int(label)) for own, label in zip(images, labels, strict=True)]
    arrays = [(own.numpy(), label) for own, label in samples]

    def of_batch(library: str, how: str, function: Any, dtype: torch.dtype | None = None) -> Any:
        own = images.to(dtype or images.dtype, copy=True)  # some write into it
        return Contender(work, library, how, bind(function, own, labels))

    def of_samples(library: str, how: str, function: Any, samples: Any = samples) -> Any:
        return Contender(work, library, how, bind(function, samples))

    groups = []
    for work, theirs in (("Mixup", v2.MixUp), ("CutMix", v2.CutMix)):
        transform = theirs(num_classes=num_classes)
        name = theirs.__name__
        batch = [of_batch(OURS, "on a batch", ours(work, num_classes=num_classes))]
        function = make_collate_fn(ours(work, num_classes=num_classes))
        collated = [of_samples(OURS, "collated", function)]
        if work == "CutMix" or images.is_floating_point():
            batch.append(of_batch("torchvision", name, transform))
            collated.append(
                of_samples("torchvision", f"default_collate, {name}", after_collating(transform))
            )
        else:
            of_floats = of_timm(work, "batch", num_classes)
            batch.append(of_batch("timm", "Mixup batch, of float32", of_floats, torch.float32))
            batch.append(
                of_batch(
                    "torchvision", f"float(), {name}", lambda x, y, t=transform: t(x.float(), y)
                )
            )
            fast = FastCollateMixup(mixup_alpha=1.0, label_smoothing=0.0, num_classes=num_classes)
            collated.append(of_samples("timm", "FastCollateMixup batch", fast, arrays))
        groups += [batch, collated]
    per_sample = of_batch(
        OURS, 'on a batch, mode="sample"', ours(work, num_classes=num_classes, mode="sample")
    )
    elem = of_batch("timm", "Mixup elem, in place", of_timm(work, "elem", num_classes))
    return [*groups, [per_sample, elem]]


def labels(options: argparse.Namespace) -> list[Row]:
    """Compare the label formats; the images are tiny, so that labels are what takes time."""
    set_threads(1)
    rows = []
    size = 16 if options.tiny else 128
    for count in (1000, 21841):
        index = torch.randint(count, (size,))
        samples = [(torch.rand(3, 8, 8), int(label)) for label in index]
        soft = make_collate_fn(Mixup(num_classes=count))
        pair = make_collate_fn(Mixup(num_classes=count, targets="pair"))
        torchvision_soft = after_collating(v2.MixUp(num_classes=count))
        functions = [
            ("plain", PLAIN, "class indices", default_collate),
            ("Mixup", OURS, 'targets="soft"', soft),
            ("Mixup", OURS, 'targets="pair"', pair),
            ("Mixup", "torchvision", "soft", torchvision_soft),
        ]
        in_worker, loss = [], []
        logits = torch.randn(size, count, requires_grad=True)
        alone, mixed = nn.CrossEntropyLoss(), MixCriterion(nn.CrossEntropyLoss())
        for work, library, how, function in functions:
            target = function(samples)[1]
            parts = target if isinstance(target, PairedLabels) else [target]
            sent = sum(part.nbytes for part in parts)
            name = f"{how}, {sent:,} bytes"
            in_worker.append(Contender(work, library, name, collate_run(function, samples, True)))
            criterion = alone if library == "torchvision" else mixed
            name = f"{how}, keeps {kept_bytes(criterion, logits, target):,} bytes"
            loss.append(Contender(work, library, name, loss_run(criterion, logits, target)))
        run = loss_run(alone, logits, index)
        loss.append(Contender("plain", PLAIN, "class indices, without MixCriterion", run))
        rows += measure(f"K = {count:,}: collate {size} in a worker", in_worker, options.rounds)
        rows += measure(f"K = {count:,}: loss and gradient of {size}", loss, options.rounds)
    return rows


def loss_run(criterion: nn.Module, logits: torch.Tensor, target: Any) -> Callable[[], None]:
    def run() -> None:
        logits.grad = None
        criterion(logits, target).backward()

    return run


def kept_bytes(criterion: nn.Module, logits: torch.Tensor, target: Any) -> int:
    """Count what the loss keeps for its gradient, each piece of memory once."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = criterion(logits, target)  # alive, so that no address comes twice
    del loss
    return sum(kept.values())


def imports(options: argparse.Namespace) -> list[Row]:
    """Start Python anew and time the imports, of modules compiled before, as an installer does."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def run(before: str, statement: str) -> Callable[[], float]:
        code = (
            f"import sys, time; {before}; start = time.perf_counter(); {statement};"
            "print(time.perf_counter() - start, 'cv2' in sys.modules)"
        )

        def once() -> float:
            command = [sys.executable, "-c", code]
            words = subprocess.check_output(command, text=True, env=environment).split()
            if words[1] != "False":
                raise RuntimeError("OpenCV was imported, which has to wait for its first use.")
            return float(words[0])

        return once

    theirs = "import torchvision.transforms.v2"
    ours = (
        "from tv_mixaug import Chain, CutMix, Cutout, Mixup, OneOf, RandomErasing, make_collate_fn"
    )
    contenders = [
        Contender("plain", PLAIN, theirs, run("pass", theirs)),
        Contender("import", OURS, "tv_mixaug after it", run(theirs, ours)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        environment["PYTHONPYCACHEPREFIX"] = folder
        return measure("in a new process", contenders, options.rounds, least=0.0)


class Lines(NamedTuple):
    """One line of a table of what a part of the package is made of."""

    case: str
    part: str
    modules: str
    lines: int
    code: int
    docstrings: int
    rest: int

    HEAD = ("part", "modules", "lines", "code", "docstrings", "comments and empty lines")

    def cells(self) -> Sequence[str]:
        modules = self.modules.replace("__", r"\_\_")  # else they are bold
        return (self.part, modules, *map(str, self[3:]))


PARTS = {
    "a batch from end to end": "base transforms one_of leaves nesting aliases arguments plans "
    "draws execute kernels labels masks functional",
    "detection targets": "detection",
    "chains": "chain containers foreign",
    "a loader's samples, numbers and memory": "loading",
    "losses and metrics": "losses metrics",
    "timm's names": "timm",
    "pictures and the command line": "viz io flowers cli demo __main__ __init__",
}


def lines(options: argparse.Namespace) -> list[Lines]:
    """Count what the package is made of, but the test kit."""
    root, rows = Path(transforms.__file__).parent, []
    for part, modules in PARTS.items():
        names = modules.split()
        files = [f for name in names for f in (root / f"{name}.py", *(root / name).glob("*.py"))]
        counts = [count_lines(file.read_text()) for file in files if file.exists()]
        rows.append(Lines("tv_mixaug", part, modules, *map(sum, zip(*counts, strict=True))))
    total = (sum(row[place] for row in rows) for place in range(3, 7))
    return [*rows, Lines("tv_mixaug", "**all**", "", *total)]


def count_lines(text: str) -> tuple[int, int, int, int]:
    """Return all lines, those of code and of docstrings, and the rest."""
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node) is not None
    ]
    told = {n for doc in docs for n in range(doc.lineno, (doc.end_lineno or doc.lineno) + 1)}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    code = {
        n
        for token in tokens
        if token.type not in (*silent, tokenize.ENDMARKER)
        for n in range(token.start[0], token.end[0] + 1)
    }
    every, code = len(text.splitlines()), code - told
    return every, len(code), len(told), every - len(code) - len(told)


class Speed(NamedTuple):
    """One line of a table of times on a device; ratios are to a copy of the batch."""

    case: str
    work: str
    library: str
    how: str
    us: float
    gb_per_s: float
    of_copying: float
    host_us: float

    HEAD = ("work", "", "", "µs", "GB/s", "of copying", "host, µs")

    def cells(self) -> Sequence[str]:
        return (
            self.work,
            bold(self.library),
            self.how,
            f"{self.us:.0f}",
            f"{self.gb_per_s:,.0f}",
            f"{self.of_copying:.0%}",
            f"{self.host_us:.0f}",
        )


def gpu(options: argparse.Namespace) -> list[Speed]:
    """Time transforms by events on the device, and how long the host takes to ask for them.

    Counted is what has to move: a copy reads and writes each pixel; Mixup reads it twice, as own
    and as partner's; a cut reads and writes each pixel once. uint8 is also made normalised half.
    """
    if not torch.cuda.is_available():
        raise SystemExit("gpu needs a CUDA device, and torch sees none here: nothing is written.")
    rows = []
    for shape_name, shape in options.shapes:
        for dtype in (torch.float32, torch.bfloat16, torch.uint8):
            rows += gpu_case(shape_name, shape, dtype, options.rounds)
    return rows


def gpu_case(
    shape_name: str, shape: tuple[int, ...], dtype: torch.dtype, rounds: int
) -> list[Speed]:
    images = random_batch(shape, dtype, "cuda")
    target = torch.empty_like(images)
    labels = torch.arange(len(images), device="cuda") % CLASSES
    mean, scale = torch.rand(2, 1, shape[1], 1, 1, device="cuda")
    size = images.nbytes
    found: list[tuple[str, str, str, int, Callable[[], Any]]] = [
        ("plain", PLAIN, "copy", 2 * size, lambda: target.copy_(images)),
    ]
    for work, how, transform in graph_transforms(CLASSES):
        moved = round({"Mixup": 3, "OneOf": 2.5}.get(work, 2) * size)
        found.append((work, OURS, how, moved, bind(transform, images, labels)))
        run = bind(compile_alone(transform), images, labels)
        found.append((work, OURS, f"compiled, {how}", moved, run))
        if dtype == torch.uint8:
            moved += 2 * images.numel() - size  # half is written in the place of bytes
            run = bind(compile_alone(then_normalise(transform, mean, scale)), images, labels)
            found.append((work, OURS, f"compiled, to normalised half, {how}", moved, run))
    for work, library, how, transform in batch_transforms(dtype):
        if "elem" not in how:
            moved = (3 if work == "Mixup" else 2) * size
            found.append((work, library, how, moved, bind(transform, images, labels)))
    contenders = [
        Contender(work, library, how, event_run(run)) for work, library, how, _, run in found
    ]
    case = f"{shape_name} {str(dtype).removeprefix('torch.')}, {torch.cuda.get_device_name()}"
    times = times_of(case, contenders, rounds, least=0.0, clock=time.perf_counter)
    copied = found[0][3] / statistics.median(times[0])
    return [
        Speed(
            case,
            work,
            library,
            how,
            1e6 * statistics.median(taken),
            moved / statistics.median(taken) / 1e9,
            moved / statistics.median(taken) / copied,
            1e6 * statistics.median(host_seconds(run) for _ in range(rounds)),
        )
        for taken, (work, library, how, moved, run) in zip(times, found, strict=True)
    ]


def graph_transforms(num_classes: int) -> list[tuple[str, str, nn.Module]]:
    """Return (work, how, transform) of all rules of ours, as one graph takes them."""
    found: list[tuple[str, str, nn.Module]] = []
    for work in ("Mixup", "CutMix", "Cutout", "RandomErasing", "OneOf"):
        for mode in ("batch", "sample"):
            options = {"p": 1.0} if work == "RandomErasing" else {}
            transform = ours(work, num_classes=num_classes, mode=mode, **options)
            found.append((work, f'mode="{mode}"', transform))
    noise = ours("RandomErasing", num_classes=num_classes, p=1.0, fill="noise")
    return [*found, ("RandomErasing", 'mode="sample", fill="noise"', noise)]


def compile_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of its own, so that no other shares its graphs or their limit."""

    def call(*batch: Any) -> Any:
        return function(*batch)

    call.__code__ = call.__code__.replace(co_name=f"call_{id(function)}")
    return torch.compile(call, fullgraph=True)


def then_normalise(
    transform: Callable[..., Any], mean: torch.Tensor, scale: torch.Tensor
) -> Callable[..., Any]:
    def step(images: torch.Tensor, labels: torch.Tensor) -> Any:
        images, labels = transform(images, labels)
        return images.float().sub(mean).mul(scale).half(), labels

    return step


def host_seconds(run: Callable[[], Any], repeats: int = 20) -> float:
    """Time how long the host takes to ask for the work, while the device is behind."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    taken = time.perf_counter() - start
    torch.cuda.synchronize()
    return taken / repeats


def event_run(run: Callable[[], Any], repeats: int = 20) -> Callable[[], float]:
    def timed() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000 / repeats

    return timed


# --- Counting -----------------------------------------------------------------------------------


class Trace(TorchDispatchMode):
    """Count what is asked of a device, by what torch dispatches for meta tensors within it.

    Meta tensors have a shape and no values: nothing is computed, and no device is needed. What the
    host draws and computes by itself is not counted. The rules:

    * A launch is an operation that makes or changes a meta tensor of at least one element. Views
      and memory that is only reserved (``empty``) are none. An operation counts once, also where a
      device starts two kernels for it (a sort, say); a ``_foreach_`` one counts once where all its
      tensors are contiguous, and else once for each, which is how CUDA treats them.
    * A copy is a CPU tensor brought to the device: by ``to``, ``copy_``, or as an argument of more
      than zero dimensions; or numbers, by ``torch.tensor``, for which the host also waits. It is
      no launch, unless its target is not contiguous: CUDA then copies into memory reserved on the
      way, and a kernel from there.
    * Bytes moved: what a launch reads and writes. An argument is read once at its own size, not
      the one it is expanded to. A new result, an ``out=`` and the target of ``copy_``, ``fill_``
      or random numbers are written; what is changed in place is read and written. Indexing
      reads what it takes and the index; scattering writes what it puts. A copy writes what
      arrives.

    Attributes:
        launches: How many there were.
        copies: How many tensors came from the host.
        moved: How many bytes the device read and wrote.
    """

    RESERVES = frozenset(("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"))
    NO_KERNEL = RESERVES | {"_unsafe_view", "resize", "set", "lift_fresh"}
    ONLY_WRITES = frozenset(("copy", "fill", "zero", "_foreach_copy", "_foreach_zero"))
    ONLY_WRITES |= {"normal", "uniform", "random", "bernoulli", "exponential"}
    TAKES = frozenset(("index_select", "index", "gather", "take", "embedding"))
    PUTS = frozenset(("scatter", "index_put", "index_copy", "index_fill", "put"))
    ADDS = frozenset(("scatter_add", "scatter_reduce", "index_add"))

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.copies = self.moved = 0
        self.numbers = MadeOfNumbers(self)

    def __enter__(self) -> Any:
        self.numbers.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.numbers.__exit__(*error)

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = op(*args, **kwargs)
        self.count(op, args, kwargs, result)
        return result

    def count(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        name = op._schema.name.removeprefix("aten::").rstrip("_")
        given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
        aliases = {a.name: a.alias_info for a in op._schema.arguments if a.alias_info is not None}
        changed = [given[key] for key, alias in aliases.items() if alias.is_write and key in given]
        targets = {a.name for a in op._schema.arguments if a.is_out}
        results = tensors_of(result) or tensors_of(changed)
        if (
            name in self.NO_KERNEL
            or torch.Tag.inplace_view in op.tags
            or (aliases and not changed)  # a view
            or not sum(t.numel() for t in results if t.is_meta)
        ):
            return
        source = given.get("src", given.get("self"))
        if name in ("copy", "_to_copy") and not source.is_meta:
            self.copies += 1
            self.moved += size_of(results[0])
            if name == "copy" and not results[0].is_contiguous():
                self.launches += 1
                self.moved += 2 * size_of(results[0])
            return
        apart = name.startswith("_foreach") and not all(
            t.is_contiguous() for t in tensors_of(list(given.values()))
        )
        self.launches += len(results) if apart else 1
        if name.endswith("_like") or name.startswith("new_"):
            given = {}  # asked for its shape alone
        for place, (key, value) in enumerate(given.items()):
            found = tensors_of(value)
            self.copies += sum(not t.is_meta and t.dim() > 0 for t in found)
            size = sum(size_of(t) * (1 if t.is_meta else 2) for t in found if t.is_meta or t.dim())
            if key in aliases and name in self.PUTS | self.ADDS:
                is_read = name in self.ADDS or given.get("accumulate", False)
                self.moved += (2 if is_read else 1) * put(name, given) * value.itemsize
            elif key in aliases:
                is_read = key not in targets and name not in self.ONLY_WRITES
                self.moved += (2 if is_read else 1) * size
            elif place == 0 and name in self.TAKES:
                self.moved += sum(t.numel() for t in results) * value.itemsize
            else:
                self.moved += size
        if not changed:
            self.moved += sum(size_of(t) for t in results)


class MadeOfNumbers(TorchFunctionMode):
    """Count what ``torch.tensor`` copies, which a dispatch mode does not see."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        makes = function in (torch.tensor, torch.as_tensor, torch.asarray)
        if makes and result.is_meta and not isinstance(args[0], torch.Tensor):
            self.trace.copies += 1
            self.trace.moved += size_of(result)
        return result


def tensors_of(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def size_of(tensor: torch.Tensor) -> int:
    """Return the bytes a tensor has, however far it is expanded."""
    lengths = (n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step or not n)
    return math.prod(lengths) * tensor.itemsize


def put(name: str, given: dict[str, Any]) -> int:
    """Return how many elements an operation of ``Trace.PUTS`` or ``ADDS`` puts in place."""
    own = given["self"]
    if name == "index_put":
        if any(index is not None and index.dtype == torch.bool for index in given["indices"]):
            return own.numel()  # how many are True is in the values
        return torch.ops.aten.index.Tensor(own, given["indices"]).numel()
    if name in ("index_copy", "index_fill", "index_add"):
        return own.numel() // own.shape[given["dim"]] * given["index"].numel()
    return given["index"].numel()


def trace(options: argparse.Namespace) -> list[Counted]:
    """Count what transforms ask of a device for a batch, with class indices as labels."""
    shape = (4, 3, 16, 16) if options.tiny else (64, 3, 224, 224)
    limits = {"Mixup": 3}  # own, partner and result; a cut needs one of both
    rows = []
    for dtype in (torch.float32, torch.float16, torch.uint8):
        images = torch.empty(shape, dtype=dtype, device="meta")
        labels = torch.empty(len(images), dtype=torch.int64, device="meta")
        real = random_batch((2, 3, 16, 16), dtype), torch.arange(2)
        case = f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
        for work, library, how, transform in device_transforms(1000):
            try:
                transform(*real)
            except RuntimeError:
                if library == OURS:
                    raise
                continue  # a meta tensor would let pass what is refused here
            counts = [counts_of(transform, images, labels, seed) for seed in range(options.draws)]
            launches, copies, moved = zip(*counts, strict=True)
            rows.append(
                Counted(
                    case,
                    work,
                    library,
                    how,
                    statistics.median(launches),
                    max(launches),
                    max(copies),
                    statistics.mean(moved) / images.nbytes,
                    limits.get(work, 2),
                )
            )
    return rows


def device_transforms(num_classes: int) -> list[tuple[str, str, str, Callable[..., Any]]]:
    """Return (work, library, how, function of images and labels) of what is counted."""
    found: list[tuple[str, str, str, Callable[..., Any]]] = []
    for work, how, transform in graph_transforms(num_classes):
        pairings = ("roll", "shuffle") if work in ("Mixup", "CutMix") else ("",)
        for pairing in pairings:
            if pairing:
                transform = ours(work, num_classes=num_classes, mode=transform.mode)
                transform.pairing = pairing
            found.append((work, OURS, f"{how}, {pairing}".rstrip(", "), transform))
    erase = v2.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    found.append(("Mixup", "torchvision", "MixUp", v2.MixUp(num_classes=num_classes)))
    found.append(("CutMix", "torchvision", "CutMix", v2.CutMix(num_classes=num_classes)))
    found.append(("Cutout", "torchvision", "RandomErasing", lambda x, y: (erase(x), y)))
    for work, mode in itertools.product(("Mixup", "CutMix"), ("batch", "elem")):
        how = f"Mixup {mode}, in place"
        found.append((work, "timm", how, of_timm(work, mode, num_classes)))
    return found


def counts_of(
    transform: Callable[..., Any], images: torch.Tensor, labels: torch.Tensor, seed: int
) -> tuple[int, int, int]:
    torch.manual_seed(seed)
    np.random.seed(seed)  # timm draws there
    with Trace() as counter:
        transform(images, labels)
    return counter.launches, counter.copies, counter.moved


class Fused(NamedTuple):
    """One line of a table of the kernels that the default backend of torch.compile makes."""

    case: str
    work: str
    how: str
    image_kernels: int
    kernels: int

    HEAD = ("work", "", "kernels that write images", "all kernels")

    def cells(self) -> Sequence[str]:
        return self.work, self.how, f"{self.image_kernels}", f"{self.kernels}"


class CountedError(Exception):
    """Ends a compilation whose kernels were counted."""


def kernels(options: argparse.Namespace) -> list[Fused]:
    """Count what the default backend starts for a compiled transform, once it has fused all."""
    rows = []
    for dtype in (torch.float32, torch.uint8):
        images = random_batch((8, 3, 32, 32), dtype)
        for work, how, transform in graph_transforms(CLASSES):
            sizes = written_by_kernels(transform, images, torch.arange(len(images)))
            of_images = sum(max(written) >= images.numel() for written in sizes)
            case = str(dtype).removeprefix("torch.")
            rows.append(Fused(case, work, how, of_images, len(sizes)))
    return rows


def written_by_kernels(function: Callable[..., Any], *batch: torch.Tensor) -> list[list[int]]:
    """Return how many elements each kernel writes, for each tensor that it writes."""
    from torch._inductor import config

    sizes: list[list[int]] = []

    def count(nodes: Any) -> Any:
        started = [node for node in nodes if "Nop" not in type(node).__name__]
        sizes.extend([int(w.get_numel()) for w in node.read_writes.writes] for node in started)
        raise CountedError

    torch.compiler.reset()
    with config.patch({"_post_fusion_custom_pass": count, "fx_graph_cache": False}):
        try:
            torch.compile(function, fullgraph=True)(*batch)
        except Exception as error:
            if "CountedError" not in str(error):
                raise
    return sizes


# --- Reports ------------------------------------------------------------------------------------


def write(name: str, rows: list[Any], options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / f"{name}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(rows[0]._fields)
        table.writerows(
            [f"{value:.4g}" if isinstance(value, float) else value for value in row] for row in rows
        )
    (options.out / f"{name}.md").write_text(as_table(rows) + "\n" + circumstances(options) + "\n")
    if name in ("collate", "loader", "batch"):
        plot(rows, options.out / f"{name}.svg", name)
    print(as_table(rows))
    print(f"written to {options.out / name}.*")


def as_table(rows: list[Any]) -> str:
    lines = []
    head = rows[0].HEAD
    rule = ["---" if isinstance(value, str) else "--:" for value in rows[0][1:]]
    for case, group in itertools.groupby(rows, lambda row: row.case):
        lines += ["", f"**{case}**", "", as_line(head), as_line(rule)]
        lines += [as_line(row.cells()) for row in group]
    return "\n".join(lines).lstrip() + "\n"


def as_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def circumstances(options: argparse.Namespace) -> str:
    names = ("torch", "torchvision", "timm", "kornia", "opencv-python", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if "model name" in line), model)
    return (
        f"{datetime.date.today()}, Python {platform.python_version()}, {versions}; {model}, "
        f"{os.cpu_count()} cores, {platform.system()}. Load of the machine while it ran: "
        f"{os.getloadavg()[0]:.1f}. `{options.command}`"
    )


def plot(rows: list[Row], path: Path, name: str) -> None:
    """Draw the cost beside plain of the best mode of each library, for each case."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9})
    from matplotlib import pyplot

    cases = list(dict.fromkeys(row.case for row in rows))
    columns = min(2, len(cases))
    lines = -(-len(cases) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(5 * columns, 2.9 * lines), squeeze=False
    )
    for axis, case in itertools.zip_longest(axes.flat, cases):
        if case is None:
            axis.remove()
            continue
        best: dict[tuple[str, str], float] = {}
        for row in rows:
            if row.case == case and row.library != PLAIN:
                library = f"{OURS}, reuse_memory" if "=True" in row.how else row.library
                if "inplace" in row.how:
                    library = f"{OURS}, inplace"
                key = (row.work, library)
                best[key] = min(row.to_plain, best.get(key, row.to_plain))
        order = sorted(best, key=lambda key: ("Mixup CutMix Cutout".index(key[0]), best[key]))
        for place, key in enumerate(order):
            library = key[1].split(",")[0]
            axis.barh(place, best[key], color=COLOURS[library])
            axis.text(best[key], place, f" {best[key]:.2f}", va="center", fontsize=8)
        axis.axvline(1, color="black", linewidth=1)
        axis.set_yticks(range(len(order)), [f"{work} · {library}" for work, library in order])
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set_title(case, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    plain = "clone()" if name == "batch" else "default_collate"
    figure.suptitle(f"{name}: time as a multiple of {plain}", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


TASKS = {
    "collate": collate,
    "bounds": bounds,
    "loader": loader,
    "batch": batch,
    "labels": labels,
    "import": imports,
    "lines": lines,
    "trace": trace,
    "kernels": kernels,
    "small": small,  # after all that times memory
    "gpu": gpu,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="*", help=f"{', '.join(TASKS)}; all but gpu by default")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--rounds", type=int, help="how many; 15 by default, a third for loader")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="of the main process"
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batches", type=int, default=24, help="that a loader is timed over")
    parser.add_argument("--draws", type=int, default=32, help="that trace counts over")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, for tests")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.task if name not in TASKS]
    if unknown:
        parser.error(f"unknown task {unknown[0]}; there are {', '.join(TASKS)}")
    names = [name for name in TASKS if name in (options.task or TASKS.keys() - {"gpu"})]
    options.rounds = options.rounds or (3 if options.quick else 15)
    options.shapes = [(name, SHAPES[name]) for name in options.shapes]
    if options.tiny:
        options.shapes = [("8x3x16x16", (8, 3, 16, 16))]
    options.command = "python docs/benchmarks/run.py " + shlex.join(
        sys.argv[1:] if arguments is None else arguments
    )
    for name in names:
        write(name, TASKS[name](options), options)


if __name__ == "__main__":
    main()
