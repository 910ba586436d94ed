"""The demo: flowers mixed by each transform, their labels checked against pixels, a net trained."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker, util
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from tv_mixaug import flowers, viz
from tv_mixaug.io import read_image
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
    collate_fn = make_mixes(_SEED)
    loader = DataLoader(
        dataset,
        batch_size=len(order),
        sampler=order,
        num_workers=2,
        collate_fn=collate_fn,
        persistent_workers=True,
    )
    sheets, all_equal = [], True
    for number, (name, find) in enumerate(ARMS.items()):
        collate_fn.set_p([float(i == number) for i in (1, 2, 3)])  # the running workers follow
        collate_fn.set_epoch(number)
        with _interrupts_held():
            batches = iter(loader)
        images, labels = next(batches)
        print(f"\n{name}: images {tuple(images.shape)}, labels {tuple(labels.shape)}")
        equal = check_labels(images, labels, plain, classes, find, dataset.classes)
        all_equal = all_equal and equal
        sheets.append(viz.draw_batch(images, labels, dataset.classes, title=name))
    del batches, loader  # so its workers
    print()
    train(steps)
    return np.concatenate(sheets), all_equal


def make_mixes(seed: int) -> CollateFn:
    """Return what applies none of Cutout, Mixup and CutMix, until ``set_p`` says otherwise.

    A rose is mixed with a tulip only, and by Beta(4, 4) seldom with little of it, so that every
    picture shows that it is mixed.
    """
    options: dict[str, Any] = {"num_classes": 2, "pairing": pair_with_other_class}
    transforms = [
        Cutout(0.5, num_classes=2),
        Mixup(4.0, mode="sample", **options),
        CutMix(4.0, mode="sample", **options),
    ]
    return make_collate_fn(transforms, p=[0.0, 0.0, 0.0], seed=seed)


def pair_with_other_class(labels: Tensor) -> Tensor:
    """Pair each rose with a tulip, where there are as many of them: labels (B,) to partners."""
    order = labels.argsort(stable=True)
    partner = torch.empty_like(order)
    partner[order] = order.roll(len(order) // 2)
    return partner


class Finding(NamedTuple):
    """What the pixels of a picture say it is made of.

    Attributes:
        own: Label weight of its own image, in [0, 1].
        partner: Number in the batch of the image that has the rest.
        note: What was found, in words.
        slack: How far off ``own`` may be, since pixels are whole numbers.
    """

    own: float
    partner: int
    note: str
    slack: float = 0.0


Find = Callable[[int, Tensor, Tensor], Finding | None]


def find_unchanged(i: int, mixed: Tensor, plain: Tensor) -> Finding | None:
    """Find picture ``i`` as it was; None if a pixel differs."""
    return Finding(1.0, i, "every pixel its own") if torch.equal(mixed, plain[i]) else None


def find_hole(i: int, mixed: Tensor, plain: Tensor) -> Finding | None:
    """Find the one black box in picture ``i``, outside of which nothing changed."""
    y, x = _find_changed(mixed, plain[i])
    if mixed[:, y, x].any():
        return None
    return Finding(1.0, i, f"{_share(mixed, y, x):6.1%} erased")


def find_paste(i: int, mixed: Tensor, plain: Tensor) -> Finding | None:
    """Find the one box in picture ``i`` that is, pixel by pixel, from another picture."""
    y, x = _find_changed(mixed, plain[i])
    for partner in range(len(plain)):
        if torch.equal(mixed[:, y, x], plain[partner, :, y, x]):
            share = _share(mixed, y, x)
            return Finding(1 - share, partner, f"{share:6.1%} pasted from {partner + 1}")
    return None


def find_blend(i: int, mixed: Tensor, plain: Tensor) -> Finding | None:
    """Find the picture and the weight that explain every pixel of picture ``i``.

    A uint8 pixel leaves a range of weights open, that of half a grey level either way. What
    explains the picture is in the range of all its pixels.
    """
    own, result = plain[i].double(), mixed.double()
    if torch.equal(own, result):
        return Finding(1.0, i, "every pixel its own")
    found = None
    for partner in range(len(plain)):
        way, rest = own - plain[partner], result - plain[partner]
        if rest[way == 0].any() or not way.any():
            continue
        middle, margin = (rest / way)[way != 0], 0.501 / way[way != 0].abs()
        low, high = float((middle - margin).max()), float((middle + margin).min())
        if low <= high and (found is None or high - low < 2 * found.slack):
            weight = (low + high) / 2
            note = f"{1 - weight:6.1%} of {partner + 1}"
            found = Finding(weight, partner, note, slack=(high - low) / 2)
    return found


ARMS: dict[str, Find] = {
    "No mixing": find_unchanged,
    "Cutout": find_hole,
    "Mixup": find_blend,
    "CutMix": find_paste,
}


def _find_changed(mixed: Tensor, own: Tensor) -> tuple[slice, slice]:
    changed = (mixed != own).any(0)
    rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    top, bottom, left, right = (int(edge) for edge in (*rows[[0, -1]], *columns[[0, -1]]))
    return slice(top, bottom + 1), slice(left, right + 1)


def _share(image: Tensor, y: slice, x: slice) -> float:
    return image[0, y, x].numel() / image[0].numel()


def check_labels(
    images: Tensor,
    labels: Tensor,
    plain: Tensor,
    classes: Tensor,
    find: Find,
    class_names: Sequence[str],
) -> bool:
    """Print for every picture its label and what its pixels say, and whether the two agree.

    Args:
        images: (B, 3, H, W) uint8, mixed.
        labels: (B, K) float32, mixed.
        plain: (B, 3, H, W) uint8, the same pictures unmixed.
        classes: (B,) int64, their classes.
        find: What looks at one picture's pixels.
        class_names: The K names.

    Returns:
        Whether every label equals its pixels to 1e-6, or where rounded pixels leave a range of
        weights open, lies in it.
    """
    plain, images = plain.as_subclass(Tensor), images.as_subclass(Tensor)
    equal, worst = True, 0.0
    for i, (image, label) in enumerate(zip(images, labels.double(), strict=True)):
        finding = find(i, image, plain)
        if finding is None:
            equal, note = False, "no picture explains them"
        else:
            expected = torch.zeros_like(label)
            expected[classes[i]] += finding.own
            expected[classes[finding.partner]] += 1 - finding.own
            difference, note = float((label - expected).abs().max()), finding.note
            equal = equal and difference <= finding.slack + 1e-6
            worst = max(worst, difference)
        weights = "  ".join(f"{name} {w:.3f}" for name, w in zip(class_names, label, strict=True))
        print(f"  {i + 1} {class_names[int(classes[i])]:<6} label: {weights}   pixels: {note}")
    answer = "yes" if equal else "NO"
    print(f"  labels equal pixels: {answer} (largest difference {worst:.1g})")
    return equal


def train(steps: int, size: int = 48) -> tuple[float, float, float]:
    """Train a small net on drawn flowers with mixed labels, and print how its loss fell.

    Args:
        steps: Number of batches of 32.
        size: Side of the pictures in pixels.

    Returns:
        Mean loss of the first and of the last ten steps, and the share of unseen flowers that the
        net gets right.
    """
    pictures, kinds = flowers.draw_flowers(96, size, seed=_SEED + 1)
    dataset: Any = list(zip(pictures.float() / 255 - 0.5, kinds.tolist(), strict=True))
    collate_fn = make_collate_fn(
        [Mixup(0.4, num_classes=2), CutMix(1.0, num_classes=2)], p=[0.4, 0.4], seed=_SEED
    )
    loader: DataLoader[Any] = DataLoader(
        dataset, 32, shuffle=True, drop_last=True, collate_fn=collate_fn
    )
    torch.manual_seed(_SEED)
    net = _make_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    losses: list[float] = []
    floors: list[float] = []
    batches = itertools.islice(_repeat(loader, collate_fn), steps)
    for images, labels in show_progress(batches, steps, "training"):
        loss = criterion(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        floors.append(float(torch.special.entr(labels).sum(1).mean()))
    net.eval()
    unseen, kinds = flowers.draw_flowers(64, size, seed=_SEED + 2)
    with torch.inference_mode():
        right = float((net(unseen.float() / 255 - 0.5).argmax(1) == kinds).float().mean())
    few = min(10, max(1, steps // 2))
    first, last = float(np.mean(losses[:few])), float(np.mean(losses[-few:]))
    print(f"Trained a small net on 96 flowers, Mixup or CutMix in 4 of 5 batches: {steps} steps.")
    print(f"  loss {first:.3f} -> {last:.3f} (mixed labels allow {np.mean(floors[-few:]):.3f})")
    print(f"  right on {right:.0%} of 64 unseen flowers")
    return first, last, right


def _make_net() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))


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
    """Yield ``items`` and draw a bar to stderr: as they pass on a terminal, else one line at last.

    Args:
        items: What is yielded.
        total: How many there will be.
        text: What is being done.

    Yields:
        The items.
    """
    live = sys.stderr.isatty()
    for done, item in enumerate(items, 1):
        yield item
        if live or done == total:
            line = f"{text} [{'#' * (30 * done // total):<30}] {done}/{total}"
            end = "\n" if done == total else ""
            print("\r" * live + line, end=end, file=sys.stderr, flush=True)
