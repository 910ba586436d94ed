"""Compile functions and count their graphs; the skip of tests that compile a transform."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

needs_tracing = pytest.mark.skipif(
    torch.__version__ < (2, 12), reason="torch 2.12 is the first release that traces named tuples"
)


def compile_counted(function, backend="eager", **options):
    """Return a compiled function, and the counter of its graphs; other graphs are removed."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, backend=counter, **options), counter
