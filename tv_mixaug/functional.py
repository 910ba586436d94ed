"""Kernels, the replay of a plan, and the region that it mixes: pure functions of tensors."""

from tv_mixaug.engine.apply import region_mask, replay
from tv_mixaug.engine.kernels import cutmix, cutout, mix_labels, mixup

__all__ = ["cutmix", "cutout", "mix_labels", "mixup", "region_mask", "replay"]
