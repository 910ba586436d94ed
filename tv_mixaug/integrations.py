"""Set the epoch of collate functions in other frameworks; none of them is imported or needed."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any


def set_epoch(loader: Any, epoch: int, *, first_batch: int = 0) -> None:
    """Set the epoch of a loader's sampler and collate function, before the loop over it.

    Args:
        loader: A ``DataLoader``, also one that Accelerate or Lightning's Fabric has prepared.
        epoch: The epoch, >= 0.
        first_batch: The number of batches that a resumed epoch leaves out, as for
            ``CollateFn.set_epoch``.
    """
    parts: list[Any] = [loader, *(getattr(loader, key, 0) for key in ("batch_sampler", "sampler"))]
    for part in parts:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
    loader.collate_fn.set_epoch(epoch, first_batch=first_batch)


class _SetEpoch:
    def __init__(self, collate_fn: Any) -> None:
        self.collate_fn = collate_fn


class _Lightning(_SetEpoch):
    """Set the epoch of a collate function before Lightning starts its workers."""

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        """Set the epoch of a resumed run, whose workers start before its epoch does."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        self.collate_fn.set_epoch(progress["processed"])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Set the epoch that begins."""
        self.collate_fn.set_epoch(trainer.fit_loop.epoch_progress.current.processed)

    on_train_epoch_end = on_train_epoch_start  # the next epoch, if a new loader is made for it


class _Trainer(_SetEpoch):
    """Set the epoch of a collate function in the ``Trainer`` of Hugging Face, also if resumed."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Set the epoch, and the number of batches that a resumed Trainer skips."""
        epoch, share = divmod(state.epoch or 0, 1)
        skipped = round(share * len(given["train_dataloader"]))
        self.collate_fn.set_epoch(int(epoch), first_batch=skipped)


if TYPE_CHECKING:  # a checker would accept any name, misspelt ones too
    LightningSetEpoch: Any
    TrainerSetEpoch: Any
else:

    def __getattr__(name: str) -> Any:
        """Make a callback class of a framework that is installed when it is first used."""
        if name == "LightningSetEpoch":
            is_old = "pytorch_lightning" in sys.modules and "lightning" not in sys.modules
            base = import_module("pytorch_lightning" if is_old else "lightning.pytorch").Callback
        elif name == "TrainerSetEpoch":
            base = import_module("transformers").TrainerCallback
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        hooks = _Trainer if name == "TrainerSetEpoch" else _Lightning
        made = type(name, (hooks, base), {"__module__": __name__, "__doc__": hooks.__doc__})
        return globals().setdefault(name, made)
