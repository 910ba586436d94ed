"""Cutout, Mixup and CutMix for torchvision.transforms.v2 and any DataLoader."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tv_mixaug import flowers, functional, io, losses, metrics, plans, testing, viz  # noqa: F401
    from tv_mixaug.chain import Chain
    from tv_mixaug.labels import PairedLabels
    from tv_mixaug.loading.collate import make_collate_fn
    from tv_mixaug.losses import MixCriterion
    from tv_mixaug.one_of import OneOf
    from tv_mixaug.transforms import CutMix, Cutout, Mixup, RandomErasing

__version__ = "0.1.0"
__all__ = ["Chain", "CutMix", "Cutout", "MixCriterion", "Mixup", "OneOf", "PairedLabels"]
__all__ += ["RandomErasing", "functional", "make_collate_fn", "testing", "viz"]
_HOMES = {"Chain": "chain", "MixCriterion": "losses", "OneOf": "one_of", "PairedLabels": "labels"}
_HOMES |= dict.fromkeys(["CutMix", "Cutout", "Mixup", "RandomErasing"], "transforms")
_HOMES["make_collate_fn"] = "loading.collate"
_MODULES = ("flowers", "functional", "io", "losses", "metrics", "plans", "testing", "viz")

if not TYPE_CHECKING:  # else type checkers would believe in every name, misspelt ones too

    def __getattr__(name: str) -> Any:
        """Import a name at its first use: ``tv-mixaug --help`` must not wait for torch."""
        if name in _MODULES:
            return import_module(f"tv_mixaug.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'tv_mixaug' has no attribute {name!r}")
        value = getattr(import_module(f"tv_mixaug.{_HOMES[name]}"), name)
        return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, "__version__"})
