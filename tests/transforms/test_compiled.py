"""Compiled steps: one graph for all random numbers, with right labels and distributions."""

import contextlib
import os
import shutil
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from helpers.coded import coded_planes, pixel_weights
from helpers.compiling import compile_counted, needs_tracing
from helpers.distributions import stats
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torchvision import tv_tensors

from tv_mixaug import (
    CutMix,
    Cutout,
    MixCriterion,
    Mixup,
    OneOf,
    PairedLabels,
    RandomErasing,
    functional,
)
from tv_mixaug.engine.plan import BLEND, FILL, NONE, PASTE, Plan

# Each compiles; test_battery.py compiles each rule once.
pytestmark = [pytest.mark.slow, needs_tracing]

B = 6
CALLS = 50
LEVEL = 1e-4
# What the cases are compiled with: "aot_eager" only traces and is quick; "inductor" is the default.
BACKEND = os.environ.get("COMPILED_TEST_BACKEND", "aot_eager")
K = {"num_classes": B}
SAMPLE = {"mode": "sample", **K}
EYE, INDICES, BOX = torch.eye(B), torch.arange(B), torch.tensor([[1, 2, 5, 8]])
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


compile_whole = partial(compile_counted, backend=BACKEND, fullgraph=True)


def make_images(dtype=torch.float32):
    """Return coded planes that hold 1, or 255 in uint8."""
    return coded_planes(B, (8, 8), dtype) * (255 if dtype == torch.uint8 else 1)


def read_weights(images, layout="BCHW"):
    """Return (B, B, ..., H, W) float64: the weight of each sample in each pixel."""
    white = 255 if images.dtype == torch.uint8 else 1
    return pixel_weights(images.as_subclass(Tensor).movedim(layout.index("C"), 1)) / white


class Case(NamedTuple):
    """A transform, the batch that it is compiled for, and what is expected."""

    transform: Any
    dtype: torch.dtype = torch.float32
    layout: str = "BCHW"  # with T the images are a video
    masks: str | None = None  # "planes" of weights, or class "ids"
    fills: bool = False  # whether pixels may belong to no sample

    @property
    def backend(self):
        """The backend; "aot_eager" of torch 2.14 fails for any operation on tv_tensors."""
        is_typed = self.masks or "T" in self.layout
        return "eager" if is_typed and BACKEND == "aot_eager" else BACKEND

    def batch(self, count=B):
        """Return the first samples of the batch."""
        images = make_images(self.dtype)[:count]
        if "T" in self.layout:
            images = tv_tensors.Video(images[:, None].repeat(1, 8, 1, 1, 1))
        elif self.layout != "BCHW":
            images = images.movedim(1, -1).contiguous()
        batch = {"image": images, "label": torch.arange(count)}
        if self.masks:
            ids = torch.arange(count).view(-1, 1, 1).expand(count, 8, 8).contiguous()
            batch["mask"] = tv_tensors.Mask(ids)
        return batch

    def check(self, mixed):
        """Check that labels and masks are what the images show."""
        images, labels = mixed["image"], mixed["label"]
        assert images.dtype == self.dtype
        assert type(images) is (tv_tensors.Video if "T" in self.layout else Tensor)
        weights = read_weights(images, self.layout)
        share = weights.flatten(2).mean(2)
        if isinstance(labels, PairedLabels):
            lam = labels.lam[:, None]
            labels = lam * EYE[labels.labels] + (1 - lam) * EYE[labels.partner_labels]
        if self.fills:
            torch.testing.assert_close(labels, EYE[: len(labels)])
            assert torch.equal(share, share.diagonal().diag())
            assert (share.diagonal() > 0).all()
            return
        rounding = {torch.uint8: 0.5 / 255, torch.bfloat16: 2**-8}.get(self.dtype, 1e-6)
        smoothing = getattr(self.transform, "label_smoothing", 0.0)
        expected = (labels.double() - smoothing / B) / (1 - smoothing)
        torch.testing.assert_close(share, expected, atol=rounding + 1e-6, rtol=0)
        if self.masks == "planes":
            planes = mixed["mask"].as_subclass(Tensor).double()
            torch.testing.assert_close(planes, weights, atol=rounding, rtol=0)
        if self.masks == "ids":
            assert torch.equal(mixed["mask"].as_subclass(Tensor), weights.argmax(1))


