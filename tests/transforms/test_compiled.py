"""Inside the compiled step: one graph for all draws, whose labels and laws are the same."""

import contextlib
import math
import os
import shutil

import numpy as np
import pytest
import torch
from scipy import stats
from torch._dynamo.testing import CompileCounterWithBackend
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import (
    Chain,
    CutMix,
    Cutout,
    Mixup,
    OneOf,
    PairedLabels,
    RandomErasing,
    functional,
    make_collate_fn,
)
from tv_mixaug.engine.plan import BLEND, FILL, NONE, PASTE, Plan, make_plan
from tv_mixaug.timm import Mixup as TimmMixup
from tv_mixaug.transforms.base import MixTransform

pytestmark = pytest.mark.slow  # each compiles; test_battery.py has one graph of each

B = 6
CALLS = 50
P_VALUE = 1e-4
# What the table is compiled with: "aot_eager" traces alone and is quick; "inductor" is the default.
BACKEND = os.environ.get("COMPILED_TEST_BACKEND", "aot_eager")
K = {"num_classes": B}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _fresh():
    """Leave no graphs behind: many in a row would reach Dynamo's limit."""
    yield
    torch.compiler.reset()


def compile_whole(function, backend=BACKEND, **options):
    """Return a function compiled without a break, and the counter of its graphs."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, fullgraph=True, backend=counter, **options), counter


def planes(dtype=torch.float32, form="BCHW", count=B, side=8):
    """Give sample i a channel i of its own, which alone is white: means of channels are shares."""
    white = 255 if dtype == torch.uint8 else 1
    images = (torch.eye(count) * white).to(dtype)
    shape = [side if axis in "HWTD" else count for axis in form]
    where = [count if axis in "BC" else 1 for axis in form]
    return images.view(where).expand(shape).contiguous()


def shares_of(images, form="BCHW"):
    """Return (B, B) float64, the share of each sample in each image."""
    white = 255 if images.dtype == torch.uint8 else 1
    plain = images.as_subclass(torch.Tensor).double() / white
    return plain.mean([place for place, axis in enumerate(form) if axis in "HWTD"])


def soft(labels):
    """Return labels of either format as (B, B) rows."""
    if isinstance(labels, PairedLabels):
        own, other, lam = labels
        eye = torch.eye(B, device=own.device)
        return lam[:, None] * eye[own] + (1 - lam[:, None]) * eye[other]
    return labels


class Case:
    """One row of the table: a transform, its batch and how to read it back.

    Args:
        transform: The transform.
        dtype: Of the images.
        form: Their axes.
        masks: What the mask holds that the transform makes: "soft", "dominant", "cut", or None.
        video: Whether the images are a ``Video``.
        fills: Whether pixels may belong to nobody.
    """

    def __init__(self, transform, dtype=torch.float32, form="BCHW", masks=None, **more):
        self.transform, self.dtype, self.form, self.masks = transform, dtype, form, masks
        # Of torch 2.14 "aot_eager" does nothing with tv_tensors, not even add 1 to them.
        typed = masks or more.get("video")
        self.backend = "eager" if typed and BACKEND == "aot_eager" else BACKEND
        self.video, self.fills = more.pop("video", False), more.pop("fills", False)
        assert not more

    def batch(self, count=B):
        """Make the batch anew, or its first samples."""
        images = planes(self.dtype, self.form)[:count]
        found = {"image": tv_tensors.Video(images) if self.video else images}
        found["label"] = torch.arange(count)
        if self.masks:
            ids = torch.arange(count).view(-1, 1, 1).expand(count, 8, 8).contiguous()
            found["mask"] = tv_tensors.Mask(ids)
        return found

    def check(self, mixed):
        """Labels and masks say what is in the images."""
        images, labels = mixed["image"], soft(mixed["label"])
        assert images.dtype == self.dtype
        assert type(images) is (tv_tensors.Video if self.video else torch.Tensor)
        share = shares_of(images, self.form)
        rounding = {torch.uint8: 0.5 / 255, torch.bfloat16: 2**-8}.get(self.dtype, 1e-6)
        if self.fills:  # labels are those of nobody's pixels too
            torch.testing.assert_close(labels, torch.eye(B)[: len(labels)])
            assert (share.diagonal() > 0).all()
        else:
            wanted = labels.double()
            if smoothing := getattr(self.transform, "label_smoothing", 0.0):
                wanted = (wanted - smoothing / B) / (1 - smoothing)
            torch.testing.assert_close(share, wanted, atol=rounding + 1e-6, rtol=0)
        if self.masks == "soft":
            assert mixed["mask"].shape == (len(images), B, 8, 8)
            torch.testing.assert_close(shares_of(mixed["mask"]), share, atol=rounding, rtol=0)
        elif self.masks == "dominant":
            assert torch.equal(mixed["mask"].flatten(1)[:, 0], share.argmax(1))
        elif self.masks == "cut":
            assert torch.equal(mixed["mask"].as_subclass(torch.Tensor), images.argmax(1))


def choice(mode, **options):
    return OneOf(
        [Mixup(**K, mode=mode, **options), CutMix(**K, p=0.7, mode=mode, **options)], mode=mode
    )


SAMPLE = {"mode": "sample", **K}
TABLE = {
    "Mixup, soft masks": Case(Mixup(**K, masks="soft", num_mask_classes=B), masks="soft"),
    "Mixup of uint8, pairs, p, shuffle, each": Case(
        Mixup(0.4, p=0.5, pairing="shuffle", targets="pair", **SAMPLE), torch.uint8
    ),
    "Mixup of bfloat16, dominant masks, a range of lam": Case(
        Mixup(lam=(0.0, 0.9), masks="dominant", label_smoothing=0.1, **SAMPLE),
        torch.bfloat16,
        masks="dominant",
    ),
    "Mixup of channels last": Case(
        Mixup((0.05, 2.0), p=0.5, pairing="shuffle", layout="BHWC", **K), form="BHWC"
    ),
    "Mixup in place, one lam": Case(Mixup(lam=0.3, inplace=True, **SAMPLE)),
    "CutMix, smoothed": Case(CutMix(label_smoothing=0.2, **K), torch.uint8),
    "CutMix of masks, pairs, p, shuffle, each": Case(
        CutMix(p=0.5, pairing="shuffle", targets="pair", **SAMPLE), torch.bfloat16, masks="cut"
    ),
    "CutMix of a video's cuboids": Case(
        CutMix(cut="cuboid", **SAMPLE), torch.uint8, "BTCHW", video=True
    ),
    "Cutout": Case(Cutout(3, holes=2, fill=[0.0] * B, p=0.5, **K), fills=True),
    "RandomErasing with noise": Case(
        RandomErasing((0.05, 0.2), fill="noise", count=(1, 3), p=0.9, **K), fills=True
    ),
    "one of them for a batch": Case(choice("batch", pairing="shuffle")),
    "one of them for each": Case(choice("sample", targets="pair"), torch.uint8),
}


def run_fifty_times(case, backend=None):
    """Run a case through one graph, and check each batch."""
    compiled, counter = compile_whole(case.transform, backend or case.backend)
    seen = set()
    for _ in range(CALLS):
        given = case.batch()
        mixed = compiled(given)
        case.check(mixed)
        seen.add(tuple(mixed["image"].flatten().tolist()))
        assert (mixed["image"] is given["image"]) == getattr(case.transform, "inplace", False)
        assert given["label"].equal(torch.arange(B))
    assert counter.frame_count == 1
    assert len(seen) > B / 2  # a roll with one lam has B - 1 results


@pytest.mark.parametrize("name", TABLE)
def test_one_graph_draws_anew_and_labels_equal_pixels(name):
    """In fifty calls one graph makes other batches, whose labels and masks are their pixels."""
    run_fifty_times(TABLE[name])


@needs_compiler
@pytest.mark.parametrize(
    "name", ["Mixup of uint8, pairs, p, shuffle, each", "one of them for each"]
)
def test_the_default_backend_does_the_same(name):
    """So it is with the backend that writes kernels."""
    run_fifty_times(TABLE[name], "inductor")


def test_a_smaller_last_batch_needs_no_other_graph():
    """With dynamic=True the number of samples may change, down to two."""
    case = TABLE["CutMix of masks, pairs, p, shuffle, each"]
    compiled, counter = compile_whole(case.transform, case.backend, dynamic=True)
    made = []
    for count in (5, 4, 3, 2, 5):  # none is C, which would be the same symbol
        case.check(compiled(case.batch(count)))
        made.append(counter.frame_count)
    assert made == made[:1] * 5


def test_p_may_be_set_between_steps():
    """A graph is made for a fixed p, one for all others between 0 and 1, one for 0: no more."""
    transform = Mixup(p=0.9, **SAMPLE)
    compiled, counter = compile_whole(transform)
    batch = planes(), torch.arange(B)
    made = 0
    for p, is_new in ((0.9, 1), (0.5, 1), (0.3, 0), (0.7, 0), (0.0, 1), (0.2, 0), (0.0, 0)):
        transform.p = p
        mixed = [compiled(*batch)[1] for _ in range(4)]
        assert (counter.frame_count > made) == is_new, p
        assert any((labels < 1).logical_and(labels > 0).any() for labels in mixed) == (p > 0)
        made = counter.frame_count
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
        transform.p = 2


def test_other_arguments_reach_the_graph():
    """What else is set is checked and compiled into a new graph, in a choice too."""
    rules = [Mixup(**K), Cutout(**K)]
    compiled, _ = compile_whole(OneOf(rules))
    for share in (0.0, 0.3):
        for rule in rules:
            rule.label_smoothing = share
        labels = compiled(planes(), torch.arange(B))[1]
        torch.testing.assert_close(labels.min(), torch.tensor(share / B))


def test_a_step_learns_through_the_graph():
    """Gradients flow through what is mixed inside a compiled loss, as they do without compiling."""
    mix = CutMix(**SAMPLE)

    def loss(images, labels):
        (mixed, soft), plan = mix.mix((images, labels))
        return (mixed.flatten(1).sum(1, keepdim=True) * soft).sum(), plan

    compiled, counter = compile_whole(loss)
    images, same = (planes().requires_grad_() for _ in range(2))
    result, plan = compiled(images, torch.arange(B))
    result.backward()
    mixed = functional.replay(same, plan)
    rows = functional.mix_labels(torch.eye(B), plan.partner, plan.lam)
    (mixed.flatten(1).sum(1, keepdim=True) * rows).sum().backward()
    torch.testing.assert_close(images.grad, same.grad)
    assert counter.frame_count == 1


# --- The laws -----------------------------------------------------------------------------------


def draw_in_graph(transform, count, calls=1, backend=BACKEND, size=(24, 40)):
    """Return the plans that a graph draws for batches of many samples, joined."""
    compiled, counter = compile_whole(lambda *batch: transform.mix(batch)[1], backend)
    images, labels = torch.zeros(count, 1, *size), torch.zeros(count, dtype=torch.int64)
    plans = [compiled(images, labels) for _ in range(calls)]
    assert counter.frame_count == 1
    return Plan(*(torch.cat(fields).cpu() for fields in zip(*plans, strict=True)))


def areas(plan):
    sides = plan.boxes[..., 2:] - plan.boxes[..., :2]
    return sides.prod(-1).double()


def is_mean(values, expected):
    """Tell by a z-test whether a mean can be the expected one."""
    error = values.double().std() / math.sqrt(len(values))
    return stats.norm.sf(abs(values.double().mean() - expected) / error) * 2 > P_VALUE


def check_laws(backend):
    """Compare what is drawn in a graph with the laws, at a level of 1e-4."""
    plan = draw_in_graph(Mixup((0.4, 0.7), p=0.3, **SAMPLE), 4000, backend=backend)
    assert is_mean(plan.op == BLEND, 0.3)
    lam = plan.lam[plan.op == BLEND].double()
    assert stats.kstest(lam.numpy(), stats.beta(0.4, 0.7).cdf).pvalue > P_VALUE

    plan = draw_in_graph(CutMix(**SAMPLE), 4000, backend=backend)
    host = CutMix(**SAMPLE).draw_plan((torch.zeros(4000, 1, 24, 40), plan.partner % B))
    assert stats.ks_2samp(areas(plan)[:, 0], areas(host)[:, 0]).pvalue > P_VALUE
    torch.testing.assert_close(plan.lam.double(), 1 - areas(plan)[:, 0] / 960)

    erase = RandomErasing((0.1, 0.3), (0.5, 2.0), p=1.0, **SAMPLE)
    plan = draw_in_graph(erase, 4000, backend=backend)
    sides = (plan.boxes[..., 2:] - plan.boxes[..., :2])[areas(plan) > 0].double()
    shares = sides.prod(-1) / 960
    host = areas(erase.draw_plan((torch.zeros(4000, 1, 24, 40), plan.partner % B)))
    assert stats.ks_2samp(areas(plan)[:, 0], host[:, 0]).pvalue > P_VALUE
    assert 0.08 < shares.min() < 0.12
    assert 0.28 < shares.max() < 0.33

    either = OneOf([Mixup(**SAMPLE), Cutout(**SAMPLE)], [0.2, 0.5], mode="sample")
    plan = draw_in_graph(either, 4000, backend=backend)
    for op, share in ((BLEND, 0.2), (FILL, 0.5), (NONE, 0.3)):
        assert is_mean(plan.op == op, share)


def test_the_laws_are_the_same_in_a_graph():
    """Weights are Beta, p is the share, cut and erased areas are those that the host draws."""
    check_laws(BACKEND)


def test_partners_are_uniform_in_a_graph():
    """All shifts but 0 are as likely, and all permutations."""
    plan = draw_in_graph(Mixup(**K), 5, 1000, size=(1, 1))
    shifts = (torch.arange(5) - plan.partner.view(-1, 5)) % 5
    assert (shifts == shifts[:, :1]).all()
    counts = torch.bincount(shifts[:, 0], minlength=5)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > P_VALUE
    plan = draw_in_graph(CutMix(pairing="shuffle", **K), 4, 1000, size=(1, 1))
    orders = plan.partner.view(-1, 4)
    assert (orders.sort(1).values == torch.arange(4)).all()
    found = torch.bincount((orders * torch.tensor([64, 16, 4, 1])).sum(1))
    assert (found > 0).sum() == 24
    assert stats.chisquare(found[found > 0].numpy()).pvalue > P_VALUE


@needs_compiler
def test_the_laws_are_the_same_with_the_default_backend():
    """Its random numbers are its own, of 24 bits; the laws hold."""
    check_laws("inductor")


# --- What cannot be compiled --------------------------------------------------------------------


class HostRule(MixTransform):
    """A rule that draws with NumPy, as rules may that stay in a loader."""

    def sample(self, batch, p, source):
        """Pair each with itself."""
        return make_plan(BLEND, batch.length, True, partner=np.arange(batch.length), lam=0.5)


OBJECTS = [{"boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0]]), "labels": torch.tensor([1])}] * B
SAMPLES = [(image, 1) for image in planes()]
REFUSED = {
    "detection targets": (CutMix(), (planes(), OBJECTS), "detection targets"),
    "a rule in NumPy": (HostRule(**K), (planes(), torch.arange(B)), "must draw tensors"),
    "timm's names": (TimmMixup(**K), (planes(), torch.arange(B)), "draws on the host"),
    "a foreign transform in a choice": (
        OneOf([Mixup(**K), v2.MixUp(num_classes=B)]),
        (planes(), torch.arange(B)),
        "must all be of tv_mixaug's rules",
    ),
    "a chain": (Chain([Mixup(**K)]), (planes(), torch.arange(B)), "Chain cannot be compiled"),
    "a collate function": (
        make_collate_fn(Mixup(**K)),
        (SAMPLES,),
        "collate function cannot be compiled",
    ),
}


@pytest.mark.filterwarnings("ignore")  # Dynamo warns of what it leaves out
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_says_so(name):
    """Dynamo's error holds a sentence of ours; where graphs may break, it runs all the same."""
    transform, batch, sentence = REFUSED[name]
    with pytest.raises(torch._dynamo.exc.Unsupported, match=f"raised exception .*{sentence}"):
        compile_whole(transform)[0](*batch)
    torch.compile(transform, backend="eager")(*batch)  # which may break the graph


