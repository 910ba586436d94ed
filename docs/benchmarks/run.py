"""What does mixing cost? Measure it beside plain collating, torchvision, timm and kornia.

    python run.py                  # all but gpu: about 25 minutes
    python run.py collate --quick  # one of them, a few rounds: shows that everything runs
    python run.py gpu              # needs a CUDA device

Each writes a table (.md), the numbers (.csv) and a plot (.svg) to ``results/`` beside this script,
or to ``--out``. Needs the extra ``bench``.

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
* ``gpu``: kernels, beside a copy on the device.
"""

import argparse
import csv
import datetime
import itertools
import mmap
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data._utils import worker
from torchvision.transforms import v2
from tqdm import tqdm

from tv_mixaug import CutMix, Cutout, Mixup, functional, make_collate_fn
from tv_mixaug.execute import Rows
from tv_mixaug.labels import PairedLabels
from tv_mixaug.losses import MixCriterion

OURS, PLAIN = "tv_mixaug", "plain"
CLASSES = 10
SHAPES = {"128x3x224x224": (128, 3, 224, 224), "512x3x32x32": (512, 3, 32, 32)}
SHAPES["256x1x28x28"] = (256, 1, 28, 28)
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


# --- Contenders ---------------------------------------------------------------------------------


def ours(work: str, **options: Any) -> nn.Module:
    kind = {"Mixup": Mixup, "CutMix": CutMix, "Cutout": Cutout}[work]
    return kind(num_classes=CLASSES, **options)


