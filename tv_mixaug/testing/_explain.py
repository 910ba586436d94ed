"""Say in words why a label is not what its pixels hold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing._causes import Cause
from tv_mixaug.testing._coded import CodedBatch, decode


class Explanation(NamedTuple):
    """One row: what is there, what is said, why they may differ."""

    held: Tensor  # (K,) float64
    said: Tensor  # (K,) float64
    own: int | None
    unknown: float  # the share of pixels whose colour no mix of the samples gives
    cause: Cause

    def sentence(self) -> str:
        """Write it in one line."""
        there = list_shares(self.held, self.own)
        if self.unknown > 0:
            there += f", and {self.unknown:.1%} have a colour that no mix of the samples gives"
        return f"its pixels hold {there}; its label says {list_shares(self.said, self.own)}."

    def table(self) -> str:
        """Write it as a table, a line for each class."""
        lines = [("class", "pixels hold", "label says")]
        listed = _listed(self.held, self.own) + _listed(self.said, self.own)
        for k in list(dict.fromkeys(listed))[:8]:
            name = f"{k}{' (its own)' if k == self.own else ''}"
            lines.append((name, f"{self.held[k]:.2%}", f"{self.said[k]:.2%}"))
        if self.unknown > 0:
            lines.append(("nobody's colour", f"{self.unknown:.2%}", ""))
        return "\n".join(f"  {a:<16}{b:>12}{c:>13}".rstrip() for a, b, c in lines)


def explain_label(
    pixels: Tensor,
    visible: Tensor,
    weights: Tensor,
    batch: CodedBatch,
    *,
    own: int | None,
    slack: float,
    renormalized: bool,
) -> Explanation:
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
        The explanation.
    """
    present = batch.present
    colours, counts = count_colours(pixels[:, visible])
    mixes = decode(colours, batch.colours[present], tolerance=slack)
    total = max(1, int(visible.sum()) if renormalized else visible.numel())
    held = torch.zeros_like(weights)
    held[present] = (mixes.nan_to_num(0) * counts[:, None]).sum(0) / total
    unknown = float(counts[mixes[:, 0].isnan()].sum()) / total

    dtype = batch.images.dtype
    integer = not dtype.is_floating_point
    near = 0.01 if integer else 1e-3
    if not weights.isfinite().all():
        cause = causes.NOT_FINITE
    elif _are_rounded(weights, held, batch):
        cause = causes.ROUNDED.of(dtype=dtype)
    elif _is_smoothed(weights, present):
        cause = causes.SMOOTHED
    elif unknown > 0:
        cause = _foreign_colours(pixels)
    elif abs(float(weights.sum() - held.sum())) > near:
        cause = causes.WRONG_SUM.of(total=float(weights.sum()))
    elif not visible.all() and bool((weights > near)[held > near].all()):
        cause = causes.STILL_COUNTED
    elif named := _wrong_weights(
        held, weights, near=near, own=own, integer=integer, line=1 / min(visible.shape)
    ):
        cause = named
    elif len(colours) == 1:
        cause = causes.BLEND_TRUNCATED if integer else causes.OTHER_LAM
    else:
        cause = _wrong_area(pixels, held, weights, batch, own)
    return Explanation(held, weights, own, unknown, cause)


def count_colours(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct colours (U, C) of pixels (C, N), and how many pixels have each."""
    colours, counts = torch.unique((pixels * 1e7).round(), dim=1, return_counts=True)
    return colours.mT / 1e7, counts.to(torch.float64)


def list_shares(shares: Tensor, own: int | None) -> str:
    """Write (K,) shares as words, the own class first, then the largest six."""
    listed = _listed(shares, own)
    words = [f"{shares[k]:.2%} of class {k}{' (its own)' if k == own else ''}" for k in listed[:6]]
    if len(listed) > len(words):
        words.append(f"some of {len(listed) - len(words)} more classes")
    return ", ".join(words) or "no class at all"


def _listed(shares: Tensor, own: int | None) -> list[int]:
    """Return the classes that have a share, the own one first, then the largest."""
    listed: list[int] = (~(shares.abs() <= 5e-5)).nonzero()[:, 0].tolist()
    return sorted(listed, key=lambda k: (k != own, -abs(float(shares[k])), k))


def _are_rounded(weights: Tensor, held: Tensor, batch: CodedBatch) -> bool:
    """Return whether the label names the classes of the pixels as the images' dtype has them."""
    dtype = batch.images.dtype
    if not dtype.is_floating_point:
        return False
    numbers = torch.arange(len(weights), dtype=torch.float64)
    rounded = numbers.to(dtype).to(torch.int64).clamp(max=len(weights) - 1)
    said = set((weights > 1e-3).nonzero()[:, 0].tolist())
    seen = (held > 1e-3).nonzero()[:, 0]
    return not said <= set(seen.tolist()) and said <= set(rounded[seen].tolist())


def _is_smoothed(weights: Tensor, present: Tensor) -> bool:
    """Return whether all classes that are not in the batch have one weight that is not 0."""
    absent = torch.ones_like(weights, dtype=torch.bool)
    absent[present] = False
    rest = weights[absent]
    return len(rest) > 1 and bool(rest[0].abs() > 1e-6) and torch.allclose(rest, rest[0])


def _foreign_colours(pixels: Tensor) -> Cause:
    if not pixels.any():
        return causes.BLACK
    if pixels.min() < -0.01 or pixels.max() > 1.01:
        return causes.RESCALED
    return causes.FOREIGN


def _wrong_weights(
    held: Tensor, weights: Tensor, *, near: float, own: int | None, integer: bool, line: float
) -> Cause | None:
    """Name the causes that show in which classes have weight; a line is a row of pixels."""
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
        return causes.IMAGES_NOT_MIXED
    gone = said & ~seen
    if int((said | seen).sum()) > 2 and (bool(said[seen].all()) or not gone.any()):
        return causes.COVERED
    return causes.OTHER_SAMPLES if gone.any() else None


def _wrong_area(
    pixels: Tensor, held: Tensor, weights: Tensor, batch: CodedBatch, own: int | None
) -> Cause:
    """Explain a label that names the right classes of a cut with the wrong weights."""
    total = pixels[0].numel()
    if own is not None:
        pasted = (pixels - batch.colours[own][:, None, None]).abs().amax(0) > 1e-3
        ys, xs = pasted.nonzero(as_tuple=True)
        height, width = int(ys.max() - ys.min()) + 1, int(xs.max() - xs.min()) + 1
        off_by = float((weights - held).abs().max()) * total
        for side, line in ((height, "column"), (width, "row")):
            if abs(off_by - side) < 1e-3:
                return causes.ONE_LINE.of(height=height, width=width, line=line)
    if _are_whole(weights * total):
        return causes.OTHER_PIXELS
    if total <= 64 and _are_whole(weights * total * total):
        return causes.COVERED
    return causes.NOT_CORRECTED


def _are_whole(numbers: Tensor) -> bool:
    return bool((numbers - numbers.round()).abs().max() < 1e-3)