def test_a_generator_is_refused_in_a_graph():
    """A graph has a random stream of its own; a generator that is given would be ignored."""
    generator = torch.Generator()
    mix = Mixup(**K)
    compiled, _ = compile_whole(lambda *batch: mix.mix(batch, generator=generator))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="generator must be None"):
        compiled(planes(), torch.arange(B))


def test_a_pairing_of_torch_operations_is_compiled():
    """A callable pairing goes into the graph if its operations do."""
    mix = CutMix(pairing=lambda labels: (labels + 1) % B, **SAMPLE)
    compiled, counter = compile_whole(lambda *batch: mix.mix(batch)[1])
    plan = compiled(planes(), torch.arange(B))
    assert torch.equal(plan.partner, (torch.arange(B) + 1) % B)
    assert counter.frame_count == 1


# --- Plans on a device, without a graph ---------------------------------------------------------


class NoCopies(TorchDispatchMode):
    """Raise where the host would wait for a device, or copy something to it."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        name = op._schema.name.removeprefix("aten::")
        if name in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal"):
            raise AssertionError(f"{name} makes the host wait")
        for tensor in tree_leaves((args, kwargs, result)):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                raise AssertionError(f"{name} computes on the host or copies from it")
        return result


class NoNumbers(TorchFunctionMode):
    """Raise where ``torch.tensor`` would copy numbers to a device, which a dispatch cannot see."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        makes = function in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy)
        if makes and not isinstance(args[0], torch.Tensor):
            raise AssertionError(f"{function.__name__} copies from the host")
        return function(*args, **(kwargs or {}))


