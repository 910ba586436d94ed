"""The registry of transforms: how to make each of them, and what it does to a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from helpers.coded import bits, coded_planes, expected_labels, seeded, shares
from torchvision.transforms import v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup, OneOf, RandomErasing, functional, timm
from tv_mixaug.engine.plan import BLEND, FILL, NONE, PASTE

K = 16


class Member(NamedTuple):
    """A transform of the registry.

    Attributes:
        make: Makes it from the arguments that all transforms have: num_classes, p, masks, ...
        unit: What p is sampled for: "batch", "pair" or "sample".
        blends: Whether it may blend images, so that masks need a rule.
        mixes: Whether it may mix labels.
        erased: The value of erased pixels, or "noise"; None if no pixels are erased.
        has_plan: Whether its plan describes all that it does.
    """

    make: Callable[..., Any]
    unit: str = "batch"
    blends: bool = False
    mixes: bool = True
    erased: Any = None
    has_plan: bool = True


def make_one_of(mode, p=1.0, mask_fill=None, **options):
    """Return a choice between three rules, one of which is applied with probability p."""
    erase = RandomErasing(p=1.0, mask_fill=mask_fill, **options)
    rules = [Mixup(0.8, **options), CutMix(**options), erase]
    return OneOf(rules, [p / 3] * 3, mode=mode)


def make_timm(*alphas, p=1.0, **options):
    """Return timm's Mixup, which calls the probability prob."""
    return timm.Mixup(*alphas, prob=p, label_smoothing=0.0, **options)


def make_chain(p=1.0, mask_fill=None, **options):
    """Return a chain that pastes, flips and erases."""
    erase = RandomErasing((0.1, 0.3), p=1.0, mask_fill=mask_fill, **options)
    return Chain([v2.RandomHorizontalFlip(), CutMix(mode="sample", **options), erase], p=p)


blends = partial(Member, blends=True)
erases = partial(Member, mixes=False, erased=0.0)
either = partial(Member, blends=True, erased=0.0)
MEMBERS = {
    "mixup": blends(partial(Mixup, 0.8)),
    "mixup, sample": blends(partial(Mixup, 0.8, mode="sample", pairing="shuffle"), "sample"),
    "mixup, lam": blends(partial(Mixup, lam=(0.3, 0.6))),
    "cutmix": Member(CutMix),
    "cutmix, sample": Member(partial(CutMix, (2, 1), mode="sample"), "sample"),
    "cutout": erases(partial(Cutout, 0.4, holes=2), "sample"),
    "cutout, batch": erases(partial(Cutout, (3, 5), mode="batch")),
    "random erasing": erases(partial(RandomErasing, p=1.0), "sample"),
    "random erasing, batch": erases(partial(RandomErasing, p=1.0, count=3, mode="batch")),
    "random erasing, noise": erases(
        partial(RandomErasing, p=1.0, fill="noise"), "sample", erased="noise"
    ),
    "one of, batch": either(partial(make_one_of, "batch")),
    "one of, sample": either(partial(make_one_of, "sample"), "sample"),
    "timm, batch": blends(partial(make_timm, 0.8, 1.0)),
    "timm, pair": blends(partial(make_timm, 0.8, 1.0, mode="pair"), "pair"),
    "timm, elem": blends(partial(make_timm, 0.8, 1.0, mode="elem"), "sample"),
    "timm, cutmix": Member(partial(make_timm, 0.0, 1.0, None, mode="elem"), "sample"),
    "timm, minmax": Member(partial(make_timm, 0.0, 0.0, (0.2, 0.7), mode="pair"), "pair"),
    "chain": Member(make_chain, erased=0.0, has_plan=False),
}


def make(name, **options):
    """Return a transform of the registry, for 16 classes unless told otherwise."""
    return MEMBERS[name].make(**{"num_classes": K, **options})


def names(**wanted):
    """Return the names of all members whose attributes have the wanted values."""
    return [
        name
        for name, member in MEMBERS.items()
        if all(getattr(member, key) == value for key, value in wanted.items())
    ]


