"""The command ``tv-mixaug``: its arguments and commands."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tv_mixaug import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0, 1 if a label differs from the pixels, 2 after an error, 130 after Ctrl-C.
    """
    args = _make_parser().parse_args(argv)
    try:
        return _run(args)
    except (OSError, ValueError) as error:
        print(f"tv-mixaug: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tv-mixaug", description="Cutout, Mixup and CutMix with labels that equal the pixels."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> Callable[..., argparse.Action]:
        """Add a command that draws a sheet, and return the function that adds its arguments."""
        add = commands.add_parser(name, help=text, description=text.capitalize() + ".").add_argument
        text = "the contact sheet (default: %(default)s)"
        add("--out", type=Path, metavar="FILE", default=Path(f"tv_mixaug_{name}.png"), help=text)
        return add

    text = "mix drawn flowers, check labels against pixels and train a small net in half a minute"
    add = command("demo", text)
    add("--keep", type=Path, metavar="DIR", help="a new or empty folder in which the flowers stay")

    add = command("preview", "draw your own pictures before and after a transform")
    add("folder", type=Path, metavar="DIR", help="holds pictures, or one folder of them per class")
    add("--transform", type=str.lower, choices=("cutmix", "mixup", "cutout"), default="cutmix")
    add("--alpha", type=float, help="parameter of Beta in CutMix and Mixup (default: 1)")
    add("--hole", type=float, help="side of Cutout's hole as a share of the image (default: 0.5)")
    add("--mode", choices=("batch", "sample"), default="sample", help="one draw for all, or each")
    add("--size", type=int, default=224, help="side of the cropped pictures (default: %(default)s)")
    add("--batch-size", type=int, default=8, help="number of pictures (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the choice and the mix (default: %(default)s)")

    add = command("check", "check whether the labels of your own pipeline equal its pixels")
    add("target", metavar="MODULE:NAME", help="a collate function, batch transform, function or "
        "DataLoader, or a function that makes one")  # fmt: skip
    add("--num-classes", type=int, required=True, metavar="K", help="number of classes")
    add("--as", dest="kind", choices=("collate", "batch", "loader"), help="what the target is")
    add("--keys", help="of image, label and optional mask in a sample, such as image,label,mask")
    add("--size", default="32x48", help="height x width in pixels (default: %(default)s)")
    add("--dtype", action="append", choices=("float32", "uint8", "float16", "bfloat16", "float64"),
        help="of the images; may be repeated, the first is used for all checks")  # fmt: skip
    add("--arrays", action="store_true", help="images of samples are NumPy arrays (C, H, W)")
    add("--mean", help="subtracted from the images at the end, such as 0.5,0.4,0.3")
    add("--std", help="divided by at the end")
    add("--erased", help="value of erased pixels, or one for each channel, or noise")
    add("--label-format", choices=("index", "soft"), default="index", help="of the input labels")
    add("--label-smoothing", type=float, default=0.0, help="that the pipeline applies")
    add("--p", type=float, help="expected share of mixed batches or samples")
    add("--per", choices=("batch", "sample"), default="batch", help="unit of --p and of the draws")
    add("--fixed", action="store_true", help="lam and boxes are fixed on purpose")
    add("--switch", metavar="NAME", help="attribute or method that switches mixing off")
    add("--draws", type=int, default=25, help="batches for each check (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the first batch (default: %(default)s)")
    return parser


def _run(args: argparse.Namespace) -> int:
    # Imported here, so that --help does not wait for torch.
    from tv_mixaug.extras.io import check_output, write_image

    check_output("--out", args.out)
    if args.command == "check":
        from tv_mixaug.cli.check import run_check

        return run_check(args)
    if args.command == "preview":
        from tv_mixaug.cli.preview import run_preview

        sheet, equal = run_preview(args), True
    else:
        from tv_mixaug.cli.demo import run_demo

        if args.keep and (args.keep.is_file() or any(args.keep.glob("*"))):
            raise ValueError(f"--keep must be a new or empty folder, got '{args.keep}'.")
        with TemporaryDirectory(prefix="tv_mixaug_") as folder:
            sheet, equal = run_demo(args.keep or Path(folder))
    write_image(args.out, sheet)
    print(f"Contact sheet: {args.out.resolve()}")
    return 0 if equal else 1
