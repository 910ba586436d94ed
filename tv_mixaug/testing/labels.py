"""Compare labels with pixels, for any pipeline.

Images of class k are filled with colour k. However images are cut, blended, flipped or cropped, the
mean colour of an image is the mean of the class colours weighted by the share of each class in its
pixels. A truthful label therefore satisfies `mean colour = label @ colours`: one equation for each
channel of each sample.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tv_mixaug._validation import check_choice, check_integer
from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing._coded import (
    Case,
    CodedBatch,
    coded_batch,
    colour_tolerance,
    per_channel,
    pixel_weights,
    to_unit,
)
from tv_mixaug.testing._runner import Finding, Pipeline, Trial, TruthReport, all_cases, compare


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
    """Check that each label equals the shares of the classes in the pixels of its image.

    The pipeline may come from any library. Every call is seeded (torch, numpy and random; their
    states are restored). A failure is repeated on smaller batches and images, and the smallest one
    with the same cause is explained. Exceptions of the pipeline are passed on, with a note about
    the batch that caused them.

    Args:
        pipeline: `(images, labels) -> (images, labels)`, images (B, C, H, W). The labels it
            returns are (B,) class indices, (B, K) weights, or a triple
            `(labels, partner_labels, lam)` with lam the weight of the first, which may also be
            flat: `(images, labels, partner_labels, lam)`.
        num_classes: number of classes K, at least 2.
        collate: whether the pipeline is a collate function of a list of `(image, label)`.
        label_format: labels that the pipeline takes: "index" (B,) int64 or "soft" (B, K) float32.
        label_smoothing: smoothing that the pipeline applies, in [0, 1).
        mean: per-channel mean that the pipeline subtracts last, in [0, 1] units; needs `std`.
        std: per-channel standard deviation that the pipeline divides by last; needs `mean`.
        erased: value of erased pixels in the pipeline's output (a number, or one per channel);
            they belong to no sample. With "noise" every pixel that has the colour of no sample
            counts as erased, for pipelines that cut and never blend. None: no pixel is erased.
        renormalized: where pixels are erased, labels are shares of the visible pixels and sum to
            1; False: labels are shares of all pixels and sum to the visible share.
        roundings: how often the pipeline rounds integer images; each costs half a grey level.
        tolerance: largest allowed difference of mean colours in [0, 1] units. None: 1e-5, the
            precision of a half-width dtype of images or labels, or `roundings` half grey levels.
        batch_sizes: batch sizes to try; leave out those that the pipeline refuses.
        sizes: (height, width) of the images, in pixels.
        dtypes: dtypes of the images; float images are in [0, 1].
        channels: number of channels; more channels make the explanation of a failure surer.
        draws: calls per batch size, size and dtype.
        seed: seed of the first call; the n-th call has `seed + n`.

    Returns:
        The number of rows compared, and how many of their labels were mixed.

    Raises:
        UntruthfulError: labels and pixels disagree; an `AssertionError` with the counts.

    Example:
        >>> from torchvision.transforms import v2
        >>> report = assert_labels_match_pixels(v2.CutMix(num_classes=10), num_classes=10)
        >>> report.rows
        960
    """
    __tracebackhide__ = True
    run = Pipeline(pipeline, collate)
    check_integer("num_classes", num_classes, 2)
    check_integer("channels", channels, 1)
    check_integer("roundings", roundings, 0)
    check_choice("label_format", label_format, ("index", "soft"))
    if (mean is None) != (std is None):
        raise ValueError("mean and std must be given together, got only one of them.")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}.")
    means, stds = per_channel("mean", mean, channels), per_channel("std", std, channels)
    noise = isinstance(erased, str) and bool(check_choice("erased", erased, ("noise",)))
    fills = None if isinstance(erased, str) else per_channel("erased", erased, channels)

    def attempt(case: Case) -> Trial:
        fill = fills
        if fills is not None:
            integer = not case.dtype.is_floating_point and means is None
            fill = to_unit(fills / (255 if integer else 1), means, stds)
        batch = coded_batch(case, num_classes, channels, avoid=fill)
        labels: Any = batch.classes.clone()
        if label_format == "soft":
            labels = F.one_hot(labels, num_classes).to(torch.float32)
        images, labels = run(batch.images.clone(), labels, case)

        pixels = to_unit(images, means, stds)
        weights = _read_weights(labels, num_classes, label_smoothing)
        if len(weights) != len(pixels):
            raise ValueError(f"pipeline returned {len(pixels)} images but {len(weights)} labels.")
        parts = labels if isinstance(labels, (tuple, list)) else [labels]
        widths = [n.dtype for n in parts if isinstance(n, Tensor) and n.is_floating_point()]
        floor = 1e-3 if case.dtype.is_floating_point else 0.01
        near = max([floor, *map(colour_tolerance, widths)])
        allowed = tolerance
        if allowed is None:
            allowed = colour_tolerance(case.dtype, images.dtype, *widths, roundings=roundings)
        visible = torch.ones_like(pixels[:, 0], dtype=torch.bool)
        if fill is not None:
            visible = ((pixels - fill).abs() > allowed).any(dim=1)
        elif noise:
            palette = batch.colours[batch.present][:, None, :, None, None]
            visible = (pixels - palette).abs().amax(2).amin(0) <= allowed
        gaps = _gaps(pixels, visible, weights, batch.colours, renormalized=renormalized)
        slack = 3 * colour_tolerance(case.dtype, roundings=max(1, roundings))
        explain = partial(
            _explain_label, batch, pixels, visible, weights, renormalized, slack, near
        )
        mixed = int((weights.amax(dim=1) < 1 - 1e-6).sum())
        # Not `gaps > allowed`: NaN is wrong too.
        return Trial(pixels, gaps, ~(gaps <= allowed), mixed, explain)

    cases = all_cases(batch_sizes, sizes, dtypes, draws, seed)
    return compare(attempt, cases, "Labels differ from the pixels")


def _gaps(
    pixels: Tensor, visible: Tensor, weights: Tensor, colours: Tensor, *, renormalized: bool
) -> Tensor:
    """Return (B,) distances between the mean colour of each label and that of its image."""
    seen = visible.flatten(1).sum(1)
    total = seen.clamp(min=1) if renormalized else torch.full_like(seen, visible[0].numel())
    held = (pixels * visible[:, None]).flatten(2).sum(2) / total[:, None]
    colour_gaps = (weights @ colours - held).abs().amax(1)
    # The sum of the weights is one more channel: colours alone would miss a constant.
    gaps = torch.maximum(colour_gaps, (weights.sum(1) - seen / total).abs())
    if renormalized:
        gaps = gaps.where(seen > 0, 0.0)  # a wholly erased image says nothing about its label
    return gaps


def _read_weights(labels: Any, num_classes: int, smoothing: float) -> Tensor:
    """Return (B, K) float64 weights of index, soft or pair labels, smoothing undone."""
    if isinstance(labels, (tuple, list)) and len(labels) == 3:
        original, partner = (_dense(part, num_classes) for part in labels[:2])
        lam = torch.as_tensor(labels[2], dtype=torch.float64).cpu().reshape(-1, 1)
        mixed: Tensor = lam * original + (1 - lam) * partner
        return mixed
    if not isinstance(labels, Tensor):
        raise TypeError(
            "pipeline must return a label tensor or (labels, partner_labels, lam) second, "
            f"got {type(labels).__name__}; wrap it to do so."
        )
    weights = _dense(labels, num_classes)
    if labels.ndim == 2:
        weights = (weights - smoothing / num_classes) / (1 - smoothing)
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


def _explain_label(
    batch: CodedBatch, pixels: Tensor, visible: Tensor, weights: Tensor, renormalized: bool,
    slack: float, near: float, row: int,
) -> Finding:  # fmt: skip
    """Explain a wrong row of a batch, read with these tolerances of colours and of weights."""
    own = int(batch.classes[row]) if len(pixels) == len(batch.classes) else None
    dtype, present = batch.images.dtype, batch.present
    integer = not dtype.is_floating_point
    pixels, visible, weights = pixels[row], visible[row], weights[row]
    mixes = pixel_weights(pixels[None], batch.colours[present], slack)[0][:, visible]
    total = max(1, int(visible.sum()) if renormalized else visible.numel())
    held = torch.zeros_like(weights)
    held[present] = mixes.nan_to_num(0).sum(1) / total
    unknown = float(mixes.isnan().any(0).sum()) / total

    if not weights.isfinite().all():
        cause = causes.NOT_FINITE
    elif _are_rounded(weights, held, dtype):
        cause = causes.ROUNDED.of(dtype=dtype)
    elif _is_smoothed(weights, present):
        cause = causes.SMOOTHED
    elif unknown > 0:
        rescaled = pixels.min() < -0.01 or pixels.max() > 1.01
        foreign = causes.RESCALED if rescaled else causes.FOREIGN
        cause = foreign if pixels.any() else causes.BLACK
    elif abs(float(weights.sum() - held.sum())) > near:
        cause = causes.WRONG_SUM.of(total=float(weights.sum()))
    elif not visible.all() and bool((weights > near)[held > near].all()):
        cause = causes.STILL_COUNTED
    elif named := _wrong_classes(held, weights, near, own, integer, 1 / min(visible.shape)):
        cause = named
    elif (pixels - pixels[:, visible][:, :1, None]).abs()[:, visible].max() < 1e-7:  # a blend
        cause = causes.BLEND_TRUNCATED if integer else causes.OTHER_LAM
    else:
        cause = _wrong_area(pixels, held, weights, None if own is None else batch.colours[own])
    classes = ((held > 5e-5) | ~(weights.abs() <= 5e-5)).nonzero()[:, 0].tolist()
    classes.sort(key=lambda k: (k != own, -float(held[k]), -float(weights[k].abs())))
    rows = [
        (f"{k} (its own)" if k == own else str(k), f"{held[k]:.2%}", f"{weights[k]:.2%}")
        for k in classes[:8]
    ]
    words = [f"class {k}: pixels hold {there}, label says {said}" for k, there, said in rows]
    if unknown > 0:
        rows.append(("other colours", f"{unknown:.2%}", ""))
        words.append(f"{unknown:.2%} have other colours")
    rows.insert(0, ("class", "pixels hold", "label says"))
    table = [f"  {name:<16}{there:>12}{said:>13}".rstrip() for name, there, said in rows]
    return Finding(cause, f"{'; '.join(words)}.", "\n".join(table), weights, held)


def _are_rounded(weights: Tensor, held: Tensor, dtype: torch.dtype) -> bool:
    """Whether the label has the classes of the pixels as the images' dtype represents them."""
    if not dtype.is_floating_point:
        return False
    numbers = torch.arange(len(weights), dtype=torch.float64)
    rounded = numbers.to(dtype).to(torch.int64).clamp(max=len(weights) - 1)
    said = set((weights > 1e-3).nonzero()[:, 0].tolist())
    seen = (held > 1e-3).nonzero()[:, 0]
    return not said <= set(seen.tolist()) and said <= set(rounded[seen].tolist())


