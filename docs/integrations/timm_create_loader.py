"""timm's create_loader with its prefetcher and FastCollateMixup, which is switched off by epoch.

Only the import changes in timm's train.py. The argument `seed=` is optional.
"""

import sys
from importlib.util import find_spec

if find_spec("timm") is None:
    print("skipped: timm is not installed; pip install timm")
    sys.exit(0)

import timm
import torch
from timm.data import create_loader
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2

from tv_mixaug.extras import flowers
from tv_mixaug.timm import FastCollateMixup  # from timm.data import FastCollateMixup


class Pictures(torch.utils.data.Dataset):
    """(3, H, W) uint8 arrays, as for timm's prefetcher."""

    def __init__(self):
        self.images, self.labels = flowers.draw_flowers(64, size=32)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index].numpy(), int(self.labels[index])


def main():
    torch.manual_seed(0)
    collate_fn = FastCollateMixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="elem",
        label_smoothing=0.0, num_classes=2, seed=0,
    )  # fmt: skip
    loader = create_loader(
        Pictures(), (3, 32, 32), 16, is_training=True, mean=(0, 0, 0), std=(1, 1, 1), num_workers=2,
        use_prefetcher=True, collate_fn=collate_fn, pin_memory=False, device=torch.device("cpu"),
        persistent_workers=True,
    )  # fmt: skip
    model = timm.create_model("test_resnet", pretrained=False, num_classes=2)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
    criterion = SoftTargetCrossEntropy()
    epochs, mixup_off_epoch = 3, 2
    for epoch in range(epochs):
        if epoch >= mixup_off_epoch:
            loader.mixup_enabled = False  # reaches running workers
        collate_fn.set_epoch(epoch)  # a part of the seed
        for x, y in loader:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
