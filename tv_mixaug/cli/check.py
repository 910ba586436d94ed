"""The command ``tv-mixaug check``: run all assertions of the kit on a user's pipeline."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tv_mixaug import testing, viz
from tv_mixaug._validation import check_integer, check_probability
from tv_mixaug.extras.io import write_image
from tv_mixaug.testing._coded import Case, coded_batch, per_channel
from tv_mixaug.testing._pipeline import BATCH, KINDS, Target, find_target, in_a_line
from tv_mixaug.testing._runner import Evidence


class Answer(NamedTuple):
    """A row of the table."""

    question: str
    verdict: str  # "holds", "refuses" or "WRONG"
    text: str = ""
    error: testing.UntruthfulError | None = None


def run_check(args: argparse.Namespace) -> int:
    """Run all assertions on a pipeline, print the results and return the exit code."""
    args = _read_arguments(args)
    torch.set_num_threads(1)  # the batches are small
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the pipeline are not checked
        target = find_target(args, args.dtype[0])
        height, width = args.size
        print(
            f"{args.target} is a {KINDS[target.kind]}; fed with {BATCH} × 3 × {height} × {width}, "
            f"{target.num_classes} classes, seed {args.seed}.\n",
            flush=True,
        )
        answers: list[Answer] = []
        for question, ask in _questions(target, args):
            answer = _answer(question, ask)
            if not answers and answer.verdict == "refuses":
                raise ValueError(f"{args.target} cannot be checked: {answer.text}")
            print(f"  {question:<40}{answer.verdict}", flush=True)
            answers.append(answer)
    _print_reasons(answers)
    pictures: dict[str, tuple[str, Evidence]] = {}
    for question, _, _, error in answers:
        if error is not None and error.evidence is not None:
            pictures.setdefault(error.case, (question, error.evidence))
    if pictures:
        write_image(args.out, _draw_sheet(list(pictures.values())))
        print(f"\nContact sheet: {args.out.resolve()}")
    return int(any(answer.error is not None for answer in answers))


def _read_arguments(given: argparse.Namespace) -> argparse.Namespace:
    """Parse the values of the arguments; most ranges are checked by the assertions."""
    args = argparse.Namespace(**vars(given))
    args.keys = [int(k) if k.isdigit() else k for k in args.keys.split(",")] if args.keys else None
    args.dtype = [getattr(torch, name) for name in args.dtype or ["float32"]]
    sides = _read_numbers("--size", args.size.replace("x", ","), int)
    args.size = (sides[0], sides[-1])
    for name, value, least in (("size", min(args.size), 8), ("num-classes", args.num_classes, 2)):
        check_integer(f"--{name}", value, least)
    for name in ("mean", "std", "erased"):
        if (text := getattr(args, name)) not in (None, "noise"):
            numbers = _read_numbers(f"--{name}", text, float)
            setattr(args, name, numbers if len(numbers) > 1 else numbers[0])
    if args.p is not None:
        check_probability("--p", args.p)
    return args


def _read_numbers(name: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be made of numbers, got {text!r}.") from None


def _questions(
    target: Target, args: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each question with a function that raises unless the answer is yes."""
    seed, dtype, classes = args.seed, args.dtype[0], target.num_classes
    sampled: dict[str, Any] = {"seed": seed, "size": args.size, "dtype": dtype}
    coded: dict[str, Any] = {"seed": seed, "sizes": (args.size,), "draws": args.draws}
    labels = partial(
        testing.assert_labels_match_pixels, target, num_classes=classes, erased=args.erased,
        label_smoothing=args.label_smoothing, mean=args.mean, std=args.std, **coded,
    )  # fmt: skip
    for each in args.dtype:
        name = str(each).removeprefix("torch.")
        yield f"labels equal pixels, {name}", partial(labels, dtypes=(each,), batch_sizes=(BATCH,))
    for size in (5, 1):
        ask: partial[Any] = partial(labels, dtypes=(dtype,), batch_sizes=(size,))
        yield f"labels equal pixels, batch of {size}", ask
    if len(target.keys) > 2:

        def masked(images: Tensor, masks: Tensor) -> tuple[Any, Any]:
            images, _, masks = target(images, torch.arange(len(images)) % classes, masks)
            return images, masks

        # Class numbers of masks are uint8.
        yield "masks follow images", partial(
            testing.assert_targets_follow_images, masked, kind="masks", dtypes=(dtype,),
            num_classes=min(256, max(BATCH, classes)), erased=args.erased is not None,
            batch_sizes=(BATCH,), **coded,
        )  # fmt: skip
    yield "labels have one format", partial(
        testing.assert_one_label_format, lambda p: target, num_classes=classes, p=(0,), seed=seed,
        draws=2 * args.draws,
    )  # fmt: skip
    batch = coded_batch(Case(BATCH, args.size, dtype, seed), classes)
    given = target.feed(batch.images, batch.classes)
    ask = partial(testing.assert_inputs_unchanged, target.function, *given, seed=seed)
    yield "inputs are unchanged", ask
    mean, std = per_channel("--mean", args.mean, 3), per_channel("--std", args.std, 3)
    target = replace(target, mean=mean, std=std)
    if args.p is not None:
        what = "batches" if args.per == "batch" else "samples"
        ask = partial(testing.assert_probability, target, args.p, per=args.per, **sampled)
        yield f"{what} are mixed with probability p", ask
    if not args.fixed:
        set_epoch = getattr(target.function, "set_epoch", None)

        def independent() -> None:
            testing.assert_draws_independent(target, per=args.per, **sampled)
            if target.kind != "batch":
                testing.assert_draws_independent(
                    target.make_loader, per=args.per, loader=True, set_epoch=set_epoch, **sampled
                )

        yield "draws are independent", independent
    if args.switch:

        def switch(_: Any, on: bool) -> None:
            if callable(attribute := getattr(target.function, args.switch)):
                attribute(float(on))
            else:
                setattr(target.function, args.switch, on)

        yield "the switch reaches running workers", partial(
            testing.assert_switch_reaches_workers, partial(target.make_loader, persistent=True),
            switch, **sampled,
        )  # fmt: skip


