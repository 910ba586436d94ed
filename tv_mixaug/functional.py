"""Kernels, the replay of a plan, and the region that it mixes: pure functions of tensors."""

from tv_mixaug.execute import region_mask, replay
from tv_mixaug.kernels import cutmix, cutout, mix_labels, mixup

__all__ = ["cutmix", "cutout", "mix_labels", "mixup", "region_mask", "replay"]
