"""Find what shares memory in a batch, before its images are written to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tv_mixaug.leaves import Batch, Leaf, Role


def check_writable(batch: Batch) -> None:
    """Raise unless every image can be written to, and that changes nothing else in the batch.

    Raises:
        ValueError: If images require gradients, or share memory with themselves or other leaves.
    """
    held: dict[tuple[torch.device, int], list[tuple[Leaf, Tensor]]] = defaultdict(list)
    for leaf, value in batch.pairs():
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
                continue
            # As torch has it: what was computed from a leaf of the graph may be written to.
            fixed = tensor.requires_grad and (tensor.is_leaf or tensor._is_view())
            if fixed and leaf.role is Role.IMAGE:
                raise ValueError(
                    f"inplace must be False for the images at {leaf.where}, which require "
                    "gradients."
                )
            if tensor.numel() and not tensor.is_meta:
                memory = tensor.device, tensor.untyped_storage().data_ptr()
                held[memory].append((leaf, tensor))
    for group in held.values():
        written = any(leaf.role is Role.IMAGE for leaf, _ in group)
        if written and _overlap([tensor for _, tensor in group]):
            places = " and ".join(dict.fromkeys(leaf.where for leaf, _ in group))
            raise ValueError(
                f"inplace must be False for the images at {places}, which share memory (one tensor "
                "twice, an expanded one or overlapping views)."
            )


def _overlap(tensors: Sequence[Tensor]) -> bool:
    """Tell whether tensors in one storage have a byte that belongs to two of their elements."""
    if any(map(_overlaps_itself, tensors)):
        return True
    used = np.zeros(tensors[0].untyped_storage().nbytes() if len(tensors) > 1 else 0, bool)
    for tensor in tensors if len(tensors) > 1 else ():
        item = tensor.element_size()
        strides = (*(item * stride for stride in tensor.stride()), 1)
        start = used[item * tensor.storage_offset() :]
        mine = np.lib.stride_tricks.as_strided(start, (*tensor.shape, item), strides)
        if mine.any():
            return True
        mine[...] = True
    return False


def _overlaps_itself(tensor: Tensor) -> bool:
    """Tell, to be safe, whether a stride is within what the axes of shorter strides reach."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += (size - 1) * stride
    return False
