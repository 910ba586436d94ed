"""torchrun and DDP: each process samples its own mixes, which are reproducible.

torchrun --nproc-per-node 2 torchrun_ddp.py
"""

import json
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers


def main():
    if "RANK" in os.environ:
        dist.init_process_group("gloo")  # "nccl" on GPUs
    else:  # started without torchrun
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    images, labels = flowers.draw_flowers(64, size=32)
    dataset = TensorDataset(images.as_subclass(torch.Tensor) / 255, labels)

    # Each process makes a collate function with the same seed, which finds its rank.
    collate_fn = make_collate_fn(
        [Mixup(0.4, num_classes=2), CutMix(num_classes=2)], p=[0.5, 0.5], seed=0, record=True
    )
    sampler = DistributedSampler(dataset, num_replicas=ranks, rank=rank)
    loader = DataLoader(
        dataset,
        batch_size=8,
        sampler=sampler,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
        collate_fn=collate_fn,
    )
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 2)
    )
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    print(f"rank {rank} of {ranks}")
    for epoch in range(2):
        sampler.set_epoch(epoch)
        collate_fn.set_epoch(epoch)
        for number, (x, y, plan) in enumerate(loader):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # Printed to compare ranks and runs.
            mix = {"partner": int(plan.partner[0]), "lam": round(float(plan.lam[0]), 4)}
            print(json.dumps({"epoch": epoch, "batch": number, **mix}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
