"""Do labels equal pixels? Ask whoever is installed, and write the table.

    python truth_table.py             # 1,200 rows for each question: about ten minutes
    python truth_table.py --draws 10  # shows that everything runs

Writes ``truth_table.md`` and ``truth_table.csv`` beside this script, or to ``--out``. Needs the
extras ``test`` and ``bench``; MONAI, Keras, fastai and mmpretrain are asked where they are
installed.

Every system is asked the same questions by ``tv_mixaug.testing``, which sees only what goes in and
what comes out. Where a library returns something else than `(images, labels)`, a few lines below
translate; how kornia's third label column is read makes all the difference, so both readings have
a row. Questions that a library's interface cannot be asked stay empty.
"""

import argparse
import csv
import datetime
import os
import platform
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup, make_collate_fn
from tv_mixaug.testing import (
    UntruthfulError,
    assert_draws_independent,
    assert_inputs_unchanged,
    assert_labels_match_pixels,
    assert_one_label_format,
    assert_probability,
    assert_switch_reaches_workers,
    assert_targets_follow_images,
)

os.environ["KERAS_BACKEND"] = "torch"

K = 10
BYTES = {"dtypes": (torch.uint8,)}
ERASED = {"erased": 0.0}
MANY = 1000  # classes, of which bfloat16 has not all numbers
SAMPLE = {"per": "sample"}


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
    "bfloat16": Question(
        "CutMix, bfloat16, 1,000 classes",
        options={"dtypes": (torch.bfloat16,), "num_classes": MANY},
    ),
    "p": Question("mixed as often as said", kind="p"),
    "draws": Question("draws independent", kind="draws"),
    "switch": Question("switch reaches workers", kind="switch"),
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
    many: Callable[..., Any],
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
        "bfloat16": Asked(many),
        "p": Asked(with_p(0.5)),
        "draws": Asked(cutmix),
    }


def torchvision_system() -> dict[str, Asked]:
    """Ask torchvision's transforms, called on batches."""
    cutmix = v2.CutMix(num_classes=K)
    return on_batches(
        cutmix,
        v2.MixUp(num_classes=K),
        erased=erasing(cutmix, v2.RandomErasing(p=1)),
        with_p=lambda p: v2.RandomApply([cutmix], p=p),
        many=v2.CutMix(num_classes=MANY),
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
        "bfloat16": collated(collate(v2.CutMix(num_classes=MANY))),
        "p": collated(collate(v2.RandomApply([cutmix], p=0.5))),
        "draws": collated(collate(cutmix)),
    }


def timm_system(mode: str) -> dict[str, Asked]:
    """Ask timm's Mixup, which works on batches of tensors."""
    from timm.data.mixup import Mixup as TimmMixup

    def make(cut: bool, **options: Any) -> Callable[..., Any]:
        alphas = {"mixup_alpha": 0.0 if cut else 1.0, "cutmix_alpha": 1.0 if cut else 0.0}
        plain = {"mode": mode, "num_classes": K, "label_smoothing": 0.0}
        return TimmMixup(**alphas, **(plain | options))

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
        "bfloat16": Asked(make(True, num_classes=MANY)),
        "p": Asked(make(True, prob=0.5), {} if mode == "batch" else SAMPLE),
        "draws": Asked(cutmix, {} if mode == "batch" else SAMPLE),
    }


def persistent(collate: Callable[..., Any]) -> Callable[[Dataset[Any]], DataLoader[Any]]:
    """Return what puts a loader with a worker that stays around a data set."""
    return lambda data: DataLoader(
        data, 8, collate_fn=collate, num_workers=1, persistent_workers=True
    )


