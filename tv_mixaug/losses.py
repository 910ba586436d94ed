"""A criterion for mixed labels."""

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tv_mixaug._validation import check_integer, ensure, ensure_kind, optional
from tv_mixaug.batch.spec import PairedLabels


class MixCriterion(nn.Module):
    """Apply a criterion to soft, index or paired labels.

    The loss of a pair is the mean of the losses of both labels, weighted by ``lam`` and
    ``1 - lam`` of each sample. Unknown labels count neither in the loss nor in the mean.

    Args:
        criterion: Callable ``(outputs, labels) -> losses``. A module with a ``reduction`` is copied
            and used without it; others must return losses (B, ...).
        reduction: ``"mean"`` over known label weights without class weights; ``"sum"``; ``"none"``
            for (B,) losses, averaged over axes after B. By default the criterion's own or "mean".
        ignore_index: Class index of unknown labels, by default the criterion's own. Rows of soft
            labels need none, since they sum to the known weight.

    Example:
        >>> criterion = MixCriterion(nn.CrossEntropyLoss())
        >>> outputs, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> paired = PairedLabels(labels, 1 - labels, torch.tensor([0.75]))
        >>> soft = torch.tensor([[0.75, 0.25]])
        >>> bool(torch.isclose(criterion(outputs, paired), criterion(outputs, soft)))
        True
    """

    def __init__(
        self, criterion: Callable[[Tensor, Tensor], Tensor], *,
        reduction: Literal["mean", "sum", "none"] | None = None, ignore_index: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        is_instance = callable(criterion) and not isinstance(criterion, type)
        ensure_kind(is_instance, "criterion", "an instance that can be called", criterion)
        reduction = reduction or getattr(criterion, "reduction", "mean")
        ensure(reduction in ("mean", "sum", "none"), "reduction", "mean, sum or none", reduction)
        optional("ignore_index", ignore_index, check_integer)
        own = getattr(criterion, "ignore_index", None)
        self.ignore_index: Any = own if ignore_index is None else ignore_index
        if hasattr(criterion, "reduction"):
            criterion = copy.copy(criterion)
            criterion.reduction = "none"
        if isinstance(criterion, nn.CrossEntropyLoss):
            criterion.ignore_index = -(2**31)  # with one of 0 or more it would refuse soft rows
        self.criterion: Any = criterion
        self.reduction = reduction

    def forward(self, outputs: Tensor, labels: Tensor | PairedLabels) -> Tensor:
        """Return the loss of mixed or plain labels, a scalar or (B,) with ``reduction="none"``.

        Args:
            outputs: (B, K, ...) model outputs, in the form that the criterion takes.
            labels: (B, ...) class indices, (B, K, ...) soft rows, or pairs of either.
        """
        if isinstance(labels, PairedLabels):
            losses, known = self._measure_pairs(outputs, labels)
        else:
            got = type(labels).__name__
            ensure(isinstance(labels, Tensor), "labels", "a tensor or PairedLabels", got, TypeError)
            losses, known = self._measure(self.criterion, outputs, labels)
        if self.reduction == "none":
            return losses.sum(1) if losses.ndim == 2 else losses
        total = losses.sum()
        return total if self.reduction == "sum" else total / known.sum().clamp(min=1e-12)

    if TYPE_CHECKING:  # that of nn.Module takes and returns anything

        def __call__(self, outputs: Tensor, labels: Tensor | PairedLabels) -> Tensor:
            """Return the loss; see :meth:`forward`."""

    def _measure_pairs(self, outputs: Tensor, pairs: PairedLabels) -> tuple[Tensor, Tensor]:
        """Return the weighted losses of both labels and their known weights, (B, 2)."""
        labels, partners, lam = pairs
        ensure(lam.shape == outputs.shape[:1], "labels.lam", "of shape (B,)", tuple(lam.shape))
        criterion = self.criterion
        are_classes = labels.ndim == 1 and {labels.dtype, partners.dtype} == {torch.int64}
        if type(criterion) is nn.CrossEntropyLoss and are_classes and not criterion.label_smoothing:
            # One softmax for both labels: of 21,841 classes two take twice the memory.
            if torch.is_autocast_enabled(outputs.device.type):  # it widens a cross-entropy
                outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
            outputs, weight, ignored = outputs.log_softmax(1), criterion.weight, -(2**31)
            criterion = partial(F.nll_loss, weight=weight, ignore_index=ignored, reduction="none")
        both = (self._measure(criterion, outputs, part) for part in (labels, partners))
        losses, known = (torch.stack(parts, 1) for parts in zip(*both, strict=True))
        lam = lam.to(losses.dtype)
        shares = torch.stack([lam, 1 - lam], 1)
        return shares * losses, shares * known

    def _measure(self, criterion: Any, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses and the known weights of labels, (B,)."""
        known = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        if not labels.is_floating_point():
            takes_classes = labels.ndim == 1 or hasattr(criterion, "ignore_index")
            if self.ignore_index is not None and takes_classes:
                known = labels.ne(self.ignore_index)
                labels = torch.where(known, labels, 0)
        elif labels.ndim > 1 and isinstance(criterion, nn.CrossEntropyLoss):
            known, smoothing = labels.sum(1), criterion.label_smoothing
            if 0 < smoothing < 1:  # unknown weight is not smoothed, as with indices
                spread = smoothing / (1 - smoothing) / labels.shape[1]
                labels = labels - spread * (1 - known).clamp(min=0).unsqueeze(1)
        losses = criterion(outputs, labels)
        expected, fits = "of reduction='none', with a loss for each of {} samples", losses.shape[:1]
        shape, count = tuple(losses.shape), len(labels)
        ensure(fits == labels.shape[:1], "criterion", expected, shape, ValueError, count)
        losses = torch.where(known != 0, self._reduce(losses, known.ndim), 0)
        return self._reduce(losses, 1), self._reduce(known.to(losses.dtype), 1)

    def _reduce(self, values: Tensor, ndim: int) -> Tensor:
        """Sum or average over all axes after the first ``ndim``."""
        flat = values.flatten(ndim) if values.ndim > ndim else values.unsqueeze(ndim)
        return flat.sum(ndim) if self.reduction == "sum" else flat.mean(ndim)
