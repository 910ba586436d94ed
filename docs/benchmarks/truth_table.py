"""Run the checks of `tv_mixaug.testing` on the installed libraries, and write a table of results.

    python truth_table.py             # 1,200 rows for each question: about ten minutes
    python truth_table.py --draws 10  # shows that the script runs

Writes ``truth_table.md`` and ``truth_table.csv`` next to this script, or to ``--out``. The script
needs the extras ``test`` and ``bench``. MONAI, Keras, fastai and mmpretrain are included if they
are installed.

All systems are checked by the same functions, which see only inputs and outputs. If a library does
not return `(images, labels)`, a few lines below convert its result. kornia's third label column can
be read in two ways, and the table has a row for each. A cell is empty if the interface of a library
does not allow the check.
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
MANY = 1000  # classes; bfloat16 cannot represent all of these numbers
SAMPLE = {"per": "sample"}

INTRODUCTION = """\
Written by `python docs/benchmarks/truth_table.py`, which runs the checks of `tv_mixaug.testing` on
each system.

- *holds*: all rows, batches or calls passed.
- *refuses*: the system raised an error.
- *wrong in n of m*: the labels, or the masks, of n rows differ from the pixels, without an error.
- *no*: the check failed; it counts no rows.
- –: the interface does not allow the check.
"""
NOTES = """\
Notes:

- Batches have 8 images of 32 × 32 pixels in plain tensors, unless the column says otherwise.
- *mask with CutMix*: dicts of image, mask and label, with `Image` and `Mask` if the system keeps
  types.
- *second view*: a dict with the images twice. The second copy is checked.
- *label first*: a dict with the label before the images.
- *two CutMix*: `CutMix` applied to the result of `CutMix`; for kornia `num_mix=2`, where the
  original keeps the weight that both mixes leave.
- *CutMix, erasing*: torchvision's `RandomErasing` (for tv_mixaug `Cutout`) is applied after CutMix.
  Labels are compared with the pixels that are left.
- *one label format*: the same type, shape and dtype for every probability of mixing.
- *inputs unchanged*: the batch, or the samples, which a data set may have cached.
- *p as stated*: p = 0.5 for 400 batches, or for their samples if the mode is per sample.
- *draws independent*: successive batches, and samples if lam is sampled per sample; collate
  functions also in a loader, between two workers and two epochs. fastai is checked with MixUp,
  since its CutMix samples once per batch.
- *switch reaches workers*: `mixup_enabled` of timm and `set_p` of tv_mixaug, set in the main
  process while a persistent worker runs.
- kornia returns `(label, partner's label, lam)`. Its page on MixUp reads lam as the weight of the
  partner, and the papers as that of the original. Both readings have rows.
- Two transforms of tv_mixaug in a row are wrong, too. `Chain` counts the labels at the end.
- timm's `FastCollateMixup` is made for uint8, and casts float images to uint8.
- MONAI, Keras, fastai and mmpretrain get labels as (B, K) rows. MONAI's call treats labels as
  masks; `apply_on_labels` has a row of its own.
- fastai's callbacks are called for one batch, without a training loop.
- albumentations 2.0.8, the last release under the MIT licence, does not mix labels.

## Causes

