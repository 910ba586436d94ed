"""The criterion for mixed labels: cross-entropy of pairs by one softmax is that by two."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as nnf

from tv_mixaug import MixCriterion, PairedLabels


class Twice(nn.CrossEntropyLoss):
    """A cross-entropy of one's own, which is called for each label of a pair."""


def by_hand(outputs, pair, weight, smoothing, ignored, reduction):
    """Return the loss of pairs by torch's own cross-entropy for each label, and by its meaning."""
    lam = pair.lam.to(outputs.dtype)
    losses, known = 0, 0
    for part, share in ((pair.labels, lam), (pair.partner_labels, 1 - lam)):
        each = nnf.cross_entropy(
            outputs,
            part,
            weight=weight,
            label_smoothing=smoothing,
            ignore_index=ignored,
            reduction="none",
        )
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
    """Weights, smoothing, ignored labels and positions mean for a pair what torch says they do."""
    outputs, pair, weight, smoothing, ignored = case
    criterion = kind(weight, label_smoothing=smoothing, ignore_index=ignored)
    found, wanted = (outputs.clone().requires_grad_() for _ in range(2))
    loss = MixCriterion(criterion, reduction=reduction)(found, pair)
    expected = by_hand(wanted, pair, weight, smoothing, ignored, reduction)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected)
    share = torch.rand(loss.shape, dtype=torch.float64)
    (loss * share).sum().backward()
    (expected * share).sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad)


def test_a_pair_takes_one_softmax(monkeypatch):
    """The cross-entropy is not called for a pair of indices, and twice by a criterion that is."""
    calls = []
    plain = nn.CrossEntropyLoss.forward
    monkeypatch.setattr(
        nn.CrossEntropyLoss, "forward", lambda *given: calls.append(0) or plain(*given)
    )
    outputs, pair = torch.randn(4, 3), PairedLabels(*torch.randint(3, (2, 4)), torch.rand(4))
    one = MixCriterion(nn.CrossEntropyLoss())(outputs, pair)
    assert not calls
    torch.testing.assert_close(MixCriterion(Twice())(outputs, pair), one)
    assert len(calls) == 2


@given(case=cases())
def test_plain_labels_with_positions_are_averaged_as_torch_does(case):
    """Index labels for each position give torch's own mean, whatever of them is ignored."""
    outputs, pair, _, smoothing, ignored = case
    criterion = nn.CrossEntropyLoss(label_smoothing=smoothing, ignore_index=ignored)
    if (pair.labels != ignored).any():
        expected = criterion(outputs, pair.labels)
        torch.testing.assert_close(MixCriterion(criterion)(outputs, pair.labels), expected)


@given(case=cases())
def test_soft_rows_and_pairs_have_one_loss(case):
    """Rows that sum to what is known of a label have the loss of its pair, smoothed or not."""
    outputs, pair, weight, smoothing, ignored = case
    if smoothing == 1:
        smoothing = 0.5
    lam = pair.lam.double().view(-1, *[1] * (outputs.ndim - 1))
    classes = outputs.shape[1]
    soft = torch.zeros_like(outputs)
    for part, share in ((pair.labels, lam), (pair.partner_labels, 1 - lam)):
        known = part != ignored
        rows = nnf.one_hot(torch.where(known, part, 0), classes) * known[..., None]
        soft += share * rows.movedim(-1, 1)
    loss = MixCriterion(
        nn.CrossEntropyLoss(weight, label_smoothing=smoothing, ignore_index=ignored)
    )
    torch.testing.assert_close(loss(outputs, soft), loss(outputs, pair))


def test_an_ignored_label_has_no_loss_where_a_class_is_impossible():
    """A logit of minus infinity is no business of a sample without a label: 0, never NaN."""
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


@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (3,)])
def test_a_lam_of_another_shape_is_refused(shape):
    """A lam that would be broadcast over other samples is refused by name."""
    pair = PairedLabels(*torch.randint(3, (2, 4)), torch.rand(shape))
    with pytest.raises(ValueError, match=r"labels must have a lam of shape \(4,\), got"):
        MixCriterion(nn.CrossEntropyLoss())(torch.randn(4, 3), pair)


@pytest.mark.parametrize("count", [3, 5])
def test_pairs_of_another_length_are_refused(count):
    """Labels for fewer or more samples than there are outputs are never paired with the first."""
    pair = PairedLabels(*torch.randint(3, (2, count)), torch.rand(4))
    with pytest.raises(ValueError, match="batch_size"):
        MixCriterion(nn.CrossEntropyLoss())(torch.randn(4, 3), pair)


def test_the_loss_of_pairs_can_be_compiled():
    """torch.compile takes the criterion in one graph."""
    outputs, pair = torch.randn(4, 3), PairedLabels(*torch.randint(3, (2, 4)), torch.rand(4))
    loss = MixCriterion(nn.CrossEntropyLoss(label_smoothing=0.1))
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(outputs, pair), loss(outputs, pair))


def test_a_pair_keeps_no_more_than_plain_labels_do():
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
            loss = MixCriterion(nn.CrossEntropyLoss())(outputs, given_labels)
        assert loss.requires_grad
        kept.append(sum(pieces.values()))
    assert kept[1] < 1.1 * kept[0]
