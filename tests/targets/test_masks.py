"""Masks, videos and volumes: everything that belongs to an image goes where its pixels go."""

import pytest
import torch
from helpers.coded import DTYPES, bits, coded_images, shares
from helpers.refusals import refused
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup, functional

COUNT = 6
SIZE = (9, 7)
seeds = st.integers(0, 2**32)
modes = st.sampled_from(["batch", "sample"])


def coded_masks(size=SIZE, dtype=torch.uint8, channel=False):
    """Give mask i the value i + 1 everywhere, as its image."""
    masks = coded_images(COUNT, size, dtype, channels=1)
    return tv_tensors.Mask(masks if channel else masks[:, 0])


def is_same_code(images, masks):
    """Tell whether masks hold at each pixel the sample that the image shows there."""
    masks = masks[:, None] if masks.ndim == 3 else masks
    return torch.equal(images[:, :1].double(), masks.double())


# --- Masks --------------------------------------------------------------------------------------


@given(
    modes,
    st.sampled_from(["roll", "shuffle"]),
    st.sampled_from([torch.uint8, torch.bool, torch.int32, torch.int64]),
    st.booleans(),
    st.sampled_from([1.0, 0.5]),
    st.booleans(),
    seeds,
)
def test_cutmix_pastes_masks_with_their_pixels(mode, pairing, dtype, channel, p, inplace, seed):
    """Image and mask show the same sample at every pixel, with or without a channel axis."""
    torch.manual_seed(seed)
    images, masks = coded_images(COUNT, SIZE), coded_masks(dtype=torch.int64, channel=channel)
    if dtype == torch.bool:
        images, masks = (images > 3).float(), tv_tensors.Mask(masks > 3)
    else:
        masks = tv_tensors.Mask(masks.to(dtype))
    before = masks.clone()
    transform = CutMix(mode=mode, pairing=pairing, p=p, inplace=inplace)
    out, mixed = transform(tv_tensors.Image(images), masks)
    assert type(mixed) is tv_tensors.Mask
    assert (mixed.shape, mixed.dtype) == (masks.shape, dtype)
    assert is_same_code(out, mixed)
    assert torch.equal(masks, before)


