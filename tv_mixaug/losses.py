"""Turn a criterion into one that takes mixed labels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tv_mixaug._validation import check_integer
from tv_mixaug.batch.spec import PairedLabels


class MixCriterion(nn.Module):
    """Turn a criterion into one that takes soft, index or paired labels.

    Replaces the ``mixup_criterion`` of tutorials: every sample has its own weight, and a sample
    whose label is unknown counts with the weight that is known. The loss of a pair is ``lam`` times
    that against its own label plus ``1 - lam`` times that against its partner's. An
    ``nn.CrossEntropyLoss`` of (B, K) outputs takes both from one softmax; any other criterion is
    called twice.

    Args:
        criterion: Callable ``(outputs, labels) -> losses``. A module with a ``reduction`` is
            copied and used without one; any other callable must return the losses of each sample,
            (B,) or (B, ...), which are averaged over the other axes.
        reduction: ``"mean"``: the sum of the losses over the sum of the known weights, in which
            class weights do not count; ``"sum"``; or ``"none"``: (B,).
        ignore_index: The class index of samples without a label; by default the criterion's own,
            if it has one. Only index and paired labels need it: a soft row shows what is known of
            it by its sum.

    Raises:
        TypeError: If an argument is of the wrong kind, or on the call, the labels.
        ValueError: If ``reduction`` is not one of the three, or on the call, if the criterion does
            not return a loss for each sample.

    Example:
        >>> criterion = MixCriterion(nn.CrossEntropyLoss())
        >>> outputs, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> paired = PairedLabels(labels, 1 - labels, torch.tensor([0.75]))
        >>> soft = torch.tensor([[0.75, 0.25]])
        >>> bool(torch.isclose(criterion(outputs, paired), criterion(outputs, soft)))
        True
    """

    def __init__(
        self,
        criterion: Callable[[Tensor, Tensor], Tensor],
        *,
        reduction: str = "mean",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if not callable(criterion) or isinstance(criterion, type):
            got = criterion if isinstance(criterion, type) else type(criterion)
            hint = f"; make one: {got.__name__}()" if got is criterion else ""
            raise TypeError(f"criterion must be callable, got {got.__name__}{hint}.")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
        if ignore_index is not None:
            check_integer("ignore_index", ignore_index)
        if hasattr(criterion, "reduction"):
            criterion = copy.copy(criterion)
            criterion.reduction = "none"
        own_index = getattr(criterion, "ignore_index", None)
        self.ignore_index: Any = own_index if ignore_index is None else ignore_index
        if isinstance(criterion, nn.CrossEntropyLoss):
            criterion.ignore_index = -(2**31)  # with one of 0 or more it would refuse soft rows
        self.criterion = criterion
        self.reduction = reduction

    def forward(self, outputs: Tensor, labels: Tensor | PairedLabels) -> Tensor:
        """Return the loss of ``outputs`` against mixed or plain labels.

        Args:
            outputs: (B, K, ...) model outputs, in the form that the criterion takes.
            labels: (B, ...) class indices, (B, K, ...) soft rows, or :class:`PairedLabels` of
                either.

        Returns:
            A scalar, or (B,) with ``reduction="none"``.
        """
        if isinstance(labels, PairedLabels):
            losses, known = self._mix(outputs, *labels)
        elif isinstance(labels, Tensor):
            losses, known = self._measure(outputs, labels)
        else:
            raise TypeError(
                f"labels must be a tensor or PairedLabels, got {type(labels).__name__}."
            )
        if self.reduction == "none":
            return losses.sum(1) if losses.ndim == 2 else losses
        total = losses.sum()
        return total if self.reduction == "sum" else total / known.sum().clamp(min=1e-12)

    def _mix(
        self, outputs: Tensor, own: Tensor, partner: Tensor, lam: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the (B, 2) shares that both labels have in the loss, and in what is known."""
        if lam.shape != outputs.shape[:1]:
            raise ValueError(
                f"labels must have a lam of shape ({len(outputs)},), got {tuple(lam.shape)}."
            )
        are_classes = own.shape == partner.shape == lam.shape and own.dtype == torch.int64
        if type(self.criterion) is nn.CrossEntropyLoss and are_classes and outputs.ndim == 2:
            classes = torch.stack([own, partner], 1)
            losses, known = _measure_both(self.criterion, outputs, classes, self.ignore_index)
        else:
            both = zip(self._measure(outputs, own), self._measure(outputs, partner), strict=True)
            losses, known = (torch.stack(parts, 1) for parts in both)
        lam = lam.to(losses.dtype)
        shares = torch.stack([lam, 1 - lam], 1)
        return shares * losses, shares * known

    def _measure(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B,) losses and the share of each label that is known."""
        is_entropy = isinstance(self.criterion, nn.CrossEntropyLoss)
        known = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        if not labels.is_floating_point():
            if self.ignore_index is not None and (labels.ndim == 1 or is_entropy):
                known = labels.ne(self.ignore_index)
                labels = torch.where(known, labels, 0)
        elif labels.ndim > 1 and isinstance(self.criterion, nn.CrossEntropyLoss):
            known = labels.sum(1)
            smoothing = self.criterion.label_smoothing
            if 0 < smoothing < 1:  # what is not known is not smoothed either, as with indices
                over = smoothing / (1 - smoothing) / labels.shape[1]
                labels = labels - over * (1 - known).clamp(min=0).unsqueeze(1)
        losses = self.criterion(outputs, labels)
        if losses.ndim == 0 or len(losses) != len(labels):
            raise ValueError(
                f"criterion must return a loss for each of the {len(labels)} samples, "
                f"got shape {tuple(losses.shape)}; give it reduction='none'."
            )
        losses = _average(losses, known.ndim)
        if known.dtype == torch.bool:
            losses = torch.where(known, losses, 0)
        return _average(losses, 1), _average(known.to(losses.dtype), 1)


def _measure_both(
    criterion: nn.CrossEntropyLoss, outputs: Tensor, classes: Tensor, ignored: int
) -> tuple[Tensor, Tensor]:
    """Return the losses of (B, 2) classes by one softmax, and which of them are known."""
    if torch.is_autocast_enabled(outputs.device.type):  # which widens a cross-entropy
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    log = outputs.log_softmax(1)
    unknown = classes.eq(ignored)
    classes = classes.masked_fill(unknown, 0)
    gains = log.gather(1, classes)
    weight, smoothing = criterion.weight, criterion.label_smoothing
    if weight is not None:
        gains = gains * weight[classes]
    if smoothing:
        log = log if weight is None else log * weight
        gains = (1 - smoothing) * gains + smoothing * log.mean(1, keepdim=True)
    return -gains.masked_fill(unknown, 0), ~unknown


def _average(values: Tensor, ndim: int) -> Tensor:
    """Average over all axes behind the first ``ndim``."""
    return values.flatten(ndim).mean(ndim) if values.ndim > ndim else values
