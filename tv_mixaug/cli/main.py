"""The command ``tv-mixaug``: a demo, previews of a user's pictures, checks of a user's pipeline."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

from tv_mixaug import __version__

# torch is imported by those who need it: what only asks for help is not kept waiting.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tv_mixaug.transforms.base import MixTransform


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default those of the process, which Ctrl-C then ends at once.

    Returns:
        The exit code: 0, or 1 if a label differs from the pixels, 2 on bad input, 130 after Ctrl-C,
        141 if nobody reads what is printed.
    """
    with contextlib.ExitStack() as scratch:
        if argv is None:
            signal.signal(signal.SIGINT, lambda *_: _leave(scratch))
        try:
            try:
                return _run(_make_parser().parse_args(argv), scratch)
            finally:
                print(end="", flush=True)  # here, where a lost reader can still be caught
        except BrokenPipeError:
            if argv is None:  # what is left in the buffers must not fail at exit
                _silence()
            return 141
        except (OSError, ValueError) as error:
            print(f"tv-mixaug: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130


def _leave(scratch: contextlib.ExitStack) -> NoReturn:
    """Put away what would stay behind, and end the process without a word.

    An exception would not do: imports, destructors and the end of the interpreter print it.
    """
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "SIGCHLD"):  # torch raises an error where a worker ends by a signal
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        hurry = threading.Timer(2, os._exit, [130])  # if what was interrupted holds a lock
        hurry.daemon = True
        hurry.start()
        _silence()
        processes = sys.modules.get("multiprocessing.process")
        for worker in getattr(processes, "active_children", list)():
            worker.kill()
        scratch.close()
        atexit._run_exitfuncs()  # semaphores and such, of multiprocessing
    finally:
        os._exit(130)


def _silence() -> None:
    """Drop what this process is still going to print."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tv-mixaug", description="Cutout, Mixup and CutMix with labels that equal the pixels."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> Callable[..., argparse.Action]:
        """Begin a command that draws a sheet, and return what adds an argument to it."""
        add = commands.add_parser(name, help=text, description=text.capitalize() + ".").add_argument
        text = "the contact sheet (default: %(default)s)"
        add("--out", type=Path, metavar="FILE", default=Path(f"tv_mixaug_{name}.png"), help=text)
        return add

    text = "mix drawn flowers, check labels against pixels, train a small net; half a minute"
    add = command("demo", text)
    text = "a new or empty folder for the flowers, which are deleted otherwise"
    add("--keep", type=Path, metavar="DIR", help=text)

    add = command("preview", "draw pictures of your own before and after a transform")
    add("folder", type=Path, metavar="DIR", help="holds pictures, or a folder of them per class")
    add("--transform", type=str.lower, choices=("cutmix", "mixup", "cutout"), default="cutmix")
    add("--alpha", type=float, help="of CutMix, Mixup: lam is from Beta(alpha, alpha); default 1")
    add("--hole", type=float, help="of Cutout: side of the hole as a share; default 0.5")
    add("--mode", choices=("batch", "sample"), default="sample", help="one draw for all, or each")
    add("--size", type=int, default=224, help="side of the cropped pictures (default: %(default)s)")
    add("--batch-size", type=int, default=8, help="number of pictures (default: %(default)s)")
    add("--seed", type=int, default=0, help="settles choice and mix (default: %(default)s)")

    add = command("check", "ask a pipeline of your own whether its labels equal its pixels")
    add("target", metavar="MODULE:NAME", help="a collate function, batch transform or function, "
        "DataLoader, or a function that makes one")  # fmt: skip
    add("--num-classes", type=int, required=True, metavar="K", help="number of classes")
    add("--as", dest="kind", choices=("collate", "batch", "loader"), help="what the target is")
    add("--keys", help="of image, label and perhaps mask in samples and batches: image,label,mask")
    add("--size", default="32x48", help="height x width in pixels (default: %(default)s)")
    add("--dtype", action="append", choices=("float32", "uint8", "float16", "bfloat16", "float64"),
        help="of the images, also several times; the first is asked everything")  # fmt: skip
    add("--arrays", action="store_true", help="images of samples are NumPy arrays (C, H, W)")
    add("--mean", help="subtracted from the images at the end, such as 0.5,0.4,0.3")
    add("--std", help="divided by at the end")
    add("--erased", help="value of erased pixels, or one for each channel, or noise")
    add("--label-format", choices=("index", "soft"), default="index", help="of labels going in")
    add("--label-smoothing", type=float, default=0.0, help="that the pipeline applies")
    add("--p", type=float, help="share of batches (or samples) said to be mixed")
    add("--per", choices=("batch", "sample"), default="batch", help="what p and draws are for")
    add("--fixed", action="store_true", help="lam and boxes are fixed on purpose")
    add("--switch", metavar="NAME", help="attribute or method that switches mixing off")
    add("--draws", type=int, default=25, help="batches for each question (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the first batch (default: %(default)s)")
    return parser


def _run(args: argparse.Namespace, scratch: contextlib.ExitStack) -> int:
    """Draw a contact sheet by the command, and write it."""
    from tv_mixaug.cli.demo import run_demo
    from tv_mixaug.extras.io import check_output, write_image

    check_output("--out", args.out)  # before the work is done
    if args.command == "check":
        from tv_mixaug.cli.check import run_check

        return run_check(args)
    if args.command == "preview":
        sheet, honest = _draw_preview(args), True
    else:
        folder = args.keep
        if folder is None:
            folder = Path(scratch.enter_context(TemporaryDirectory(prefix="tv_mixaug_")))
        elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ValueError(f"--keep must be a new or empty folder, got '{folder}'.")
        sheet, honest = run_demo(folder)
    write_image(args.out, sheet)
    print(f"Contact sheet: {args.out.resolve()}")
    return 0 if honest else 1


def _draw_preview(args: argparse.Namespace) -> npt.NDArray[np.uint8]:
    """Draw a contact sheet of a user's pictures before and after a transform."""
    import numpy as np
    import torch
    from torchvision.transforms.v2 import functional as F

    from tv_mixaug import viz
    from tv_mixaug.cli.demo import show_progress
    from tv_mixaug.extras.io import MAX_PIXELS, read_image

    for name, least, most in (("size", 1, 4096), ("batch-size", 1, 4096), ("seed", 0, 2**63 - 1)):
        value = getattr(args, name.replace("-", "_"))
        if not least <= value <= most:
            raise ValueError(f"--{name} must be in [{least}, {most}], got {value}.")
    names, pictures = _find_pictures(args.folder)
    count = min(args.batch_size, len(pictures))
    if count * args.size**2 > MAX_PIXELS:
        raise ValueError(
            f"--size and --batch-size must come to at most {MAX_PIXELS} pixels, got {count} × "
            f"{args.size} × {args.size}."
        )
    transform, title = _make_transform(args, len(names))

    def read(path: Path) -> torch.Tensor:
        """Read the square in the middle: nothing is stretched, and a batch has one size."""
        image = read_image(path)
        square = F.center_crop(image, [min(image.shape[1:])])
        resized: torch.Tensor = F.resize(square, [args.size, args.size])
        return resized

    torch.manual_seed(args.seed)
    chosen = [pictures[i] for i in torch.randperm(len(pictures))[:count].tolist()]
    images = torch.stack([read(path) for path, _ in show_progress(chosen, count, "reading")])
    labels = torch.tensor([label for _, label in chosen])
    mixed, weights = transform(images, labels)
    before = viz.draw_batch(images, labels, names, title="As they are")
    return np.concatenate([before, viz.draw_batch(mixed, weights, names, title=title)])


