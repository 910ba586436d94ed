"""The command ``tv-mixaug``: a demo on drawn flowers, and previews of a user's own pictures."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tv_mixaug import __version__, flowers, viz
from tv_mixaug.io import read_image
from tv_mixaug.loading.collate import CollateFn, make_collate_fn
from tv_mixaug.transforms import CutMix, Cutout, MixTransform, Mixup

T = TypeVar("T")
_SEED = 4
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tiff")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0, or 1 if a label of the demo differs from the pixels, or 2 on bad input.
    """
    args = _make_parser().parse_args(argv)
    try:
        if args.command == "demo":
            return run_demo(args.out)
        run_preview(args)
    except (OSError, ValueError) as error:
        print(f"tv-mixaug: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def run_demo(out: Path, size: int = 256, steps: int = 200) -> int:
    """Mix drawn flowers by every transform, check and show them, and train on mixed labels.

    Args:
        out: The contact sheet to be written.
        size: Side of the pictures in pixels.
        steps: Number of training steps.

    Returns:
        0, or 1 if a label differs from the pixels.

    Raises:
        OSError: If ``out`` cannot be written.
        ValueError: If its suffix is not that of a picture.
    """
    _check_out(out)
    torch.set_num_threads(1)  # so small a net is not worth sharing: threads would only wait
    torch.manual_seed(_SEED)
    collate_fn = make_collate_fn(
        [
            Cutout(0.5, num_classes=2),
            Mixup(1.0, num_classes=2, mode="sample", pairing=pair_with_other_class),
            CutMix(1.0, num_classes=2, mode="sample", pairing=pair_with_other_class),
        ],
        p=[0.0, 0.0, 0.0],
        seed=_SEED,
    )
    arms: tuple[tuple[str, list[float], Find], ...] = (
        ("No mixing", [0.0, 0.0, 0.0], find_unchanged),
        ("Cutout", [1.0, 0.0, 0.0], find_hole),
        ("Mixup", [0.0, 1.0, 0.0], find_blend),
        ("CutMix", [0.0, 0.0, 1.0], find_paste),
    )
    sheets, all_equal = [], True
    with tempfile.TemporaryDirectory(prefix="tv_mixaug_") as folder:
        print(f"Eight flowers, JPEG and PNG, in {folder}: read with OpenCV, two workers.")
        flowers.write_image_folder(folder, count_per_class=4, size=size, seed=_SEED)
        dataset = ImageFolder(folder, v2.Resize((size, size)), loader=read_image)
        order = torch.randperm(len(dataset)).tolist()
        # Read once more without a loader, so that the check does not rest on what it checks.
        plain = torch.stack([dataset[i][0] for i in order])
        classes = torch.tensor([dataset[i][1] for i in order])
        loader = DataLoader(
            dataset,
            batch_size=len(order),
            sampler=order,
            num_workers=2,
            collate_fn=collate_fn,
            persistent_workers=True,
        )
        for name, p, find in arms:
            collate_fn.set_p(p)  # the running workers follow
            images, labels = next(iter(loader))
            print(f"\n{name}: images {tuple(images.shape)}, labels {tuple(labels.shape)}")
            equal = check_labels(images, labels, plain, classes, find, dataset.classes)
            all_equal = all_equal and equal
            sheets.append(viz.draw_batch(images, labels, dataset.classes, title=name))
        del loader
    print()
    train(steps)
    _write_sheet(out, sheets)
    return 0 if all_equal else 1


def run_preview(args: argparse.Namespace) -> None:
    """Write a contact sheet of a user's pictures before and after a transform.

    Args:
        args: The parsed arguments of ``tv-mixaug preview``.

    Raises:
        OSError: If the folder is not there, has no pictures, or ``args.out`` cannot be written.
        ValueError: If a number is out of range or a picture cannot be read.
    """
    for name, value in (("size", args.size), ("batch-size", args.batch_size)):
        if not 1 <= value <= 4096:
            raise ValueError(f"--{name} must be in [1, 4096], got {value}.")
    if args.seed < 0:
        raise ValueError(f"--seed must be >= 0, got {args.seed}.")
    _check_out(args.out)
    dataset = _open_folder(args.folder, args.size)
    transform, title = _make_transform(args, max(1, len(dataset.classes)))
    torch.manual_seed(args.seed)
    chosen = torch.randperm(len(dataset))[: args.batch_size].tolist()
    batch = [dataset[i] for i in show_progress(chosen, len(chosen), "reading")]
    images = torch.stack([image for image, _ in batch])
    labels = torch.tensor([label for _, label in batch])
    mixed, weights = transform(images, labels)
    sheets = [
        viz.draw_batch(images, labels, dataset.classes, title="As they are"),
        viz.draw_batch(mixed, weights, dataset.classes, title=title),
    ]
    _write_sheet(args.out, sheets)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tv-mixaug", description="Cutout, Mixup and CutMix with labels that equal the pixels."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    sheet: dict[str, Any] = {
        "type": Path,
        "metavar": "FILE",
        "help": "the contact sheet (default: %(default)s)",
    }

    text = "mix drawn flowers, check labels against pixels, train a small net; half a minute"
    demo = commands.add_parser("demo", help=text, description=text.capitalize() + ".")
    demo.add_argument("--out", default=Path("tv_mixaug_demo.png"), **sheet)

    text = "draw pictures of your own image folder before and after a transform"
    preview = commands.add_parser("preview", help=text, description=text.capitalize() + ".")
    add = preview.add_argument
    add("folder", type=Path, metavar="DIR", help="holds one folder of pictures for each class")
    add("--transform", choices=("cutmix", "mixup", "cutout"), default="cutmix")
    add("--alpha", type=float, help="of CutMix, Mixup: lam is from Beta(alpha, alpha); default 1")
    add("--hole", type=float, help="of Cutout: side of the hole as a share; default 0.5")
    add("--mode", choices=("batch", "sample"), default="sample", help="one draw for all, or each")
    add("--size", type=int, default=224, help="side of the resized pictures (default: %(default)s)")
    add("--batch-size", type=int, default=8, help="number of pictures (default: %(default)s)")
    add("--seed", type=int, default=0, help="settles choice and mix (default: %(default)s)")
    add("--out", default=Path("tv_mixaug_preview.png"), **sheet)
    return parser


