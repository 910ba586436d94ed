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

from tv_mixaug import CutMix, MixCriterion, Mixup, make_collate_fn
from tv_mixaug.extras import flowers


def main():
    torch.manual_seed(0)
    images, labels = flowers.draw_flowers(64, size=32)
    dataset = TensorDataset(images / 255, labels)
    pair = {"num_classes": 2, "targets": "pair"}  # the engine keeps their type
    collate_fn = make_collate_fn([Mixup(0.4, **pair), CutMix(**pair)], seed=0)
    loader = DataLoader(dataset, 16, shuffle=True, num_workers=2, collate_fn=collate_fn)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = create_supervised_trainer(model, optimizer, MixCriterion(nn.CrossEntropyLoss()))
    evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy()})

    @trainer.on(Events.EPOCH_STARTED)
    def set_epoch(engine):
        collate_fn.set_epoch(engine.state.epoch - 1)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        evaluator.run(DataLoader(dataset, 16))
        print(f"epoch {engine.state.epoch}: accuracy {evaluator.state.metrics['accuracy']:.2f}")

    trainer.run(loader, max_epochs=2)


if __name__ == "__main__":
    main()
