"""Measure the cost of mixing, next to plain collating, torchvision, timm and kornia.

    python run.py                  # all tasks except gpu: about half an hour
    python run.py collate --quick  # one task, three rounds: shows that it runs
    python run.py trace            # counts instead of times: seconds, no GPU needed
    python run.py gpu              # needs a CUDA device

Each task writes a table (.md), the numbers (.csv) and, for some tasks, a plot (.svg) to
``results/`` next to this script, or to ``--out``. The script needs the dependency group ``bench``.

Times are taken in rounds. In each round every contender runs once, in an order that rotates, so
that other load on the machine affects all of them alike. A time is the median over the rounds, and
a ratio is the median of the ratios within rounds. Work of a single thread is measured in processor
time, which other programs do not lengthen; other work is measured in wall time.

* ``collate``: samples to a batch, as in a worker of a DataLoader, where the batch has to end in
  shared memory; and in the main process, with one and two threads. The time of a library includes
  collating, mixing, and copying a result into shared memory if it is not there yet.
* ``loader``: a DataLoader with two workers over images in memory, after its start.
* ``batch``: a batch tensor to a mixed one, compared with ``clone()``.
* ``bounds``: the parts that no collate function avoids: fresh pages, stacking, blending.
* ``labels``: soft and pair targets, for 1,000 and 21,841 classes.
* ``import``: the import of this package after that of torchvision's v2.
* ``lines``: the lines of the package and the tests, by folder.
* ``trace``: launches, copies and bytes of a transform on a device, counted by :class:`Trace`.
* ``kernels``: the kernels that ``torch.compile`` makes of a transform, counted after fusion and
  before code generation: minutes, and neither a GPU nor a C++ compiler is needed.
* ``small``: batches of small images, where calls and not pixels take the time. Each row compares a
  call of this package with the same work in another library. Freed memory is kept for reuse.
* ``gpu``: transforms, eager and compiled, compared with a copy on the device.
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

import tv_mixaug
from tv_mixaug import CutMix, Cutout, Mixup, OneOf, PairedLabels, RandomErasing, make_collate_fn
from tv_mixaug.engine.apply import LazyStack, apply_plan
from tv_mixaug.engine.kernels import SMALL_SAMPLE
from tv_mixaug.engine.plan import compact
from tv_mixaug.losses import MixCriterion

OURS, PLAIN = "tv_mixaug", "plain"
CLASSES = 10
SHAPES = {
    "128x3x224x224": (128, 3, 224, 224),
    "512x3x32x32": (512, 3, 32, 32),
    "256x1x28x28": (256, 1, 28, 28),
}
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


# The rows of the tables. HEAD and CELLS are the columns of the table, formatted from the fields.


class Row(NamedTuple):
    """A time, as a ratio to plain and to this package's first contender for the same work."""

    case: str
    work: str
    library: str
    how: str
    ms: float
    to_plain: float
    to_ours: float

    HEAD = "work | library | how | ms | / plain | / ours"
    CELLS = "{0.work} | {0.library} | {0.how} | {0.ms:.3g} | {0.to_plain:.2f} | {0.other}"

    @property
    def other(self) -> str:
        return f"{self.to_ours:.2f}" if self.library not in (OURS, PLAIN) else ""


class Comparison(NamedTuple):
    """The times of a call of this package and of the same work in another library."""

    case: str
    work: str
    how: str
    library: str
    other_how: str
    us: float
    other_us: float
    ratio: float

    HEAD = "work | tv_mixaug | library | its function | tv_mixaug, µs | other, µs | ratio"
    CELLS = "{0.work} | {0.how} | {0.library} | {0.other_how} | {0.us:.0f} | {0.other_us:.0f} | "
    CELLS += "{0.ratio:.2f}"


class Counts(NamedTuple):
    """The work that a transform causes on a device, over several calls."""

    case: str
    work: str
    library: str
    how: str
    launches: float  # median
    most_launches: int
    copies: int  # most
    moved: float  # mean, as a multiple of the bytes of the batch
    limit: int

    HEAD = "work | library | how | launches | copies to the device | moved | limit"
    CELLS = (
        "{0.work} | {0.library} | {0.how} | {0.launched} | {0.copies} | {0.moved:.1f} | {0.limit}"
    )

    @property
    def launched(self) -> str:
        most = f" (at most {self.most_launches})" if self.most_launches != self.launches else ""
        return f"{self.launches:g}{most}"


