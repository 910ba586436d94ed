"""Lightning: mix in the loader of a data module, or on the device after the transfer."""

import sys
from importlib.util import find_spec

if find_spec("lightning") is None:
    print("skipped: lightning is not installed; pip install lightning")
    sys.exit(0)

import logging

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class MixInLoader(lightning.LightningDataModule):
    """Mix in the workers; the module needs no changes."""

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset
        self.collate_fn = make_collate_fn(
            [Mixup(0.4, num_classes=2), CutMix(num_classes=2)], p=[0.4, 0.4], seed=0
        )

    def train_dataloader(self):
        # Workers are started here, before on_train_epoch_start, also in a resumed run.
        self.collate_fn.set_epoch(self.trainer.current_epoch)
        return DataLoader(self.dataset, batch_size=16, shuffle=True, collate_fn=self.collate_fn)

    def val_dataloader(self):
        return DataLoader(self.dataset, batch_size=16)


class MixOnDevice(lightning.LightningDataModule):
    """Mix on the device, so that only uint8 images and class indices are transferred."""

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset
        self.mix = CutMix(num_classes=2, mode="sample")

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.dataset, batch_size=16)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.mix(*batch) if self.trainer.training else batch


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 2)
        )
        self.seen = {"training": [], "validation": []}

    def on_train_epoch_start(self):
        if hasattr(self.trainer.datamodule, "collate_fn"):
            self.trainer.datamodule.collate_fn.set_epoch(self.current_epoch)

    def training_step(self, batch):
        images, labels = batch
        self.seen["training"].append(labels.cpu())
        return nn.functional.cross_entropy(self.net(images / 255), labels)  # soft labels or indices

    def validation_step(self, batch):
        images, labels = batch
        self.seen["validation"].append(labels.cpu())
        self.log("accuracy", (self.net(images / 255).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main():
    lightning.seed_everything(0, verbose=False)
    pictures = TensorDataset(*flowers.draw_flowers(64, size=32))
    for data in (MixInLoader(pictures), MixOnDevice(pictures)):
        model = Classifier()
        trainer = lightning.Trainer(
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, datamodule=data)
        mixed = torch.cat(model.seen["training"])
        print(f"{type(data).__name__}: a label of a training batch {mixed[5].tolist()}")
        if mixed.shape != (128, 2) or not 0 < int((mixed.max(1).values < 1).sum()) < 128:
            raise SystemExit("training batches must have mixed (B, 2) labels.")
        if any(labels.ndim != 1 for labels in model.seen["validation"]):
            raise SystemExit("validation batches must not be mixed.")


if __name__ == "__main__":
    main()
