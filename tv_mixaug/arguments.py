"""Checks of arguments: each returns the value it was given, or says what was expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from tv_mixaug.draws import Pairing


def check_probability(name: str, value: Any) -> float:
    """Return ``value`` as a float in [0, 1], or raise with the argument's name."""
    number = check_number(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}.")
    return number


def kind_error(name: str, expected: str, got: Any) -> TypeError:
    """Return the error for a value of the wrong kind."""
    return TypeError(f"{name} must be {expected}, got {type(got).__name__} {got!r}.")


def check_number(name: str, value: Any) -> float:
    """Return a finite real number as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise kind_error(name, "a number", value)
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be finite, got an int that no float can hold.") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value}.")
    return number


def check_integer(
    name: str, value: Any, least: int | None = None, *, expected: str = "an int"
) -> int:
    """Return an integer of any kind as an int, which is not below ``least`` if that is given."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise kind_error(name, expected, value)
    if least is not None and value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}.")
    return int(value)


def check_shares(p: Any, count: int) -> list[float]:
    """Return the probability of each of ``count`` transforms; equal shares for None."""
    if p is None:
        return [1 / count] * count
    if isinstance(p, (str, bytes)) or not isinstance(p, Sequence):
        raise TypeError(
            f"p must be a list with a probability for each transform, got {type(p).__name__}."
        )
    if len(p) != count:
        raise ValueError(f"p must have {count} values, one for each transform, got {len(p)}.")
    values = [check_probability("p", value) for value in p]
    if sum(values) > 1 + 1e-9:
        raise ValueError(f"p must have a sum of at most 1, got {sum(values)}.")
    return values


def check_count(name: str, value: Any) -> int:
    """Return an int above 0."""
    if check_integer(name, value) < 1:
        raise ValueError(f"{name} must be > 0, got {value}.")
    return int(value)


def check_bool(name: str, value: Any, *, expected: str = "a bool") -> bool:
    """Return a bool."""
    if not isinstance(value, bool):
        raise kind_error(name, expected, value)
    return value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of the choices, or raise with the argument's name."""
    if not isinstance(value, str):
        raise kind_error(name, "a string", value)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return value


def check_alpha(alpha: Any) -> float | tuple[float, float]:
    """Return the parameter of Beta(alpha, alpha), or the pair of Beta(a, b); all above 0."""
    if isinstance(alpha, (list, tuple)):
        if len(alpha) != 2:
            raise kind_error("alpha", "a number or a pair (a, b)", alpha)
        first, second = (float(check_alpha(value)) for value in alpha)  # type: ignore[arg-type]
        return first, second
    if check_number("alpha", alpha) <= 0:
        raise ValueError(f"alpha must be > 0, got {alpha}.")
    return float(alpha)


def check_lam(lam: Any, alpha: float | tuple[float, float]) -> float | tuple[float, float]:
    """Return a fixed label weight, or the ends of the range that it is drawn from; in [0, 1]."""
    if alpha != 1:
        raise ValueError(f"alpha must be left out where lam is given, got {alpha} and {lam}.")
    if not isinstance(lam, (list, tuple)):
        return check_probability("lam", lam)
    low, high = check_range("lam", lam)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"lam must be in [0, 1], got {lam!r}.")
    return low, high


def check_range(name: str, value: Any) -> tuple[float, float]:
    """Return the two ends of a range, the lower one first."""
    if not isinstance(value, (list, tuple)):
        raise kind_error(name, "a pair (low, high)", value)
    if len(value) != 2 or not check_number(name, value[0]) <= check_number(name, value[1]):
        raise ValueError(f"{name} must be a pair (low, high) with low <= high, got {value!r}.")
    return float(value[0]), float(value[1])


def check_visible(value: Any) -> float:
    """Return a share in (0, 1]."""
    if not 0 < check_number("min_visible", value) <= 1:
        raise ValueError(f"min_visible must be in (0, 1], got {value}.")
    return float(value)


def check_pairing(pairing: Any) -> Pairing:
    """Return a rule for pairing: a name or a function."""
    if not callable(pairing):
        check_choice("pairing", pairing, ("roll", "shuffle"))
    return pairing  # type: ignore[no-any-return]


def check_passthrough(passthrough: Any) -> tuple[str | int, ...]:
    """Return the keys and positions of leaves that are left alone."""
    if isinstance(passthrough, str) or not isinstance(passthrough, Sequence):
        raise kind_error("passthrough", "a sequence of keys or positions", passthrough)
    for name in passthrough:
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise kind_error("passthrough", "a sequence of keys (str) or positions (int)", name)
    return tuple(passthrough)


def check_num_classes(value: Any) -> Any:
    """Return what labels are encoded to: a number, a word, None, or a mapping to these."""
    if isinstance(value, Mapping):
        if not value:
            raise ValueError("num_classes must name at least one label, got an empty mapping.")
        if any(isinstance(kind, Mapping) for kind in value.values()):
            raise TypeError(f"num_classes must not be a mapping of mappings, got {value!r}.")
        return {key: check_num_classes(kind) for key, kind in value.items()}
    if value is None or isinstance(value, str):
        return (
            value if value is None else check_choice("num_classes", value, ("multi", "regression"))
        )
    return check_count("num_classes", value)


def check_layout(layout: Any) -> str | None:
    """Return the names of the axes of a batch, B first."""
    if layout is None:
        return None
    if not isinstance(layout, str):
        raise kind_error("layout", "a string or None", layout)
    letters = set(layout)
    if len(letters) != len(layout) or not {"B", "H", "W"} <= letters <= set("BCTDHW"):
        raise ValueError(
            f"layout must name each axis once, with B, H, W and any of C, T, D, got {layout!r}."
        )
    if layout[0] != "B":
        raise ValueError(f"layout must start with B, got {layout!r}.")
    return layout


def check_hole_size(size: Any, dims: int) -> tuple[float, ...]:
    """Return a hole's sides, slowest axis first: ints in pixels, floats in (0, 1] as shares."""
    sides = size if isinstance(size, (tuple, list)) else (size,) * dims
    if len(sides) != dims:
        names = "(height, width)" if dims == 2 else "(depth, height, width)"
        raise ValueError(f"size must be one side or {names}, got {size!r}.")
    checked = []
    for side in sides:
        check_number("size", side)
        whole = isinstance(side, numbers.Integral)
        if whole and side < 1:
            raise ValueError(f"size must be > 0 pixels, got {side}.")
        if not whole and not 0 < side <= 1:
            raise ValueError(f"size must be in (0, 1] as a share of the side, got {side}.")
        checked.append(int(side) if whole else float(side))
    return tuple(checked)


def check_fill(fill: Any) -> Any:
    """Return what fills a hole: a number, a tuple with one for each channel, or a word."""
    if isinstance(fill, str):
        return check_choice("fill", fill, ("noise", "color"))
    if isinstance(fill, (list, tuple)):
        if not fill:
            raise ValueError("fill must have a value for each channel, got an empty sequence.")
        return tuple(check_number("fill", value) for value in fill)
    return check_number("fill", fill)