def check_mix(mix, images, seed=0):
    """Mix coded images of K classes and check pixels, labels and plan against each other.

    Images of uint8 hold 25 times their code, so that a wrong weight is more than a rounding error.
    The same mix is made in place afterwards, unless pixels share memory.

    Returns:
        The images, labels and plan, and (B, 1, H, W) bool: the holes that were filled.
    """
    count, labels, before = len(images), torch.arange(len(images)), images.clone()
    versions = images._version, labels._version
    (out, soft), plan = mix.mix((images, labels), generator=seeded(seed))
    assert torch.equal(bits(images), bits(before))
    assert torch.equal(labels, torch.arange(count))
    assert (images._version, labels._version) == versions
    assert (out.dtype, out.shape) == (images.dtype, images.shape)
    if plan.op.any():
        assert out.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()

    size = torch.tensor(images.shape[2:])
    low, high = plan.boxes[..., :2], plan.boxes[..., 2:]
    assert ((low >= 0) & (low <= high) & (high <= size.flip(0))).all()
    assert ((plan.lam >= 0) & (plan.lam <= 1)).all()
    assert torch.equal(bits(out), bits(functional.replay(images, plan, getattr(mix, "fill", 0.0))))
    expected = functional.mix_labels(torch.eye(K)[:count], plan.partner, plan.lam)
    torch.testing.assert_close(soft, expected, atol=1e-6, rtol=0)

    untouched, filled, blended, pasted = (plan.op == op for op in (NONE, FILL, BLEND, PASTE))
    unmixed = untouched | filled
    assert torch.equal(bits(out[untouched]), bits(images[untouched]))
    assert torch.equal(soft[unmixed], torch.eye(K)[:count][unmixed])
    region = functional.region_mask(plan, tuple(size))
    weight = region.flatten(1).mean(1)
    torch.testing.assert_close(weight[~filled], plan.lam[~filled], atol=1e-6, rtol=0)
    shown = torch.where(region == 1, images, images[plan.partner])
    assert torch.equal(bits(out[pasted]), bits(shown[pasted]))
    is_uint8 = images.dtype == torch.uint8
    pixels = out.double() / (25 if is_uint8 else 1)
    torch.testing.assert_close(soft[pasted].double(), shares(pixels, K)[pasted], atol=1e-6, rtol=0)
    mean = torch.einsum("ij,jchw->ichw", soft[:, :count].double(), images.double())
    slack = 0.5 + 1e-4 if is_uint8 else max(1e-4, 5 * torch.finfo(images.dtype).eps)
    assert ((out.double() - mean)[blended].abs() <= slack).all()
    if (blended | pasted).any():  # no value beyond those that were mixed
        assert out[~filled].min() >= images.min()
        assert out[~filled].max() <= images.max()
    holes = torch.zeros(count, 1, *size, dtype=torch.bool)
    for row in filled.nonzero()[:, 0].tolist():
        for x1, y1, x2, y2 in plan.boxes[row].tolist():
            holes[row, :, y1:y2, x1:x2] = True
    assert torch.equal(region[filled] == 0, holes[filled])
    kept = ~holes & filled.view(-1, 1, 1, 1)
    assert torch.equal(out.where(kept, 0), images.where(kept, 0))

    if 0 not in images.stride():
        strides = images.stride()
        written, again = mix.mix((images, labels), inplace=True, generator=seeded(seed))[0]
        assert written is images
        assert images.stride() == strides
        assert torch.equal(bits(images), bits(out))
        assert torch.equal(again, soft)
    return out, soft, plan, holes


def check_labels(chain, images, labels):
    """Check the labels of a chain against the weights in the pixels of coded planes."""
    expected = expected_labels(images, chain.erased)
    torch.testing.assert_close(labels.double(), expected, atol=2e-6, rtol=0)


def check_chain(steps, dtype=torch.float32, size=(33, 48), times=3):
    """Check the labels of a chain in which unattributed pixels count for no sample."""
    chain = Chain(steps, erased="nobody")
    for seed in range(times):
        torch.manual_seed(seed)
        images, labels = chain(coded_planes(5, size, dtype), torch.arange(5))
        check_labels(chain, images, labels)
