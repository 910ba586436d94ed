"""Labels: what formats there are, how they are checked, encoded and mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tv_mixaug.engine.apply import Allocate
from tv_mixaug.engine.plan import CompactPlan, describe, take_items

NumClasses = int | Literal["multi", "regression"] | None


class PairedLabels(NamedTuple):
    """Hold mixed labels as two class indices and a weight, for many classes.

    Attributes:
        labels: (B,) class indices, or (B, K) label rows, of the own images.
        partner_labels: The same of the partners.
        lam: (B,) float32 in [0, 1], the weight of ``labels``; ``partner_labels`` has ``1 - lam``.
    """

    labels: Tensor
    partner_labels: Tensor
    lam: Tensor

    def __repr__(self) -> str:
        return describe(self)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> PairedLabels:
        """Move all three to a device.

        Args:
            device: Where they are to be.
            non_blocking: Whether pinned memory is copied without waiting.

        Returns:
            New pairs on the device; what is there already is not copied.

        Example:
            >>> pair = PairedLabels(torch.tensor([1]), torch.tensor([0]), torch.tensor([0.5]))
            >>> pair.to("meta").lam.device
            device(type='meta')
        """
        return PairedLabels(*(x.to(device=device, non_blocking=non_blocking) for x in self))


take_items(PairedLabels)


class LabelFormat(NamedTuple):
    """Describe what a transform makes of labels; transforms in one list must agree on it.

    Attributes:
        num_classes: K, ``"multi"`` for multi-hot rows, ``"regression"`` for real targets, or None
            where the labels are (B, K) already; or a mapping from label key to one of these.
        targets: ``"soft"`` for (B, K) float32, ``"pair"`` for :class:`PairedLabels`.
        smoothing: Share of each own label that is spread over all classes, in [0, 1).
        ignore_index: The class index of samples without a label, or None.
    """

    num_classes: Any
    targets: str
    smoothing: float
    ignore_index: int | None


def check_one_format(formats: Sequence[tuple[str, LabelFormat]]) -> None:
    """Raise unless the named transforms make the same of labels."""
    for name, form in formats:
        first_name, first = formats[0]
        for field, wanted, got in zip(form._fields, first, form, strict=True):
            if got != wanted:
                raise ValueError(
                    f"transforms must agree on the label format, got {field}={wanted!r} of "
                    f"{first_name} and {field}={got!r} of {name}."
                )


def are_indices(labels: Any, kind: NumClasses) -> bool:
    """Tell class indices: (B,), or the (B, 1) integers that FFCV and DALI give."""
    if kind in ("multi", "regression") or not isinstance(labels, Tensor):
        return False
    is_float = labels.is_floating_point() or labels.dtype == torch.bool
    return labels.ndim == 1 or (labels.shape[1:] == (1,) and not is_float)


def check_labels(
    labels: Any, kind: NumClasses, form: LabelFormat, where: str, *, need_classes: bool = True
) -> None:
    """Raise unless labels are of a kind, dtype and shape that can be encoded; see check_values.

    Without ``need_classes``, class indices of an unknown number of classes are let through.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels at {where} must be a tensor, got {type(labels).__name__}.")
    if labels.is_complex():
        raise TypeError(f"labels at {where} must be real, got {labels.dtype}.")
    if kind == "regression":
        return
    if are_indices(labels, kind):
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(
                f"labels at {where} of shape (B,) must be integer class indices, got "
                f"{labels.dtype}; float targets need num_classes='regression'."
            )
        if kind is None and form.targets == "soft" and need_classes:
            raise ValueError(
                f"num_classes must be given, since the labels at {where} are class indices; "
                "got None."
            )
    elif labels.ndim != 2:
        raise ValueError(
            f"labels at {where} must be of shape (B,) or (B, K), got {tuple(labels.shape)}."
        )
    elif isinstance(kind, int) and labels.shape[1] != kind:
        raise ValueError(
            f"labels at {where} must have num_classes = {kind} columns, got {labels.shape[1]}."
        )