class Speed(NamedTuple):
    """A time on a device, as a share of the speed of a copy."""

    case: str
    work: str
    library: str
    how: str
    us: float
    gb_per_s: float
    of_copying: float
    host_us: float

    HEAD = "work | library | how | µs | GB/s | of copying | host, µs"
    CELLS = "{0.work} | {0.library} | {0.how} | {0.us:.0f} | {0.gb_per_s:,.0f} | "
    CELLS += "{0.of_copying:.0%} | {0.host_us:.0f}"


class Fused(NamedTuple):
    """The kernels that the default backend of torch.compile makes of a transform."""

    case: str
    work: str
    how: str
    image_kernels: int
    kernels: int

    HEAD = "work | how | kernels that write images | all kernels"
    CELLS = "{0.work} | {0.how} | {0.image_kernels} | {0.kernels}"


class Lines(NamedTuple):
    """The lines of a folder; code is neither blank nor a comment nor a docstring."""

    case: str
    folder: str
    files: int
    lines: int
    code: int

    HEAD = "folder | files | lines | code"
    CELLS = "{0.folder} | {0.files} | {0.lines} | {0.code}"


# --- Contenders ---------------------------------------------------------------------------------


def ours(work: str, *, num_classes: int = CLASSES, **options: Any) -> nn.Module:
    if work == "OneOf":
        rules = [ours(rule, num_classes=num_classes, **options) for rule in ("Mixup", "CutMix")]
        return OneOf(rules, mode=options["mode"])
    rules = {"Mixup": Mixup, "CutMix": CutMix, "Cutout": Cutout, "RandomErasing": RandomErasing}
    return rules[work](num_classes=num_classes, **options)


def timm_options(work: str, mode: str, num_classes: int = CLASSES) -> dict[str, Any]:
    alphas = {"mixup_alpha": float(work == "Mixup"), "cutmix_alpha": float(work == "CutMix")}
    return {**alphas, "mode": mode, "label_smoothing": 0.0, "num_classes": num_classes}


def of_timm(work: str, mode: str, num_classes: int = CLASSES) -> Callable[..., Any]:
    """Return timm's function of images and labels, which writes into the images."""
    from timm.data.mixup import Mixup as TimmMixup

    return TimmMixup(**timm_options(work, mode, num_classes))


def batch_transforms(dtype: torch.dtype) -> list[tuple[str, str, str, Callable[..., Any]]]:
    """Return (work, library, how, function of images and labels) of the other libraries."""
    from kornia.augmentation import RandomCutMixV2, RandomMixUpV2

    erase = v2.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    found = [
        ("CutMix", "torchvision", "CutMix", v2.CutMix(num_classes=CLASSES)),
        ("Cutout", "torchvision", "RandomErasing", lambda x, y: (erase(x), y)),
    ]
    if dtype == torch.uint8:
        return found  # the other transforms raise or truncate to zero
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
    """Return (work, library, how, collate function, whether samples are NumPy arrays)."""
    from timm.data.mixup import FastCollateMixup

    found: list[Any] = [("plain", PLAIN, "default_collate", default_collate, False)]
    for work, mode in itertools.product(("Mixup", "CutMix", "Cutout"), ("batch", "sample")):
        function = make_collate_fn(ours(work, mode=mode))
        found.append((work, OURS, f'mode="{mode}"', function, False))
    for work, library, how, transform in batch_transforms(dtype):
        found.append((work, library, how, after_collating(transform), False))
    if dtype == torch.uint8:
        for work, mode in itertools.product(("Mixup", "CutMix"), ("batch", "elem")):
            function = FastCollateMixup(**timm_options(work, mode))
            found.append((work, "timm", f"FastCollateMixup {mode}", function, True))
    return found


