"""Batches of every form in compiled steps, inside torch.func, and with other default devices."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers.coded import coded_planes, pixel_weights
from helpers.compiling import compile_counted, needs_tracing
from helpers.loading import same
from helpers.transforms import MEMBERS, make, names
from torch import Tensor, func, nn
from torch._dynamo.exc import Unsupported
from torch.autograd import forward_ad
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, Image, Mask

from tv_mixaug import Chain, CutMix, Cutout, Mixup, OneOf, RandomErasing, functional
from tv_mixaug import make_collate_fn as collate
from tv_mixaug.engine import sampling
from tv_mixaug.engine.plan import PASTE, make_plan
from tv_mixaug.transforms.base import MixTransform

B = 4
K = {"num_classes": B}
IMAGES, LABELS, GENERATOR = coded_planes(B, (8, 8)), torch.arange(B), torch.Generator()


def run_seeded(function, *batch):
    """Call a function with the same random numbers each time."""
    torch.manual_seed(0)
    GENERATOR.manual_seed(0)
    return function(*batch)


# --- Compiled -------------------------------------------------------------------------------------


@needs_tracing
@pytest.mark.slow
@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("form", ["tuple", "arguments", "mapping", "list of images"])
def test_every_form_of_a_batch_is_one_graph(form, typed, fullgraph):
    """Plain tensors and tv_tensors keep their types, and labels and masks follow the pixels."""
    rules = [Mixup(0.2, masks="dominant", **K), CutMix(**K), Cutout(4, mask_fill=B, **K)]
    mix = OneOf(rules, mode="sample")
    batch = [Image(IMAGES) if typed else IMAGES, LABELS]
    if form == "list of images":
        batch[0] = [Image(one) if typed else one for one in IMAGES]
    elif typed:
        batch.insert(1, Mask(LABELS.view(-1, 1, 1).repeat(1, 8, 8)))

    compiled, counter = compile_counted(mix, fullgraph=fullgraph)
    for _ in range(4):
        if form == "mapping":
            fields = compiled(dict(zip("xyz", batch, strict=False)))
            fields = list(fields.values())
        else:
            fields = compiled(*batch) if form == "arguments" else compiled(tuple(batch))
        assert [*map(type, fields)] == [*map(type, batch)]
        assert [*map(type, fields[0])] == [*map(type, batch[0])]
        weights = pixel_weights(torch.stack([one.as_subclass(Tensor) for one in fields[0]]))
        visible = weights.mean((2, 3))
        torch.testing.assert_close(fields[-1].double(), visible / visible.sum(1, keepdim=True))
        if len(fields) == 3:
            ids = torch.where(weights.sum(1) > 0, weights.argmax(1), B)
            assert torch.equal(fields[1].as_subclass(Tensor), ids)
    assert counter.frame_count == 1


EACH = {"mode": "sample", "labels_getter": None}
SCHEDULES = {  # a rule, its argument, and the argument whose effect has a given mean
    "alpha": (Mixup(**EACH), "alpha", lambda mean: 1 / (0.5 / mean - 2)),
    "alphas": (Mixup(**EACH), "alpha", lambda mean: (1e6 * mean, 1e6 * (1 - mean))),
    "lam": (CutMix(correct_lam=False, **EACH), "lam", float),
    "lams": (Mixup(**EACH), "lam", lambda mean: (mean, mean + 0.01)),
    "lam in a choice": (Mixup(**EACH), "lam", float),
    "scale": (RandomErasing(p=1.0, **EACH), "scale", lambda mean: [mean, mean + 0.01]),
}


@needs_tracing
@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_numbers_are_inputs_of_a_graph(name):
    """A schedule needs two graphs for any number of values, and each value has its effect."""
    mix, argument, value_of = SCHEDULES[name]
    whole = OneOf([mix], mode="sample") if "choice" in name else mix
    compiled, counter = compile_counted(lambda x: whole.mix(x)[1], fullgraph=True)
    images = torch.zeros(1024, 1, 32, 32)
    for mean in torch.linspace(0.03, 0.21, 11).tolist():
        setattr(mix, argument, value_of(mean))
        plan = compiled(images)
        effect = plan.lam * (1 - plan.lam) if name == "alpha" else plan.lam
        if name == "scale":
            effect = (plan.boxes[..., 2:] - plan.boxes[..., :2]).prod(-1) / 32**2
        assert abs(effect.double().mean() - mean) < 0.02
    assert counter.frame_count <= 2


class HostRule(MixTransform):
    """A rule that samples Python's numbers."""

    partner: Any = 1

    def sample(self, batch, p, source):
        """Paste the same box for all."""
        options = {"partner": self.partner, "lam": 0.5, "boxes": [[0, 0, 8, 4]]}
        return make_plan(PASTE, batch.length, True, **options)


