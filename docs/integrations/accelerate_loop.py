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

from tv_mixaug import CutMix, MixCriterion, Mixup, PairedLabels, make_collate_fn


def train(accelerator):
    torch.manual_seed(0)
    labels = torch.arange(96) % 2
    # Each picture is filled with its class, 0 or 1: its mean is what its label must say.
    dataset = TensorDataset(labels.view(-1, 1, 1, 1).expand(-1, 3, 32, 32).float(), labels)
    # Paired labels are three short tensors, so they also suit a great number of classes.
    pair = {"num_classes": 2, "targets": "pair"}
    collate_fn = make_collate_fn([Mixup(0.4, **pair), CutMix(**pair)], seed=0)
    loader = DataLoader(dataset, batch_size=16, shuffle=True, collate_fn=collate_fn)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    criterion = MixCriterion(nn.CrossEntropyLoss())
    seen, lams = [], []
    for epoch in range(2):
        loader.set_epoch(epoch)  # reaches the sampler
        collate_fn.set_epoch(epoch)  # reaches the mixing
        for x, y in loader:
            if not isinstance(y, PairedLabels) or y.lam.device.type != accelerator.device.type:
                raise SystemExit("the prepared loader must move the three tensors and their type.")
            lams.append(y.lam)
            seen.append(y.lam * y.labels + (1 - y.lam) * y.partner_labels)
            torch.testing.assert_close(seen[-1], x.mean((1, 2, 3)))
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        mean = accelerator.reduce(loss.detach(), "mean").item()
        accelerator.print(f"epoch {epoch}: last loss {mean:.3f}")

    # Resumed in the middle of an epoch, the loader begins behind what was trained on before.
    done = 4
    collate_fn.set_epoch(epoch, first_batch=done)
    rest = [y.lam for _, y in accelerator.skip_first_batches(loader, done)]
    if not torch.equal(torch.cat(rest), torch.cat(lams[len(loader) + done :])):
        raise SystemExit("a resumed epoch must go on with the mixes that would have followed.")
    return torch.cat(seen)


def main():
    accelerator = Accelerator()
    weights = train(accelerator)
    if not torch.equal(weights, train(accelerator)):
        raise SystemExit("a second run from the same seed has other mixes.")
    accelerator.print(f"{int((weights % 1 != 0).sum())} of {len(weights)} samples of two classes")
    accelerator.end_training()


if __name__ == "__main__":
    main()
