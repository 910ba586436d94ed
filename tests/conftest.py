"""Settings that every test shares: hypothesis profiles, one seed, one thread."""

import multiprocessing
import os
import sys
import tempfile

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

# A worker that is forked inherits what a test has patched, and starts in milliseconds. Python 3.14
# starts workers by a server; the tests of start methods name each method.
if sys.platform == "linux":
    multiprocessing.set_start_method("fork", force=True)

# multiprocessing makes sockets there, and the path of a socket has at most 107 characters.
if sys.platform != "win32" and len(tempfile.gettempdir()) > 40:
    os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"  # noqa: S108


def pytest_make_collect_report(collector: pytest.Collector) -> None:
    """Give the data of each module the same random numbers, whatever is collected before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Give every test the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