ALL = {
    "Mixup": Mixup(**K),
    "Mixup, each": Mixup(0.01, p=0.5, pairing="shuffle", **SAMPLE),
    "Mixup, lam": Mixup(lam=(0.2, 0.4), **SAMPLE),
    "CutMix": CutMix(p=0.5, pairing="shuffle", **K),
    "CutMix, each": CutMix(targets="pair", **SAMPLE),
    "Cutout": Cutout(3, holes=2, fill=[1.0] * B, p=0.5, **K),
    "RandomErasing": RandomErasing(fill="noise", count=(1, 2), **K),
    "one of them": choice("batch"),
    "one of them for each": choice("sample"),
    "never": CutMix(p=0.0, **SAMPLE),
}


@pytest.mark.parametrize("name", ALL)
def test_a_device_neither_waits_nor_copies(name):
    """A plan is drawn, carried out and made a mask of on a device without the host's numbers."""
    images = torch.empty(B, B, 8, 8, device="meta")
    labels = torch.empty(B, dtype=torch.int64, device="meta")
    with NoNumbers(), NoCopies():
        plan = ALL[name].draw_plan((images, labels), device="meta")
        mixed = functional.replay(images, plan, fill=0.5)
        functional.replay(images.to(torch.uint8), plan, fill="noise")
        region = functional.region_mask(plan, (8, 8))
        functional.mix_labels(labels[:, None].float(), plan.partner, plan.lam)
    assert {field.device.type for field in plan} == {"meta"}
    assert (mixed.shape, region.shape) == (images.shape, (B, 1, 8, 8))
    host = ALL[name].draw_plan((planes(), torch.arange(B)))
    for field, same in zip(plan, host, strict=True):
        assert (field.shape, field.dtype) == (same.shape, same.dtype)


