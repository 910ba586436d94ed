"""Labels: every form is encoded and mixed by one rule, and every loss can take the result."""

import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as nnf

from tv_mixaug import CutMix, Cutout, Mixup
from tv_mixaug.batch.spec import BatchOptions, FieldSpec, PairedLabels, Role
from tv_mixaug.engine import plan as plans
from tv_mixaug.losses import MixCriterion
from tv_mixaug.targets.labels import encode_labels

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
KINDS = (Mixup, CutMix, Cutout)
IMAGES = torch.rand(6, 1, 8, 8)


def mix(kind, labels, images=IMAGES, **kwargs):
    """Mix with p = 0.7 per sample, and return the labels and the plan."""
    transform = kind(mode="sample", p=0.7, **kwargs)
    (_, mixed), plan = transform.mix((images[: len(labels)], labels))
    return mixed, plan


def mixed_by_hand(rows, plan):
    lam = plan.lam.double().view(-1, *[1] * (rows.ndim - 1))
    return lam * rows.double() + (1 - lam) * rows[plan.partner].double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [*INTEGERS, torch.uint16, torch.uint32, torch.uint64])
def test_class_indices_of_any_integer_dtype_are_mixed(kind, dtype):
    """Indices of every integer dtype give the same float32 rows, whose weights sum to 1."""
    labels = torch.tensor([3, 0, 2, 2, 1, 3], dtype=dtype)
    mixed, plan = mix(kind, labels, num_classes=4)
    assert mixed.dtype == torch.float32
    expected = mixed_by_hand(nnf.one_hot(labels.long(), 4), plan)
    torch.testing.assert_close(mixed.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed.sum(1), torch.ones(6), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS, torch.float16, torch.float64])
