"""The criterion for mixed labels: torch's cross-entropy of each label gives the expected loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as nnf
from torch.utils.data import DataLoader

from tv_mixaug import CutMix, MixCriterion, Mixup, PairedLabels, make_collate_fn


def make_pair(count=4, classes=3):
    return PairedLabels(*torch.randint(classes, (2, count)), torch.rand(count))


class Twice(nn.CrossEntropyLoss):
    """A subclass, which is called for each label of a pair."""


def reference(outputs, pair, weight, smoothing, ignored, reduction):
    """Return the loss of pairs by torch's cross-entropy of each label."""
    lam = pair.lam.to(outputs.dtype)
    options = {"weight": weight, "label_smoothing": smoothing, "ignore_index": ignored}
    losses, known = 0, 0
    merge = torch.sum if reduction == "sum" else torch.mean
    for part, share in ((pair.labels, lam), (pair.partner_labels, 1 - lam)):
        each = nnf.cross_entropy(outputs, part, **options, reduction="none")
        losses = losses + share * merge(each.reshape(len(lam), -1), 1)
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
    """Weights, smoothing, ignored labels and positions have the meaning that they have in torch."""
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


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@given(case=cases())
def test_index_soft_and_paired_labels_have_one_loss(reduction, case):
    """The loss of indices is torch's own, and soft rows have that of the pairs they stand for."""
    outputs, pair, weight, smoothing, ignored = case
    soft = torch.zeros_like(outputs)
    lam = pair.lam.double().view(-1, *[1] * (outputs.ndim - 1))
    for part, share in ((pair.labels, lam), (pair.partner_labels, 1 - lam)):
        known = part != ignored
        rows = nnf.one_hot(torch.where(known, part, 0), outputs.shape[1]) * known[..., None]
        soft += share * rows.movedim(-1, 1)
    options = {"ignore_index": ignored, "label_smoothing": min(smoothing, 0.5)}
    entropy = nn.CrossEntropyLoss(weight, **options, reduction=reduction)
    loss = MixCriterion(entropy, reduction=reduction)
    torch.testing.assert_close(loss(outputs, soft), loss(outputs, pair))
    is_sum_of_samples = reduction == "mean" or outputs.ndim == 2
    if weight is None and (pair.labels != ignored).any() and is_sum_of_samples:
        torch.testing.assert_close(loss(outputs, pair.labels), entropy(outputs, pair.labels))


def test_an_ignored_label_has_no_loss_where_a_class_is_impossible():
    """Samples without a label have loss 0, not NaN, where a logit is minus infinity."""
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
    outputs, pair = torch.randn(4, 3).to(dtype), make_pair()
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
    pair = make_pair(count)._replace(lam=torch.rand(shape))
    with pytest.raises(ValueError, match=text):
        MixCriterion(nn.CrossEntropyLoss())(torch.randn(4, 3), pair)


def test_the_loss_of_pairs_can_be_compiled():
    """torch.compile takes the criterion in one graph."""
    outputs, pair = torch.randn(4, 3), make_pair()
    for smoothing in (0.0, 0.1):
        loss = MixCriterion(nn.CrossEntropyLoss(label_smoothing=smoothing))
        compiled = torch.compile(loss, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(outputs, pair), loss(outputs, pair))


