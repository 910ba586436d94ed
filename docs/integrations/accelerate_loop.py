"""Accelerate: the prepared loader keeps its collate function, on one device or many."""

import sys
from importlib.util import find_spec

if find_spec("accelerate") is None:
    print("skipped: accelerate is not installed; pip install accelerate")
    sys.exit(0)

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tv_mixaug import CutMix, MixCriterion, Mixup, PairedLabels, flowers, make_collate_fn


def main():
    torch.manual_seed(0)
    accelerator = Accelerator()
    images, labels = flowers.draw_flowers(96, size=32)
    dataset = TensorDataset(images.as_subclass(torch.Tensor) / 255, labels)
    # Paired labels are three short tensors, so they also suit a great number of classes.
    collate_fn = make_collate_fn(
        [Mixup(0.4, num_classes=2, targets="pair"), CutMix(num_classes=2, targets="pair")], seed=0
    )
    loader = DataLoader(dataset, batch_size=16, shuffle=True, collate_fn=collate_fn)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    criterion = MixCriterion(nn.CrossEntropyLoss())

    for epoch in range(3):
        loader.set_epoch(epoch)  # reaches the sampler
        collate_fn.set_epoch(epoch)  # reaches the mixing
        total, lams = torch.zeros((), device=accelerator.device), []
        for x, y in loader:
            if not isinstance(y, PairedLabels) or y.lam.device.type != accelerator.device.type:
                raise SystemExit("the prepared loader must move the three tensors and their type.")
            lams.append(y.lam)
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            total += loss.detach() / len(loader)
        mean = accelerator.reduce(total, "mean").item()
        accelerator.print(f"epoch {epoch}: loss {mean:.3f}")
    if not mean < 1:
        raise SystemExit("the loss must be finite and near that of a guess, or below.")

    # Resumed in the middle of an epoch, the loader begins behind what was trained on before.
    done = 4
    collate_fn.set_epoch(epoch, first_batch=done)
    rest = [y.lam for _, y in accelerator.skip_first_batches(loader, done)]
    if not rest or not torch.equal(torch.cat(rest), torch.cat(lams[done:])):
        raise SystemExit("a resumed epoch must go on with the mixes that would have followed.")
    accelerator.end_training()


if __name__ == "__main__":
    main()