def test_a_mask_beside_a_label_is_mixed_with_it():
    """Image, mask and label of one dict tell the same story."""
    batch = {
        "image": tv_tensors.Image(coded_images(COUNT, SIZE)),
        "mask": coded_masks(),
        "label": torch.arange(COUNT),
    }
    out = CutMix(num_classes=COUNT)(batch)
    assert is_same_code(out["image"], out["mask"])
    torch.testing.assert_close(out["label"].double(), shares(out["image"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("channel", [True, False])
@given(modes, st.sampled_from([1.0, 0.5]), seeds)
def test_soft_masks_are_planes_that_sum_to_one(channel, mode, p, seed):
    """Mixup turns masks into (B, K, H, W) planes whose weights explain every pixel."""
    torch.manual_seed(seed)
    transform = Mixup(mode=mode, p=p, masks="soft", num_mask_classes=COUNT + 1)
    images = coded_images(COUNT, SIZE)
    out, planes = transform(images, coded_masks(channel=channel))
    assert type(planes) is tv_tensors.Mask
    assert (planes.shape, planes.dtype) == ((COUNT, COUNT + 1, *SIZE), torch.float32)
    torch.testing.assert_close(planes.as_subclass(torch.Tensor).sum(1), torch.ones(COUNT, *SIZE))
    shown = torch.einsum("k,bkhw->bhw", torch.arange(COUNT + 1.0), planes.as_subclass(torch.Tensor))
    torch.testing.assert_close(shown, out[:, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("ignored", [255, -1])
def test_ignored_pixels_stay_ignored_in_soft_masks(ignored):
    """A pixel without a label has no weight in any plane, only what its partner knows."""
    masks = torch.randint(3, (COUNT, *SIZE))
    masks[:, :4] = ignored
    masks[0] = ignored
    transform = Mixup(mode="sample", masks="soft", num_mask_classes=3, ignore_index=ignored)
    (_, planes), plan = transform.mix((coded_images(COUNT, SIZE), tv_tensors.Mask(masks)))
    known = (masks != ignored).float()
    lam = plan.lam.view(-1, 1, 1)
    expected = lam * known + (1 - lam) * known[plan.partner]
    torch.testing.assert_close(planes.as_subclass(torch.Tensor).sum(1), expected)
    assert not planes[:, :, :4].any()


@pytest.mark.parametrize("channel", [True, False])
@given(modes, seeds)
def test_the_dominant_mask_is_that_of_the_larger_weight(channel, mode, seed):
    """Masks keep their ids and dtype, and are those of whoever has the larger weight."""
    torch.manual_seed(seed)
    masks = coded_masks(dtype=torch.int64, channel=channel)
    transform = Mixup(mode=mode, masks="dominant")
    (_, mixed), plan = transform.mix((coded_images(COUNT, SIZE), masks))
    assert type(mixed) is tv_tensors.Mask
    assert (mixed.shape, mixed.dtype) == (masks.shape, masks.dtype)
    winner = torch.where(plan.lam >= 0.5, torch.arange(COUNT), plan.partner)
    assert torch.equal(mixed, masks[winner])


def test_soft_masks_are_in_one_format_whether_mixed_or_not():
    """With p = 0 the planes are there too, one-hot."""
    transform = Mixup(p=0.0, masks="soft", num_mask_classes=COUNT + 1)
    planes = transform(coded_images(COUNT, SIZE), coded_masks())[1]
    assert planes.shape == (COUNT, COUNT + 1, *SIZE)
    assert set(planes.unique().tolist()) == {0.0, 1.0}


def test_planes_can_be_mixed_again():
    """Float planes from an earlier Mixup are mixed as they are, by every transform."""
    images, masks = coded_images(COUNT, SIZE), coded_masks()
    first = Mixup(masks="soft", num_mask_classes=COUNT + 1)(images, masks)
    images, planes = Mixup(masks="soft", num_mask_classes=COUNT + 1)(*first)
    assert planes.shape == (COUNT, COUNT + 1, *SIZE)
    images, planes = CutMix()(images, planes)
    shown = torch.einsum("k,bkhw->bhw", torch.arange(COUNT + 1.0), planes.as_subclass(torch.Tensor))
    torch.testing.assert_close(shown, images[:, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
@pytest.mark.parametrize(
    "masks",
    [
        torch.ones(COUNT, *SIZE),
        torch.ones(COUNT, 1, *SIZE),
        torch.ones(COUNT, 3, *SIZE),
        torch.full((COUNT, COUNT + 1, *SIZE), 2.0),
        torch.full((COUNT, COUNT + 1, *SIZE), -0.5),
        torch.full((COUNT, COUNT + 1, *SIZE), torch.nan),
    ],
)
def test_class_ids_as_floats_are_not_taken_for_planes(kind, masks):
    """Floats that are no planes of K classes would be blended as numbers, so they are refused."""
    transform = kind(masks="soft", num_mask_classes=COUNT + 1, labels_getter=None)
    batch = coded_images(COUNT, SIZE), tv_tensors.Mask(masks)
    refused(lambda: transform(batch), "masks at [1] must be integers, or (B, 7, ...) planes")


@pytest.mark.parametrize("mask_fill", [None, 0, 255])
@pytest.mark.parametrize("holes", [1, 3])
@given(modes, st.sampled_from([1.0, 0.5]), seeds)
def test_cutout_fills_masks_where_the_image_is_erased(mask_fill, holes, mode, p, seed):
    """Holes take mask_fill in the mask at the same pixels, or leave the mask alone."""
    torch.manual_seed(seed)
    images, masks = coded_images(COUNT, SIZE), coded_masks()
    transform = Cutout(4, holes=holes, fill=100.0, mask_fill=mask_fill, mode=mode, p=p)
    out, mixed = transform(tv_tensors.Image(images), masks)
    erased = out[:, 0] == 100
    if mask_fill is None:
        assert torch.equal(mixed, masks)
    else:
        assert (mixed[erased] == mask_fill).all()
        assert torch.equal(mixed[~erased], masks[~erased])
        assert type(mixed) is tv_tensors.Mask


# --- Videos and volumes -------------------------------------------------------------------------


def coded_volumes(shape, dtype=torch.float32):
    codes = torch.arange(1, shape[0] + 1).view(-1, *[1] * (len(shape) - 1))
    return codes.expand(shape).to(dtype)


LAYOUTS = {
    "BTCHW": (COUNT, 5, 2, 7, 9),
    "BCDHW": (COUNT, 2, 5, 7, 9),
    "BCHWD": (COUNT, 2, 7, 9, 5),
    "BDHW": (COUNT, 5, 7, 9),
    "BHWC": (COUNT, 7, 9, 2),
    "BHW": (COUNT, 7, 9),
    "BCTDHW": (COUNT, 1, 2, 3, 7, 9),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cut", ["spatial", "cuboid"])
@given(modes, st.sampled_from(DTYPES), st.sampled_from(["roll", "shuffle"]), seeds)
def test_the_label_weight_is_the_share_of_the_volume(layout, cut, mode, dtype, pairing, seed):
    """In every layout, boxes through all frames and cuboids weigh exactly their voxels."""
    if cut == "cuboid" and len({"T", "D"} & set(layout)) != 1:
        return
    torch.manual_seed(seed)
    transform = CutMix(num_classes=COUNT, cut=cut, layout=layout, mode=mode, pairing=pairing)
    out, soft = transform(coded_volumes(LAYOUTS[layout], dtype), torch.arange(COUNT))
    torch.testing.assert_close(soft.double(), shares(out), atol=1e-6, rtol=0)
    moving = next((layout.index(a) for a in "TD" if a in layout), None)
    if cut == "spatial" and moving is not None:
        first = out.select(moving, 0).unsqueeze(moving)
        assert torch.equal(out, first.expand_as(out))
    if "C" in layout:
        axis = layout.index("C")
        assert torch.equal(out, out.select(axis, 0).unsqueeze(axis).expand_as(out))


@pytest.mark.parametrize("cut", ["spatial", "cuboid"])
def test_videos_are_cut_in_space_or_in_time_too(cut):
    """A Video (B, T, C, H, W) needs no layout, and keeps its type."""
    video = tv_tensors.Video(coded_volumes((COUNT, 6, 3, 8, 8)))
    cut_times = set()
    for _ in range(20):
        (out, soft), plan = CutMix(num_classes=COUNT, cut=cut).mix((video, torch.arange(COUNT)))
        assert type(out) is tv_tensors.Video
        torch.testing.assert_close(soft.double(), shares(out), atol=1e-6, rtol=0)
        again = functional.replay(
            video.as_subclass(torch.Tensor), plan, axes=(1, 3, 4) if cut == "cuboid" else None
        )
        assert torch.equal(bits(again), bits(out.as_subclass(torch.Tensor)))
        changed = (out != video).flatten(2).any(2)
        cut_times.add(int(changed[0].sum()))
    assert cut_times <= {0, 6} if cut == "spatial" else any(0 < n < 6 for n in cut_times)


@pytest.mark.parametrize("kind", [Mixup, Cutout])
def test_videos_and_volumes_are_blended_and_erased(kind):
    """Mixup blends whole videos, Cutout cuts a hole through all frames."""
    video = tv_tensors.Video(coded_volumes((COUNT, 4, 3, 8, 8)))
    out, _ = kind(num_classes=COUNT)(video, torch.arange(COUNT))
    assert type(out) is tv_tensors.Video
    assert torch.equal(out, out[:, :1].expand_as(out))
    volume = video.as_subclass(torch.Tensor).transpose(1, 2)
    for layout in (None, "BCDHW"):
        out = kind(num_classes=COUNT, layout=layout)(volume, torch.arange(COUNT))[0]
        assert out.shape == volume.shape
        assert not torch.equal(out, volume)


def test_a_fill_for_each_channel_finds_the_channels_of_a_layout():
    """In BCDHW, BHWC and videos each channel gets its own value."""
    shapes = {"BCDHW": (2, 3, 4, 6, 6), "BHWC": (2, 6, 6, 3), None: (2, 4, 3, 6, 6)}
    for layout, shape in shapes.items():
        axis = (layout or "BTCHW").index("C")
        for mode in ("batch", "sample"):
            out = Cutout(4, fill=(2, 3, 4), layout=layout, mode=mode)(torch.zeros(shape))
            for channel in range(3):
                found = out.select(axis, channel)
                assert set(found.unique().tolist()) <= {0.0, 2.0 + channel}
                assert (found == 2 + channel).any()


@pytest.mark.parametrize("cut", ["spatial", "cuboid"])
def test_masks_of_volumes_are_cut_with_them(cut):
    """Mask (B, D, H, W) of a volume shows at each voxel whose it is."""
    volume = coded_volumes((COUNT, 1, 5, 8, 8))
    masks = tv_tensors.Mask(volume[:, 0].to(torch.uint8))
    transform = CutMix(layout="BCDHW", cut=cut)
    out, mixed = transform(volume, masks)
    assert not torch.equal(out, volume)
    assert torch.equal(out[:, 0].double(), mixed.double())


def test_masks_of_videos_are_cut_with_them():
    """Mask (B, T, H, W) of a video follows a box and a cuboid."""
    video = tv_tensors.Video(coded_volumes((COUNT, 5, 3, 8, 8)))
    masks = tv_tensors.Mask(video[:, :, 0].as_subclass(torch.Tensor).to(torch.int64))
    for cut in ("spatial", "cuboid"):
        out, mixed = CutMix(cut=cut)(video, masks)
        assert torch.equal(out[:, :, 0].double(), mixed.double())


def test_soft_masks_of_volumes():
    """Mixup makes (B, K, D, H, W) planes of (B, D, H, W) masks."""
    volume = coded_volumes((COUNT, 1, 5, 8, 8))
    masks = tv_tensors.Mask(volume[:, 0].to(torch.uint8))
    transform = Mixup(layout="BCDHW", masks="soft", num_mask_classes=COUNT + 1)
    out, planes = transform(volume, masks)
    assert planes.shape == (COUNT, COUNT + 1, 5, 8, 8)
    codes = torch.arange(COUNT + 1.0).view(1, -1, 1, 1, 1)
    torch.testing.assert_close((codes * planes).sum(1).as_subclass(torch.Tensor), out[:, 0])


@pytest.mark.parametrize("layout", [None, "BCDHW", "BCHWD"])
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_cutout_erases_cuboids(layout, mode):
    """With cut="cuboid" a hole is limited in time or depth too, and masks are filled with it."""
    shape = {None: (4, 5, 1, 8, 8), "BCDHW": (4, 1, 5, 8, 8), "BCHWD": (4, 1, 8, 8, 5)}[layout]
    axes = tuple((layout or "BTCHW").index(a) for a in ("T" if layout is None else "D", "H", "W"))
    transform = Cutout(0.5, cut="cuboid", fill=9, layout=layout, mode=mode)
    out, plan = transform.mix(torch.zeros(shape))
    assert plan.boxes.shape == (4, 1, 6)
    assert torch.equal(out, functional.cutout(torch.zeros(shape), plan.boxes, 9, axes=axes))
    volumes = (plan.boxes[:, 0, 3:] - plan.boxes[:, 0, :3]).prod(1)
    assert torch.equal((out == 9).flatten(1).sum(1), volumes)
    assert (volumes > 0).all()