The probable cause of the smallest wrong case. The cases are in [truth_table.csv](truth_table.csv).
"""


class Question(NamedTuple):
    """A column of the table: a title and the check that answers it."""

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
    "p": Question("p as stated", kind="p"),
    "draws": Question("draws independent", kind="draws"),
    "switch": Question("switch reaches workers", kind="switch"),
}


class Setup(NamedTuple):
    """The pipeline of one system for one question, and the options of the check."""

    pipeline: Callable[..., Any]
    options: Mapping[str, Any] = MappingProxyType({})


def collated(transform: Callable[..., Any]) -> Setup:
    """Call the pipeline with a list of samples."""
    return Setup(transform, {"collate": True})


def masks_of(mix: Callable[[dict[str, Any]], dict[str, Any]], collate: bool) -> Setup:
    """Pass images and masks in dicts with a label, as a segmentation data set does."""

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

    return Setup(pipeline)


def second_view(transform: Callable[[dict[str, Any]], dict[str, Any]]) -> Setup:
    """Pass the images twice, and return the second copy."""

    def pipeline(images: Any, labels: Any) -> Any:
        batch = transform({"image": images, "view": images.clone(), "label": labels})
        return batch["view"], batch["label"]

    return Setup(pipeline)


def label_first(transform: Callable[..., Any]) -> Setup:
    """Pass a dict with the label before the images."""

    def pipeline(images: Any, labels: Any) -> Any:
        batch = transform({"label": labels, "image": images})
        return batch["image"], batch["label"]

    return Setup(pipeline)


def twice(transform: Callable[..., Any]) -> Setup:
    """Apply a transform twice."""
    return Setup(lambda images, labels: transform(*transform(images, labels)))


def erasing(transform: Callable[..., Any], erase: Callable[..., Any]) -> Setup:
    """Erase pixels after mixing, and leave labels unchanged."""

    def pipeline(*batch: Any) -> Any:
        images, labels = transform(*batch)
        return erase(images), labels

    return Setup(pipeline)


def on_batches(
    cutmix: Callable[..., Any],
    mixup: Callable[..., Any],
    erased: Setup,
    with_p: Callable[[float], Callable[..., Any]],
    many: Callable[..., Any],
) -> dict[str, Setup]:
    """Return the setups of v2 transforms called on batches."""
    return {
        "cutmix": Setup(cutmix),
        "mixup": Setup(mixup),
        "cutmix_bytes": Setup(cutmix),
        "mixup_bytes": Setup(mixup),
        "odd": Setup(cutmix),
        "one": Setup(cutmix),
        "mask": masks_of(cutmix, collate=False),
        "view": second_view(cutmix),
        "first": label_first(mixup),
        "twice": twice(cutmix),
        "erased": erased,
        "format": Setup(with_p),
        "inputs": Setup(cutmix),
        "bfloat16": Setup(many),
        "p": Setup(with_p(0.5)),
        "draws": Setup(cutmix),
    }


def torchvision_system() -> dict[str, Setup]:
    """Return the setups of torchvision's transforms called on batches."""
    cutmix = v2.CutMix(num_classes=K)
    return on_batches(
        cutmix,
        v2.MixUp(num_classes=K),
        erased=erasing(cutmix, v2.RandomErasing(p=1)),
        with_p=lambda p: v2.RandomApply([cutmix], p=p),
        many=v2.CutMix(num_classes=MANY),
    )


def torchvision_collated() -> dict[str, Setup]:
    """Return the setups of torchvision's transforms after default_collate, as in its example."""
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
        "format": Setup(lambda p: collate(v2.RandomApply([cutmix], p=p)), {"collate": True}),
        "inputs": collated(collate(cutmix)),
        "bfloat16": collated(collate(v2.CutMix(num_classes=MANY))),
        "p": collated(collate(v2.RandomApply([cutmix], p=0.5))),
        "draws": collated(collate(cutmix)),
    }


def timm_system(mode: str) -> dict[str, Setup]:
    """Return the setups of timm's Mixup, which works on batches of tensors."""
    from timm.data.mixup import Mixup as TimmMixup

    def make(cut: bool, **options: Any) -> Callable[..., Any]:
        alphas = {"mixup_alpha": 0.0 if cut else 1.0, "cutmix_alpha": 1.0 if cut else 0.0}
        plain = {"mode": mode, "num_classes": K, "label_smoothing": 0.0}
        return TimmMixup(**alphas, **(plain | options))

    cutmix, mixup, again = make(True), make(False), make(True, multi_label=True)
    return {
        "cutmix": Setup(cutmix),
        "mixup": Setup(mixup),
        "cutmix_bytes": Setup(cutmix),
        "mixup_bytes": Setup(mixup),
        "odd": Setup(cutmix),
        "one": Setup(cutmix),
        "twice": Setup(lambda images, labels: again(*cutmix(images, labels))),
        "erased": erasing(cutmix, v2.RandomErasing(p=1)),
        "format": Setup(lambda p: make(True, prob=p)),
        "inputs": Setup(cutmix),
        "bfloat16": Setup(make(True, num_classes=MANY)),
        "p": Setup(make(True, prob=0.5), {} if mode == "batch" else SAMPLE),
        "draws": Setup(cutmix, {} if mode == "batch" else SAMPLE),
    }