@pytest.mark.parametrize("weight", [None, torch.rand(5000)], ids=["plain", "weighted"])
def test_a_pair_keeps_no_more_memory_than_plain_labels(weight):
    """For its gradient the loss of a pair keeps one softmax, as the loss of indices does."""
    outputs = torch.randn(8, 5000, requires_grad=True)
    kept, pair = [], make_pair(8, 5000)
    for given_labels in (pair.labels, pair):
        pieces = {}

        def keep(tensor, pieces=pieces):
            pieces[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = MixCriterion(nn.CrossEntropyLoss(weight))(outputs, given_labels)
        assert loss.requires_grad
        kept.append(sum(pieces.values()))
    assert kept[1] < 1.1 * kept[0]


def test_any_loss_of_each_sample_is_averaged():
    """A function, or a loss with several values for each sample, is averaged over the others."""
    outputs, rows = torch.randn(4, 3), torch.rand(4, 3)
    pair = PairedLabels(rows, rows.flip(0), torch.tensor([0.2, 0.5, 0.9, 1.0]))
    bce, lam = nn.BCEWithLogitsLoss(reduction="none"), pair.lam[:, None]
    by_hand = (lam * bce(outputs, rows) + (1 - lam) * bce(outputs, rows.flip(0))).mean()
    for criterion in (nn.BCEWithLogitsLoss(), lambda outputs, labels: bce(outputs, labels)):
        torch.testing.assert_close(MixCriterion(criterion)(outputs, pair), by_hand)


def test_a_criterion_without_a_loss_for_each_sample_is_refused():
    """Reduced losses cannot be weighted, batchmean sums over classes, and a class is refused."""
    loss = MixCriterion(lambda outputs, labels: nnf.cross_entropy(outputs, labels))
    text = r"criterion must be .*reduction='none'.* a loss for each of 2 samples, got \(\)"
    with pytest.raises(ValueError, match=text):
        loss(torch.randn(2, 3), torch.tensor([0, 1]))
    with pytest.raises(TypeError, match=r"make one: CrossEntropyLoss\(\.\.\.\)"):
        MixCriterion(nn.CrossEntropyLoss)
    with pytest.raises(ValueError, match="reduction must be mean, sum or none, got batchmean"):
        MixCriterion(nn.KLDivLoss(reduction="batchmean"))


def test_the_criterion_is_a_module_around_a_copy():
    """Its weights can be moved and saved, and the given module keeps its own reduction."""
    own = nn.CrossEntropyLoss(weight=torch.ones(3))
    loss = MixCriterion(own)
    assert own.reduction == "mean"
    assert loss.double().criterion.weight.dtype == torch.float64
    assert "criterion.weight" in loss.state_dict()


def test_a_loader_feeds_several_losses():
    """From samples to a backward pass: classes, tags and a number, with one loss for each."""
    samples = [
        {"image": torch.rand(3, 8, 8), "breed": i % 4, "tags": torch.rand(3) < 0.5, "age": i / 8}
        for i in range(8)
    ]
    samples[3]["breed"] = -1
    options = {"num_classes": {"breed": 4, "tags": "multi", "age": "regression"}}
    rules = [kind(ignore_index=-1, **options) for kind in (Mixup, CutMix)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    classes = MixCriterion(nn.CrossEntropyLoss(), ignore_index=-1)
    tags, age = MixCriterion(nn.BCEWithLogitsLoss()), MixCriterion(nn.MSELoss())
    for mixed in DataLoader(samples, batch_size=4, collate_fn=make_collate_fn(rules)):
        outputs, breed = model(mixed["image"]), mixed["breed"]
        losses = classes(outputs[:, :4], breed), age(outputs[:, 7], mixed["age"])
        (sum(losses) + tags(outputs[:, 4:7], mixed["tags"])).backward()
        by_hand = -(outputs[:, :4].log_softmax(1) * breed).sum() / breed.sum()
        torch.testing.assert_close(losses, (by_hand, nnf.mse_loss(outputs[:, 7], mixed["age"])))
        assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [-100, -1])
def test_a_batch_without_any_label_has_loss_zero(smoothing, ignored):
    """Without a known label the loss and its gradient are 0, not NaN, in each form."""
    criterion = MixCriterion(nn.CrossEntropyLoss(label_smoothing=smoothing), ignore_index=ignored)
    outputs, unknown = torch.randn(4, 3, requires_grad=True), torch.full((4,), ignored)
    for labels in (torch.zeros(4, 3), unknown, PairedLabels(unknown, unknown, torch.rand(4))):
        loss = criterion(outputs, labels)
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert loss == 0
        assert not gradient.any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("make", [nn.CrossEntropyLoss, nn.NLLLoss, nn.BCEWithLogitsLoss])
def test_the_reduction_is_the_criterions_own(make, reduction):
    """Unmixed labels have the loss of the criterion, whose ignored positions count nothing."""
    outputs, criterion = torch.randn(2, 3, 4).log_softmax(1), make(reduction=reduction)
    labels = torch.tensor([[0, 1, -100, 2], [0, 1, 2, 0]])
    labels = torch.rand(2, 3, 4) if make is nn.BCEWithLogitsLoss else labels
    loss, expected = MixCriterion(criterion)(outputs, labels), criterion(outputs, labels)
    expected = expected if reduction != "none" else expected.flatten(1).mean(1)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_pairs_of_rows_fit_a_binary_loss(dtype):
    """Pairs hold float rows, whatever dtype the labels have."""
    rows, criterion = torch.randint(2, (4, 3)).to(dtype), MixCriterion(nn.BCEWithLogitsLoss())
    losses = []
    for kind in ("pair", "soft"):
        torch.manual_seed(1)
        _, labels = Mixup(num_classes="multi", targets=kind)(torch.ones(4, 1, 2, 2), rows)
        losses.append(criterion(torch.eye(4, 3), labels))
    torch.testing.assert_close(*losses)
