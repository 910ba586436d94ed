"""Check how often a pipeline mixes, and that it samples new values where it should.

Every sample has its own colour. The pixels therefore show what was sampled: how much of an image is
not its own, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations, pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tv_mixaug._validation import check_choice, check_integer, check_probability, ensure_kind
from tv_mixaug.testing import _causes as causes
from tv_mixaug.testing import _runner as runner
from tv_mixaug.testing._coded import Case, coded_batch, colour_tolerance, pixel_weights, to_unit
from tv_mixaug.testing._runner import TruthReport, UntruthfulError


class CodedSamples(Dataset[tuple[Tensor, int]]):
    """Samples `(image, label)` with one colour each and alternating labels 0 and 1."""

    def __init__(self, case: Case) -> None:
        numbers = torch.arange(case.batch_size)
        batch = coded_batch(case, case.batch_size, classes=numbers)
        self.images, self.colours, self.labels = batch.images, batch.colours, numbers % 2

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index].clone(), int(self.labels[index])


class _Batch(NamedTuple):
    """What was sampled for a batch of a loader, whose rows may be in any order."""

    weight: Tensor  # (B,) float64: the larger weight of each blend, NaN if it is no blend
    edges: Tensor  # (B, H + W) bool: rows and columns at which a box begins or ends
    mixed: Tensor  # (B,) bool

    def same_as(self, other: _Batch, slack: float) -> bool:
        """Whether the same values were sampled for most samples that are mixed in both."""
        if self.weight.shape != other.weight.shape:
            return False
        both = self.mixed & other.mixed
        same = torch.isclose(self.weight, other.weight, 0, slack, equal_nan=True)
        same &= (self.edges == other.edges).all(1)
        return bool((same & both).sum() > both.sum() / 2)


def assert_probability(
    mix: Callable[..., Any],
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
    """Check that batches, or samples, are mixed with probability p.

    The share that is mixed must equal p within five standard deviations. If p is for batches, all
    samples of a mixed batch must be mixed. A mix with a lam of 1 or an empty box leaves no trace
    and cannot be counted: from the mixes that show less than ten times the least that size and
    dtype can show (at least one per cent) their number is estimated, four for each box. One sample
    in each batch may be its own partner.

    Args:
        mix: `(images, labels) -> (images, labels)`, images (B, 3, H, W), labels (B,), 0 or 1.
        p: the stated probability, in [0, 1].
        per: "batch": p is for a whole batch; "sample": for each sample independently.
        collate: whether `mix` is a collate function of a list of `(image, label)`.
        batch_size: number of samples B, at least 4.
        size: (height, width) in pixels.
        dtype: dtype of the images.
        draws: number of calls, at least 50.
        seed: seed of torch, numpy and random before the first call.

    Returns:
        The number of rows, and how many of them were mixed.

    Raises:
        UntruthfulError: another share is mixed; an `AssertionError`.

    Example:
        >>> from torchvision.transforms import v2
        >>> report = assert_probability(v2.RandomApply([v2.MixUp(num_classes=2)], p=0.3), p=0.3)
        >>> report.rows
        3200
    """
    __tracebackhide__ = True
    check_probability("p", p)
    check_choice("per", per, ("batch", "sample"))
    check_integer("draws", draws, 50)
    check_integer("batch_size", batch_size, 4)
    case = Case(batch_size, size, dtype, seed)
    run = runner.Pipeline(mix, collate, "mix", seeds=False)
    shares, places = _call_often(run, case, draws)
    shown, is_cut = shares > 0, places.isfinite().any(2)
    # The smallest box that is seen, and the smallest blend of colours that differ by about 0.5.
    box, blend = 1 / (size[0] * size[1]), 2 * colour_tolerance(dtype)
    level = shares / torch.where(is_cut, max(0.01, 10 * box), max(0.01, 10 * blend))
    alone = 1 / (batch_size - 1)  # as many samples may be their own partners
    rows = shown.double().mean().item()
    if per == "batch":
        what, units, most = "batches", shown.any(1), 1.02
        level, is_cut = level.amax(1), is_cut.any(1)
    else:
        what, units, most = "samples", shown.flatten(), 1.02 + alone
        level, is_cut = level.flatten(), is_cut.flatten()
    faint = units & (level <= 1)
    count, found = len(units), units.double().mean().item()
    margin = 5 * (p * (1 - p) / count) ** 0.5
    bins = (faint, faint & is_cut, faint & ~is_cut & (level <= 10**-0.5))
    seen, cuts, fainter = (int(chosen.sum()) for chosen in bins)
    rest = seen - cuts - fainter
    # Fewer blends are invisible if the fainter ones are fewer: a power law, of 0.1 or more.
    growth = (rest - rest**0.5) / (fainter + fainter**0.5 + 1)
    unseen = (4 * cuts + fainter / (max(1.12, growth) - 1)) / count
    noise = 2 * (unseen / seen if seen else 4 / count) * (seen + 1) ** 0.5
    largest = min(1, found * most + unseen) + (margin**2 + noise**2) ** 0.5
    right = found - margin - 1e-9 <= p <= largest + 1e-9
    if per == "batch" and found:
        # All samples of a mixed batch must be mixed, except those that are their own partners.
        whole = (shown | faint[:, None])[units].double().mean().item()
        right = right and whole >= 1 - alone - 0.05 - 4 * seen / count
    if right:
        return TruthReport(shown.numel(), int(shown.sum()))
    cause = _explain_share(p, found, rows, what, margin + 0.01, alone)
    mixed = int(units.sum())
    text = f"{mixed} of {count} {what} and {rows:.1%} of all samples are mixed, but p = {p:g}."
    raise UntruthfulError(f"The share of mixed {what} is not p.\n{text}", cause, case=text)


def assert_draws_independent(
    mix: Callable[..., Any],
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
    """Check that lam and boxes are sampled for each batch, sample, worker and epoch.

    - More than a third of the calls must not sample the same values.
    - With `per="sample"` the samples of a batch must not share lam, nor the place of their boxes.
    - A collate function is also used in a loader with two workers: they must not sample the same
      values as each other, nor the same values again in the next epoch. A loader is checked for
      this only.

    Values that are fixed on purpose, such as one lam for all batches, fail too: do not check them.

    Args:
        mix: `(images, labels) -> (images, labels)`, images (B, 3, H, W), labels (B,), 0 or 1.
        per: "batch": one lam and box for the batch; "sample": each sample has its own.
        collate: whether `mix` is a collate function of a list of `(image, label)`.
        loader: whether `mix` is a function `dataset -> loader` that makes your loader; the
            data set has 12 * `batch_size` samples `(image, label)`.
        set_epoch: called with 0 and 1 before the two epochs of a loader, if its seed depends on it.
        batch_size: number of samples B, at least 4.
        size: (height, width) in pixels.
        dtype: dtype of the images.
        draws: number of calls, at least 20.
        seed: seed of torch, numpy and random before the first call.

    Raises:
        UntruthfulError: values are used again; an `AssertionError`.

    Example:
        >>> from tv_mixaug import CutMix
        >>> assert_draws_independent(CutMix(num_classes=2, mode="sample"), per="sample")
    """
    __tracebackhide__ = True
    run = runner.Pipeline(mix, collate, "mix", seeds=False)
    check_choice("per", per, ("batch", "sample"))
    check_integer("draws", draws, 20)
    check_integer("batch_size", batch_size, 4)
    case = Case(batch_size, size, dtype, seed)
    fault: tuple[str, causes.Cause] | None = None
    if not loader:
        fault = _compare_calls(*_call_often(run, case, draws), per, _slack(dtype))
    if fault is None and (loader or collate):
        samples = CodedSamples(case._replace(batch_size=12 * batch_size))
        with runner.seeded_epochs(seed):
            options: dict[str, Any] = {"num_workers": 2, "collate_fn": mix}
            made = mix(samples) if loader else DataLoader(samples, batch_size, **options)
            epochs = []
            for number in (0, 1):
                if set_epoch is not None:
                    set_epoch(number)
                epochs.append(_read_epoch(made, samples))
            fault = _find_plain_workers(made, samples, epochs)
        workers = getattr(made, "num_workers", 0)
        fault = fault or _compare_epochs(epochs[0], epochs[1], workers, _slack(dtype))
    if fault is not None:
        message = f"Sampled values are used again.\n{fault[0]}"
        raise UntruthfulError(message, fault[1], case=fault[0])


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
        make_loader: `dataset -> loader`, with persistent workers; the data set yields
            `(image, label)`, the loader batches of `(images, labels)`.
        switch: `(loader, on)`: what a training loop does to switch mixing on or off.
        samples: length of the data set, at least 4.
        size: (height, width) in pixels.
        dtype: dtype of the images.
        seed: seed of torch, numpy and random.

    Raises:
        UntruthfulError: the switch has no effect in the workers; an `AssertionError`.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from tv_mixaug import Mixup, make_collate_fn
        >>> collate = make_collate_fn(Mixup(num_classes=2))
        >>> options = {"num_workers": 1, "persistent_workers": True}
        >>> assert_switch_reaches_workers(
        ...     lambda data: DataLoader(data, 8, collate_fn=collate, **options),
        ...     lambda loader, on: loader.collate_fn.set_p(float(on)),
        ... )
    """
    __tracebackhide__ = True
    ensure_kind(callable(make_loader), "make_loader", "a callable", make_loader)
    ensure_kind(callable(switch), "switch", "a callable", switch)
    data = CodedSamples(Case(check_integer("samples", samples, 4), size, dtype, seed))
    with runner.seeded(seed):
        loader = make_loader(data)
        if isinstance(loader, DataLoader) and not loader.persistent_workers:
            got = f"{loader.num_workers} workers that do not stay"
            raise ValueError(f"make_loader must use persistent_workers=True, got {got}.")
        counts = []
        for on in (True, False, True):
            switch(loader, on)
            epoch = _read_epoch(loader, data)
            counts.append(_count_mixed(epoch))
    (before, off, after), total = counts, len(epoch)
    if not before:
        raise ValueError(f"make_loader must mix while switched on, got {total} plain batches.")
    if not off and after:
        return
    text = f"Switched on again, none of {total} batches of the next epoch is mixed."
    if off:
        text = f"Switched off, {off} of {total} batches of the next epoch are still mixed."
    heading = "The switch does not reach the workers."
    raise UntruthfulError(
        f"{heading}\n{text}", causes.SWITCH_LOST, case=text, wrong=off or total, rows=total
    )


