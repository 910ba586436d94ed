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


def main():
    torch.manual_seed(0)
    epoch, stop = 1, 3
    collate_fn, loader = make_loader()
    collate_fn.set_epoch(epoch)
    batches = iter(loader)
    for _ in range(stop):
        next(batches)
    checkpoint = {"epoch": epoch, "loader": loader.state_dict()}
    missed = list(batches)  # the rest of the epoch

    collate_fn, loader = make_loader()  # as in a new process
    collate_fn.set_epoch(checkpoint["epoch"])
    loader.load_state_dict(checkpoint["loader"])
    resumed = list(loader)

    if len(resumed) != len(missed):
        raise RuntimeError("the resumed loader has a different number of batches.")
    for (x, y), (resumed_x, resumed_y) in zip(missed, resumed, strict=True):
        if not (torch.equal(x, resumed_x) and torch.equal(y, resumed_y)):
            raise RuntimeError("a batch differs after resuming.")
    print(f"stopped after {stop} batches; the other {len(resumed)} are the same after resuming")


if __name__ == "__main__":
    main()
