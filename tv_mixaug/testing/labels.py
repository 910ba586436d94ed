"""Compare what labels say with what pixels hold, for any pipeline.

Images of class k are filled with colour k. Whatever is cut, blended, flipped or cropped, the mean
colour of an image is then the mean of the class colours weighted by what its pixels hold. So a
truthful label satisfies `mean colour = label @ colours`, one equation per channel of each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tv_mixaug._validation import check_choice
from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing._arguments import at_least, check_callable, per_channel
from tv_mixaug.testing._coded import (
    Case,
    CodedBatch,
    Evidence,
    TruthReport,
    UntruthfulError,
    all_cases,
    because,
    call,
    coded_batch,
    colour_tolerance,
    smaller_cases,
    to_unit,
    unrepeatable,
)
from tv_mixaug.testing._explain import Explanation, explain_label


@dataclass(frozen=True)
class _Reading:
    """How the pipeline is fed, and how what it gives is read."""

    num_classes: int
    channels: int
    collate: bool
    soft: bool
    label_smoothing: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    erased: tuple[float, ...] | Literal["noise"] | None
    renormalized: bool
    roundings: int
    tolerance: float | None


class _Outcome(NamedTuple):
    """One trial: what went in, what came out, and how far labels and pixels are apart."""

    case: Case
    batch: CodedBatch
    pixels: Tensor  # (B, C, H, W) float64 in [0, 1]
    visible: Tensor  # (B, H, W) bool
    weights: Tensor  # (B, K) float64
    gaps: Tensor  # (B,) float64
    wrong: Tensor  # (B,) bool


def assert_labels_match_pixels(
    pipeline: Callable[..., Any],
    *,
    num_classes: int,
    collate: bool = False,
    label_format: Literal["index", "soft"] = "index",
    label_smoothing: float = 0.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    erased: float | Sequence[float] | Literal["noise"] | None = None,
    renormalized: bool = True,
    roundings: int = 1,
    tolerance: float | None = None,
    batch_sizes: Sequence[int] = (1, 2, 5, 8),
    sizes: Sequence[tuple[int, int]] = ((8, 8), (17, 24), (32, 32)),
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    channels: int = 3,
    draws: int = 20,
    seed: int = 0,
) -> TruthReport:
    """Check that the labels a pipeline returns are the shares that its pixels hold.

    The pipeline may be anybody's. Every call is seeded (torch, numpy and random; their states are
    given back). A failure is repeated on smaller batches and images, and the smallest that still
    fails is explained. An exception of the pipeline comes through as it is, with a note on the
    batch that caused it.

    Args:
        pipeline: `(images, labels) -> (images, labels)`, images (B, C, H, W). The labels it
            returns may be (B,) class indices, (B, K) weights, or a triple
            `(labels, partner_labels, lam)` with lam the weight of the first.
        num_classes: number of classes K, at least 2.
        collate: the pipeline is a collate function, called with a list of `(image, label)`.
        label_format: the pipeline takes "index" labels, (B,) int64, or "soft" ones, (B, K) float32.
        label_smoothing: smoothing that the pipeline applies, in [0, 1).
        mean: per-channel mean that the pipeline subtracts last, in [0, 1] units; needs `std`.
        std: per-channel standard deviation that the pipeline divides by last; needs `mean`.
        erased: value of erased pixels in the pipeline's output (a number, or one per channel),
            which then belong to nobody; "noise" counts every pixel that is no sample's colour as
            erased, for pipelines that cut and never blend. None: nothing may be erased.
        renormalized: where pixels are erased, labels are shares of the visible pixels and sum to
            1; False: shares of all pixels, with the visible share as their sum.
        roundings: how often the pipeline rounds integer images; each costs half a grey level.
        tolerance: largest allowed difference of mean colours in [0, 1] units. None: 1e-5, the
            precision of a half-width dtype, or `roundings` half grey levels.
        batch_sizes: batch sizes to try; leave out those that the pipeline refuses.
        sizes: (height, width) of the images, in pixels.
        dtypes: dtypes of the images; float images are in [0, 1].
        channels: number of channels; the more, the surer is the explanation of a failure.
        draws: calls per batch size, size and dtype.
        seed: seed of the first call; the n-th call has `seed + n`.

    Returns:
        The number of rows compared, and how many of their labels were mixed.

    Raises:
        UntruthfulError: labels and pixels disagree; an `AssertionError` with the counts.
        TypeError: the pipeline is no callable, or returns something else than images and labels.
        ValueError: an argument is out of range, or the shapes returned do not fit each other.

    Example:
        >>> from torchvision.transforms import v2
        >>> from tv_mixaug.testing import assert_labels_match_pixels
        >>> report = assert_labels_match_pixels(v2.CutMix(num_classes=10), num_classes=10)
        >>> report.rows
        960
    """
    __tracebackhide__ = True
    check_callable("pipeline", pipeline)
    if (mean is None) != (std is None):
        raise ValueError("mean and std must be given together, got only one of them.")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}.")
    if isinstance(erased, str):
        check_choice("erased", erased, ("noise",))
    channels = at_least("channels", channels, 1)
    reading = _Reading(
        num_classes=at_least("num_classes", num_classes, 2),
        channels=channels,
        collate=collate,
        soft=check_choice("label_format", label_format, ("index", "soft")) == "soft",
        label_smoothing=label_smoothing,
        mean=per_channel("mean", mean, channels),
        std=per_channel("std", std, channels),
        erased=erased if isinstance(erased, str) else per_channel("erased", erased, channels),
        renormalized=renormalized,
        roundings=at_least("roundings", roundings, 0),
        tolerance=tolerance,
    )

    rows = wrong = mixed = 0
    first: Case | None = None
    for case in all_cases(batch_sizes, sizes, dtypes, draws, seed):
        outcome = _try(pipeline, case, reading)
        rows += len(outcome.gaps)
        mixed += int((outcome.weights.amax(dim=1) < 1 - 1e-6).sum())
        wrong += int(outcome.wrong.sum())
        if first is None and outcome.wrong.any():
            first = case
    if first is None:
        return TruthReport(rows, mixed)
    raise _error(*_shrink(pipeline, first, reading), wrong, rows)


def _try(pipeline: Callable[..., Any], case: Case, reading: _Reading) -> _Outcome:
    fill = _fill_colour(reading, case.dtype)
    batch = coded_batch(
        case, num_classes=reading.num_classes, channels=reading.channels, avoid=fill
    )
    labels: Any = batch.classes.clone()
    if reading.soft:
        labels = torch.nn.functional.one_hot(labels, reading.num_classes).to(torch.float32)
    images, labels = call(pipeline, case, batch.images.clone(), labels, collate=reading.collate)

    pixels = to_unit(images, reading.mean, reading.std)
    weights = _label_weights(labels, reading)
    if len(weights) != len(pixels):
        raise ValueError(f"pipeline returned {len(pixels)} images but {len(weights)} labels.")
    tolerance = reading.tolerance
    if tolerance is None:
        tolerance = max(colour_tolerance(d, reading.roundings) for d in (case.dtype, images.dtype))
    visible = torch.ones_like(pixels[:, 0], dtype=torch.bool)
    if fill is not None:
        visible = ((pixels - torch.tensor(fill)[:, None, None]).abs() > tolerance).any(dim=1)
    elif reading.erased == "noise":
        palette = batch.colours[batch.present][:, None, :, None, None]
        visible = (pixels - palette).abs().amax(2).amin(0) <= tolerance
    gaps = _gaps(pixels, visible, weights, batch.colours, renormalized=reading.renormalized)
    # Not `gaps > tolerance`: a NaN is wrong too.
    return _Outcome(case, batch, pixels, visible, weights, gaps, ~(gaps <= tolerance))


def _gaps(
    pixels: Tensor, visible: Tensor, weights: Tensor, colours: Tensor, *, renormalized: bool
) -> Tensor:
    """Return (B,): how far the mean colour that a label promises is from the one that is there."""
    seen = visible.flatten(1).sum(1)
    out_of = seen.clamp(min=1) if renormalized else torch.full_like(seen, visible[0].numel())
    held = (pixels * visible[:, None]).flatten(2).sum(2) / out_of[:, None]
    colour_gaps = (weights @ colours - held).abs().amax(1)
    # The sum of the weights is one more channel: colours alone would let a constant slip by.
    gaps = torch.maximum(colour_gaps, (weights.sum(1) - seen / out_of).abs())
    if renormalized:
        gaps = gaps.where(seen > 0, 0.0)  # all erased: there is nothing to compare with
    return gaps


def _fill_colour(reading: _Reading, dtype: torch.dtype) -> list[float] | None:
    """Return the colour of erased pixels in [0, 1] units, per channel."""
    if not isinstance(reading.erased, tuple):
        return None
    value = torch.tensor(reading.erased, dtype=torch.float64)[:, None, None]
    if not dtype.is_floating_point and reading.mean is None:
        value = value / 255
    return [float(v) for v in to_unit(value, reading.mean, reading.std).flatten()]


def _label_weights(labels: Any, reading: _Reading) -> Tensor:
    """Return (B, K) float64 weights from index, soft or pair labels, smoothing undone."""
    if isinstance(labels, (tuple, list)) and len(labels) == 3:
        own, partner = (_dense(part, reading.num_classes) for part in labels[:2])
        lam = torch.as_tensor(labels[2], dtype=torch.float64).cpu().reshape(-1, 1)
        mixed: Tensor = lam * own + (1 - lam) * partner
        return mixed
    if not isinstance(labels, Tensor):
        raise TypeError(
            "pipeline must return a label tensor or (labels, partner_labels, lam) second, "
            f"got {type(labels).__name__}; wrap it to do so."
        )
    weights: Tensor = _dense(labels, reading.num_classes)
    if labels.ndim == 2:
        smoothing = reading.label_smoothing
        weights = (weights - smoothing / reading.num_classes) / (1 - smoothing)
    return weights


def _dense(labels: Any, num_classes: int) -> Tensor:
    given: Tensor = torch.as_tensor(labels).detach().cpu()
    if given.ndim == 1:
        return (given[:, None] == torch.arange(num_classes)).to(torch.float64)
    if given.ndim == 2 and given.shape[1] == num_classes:
        return given.to(torch.float64)
    raise ValueError(
        f"pipeline must return labels of shape (B,) or (B, {num_classes}), "
        f"got {tuple(given.shape)}; check num_classes."
    )


def _shrink(
    pipeline: Callable[..., Any], failing: Case, reading: _Reading
) -> tuple[_Outcome, dict[int, Explanation]]:
    """Return the smallest trial with the cause that most rows of the failing one have.

    Any wrong row would not do: with few samples one fault often looks like another.
    """
    outcome = _try(pipeline, failing, reading)
    explained = _explain(outcome, reading)
    if not explained:
        return outcome, explained
    likely = _likely(explained)
    accepted = {likely}
    if likely == causes.NOT_CORRECTED.remedy:
        accepted.add(causes.COVERED.remedy)  # the two are told apart in small images only
    for case in smaller_cases(failing):
        try:
            smaller = _try(pipeline, case, reading)
        except Exception:  # noqa: S112 - a batch that the pipeline refuses is no smaller example
            continue
        rows = _explain(smaller, reading)
        if rows and (likely is None or any(r.cause.remedy in accepted for r in rows.values())):
            outcome, explained = smaller, rows
            break
    if likely is None:
        accepted = {_likely(explained)}
    gaps = outcome.gaps.nan_to_num(torch.inf).tolist()
    order = sorted(explained, key=lambda n: (explained[n].cause.remedy not in accepted, -gaps[n]))
    return outcome, {n: explained[n] for n in order}


def _likely(explained: dict[int, Explanation]) -> str | None:
    """Return the remedy for most of the rows whose cause is not a vague one."""
    remedies = [row.cause.remedy for row in explained.values() if row.cause not in causes.VAGUE]
    return max(remedies, key=remedies.count, default=None)


def _explain(outcome: _Outcome, reading: _Reading) -> dict[int, Explanation]:
    """Explain each wrong row."""
    in_step = len(outcome.gaps) == outcome.case.batch_size
    return {
        row: explain_label(
            outcome.pixels[row],
            outcome.visible[row],
            outcome.weights[row],
            outcome.batch,
            own=int(outcome.batch.classes[row]) if in_step else None,
            slack=3 * colour_tolerance(outcome.case.dtype, max(1, reading.roundings)),
            renormalized=reading.renormalized,
        )
        for row in outcome.wrong.nonzero()[:, 0].tolist()
    }


def _error(
    outcome: _Outcome, explained: dict[int, Explanation], wrong: int, rows: int
) -> UntruthfulError:
    """Describe the smallest case, by the first of its explained rows."""
    head = f"Labels differ from the pixels in {wrong} of {rows} rows."
    if not explained:
        return UntruthfulError(
            f"{head}\n{unrepeatable(outcome.case)}", wrong=wrong, rows=rows, case=str(outcome.case)
        )
    row, worst = next(iter(explained.items()))
    shown = list(explained)[:8]
    case = f"{outcome.case}, row {row}"
    return UntruthfulError(
        f"{head}\nSmallest case found: {case}.\n{worst.table()}\n{because(worst.cause)}",
        wrong=wrong,
        rows=rows,
        case=f"{case}: {worst.sentence()}",
        cause=worst.cause.text,
        evidence=Evidence(
            outcome.pixels[shown],
            outcome.weights[shown],
            torch.stack([explained[n].held for n in shown]),
            to_unit(outcome.batch.images),
            outcome.batch.classes,
        ),
    )
