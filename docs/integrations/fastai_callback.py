"""fastai: a callback that mixes each training batch."""

import sys
from importlib.util import find_spec

if find_spec("fastai") is None:
    print("skipped: fastai is not installed; pip install fastai")
    sys.exit(0)

from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from torch import nn
from torch.utils.data import TensorDataset

from tv_mixaug import CutMix, MixCriterion
from tv_mixaug.extras import flowers


class Mix(Callback):
    """Mix a training batch on its device."""

    run_valid = False

    def __init__(self, transform):
        self.transform = transform

    def before_batch(self):
        images, labels = self.transform(self.x, self.y)
        self.learn.xb, self.learn.yb = (images,), (labels,)


def main():
    set_seed(0)  # the transform uses torch's generator
    images, labels = flowers.draw_flowers(64, size=32)
    dataset = TensorDataset(images / 255, labels)
    learner = Learner(
        DataLoaders(DataLoader(dataset, bs=16, shuffle=True), DataLoader(dataset, bs=16)),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)),
        loss_func=MixCriterion(nn.CrossEntropyLoss()),  # also takes class indices, in validation
        metrics=accuracy,
        cbs=Mix(CutMix(num_classes=2, mode="sample")),
    )
    with learner.no_logging():
        learner.fit(2, lr=0.01)
    loss, share = learner.validate()
    print(f"validation: loss {loss:.3f}, accuracy {share:.2f}")


if __name__ == "__main__":
    main()
