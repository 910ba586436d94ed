"""PyTorch-Ignite: a supervised trainer with a loader that mixes."""

import sys
from importlib.util import find_spec

if find_spec("ignite") is None:
    print("skipped: ignite is not installed; pip install pytorch-ignite")
    sys.exit(0)

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tv_mixaug import CutMix, MixCriterion, Mixup, PairedLabels, make_collate_fn


def train():
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    # All pixels of an image are its class, 0 or 1, so its mean must equal its label.
    dataset = TensorDataset(labels.view(-1, 1, 1, 1).expand(-1, 3, 32, 32).float(), labels)
    pair = {"num_classes": 2, "targets": "pair"}
    collate_fn = make_collate_fn([Mixup(0.4, **pair), CutMix(**pair)], seed=0)
    loader = DataLoader(dataset, 16, shuffle=True, num_workers=2, collate_fn=collate_fn)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = create_supervised_trainer(model, optimizer, MixCriterion(nn.CrossEntropyLoss()))
    evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy()})
    seen = []

    @trainer.on(Events.EPOCH_STARTED)
    def set_epoch(engine):
        collate_fn.set_epoch(engine.state.epoch - 1)

    @trainer.on(Events.ITERATION_COMPLETED)
    def record(engine):
        images, pair = engine.state.batch
        if not isinstance(pair, PairedLabels):
            raise SystemExit("the engine must keep the type of paired labels.")
        seen.append(pair.lam * pair.labels + (1 - pair.lam) * pair.partner_labels)
        torch.testing.assert_close(images.mean((1, 2, 3)), seen[-1])

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        evaluator.run(DataLoader(dataset, 16))

    trainer.run(loader, max_epochs=2)
    return torch.cat(seen), evaluator.state.metrics["accuracy"]


def main():
    weights, accuracy = train()
    if not torch.equal(weights, train()[0]):
        raise SystemExit("a second run with the same seed has different mixes.")
    mixed = int((weights % 1 != 0).sum())
    print(f"{mixed} of {len(weights)} samples mixed; accuracy on unmixed samples {accuracy:.2f}")


if __name__ == "__main__":
    main()
