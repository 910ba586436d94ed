"""Plans and paired labels are printed as shapes and dtypes."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from tv_mixaug import PairedLabels
from tv_mixaug.engine.plan import Plan, identity_plan


def test_plans_and_pairs_are_printed_in_a_line():
    """A notebook's cell shows shapes and dtypes, and not every number."""
    plan = identity_plan(3)._replace(op=torch.tensor([3, 0, 3], dtype=torch.uint8))
    plan = plan._replace(lam=torch.tensor([0.25, 1.0, 0.5]))
    text = "partner=(3,) int64, lam=(3,) float32, boxes=(3, 1, 4) int64, noise=(3,) int64)"
    assert repr(plan) == f"Plan(op=(3,) uint8, {text}"
    pair = PairedLabels(torch.arange(3), torch.zeros(3, 5), plan.lam)
    text = "labels=(3,) int64, partner_labels=(3, 5) float32, lam=(3,) float32"
    assert repr(pair) == f"PairedLabels({text})"


@pytest.mark.parametrize("kind", [Plan, PairedLabels])
def test_any_field_can_be_printed(kind):
    """Fields without values, of a fake tensor or of no tensor at all, are printed too."""
    for item in (None, "leaf", torch.empty(0), torch.empty(2, device="meta"), torch.tensor(7)):
        text = repr(kind(*[item] * len(kind._fields)))
        assert text.startswith(f"{kind.__name__}({kind._fields[0]}=")
    with FakeTensorMode():
        assert "lam=(2,) float32" in repr(kind(*[torch.empty(2)] * len(kind._fields)))
