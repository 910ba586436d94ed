"""torchdata.nodes: several threads read samples, and one thread mixes batches."""

import sys
from importlib.util import find_spec

if find_spec("torchdata") is None:
    print("skipped: torchdata is not installed; pip install torchdata")
    sys.exit(0)

import torch
from torch import nn
from torch.utils.data import RandomSampler
from torchdata import nodes

from tv_mixaug import CutMix, Mixup, make_collate_fn


def read(index):
    """Return an image whose pixels are all its class, 0 or 1, and the class."""
    return torch.full((3, 32, 32), index % 2.0), index % 2


def train():
    torch.manual_seed(0)
    collate_fn = make_collate_fn([Mixup(0.4, num_classes=2), CutMix(num_classes=2)], seed=0)
    node = nodes.SamplerWrapper(RandomSampler(range(64)))
    node = nodes.ParallelMapper(node, read, num_workers=2, method="thread")
    node = nodes.Batcher(node, batch_size=16)
    # One worker, since calls are numbered in order.
    node = nodes.ParallelMapper(node, collate_fn, num_workers=1, method="thread")
    loader = nodes.Loader(nodes.Prefetcher(node, prefetch_factor=2))

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []
    for epoch in range(2):
        collate_fn.set_epoch(epoch)
        for x, y in loader:
            torch.testing.assert_close(x.mean((1, 2, 3)), y[:, 1])
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(y)
    return torch.cat(seen)


def main():
    labels = train()
    if not torch.equal(labels, train()):
        raise SystemExit("a second run with the same seed has different mixes.")
    print(f"{int((labels.max(1).values < 1).sum())} of {len(labels)} labels of two epochs mixed")


if __name__ == "__main__":
    main()
