"""Run a pipeline on coded batches, judge its output and report the smallest failure.

Every assertion calls the pipeline through :class:`Pipeline` and fails with
:class:`UntruthfulError`. Assertions about single batches are functions `Case -> Trial` that
:func:`compare` calls for many cases.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tv_mixaug._validation import check_integer, ensure_kind
from tv_mixaug.testing._causes import ALIKE, MIXED, NOT_MIXED, UNREPEATABLE, VAGUE, Cause
from tv_mixaug.testing._coded import Case, make_samples


class TruthReport(NamedTuple):
    """Number of rows that an assertion compared.

    Attributes:
        rows: number of rows (samples of all batches) compared.
        mixed: number of rows that were mixed. An assertion without a mixed row shows little.
    """

    rows: int
    mixed: int


class Evidence(NamedTuple):
    """Images of the wrong rows of the smallest case, for drawing."""

    images: Tensor  # (N, C, H, W) float64 in [0, 1]
    said: Tensor  # (N, K) float64, weights according to the labels or targets
    held: Tensor  # (N, K) float64, weights according to the pixels


class UntruthfulError(AssertionError):
    """A pipeline failed an assertion of `tv_mixaug.testing`.

    Attributes:
        wrong: number of wrong rows (or batches, see the message); 0 if they are not counted.
        rows: number of rows (or batches) compared.
        case: the smallest failing case, in one line.
        cause: the probable cause.
        evidence: images of the wrong rows with their weights, or None.
    """

    def __init__(
        self, message: str, cause: Cause | None = None, *, case: str = "", wrong: int = 0,
        rows: int = 0, evidence: Evidence | None = None,
    ) -> None:  # fmt: skip
        if cause is not None:
            message += f"\nProbable cause: {cause.text}\nWhat to do: {cause.remedy}"
        super().__init__(message)
        self.cause = cause.text if cause is not None else ""
        self.case, self.wrong, self.rows, self.evidence = case, wrong, rows, evidence


class Finding(NamedTuple):
    """Explanation of one wrong row."""

    cause: Cause
    sentence: str
    table: str = ""  # shown instead of the sentence where there is room
    said: Tensor | None = None  # (K,) float64
    held: Tensor | None = None  # (K,) float64


class Trial(NamedTuple):
    """Judged output of a pipeline for one batch."""

    pixels: Tensor  # (B, C, H, W) float64 in [0, 1]
    gaps: Tensor  # (B,) float64, how wrong each row is
    wrong: Tensor  # (B,) bool
    mixed: int  # number of mixed rows
    explain: Callable[[int], Finding]  # of a wrong row

    def findings(self) -> dict[int, Finding]:
        """Explain the wrong rows, the most wrong one first."""
        order = self.gaps.nan_to_num(torch.inf).argsort(descending=True, stable=True).tolist()
        return {row: self.explain(row) for row in order if self.wrong[row]}


@dataclass(frozen=True)
class Pipeline:
    """A pipeline under test, called with a batch or, as a collate function, with samples."""

    function: Callable[..., Any]
    collate: bool = False
    name: str = "pipeline"  # of the argument that it was passed as
    seeds: bool = True  # whether each call is seeded

    def __post_init__(self) -> None:
        ensure_kind(callable(self.function), self.name, "a callable", self.function)

    def __call__(self, images: Tensor, targets: Any, case: Case) -> tuple[Tensor, Any]:
        """Return the images and targets that the pipeline makes of a batch."""
        inputs = (make_samples(images, targets),) if self.collate else (images, targets)
        with seeded(case.seed) if self.seeds else nullcontext():
            try:
                result = self.function(*inputs)
            except Exception as error:
                if hasattr(error, "add_note"):  # Python 3.11
                    error.add_note(f"Raised by the pipeline under test for a {case}.")
                raise
        return read_output(result)


def read_output(result: Any) -> tuple[Tensor, Any]:
    """Return the images and targets of a batch that a pipeline or loader returned."""
    result = join_pair(result)
    is_pair = isinstance(result, (tuple, list)) and len(result) == 2
    if not is_pair or not isinstance(result[0], Tensor) or result[0].ndim != 4:
        raise TypeError(
            "pipeline must return a pair of images (B, C, H, W) and labels or targets, "
            f"got {describe(result)}; wrap it to do so."
        )
    return result[0], result[1]


def join_pair(result: Any) -> Any:
    """Return `(images, (labels, partner_labels, lam))` for a flat tuple of these four."""
    if isinstance(result, (tuple, list)) and len(result) == 4:
        return result[0], tuple(result[1:])
    return result


def describe(value: Any) -> str:
    """Return the type of a value, with the shapes and dtypes of tensors."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} ({type(value).__name__})"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}[{', '.join(map(describe, value))}]"
    return type(value).__name__


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and random, and restore their states afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would queue a call for each GPU library that is not in use.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@contextmanager
def seeded_epochs(seed: int) -> Iterator[None]:
    """Seed as `seeded` does, and ignore warnings of a repeated epoch: it is repeated on purpose."""
    with seeded(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*epoch", UserWarning)
        yield


def all_cases(
    batch_sizes: Sequence[int], sizes: Sequence[tuple[int, int]], dtypes: Sequence[torch.dtype],
    draws: int, seed: int,
) -> list[Case]:  # fmt: skip
    """List the cases to try, small ones first, each with its own seed."""
    for batch_size in batch_sizes:
        check_integer("batch_sizes", batch_size, 1)
    for side in (side for size in sizes for side in size):
        check_integer("sizes", side, 1)
    repeats = range(check_integer("draws", draws, 1))
    grid = product(dtypes, sorted(batch_sizes), sorted(sizes), repeats)
    cases = [Case(b, s, d, seed + n) for n, (d, b, s, _) in enumerate(grid)]
    if not cases:
        raise ValueError("batch_sizes, sizes and dtypes must not be empty, got an empty one.")
    return cases


def compare(
    attempt: Callable[[Case], Trial], cases: Sequence[Case], heading: str, *, least_side: int = 1
) -> TruthReport:
    """Judge a pipeline on all cases and explain the smallest failure.

    `least_side` is the smallest side of an image that a smaller case may have.
    """
    __tracebackhide__ = True
    rows = wrong = mixed = 0
    failing: list[Case] = []
    for case in cases:
        trial = attempt(case)
        rows += len(trial.wrong)
        mixed += trial.mixed
        wrong += int(trial.wrong.sum())
        if trial.wrong.any():
            failing.append(case)
    if not failing:
        return TruthReport(rows, mixed)
    heading += f" in {wrong} of {rows} rows."
    case, trial, findings = _shrink(attempt, failing, least_side)
    if not findings:
        heading += f"\nSeen for a {case}, but not again under the same seed."
        raise UntruthfulError(heading, UNREPEATABLE, case=str(case), wrong=wrong, rows=rows)
    row, worst = next(iter(findings.items()))
    place = f"{case}, row {row}"
    evidence = None
    if worst.said is not None:
        shown = list(findings)[:8]
        weights = ([getattr(findings[n], name) for n in shown] for name in ("said", "held"))
        evidence = Evidence(trial.pixels[shown], *map(torch.stack, weights))
    raise UntruthfulError(
        f"{heading}\nSmallest case found: {place}.\n{worst.table or worst.sentence}", worst.cause,
        case=f"{place}: {worst.sentence}", wrong=wrong, rows=rows, evidence=evidence,
    )  # fmt: skip


def _shrink(
    attempt: Callable[[Case], Trial], failing: list[Case], least_side: int
) -> tuple[Case, Trial, dict[int, Finding]]:
    """Find the smallest case that fails for the most frequent cause of the failing cases.

    With few samples one fault often looks like another. The largest batches are therefore judged,
    and a smaller case with another cause is skipped. The findings that have the cause come first.
    """
    largest = sorted(failing, key=lambda case: case.batch_size, reverse=True)[:4]
    trials = [attempt(case) for case in largest]
    case, trial, findings = largest[0], trials[0], trials[0].findings()
    if not findings:
        return case, trial, findings
    likely = _likely([found for one in trials for found in one.findings().values()])
    sides = [side for side in (4, 8, 16) if least_side <= side < min(case.size)]
    sizes = [*((side, side) for side in sides), case.size]
    for batch_size, size, n in product(range(1, case.batch_size + 1), sizes, range(8)):
        smaller = Case(batch_size, size, case.dtype, case.seed + n)
        try:
            smaller_trial = attempt(smaller)
        except Exception:  # noqa: S112 - a batch that the pipeline refuses is not an example
            continue
        found = smaller_trial.findings()
        if found and (not likely or any(f.cause.remedy in likely for f in found.values())):
            case, trial, findings = smaller, smaller_trial, found
            break
    likely = likely or _likely(list(findings.values()))
    order = sorted(findings, key=lambda row: findings[row].cause.remedy not in likely)
    return case, trial, {row: findings[row] for row in order}


def _likely(findings: list[Finding]) -> set[str]:
    """Return the remedies for the most frequent cause that is not vague, and for those like it."""
    remedies = [found.cause.remedy for found in findings if found.cause not in VAGUE]
    if any(cause.remedy in remedies for cause in MIXED):
        remedies = [remedy for remedy in remedies if remedy not in NOT_MIXED]
    most = max(remedies, key=remedies.count, default=None)
    alike = {other.remedy for cause, other in ALIKE if cause.remedy == most}
    return alike if most is None else {most, *alike}
