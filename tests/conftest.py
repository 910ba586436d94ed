"""Settings that every test shares: hypothesis profiles, one seed, one thread."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

# `ci` runs the same examples everywhere, so that a red run means a changed program;
# `HYPOTHESIS_PROFILE=deep pytest` looks further, with new examples every time.
settings.register_profile("ci", max_examples=25, derandomize=True, deadline=None, database=None)
settings.register_profile(
    "deep",
    max_examples=500,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# The tensors of the tests are small: more threads only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Give every test the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