def after_collating(transform: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda samples: transform(*default_collate(samples))


def random_batch(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    if dtype == torch.uint8:
        return torch.randint(256, shape, dtype=dtype, device=device)
    return torch.rand(shape, dtype=dtype, device=device)


def bind(function: Any, *arguments: Any, **named: Any) -> Callable[[], None]:
    def run() -> None:
        function(*arguments, **named)  # the result is freed within the measured time

    return run


# --- Measuring ----------------------------------------------------------------------------------


def measure(
    case: str,
    contenders: list[Contender],
    rounds: int,
    least: float = 0.02,
    clock: Callable[[], float] = time.thread_time,
) -> list[Row]:
    """Time the contenders; ratios are to the first one and to this package's first one."""
    times = times_of(case, contenders, rounds, least, clock)
    first_of_ours: dict[str, list[float]] = {}
    for contender, taken in zip(contenders, times, strict=True):
        if contender.library == OURS:
            first_of_ours.setdefault(contender.work, taken)
    return [
        Row(
            case, *contender[:3], 1000 * statistics.median(taken), ratio(taken, times[0]),
            ratio(taken, first_of_ours.get(contender.work, taken)),
        )
        for contender, taken in zip(contenders, times, strict=True)
    ]  # fmt: skip


def times_of(
    case: str,
    contenders: Sequence[Contender],
    rounds: int,
    least: float,
    clock: Callable[[], float],
) -> list[list[float]]:
    """Time each contender in each round, repeated within its turn for at least ``least`` s."""
    repeats = []
    for contender in contenders:
        seconds_of(contender.run, 1, clock)  # imports and compiles
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
    """Time one run; a contender that measures its own time returns it as a float."""
    start = clock()
    for _ in range(repeats):
        result = run()
    seconds = (clock() - start) / repeats
    return result if isinstance(result, float) else seconds


def ratio(times: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def set_threads(count: int) -> Callable[[], float]:
    """Set the number of threads of torch and OpenCV, and return the clock for it."""
    import cv2

    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    return time.thread_time if count == 1 else time.perf_counter


def threads_text(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def share(batch: Any) -> None:
    """Put tensors into shared memory, as a worker does when it sends them."""
    for field in batch:
        if isinstance(field, PairedLabels):
            share(field)
        else:
            field.share_memory_()


# --- Tasks: time --------------------------------------------------------------------------------


def cases(options: argparse.Namespace) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    """Yield the name, shape and dtype of each batch that is measured."""
    for (name, shape), dtype in itertools.product(options.shapes, options.dtypes):
        yield f"{name} {dtype}", shape, DTYPES[dtype]


def collate(options: argparse.Namespace) -> list[Row]:
    rows = []
    places = [("worker, 1 thread", True, 1)]
    places += [(f"main process, {threads_text(n)}", False, n) for n in options.threads]
    for case, shape, dtype in cases(options):
        pixels = random_batch(shape, dtype)
        tensors = [(one.clone(), row % CLASSES) for row, one in enumerate(pixels)]
        arrays = [(one.numpy(), label) for one, label in tensors]
        for place, in_worker, threads in places:
            clock = set_threads(threads)
            contenders = [
                Contender(*names, collate_run(function, arrays if numpy else tensors, in_worker))
                for *names, function, numpy in collate_functions(dtype)
            ]
            rows += measure(f"{case}, {place}", contenders, options.rounds, clock=clock)
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
    """Images that need no decoding, so that only collating takes time."""

    def __init__(self, pixels: torch.Tensor, batches: int, as_arrays: bool) -> None:
        self.pixels = [one.clone().numpy() if as_arrays else one.clone() for one in pixels]
        self.batches = batches

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.pixels[index % len(self.pixels)], index % CLASSES


def loader(options: argparse.Namespace) -> list[Row]:
    rows = []
    set_threads(1)
    rounds = max(2, options.rounds // 3)
    for name, shape, dtype in cases(options):
        case = f"{name}, two workers"
        batches = options.batches if shape[-1] > 100 else 4 * options.batches
        sets = {
            numpy: InMemory(random_batch(shape, dtype), batches, numpy) for numpy in (False, True)
        }
        contenders = []
        for work, library, how, function, numpy in collate_functions(dtype):
            if "elem" in how:
                continue  # it is slow enough in batch mode
            run = loader_run(sets[numpy], function, reuses=library == OURS)
            contenders.append(Contender(work, library, how, run))
            if library == OURS and how == 'mode="batch"':
                contenders += loaders_by_memory(work, sets[numpy], CLASSES)
        rows += measure(case, contenders, rounds, least=0.0)
        if name.startswith("512x3x32x32") or options.tiny:  # with 1,000 classes labels are large
            plain = loader_run(sets[False], default_collate, reuses=False)
            contenders = [Contender("plain", PLAIN, "default_collate, class indices", plain)]
            for work in ("Mixup", "CutMix"):
                function = make_collate_fn(ours(work, num_classes=1000))
                run = loader_run(sets[False], function, reuses=True)
                contenders.append(Contender(work, OURS, 'mode="batch"', run))
                contenders += loaders_by_memory(work, sets[False], 1000)
            rows += measure(f"{case}, K = 1,000", contenders, rounds, least=0.0)
    return rows


def loaders_by_memory(work: str, data: InMemory, num_classes: int) -> Iterator[Contender]:
    """Yield loaders of this package with reused and with fresh memory."""
    for reuse in (True, False):
        transform = ours(work, num_classes=num_classes, mode="batch")
        function = make_collate_fn(transform, reuse_memory=reuse)
        run = loader_run(data, function, reuses=reuse)
        yield Contender(work, OURS, f"reuse_memory={reuse}", run)


def loader_run(data: InMemory, function: Any, reuses: bool) -> Callable[[], float]:
    # The first batches start the workers; later ones touch the pages of reused memory.
    skipped = 24 if reuses else 8
    size = len(data.pixels)
    order = range(size * (skipped + data.batches))

    def run() -> float:
        """Return the seconds for a batch after the skipped ones."""
        loader = DataLoader(data, size, sampler=order, num_workers=2, collate_fn=function)
        batches = iter(loader)
        for _ in range(skipped):
            next(batches)
        start = time.perf_counter()
        count = sum(1 for _ in batches)
        return (time.perf_counter() - start) / count

    return run


def bounds(options: argparse.Namespace) -> list[Row]:
    """Time the parts of a worker's batch one by one."""
    rows = []
    set_threads(1)
    for case, shape, dtype in cases(options):
        pixels = random_batch(shape, dtype)
        samples = [one.clone() for one in pixels]
        labelled = [(one, row % CLASSES) for row, one in enumerate(samples)]
        plain = collate_run(default_collate, labelled, in_worker=True)
        pages = bind(touch_pages, pixels.numel() * pixels.itemsize)
        stack = bind(torch.stack, samples, out=pixels)
        contenders = [
            Contender("plain", PLAIN, "default_collate in a worker", plain),
            Contender("pages", PLAIN, "fresh shared memory, one byte written to each page", pages),
            Contender("stack", PLAIN, "torch.stack into reused memory", stack),
        ]
        for work, transform in (("Mixup", Mixup()), ("CutMix", CutMix())):
            plans = [transform.draw_plan((pixels, torch.eye(len(samples)))) for _ in range(32)]
            mix = mix_into(pixels, samples, list(map(compact, plans)))
            contenders.append(Contender(work, OURS, "pixels into reused memory", mix))
        rows += measure(f"{case}, 1 thread", contenders, options.rounds)
    return rows


def mix_into(out: torch.Tensor, samples: Any, plans: Sequence[Any]) -> Callable[[], None]:
    """Return a function that mixes samples by one plan after the other; small ones are stacked."""
    in_turn, spare = itertools.cycle(plans), torch.empty_like(out)
    is_small = samples[0].nbytes < SMALL_SAMPLE

    def run() -> None:
        source = torch.stack(samples, out=spare) if is_small else samples
        apply_plan(LazyStack(source, lambda size, dtype: out), next(in_turn))

    return run


def touch_pages(count: int) -> None:
    storage = torch.UntypedStorage._new_shared(count)
    torch.empty(0, dtype=torch.uint8).set_(storage)[:: mmap.PAGESIZE] = 1


def batch(options: argparse.Namespace) -> list[Row]:
    rows = []
    for case, shape, dtype in cases(options):
        images = random_batch(shape, dtype)
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
            text = f"{case}, {threads_text(threads)}"
            rows += measure(text, contenders, options.rounds, clock=clock)
    return rows


def small(options: argparse.Namespace) -> list[Comparison]:
    """Compare this package with the same work elsewhere, where calls take the time."""
    rows = []
    clock = set_threads(1)
    keep_memory()
    shapes = dict(options.shapes) if options.tiny else SMALL
    wanted = [(*case, CLASSES) for case in itertools.product(shapes.items(), DTYPES.items())]
    if not options.tiny:
        wanted.append((("128x3x32x32", SMALL["128x3x32x32"]), ("float32", torch.float32), 1000))
    for (shape_name, shape), (dtype_name, dtype), num_classes in wanted:
        groups = small_contenders(random_batch(shape, dtype), num_classes)
        case = f"{shape_name} {dtype_name}, K = {num_classes:,}"
        flat = list(itertools.chain.from_iterable(groups))
        times = iter(times_of(case, flat, options.rounds, 0.02, clock))
        for first, *others in groups:
            taken = next(times)
            for other in others:
                other_taken = next(times)
                us, other_us = (1e6 * statistics.median(each) for each in (taken, other_taken))
                names = (first.work, first.how, other.library, other.how)
                rows.append(Comparison(case, *names, us, other_us, ratio(taken, other_taken)))
    return rows


def keep_memory() -> None:
    """Let glibc keep freed memory for the rest of the process.

    By default glibc returns some MB to the system or keeps them, depending on earlier calls. The
    next batch then has to touch fresh pages or not, and a contender is up to four times as slow or
    fast from run to run. The tasks ``batch`` and ``bounds`` measure the cost of fresh pages.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3  # of malloc.h
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**25)


def small_contenders(images: torch.Tensor, num_classes: int) -> list[list[Contender]]:
    """Return groups of one contender of this package and the same work in other libraries.

    torchvision and timm cannot mix a uint8 batch by one weight. The uint8 rows of this package are
    compared with timm on the same images in float32, and with torchvision after a timed conversion.
    """
    from timm.data.mixup import FastCollateMixup

    labels = torch.arange(len(images)) % num_classes
    samples = [(one.clone(), int(label)) for one, label in zip(images, labels, strict=True)]
    arrays = [(one.numpy(), label) for one, label in samples]

    def of_batch(library: str, how: str, function: Any, dtype: torch.dtype | None = None) -> Any:
        copied = images.to(dtype or images.dtype, copy=True)  # some functions write into it
        return Contender(work, library, how, bind(function, copied, labels))

    def of_samples(library: str, how: str, function: Any, samples: Any = samples) -> Any:
        return Contender(work, library, how, bind(function, samples))

    groups = []
    for work, other in (("Mixup", v2.MixUp), ("CutMix", v2.CutMix)):
        transform, name = other(num_classes=num_classes), other.__name__
        batch = [of_batch(OURS, "on a batch", ours(work, num_classes=num_classes))]
        function = make_collate_fn(ours(work, num_classes=num_classes))
        collated = [of_samples(OURS, "collated", function)]
        if work == "CutMix" or images.is_floating_point():
            how = f"default_collate, {name}"
            batch.append(of_batch("torchvision", name, transform))
            collated.append(of_samples("torchvision", how, after_collating(transform)))
        else:
            of_floats = of_timm(work, "batch", num_classes)
            batch.append(of_batch("timm", "Mixup batch, of float32", of_floats, torch.float32))
            convert = lambda x, y, t=transform: t(x.float(), y)  # noqa: E731
            batch.append(of_batch("torchvision", f"float(), {name}", convert))
            fast = FastCollateMixup(**timm_options("Mixup", "batch", num_classes))
            collated.append(of_samples("timm", "FastCollateMixup batch", fast, arrays))
        groups += [batch, collated]
    rule = ours(work, num_classes=num_classes, mode="sample")
    per_sample = of_batch(OURS, 'on a batch, mode="sample"', rule)
    elem = of_batch("timm", "Mixup elem, in place", of_timm(work, "elem", num_classes))
    return [*groups, [per_sample, elem]]


def labels(options: argparse.Namespace) -> list[Row]:
    """Compare the label formats, with tiny images, so that labels take the time."""
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
            name = f"{how}, {sum(part.nbytes for part in parts):,} bytes"
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
    """Count the bytes that the loss keeps for its gradient, each memory block once."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = criterion(logits, target)  # kept alive, so that no address occurs twice
    del loss
    return sum(kept.values())


def imports(options: argparse.Namespace) -> list[Row]:
    """Time imports in new processes, of compiled modules, as an installer leaves them."""
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
                raise RuntimeError("the import must not load OpenCV.")
            return float(words[0])

        return once

    other = "import torchvision.transforms.v2"
    names = "Chain, CutMix, Cutout, Mixup, OneOf, RandomErasing, make_collate_fn"
    contenders = [
        Contender("plain", PLAIN, other, run("pass", other)),
        Contender(
            "import", OURS, "tv_mixaug, after it", run(other, f"from tv_mixaug import {names}")
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        environment["PYTHONPYCACHEPREFIX"] = folder
        return measure("in a new process", contenders, options.rounds, least=0.0)


def gpu(options: argparse.Namespace) -> list[Speed]:
    """Time transforms by events on the device, and the host's time to launch them.

    The speed counts the bytes that have to move: a copy reads and writes each pixel; Mixup reads
    two pixels for each one it writes; a cut reads one. uint8 is also converted to normalised half.
    """
    if not torch.cuda.is_available():
        raise SystemExit("gpu needs a CUDA device, but torch found none; nothing was written.")
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
            moved += 2 * images.numel() - size  # half is written instead of bytes
            run = bind(compile_alone(then_normalise(transform, mean, scale)), images, labels)
            found.append((work, OURS, f"compiled, to normalised half, {how}", moved, run))
    for work, library, how, transform in batch_transforms(dtype):
        if "elem" not in how:
            moved = (3 if work == "Mixup" else 2) * size
            found.append((work, library, how, moved, bind(transform, images, labels)))
    contenders = [Contender(*names, event_run(run)) for *names, _, run in found]
    case = f"{shape_name} {str(dtype).removeprefix('torch.')}, {torch.cuda.get_device_name()}"
    times = times_of(case, contenders, rounds, least=0.0, clock=time.perf_counter)
    copied = found[0][3] / statistics.median(times[0])
    rows = []
    for taken, (*names, moved, run) in zip(times, found, strict=True):
        seconds = statistics.median(taken)
        host = statistics.median(host_seconds(run) for _ in range(rounds))
        speed = moved / seconds
        rows.append(Speed(case, *names, 1e6 * seconds, speed / 1e9, speed / copied, 1e6 * host))
    return rows


def graph_transforms(num_classes: int) -> list[tuple[str, str, nn.Module]]:
    """Return (work, how, transform) of all rules of this package that compile."""
    found: list[tuple[str, str, nn.Module]] = []
    for work in ("Mixup", "CutMix", "Cutout", "RandomErasing", "OneOf"):
        for mode in ("batch", "sample"):
            options = {"p": 1.0} if work == "RandomErasing" else {}
            transform = ours(work, num_classes=num_classes, mode=mode, **options)
            found.append((work, f'mode="{mode}"', transform))
    noise = ours("RandomErasing", num_classes=num_classes, p=1.0, fill="noise")
    return [*found, ("RandomErasing", 'mode="sample", fill="noise"', noise)]


def compile_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function under a code object of its own, with its own limit of graphs."""

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
    """Time the launches on the host, which do not wait for the device."""
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


# --- Tasks: counts ------------------------------------------------------------------------------


def lines(options: argparse.Namespace) -> list[Lines]:
    """Count the lines of the package and of the tests, by folder."""
    package = Path(tv_mixaug.__file__).parent
    tests = package.parent / "tests"
    kit = [package / "testing"]
    folders = [path for path in sorted(package.iterdir()) if path.is_dir() and path not in kit]
    groups = [("the package without testing", package, [package, *folders])]
    groups.append(("testing", package, kit))
    test_folders = [path for path in sorted(tests.glob("*")) if path.is_dir()]
    groups.append(("tests", tests, [tests, *test_folders]))
    rows = []
    for case, root, members in groups:
        found = []
        for folder in members:
            files = list(folder.glob("*.py") if folder == root else folder.rglob("*.py"))
            counts = [count_lines(file.read_text()) for file in files]
            if counts:
                total = map(sum, zip(*counts, strict=True))
                found.append(Lines(case, f"{folder.name}/", len(files), *total))
        rows += found
        if len(found) > 1:
            sums = (sum(row[place] for row in found) for place in (2, 3, 4))
            rows.append(Lines(case, "**all**", *sums))
    return rows


def count_lines(text: str) -> tuple[int, int]:
    """Return the number of all lines and of code lines."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            first = node.body[0]
            docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE}
    blank |= {tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(text.splitlines()), len(code - docstrings)


class Trace(TorchDispatchMode):
    """Count launches, copies and bytes on a device, from operations dispatched for meta tensors.

    Meta tensors have shapes and no values, so no device is needed. Work on the host is not counted.

    * A launch is an operation that makes or changes a meta tensor with at least one element. Views
      and uninitialised memory (``empty``) are not launches. An operation counts once, even if a
      device starts several kernels for it. A ``_foreach_`` operation counts once if all its tensors
      are contiguous, otherwise once for each tensor, as on CUDA.
    * A copy is a CPU tensor that is brought to the device by ``to``, by ``copy_``, or as an
      argument with at least one dimension; or numbers in ``torch.tensor``, for which the host also
      waits. A copy is a launch only if its target is not contiguous: CUDA then copies into
      temporary memory first.
    * The bytes moved are the bytes that a launch reads and writes. An argument is read once, at its
      size before expansion. A new result, an ``out=`` and the target of ``copy_``, ``fill_`` or
      random numbers are written. A tensor changed in place is read and written. Indexing reads the
      selected elements and the index; scattering writes the scattered elements. A copy from the
      host writes its target.

    Attributes:
        launches: Number of launches.
        copies: Number of copies.
        moved: Number of bytes moved.
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
        self.numbers = TensorCalls(self)

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
            given = {}  # only the shape is used
        for place, (key, value) in enumerate(given.items()):
            found = tensors_of(value)
            self.copies += sum(not t.is_meta and t.dim() > 0 for t in found)
            size = sum(size_of(t) * (1 if t.is_meta else 2) for t in found if t.is_meta or t.dim())
            if key in aliases and name in self.PUTS | self.ADDS:
                is_read = name in self.ADDS or given.get("accumulate", False)
                self.moved += (2 if is_read else 1) * put_count(name, given) * value.itemsize
            elif key in aliases:
                is_read = key not in targets and name not in self.ONLY_WRITES
                self.moved += (2 if is_read else 1) * size
            elif place == 0 and name in self.TAKES:
                self.moved += sum(t.numel() for t in results) * value.itemsize
            else:
                self.moved += size
        if not changed:
            self.moved += sum(size_of(t) for t in results)


class TensorCalls(TorchFunctionMode):
    """Count the copies of ``torch.tensor``, which a dispatch mode does not see."""

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
    return [part for part in tree_leaves(value) if isinstance(part, torch.Tensor)]


def size_of(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor before expansion."""
    lengths = (n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step or not n)
    return math.prod(lengths) * tensor.itemsize


def put_count(name: str, given: dict[str, Any]) -> int:
    """Return the number of elements that an operation of ``Trace.PUTS`` or ``ADDS`` writes."""
    target = given["self"]
    if name == "index_put":
        if any(index is not None and index.dtype == torch.bool for index in given["indices"]):
            return target.numel()  # the number of True values is unknown
        return torch.ops.aten.index.Tensor(target, given["indices"]).numel()
    if name in ("index_copy", "index_fill", "index_add"):
        return target.numel() // target.shape[given["dim"]] * given["index"].numel()
    return given["index"].numel()


def trace(options: argparse.Namespace) -> list[Counts]:
    """Count the work of transforms on a device for a batch with class indices."""
    shape = (4, 3, 16, 16) if options.tiny else (64, 3, 224, 224)
    limits = {"Mixup": 3}  # original, partner and result; a cut reads one of the two
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
                continue  # the library refuses the dtype, but not for meta tensors
            counts = [counts_of(transform, images, labels, seed) for seed in range(options.draws)]
            launches, copies, moved = zip(*counts, strict=True)
            totals = statistics.median(launches), max(launches), max(copies)
            share = statistics.mean(moved) / images.nbytes
            rows.append(Counts(case, work, library, how, *totals, share, limits.get(work, 2)))
    return rows


def device_transforms(num_classes: int) -> list[tuple[str, str, str, Callable[..., Any]]]:
    """Return (work, library, how, function of images and labels) to be counted."""
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
    np.random.seed(seed)  # used by timm
    with Trace() as counter:
        transform(images, labels)
    return counter.launches, counter.copies, counter.moved


class CountedError(Exception):
    """Ends a compilation after its kernels were counted."""


def kernels(options: argparse.Namespace) -> list[Fused]:
    """Count the kernels of compiled transforms after the fusion by the default backend."""
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
    """Return for each kernel the number of elements of each tensor that it writes."""
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
    print(show(name, rows, circumstances(options), options.out))
    print(f"written to {options.out / name}.*")


def redraw(out: Path) -> None:
    """Write tables and plots of earlier runs again, from their numbers."""
    for path in sorted(out.glob("*.csv")):
        kind = KINDS.get(path.stem, Row)
        types = [kind.__annotations__[name] for name in kind._fields]
        with path.open(newline="") as file:
            _, *lines = csv.reader(file)
        rows = [
            kind(*(make(cell) for make, cell in zip(types, line, strict=True))) for line in lines
        ]
        last = path.with_suffix(".md").read_text().splitlines()[-1]
        show(path.stem, rows, last, out)


def show(name: str, rows: list[Any], circumstances: str, out: Path) -> str:
    """Write the table and, for some tasks, the plot, and return the table."""
    table = as_pivot(name, rows) if name in PIVOTS else as_table(rows)
    (out / f"{name}.md").write_text(f"{table}\n{circumstances}\n")
    if name in ("collate", "loader", "batch"):
        plot(rows, out / f"{name}.svg", name)
    return table


def as_table(rows: list[Any]) -> str:
    """Return one table for each case, with a line for each row."""
    lines = []
    rule = " | ".join("---" if isinstance(value, str) else "--:" for value in rows[0][1:])
    rule = " | ".join(rule.split(" | ")[: rows[0].HEAD.count("|") + 1])
    for case, group in itertools.groupby(rows, lambda row: row.case):
        lines += ["", f"**{case}**", "", f"| {rows[0].HEAD} |", f"| {rule} |"]
        for row in group:
            cells = row.CELLS.format(row)
            lines.append(f"| {cells.replace(f'| {OURS} |', f'| **{OURS}** |')} |")
    return "\n".join(lines).lstrip() + "\n"


def as_pivot(name: str, rows: list[Any]) -> str:
    """Return tables with a line for each contender and a column for each kind of work and case."""
    table_of, line_of, column_of, cell_of = PIVOTS[name]
    lines = []
    for title, group in itertools.groupby(rows, table_of):
        cells: dict[str, dict[str, str]] = {}
        columns: dict[str, None] = {}
        plain = []
        for row in group:
            if "main process, 2 threads" in row.case:
                continue  # only in the numbers
            if name not in ("bounds", "small") and row.library == PLAIN:
                plain.append(f"{row.ms:.3g} ms {place_of(row)}".strip())
                continue
            columns[column_of(row)] = None
            cells.setdefault(line_of(row), {})[column_of(row)] = cell_of(row)
        if title:
            lines += ["", f"**{title}**" + (f", plain: {'; '.join(plain)}" if plain else "")]
        lines += ["", "| | " + " | ".join(columns) + " |", "| --- |" + " --: |" * len(columns)]
        for label, found in cells.items():
            lines.append(f"| {label} | " + " | ".join(found.get(c, "–") for c in columns) + " |")
    return "\n".join(lines).lstrip() + "\n"


def label_of(row: Any) -> str:
    """Return the library and its way of mixing without the name of the work."""
    words = {"MixUp", "CutMix", "RandomErasing", "RandomMixUpV2", "RandomCutMixV2"}
    how = "" if row.how in words else row.how
    return f"**{OURS}** {how}" if row.library == OURS else f"{row.library} {how}".strip()


def place_of(row: Any) -> str:
    """Return where a row was measured, which all rows of `loader` share."""
    return row.case.partition(", ")[2].removeprefix("two workers").strip(", ")


SHAPED = (
    lambda row: row.case.partition(", ")[0],
    label_of,
    lambda row: ": ".join(filter(None, (place_of(row), row.work))),
    lambda row: f"{row.to_plain:.2f}",
)
# For each task: the table, the line and the column of a row, and its cell.
PIVOTS: dict[str, tuple[Callable[[Any], str], ...]] = {
    "collate": SHAPED,
    "loader": SHAPED,
    "batch": SHAPED,
    "bounds": (
        lambda row: "",
        lambda row: f"{row.work if row.library == OURS else ''} {row.how}".strip(),
        lambda row: row.case.partition(", ")[0],
        lambda row: f"{row.to_plain:.2f}",
    ),
    "small": (
        lambda row: "",
        lambda row: row.case,
        lambda row: f"{row.work} {row.how} / {row.library} {row.other_how}",
        lambda row: f"{row.ratio:.2f}",
    ),
}
KINDS = {"small": Comparison, "trace": Counts, "kernels": Fused, "lines": Lines, "gpu": Speed}


def circumstances(options: argparse.Namespace) -> str:
    names = ("torch", "torchvision", "timm", "kornia", "opencv-python", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if "model name" in line), model)
    return (
        f"{datetime.date.today()}, Python {platform.python_version()}, {versions}; {model}, "
        f"{os.cpu_count()} cores, {platform.system()}. Load average: {os.getloadavg()[0]:.1f}. "
        f"`{options.command}`"
    )


def rank_of(library: str) -> int:
    return list(COLOURS).index(library.split(",")[0])


def plot(rows: list[Row], path: Path, name: str) -> None:
    """Draw for each case the time of the fastest mode of each library as a multiple of plain."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9})
    from matplotlib import pyplot

    # With one thread and few classes; the tables have all cases.
    cases = list(dict.fromkeys(row.case for row in rows))
    cases = [case for case in cases if "2 threads" not in case and "K =" not in case]
    columns = min(2, len(cases))
    lines = -(-len(cases) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(5.6 * columns, 3.1 * lines), squeeze=False
    )
    for axis, case in itertools.zip_longest(axes.flat, cases):
        if case is None:
            axis.remove()
            continue
        best: dict[tuple[str, str], float] = {}
        for row in rows:
            if row.case == case and row.library != PLAIN and "reuse_memory" not in row.how:
                library = f"{OURS}, inplace" if "inplace" in row.how else row.library
                key = (row.work, library)
                best[key] = min(row.to_plain, best.get(key, row.to_plain))
        # One order everywhere, whatever the times.
        works = ("Mixup", "CutMix", "Cutout")
        order = sorted(best, key=lambda key: (works.index(key[0]), rank_of(key[1]), key[1]))
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
    "small": small,  # last, since it changes how memory is freed
    "gpu": gpu,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="*", help=f"{', '.join(TASKS)}; by default all except gpu")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--rounds", type=int, help="default: 15, and a third of it for loader")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="in the main process"
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batches", type=int, default=24, help="timed batches of a loader")
    parser.add_argument("--draws", type=int, default=32, help="calls that trace counts")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, for tests")
    parser.add_argument("--redraw", action="store_true", help="only write the tables again")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    if options.redraw:
        redraw(options.out)
        return
    unknown = [name for name in options.task if name not in TASKS]
    if unknown:
        parser.error(f"unknown task {unknown[0]}; choose from {', '.join(TASKS)}")
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
