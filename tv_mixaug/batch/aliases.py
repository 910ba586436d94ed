"""Find what shares memory in a batch, before its images are written to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tv_mixaug.batch.infer import ParsedBatch, FieldSpec, Role, unwrap


def check_writable(batch: ParsedBatch) -> None:
    """Raise unless every image can be written to, and that changes nothing else in the batch.

    Raises:
        ValueError: If images require gradients, or share memory with themselves or other leaves.
    """
    held: dict[int, list[tuple[FieldSpec, Tensor]]] = {}
    for leaf, value in batch.pairs():
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(tensor, Tensor) or tensor.is_sparse:
                continue
            plain = unwrap(tensor)
            # As torch has it: what was computed from a leaf of the graph may be written to.
            fixed = plain.requires_grad and (plain.is_leaf or plain._is_view())
            if fixed and leaf.role is Role.IMAGE:
                raise ValueError(
                    f"inplace must be False for the images at {leaf.where}, which require "
                    "gradients."
                )
            memory = plain.untyped_storage().data_ptr()
            if memory:  # without elements, or on the meta device, there is none
                held.setdefault(memory, []).append((leaf, plain))
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
    # A single tensor of which torch itself knows that it does not overlap needs no look.
    if len(tensors) == 1 and torch._debug_has_internal_overlap(tensors[0]) == 0:
        return False
    used = np.zeros(tensors[0].untyped_storage().nbytes(), bool)
    for tensor in tensors:
        item = tensor.element_size()
        strides = (*(item * stride for stride in tensor.stride()), 1)
        start = used[item * tensor.storage_offset() :]
        np.lib.stride_tricks.as_strided(start, (*tensor.shape, item), strides)[...] = True
    return int(used.sum()) < sum(tensor.numel() * tensor.element_size() for tensor in tensors)
