"""Accuracy for mixed labels."""

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st

from tv_mixaug import metrics
from tv_mixaug.metrics import mixed_accuracy
from tv_mixaug import PairedLabels
from tv_mixaug.testing import label_batches


def draw(batch: int = 16, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and class indices."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator)
    return logits, torch.randint(classes, (batch,), generator=generator)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_unmixed_labels_give_the_ordinary_accuracy(k: int) -> None:
    """Index, one-hot and unmixed pair labels all agree with torchmetrics' own top-k accuracy."""
    logits, labels = draw()
    expected = torchmetrics.functional.accuracy(
        logits, labels, task="multiclass", num_classes=5, top_k=k, average="micro"
    )
    onehot = torch.nn.functional.one_hot(labels, 5)
    pair = PairedLabels(labels, labels.flip(0), torch.ones(len(labels)))
    for targets in (labels, onehot, onehot.bool(), pair):
        assert torch.allclose(mixed_accuracy(logits, targets, k), expected)


@given(st.integers(0, 1000), st.integers(1, 5), st.floats(0, 1))
def test_pair_and_soft_labels_agree(seed: int, k: int, lam: float) -> None:
    """The two ways to write a mixed label have one accuracy, between that of the two labels."""
    logits, labels = draw(seed=seed)
    partner = labels.roll(1)
    weights = torch.full((len(labels),), lam)
    rows = torch.nn.functional.one_hot(labels, 5), torch.nn.functional.one_hot(partner, 5)
    soft = lam * rows[0] + (1 - lam) * rows[1]
    got = mixed_accuracy(logits, soft, k)
    assert torch.allclose(mixed_accuracy(logits, PairedLabels(labels, partner, weights), k), got)
    both = mixed_accuracy(logits, labels, k), mixed_accuracy(logits, partner, k)
    assert torch.allclose(got, lam * both[0] + (1 - lam) * both[1], atol=1e-6)


@given(label_batches(num_classes=4, min_size=3, max_size=3), st.integers(1, 4))
def test_accuracy_is_a_share(labels: torch.Tensor, k: int) -> None:
    """Any label kind gives a share in [0, 1], and all of the weight with k = K."""
    logits, _ = draw(3, 4)
    value = mixed_accuracy(logits, labels, k)
    if labels.ndim == 1 or labels.any():
        assert 0 <= value <= 1 + 1e-6
        assert torch.isclose(mixed_accuracy(logits, labels, 4), torch.tensor(1.0))


def test_pair_labels_may_be_rows() -> None:
    """Pair labels of multi-hot rows count the weight of both rows."""
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    own, partner = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    pair = PairedLabels(own, partner, torch.tensor([0.5]))
    assert mixed_accuracy(logits, pair) == pytest.approx(0.5 / 1.5)


def test_unknown_labels_have_no_weight() -> None:
    """A negative index and a row of zeros neither count as hits nor as misses."""
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert mixed_accuracy(logits, torch.tensor([0, -1])) == 1
    assert mixed_accuracy(logits, torch.tensor([[0.8, 0.2], [0.0, 0.0]])) == pytest.approx(0.8)
    assert mixed_accuracy(logits[:0], torch.tensor([], dtype=torch.int64)).isnan()


BAD_CALLS = [
    ((None, torch.zeros(2)), TypeError, "logits must be a tensor"),
    ((torch.zeros(2), torch.zeros(2)), ValueError, r"logits must be of shape \(B, K\)"),
    ((torch.zeros(2, 3), [0, 1]), TypeError, "targets must be a tensor or PairedLabels"),
    ((torch.zeros(2, 3), torch.zeros(3)), ValueError, "targets must be one entry for each of 2"),
    ((torch.zeros(2, 3), torch.zeros(2)), ValueError, r"targets must be \(B,\) class indices or"),
    ((torch.zeros(2, 3), torch.zeros(2, 4)), ValueError, r"targets must be .* \(B, 3\) weights"),
    (
        (torch.zeros(2, 3), (torch.tensor([0, 1]), torch.zeros(2, 4), torch.ones(2))),
        ValueError,
        r"targets must be .* \(B, 3\) weights",
    ),
    (
        (torch.zeros(2, 3), (torch.tensor([0, 1]), torch.tensor([0, 1]), torch.ones(1))),
        ValueError,
        r"lam of targets must be of shape \(2,\)",
    ),
    ((torch.zeros(2, 3), torch.zeros(2), 0), ValueError, r"k must be in \[1, 3\]"),
    ((torch.zeros(2, 3), torch.zeros(2), 4), ValueError, r"k must be in \[1, 3\]"),
    ((torch.zeros(2, 3), torch.zeros(2), 1.0), TypeError, "k must be an int"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), BAD_CALLS)
def test_bad_calls_are_named(arguments: Any, kind: type, text: str) -> None:
    """A wrong argument is refused with its name."""
    with pytest.raises(kind, match=text):
        mixed_accuracy(*arguments)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_metric_accumulates_batches_of_unequal_size() -> None:
    """The torchmetrics metric over two batches is the function over both."""
    logits, labels = draw()
    soft = 0.7 * torch.nn.functional.one_hot(labels, 5) + 0.06
    metric = metrics.MixedAccuracy(k=2)
    assert isinstance(metric, torchmetrics.Metric)
    metric.update(logits[:3], soft[:3])
    metric.update(logits[3:], soft[3:])
    assert torch.allclose(metric.compute(), mixed_accuracy(logits, soft, 2))
    metric.reset()
    assert torch.allclose(metric(logits, soft), mixed_accuracy(logits, soft, 2))


def test_metric_can_be_pickled_and_copied() -> None:
    """A metric survives pickle and deepcopy with what it has counted, as processes need."""
    logits, labels = draw()
    metric = metrics.MixedAccuracy()
    metric.update(logits, PairedLabels(labels, labels.roll(1), torch.full((16,), 0.6)))
    pickled = pickle.loads(pickle.dumps(metric))  # noqa: S301 - it is our own
    from tv_mixaug.metrics import MixedAccuracy

    for copied in (pickled, copy.deepcopy(metric)):
        assert copied.compute() == metric.compute()
    assert metrics.MixedAccuracy is metrics.MixedAccuracy
    assert metrics.MixedAccuracy.__qualname__ == "MixedAccuracy"
    assert MixedAccuracy is metrics.MixedAccuracy


@pytest.mark.slow
def test_metric_is_unpickled_by_a_process_that_imported_nothing() -> None:
    """A pickle names an ordinary class of a module, which any process finds."""
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).k)"
    pickled = pickle.dumps(metrics.MixedAccuracy(k=3))
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(command, input=pickled, capture_output=True, check=True).stdout == b"3\n"  # noqa: S603


def test_a_class_that_is_not_there_is_never_hit() -> None:
    """An index beyond the logits counts as a miss, alone and in a pair."""
    logits, far = torch.tensor([[0.0, 1.0]]), torch.tensor([7])
    assert mixed_accuracy(logits, far) == 0
    pair = PairedLabels(far, torch.tensor([1]), torch.tensor([0.25]))
    assert mixed_accuracy(logits, pair) == 0.75


def test_missing_torchmetrics_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchmetrics the metric says what to install."""
    monkeypatch.delitem(sys.modules, "tv_mixaug._torchmetrics", raising=False)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ImportError, match="pip install torchmetrics"):
        _ = metrics.MixedAccuracy
    with pytest.raises(ImportError, match="pip install torchmetrics"):
        from tv_mixaug.metrics import MixedAccuracy  # noqa: F401
    assert mixed_accuracy(*draw()) >= 0


def test_unknown_names_are_unknown() -> None:
    """A misspelt name is an AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'Accuracy'"):
        _ = metrics.Accuracy
