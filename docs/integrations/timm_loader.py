"""timm: its create_loader and prefetcher, which normalise what our collate function has mixed."""

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

from tv_mixaug import CutMix, Mixup, make_collate_fn


class Pictures(torch.utils.data.Dataset):
    """(3, H, W) bytes, as timm's PIL pictures are. Each is filled with its class, 0 or 1."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.full((3, 32, 32), 255 * (index % 2), dtype=torch.uint8), index % 2


def train():
    torch.manual_seed(0)
    collate_fn = make_collate_fn([Mixup(0.8, num_classes=2), CutMix(num_classes=2)], seed=0)
    loader = create_loader(
        Pictures(), (3, 32, 32), 16, is_training=True, mean=(0, 0, 0), std=(1, 1, 1), num_workers=2,
        use_prefetcher=True, collate_fn=collate_fn, device=torch.device("cpu"), pin_memory=False,
    )  # fmt: skip
    model = timm.create_model("test_resnet", pretrained=False, num_classes=2)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
    criterion = SoftTargetCrossEntropy()
    seen = []
    for epoch in range(2):
        collate_fn.set_epoch(epoch)
        for x, y in loader:
            # A mean is what its label must say, up to half a grey level of the blended bytes.
            torch.testing.assert_close(x.mean((1, 2, 3)), y[:, 1], atol=0.5 / 255 + 1e-5, rtol=0)
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(y)
    return torch.cat(seen)


def main():
    labels = train()
    if not torch.equal(labels, train()):
        raise SystemExit("a second run from the same seed has other mixes.")
    print(f"{int((labels.max(1).values < 1).sum())} of {len(labels)} labels of two epochs mixed")


if __name__ == "__main__":
    main()
