"""The criterion for mixed labels; torch's cross-entropy of each label gives the expected loss."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as nnf

from tv_mixaug import MixCriterion, PairedLabels


class Twice(nn.CrossEntropyLoss):
    """A subclass, which is called for each label of a pair."""


def reference(outputs, pair, weight, smoothing, ignored, reduction):
    """Return the loss of pairs by torch's cross-entropy of each label."""
    lam = pair.lam.to(outputs.dtype)
    options = {"weight": weight, "label_smoothing": smoothing, "ignore_index": ignored}
    losses, known = 0, 0
    for part, share in ((pair.labels, lam), (pair.partner_labels, 1 - lam)):
        each = nnf.cross_entropy(outputs, part, **options, reduction="none")
        losses = losses + share * each.reshape(len(lam), -1).mean(1)
        known = known + share * (part != ignored).to(lam.dtype).reshape(len(lam), -1).mean(1)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / known.sum().clamp(min=1e-12)


@st.composite
def cases(draw):
    """Draw outputs (B, K, ...), a pair, and the arguments of a cross-entropy, in float64."""
    torch.manual_seed(draw(st.integers(0, 2**32)))
    count, classes = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    positions = draw(st.lists(st.integers(1, 3), max_size=2))
    ignored = draw(st.sampled_from([-100, -1, 0, 255]))
    outputs = 3 * torch.randn(count, classes, *positions, dtype=torch.float64)
    labels = torch.randint(classes, (2, count, *positions))
    labels[torch.rand(labels.shape) < draw(st.sampled_from([0.0, 0.4, 1.0]))] = ignored
    pair = PairedLabels(*labels, torch.rand(count) if draw(st.booleans()) else torch.ones(count))
    weight = torch.rand(classes, dtype=torch.float64) if draw(st.booleans()) else None
    return outputs, pair, weight, draw(st.sampled_from([0.0, 0.1, 1.0])), ignored


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, Twice])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@given(case=cases())
def test_one_softmax_gives_the_value_and_gradient_of_two(kind, reduction, case):
    """Weights, smoothing, ignored labels and positions mean for a pair what they mean in torch."""
    outputs, pair, weight, smoothing, ignored = case
    criterion = kind(weight, label_smoothing=smoothing, ignore_index=ignored)
    found, wanted = (outputs.clone().requires_grad_() for _ in range(2))
    loss = MixCriterion(criterion, reduction=reduction)(found, pair)
    expected = reference(wanted, pair, weight, smoothing, ignored, reduction)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected)
    share = torch.rand(loss.shape, dtype=torch.float64)
    (loss * share).sum().backward()
    (expected * share).sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad)


def test_a_pair_takes_one_softmax(monkeypatch):
    """A pair of indices takes no call of the cross-entropy, and two of a subclass."""
    calls, plain = [], nn.CrossEntropyLoss.forward
    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", lambda *a: calls.append(0) or plain(*a))
    outputs, pair = torch.randn(4, 3), PairedLabels(*torch.randint(3, (2, 4)), torch.rand(4))
    one = MixCriterion(nn.CrossEntropyLoss())(outputs, pair)
    assert not calls
    torch.testing.assert_close(MixCriterion(Twice())(outputs, pair), one)
    assert len(calls) == 2


@given(case=cases())
def test_index_soft_and_paired_labels_have_one_loss(case):
    """Indices have torch's own mean; soft rows that sum to the known weight the loss of a pair."""
    outputs, pair, weight, smoothing, ignored = case
    soft = torch.zeros_like(outputs)
    lam = pair.lam.double().view(-1, *[1] * (outputs.ndim - 1))
    for part, share in ((pair.labels, lam), (pair.partner_labels, 1 - lam)):
        known = part != ignored
        rows = nnf.one_hot(torch.where(known, part, 0), outputs.shape[1]) * known[..., None]
        soft += share * rows.movedim(-1, 1)
    assume(soft.any())  # rows of zeros have no known weight to divide by
    entropy = nn.CrossEntropyLoss(weight, ignore_index=ignored, label_smoothing=min(smoothing, 0.5))
    loss = MixCriterion(entropy)
    torch.testing.assert_close(loss(outputs, soft), loss(outputs, pair))
    if weight is None and (pair.labels != ignored).any():
        torch.testing.assert_close(loss(outputs, pair.labels), entropy(outputs, pair.labels))


def test_an_ignored_label_has_no_loss_where_a_class_is_impossible():
    """Samples without a label have loss 0, not NaN, with logits of minus infinity."""
    outputs = torch.tensor([[-torch.inf, 0.0, 1.0]] * 2, requires_grad=True)
    labels = torch.tensor([-1, 2])
    pair = PairedLabels(labels, labels, torch.tensor([0.5, 0.5]))
    loss = MixCriterion(nn.CrossEntropyLoss(), ignore_index=-1)
    for given_labels in (labels, pair):
        value = loss(outputs, given_labels)
        torch.testing.assert_close(value, nnf.cross_entropy(outputs[1:], labels[1:]))
        (gradient,) = torch.autograd.grad(value, outputs)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_loss_has_the_dtype_of_torchs_own(dtype, autocast):
    """Autocast widens the softmax of a pair as it does that of a cross-entropy."""
    outputs, pair = torch.randn(4, 3), PairedLabels(*torch.randint(3, (2, 4)), torch.rand(4))
    outputs = outputs.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = MixCriterion(nn.CrossEntropyLoss())(outputs, pair)
        wanted = nnf.cross_entropy(outputs, pair.labels)
    assert loss.dtype == wanted.dtype
    exact = MixCriterion(nn.CrossEntropyLoss())(outputs.double(), pair)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5 if autocast else 2e-2, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "shape", "text"),
    [(4, shape, r"labels.lam must be of shape \(B,\), got") for shape in ((), (1,), (4, 1), (3,))]
    + [(count, (4,), "batch_size") for count in (3, 5)],
)
def test_pairs_of_another_length_are_refused(count, shape, text):
    """Neither labels nor lam are broadcast over other samples."""
    pair = PairedLabels(*torch.randint(3, (2, count)), torch.rand(shape))
    with pytest.raises(ValueError, match=text):
        MixCriterion(nn.CrossEntropyLoss())(torch.randn(4, 3), pair)


def test_the_loss_of_pairs_can_be_compiled():
    """torch.compile takes the criterion in one graph."""
    outputs, pair = torch.randn(4, 3), PairedLabels(*torch.randint(3, (2, 4)), torch.rand(4))
    loss = MixCriterion(nn.CrossEntropyLoss(label_smoothing=0.1))
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(outputs, pair), loss(outputs, pair))


@pytest.mark.parametrize("weight", [None, torch.rand(5000)], ids=["plain", "weighted"])
def test_a_pair_keeps_no_more_memory_than_plain_labels(weight):
    """For its gradient the loss of a pair keeps one softmax, as the loss of indices does."""
    outputs = torch.randn(8, 5000, requires_grad=True)
    labels, partner = torch.randint(5000, (2, 8))
    kept = []
    for given_labels in (labels, PairedLabels(labels, partner, torch.rand(8))):
        pieces = {}

        def keep(tensor, pieces=pieces):
            pieces[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = MixCriterion(nn.CrossEntropyLoss(weight))(outputs, given_labels)
        assert loss.requires_grad
        kept.append(sum(pieces.values()))
    assert kept[1] < 1.1 * kept[0]
