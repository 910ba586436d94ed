"""The command ``tv-mixaug demo``: mix drawn flowers, check their labels and train a small net."""

import argparse
from typing import Any

import numpy as np
import torch
from torch import nn
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
    sheets, wrong, rows = [], 0, 0
    for transform in (*fills, Mixup(4.0, **options), CutMix(4.0, **options)):
        (images, labels), plan = transform.mix(batch)
        name = type(transform).__name__ if transform.p else "No mixing"
        try:
            rows += assert_labels_match_pixels(transform, num_classes=2, erased=0).rows
        except UntruthfulError as error:
            wrong, rows = wrong + error.wrong, rows + error.rows
            print(f"  {name}: {error}")
        for number, (rose, tulip) in enumerate(labels.tolist() if args.verbose else []):
            print(f"  {name} {number}: rose {rose:.3f}  tulip {tulip:.3f}")
        sheets.append(viz.draw_batch(images, labels, flowers.CLASS_NAMES, title=name, plan=plan))
    print(f"  labels equal pixels in {rows - wrong} of {rows} test pictures")
    _train(200)
    return np.concatenate(sheets), not wrong


def _train(steps: int, size: int = 48) -> tuple[float, float, float]:
    """Train a small net on mixed flowers; return its first and last loss, and its accuracy."""
    pictures, kinds = flowers.draw_flowers(160, size, seed=_SEED + 1)
    pixels = pictures / 255 - 0.5
    mix = OneOf([Mixup(0.4, num_classes=2), CutMix(1.0, num_classes=2)], [0.4, 0.4])
    torch.manual_seed(_SEED)
    layers = [Conv2dNormActivation(*c, stride=2) for c in ((3, 16), (16, 32), (32, 64))]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    history = []
    for _ in range(steps):
        batch = torch.randint(96, (32,))
        images, labels = mix(pixels[batch], kinds[batch])
        loss: Any = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    with torch.inference_mode():
        right = float((net.eval()(pixels[96:]).argmax(1) == kinds[96:]).float().mean())
    first, last = np.mean(history[:10]), np.mean(history[-10:])
    print(f"  loss {first:.3f} -> {last:.3f} in {steps} steps, right on {right:.0%} of 64 unseen")
    return float(first), float(last), right
