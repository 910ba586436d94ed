"""The callbacks set the epoch of a collate function when the frameworks call them."""

import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from tv_mixaug import CutMix, integrations, make_collate_fn

DATASET = [(torch.full((1, 4, 4), float(i)), i % 2) for i in range(12)]


def make():
    return make_collate_fn(CutMix(num_classes=2, mode="sample"), seed=0)


def test_set_epoch_reaches_the_sampler_and_the_collate_function():
    """Both have the epoch, and a resumed epoch leaves out its first batches."""
    sampler, collate_fn = DistributedSampler(DATASET, num_replicas=2, rank=0), make()
    loader = DataLoader(DATASET, batch_size=2, sampler=sampler, collate_fn=collate_fn)
    integrations.set_epoch(loader, 3)
    whole = [labels for _, labels in loader]
    assert (sampler.epoch, collate_fn.epoch) == (3, 3)
    samples = [DATASET[i] for i in sampler]
    integrations.set_epoch(loader, 3, first_batch=1)
    rest = DataLoader(samples[2:], batch_size=2, collate_fn=collate_fn)
    assert all(map(torch.equal, whole[1:], [labels for _, labels in rest]))


def test_importing_needs_no_framework():
    """The module is imported without frameworks, and only the name that needs one asks for it."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('lightning', 'transformers')))\n"
        "from tv_mixaug import integrations\n"
        "for name in ('LightningSetEpoch', 'TrainerSetEpoch'):\n"
        "    try: getattr(integrations, name)\n"
        "    except ImportError as error: print(error.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert [name.partition(".")[0] for name in done.stdout.split()] == ["lightning", "transformers"]
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        integrations.Other  # noqa: B018


def lightning_run(folder, epochs, resume=None, **options):
    """Train with Lightning, and return the labels of each epoch that the loader gave."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(16, 2)
            self.seen = {}

        def training_step(self, batch):
            images, labels = batch
            self.seen.setdefault(self.current_epoch, []).append(labels)
            return torch.nn.functional.cross_entropy(self.net(images.flatten(1)), labels)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self):
            return DataLoader(DATASET, batch_size=4, num_workers=1, collate_fn=collate_fn)

    collate_fn, module = make(), Module()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[integrations.LightningSetEpoch(collate_fn)],
        **options,
    )
    trainer.fit(module, ckpt_path=resume)
    trainer.save_checkpoint(f"{folder}/last.ckpt")
    return {epoch: torch.cat(labels) for epoch, labels in module.seen.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning_epochs_differ_and_a_resumed_run_continues(tmp_path):
    """Epochs have their own mixes, also with new loaders, and a resumed run continues them."""
    whole = lightning_run(tmp_path / "whole", 3)
    assert len({labels.numpy().tobytes() for labels in whole.values()}) == 3
    reloaded = lightning_run(tmp_path / "new", 3, reload_dataloaders_every_n_epochs=1)
    lightning_run(tmp_path / "part", 2)
    resumed = lightning_run(tmp_path / "part", 3, resume=f"{tmp_path}/part/last.ckpt")
    assert all(torch.equal(whole[epoch], reloaded[epoch]) for epoch in range(3))
    assert list(resumed) == [2]
    assert torch.equal(whole[2], resumed[2])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trainer_callback_passes_the_epoch_and_skipped_batches():
    """The callback is one of transformers, can be pickled, and knows where an epoch resumes."""
    transformers = pytest.importorskip("transformers")
    collate_fn = make()
    callback = integrations.TrainerSetEpoch(collate_fn)
    assert isinstance(callback, transformers.TrainerCallback)
    assert type(pickle.loads(pickle.dumps(callback))) is integrations.TrainerSetEpoch  # noqa: S301
    loader = DataLoader(DATASET, batch_size=2, collate_fn=collate_fn)
    collate_fn.set_epoch(2)
    whole = [labels for _, labels in loader]
    callback.on_epoch_begin(None, SimpleNamespace(epoch=2.5), None, train_dataloader=loader)
    rest = [labels for _, labels in DataLoader(DATASET[6:], batch_size=2, collate_fn=collate_fn)]
    assert all(map(torch.equal, whole[3:], rest))


@pytest.mark.slow
def test_set_epoch_of_a_loader_prepared_by_accelerate():
    """A prepared loader still has its collate function."""
    accelerate = pytest.importorskip("accelerate")
    collate_fn = make()
    loader = DataLoader(DATASET, batch_size=2, shuffle=True, collate_fn=collate_fn)
    integrations.set_epoch(accelerate.Accelerator(cpu=True).prepare(loader), 5)
    assert collate_fn.epoch == 5
