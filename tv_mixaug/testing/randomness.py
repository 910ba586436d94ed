"""Check how often a pipeline mixes, and whether it draws anew where it should.

Every sample has a colour of its own. So what is drawn can be read from the pixels: how much of an
image is not its own, and where.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tv_mixaug._validation import check_choice, check_probability
from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing._arguments import at_least, check_callable, check_dtypes
from tv_mixaug.testing._causes import Cause
from tv_mixaug.testing._coded import (
    TruthReport,
    UntruthfulError,
    because,
    colour_tolerance,
    decode,
    draw_palette,
    make_samples,
    private_generator,
    read_result,
    seeded,
    to_unit,
)

_Mix = Callable[..., Any]


class CodedSamples(Dataset[tuple[Tensor, int]]):
    """Samples `(image, label)` of one colour each, with labels 0 and 1 in turn."""

    def __init__(self, count: int, size: tuple[int, int], dtype: torch.dtype, seed: int) -> None:
        palette = draw_palette(count, 3, dtype, private_generator(seed))
        self.images = palette[:, :, None, None].expand(-1, -1, *size).contiguous()
        self.labels = torch.arange(count) % 2
        self.colours = to_unit(palette[:, :, None, None])[:, :, 0, 0]  # (N, 3) float64

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index].clone(), int(self.labels[index])


class _Draws(NamedTuple):
    """What was drawn in n calls on one batch."""

    foreign: Tensor  # (n, B) float64: how much of each image is not its own
    place: Tensor  # (n, B, 4) float64: where a box begins, as a share of its room and in pixels, x
    # and y; NaN where there is none, or too little room


class _Batch(NamedTuple):
    """What was drawn for a batch of a loader, whose rows may be in any order."""

    weight: Tensor  # (B,) float64: the larger weight of each blend, NaN where there is none
    edges: Tensor  # (B, H + W) bool: rows and columns at which a box begins or ends
    mixed: bool

    def same_as(self, other: _Batch) -> bool:
        """Return whether the same was drawn for both."""
        if self.weight.shape != other.weight.shape or not torch.equal(self.edges, other.edges):
            return False
        return bool(torch.isclose(self.weight, other.weight, 0, 1e-3, equal_nan=True).all())


def assert_probability(
    mix: _Mix,
    p: float,
    *,
    per: Literal["batch", "sample"] = "batch",
    collate: bool = False,
    batch_size: int = 8,
    size: tuple[int, int] = (32, 32),
    dtype: torch.dtype = torch.float32,
    draws: int = 400,
    seed: int = 0,
) -> TruthReport:
    """Check that batches, or samples, are mixed as often as it is said.

    The share that is mixed must be p to five standard deviations of the draws; where batches are
    chosen, a mixed batch must be mixed wholly. A mix that leaves no trace, with a lam of 1 or an
    empty box, cannot be counted: for each that shows less than one per cent four more are conceded,
    and one sample in each batch may be its own partner.

    Args:
        mix: `(images, labels) -> (images, labels)`, images (B, 3, H, W), labels (B,), 0 or 1.
        p: the probability that is said, in [0, 1].
        per: "batch": p is for a whole batch; "sample": for each sample by itself.
        collate: `mix` is a collate function, called with a list of `(image, label)`.
        batch_size: number of samples B, at least 4.
        size: (height, width) in pixels.
        dtype: dtype of the images.
        draws: number of calls, at least 50.
        seed: seed of torch, numpy and random before the first call.

    Returns:
        The number of rows, and how many of them were mixed.

    Raises:
        UntruthfulError: the share is another one; an `AssertionError`.
        TypeError: `mix` is no callable, or returns something else than images and labels.
        ValueError: an argument is out of range.

    Example:
        >>> from torchvision.transforms import v2
        >>> from tv_mixaug.testing import assert_probability
        >>> report = assert_probability(v2.RandomApply([v2.MixUp(num_classes=2)], p=0.3), p=0.3)
        >>> report.rows
        3200
    """
    __tracebackhide__ = True
    check_probability("p", p)
    check_choice("per", per, ("batch", "sample"))
    at_least("draws", draws, 50)
    drawn = _draw(mix, collate, at_least("batch_size", batch_size, 4), size, dtype, draws, seed)
    shown = drawn.foreign > 0
    slight = drawn.foreign <= (0.01 if dtype.is_floating_point else 0.05)
    alone = 1 / (batch_size - 1)  # as many samples may have been their own partners
    rows, report = shown.double().mean().item(), TruthReport(shown.numel(), int(shown.sum()))
    if per == "batch":
        units, most = shown.any(1), 1.02
        faint = slight.all(1) & units
    else:
        units, most = shown.flatten(), 1.02 + alone
        faint = (slight & shown).flatten()
    count, found = len(units), units.double().mean().item()
    margin = 5 * (p * (1 - p) / count) ** 0.5
    slightly = int(faint.sum())
    hidden = 4 * (slightly + 2 * (slightly + 1) ** 0.5) / count  # few are counted, so roughly
    cause: Cause | None = None
    if not found - margin - 1e-9 <= p <= max(found, min(1, found * most + hidden)) + margin + 1e-9:
        cause = _why_not(p, found, rows, per, margin + 0.01, alone)
    elif per == "batch" and found:
        # A batch that was chosen is mixed wholly, but for partners of themselves.
        whole = (shown | faint[:, None])[units].double().mean().item()
        if whole < 1 - alone - 0.05 - 4 * slightly / count:
            cause = _why_not(p, found, rows, per, margin + 0.01, alone)
    if cause is None:
        return report
    case = (
        f"{int(units.sum())} of {count} {'batches' if per == 'batch' else 'samples'} are mixed, "
        f"and {rows:.1%} of all samples, where p = {p:g} was said."
    )
    text = f"Mixing is not as frequent as said.\n{case}\n{because(cause)}"
    raise UntruthfulError(text, case=case, cause=cause.text)


def assert_draws_independent(
    mix: _Mix,
    *,
    per: Literal["batch", "sample"] = "batch",
    collate: bool = False,
    loader: bool = False,
    set_epoch: Callable[[int], Any] | None = None,
    batch_size: int = 8,
    size: tuple[int, int] = (32, 32),
    dtype: torch.dtype = torch.float32,
    draws: int = 60,
    seed: int = 0,
) -> None:
    """Check that lam and boxes are drawn anew: by batch, by sample, by worker and by epoch.

    - Two calls in a row must not draw the same.
    - With `per="sample"` the samples of a batch must not share lam, nor the place of their boxes.
    - A collate function is also put into a loader with two workers: they must not draw the same as
      each other, nor the same again in the next epoch. A loader is asked this alone.

    What is fixed on purpose, such as one lam for all, is found wanting too: do not ask it.

    Args:
        mix: `(images, labels) -> (images, labels)`, images (B, 3, H, W), labels (B,), 0 or 1.
        per: "batch": one draw for the batch; "sample": each sample has its own.
        collate: `mix` is a collate function, called with a list of `(image, label)`.
        loader: `mix` is a function that puts your loader around a data set, `dataset -> loader`;
            the data set has 12 * `batch_size` samples `(image, label)`.
        set_epoch: called with 0 and 1 before the two epochs of a loader, if the seed needs it.
        batch_size: number of samples B, at least 4.
        size: (height, width) in pixels.
        dtype: dtype of the images.
        draws: number of calls, at least 20.
        seed: seed of torch, numpy and random before the first call.

    Raises:
        UntruthfulError: a draw is used again; an `AssertionError`.
        TypeError: `mix` is no callable, or returns something else than images and labels.
        ValueError: an argument is out of range, or too little is mixed to tell.

    Example:
        >>> from tv_mixaug import CutMix
        >>> from tv_mixaug.testing import assert_draws_independent
        >>> assert_draws_independent(CutMix(num_classes=2, mode="sample"), per="sample")
    """
    __tracebackhide__ = True
    check_callable("mix", mix)
    check_choice("per", per, ("batch", "sample"))
    at_least("draws", draws, 20)
    at_least("batch_size", batch_size, 4)
    case: tuple[str, Cause] | None = None
    if not loader:
        case = _compare_calls(_draw(mix, collate, batch_size, size, dtype, draws, seed), per)
    if case is None and (loader or collate):
        samples = CodedSamples(12 * batch_size, size, dtype, seed)

        def with_workers(data: Dataset[Any]) -> Iterable[Any]:
            return DataLoader(data, batch_size, num_workers=2, collate_fn=mix)

        case = _compare_epochs(mix if loader else with_workers, samples, set_epoch, seed)
    if case is not None:
        text, cause = case
        raise UntruthfulError(
            f"Draws are used again.\n{text}\n{because(cause)}", case=text, cause=cause.text
        )


def assert_switch_reaches_workers(
    make_loader: Callable[[Dataset[Any]], Iterable[Any]],
    switch: Callable[[Any, bool], Any],
    *,
    samples: int = 32,
    size: tuple[int, int] = (16, 16),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> None:
    """Check that mixing can be switched off and on while persistent workers run.

    Args:
        make_loader: `dataset -> loader`, with workers that stay; the data set yields `(image,
            label)`, the loader batches of `(images, labels)`.
        switch: `(loader, on)`: what a training loop does to switch mixing on or off.
        samples: length of the data set, at least 4.
        size: (height, width) in pixels.
        dtype: dtype of the images.
        seed: seed of torch, numpy and random.

    Raises:
        UntruthfulError: batches are mixed after mixing was switched off, or no longer after it was
            switched on again; an `AssertionError`.
        TypeError: what should be a callable is none.
        ValueError: an argument is out of range, the workers do not stay, or nothing is mixed while
            it is switched on.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from tv_mixaug import Mixup, make_collate_fn
        >>> from tv_mixaug.testing import assert_switch_reaches_workers
        >>> collate = make_collate_fn(Mixup(num_classes=2))
        >>> assert_switch_reaches_workers(
        ...     lambda data: DataLoader(
        ...         data, 8, collate_fn=collate, num_workers=1, persistent_workers=True
        ...     ),
        ...     lambda loader, on: loader.collate_fn.set_p(float(on)),
        ... )
    """
    __tracebackhide__ = True
    check_callable("make_loader", make_loader)
    check_callable("switch", switch)
    data = CodedSamples(at_least("samples", samples, 4), size, dtype, seed)
    with seeded(seed):
        loader = make_loader(data)
        if isinstance(loader, DataLoader) and not loader.persistent_workers:
            raise ValueError(
                "make_loader must return a loader with num_workers > 0 and "
                f"persistent_workers=True, got {loader.num_workers} workers that do not stay."
            )
        counts = []
        for on in (True, False, True):
            switch(loader, on)
            epoch = _read_batches(list(loader), data)
            counts.append((sum(batch.mixed for batch in epoch), len(epoch)))
    (before, total), (off, _), (after, _) = counts
    if not before:
        raise ValueError(
            f"make_loader must mix while it is switched on, got {total} plain batches."
        )
    if off or not after:
        wrong = off or total
        case = (
            f"Switched off, {off} of {total} batches of the next epoch are still mixed."
            if off
            else f"Switched on again, none of {total} batches of the next epoch is mixed."
        )
        cause = causes.SWITCH_LOST
        text = f"The switch does not reach the workers.\n{case}\n{because(cause)}"
        raise UntruthfulError(text, wrong=wrong, rows=total, case=case, cause=cause.text)


def _draw(
    mix: _Mix,
    collate: bool,
    batch_size: int,
    size: tuple[int, int],
    dtype: torch.dtype,
    draws: int,
    seed: int,
) -> _Draws:
    """Call a pipeline on one batch again and again, and read what it draws."""
    check_callable("mix", mix)
    check_dtypes([dtype])
    data = CodedSamples(batch_size, size, dtype, seed)
    read = []
    with seeded(seed):
        for _ in range(draws):
            images, labels = data.images.clone(), data.labels.clone()
            given = (make_samples(images, labels),) if collate else (images, labels)
            read.append(_read_rows(read_result(mix(*given))[0], data.colours))
    foreign, places = (torch.stack(values) for values in zip(*read, strict=True))
    _check_readable(foreign.isnan())
    return _Draws(foreign.nan_to_num(1), places)


def _check_readable(unknown: Tensor) -> None:
    """Raise if most images have one colour that no mix of the samples gives."""
    if unknown.double().mean() > 0.5:
        raise ValueError(
            "mix must give back the colours of its samples, got others; undo what normalises them."
        )


def _read_rows(images: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B,) how much of each image is not its own, NaN if unknown, and (B, 4) where it is."""
    if len(images) != len(colours):
        raise ValueError(f"mix must return {len(colours)} images, got {len(images)}.")
    pixels = to_unit(images)
    changed = (pixels - colours[:, :, None, None]).abs().amax(1) > colour_tolerance(images.dtype)
    foreign = changed.double().mean((1, 2))
    blended = (foreign == 1).nonzero()[:, 0]
    if len(blended):
        tolerance = 2 * colour_tolerance(images.dtype)
        weights = decode(pixels[blended, :, 0, 0], colours, tolerance=tolerance)
        own = weights[torch.arange(len(blended)), blended]
        foreign[blended] = 1 - own
    places = []
    for lines in (changed.any(1), changed.any(2)):  # x, then y
        first = lines.int().argmax(1)
        room = lines.shape[1] - lines.sum(1)
        chosen = lines.any(1) & (room >= 4)  # with less room, rounding says more than the draw
        shares = first / room.clamp(min=1)
        places += [torch.where(chosen, at, torch.nan) for at in (shares, first.double())]
    return foreign, torch.stack(places, 1)


