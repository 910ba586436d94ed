"""The skip of tests that compile a transform."""

import pytest
import torch

needs_tracing = pytest.mark.skipif(
    torch.__version__ < (2, 12), reason="torch 2.12 is the first release that traces named tuples"
)