def _make_transform(args: argparse.Namespace, num_classes: int) -> tuple[MixTransform, str]:
    if args.transform == "cutout":
        if args.alpha is not None:
            raise ValueError("--alpha must not be given with --transform cutout; it has no lam.")
        hole = 0.5 if args.hole is None else args.hole
        transform = Cutout(hole, mode=args.mode, num_classes=num_classes)
        return transform, f"Cutout({hole}, mode='{args.mode}')"
    if args.hole is not None:
        raise ValueError(f"--hole must not be given with --transform {args.transform}.")
    alpha = 1.0 if args.alpha is None else args.alpha
    kind = CutMix if args.transform == "cutmix" else Mixup
    transform = kind(alpha, mode=args.mode, num_classes=num_classes)
    return transform, f"{kind.__name__}({alpha}, mode='{args.mode}')"


def _open_folder(folder: Path, size: int) -> ImageFolder:
    if not folder.is_dir():
        raise FileNotFoundError(f"DIR must be a folder, got '{folder}'.")
    try:
        return ImageFolder(folder, v2.Resize((size, size)), loader=read_image)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"DIR must hold one folder of pictures for each class, got '{folder}': {error}"
        ) from error


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
            bar = "#" * (30 * done // total)
            start, end = ("\r", "") if live and done < total else ("\r" if live else "", "\n")
            print(f"{start}{text} [{bar:<30}] {done}/{total}", end=end, file=sys.stderr, flush=True)


def _check_out(out: Path) -> None:
    """Raise before the work is done if the sheet could not be written after it."""
    if out.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"--out must end in one of {', '.join(_SUFFIXES)}, got '{out}'.")
    if out.is_dir():
        raise ValueError(f"--out must be a file, got the folder '{out}'.")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out must be in a folder that exists, got '{out}'.")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise PermissionError(f"--out must be writable, got '{out}'.")


def _write_sheet(out: Path, sheets: Sequence[npt.NDArray[np.uint8]]) -> None:
    import cv2

    sheet = np.concatenate(sheets)
    try:
        ok, data = cv2.imencode(out.suffix.lower(), sheet[..., ::-1])
    except cv2.error:
        ok = False
    if not ok:
        raise ValueError(f"--out cannot hold a sheet of {sheet.shape[:2]} pixels; try .png.")
    out.write_bytes(data.tobytes())
    print(f"Contact sheet: {out.resolve()}")
