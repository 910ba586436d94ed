"""fastai: a callback that mixes each training batch."""

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
    """Mix a training batch on its device."""

    run_valid = False

    def __init__(self, transform):
        self.transform = transform

    def before_batch(self):
        images, labels = self.transform(self.x, self.y)
        self.learn.xb, self.learn.yb = (images,), (labels,)


class Record(Callback):
    """Record the labels, which must equal the pixels."""

    order, run_valid = Mix.order + 1, False

    def before_batch(self):
        torch.testing.assert_close(self.x.mean((1, 2, 3)), self.y[:, 1])
        self.learn.seen = [*getattr(self.learn, "seen", []), self.y.cpu()]


def train():
    set_seed(0)  # the transform uses torch's generator
    labels = torch.arange(64) % 2
    # All pixels of an image are its class, 0 or 1, so its mean must equal its label.
    dataset = TensorDataset(labels.view(-1, 1, 1, 1).expand(-1, 3, 32, 32).float(), labels)
    loaders = DataLoaders(DataLoader(dataset, bs=16, shuffle=True), DataLoader(dataset, bs=16))
    learner = Learner(
        loaders,
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)),
        loss_func=MixCriterion(nn.CrossEntropyLoss()),  # also takes class indices, in validation
        metrics=accuracy,
        cbs=[Mix(CutMix(num_classes=2, mode="sample")), Record()],
    )
    with learner.no_logging():
        learner.fit(2, lr=0.01)
    return learner


def main():
    learner, again = train(), train()
    labels = torch.cat(learner.seen)
    if not torch.equal(labels, torch.cat(again.seen)):
        raise SystemExit("a second run with the same seed has different mixes.")
    loss, share = learner.validate()
    print(f"{int((labels.max(1).values < 1).sum())} of {len(labels)} labels mixed")
    print(f"validation on unmixed labels: loss {loss:.3f}, accuracy {share:.2f}")


if __name__ == "__main__":
    main()