def persistent(collate: Callable[..., Any]) -> Callable[[Dataset[Any]], DataLoader[Any]]:
    """Return a function that makes a loader with a persistent worker for a data set."""
    return lambda data: DataLoader(
        data, 8, collate_fn=collate, num_workers=1, persistent_workers=True
    )


def timm_collated(mode: str) -> dict[str, Setup]:
    """Return the setups of timm's FastCollateMixup, which takes uint8 arrays."""
    from timm.data.mixup import FastCollateMixup

    def make(cut: bool, **options: Any) -> Callable[..., Any]:
        alphas = {"mixup_alpha": 0.0 if cut else 1.0, "cutmix_alpha": 1.0 if cut else 0.0}
        mix = FastCollateMixup(**alphas, mode=mode, num_classes=K, label_smoothing=0.0, **options)

        def collate(samples: Any) -> Any:
            return mix([(image.numpy(), label) for image, label in samples])

        collate.mix = mix
        return collate

    def switch(loader: Any, on: bool) -> None:
        """Set the attribute that timm's training script sets."""
        loader.collate_fn.mix.mixup_enabled = on

    cutmix, mixup = make(True), make(False)
    return {
        "cutmix": collated(cutmix),
        "mixup": collated(mixup),
        "cutmix_bytes": collated(cutmix),
        "mixup_bytes": collated(mixup),
        "odd": Setup(cutmix, {"collate": True, **BYTES}),
        "one": Setup(cutmix, {"collate": True, **BYTES}),
        "erased": Setup(
            erasing(cutmix, v2.RandomErasing(p=1)).pipeline, {"collate": True, **BYTES}
        ),
        "format": Setup(lambda p: make(True, prob=p), {"collate": True}),
        "inputs": Setup(cutmix, {"collate": True, **BYTES}),
        "p": Setup(
            make(True, prob=0.5),
            {"collate": True, "dtype": torch.uint8, **({} if mode == "batch" else SAMPLE)},
        ),
        "draws": Setup(
            cutmix, {"collate": True, "dtype": torch.uint8, **({} if mode == "batch" else SAMPLE)}
        ),
        "switch": Setup(persistent(cutmix), {"switch": switch, "dtype": torch.uint8}),
    }


def kornia_system(original: bool, correct: bool) -> dict[str, Setup]:
    """Return the setups of kornia; `original`: lam is read as the weight of the original."""
    from kornia.augmentation import RandomCutMixV2, RandomMixUpV2

    keys = ["input", "class"]

    def cut(**options: Any) -> Any:
        return RandomCutMixV2(**{"data_keys": keys, "use_correct_lambda": correct, **options})

    def read(mixes: torch.Tensor, classes: int = K) -> torch.Tensor:
        """Convert (mixes, B, 3) to rows: the weight of each mix goes to its partner."""
        mixes = mixes if mixes.ndim == 3 else mixes[None]
        to_partner = 1 - mixes[..., 2] if original else mixes[..., 2]
        rows = (1 - to_partner.sum(0))[:, None] * one_hot(mixes[0, :, 0], classes)
        return rows + sum(
            w[:, None] * one_hot(m[:, 1], classes) for w, m in zip(to_partner, mixes, strict=True)
        )

    def one_hot(labels: torch.Tensor, classes: int = K) -> torch.Tensor:
        return torch.nn.functional.one_hot(labels.long(), classes).to(labels.dtype)

    def setup(transform: Any, classes: int = K) -> Setup:
        def pipeline(images: Any, labels: Any) -> Any:
            images, mixes = transform(images, labels)
            return images, read(mixes, classes)

        return Setup(pipeline)

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
        "cutmix": setup(cut()),
        "mixup": setup(mixup),
        "cutmix_bytes": setup(cut()),
        "mixup_bytes": setup(mixup),
        "odd": setup(cut()),
        "one": setup(cut()),
        "mask": Setup(mask),
        "view": Setup(view),
        "first": Setup(reversed_keys),
        "twice": setup(cut(num_mix=2)),
        "erased": erasing(setup(cut()).pipeline, v2.RandomErasing(p=1)),
        "format": Setup(lambda p: cut(p=p)),
        "inputs": Setup(cut()),
        "bfloat16": setup(cut(), MANY),
        "p": Setup(cut(p=0.5)),
        "draws": Setup(cut(), SAMPLE),
    }


