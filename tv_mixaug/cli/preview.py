"""The command ``tv-mixaug preview``: draw a user's pictures before and after a transform."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as F

from tv_mixaug import CutMix, Cutout, Mixup
from tv_mixaug.cli.demo import show_progress
from tv_mixaug.extras import io, viz

_TRANSFORMS: dict[str, tuple[Any, str, float]] = {
    "cutmix": (CutMix, "alpha", 1.0),
    "mixup": (Mixup, "alpha", 1.0),
    "cutout": (Cutout, "hole", 0.5),
}


def run_preview(args: argparse.Namespace) -> npt.NDArray[np.uint8]:
    """Draw a contact sheet of a folder's pictures before and after a transform.

    Args:
        args: The parsed arguments of ``tv-mixaug preview``.

    Returns:
        The contact sheet, (H, W, 3) uint8.
    """
    for name, least, most in (("size", 1, 4096), ("batch_size", 1, 4096), ("seed", 0, 2**63 - 1)):
        if not least <= getattr(args, name) <= most:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} must be in [{least}, {most}], got {getattr(args, name)}.")
    names, files = _find_pictures(args.folder)
    make, option, value = _TRANSFORMS[args.transform]
    for other in ("alpha", "hole"):
        if other != option and getattr(args, other) is not None:
            raise ValueError(f"--{other} must not be given with --transform {args.transform}.")
    value = value if getattr(args, option) is None else getattr(args, option)
    transform = make(value, mode=args.mode, num_classes=len(names))

    torch.manual_seed(args.seed)
    chosen = [files[i] for i in torch.randperm(len(files))[: args.batch_size].tolist()]
    pictures = []
    for file, _ in show_progress(chosen, len(chosen), "reading"):
        picture = io.read_image(file)
        square = F.center_crop(picture, [min(picture.shape[1:])])
        pictures.append(F.resize(square, [args.size, args.size]))
    images, labels = torch.stack(pictures), torch.tensor([label for _, label in chosen])
    title = f"{make.__name__}({value}, mode='{args.mode}')"
    before = viz.draw_batch(images, labels, names, title="Before")
    mixed, weights = transform(images, labels)
    return np.concatenate([before, viz.draw_batch(mixed, weights, names, title=title)])


def _find_pictures(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the names of the classes, and pictures with their class; hidden files are skipped.

    Each folder in ``folder`` is a class; pictures without such a folder are one class.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"DIR must be a folder, got '{folder}'.")
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMG_EXTENSIONS
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not files:
        raise FileNotFoundError(f"DIR must hold pictures or folders of them, got '{folder}'.")
    nested = [file for file in files if file.parent != folder]
    if not nested:
        return [folder.resolve().name], [(file, 0) for file in files]
    classes = [file.relative_to(folder).parts[0] for file in nested]
    names = sorted(set(classes))
    return names, [(file, names.index(name)) for file, name in zip(nested, classes, strict=True)]