def timm_collated(mode: str) -> dict[str, Asked]:
    """Ask timm's FastCollateMixup, which takes samples with arrays of bytes."""
    from timm.data.mixup import FastCollateMixup

    def make(cut: bool, **options: Any) -> Callable[..., Any]:
        alphas = {"mixup_alpha": 0.0 if cut else 1.0, "cutmix_alpha": 1.0 if cut else 0.0}
        mix = FastCollateMixup(**alphas, mode=mode, num_classes=K, label_smoothing=0.0, **options)

        def collate(samples: Any) -> Any:
            return mix([(image.numpy(), label) for image, label in samples])

        collate.mix = mix
        return collate

    def switch(loader: Any, on: bool) -> None:
        """Set what timm's own training script sets."""
        loader.collate_fn.mix.mixup_enabled = on

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
        "p": Asked(
            make(True, prob=0.5),
            {"collate": True, "dtype": torch.uint8, **({} if mode == "batch" else SAMPLE)},
        ),
        "draws": Asked(
            cutmix, {"collate": True, "dtype": torch.uint8, **({} if mode == "batch" else SAMPLE)}
        ),
        "switch": Asked(persistent(cutmix), {"switch": switch, "dtype": torch.uint8}),
    }


def kornia_system(own: bool, correct: bool) -> dict[str, Asked]:
    """Ask kornia's mixes; `own`: the third label column is read as the own image's weight."""
    from kornia.augmentation import RandomCutMixV2, RandomMixUpV2

    keys = ["input", "class"]

    def cut(**options: Any) -> Any:
        return RandomCutMixV2(**{"data_keys": keys, "use_correct_lambda": correct, **options})

    def read(mixes: torch.Tensor, classes: int = K) -> torch.Tensor:
        """Turn (mixes, B, 3) into rows: each mix gives its weight to its partner."""
        mixes = mixes if mixes.ndim == 3 else mixes[None]
        to_partner = 1 - mixes[..., 2] if own else mixes[..., 2]
        rows = (1 - to_partner.sum(0))[:, None] * one_hot(mixes[0, :, 0], classes)
        return rows + sum(
            w[:, None] * one_hot(m[:, 1], classes) for w, m in zip(to_partner, mixes, strict=True)
        )

    def one_hot(labels: torch.Tensor, classes: int = K) -> torch.Tensor:
        return torch.nn.functional.one_hot(labels.long(), classes).to(labels.dtype)

    def asked(transform: Any, classes: int = K) -> Asked:
        def pipeline(images: Any, labels: Any) -> Any:
            images, mixes = transform(images, labels)
            return images, read(mixes, classes)

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
        "bfloat16": asked(cut(), MANY),
        "p": Asked(cut(p=0.5)),
        "draws": Asked(cut(), SAMPLE),
    }


def one_hot_of(labels: torch.Tensor, classes: int = K) -> torch.Tensor:
    """Encode labels for who takes rows alone."""
    return torch.nn.functional.one_hot(labels, classes).float()


def rows_asked(
    cut: Callable[[int], Callable[..., Any]], mix: Callable[..., Any], per: str
) -> dict[str, Asked]:
    """Ask what takes images and (B, K) labels; `cut` makes CutMix for a number of classes."""
    cutmix = cut(K)
    return {
        "cutmix": Asked(cutmix),
        "mixup": Asked(mix),
        "cutmix_bytes": Asked(cutmix),
        "mixup_bytes": Asked(mix),
        "odd": Asked(cutmix),
        "one": Asked(cutmix),
        "twice": Asked(lambda images, labels: cutmix(*cutmix(images, labels))),
        "erased": erasing(cutmix, v2.RandomErasing(p=1)),
        "inputs": Asked(cutmix),
        "bfloat16": Asked(cut(MANY)),
        "draws": Asked(cutmix, {"per": per}),
    }


def encoded(mix: Callable[..., Any], classes: int = K) -> Callable[..., Any]:
    """Encode index labels before a mix; labels that were mixed before stay as they are."""

    def pipeline(images: Any, labels: Any) -> Any:
        mixed, labels = mix(images, one_hot_of(labels, classes) if labels.ndim == 1 else labels)
        if mixed.is_floating_point() and not images.is_floating_point():
            mixed = mixed / 255  # bytes came back as floats, unscaled
        return mixed, labels

    return pipeline


