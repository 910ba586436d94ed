"""Checks of arguments that only the assertions need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tv_mixaug._validation import check_integer, kind_error


def check_callable(name: str, value: Any) -> None:
    """Raise unless `value` can be called."""
    if not callable(value):
        raise kind_error(name, "a callable", value)


def at_least(name: str, value: Any, least: int) -> int:
    """Return an int that is not too small."""
    if check_integer(name, value) < least:
        raise ValueError(f"{name} must be >= {least}, got {value}.")
    return int(value)


def per_channel(
    name: str, value: float | Sequence[float] | None, channels: int
) -> tuple[float, ...] | None:
    """Return one float per channel, from one number or as many as there are channels."""
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return (float(value),) * channels
    if len(value) != channels:
        raise ValueError(f"{name} must have one value per channel ({channels}), got {len(value)}.")
    return tuple(float(v) for v in value)


def check_dtypes(dtypes: Sequence[torch.dtype]) -> None:
    """Raise unless the dtypes are those that images have."""
    for dtype in dtypes:
        if not (dtype.is_floating_point or dtype == torch.uint8):
            raise ValueError(f"dtypes must be floating-point types or torch.uint8, got {dtype}.")
