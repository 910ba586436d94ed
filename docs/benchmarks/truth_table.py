"""Do labels equal pixels? Ask torchvision, timm, kornia and tv_mixaug, and write the table.

    python truth_table.py             # 1,200 rows for each question: about five minutes
    python truth_table.py --draws 10  # shows that everything runs

Writes ``truth_table.md`` and ``truth_table.csv`` beside this script, or to ``--out``. Needs the
extras ``test`` and ``bench``.

Every system is asked the same questions by ``tv_mixaug.testing``, which sees only what goes in and
what comes out. Where a library returns something else than `(images, labels)`, a few lines below
translate; how kornia's third label column is read makes all the difference, so both readings have
a row. Questions that a library's interface cannot be asked stay empty.
"""

import argparse
import csv
import platform
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup, make_collate_fn
from tv_mixaug.testing import (
    UntruthfulError,
    assert_inputs_unchanged,
    assert_labels_match_pixels,
    assert_one_label_format,
    assert_targets_follow_images,
)

K = 10
BYTES = {"dtypes": (torch.uint8,)}
ERASED = {"erased": 0.0}


class Question(NamedTuple):
    """A column: what is asked, and of which kind it is."""

    title: str
    kind: str = "labels"
    batch_size: int = 8
    options: Mapping[str, Any] = MappingProxyType({})


QUESTIONS = {
    "cutmix": Question("CutMix, float32"),
    "mixup": Question("Mixup, float32"),
    "cutmix_bytes": Question("CutMix, uint8", options=BYTES),
    "mixup_bytes": Question("Mixup, uint8", options=BYTES),
    "odd": Question("batch of 5", batch_size=5),
    "one": Question("batch of 1", batch_size=1),
    "mask": Question("mask with CutMix", kind="masks"),
    "view": Question("second view"),
    "first": Question("label first, Mixup"),
    "twice": Question("two CutMix"),
    "erased": Question("CutMix, erasing", options=ERASED),
    "format": Question("one label format", kind="format"),
    "inputs": Question("inputs unchanged", kind="inputs"),
}


class Asked(NamedTuple):
    """What one system answers to one question with."""

    pipeline: Callable[..., Any]
    options: Mapping[str, Any] = MappingProxyType({})


def collated(transform: Callable[..., Any]) -> Asked:
    """Feed a list of samples."""
    return Asked(transform, {"collate": True})


def masks_of(mix: Callable[[dict[str, Any]], dict[str, Any]], collate: bool) -> Asked:
    """Hand images and masks over in dicts with a label, as a data set for segmentation does."""

    def pipeline(images: Any, masks: Any) -> Any:
        labels = torch.arange(len(images)) % K
        if collate:
            keys = ("image", "mask", "label")
            samples = zip(images, masks, labels.tolist(), strict=True)
            kinds = (tv_tensors.Image, tv_tensors.Mask, int)
            batch = mix(
                [
                    {key: kind(value) for key, kind, value in zip(keys, kinds, s, strict=True)}
                    for s in samples
                ]
            )
        else:
            batch = mix({"image": images, "mask": masks, "label": labels})
        return batch["image"], batch["mask"]

    return Asked(pipeline)


def second_view(transform: Callable[[dict[str, Any]], dict[str, Any]]) -> Asked:
    """Give two copies of the images, and judge the second."""

    def pipeline(images: Any, labels: Any) -> Any:
        batch = transform({"image": images, "view": images.clone(), "label": labels})
        return batch["view"], batch["label"]

    return Asked(pipeline)


def label_first(transform: Callable[..., Any]) -> Asked:
    """Give a dict with the label before the images."""

    def pipeline(images: Any, labels: Any) -> Any:
        batch = transform({"label": labels, "image": images})
        return batch["image"], batch["label"]

    return Asked(pipeline)


def twice(transform: Callable[..., Any]) -> Asked:
    """Mix what was mixed."""
    return Asked(lambda images, labels: transform(*transform(images, labels)))


