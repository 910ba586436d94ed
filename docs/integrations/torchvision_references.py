"""torchvision's references/classification: OneOf after default_collate, and RandomErasing.

The script needs only PyTorch and torchvision.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from tv_mixaug import CutMix, Mixup, OneOf, RandomErasing
from tv_mixaug.extras import flowers

# torchvision: v2.RandomChoice([v2.MixUp(alpha=0.2, ...), v2.CutMix(alpha=1.0, ...)])
mixup_cutmix = OneOf([Mixup(alpha=0.2, num_classes=2), CutMix(alpha=1.0, num_classes=2)])
# torchvision: RandomErasing(p=0.1) in the transform of each image
erase = RandomErasing(p=0.1)


def collate_fn(batch):
    return mixup_cutmix(*erase(*default_collate(batch)))


def main():
    torch.manual_seed(0)
    images, labels = flowers.draw_flowers(64, size=32)
    loader = DataLoader(
        TensorDataset(images / 255, labels), batch_size=16, shuffle=True, num_workers=2,
        collate_fn=collate_fn,
    )  # fmt: skip
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)  # also takes soft labels
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(2):
        for image, target in loader:
            loss = criterion(model(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
