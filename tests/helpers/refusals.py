"""Check a refusal: the words, and that nothing was drawn before."""

import pytest
import torch


def refused(call, *parts, kind=ValueError):
    """Check that a call is refused in words, and that nothing was drawn before."""
    state = torch.get_rng_state()
    with pytest.raises(kind) as caught:
        call()
    assert torch.equal(state, torch.get_rng_state()), "something was drawn"
    for part in parts:
        assert part in str(caught.value), str(caught.value)
