"""The torchmetrics metric, imported by :mod:`tv_mixaug.metrics` at its first use."""

from typing import Any

import torch
from torch import Tensor

from tv_mixaug.batch.spec import PairedLabels
from tv_mixaug.metrics import hit_and_total

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    raise ImportError("MixedAccuracy needs torchmetrics: pip install torchmetrics") from error


class MixedAccuracy(Metric):
    """Accumulate :func:`mixed_accuracy` over batches and processes.

    Args:
        k: Number of predictions that count as hits, in [1, K].
        **options: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> metric = MixedAccuracy()
        >>> metric.update(torch.tensor([[2.0, 1.0]]), torch.tensor([[0.7, 0.3]]))
        >>> metric.update(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
        >>> metric.compute()
        tensor(0.3500)
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    hit: Tensor
    total: Tensor

    def __init__(self, k: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.k = k
        for name in ("hit", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor | PairedLabels) -> None:
        """Add a batch, given as to :func:`mixed_accuracy`."""
        hit, total = hit_and_total(logits, targets, self.k)
        self.hit += hit
        self.total += total

    def compute(self) -> Tensor:
        """Return the accuracy over all batches, a float32 scalar."""
        return (self.hit / self.total).to(torch.float32)