def batch_transforms(dtype: torch.dtype) -> list[tuple[str, str, str, Callable[..., Any]]]:
    """Return (work, library, how, function of images and labels) of the other libraries."""
    from kornia.augmentation import RandomCutMixV2, RandomMixUpV2
    from timm.data.mixup import Mixup as TimmMixup

    erase = v2.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    found = [
        ("CutMix", "torchvision", "CutMix", v2.CutMix(num_classes=CLASSES)),
        ("Cutout", "torchvision", "RandomErasing", lambda x, y: (erase(x), y)),
    ]
    if dtype == torch.uint8:
        return found  # the others raise, or truncate to zero, on a uint8 batch
    options = {"label_smoothing": 0.0, "num_classes": CLASSES}
    mixup, cutmix = {"mixup_alpha": 1.0, "cutmix_alpha": 0.0}, {"mixup_alpha": 0.0}
    cutmix["cutmix_alpha"] = 1.0
    keys = {"data_keys": ["input", "class"], "p": 1.0}
    return [
        ("Mixup", "torchvision", "MixUp", v2.MixUp(num_classes=CLASSES)),
        *found,
        ("Mixup", "timm", "Mixup batch", TimmMixup(**mixup, mode="batch", **options)),
        ("Mixup", "timm", "Mixup elem", TimmMixup(**mixup, mode="elem", **options)),
        ("CutMix", "timm", "Mixup batch", TimmMixup(**cutmix, mode="batch", **options)),
        ("CutMix", "timm", "Mixup elem", TimmMixup(**cutmix, mode="elem", **options)),
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

        def function(samples: Any, transform: Any = transform) -> Any:
            return transform(*default_collate(samples))

        found.append((work, library, how, function, False))
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
    """Run the contenders in rounds; a short one is repeated within its turn for ``least`` s."""
    repeats = []
    for contender in contenders:
        seconds_of(contender.run, 1, clock)  # what is imported or compiled on first use
        repeats.append(max(1, round(least / seconds_of(contender.run, 1, clock))))
    times: list[list[float]] = [[] for _ in contenders]
    order = list(range(len(contenders)))
    for number in tqdm(range(rounds), desc=case, leave=False):
        start = number * 5 % len(order)
        for place in order[start:] + order[:start]:
            times[place].append(seconds_of(contenders[place].run, repeats[place], clock))
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
        # The first batches start the workers; more of them fill the pages of recycled memory.
        skipped, skipped_by_ring = 8, 24
        batches = options.batches if shape[-1] > 100 else 4 * options.batches
        sets = {
            numpy: InMemory(random_batch(shape, dtype), batches, numpy) for numpy in (False, True)
        }
        contenders = []
        for work, library, how, function, numpy in collate_functions(dtype):
            if "elem" in how:
                continue  # slow enough in batch mode
            run = loader_run(sets[numpy], function, skipped)
            contenders.append(Contender(work, library, how, run))
            if library == OURS and how == 'mode="batch"':
                again = make_collate_fn(ours(work, mode="batch"), reuse_memory=True)
                run = loader_run(sets[numpy], again, skipped_by_ring)
                contenders.append(Contender(work, library, "reuse_memory=True", run))
        case = f"{shape_name} {dtype_name}, two workers"
        rows += measure(case, contenders, max(2, options.rounds // 3), least=0.0)
    return rows


def loader_run(data: InMemory, function: Any, skipped: int) -> Callable[[], float]:
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
        unstacked = Rows(samples, lambda size, dtype, out=pixels: out)
        for work, transform in (("Mixup", Mixup()), ("CutMix", CutMix())):
            drawn = [transform.mix((unstacked, torch.eye(len(samples))))[1] for _ in range(32)]
            mix = bind_in_turn(transform.mix_images, unstacked, itertools.cycle(drawn))
            contenders.append(Contender(work, OURS, "pixels, into the same memory again", mix))
        case = f"{shape_name} {dtype_name}, 1 thread"
        rows += measure(case, contenders, options.rounds)
    return rows


def bind_in_turn(function: Any, pixels: Any, plans: Iterator[Any]) -> Callable[[], None]:
    return lambda: function(pixels, next(plans), True, axes=(2, 3), channel_axis=1)


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
        theirs = v2.MixUp(num_classes=count)

        def torchvision_soft(samples: Any, theirs: Any = theirs) -> Any:
            return theirs(*default_collate(samples))

        functions = [
            ("plain", PLAIN, "class indices", default_collate),
            ("Mixup", OURS, 'targets="soft"', soft),
            ("Mixup", OURS, 'targets="pair"', pair),
            ("Mixup", "torchvision", "soft", torchvision_soft),
        ]
        in_worker, loss = [], []
        logits = torch.randn(size, count, requires_grad=True)
        for work, library, how, function in functions:
            target = function(samples)[1]
            parts = target if isinstance(target, PairedLabels) else [target]
            sent = sum(part.nbytes for part in parts)
            name = f"{how}, {sent:,} bytes"
            in_worker.append(Contender(work, library, name, collate_run(function, samples, True)))
            run = loss_run(MixCriterion(nn.CrossEntropyLoss()), logits, target)
            loss.append(Contender(work, library, how, run))
        rows += measure(f"K = {count:,}: collate {size} in a worker", in_worker, options.rounds)
        rows += measure(f"K = {count:,}: loss and gradient of {size}", loss, options.rounds)
    return rows


def loss_run(criterion: nn.Module, logits: torch.Tensor, target: Any) -> Callable[[], None]:
    def run() -> None:
        logits.grad = None
        criterion(logits, target).backward()

    return run


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
    contenders = [
        Contender("plain", PLAIN, theirs, run("pass", theirs)),
        Contender("import", OURS, "tv_mixaug after it", run(theirs, "from tv_mixaug import *")),
    ]
    with tempfile.TemporaryDirectory() as folder:
        environment["PYTHONPYCACHEPREFIX"] = folder
        return measure("in a new process", contenders, options.rounds, least=0.0)


def gpu(options: argparse.Namespace) -> list[Row]:
    """Time the kernels by events on the device, and say which share of a copy's bandwidth it is.

    Counted is what has to move: a copy reads and writes each pixel; Mixup reads it twice, as own
    and as partner's; CutMix and Cutout read and write each pixel once.
    """
    if not torch.cuda.is_available():
        raise SystemExit("gpu needs a CUDA device, and torch sees none here.")
    rows = []
    for shape_name, shape in options.shapes:
        for dtype in (torch.float32, torch.float16, torch.uint8):
            rows += gpu_case(shape_name, shape, dtype, options.rounds)
    return rows


def gpu_case(shape_name: str, shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> list[Row]:
    images = random_batch(shape, dtype, "cuda")
    target = torch.empty_like(images)
    labels = torch.arange(len(images), device="cuda") % CLASSES
    plans = {}
    for work, mode in itertools.product(("Mixup", "CutMix", "Cutout"), ("batch", "sample")):
        _, plan = ours(work, mode=mode).mix((images, labels))
        plans[work, mode] = type(plan)(*(field.cuda() for field in plan))
    mean, scale = torch.rand(2, 1, shape[1], 1, 1, device="cuda")

    def mix_normalise(images: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor) -> Any:
        mixed = functional.mixup(images.float(), partner, lam)
        return mixed.sub(mean).mul(scale).half()

    size = images.nbytes
    found: list[tuple[str, str, str, int, Callable[[], Any]]] = [
        ("plain", PLAIN, "copy", 2 * size, lambda: target.copy_(images)),
    ]
    torch.compiler.reset()  # for each case anew: many shapes and dtypes would reach its limit
    mixup = torch.compile(functional.mixup, fullgraph=True)
    cutmix = torch.compile(functional.cutmix, fullgraph=True)
    cutout = torch.compile(functional.cutout, fullgraph=True)
    for mode in ("batch", "sample"):
        name = f'mode="{mode}"'
        blend, paste, hole = (plans[work, mode] for work in ("Mixup", "CutMix", "Cutout"))
        found += [
            ("Mixup", OURS, f"compiled, {name}", 3 * size, bind(mixup, images, *blend[1:3])),
            (
                "CutMix",
                OURS,
                f"compiled, {name}",
                2 * size,
                bind(cutmix, images, paste.partner, paste.boxes),
            ),
            ("Cutout", OURS, f"compiled, {name}", 2 * size, bind(cutout, images, hole.boxes)),
        ]
        if dtype == torch.uint8:
            fused = torch.compile(mix_normalise, fullgraph=True)
            moved = 2 * size + 2 * images.numel()
            run = bind(fused, images, *blend[1:3])
            found.append(("Mixup", OURS, f"to normalised float16, {name}", moved, run))
        for work, read in (("Mixup", 3), ("CutMix", 2), ("Cutout", 2)):
            run = bind(ours(work, mode=mode), images, labels)
            found.append((work, OURS, f"transform, {name}", read * size, run))
    for work, library, how, transform in batch_transforms(dtype):
        if "elem" not in how and not (library == "kornia" and dtype == torch.float16):
            moved = (3 if work == "Mixup" else 2) * size
            found.append((work, library, how, moved, bind(transform, images, labels)))
    contenders = [
        Contender(work, library, how, event_run(run)) for work, library, how, _, run in found
    ]
    case = f"{shape_name} {str(dtype).removeprefix('torch.')}, {torch.cuda.get_device_name()}"
    rows = measure(case, contenders, rounds, least=0.0)
    copied = found[0][3] / rows[0].ms
    return [
        row._replace(
            how=f"{row.how}: {moved / row.ms / 1e6:,.0f} GB/s, "
            f"{moved / row.ms / copied:.0%} of copying"
        )
        for row, (*_, moved, _) in zip(rows, found, strict=True)
    ]


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


# --- Reports ------------------------------------------------------------------------------------


def write(name: str, rows: list[Row], options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / f"{name}.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(Row._fields)
        table.writerows([*row[:4], *(f"{value:.4g}" for value in row[4:])] for row in rows)
    (options.out / f"{name}.md").write_text(as_table(rows) + "\n" + circumstances(options) + "\n")
    if name in ("collate", "loader", "batch"):
        plot(rows, options.out / f"{name}.svg", name)
    print(as_table(rows))
    print(f"written to {options.out / name}.*")


def as_table(rows: list[Row]) -> str:
    lines = []
    for case, group in itertools.groupby(rows, lambda row: row.case):
        lines += ["", f"**{case}**", "", "| work | | | ms | / plain | / ours |"]
        lines.append("| --- | --- | --- | --: | --: | --: |")
        for row in group:
            versus = f"{row.to_ours:.2f}" if row.library not in (OURS, PLAIN) else ""
            bold = "**" if row.library == OURS else ""
            lines.append(
                f"| {row.work} | {bold}{row.library}{bold} | {row.how} | {row.ms:.3g} | "
                f"{row.to_plain:.2f} | {versus} |"
            )
    return "\n".join(lines).lstrip() + "\n"


def circumstances(options: argparse.Namespace) -> str:
    names = ("torch", "torchvision", "timm", "kornia", "opencv-python", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
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
                library = f"{OURS}, reuse_memory" if "reuse" in row.how else row.library
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
    parser.add_argument("--tiny", action="store_true", help="toy sizes, for tests")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    names = options.task or [name for name in TASKS if name != "gpu"]
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        parser.error(f"unknown task {unknown[0]}; there are {', '.join(TASKS)}")
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
