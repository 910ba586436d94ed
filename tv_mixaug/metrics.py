"""Accuracy for mixed labels: the label weight of the top k predictions."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tv_mixaug._validation import check_integer, ensure
from tv_mixaug.batch.spec import PairedLabels
from tv_mixaug.targets.labels import weights_of

if TYPE_CHECKING:
    from tv_mixaug._torchmetrics import MixedAccuracy

__all__ = ["MixedAccuracy", "mixed_accuracy"]


def mixed_accuracy(logits: Tensor, targets: Tensor | PairedLabels, k: int = 1) -> Tensor:
    """Return the share of the label weight that the k highest logits hit.

    Args:
        logits: (B, K) in any floating point dtype.
        targets: (B,) class indices (unknown if negative), (B, K) weights, or pairs of either.
        k: Number of predictions that count as hits, in [1, K].

    Returns:
        A float32 scalar, for unmixed labels the ordinary top-k accuracy; NaN without any weight.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the shapes do not fit or k is out of range.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
        >>> mixed_accuracy(logits, torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]]))
        tensor(0.6500)
    """
    hit, total = hit_and_total(logits, targets, k)
    return hit / total


def hit_and_total(logits: Tensor, targets: Tensor | PairedLabels, k: int) -> tuple[Tensor, Tensor]:
    """Return the label weight that is hit and all label weight, as float32 scalars."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits must be a tensor, got {type(logits).__name__}.")
    ensure(logits.ndim == 2, "logits", "of shape (B, K)", tuple(logits.shape))
    count, num_classes = logits.shape
    ensure(1 <= check_integer("k", k) <= num_classes, "k", f"in [1, {num_classes}]", k)
    classes, weights = weights_of(targets, count, num_classes, name="targets")
    top = logits.topk(k, dim=1).indices
    hits = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, top, True)
    # A class out of range is never hit; to raise an error, a GPU would have to be waited for.
    hits = hits.gather(1, classes.clamp(max=num_classes - 1)) & (classes < num_classes)
    return (weights * hits).sum(dtype=torch.float32), weights.sum(dtype=torch.float32)


if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import the metric at its first use: torchmetrics is optional and slow to import."""
        if name != "MixedAccuracy":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from tv_mixaug._torchmetrics import MixedAccuracy

        return MixedAccuracy
