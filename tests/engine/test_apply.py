"""Applying plans: every path gives the same pixels, in any memory, and gradients flow."""

import dataclasses
from typing import Any

import pytest
import torch
from helpers.coded import DTYPES, bits
from helpers.reference import apply_by_hand, assert_rounded, random_images
from helpers.transforms import MEMBERS, make, names
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

from tv_mixaug import Chain, CutMix, Cutout, Mixup, functional, make_collate_fn, testing
from tv_mixaug.engine import apply, kernels, sampling
from tv_mixaug.engine.plan import BLEND, FILL, PASTE, Plan, compact, make_plan

SIZES = [(3, 5, 7), (3, 150, 150)]  # below and above the size that is mixed sample by sample
OPS = {"blend": BLEND, "paste": PASTE, "fill": FILL}
FILLS = [0.0, 7, (1, 2, 3), "noise", "color"]

any_partner = st.integers(1, 6).flatmap(
    lambda n: (
        st.lists(st.integers(0, n - 1), min_size=n, max_size=n)
        | st.integers(0, n - 1).map(lambda shift: [(row - shift) % n for row in range(n)])
    )
)


@dataclasses.dataclass(eq=False)
class Given(CutMix):
    """A rule whose plan is given."""

    ops = (BLEND, PASTE, FILL)
    plan: Any = None
    fill: Any = 0.0

    def sample(self, batch, p, source):
        """Return the plan that was given."""
        return self.plan


def sample_plan(op, partner, size, shared):
    """Sample a plan of one operation: one draw for all samples, or one for each."""
    count = len(partner)
    boxes, lam = {}, {}
    if op != BLEND:
        shape = (1 if shared else count, 2 if op == FILL else 1)
        sides = torch.randint(1, 6, (2, *shape)).numpy()
        boxes = {"boxes": sampling.sample_boxes(sides, size, shape)}
    if op != FILL:
        lam = {"lam": sampling.sample_lam(1.0, None if shared else count)}
        lam["partner"] = torch.tensor(partner)
    applied = True if shared else torch.rand(count) < 0.8
    noise = sampling.sample_seeds(count)
    return make_plan(op, count, applied, **lam, **boxes, noise=noise).plan()


def spread(images):
    wide = torch.zeros(*images.shape[:-1], 2 * images.shape[-1], dtype=images.dtype)
    wide[..., ::2] = images
    return wide[..., ::2]


FORMS = {
    "contiguous": torch.clone,
    "channels last": lambda x: x.clone(memory_format=torch.channels_last),
    "a view with gaps": spread,
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "a part of a batch": lambda x: torch.cat([x[:1], x])[1:],
}


def in_all_ways(images, plan, fill):
    """Yield what each path through the engine makes of a plan."""
    compacted, labels = compact(plan), torch.arange(len(images))
    for arrange in FORMS.values():
        form = arrange(images)
        fresh = apply.apply_plan(form, compacted, fill)
        assert (fresh is form) == (not plan.op.any())
        assert torch.equal(bits(form), bits(images))
        yield fresh
        strides, written = form.stride(), apply.apply_plan(form, compacted, fill, inplace=True)
        assert (written.data_ptr(), written.stride()) == (form.data_ptr(), strides)
        yield written
    samples = [image.clone() for image in images]
    yield apply.apply_plan(apply.LazyStack(samples, None), compacted, fill)
    assert torch.equal(bits(torch.stack(samples)), bits(images))
    rule = Given(num_classes=len(images), plan=plan, fill=fill)
    yield rule(images, labels)[0]
    yield rule.mix((images.clone(), labels), inplace=True)[0][0]
    samples = list(zip(images.unbind(0), labels.tolist(), strict=True))
    yield make_collate_fn(rule)(samples)[0]
    yield make_collate_fn(rule, collate_fn=lambda samples: default_collate(samples))(samples)[0]
    yield Chain([rule])(images, labels)[0]
    ops = set(plan.op.tolist()) - {0}
    if ops == {BLEND}:
        yield functional.mixup(images, plan.partner, plan.lam)
    elif ops == {PASTE}:
        yield functional.cutmix(images, plan.partner, plan.boxes)
    elif ops == {FILL} and not isinstance(fill, str):
        yield functional.cutout(images, plan.boxes, fill)


