"""Labels: what formats there are, how they are checked, encoded and mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tv_mixaug.functional import mix_labels
from tv_mixaug.plans import Plan

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
    """Raise unless the named transforms make the same of labels.

    Raises:
        ValueError: If they do not.
    """
    for name, form in formats:
        first_name, first = formats[0]
        for field, wanted, got in zip(form._fields, first, form, strict=True):
            if got != wanted:
                raise ValueError(
                    f"transforms must agree on the label format, got {field}={wanted!r} of "
                    f"{first_name} and {field}={got!r} of {name}."
                )


def check_labels(
    labels: Any, kind: NumClasses, form: LabelFormat, where: str, *, need_classes: bool = True
) -> None:
    """Raise unless ``labels`` can be encoded; nothing is changed.

    Without ``need_classes``, class indices of an unknown number of classes are let through.

    The values of labels on a GPU are not looked at, since that would make the GPU wait: an index
    out of range there gives a row of zeros.

    Raises:
        TypeError: If the labels are of the wrong kind or dtype.
        ValueError: If their shape or a value is wrong.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels at {where} must be a tensor, got {type(labels).__name__}.")
    if labels.is_complex():
        raise TypeError(f"labels at {where} must be real, got {labels.dtype}.")
    if kind == "regression":
        return
    if labels.ndim == 1 and kind != "multi":
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
        if isinstance(kind, int) and labels.is_cpu:
            _check_range(labels, kind, form.ignore_index, where)
    elif labels.ndim != 2:
        raise ValueError(
            f"labels at {where} must be of shape (B,) or (B, K), got {tuple(labels.shape)}."
        )
    elif isinstance(kind, int) and labels.shape[1] != kind:
        raise ValueError(
            f"labels at {where} must have num_classes = {kind} columns, got {labels.shape[1]}."
        )


def encode_labels(labels: Tensor, kind: NumClasses, form: LabelFormat) -> Tensor:
    """Return checked labels as float32 rows, smoothed; a new tensor.

    Smoothing takes its share of a row's own sum, so that a row without a label stays empty and a
    multi-hot row keeps its sum.
    """
    if kind == "regression":
        return labels.to(torch.float32, copy=True)
    if labels.ndim == 1:
        count = int(kind)  # type: ignore[arg-type]
        index = labels.to(torch.int64)[:, None]
        rows = torch.zeros(len(labels), count, device=labels.device)
        if labels.is_cpu and form.ignore_index is None:
            rows.scatter_(1, index, 1.0)  # all are in range, that was checked
        elif count:
            known = ((index >= 0) & (index < count)).float()
            rows.scatter_(1, index.clamp(0, count - 1), known)
    else:
        rows = labels.to(torch.float32, copy=True)
    if form.smoothing:
        share = rows.sum(1, keepdim=True) * (form.smoothing / rows.shape[1])
        rows.mul_(1 - form.smoothing).add_(share)
    return rows


def apply_plan(
    labels: Tensor, plan: Plan, kind: NumClasses, form: LabelFormat
) -> Tensor | PairedLabels:
    """Mix checked labels by a plan: the one label rule of Mixup, CutMix and Cutout."""
    if form.targets == "pair" and kind != "regression":
        own = labels.clone()
        partner = plan.partner.to(own.device, non_blocking=True)
        return PairedLabels(own, own[partner], plan.lam.to(own.device, non_blocking=True))
    if kind is None and labels.ndim == 1:
        return labels  # only Cutout comes here: without a number of classes it leaves labels alone
    return mix_labels(encode_labels(labels, kind, form), plan.partner, plan.lam)


def _check_range(labels: Tensor, count: int, ignore_index: int | None, where: str) -> None:
    labels = labels.to(torch.int64)  # torch compares no unsigned integers wider than uint8
    if len(labels) == 0 or (int(labels.min()) >= 0 and int(labels.max()) < count):
        return
    wrong = (labels < 0) | (labels >= count)
    if ignore_index is not None:
        wrong &= labels != ignore_index
    if bool(wrong.any()):
        position = int(wrong.nonzero()[0])
        raise ValueError(
            f"labels at {where} must be in [0, {count}), got {int(labels[position])} at position "
            f"{position}."
        )


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
