"""Images, videos and volumes: boxes and labels in every layout."""

import pytest
import torch
from helpers.coded import DTYPES, bits, shares
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup, functional, make_collate_fn

COUNT = 6
KINDS = pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
LAYOUTS = {
    "BTCHW": (COUNT, 5, 2, 7, 9),
    "BCDHW": (COUNT, 2, 5, 7, 9),
    "BCHWD": (COUNT, 2, 7, 9, 5),
    "BDHW": (COUNT, 5, 7, 9),
    "BHWC": (COUNT, 7, 9, 2),
    "BHW": (COUNT, 7, 9),
    "BCTDHW": (COUNT, 1, 2, 3, 7, 9),
}


def coded_volumes(shape, dtype=torch.float32):
    """Give volume i the value i + 1 everywhere."""
    codes = torch.arange(1, shape[0] + 1).view(-1, *[1] * (len(shape) - 1))
    return codes.expand(shape).to(dtype)


# --- Videos and volumes -------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cut", ["spatial", "cuboid"])
@given(
    st.sampled_from(["batch", "sample"]), st.sampled_from(DTYPES),
    st.sampled_from(["roll", "shuffle"]), st.integers(0, 2**32),
)  # fmt: skip
def test_labels_and_masks_follow_the_volume(layout, cut, mode, dtype, pairing, seed):
    """In every layout labels are shares of voxels, and a mask is cut with its volume."""
    if cut == "cuboid" and len({"T", "D"} & set(layout)) != 1:
        return
    torch.manual_seed(seed)
    volume = coded_volumes(LAYOUTS[layout], dtype)
    channel, time = layout.find("C"), max(layout.find("T"), layout.find("D"))
    plain = volume if channel < 0 else volume.select(channel, 0)
    transform = CutMix(num_classes=COUNT, cut=cut, layout=layout, mode=mode, pairing=pairing)
    out, soft, mask = transform(volume, torch.arange(COUNT), tv_tensors.Mask(plain.long()))
    torch.testing.assert_close(soft.double(), shares(out), atol=1e-6, rtol=0)
    shown = out if channel < 0 else out.select(channel, 0)
    assert torch.equal(shown.double(), mask.double())
    if channel >= 0:
        assert torch.equal(out, shown.unsqueeze(channel).expand_as(out))
    if cut == "spatial" and time > 0:
        assert torch.equal(out, out.select(time, 0).unsqueeze(time).expand_as(out))


@pytest.mark.parametrize("cut", ["spatial", "cuboid"])
def test_videos_are_cut_in_space_or_in_time_too(cut):
    """A Video (B, T, C, H, W) needs no layout, keeps its type, and its mask follows."""
    video, cut_times = tv_tensors.Video(coded_volumes((COUNT, 6, 3, 8, 8))), set()
    masks = tv_tensors.Mask(video[:, :, 0].long())
    transform = CutMix(num_classes=COUNT, cut=cut)
    samples = [(tv_tensors.Video(clip), index) for index, clip in enumerate(video)]
    assert type(make_collate_fn(transform)(samples)[0]) is tv_tensors.Video
    for _ in range(20):
        (out, mask, soft), plan = transform.mix((video, masks, torch.arange(COUNT)))
        assert type(out) is tv_tensors.Video
        torch.testing.assert_close(soft.double(), shares(out), atol=1e-6, rtol=0)
        assert torch.equal(out[:, :, 0].double(), mask.double())
        axes = (1, 3, 4) if cut == "cuboid" else None
        again = functional.replay(video.as_subclass(torch.Tensor), plan, axes=axes)
        assert torch.equal(bits(again), bits(out.as_subclass(torch.Tensor)))
        cut_times.add(int((out != video)[0].flatten(1).any(1).sum()))
    assert cut_times <= {0, 6} if cut == "spatial" else any(0 < n < 6 for n in cut_times)


@pytest.mark.parametrize("kind", [Mixup, Cutout])
@pytest.mark.parametrize("layout", [None, "BCDHW"])
def test_all_frames_are_blended_or_erased_alike(kind, layout):
    """Mixup blends whole videos, and a hole goes through all frames."""
    video = tv_tensors.Video(coded_volumes((COUNT, 4, 3, 8, 8)))
    given_video = video.as_subclass(torch.Tensor).transpose(1, 2) if layout else video
    out, _ = kind(num_classes=COUNT, layout=layout)(given_video, torch.arange(COUNT))
    assert type(out) is type(given_video)
    assert not torch.equal(out, given_video)
    frames = out.transpose(1, 2) if layout else out
    assert torch.equal(frames, frames[:, :1].expand_as(frames))


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("BCDHW", (2, 3, 4, 6, 6)), ("BHWC", (2, 6, 6, 3)), (None, (2, 4, 3, 6, 6))],
)
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_a_fill_for_each_channel_finds_the_channels_of_a_layout(layout, shape, mode):
    """Each channel gets its own value, in volumes, images with channels last and videos."""
    out = Cutout(4, fill=(2, 3, 4), layout=layout, mode=mode)(torch.zeros(shape))
    for channel, found in enumerate(out.unbind((layout or "BTCHW").index("C"))):
        assert set(found.unique().tolist()) - {0.0} == {2.0 + channel}


@pytest.mark.parametrize(
    ("layout", "shape", "axes"),
    [
        (None, (4, 5, 1, 8, 8), (1, 3, 4)),
        ("BCDHW", (4, 1, 5, 8, 8), (2, 3, 4)),
        ("BCHWD", (4, 1, 8, 8, 5), (4, 2, 3)),
    ],
)
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_cutout_erases_cuboids(layout, shape, axes, mode):
    """With cut="cuboid" a hole has a side in time or depth, too."""
    transform = Cutout(0.5, cut="cuboid", fill=9, layout=layout, mode=mode)
    out, plan = transform.mix(torch.zeros(shape))
    assert plan.boxes.shape == (4, 1, 6)
    assert torch.equal(out, functional.cutout(torch.zeros(shape), plan.boxes, 9, axes=axes))
    volumes = (plan.boxes[:, 0, 3:] - plan.boxes[:, 0, :3]).prod(1)
    assert torch.equal((out == 9).flatten(1).sum(1), volumes)
    assert (volumes > 0).all()


@KINDS
def test_images_of_unequal_size_are_refused(kind):
    """The error names the shapes, and says where to resize or pad the images."""
    images = [torch.rand(3, 6, 9), torch.rand(3, 8, 5)]
    with pytest.raises(ValueError, match=r"one size .*3, 6, 9.* resize or pad them in the data"):
        kind(labels_getter=None)(images)


class Scan(torch.Tensor):
    """A subclass with an attribute, as MONAI's MetaTensor."""


@pytest.mark.parametrize("p", [0.0, 1.0])
@KINDS
def test_a_subclass_keeps_its_type_and_attributes(kind, p):
    """Mixed or not, all batches have one type; a parameter becomes a plain tensor if mixed."""
    images = torch.rand(COUNT, 1, 8, 8).as_subclass(Scan)
    images.spacing = 3
    out, _ = kind(p=p, num_classes=COUNT)(images, torch.arange(COUNT))
    assert (type(out), out.spacing) == (Scan, 3)
    out, _ = kind(num_classes=COUNT)(nn.Parameter(torch.rand(COUNT, 1, 8, 8)), torch.arange(COUNT))
    assert type(out) is torch.Tensor
