"""StatefulDataLoader: a resumed epoch continues with the same mixes."""

import sys
from importlib.util import find_spec

if find_spec("torchdata") is None:
    print("skipped: torchdata is not installed; pip install torchdata")
    sys.exit(0)

import warnings

import torch
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers

warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata still calls it


def make_loader():
    images, labels = flowers.draw_flowers(64, size=32)
    dataset = TensorDataset(images.as_subclass(torch.Tensor) / 255, labels)
    # A mix depends on the seed, the epoch and the batch index, so there is no state to save.
    collate_fn = make_collate_fn([Mixup(0.4, num_classes=2), CutMix(num_classes=2)], seed=0)
    return collate_fn, StatefulDataLoader(
        dataset, batch_size=8, shuffle=True, num_workers=2, collate_fn=collate_fn
    )


def run_epoch(epoch, checkpoint=None, stop=None):
    """Print the batches of an epoch; return a checkpoint if it is left early."""
    collate_fn, loader = make_loader()
    collate_fn.set_epoch(epoch)
    first = 0
    if checkpoint is not None:
        loader.load_state_dict(checkpoint["loader"])
        first = checkpoint["batches"]
    for number, (images, labels) in enumerate(loader, first):
        print(f"batch {number}: mean {images.mean():.6f}, labels {labels.mean(0).tolist()}")
        if number + 1 == stop:
            return {"loader": loader.state_dict(), "batches": stop}
    return None


def main():
    torch.manual_seed(0)
    checkpoint = run_epoch(epoch=1, stop=3)
    print("resumed, as in a new process:")
    torch.manual_seed(1)
    run_epoch(epoch=1, checkpoint=checkpoint)


if __name__ == "__main__":
    main()
