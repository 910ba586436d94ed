"""The command ``tv-mixaug demo``: mix drawn flowers and check their labels."""

import argparse
from typing import Any

import numpy as np
import torch

from tv_mixaug import CutMix, Cutout, Mixup
from tv_mixaug.extras import flowers, viz
from tv_mixaug.testing import UntruthfulError, assert_labels_match_pixels


def run_demo(args: argparse.Namespace) -> tuple[Any, bool]:
    """Mix drawn flowers by each transform, and check the labels.

    Return the contact sheet, (H, W, 3) uint8, and whether all labels equal the pixels.
    """
    torch.set_num_threads(1)  # more are slower for tensors of this size
    torch.manual_seed(4)
    print("Eight drawn flowers are mixed by each transform. Labels equal pixels:")
    batch = flowers.draw_flowers(8, seed=4)
    # Beta(4, 4) seldom samples a weight near 0 or 1, and neighbours are of different classes, so
    # every picture shows its mix.
    options: dict[str, Any] = {"num_classes": 2, "mode": "sample"}
    options["pairing"] = lambda labels: torch.arange(len(labels)).roll(1)
    fills = [Cutout(p=p, num_classes=2) for p in (0.0, 1.0)]
    sheets, all_equal = [], True
    for transform in (*fills, Mixup(4.0, **options), CutMix(4.0, **options)):
        (images, labels), plan = transform.mix(batch)
        name = type(transform).__name__ if transform.p else "No mixing"
        try:
            rows = assert_labels_match_pixels(transform, num_classes=2, erased=0).rows
            print(f"  {name:<10} in {rows} of {rows} test pictures")
        except UntruthfulError as error:
            all_equal = False
            print(f"  {name}: {error}")
        for number, (rose, tulip) in enumerate(labels.tolist() if args.verbose else []):
            print(f"  {name} {number}: rose {rose:.3f}  tulip {tulip:.3f}")
        sheets.append(viz.draw_batch(images, labels, flowers.CLASS_NAMES, title=name, plan=plan))
    return np.concatenate(sheets), all_equal