def _why_not(p: float, found: float, rows: float, per: str, margin: float, alone: float) -> Cause:
    """Name the rule that gives the share of batches or samples that was found."""

    def near(share: float, said: float) -> bool:
        return said * (1 - alone) - margin < share < said + margin

    what = "batches" if per == "batch" else "samples"
    if not found:
        return causes.NEVER_MIXED.of(what=what)
    if near(rows, p * p):
        return causes.P_TWICE.of(squared=p * p)
    if per == "batch" and near(rows, p) and found > rows + margin:
        return causes.P_UNIT
    if found > 0.95:
        return causes.P_IGNORED.of(what=what)
    return causes.P_INVERTED if near(found, 1 - p) else causes.P_OTHER


def _compare_calls(drawn: _Draws, per: str) -> tuple[str, Cause] | None:
    """Say what successive calls, or the samples of a batch, share."""
    mixed = (drawn.foreign > 0).any(1)
    if mixed.sum() < 10:
        raise ValueError(
            f"mix must mix at least 10 of {len(mixed)} batches to be asked, "
            f"got {int(mixed.sum())}; raise its p, or draws."
        )
    foreign, place = drawn.foreign[mixed], drawn.place[mixed]
    same = torch.isclose(foreign[1:], foreign[:-1], 0, 1e-6).all(1)
    same &= torch.isclose(place[1:], place[:-1], 0, 1e-6, equal_nan=True).flatten(1).all(1)
    if same.double().mean() > 1 / 3:
        return f"{int(same.sum())} of {len(same)} calls draw what the call before drew.", (
            causes.DRAWN_ONCE
        )
    if per == "sample":
        of_weights = _median_correlation(foreign.where(foreign > 0, torch.nan))
        of_places = max(_median_correlation(place[..., axis]) for axis in range(4))
        # Boxes that begin at one place have shares that go together too.
        if of_places > 0.5 and of_weights < 0.95:
            text = f"The places of two boxes of a batch have a correlation of {of_places:.2f}."
            return text, causes.SHARED_PLACE
        if of_weights > 0.5:
            text = f"The weights of two samples of a batch have a correlation of {of_weights:.2f}."
            return text, causes.SHARED_LAM
    return None