@pytest.mark.parametrize("shape", SIZES, ids=["small", "large"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", [*OPS, "mixed"])
@settings(max_examples=8)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_every_path_gives_the_same_pixels(shape, dtype, op, data, seed):
    """Stacked or not, in place or not, in any memory: the bits are those of replay, and right."""
    torch.manual_seed(seed)
    if op == "mixed":
        plan = data.draw(testing.plans(image_size=shape[1:], max_size=6))
    else:
        plan = sample_plan(OPS[op], data.draw(any_partner), shape[1:], data.draw(st.booleans()))
    fill = data.draw(st.sampled_from(FILLS)) if op in ("fill", "mixed") else 0.0
    images = random_images((len(plan.op), *shape), dtype)
    before = images.clone()
    replayed = functional.replay(images, plan, fill)
    for found in in_all_ways(images, plan, fill):
        assert torch.equal(bits(found), bits(replayed))
    assert torch.equal(bits(images), bits(before))
    whole = apply._Job(compact(plan), fill, None, 1, images.ndim).mix_tensors(images)
    # OpenCV blends bytes on the host: a value between two grey levels may be rounded either way.
    torch.testing.assert_close(whole, replayed, atol=dtype == torch.uint8, rtol=0)
    noisy = isinstance(fill, str)
    filled = kernels.box_mask(images, plan.boxes) & (plan.op == FILL).view(-1, 1, 1, 1) & noisy
    exact, same = apply_by_hand(images, plan, 0 if noisy else fill), plan.op != BLEND
    for out in (replayed, whole):
        known = torch.where(filled, 0, out)
        assert_rounded(known, exact)
        assert torch.equal(known[same].double(), exact[same])


def test_a_rule_that_samples_no_seeds_fills_with_the_noise_of_seed_zero():
    """A plan without seeds is recorded with zeros, and replays the same noise."""

    class Corner(Cutout):
        def sample(self, batch, p, source):
            return make_plan(FILL, batch.length, True, boxes=[[0, 0, 3, 3]])

    images = torch.rand(4, 3, 8, 8)
    (mixed, plan), again = Corner(fill="noise").mix(images), Corner(fill="noise")(images)
    assert not plan.noise.any()
    assert torch.equal(mixed, again)
    assert torch.equal(mixed, functional.replay(images, plan, "noise"))
    assert torch.equal(mixed[:, :, 3:], images[:, :, 3:])


# --- Replay -------------------------------------------------------------------------------------


def test_a_plan_replays_on_other_tensors_of_the_same_samples():
    """Labels, features without height and width, and depth maps take the plan of the images."""
    (_, soft), plan = Mixup(num_classes=4).mix((torch.rand(4, 3, 8, 8), torch.arange(4)))
    torch.testing.assert_close(functional.replay(torch.eye(4), plan), soft)
    features = torch.rand(4, 7)
    assert_rounded(functional.replay(features, plan), apply_by_hand(features, plan))
    plan = CutMix(num_classes=4).draw_plan((torch.rand(4, 3, 8, 8), torch.arange(4)))
    depth = torch.rand(4, 8, 8)
    assert torch.equal(functional.replay(depth, plan).double(), apply_by_hand(depth, plan))


@pytest.mark.parametrize("field", Plan._fields)
def test_a_plan_with_a_field_of_another_length_is_not_replayed(field):
    """A field without a row for each sample is refused by its name."""
    images, plan = torch.rand(4, 1, 4, 4), sample_plan(BLEND, [1, 2, 3, 0], (4, 4), True)
    assert functional.replay(images, plan).shape == images.shape
    for wrong in (getattr(plan, field)[:3], getattr(plan, field)[None]):
        with pytest.raises(ValueError, match=f"plan.{field} must be"):
            functional.replay(images, plan._replace(**{field: wrong}))


# --- Gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names(has_plan=True))
@pytest.mark.parametrize("form", ["tensor", "list", "samples", "BHWC", "BCDHW"])
@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_flow_through_transforms(name, form, enabled):
    """Images that require gradients give the same pixels, and gradients where torch records."""
    layout = form if form.startswith("B") else None
    transform = make(name, layout=layout)
    shape = {"BHWC": (4, 6, 6, 3), "BCDHW": (4, 3, 2, 6, 6)}.get(form, (4, 3, 6, 6))

    def mix(images):
        torch.manual_seed(1)
        if form == "samples":
            return make_collate_fn(transform)([(image, i) for i, image in enumerate(images)])[0]
        given = list(images) if form == "list" else images
        mixed, _ = transform(given, torch.arange(4))
        return torch.stack(mixed) if form == "list" else mixed

    images = torch.rand(shape)
    source = images.clone().requires_grad_()
    with torch.set_grad_enabled(enabled):
        mixed = mix(source)
    assert torch.equal(mixed, mix(images))
    assert mixed.requires_grad == enabled
    if enabled:
        mixed.sum().backward()
        # The gradient of the sum is the weight that the images have in the result.
        ones = mix(torch.ones(shape))
        kept = (ones == 1).sum() if MEMBERS[name].erased == "noise" else ones.sum()
        assert float(source.grad.sum()) == pytest.approx(float(kept), rel=1e-5)