def one_hot_of(labels: torch.Tensor, classes: int = K) -> torch.Tensor:
    """Encode labels for libraries that take rows only."""
    return torch.nn.functional.one_hot(labels, classes).float()


def rows_setups(
    cut: Callable[[int], Callable[..., Any]], mix: Callable[..., Any], per: str
) -> dict[str, Setup]:
    """Return the setups of functions of images and (B, K) labels.

    `cut` makes CutMix for a number of classes.
    """
    cutmix = cut(K)
    return {
        "cutmix": Setup(cutmix),
        "mixup": Setup(mix),
        "cutmix_bytes": Setup(cutmix),
        "mixup_bytes": Setup(mix),
        "odd": Setup(cutmix),
        "one": Setup(cutmix),
        "twice": Setup(lambda images, labels: cutmix(*cutmix(images, labels))),
        "erased": erasing(cutmix, v2.RandomErasing(p=1)),
        "inputs": Setup(cutmix),
        "bfloat16": Setup(cut(MANY)),
        "draws": Setup(cutmix, {"per": per}),
    }


def encoded(mix: Callable[..., Any], classes: int = K) -> Callable[..., Any]:
    """Encode index labels before a mix; mixed labels stay unchanged."""

    def pipeline(images: Any, labels: Any) -> Any:
        mixed, labels = mix(images, one_hot_of(labels, classes) if labels.ndim == 1 else labels)
        if mixed.is_floating_point() and not images.is_floating_point():
            mixed = mixed / 255  # uint8 was returned as unscaled floats
        return mixed, labels

    return pipeline


def monai_system(applied: bool) -> dict[str, Setup]:
    """Return the setups of MONAI; `applied`: labels are mixed by its methods for labels."""
    from monai.transforms import CutMix as MonaiCutMix
    from monai.transforms import MixUp as MonaiMixUp

    def make(kind: Any) -> Callable[..., Any]:
        def pipeline(images: Any, labels: Any) -> Any:
            mix = kind(batch_size=len(images))
            # The kit cannot seed MONAI's own generator.
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

    setups = rows_setups(
        lambda classes: encoded(make(MonaiCutMix), classes), encoded(make(MonaiMixUp)), "sample"
    )
    return setups if applied else {**setups, "mask": Setup(masks)}


def keras_system() -> dict[str, Setup]:
    """Return the setups of Keras's layers, called on dicts with (B, K) labels."""
    import keras

    def make(kind: Any, **options: Any) -> Callable[..., Any]:
        layer = kind(data_format="channels_first", **options)

        def pipeline(images: Any, targets: Any, key: str = "labels") -> Any:
            # The kit cannot seed the layer's own generator.
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
    setups = rows_setups(lambda classes: encoded(cut, classes), mix, "sample")
    return {**setups, "mask": Setup(masks)}


def fastai_system() -> dict[str, Setup]:
    """Return the setups of fastai's callbacks, for one batch with (B, K) labels."""
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
    setups = rows_setups(lambda classes: encoded(cut, classes), encoded(make(FastaiMixUp)), "batch")
    return {**setups, "draws": Setup(encoded(make(FastaiMixUp)), SAMPLE)}


