"""The command ``tv-mixaug check``: run all assertions of the kit on a user's pipeline."""

import argparse
import inspect
import textwrap
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from tv_mixaug import testing
from tv_mixaug._validation import check_integer, check_probability, optional
from tv_mixaug.testing._coded import Case, coded_batch, per_channel
from tv_mixaug.testing._pipeline import BATCH, KINDS, Target, find_target, in_a_line


def run_check(args: argparse.Namespace) -> tuple[None, bool]:
    """Run all assertions on a pipeline and print a table; return no sheet, and whether all hold."""
    check_integer("--num-classes", args.num_classes, 2)
    check_integer("--size", min(args.size), 8)
    optional("--p", args.p, check_probability)
    dtypes = [getattr(torch, name) for name in args.dtype or ["float32"]]
    # The options of the command have the names of the assertions' arguments.
    options = vars(args) | {"dtype": dtypes[0], "dtypes": dtypes[:1], "sizes": [args.size]}
    options |= {"batch_sizes": [BATCH], "label_format": "index"}
    answers: list[str] = []
    torch.set_num_threads(1)  # the batches are small
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the pipeline are not checked
        target = find_target(args, dtypes[0])
        fed = f"{BATCH} × 3 × {args.size[0]} × {args.size[1]}, {args.num_classes} classes"
        print(f"{args.target} is a {KINDS[target.kind]}; fed with {fed}, seed {args.seed}.\n")
        _ask_all(partial(_ask, options, answers), target, args, dtypes)
    wrong, refused = answers.count("WRONG"), answers.count("refuses")
    print(f"\nVerdict: {wrong} of {len(answers)} checks are wrong, and {refused} refused.")
    return None, not wrong


def _ask(
    options: dict[str, Any], answers: list[str], question: str, assertion: Any, *values: Any,
    **others: Any,
) -> None:  # fmt: skip
    """Call an assertion with the options that it takes; print whether it holds, or why not."""
    seed = options["seed"] + 2 * options["batches"] * len(answers)
    names, given = inspect.signature(assertion).parameters, options | {"seed": seed} | others
    answer, text = "holds", ""
    try:
        assertion(*values, **{name: given[name] for name in names if name in given})
    except testing.UntruthfulError as error:
        answer, text = "WRONG", f"{error}\n"
    except (Exception, SystemExit) as error:
        answer, text = "refuses", f"{in_a_line(error)}.\n"
        # An option asks for the probability: the command fails if it cannot be answered.
        if not answers or assertion is testing.assert_probability:
            reason = f"cannot be asked whether {question}: {text}"
            raise ValueError(f"{options['target']} {reason.strip()}") from error
    print(f"  {question:<40}{answer}\n{textwrap.indent(text, ' ' * 4)}", end="", flush=True)
    answers.append(answer)


def _ask_all(ask: Any, target: Target, args: argparse.Namespace, dtypes: list[Any]) -> None:
    """Ask all questions that apply."""
    function, classes, draws = target.function, args.num_classes, args.batches
    variants: dict[str, Any] = {str(dtype)[6:]: {"dtypes": [dtype]} for dtype in dtypes}
    variants |= {f"batch of {size}": {"batch_sizes": [size]} for size in (5, 1)}
    assertion: Any = testing.assert_labels_match_pixels
    for name, others in variants.items():
        ask(f"labels equal pixels, {name}", assertion, target, draws=draws, **others)
    if len(target.keys) > 2:
        ask(
            "masks follow images", testing.assert_targets_follow_images,
            lambda images, masks: target(images, torch.arange(len(images)) % classes, masks)[::2],
            kind="masks", draws=draws, erased=args.erased is not None,
            num_classes=min(256, max(BATCH, classes)),  # class numbers of masks are uint8
        )  # fmt: skip
    assertion = testing.assert_one_label_format
    ask("labels have one format", assertion, lambda p: target, p=[0], draws=2 * draws)
    batch = coded_batch(Case(BATCH, args.size, dtypes[0], args.seed), classes)
    inputs = target.feed(batch.images, batch.classes)
    ask("inputs are unchanged", testing.assert_inputs_unchanged, function, *inputs)
    mean, std = per_channel("--mean", args.mean, 3), per_channel("--std", args.std, 3)
    plain = replace(target, mean=mean, std=std)
    if args.p is not None:
        ask(f"each {args.per} is mixed with probability p", testing.assert_probability, plain)
    if not args.fixed:
        assertion = testing.assert_draws_independent
        ask("draws are independent", assertion, plain)
        if target.kind != "batch":
            epochs = {"loader": True, "set_epoch": getattr(function, "set_epoch", None)}
            ask("draws of workers are independent", assertion, plain.make_loader, **epochs)
