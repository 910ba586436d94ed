"""Check that a wrong call raises a clear error and has no effect."""

import copy

import pytest
import torch
from torch.utils._pytree import tree_leaves


def refused(call, *parts, kind=ValueError, inputs=()):
    """Check that a call raises an error that is one sentence with all parts, and does nothing.

    Args:
        call: A function without arguments.
        *parts: Strings that the error contains.
        kind: The type of the error, exactly; or a tuple of types.
        inputs: Nested tensors that must stay unchanged.
    """
    before, state = copy.deepcopy(inputs), torch.get_rng_state()
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    text = str(caught.value)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    assert type(caught.value) in kinds, f"{type(caught.value).__name__}: {text}"
    for part in parts:
        assert part in text, text
    assert text.endswith("."), text
    assert "\n" not in text, text
    assert torch.equal(state, torch.get_rng_state()), "random numbers were sampled"
    for old, new in zip(tree_leaves(before), tree_leaves(inputs), strict=True):
        if isinstance(old, torch.Tensor):
            assert type(old) is type(new)
            assert torch.equal(torch.nan_to_num(old), torch.nan_to_num(new))