def choose(mode, **options):
    """Return a choice between Mixup and CutMix."""
    options = {**K, "mode": mode, **options}
    return OneOf([Mixup(**options), CutMix(p=0.7, **options)], mode=mode)


PAIRS = {"p": 0.5, "pairing": "shuffle", "targets": "pair"}
FILL_VALUES = [float(i) for i in range(B)] * 2
CASES = {
    "Mixup, soft masks": Case(Mixup(**K, masks="soft", num_mask_classes=B), masks="planes"),
    "Mixup, uint8, pairs": Case(Mixup(0.4, **PAIRS, **SAMPLE), torch.uint8),
    "Mixup, bfloat16, dominant masks": Case(
        Mixup(lam=(0.0, 0.9), masks="dominant", label_smoothing=0.1, **SAMPLE),
        torch.bfloat16,
        masks="ids",
    ),
    "Mixup, channels last": Case(
        Mixup((0.05, 2.0), p=0.5, pairing="shuffle", layout="BHWC", **K), layout="BHWC"
    ),
    "Mixup, in place": Case(Mixup(lam=0.3, inplace=True, **SAMPLE)),
    "CutMix, smoothed": Case(CutMix(label_smoothing=0.2, **K), torch.uint8),
    "CutMix, masks, pairs": Case(CutMix(**PAIRS, **SAMPLE), torch.bfloat16, masks="ids"),
    "CutMix, cuboids": Case(CutMix(cut="cuboid", **SAMPLE), torch.uint8, "BTCHW"),
    "Cutout": Case(Cutout(3, holes=2, fill=FILL_VALUES, p=0.5, **K), fills=True),
    "RandomErasing": Case(RandomErasing((0.05, 0.2), count=3, p=0.9, **K), fills=True),
    "a choice for the batch": Case(choose("batch", pairing="shuffle")),
    "a choice for each sample": Case(choose("sample", targets="pair"), torch.uint8),
}


INDUCTOR = [
    pytest.param(name, "inductor", marks=needs_compiler)
    for name in ("Mixup, uint8, pairs", "a choice for each sample")
]


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, case.backend) for name, case in CASES.items()), *INDUCTOR]
)
def test_one_graph_samples_in_every_call(name, backend):
    """Fifty calls of one graph give different batches, whose labels and masks are right."""
    case = CASES[name]
    compiled, counter = compile_whole(case.transform, backend=backend)
    seen = set()
    for _ in range(CALLS):
        batch = case.batch()
        mixed = compiled(batch)
        case.check(mixed)
        seen.add(tuple(mixed["image"].flatten().tolist()))
        assert (mixed["image"] is batch["image"]) == getattr(case.transform, "inplace", False)
        assert torch.equal(batch["label"], INDICES)
    assert counter.frame_count == 1
    assert len(seen) > B / 2  # a roll with one lam has B - 1 results


ANY_SIZE = [
    (CASES["CutMix, masks, pairs"], True),
    (Case(Mixup(0.2, **SAMPLE)), None),
    (Case(CutMix(0.8, **K)), True),
    (Case(OneOf([Mixup((0.05, 2.0), **K), CutMix(3.0, **K)], mode="sample")), True),
]


@pytest.mark.parametrize(("case", "dynamic"), ANY_SIZE)
def test_every_alpha_takes_other_batch_sizes(case, dynamic):
    """A second graph, or the first with dynamic=True, serves all other numbers of samples."""
    compiled, counter = compile_whole(case.transform, backend="eager", dynamic=dynamic)
    counts = []
    for count in (5, 4, 3, 2, 5):  # none is the number of channels, which would be one symbol
        case.check(compiled(case.batch(count)))
        counts.append(counter.frame_count)
    assert counts == ([1] * 5 if dynamic else [1, 2, 2, 2, 2])


