"""torchvision's references/classification: OneOf after default_collate, and RandomErasing.

The script needs only PyTorch and torchvision.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from tv_mixaug import CutMix, Mixup, OneOf, RandomErasing

# torchvision: v2.RandomChoice([v2.MixUp(alpha=0.2, ...), v2.CutMix(alpha=1.0, ...)])
mixup_cutmix = OneOf([Mixup(alpha=0.2, num_classes=2), CutMix(alpha=1.0, num_classes=2)])
# torchvision: RandomErasing(p=0.1) in the transform of each image
erase = RandomErasing(p=0.1)


def collate_fn(batch):
    return mixup_cutmix(*erase(*default_collate(batch)))


def train(num_workers):
    torch.manual_seed(0)
    # All pixels of an image are its class, 0 or 1. A second channel is 1 where nothing is erased.
    labels = torch.arange(64) % 2
    images = torch.stack([labels, torch.ones(64)], 1).view(-1, 2, 1, 1).expand(-1, -1, 32, 32)
    loader = DataLoader(
        TensorDataset(images, labels), batch_size=16, shuffle=True, num_workers=num_workers,
        collate_fn=collate_fn,
    )  # fmt: skip
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 32 * 32, 2))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)  # also takes soft labels
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen, erased = [], 0
    for _ in range(2):
        for image, target in loader:
            whole = (image[:, 1] == 1).flatten(1).all(1)
            torch.testing.assert_close(image[whole, 0].mean((1, 2)), target[whole, 1])
            loss = criterion(model(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(target)
            erased += int((~whole).sum())
    return torch.cat(seen), erased


def main():
    for num_workers in (0, 2):
        labels, erased = train(num_workers)
        if not torch.equal(labels, train(num_workers)[0]):
            raise SystemExit("a second run with the same seed has different mixes.")
        mixed = int((labels.amax(1) < 1).sum())
        print(f"{num_workers} workers: of {len(labels)} labels {mixed} mixed, {erased} with a hole")
        if not (mixed and erased):
            raise SystemExit("images must be mixed, and some erased.")


if __name__ == "__main__":
    main()
