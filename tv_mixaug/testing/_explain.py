"""Say in words why a label is not what its pixels hold."""

from __future__ import annotations

import torch
from torch import Tensor

from tv_mixaug.testing._coded import CodedBatch, decode


def explain_label(
    pixels: Tensor,
    visible: Tensor,
    weights: Tensor,
    batch: CodedBatch,
    *,
    own: int | None,
    slack: float,
    renormalized: bool,
) -> str:
    """Describe one row: what its pixels hold, what its label says, and the probable cause.

    Args:
        pixels: (C, H, W) float64 in [0, 1].
        visible: (H, W) bool, False where a pixel is erased.
        weights: (K,) float64, the label.
        batch: what was fed.
        own: the class that the row's own sample had, None if rows and samples are not in step.
        slack: how far a colour may be from a mix of the batch's colours to be taken for it.
        renormalized: shares are shares of the visible pixels.

    Returns:
        Three sentences.
    """
    present = batch.present
    colours, counts = count_colours(pixels[:, visible])
    mixes = decode(colours, batch.colours[present], tolerance=slack)
    total = max(1, int(visible.sum()) if renormalized else visible.numel())
    held = torch.zeros_like(weights)
    held[present] = (mixes.nan_to_num(0) * counts[:, None]).sum(0) / total
    unknown = float(counts[mixes[:, 0].isnan()].sum()) / total

    there = list_shares(held, own)
    if unknown > 0:
        there += f", and {unknown:.1%} have a colour that no mix of the samples gives"
    integer = not batch.images.dtype.is_floating_point
    near = 0.01 if integer else 1e-3
    if not weights.isfinite().all():
        cause = "the label holds NaN or infinity."
    elif _is_smoothed(weights, present):
        cause = "labels are smoothed otherwise than stated; pass `label_smoothing=`."
    elif unknown > 0:
        cause = _foreign_colours(pixels)
    elif abs(float(weights.sum() - held.sum())) > near:
        cause = f"the label's weights sum to {float(weights.sum()):.4g}."
    elif not visible.all() and bool((weights > near)[held > near].all()):
        cause = "the label still counts pixels that were erased."
    elif named := _wrong_weights(held, weights, near=near, own=own, integer=integer):
        cause = named
    elif len(colours) == 1:
        cause = _wrong_blend(integer)
    else:
        cause = _wrong_area(pixels, held, weights, batch, own)
    said = list_shares(weights, own)
    return f"Its pixels hold {there}; its label says {said}. Probable cause: {cause}"


def count_colours(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct colours (U, C) of pixels (C, N), and how many pixels have each."""
    colours, counts = torch.unique((pixels * 1e7).round(), dim=1, return_counts=True)
    return colours.mT / 1e7, counts.to(torch.float64)


def list_shares(shares: Tensor, own: int | None) -> str:
    """Write (K,) shares as words, the own class first, then the largest six."""
    listed = (~(shares.abs() <= 5e-5)).nonzero()[:, 0].tolist()
    listed.sort(key=lambda k: (k != own, -abs(float(shares[k])), k))
    words = [f"{shares[k]:.2%} of class {k}{' (its own)' if k == own else ''}" for k in listed[:6]]
    if len(listed) > len(words):
        words.append(f"some of {len(listed) - len(words)} more classes")
    return ", ".join(words) or "no class at all"


def _is_smoothed(weights: Tensor, present: Tensor) -> bool:
    """Return whether all classes that are not in the batch have one weight that is not 0."""
    absent = torch.ones_like(weights, dtype=torch.bool)
    absent[present] = False
    rest = weights[absent]
    return len(rest) > 1 and bool(rest[0].abs() > 1e-6) and torch.allclose(rest, rest[0])


def _foreign_colours(pixels: Tensor) -> str:
    if not pixels.any():
        return "the images are black: values in [0, 1] were truncated to integers."
    if pixels.min() < -0.01 or pixels.max() > 1.01:
        return "the images were normalised or rescaled; pass `mean=` and `std=`."
    return (
        "pixels were erased or filled without being promised (`erased=`), or wrapped around or "
        "truncated as integers, or normalised (`mean=`, `std=`)."
    )


def _wrong_weights(
    held: Tensor, weights: Tensor, *, near: float, own: int | None, integer: bool
) -> str | None:
    """Name the causes that show in which classes have weight."""
    seen, said = held > near, weights > near
    mixed = int(seen.sum()) > 1
    hard = bool(((weights < near) | (weights > 1 - near)).all())
    pair = seen.nonzero()[:, 0]
    if len(pair) == 2 and torch.allclose(weights[pair], held[pair].flip(0), atol=near):
        return "the weights are swapped: lam was given to the wrong one of the two."
    if mixed and hard and own is not None and said[own]:
        return "the images were mixed but the labels were not."
    if mixed and hard and integer:
        return "truncated integers: lam was cast to the images' integer type."
    if not mixed and int(said.sum()) > 1:
        return "the labels were mixed but the images were not."
    if (said & ~seen).any():
        return "labels and images were paired with different samples."
    if len(pair) > 2:
        return (
            "a later operation covered part of an earlier mix, and the labels were mixed as if "
            "it had not."
        )
    return None


def _wrong_blend(integer: bool) -> str:
    if integer:
        return "truncated integers: the blend was cut off, or lam was, instead of rounded."
    return "the pixels were blended with another lam than the labels."


def _wrong_area(
    pixels: Tensor, held: Tensor, weights: Tensor, batch: CodedBatch, own: int | None
) -> str:
    """Explain a label that names the right classes of a cut with the wrong weights."""
    total = pixels[0].numel()
    if own is not None:
        pasted = (pixels - batch.colours[own][:, None, None]).abs().amax(0) > 1e-3
        ys, xs = pasted.nonzero(as_tuple=True)
        height, width = int(ys.max() - ys.min()) + 1, int(xs.max() - xs.min()) + 1
        off_by = float((weights - held).abs().max()) * total
        for side, line in ((height, "column"), (width, "row")):
            if abs(off_by - side) < 1e-3:
                return f"the area of the {height} × {width} box is off by one {line} of pixels."
    if _are_whole(weights * total):
        return "other pixels were counted than were pasted, or a later operation covered some."
    if total <= 64 and _are_whole(weights * total * total):
        return (
            "a later operation covered part of an earlier mix, and the labels were mixed as if "
            "it had not."
        )
    return (
        "the area was not corrected: the label has the lam that was drawn, not the share of "
        "pixels that was pasted."
    )


def _are_whole(numbers: Tensor) -> bool:
    return bool((numbers - numbers.round()).abs().max() < 1e-3)
