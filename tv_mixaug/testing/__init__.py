"""Assertions that labels, masks and boxes match the pixels, and hypothesis strategies.

The assertions judge any pipeline from outside and share no code with the transforms. Only the
strategies import hypothesis, and only `cli` imports this folder.
"""

from typing import Any

from tv_mixaug.testing._runner import TruthReport, UntruthfulError
from tv_mixaug.testing.contracts import (
    assert_inputs_unchanged,
    assert_one_label_format,
    assert_reproducible,
)
from tv_mixaug.testing.labels import assert_labels_match_pixels
from tv_mixaug.testing.randomness import (
    assert_draws_independent,
    assert_probability,
    assert_switch_reaches_workers,
)
from tv_mixaug.testing.targets import assert_targets_follow_images

_STRATEGIES = ("image_batches", "label_batches", "plans", "samples", "transforms")

__all__ = ["TruthReport", "UntruthfulError", "assert_draws_independent", "assert_inputs_unchanged"]
__all__ += ["assert_labels_match_pixels", "assert_one_label_format", "assert_probability"]
__all__ += ["assert_reproducible", "assert_switch_reaches_workers", "assert_targets_follow_images"]
__all__ += _STRATEGIES


def __getattr__(name: str) -> Any:
    # Only the strategies need hypothesis, so it is not imported for the assertions.
    if name in _STRATEGIES:
        from tv_mixaug.testing import strategies

        return getattr(strategies, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
