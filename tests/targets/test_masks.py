"""Masks: class ids follow the pixels, and are never blended as numbers."""

import pytest
import torch
from helpers.coded import coded_images, shares
from helpers.reference import mix_by_hand
from helpers.refusals import refused
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup

COUNT, SIZE = 6, (9, 7)
K = COUNT + 1
seeds = st.integers(0, 2**32)
modes = st.sampled_from(["batch", "sample"])
SOFT = {"masks": "soft", "num_mask_classes": K}


def coded_masks(dtype=torch.uint8, channel=False):
    """Give mask i the value i + 1 everywhere, as its image."""
    masks = coded_images(COUNT, SIZE, dtype, channels=1)
    return tv_tensors.Mask(masks if channel else masks[:, 0])


def expected_ids(planes):
    """Return the mean class id of each pixel of (B, K, ...) planes."""
    plain = planes.as_subclass(torch.Tensor)
    return torch.tensordot(torch.arange(float(K)), plain, ([0], [1]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("channel", [True, False])
@given(
    mode=modes,
    pairing=st.sampled_from(["roll", "shuffle"]),
    p=st.sampled_from([1.0, 0.5]),
    inplace=st.booleans(),
    seed=seeds,
)
def test_cutmix_pastes_masks_with_their_pixels(dtype, channel, mode, pairing, p, inplace, seed):
    """Image, mask and label hold the same samples, and the given mask does not change."""
    torch.manual_seed(seed)
    images, masks = coded_images(COUNT, SIZE), coded_masks(torch.int64, channel)
    labels = torch.arange(COUNT)
    if dtype == torch.bool:
        images, masks = (images > 3).float(), masks > 3
    masks = tv_tensors.Mask(masks.to(dtype))
    before = masks.clone()
    transform = CutMix(mode=mode, pairing=pairing, p=p, inplace=inplace, num_classes=COUNT)
    batch = {"image": tv_tensors.Image(images), "mask": masks, "label": labels}
    out, mixed, soft = transform(batch).values()
    assert type(mixed) is tv_tensors.Mask
    assert (mixed.shape, mixed.dtype) == (masks.shape, dtype)
    assert torch.equal(out[:, :1].double(), mixed.view(COUNT, 1, *SIZE).double())
    assert torch.equal(masks, before)
    if dtype != torch.bool:
        torch.testing.assert_close(soft.double(), shares(out), atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["plain", "channel", "volume"])
@given(mode=modes, p=st.sampled_from([1.0, 0.5, 0.0]), seed=seeds)
def test_soft_masks_are_planes_that_sum_to_one(form, mode, p, seed):
    """Masks become (B, K, ...) planes, mixed or not, whose weights explain every pixel."""
    torch.manual_seed(seed)
    images, masks, layout = coded_images(COUNT, SIZE), coded_masks(channel=form == "channel"), None
    if form == "volume":
        layout, images = "BCDHW", images[:, :1, None].expand(-1, -1, 5, -1, -1)
        masks = tv_tensors.Mask(images[:, 0].to(torch.uint8))
    out, planes = Mixup(mode=mode, p=p, layout=layout, **SOFT)(images, masks)
    assert type(planes) is tv_tensors.Mask
    assert (planes.shape, planes.dtype) == ((COUNT, K, *images.shape[2:]), torch.float32)
    total = planes.as_subclass(torch.Tensor).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))
    torch.testing.assert_close(expected_ids(planes), out[:, 0], atol=1e-4, rtol=0)
    assert p > 0 or set(planes.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("ignored", [255, -1])
def test_pixels_without_a_label_have_no_weight_in_soft_masks(ignored):
    """An ignored pixel adds no weight to any plane; its partner's pixel still does."""
    masks = torch.randint(3, (COUNT, *SIZE))
    masks[:, :4] = ignored
    masks[0] = ignored
    transform = Mixup(mode="sample", masks="soft", num_mask_classes=3, ignore_index=ignored)
    (_, planes), plan = transform.mix((coded_images(COUNT, SIZE), tv_tensors.Mask(masks)))
    known = mix_by_hand((masks != ignored).float(), plan).float()
    torch.testing.assert_close(planes.as_subclass(torch.Tensor).sum(1), known)
    assert not planes[:, :, :4].any()


@pytest.mark.parametrize("channel", [True, False])
@given(modes, st.sampled_from([None, 0.5]), seeds)
def test_the_dominant_mask_is_that_of_the_larger_weight(channel, mode, lam, seed):
    """Masks keep ids and dtype; of two equal weights the mask of the original stays."""
    torch.manual_seed(seed)
    masks, transform = (
        coded_masks(torch.int64, channel),
        Mixup(mode=mode, lam=lam, masks="dominant"),
    )
    (_, mixed), plan = transform.mix((coded_images(COUNT, SIZE), masks))
    assert type(mixed) is tv_tensors.Mask
    winner = torch.where(plan.lam >= 0.5, torch.arange(COUNT), plan.partner)
    assert torch.equal(mixed, masks[winner])
    assert mixed.dtype == masks.dtype


def test_planes_can_be_mixed_again():
    """Float planes from an earlier Mixup are mixed as they are, by every transform."""
    images, planes = Mixup(**SOFT)(coded_images(COUNT, SIZE), coded_masks())
    images, planes = Mixup(**SOFT)(images, planes)
    assert planes.shape == (COUNT, K, *SIZE)
    images, planes = CutMix()(images, planes)
    torch.testing.assert_close(expected_ids(planes), images[:, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@pytest.mark.parametrize(
    ("axes", "value"), [((), 1), ((1,), 1), ((3,), 1), ((K,), 2.0), ((K,), -0.5), ((K,), torch.nan)]
)
def test_class_ids_as_floats_are_not_taken_for_planes(kind, axes, value):
    """Floats other than planes of K classes would be blended as numbers, so they are refused."""
    transform = kind(labels_getter=None, **SOFT)
    masks = torch.full((COUNT, *axes, *SIZE), value, dtype=torch.float32)
    batch = coded_images(COUNT, SIZE), tv_tensors.Mask(masks)
    refused(lambda: transform(batch), "masks at [1] must be integers, or (B, 7, ...) planes")


@pytest.mark.parametrize("mask_fill", [None, 0, 255])
@pytest.mark.parametrize("holes", [1, 3])
@given(modes, st.sampled_from([1.0, 0.5]), seeds)
def test_cutout_fills_masks_where_the_image_is_erased(mask_fill, holes, mode, p, seed):
    """Holes take mask_fill in the mask at the same pixels, or leave the mask unchanged."""
    torch.manual_seed(seed)
    images, masks = coded_images(COUNT, SIZE), coded_masks()
    transform = Cutout(4, holes=holes, fill=100.0, mask_fill=mask_fill, mode=mode, p=p)
    out, mixed = transform(tv_tensors.Image(images), masks)
    erased = out[:, 0] == 100
    expected = masks if mask_fill is None else torch.where(erased, mask_fill, masks)
    assert torch.equal(mixed, expected)
    assert type(mixed) is tv_tensors.Mask
