"""SPDL: several threads read samples, and one thread mixes batches."""

import sys
from importlib.util import find_spec

if find_spec("spdl") is None:
    print("skipped: spdl is not installed; pip install spdl")
    sys.exit(0)

import torch
from spdl.pipeline import PipelineBuilder
from torch import nn

from tv_mixaug import CutMix, Mixup, make_collate_fn


def read(index):
    """Return an image whose pixels are all its class, 0 or 1, and the class."""
    return torch.full((3, 32, 32), index % 2.0), index % 2


def make_pipeline(collate_fn):
    return (
        PipelineBuilder()
        .add_source(torch.randperm(64).tolist())
        .pipe(read, concurrency=2, output_order="input")
        .aggregate(16)
        .pipe(collate_fn)  # one call at a time, since calls are numbered in order
        .add_sink(buffer_size=2)
        .build(num_threads=3)
    )


def train():
    torch.manual_seed(0)
    collate_fn = make_collate_fn([Mixup(0.4, num_classes=2), CutMix(num_classes=2)], seed=0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []
    for epoch in range(2):
        collate_fn.set_epoch(epoch)
        pipeline = make_pipeline(collate_fn)
        with pipeline.auto_stop():
            for x, y in pipeline:
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