def erasing(transform: Callable[..., Any], erase: Callable[..., Any]) -> Asked:
    """Erase images, not labels, after mixing."""

    def pipeline(*batch: Any) -> Any:
        images, labels = transform(*batch)
        return erase(images), labels

    return Asked(pipeline)


def on_batches(
    cutmix: Callable[..., Any],
    mixup: Callable[..., Any],
    erased: Asked,
    with_p: Callable[[float], Callable[..., Any]],
) -> dict[str, Asked]:
    """Ask v2 transforms, called on batches."""
    return {
        "cutmix": Asked(cutmix),
        "mixup": Asked(mixup),
        "cutmix_bytes": Asked(cutmix),
        "mixup_bytes": Asked(mixup),
        "odd": Asked(cutmix),
        "one": Asked(cutmix),
        "mask": masks_of(cutmix, collate=False),
        "view": second_view(cutmix),
        "first": label_first(mixup),
        "twice": twice(cutmix),
        "erased": erased,
        "format": Asked(with_p),
        "inputs": Asked(cutmix),
    }


def torchvision_system() -> dict[str, Asked]:
    """Ask torchvision's transforms, called on batches."""
    cutmix = v2.CutMix(num_classes=K)
    return on_batches(
        cutmix,
        v2.MixUp(num_classes=K),
        erased=erasing(cutmix, v2.RandomErasing(p=1)),
        with_p=lambda p: v2.RandomApply([cutmix], p=p),
    )


def torchvision_collated() -> dict[str, Asked]:
    """Ask torchvision's transforms behind default_collate, as its own example has them."""
    cutmix, mixup = v2.CutMix(num_classes=K), v2.MixUp(num_classes=K)

    def collate(transform: Callable[..., Any]) -> Callable[..., Any]:
        return lambda samples: transform(*default_collate(samples))

    return {
        "cutmix": collated(collate(cutmix)),
        "mixup": collated(collate(mixup)),
        "cutmix_bytes": collated(collate(cutmix)),
        "mixup_bytes": collated(collate(mixup)),
        "odd": collated(collate(cutmix)),
        "one": collated(collate(cutmix)),
        "mask": masks_of(lambda samples: cutmix(default_collate(samples)), collate=True),
        "format": Asked(lambda p: collate(v2.RandomApply([cutmix], p=p)), {"collate": True}),
        "inputs": collated(collate(cutmix)),
    }


def timm_system(mode: str) -> dict[str, Asked]:
    """Ask timm's Mixup, which works on batches of tensors."""
    from timm.data.mixup import Mixup as TimmMixup

    def make(cut: bool, **options: Any) -> Callable[..., Any]:
        alphas = {"mixup_alpha": 0.0 if cut else 1.0, "cutmix_alpha": 1.0 if cut else 0.0}
        return TimmMixup(**alphas, mode=mode, num_classes=K, label_smoothing=0.0, **options)

    cutmix, mixup, again = make(True), make(False), make(True, multi_label=True)
    return {
        "cutmix": Asked(cutmix),
        "mixup": Asked(mixup),
        "cutmix_bytes": Asked(cutmix),
        "mixup_bytes": Asked(mixup),
        "odd": Asked(cutmix),
        "one": Asked(cutmix),
        "twice": Asked(lambda images, labels: again(*cutmix(images, labels))),
        "erased": erasing(cutmix, v2.RandomErasing(p=1)),
        "format": Asked(lambda p: make(True, prob=p)),
        "inputs": Asked(cutmix),
    }


