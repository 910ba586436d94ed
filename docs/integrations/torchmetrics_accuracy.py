"""torchmetrics: accuracy for mixed labels, accumulated over batches and processes."""

import sys
from importlib.util import find_spec

if find_spec("torchmetrics") is None:
    print("skipped: torchmetrics is not installed; pip install torchmetrics")
    sys.exit(0)

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from tv_mixaug import CutMix, make_collate_fn
from tv_mixaug.extras import flowers
from tv_mixaug.metrics import MixedAccuracy


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
    training = MetricCollection({"accuracy": MixedAccuracy(), "top 2": MixedAccuracy(k=2)})
    ceiling = MeanMetric()
    for epoch in range(3):
        collate_fn.set_epoch(epoch)
        training.reset()
        ceiling.reset()
        for x, y in loader:
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            training.update(logits.detach(), y)
            ceiling.update(y.max(1).values)
        values = {name: round(value.item(), 3) for name, value in training.compute().items()}
        print(f"epoch {epoch}: {values}, best possible {ceiling.compute().item():.3f}")
        if not values["accuracy"] <= ceiling.compute() + 1e-4 or values["top 2"] != 1:
            raise SystemExit("mixed accuracy must be at most the mean of the largest weights.")

    # In validation labels are not mixed, and both accuracies are equal.
    with torch.no_grad():
        logits = model(images / 255)
    ours, theirs = MixedAccuracy(), MulticlassAccuracy(num_classes=2, average="micro")
    print(f"validation: {ours(logits, labels):.3f} and {theirs(logits, labels):.3f}")
    if not torch.isclose(ours.compute(), theirs.compute()):
        raise SystemExit("on unmixed labels mixed accuracy must be the ordinary accuracy.")


if __name__ == "__main__":
    main()