def mmpretrain_system() -> dict[str, Setup]:
    """Return the setups of mmpretrain's RandomBatchAugment, which takes (B, K) labels."""
    from mmpretrain.models.utils.batch_augments import CutMix as MmCutMix
    from mmpretrain.models.utils.batch_augments import Mixup as MmMixup
    from mmpretrain.models.utils.batch_augments import RandomBatchAugment

    def with_p(p: float) -> Callable[..., Any]:
        return encoded(RandomBatchAugment(MmCutMix(alpha=1.0), probs=p))

    mix = encoded(RandomBatchAugment(MmMixup(alpha=1.0)))
    cut = RandomBatchAugment(MmCutMix(alpha=1.0))
    setups = rows_setups(lambda classes: encoded(cut, classes), mix, "batch")
    return {**setups, "format": Setup(with_p), "p": Setup(with_p(0.5))}


def our_system() -> dict[str, Setup]:
    """Return the setups of this package's transforms, called on batches."""
    cutmix = CutMix(num_classes=K)
    return on_batches(
        cutmix,
        Mixup(num_classes=K),
        erased=Setup(v2.Compose([cutmix, Cutout(num_classes=K)])),
        with_p=lambda p: CutMix(num_classes=K, p=p),
        many=CutMix(num_classes=MANY),
    )


def our_chain() -> dict[str, Setup]:
    """Return the setups of this package's Chain in its collate function."""
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
        "format": Setup(lambda p: collate(cutmix, p=p), {"collate": True}),
        "inputs": collated(collate(cutmix)),
        "bfloat16": collated(collate(CutMix(num_classes=MANY))),
        "p": collated(collate(cutmix, p=0.5)),
        "draws": collated(collate(cutmix)),
        "switch": Setup(
            persistent(collate(cutmix)),
            {"switch": lambda loader, on: loader.collate_fn.set_p(float(on))},
        ),
    }


class System(NamedTuple):
    """A row of the table: a package, and a function that returns its setups."""

    package: str
    make: Callable[[], dict[str, Setup]]


SYSTEMS = {
    "torchvision": System("torchvision", torchvision_system),
    "torchvision after `default_collate`": System("torchvision", torchvision_collated),
    **{
        f"timm `{name}`, {mode}": System("timm", lambda make=make, mode=mode: make(mode))
        for name, make in (("Mixup", timm_system), ("FastCollateMixup", timm_collated))
        for mode in ("batch", "pair", "elem")
    },
    "kornia, default, lam read as the original's weight": System(
        "kornia", lambda: kornia_system(True, False)
    ),
    "kornia, default, lam read as the partner's weight": System(
        "kornia", lambda: kornia_system(False, False)
    ),
    "kornia, `use_correct_lambda=True`, lam read as the original's weight": System(
        "kornia", lambda: kornia_system(True, True)
    ),
    "MONAI, called with (B, K) labels": System("monai", lambda: monai_system(False)),
    "MONAI, labels by `apply_on_labels`": System("monai", lambda: monai_system(True)),
    "Keras, torch backend": System("keras", keras_system),
    "fastai, (B, K) labels": System("fastai", fastai_system),
    "mmpretrain `RandomBatchAugment`": System("mmpretrain", mmpretrain_system),
    "tv_mixaug": System("tv_mixaug", our_system),
    "tv_mixaug `Chain` in `make_collate_fn`": System("tv_mixaug", our_chain),
}


class Answer(NamedTuple):
    """A cell of the table."""

    verdict: str  # "holds", "refuses", "wrong", or "" if the check is not possible
    wrong: int = 0
    rows: int = 0
    case: str = ""  # the smallest wrong case, or the message of an error
    cause: str = ""

    def __str__(self) -> str:
        return f"**{self.short}**" if self.verdict == "wrong" else self.short

    @property
    def short(self) -> str:
        """The text in the table."""
        if self.verdict == "wrong":
            return f"wrong in {self.wrong} of {self.rows}" if self.rows else "no"
        return self.verdict or "–"

    @property
    def reason(self) -> str:
        """The probable cause, or the message of an error."""
        return (self.cause or self.case).rstrip(".: ")


