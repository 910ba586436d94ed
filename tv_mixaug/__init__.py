"""Cutout, Mixup and CutMix for torchvision.transforms.v2 and any DataLoader."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tv_mixaug import functional, losses, metrics, testing
    from tv_mixaug.batch import PairedLabels
    from tv_mixaug.engine import Plan
    from tv_mixaug.extras import viz
    from tv_mixaug.loading import make_collate_fn
    from tv_mixaug.losses import MixCriterion
    from tv_mixaug.transforms import Chain, CutMix, Cutout, Mixup, OneOf, RandomErasing

__version__ = "0.1.0"
__all__ = ["Chain", "CutMix", "Cutout", "MixCriterion", "Mixup", "OneOf", "PairedLabels", "Plan"]
__all__ += ["RandomErasing", "functional", "losses", "make_collate_fn", "metrics", "testing", "viz"]
_MODULES = {"functional": "", "losses": "", "metrics": "", "testing": "", "viz": "extras."}
_HOMES = {"MixCriterion": "losses", "PairedLabels": "batch", "Plan": "engine"}
_HOMES |= {"make_collate_fn": "loading"}  # all other names are transforms

if not TYPE_CHECKING:  # otherwise type checkers accept any name, misspelt ones too

    def __getattr__(name: str) -> Any:
        """Import a name at its first use: ``tv-mixaug --help`` must not wait for torch."""
        if name not in __all__:
            near = next((one for one in __all__ if one.casefold() == name.casefold()), None)
            # An import statement hides the text of an AttributeError.
            if near and sys._getframe(1).f_code.co_name == "_handle_fromlist":
                raise ImportError(f"tv_mixaug has no {name!r}; its name is {near!r}")
            raise AttributeError(f"module 'tv_mixaug' has no attribute {name!r}")
        if name in _MODULES:
            value = import_module(f"tv_mixaug.{_MODULES[name]}{name}")
        else:
            value = getattr(import_module(f"tv_mixaug.{_HOMES.get(name, 'transforms')}"), name)
        return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
