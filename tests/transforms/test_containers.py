"""Chains follow transforms in torchvision's containers, and refuse those that hide pixels."""

import pytest
import torch
from helpers.coded import coded_planes, seeded
from helpers.refusals import refused
from helpers.transforms import check_chain, check_labels
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup, OneOf
from tv_mixaug.transforms import containers

K = 5
CUT, CUT_EACH = CutMix(num_classes=K), CutMix(num_classes=K, mode="sample")
NEAREST, EXACT = InterpolationMode.NEAREST, InterpolationMode.NEAREST_EXACT

# --- Containers -----------------------------------------------------------------------------------

HELD = [Cutout(0.4, num_classes=K, fill=1), Mixup(num_classes=K), v2.RandomRotation(90, fill=1)]
NESTED = v2.Compose([nn.Sequential(v2.Compose(HELD), v2.Compose([v1.Compose(HELD)])), HELD[0]])


@pytest.mark.parametrize("provenance", [True, False])
def test_containers_that_apply_all_are_opened(provenance):
    """Rules in containers are followed, and the pixels are those of ``v2.Compose``."""
    steps, batch = [CUT, NESTED, CUT], (tv_tensors.Image(coded_planes(K, (9, 9))), torch.arange(K))
    for seed in range(6):
        torch.manual_seed(seed)
        expected, _ = v2.Compose(steps)(batch)
        torch.manual_seed(seed)
        chain = Chain(steps, provenance=provenance)
        images, labels = chain(batch)
        assert torch.equal(images, expected)
        assert labels.shape == (K, K)
        if provenance:
            check_labels(chain, images, labels)


