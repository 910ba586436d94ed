"""Tests of distributions by scipy, which are skipped where it is missing."""

from typing import Any

import pytest


class _Stats:
    """Look up a test or distribution of ``scipy.stats`` when it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest asks for some when it collects tests
            raise AttributeError(name)
        return getattr(pytest.importorskip("scipy.stats"), name)


stats = _Stats()
