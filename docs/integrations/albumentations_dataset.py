"""Albumentations: augment each image and its mask, then apply CutMix to the batch."""

import os
import sys
from importlib.util import find_spec

if find_spec("albumentations") is None:
    print("skipped: albumentations is not installed; pip install albumentations")
    sys.exit(0)

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # the import would access the network
import albumentations as A
import torch
from albumentations.pytorch import ToTensorV2
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, make_collate_fn
from tv_mixaug.extras import flowers

augment = A.Compose(
    [
        A.RandomResizedCrop(size=(64, 64), scale=(0.5, 1.0)),
        A.HorizontalFlip(),
        A.RandomBrightnessContrast(),
        ToTensorV2(),
    ],
    seed=0,
)


class Flowers(Dataset):
    """Flowers with masks; Albumentations takes (H, W, C) arrays and returns (C, H, W) tensors."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        flower = flowers.draw_flower(flowers.CLASS_NAMES[index % 2], size=80, seed=index)
        image, mask = flower.image.permute(1, 2, 0).numpy(), flower.mask.numpy()
        made = augment(image=image, mask=mask)
        # With this type the mask is cut like the image, and class ids are not blended.
        return {"image": made["image"], "mask": tv_tensors.Mask(made["mask"]), "label": index % 2}


def main():
    torch.manual_seed(0)
    collate_fn = make_collate_fn(
        [CutMix(num_classes=2), Cutout(num_classes=2, fill=127, mask_fill=0)], p=[0.5, 0.3]
    )
    loader = DataLoader(Flowers(), batch_size=8, shuffle=True, collate_fn=collate_fn)
    for number, batch in enumerate(loader):
        image, mask, label = batch["image"], batch["mask"], batch["label"]
        print(
            f"batch {number}: image {tuple(image.shape)} {image.dtype}, "
            f"{type(mask).__name__} {tuple(mask.shape)}, "
            f"first label {[round(weight, 3) for weight in label[0].tolist()]}"
        )


if __name__ == "__main__":
    main()
