"""Hugging Face Trainer: a collate function as data collator, and a loss for soft labels."""

import sys
from importlib.util import find_spec

for package in ("accelerate", "transformers"):  # the Trainer needs both
    if find_spec(package) is None:
        print(f"skipped: {package} is not installed; pip install 'transformers[torch]'")
        sys.exit(0)

import tempfile

import transformers
from torch import nn

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.extras import flowers


class SetEpoch(transformers.TrainerCallback):
    """Set the epoch of the mixes, and the number of batches that a resumed Trainer skips."""

    def __init__(self, collate_fn):
        self.collate_fn = collate_fn

    def on_epoch_begin(self, args, state, control, train_dataloader, **given):
        epoch, share = divmod(state.epoch or 0, 1)
        skipped = round(share * len(train_dataloader))
        self.collate_fn.set_epoch(int(epoch), first_batch=skipped)


class MixTrainer(transformers.Trainer):
    """A Trainer with a loss for soft labels and without mixing in evaluation."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(inputs["pixel_values"])  # without labels, which it would misread
        loss = nn.functional.cross_entropy(outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def get_eval_dataloader(self, eval_dataset=None):
        mixing, self.data_collator = self.data_collator, transformers.default_data_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = mixing


def draw(count, seed):
    """Return a data set of dicts, as `with_transform` of datasets gives them."""
    images, labels = flowers.draw_flowers(count, size=32, seed=seed)
    rows = zip(images / 255, labels.tolist(), strict=True)
    return [{"pixel_values": image, "labels": label} for image, label in rows]


def main():
    transformers.set_seed(0)
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=2,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    model.accepts_loss_kwargs = False  # the loss is a mean over samples
    mixes = [Mixup(0.4, num_classes=2), CutMix(num_classes=2)]
    collate_fn = make_collate_fn(mixes, p=[0.4, 0.4], seed=0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, num_train_epochs=2, per_device_train_batch_size=16, eval_strategy="epoch",
            gradient_accumulation_steps=2, save_strategy="no", report_to="none",
            remove_unused_columns=False,
        )  # fmt: skip
        trainer = MixTrainer(
            model, arguments, train_dataset=draw(64, 0), eval_dataset=draw(16, 1),
            data_collator=collate_fn, callbacks=[SetEpoch(collate_fn)],
        )  # fmt: skip
        trainer.train()
        print(f"evaluation loss {trainer.evaluate()['eval_loss']:.3f}")


if __name__ == "__main__":
    main()
