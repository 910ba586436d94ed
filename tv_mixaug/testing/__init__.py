"""Prove that labels, masks and boxes tell the truth: assertions and strategies for your tests."""

from typing import Any

from tv_mixaug.testing._coded import TruthReport, UntruthfulError
from tv_mixaug.testing.contracts import (
    assert_inputs_unchanged,
    assert_one_label_format,
    assert_reproducible,
)
from tv_mixaug.testing.draws import (
    assert_draws_independent,
    assert_probability,
    assert_switch_reaches_workers,
)
from tv_mixaug.testing.targets import assert_targets_follow_images
from tv_mixaug.testing.truth import assert_labels_match_pixels

_STRATEGIES = ("image_batches", "label_batches", "plans", "samples", "transforms")

__all__ = [
    "TruthReport",
    "UntruthfulError",
    "assert_draws_independent",
    "assert_inputs_unchanged",
    "assert_labels_match_pixels",
    "assert_one_label_format",
    "assert_probability",
    "assert_reproducible",
    "assert_switch_reaches_workers",
    "assert_targets_follow_images",
    *_STRATEGIES,
]


def __getattr__(name: str) -> Any:
    # The assertions need no hypothesis; only those who ask for a strategy must have it.
    if name in _STRATEGIES:
        from tv_mixaug.testing import strategies

        return getattr(strategies, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