def monai_system(applied: bool) -> dict[str, Asked]:
    """Ask MONAI; `applied`: labels are mixed by its methods for them, not by the call."""
    from monai.transforms import CutMix as MonaiCutMix
    from monai.transforms import MixUp as MonaiMixUp

    def make(kind: Any) -> Callable[..., Any]:
        def pipeline(images: Any, labels: Any) -> Any:
            mix = kind(batch_size=len(images))
            # It has a generator of its own, which the kit could not seed.
            mix.set_random_state(int(torch.randint(2**31, ())))
            if not applied:
                return mix(images, labels)
            images = mix(images)
            if kind is MonaiCutMix:
                return images, mix.apply_on_labels(labels)
            return images, mix.apply(labels[..., None, None])[..., 0, 0]

        return pipeline

    def masks(images: Any, masks: Any) -> Any:
        plain = masks.as_subclass(torch.Tensor)[:, None]
        images, masks = make(MonaiCutMix)(images.as_subclass(torch.Tensor), plain)
        return images, masks[:, 0]

    asked = rows_asked(
        lambda classes: encoded(make(MonaiCutMix), classes), encoded(make(MonaiMixUp)), "sample"
    )
    return asked if applied else {**asked, "mask": Asked(masks)}


def keras_system() -> dict[str, Asked]:
    """Ask Keras's layers, called on dicts with (B, K) labels."""
    import keras

    def make(kind: Any, **options: Any) -> Callable[..., Any]:
        layer = kind(data_format="channels_first", **options)

        def pipeline(images: Any, targets: Any, key: str = "labels") -> Any:
            # It has a generator of its own, which the kit could not seed.
            fresh = keras.random.SeedGenerator(int(torch.randint(2**31, ())))
            layer.generator.state.assign(fresh.state)
            batch = layer({"images": images, key: targets}, training=True)
            return batch["images"], batch[key]

        return pipeline

    def masks(images: Any, masks: Any) -> Any:
        plain = masks.as_subclass(torch.Tensor)[:, None].float()
        images, masks = cut(images.as_subclass(torch.Tensor), plain, "segmentation_masks")
        return images, masks[:, 0]

    cut = make(keras.layers.CutMix)
    mix = encoded(make(keras.layers.MixUp, alpha=1.0))
    asked = rows_asked(lambda classes: encoded(cut, classes), mix, "sample")
    return {**asked, "mask": Asked(masks)}


def fastai_system() -> dict[str, Asked]:
    """Ask fastai's callbacks, for one batch of a learner whose labels are rows."""
    from fastai.callback.mixup import CutMix as FastaiCutMix
    from fastai.callback.mixup import MixUp as FastaiMixUp

    def make(kind: Any) -> Callable[..., Any]:
        def pipeline(images: Any, labels: Any) -> Any:
            callback = kind(1.0)
            callback.learn = SimpleNamespace(
                xb=(images,), yb=(labels,), x=images, y=labels, loss_func=None
            )
            callback.before_train()
            callback.before_batch()
            return callback.learn.xb[0], callback.learn.yb[0]

        return pipeline

    cut = make(FastaiCutMix)
    asked = rows_asked(lambda classes: encoded(cut, classes), encoded(make(FastaiMixUp)), "batch")
    return {**asked, "draws": Asked(encoded(make(FastaiMixUp)), SAMPLE)}


def mmpretrain_system() -> dict[str, Asked]:
    """Ask mmpretrain's RandomBatchAugment, which takes (B, K) labels."""
    from mmpretrain.models.utils.batch_augments import CutMix as MmCutMix
    from mmpretrain.models.utils.batch_augments import Mixup as MmMixup
    from mmpretrain.models.utils.batch_augments import RandomBatchAugment

    def with_p(p: float) -> Callable[..., Any]:
        return encoded(RandomBatchAugment(MmCutMix(alpha=1.0), probs=p))

    mix = encoded(RandomBatchAugment(MmMixup(alpha=1.0)))
    cut = RandomBatchAugment(MmCutMix(alpha=1.0))
    asked = rows_asked(lambda classes: encoded(cut, classes), mix, "batch")
    return {**asked, "format": Asked(with_p), "p": Asked(with_p(0.5))}