MODEL = nn.Sequential(nn.Flatten(), nn.Linear(2 * B * 64, B))
ENTROPY = MixCriterion(nn.CrossEntropyLoss(label_smoothing=0.1))


def replay(images, partner, lam, boxes):
    """Paste the boxes by a plan."""
    op = torch.full_like(partner, PASTE, dtype=torch.uint8)
    return functional.replay(images, Plan(op, partner, lam, boxes[:, None], 0 * partner))


# Errors are formatted before they are raised: sizes are fixed, and values cannot be shown.
STEPS = [
    ("soft", ENTROPY, lambda x, partner, lam, boxes: functional.mixup(x, partner, lam)),
    ("pair", ENTROPY, lambda x, partner, lam, boxes: functional.cutmix(x, partner, boxes)),
    ("index", ENTROPY, lambda x, partner, lam, boxes: functional.cutout(x, boxes)),
    ("pair", MixCriterion(nn.NLLLoss()), replay),
]


@pytest.mark.parametrize(
    ("kind", "criterion", "mix"), STEPS, ids=["mixup", "cutmix", "cutout", "replay"]
)
def test_a_training_step_needs_one_graph_for_all_batch_sizes(kind, criterion, mix):
    """With dynamic=True one graph gives the losses and gradients of every number of samples."""

    def step(images, labels, partner, lam, boxes):
        rows = functional.mix_labels(EYE[labels], partner, lam)
        targets = {"soft": rows, "pair": PairedLabels(labels, labels[partner], lam)}
        outputs = MODEL(mix(images, partner, lam, boxes))
        return criterion(outputs, targets.get(kind, labels))

    compiled, counter = compile_whole(step, dynamic=True)
    counts = []
    for count in (5, 4, 3, 2, 5):
        images, labels = make_images()[:count].requires_grad_(), torch.arange(count)
        batch = images, labels, labels.roll(1), torch.rand(count), BOX.repeat(count, 1)
        losses = [call(*batch) for call in (compiled, step)]
        inputs = images, *MODEL.parameters()
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(loss, inputs) for loss in losses))
        counts.append(counter.frame_count)
    assert counts == counts[:1] * 5


def test_p_may_be_set_between_steps():
    """There is a graph for the first p, one for all others between 0 and 1, and one for 0."""
    transform = Mixup(p=0.9, **SAMPLE)
    compiled, counter = compile_whole(transform)
    before = 0
    for p, is_new in ((0.9, 1), (0.5, 1), (0.3, 0), (0.7, 0), (0.0, 1), (0.2, 0), (0.0, 0)):
        transform.p = p
        mixed = [compiled(make_images(), INDICES)[1] for _ in range(4)]
        assert (counter.frame_count > before) == is_new, p
        assert any(((labels < 1) & (labels > 0)).any() for labels in mixed) == (p > 0)
        before = counter.frame_count
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
        transform.p = 2


def test_gradients_flow_through_the_graph_of_a_rule():
    """They are those without a graph; a pairing function goes into it if its operations do."""
    rule = Mixup(lam=(0.25, 0.25), pairing=lambda rows: (rows + 1) % B, **SAMPLE)

    def loss(images):
        mixed, soft = rule(images, INDICES)
        return (mixed.square().flatten(1).sum(1, keepdim=True) * soft.square()).sum()

    compiled, counter = compile_whole(loss)
    images = make_images().requires_grad_()
    losses = [call(images) for call in (compiled, loss)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(one, images) for one in losses))
    assert counter.frame_count == 1


# --- Distributions --------------------------------------------------------------------------------


def sample_in_graph(transform, count, calls=1, backend=BACKEND, size=(24, 40)):
    """Return the plans that a graph samples for batches of many samples, joined."""
    compiled, counter = compile_whole(lambda *batch: transform.mix(batch)[1], backend=backend)
    images, labels = torch.zeros(count, 1, *size), torch.zeros(count, dtype=torch.int64)
    plans = [compiled(images, labels) for _ in range(calls)]
    assert counter.frame_count == 1
    return Plan(*(torch.cat(fields).cpu() for fields in zip(*plans, strict=True)))


