"""torchdata.nodes: several threads read samples, and one thread mixes batches."""

import sys
from importlib.util import find_spec

if find_spec("torchdata") is None:
    print("skipped: torchdata is not installed; pip install torchdata")
    sys.exit(0)

import torch
from torch import nn
from torch.utils.data import RandomSampler, TensorDataset
from torchdata import nodes

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers


def main():
    torch.manual_seed(0)
    images, labels = flowers.draw_flowers(64, size=32)
    dataset = TensorDataset(images / 255, labels)
    collate_fn = make_collate_fn([Mixup(0.4, num_classes=2), CutMix(num_classes=2)], seed=0)
    node = nodes.SamplerWrapper(RandomSampler(dataset))
    node = nodes.ParallelMapper(node, dataset.__getitem__, num_workers=2, method="thread")
    node = nodes.Batcher(node, batch_size=16)
    # One worker, since calls are numbered in order.
    node = nodes.ParallelMapper(node, collate_fn, num_workers=1, method="thread")
    loader = nodes.Loader(nodes.Prefetcher(node, prefetch_factor=2))

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(2):
        collate_fn.set_epoch(epoch)
        for x, y in loader:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
