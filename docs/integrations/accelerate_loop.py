"""Accelerate: a prepared loader keeps its collate function, on one or several devices."""

import sys
from importlib.util import find_spec

if find_spec("accelerate") is None:
    print("skipped: accelerate is not installed; pip install accelerate")
    sys.exit(0)

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers


def main():
    torch.manual_seed(0)
    accelerator = Accelerator()
    images, labels = flowers.draw_flowers(96, size=32)
    dataset = TensorDataset(images.as_subclass(torch.Tensor) / 255, labels)
    collate_fn = make_collate_fn([Mixup(0.4, num_classes=2), CutMix(num_classes=2)], seed=0)
    loader = DataLoader(dataset, batch_size=16, shuffle=True, collate_fn=collate_fn)

    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(2):
        loader.set_epoch(epoch)  # of the sampler
        collate_fn.set_epoch(epoch)  # of the mixes
        for x, y in loader:
            # A model of Hugging Face reads float labels as multi-label targets. Pass it only the
            # images, and compute the loss from outputs.logits.
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        mean = accelerator.reduce(loss.detach(), "mean").item()
        accelerator.print(f"epoch {epoch}: last loss {mean:.3f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
