"""WebDataset: stream shards, and mix batches where the pipeline collates."""

import sys
from importlib.util import find_spec

if find_spec("webdataset") is None:
    print("skipped: webdataset is not installed; pip install webdataset")
    sys.exit(0)

import tempfile
from pathlib import Path

import torch
import webdataset
from torch import nn

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers


def write_shards(folder):
    images, labels = flowers.draw_flowers(64, size=32)
    images = images.as_subclass(torch.Tensor) / 255
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"flowers-{shard}.tar")) as tar:
            for i in range(32 * shard, 32 * shard + 32):
                # A clone, since a view would be written with its whole storage.
                sample = {"__key__": f"{i:04}", "image.pth": images[i].clone()}
                tar.write({**sample, "label.cls": int(labels[i])})
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def make_loader(shards, collate_fn):
    # On several machines set nodesplitter=webdataset.split_by_node. Each process has its own rank
    # and mixes. Workers share the shards of a process.
    pipeline = (
        webdataset.WebDataset(shards, shardshuffle=False)
        .decode()
        .to_tuple("image.pth", "label.cls")
        .batched(8, collation_fn=collate_fn)
    )
    return webdataset.WebLoader(pipeline, batch_size=None, num_workers=2)


def main():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    collate_fn = make_collate_fn([Mixup(0.4, num_classes=2), CutMix(num_classes=2)], seed=0)
    with tempfile.TemporaryDirectory() as folder:
        loader = make_loader(write_shards(Path(folder)), collate_fn)
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