def _call_often(run: runner.Pipeline, case: Case, draws: int) -> tuple[Tensor, Tensor]:
    """Call a pipeline n times on one batch; return (n, B) shares and (n, B, 4) places."""
    data, read = CodedSamples(case), []
    # Not in each call: that would hide a generator that is reset there.
    with runner.seeded(case.seed):
        for _ in range(draws):
            images, _ = run(data.images.clone(), data.labels.clone(), case)
            read.append(_read_rows(images, data.colours))
    foreign, places = (torch.stack(values) for values in zip(*read, strict=True))
    _check_readable(foreign.isnan())
    return foreign.nan_to_num(1), places


def _check_readable(unknown: Tensor) -> None:
    """Raise if most images have one colour that no mix of the samples gives."""
    if unknown.double().mean() > 0.5:
        raise ValueError("mix must return colours of its samples, got others; do not normalise.")


def _read_rows(images: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Return which share (B,) of each image is not its own, and where (B, 4) a box begins.

    A share is NaN if it is unknown. A place is x and y, each as a share of its room and in pixels,
    or NaN if there is no box or too little room.
    """
    if len(images) != len(colours):
        raise ValueError(f"mix must return {len(colours)} images, got {len(images)}.")
    pixels, tolerance = to_unit(images), colour_tolerance(images.dtype)
    changed = (pixels - colours[:, :, None, None]).abs().amax(1) > tolerance / 2
    foreign = changed.double().mean((1, 2))
    blended = (foreign == 1).nonzero()[:, 0]
    if len(blended):
        weights = pixel_weights(pixels[blended, :, :1, :1], colours, 2 * tolerance)
        # At least the tolerance, since a faint blend may be taken for the sample's own colour.
        foreign[blended] = (1 - weights[range(len(blended)), blended, 0, 0]).clamp(min=tolerance)
    places = []
    for lines in (changed.any(1), changed.any(2)):  # x, then y
        first = lines.int().argmax(1)
        room = lines.shape[1] - lines.sum(1)
        chosen = lines.any(1) & (room >= 4)  # with less room, rounding hides what was sampled
        shares = first / room.clamp(min=1)
        places += [torch.where(chosen, at, torch.nan) for at in (shares, first.double())]
    return foreign, torch.stack(places, 1)


def _explain_share(
    p: float, found: float, rows: float, what: str, margin: float, alone: float
) -> causes.Cause:
    """Find the rule that gives the share of mixed batches or samples."""

    def near(share: float, stated: float) -> bool:
        return stated * (1 - alone) - margin < share < stated + margin

    if not found:
        return causes.NEVER_MIXED.of(what=what)
    if near(rows, p * p):
        return causes.P_TWICE.of(squared=p * p)
    if what == "batches" and near(rows, p) and found > rows + margin:
        return causes.P_UNIT
    if found > 0.95:
        return causes.P_IGNORED.of(what=what)
    return causes.P_INVERTED if near(found, 1 - p) else causes.P_OTHER


def _slack(dtype: torch.dtype) -> float:
    """Return the largest difference of two weights that count as the same."""
    return max(1e-3, (1 if dtype.is_floating_point else 2) * colour_tolerance(dtype))


def _compare_calls(
    foreign: Tensor, place: Tensor, per: str, slack: float
) -> tuple[str, causes.Cause] | None:
    """Find values that successive calls, or the samples of a batch, share."""
    mixed = (foreign > 0).any(1)
    if mixed.sum() < 10:
        raise ValueError(
            f"mix must mix at least 10 of {len(mixed)} batches to be checked, "
            f"got {int(mixed.sum())}; raise its p, or draws."
        )
    foreign, place = foreign[mixed], place[mixed]
    # Extreme blends are alike by chance, and a sample that is its own partner shows nothing.
    clear = ((foreign > slack) & (foreign < 1 - slack)) | place.isfinite().any(2)
    alike = []
    for shares, corners, rows in zip(foreign, place, clear, strict=True):
        both = rows & (foreign > 0)
        same = torch.isclose(foreign, shares, 0, slack)
        same &= torch.isclose(place, corners, 0, 1e-6, equal_nan=True).all(2)
        alike.append(int(((same & both).sum(1) > both.sum(1) / 2).sum()))
    if max(alike) > len(alike) / 3:
        return f"{max(alike)} of {len(alike)} calls sample the same values.", causes.DRAWN_ONCE
    if per == "sample":
        of_weights = _median_correlation(foreign.where(foreign > 0, torch.nan))
        of_places = max(_median_correlation(place[..., axis]) for axis in range(4))
        # If boxes begin at one place, their shares are correlated too.
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


def _find_plain_workers(
    loader: Any, data: CodedSamples, epochs: list[list[_Batch]]
) -> tuple[str, causes.Cause] | None:
    """Find out whether batches are mixed in the main process if workers mix none."""
    total = sum(map(len, epochs))
    if sum(map(_count_mixed, epochs)) or not getattr(loader, "num_workers", 0):
        return None
    options = {"batch_sampler": loader.batch_sampler, "collate_fn": loader.collate_fn}
    twin: Any = DataLoader(loader.dataset, **options)
    here = sum(_count_mixed(_read_epoch(twin, data)) for _ in epochs)
    if here < 10:  # of 24: fewer may be chance
        return None
    text = f"{here} of {total} batches are mixed in the main process, and 0 of {total} in workers."
    return text, causes.NOT_IN_WORKERS


def _count_mixed(epoch: list[_Batch]) -> int:
    return sum(bool(batch.mixed.any()) for batch in epoch)


def _compare_epochs(
    first: list[_Batch], second: list[_Batch], workers: int, slack: float
) -> tuple[str, causes.Cause] | None:
    """Find values that the workers or the epochs of a loader share."""
    stride = max(1, workers)  # batch b comes from worker b % stride
    neighbours = [pair for b, pair in enumerate(pairwise(first)) if b % stride < stride - 1]
    pairs = [
        ("batch before", causes.DRAWN_ONCE, zip(first, first[stride:], strict=False)),
        ("other worker", causes.WORKERS_REPEAT, neighbours),
        ("epoch before", causes.EPOCHS_REPEAT, zip(first, second, strict=False)),
    ]
    compared = 0
    for what, cause, both in pairs:
        mixed = [(one, other) for one, other in both if one.mixed.any() and other.mixed.any()]
        compared = max(compared, len(mixed))
        same = sum(one.same_as(other, slack) for one, other in mixed)
        if len(mixed) >= 2 and same > len(mixed) * 2 / 3:
            return f"{same} of {len(mixed)} batches have the values of the {what}.", cause
    if compared < 2:
        raise ValueError("mix must give a loader that mixes four batches or more, got fewer.")
    return None


def _read_epoch(loader: Iterable[Any], data: CodedSamples) -> list[_Batch]:
    """Read what was sampled for each batch of a loader."""
    images = [runner.read_output(batch)[0] for batch in list(loader)]
    tolerance = colour_tolerance(*(batch.dtype for batch in images))
    pixels = torch.cat([to_unit(batch) for batch in images])
    edges = torch.cat(
        [(pixels.diff(dim=d).abs().amax(1) > tolerance).any(4 - d) for d in (2, 3)], 1
    )
    plain = ~edges.any(1)
    weight = torch.full((len(pixels),), torch.nan, dtype=torch.float64)
    blends = pixel_weights(pixels[plain, :, :1, :1], data.colours, 2 * tolerance)
    weight[plain] = blends.amax(1)[:, 0, 0]
    _check_readable(plain & weight.isnan())
    mixed = ~(weight > 1 - max(1e-3, tolerance))
    sizes = [len(batch) for batch in images]
    rows = zip(*(torch.split(x, sizes) for x in (weight, edges, mixed)), strict=True)
    return [_Batch(*row) for row in rows]