def our_system() -> dict[str, Asked]:
    """Ask our transforms, called on batches."""
    cutmix = CutMix(num_classes=K)
    return on_batches(
        cutmix,
        Mixup(num_classes=K),
        erased=Asked(v2.Compose([cutmix, Cutout(num_classes=K)])),
        with_p=lambda p: CutMix(num_classes=K, p=p),
        many=CutMix(num_classes=MANY),
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
        "bfloat16": collated(collate(CutMix(num_classes=MANY))),
        "p": collated(collate(cutmix, p=0.5)),
        "draws": collated(collate(cutmix)),
        "switch": Asked(
            persistent(collate(cutmix)),
            {"switch": lambda loader, on: loader.collate_fn.set_p(float(on))},
        ),
    }


class System(NamedTuple):
    """A row: which package it is of, and how it is asked."""

    package: str
    make: Callable[[], dict[str, Asked]]


SYSTEMS = {
    "torchvision": System("torchvision", torchvision_system),
    "torchvision behind `default_collate`": System("torchvision", torchvision_collated),
    **{
        f"timm `{name}`, {mode}": System("timm", lambda make=make, mode=mode: make(mode))
        for name, make in (("Mixup", timm_system), ("FastCollateMixup", timm_collated))
        for mode in ("batch", "pair", "elem")
    },
    "kornia, default, lam read as the own weight": System(
        "kornia", lambda: kornia_system(True, False)
    ),
    "kornia, default, lam read as the partner's weight": System(
        "kornia", lambda: kornia_system(False, False)
    ),
    "kornia, `use_correct_lambda=True`, lam read as the own weight": System(
        "kornia", lambda: kornia_system(True, True)
    ),
    "MONAI, called with (B, K) labels": System("monai", lambda: monai_system(False)),
    "MONAI, labels by `apply_on_labels`": System("monai", lambda: monai_system(True)),
    "Keras, torch backend": System("keras", keras_system),
    "fastai, (B, K) labels": System("fastai", fastai_system),
    "mmpretrain `RandomBatchAugment`": System("mmpretrain", mmpretrain_system),
    "tv_mixaug": System("tv_mixaug", our_system),
    "tv_mixaug `Chain` behind `make_collate_fn`": System("tv_mixaug", our_chain),
}


class Answer(NamedTuple):
    """A cell."""

    verdict: str  # "holds", "refuses", "wrong" or "" where it cannot be asked
    wrong: int = 0
    rows: int = 0
    case: str = ""  # the smallest that was found, or what a refusal says
    cause: str = ""

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
        """The cause that the kit names, or what is said."""
        return (self.cause or self.case).rstrip(".: ")


