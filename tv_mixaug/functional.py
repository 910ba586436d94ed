"""Kernels, the replay of a plan, and what plans are made of: pure functions of tensors."""

from tv_mixaug.execute import region_mask, replay
from tv_mixaug.kernels import cutmix, cutout, mix_labels, mixup

__all__ = ["cutmix", "cutout", "mix_labels", "mixup", "region_mask", "replay"]