@pytest.mark.parametrize("num_classes", [4, None])
def test_one_hot_and_soft_rows_are_mixed(kind, dtype, num_classes):
    """(B, K) rows of any dtype become the same float32 rows as their indices."""
    index = torch.tensor([3, 0, 2, 2, 1, 3])
    torch.manual_seed(1)
    expected, _ = mix(kind, index, num_classes=4)
    torch.manual_seed(1)
    mixed, _ = mix(kind, nnf.one_hot(index, 4).to(dtype), num_classes=num_classes)
    assert torch.equal(mixed, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_multi_hot_rows_are_mixed_class_by_class(kind, dtype):
    """Each class of a multi-hot row is mixed on its own, and the row's sum is not forced to 1."""
    labels = (torch.rand(6, 5) < 0.5).to(dtype)
    mixed, plan = mix(kind, labels, num_classes="multi")
    expected = mixed_by_hand(labels.double(), plan)
    torch.testing.assert_close(mixed.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_regression_targets_are_mixed_linearly(kind, shape, dtype):
    """Real targets of any shape are mixed as the images are, never encoded, as float32."""
    labels = (torch.randn(shape) * 9).to(dtype)
    mixed, plan = mix(kind, labels, num_classes="regression", labels_getter=lambda batch: batch[1])
    assert mixed.dtype == torch.float32
    assert mixed.shape == labels.shape
    expected = mixed_by_hand(labels.double(), plan)
    torch.testing.assert_close(mixed.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@given(smoothing=st.floats(0, 0.9), seed=st.integers(0, 2**32))
def test_smoothing_is_applied_to_the_own_label_before_mixing(kind, smoothing, seed):
    """Smoothing then mixing equals mixing then smoothing, sums to 1, and spreads over K classes."""
    torch.manual_seed(seed)
    labels = torch.randint(4, (6,))
    mixed, plan = mix(kind, labels, num_classes=4, label_smoothing=smoothing)
    smooth = nnf.one_hot(labels, 4).double() * (1 - smoothing) + smoothing / 4
    torch.testing.assert_close(mixed.double(), mixed_by_hand(smooth, plan), atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed.sum(1), torch.ones(6), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_without_a_label_add_nothing(kind):
    """A row's sum is the weight that is known: ignored samples are nobody, not class 0."""
    labels = torch.tensor([3, -100, 2, -100, 1, 0])
    mixed, plan = mix(kind, labels, num_classes=4, ignore_index=-100, label_smoothing=0.1)
    known = mixed_by_hand((labels != -100).double(), plan)
    torch.testing.assert_close(mixed.sum(1).double(), known, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_classes", [1, 2, 1000])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_classes_and_samples(num_classes, count):
    """One class, a thousand classes, an empty batch: the format is (B, K) float32."""
    labels = torch.randint(num_classes, (count,))
    for kind in KINDS:
        mixed = kind(num_classes=num_classes)(IMAGES[:count], labels)[1]
        assert mixed.shape == (count, num_classes)
        assert mixed.dtype == torch.float32


def test_encoding_makes_a_new_tensor():
    """What is handed in is never what comes back, so that later writes do no harm."""
    options = BatchOptions(num_classes=3)
    rows = torch.eye(3)
    assert (
        encode_labels(rows, FieldSpec(Role.LABEL, (), kind=3), options).data_ptr()
        != rows.data_ptr()
    )
    targets = torch.rand(3)
    assert (
        encode_labels(targets, FieldSpec(Role.LABEL, (), kind="regression"), options).data_ptr()
        != targets.data_ptr()
    )


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", ["soft", "pair"])
def test_there_is_one_label_format(p, kind, targets):
    """Type, shape and dtype of the labels are the same in batches mixed and not mixed."""
    transform = kind(num_classes=4, p=p, targets=targets, mode="batch")
    for _ in range(8):
        mixed = transform(IMAGES[:4], torch.arange(4))[1]
        if targets == "soft":
            assert (type(mixed), mixed.shape, mixed.dtype) == (torch.Tensor, (4, 4), torch.float32)
        else:
            assert type(mixed) is PairedLabels
            assert [t.dtype for t in mixed] == [torch.int64, torch.int64, torch.float32]
            assert all(t.shape == (4,) for t in mixed)


# --- Pairs and the criterion --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32), smoothing=st.sampled_from([0.0, 0.1]))
def test_paired_labels_give_the_loss_of_soft_labels(kind, seed, smoothing):
    """Under one seed, pairs and soft rows describe the same mix and give the same loss."""
    labels, outputs = torch.arange(6) % 4, torch.randn(6, 4, dtype=torch.float64)
    torch.manual_seed(seed)
    soft, _ = mix(kind, labels, num_classes=4)
    torch.manual_seed(seed)
    pair, plan = mix(kind, labels, num_classes=4, targets="pair")
    assert torch.equal(pair.labels, labels)
    assert torch.equal(pair.partner_labels, labels[plan.partner])
    assert torch.equal(pair.lam, plan.lam)
    for reduction in ("mean", "sum"):
        loss = MixCriterion(nn.CrossEntropyLoss(label_smoothing=smoothing), reduction=reduction)
        torch.testing.assert_close(
            loss(outputs, pair), loss(outputs, soft.double()), atol=1e-6, rtol=1e-6
        )
    plain = nn.CrossEntropyLoss(label_smoothing=smoothing)(outputs, soft.double())
    torch.testing.assert_close(
        MixCriterion(nn.CrossEntropyLoss(label_smoothing=smoothing))(outputs, soft.double()),
        plain,
        atol=1e-6,
        rtol=1e-6,
    )


def test_the_criterion_takes_plain_labels_too():
    """Validation batches, with class indices, go through the same criterion."""
    outputs, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 1])
    loss = MixCriterion(nn.CrossEntropyLoss())
    torch.testing.assert_close(loss(outputs, labels), nnf.cross_entropy(outputs, labels))


def test_reductions_agree():
    """The losses of the samples sum to the sum, whose share is the mean."""
    outputs, pair = torch.randn(5, 3), PairedLabels(*torch.randint(3, (2, 5)), torch.rand(5))
    each = MixCriterion(nn.CrossEntropyLoss(), reduction="none")(outputs, pair)
    assert each.shape == (5,)
    total = MixCriterion(nn.CrossEntropyLoss(), reduction="sum")(outputs, pair)
    mean = MixCriterion(nn.CrossEntropyLoss())(outputs, pair)
    torch.testing.assert_close(each.sum(), total)
    torch.testing.assert_close(each.mean(), mean)


@pytest.mark.parametrize("targets", ["soft", "pair"])
def test_unknown_labels_do_not_weigh_in_the_loss(targets):
    """The mean is over the weight that is known, so an unlabelled sample changes nothing."""
    labels = torch.tensor([2, -1, 0])
    lam = torch.tensor([0.7, 0.4, 1.0])
    partner = torch.tensor([1, 0, 2])
    outputs = torch.randn(3, 3, requires_grad=True)
    pair = PairedLabels(labels, labels[partner], lam)
    field = FieldSpec(Role.LABEL, (), kind=3, indices=True)
    rows = encode_labels(labels, field, BatchOptions(num_classes=3, ignore_index=-1))
    soft = lam[:, None] * rows + (1 - lam[:, None]) * rows[partner]
    log = outputs.log_softmax(1)
    known = torch.tensor([0.7, 0.6, 1.0])
    by_hand = -(0.7 * log[0, 2] + 0.6 * log[1, 2] + 1.0 * log[2, 0]) / known.sum()
    given_labels = pair if targets == "pair" else soft
    loss = MixCriterion(nn.CrossEntropyLoss(), ignore_index=-1)(outputs, given_labels)
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize("targets", ["index", "soft", "pair"])
def test_a_batch_without_any_label_has_loss_zero(targets):
    """Nothing known gives 0 and a gradient of 0, never NaN."""
    outputs = torch.randn(2, 3, requires_grad=True)
    unknown = torch.tensor([-1, -1])
    labels = {
        "index": unknown,
        "soft": torch.zeros(2, 3),
        "pair": PairedLabels(unknown, unknown, torch.tensor([0.3, 0.6])),
    }[targets]
    loss = MixCriterion(nn.CrossEntropyLoss(), ignore_index=-1)(outputs, labels)
    loss.backward()
    assert loss.item() == 0
    assert not outputs.grad.any()


def test_the_criterion_given_is_not_changed():
    """The user's module keeps its reduction and can be used for validation."""
    own = nn.CrossEntropyLoss(weight=torch.ones(3))
    MixCriterion(own)
    assert own.reduction == "mean"


def test_any_loss_of_each_sample_will_do():
    """A function, or a loss with several values for each sample, is averaged over the others."""
    outputs, rows = torch.randn(4, 3), torch.rand(4, 3)
    pair = PairedLabels(rows, rows.flip(0), torch.tensor([0.2, 0.5, 0.9, 1.0]))
    bce = nn.BCEWithLogitsLoss(reduction="none")
    lam = pair.lam[:, None]
    by_hand = (lam * bce(outputs, rows) + (1 - lam) * bce(outputs, rows.flip(0))).mean()
    torch.testing.assert_close(MixCriterion(nn.BCEWithLogitsLoss())(outputs, pair), by_hand)
    torch.testing.assert_close(MixCriterion(lambda o, y: bce(o, y))(outputs, pair), by_hand)


def test_a_criterion_without_a_loss_for_each_sample_is_refused():
    """A loss that is reduced already cannot be weighted, and the text says what to do."""
    loss = MixCriterion(lambda outputs, labels: nnf.cross_entropy(outputs, labels))
    with pytest.raises(ValueError, match=r"a loss for each of the 2 samples"):
        loss(torch.randn(2, 3), torch.tensor([0, 1]))


def test_paired_labels_and_the_criterion_can_be_pickled_and_moved():
    """Pairs survive a worker's queue, and the criterion is a module with its weights inside."""
    pair = PairedLabels(torch.tensor([1]), torch.tensor([0]), torch.tensor([0.5]))
    assert pickle.loads(pickle.dumps(pair)) == pair  # noqa: S301 - our own
    loss = MixCriterion(nn.CrossEntropyLoss(weight=torch.ones(3)))
    assert loss.double().criterion.weight.dtype == torch.float64
    assert "criterion.weight" in loss.state_dict()


def test_pairs_and_plans_move_as_a_tensor_does():
    """.to(device) moves every field, keeps what is there, and gives the same class."""
    pair = PairedLabels(torch.tensor([1]), torch.tensor([0]), torch.tensor([0.5]))
    plan = plans.identity_plan(3)
    for value in (pair, plan):
        moved = value.to("meta", non_blocking=True)
        assert type(moved) is type(value)
        assert all(field.is_meta for field in moved)
        assert [f.dtype for f in moved] == [f.dtype for f in value]
        assert all(one is other for one, other in zip(value.to("cpu"), value, strict=True))
        assert value.to(torch.device("meta"), True)[0].is_meta
    with pytest.raises(TypeError):
        pair.to(torch.float16)  # class indices have no other dtype


LOAD = """
import sys, {first}
import torch
values = torch.load(sys.argv[1], weights_only=True)
assert [type(value).__name__ for value in values] == ["Plan", "PairedLabels"], values
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "opens"),
    [
        ("tv_mixaug.targets.labels", True),
        ("tv_mixaug", False),
    ],
)
def test_plans_and_pairs_are_loaded_as_weights(first, opens, tmp_path):
    """A new process opens them once a module that knows them is imported; else torch says how."""
    pair = PairedLabels(torch.tensor([1]), torch.tensor([0]), torch.tensor([0.5]))
    torch.save([plans.identity_plan(3), pair], tmp_path / "mixes.pt")
    code = LOAD.format(first=first)
    command = [sys.executable, "-c", code, str(tmp_path / "mixes.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode == 0) is opens, done.stderr
    assert opens or "add_safe_globals([tv_mixaug.engine.plan.Plan])" in done.stderr


# --- Several labels -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32))
def test_several_labels_share_partner_and_weight(kind, seed):
    """Class, multi-hot and real targets named by key are all mixed by one plan."""
    torch.manual_seed(seed)
    batch = {
        "image": IMAGES,
        "breed": torch.randint(4, (6,)),
        "tags": torch.rand(6, 3) < 0.5,
        "age": torch.rand(6),
        "name": list("abcdef"),
    }
    transform = kind(
        num_classes={"breed": 4, "tags": "multi", "age": "regression"}, mode="sample", p=0.7
    )
    out, plan = transform.mix(batch)
    assert list(out) == list(batch)
    assert out["name"] == batch["name"]
    for key, rows in (
        ("breed", nnf.one_hot(batch["breed"], 4)),
        ("tags", batch["tags"]),
        ("age", batch["age"]),
    ):
        assert out[key].dtype == torch.float32
        expected = mixed_by_hand(rows.double(), plan)
        torch.testing.assert_close(out[key].double(), expected, atol=1e-6, rtol=0)


def test_mix_criterion_takes_over_the_criterions_own_ignore_index():
    """An index that the criterion ignores counts neither in the sum nor in the mean, as torch."""
    outputs, labels = torch.randn(3, 4), torch.tensor([-100, 1, 2])
    wanted = torch.nn.CrossEntropyLoss()(outputs, labels)
    assert torch.allclose(MixCriterion(torch.nn.CrossEntropyLoss())(outputs, labels), wanted)


@pytest.mark.parametrize("getter", [None, lambda batch: batch["a"]])
def test_a_mapping_of_labels_takes_no_getter(getter):
    """Labels named by key cannot be pointed to a second time."""
    with pytest.raises(ValueError, match="labels_getter"):
        Mixup(num_classes={"a": 3}, labels_getter=getter)
