"""torchmetrics: the mean accuracy for mixed labels over batches and processes."""

import sys
from importlib.util import find_spec

if find_spec("torchmetrics") is None:
    print("skipped: torchmetrics is not installed; pip install torchmetrics")
    sys.exit(0)

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from tv_mixaug import CutMix, make_collate_fn
from tv_mixaug.extras import flowers
from tv_mixaug.metrics import mixed_accuracy


def main():
    torch.manual_seed(0)
    images, labels = flowers.draw_flowers(96, size=32)
    dataset = TensorDataset(images.as_subclass(torch.Tensor) / 255, labels)
    collate_fn = make_collate_fn(CutMix(num_classes=2, mode="sample"), seed=0)
    loader = DataLoader(dataset, batch_size=16, shuffle=True, collate_fn=collate_fn)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 14 * 14, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    # In training: the label weight of the predicted class. The best possible value is below 1: the
    # mean of the largest weight of each label.
    accuracy, top_2, ceiling = MeanMetric(), MeanMetric(), MeanMetric()
    for epoch in range(3):
        collate_fn.set_epoch(epoch)
        for metric in (accuracy, top_2, ceiling):
            metric.reset()
        for x, y in loader:
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # The number of samples is the weight of a batch, which matters if the last is smaller.
            accuracy.update(mixed_accuracy(logits.detach(), y), len(y))
            top_2.update(mixed_accuracy(logits.detach(), y, k=2), len(y))
            ceiling.update(y.max(1).values)
        found, both, best = (metric.compute().item() for metric in (accuracy, top_2, ceiling))
        print(f"epoch {epoch}: {found:.3f}, top 2 {both:.3f}, best possible {best:.3f}")

    # In validation labels are not mixed, and both accuracies are equal.
    with torch.no_grad():
        logits = model(images / 255)
    ours = mixed_accuracy(logits, labels)
    theirs = MulticlassAccuracy(num_classes=2, average="micro")(logits, labels)
    print(f"validation: {ours:.3f} and {theirs:.3f}")


if __name__ == "__main__":
    main()
