"""Ray Data: threads prefetch batches, and each batch is mixed with its own seed."""

import os
import sys
from importlib.util import find_spec

if find_spec("ray") is None:
    print("skipped: ray is not installed; pip install 'ray[data]'")
    sys.exit(0)

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # avoids a warning of ray.init
import logging

import ray
import torch
from ray.data.collate_fn import NumpyBatchCollateFn
from torch import nn

from tv_mixaug import CutMix
from tv_mixaug.extras import flowers


class Mix(NumpyBatchCollateFn):
    """Apply a transform to a batch; Ray has stacked the samples."""

    def __init__(self, transform, epoch):
        super().__init__()
        self.transform, self.epoch = transform, epoch

    def __call__(self, batch):
        batch = {key: torch.tensor(value) for key, value in batch.items()}
        # Threads take batches in any order, so the seed depends on the content of the batch. A
        # generator on the CPU uses only the lower 32 bits.
        seed = (1_000_003 * self.epoch + int(batch.pop("row")[0])) % 2**32
        return self.transform.mix(batch, generator=torch.Generator().manual_seed(seed))[0]


def main():
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.execution_options.preserve_order = False, True
    images, labels = flowers.draw_flowers(64, size=32)
    columns = zip((images / 255).numpy(), labels.tolist(), strict=True)
    rows = ray.data.from_items(
        [{"images": image, "labels": label, "row": i} for i, (image, label) in enumerate(columns)]
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(2):
        collate_fn = Mix(CutMix(num_classes=2, mode="sample", pairing="shuffle"), epoch)
        # In Ray Train each worker iterates over ray.train.get_dataset_shard("train").
        for batch in rows.iter_torch_batches(
            batch_size=16, prefetch_batches=3, collate_fn=collate_fn, device="cpu"
        ):
            loss = nn.functional.cross_entropy(model(batch["images"]), batch["labels"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    ray.shutdown()


if __name__ == "__main__":
    main()