def areas(plan):
    """Return the areas of the boxes of a plan."""
    return (plan.boxes[..., 2:] - plan.boxes[..., :2]).prod(-1).double()


@pytest.mark.parametrize("backend", [BACKEND, pytest.param("inductor", marks=needs_compiler)])
def test_distributions_are_the_same_in_a_graph(backend):
    """Weights, p, and cut and erased areas are distributed as without a graph."""
    plan = sample_in_graph(Mixup((0.4, 0.7), p=0.3, **SAMPLE), 4000, backend=backend)
    assert stats.binomtest(int((plan.op == BLEND).sum()), 4000, 0.3).pvalue > LEVEL
    lam = plan.lam[plan.op == BLEND].double()
    assert stats.kstest(lam.numpy(), stats.beta(0.4, 0.7).cdf).pvalue > LEVEL

    batch = torch.zeros(4000, 1, 24, 40), torch.zeros(4000, dtype=torch.int64)
    plan = sample_in_graph(CutMix(**SAMPLE), 4000, backend=backend)
    host = areas(CutMix(**SAMPLE).draw_plan(batch))
    assert stats.ks_2samp(areas(plan)[:, 0], host[:, 0]).pvalue > LEVEL
    torch.testing.assert_close(plan.lam.double(), 1 - areas(plan)[:, 0] / 960)

    erase = RandomErasing((0.1, 0.3), (0.5, 2.0), p=1.0, **SAMPLE)
    found = areas(sample_in_graph(erase, 4000, backend=backend))[:, 0]
    assert stats.ks_2samp(found, areas(erase.draw_plan(batch))[:, 0]).pvalue > LEVEL
    shares = found[found > 0] / 960
    assert 0.08 < shares.min() < 0.12
    assert 0.28 < shares.max() < 0.33

    either = OneOf([Mixup(**SAMPLE), Cutout(**SAMPLE)], [0.2, 0.5], mode="sample")
    plan = sample_in_graph(either, 4000, backend=backend)
    for op, share in ((BLEND, 0.2), (FILL, 0.5), (NONE, 0.3)):
        assert stats.binomtest(int((plan.op == op).sum()), 4000, share).pvalue > LEVEL


def test_partners_are_uniform_in_a_graph():
    """All shifts but 0 are equally likely, and so are all permutations."""
    plan = sample_in_graph(Mixup(**K), 5, 1000, size=(1, 1))
    shifts = (torch.arange(5) - plan.partner.view(-1, 5)) % 5
    assert (shifts == shifts[:, :1]).all()
    counts = torch.bincount(shifts[:, 0], minlength=5)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > LEVEL
    plan = sample_in_graph(CutMix(pairing="shuffle", **K), 4, 1000, size=(1, 1))
    orders = plan.partner.view(-1, 4)
    assert (orders.sort(1).values == torch.arange(4)).all()
    _, counts = orders.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > LEVEL


# --- Plans on a device, without a graph -----------------------------------------------------------


class NoCopies(TorchDispatchMode):
    """Raise if the host would wait for a device, or copy something to it."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        name = op._schema.name.removeprefix("aten::")
        if name in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal"):
            raise AssertionError(f"{name} makes the host wait")
        for tensor in tree_leaves((args, kwargs, result)):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                raise AssertionError(f"{name} computes on the host or copies from it")
        return result


class NoNumbers(TorchFunctionMode):
    """Raise if ``torch.tensor`` would copy numbers to a device, which no dispatch shows."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        makes = function in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy)
        if makes and not isinstance(args[0], Tensor):
            raise AssertionError(f"{function.__name__} copies from the host")
        return function(*args, **(kwargs or {}))


