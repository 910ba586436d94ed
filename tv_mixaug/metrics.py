"""Accuracy for mixed labels: the label weight of the top k predictions."""

import torch
from torch import Tensor

from tv_mixaug._validation import check_integer, ensure
from tv_mixaug.batch.spec import PairedLabels
from tv_mixaug.targets.labels import weights_of


def mixed_accuracy(
    logits: Tensor, targets: Tensor | PairedLabels, k: int = 1, *, ignore_index: int | None = None
) -> Tensor:
    """Return the share of the label weight that the k highest logits hit.

    ``torchmetrics.MeanMetric`` averages it over batches and processes, weighted by their lengths.

    Args:
        logits: (B, K) in any floating point dtype, K > 1.
        targets: (B,) class indices, (B, K) weights, or pairs of either. Indices outside [0, K) are
            unknown and count nothing.
        k: Number of predictions that count as hits, in [1, K].
        ignore_index: Another index that is unknown.

    Returns:
        A float32 scalar, for unmixed labels the ordinary top-k accuracy; NaN without any weight.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
        >>> mixed_accuracy(logits, torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]]))
        tensor(0.6500)
    """
    ensure(isinstance(logits, Tensor), "logits", "a tensor", type(logits).__name__, TypeError)
    shape = tuple(logits.shape)
    ensure(len(shape) == 2 and shape[1] > 1, "logits", "of shape (B, K) with K > 1", shape)
    count, num_classes = logits.shape
    ensure(1 <= check_integer("k", k) <= num_classes, "k", f"in [1, {num_classes}]", k)
    classes, weights = weights_of(targets, count, num_classes, name="targets")
    top = logits.topk(k, dim=1).indices
    hits = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, top, True)
    known = classes < num_classes
    known = known if ignore_index is None else known & (classes != ignore_index)
    weights = weights * known
    hit = (weights * hits.gather(1, classes * known)).sum(dtype=torch.float32)
    return hit / weights.sum(dtype=torch.float32)
