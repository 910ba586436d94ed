"""The demo: flowers mixed by each transform, their labels checked against pixels, a net trained."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import resource_tracker, util
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.ops import Conv2dNormActivation

from tv_mixaug import viz
from tv_mixaug.extras import flowers
from tv_mixaug.extras.io import read_image
from tv_mixaug.loading.collate import CollateFn, make_collate_fn
from tv_mixaug.transforms import CutMix, Cutout, Mixup

T = TypeVar("T")
_SEED = 4


def run_demo(folder: Path, size: int = 256, steps: int = 200) -> tuple[npt.NDArray[np.uint8], bool]:
    """Mix drawn flowers by every transform, check their labels, and train on mixed labels.

    Args:
        folder: A new or empty folder, into which the flowers are written.
        size: Side of the pictures in pixels.
        steps: Number of training steps.

    Returns:
        The contact sheet, (H, W, 3) uint8, and whether all labels equal the pixels.

    Raises:
        OSError: If ``folder`` cannot be written.
    """
    print(f"Eight flowers, JPEG and PNG, in {folder}: read with OpenCV, two workers.")
    flowers.write_image_folder(folder, count_per_class=4, size=size, seed=_SEED)
    torch.set_num_threads(1)  # so small a net is not worth sharing: threads would only wait
    torch.manual_seed(_SEED)
    dataset = ImageFolder(folder, loader=read_image)
    order = torch.randperm(len(dataset)).tolist()
    # Read once more without a loader, so that the check does not rest on what it checks.
    plain = torch.stack([dataset[i][0] for i in order])
    classes = torch.tensor([dataset[i][1] for i in order])
    mixes = _make_mixes(_SEED)
    loader = DataLoader(
        dataset, len(order), sampler=order, num_workers=2, collate_fn=mixes, persistent_workers=True
    )
    sheets, all_equal = [], True
    for number, name in enumerate(("No mixing", "Cutout", "Mixup", "CutMix")):
        mixes.set_p([float(i == number) for i in (1, 2, 3)])  # the running workers follow
        mixes.set_epoch(number)
        with _interrupts_held():
            batches = iter(loader)
        images, labels = next(batches)
        print(f"\n{name}: images {tuple(images.shape)}, labels {tuple(labels.shape)}")
        equal = _check_labels(images, labels, plain, classes, dataset.classes)
        all_equal = all_equal and equal
        sheets.append(viz.draw_batch(images, labels, dataset.classes, title=name))
    del batches, loader  # so its workers
    print()
    _train(steps)
    return np.concatenate(sheets), all_equal


def _make_mixes(seed: int) -> CollateFn:
    """Return what applies none of Cutout, Mixup and CutMix, until ``set_p`` says otherwise."""
    # Of the other class, and by Beta(4, 4) seldom little of it: every picture shows its mix.
    pair: dict[str, Any] = {"num_classes": 2, "mode": "sample", "pairing": _pair_with_other_class}
    transforms = [Cutout(0.5, num_classes=2), Mixup(4.0, **pair), CutMix(4.0, **pair)]
    return make_collate_fn(transforms, p=[0.0, 0.0, 0.0], seed=seed)


def _pair_with_other_class(labels: Tensor) -> Tensor:
    """Pair each rose with a tulip, where there are as many of them: labels (B,) to partners."""
    order = labels.argsort(stable=True)
    partner = torch.empty_like(order)
    partner[order] = order.roll(len(order) // 2)
    return partner


class _Finding(NamedTuple):
    """What the pixels of a picture say it is made of."""

    own: float  # the label weight of its own image
    partner: int  # the image that has the rest
    note: str
    slack: float = 0.0  # how far off the weight may be, since pixels are whole numbers


def _find_mix(i: int, mixed: Tensor, plain: Tensor) -> _Finding:
    """Find what explains every pixel of picture i: a black box, a box of another, a blend."""
    changed = (mixed != plain[i]).any(0)
    if not changed.any():
        return _Finding(1.0, i, "every pixel its own")
    y, x = (slice(int(at.min()), int(at.max()) + 1) for at in changed.nonzero(as_tuple=True))
    share = changed[y, x].numel() / changed.numel()
    if not mixed[:, y, x].any():
        return _Finding(1.0, i, f"{share:6.1%} erased")
    for partner in range(len(plain)):
        if torch.equal(mixed[:, y, x], plain[partner, :, y, x]):
            return _Finding(1 - share, partner, f"{share:6.1%} pasted from {partner + 1}")
    found = _Finding(math.nan, i, "no picture explains them", math.inf)
    for partner in range(len(plain)):
        way, rest = plain[i].double() - plain[partner], mixed.double() - plain[partner]
        if rest[way == 0].any() or not way.any():
            continue
        # A pixel leaves a range of weights open, that of half a grey level either way.
        middle, margin = (rest / way)[way != 0], 0.501 / way[way != 0].abs()
        low, high = float((middle - margin).max()), float((middle + margin).min())
        own, slack = (low + high) / 2, (high - low) / 2
        if 0 <= slack < found.slack:
            found = _Finding(own, partner, f"{1 - own:6.1%} of {partner + 1}", slack)
    return found


def _check_labels(
    images: Tensor, labels: Tensor, plain: Tensor, classes: Tensor, names: Sequence[str]
) -> bool:
    """Print for every picture its label and what its pixels say, and whether the two agree."""
    plain, images = plain.as_subclass(Tensor), images.as_subclass(Tensor)
    equal, worst = True, 0.0
    for i, (image, label) in enumerate(zip(images, labels.double(), strict=True)):
        finding = _find_mix(i, image, plain)
        expected = torch.zeros_like(label)
        expected[classes[i]] += finding.own
        expected[classes[finding.partner]] += 1 - finding.own
        difference = float((label - expected).abs().max())
        equal = equal and difference <= finding.slack + 1e-6  # never of NaN
        worst = max(worst, difference)
        weights = "  ".join(f"{name} {w:.3f}" for name, w in zip(names, label, strict=True))
        print(f"  {i + 1} {names[int(classes[i])]:<6} label: {weights}   pixels: {finding.note}")
    answer = "yes" if equal else "NO"
    print(f"  labels equal pixels: {answer} (largest difference {worst:.1g})")
    return equal


def _train(steps: int, size: int = 48) -> tuple[float, float, float]:
    """Train a small net on mixed flowers; return its first and last loss, and its accuracy."""
    pictures, kinds = flowers.draw_flowers(96, size, seed=_SEED + 1)
    dataset: Any = list(zip(pictures.float() / 255 - 0.5, kinds.tolist(), strict=True))
    collate_fn = make_collate_fn(
        [Mixup(0.4, num_classes=2), CutMix(1.0, num_classes=2)], p=[0.4, 0.4], seed=_SEED
    )
    loader: DataLoader[Any] = DataLoader(
        dataset, 32, shuffle=True, drop_last=True, collate_fn=collate_fn
    )
    torch.manual_seed(_SEED)
    layers = [Conv2dNormActivation(*c, stride=2) for c in ((3, 16), (16, 32), (32, 64))]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    criterion = nn.CrossEntropyLoss()
    history = []  # of the loss, and of what it can be at least
    batches = itertools.islice(_repeat(loader, collate_fn), steps)
    for images, labels in show_progress(batches, steps, "training"):
        loss = criterion(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append((loss.item(), float(torch.special.entr(labels).sum(1).mean())))
    net.eval()
    unseen, kinds = flowers.draw_flowers(64, size, seed=_SEED + 2)
    with torch.inference_mode():
        right = float((net(unseen.float() / 255 - 0.5).argmax(1) == kinds).float().mean())
    few = min(10, max(1, steps // 2))
    (first, _), (last, floor) = np.mean(history[:few], 0), np.mean(history[-few:], 0)
    print(f"Trained a small net on 96 flowers, Mixup or CutMix in 4 of 5 batches: {steps} steps.")
    print(f"  loss {first:.3f} -> {last:.3f} (mixed labels allow {floor:.3f})")
    print(f"  right on {right:.0%} of 64 unseen flowers")
    return first, last, right


def _repeat(loader: DataLoader[Any], collate_fn: CollateFn) -> Iterator[Any]:
    for epoch in itertools.count():
        collate_fn.set_epoch(epoch)  # else every epoch would have the same mixes
        yield from loader


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back from workers that are started, so that this process alone answers it."""
    util.get_temp_dir()  # inherited as well: what workers keep there goes with this process
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its start would end the holding
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def show_progress(items: Iterable[T], total: int, text: str) -> Iterator[T]:
    """Yield items and draw a bar to stderr: as they pass on a terminal, else one line at last."""
    live = sys.stderr.isatty()
    for done, item in enumerate(items, 1):
        yield item
        if live or done == total:
            line = f"{text} [{'#' * (30 * done // total):<30}] {done}/{total}"
            end = "\n" if done == total else ""
            print("\r" * live + line, end=end, file=sys.stderr, flush=True)
