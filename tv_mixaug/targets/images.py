"""Images and videos: stacked, in lists, or not stacked yet."""

from typing import Any

import torch
from torch import Tensor

from tv_mixaug._tv_tensors import rewrap, unwrap
from tv_mixaug.batch.spec import FieldSpec, Mix
from tv_mixaug.engine.apply import LazyStack, apply_plan


def mix_images(value: Any, field: FieldSpec, mix: Mix) -> Any:
    """Mix a tensor, a list of tensors, or samples that are not stacked yet."""
    how = (mix.compact, mix.options.fill, field.axes, field.channel_axis)
    if isinstance(value, LazyStack):
        return value.wrap(apply_plan(value, *how))
    if not mix.compact.ops:
        return value
    if isinstance(value, Tensor):
        mixed = apply_plan(unwrap(value), *how, inplace=mix.inplace)
        return value if mix.inplace else rewrap(mixed, value)
    images = [unwrap(one) for one in value]
    parts = apply_plan(torch.stack(images), *how, inplace=True).unbind(0)
    if mix.inplace:
        for old, new in zip(images, parts, strict=True):
            old.copy_(new)
        return value
    return type(value)(rewrap(new, old) for new, old in zip(parts, value, strict=True))