def _answer(question: str, ask: Callable[[], object]) -> Answer:
    try:
        ask()
    except testing.UntruthfulError as error:
        counts = f" in {error.wrong} of {error.rows}" if error.rows else ""
        return Answer(question, f"WRONG{counts}", str(error), error)
    except (Exception, SystemExit) as error:
        return Answer(question, "refuses", f"{in_a_line(error)}.")
    return Answer(question, "holds")


def _print_reasons(answers: list[Answer]) -> None:
    """Print each wrong or refused answer; a case that two answers share is printed once."""
    told: dict[str, str] = {}
    for question, _, text, error in answers:
        if text:
            print(f"\n{question}: {'wrong' if error else 'refuses'}")
            case = error.case if error else text
            lines = [f"As above: {told[case]}."] if case in told else text.splitlines()
            print("\n".join(f"  {line}" for line in lines))
            told.setdefault(case, question)


def _draw_sheet(pictures: list[tuple[str, Evidence]]) -> npt.NDArray[np.uint8]:
    """Draw the wrong rows of each answer with the weights of their labels and of their pixels."""
    strips = []
    for question, evidence in pictures:
        for title, images, labels in (
            (f"{question}: inputs", evidence.samples[:BATCH], evidence.classes[:BATCH]),
            ("Outputs, with the weights of the labels", evidence.images, evidence.said),
            ("Outputs, with the weights of the pixels", evidence.images, evidence.held),
        ):
            shown = images.nan_to_num(0).clamp(0, 1).float()
            weights = labels.nan_to_num(0).clamp(min=0).float() if labels.ndim == 2 else labels
            strips.append(viz.draw_batch(shown, weights, title=title))
    width = max(strip.shape[1] for strip in strips)
    return np.concatenate(
        [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), mode="edge") for s in strips]
    )
