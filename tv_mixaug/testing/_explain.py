"""Explain why a label differs from the pixels of its image."""

from __future__ import annotations

import torch
from torch import Tensor

from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing._causes import Cause
from tv_mixaug.testing._coded import CodedBatch, colour_tolerance, pixel_weights
from tv_mixaug.testing._runner import Finding


def explain_label(
    batch: CodedBatch,
    pixels: Tensor,
    visible: Tensor,
    weights: Tensor,
    row: int,
    *,
    roundings: int,
    renormalized: bool,
) -> Finding:
    """Explain a wrong row by its pixels (C, H, W), those that are visible, and its weights (K,).

    All three are given for the whole batch; `renormalized` shares are shares of visible pixels.
    """
    own = int(batch.classes[row]) if len(pixels) == len(batch.classes) else None
    dtype, present = batch.images.dtype, batch.present
    integer = not dtype.is_floating_point
    pixels, visible, weights = pixels[row], visible[row], weights[row]
    slack = 3 * colour_tolerance(dtype, roundings=roundings)
    mixes = pixel_weights(pixels[None], batch.palette, tolerance=slack)[0][:, visible]
    total = max(1, int(visible.sum()) if renormalized else visible.numel())
    held = torch.zeros_like(weights)
    held[present] = mixes.nan_to_num(0).sum(1) / total
    unknown = float(mixes.isnan().any(0).sum()) / total

    near = 0.01 if integer else 1e-3
    if not weights.isfinite().all():
        cause = causes.NOT_FINITE
    elif _are_rounded(weights, held, dtype):
        cause = causes.ROUNDED.of(dtype=dtype)
    elif _is_smoothed(weights, present):
        cause = causes.SMOOTHED
    elif unknown > 0:
        cause = _foreign_colours(pixels)
    elif abs(float(weights.sum() - held.sum())) > near:
        cause = causes.WRONG_SUM.of(total=float(weights.sum()))
    elif not visible.all() and bool((weights > near)[held > near].all()):
        cause = causes.STILL_COUNTED
    elif named := _wrong_classes(
        held, weights, near=near, own=own, integer=integer, line=1 / min(visible.shape)
    ):
        cause = named
    elif (pixels - pixels[:, visible][:, :1, None]).abs()[:, visible].max() < 1e-7:  # a blend
        cause = causes.BLEND_TRUNCATED if integer else causes.OTHER_LAM
    else:
        cause = _wrong_area(pixels, held, weights, None if own is None else batch.colours[own])
    return Finding(
        cause, _sentence(held, weights, own, unknown), _table(held, weights, own, unknown),
        weights, held,
    )  # fmt: skip


def _sentence(held: Tensor, said: Tensor, own: int | None, unknown: float) -> str:
    pixels = _list_shares(held, own)
    if unknown > 0:
        pixels += f", and {unknown:.1%} have a colour that no mix of the samples gives"
    return f"its pixels hold {pixels}; its label says {_list_shares(said, own)}."


def _list_shares(shares: Tensor, own: int | None) -> str:
    classes = _classes(shares, own)
    words = [f"{shares[k]:.2%} of class {k}{' (its own)' if k == own else ''}" for k in classes[:6]]
    if len(classes) > len(words):
        words.append(f"some of {len(classes) - len(words)} more classes")
    return ", ".join(words) or "no class at all"


def _table(held: Tensor, said: Tensor, own: int | None, unknown: float) -> str:
    listed = list(dict.fromkeys(_classes(held, own) + _classes(said, own)))[:8]
    names = {k: f"{k} (its own)" if k == own else str(k) for k in listed}
    lines = [("class", "pixels hold", "label says")]
    lines += [(names[k], f"{held[k]:.2%}", f"{said[k]:.2%}") for k in listed]
    if unknown > 0:
        lines.append(("other colours", f"{unknown:.2%}", ""))
    return "\n".join(f"  {a:<16}{b:>12}{c:>13}".rstrip() for a, b, c in lines)


def _classes(shares: Tensor, own: int | None) -> list[int]:
    """Return the classes that have a share, the sample's own first, then the largest."""
    listed: list[int] = (~(shares.abs() <= 5e-5)).nonzero()[:, 0].tolist()
    return sorted(listed, key=lambda k: (k != own, -abs(float(shares[k])), k))


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


def _wrong_classes(
    held: Tensor, weights: Tensor, *, near: float, own: int | None, integer: bool, line: float
) -> Cause | None:
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
        return causes.IMAGES_NOT_MIXED
    gone = said & ~seen
    if int((said | seen).sum()) > 2 and (bool(said[seen].all()) or not gone.any()):
        return causes.COVERED
    return causes.OTHER_SAMPLES if gone.any() else None


def _wrong_area(pixels: Tensor, held: Tensor, weights: Tensor, colour: Tensor | None) -> Cause:
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
    if _are_whole(weights * total):
        return causes.OTHER_PIXELS
    if total <= 64 and _are_whole(weights * total * total):
        return causes.COVERED
    return causes.NOT_CORRECTED


def _are_whole(numbers: Tensor) -> bool:
    return bool((numbers - numbers.round()).abs().max() < 1e-3)
