"""SPDL: several threads read samples, and one thread mixes batches."""

import sys
from importlib.util import find_spec

if find_spec("spdl") is None:
    print("skipped: spdl is not installed; pip install spdl")
    sys.exit(0)

import torch
from spdl.pipeline import PipelineBuilder
from torch import nn
from torch.utils.data import TensorDataset

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers


def make_pipeline(dataset, collate_fn):
    return (
        PipelineBuilder()
        .add_source(torch.randperm(len(dataset)).tolist())
        .pipe(dataset.__getitem__, concurrency=2, output_order="input")
        .aggregate(16)
        .pipe(collate_fn)  # one call at a time, since calls are numbered in order
        .add_sink(buffer_size=2)
        .build(num_threads=3)
    )


def main():
    torch.manual_seed(0)
    images, labels = flowers.draw_flowers(64, size=32)
    dataset = TensorDataset(images / 255, labels)
    collate_fn = make_collate_fn([Mixup(0.4, num_classes=2), CutMix(num_classes=2)], seed=0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(2):
        collate_fn.set_epoch(epoch)
        pipeline = make_pipeline(dataset, collate_fn)
        with pipeline.auto_stop():
            for x, y in pipeline:
                loss = nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
