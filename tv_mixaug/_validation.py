"""Checks of arguments: each returns the value, or raises an error that says what was expected."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any


class Numbers(tuple[float, ...]):
    """A tuple whose items are inputs of a compiled graph; those of a plain one are constants."""


def ensure(
    holds: bool,
    name: str,
    expected: str,
    got: Any,
    error: type[Exception] = ValueError,
    *sizes: Any,
) -> None:
    """Raise an error that names the value unless a condition holds.

    Sizes are formatted into ``expected`` only then: torch.compile would fix those of its graph.
    """
    if not holds:
        expected = expected.format(*sizes) if sizes else expected
        raise error(f"{name} must be {expected}, got {got}.")


def ensure_kind(holds: bool, name: str, expected: str, got: Any) -> None:
    """Raise a TypeError that names the value and its type unless a condition holds."""
    if not holds:
        shown = f"{type(got).__name__} {got!r}"
        if isinstance(got, type):
            shown = f"{got.__name__}; make one: {got.__name__}(...)"
        raise TypeError(f"{name} must be {expected}, got {shown}.")


def checked(default: Any, check: Callable[..., Any], *options: Any) -> Any:
    """Declare a dataclass field; ``check(name, value, *options)`` returns what is set."""
    return field(default=default, metadata={"check": (check, options)})


def optional(name: str, value: Any, check: Callable[..., Any], *options: Any) -> Any:
    """Return None, or a value that is checked."""
    return None if value is None else check(name, value, *options)


def is_list(value: Any) -> bool:
    """Whether a value is a sequence of any class, such as OmegaConf's, and not text."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def check_number(name: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """Return a finite real number in an interval, such as ``"[0, 1)"``, as a float."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    ensure_kind(is_number, name, "a number", value)
    try:
        number = float(value)
    except OverflowError:
        number, value = math.inf, "an int beyond the range of float"
    ensure(-math.inf < number < math.inf, name, "finite", value)
    low, high = map(float, interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    bound = f"{'>=' if interval[0] == '[' else '>'} {low:g}"
    ensure(above and below, name, bound if high == math.inf else f"in {interval}", value)
    return number


def check_probability(name: str, value: Any) -> float:
    """Return a float in [0, 1]."""
    return check_number(name, value, "[0, 1]")


def check_integer(
    name: str, value: Any, least: int | None = None, *, expected: str = "an int"
) -> int:
    """Return an integer of any kind as an int, not below ``least`` if that is given."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    ensure_kind(is_integer, name, expected, value)
    ensure(least is None or int(value) >= least, name, f">= {least}", value)
    return int(value)


def check_range(name: str, value: Any, interval: str = "(-inf, inf)") -> Numbers:
    """Return the two ends of a range, the lower one first, both in an interval."""
    ensure_kind(is_list(value), name, "a pair (low, high)", value)
    ends = [check_number(name, end, interval) for end in value]
    is_pair = len(ends) == 2 and ends[0] <= ends[1]
    ensure(is_pair, name, "a pair (low, high) with low <= high", repr(value))
    return Numbers(ends)


def check_bool(name: str, value: Any, *, expected: str = "a bool") -> bool:
    """Return a bool."""
    ensure_kind(isinstance(value, bool), name, expected, value)
    return bool(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return a string that is one of the choices."""
    ensure_kind(isinstance(value, str), name, "a string", value)
    ensure(value in choices, name, f"one of {', '.join(map(repr, choices))}", repr(value))
    return str(value)


def check_shares(p: Any, count: int) -> list[float]:
    """Return the probability of each of ``count`` transforms; equal shares for None, or all 0."""
    if p is None:
        return [1 / count] * count
    if isinstance(p, numbers.Real) and not isinstance(p, bool) and p == 0:
        return [0.0] * count
    p = p.tolist() if hasattr(p, "tolist") else p  # arrays and tensors
    ensure_kind(is_list(p), "p", "a list with a probability for each transform", p)
    ensure(len(p) == count, "p", f"a list of {count} values, one for each transform", len(p))
    values = [check_probability("p", value) for value in p]
    ensure(sum(values) <= 1 + 1e-6, "p", "a list with a sum of at most 1", sum(values))
    return values


def check_alpha(name: str, alpha: Any) -> float | Numbers:
    """Return the parameter of Beta(alpha, alpha), >= 0, or the pair of Beta(a, b), both > 0."""
    if not is_list(alpha):
        return check_number(name, alpha, "[0, inf)")
    ensure_kind(len(alpha) == 2, name, "a number or a pair (a, b)", alpha)
    return Numbers(check_number(name, a, "(0, inf)") for a in alpha)


def check_lam(name: str, lam: Any) -> float | Numbers:
    """Return a fixed label weight, or the ends of a uniform distribution; in [0, 1]."""
    if is_list(lam):
        return check_range(name, lam, "[0, 1]")
    return check_probability(name, lam)


def check_pairing(name: str, pairing: Any) -> Any:
    """Return the name of a rule for partners, or a function of the labels."""
    return pairing if callable(pairing) else check_choice(name, pairing, ("roll", "shuffle"))


def check_labels_getter(name: str, getter: Any) -> Any:
    """Return ``"default"``, a function or None."""
    is_known = getter is None or callable(getter) or str(getter) == "default"
    ensure_kind(is_known, name, "'default', a callable or None", getter)
    return getter


def check_passthrough(name: str, passthrough: Any) -> tuple[str | int, ...]:
    """Return the keys and positions of fields that stay unchanged."""
    ensure_kind(is_list(passthrough), name, "a sequence of keys or positions", passthrough)
    for key in passthrough:
        is_key = isinstance(key, (str, int)) and not isinstance(key, bool)
        ensure_kind(is_key, name, "a sequence of keys (str) or positions (int)", key)
    return tuple(passthrough)


def check_num_classes(name: str, value: Any) -> Any:
    """Return what labels are encoded to: a number, a word, None, or a mapping to these."""
    if isinstance(value, Mapping):
        ensure(len(value) > 0, name, "a mapping with at least one label", value)
        if any(isinstance(kind, Mapping) for kind in value.values()):
            raise TypeError(f"{name} must not be a mapping of mappings, got {value!r}.")
        return {key: check_num_classes(name, kind) for key, kind in value.items()}
    if isinstance(value, str):
        return check_choice(name, value, ("multi", "regression"))
    return None if value is None else check_integer(name, value, 1)


def check_layout(name: str, layout: Any) -> str | None:
    """Return the names of the axes of a batch, B first."""
    if layout is None:
        return None
    ensure_kind(isinstance(layout, str), name, "a string or None", layout)
    once = len(set(layout)) == len(layout) and {*"BHW"} <= set(layout) <= {*"BCTDHW"}
    expected = "B, then H, W and any of C, T, D, each once and in any order"
    ensure(once and layout[0] == "B", name, expected, repr(layout))
    return str(layout)


def check_hole_size(name: str, size: Any) -> Any:
    """Return one or several sides of a hole: ints in pixels, floats in (0, 1] as shares."""
    if is_list(size):
        return tuple(check_hole_size(name, side) for side in size)
    is_pixels = isinstance(size, numbers.Integral)
    fits = 0 < check_number(name, size) <= (math.inf if is_pixels else 1)
    ensure(fits, name, "> 0 pixels" if is_pixels else "in (0, 1] as a share", size)
    return int(size) if is_pixels else float(size)


def check_fill(name: str, fill: Any) -> Any:
    """Return what fills a hole: a number, a tuple with one for each channel, or a word."""
    if isinstance(fill, str):
        return check_choice(name, fill, ("noise", "color"))
    if is_list(fill):
        ensure(len(fill) > 0, name, "a number or a value for each channel", fill)
        return tuple(check_number(name, value) for value in fill)
    return check_number(name, fill)
