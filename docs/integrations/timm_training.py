"""timm: its model, optimizer and loss, with a collate function of tv_mixaug."""

import sys
from importlib.util import find_spec

if find_spec("timm") is None:
    print("skipped: timm is not installed; pip install timm")
    sys.exit(0)

import timm
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader, TensorDataset

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers


def main():
    torch.manual_seed(0)
    images, labels = flowers.draw_flowers(64, size=64)
    images = images / 255

    # timm: Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5,
    #             mode="elem", label_smoothing=0.1, num_classes=2)
    shared = {"num_classes": 2, "mode": "sample", "label_smoothing": 0.1}
    collate_fn = make_collate_fn([Mixup(0.8, **shared), CutMix(1.0, **shared)], p=[0.5, 0.5])
    loader = DataLoader(
        TensorDataset(images, labels), batch_size=15, shuffle=True, collate_fn=collate_fn
    )  # batches may be odd

    model = timm.create_model("test_resnet", pretrained=False, num_classes=2)
    criterion = SoftTargetCrossEntropy()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
    mixup_off_epoch, epochs = 2, 3
    for epoch in range(epochs):
        if epoch == mixup_off_epoch:
            collate_fn.set_p(0)  # also reaches persistent workers
        for x, y in loader:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}, first label {y[0].tolist()}")


if __name__ == "__main__":
    main()
