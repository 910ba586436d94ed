"""The command ``tv-mixaug check``: run all assertions of the kit on a user's pipeline."""

import argparse
import inspect
import textwrap
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from tv_mixaug import testing, viz
from tv_mixaug._validation import check_integer, check_probability, optional
from tv_mixaug.testing._coded import Case, coded_batch, per_channel
from tv_mixaug.testing._pipeline import BATCH, KINDS, Target, find_target, in_a_line

# Questions that an option asks: the command fails if they cannot be answered.
OF_P, SWITCH = "each {} is mixed with probability p", "the switch reaches running workers"


def run_check(args: argparse.Namespace) -> tuple[Any, bool]:
    """Run all assertions on a pipeline and print the results.

    Return the contact sheet of wrong rows, (H, W, 3) uint8 or None, and whether none is wrong.
    """
    check_integer("--num-classes", args.num_classes, 2)
    check_integer("--size", min(args.size), 8)
    optional("--p", args.p, check_probability)
    dtypes = [getattr(torch, name) for name in args.dtype or ["float32"]]
    # The options of the command have the names of the assertions' arguments.
    options = vars(args) | {"dtype": dtypes[0], "dtypes": dtypes[:1], "sizes": [args.size]}
    options |= {"batch_sizes": [BATCH], "label_format": "index"}
    answers: list[tuple[str, str, Any]] = []

    def ask(question: str, assertion: Any, *values: Any, **others: Any) -> None:
        """Call an assertion with the options that it takes, and print whether it holds."""
        seed = args.seed + 2 * args.batches * len(answers)
        names, given = inspect.signature(assertion).parameters, options | {"seed": seed} | others
        failure: testing.UntruthfulError | None = None
        verdict = "holds"
        try:
            assertion(*values, **{name: given[name] for name in names if name in given})
        except testing.UntruthfulError as error:
            verdict = f"WRONG in {error.wrong} of {error.rows}" if error.rows else "WRONG"
            failure = error
        except (Exception, SystemExit) as error:
            verdict, text = "refuses", f"{in_a_line(error)}."
            if not answers:
                raise ValueError(f"{args.target} cannot be checked: {text}") from error
            failure = testing.UntruthfulError(text, case=text)
        print(f"  {question:<40}{verdict}", flush=True)
        answers.append((question, verdict, failure))

    torch.set_num_threads(1)  # the batches are small
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the pipeline are not checked
        target = find_target(args, dtypes[0])
        fed = f"{BATCH} × 3 × {args.size[0]} × {args.size[1]}, {args.num_classes} classes"
        print(f"{args.target} is a {KINDS[target.kind]}; fed with {fed}, seed {args.seed}.\n")
        _ask_all(ask, target, args, dtypes)
    words = [verdict.split()[0] for _, verdict, _ in answers]
    wrong, refuses = words.count("WRONG"), words.count("refuses")
    args.end = f"Verdict: {wrong} of {len(words)} checks are wrong, and {refuses} refused."
    sheet = _explain(answers)
    refused = [question for question, verdict, _ in answers if verdict == "refuses"]
    unanswered = [question for question in (OF_P.format(args.per), SWITCH) if question in refused]
    if unanswered and not wrong:
        raise ValueError(f"{args.target} cannot be asked whether {' and '.join(unanswered)}.")
    return sheet, not wrong


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
        ask(OF_P.format(args.per), testing.assert_probability, plain)
    if not args.fixed:
        assertion = testing.assert_draws_independent
        ask("draws are independent", assertion, plain)
        if target.kind != "batch":
            epochs = {"loader": True, "set_epoch": getattr(function, "set_epoch", None)}
            ask("draws of workers are independent", assertion, plain.make_loader, **epochs)
    if args.switch:
        p = getattr(function, "p", None)
        shares = [share / sum(p) for share in p] if isinstance(p, list) and sum(p) else 1.0

        def switch(_: Any, on: bool) -> None:
            if callable(attribute := getattr(function, args.switch)):
                attribute(shares if on else 0.0)
            else:
                setattr(function, args.switch, on)

        assertion = testing.assert_switch_reaches_workers
        make_loader = partial(plain.make_loader, persistent=True)
        ask(SWITCH, assertion, make_loader, switch=switch)


def _explain(answers: list[tuple[str, str, Any]]) -> Any:
    """Explain each answer that is not yes, equal causes once, and draw the wrong rows."""
    told: dict[str, str] = {}
    strips = []
    for question, verdict, error in answers:
        if error is None:
            continue
        first = told.setdefault(error.cause or error.case, question)
        text = str(error) if first == question else f"As above: {first}."
        print(f"\n{question}: {verdict.split()[0].lower()}\n{textwrap.indent(text, '  ')}")
        if first == question and (evidence := error.evidence):
            levels = (evidence.samples[:, :, 0, 0] * 255).round().int().tolist()
            coded = zip(evidence.classes.tolist(), levels, strict=True)
            colours = {index: "rgb({},{},{})".format(*rgb) for index, rgb in coded}
            draw = partial(viz.draw_batch, mean=0.0, std=1.0, colours=colours)
            for title, images, labels in (
                (f"{question}: inputs", evidence.samples, evidence.classes),
                ("Outputs, with the weights of the labels", evidence.images, evidence.said),
                ("Outputs, with the weights of the pixels", evidence.images, evidence.held),
            ):
                finite = labels.nan_to_num(0, 0, 0)
                strips.append(draw(images, finite, title=title))
    width = max((strip.shape[1] for strip in strips), default=0)
    wide = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), mode="edge") for s in strips]
    return np.concatenate(wide) if wide else None
