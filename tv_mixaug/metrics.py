"""Accuracy for mixed labels: the share of a label's weight that is among the top k predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tv_mixaug._validation import check_integer
from tv_mixaug.batch.spec import PairedLabels
from tv_mixaug.targets.labels import weights_of

if TYPE_CHECKING:
    from tv_mixaug._torchmetrics import MixedAccuracy

__all__ = ["MixedAccuracy", "mixed_accuracy"]


def mixed_accuracy(logits: Tensor, targets: Tensor | PairedLabels, k: int = 1) -> Tensor:
    """Return the label weight that the k highest logits catch, over all the weight there is.

    On unmixed labels this is the ordinary top-k accuracy.

    Args:
        logits: (B, K) float, any dtype; only their order counts.
        targets: (B,) class indices, (B, K) weights, or pair labels
            `(labels, partner_labels, lam)` with lam (B,) the weight of the first. A negative
            class index is an unknown label and has no weight, like a row of zeros.
        k: number of predictions that count as hits, in [1, K].

    Returns:
        A float32 scalar in [0, 1] for weights that are not negative; NaN where there is no weight.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: the shapes do not fit, or k is out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
        >>> mixed_accuracy(logits, torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]]))
        tensor(0.6500)
        >>> mixed_accuracy(logits, torch.tensor([0, 1]))
        tensor(0.5000)
    """
    caught, total = caught_and_total(logits, targets, k)
    return caught / total


def caught_and_total(
    logits: Tensor, targets: Tensor | PairedLabels, k: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the two sums, float32 scalars, whose ratio is :func:`mixed_accuracy`."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits must be a tensor, got {type(logits).__name__}.")
    if logits.ndim != 2:
        raise ValueError(f"logits must be of shape (B, K), got {tuple(logits.shape)}.")
    count, num_classes = logits.shape
    if not 1 <= check_integer("k", k) <= num_classes:
        raise ValueError(f"k must be in [1, {num_classes}], the number of classes, got {k}.")
    classes, weights = weights_of(targets, count, num_classes, name="targets")
    top = logits.topk(k, dim=1).indices
    hits = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, top, True)
    # To raise for a class that is not there would make a GPU wait: it is never hit.
    hits = hits.gather(1, classes.clamp(max=num_classes - 1)) & (classes < num_classes)
    return (weights * hits).sum(dtype=torch.float32), weights.sum(dtype=torch.float32)


if not TYPE_CHECKING:  # else type checkers would believe in every name

    def __getattr__(name: str) -> Any:
        """Import the metric at its first use: torchmetrics is optional, and slow to import."""
        if name != "MixedAccuracy":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from tv_mixaug._torchmetrics import MixedAccuracy

        return MixedAccuracy


def __dir__() -> list[str]:
    return __all__
