"""Train with and without mixing on Fashion-MNIST, and write a CSV, a table and a plot.

    python train_fashion_mnist.py smoke --data DIR    # about a minute: shows that the script runs
    python train_fashion_mnist.py cpu   --data DIR    # 30 runs of 2 to 3 minutes, two at a time
    python train_fashion_mnist.py full  --data DIR    # 60 long runs: needs a GPU

Results are written to ``train_fashion_mnist/`` next to this script, or to ``--out``. The script can
be interrupted: the same command resumes after the last finished epoch. ``--arms``, ``--labels``,
``--seeds`` and ``--models`` select a part of the grid. It needs the dependency group ``bench``.

``DIR`` has the layout of ``torchvision.datasets.FashionMNIST``, as made by
``FashionMNIST(DIR, download=True)``. To make it from the Debian package ``dataset-fashion-mnist``,
or from another copy of the four ``.gz`` files:

    mkdir -p DIR/FashionMNIST/raw
    for f in /usr/share/datasets/fashion-mnist/*.gz; do
        gunzip -c "$f" > "DIR/FashionMNIST/raw/$(basename "$f" .gz)"
    done

The arms of one seed share the initial weights, the training images, their order and the redrawn
labels, and differ only in the mixing. All numbers are measured after the last epoch on the test
images. No epoch is selected, and no setting is tuned for an arm.
"""

import argparse
import csv
import math
import multiprocessing
import os
import platform
import signal
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import FashionMNIST
from torchvision.transforms import v2
from tqdm import tqdm

from tv_mixaug import CutMix, Cutout, Mixup, make_collate_fn

CLASSES = 10
MEAN, STD = 0.2860, 0.3530  # of the training images, scaled to [0, 1]
BAR_POSITION = 1  # line of this process's progress bar


class Size(NamedTuple):
    """The settings that all runs of one command share."""

    models: tuple[str, ...]
    images: int
    test_images: int
    epochs: int
    warm_up: int  # epochs
    seeds: tuple[int, ...]
    redrawn: tuple[float, ...] = (0.0, 0.4)  # shares of training labels replaced at random
    processes: int = 1
    workers: int = 0
    crop_and_flip: bool = False
    batch_size: int = 128
    rate: float = 0.1
    weight_decay: float = 5e-4


SIZES = {
    "smoke": Size(("small",), 500, 1_000, epochs=4, warm_up=1, seeds=(0,), processes=2),
    "cpu": Size(("small",), 2_000, 10_000, epochs=60, warm_up=5, seeds=(0, 1, 2), processes=2),
    "full": Size(
        ("resnet20", "preact18"),
        60_000,
        10_000,
        epochs=200,
        warm_up=5,
        seeds=(0, 1, 2),
        workers=8,
        crop_and_flip=True,
    ),
}


class Run(NamedTuple):
    model: str
    redrawn: float
    arm: str
    seed: int

    def __str__(self):
        return f"{self.model}, {describe_labels(self.redrawn)}, {self.arm}, seed {self.seed}"


# --- The arms ----------------------------------------------------------------------------------


def cutout():
    return Cutout(12, num_classes=CLASSES)


def mixup():
    return Mixup(1.0, num_classes=CLASSES)


def cutmix():
    return CutMix(1.0, num_classes=CLASSES)


ARMS = {
    "none": lambda seed: make_collate_fn(Mixup(num_classes=CLASSES, p=0.0), seed=seed),
    "Cutout": lambda seed: make_collate_fn(cutout(), seed=seed),
    "Mixup": lambda seed: make_collate_fn(mixup(), seed=seed),
    "CutMix": lambda seed: make_collate_fn(cutmix(), seed=seed),
    "CutMix or Mixup": lambda seed: make_collate_fn([cutmix(), mixup()], p=[0.5, 0.5], seed=seed),
}