BATCH = (make_images(), INDICES)
# alpha is 1 or small: torch samples other Beta distributions only where tensors have values.
RULES = {
    "Mixup": Mixup(**K),
    "Mixup, each": Mixup(0.01, p=0.5, pairing="shuffle", **SAMPLE),
    "Mixup, lam": Mixup(lam=(0.2, 0.4), **SAMPLE),
    "CutMix": CutMix(p=0.5, pairing="shuffle", **K),
    "CutMix, each": CutMix(targets="pair", **SAMPLE),
    "Cutout": Cutout(3, holes=2, fill=FILL_VALUES, p=0.5, **K),
    "RandomErasing": RandomErasing(fill="noise", count=2, **K),
    "a choice for the batch": choose("batch"),
    "a choice for each sample": choose("sample"),
    "p = 0": CutMix(p=0.0, **SAMPLE),
}
META = tuple(torch.empty_like(x, device="meta") for x in BATCH)


@pytest.mark.parametrize("name", RULES)
def test_a_device_neither_waits_nor_copies(name):
    """A plan is sampled and applied on a device without numbers of the host."""
    rule, (images, labels) = RULES[name], META
    with NoNumbers(), NoCopies():
        plan = rule.draw_plan(META, device="meta")
        mixed = functional.replay(images, plan, fill=0.5)
        functional.replay(images.to(torch.uint8), plan, fill="noise")
        functional.replay(images, plan, fill=FILL_VALUES)
        region = functional.region_mask(plan, (8, 8))
        functional.mix_labels(labels[:, None].float(), plan.partner, plan.lam)
    assert {field.device.type for field in plan} == {"meta"}
    assert (mixed.shape, region.shape) == (images.shape, (B, 1, 8, 8))
    host = rule.draw_plan(BATCH)
    for field, same in zip(plan, host, strict=True):
        assert (field.shape, field.dtype) == (same.shape, same.dtype)


def test_waits_and_copies_are_detected():
    """Whatever must not happen on a device raises in these tests."""
    images = META[0]
    for wrong in (
        lambda: torch.tensor([1, 2], device="meta"),
        lambda: torch.ones(2).to("meta"),
        lambda: images[torch.tensor([1])],
        lambda: images.sum().item(),
        lambda: bool(images.any()),
    ):
        with pytest.raises((AssertionError, RuntimeError)), NoNumbers(), NoCopies():
            wrong()


# --- On CUDA --------------------------------------------------------------------------------------


@contextlib.contextmanager
def waiting_is_an_error():
    """Let CUDA raise if the host would wait for it."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@pytest.mark.parametrize("name", RULES)
def test_cuda_does_not_wait_in_a_whole_epoch(name):
    """Transforms, plans and replays start work on CUDA and never wait for its results."""
    batch, rule = (make_images().cuda(), INDICES.cuda()), RULES[name]
    rule(*batch)  # the first use loads libraries and may wait
    with waiting_is_an_error():
        for _ in range(CALLS):
            rule(*batch)
            plan = rule.draw_plan(batch, device="cuda")
            functional.replay(batch[0], plan, fill=0.0)
            functional.region_mask(plan, (8, 8))


@needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_cuda_graphs_sample_at_each_replay(name):
    """With mode="reduce-overhead" fifty replays differ, labels are right and nothing waits."""
    case = CASES[name]
    if getattr(case.transform, "inplace", False):
        pytest.skip("CUDA graphs do not write into their inputs")
    torch.compiler.reset()  # many graphs in a row would reach Dynamo's limit
    compiled = torch.compile(case.transform, fullgraph=True, mode="reduce-overhead")
    batch = {key: tv_tensors.wrap(x.cuda(), like=x) for key, x in case.batch().items()}
    for _ in range(3):  # warm-up, recording, first replay
        torch.compiler.cudagraph_mark_step_begin()
        compiled(batch)
    kept, seen = [], set()
    with waiting_is_an_error():
        for _ in range(CALLS):
            torch.compiler.cudagraph_mark_step_begin()
            # A replay writes into the memory of the previous one.
            kept.append(tree_map(torch.clone, compiled(batch)))
    for mixed in kept:
        host = tree_map(lambda tensor: tensor.cpu(), mixed)
        for key, kind in (("image", tv_tensors.Video), ("mask", tv_tensors.Mask)):
            if isinstance(batch.get(key), kind):
                host[key] = kind(host[key])
        case.check(host)
        seen.add(tuple(host["image"].flatten().tolist()))
    assert len(seen) > B / 2
