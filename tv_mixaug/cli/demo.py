"""The command ``tv-mixaug demo``: mix drawn flowers, check their labels and train a small net."""

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from tv_mixaug import CutMix, Cutout, Mixup, OneOf
from tv_mixaug.extras import flowers, viz
from tv_mixaug.testing import UntruthfulError, assert_labels_match_pixels

_SEED = 4


def run_demo(args: argparse.Namespace) -> tuple[Any, bool]:
    """Mix drawn flowers by each transform, check the labels, and train on mixed labels.

    Return the contact sheet, (H, W, 3) uint8, and whether all labels equal the pixels.
    """
    torch.set_num_threads(1)  # more are slower for tensors of this size
    torch.manual_seed(_SEED)
    print("Eight drawn flowers are mixed by each transform, and a small net is trained on mixes:")
    batch = flowers.draw_flowers(8, seed=_SEED)
    # Beta(4, 4) seldom samples a weight near 0 or 1, and neighbours are of different classes, so
    # every picture shows its mix.
    options: dict[str, Any] = {"num_classes": 2, "mode": "sample"}
    options["pairing"] = lambda labels: torch.arange(len(labels)).roll(1)
    fills = [Cutout(p=p, num_classes=2) for p in (0.0, 1.0)]
    transforms = [*fills, Mixup(4.0, **options), CutMix(4.0, **options)]
    mixed = [_mix(transform, *batch, args.verbose) for transform in transforms]
    sheets, wrong, rows = zip(*mixed, strict=True)
    print(f"  labels equal pixels in {sum(rows) - sum(wrong)} of {sum(rows)} test pictures")
    _train(200)
    return np.concatenate(sheets), not any(wrong)


def _mix(transform: Any, raw: Tensor, kinds: Tensor, verbose: bool) -> tuple[Any, int, int]:
    """Mix a batch; return the sheet, and how many labels are wrong of how many in the test kit."""
    (images, labels), plan = transform.mix((raw, kinds))
    name = type(transform).__name__ if transform.p else "No mixing"
    report: Any
    try:
        wrong, report = 0, assert_labels_match_pixels(transform, num_classes=2, erased=0)
    except UntruthfulError as error:
        wrong, report = error.wrong, error
        print(f"  {name}: {error}")
    if verbose:
        print(f"  {name}: {wrong} labels of {report.rows} are wrong; eight others:")
        for number, (rose, tulip) in enumerate(labels.tolist()):
            print(f"    {number}: rose {rose:.3f}  tulip {tulip:.3f}")
    sheet = viz.draw_batch(images, labels, flowers.CLASS_NAMES, title=name, plan=plan)
    return sheet, wrong, report.rows


def _train(steps: int, size: int = 48) -> tuple[float, float, float]:
    """Train a small net on mixed flowers; return its first and last loss, and its accuracy."""
    pictures, kinds = flowers.draw_flowers(160, size, seed=_SEED + 1)
    pixels = pictures / 255 - 0.5
    mix = OneOf([Mixup(0.4, num_classes=2), CutMix(1.0, num_classes=2)], [0.4, 0.4])
    torch.manual_seed(_SEED)
    layers = [Conv2dNormActivation(*c, stride=2) for c in ((3, 16), (16, 32), (32, 64))]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    history = []  # losses, and the entropies of the labels, below which no loss falls
    for _ in range(steps):
        batch = torch.randint(96, (32,))
        images, labels = mix(pixels[batch], kinds[batch])
        loss: Any = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append((loss.item(), float(torch.special.entr(labels).sum(1).mean())))
    net.eval()
    with torch.inference_mode():
        right = float((net(pixels[96:]).argmax(1) == kinds[96:]).float().mean())
    (first, _), (last, floor) = np.mean(history[:10], 0), np.mean(history[-10:], 0)
    print(f"  loss {first:.3f} -> {last:.3f} in {steps} steps (mixed labels allow {floor:.3f})")
    print(f"  right on {right:.0%} of 64 unseen flowers")
    return first, last, right