def ask(question: Question, asked: Asked, draws: int) -> Answer:
    """Ask one system one question."""
    labels = {
        "num_classes": K,
        "batch_sizes": (question.batch_size,),
        "sizes": ((32, 32),),
        "draws": max(1, draws * 8 // question.batch_size),
        **question.options,
        **asked.options,
    }
    collate = asked.options.get("collate", False)
    rows = 0
    try:
        match question.kind:
            case "labels":
                rows = assert_labels_match_pixels(asked.pipeline, **labels).rows
            case "masks":
                labels |= {"kind": "masks", "num_classes": 16}
                rows = assert_targets_follow_images(asked.pipeline, **labels).rows
            case "format":
                assert_one_label_format(asked.pipeline, num_classes=K, collate=collate)
            case "p":
                assert_probability(asked.pipeline, 0.5, **asked.options)
            case "draws":
                assert_draws_independent(asked.pipeline, **asked.options)
            case "switch":
                assert_switch_reaches_workers(asked.pipeline, **asked.options)
            case "inputs":
                assert_inputs_unchanged(asked.pipeline, *example_batch(asked.options))
    except UntruthfulError as error:
        return Answer("wrong", error.wrong, error.rows, error.case, error.cause)
    except Exception as error:
        first_line = str(error).split("\n")[0]
        return Answer("refuses", case=f"{type(error).__name__}: {first_line}")
    return Answer("holds", rows=rows)


def example_batch(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Make inputs that a pipeline might write to."""
    torch.manual_seed(0)
    images = (255 * torch.rand(8, 3, 32, 32)).byte()
    if options.get("dtypes") != BYTES["dtypes"]:
        images = images / 255
    if options.get("collate"):
        return (list(zip(images, range(8), strict=True)),)
    return images, torch.arange(8)


def markdown(answers: dict[str, dict[str, Answer]], today: str) -> str:
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
        "`tv_mixaug.testing`. *Holds*: what the column asks for was found in all rows, batches or",
        "calls. *Refuses*: an error. *Wrong* in n of m rows: labels, or masks, differ from the",
        "pixels, and nothing was said. *No*: the answer where no rows are counted. –: the",
        "interface has no place for the question.",
        "",
        f"With Python {platform.python_version()} and torch {version('torch')}.",
        "",
        "| | version, date | " + " | ".join(titles) + " |",
        "| --- | --- |" + " --- |" * len(titles),
    ]
    for system, row in answers.items():
        cells = [str(row.get(key, Answer(""))) for key in QUESTIONS]
        asked = f"{version_of(system)}, {today}"
        lines.append(f"| {system} | {asked} | " + " | ".join(cells) + " |")
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
        "- *Mixed as often as said*: p = 0.5 of 400 batches, or of their samples where the mode is",
        "  by sample.",
        "- *Draws independent*: successive batches, and samples where lam is drawn by sample;",
        "  collate functions also in a loader, between two workers and two epochs. fastai's MixUp",
        "  is asked, since its CutMix draws for the batch.",
        "- *Switch reaches workers*: `mixup_enabled` for timm, `set_p` for ours, set in the main",
        "  process while a persistent worker runs.",
        "- MONAI, Keras, fastai and mmpretrain take labels as (B, K) rows, which is what they got.",
        "  MONAI's call takes labels for images of classes: see its row by `apply_on_labels` too.",
        "- fastai's callbacks are called for one batch, without a training loop.",
        "- albumentations 2.0.8, the last release under MIT, mixes no labels: there is nothing to",
        "  ask.",
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


def version_of(system: str) -> str:
    """Name the version of the package that a row asks."""
    return f"{SYSTEMS[system].package} {version(SYSTEMS[system].package)}"


def is_installed(package: str) -> bool:
    """Return whether a package can be asked."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def main(argv: list[str] | None = None) -> None:
    """Ask everything and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=150, help="batches of 8 for each question")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to"
    )
    parser.add_argument("--only", default="", help="ask those whose name has this word")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # kornia warns of its default, which is one of the rows
    today = datetime.date.today().isoformat()

    answers: dict[str, dict[str, Answer]] = {}
    for name, system in SYSTEMS.items():
        if arguments.only not in name:
            continue
        if not is_installed(system.package):
            print(f"{name}: not installed", file=sys.stderr, flush=True)
            continue
        row = system.make()
        answers[name] = {
            key: ask(question, row[key], arguments.draws)
            for key, question in QUESTIONS.items()
            if key in row
        }
        summary = ", ".join(f"{key} {answer.short}" for key, answer in answers[name].items())
        print(f"{name}: {summary}", file=sys.stderr, flush=True)

    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "truth_table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["system", "version", "date", "question", "verdict", "wrong", "rows", "case", "cause"]
        )
        for name, row in answers.items():
            for key, answer in row.items():
                writer.writerow([name, version_of(name), today, QUESTIONS[key].title, *answer])
    (arguments.out / "truth_table.md").write_text(markdown(answers, today), encoding="utf-8")
    print(f"Written: {arguments.out / 'truth_table.md'}, {arguments.out / 'truth_table.csv'}.")


if __name__ == "__main__":
    main()
