"""At most one of several transforms: one for a batch, or one for each sample."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch.compiler import assume_constant_result, is_compiling

from tv_mixaug._validation import check_choice, check_shares
from tv_mixaug.transforms.base import BatchTransform, How, MixTransform, Mode
from tv_mixaug.engine.sampling import Source, sample_applied, sample_uniform, seeded_global_rng, is_on_device
from tv_mixaug.targets.labels import LabelFormat, check_one_format
from tv_mixaug.batch.infer import ParsedBatch, FieldSpec, ParseOptions
from tv_mixaug.engine.plan import APPLIED, CompactPlan, choose_plans
from tv_mixaug.transforms.mix import FillTransform

# What rules have to share to treat one batch: how it is read, and what becomes of its leaves.
SHARED = {f.name for f in fields(FillTransform)} - {"p", "mode", "masks"}


class OneOf(BatchTransform):
    """Apply at most one of several transforms, chosen for each batch or each sample anew.

    Labels and masks have one format in every batch, whichever was chosen, and if none was.

    Args:
        transforms: Transforms of a batch, ours or any other callables. Ours must agree on the
            format of labels and masks. With ``mode="sample"`` all are rules of ours, and agree on
            how a batch is read and what boxes are filled with: ``layout``, ``fill``, …. What they
            draw by is each one's own: ``p``, ``mode``, ``alpha``, ``lam``, ``pairing``.
        p: The probability of each, with a sum of at most 1; with what is left to 1 nothing is
            done. Equal shares by default. What was chosen then uses its own ``p``, so that less
            may be transformed.
        mode: ``"batch"``: one choice for the batch; ``"sample"``: one for each sample, so that
            samples of all kinds are in a batch, each made of its partner's original.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value, or the transforms do not agree.

    Example:
        >>> from tv_mixaug import CutMix, Mixup
        >>> _ = torch.manual_seed(0)
        >>> either = OneOf([Mixup(0.8, num_classes=4), CutMix(num_classes=4)], mode="sample")
        >>> _, plan = either.mix((torch.rand(4, 3, 8, 8), torch.arange(4)))
        >>> sorted(set(plan.op.tolist()))  # some are blended, some are pasted
        [2, 3]
    """

    def __init__(
        self,
        transforms: Sequence[Callable[..., Any]],
        p: Sequence[float] | None = None,
        *,
        mode: Mode = "batch",
    ) -> None:
        super().__init__()
        if not isinstance(transforms, Sequence) or isinstance(transforms, str):
            raise TypeError(f"transforms must be a list, got {type(transforms).__name__}.")
        if not transforms:
            raise ValueError("transforms must have at least one transform, got an empty list.")
        self.transforms = tuple(map(as_batch_transform, transforms))
        self.mode = check_choice("mode", mode, ("batch", "sample"))
        ours = self._agree()
        self.recordable = all(t.recordable for t in self.transforms)
        if mode == "sample" and len(ours) < len(self.transforms):
            raise TypeError("transforms must all be of tv_mixaug's rules with mode='sample'.")
        self._together: JointRule | None = None
        self._apart = "transforms must all be of tv_mixaug's rules."
        if len(ours) == len(self.transforms):
            try:
                self._together = JointRule(ours, mode)
            except ValueError as error:
                if mode == "sample":
                    raise
                self._apart = str(error)
        self.p = p

    def _agree(self) -> list[MixTransform]:
        """Return the rules of ours, or raise where formats differ; for every choice anew."""
        check_one_format(
            [(type(t).__name__, t.label_format) for t in self.transforms if t.label_format]
        )
        ours = [t for t in self.transforms if isinstance(t, MixTransform)]
        _check_agreement(ours, "masks", lambda t: (t.masks == "soft", t.num_mask_classes))
        return ours

    @property
    def label_format(self) -> LabelFormat | None:
        """What the transforms make of labels, the same in every batch; None without one of ours."""
        return next((t.label_format for t in self.transforms if t.label_format), None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.transforms)}, p={self.p}, mode={self.mode!r})"

    @property
    def title(self) -> str:
        """A short name: those of the transforms, in brackets."""
        return f"[{', '.join(t.title for t in self.transforms)}]"

    @property
    def never(self) -> list[float]:
        """The ``p`` with which nothing is done."""
        return [0.0] * len(self.transforms)

    @property
    def p(self) -> list[float]:
        """The probability of each transform; what is set holds from the next batch on."""
        return list(self._p)

    @p.setter
    def p(self, p: Sequence[float] | None) -> None:
        self._p = self.check_p(p)

    def check_p(self, p: Any) -> list[float]:
        """Return the probability of each transform, checked; equal shares for None."""
        return check_shares(p, len(self.transforms))

    def choose(self, p: Any, generator: Source) -> tuple[BatchTransform, Any]:
        """Draw what is to be applied to a batch, and return with it the probability it uses."""
        if self.mode == "sample" or is_compiling() or is_on_device(generator):
            if self._together is None:
                raise ValueError(f"to draw on a device or in a compiled graph, {self._apart}")
            return self._together, p
        self._agree()  # an argument may have been set since
        point = sample_uniform((), generator)
        for transform, share in zip(self.transforms, p, strict=True):
            if point < share:
                return transform.choose(transform.p, generator)
            point -= share
        # What is ours also gives labels their format where it does nothing.
        idle = next((t for t in self.transforms if t.label_format), self.transforms[0])
        return idle.choose(idle.never, generator)

    def run(self, batch: Any, p: Any, how: How) -> tuple[Any, CompactPlan | None]:
        """Transform a batch; see :class:`~tv_mixaug.transforms.base.BatchTransform`."""
        chosen, p = self.choose(p, how.generator)
        return chosen.run(batch, p, how)


class CallableTransform(BatchTransform):
    """Apply a callable that is not ours to a whole batch.

    Args:
        function: What takes a batch and returns one.
    """

    p = 1.0
    label_format = None
    recordable = False

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def __repr__(self) -> str:
        return repr(self.function)

    @property
    def title(self) -> str:
        """Its name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def run(self, batch: Any, p: Any, how: How) -> tuple[Any, CompactPlan | None]:
        """Apply it with probability ``p``."""
        if not sample_applied(1, p, False, how.generator):
            return batch, None
        with seeded_global_rng(how.generator):
            return self.function(batch), None