def timm_collated(mode: str) -> dict[str, Asked]:
    """Ask timm's FastCollateMixup, which takes samples with arrays of bytes."""
    from timm.data.mixup import FastCollateMixup

    def make(cut: bool, **options: Any) -> Callable[..., Any]:
        alphas = {"mixup_alpha": 0.0 if cut else 1.0, "cutmix_alpha": 1.0 if cut else 0.0}
        mix = FastCollateMixup(**alphas, mode=mode, num_classes=K, label_smoothing=0.0, **options)
        return lambda samples: mix([(image.numpy(), label) for image, label in samples])

    cutmix, mixup = make(True), make(False)
    return {
        "cutmix": collated(cutmix),
        "mixup": collated(mixup),
        "cutmix_bytes": collated(cutmix),
        "mixup_bytes": collated(mixup),
        "odd": Asked(cutmix, {"collate": True, **BYTES}),
        "one": Asked(cutmix, {"collate": True, **BYTES}),
        "erased": Asked(
            erasing(cutmix, v2.RandomErasing(p=1)).pipeline, {"collate": True, **BYTES}
        ),
        "format": Asked(lambda p: make(True, prob=p), {"collate": True}),
        "inputs": Asked(cutmix, {"collate": True, **BYTES}),
    }


def kornia_system(own: bool, correct: bool) -> dict[str, Asked]:
    """Ask kornia's mixes; `own`: the third label column is read as the own image's weight."""
    from kornia.augmentation import RandomCutMixV2, RandomMixUpV2

    keys = ["input", "class"]

    def cut(**options: Any) -> Any:
        return RandomCutMixV2(**{"data_keys": keys, "use_correct_lambda": correct, **options})

    def read(mixes: torch.Tensor) -> torch.Tensor:
        """Turn (mixes, B, 3) into rows: each mix gives its weight to its partner."""
        mixes = mixes if mixes.ndim == 3 else mixes[None]
        to_partner = 1 - mixes[..., 2] if own else mixes[..., 2]
        rows = (1 - to_partner.sum(0))[:, None] * one_hot(mixes[0, :, 0])
        return rows + sum(
            w[:, None] * one_hot(m[:, 1]) for w, m in zip(to_partner, mixes, strict=True)
        )

    def one_hot(labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(labels.long(), K).to(labels.dtype)

    def asked(transform: Any) -> Asked:
        def pipeline(images: Any, labels: Any) -> Any:
            images, mixes = transform(images, labels)
            return images, read(mixes)

        return Asked(pipeline)

    def reversed_keys(images: Any, labels: Any) -> Any:
        mixes, images = RandomMixUpV2(data_keys=keys[::-1])(labels, images)
        return images, read(mixes)

    def view(images: Any, labels: Any) -> Any:
        _, images, mixes = cut(data_keys=["input", "input", "class"])(
            images, images.clone(), labels
        )
        return images, read(mixes)

    def mask(images: Any, masks: Any) -> Any:
        return cut(data_keys=["input", "mask"])(images, masks[:, None].to(images.dtype))

    mixup = RandomMixUpV2(data_keys=keys)
    return {
        "cutmix": asked(cut()),
        "mixup": asked(mixup),
        "cutmix_bytes": asked(cut()),
        "mixup_bytes": asked(mixup),
        "odd": asked(cut()),
        "one": asked(cut()),
        "mask": Asked(mask),
        "view": Asked(view),
        "first": Asked(reversed_keys),
        "twice": asked(cut(num_mix=2)),
        "erased": erasing(asked(cut()).pipeline, v2.RandomErasing(p=1)),
        "format": Asked(lambda p: cut(p=p)),
        "inputs": Asked(cut()),
    }


def our_system() -> dict[str, Asked]:
    """Ask our transforms, called on batches."""
    cutmix = CutMix(num_classes=K)
    return on_batches(
        cutmix,
        Mixup(num_classes=K),
        erased=Asked(v2.Compose([cutmix, Cutout(num_classes=K)])),
        with_p=lambda p: CutMix(num_classes=K, p=p),
    )


def our_chain() -> dict[str, Asked]:
    """Ask our Chain, which counts the labels at the end, behind our collate function."""
    cutmix, mixup = CutMix(num_classes=K), Mixup(num_classes=K)

    def collate(*transforms: Any, p: float = 1.0) -> Callable[..., Any]:
        return make_collate_fn(Chain(list(transforms)), p=p)

    return {
        "cutmix": collated(collate(cutmix)),
        "mixup": collated(collate(mixup)),
        "cutmix_bytes": collated(collate(cutmix)),
        "mixup_bytes": collated(collate(mixup)),
        "odd": collated(collate(cutmix)),
        "one": collated(collate(cutmix)),
        "mask": masks_of(collate(cutmix), collate=True),
        "view": second_view(Chain([cutmix])),
        "first": label_first(Chain([mixup])),
        "twice": collated(collate(cutmix, cutmix)),
        "erased": collated(collate(cutmix, Cutout(num_classes=K))),
        "format": Asked(lambda p: collate(cutmix, p=p), {"collate": True}),
        "inputs": collated(collate(cutmix)),
    }


SYSTEMS: dict[str, Callable[[], dict[str, Asked]]] = {
    "torchvision": torchvision_system,
    "torchvision behind `default_collate`": torchvision_collated,
    **{f"timm `Mixup`, {m}": lambda m=m: timm_system(m) for m in ("batch", "pair", "elem")},
    **{
        f"timm `FastCollateMixup`, {m}": lambda m=m: timm_collated(m)
        for m in ("batch", "pair", "elem")
    },
    "kornia, default, lam read as the own weight": lambda: kornia_system(True, False),
    "kornia, default, lam read as the partner's weight": lambda: kornia_system(False, False),
    "kornia, `use_correct_lambda=True`, lam read as the own weight": lambda: kornia_system(
        True, True
    ),
    "tv_mixaug": our_system,
    "tv_mixaug `Chain` behind `make_collate_fn`": our_chain,
}


class Answer(NamedTuple):
    """A cell."""

    verdict: str  # "holds", "refuses", "wrong" or "" where it cannot be asked
    wrong: int = 0
    rows: int = 0
    text: str = ""

    def __str__(self) -> str:
        return f"**{self.short}**" if self.verdict == "wrong" else self.short

    @property
    def short(self) -> str:
        """What stands in the table."""
        if self.verdict == "wrong":
            return f"wrong in {self.wrong} of {self.rows}" if self.rows else "no"
        return self.verdict or "–"

    @property
    def reason(self) -> str:
        """The cause that the kit names, without the example."""
        return self.text.split("Probable cause: ")[-1].split(": the value at")[0].rstrip(".: ")


def ask(question: Question, asked: Asked, draws: int) -> Answer:
    """Ask one system one question."""
    options = {
        "batch_sizes": (question.batch_size,),
        "sizes": ((32, 32),),
        "draws": max(1, draws * 8 // question.batch_size),
        **question.options,
        **asked.options,
    }
    try:
        if question.kind == "labels":
            report = assert_labels_match_pixels(asked.pipeline, num_classes=K, **options)
            return Answer("holds", rows=report.rows)
        if question.kind == "masks":
            report = assert_targets_follow_images(asked.pipeline, kind="masks", **options)
            return Answer("holds", rows=report.rows)
        collate = options.get("collate", False)
        if question.kind == "format":
            assert_one_label_format(asked.pipeline, num_classes=K, collate=collate)
        else:
            assert_inputs_unchanged(asked.pipeline, *example_batch(options))
    except UntruthfulError as error:
        return Answer("wrong", error.wrong, error.rows, str(error))
    except AssertionError as error:
        if str(error).startswith(("Labels change", "The pipeline changed")):
            return Answer("wrong", text=str(error))
        return Answer("refuses", text=f"AssertionError: {error}")
    except Exception as error:
        first_line = str(error).split("\n")[0]
        return Answer("refuses", text=f"{type(error).__name__}: {first_line}")
    return Answer("holds")


def example_batch(options: dict[str, Any]) -> tuple[Any, ...]:
    """Make inputs that a pipeline might write to."""
    torch.manual_seed(0)
    images = (255 * torch.rand(8, 3, 32, 32)).byte()
    if options.get("dtypes") != BYTES["dtypes"]:
        images = images / 255
    if options.get("collate"):
        return (list(zip(images, range(8), strict=True)),)
    return images, torch.arange(8)


def markdown(answers: dict[str, dict[str, Answer]]) -> str:
    """Write the table, then what the kit says of each wrong cell."""
    titles = [question.title for question in QUESTIONS.values()]
    lines = [
        "---",
        "orphan: true",
        "---",
        "",
        "# The truth table",
        "",
        "Written by `python docs/benchmarks/truth_table.py`, which asks each system by",
        "`tv_mixaug.testing`. *Holds*: labels, or masks, equal the pixels in all rows. *Refuses*:",
        "an error. *Wrong* in n of m rows: they differ, and nothing was said. *No*: the answer of",
        "the last two columns. –: the interface has no place for the question.",
        "",
        f"Versions: {versions()}.",
        "",
        "| | " + " | ".join(titles) + " |",
        "| --- |" + " --- |" * len(titles),
    ]
    for system, row in answers.items():
        cells = [str(row.get(key, Answer(""))) for key in QUESTIONS]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "How it was asked:",
        "",
        "- Batches of 8 images of 32 × 32 pixels, plain tensors, except where the column says.",
        "- *Mask*: dicts of image, mask and label; `Image` and `Mask` where types are kept.",
        "- *Second view*: a dict with the images twice; the second is judged.",
        "- *Label first*: a dict with the label before the images.",
        "- *Two CutMix*: `CutMix` called on the result of `CutMix`; in kornia `num_mix=2`, read as",
        "  the own weight left by both.",
        "- *CutMix, erasing*: `RandomErasing` of torchvision (for ours `Cutout`) comes after it;",
        "  labels are compared with the pixels that are left.",
        "- *One label format*: the same type, shape and dtype for every probability of mixing.",
        "- *Inputs unchanged*: the batch, or the samples, which a data set may have cached.",
        "- kornia returns `(label, partner's label, lam)`. Its page on MixUp reads lam as the",
        "  partner's weight, the papers as the own one; both readings have rows.",
        "- Our own transforms in a row do not know of each other either: that is what `Chain` is",
        "  for.",
        "- timm's `FastCollateMixup` is made for bytes, and casts float images to bytes.",
        "",
        "## Why it is wrong",
        "",
        "The cause that the kit names for the smallest case it found; the case itself is in",
        "[truth_table.csv](truth_table.csv).",
        "",
        *reasons(answers, "wrong"),
        "",
        "## What the refusals say",
        "",
        *reasons(answers, "refuses"),
    ]
    return "\n".join(lines) + "\n"


def reasons(answers: dict[str, dict[str, Answer]], verdict: str) -> list[str]:
    """List the reasons of one verdict, each once for a system."""
    lines = []
    for system, row in answers.items():
        titles: dict[str, list[str]] = {}
        for key, answer in row.items():
            if answer.verdict == verdict:
                titles.setdefault(answer.reason, []).append(QUESTIONS[key].title)
        if titles:
            lines.append(f"- {system}")
            lines += [f"  - {'; '.join(names)}: {reason}." for reason, names in titles.items()]
    return lines


def versions() -> str:
    """Name the versions that were asked."""
    names = ("torch", "torchvision", "timm", "kornia", "tv_mixaug")
    return ", ".join([f"Python {platform.python_version()}", *(f"{n} {version(n)}" for n in names)])


def main() -> None:
    """Ask everything and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=150, help="batches of 8 for each question")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # kornia warns of its default, which is one of the rows

    answers: dict[str, dict[str, Answer]] = {}
    for system, make in SYSTEMS.items():
        row = make()
        answers[system] = {
            key: ask(question, row[key], arguments.draws)
            for key, question in QUESTIONS.items()
            if key in row
        }
        summary = ", ".join(f"{key} {answer.short}" for key, answer in answers[system].items())
        print(f"{system}: {summary}", file=sys.stderr, flush=True)

    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "truth_table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "question", "verdict", "wrong", "rows", "text"])
        for system, row in answers.items():
            for key, answer in row.items():
                writer.writerow([system, QUESTIONS[key].title, *answer])
    (arguments.out / "truth_table.md").write_text(markdown(answers), encoding="utf-8")
    print(f"Written: {arguments.out / 'truth_table.md'}, {arguments.out / 'truth_table.csv'}.")


if __name__ == "__main__":
    main()
