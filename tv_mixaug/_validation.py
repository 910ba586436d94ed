"""Checks of arguments: each returns the value it was given, or says what was expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from tv_mixaug.engine.sampling import Pairing


def kind_error(name: str, expected: str, got: Any) -> TypeError:
    """Return the error for a value of the wrong kind."""
    return TypeError(f"{name} must be {expected}, got {type(got).__name__} {got!r}.")


def ensure(holds: bool, name: str, expected: str, got: Any) -> None:
    """Raise with the argument's name unless its value is right."""
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {got}.")


def check_number(name: str, value: Any) -> float:
    """Return a finite real number as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise kind_error(name, "a number", value)
    try:
        number = float(value)
    except OverflowError:
        number, value = math.inf, "an int that no float can hold"
    ensure(math.isfinite(number), name, "finite", value)
    return number


def check_probability(name: str, value: Any) -> float:
    """Return a float in [0, 1]."""
    number = check_number(name, value)
    ensure(0 <= number <= 1, name, "in [0, 1]", value)
    return number


def check_integer(
    name: str, value: Any, least: int | None = None, *, expected: str = "an int"
) -> int:
    """Return an integer of any kind as an int, which is not below ``least`` if that is given."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise kind_error(name, expected, value)
    ensure(least is None or int(value) >= least, name, f">= {least}", value)
    return int(value)


def check_count(name: str, value: Any) -> int:
    """Return an int above 0."""
    ensure(check_integer(name, value) > 0, name, "> 0", value)
    return int(value)


def check_range(name: str, value: Any, *, unit: bool = False) -> tuple[float, float]:
    """Return the two ends of a range, the lower one first; in [0, 1] if ``unit``."""
    if not isinstance(value, (list, tuple)):
        raise kind_error(name, "a pair (low, high)", value)
    ends = [check_number(name, end) for end in value]
    is_pair = len(ends) == 2 and ends[0] <= ends[1]
    ensure(is_pair, name, "a pair (low, high) with low <= high", repr(value))
    ensure(not unit or (ends[0] >= 0 and ends[1] <= 1), name, "in [0, 1]", repr(value))
    return ends[0], ends[1]


def check_bool(name: str, value: Any, *, expected: str = "a bool") -> bool:
    """Return a bool."""
    if not isinstance(value, bool):
        raise kind_error(name, expected, value)
    return value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of the choices."""
    if not isinstance(value, str):
        raise kind_error(name, "a string", value)
    ensure(value in choices, name, f"one of {', '.join(map(repr, choices))}", repr(value))
    return value


def check_shares(p: Any, count: int) -> list[float]:
    """Return the probability of each of ``count`` transforms; equal shares for None."""
    if p is None:
        return [1 / count] * count
    if isinstance(p, (str, bytes)) or not isinstance(p, Sequence):
        raise kind_error("p", "a list with a probability for each transform", p)
    if len(p) != count:
        raise ValueError(f"p must have {count} values, one for each transform, got {len(p)}.")
    values = [check_probability("p", value) for value in p]
    if sum(values) > 1 + 1e-9:
        raise ValueError(f"p must have a sum of at most 1, got {sum(values)}.")
    return values


def check_alpha(alpha: Any) -> float | tuple[float, float]:
    """Return the parameter of Beta(alpha, alpha), or the pair of Beta(a, b); all above 0."""
    is_pair = isinstance(alpha, (list, tuple))
    if is_pair and len(alpha) != 2:
        raise kind_error("alpha", "a number or a pair (a, b)", alpha)
    first, second = (check_number("alpha", a) for a in (alpha if is_pair else (alpha, alpha)))
    ensure(min(first, second) > 0, "alpha", "> 0", alpha)
    return (first, second) if is_pair else first


def check_lam(lam: Any, alpha: float | tuple[float, float]) -> float | tuple[float, float]:
    """Return a fixed label weight, or the ends of the range that it is drawn from; in [0, 1]."""
    ensure(alpha == 1, "alpha", "left out where lam is given", f"{alpha} and {lam}")
    if isinstance(lam, (list, tuple)):
        return check_range("lam", lam, unit=True)
    return check_probability("lam", lam)


def check_visible(value: Any) -> float:
    """Return a share in (0, 1]."""
    ensure(0 < check_number("min_visible", value) <= 1, "min_visible", "in (0, 1]", value)
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
        ensure(len(value) > 0, "num_classes", "a mapping with a label at least", value)
        if any(isinstance(kind, Mapping) for kind in value.values()):
            raise TypeError(f"num_classes must not be a mapping of mappings, got {value!r}.")
        return {key: check_num_classes(kind) for key, kind in value.items()}
    if isinstance(value, str):
        return check_choice("num_classes", value, ("multi", "regression"))
    return None if value is None else check_count("num_classes", value)


def check_layout(layout: Any) -> str | None:
    """Return the names of the axes of a batch, B first."""
    if layout is None:
        return None
    if not isinstance(layout, str):
        raise kind_error("layout", "a string or None", layout)
    once = len(set(layout)) == len(layout) and {*"BHW"} <= set(layout) <= {*"BCTDHW"}
    names = "B, then H, W and any of C, T, D, each once and in any order"
    ensure(once and layout[0] == "B", "layout", names, repr(layout))
    return layout


def check_hole_size(size: Any, dims: int) -> tuple[float, ...]:
    """Return a hole's sides, slowest axis first: ints in pixels, floats in (0, 1] as shares."""
    sides = size if isinstance(size, (tuple, list)) else (size,) * dims
    names = "(height, width)" if dims == 2 else "(depth, height, width)"
    ensure(len(sides) == dims, "size", f"one side or {names}", repr(size))
    for side in sides:
        number = check_number("size", side)
        if isinstance(side, numbers.Integral):
            ensure(number > 0, "size", "> 0 pixels", side)
        else:
            ensure(0 < number <= 1, "size", "in (0, 1] as a share of the side", side)
    return tuple(int(s) if isinstance(s, numbers.Integral) else float(s) for s in sides)


def check_fill(fill: Any) -> Any:
    """Return what fills a hole: a number, a tuple with one for each channel, or a word."""
    if isinstance(fill, str):
        return check_choice("fill", fill, ("noise", "color"))
    if isinstance(fill, (list, tuple)):
        ensure(len(fill) > 0, "fill", "a number or a value for each channel", fill)
        return tuple(check_number("fill", value) for value in fill)
    return check_number("fill", fill)