def check_values(
    labels: Tensor, kind: NumClasses, form: LabelFormat, where: str, *, indices: bool
) -> None:
    """Raise unless class indices are in range, and integer rows hold 0 and 1.

    The values of labels on a GPU are not looked at, since that would make the GPU wait: an index
    out of range there gives a row of zeros.
    """
    count = kind if indices else 2
    plain = labels.is_floating_point() or labels.dtype == torch.bool or kind == "regression"
    if plain or not isinstance(count, int) or not labels.is_cpu or not labels.numel():
        return
    # Of so few numbers Python finds the ends faster than torch or NumPy do.
    values = labels.tolist() if labels.ndim == 1 else list(map(int, torch.aminmax(labels.long())))
    if min(values) >= 0 and max(values) < count:
        return
    found = labels.numpy()
    wrong = (found < 0) | (found >= count)
    if indices and form.ignore_index is not None:
        wrong &= found != form.ignore_index
    for place in np.argwhere(wrong)[:1].tolist():
        limits = f"[0, {count})" if indices else "0 or 1, or else floating point"
        raise ValueError(
            f"labels at {where} must be in {limits}, got {found[tuple(place)]} at position "
            f"{place[0]}."
        )


def encode_labels(labels: Tensor, kind: NumClasses, form: LabelFormat) -> Tensor:
    """Return checked labels as float32 rows, smoothed; a new tensor.

    Smoothing takes its share of a row's own sum, so that a row without a label stays empty and a
    multi-hot row keeps its sum.
    """
    if are_indices(labels, kind):
        classes = torch.arange(int(kind or 0), device=labels.device)
        rows = (labels.reshape(-1, 1).to(torch.int64) == classes).to(torch.float32)
    else:
        rows = labels.to(torch.float32, copy=True)
    return rows if kind == "regression" else _smooth(rows, form.smoothing)


def mix_targets(
    labels: Tensor,
    recipe: CompactPlan,
    kind: NumClasses,
    form: LabelFormat,
    *,
    indices: bool,
    allocate: Allocate | None = None,
) -> Tensor | PairedLabels:
    """Mix checked labels by a plan: the one label rule of all transforms.

    Args:
        labels: (B,) or (B, 1) class indices, (B, K) rows, or regression targets.
        recipe: The plan.
        kind: What they are encoded to.
        form: The label format.
        indices: Whether they are class indices.
        allocate: Makes the memory of what is written from class indices.

    Returns:
        (B, K) float32 rows, (B, ...) float32 regression targets, or pairs as ``form`` says.
    """
    if indices:
        if kind is None and form.targets == "soft":
            return labels  # only what mixes nothing comes here: it leaves such labels alone
        labels = labels if labels.ndim == 1 else labels[:, 0]
        if form.targets == "soft" and labels.is_cpu and recipe.unknown is None:
            return _write_rows(labels, recipe, int(kind or 0), form, allocate)
    if form.targets == "pair" and kind != "regression":
        moved = recipe.on(labels.device)
        return PairedLabels(labels.clone(), labels[moved.partner], moved.lam.clone())
    rows = encode_labels(labels, kind, form)
    if not recipe.mixes:
        return rows
    if recipe.shift is None:
        other = rows.index_select(0, recipe.on(rows.device).partner)
    else:
        other = rows.roll(recipe.shift, 0)
    # Not lerp: one-hot rows get the very numbers that are written for their indices.
    if isinstance(recipe.lam, float) and recipe.unknown is None:
        return rows.mul_(recipe.lam).add_(other, alpha=1 - recipe.lam)
    lam = recipe.on(rows.device).lam.view(-1, *[1] * (rows.ndim - 1))
    return rows.mul_(lam).addcmul_(other, 1 - lam)


