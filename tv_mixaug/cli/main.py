"""The command ``tv-mixaug``: its arguments and commands."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tv_mixaug import __version__
from tv_mixaug._validation import ensure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with the arguments, by default those of the process.

    Return the exit code: 0, 1 if a label differs from the pixels, or 2 after an error.
    """
    given = sys.argv[1:] if argv is None else argv
    args = _make_parser().parse_args(given or ["--help"])
    try:  # --help imports neither torch nor OpenCV, which may be broken
        from tv_mixaug._opencv import cv2
        from tv_mixaug.extras.io import write_image

        if "out" in args:
            known = cv2.haveImageWriter(args.out.suffix)
            fits = known and args.out.parent.is_dir() and not args.out.is_dir()
            ensure(fits, "--out", "a .png or other image in a folder that exists", f"'{args.out}'")
        command = import_module(f"tv_mixaug.cli.{args.command}")
        sheet, all_equal = getattr(command, f"run_{args.command}")(args)
        if sheet is not None:
            write_image(args.out, sheet)
            print(f"\nContact sheet: {bytes(args.out.resolve()).decode(errors='replace')}")
            print("Next, on your own data: tv-mixaug preview DIR or tv-mixaug check MODULE:NAME")
    except (ImportError, OSError, ValueError) as error:
        print(f"tv-mixaug: error: {error}", file=sys.stderr)
        return 2
    return 0 if all_equal else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tv-mixaug", description="Mix images, and check the labels.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> Callable[..., argparse.Action]:
        """Add a command, and return the function that adds its arguments."""
        added = commands.add_parser(name, help=text, description=f"{text}.".capitalize())
        return added.add_argument

    add = command("demo", "mix drawn flowers and check labels against pixels")
    add("--verbose", action="store_true", help="print the label of each picture")
    add("--out", type=Path, default=Path("tv_mixaug_demo.png"), help="the contact sheet")

    add = command("preview", "draw your own pictures before and after a transform")
    add("folder", type=Path, metavar="DIR", help="holds pictures, or one folder of them per class")
    add("--transform", type=str.lower, default="cutmix",
        choices=("cutmix", "mixup", "cutout", "randomerasing", "oneof", "chain"),
        help="oneof: CutMix or Mixup; chain: CutMix, then RandomErasing")  # fmt: skip
    add("--alpha", type=float, default=1.0, help="of Beta in CutMix and Mixup (default: 1)")
    add("--mode", choices=("batch", "sample"), default="sample", help="one draw for all, or each")
    add("--size", type=int, default=224, help="side of the cropped pictures (default: %(default)s)")
    add("--batch-size", type=int, default=8, help="number of pictures (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the choice and the mix (default: %(default)s)")
    add("--out", type=Path, default=Path("tv_mixaug_preview.png"), help="the contact sheet")

    add = command("check", "check whether the labels of your own pipeline equal its pixels")
    add("target", metavar="MODULE:NAME", help="a collate function, batch transform, function or "
        "DataLoader, or a function that makes one")  # fmt: skip
    add("--num-classes", type=int, required=True, metavar="K", help="number of classes")
    add("--as", dest="kind", choices=("collate", "batch", "loader"), help="what the target is")
    add("--keys", type=lambda text: [int(key) if key.isdigit() else key for key in text.split(",")],
        help="of image, label and optional mask in a sample, such as image,label,mask")  # fmt: skip
    add("--size", type=size, default="32x48", help="height x width (default: %(default)s)")
    add("--dtype", action="append", choices=("float32", "uint8", "float16", "bfloat16", "float64"),
        help="of the images; may be repeated, the first is used for all checks")  # fmt: skip
    add("--arrays", action="store_true", help="images of samples are NumPy arrays (C, H, W)")
    add("--mean", type=numbers, help="subtracted from the images at the end, such as 0.5,0.4,0.3")
    add("--std", type=numbers, help="divided by at the end")
    add("--erased", type=numbers, help="value of erased pixels, or one per channel, or noise")
    add("--label-format", choices=("index", "soft"), default="index", help="of the input labels")
    add("--label-smoothing", type=float, default=0.0, help="that the pipeline applies")
    add("--p", type=float, help="expected share of mixed batches or samples")
    add("--per", choices=("batch", "sample"), default="batch", help="unit of --p and of the draws")
    add("--fixed", action="store_true", help="lam and boxes are fixed on purpose")
    add("--draws", type=int, dest="batches", default=25, help="per check (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the first batch (default: %(default)s)")
    return parser


# argparse writes the names of these functions into its errors.
def size(text: str) -> tuple[int, int]:
    """Parse a height and width, such as 32x48, or the side of a square."""
    sides = [int(side) for side in text.split("x")]
    return sides[0], sides[-1]


def numbers(text: str) -> Any:
    """Parse a number, or one for each channel, such as 0.5,0.4,0.3; ``noise`` stays as it is."""
    values = [number if number == "noise" else float(number) for number in text.split(",")]
    return values if len(values) > 1 else values[0]