def test_a_wait_or_a_copy_would_be_seen():
    """What must not happen on a device raises here."""
    images = torch.empty(2, 3, device="meta")
    for wrong in (
        lambda: torch.tensor([1, 2], device="meta"),
        lambda: torch.ones(2).to("meta"),
        lambda: images[torch.tensor([1])],
        lambda: images.sum().item(),
        lambda: bool(images.any()),
    ):
        with pytest.raises((AssertionError, RuntimeError)), NoNumbers(), NoCopies():
            wrong()


def test_a_rule_of_the_host_gives_its_plan_to_a_device():
    """A rule that draws with NumPy is asked on the host, and its plan moved."""
    images = torch.empty(B, B, 8, 8, device="meta")
    labels = torch.empty(B, dtype=torch.int64, device="meta")
    plan = HostRule(**K).draw_plan((images, labels), device="meta")
    assert {field.device.type for field in plan} == {"meta"}


@pytest.mark.parametrize("name", ALL)
def test_one_plan_serves_two_views_and_a_plain_loss(name):
    """What a plan makes of a view is what its region mask says; the batch itself is left alone."""
    transform = ALL[name]
    one, two = planes(), planes() / 2
    plan = transform.draw_plan((one, torch.arange(B)))
    first, second = (functional.replay(view, plan, fill=0.0) for view in (one, two))
    torch.testing.assert_close(first, 2 * second)
    region = functional.region_mask(plan, (8, 8))
    other = torch.where((plan.op == FILL).view(-1, 1, 1, 1), 0.0, one[plan.partner])
    torch.testing.assert_close(first, region * one + (1 - region) * other)
    mixed = (plan.op == BLEND) | (plan.op == PASTE)
    torch.testing.assert_close(region.mean((1, 2, 3))[mixed], plan.lam[mixed])
    assert torch.equal(one, planes())