class NumpyRule(HostRule):
    """A rule that samples NumPy's numbers."""

    partner = np.arange(B)


def make_target():
    """Return a target of two objects."""
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 8.0, 8.0]])
    boxes = BoundingBoxes(boxes, format="XYXY", canvas_size=(8, 8))  # type: ignore[call-overload]
    return {"boxes": boxes, "labels": torch.tensor([1, 2])}


BATCH, MIX = (IMAGES, LABELS), CutMix(**K)
FOREIGN = OneOf([MIX, nn.Identity()])
TARGETS = IMAGES, [make_target() for _ in range(B)]
OUTSIDE = {
    "targets": (CutMix(), TARGETS, "detection targets"),
    "named targets": (CutMix(), ({"image": IMAGES, "target": TARGETS[1]},), "detection targets"),
    "rule of the host": (HostRule(**K), BATCH, "must return tensors"),
    "timm": (make("timm, batch", **K), BATCH, "timm cannot be compiled"),
    "foreign": (FOREIGN, (BATCH,), "must be rules of tv_mixaug on a device"),
    "transform of v2": (OneOf([MIX, v2.MixUp(num_classes=B)]), BATCH, "must be rules of tv_mixaug"),
    "chain": (Chain([MIX]), BATCH, "Chain cannot be compiled"),
    "chain of targets": (Chain([CutMix()]), TARGETS, "Chain cannot be compiled"),
    "collate": (collate(MIX), ([*zip(*BATCH, strict=True)],), "collate function cannot be"),
    "generator": (lambda *x: MIX.mix(x, generator=GENERATOR), BATCH, "generator must be None"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dynamo warns of what it skips
def test_releases_of_torch_that_cannot_trace_run_outside_too(monkeypatch):
    """With ``fullgraph`` the error shows a sentence that names the first release that can."""
    mix = CutMix(**K)
    monkeypatch.setattr(sampling, "TRACES", False)
    with pytest.raises(Exception, match=r"needs torch 2\.12 or newer for transforms\."):
        compile_counted(mix, fullgraph=True)[0](IMAGES, LABELS)
    assert same(*(run_seeded(one, IMAGES, LABELS) for one in (compile_counted(mix)[0], mix)))


@needs_tracing
@pytest.mark.slow
@pytest.mark.parametrize("name", OUTSIDE)
def test_what_cannot_be_compiled_runs_outside_as_a_whole(name):
    """Without fullgraph the result is the eager one, bit for bit, and no part of it is a graph."""
    mix, batch, sentence = OUTSIDE[name]

    def step(scale, *batch):
        return scale * 2, mix(*batch), scale * 3

    with pytest.raises(Unsupported, match=f"raised exception .*{sentence}"):
        compile_counted(step, fullgraph=True)[0](torch.ones(()), *batch)
    compiled, counter = compile_counted(step)
    for _ in range(2):
        assert same(*(run_seeded(one, torch.ones(()), *batch) for one in (compiled, step)))
    assert counter.op_count == 2  # the operations of the step before and after the call


# --- torch.func -----------------------------------------------------------------------------------


RULES = [name for name in names(has_plan=True) if not name.startswith("timm")]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # of torch's forward derivatives
@pytest.mark.parametrize("name", RULES)
def test_derivatives_are_those_of_the_plan(name):
    """Those of torch.func and forward mode are those of a replay, since mixing is linear."""
    mix, (images, weights) = make(name, **K), torch.rand(2, B, 3, 8, 8)

    def mix_images(x):
        (mixed, _), plan = mix.mix((x, LABELS))
        return mixed, plan

    def total(x):
        mixed, plan = mix_images(x)
        return (mixed * weights).sum(), plan

    _, tangent, plan = func.jvp(mix_images, (images,), (weights,), has_aux=True)
    torch.testing.assert_close(tangent, functional.replay(weights, plan, 0.0))
    with forward_ad.dual_level():
        mixed, plan = mix_images(forward_ad.make_dual(images, weights))
        tangent = forward_ad.unpack_dual(mixed).tangent
        torch.testing.assert_close(tangent, functional.replay(weights, plan, 0.0))
    gradient, plan = func.grad(total, has_aux=True)(images)
    (functional.replay(images.requires_grad_(), plan, 0.0) * weights).sum().backward()
    torch.testing.assert_close(gradient, images.grad)


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("labels", [LABELS, LABELS.repeat(5, 1), torch.eye(B)])
@pytest.mark.parametrize("name", RULES)
def test_batches_may_be_mapped(name, labels, randomness):
    """Each batch that vmap maps has labels that equal its pixels, by one plan or several."""
    mix, dims = make(name, **K), (0, 0 if len(labels) == 5 else None)
    images = IMAGES.repeat(5, 1, 1, 1, 1)
    mixed, rows = func.vmap(mix, dims, randomness=randomness)(images, labels)
    shares = torch.stack([pixel_weights(batch).mean((2, 3)) for batch in mixed])
    if MEMBERS[name].erased is None:
        torch.testing.assert_close(shares, rows.double(), atol=1e-6, rtol=0)
    elif not MEMBERS[name].mixes:
        assert torch.equal(rows, torch.eye(B).expand(5, B, B))
    assert mixed[1:].eq(mixed[:1]).all() == (randomness == "same")


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_has_no_derivatives_is_refused(name):
    """Inside torch.func there is one sentence for what the host does."""
    mix, batch, sentence = OUTSIDE[name]
    with pytest.raises(TypeError, match=sentence):
        func.grad(lambda weight: (weight, mix(*batch))[0])(torch.ones(()))


# --- Devices --------------------------------------------------------------------------------------


STEPS = [OneOf([MIX]), OneOf([MIX, Cutout(**K)]), v2.Pad(1)]


@pytest.mark.parametrize("name", [*OUTSIDE, "containers"])
def test_the_default_device_changes_nothing(name):
    """Random numbers of the host, and what is made of them, are on the CPU."""
    mix, batch, _ = {**OUTSIDE, "containers": (Chain(STEPS), BATCH, "")}[name]
    with torch.device("meta"):
        found = run_seeded(mix, *batch)
    assert same(found, run_seeded(mix, *batch))


@pytest.mark.parametrize("mix", [Mixup, CutMix])
def test_an_empty_batch_on_a_device_gives_pairs(mix):
    """Pairs of no samples are empty."""
    images, labels = torch.rand(0, 3, 8, 8, device="meta"), LABELS[:0].to("meta")
    _, pairs = mix(num_classes=B, targets="pair")(images, labels)
    assert [tuple(part.shape) for part in pairs] == [(0,)] * 3


def test_a_plan_of_the_host_is_moved_to_a_device():
    """A rule that uses NumPy samples on the host, and its plan is moved."""
    plan, host = NumpyRule(**K).draw_plan(BATCH, device="meta"), NumpyRule(**K).draw_plan(BATCH)
    assert {field.device.type for field in plan} == {"meta"}
    assert [field.shape for field in plan] == [field.shape for field in host]
