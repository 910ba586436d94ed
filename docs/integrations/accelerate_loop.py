"""Accelerate: a prepared loader keeps its collate function, on one or several devices."""

import sys
from importlib.util import find_spec

if find_spec("accelerate") is None:
    print("skipped: accelerate is not installed; pip install accelerate")
    sys.exit(0)

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tv_mixaug import CutMix, MixCriterion, Mixup, PairedLabels, make_collate_fn


def train(accelerator):
    torch.manual_seed(0)
    labels = torch.arange(96) % 2
    # All pixels of an image are its class, 0 or 1, so its mean must equal its label.
    dataset = TensorDataset(labels.view(-1, 1, 1, 1).expand(-1, 3, 32, 32).float(), labels)
    # Paired labels are three (B,) tensors, which suits many classes.
    pair = {"num_classes": 2, "targets": "pair"}
    collate_fn = make_collate_fn([Mixup(0.4, **pair), CutMix(**pair)], seed=0)
    loader = DataLoader(dataset, batch_size=16, shuffle=True, collate_fn=collate_fn)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    criterion = MixCriterion(nn.CrossEntropyLoss())
    seen, lams = [], []
    for epoch in range(2):
        loader.set_epoch(epoch)  # of the sampler
        collate_fn.set_epoch(epoch)  # of the mixes
        for x, y in loader:
            if not isinstance(y, PairedLabels) or y.lam.device.type != accelerator.device.type:
                raise SystemExit("the prepared loader must move paired labels to the device.")
            lams.append(y.lam)
            seen.append(y.lam * y.labels + (1 - y.lam) * y.partner_labels)
            torch.testing.assert_close(seen[-1], x.mean((1, 2, 3)))
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        mean = accelerator.reduce(loss.detach(), "mean").item()
        accelerator.print(f"epoch {epoch}: last loss {mean:.3f}")

    # An epoch is resumed after the batches that were used before.
    done = 4
    collate_fn.set_epoch(epoch, first_batch=done)
    rest = [y.lam for _, y in accelerator.skip_first_batches(loader, done)]
    if not torch.equal(torch.cat(rest), torch.cat(lams[len(loader) + done :])):
        raise SystemExit("a resumed epoch must continue with the same mixes.")
    return torch.cat(seen)


def main():
    accelerator = Accelerator()
    weights = train(accelerator)
    if not torch.equal(weights, train(accelerator)):
        raise SystemExit("a second run with the same seed has different mixes.")
    accelerator.print(f"{int((weights % 1 != 0).sum())} of {len(weights)} samples of two classes")
    accelerator.end_training()


if __name__ == "__main__":
    main()
