"""Chains count their labels from the pixels that are visible at the end."""

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup, make_collate_fn

K = 5
ERASED_VALUE = -1.0


def coded_images(kind=torch.Tensor, channels=K):
    """Return images whose channel k is 1 in sample k only, so that pixels are label rows."""
    images = torch.eye(K)[:, :, None, None].expand(K, channels, 33, 48).contiguous()
    return images if kind is torch.Tensor else kind(images)


def shares_of(images):
    """Return for each image the share of each sample in its visible pixels."""
    plain = images.as_subclass(torch.Tensor).double()
    visible = (plain.sum(1, keepdim=True) > 0.5).double()
    return (plain * visible).sum((2, 3)) / visible.sum((2, 3))


CHAINS = {
    "cutmix twice": [CutMix(num_classes=K), CutMix(num_classes=K, mode="sample")],
    "cutmix, cutout": [CutMix(num_classes=K), Cutout(0.5, num_classes=K)],
    "cutmix, crop, flip": [
        CutMix(num_classes=K, mode="sample"),
        v2.RandomResizedCrop(24, interpolation=InterpolationMode.NEAREST),
        v2.RandomHorizontalFlip(),
    ],
    "mixup, cutmix": [Mixup(num_classes=K, mode="sample"), CutMix(num_classes=K)],
    "cutmix, mixup, cutmix": [
        CutMix(num_classes=K, pairing="shuffle"),
        Mixup(num_classes=K),
        CutMix(num_classes=K, mode="sample"),
    ],
    "cutmix, rotation": [CutMix(num_classes=K), v2.RandomRotation(30)],
}


@pytest.mark.parametrize("kind", [torch.Tensor, tv_tensors.Image])
@pytest.mark.parametrize("name", CHAINS)
def test_labels_are_the_visible_shares(name, kind):
    """Labels equal the shares of the visible pixels to 1e-6, whatever came after what."""
    chain = Chain(CHAINS[name])
    for seed in range(10):
        torch.manual_seed(seed)
        images, labels = chain(coded_images(kind), torch.arange(K))
        assert type(images) is kind
        assert (labels - shares_of(images)).abs().max() < 1e-6


def test_a_plain_composition_is_wrong_where_the_chain_is_right():
    """Without provenance the same steps give labels that the pixels contradict."""
    steps = [CutMix(num_classes=K), CutMix(num_classes=K)]
    torch.manual_seed(0)
    worst = 0.0
    for _ in range(10):
        images, labels = Chain(steps, provenance=False)(coded_images(), torch.arange(K))
        worst = max(worst, float((labels - shares_of(images)).abs().max()))
    assert worst > 0.01


@pytest.mark.parametrize("erased", ["nobody", "renormalise", "owner"])
def test_erased_pixels_count_as_asked(erased):
    """What is erased is missing from the sum, shared out, or still counted."""
    torch.manual_seed(0)
    cutout = Cutout((1.0, 0.5), num_classes=1)
    chain = Chain([cutout], erased=erased)
    images = torch.ones(1, 1, 8, 8)
    for _ in range(20):
        mixed, labels = chain(images, torch.tensor([0]))
        visible = float(mixed.mean())
        wanted = visible if erased == "nobody" else 1.0
        assert float(labels) == pytest.approx(wanted, abs=1e-6)


def test_a_label_first_and_other_leaves_stay_in_place():
    """The batch keeps its nesting, and what is no image or label passes through."""
    torch.manual_seed(0)
    batch = {"label": torch.arange(K), "id": ["a"] * K, "image": coded_images()}
    out = Chain([CutMix(num_classes=K), v2.RandomHorizontalFlip(1.0)])(batch)
    assert list(out) == ["label", "id", "image"]
    assert out["id"] == batch["id"]
    assert (out["label"] - shares_of(out["image"])).abs().max() < 1e-6


def test_inputs_are_not_changed_and_labels_have_one_format():
    """With p below 1 every batch has (B, K) float32 labels, and the inputs stay as they were."""
    torch.manual_seed(0)
    collate = make_collate_fn(Chain([CutMix(num_classes=K), Cutout(num_classes=K)], p=0.5))
    images = coded_images()
    before = images.clone()
    seen = set()
    for _ in range(10):
        mixed, labels = collate([(images[i], i) for i in range(K)])
        assert labels.dtype == torch.float32
        assert labels.shape == (K, K)
        seen.add(torch.equal(mixed, before))
    assert seen == {True, False}
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("steps", "options", "error", "text"),
    [
        ([], {}, ValueError, "at least one"),
        ([v2.RandomHorizontalFlip()], {}, ValueError, "at least one"),
        ([CutMix(num_classes=2), v2.MixUp(num_classes=2)], {}, ValueError, "torchvision's MixUp"),
        ([CutMix(num_classes=2), Mixup(num_classes=3)], {}, ValueError, "num_classes"),
        ([CutMix(num_classes=2, targets="pair")], {}, ValueError, "targets"),
        ([CutMix(num_classes=2, cut="cuboid")], {}, ValueError, "cut"),
        ([CutMix(num_classes=2)], {"erased": "x"}, ValueError, "erased"),
        ([CutMix(num_classes=2)], {"provenance": 1}, TypeError, "provenance"),
        ([CutMix(num_classes=2)], {"p": 2}, ValueError, "p must"),
        ([3], {}, TypeError, "transforms"),
        (CutMix(num_classes=2), {}, TypeError, "transforms"),
    ],
)
def test_bad_chains_are_refused(steps, options, error, text):
    """A chain that could not keep its promise is refused when it is made."""
    with pytest.raises(error, match=text):
        Chain(steps, **options)
