"""Hugging Face Trainer: dict batches mixed by its data collator, and a loss for soft labels."""

import sys
from importlib.util import find_spec

for package in ("accelerate", "transformers"):  # the Trainer needs both
    if find_spec(package) is None:
        print(f"skipped: {package} is not installed; pip install 'transformers[torch]'")
        sys.exit(0)

import tempfile

import torch
import transformers
from torch.nn.functional import cross_entropy

from tv_mixaug import CutMix, Mixup, flowers, make_collate_fn


class Flowers(torch.utils.data.Dataset):
    """Samples as an image processor makes them: "pixel_values" (3, H, W) and "labels"."""

    def __init__(self, count):
        images, self.labels = flowers.draw_flowers(count, size=32)
        self.images = images.as_subclass(torch.Tensor) / 255

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": int(self.labels[index])}


class MixTrainer(transformers.Trainer):
    """A Trainer has one collator for everything; evaluation must not be mixed."""

    def get_eval_dataloader(self, eval_dataset=None):
        mixing, self.data_collator = self.data_collator, transformers.default_data_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = mixing


class SetEpoch(transformers.TrainerCallback):
    """Tell the collate function the epoch, which is part of its seed."""

    def __init__(self, collate_fn):
        self.collate_fn = collate_fn

    def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs):
        # Of an epoch that is resumed, the Trainer leaves out the batches it was trained on before.
        epoch, share = divmod(state.epoch or 0, 1)
        self.collate_fn.set_epoch(int(epoch), first_batch=round(share * len(train_dataloader)))


def soft_loss(outputs, labels, num_items_in_batch=None):
    """Replace the model's own loss, which takes float labels for several classes at once."""
    seen["training" if outputs.logits.requires_grad else "evaluation"].append(labels.cpu())
    total = cross_entropy(outputs.logits, labels, reduction="sum")
    if num_items_in_batch is None:
        return total / len(labels)
    # The Trainer counts numbers over all accumulated batches; a soft label has one per class.
    return total * labels[0].numel() / num_items_in_batch


seen = {"training": [], "evaluation": []}


def make_trainer(folder):
    transformers.set_seed(0)
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=2,
    )  # fmt: skip
    collate_fn = make_collate_fn(
        [Mixup(0.4, num_classes=2), CutMix(num_classes=2)], p=[0.4, 0.4], seed=0
    )
    arguments = transformers.TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=16, eval_strategy="epoch",
        gradient_accumulation_steps=2, save_strategy="steps", save_steps=3, report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    return MixTrainer(
        transformers.ViTForImageClassification(config),
        arguments,
        train_dataset=Flowers(64),
        eval_dataset=Flowers(16),
        data_collator=collate_fn,
        compute_loss_func=soft_loss,
        callbacks=[SetEpoch(collate_fn)],
    )


def main():
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder)
        trainer.train()
        # Each epoch has two steps of two batches, so this one is in the middle of the second.
        make_trainer(folder).train(resume_from_checkpoint=f"{folder}/checkpoint-3")
    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    print(f"evaluation loss after each epoch: {[round(loss, 3) for loss in logged]}")
    whole, resumed = seen["training"][:8], seen["training"][8:]
    mixed = torch.cat(whole)
    if mixed.shape != (128, 2) or not 0 < int((mixed.max(1).values < 1).sum()) < 128:
        raise SystemExit("training batches must hold mixed (B, 2) labels.")
    if trainer.data_collator.epoch != 1:
        raise SystemExit("the collate function must know the epoch.")
    if len(resumed) != 2 or not torch.equal(torch.cat(resumed), torch.cat(whole[-2:])):
        raise SystemExit("a resumed epoch must go on with the mixes that would have followed.")
    if any(labels.ndim != 1 for labels in seen["evaluation"]):
        raise SystemExit("evaluation batches must stay as they are.")


if __name__ == "__main__":
    main()
