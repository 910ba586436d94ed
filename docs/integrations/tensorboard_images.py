"""TensorBoard: log one mixed batch of each epoch as a picture with label weights."""

import sys
from importlib.util import find_spec

if find_spec("tensorboard") is None:
    print("skipped: tensorboard is not installed; pip install tensorboard")
    sys.exit(0)

from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from tv_mixaug import CutMix, Mixup, make_collate_fn, viz
from tv_mixaug.extras import flowers


def main():
    dataset = TensorDataset(*flowers.draw_flowers(64, size=64))
    collate_fn = make_collate_fn(
        [Mixup(0.4, num_classes=2), CutMix(num_classes=2)], record=True, seed=0
    )
    loader = DataLoader(dataset, batch_size=16, collate_fn=collate_fn)
    log = SummaryWriter("runs")  # view it by: tensorboard --logdir runs
    step = 0
    for epoch in range(2):
        collate_fn.set_epoch(epoch)
        for images, labels, plan in loader:
            if step % len(loader) == 0:
                sheet = viz.draw_batch(images[:8], labels[:8], flowers.CLASS_NAMES, columns=4)
                log.add_image("mixed batch", sheet, step, dataformats="HWC")
            log.add_histogram("label weight of the original", plan.lam, step)
            step += 1
    log.close()
    print(f"logged a picture of each epoch and {step} histograms to runs")


if __name__ == "__main__":
    main()