def run_check(question: Question, setup: Setup, draws: int) -> Answer:
    """Run the check of one question on one system."""
    labels = {
        "num_classes": K,
        "batch_sizes": (question.batch_size,),
        "sizes": ((32, 32),),
        "draws": max(1, draws * 8 // question.batch_size),
        **question.options,
        **setup.options,
    }
    collate = setup.options.get("collate", False)
    rows = 0
    try:
        match question.kind:
            case "labels":
                rows = assert_labels_match_pixels(setup.pipeline, **labels).rows
            case "masks":
                labels |= {"kind": "masks", "num_classes": 16}
                rows = assert_targets_follow_images(setup.pipeline, **labels).rows
            case "format":
                assert_one_label_format(setup.pipeline, num_classes=K, collate=collate)
            case "p":
                assert_probability(setup.pipeline, 0.5, **setup.options)
            case "draws":
                assert_draws_independent(setup.pipeline, **setup.options)
            case "switch":
                assert_switch_reaches_workers(setup.pipeline, **setup.options)
            case "inputs":
                assert_inputs_unchanged(setup.pipeline, *example_batch(setup.options))
    except UntruthfulError as error:
        return Answer("wrong", error.wrong, error.rows, error.case, error.cause)
    except Exception as error:
        first_line = str(error).split("\n")[0]
        return Answer("refuses", case=f"{type(error).__name__}: {first_line}")
    return Answer("holds", rows=rows)


def example_batch(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Make inputs for the check that they stay unchanged."""
    torch.manual_seed(0)
    images = (255 * torch.rand(8, 3, 32, 32)).byte()
    if options.get("dtypes") != BYTES["dtypes"]:
        images = images / 255
    if options.get("collate"):
        return (list(zip(images, range(8), strict=True)),)
    return images, torch.arange(8)


def markdown(answers: dict[str, dict[str, Answer]], today: str) -> str:
    """Return the page: the table, notes, and the causes of wrong cells."""
    lines = [
        "---",
        "orphan: true",
        "---",
        "",
        "# The truth table",
        "",
        INTRODUCTION,
        f"With Python {platform.python_version()} and torch {version('torch')}.",
    ]
    for systems in groups(answers):
        sources = [f"{version_of(system)}, {today}" for system in systems]
        lines += ["", "| | " + " | ".join(systems) + " |", "| --- |" + " --- |" * len(systems)]
        lines.append("| version, date | " + " | ".join(sources) + " |")
        for key, question in QUESTIONS.items():
            cells = [str(answers[system].get(key, Answer(""))) for system in systems]
            lines.append(f"| {question.title} | " + " | ".join(cells) + " |")
    lines += [
        "",
        NOTES,
        *reasons(answers, "wrong"),
        "",
        "## Errors",
        "",
        *reasons(answers, "refuses"),
    ]
    return "\n".join(lines) + "\n"


def groups(answers: dict[str, dict[str, Answer]]) -> list[list[str]]:
    """Split systems into tables that fit a page: this package, then one or several libraries."""
    found: dict[str, list[str]] = {}
    for system in [name for name in answers if "tv_mixaug" in name] + [*answers]:
        library = SYSTEMS[system].package
        small = {"torchvision": "tv_mixaug", "keras": "monai"} | dict.fromkeys(
            ("fastai", "mmpretrain"), "monai"
        )
        table = found.setdefault(small.get(library, library), [])
        if system not in table:
            table.append(system)
    return list(found.values())


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
    """Return the name and the version of a row's package."""
    return f"{SYSTEMS[system].package} {version(SYSTEMS[system].package)}"


def is_installed(package: str) -> bool:
    """Whether a package is installed."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def main(argv: list[str] | None = None) -> None:
    """Run all checks and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=150, help="batches of 8 for each question")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to"
    )
    parser.add_argument("--only", default="", help="only systems whose name contains this text")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # kornia warns about its default, which has a row
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
            key: run_check(question, row[key], arguments.draws)
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
