"""Transforms that users construct: rules, choices between them and chains.

They parse a batch, sample a plan and apply it. This folder imports batch, targets and engine.
"""

from tv_mixaug.transforms.base import BatchTransform, MixTransform
from tv_mixaug.transforms.chain import Chain
from tv_mixaug.transforms.erase import Cutout, RandomErasing
from tv_mixaug.transforms.mix import CutMix, Mixup
from tv_mixaug.transforms.one_of import OneOf

__all__ = ["BatchTransform", "Chain", "CutMix", "Cutout", "MixTransform", "Mixup", "OneOf"]
__all__ += ["RandomErasing"]