def _is_smoothed(weights: Tensor, present: Tensor) -> bool:
    """Whether all classes that are not in the batch have the same nonzero weight."""
    rest = weights[~torch.isin(torch.arange(len(weights)), present)]
    return len(rest) > 1 and bool(rest[0].abs() > 1e-6) and torch.allclose(rest, rest[0])


def _wrong_classes(
    held: Tensor, weights: Tensor, near: float, own: int | None, integer: bool, line: float
) -> causes.Cause | None:
    """Find causes that show in which classes have weight; `line` is the share of a pixel row."""
    seen, said = held > near, weights > near
    mixed = int(seen.sum()) > 1
    hard = bool(((weights < near) | (weights > 1 - near)).all())
    pair = seen.nonzero()[:, 0]
    if len(pair) == 2 and torch.allclose(weights[pair], held[pair].flip(0), atol=near):
        return causes.SWAPPED
    if mixed and hard and own is not None and said[own]:
        return causes.LABELS_NOT_MIXED
    # A box that is off by a line or two may leave no weight either.
    if mixed and hard and (said & seen).any() and (held - weights).abs().max() > 2.5 * line:
        return causes.LAM_TRUNCATED if integer else causes.PARTNER_ALONE
    if not mixed and int(said.sum()) > 1:
        replaced = own is not None and not seen[own] and bool(said[own] and said[seen].all())
        return causes.OTHER_LAM if replaced else causes.IMAGES_NOT_MIXED
    gone = said & ~seen
    if int((said | seen).sum()) > 2 and (bool(said[seen].all()) or not gone.any()):
        return causes.COVERED
    return causes.OTHER_SAMPLES if gone.any() else None


def _wrong_area(
    pixels: Tensor, held: Tensor, weights: Tensor, colour: Tensor | None
) -> causes.Cause:
    """Explain wrong weights of the right classes of a cut; `colour` is that of its own sample."""
    total = pixels[0].numel()
    if colour is not None:
        pasted = (pixels - colour[:, None, None]).abs().amax(0) > 1e-3
        ys, xs = pasted.nonzero(as_tuple=True)
        height, width = int(ys.max() - ys.min()) + 1, int(xs.max() - xs.min()) + 1
        off_by = float((weights - held).abs().max()) * total
        for side, line in ((height, "column"), (width, "row")):
            if abs(off_by - side) < 1e-3:
                return causes.ONE_LINE.of(height=height, width=width, line=line)
    pixel_counts = [weights * total, weights * total**2]
    once, twice = ((counts - counts.round()).abs().max() < 1e-3 for counts in pixel_counts)
    if once:
        return causes.OTHER_PIXELS
    return causes.COVERED if twice and total <= 64 else causes.NOT_CORRECTED
