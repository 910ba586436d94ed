"""Train in several processes: torchrun --nproc-per-node 2 ddp.py"""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tv_mixaug import CutMix, Mixup, make_collate_fn


def main() -> None:
    dist.init_process_group("gloo")  # "nccl" on GPUs
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(images, torch.arange(64) % 4)
    collate_fn = make_collate_fn([Mixup(0.2, num_classes=4), CutMix(num_classes=4)], seed=0)
    sampler = DistributedSampler(dataset)
    loader = DataLoader(
        dataset, batch_size=8, sampler=sampler, num_workers=2, persistent_workers=True,
        collate_fn=collate_fn,
    )  # fmt: skip
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 4))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        collate_fn.set_epoch(epoch)
        for x, y in loader:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"rank {dist.get_rank()}, epoch {epoch}: loss {loss.item():.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
