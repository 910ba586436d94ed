"""The test kit passes what is right, explains what is wrong and refuses what is no question."""

import ast
import random
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis.errors import InvalidArgument
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import tv_mixaug.testing as kit
from tv_mixaug import CutMix, Cutout, Mixup, functional, make_collate_fn
from tv_mixaug.engine import plan as plans
from tv_mixaug.testing import (
    TruthReport,
    UntruthfulError,
    assert_draws_independent,
    assert_inputs_unchanged,
    assert_labels_match_pixels,
    assert_one_label_format,
    assert_probability,
    assert_reproducible,
    assert_switch_reaches_workers,
    assert_targets_follow_images,
)
from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing._coded import decode

FEW: dict[str, Any] = {"batch_sizes": (1, 4), "sizes": ((8, 12),), "draws": 5}
ALL_DTYPES = (torch.float32, torch.uint8, torch.float64, torch.float16, torch.bfloat16)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def truth(pipeline: Any, **options: Any) -> TruthReport:
    """Ask the labels question with ten classes and few draws."""
    return assert_labels_match_pixels(pipeline, **{"num_classes": 10, **FEW, **options})


def complaint(pipeline: Any, **options: Any) -> str:
    """Return the text of a failure that must occur."""
    with pytest.raises(UntruthfulError) as caught:
        truth(pipeline, **options)
    return str(caught.value)


def cut_by_hand(images: torch.Tensor, labels: torch.Tensor, *, extra: int = 0) -> Any:
    """Paste a 3 × 4 box from the next sample; the labels count `extra` pixels more."""
    images, area = images.clone(), images[0, 0].numel()
    images[:, :, 2:5, 1:5] = images.roll(-1, 0)[:, :, 2:5, 1:5]
    rows = torch.nn.functional.one_hot(labels, 10).float()
    share = (12 + extra) / area
    return images, (1 - share) * rows + share * rows.roll(-1, 0)


RIGHT = {
    "nothing": (lambda images, labels: (images, labels), {}),
    "by hand": (cut_by_hand, {}),
    "torchvision CutMix": (v2.CutMix(num_classes=10), {}),
    "torchvision MixUp": (v2.MixUp(num_classes=10), {"dtypes": (torch.float32, torch.bfloat16)}),
    "ours": (CutMix(num_classes=10, mode="sample"), {"dtypes": ALL_DTYPES}),
    "ours, bytes": (Mixup(num_classes=10, mode="sample"), {"dtypes": ALL_DTYPES}),
    "soft labels in": (Mixup(num_classes=10), {"label_format": "soft"}),
    "pair labels out": (CutMix(num_classes=10, targets="pair", pairing="shuffle"), {}),
    "smoothed": (CutMix(num_classes=10, label_smoothing=0.1), {"label_smoothing": 0.1}),
    "two blends": (
        v2.Compose([Mixup(num_classes=10), Mixup(num_classes=10)]),
        {"dtypes": (torch.uint8, torch.float32), "roundings": 2},
    ),
    "blend, then cut": (v2.Compose([Mixup(num_classes=10), CutMix(num_classes=10)]), {}),
    "flipped and normalised": (
        v2.Compose([CutMix(num_classes=10), v2.RandomHorizontalFlip(), v2.Normalize(MEAN, STD)]),
        {"mean": MEAN, "std": STD},
    ),
    "bytes to floats": (
        v2.Compose([Mixup(num_classes=10), v2.ToDtype(torch.float32, scale=True)]),
        {"dtypes": (torch.uint8,)},
    ),
    "erased": (Cutout(num_classes=10, fill=0.5), {"erased": 0.5}),
    "erased after normalising": (
        v2.Compose([v2.Normalize(MEAN, STD), Cutout(num_classes=10)]),
        {"mean": MEAN, "std": STD, "erased": 0.0},
    ),
    "erased bytes": (
        Cutout(num_classes=10, fill=(0, 128, 255)),
        {"erased": (0, 128, 255), "dtypes": (torch.uint8,)},
    ),
    "erased by noise": (Cutout(num_classes=10, fill="noise"), {"erased": "noise"}),
    "wholly erased": (Cutout(1.0, holes=9, num_classes=10), {"erased": 0.0}),
    "collate function": (make_collate_fn(CutMix(num_classes=10)), {"collate": True}),
    "collate function, soft": (
        make_collate_fn(Mixup(num_classes=10)),
        {"collate": True, "label_format": "soft"},
    ),
    "one channel": (CutMix(num_classes=10), {"channels": 1}),
    "many classes": (CutMix(num_classes=1000), {"num_classes": 1000}),
    "fewer classes than samples": (Mixup(num_classes=2), {"num_classes": 2}),
    "more rows than samples": (
        lambda images, labels: (torch.cat([images, images]), torch.cat([labels, labels])),
        {},
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_pipelines_pass(name: str) -> None:
    """Pipelines whose labels are right pass, in every format that can be described."""
    pipeline, options = RIGHT[name]
    report = truth(pipeline, **options)
    assert report.rows > 0


def shares_of_all_pixels(images: torch.Tensor, labels: torch.Tensor) -> Any:
    """Erase the upper half; the labels keep half of their weight."""
    images = images.clone()
    images[:, :, :4] = 0
    return images, 0.5 * torch.nn.functional.one_hot(labels, 10)


def test_erased_pixels_may_be_counted_or_not() -> None:
    """Labels that sum to the visible share pass if that was promised, and only then."""
    truth(shares_of_all_pixels, erased=0.0, renormalized=False)
    assert "sum to 0.5" in complaint(shares_of_all_pixels, erased=0.0)


def test_report_counts_rows_and_mixes() -> None:
    """The report has every row of every call, and those with a mixed label."""
    assert truth(cut_by_hand, batch_sizes=(2, 3), draws=2).rows == (2 + 3) * 2
    assert truth(lambda images, labels: (images, labels)).mixed == 0
    assert truth(cut_by_hand, batch_sizes=(3,), seed=0, draws=1).mixed == 3


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (17, 224)])
def test_one_column_of_the_box_matters(size: tuple[int, int]) -> None:
    """A weight that counts one column of three pixels too many is found in images of any size."""
    truth(cut_by_hand, sizes=(size,))
    text = complaint(lambda i, y: cut_by_hand(i, y, extra=3), sizes=(size,))
    assert "the area of the 3 × 4 box is off by one column" in text or "4 × 4 pixels" in text


