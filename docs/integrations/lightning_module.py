"""Lightning: mix in the loader of a data module, or on the device after the transfer."""

import sys
from importlib.util import find_spec

if find_spec("lightning") is None:
    print("skipped: lightning is not installed; pip install lightning")
    sys.exit(0)

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers


class SetEpoch(lightning.Callback):
    """Set the epoch of the mixes before workers start, also in a resumed run."""

    def __init__(self, collate_fn):
        self.collate_fn = collate_fn

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        self.collate_fn.set_epoch(epoch)

    def on_train_epoch_start(self, trainer, pl_module):
        self.collate_fn.set_epoch(trainer.fit_loop.epoch_progress.current.processed)

    on_train_epoch_end = on_train_epoch_start  # for a loader that is made again in each epoch


class Flowers(lightning.LightningDataModule):
    """The training loader mixes, and the validation loader does not."""

    def __init__(self):
        super().__init__()
        self.train = TensorDataset(*flowers.draw_flowers(64, size=32))
        self.valid = TensorDataset(*flowers.draw_flowers(16, size=32, seed=1))
        mixes = [Mixup(0.4, num_classes=2), CutMix(num_classes=2)]
        self.collate_fn = make_collate_fn(mixes, p=[0.4, 0.4], seed=0)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=16, shuffle=True, collate_fn=self.collate_fn)

    def val_dataloader(self):
        return DataLoader(self.valid, batch_size=16)


class FlowersOnDevice(Flowers):
    """The device mixes, so that only uint8 images and class indices are transferred."""

    mix = CutMix(num_classes=2, mode="sample")

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=16, shuffle=True)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.mix(*batch) if self.trainer.training else batch


class Classifier(lightning.LightningModule):
    """A module without anything about mixing."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 2)
        )

    def training_step(self, batch):
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images / 255), labels)

    def validation_step(self, batch):
        images, labels = batch  # class indices
        accuracy = (self.net(images / 255).argmax(1) == labels).float().mean()
        self.log("accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main():
    for data in (Flowers(), FlowersOnDevice()):
        lightning.seed_everything(0)
        trainer = lightning.Trainer(
            max_epochs=2,
            callbacks=[SetEpoch(data.collate_fn)],  # not needed on the device
            logger=False,
            enable_checkpointing=False,
        )
        trainer.fit(Classifier(), datamodule=data)
        print(f"{type(data).__name__}: accuracy {trainer.callback_metrics['accuracy']:.2f}")


if __name__ == "__main__":
    main()
