"""fastai: a callback that mixes each batch before the model sees it."""

import sys
from importlib.util import find_spec

if find_spec("fastai") is None:
    print("skipped: fastai is not installed; pip install fastai")
    sys.exit(0)

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from torch import nn
from torch.utils.data import TensorDataset

from tv_mixaug import CutMix, MixCriterion


class Mix(Callback):
    """Mix a batch on its device; validation stays as it is."""

    run_valid = False

    def __init__(self, transform):
        self.transform = transform

    def before_batch(self):
        images, labels = self.transform(self.x, self.y)
        self.learn.xb, self.learn.yb = (images,), (labels,)


class See(Callback):
    """Keep the labels, which must say what the pixels are."""

    order, run_valid = Mix.order + 1, False

    def before_batch(self):
        torch.testing.assert_close(self.x.mean((1, 2, 3)), self.y[:, 1])
        self.learn.seen = [*getattr(self.learn, "seen", []), self.y.cpu()]


def train():
    set_seed(0)  # the transform draws from torch's generator
    labels = torch.arange(64) % 2
    # Each picture is filled with its class, 0 or 1: its mean is what its label must say.
    dataset = TensorDataset(labels.view(-1, 1, 1, 1).expand(-1, 3, 32, 32).float(), labels)
    loaders = DataLoaders(DataLoader(dataset, bs=16, shuffle=True), DataLoader(dataset, bs=16))
    learner = Learner(
        loaders,
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)),
        loss_func=MixCriterion(nn.CrossEntropyLoss()),  # takes plain labels too, in validation
        metrics=accuracy,
        cbs=[Mix(CutMix(num_classes=2, mode="sample")), See()],
    )
    with learner.no_logging():
        learner.fit(2, lr=0.01)
    return learner


def main():
    learner, again = train(), train()
    labels = torch.cat(learner.seen)
    if not torch.equal(labels, torch.cat(again.seen)):
        raise SystemExit("a second run from the same seed has other mixes.")
    loss, share = learner.validate()
    print(f"{int((labels.max(1).values < 1).sum())} of {len(labels)} labels mixed")
    print(f"validation on plain labels: loss {loss:.3f}, accuracy {share:.2f}")


if __name__ == "__main__":
    main()
