"""The command ``tv-mixaug preview``: draw a user's pictures before and after a transform."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as F

from tv_mixaug import CutMix, Cutout, Mixup
from tv_mixaug._validation import check_number, ensure
from tv_mixaug.extras import io, viz

_TRANSFORMS: dict[str, Any] = {"cutmix": CutMix, "mixup": Mixup, "cutout": Cutout}


def run_preview(args: argparse.Namespace) -> tuple[Any, bool]:
    """Draw a folder's pictures before and after a transform.

    Return the contact sheet, (H, W, 3) uint8, and True, since no labels are checked.
    """
    check_number("--size", args.size, "[1, 4096]")
    check_number("--batch-size", args.batch_size, "[1, 4096]")
    check_number("--seed", args.seed, "[0, 9223372036854775807]")
    used, unused = ("hole", "alpha") if args.transform == "cutout" else ("alpha", "hole")
    value, other = getattr(args, used), getattr(args, unused)
    ensure(other is None, f"--{unused}", f"left out with --transform {args.transform}", other)
    names, files = _find_pictures(args.folder)
    given = [] if value is None else [value]
    transform = _TRANSFORMS[args.transform](*given, mode=args.mode, num_classes=len(names))

    torch.manual_seed(args.seed)
    chosen = [files[i] for i in torch.randperm(len(files))[: args.batch_size].tolist()]
    pictures = []
    for file, _ in chosen:
        picture = io.read_image(file)
        square = F.center_crop(picture, [min(picture.shape[1:])])
        pictures.append(F.resize(square, [args.size, args.size]))
    images, labels = torch.stack(pictures), torch.tensor([label for _, label in chosen])
    before = viz.draw_batch(images, labels, names, title="Before")
    mixed, weights = transform(images, labels)
    after = viz.draw_batch(mixed, weights, names, title=repr(transform))
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
