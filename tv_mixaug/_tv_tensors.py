"""Conversions between plain tensors and their subclasses that keep the memory."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors


def unwrap(tensor: Tensor) -> Tensor:
    """Return a plain tensor with the memory of one that may be a tv_tensor."""
    if type(tensor) is Tensor:
        return tensor
    if torch.compiler.is_compiling():  # where only a view keeps the shape
        return tensor.view_as(tensor)
    return tensor if tensor.is_nested else tensor.as_subclass(Tensor)  # which has none


def rewrap(new: Tensor, old: Any) -> Tensor:
    """Return a plain tensor with the type of the one it replaces."""
    if type(old) in (type(new), Tensor, torch.nn.Parameter):
        return new
    typed = isinstance(old, tv_tensors.TVTensor)
    if typed and not torch.compiler.is_compiling():
        return tv_tensors.wrap(new, like=old)  # type: ignore[no-any-return]
    wrapped: Tensor = new.as_subclass(type(old))
    if not typed:  # in a graph, only boxes hold more than their type, and none come here
        wrapped.__dict__.update(old.__dict__)
    return wrapped
