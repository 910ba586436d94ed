"""Turn a criterion into one that takes mixed labels."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tv_mixaug.arguments import check_integer
from tv_mixaug.labels import PairedLabels


class MixCriterion(nn.Module):
    """Turn a criterion into one that takes soft, index or paired labels.

    Replaces the ``mixup_criterion`` of tutorials: every sample has its own weight, and a sample
    whose label is unknown counts with the weight that is known.

    Args:
        criterion: Callable ``(outputs, labels) -> losses``. A module with a ``reduction`` is
            copied and used without one; any other callable must return the losses of each sample,
            (B,) or (B, ...), which are averaged over the other axes.
        reduction: ``"mean"``: the sum of the losses over the sum of the known weights;
            ``"sum"``; or ``"none"``: (B,).
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
        self.criterion = criterion
        self.reduction = reduction
        own_index = getattr(criterion, "ignore_index", None)
        self.ignore_index = own_index if ignore_index is None else ignore_index

    def forward(self, outputs: Tensor, labels: Tensor | PairedLabels) -> Tensor:
        """Return the loss of ``outputs`` against mixed or plain labels.

        Args:
            outputs: (B, K) model outputs, in the form that the criterion takes.
            labels: (B,) class indices, (B, K) soft rows, or :class:`PairedLabels`.

        Returns:
            A scalar, or (B,) with ``reduction="none"``.
        """
        if not isinstance(labels, (Tensor, PairedLabels)):
            raise TypeError(
                f"labels must be a tensor or PairedLabels, got {type(labels).__name__}."
            )
        if isinstance(labels, PairedLabels):
            own, own_known = self._loss(outputs, labels.labels)
            other, other_known = self._loss(outputs, labels.partner_labels)
            lam = labels.lam.to(own.dtype)
            losses = lam * own + (1 - lam) * other
            known = lam * own_known + (1 - lam) * other_known
        else:
            losses, known = self._loss(outputs, labels)
        if self.reduction == "none":
            return losses
        total = losses.sum()
        return total if self.reduction == "sum" else total / known.sum().clamp(min=1e-12)

    def _loss(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B,) losses and the share of each label that is known."""
        known = torch.ones(len(labels), device=outputs.device)
        if labels.ndim == 1 and not labels.is_floating_point() and self.ignore_index is not None:
            known = (labels != self.ignore_index).to(known.dtype)
            labels = torch.where(labels == self.ignore_index, 0, labels)
        elif labels.ndim == 2 and isinstance(self.criterion, nn.CrossEntropyLoss):
            known = labels.sum(1).to(known.dtype)
        losses = self.criterion(outputs, labels)
        if losses.ndim == 0 or len(losses) != len(labels):
            raise ValueError(
                f"criterion must return a loss for each of the {len(labels)} samples, "
                f"got shape {tuple(losses.shape)}; give it reduction='none'."
            )
        losses = losses.flatten(1).mean(1) if losses.ndim > 1 else losses
        if labels.ndim == 1:
            losses = losses * known
        return losses, known.to(losses.dtype)