def _write_rows(
    labels: Tensor,
    recipe: CompactPlan,
    count: int,
    form: LabelFormat,
    allocate: Allocate | None,
) -> Tensor:
    """Write the two weights of each row into zeros, instead of mixing tables of one-hot rows."""
    index, size = labels.numpy(), (recipe.count, count)
    if allocate is None:
        out = torch.zeros(size, dtype=torch.float32, device="cpu")
    else:
        out = allocate(torch.Size(size), torch.float32).zero_()
    if not count:
        return out
    if index.dtype != np.int64:
        index = index.astype(np.int64)
    own, rest = recipe.lam, 1 - recipe.lam
    if form.ignore_index is not None:
        known = (index >= 0) & (index < count)
        index, own, rest = index * known, own * known, rest * recipe.of_partners(known)
    # One axis is indexed in half the time of two.
    table, rows = out.numpy().reshape(-1), np.arange(0, recipe.count * count, count)
    table[rows + index] = own
    if recipe.mixes:
        table[rows + recipe.of_partners(index)] += rest
    return _smooth(out, form.smoothing)


def _smooth(rows: Tensor, share: float) -> Tensor:
    """Spread a share of each row's sum over all classes, in place."""
    if share:
        spread = rows.sum(1, keepdim=True) * (share / rows.shape[1])
        rows.mul_(1 - share).add_(spread)
    return rows


def weights_of(
    labels: Any, count: int, num_classes: int | None = None, *, name: str = "labels"
) -> tuple[Tensor, Tensor]:
    """Return which classes a label of any format names, and with which weights.

    A class may be named twice, by an own label and a partner's; its weights then add up. A negative
    index is no label.

    Args:
        labels: (B,) class indices, (B, K) weights, or a triple of two of these and lam (B,), the
            weight of the first, as :class:`PairedLabels` are.
        count: B.
        num_classes: K of (B, K) weights; by default any.
        name: The argument's name, for the errors.

    Returns:
        (B, N) int64 class indices >= 0, and (B, N) weights, float32 or wider; N is 1 for indices, K
        for weights, and the sum of both for a triple.

    Raises:
        TypeError: If the labels are no tensors.
        ValueError: If their shape or dtype is wrong.

    Example:
        >>> weights_of(torch.tensor([2, -1]), 2)
        (tensor([[2],
                [0]]), tensor([[1.],
                [0.]]))
    """
    if isinstance(labels, tuple) and len(labels) == 3:
        own, own_weights = weights_of(labels[0], count, num_classes, name=name)
        other, other_weights = weights_of(labels[1], count, num_classes, name=name)
        lam = torch.as_tensor(labels[2], device=own.device)
        if lam.shape != (count,):
            raise ValueError(f"{name} must have a lam of shape ({count},), got {tuple(lam.shape)}.")
        lam = lam.to(torch.promote_types(lam.dtype, torch.float32))[:, None]
        weights = torch.cat([lam * own_weights, (1 - lam) * other_weights], 1)
        return torch.cat([own, other], 1), weights
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a tensor or PairedLabels, got {type(labels).__name__}.")
    if labels.ndim == 0 or len(labels) != count:
        raise ValueError(
            f"{name} must have one entry for each of {count} samples, got {tuple(labels.shape)}."
        )
    if labels.ndim == 1 and not (labels.is_floating_point() or labels.is_complex()):
        index = labels.to(torch.int64)[:, None]
        return index.clamp(min=0), (index >= 0).to(torch.float32)
    if labels.ndim != 2 or num_classes not in (None, labels.shape[1]) or labels.is_complex():
        columns = "K" if num_classes is None else num_classes
        raise ValueError(
            f"{name} must be (B,) class indices or (B, {columns}) weights, got "
            f"{tuple(labels.shape)} {labels.dtype}."
        )
    index = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    return index, labels.to(torch.promote_types(labels.dtype, torch.float32))
