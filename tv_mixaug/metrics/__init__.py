"""Accuracy for mixed labels: the share of a label's weight that is among the top k predictions."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tv_mixaug.labels import PairedLabels

__all__ = ["MixedAccuracy", "mixed_accuracy"]  # noqa: F822 - made by __getattr__


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
    caught, total = _caught_and_total(logits, targets, k)
    return caught / total


def _caught_and_total(logits: Tensor, targets: Any, k: int) -> tuple[Tensor, Tensor]:
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits must be a tensor, got {type(logits).__name__}.")
    if logits.ndim != 2:
        raise ValueError(f"logits must be of shape (B, K), got {tuple(logits.shape)}.")
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}.")
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k must be in [1, {logits.shape[1]}], the number of classes, got {k}.")
    top = logits.topk(k, dim=1).indices
    if isinstance(targets, tuple) and len(targets) == 3:
        own, partner, lam = targets
        lam = torch.as_tensor(lam, dtype=torch.float32, device=logits.device)
        own_caught, own_total = _per_sample(top, own, logits)
        partner_caught, partner_total = _per_sample(top, partner, logits)
        caught = lam * own_caught + (1 - lam) * partner_caught
        return caught.sum(), (lam * own_total + (1 - lam) * partner_total).sum()
    caught, total = _per_sample(top, targets, logits)
    return caught.sum(), total.sum()


def _per_sample(top: Tensor, labels: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B,) float32 each: the weight among the top predictions, and all the weight."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"targets must be a tensor or pair labels, got {type(labels).__name__}.")
    if labels.shape == logits.shape:
        weights = labels.to(torch.float32)
        return weights.gather(1, top).sum(1), weights.sum(1)
    if labels.shape == logits.shape[:1]:
        hits = (top == labels[:, None]).any(1).to(torch.float32)
        return hits, (labels >= 0).to(torch.float32)
    raise ValueError(
        f"targets must be of shape ({logits.shape[0]},) or {tuple(logits.shape)} for these "
        f"logits, got {tuple(labels.shape)}."
    )


@cache
def _metric_class() -> type:
    try:
        from torchmetrics import Metric
    except ImportError as error:
        raise ImportError(
            "tv_mixaug.metrics.MixedAccuracy needs torchmetrics: pip install torchmetrics. "
            "mixed_accuracy works without it."
        ) from error

    class MixedAccuracy(Metric):
        """Accumulate `mixed_accuracy` over batches and processes, as a torchmetrics metric.

        Args:
            k: number of predictions that count as hits.
            **options: what every `torchmetrics.Metric` takes.
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
            """Add a batch; the arguments are those of `mixed_accuracy`."""
            caught, total = _caught_and_total(logits, targets, self.k)
            self.caught += caught
            self.total += total

        def compute(self) -> Tensor:
            """Return the accuracy over all that was added, float32."""
            return (self.caught / self.total).to(torch.float32)

    # Pickle finds a class by its module and name.
    MixedAccuracy.__qualname__ = "MixedAccuracy"
    return MixedAccuracy


def __getattr__(name: str) -> Any:
    # torchmetrics is optional and slow to import: the class is made when first asked for.
    if name == "MixedAccuracy":
        return _metric_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
