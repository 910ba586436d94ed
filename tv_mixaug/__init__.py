"""Cutout, Mixup and CutMix for torchvision.transforms.v2 and any DataLoader."""

from tv_mixaug import functional
from tv_mixaug.collate import make_collate_fn
from tv_mixaug.transforms import Cutout, CutMix, Mixup

__version__ = "0.1.0"
__all__ = ["CutMix", "Cutout", "Mixup", "functional", "make_collate_fn"]