def _find_pictures(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the names of the classes, and each picture with its class; nothing hidden."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    def list_pictures(top: Path) -> list[Path]:
        return [
            path
            for path in sorted(top.rglob("*"))
            if path.suffix.lower() in IMG_EXTENSIONS
            and not any(part[0] == "." for part in path.relative_to(top).parts)
            and not path.is_dir()
        ]

    if not folder.is_dir():
        raise FileNotFoundError(f"DIR must be a folder, got '{folder}'.")
    kinds = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    found = {path.name: pictures for path in kinds if (pictures := list_pictures(path))}
    if not found:  # a flat folder is one class
        found = {folder.resolve().name: list_pictures(folder)}
    if not any(found.values()):
        raise FileNotFoundError(
            f"DIR must hold one folder of pictures for each class, or pictures, got '{folder}'."
        )
    return list(found), [(path, i) for i, name in enumerate(found) for path in found[name]]


def _make_transform(args: argparse.Namespace, num_classes: int) -> tuple[MixTransform, str]:
    from tv_mixaug.transforms import CutMix, Cutout, Mixup

    kinds: dict[str, tuple[Any, str, float, str]] = {
        "cutmix": (CutMix, "alpha", 1.0, "hole"),
        "mixup": (Mixup, "alpha", 1.0, "hole"),
        "cutout": (Cutout, "hole", 0.5, "alpha"),
    }
    kind, own, default, other = kinds[args.transform]
    if getattr(args, other) is not None:
        raise ValueError(f"--{other} must not be given with --transform {args.transform}.")
    value = default if getattr(args, own) is None else getattr(args, own)
    transform = kind(value, mode=args.mode, num_classes=num_classes)
    return transform, f"{kind.__name__}({value}, mode='{args.mode}')"
