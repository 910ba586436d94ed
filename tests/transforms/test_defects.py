"""One test for each defect found in other systems, to show that it is not to be found here."""

import pytest
import torch
from helpers.coded import DTYPES, coded_images, shares
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import Chain, CutMix, Cutout, Mixup, make_collate_fn


class Cached(torch.utils.data.Dataset):
    """A data set that hands out the same objects again and again."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def make_samples(count=4, dtype=torch.float32):
    images = coded_images(count, (8, 8), dtype)
    return [(image.clone(), label) for label, image in enumerate(images)]


def test_1_collating_keeps_the_types_so_that_masks_are_mixed():
    """A dict of image, mask and label comes back with all three cut at the same place."""
    images = coded_images(4)
    samples = [
        {
            "image": tv_tensors.Image(image),
            "mask": tv_tensors.Mask(image[0].to(torch.uint8)),
            "label": label,
        }
        for label, image in enumerate(images)
    ]
    batch = make_collate_fn(CutMix(num_classes=4))(samples)
    assert type(batch["image"]) is tv_tensors.Image
    assert type(batch["mask"]) is tv_tensors.Mask
    assert not torch.equal(batch["image"], images)
    assert torch.equal(batch["image"][:, 0], batch["mask"].float())
    torch.testing.assert_close(batch["label"].double(), shares(batch["image"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_2_the_label_may_come_first(kind):
    """In a dict or tuple with the label first, images are mixed, not the labels alone."""
    images, labels = coded_images(4), torch.arange(4)
    soft, mixed = kind(num_classes=4)(labels, images)
    assert not torch.equal(mixed, images)
    assert soft.shape == (4, 4)
    out = kind(num_classes=4)({"label": labels, "image": images})
    assert not torch.equal(out["image"], images)
    assert out["label"].shape == (4, 4)


def test_3_derived_labels_and_every_dtype_work():
    """A labels_getter may return a view, labels may be int32, and uint8 images are blended."""
    images, labels = coded_images(4), torch.arange(4)
    transform = CutMix(num_classes=4, labels_getter=lambda batch: batch[1][:])
    mixed, soft = transform(images, labels.to(torch.int32))
    torch.testing.assert_close(soft.double(), shares(mixed), atol=1e-6, rtol=0)
    mixed, soft = Mixup(num_classes=4)(coded_images(4, dtype=torch.uint8), labels.to(torch.int32))
    assert mixed.dtype == torch.uint8
    assert soft.shape == (4, 4)


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
def test_4_there_is_a_p_and_one_label_format(kind):
    """With p between 0 and 1 every batch has (B, K) float32 labels, mixed or not."""
    transform, touched = kind(num_classes=4, p=0.5, mode="batch"), set()
    for _ in range(20):
        images = coded_images(4)
        mixed, soft = transform(images, torch.arange(4))
        assert (soft.dtype, soft.shape) == (torch.float32, (4, 4))
        touched.add(torch.equal(mixed, images))
    assert touched == {True, False}


def test_5_second_views_are_mixed_and_leading_ids_are_harmless():
    """A second image tensor gets the same mix, and an id tensor in front changes nothing."""
    ids, images, labels = torch.arange(100, 104), coded_images(4), torch.arange(4)
    out_ids, one, two, soft = CutMix(num_classes=4)(ids, images, images.clone(), labels)
    assert out_ids is ids
    assert not torch.equal(one, images)
    assert torch.equal(one, two)
    torch.testing.assert_close(soft.double(), shares(one), atol=1e-6, rtol=0)


def test_6_cutmix_twice_counts_the_pixels_that_are_left():
    """After two CutMixes in a chain, no label differs from its pixels, in 200 rows."""
    chain = Chain([CutMix(num_classes=8, mode="sample"), CutMix(num_classes=8, mode="sample")])
    three = 0
    for _ in range(25):
        images, soft = chain(coded_images(8, (16, 16)), torch.arange(8))
        torch.testing.assert_close(soft.double(), shares(images), atol=1e-6, rtol=0)
        three += int(((soft > 0).sum(1) > 2).sum())
    assert three > 20  # rows with pixels of three samples, which step by step counts wrongly


def test_7_uint8_images_do_not_truncate_lam():
    """Per-sample Mixup of uint8 gives the pixels that its labels say, to half a grey level."""
    images = coded_images(4, dtype=torch.uint8) * 60
    mixed, soft = Mixup(num_classes=4, mode="sample")(images, torch.arange(4))
    expected = soft.double() @ images[:, 0, 0, 0].double()
    assert ((mixed[:, 0, 0, 0].double() - expected).abs() <= 0.5 + 1e-4).all()
    assert 0 < float(soft.diagonal().max()) < 1
    assert ((mixed != images) & (mixed != images[torch.arange(4) - 1])).any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("targets", ["soft", "pair"])
def test_8_cached_samples_are_not_overwritten(dtype, targets):
    """A data set that keeps its images in memory has the same images after any epoch."""
    samples = make_samples(8, dtype)
    collate = make_collate_fn([kind(num_classes=8, targets=targets) for kind in (Mixup, CutMix)])
    for _ in range(3):
        for _ in DataLoader(Cached(samples), batch_size=4, collate_fn=collate):
            pass
    for label, (image, _) in enumerate(samples):
        assert torch.equal(image, coded_images(8, dtype=dtype)[label])


def test_9_switching_off_reaches_persistent_workers():
    """After set_p(0) a running worker mixes nothing any more."""
    samples = make_samples(8)
    collate = make_collate_fn(Mixup(num_classes=8), p=1.0)
    loader = DataLoader(
        Cached(samples), batch_size=4, collate_fn=collate, num_workers=1, persistent_workers=True
    )
    images = coded_images(8)
    assert not torch.equal(torch.cat([batch[0] for batch in loader]), images)
    collate.set_p(0.0)
    batches = list(loader)
    assert torch.equal(torch.cat([batch[0] for batch in batches]), images)
    assert torch.equal(torch.cat([batch[1] for batch in batches]), torch.eye(8))


def test_10_floats_stay_floats_extras_stay_and_video_is_cut_in_space():
    """Collating casts nothing and drops nothing, odd batches pass, and videos lose no axis."""
    samples = [
        {"image": torch.rand(3, 8, 8), "label": i, "name": f"n{i}", "id": i + 7} for i in range(5)
    ]
    batch = make_collate_fn(CutMix(num_classes=5))(samples)
    assert batch["image"].dtype == torch.float32
    assert batch["image"].unique().numel() > 100
    assert batch["name"] == [f"n{i}" for i in range(5)]
    assert batch["id"].tolist() == [7, 8, 9, 10, 11]
    assert batch["label"].shape == (5, 5)
    video = coded_images(5).unsqueeze(1).repeat(1, 4, 1, 1, 1)
    out, soft = CutMix(num_classes=5)(tv_tensors.Video(video), torch.arange(5))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert torch.equal(out, out[:, :, :1].expand_as(out))
    torch.testing.assert_close(soft.double(), shares(out), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_11_lam_is_the_weight_of_the_own_image(dtype):
    """Lam belongs to the own image in plan, pixels and labels, and bfloat16 spoils no label."""
    images = torch.zeros(200, 1, 2, 2, dtype=dtype)
    images[1::2] = 200 if dtype == torch.uint8 else 1
    labels = torch.arange(200) % 2
    transform = Mixup(8.0, num_classes=2, mode="sample", pairing=lambda y: torch.arange(200) ^ 1)
    (mixed, soft), plan = transform.mix((images, labels))
    assert soft.dtype == torch.float32
    rows = torch.arange(200)
    torch.testing.assert_close(soft[rows, labels], plan.lam, atol=1e-6, rtol=0)
    shown = mixed[:, 0, 0, 0].double() / images.max().double()
    torch.testing.assert_close(shown, soft[:, 1].double(), atol=8e-3, rtol=0)


def test_12_masks_keep_ids_and_shapes_and_boxes_are_whole_pixels():
    """Masks are refused without a rule or mixed by one, indices give (B, K), lam counts pixels."""
    images, masks = coded_images(4), tv_tensors.Mask(torch.randint(9, (4, 8, 8)))
    with pytest.raises(ValueError, match="masks must be 'soft' or 'dominant'"):
        Mixup(labels_getter=None)(images, masks)
    mixed = Mixup(masks="dominant")(images, masks)[1]
    assert mixed.shape == masks.shape
    assert set(mixed.unique().tolist()) <= set(range(9))
    wrong = 0
    for _ in range(50):
        mixed, soft = CutMix(num_classes=4, mode="sample")(coded_images(4, (9, 7)), torch.arange(4))
        assert soft.shape == (4, 4)
        wrong += int(((soft.double() - shares(mixed)).abs() > 1e-6).any(1).sum())
    assert wrong == 0


def test_13_uint8_keeps_label_weights_and_ids_are_not_numbers():
    """uint8 images do not touch the label's weight, and class ids are never averaged."""
    for kind in (Mixup, CutMix):
        images, labels = coded_images(4, dtype=torch.uint8), torch.tensor([0, 9, 0, 9])
        transform = kind(num_classes=10, mode="sample", pairing=lambda y: torch.arange(4).roll(1))
        _, soft = transform(images, labels)
        assert not soft[:, 1:9].any()
        assert ((soft[:, 0] > 0) & (soft[:, 0] < 1)).any()
        torch.testing.assert_close(soft.sum(1), torch.ones(4))


@pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
def test_14_a_batch_of_one_passes(kind):
    """One image is its own partner and keeps its label."""
    images = coded_images(1)
    out, soft = kind(num_classes=3)(images, torch.tensor([2]))
    assert soft.tolist() == [[0, 0, 1]]
    assert kind is Cutout or torch.equal(out, images)
    batch = make_collate_fn(kind(num_classes=3))([(images[0], 2)])
    assert batch[1].tolist() == [[0, 0, 1]]


def test_15_building_twice_from_the_same_arguments_works():
    """Constructors and factories leave the caller's lists and dicts as they were."""
    transforms, p = [Mixup(num_classes=3), CutMix(num_classes=3)], [0.5, 0.5]
    classes, passthrough, fill = {"label": 3}, ["depth"], [1, 2, 3]
    for _ in range(2):
        make_collate_fn(transforms, p=p)
        Cutout(num_classes=classes, passthrough=passthrough, fill=fill)
        Chain(transforms)
        v2.Compose(transforms)
    assert (len(transforms), p) == (2, [0.5, 0.5])
    assert (classes, passthrough, fill) == ({"label": 3}, ["depth"], [1, 2, 3])


def test_16_the_mix_is_the_same_for_every_number_of_workers():
    """Under one seed, none, one and two workers give the same batches."""
    runs = []
    for workers in (0, 1, 2):
        loader = DataLoader(
            Cached(make_samples(12)),
            batch_size=4,
            num_workers=workers,
            collate_fn=make_collate_fn(Mixup(num_classes=12), seed=3),
        )
        runs.append(torch.cat([batch[0] for batch in loader]))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
