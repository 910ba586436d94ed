"""Cutout, Mixup and CutMix for torchvision.transforms.v2 and any DataLoader."""

from tv_mixaug import functional, viz
from tv_mixaug.chain import Chain
from tv_mixaug.labels import PairedLabels
from tv_mixaug.loading.collate import make_collate_fn
from tv_mixaug.losses import MixCriterion
from tv_mixaug.transforms import CutMix, Cutout, Mixup

__version__ = "0.1.0"
__all__ = [
    "Chain",
    "CutMix",
    "Cutout",
    "MixCriterion",
    "Mixup",
    "PairedLabels",
    "functional",
    "make_collate_fn",
    "testing",
    "viz",
]


def __getattr__(name: str) -> object:
    if name == "testing":  # the only part that imports hypothesis
        import importlib

        return importlib.import_module("tv_mixaug.testing")
    raise AttributeError(f"module 'tv_mixaug' has no attribute {name!r}")