def as_batch_transform(transform: Any) -> BatchTransform:
    """Return a transform, or a callable as one.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(transform, BatchTransform):
        return transform
    if not callable(transform) or isinstance(transform, type):
        got = transform if isinstance(transform, type) else type(transform)
        hint = f"; make one: {got.__name__}(...)" if got is transform else ""
        raise TypeError(f"transforms must be callable, got {got.__name__}{hint}.")
    return CallableTransform(transform)


class JointRule(MixTransform):
    """Draw the plans of several rules, and one plan of each sample's choice among them."""

    def __init__(self, rules: Sequence[MixTransform], mode: Mode) -> None:
        self.rules, self._theirs = tuple(rules), [rule.reader for rule in rules]
        self.mode = mode
        self.__post_init__()

    def __post_init__(self) -> None:
        """Take over what the rules share, or raise where they do not agree."""
        for name in sorted(SHARED):
            holders = [rule for rule in self.rules if _has_own(rule, name)]
            _check_agreement(holders, name, operator.attrgetter(name))
            if holders:
                setattr(self, name, getattr(holders[0], name))
        self.never = [0.0] * len(self.rules)
        self.masks = next((rule.masks for rule in self.rules if rule.masks), None)
        super().__post_init__()

    @assume_constant_result  # type: ignore[untyped-decorator]
    def _make_reader(self) -> None:
        """Make it anew, too, where an argument of a rule was changed."""
        theirs = [rule.reader for rule in self.rules]
        if theirs != self._theirs:
            self._theirs = theirs
        super()._make_reader()

    def reading(self) -> ParseOptions:
        """Return how batches are to be read: as strictly as by any of the rules."""
        strictest, *others = (rule.reading() for rule in self.rules)
        for reading in others:
            strictest = strictest._replace(
                cuboid=strictest.cuboid or reading.cuboid,
                need_labels=strictest.need_labels or reading.need_labels,
                one_size=strictest.one_size or reading.one_size,
            )
        return strictest

    def check(self, leaf: FieldSpec, value: Any) -> None:
        """Refuse what any of the rules refuses."""
        for rule in self.rules:
            rule.check(leaf, value)

    def _draw(self, batch: ParsedBatch, p: Any, generator: Source) -> CompactPlan:
        point = sample_uniform((batch.length if self.mode == "sample" else 1,), generator)
        chosen = sum(point >= end for end in itertools.accumulate(p))
        chosen = torch.as_tensor(chosen - (chosen == len(p)) * (len(p) + 1)).expand(batch.length)
        if is_compiling():  # a graph serves as long as all that it has looked at is there
            _ = [rule.reader.reading for rule in self.rules]
        drawn = [rule._draw(batch, rule.p, generator) for rule in self.rules]
        among = tuple(op for op in APPLIED if any(op in recipe.ops for recipe in drawn))
        return CompactPlan.of(choose_plans([recipe.plan() for recipe in drawn], chosen), among)


def _has_own(rule: MixTransform, name: str) -> bool:
    """Tell whether an attribute is the rule's, and not just what all rules have."""
    shared = getattr(MixTransform, name, None)
    return name in vars(rule) or getattr(type(rule), name, None) is not shared


def _check_agreement(rules: Sequence[MixTransform], name: str, of: Callable[[Any], Any]) -> None:
    for rule in rules[1:]:
        if of(rule) != of(rules[0]):
            raise ValueError(
                f"transforms must agree on {name}, got {getattr(rules[0], name)!r} of "
                f"{type(rules[0]).__name__} and {getattr(rule, name)!r} of {type(rule).__name__}."
            )