# --- Models ------------------------------------------------------------------------------------


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """A residual block (He et al., https://arxiv.org/abs/1512.03385)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class PreActBlock(nn.Module):
    """A pre-activation residual block (He et al., https://arxiv.org/abs/1603.05027)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        changes = stride > 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride) if changes else None

    def forward(self, x):
        y = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return self.conv2(F.relu(self.norm2(self.conv1(y)))) + shortcut


def resnet(block, widths, depth, stem_stride=1):
    """Stack ``depth`` blocks for each width; the resolution is halved between widths."""
    layers = [conv(1, widths[0], 3, stem_stride)]
    if block is Block:
        layers += [nn.BatchNorm2d(widths[0]), nn.ReLU()]
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for index in range(depth):
            layers.append(block(inputs, width, 2 if stage > 0 and index == 0 else 1))
            inputs = width
    if block is PreActBlock:
        layers += [nn.BatchNorm2d(inputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


MODELS = {
    # 308,074 parameters. The stem has stride 2, so that an epoch takes a quarter of the time.
    "small": lambda: resnet(Block, (32, 64, 128), 1, stem_stride=2),
    "resnet20": lambda: resnet(Block, (16, 32, 64), 3),
    "preact18": lambda: resnet(PreActBlock, (64, 128, 256, 512), 2),
}


# --- Data --------------------------------------------------------------------------------------


class Pictures(Dataset):
    def __init__(self, images, labels, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index]), int(self.labels[index])


def normalised(images):
    return ((images.float() / 255 - MEAN) / STD).unsqueeze(1)


def training_set(data, size, run):
    """Return the first images, the same for every run, with the labels of this run."""
    source = FashionMNIST(data, train=True)
    labels = source.targets[: size.images].clone()
    generator = torch.Generator().manual_seed(1_000 + run.seed)
    redrawn = torch.randperm(len(labels), generator=generator)[: round(run.redrawn * len(labels))]
    # From all ten classes, so a tenth of the redrawn labels stay correct by chance.
    labels[redrawn] = torch.randint(CLASSES, (len(redrawn),), generator=generator)
    background = (0 - MEAN) / STD
    crop_and_flip = [v2.RandomCrop(28, padding=2, fill=background), v2.RandomHorizontalFlip()]
    transform = v2.Compose(crop_and_flip) if size.crop_and_flip else nn.Identity()
    return Pictures(normalised(source.data[: size.images]), labels, transform)


def test_set(data, size):
    source = FashionMNIST(data, train=False)
    return normalised(source.data[: size.test_images]), source.targets[: size.test_images]


# --- One run -----------------------------------------------------------------------------------


def calibration_error(probabilities, labels, bins=15):
    """Return the expected calibration error: |confidence − accuracy|, averaged over equal bins."""
    confidence, predicted = probabilities.max(1)
    gap = confidence - (predicted == labels).float()
    bin_index = (confidence * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_index, gap.double())
    return float(sums.abs().sum() / len(labels))


@torch.no_grad()
def evaluate(model, images, labels, device):
    model.eval()
    logits = torch.cat([model(part.to(device)).float().cpu() for part in images.split(500)])
    return {
        "error": round(100 * float((logits.argmax(1) != labels).float().mean()), 3),
        "nll": round(float(F.cross_entropy(logits, labels)), 4),
        "ece": round(100 * calibration_error(logits.softmax(1), labels), 3),
    }


def train(run, size, data, checkpoint):
    """Train one run, or resume it after its last finished epoch, and return its row of the CSV."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(run.seed)
    model = MODELS[run.model]().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), size.rate, momentum=0.9, nesterov=True, weight_decay=size.weight_decay
    )
    collate_fn = ARMS[run.arm](run.seed)
    order = torch.Generator()
    loader = DataLoader(
        training_set(data, size, run),
        size.batch_size,
        shuffle=True,
        generator=order,
        collate_fn=collate_fn,
        num_workers=size.workers,
        persistent_workers=size.workers > 0,
        pin_memory=device.type == "cuda",
    )
    criterion = nn.CrossEntropyLoss()
    warm_up, steps = size.warm_up * len(loader), size.epochs * len(loader)

    def rate(step):
        if step < warm_up:
            return (step + 1) / warm_up
        return (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    saved = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first, seconds, loss_sum = 0, 0.0, torch.zeros(())
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        for name, part in saved.items():
            part.load_state_dict(state[name])
        first, seconds, loss_sum = state["epochs"], state["seconds"], state["loss_sum"]

    bar = tqdm(
        range(first, size.epochs),
        desc=str(run),
        total=size.epochs,
        initial=first,
        position=BAR_POSITION,
        leave=False,
        disable=None,
    )
    for epoch in bar:
        start = time.perf_counter()
        model.train()
        # Order and mixes depend on (seed, epoch), so a resumed run equals an uninterrupted one.
        collate_fn.set_epoch(epoch)
        order.manual_seed(10_000 * run.seed + epoch)
        loss_sum = torch.zeros((), device=device)
        for images, targets in loader:
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            loss = criterion(model(images), targets.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.detach() * len(images)
        bar.set_postfix(loss=f"{float(loss_sum) / size.images:.3f}")
        seconds += time.perf_counter() - start
        state = {name: part.state_dict() for name, part in saved.items()}
        state |= {"epochs": epoch + 1, "seconds": seconds, "loss_sum": loss_sum}
        partial = checkpoint.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(checkpoint)

    return {
        **run._asdict(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "images": size.images,
        "epochs": size.epochs,
        **evaluate(model, *test_set(data, size), device),
        "train_loss": round(float(loss_sum) / size.images, 4),
        "seconds": round(seconds, 1),
        "machine": machine(device),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "tv_mixaug": version("tv_mixaug"),
    }


def machine(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info, memory = Path("/proc/cpuinfo"), ""
    if info.exists():
        names = [
            line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line
        ]
        name = names[0].strip() if names else name
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    return f"{os.cpu_count()}-core {name}{memory}"


# --- All runs ----------------------------------------------------------------------------------


def read_rows(path):
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run_of(row):
    return Run(row["model"], float(row["redrawn"]), row["arm"], int(row["seed"]))


def file_name(run):
    return "-".join(map(str, run)).replace(" ", "_") + ".pt"


def append_row(path, row):
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def prepare_worker(lock, started):
    global BAR_POSITION
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers after Ctrl-C
    torch.set_num_threads(1)
    with started.get_lock():
        started.value += 1
        tqdm.set_lock(lock)
        BAR_POSITION = started.value


def train_job(job):
    return job, train(*job)


def results(jobs, processes):
    """Run jobs in processes, and yield (job, row) when a job ends."""
    if processes == 1:
        yield from map(train_job, jobs)
        return
    context = multiprocessing.get_context("spawn")
    shared = context.RLock(), context.Value("i", 0)
    with context.Pool(processes, prepare_worker, shared) as pool:
        yield from pool.imap_unordered(train_job, jobs)


def run_all(name, size, data, out, arms=tuple(ARMS)):
    """Train the runs that the CSV does not contain, then write the table and the plot."""
    checkpoints, path = out / "runs" / name, out / f"{name}.csv"
    checkpoints.mkdir(parents=True, exist_ok=True)
    done = {run_of(row) for row in read_rows(path)}
    # Seeds are the outer loop, so that an interrupted grid has the same runs for all arms.
    wanted = [
        Run(model, redrawn, arm, seed)
        for seed in size.seeds
        for model in size.models
        for redrawn in size.redrawn
        for arm in arms
    ]
    runs = [run for run in wanted if run not in done]
    print(f"{len(wanted) - len(runs)} of {len(wanted)} runs are in {path}, {len(runs)} to do.")
    with tqdm(total=len(runs), desc=f"{name}, runs") as bar:
        jobs = [(run, size, data, checkpoints / file_name(run)) for run in runs]
        for (run, *_, checkpoint), row in results(jobs, size.processes):
            append_row(path, row)
            checkpoint.unlink()
            bar.update()
            bar.write(f"{run}: error {row['error']:.2f} %, {row['seconds']:.0f} s")
    rows = read_rows(path)
    path.with_suffix(".md").write_text(table(name, rows), encoding="utf-8")
    plot(rows, path.with_suffix(".png"))


# --- Table and plot ----------------------------------------------------------------------------


TABLES = "<!-- tables -->"  # pages include the file from here on


def describe_labels(redrawn):
    return f"{100 * redrawn:.0f} % of the labels redrawn" if redrawn else "clean labels"


def spread(values, sign="", digits=2):
    """Return mean ± sample standard deviation as text; the mean alone for one value."""
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def groups(rows):
    """Group rows as {(model, redrawn): {arm: {seed: row}}}, in the order of ``ARMS``."""
    sorted_rows = sorted(rows, key=lambda row: (run_of(row)[:2], list(ARMS).index(row["arm"])))
    found = {}
    for row in sorted_rows:
        run = run_of(row)
        found.setdefault(run[:2], {}).setdefault(run.arm, {})[run.seed] = row
    return found


def table(name, rows):
    """Return the Markdown tables; "difference to none" compares runs of the same seed."""
    first = rows[0]
    lines = ["---", "orphan: true", "---", "", f"# Fashion-MNIST, {name}", "", TABLES, ""]
    for (model, redrawn), arms in groups(rows).items():
        parameters = int(next(iter(next(iter(arms.values())).values()))["parameters"])
        lines += [
            f"**{describe_labels(redrawn).capitalize()}** ({model}, {parameters:,} parameters)",
            "",
            "| arm | error % | difference to none | NLL | ECE % | training loss | seeds |",
            "| --- | --: | --: | --: | --: | --: | --: |",
        ]
        base = arms.get("none", {})
        for arm, runs in arms.items():
            values = {
                key: [float(row[key]) for row in runs.values()]
                for key in ("error", "nll", "ece", "train_loss")
            }
            pairs = [
                float(row["error"]) - float(base[seed]["error"])
                for seed, row in runs.items()
                if seed in base and arm != "none"
            ]
            cells = [
                arm,
                spread(values["error"]),
                spread(pairs, "+") if pairs else "",
                spread(values["nll"], digits=3),
                spread(values["ece"]),
                spread(values["train_loss"], digits=3),
                str(len(runs)),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    versions = {tuple(row[key] for key in ("torch", "torchvision", "tv_mixaug")) for row in rows}
    software = "; ".join(
        f"torch {a}, torchvision {b}, tv_mixaug {c}" for a, b, c in sorted(versions)
    )
    machines = "; ".join(sorted({row["machine"] for row in rows}))
    lines += [
        f"Last epoch of {first['epochs']}, {int(first['images']):,} training images, mean ± sample "
        f"standard deviation over the seeds. {software}. {machines}. "
        f"Made by `python docs/benchmarks/train_fashion_mnist.py {name} --data DIR`.",
        "",
    ]
    return "\n".join(lines)


def plot(rows, path):
    """Draw each run as a dot and each mean as a bar, with one panel for each setting."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = groups(rows)
    figure, axes = plt.subplots(
        1, len(found), figsize=(4.5 * len(found), 2.6), squeeze=False, layout="constrained"
    )
    for axis, ((model, redrawn), arms) in zip(axes[0], found.items(), strict=True):
        for height, runs in enumerate(arms.values()):
            errors = [float(row["error"]) for row in runs.values()]
            colour = f"C{height}"
            axis.plot(errors, [height] * len(errors), "o", color=colour, alpha=0.6)
            axis.plot(
                [statistics.mean(errors)] * 2, [height - 0.3, height + 0.3], color=colour, lw=2
            )
        axis.set_yticks(range(len(arms)), list(arms))
        axis.invert_yaxis()
        axis.set_xlabel("test error, %")
        axis.set_title(f"{model}, {describe_labels(redrawn)}", fontsize="medium")
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=SIZES)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that holds FashionMNIST/raw"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(""))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--labels", nargs="+", type=float, help="shares redrawn, such as 0 0.4")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--processes", type=int)
    chosen = parser.parse_args(arguments)
    changes = {
        "redrawn": chosen.labels,
        "seeds": chosen.seeds,
        "models": chosen.models,
        "processes": chosen.processes,
    }
    size = SIZES[chosen.size]._replace(**{key: new for key, new in changes.items() if new})
    run_all(chosen.size, size, chosen.data, chosen.out, chosen.arms)


if __name__ == "__main__":
    main()
