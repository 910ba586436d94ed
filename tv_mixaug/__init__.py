"""Cutout, Mixup and CutMix for torchvision.transforms.v2 and any DataLoader."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tv_mixaug import functional, losses, metrics, testing
    from tv_mixaug.batch.spec import PairedLabels
    from tv_mixaug.engine.plan import Plan
    from tv_mixaug.extras import viz
    from tv_mixaug.loading.collate import make_collate_fn
    from tv_mixaug.losses import MixCriterion
    from tv_mixaug.transforms import CutMix, Cutout, Mixup, RandomErasing
    from tv_mixaug.transforms.chain import Chain
    from tv_mixaug.transforms.one_of import OneOf

__version__ = "0.1.0"
__all__ = ["Chain", "CutMix", "Cutout", "MixCriterion", "Mixup", "OneOf", "PairedLabels", "Plan"]
__all__ += ["RandomErasing", "functional", "losses", "make_collate_fn", "metrics", "testing", "viz"]
_HOMES = {
    **dict.fromkeys(["CutMix", "Cutout", "Mixup", "RandomErasing"], "transforms"),
    "Chain": "transforms.chain",
    "MixCriterion": "losses",
    "OneOf": "transforms.one_of",
    "PairedLabels": "batch.spec",
    "Plan": "engine.plan",
    "make_collate_fn": "loading.collate",
}
_MODULES = {name: name for name in ("functional", "losses", "metrics", "testing")}
_MODULES["viz"] = "extras.viz"

if not TYPE_CHECKING:  # otherwise type checkers accept any name, misspelt ones too

    def __getattr__(name: str) -> Any:
        """Import a name at its first use: ``tv-mixaug --help`` must not wait for torch."""
        if name in _MODULES:
            value = import_module(f"tv_mixaug.{_MODULES[name]}")
        elif name in _HOMES:
            value = getattr(import_module(f"tv_mixaug.{_HOMES[name]}"), name)
        else:
            raise AttributeError(f"module 'tv_mixaug' has no attribute {name!r}")
        return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
