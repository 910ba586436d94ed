"""Accuracy for mixed labels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tv_mixaug import Mixup, PairedLabels
from tv_mixaug.metrics import mixed_accuracy
from tv_mixaug.testing import label_batches


def draw(batch=16, classes=5, seed=0):
    """Return logits and class indices."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator)
    return logits, torch.randint(classes, (batch,), generator=generator)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_unmixed_labels_give_the_ordinary_accuracy(k):
    """Index, one-hot and unmixed pair labels agree with torchmetrics' own top-k accuracy."""
    logits, labels = draw()
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    expected = metrics.multiclass_accuracy(logits, labels, 5, average="micro", top_k=k)
    onehot = torch.nn.functional.one_hot(labels, 5)
    pair = PairedLabels(labels, labels.flip(0), torch.ones(len(labels)))
    for targets in (labels, onehot, onehot.bool(), pair):
        assert torch.allclose(mixed_accuracy(logits, targets, k), expected)


@given(st.integers(0, 1000), st.integers(1, 5), st.floats(0, 1))
def test_pair_and_soft_labels_agree(seed, k, lam):
    """Both have one accuracy, between those of the two labels."""
    logits, labels = draw(seed=seed)
    partner = labels.roll(1)
    rows = torch.nn.functional.one_hot(torch.stack([labels, partner]), 5)
    got = mixed_accuracy(logits, lam * rows[0] + (1 - lam) * rows[1], k)
    pair = PairedLabels(labels, partner, torch.full((len(labels),), lam))
    assert torch.allclose(mixed_accuracy(logits, pair, k), got)
    both = mixed_accuracy(logits, labels, k), mixed_accuracy(logits, partner, k)
    assert torch.allclose(got, lam * both[0] + (1 - lam) * both[1], atol=1e-6)


@given(label_batches(num_classes=4, min_size=3, max_size=3), st.integers(1, 4))
def test_accuracy_is_a_share(labels, k):
    """Any label kind gives a share in [0, 1], and all of the weight with k = K."""
    logits, _ = draw(3, 4)
    value = mixed_accuracy(logits, labels, k)
    if labels.ndim == 1 or labels.any():
        assert 0 <= value <= 1 + 1e-6
        assert torch.isclose(mixed_accuracy(logits, labels, 4), torch.tensor(1.0))


ROWS = PairedLabels(torch.tensor([[1.0, 1, 0]]), torch.tensor([[0.0, 0, 1]]), torch.tensor([0.5]))
FAR = PairedLabels(torch.tensor([7]), torch.tensor([1]), torch.tensor([0.25]))
CASES = {
    "pair of multi-hot rows": ([[2.0, 1.0, 0.0]], ROWS, 0.5 / 1.5),
    "unknown index": ([[1.0, 0.0]] * 2, torch.tensor([0, -1]), 1),
    "row of zeros": ([[1.0, 0.0]] * 2, torch.tensor([[0.8, 0.2], [0.0, 0.0]]), 0.8),
    "empty batch": (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), float("nan")),
    "class out of range": ([[0.0, 1.0]], FAR.labels, float("nan")),
    "pair with a class out of range": ([[0.0, 1.0]], FAR, 1),
    "rows of (B, 1) indices": ([[0.0, 1.0]] * 2, torch.tensor([[1], [0]]), 0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_accuracy_is_the_share_of_the_known_weight(name):
    """Unknown labels and classes beyond the logits have no weight."""
    logits, targets, expected = CASES[name]
    value = mixed_accuracy(torch.as_tensor(logits), targets)
    assert value == pytest.approx(expected, nan_ok=True)


LOGITS, CLASSES, BAD_ROWS = torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, 4)
BAD_CALLS = [
    ((None, CLASSES), TypeError, "logits must be a tensor"),
    ((torch.zeros(2), CLASSES), ValueError, r"logits must be of shape \(B, K\)"),
    ((torch.zeros(2, 1), CLASSES), ValueError, r"logits must be of shape \(B, K\) with K > 1"),
    ((LOGITS, [0, 1]), TypeError, "targets must be a tensor or PairedLabels"),
    ((LOGITS, torch.zeros(3)), ValueError, "targets must be of one entry for each of 2"),
    ((LOGITS, torch.zeros(2)), ValueError, r"targets must be \(B,\) class indices or"),
    ((LOGITS, BAD_ROWS), ValueError, r"targets must be .* \(B, 3\) weights"),
    ((LOGITS, (CLASSES, BAD_ROWS, torch.ones(2))), ValueError, r"must be .* \(B, 3\) weights"),
    ((LOGITS, (CLASSES, CLASSES, torch.ones(1))), ValueError, r"lam of targets must be of shape"),
    ((LOGITS, CLASSES, 0), ValueError, r"k must be in \[1, 3\]"),
    ((LOGITS, CLASSES, 4), ValueError, r"k must be in \[1, 3\]"),
    ((LOGITS, CLASSES, 1.0), TypeError, "k must be an int"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), BAD_CALLS)
def test_bad_calls_are_named(arguments, kind, text):
    """A wrong argument is refused with its name."""
    with pytest.raises(kind, match=text):
        mixed_accuracy(*arguments)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_mean_metric_averages_batches_of_unequal_size():
    """Torchmetrics' MeanMetric of two batches, weighted by their lengths, is that of both."""
    logits, labels = draw()
    soft = 0.7 * torch.nn.functional.one_hot(labels, 5) + 0.06
    metric = pytest.importorskip("torchmetrics").MeanMetric()
    for part in (slice(0, 3), slice(3, None)):
        metric.update(mixed_accuracy(logits[part], soft[part], 2), len(logits[part]))
    assert torch.allclose(metric.compute(), mixed_accuracy(logits, soft, 2))


def test_an_ignored_class_counts_alike_in_pairs_and_rows():
    """Both forms of one mix have the same accuracy."""
    images, labels, logits = torch.rand(8, 1, 2, 2), torch.arange(8) % 4, torch.randn(8, 4)
    found = []
    for kind in ("pair", "soft"):
        mix = Mixup(num_classes=4, targets=kind, ignore_index=0)
        (_, mixed), _ = mix.mix((images, labels), generator=torch.Generator().manual_seed(0))
        found.append(mixed_accuracy(logits, mixed, ignore_index=0))
    torch.testing.assert_close(*found)
