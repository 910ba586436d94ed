"""Hugging Face Trainer: a collate function as data collator, with soft or paired labels."""

import sys
from importlib.util import find_spec

for package in ("accelerate", "transformers"):  # the Trainer needs both
    if find_spec(package) is None:
        print(f"skipped: {package} is not installed; pip install 'transformers[torch]'")
        sys.exit(0)

import tempfile

import torch
import transformers
from torch import nn

from tv_mixaug import CutMix, MixCriterion, Mixup, PairedLabels, make_collate_fn


class MixTrainer(transformers.Trainer):
    """A Trainer with a loss for mixed labels and without mixing in evaluation."""

    criterion = MixCriterion(nn.CrossEntropyLoss())
    seen = ()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(inputs["pixel_values"])  # without the labels and the plan under "mix"
        if model.training:
            self.seen += ((inputs["pixel_values"].cpu(), inputs["labels"]),)
        loss = self.criterion(outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def get_eval_dataloader(self, eval_dataset=None):
        mixing, self.data_collator = self.data_collator, transformers.default_data_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = mixing


class SetEpoch(transformers.TrainerCallback):
    """Set the epoch of the collate function, which is part of its seed."""

    def __init__(self, collate_fn):
        self.collate_fn = collate_fn

    def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs):
        # In a resumed epoch the Trainer skips the batches that were used before.
        epoch, share = divmod(state.epoch or 0, 1)
        self.collate_fn.set_epoch(int(epoch), first_batch=round(share * len(train_dataloader)))


def make_trainer(folder, targets, record):
    transformers.set_seed(0)
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=2,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    model.accepts_loss_kwargs = False  # the Trainer averages the losses of accumulated batches
    shared = {"num_classes": 2, "targets": targets}
    collate_fn = make_collate_fn(
        [Mixup(0.4, **shared), CutMix(**shared)], p=[0.4, 0.4], seed=0, record=record
    )
    arguments = transformers.TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=16, eval_strategy="epoch",
        gradient_accumulation_steps=2, save_strategy="steps", save_steps=3, report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    # All pixels of an image are its class, 0 or 1, so its mean must equal its label.
    samples = [
        {"pixel_values": torch.full((3, 32, 32), i % 2.0), "labels": i % 2} for i in range(64)
    ]
    return MixTrainer(
        model, arguments, train_dataset=samples, eval_dataset=samples[:16],
        data_collator=collate_fn, callbacks=[SetEpoch(collate_fn)],
    )  # fmt: skip


def weight_of_one(labels):
    """Return the label weight of class 1."""
    if isinstance(labels, PairedLabels):
        return (labels.lam * labels.labels + (1 - labels.lam) * labels.partner_labels).cpu()
    return labels[:, 1].cpu()


def main():
    for targets, record in (("soft", False), ("pair", True)):
        with tempfile.TemporaryDirectory() as folder:
            whole = make_trainer(folder, targets, record)
            whole.train()
            # Each epoch has two steps of two batches, so step 3 is in the middle of the second.
            resumed = make_trainer(folder, targets, record)
            resumed.train(resume_from_checkpoint=f"{folder}/checkpoint-3")
        for images, labels in whole.seen:
            torch.testing.assert_close(weight_of_one(labels), images.mean((1, 2, 3)))
        weights = [weight_of_one(labels) for _, labels in whole.seen]
        mixed = int(((torch.cat(weights) % 1) != 0).sum())
        if len(weights) != 8 or not 0 < mixed < 128:
            raise SystemExit("two epochs must contain mixed and unmixed samples.")
        after = torch.cat([weight_of_one(labels) for _, labels in resumed.seen])
        if not torch.equal(after, torch.cat(weights[-2:])):
            raise SystemExit("a resumed epoch must continue with the same mixes.")
        logged = [entry["eval_loss"] for entry in whole.state.log_history if "eval_loss" in entry]
        print(f"{targets}: {mixed} of 128 labels mixed, evaluation loss {logged[-1]:.3f}")


if __name__ == "__main__":
    main()
