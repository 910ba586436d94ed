"""The command ``tv-mixaug preview``: draw a user's pictures before and after a transform."""

import argparse
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as F

from tv_mixaug import Chain, CutMix, Cutout, Mixup, OneOf, RandomErasing
from tv_mixaug._validation import check_number, ensure
from tv_mixaug.extras import io, viz


def run_preview(args: argparse.Namespace) -> tuple[Any, bool]:
    """Draw a folder's pictures before and after a transform.

    Return the contact sheet, (H, W, 3) uint8, and True, since no labels are checked.
    """
    check_number("--size", args.size, "[1, 4096]")
    check_number("--batch-size", args.batch_size, "[1, 4096]")
    check_number("--seed", args.seed, "[0, 9223372036854775807]")
    names, files = _find_pictures(args.folder)
    options: dict[str, Any] = {"mode": args.mode, "num_classes": len(names)}
    cutmix, mixup = CutMix(args.alpha, **options), Mixup(args.alpha, **options)
    erase = RandomErasing(p=1.0, **options)
    transforms: dict[str, Any] = {"cutmix": cutmix, "mixup": mixup, "cutout": Cutout(**options)}
    transforms |= {"randomerasing": erase, "chain": Chain([cutmix, erase])}
    transforms["oneof"] = OneOf([cutmix, mixup], mode=args.mode)
    transform = transforms[args.transform]

    torch.manual_seed(args.seed)
    turns: dict[int, Any] = defaultdict(count)  # the first of each class, then the second, ...
    shuffled = [files[i] for i in torch.randperm(len(files)).tolist()]
    shuffled.sort(key=lambda file: next(turns[file[1]]))
    pictures, broken = list[Any](), list[str]()
    for file, label in shuffled:
        try:
            picture = io.read_image(file)
        except (OSError, ValueError):
            broken.append(str(file))
            continue
        square = F.center_crop(picture, [min(picture.shape[1:])])
        pictures.append((F.resize(square, [args.size, args.size]), torch.tensor(label)))
        if len(pictures) == args.batch_size:
            break
    ensure(len(pictures) > 0, "DIR", "a folder with pictures that can be read", broken[:1])
    if broken:
        print(f"Skipped {len(broken)} files that cannot be read, such as {broken[0]!r}.")
    images, labels = map(torch.stack, zip(*pictures, strict=True))
    (mixed, weights), plan = transform.mix((images, labels))
    plan = plan if transform.has_plan else None
    before = viz.draw_batch(images, labels, names, title="Before")
    after = viz.draw_batch(mixed, weights, names, title=repr(transform), plan=plan)
    return np.concatenate([before, after]), True


def _find_pictures(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the names of the classes, and pictures with their class; hidden files are skipped.

    Each folder in ``folder`` is a class; pictures without such a folder are one class.
    """
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    found = [path for path in shown if path.suffix.lower() in IMG_EXTENSIONS]
    ensure(len(found) > 0, "DIR", "a folder with pictures", f"'{folder}'", FileNotFoundError)
    nested = [path for path in found if len(path.parts) > 1]
    names = sorted({path.parts[0] for path in nested}) or [folder.resolve().name]
    files = [(folder / path, names.index(path.parts[0])) for path in nested]
    return names, files or [(folder / path, 0) for path in found]