def _median_correlation(values: Tensor) -> float:
    """Return the median correlation of two columns of (n, B), over the rows that have both."""
    found = []
    for i, j in combinations(range(values.shape[1]), 2):
        both = values[:, [i, j]]
        both = both[both.isfinite().all(1)]
        if len(both) >= 10:
            found.append(torch.corrcoef(both.mT)[0, 1].nan_to_num(0))
    return float(torch.stack(found).median()) if found else 0.0


def _compare_epochs(
    make_loader: Callable[[Any], Iterable[Any]],
    data: CodedSamples,
    set_epoch: Callable[[int], Any] | None,
    seed: int,
) -> tuple[str, Cause] | None:
    """Say what the workers, or the epochs, of a loader share."""
    with seeded(seed), warnings.catch_warnings():
        # To begin an epoch again is the very question.
        warnings.filterwarnings("ignore", ".* begins epoch .* again", UserWarning)
        loader = make_loader(data)
        epochs = []
        for number in (0, 1):
            if set_epoch is not None:
                set_epoch(number)
            epochs.append(_read_batches(list(loader), data))
    workers = getattr(loader, "num_workers", 0)
    stride = max(1, workers)
    rest = [b for b in range(len(epochs[0])) if b % stride < stride - 1]
    pairs = {
        "what the batch before had drawn": (causes.DRAWN_ONCE, stride, epochs[0]),
        "what another worker had drawn": (causes.WORKERS_REPEAT, 1, epochs[0]),
        "what the epoch before had drawn": (causes.EPOCHS_REPEAT, 0, epochs[1]),
    }
    compared = 0
    for what, (cause, step, others) in pairs.items():
        if cause is causes.WORKERS_REPEAT and workers < 2:
            continue
        first = rest if cause is causes.WORKERS_REPEAT else range(len(epochs[0]))
        both = [
            (epochs[0][b], others[b + step])
            for b in first
            if b + step < len(others) and epochs[0][b].mixed and others[b + step].mixed
        ]
        compared = max(compared, len(both))
        same = sum(one.same_as(other) for one, other in both)
        if len(both) >= 2 and same > len(both) / 3:
            return f"{same} of {len(both)} batches have {what}.", cause
    if compared < 2:
        raise ValueError("mix must give a loader that mixes four batches or more, got fewer.")
    return None


def _read_batches(batches: list[Any], data: CodedSamples) -> list[_Batch]:
    """Read what was drawn for each batch of a loader."""
    images = [read_result(batch)[0] for batch in batches]
    tolerance = max(colour_tolerance(batch.dtype) for batch in images)
    pixels = torch.cat([to_unit(batch) for batch in images])
    edges = torch.cat(
        [(pixels.diff(dim=d).abs().amax(1) > tolerance).any(4 - d) for d in (2, 3)], 1
    )
    plain = ~edges.any(1)
    weight = torch.full((len(pixels),), torch.nan, dtype=torch.float64)
    seen, index = torch.unique(pixels[plain, :, 0, 0], dim=0, return_inverse=True)
    weight[plain] = decode(seen, data.colours, tolerance=2 * tolerance).amax(1)[index]
    _check_readable(plain & weight.isnan())
    mixed = ~(weight > 1 - 1e-3)
    sizes = [len(batch) for batch in images]
    rows = zip(*(torch.split(x, sizes) for x in (weight, edges, mixed)), strict=True)
    return [_Batch(w, e, bool(m.any())) for w, e, m in rows]