def twice(images: torch.Tensor, labels: torch.Tensor) -> Any:
    """Cut twice, the second time over a part of the first, with labels mixed twice."""
    rows = torch.nn.functional.one_hot(labels, 10).float()
    for shift, columns in ((1, 3), (2, 1)):
        images = torch.cat([images.roll(shift, 0)[..., :columns], images[..., columns:]], -1)
        share = columns / images.shape[-1]
        rows = (1 - share) * rows + share * rows.roll(shift, 0)
    return images, rows


WRONG = {
    "more pixels than were pasted": (lambda i, y: cut_by_hand(i, y, extra=1), {}, "other pixels"),
    "a cut over a cut": (
        v2.Compose([CutMix(num_classes=10), CutMix(num_classes=10)]),
        {"seed": 1},
        "a later operation covered",
    ),
    "a cut over a cut by hand": (twice, {"batch_sizes": (5,)}, "a later operation covered"),
    "NaN": (lambda i, y: (i, torch.full((len(y), 10), torch.nan)), {}, "NaN"),
    "normalised": (v2.Normalize(MEAN, STD), {}, "pass `mean=` and `std=`"),
    "erased": (Cutout(num_classes=10), {}, "erased or filled without being promised"),
    "erased after a cut": (
        v2.Compose([CutMix(num_classes=10), Cutout(num_classes=10)]),
        {"erased": 0.0},
        "still counts pixels that were erased",
    ),
    "smoothed": (CutMix(num_classes=10, label_smoothing=0.1), {}, "pass `label_smoothing=`"),
    "drawn lam": (CutMix(num_classes=10, correct_lam=False), {}, "the area was not corrected"),
    "other lam": (
        lambda i, y: (
            0.7 * i + 0.3 * i.flip(0),
            (y, y.flip(0), torch.full((len(y),), 0.6)),
        ),
        {},
        "blended with another lam",
    ),
    "weights that do not sum to 1": (
        lambda i, y: (i, 1.1 * torch.nn.functional.one_hot(y, 10)),
        {},
        r"sum to 1\.1",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pipelines_are_explained(name: str) -> None:
    """Each kind of wrong label fails with its cause in the text."""
    pipeline, options, cause = WRONG[name]
    given_labels = pipeline if name != "normalised" else lambda i, y: (pipeline(i), y)
    with pytest.raises(UntruthfulError, match=cause):
        truth(given_labels, **options)


def test_failure_shrinks() -> None:
    """A fault that shows in any batch of two is shown in two images of 4 × 4 pixels."""
    text = complaint(CutMix(num_classes=10, correct_lam=False), batch_sizes=(8,), sizes=((32, 32),))
    assert "Smallest case found: batch of 2, 4 × 4 pixels, torch.float32" in text


def test_failure_that_needs_size_keeps_it() -> None:
    """A fault that small batches do not show is explained on one that does."""

    def wrong_from_five(images: torch.Tensor, labels: torch.Tensor) -> Any:
        return images, labels if len(labels) < 5 else labels.roll(1)

    assert "batch of 5" in complaint(wrong_from_five, batch_sizes=(8,))


def test_private_randomness_is_named() -> None:
    """A fault that comes and goes under one seed is reported as such, not explained away."""
    calls = iter([True] + [False] * 1000)

    def wrong_once(images: torch.Tensor, labels: torch.Tensor) -> Any:
        return images, (labels + 1) % 10 if next(calls) else labels

    assert "a source of randomness besides torch" in complaint(wrong_once)


def test_seed_repeats_a_failure() -> None:
    """One seed gives one verdict."""
    pipeline = CutMix(num_classes=10, correct_lam=False)
    assert complaint(pipeline, seed=5) == complaint(pipeline, seed=5)


def test_random_states_are_given_back() -> None:
    """The check leaves the random numbers of torch, numpy and random where they were."""

    def draw() -> tuple[Any, ...]:
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    def seed() -> None:
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)

    seed()
    expected = draw()
    seed()
    truth(CutMix(num_classes=10))
    assert draw() == expected


def test_exceptions_come_through() -> None:
    """What the pipeline raises is not taken for a failed check, and says on which batch."""
    error = RuntimeError("no odd batches")

    def refuses(images: torch.Tensor, labels: torch.Tensor) -> Any:
        raise error

    with pytest.raises(RuntimeError, match="no odd batches") as caught:
        truth(refuses)
    assert caught.value is error
    if sys.version_info >= (3, 11):
        assert "batch of 1, 8 × 12 pixels" in error.__notes__[0]


BAD_RETURNS = {
    "nothing": (lambda i, y: None, TypeError, "must return a pair"),
    "three": (lambda i, y: (i, y, y), TypeError, "got 3 values"),
    "no images": (lambda i, y: (y, y), TypeError, r"images \(B, C, H, W\) first"),
    "no labels": (lambda i, y: (i, None), TypeError, "label tensor"),
    "wrong K": (lambda i, y: (i, torch.ones(len(y), 3)), ValueError, "check num_classes"),
    "too few": (lambda i, y: (i, y[:0]), ValueError, "images but 0 labels"),
}


@pytest.mark.parametrize("name", BAD_RETURNS)
def test_unreadable_results_are_refused(name: str) -> None:
    """A pipeline that returns something else is a mistake in the question, said plainly."""
    pipeline, kind, text = BAD_RETURNS[name]
    with pytest.raises(kind, match=text):
        truth(pipeline)


BAD_ARGUMENTS = [
    ({"num_classes": 1}, ValueError, "num_classes must be >= 2, got 1"),
    ({"num_classes": 2.0}, TypeError, "num_classes must be an int"),
    ({"mean": MEAN}, ValueError, "mean and std must be given together"),
    ({"mean": (0.5,), "std": (0.5,)}, ValueError, "mean must have one value per channel"),
    ({"label_smoothing": 1.0}, ValueError, "label_smoothing must be in"),
    ({"label_format": "pair"}, ValueError, "label_format must be one of"),
    ({"erased": "black"}, ValueError, "erased must be one of"),
    ({"roundings": -1}, ValueError, "roundings must be >= 0"),
    ({"batch_sizes": (0,)}, ValueError, "batch_sizes must be >= 1"),
    ({"batch_sizes": ()}, ValueError, "must not be empty"),
    ({"sizes": ((0, 4),)}, ValueError, "sizes must be >= 1"),
    ({"dtypes": (torch.int32,)}, ValueError, "dtypes must be floating-point types"),
    ({"draws": 0}, ValueError, "draws must be >= 1"),
    ({"channels": 0}, ValueError, "channels must be >= 1"),
]


@pytest.mark.parametrize(("options", "kind", "text"), BAD_ARGUMENTS)
def test_bad_arguments_are_named(options: dict[str, Any], kind: type, text: str) -> None:
    """An argument out of range is refused with its name before the pipeline is called."""

    def never(images: torch.Tensor, labels: torch.Tensor) -> Any:
        raise AssertionError("called")

    with pytest.raises(kind, match=text):
        truth(never, **options)


def test_pipeline_must_be_callable() -> None:
    """Every assertion refuses something that cannot be called."""
    for call in (
        lambda: truth(None),
        lambda: assert_targets_follow_images(None, kind="masks"),  # type: ignore[arg-type]
        lambda: assert_inputs_unchanged(None),  # type: ignore[arg-type]
        lambda: assert_one_label_format(None, num_classes=2),  # type: ignore[arg-type]
        lambda: assert_reproducible(None),  # type: ignore[arg-type]
        lambda: assert_probability(None, 0.5),  # type: ignore[arg-type]
        lambda: assert_switch_reaches_workers(None, None),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="must be a callable, got NoneType"):
            call()


@given(
    parts=st.lists(st.floats(0.05, 1), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_decoding_finds_the_weights(parts: list[float], seed: int) -> None:
    """Up to three colours out of six are found again with their weights."""
    generator = torch.Generator().manual_seed(seed)
    palette = torch.rand(6, 3, generator=generator, dtype=torch.float64)
    weights = torch.zeros(6, dtype=torch.float64)
    weights[: len(parts)] = torch.tensor(parts, dtype=torch.float64) / sum(parts)
    found = decode((weights @ palette)[None], palette, tolerance=1e-9)
    assert torch.allclose(found @ palette, (weights @ palette)[None], atol=1e-8)
    if len(parts) < 3:
        assert torch.allclose(found[0], weights, atol=1e-5)


def test_decoding_admits_what_it_does_not_know() -> None:
    """A colour outside of all mixes has no weights."""
    palette = torch.tensor([[0.2, 0.2, 0.2], [0.4, 0.4, 0.4]], dtype=torch.float64)
    outside = torch.tensor([[0.9, 0.1, 0.5]], dtype=torch.float64)
    assert decode(outside, palette, tolerance=1e-3).isnan().all()


MASKS_RIGHT = {
    "nothing": (lambda images, masks: (images, masks), {}),
    "flip": (v2.RandomHorizontalFlip(), {}),
    "cut": (CutMix(mode="sample", labels_getter=None), {"dtypes": ALL_DTYPES}),
    "soft": (
        Mixup(masks="soft", num_mask_classes=16, labels_getter=None),
        {"dtypes": ALL_DTYPES},
    ),
    "dominant": (Mixup(masks="dominant", mode="sample", labels_getter=None), {}),
    "erased": (Cutout(labels_getter=None), {"erased": True}),
    "filled": (Cutout(labels_getter=None, mask_fill=15), {"erased": True, "mask_fill": 15}),
    "extra axis": (lambda images, masks: (images, masks[:, None]), {}),
}


@pytest.mark.parametrize("name", MASKS_RIGHT)
def test_right_masks_pass(name: str) -> None:
    """Masks that follow their images pass: index masks, soft planes, filled or not."""
    pipeline, options = MASKS_RIGHT[name]
    assert assert_targets_follow_images(pipeline, kind="masks", **FEW, **options).rows > 0


def test_masks_that_are_blended_as_numbers_fail() -> None:
    """A mask whose class ids were averaged names classes that no pixel holds."""

    def blends(images: torch.Tensor, masks: torch.Tensor) -> Any:
        mixed = (masks.float() + masks.flip(0).float()) / 2
        return (images + images.flip(0)) / 2, mixed.to(masks.dtype)

    with pytest.raises(UntruthfulError, match="class ids were blended"):
        assert_targets_follow_images(blends, kind="masks", **FEW)


def test_mask_that_moves_alone_fails() -> None:
    """A mask that is mixed although its image is not fails."""
    with pytest.raises(UntruthfulError, match="the mask was mixed and the image was not"):
        assert_targets_follow_images(lambda i, m: (i, m.roll(1, 0)), kind="masks", **FEW)


def test_erasing_must_be_promised_for_masks() -> None:
    """Erased pixels fail unless they are announced."""
    with pytest.raises(UntruthfulError, match="pass `erased=True`"):
        assert_targets_follow_images(Cutout(labels_getter=None), kind="masks", **FEW)


def keep_labels(transform: Any) -> Any:
    """Adapt a v2 transform of one image and its target to a batch of them."""

    def pipeline(images: Any, targets: Any) -> Any:
        pairs = [
            transform(tv_tensors.Image(image), target)
            for image, target in zip(images, targets, strict=True)
        ]
        return torch.stack([image for image, _ in pairs]), [target for _, target in pairs]

    return pipeline


@pytest.mark.parametrize("min_visible", [0.1, 0.6])
@pytest.mark.parametrize("transform", [CutMix, Cutout])
def test_right_boxes_pass(transform: Any, min_visible: float) -> None:
    """Boxes that are the tight boxes of what is visible pass, and so do flipped ones."""
    pipeline = transform(mode="sample", labels_getter=None, min_visible=min_visible)
    options = {**FEW, "min_visible": min_visible}
    assert_targets_follow_images(pipeline, kind="boxes", **options)
    assert_targets_follow_images(keep_labels(v2.RandomHorizontalFlip()), kind="boxes", **options)


BOXES_WRONG = {
    "left behind": (lambda i, t: (i.roll(1, 0), t), "its box was left behind"),
    "dropped": (
        lambda i, t: (i, [{"boxes": x["boxes"][:0], "labels": x["labels"][:0]} for x in t]),
        "is 100% visible but not listed",
    ),
    "moved": (
        lambda i, t: (i, [{**x, "boxes": x["boxes"] + 1} for x in t]),
        r"is seen in \[.*\] but its box is",
    ),
    "labels lost": (
        lambda i, t: (i, [{**x, "labels": x["labels"][:0]} for x in t]),
        "boxes and 0 labels",
    ),
    "doubled": (
        lambda i, t: (i, [{k: torch.cat([v, v]) for k, v in x.items()} for x in t]),
        "listed twice",
    ),
}


@pytest.mark.parametrize("name", BOXES_WRONG)
def test_wrong_boxes_fail(name: str) -> None:
    """Boxes that do not fit what is seen fail, and the text says how."""
    pipeline, text = BOXES_WRONG[name]
    with pytest.raises(UntruthfulError, match=text):
        assert_targets_follow_images(pipeline, kind="boxes", **FEW)


def test_questions_about_targets_are_checked() -> None:
    """Wrong arguments and unreadable targets are refused with their names."""
    same = MASKS_RIGHT["nothing"][0]
    with pytest.raises(ValueError, match="kind must be one of"):
        assert_targets_follow_images(same, kind="points")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes must be >= 8"):
        assert_targets_follow_images(same, kind="masks", num_classes=4)
    with pytest.raises(ValueError, match="sizes must be at least 8"):
        assert_targets_follow_images(same, kind="boxes", sizes=((8, 4),))
    with pytest.raises(TypeError, match="must return masks"):
        assert_targets_follow_images(lambda i, m: (i, None), kind="masks")
    with pytest.raises(TypeError, match="one target dict per image"):
        assert_targets_follow_images(lambda i, t: (i, t[:0]), kind="boxes")


def test_unchanged_inputs_pass() -> None:
    """Tensors, arrays, NaN and plain values that stay as they are pass."""
    inputs = {"images": torch.tensor([torch.nan, 1.0]), "array": np.arange(3), "name": "a"}
    assert_inputs_unchanged(lambda batch: None, inputs)


CHANGES = {
    "tensor": (lambda x: x["tensor"].add_(1), r"\['tensor'\]"),
    "array": (lambda x: np.add(x["array"], 1, out=x["array"]), r"\['array'\]"),
    "nested": (lambda x: x["list"][1].zero_(), r"\['list'\]\[1\]"),
    "list": (lambda x: x["list"].pop(), "containers have other lengths"),
    "value": (lambda x: x.update(number=2), r"\['number'\]"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_inputs_fail(name: str) -> None:
    """A change of any kind of leaf or container is found and its place named."""
    inputs = {
        "tensor": torch.zeros(2),
        "array": np.arange(3),
        "list": [1, torch.ones(2)],
        "number": 1,
    }
    change, place = CHANGES[name]
    with pytest.raises(AssertionError, match=place):
        assert_inputs_unchanged(change, inputs)


def test_one_label_format_holds_for_ours() -> None:
    """Our labels have one format for every p, in a collate function and with pairs."""
    assert_one_label_format(lambda p: Cutout(num_classes=3, p=p), num_classes=3)
    assert_one_label_format(lambda p: CutMix(targets="pair", p=p), num_classes=3)
    assert_one_label_format(
        lambda p: make_collate_fn(Mixup(num_classes=3), p=p), num_classes=3, collate=True
    )


def test_second_label_format_is_found() -> None:
    """RandomApply(MixUp) of torchvision alternates two formats."""
    with pytest.raises(AssertionError, match=r"\(4,\) torch.int64 .* but \(4, 3\) torch.float32"):
        assert_one_label_format(
            lambda p: v2.RandomApply([v2.MixUp(num_classes=3)], p=p), num_classes=3
        )


DATA = TensorDataset(torch.arange(8.0)[:, None, None, None].expand(-1, 1, 4, 4), torch.arange(8))


def test_reproducible_loaders_pass() -> None:
    """A seeded collate function gives the same batches with and without a worker."""
    assert_reproducible(
        lambda n: DataLoader(
            DATA, 4, num_workers=n, collate_fn=make_collate_fn(CutMix(num_classes=8), seed=1)
        ),
        num_workers=(0, 1),
    )


def test_irreproducible_loaders_fail() -> None:
    """Batches that differ from run to run, in value or number, fail with their number."""
    count = iter(range(100))
    with pytest.raises(AssertionError, match=r"differ in batch 0: the value at \[1\]"):
        assert_reproducible(lambda n: [("a", next(count))], num_workers=(0,))
    with pytest.raises(AssertionError, match="give 1 and 2 batches"):
        assert_reproducible(lambda n: range(n), num_workers=(1, 2))
    with pytest.raises(ValueError, match="at least one batch"):
        assert_reproducible(lambda n: [])
    with pytest.raises(ValueError, match="num_workers must not be empty"):
        assert_reproducible(lambda n: [1], num_workers=())


def per_sample(images: torch.Tensor, labels: torch.Tensor, *, shared_place: bool = False) -> Any:
    """Cut a box of its own size into each sample, at places that may be one share of the room."""
    size = torch.tensor(images.shape[-2:])
    sides = (size * torch.rand(len(images), 1).sqrt()).long()
    place = torch.rand(1 if shared_place else len(images), 2)
    corner = (place * (size - sides)).long()
    out = images.clone()
    for n, (y, x) in enumerate(corner.tolist()):
        h, w = sides[n].tolist()
        out[n, :, y : y + h, x : x + w] = images[n - 1, :, y : y + h, x : x + w]
    return out, labels


class Collate:
    """A collate function of one's own, with a switch that running workers do or do not see."""

    def __init__(self, mix: Any, shared: bool = True) -> None:
        self.mix, self.on = mix, torch.ones(())
        self.shared = self.on.share_memory_() if shared else None

    def switch(self, on: bool) -> None:
        """Switch mixing on or off."""
        self.on = self.on.fill_(on) if self.shared is not None else torch.tensor(float(on))

    def __call__(self, samples: Any) -> Any:
        """Collate and mix."""
        images = torch.stack([image for image, _ in samples])
        labels = torch.tensor([label for _, label in samples])
        return self.mix(images, labels) if self.on else (images, labels)


def one_lam(images: torch.Tensor, labels: torch.Tensor) -> Any:
    """Blend with a lam from torch's global generator."""
    lam = torch.rand(())
    return lam * images + (1 - lam) * images.roll(1, 0), labels


class OwnNumbers:
    """Blend with a generator of one's own, of which every worker gets a copy."""

    def __init__(self) -> None:
        self.numbers = np.random.default_rng(0)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> Any:
        """Mix."""
        lam = self.numbers.random()
        return (lam * images + (1 - lam) * images.roll(1, 0)).float(), labels


def with_p(p: float, *, per: str = "batch") -> Any:
    """Return CutMix with a probability, for batches or samples."""
    return CutMix(num_classes=2, p=p, mode=per, labels_getter="default")


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_right_probabilities_pass(p: float, alpha: float, per: Any) -> None:
    """What is mixed as often as said passes, also where a small alpha leaves mixes unseen."""
    for kind in (Mixup, CutMix):
        mix = kind(alpha, num_classes=2, p=p, mode=per, pairing="shuffle")
        report = assert_probability(mix, p, per=per, draws=100, size=(16, 24))
        assert report.rows == 800
        assert report.mixed <= 800 * p + 120
        assert (report.mixed > 0) == (p > 0)


P_WRONG = {
    "squared": (v2.RandomApply([with_p(0.5)], p=0.5), 0.5, "batch", "p was applied twice"),
    "squared in rows": (
        v2.RandomApply([with_p(0.5, per="sample")], p=0.5),
        0.5,
        "batch",
        r"p was applied twice.*p² = 0\.25",
    ),
    "ignored": (with_p(1.0), 0.3, "batch", "batches are mixed in every case: p is not looked at"),
    "never": (with_p(0.0), 0.3, "sample", "no samples are mixed at all"),
    "inverted": (with_p(0.8), 0.2, "batch", "the share that is left alone"),
    "another": (with_p(0.5), 0.9, "batch", "does not reach the transform"),
    "other unit": (with_p(0.5, per="sample"), 0.5, "batch", "samples are chosen within a batch"),
}


@pytest.mark.parametrize("name", P_WRONG)
def test_wrong_probabilities_fail(name: str) -> None:
    """Another share than was said fails, with the rule that gives it."""
    mix, p, per, cause = P_WRONG[name]
    with pytest.raises(UntruthfulError, match=cause):
        assert_probability(mix, p, per=per, draws=200, size=(16, 24))  # type: ignore[arg-type]


DRAWS_RIGHT = {
    "by batch": (CutMix(num_classes=2), {}),
    "by sample": (CutMix(num_classes=2, mode="sample"), {"per": "sample"}),
    "blends by sample": (Mixup(0.2, num_classes=2, mode="sample", p=0.6), {"per": "sample"}),
    "by hand": (per_sample, {"per": "sample"}),
    "erased by sample": (Cutout(num_classes=2), {"per": "sample"}),
    "bytes": (Mixup(num_classes=2), {"dtype": torch.uint8}),
    "in workers": (Collate(one_lam), {"collate": True}),
    "seeded": (make_collate_fn(Mixup(num_classes=2)), {"collate": True}),
}


@pytest.mark.parametrize("name", DRAWS_RIGHT)
def test_right_draws_pass(name: str) -> None:
    """What is drawn anew for each batch or sample, worker and epoch passes."""
    mix, options = DRAWS_RIGHT[name]
    assert_draws_independent(mix, **options)


def test_epochs_of_a_seed_differ_where_the_epoch_is_said() -> None:
    """A seeded collate function repeats its mixes until it hears of the epoch."""
    collate = make_collate_fn(CutMix(num_classes=2), seed=0)
    with pytest.raises(UntruthfulError, match="every epoch begins with the same seed"):
        assert_draws_independent(collate, collate=True)
    assert_draws_independent(collate, collate=True, set_epoch=collate.set_epoch)


def seeded_anew(images: torch.Tensor, labels: torch.Tensor) -> Any:
    """Seed in every call."""
    torch.manual_seed(3)
    return one_lam(images, labels)


DRAWS_WRONG = {
    "once": (seeded_anew, {}, "one draw is used again in every call"),
    "shared lam": (one_lam, {"per": "sample"}, "all samples of a batch have one lam"),
    "shared lam of boxes": (CutMix(num_classes=2), {"per": "sample"}, "have one lam"),
    "shared place": (
        lambda i, y: per_sample(i, y, shared_place=True),
        {"per": "sample"},
        "share one place",
    ),
    "copied to workers": (Collate(OwnNumbers()), {"collate": True}, "workers have copies"),
    "in a loader": (
        lambda data: DataLoader(data, 8, collate_fn=Collate(seeded_anew)),
        {"loader": True},
        "one draw is used again",
    ),
}


@pytest.mark.parametrize("name", DRAWS_WRONG)
def test_draws_that_are_used_again_fail(name: str) -> None:
    """A draw shared by calls, samples, workers or epochs fails and is named."""
    mix, options, cause = DRAWS_WRONG[name]
    with pytest.raises(UntruthfulError, match=cause):
        assert_draws_independent(mix, **options)


def persistent(collate: Any) -> Any:
    """Make a loader whose worker stays."""
    return lambda data: DataLoader(
        data, 8, collate_fn=collate, num_workers=1, persistent_workers=True
    )


def test_switch_in_shared_memory_reaches_workers() -> None:
    """A switch that running workers see passes, ours and one by hand."""
    ours, own = make_collate_fn(CutMix(num_classes=2)), Collate(one_lam)
    assert_switch_reaches_workers(persistent(ours), lambda _, on: ours.set_p(float(on)))
    assert_switch_reaches_workers(persistent(own), lambda _, on: own.switch(on))


def test_switch_in_the_main_process_fails() -> None:
    """A switch that is set on the main process's copy fails; so does one that never goes on."""
    lost = Collate(one_lam, shared=False)
    with pytest.raises(UntruthfulError, match="4 of 4 batches of the next epoch are still mixed"):
        assert_switch_reaches_workers(persistent(lost), lambda _, on: lost.switch(on))
    stuck = Collate(one_lam)
    with pytest.raises(UntruthfulError, match="Switched on again, none of 4 batches"):
        assert_switch_reaches_workers(
            persistent(stuck), lambda _, on: None if on else stuck.switch(False)
        )


def test_questions_about_draws_are_checked() -> None:
    """What cannot be asked is refused with the reason."""

    def plain(images: torch.Tensor, labels: torch.Tensor) -> Any:
        return images, labels

    with pytest.raises(ValueError, match="must mix at least 10 of 60 batches to be asked, got 0"):
        assert_draws_independent(plain)
    normalised = v2.Compose([v2.MixUp(num_classes=2), v2.Normalize(MEAN, STD)])
    with pytest.raises(ValueError, match="undo what normalises them"):
        assert_draws_independent(normalised)
    with pytest.raises(ValueError, match="undo what normalises them"):
        assert_draws_independent(
            lambda data: DataLoader(data, 8, collate_fn=Collate(normalised)), loader=True
        )
    with pytest.raises(ValueError, match="that mixes four batches or more"):
        assert_draws_independent(lambda data: DataLoader(data, 48), loader=True)
    with pytest.raises(ValueError, match="must mix while it is switched on, got 4 plain batches"):
        assert_switch_reaches_workers(persistent(None), lambda _, on: None)
    with pytest.raises(ValueError, match="persistent_workers=True, got 0 workers"):
        assert_switch_reaches_workers(lambda data: DataLoader(data), lambda _, on: None)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1.5"):
        assert_probability(plain, 1.5)
    with pytest.raises(ValueError, match="draws must be >= 50, got 10"):
        assert_probability(plain, 0.5, draws=10)
    with pytest.raises(ValueError, match="per must be one of"):
        assert_probability(plain, 0.5, per="row")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mix must return 8 images, got 16"):
        assert_probability(lambda i, y: (torch.cat([i, i]), y), 0.5)
    with pytest.raises(TypeError, match="mix must be a callable"):
        assert_draws_independent(None)  # type: ignore[arg-type]


def collate_targets(mix: Any) -> Any:
    """Return a collate function of images with masks or detection targets."""

    def collate(samples: Any) -> Any:
        images, targets = zip(*samples, strict=True)
        stacked = tv_tensors.Image(torch.stack(images))
        if isinstance(targets[0], torch.Tensor):
            return mix(stacked, tv_tensors.Mask(torch.stack(targets)))
        return mix(stacked, list(targets))

    return collate


@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_collated_masks_and_boxes_are_asked(kind: Any) -> None:
    """Collate functions are fed with samples of image and mask, or image and target."""
    right = collate_targets(CutMix(labels_getter=None))
    assert_targets_follow_images(right, kind=kind, collate=True, **FEW)
    wrong = collate_targets(lambda images, targets: (CutMix(labels_getter=None)(images), targets))
    with pytest.raises(UntruthfulError, match="was left behind"):
        assert_targets_follow_images(wrong, kind=kind, collate=True, **FEW)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_class_numbers_above_256_survive_narrow_images(dtype: torch.dtype) -> None:
    """Labels that passed through the images' dtype fail, and say so; ours do not pass there."""

    def rounds(images: torch.Tensor, labels: torch.Tensor) -> Any:
        images, (own, other, lam) = CutMix(targets="pair")(images, labels)
        return images, (own.to(dtype).long(), other.to(dtype).long(), lam)

    options = {"num_classes": 5000, "dtypes": (dtype,)}
    truth(CutMix(num_classes=5000), **options)
    assert f"class numbers were rounded: they passed through {dtype}" in complaint(
        rounds, **options
    )
    truth(rounds, num_classes=256, dtypes=(dtype,))


def test_failure_has_its_parts() -> None:
    """The error carries case, cause and pictures, and a table of what is held and said."""
    with pytest.raises(UntruthfulError) as caught:
        truth(CutMix(num_classes=10, correct_lam=False))
    error = caught.value
    lines = str(error).splitlines()
    assert lines[0] == f"Labels differ from the pixels in {error.wrong} of {error.rows} rows."
    assert lines[1].startswith("Smallest case found: batch of 2, 4 × 4 pixels")
    assert lines[2].split() == ["class", "pixels", "hold", "label", "says"]
    assert lines[3].split()[1:3] == ["(its", "own)"]
    assert lines[-2] == f"Probable cause: {error.cause}"
    assert lines[-1].startswith("What to do: ")
    assert error.case.startswith(lines[1].removeprefix("Smallest case found: ").rstrip("."))
    pictures = error.evidence
    assert pictures is not None
    assert len(pictures.images) == len(pictures.said) == len(pictures.held) > 0
    assert torch.equal(
        pictures.samples.mean((2, 3)).unique(dim=0), pictures.samples[:, :, 0, 0].unique(dim=0)
    )
    torch.testing.assert_close(pictures.held.sum(1), torch.ones(len(pictures.held)).double())
    assert not torch.allclose(pictures.held, pictures.said)


def test_guide_says_what_to_do_for_each_cause() -> None:
    """Every cause that the kit can name stands in the guide with its remedy."""
    guide = Path(__file__).parents[2] / "docs" / "guide" / "truth.md"
    rows = [line for line in guide.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    known = [value for value in vars(causes).values() if isinstance(value, causes.Cause)]
    assert len(known) > 30
    for cause in known:
        begin = cause.text.split("{")[0].strip("., ").lower()
        found = [row for row in rows if begin in row.lower() and cause.remedy.rstrip(".") in row]
        assert len(found) == 1, cause


def test_failure_points_at_the_users_line(tmp_path: Path, capfd: Any) -> None:
    """In pytest's report the last frame is the test's own, and the table is shown line by line."""
    file = tmp_path / "test_mine.py"
    file.write_text(
        "from tv_mixaug import CutMix\n"
        "from tv_mixaug.testing import assert_labels_match_pixels\n"
        "def test_mine():\n"
        "    mix = CutMix(num_classes=10, correct_lam=False)\n"
        "    assert_labels_match_pixels(mix, num_classes=10, draws=2)\n"
    )
    (tmp_path / "pytest.ini").touch()
    assert pytest.main(["-p", "no:cacheprovider", "-p", "no:hypothesispytest", str(file)]) == 1
    out = capfd.readouterr().out
    assert "test_mine.py:5: UntruthfulError" in out
    assert "truth.py" not in out
    assert "\nE       Probable cause: the area was not corrected" in out


@given(kit.image_batches(min_size=2, max_size=3, min_side=4, max_side=6, dtypes=ALL_DTYPES))
def test_image_batches_are_in_bounds(images: torch.Tensor) -> None:
    """Images keep the bounds asked for, and the range of their dtype."""
    assert len(images) in (2, 3)
    assert images.shape[1] in (1, 3)
    assert all(4 <= side <= 6 for side in images.shape[2:])
    assert images.min() >= 0
    assert images.max() <= (255 if images.dtype == torch.uint8 else 1)


@given(kit.label_batches(num_classes=200, max_size=4))
def test_label_batches_are_valid(labels: torch.Tensor) -> None:
    """Labels are indices in range, or rows of K."""
    assert 1 <= len(labels) <= 4
    if labels.ndim == 1:
        assert labels.min() >= 0
        assert labels.max() < 200
    else:
        assert labels.shape[1] == 200
        if labels.dtype == torch.float32:
            assert torch.allclose(labels.sum(1), torch.ones(len(labels)))


@given(kit.plans(image_size=(5, 7), max_size=6))
def test_plans_are_valid(plan: plans.Plan) -> None:
    """Plans are replayed on images of their size, and their labels are the shares of pixels."""
    size = len(plan.op)
    assert plan.boxes.shape == (size, 1, 4)
    assert ((plan.lam >= 0) & (plan.lam <= 1)).all()
    images = torch.eye(size)[:, :, None, None].expand(-1, -1, 5, 7).contiguous()
    mixed = functional.replay(images, plan, fill=2.0)
    labels = functional.mix_labels(torch.eye(size), plan.partner, plan.lam)
    clean = plan.op != plans.FILL
    assert torch.allclose(mixed.mean((2, 3))[clean], labels[clean], atol=1e-6)


@given(kit.samples(num_classes=3, min_size=2, dtypes=[torch.float32]))
def test_samples_can_be_collated(samples: list[Any]) -> None:
    """Sample lists go through a collate function."""
    batch = make_collate_fn(Mixup(num_classes=3))(samples)
    labels = batch["label"] if isinstance(batch, dict) else batch[1]
    assert labels.shape == (len(samples), 3)


@given(kit.transforms(num_classes=3), kit.image_batches(channels=[3]))
def test_transforms_are_valid(transform: Any, images: torch.Tensor) -> None:
    """Every configuration drawn transforms every batch drawn."""
    mixed, labels = transform(images, torch.arange(len(images)) % 3)
    assert mixed.shape == images.shape
    assert len(labels[0] if transform.targets == "pair" else labels) == len(images)


def simplest(strategy: Any, condition: Any) -> Any:
    """Return what a failing example shrinks to."""
    phases = [Phase.generate, Phase.shrink]
    options = settings(max_examples=100, derandomize=True, phases=phases)
    return find(strategy, condition, settings=options)


def test_strategies_shrink_to_simple_examples() -> None:
    """Failing examples become few samples, small sides and plain settings."""
    images = simplest(kit.image_batches(max_side=16), lambda x: len(x) >= 2)
    assert (tuple(images.shape), images.dtype) == ((2, 3, 1, 1), torch.float32)
    plan = simplest(kit.plans(image_size=(8, 8)), lambda x: bool((x.op == plans.PASTE).any()))
    assert (plan.op.tolist(), plan.boxes.tolist()) == ([plans.PASTE], [[[0, 0, 0, 0]]])
    mix = simplest(kit.transforms(num_classes=3), lambda x: isinstance(x, CutMix))
    assert (mix.p, mix.alpha, mix.mode, mix.targets) == (1.0, 1.0, "batch", "soft")


BAD_STRATEGIES = [
    (lambda: kit.image_batches(min_size=3, max_size=2), "max_size must be >= min_size = 3"),
    (lambda: kit.image_batches(min_side=0), "min_side must be an int >= 1"),
    (lambda: kit.image_batches(dtypes=[]), "dtypes must be chosen from"),
    (lambda: kit.image_batches(channels=[0]), "channels must be numbers >= 1"),
    (lambda: kit.label_batches(num_classes=0), "num_classes must be an int >= 1"),
    (lambda: kit.label_batches(num_classes=2, kinds=["hard"]), "kinds must be chosen from"),
    (lambda: kit.plans(image_size=(0, 4)), "image_size must be"),
    (lambda: kit.plans(image_size=(4, 4), ops=["mosaic"]), "ops must be chosen from"),
    (lambda: kit.samples(num_classes=2, min_size=0), "min_size must be an int >= 1"),
    (lambda: kit.samples(num_classes=2, layouts=["set"]), "layouts must be chosen from"),
    (lambda: kit.transforms(num_classes=True), "num_classes must be an int >= 1"),
    (lambda: kit.transforms(num_classes=2, targets=["hard"]), "targets must be chosen from"),
    (lambda: kit.transforms(num_classes=2, max_smoothing=1), "max_smoothing must be in"),
]


@pytest.mark.parametrize(("make", "text"), BAD_STRATEGIES)
def test_strategies_refuse_bad_arguments_at_once(make: Any, text: str) -> None:
    """A bad bound is refused when the strategy is made, not when it is drawn from."""
    with pytest.raises(InvalidArgument, match=text):
        make()


def top_level_imports(path: Path) -> set[str]:
    """Return the packages that a file imports when it is imported."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[0] for name in names} | set(names)


def test_assertions_need_no_hypothesis() -> None:
    """Only the strategies import hypothesis, and nothing imports them before they are asked for."""
    package = Path(kit.__file__).parents[1]
    users = {f.name for f in package.rglob("*.py") if "hypothesis" in top_level_imports(f)}
    assert users == {"strategies.py"}
    assert not any("strategies" in name for name in top_level_imports(Path(kit.__file__)))


def test_referee_shares_no_code_with_players() -> None:
    """What judges imports nothing of what mixes: checks of arguments, reading files and drawing."""
    allowed = {"testing", "arguments"}
    for path in Path(kit.__file__).parent.glob("*.py"):
        used = {
            name.split(".")[1] for name in top_level_imports(path) if name.startswith("tv_mixaug.")
        }
        # Strategies make inputs and judge nothing; the command draws a sheet and writes it.
        more = {"strategies.py": {"plans", "transforms"}, "check.py": {"viz", "io"}}
        assert used <= allowed | more.get(path.name, set()), path.name


def test_unknown_names_are_unknown() -> None:
    """A misspelt name is an AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'image_batch'"):
        _ = kit.image_batch
