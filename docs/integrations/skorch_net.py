"""skorch: a scikit-learn estimator whose training batches are mixed."""

import sys
from importlib.util import find_spec

if find_spec("skorch") is None:
    print("skipped: skorch is not installed; pip install skorch")
    sys.exit(0)

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from torch import nn

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers


class SetEpoch(Callback):
    """Set the epoch of the collate function, which is part of its seed."""

    def on_epoch_begin(self, net, **kwargs):
        net.iterator_train__collate_fn.set_epoch(len(net.history) - 1)


def main():
    torch.manual_seed(0)
    images, labels = flowers.draw_flowers(80, size=32)
    net = NeuralNetClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)),
        criterion=nn.CrossEntropyLoss,  # takes soft labels and class indices
        max_epochs=2,
        batch_size=16,
        iterator_train__shuffle=True,
        iterator_train__collate_fn=make_collate_fn(
            [Mixup(0.4, num_classes=2), CutMix(num_classes=2)], seed=0
        ),
        callbacks=[SetEpoch()],
    )
    net.fit((images / 255).numpy(), labels.numpy())


if __name__ == "__main__":
    main()
