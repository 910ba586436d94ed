"""Parity: given torchvision's own draws, our kernels give torchvision's own results."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as nnf
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import CutMix, Mixup, functional

seeds = st.integers(0, 2**32)
sizes = st.tuples(st.integers(1, 20), st.integers(1, 20))
dtypes = st.sampled_from([torch.float32, torch.float64])


def draw(transform, seed, images, labels):
    """Run torchvision's transform, and give its result and the numbers it drew for it."""
    torch.manual_seed(seed)
    out = transform(images, labels)
    torch.manual_seed(seed)
    return out, transform.make_params([images])


def rolled(count):
    """Give the partners that torchvision takes: each sample's is the one before it."""
    return (torch.arange(count) - 1) % count


@pytest.mark.parametrize("soft_labels", [True, False])
@given(seeds, st.integers(1, 6), sizes, dtypes, st.sampled_from([0.2, 1.0]))
def test_mixup_equals_torchvisions(soft_labels, seed, count, size, dtype, alpha):
    """With torchvision's lam and partners, images and labels are torchvision's."""
    torch.manual_seed(seed)
    images, labels = torch.rand(count, 3, *size, dtype=dtype), torch.randint(5, (count,))
    rows = nnf.one_hot(labels, 5).float()
    theirs, params = draw(
        v2.MixUp(alpha=alpha, num_classes=5), seed, images, rows if soft_labels else labels
    )
    partner, lam = rolled(count), torch.full((count,), params["lam"])
    ours = functional.mixup(images, partner, lam)
    torch.testing.assert_close(ours, theirs[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        functional.mix_labels(rows, partner, lam), theirs[1], atol=1e-6, rtol=0
    )


@given(seeds, st.integers(1, 6), sizes, st.sampled_from([0.2, 1.0]))
def test_cutmix_equals_torchvisions(seed, count, size, alpha):
    """With torchvision's box and partners, images are the same bits and labels the same weights."""
    torch.manual_seed(seed)
    images, labels = torch.rand(count, 3, *size), torch.randint(5, (count,))
    theirs, params = draw(v2.CutMix(alpha=alpha, num_classes=5), seed, images, labels)
    box = torch.tensor([int(edge) for edge in params["box"]]).expand(count, 4)
    partner = rolled(count)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    lam = 1 - area / (size[0] * size[1])
    rows = nnf.one_hot(labels, 5)
    assert torch.equal(functional.cutmix(images, partner, box), theirs[0])
    torch.testing.assert_close(
        functional.mix_labels(rows, partner, lam), theirs[1], atol=1e-6, rtol=0
    )


@given(seeds, st.integers(1, 4))
def test_videos_are_torchvisions_too(seed, count):
    """A Video (B, T, C, H, W) is cut and blended as torchvision does."""
    torch.manual_seed(seed)
    video = tv_tensors.Video(torch.rand(count, 4, 3, 8, 9))
    labels, partner = torch.randint(5, (count,)), rolled(count)
    (blended, _), params = draw(v2.MixUp(num_classes=5), seed, video, labels)
    ours = functional.mixup(video, partner, torch.full((count,), params["lam"]))
    torch.testing.assert_close(ours, blended.as_subclass(torch.Tensor), atol=1e-6, rtol=0)
    (cut, _), params = draw(v2.CutMix(num_classes=5), seed, video, labels)
    box = torch.tensor([int(edge) for edge in params["box"]]).expand(count, 4)
    assert torch.equal(functional.cutmix(video, partner, box), cut.as_subclass(torch.Tensor))


@pytest.mark.parametrize(("ours", "theirs"), [(Mixup, v2.MixUp), (CutMix, v2.CutMix)])
def test_ours_stands_where_torchvisions_stood(ours, theirs):
    """The same arguments and call give the same kinds, shapes and dtypes."""
    images, labels = tv_tensors.Image(torch.rand(4, 3, 8, 8)), torch.arange(4)
    for args in ((images, labels), ((images, labels),), ({"image": images, "labels": labels},)):
        new, old = (kind(alpha=0.5, num_classes=4)(*args) for kind in (ours, theirs))
        assert type(new) is type(old)
        leaves = torch.utils._pytree.tree_leaves
        for one, other in zip(leaves(new), leaves(old), strict=True):
            assert (type(one), one.dtype, one.shape) == (type(other), other.dtype, other.shape)


@pytest.mark.parametrize(("ours", "theirs"), [(Mixup, v2.MixUp), (CutMix, v2.CutMix)])
def test_a_labels_getter_of_torchvisions_works_here(ours, theirs):
    """The same labels_getter finds the same labels."""
    batch = {"x": torch.rand(4, 3, 8, 8), "a": {"b": torch.arange(4)}}
    getter = {"labels_getter": lambda batch: batch["a"]["b"]}
    for kind in (ours, theirs):
        out = kind(num_classes=4, **getter)(batch)
        assert out["a"]["b"].shape == (4, 4)
