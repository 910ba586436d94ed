"""Ray Data: batches that Ray's workers make are mixed as the training process receives them."""

import os
import sys
from importlib.util import find_spec

if find_spec("ray") is None:
    print("skipped: ray is not installed; pip install 'ray[data]'")
    sys.exit(0)

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keeps ray.init from a warning
import logging

import ray
import torch
from ray.data.collate_fn import NumpyBatchCollateFn

from tv_mixaug import CutMix, flowers


class Mix(NumpyBatchCollateFn):
    """Ray stacks the samples, so the transform itself is what is left to do."""

    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def __call__(self, batch):
        return self.transform({key: torch.tensor(value) for key, value in batch.items()})


def main():
    images, labels = flowers.draw_flowers(64, size=32)
    pixels = images.as_subclass(torch.Tensor).float().div(255).numpy()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items(
        [{"images": pixels[i], "labels": int(labels[i])} for i in range(len(labels))]
    )

    # In Ray Train every worker does this with its shard, ray.train.get_dataset_shard("train").
    collate_fn = Mix(CutMix(num_classes=2, mode="sample", pairing="shuffle"))
    runs = []
    for _ in range(2):
        torch.manual_seed(0)  # the transform draws from torch's generator, in this process
        batches = list(rows.iter_torch_batches(batch_size=16, collate_fn=collate_fn))
        runs.append([batch["labels"] for batch in batches])
    ray.shutdown()
    if not all(map(torch.equal, *runs)):
        raise RuntimeError("a second epoch from the same seed has other mixes.")
    mixed = sum(int((y.max(1).values < 1).sum()) for y in runs[0])
    print(f"{len(runs[0])} batches from Ray, {mixed} of {len(labels)} samples with a mixed label")


if __name__ == "__main__":
    main()
