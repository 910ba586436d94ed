"""Plans and paired labels: compact form, printing, moving, and copies of every kind."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree

from tv_mixaug import CutMix, Cutout, PairedLabels, functional, testing
from tv_mixaug.engine.plan import Plan, compact, identity_plan

IMAGES = torch.rand(3, 1, 8, 8)


def make_pair():
    return PairedLabels(torch.arange(3), torch.arange(3).flip(0), torch.tensor([0.25, 1.0, 0.5]))


@given(testing.plans(image_size=(5, 7), max_size=6), st.integers(0, 6))
def test_a_compact_plan_stands_for_the_same_plan(plan, shift):
    """No value is lost, and exactly the cyclic shifts are stored as one number."""
    count = len(plan.op)
    for partner in (plan.partner, (torch.arange(count) - shift) % count):
        one = plan._replace(partner=partner)
        compacted = compact(one)
        assert all(map(torch.equal, compacted.plan(), one))
        is_shift = torch.equal(partner, (torch.arange(count) + partner[0]) % count)
        assert (compacted.shift is not None) == is_shift
        assert torch.equal(compacted.partners(), partner)
        names = torch.arange(100, 100 + count).numpy()
        assert compacted.of_partners(names).tolist() == (100 + partner).tolist()


def test_the_identity_plan_has_every_shape():
    """The plan that changes nothing exists for boxes, cuboids, several boxes and no samples."""
    for dims, boxes, count in ((2, 1, 3), (3, 1, 3), (2, 2, 3), (2, 1, 0)):
        plan = identity_plan(count, dims, boxes)
        assert plan.boxes.shape == (count, boxes, 2 * dims)
        assert plan.partner.tolist() == list(range(count))
        assert plan.lam.tolist() == [1.0] * count
        assert not any(field.any() for field in (plan.op, plan.boxes, plan.noise))
        assert compact(plan).shift == 0


def test_plans_and_pairs_are_printed_in_a_line():
    """Shapes and dtypes are shown, but no values, also of fields that are no tensors."""
    plan = identity_plan(3)._replace(op=torch.tensor([3, 0, 3], dtype=torch.uint8))
    text = "partner=(3,) int64, lam=(3,) float32, boxes=(3, 1, 4) int64, noise=(3,) int64"
    assert repr(plan) == f"Plan(op=(3,) uint8, {text}, size=(3, 2) int64)"
    pair = make_pair()._replace(partner_labels=torch.zeros(3, 5))
    text = "labels=(3,) int64, partner_labels=(3, 5) float32, lam=(3,) float32"
    assert repr(pair) == f"PairedLabels({text})"
    for kind in (Plan, PairedLabels):
        for item in (None, "text", torch.empty(0), torch.empty(2, device="meta"), torch.tensor(7)):
            text = repr(kind(*[item] * len(kind._fields)))
            assert text.startswith(f"{kind.__name__}({kind._fields[0]}=")
        with FakeTensorMode():
            assert "lam=(2,) float32" in repr(kind(*[torch.empty(2)] * len(kind._fields)))


@pytest.mark.parametrize("make", [lambda: identity_plan(3), make_pair], ids=["plan", "pair"])
def test_plans_and_pairs_move_as_a_tensor_does(make):
    """``to`` moves every field, keeps fields that are there already, and keeps the class."""
    value = make()
    moved = value.to("meta", non_blocking=True)
    assert type(moved) is type(value)
    assert all(field.is_meta for field in moved)
    assert [f.dtype for f in moved] == [f.dtype for f in value]
    assert all(one is other for one, other in zip(value.to("cpu"), value, strict=True))
    assert value.to(torch.device("meta"), True)[0].is_meta
    with pytest.raises(TypeError):
        value.to(torch.float16)  # class indices have no other dtype


@pytest.mark.parametrize("make", [lambda: identity_plan(3), make_pair], ids=["plan", "pair"])
def test_plans_and_pairs_survive_what_walks_containers(make, tmp_path):
    """Built from items or one iterable, replaced, mapped, pickled or loaded, they stay equal."""
    value = make()
    kind = type(value)
    found = [
        kind(*value),
        kind(field.clone() for field in value),
        kind([*value]),
        kind(**value._asdict()),
        kind._make(value),
        value._replace(lam=value.lam.clone()),
        pytree.tree_map(torch.clone, value),
        pickle.loads(pickle.dumps(value)),  # noqa: S301
        copy.deepcopy(value),
    ]
    torch.save({"value": value}, tmp_path / "value.pt")
    found.append(torch.load(tmp_path / "value.pt", weights_only=True)["value"])
    for other in found:
        assert type(other) is kind
        assert all(map(torch.equal, other, value))
    with pytest.raises(TypeError):
        kind(torch.zeros(1))


LOAD = """
import sys, {imported}
import torch
values = torch.load(sys.argv[1], weights_only=True)
assert [type(value).__name__ for value in values] == ["Plan", "PairedLabels"], values
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imported", "opens"), [("tv_mixaug.targets.labels", True), ("tv_mixaug", False)]
)
def test_plans_and_pairs_are_loaded_as_weights(imported, opens, tmp_path):
    """A new process loads them after a module that defines them was imported."""
    torch.save([identity_plan(3), make_pair()], tmp_path / "mixes.pt")
    code = LOAD.format(imported=imported)
    command = [sys.executable, "-c", code, str(tmp_path / "mixes.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode == 0) is opens, done.stderr
    assert opens or "add_safe_globals([tv_mixaug.engine.plan.Plan])" in done.stderr


@given(st.integers(1, 4), st.integers(0, 2**32), st.sampled_from(["paste", "fill"]))
def test_a_plan_is_replayed_in_another_size_where_that_is_exact(factor, seed, kind):
    """A finer grid gets the boxes scaled, and a coarser one only if they fit."""
    torch.manual_seed(seed)
    images = torch.rand(3, 1, 12, 8)
    make = {"paste": CutMix(mode="sample", labels_getter=None), "fill": Cutout(0.4, holes=2)}[kind]
    mixed, plan = make.mix(images)
    fine = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    assert torch.equal(functional.replay(fine, plan)[..., ::factor, ::factor], mixed)
    mask = functional.region_mask(plan, (12 * factor, 8 * factor)).mean((1, 2, 3))
    torch.testing.assert_close(mask, functional.region_mask(plan, (12, 8)).mean((1, 2, 3)))
    if bool((plan.boxes % 2).any()):
        with pytest.raises(ValueError, match=r"images must be of the size \(12, 8\)"):
            functional.replay(images[..., ::2, ::2], plan)
    else:
        coarse = functional.region_mask(plan, (6, 4)).mean((1, 2, 3))
        torch.testing.assert_close(coarse, functional.region_mask(plan, (12, 8)).mean((1, 2, 3)))