class Block(nn.Module):
    """A module that holds a transform."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, batch):
        """Call the transform."""
        return self.held(batch)


class Twice(v2.Compose):
    """A container that calls its transforms twice."""

    def forward(self, *inputs):
        """Call them twice."""
        return super().forward(super().forward(*inputs))


@pytest.mark.parametrize(
    ("step", "texts"),
    [
        (Block(v2.Compose([CUT])), ["got Compose in Block."]),
        (Twice([CUT]), ["got CutMix in Twice."]),
        (v2.RandomApply([CUT]), ["got CutMix in RandomApply."]),
        (v2.RandomOrder([OneOf([CUT])]), ["got OneOf in RandomOrder."]),
        (v2.Lambda(CUT), ["got CutMix in Lambda."]),
        (v2.Lambda(v2.RandomHorizontalFlip()), ["got RandomHorizontalFlip in Lambda."]),
        (Block(v2.RandomHorizontalFlip()), ["got RandomHorizontalFlip in Block."]),
        (v2.Compose([Block(v2.Compose([v2.Pad(1)]))]), ["got Compose in Block."]),
        (v1.RandomHorizontalFlip(), ["torchvision's RandomHorizontalFlip", "use v2.RandomHoriz"]),
        (v1.Lambda(lambda batch: batch), ["torchvision's Lambda", "use v2.Lambda"]),
        (v1.RandomApply([v2.Pad(1)]), ["torchvision's RandomApply", "use v2.RandomApply"]),
        (v1.TenCrop(3), ["torchvision's TenCrop", "data set"]),
    ],
)
def test_transforms_that_are_called_unseen_are_refused(step, texts):
    """A container that is unknown, or older than v2, would move pixels unnoticed."""
    refused(lambda: Chain([CUT, step]), *texts)


# --- All transforms of v2 -------------------------------------------------------------------------

HALF, IMAGES = [0.5] * 3, (tv_tensors.Image, tv_tensors.Video)
MOVING = {
    "CenterCrop": lambda: [v2.CenterCrop((7, 12)), v2.CenterCrop((25, 50))],
    "ElasticTransform": lambda: [v2.ElasticTransform(90.0, 2.0, NEAREST, fill=1)],
    "Pad": lambda: [v2.Pad(2, fill=1), v2.Pad((3, 1, 0, 2), fill=1)],
    "RandomAffine": lambda: [v2.RandomAffine(20, (0.2, 0.2), (0.8, 1.2), 10, fill=1)],
    "RandomCrop": lambda: [v2.RandomCrop(5)],
    "RandomHorizontalFlip": lambda: [v2.RandomHorizontalFlip(1.0)],
    "RandomPerspective": lambda: [v2.RandomPerspective(0.6, 1.0, NEAREST, fill=1)],
    "RandomResize": lambda: [v2.RandomResize(5, 20, NEAREST)],
    "RandomResizedCrop": lambda: [v2.RandomResizedCrop(20, interpolation=NEAREST)],
    "RandomRotation": lambda: [v2.RandomRotation(90), v2.RandomRotation(60, expand=True, fill=1)],
    "RandomShortestSize": lambda: [v2.RandomShortestSize([5, 20], interpolation=NEAREST)],
    "RandomVerticalFlip": lambda: [v2.RandomVerticalFlip(1.0)],
    "RandomZoomOut": lambda: [v2.RandomZoomOut(1, (1.5, 1.5), p=1.0)],
    "Resize": lambda: [v2.Resize(7, NEAREST), v2.Resize((20, 31), EXACT)],
    "ScaleJitter": lambda: [v2.ScaleJitter((9, 12), (0.6, 1.5), NEAREST)],
}
STAYING = {  # name: arguments
    **dict.fromkeys(("ClampBoundingBoxes", "ClampKeyPoints", "GaussianNoise", "Identity"), ()),
    **dict.fromkeys(("PILToTensor", "RGB", "RandomChannelPermutation", "ToImage"), ()),
    **dict.fromkeys(("ToPureTensor", "ToTensor"), ()),
    **dict.fromkeys(("RandomAutocontrast", "RandomEqualize", "RandomGrayscale"), (1.0,)),
    "ColorJitter": (0.5, 0.5, 0.5, 0.2),
    "ConvertBoundingBoxFormat": ("XYXY",),
    "ConvertImageDtype": (torch.float64,),
    "GaussianBlur": (3, 2.0),
    "Grayscale": (3,),
    "JPEG": (50,),
    "Lambda": (lambda x: x * 2, *IMAGES),
    "Normalize": (HALF, HALF),
    "RandomAdjustSharpness": (2, 1.0),
    "RandomErasing": (1.0, (0.02, 0.33), (0.3, 3.3), 7),
    "RandomInvert": (1.0,),
    "RandomPhotometricDistort": ((0.5, 0.9), (0.5, 1.5), (0.5, 1.5), (-0.05, 0.05), 1.0),
    "RandomPosterize": (2, 1.0),
    "RandomSolarize": (99, 1.0),
    "SetClampingMode": ("hard",),
    "ToDtype": (dict.fromkeys(IMAGES, torch.float64),),
    "UniformTemporalSubsample": (2,),
}
REFUSED = {
    **dict.fromkeys(("AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide"), ()),
    **dict.fromkeys(("RandomIoUCrop", "SanitizeBoundingBoxes", "SanitizeKeyPoints"), ()),
    **dict.fromkeys(("CutMix", "MixUp", "ToPILImage"), ()),
    "FiveCrop": (5,),
    "LinearTransformation": (torch.eye(27).flip(0), torch.zeros(27)),
    "TenCrop": (5,),
}
CONTAINERS = {"Compose", "RandomApply", "RandomChoice", "RandomOrder", "Transform"}
OF_V2 = {
    name
    for name in dir(v2)
    if isinstance(getattr(v2, name), type) and issubclass(getattr(v2, name), nn.Module)
}
IDENTITY = v2.Lambda(lambda x: x)
# Transforms that change nothing in the images of these tests.
IDLE = {"ClampBoundingBoxes", "ClampKeyPoints", "ConvertBoundingBoxFormat", "Identity", "RGB"}
IDLE |= {"PILToTensor", "SetClampingMode", "ToImage", "ToPureTensor", "ToTensor"}


def test_every_transform_of_v2_is_in_one_table():
    """The transforms of every release of torchvision are in one table, and in one only."""
    tables = [set(MOVING), set(STAYING), set(REFUSED), CONTAINERS]
    assert set.union(*tables) >= OF_V2
    assert sum(map(len, tables)) == len(set.union(*tables))
    assert set.union(*tables) - set(REFUSED) == containers.FOLLOWED


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(OF_V2 & set(MOVING)))
def test_transforms_that_move_pixels_are_followed(name, dtype):
    """Pixels are followed between rules, alone and in a container, in the dtype's precision."""
    for step in MOVING[name]():
        check_chain([CUT_EACH, step, CUT_EACH], dtype)
        check_chain([CUT_EACH, v2.RandomApply([step, step], p=1.0), CUT_EACH], dtype, (9, 12), 2)


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The transform .ToTensor:UserWarning")
@pytest.mark.parametrize("name", sorted(OF_V2 & set(STAYING)))
def test_transforms_that_leave_pixels_in_place_change_no_label(name):
    """The labels are those without the transform, for images and for videos."""
    step, changes = getattr(v2, name)(*STAYING[name]), False
    dtype = torch.float32 if name in ("GaussianNoise", "Normalize") else torch.uint8
    video = tv_tensors.Video(torch.randint(128, (K, 4, 3, 18, 24)).to(dtype))
    for images in (video, tv_tensors.Image(video[:, 0]), video[:, 1].as_subclass(torch.Tensor)):
        batch = images, torch.arange(K)
        (plain, expected), (changed, labels) = (
            Chain(steps, erased="nobody").mix(batch, generator=seeded())[0]
            for steps in ([CUT_EACH, IDENTITY, CUT_EACH], [CUT_EACH, step, CUT_EACH])
        )
        assert torch.equal(labels, expected)
        changes |= plain.dtype != changed.dtype or not torch.equal(plain, changed)
        if name == "ToPureTensor":
            assert type(changed) is torch.Tensor
    assert changes is (name not in IDLE)


@pytest.mark.parametrize("provenance", [True, False])
@pytest.mark.parametrize("name", sorted(OF_V2 & set(REFUSED)))
def test_transforms_that_cannot_be_followed_are_refused(name, provenance):
    """An error of the constructor names the transform, however nested, and what to do."""
    step, derived = (getattr(v2, name)(*REFUSED[name]) for _ in range(2))
    derived.__class__ = type("Derived", (type(step),), {})
    for one in (step, derived, v2.RandomApply([step]), Twice([step])):
        if not provenance:
            Chain([CUT, one], provenance=False)
            continue
        with pytest.raises(ValueError, match=f"got torchvision's {name}; (use|apply) .*[.]$"):
            Chain([CUT, one])
