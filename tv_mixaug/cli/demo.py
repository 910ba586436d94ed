"""The command ``tv-mixaug demo``: mix drawn flowers, check their labels and train a small net."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.ops import Conv2dNormActivation

from tv_mixaug import CutMix, Cutout, Mixup, Plan, functional, make_collate_fn
from tv_mixaug.engine.plan import OP_NAMES
from tv_mixaug.extras import flowers, io, viz
from tv_mixaug.testing import UntruthfulError, assert_labels_match_pixels

_SEED = 4
_NOTES = ("unchanged", "{:6.1%} erased", "{:6.1%} of {}", "{:6.1%} pasted from {}")


def run_demo(folder: Path, size: int = 256, steps: int = 200) -> tuple[npt.NDArray[np.uint8], bool]:
    """Mix drawn flowers by each transform, check the labels, and train on mixed labels.

    Args:
        folder: A new or empty folder for the flowers.
        size: Side of the pictures in pixels.
        steps: Number of training steps.

    Returns:
        The contact sheet, (H, W, 3) uint8, and whether all labels equal the pixels.
    """
    print(f"Eight flowers, JPEG and PNG, in {folder}: read with OpenCV, two workers.")
    flowers.write_image_folder(folder, count_per_class=4, size=size, seed=_SEED)
    torch.set_num_threads(1)  # more are slower for tensors of this size
    torch.manual_seed(_SEED)
    dataset = ImageFolder(folder, loader=io.read_image)
    order = torch.randperm(len(dataset)).tolist()
    raw = torch.stack([dataset[i][0] for i in order])
    kinds = torch.tensor([dataset[i][1] for i in order])
    transforms = _make_transforms()
    collate_fn = make_collate_fn(transforms, [0.0, 0.0, 0.0], seed=_SEED, record=True)
    options: Any = {"num_workers": 2, "persistent_workers": True, "collate_fn": collate_fn}
    loader = DataLoader(dataset, len(order), sampler=order, **options)
    sheets, all_equal = [], True
    for epoch, transform in enumerate([None, *transforms]):
        collate_fn.set_p([float(transform is other) for other in transforms])
        collate_fn.set_epoch(epoch)
        images, labels, plan = next(iter(loader))
        name = "No mixing" if transform is None else type(transform).__name__
        print(f"\n{name}: images {tuple(images.shape)}, labels {tuple(labels.shape)}")
        all_equal &= _check_batch(images, labels, plan, raw, kinds)
        all_equal &= transform is None or _check_transform(transform)
        sheets.append(viz.draw_batch(images, labels, flowers.CLASS_NAMES, title=name))
    _train(steps)
    return np.concatenate(sheets), all_equal


def _make_transforms() -> list[Any]:
    """Return Cutout, Mixup and CutMix; the last two pair each rose with a tulip."""
    # Beta(4, 4) seldom samples a weight near 0 or 1, so every picture shows its mix.
    options: dict[str, Any] = {"num_classes": 2, "mode": "sample", "pairing": _pair_classes}
    return [Cutout(0.5, num_classes=2), Mixup(4.0, **options), CutMix(4.0, **options)]


def _pair_classes(labels: Tensor) -> Tensor:
    """Return (B,) partners, of the other class if both classes are equally frequent."""
    order = labels.argsort(stable=True)
    return torch.empty_like(order).scatter(0, order, order.roll(len(order) // 2))


def _check_batch(images: Tensor, labels: Tensor, plan: Plan, raw: Tensor, kinds: Tensor) -> bool:
    """Print the labels, and whether they and the pixels are those of the recorded plan."""
    original = functional.region_mask(plan, images.shape[-2:]).double().mean((1, 2, 3))
    weight = original.where(plan.op != OP_NAMES.index("fill"), 1.0)
    one_hot = nn.functional.one_hot(kinds, 2).double()
    gaps = (labels - functional.mix_labels(one_hot, plan.partner, weight)).abs().amax(1)
    same = (images == functional.replay(raw, plan)).flatten(1).all(1)
    for i, (rose, tulip) in enumerate(labels.tolist()):
        note = _NOTES[plan.op[i]].format(1 - float(original[i]), int(plan.partner[i]) + 1)
        pixels = note if same[i] else "not those of the plan"
        name = flowers.CLASS_NAMES[kinds[i]]
        print(f"  {i + 1} {name:<6} label: rose {rose:.3f}  tulip {tulip:.3f}   pixels: {pixels}")
    equal = bool(same.all()) and float(gaps.max()) < 1e-6
    verdict = "yes" if equal else "NO"
    print(f"  labels equal pixels: {verdict} (largest difference {gaps.max():.1g})")
    return equal


def _check_transform(transform: Any) -> bool:
    """Print whether the test kit finds labels that differ from the pixels of coded images."""
    try:
        erased = 0 if isinstance(transform, Cutout) else None
        report = assert_labels_match_pixels(transform, num_classes=2, erased=erased)
    except UntruthfulError as error:
        print(f"  the test kit finds a difference: {error}")
        return False
    print(f"  the test kit agrees for {report.rows} other images")
    return True


def _train(steps: int, size: int = 48) -> tuple[float, float, float]:
    """Train a small net on mixed flowers; return its first and last loss, and its accuracy."""
    pictures, kinds = flowers.draw_flowers(96, size, seed=_SEED + 1)
    dataset: Any = list(zip(pictures.float() / 255 - 0.5, kinds.tolist(), strict=True))
    mixes = [Mixup(0.4, num_classes=2), CutMix(1.0, num_classes=2)]
    collate_fn = make_collate_fn(mixes, p=[0.4, 0.4], seed=_SEED)
    loader = DataLoader(dataset, 32, shuffle=True, drop_last=True, collate_fn=collate_fn)
    torch.manual_seed(_SEED)
    layers = [Conv2dNormActivation(*c, stride=2) for c in ((3, 16), (16, 32), (32, 64))]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    history = []  # losses, and the entropies of the labels, below which no loss falls
    for images, labels in show_progress(_repeat(loader, steps), steps, "training"):
        loss: Any = nn.functional.cross_entropy(net(images), labels)
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
    print(f"\nTrained a small net for {steps} steps, Mixup or CutMix in 4 of 5 batches.")
    print(f"  loss {first:.3f} -> {last:.3f} (mixed labels allow {floor:.3f})")
    print(f"  right on {right:.0%} of 64 unseen flowers")
    return first, last, right


def _repeat(loader: Any, steps: int) -> Iterator[Any]:
    """Yield batches, mixed differently in each epoch."""
    for epoch in range(-(-steps // len(loader))):
        loader.collate_fn.set_epoch(epoch)
        yield from itertools.islice(loader, steps - epoch * len(loader))


def show_progress(items: Iterable[Any], total: int, text: str) -> Iterator[Any]:
    """Yield items and draw a bar to stderr, on a terminal for each item, otherwise once."""
    for done, item in enumerate(items, 1):
        yield item
        if sys.stderr.isatty() or done == total:
            end = "\n" if done == total else "\r"
            line = f"{text} [{'#' * (30 * done // total):<30}] {done}/{total}"
            print(line, end=end, file=sys.stderr, flush=True)
