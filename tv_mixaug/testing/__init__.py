"""Assertions that labels, masks and boxes match the pixels, and hypothesis strategies.

The assertions judge any pipeline from outside and share no code with the transforms. Only the
strategies import hypothesis, and only `cli` imports this folder.
"""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from tv_mixaug.testing.strategies import (
        image_batches,
        label_batches,
        plans,
        samples,
        transforms,
    )

_STRATEGIES = ("image_batches", "label_batches", "plans", "samples", "transforms")
__all__ = ["TruthReport", "UntruthfulError", "assert_draws_independent", "assert_inputs_unchanged"]
__all__ += ["assert_labels_match_pixels", "assert_one_label_format", "assert_probability"]
__all__ += ["assert_reproducible", "assert_switch_reaches_workers", "assert_targets_follow_images"]
__all__ += ["image_batches", "label_batches", "plans", "samples", "transforms"]

if not TYPE_CHECKING:  # otherwise type checkers accept any name, misspelt ones too

    def __getattr__(name: str) -> Any:
        # Only the strategies need hypothesis, so it is not imported for the assertions.
        if name not in _STRATEGIES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from tv_mixaug.testing import strategies
        except ModuleNotFoundError as error:
            if error.name != "hypothesis":
                raise
            raise ImportError(f"{name} needs hypothesis: pip install hypothesis") from error
        return getattr(strategies, name)


def __dir__() -> list[str]:
    return sorted(__all__)