# --- On CUDA ------------------------------------------------------------------------------------


@contextlib.contextmanager
def waiting_is_an_error():
    """Let CUDA raise wherever the host would wait for it."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
@pytest.mark.parametrize("name", ALL)
def test_cuda_does_not_wait_in_a_whole_epoch(name):
    """Transforms, device plans and replays give CUDA work and never ask for its results."""
    batch = planes().cuda(), torch.arange(B, device="cuda")
    ALL[name](*batch)  # what is loaded on first use may wait
    with waiting_is_an_error():
        for _ in range(CALLS):
            ALL[name](*batch)
            plan = ALL[name].draw_plan(batch, device="cuda")
            functional.replay(batch[0], plan, fill=0.0)
            functional.region_mask(plan, (8, 8))


@needs_cuda
@pytest.mark.parametrize("name", TABLE)
def test_cuda_graphs_draw_anew_at_each_replay(name):
    """With mode="reduce-overhead" fifty replays differ, labels equal pixels, nothing waits."""
    case = TABLE[name]
    if getattr(case.transform, "inplace", False):
        pytest.skip("CUDA graphs do not write into what they are given")
    compiled = torch.compile(case.transform, fullgraph=True, mode="reduce-overhead")
    batch = {key: value.cuda() for key, value in case.batch().items()}
    if case.video:
        batch["image"] = tv_tensors.Video(batch["image"])
    if "mask" in batch:
        batch["mask"] = tv_tensors.Mask(batch["mask"])
    for _ in range(3):  # warm-up, recording, first replay
        torch.compiler.cudagraph_mark_step_begin()
        compiled(batch)
    kept, seen = [], set()
    with waiting_is_an_error():
        for _ in range(CALLS):
            torch.compiler.cudagraph_mark_step_begin()
            # A replay writes into the memory of the one before.
            kept.append(tree_map(torch.clone, compiled(batch)))
    for mixed in kept:
        host = tree_map(lambda tensor: tensor.cpu(), mixed)
        for key, kind in (("image", tv_tensors.Video), ("mask", tv_tensors.Mask)):
            if isinstance(batch.get(key), kind):
                host[key] = kind(host[key])
        case.check(host)
        seen.add(tuple(host["image"].flatten().tolist()))
    assert len(seen) > B / 2
