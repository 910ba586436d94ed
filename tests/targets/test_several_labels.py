"""Several targets of one image: all are mixed by one plan, each in its own form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as nnf
from torch.utils.data import DataLoader

from tv_mixaug import CutMix, Cutout, Mixup, PairedLabels, make_collate_fn
from tv_mixaug.losses import MixCriterion

KINDS = {"breed": 4, "tags": "multi", "age": "regression"}


def make_batch(count=6):
    return {
        "image": torch.rand(count, 3, 8, 8),
        "breed": torch.randint(4, (count,)),
        "tags": torch.rand(count, 3) < 0.5,
        "age": torch.rand(count) * 90,
    }


def mixed_by_hand(rows, plan):
    lam = plan.lam.double().view(-1, *[1] * (rows.ndim - 1))
    return lam * rows.double() + (1 - lam) * rows[plan.partner].double()


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@given(seed=st.integers(0, 2**32))
def test_targets_without_a_label_add_nothing(kind, seed):
    """With ignore_index, each label's row sums to the weight of those who have that label."""
    torch.manual_seed(seed)
    batch = {
        "image": torch.rand(6, 1, 8, 8),
        "a": torch.randint(-1, 3, (6,)),
        "b": torch.randint(-1, 5, (6,)),
    }
    transform = kind(num_classes={"a": 3, "b": 5}, ignore_index=-1, mode="sample")
    out, plan = transform.mix(batch)
    for key in "ab":
        known = mixed_by_hand((batch[key] != -1).float(), plan)
        torch.testing.assert_close(out[key].sum(1).double(), known, atol=1e-6, rtol=0)
        assert ((out[key] >= 0) & (out[key] <= 1)).all()


def test_keys_are_found_wherever_they_are():
    """Labels deep in the batch are named by their own key, and positions name them in tuples."""
    batch = make_batch()
    nested = {"image": batch["image"], "about": [{"breed": batch["breed"]}, {"age": batch["age"]}]}
    out = CutMix(num_classes={"breed": 4, "age": "regression"})(nested)
    assert out["about"][0]["breed"].shape == (6, 4)
    assert out["about"][1]["age"].dtype == torch.float32
    images, breed, age = batch["image"], batch["breed"], batch["age"]
    out = CutMix(num_classes={1: 4, 2: "regression"})(images, breed, age)
    assert out[1].shape == (6, 4)
    assert out[2].shape == (6,)


def test_labels_that_are_not_named_stay():
    """A mapping says which are labels: an integer tensor that it does not name passes through."""
    batch = {**make_batch(), "label": torch.arange(6), "id": torch.arange(6)}
    out = CutMix(num_classes=KINDS)(batch)
    assert out["label"] is batch["label"]
    assert out["id"] is batch["id"]


def test_pairs_of_several_targets():
    """With targets="pair" classes come as pairs with one lam, and real targets stay numbers."""
    batch = make_batch()
    out, plan = Mixup(num_classes=KINDS, targets="pair", mode="sample").mix(batch)
    for key in ("breed", "tags"):
        assert type(out[key]) is PairedLabels
        assert torch.equal(out[key].labels, batch[key])
        assert torch.equal(out[key].partner_labels, batch[key][plan.partner])
        assert torch.equal(out[key].lam, plan.lam)
    expected = mixed_by_hand(batch["age"], plan)
    torch.testing.assert_close(out["age"].double(), expected, atol=1e-4, rtol=0)


def test_a_pairing_function_gets_the_first_label():
    """With several labels, pairing sees the first of them in the batch."""
    seen = []

    def pairing(labels):
        seen.append(labels)
        return torch.arange(len(labels)).flip(0)

    batch = make_batch()
    _, plan = Mixup(num_classes=KINDS, pairing=pairing).mix(batch)
    assert torch.equal(seen[0], batch["breed"])
    assert torch.equal(plan.partner, torch.arange(6).flip(0))


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_the_format_is_one_in_every_batch(p):
    """Each target has one dtype and shape, whether the batch was mixed or not."""
    for _ in range(6):
        out = Mixup(num_classes=KINDS, p=p)(make_batch())
        forms = {key: (value.dtype, tuple(value.shape)) for key, value in out.items()}
        assert forms == {
            "image": (torch.float32, (6, 3, 8, 8)),
            "breed": (torch.float32, (6, 4)),
            "tags": (torch.float32, (6, 3)),
            "age": (torch.float32, (6,)),
        }


def test_a_loader_feeds_several_losses():
    """From samples to a backward pass: classes, tags and a number, one loss for each."""
    batch = make_batch(8)
    samples = [{key: value[i] for key, value in batch.items()} for i in range(8)]
    for i, sample in enumerate(samples):
        sample["breed"] = -1 if i == 3 else int(sample["breed"])
    collate = make_collate_fn(
        [
            Mixup(num_classes=KINDS, ignore_index=-1),
            CutMix(num_classes=KINDS, ignore_index=-1),
        ]
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    classes = MixCriterion(nn.CrossEntropyLoss(), ignore_index=-1)
    tags, age = MixCriterion(nn.BCEWithLogitsLoss()), MixCriterion(nn.MSELoss())
    for mixed in DataLoader(samples, batch_size=4, collate_fn=collate):
        outputs = model(mixed["image"])
        total = classes(outputs[:, :4], mixed["breed"]) + tags(outputs[:, 4:7], mixed["tags"])
        total = total + age(outputs[:, 7], mixed["age"])
        total.backward()
        assert total.isfinite()
        by_hand = -(outputs[:, :4].log_softmax(1) * mixed["breed"]).sum() / mixed["breed"].sum()
        torch.testing.assert_close(classes(outputs[:, :4], mixed["breed"]), by_hand)
        plain = nnf.mse_loss(outputs[:, 7], mixed["age"])
        torch.testing.assert_close(age(outputs[:, 7], mixed["age"]), plain)
