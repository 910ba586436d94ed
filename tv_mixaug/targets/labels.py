"""Labels: value checks, encoding and mixing."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tv_mixaug._validation import ensure
from tv_mixaug.batch.spec import BatchOptions, FieldSpec, Mix, PairedLabels, ParsedBatch


def check_label_values(
    labels: Tensor, field: FieldSpec, batch: ParsedBatch, options: BatchOptions
) -> None:
    """Raise unless class indices are in range, and integer rows hold 0 and 1.

    The values of labels on a GPU are not checked, since that would make the GPU wait: an index out
    of range gives a row of zeros there.
    """
    count = field.kind if field.indices else 2
    plain = labels.is_floating_point() or labels.dtype == torch.bool or field.kind == "regression"
    if plain or not isinstance(count, int) or not labels.is_cpu or not labels.numel():
        return
    # Python finds the ends of so few numbers faster than torch or NumPy.
    values = labels.tolist() if labels.ndim == 1 else list(map(int, torch.aminmax(labels.long())))
    if min(values) >= 0 and max(values) < count:
        return
    found = labels.numpy()
    wrong = (found < 0) | (found >= count)
    if options.ignore_index is not None:
        wrong &= found != options.ignore_index
    for place in np.argwhere(wrong)[:1].tolist():
        limits = f"in [0, {count})" if field.indices else "0 or 1, or floating point"
        got = f"{found[tuple(place)]} at position {place[0]}"
        raise ValueError(f"labels at {field.where} must be {limits}, got {got}.")


def encode_labels(labels: Tensor, field: FieldSpec, options: BatchOptions) -> Tensor:
    """Return checked labels as new float32 rows, smoothed.

    Smoothing takes its share of a row's own sum, so that a row without a label stays empty and a
    multi-hot row keeps its sum.
    """
    if field.indices:
        classes = torch.arange(int(field.kind or 0), device=labels.device)
        index = labels.reshape(-1, 1).to(torch.int64)
        known = index == classes
        if options.ignore_index is not None:
            known = known & (index != options.ignore_index)
        return _smooth(known.to(torch.float32), options)
    rows = labels.to(torch.float32, copy=True)
    return rows if field.kind == "regression" else _smooth(rows, options)


def mix_labels(labels: Tensor, field: FieldSpec, mix: Mix) -> Tensor | PairedLabels:
    """Mix checked labels into float32 rows or regression targets, or into pairs.

    An entry that is ``ignore_index`` in the row of the original or of the partner stays so.
    """
    plan, options = mix.compact, mix.options
    if field.indices:
        if field.kind is None and options.targets == "soft":
            return labels  # of transforms that mix nothing
        labels = labels if labels.ndim == 1 else labels[:, 0]
        if options.targets == "soft" and labels.is_cpu and plan.known:
            return _write_rows(labels, int(field.kind or 0), mix)
    if options.targets == "pair" and field.kind != "regression":
        moved = plan.on(labels.device)
        labels = labels if field.indices else labels.to(torch.float32)
        return PairedLabels(labels.clone(), labels[moved.partner], moved.lam.clone())
    rows = encode_labels(labels, field, options)
    if not plan.mixes:
        return rows
    if plan.shift is None:
        partners = rows.index_select(0, plan.on(rows.device).partner)
    else:
        partners = rows.roll(plan.shift, 0)
    ignored, code = None, options.ignore_index
    if code is not None and not field.indices:
        ignored = (rows == code) | (partners == code)
    # Not lerp: one-hot rows must equal the rows that are written from their indices.
    if isinstance(plan.lam, float) and plan.known:
        mixed = rows.mul_(plan.lam).add_(partners, alpha=1 - plan.lam)
    else:
        lam = plan.on(rows.device).lam.view(-1, *[1] * (rows.ndim - 1))
        mixed = torch.addcmul(rows * lam, partners, 1 - lam)  # vmap writes to no unmapped rows
    return mixed if ignored is None or code is None else mixed.masked_fill_(ignored, code)


def _write_rows(labels: Tensor, count: int, mix: Mix) -> Tensor:
    """Write the two weights of each row into zeros, which is faster than mixing one-hot rows."""
    plan, index = mix.compact, labels.numpy()
    size = (len(index), count)
    if mix.allocate is None:
        out = torch.zeros(size, dtype=torch.float32, device="cpu")
    else:
        out = mix.allocate(torch.Size(size), torch.float32).zero_()
    index = index if index.dtype == np.int64 else index.astype(np.int64)
    original: Any = plan.lam.numpy() if isinstance(plan.lam, Tensor) else plan.lam
    rest = 1 - original
    if (code := mix.options.ignore_index) is not None:
        known = (index >= 0) & (index < count) & (index != code)
        index, original = index * known, original * known
        rest = rest * plan.of_partners(known)
    # One axis is indexed in half the time of two.
    table, rows = out.numpy().reshape(-1), np.arange(0, len(index) * count, count)
    table[rows + index] = original
    if plan.mixes:
        table[rows + plan.of_partners(index)] += rest
    return _smooth(out, mix.options)


def _smooth(rows: Tensor, options: BatchOptions) -> Tensor:
    """Spread a share of each row's sum, or of half its entries, over all classes, in place."""
    share = options.label_smoothing
    if share:
        half = rows.shape[1] / 2 if options.multi_label else rows.sum(1, keepdim=True)
        spread = half * (share / rows.shape[1])
        rows.mul_(1 - share).add_(spread)
    return rows


def weights_of(
    labels: Any, count: int, num_classes: int | None = None, *, name: str = "labels"
) -> tuple[Tensor, Tensor]:
    """Return (B, N) classes, >= 0, that labels of any format name, and their weights.

    Labels are (B,) or (B, 1) class indices, where a negative one is not a label, (B, K) weights, or
    a triple of two of these and lam (B,). A class may be named twice; its weights then add up.

    Example:
        >>> weights_of(torch.tensor([2, -1]), 2)
        (tensor([[2],
                [0]]), tensor([[1.],
                [0.]]))
    """
    if isinstance(labels, tuple) and len(labels) == 3:
        original, weights = weights_of(labels[0], count, num_classes, name=name)
        partner, partner_weights = weights_of(labels[1], count, num_classes, name=name)
        lam = torch.as_tensor(labels[2], device=original.device)
        fits, shape = lam.shape == (count,), tuple(lam.shape)
        ensure(fits, f"lam of {name}", "of shape ({},)", shape, ValueError, count)
        lam = lam.to(torch.promote_types(lam.dtype, torch.float32))[:, None]
        both = torch.cat([lam * weights, (1 - lam) * partner_weights], 1)
        return torch.cat([original, partner], 1), both
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a tensor or PairedLabels, got {type(labels).__name__}.")
    has_rows, shape = labels.ndim > 0 and len(labels) == count, tuple(labels.shape)
    ensure(has_rows, name, "of one entry for each of {} samples", shape, ValueError, count)
    is_integer = not (labels.is_floating_point() or labels.is_complex())
    if is_integer and (labels.ndim == 1 or (shape[1:] == (1,) and labels.dtype != torch.bool)):
        index = labels.to(torch.int64).view(-1, 1)
        return index.clamp(min=0), (index >= 0).to(torch.float32)
    columns = "K" if num_classes is None else num_classes
    fits = labels.ndim == 2 and num_classes in (None, labels.shape[1]) and not labels.is_complex()
    expected = f"(B,) class indices or (B, {columns}) weights"
    ensure(fits, name, expected, (shape, labels.dtype))
    index = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    return index, labels.to(torch.promote_types(labels.dtype, torch.float32))
