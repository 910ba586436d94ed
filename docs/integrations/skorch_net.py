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


class SetEpoch(Callback):
    """Set the epoch of the collate function, which is part of its seed."""

    def on_epoch_begin(self, net, **kwargs):
        net.iterator_train__collate_fn.set_epoch(len(net.history) - 1)


class Record(Callback):
    """Record the training labels, which must equal the pixels."""

    def on_train_begin(self, net, **kwargs):
        self.labels_ = []

    def on_batch_end(self, net, batch, training, **kwargs):
        images, labels = batch
        if training:
            torch.testing.assert_close(images.mean((1, 2, 3)), labels[:, 1])
            self.labels_.append(labels)
        elif labels.ndim != 1:
            raise SystemExit("validation batches must not be mixed.")


def train():
    torch.manual_seed(0)
    labels = torch.arange(80) % 2
    # All pixels of an image are its class, 0 or 1, so its mean must equal its label.
    images = labels.view(-1, 1, 1, 1).expand(-1, 3, 32, 32).float()
    net = NeuralNetClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)),
        criterion=nn.CrossEntropyLoss,  # takes soft labels and class indices
        max_epochs=2,
        batch_size=16,
        iterator_train__shuffle=True,
        iterator_train__collate_fn=make_collate_fn(
            [Mixup(0.4, num_classes=2), CutMix(num_classes=2)], seed=0
        ),
        callbacks=[SetEpoch(), ("record", Record())],
        verbose=0,
    )
    net.fit(images.numpy(), labels.numpy())
    return net


def main():
    net, again = train(), train()
    labels, repeated = (torch.cat(dict(run.callbacks_)["record"].labels_) for run in (net, again))
    if not torch.equal(labels, repeated):
        raise SystemExit("a second run with the same seed has different mixes.")
    losses = [round(float(loss), 3) for loss in net.history[:, "valid_loss"]]
    print(f"{int((labels.max(1).values < 1).sum())} of {len(labels)} labels mixed")
    print(f"validation loss after each epoch: {losses}")


if __name__ == "__main__":
    main()
