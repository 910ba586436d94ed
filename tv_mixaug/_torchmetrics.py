"""The metric of torchmetrics; ask :mod:`tv_mixaug.metrics` for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tv_mixaug.batch.spec import PairedLabels
from tv_mixaug.metrics import caught_and_total

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    raise ImportError(
        "tv_mixaug.metrics.MixedAccuracy needs torchmetrics: pip install torchmetrics. "
        "mixed_accuracy works without it."
    ) from error


class MixedAccuracy(Metric):
    """Accumulate :func:`mixed_accuracy` over batches and processes, as a torchmetrics metric.

    Args:
        k: Number of predictions that count as hits, in [1, K].
        **options: What every ``torchmetrics.Metric`` takes.

    Raises:
        ImportError: On its import, if torchmetrics is not installed.

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
    caught: Tensor
    total: Tensor

    def __init__(self, k: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.k = k
        for name in ("caught", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor | PairedLabels) -> None:
        """Add a batch; the arguments are those of :func:`mixed_accuracy`."""
        caught, total = caught_and_total(logits, targets, self.k)
        self.caught += caught
        self.total += total

    def compute(self) -> Tensor:
        """Return the accuracy over all that was added, a float32 scalar."""
        return (self.caught / self.total).to(torch.float32)
