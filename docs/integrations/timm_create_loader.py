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

from tv_mixaug.timm import FastCollateMixup  # from timm.data import FastCollateMixup


class Pictures(torch.utils.data.Dataset):
    """(3, H, W) uint8 arrays, as for timm's prefetcher, filled with 0 or 255."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.full((3, 32, 32), 255 * (index % 2), dtype=torch.uint8).numpy(), index % 2


def train(num_workers):
    torch.manual_seed(0)
    collate_fn = FastCollateMixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="elem",
        label_smoothing=0.0, num_classes=2, seed=0,
    )  # fmt: skip
    loader = create_loader(
        Pictures(), (3, 32, 32), 16, is_training=True, mean=(0, 0, 0), std=(1, 1, 1),
        num_workers=num_workers, use_prefetcher=True, collate_fn=collate_fn, pin_memory=False,
        device=torch.device("cpu"), persistent_workers=num_workers > 0,
    )  # fmt: skip
    model = timm.create_model("test_resnet", pretrained=False, num_classes=2)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
    criterion = SoftTargetCrossEntropy()
    epochs, mixup_off_epoch = 3, 2
    seen = []
    for epoch in range(epochs):
        if epoch >= mixup_off_epoch:
            loader.mixup_enabled = False  # reaches running workers
        collate_fn.set_epoch(epoch)  # a part of the seed
        for x, y in loader:
            # The mean of an image must equal its label, up to the rounding of uint8.
            torch.testing.assert_close(x.mean((1, 2, 3)), y[:, 1], atol=0.5 / 255 + 1e-5, rtol=0)
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(y)
    return torch.stack(seen).view(epochs, 64, 2)


def main():
    labels = train(num_workers=2)
    if not torch.equal(labels, train(num_workers=2)):
        raise SystemExit("a second run with the same seed has different mixes.")
    mixed = (labels.amax(2) < 1).sum(1).tolist()
    print(f"{mixed} of 64 labels mixed in epochs 0, 1 and 2")
    if not (mixed[0] and mixed[1]) or mixed[2]:
        raise SystemExit("two epochs must be mixed, and the last one must not.")


if __name__ == "__main__":
    main()
