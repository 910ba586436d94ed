"""At most one of several transforms: one for a batch, or one for each sample."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torchvision.transforms import v2

from tv_mixaug._validation import check_choice, check_shares, ensure, ensure_kind, is_list
from tv_mixaug.batch.parser import BatchParser
from tv_mixaug.batch.spec import ParsedBatch, merge_options
from tv_mixaug.engine import sampling
from tv_mixaug.engine.plan import APPLIED, CompactPlan, choose_plans, compact
from tv_mixaug.engine.sampling import Source, TracingError, is_on_device, is_traced
from tv_mixaug.transforms.base import BatchTransform, MixTransform, Mode, NumClassesArgument
from tv_mixaug.transforms.erase import Cutout

# Options that rules may differ in if one of them is chosen for the whole batch.
PER_RULE = ("fill", "mask_fill", "min_visible")


class OneOf(BatchTransform):
    """Apply at most one of several transforms, chosen for each batch or for each sample.

    Labels and masks have one format in every batch, whichever transform is chosen, and if none is.

    Args:
        transforms: Transforms of a batch: rules of this package or any other callables. Rules must
            agree on how a batch is read and on the format of labels and masks; with
            ``mode="sample"`` all transforms are rules, and agree on ``fill``, ``mask_fill`` and
            ``min_visible``, too. ``p``, ``mode``, ``alpha``, ``lam`` and ``pairing`` may differ.
        p: The probability of each transform, with a sum of at most 1; otherwise nothing is done.
            Equal shares by default. The chosen transform uses its own ``p``, too.
        num_classes: The number of classes of all rules that are given without one; copies of them
            get it.
        mode: ``"batch"``: one choice for the batch; ``"sample"``: one for each sample. All samples
            are mixed with the originals of their partners.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value, or the transforms do not agree.

    Example:
        >>> from tv_mixaug import CutMix, Mixup
        >>> _ = torch.manual_seed(0)
        >>> either = OneOf([Mixup(0.8, num_classes=4), CutMix(num_classes=4)], mode="sample")
        >>> _, plan = either.mix((torch.rand(4, 3, 8, 8), torch.arange(4)))
        >>> sorted(set(plan.op.tolist()))  # some samples are blended, some are pasted into
        [2, 3]
    """

    fixed = ("transforms", "mode")

    def __init__(
        self,
        transforms: Sequence[Callable[..., Any]],
        p: Sequence[float] | None = None,
        *,
        mode: Mode = "batch",
        num_classes: NumClassesArgument = None,
    ) -> None:
        super().__init__()
        given: list[Any] = [as_batch_transform(one) for one in check_transforms(transforms)]
        for place, rule in enumerate(given if num_classes is not None else ()):
            if isinstance(rule, MixTransform) and rule.num_classes is None:
                given[place] = dataclasses.replace(rule, num_classes=num_classes)
        self.transforms = tuple(given)
        self.mode = check_choice("mode", mode, ("batch", "sample"))
        self.has_plan = all(transform.has_plan for transform in self.transforms)
        are_rules = all(isinstance(transform, MixTransform) for transform in given)
        expected, fits = "rules of tv_mixaug with mode='sample'", are_rules or mode == "batch"
        ensure(fits, "transforms", expected, self.display_name, TypeError)
        rules = [transform for transform in given if transform.options is not None]
        members = [(rule.display_name, rule.options) for rule in rules]
        per_rule = PER_RULE if mode == "batch" else ()
        self.options = merge_options(members, per_rule=per_rule) if members else None
        self.joint = JointRule(self.transforms, mode, self.options) if are_rules else None
        found = None if self.options is None else self.options.num_classes
        ensure(num_classes in (None, found), "num_classes", f"{found} as in its rules", num_classes)
        for transform in self.transforms:
            if isinstance(transform, CallableTransform) and rules:
                transform.formatter = rules[0]
        self.disabled_p, self.p = [0.0] * len(self.transforms), p

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments that differ from their defaults; those of ``p`` are equal shares."""
        given = super()._arguments()
        return {n: v for n, v in given.items() if n != "p" or v != self.check_p(None)}

    @property
    def display_name(self) -> str:
        """The names of the transforms in brackets."""
        return f"[{', '.join(transform.display_name for transform in self.transforms)}]"

    def check_p(self, p: Any) -> list[float]:
        """Return the probability of each transform, checked; equal shares for None."""
        return check_shares(p, len(self.transforms))

    def choose(self, p: Any, source: Source) -> tuple[BatchTransform, Any]:
        """Return the transform that is applied to the next batch, and its probability."""
        if self.joint is not None:
            return self.joint, p
        expected, on_host = "rules of tv_mixaug on a device and in a graph", not is_traced()
        on_host = on_host and not is_on_device(source)
        ensure(on_host, "transforms", expected, "other callables", TracingError)
        transform: BatchTransform
        transform, p = _choose_one(self.transforms, p, source)
        return transform.choose(p, source)

    def run(self, batch: Any, p: Any, **how: Any) -> tuple[Any, CompactPlan | None]:
        """Transform a batch; see :class:`~tv_mixaug.transforms.base.BatchTransform`."""
        # The list may have been changed since it was set.
        chosen, p = self.choose(self.check_p(p), how.get("generator"))
        return chosen.run(batch, p, **how)


class JointRule(MixTransform):
    """Read batches as several rules do, and apply one of them, or one to each sample."""

    def __init__(self, rules: Sequence[Any], mode: str, options: Any) -> None:
        self.rules, self.mode = tuple(rules), mode  # type: ignore[assignment]
        self.disabled_p = [0.0] * len(rules)
        self.__dict__["parser"] = BatchParser(options, [rule.options for rule in rules])

    def choose(self, p: Any, source: Source) -> tuple[BatchTransform, Any]:
        """Return the rule for the whole batch, or this one to choose for each sample."""
        if self.mode == "sample" or is_traced() or is_on_device(source):
            return self, p
        return _choose_one(self.rules, p, source)

    def sample(self, batch: ParsedBatch, p: Any, source: Source) -> CompactPlan:
        """Sample a plan of each rule, and combine them by the choice for each sample."""
        point = sampling.sample_uniform((batch.length if self.mode == "sample" else 1,), source)
        chosen = sum(point >= end for end in itertools.accumulate(p))
        chosen, where = chosen - (chosen == len(p)) * (len(p) + 1), sampling.sampling_kwargs(source)
        chosen = torch.as_tensor(chosen, device=where["device"]).expand(batch.length)
        plans = [rule.sample_plan(batch, rule.p, source) for rule in self.rules]
        ops = tuple(op for op in APPLIED if any(op in plan.ops for plan in plans))
        return compact(choose_plans([plan.plan(chosen.device) for plan in plans], chosen), ops)


class CallableTransform(BatchTransform):
    """Apply a callable of others to a whole batch.

    Args:
        function: A function of a batch that returns one.
    """

    p = 1.0
    options = None
    has_plan = False

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.formatter: Any = None  # the transform whose label format the result gets

    def __repr__(self) -> str:
        return repr(self.function)

    @property
    def display_name(self) -> str:
        """The name of the callable."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def run(self, batch: Any, p: Any, *, generator: Any = None, **_: Any) -> tuple[Any, None]:
        """Apply the callable with probability ``p``."""
        if sampling.sample_applied(1, p, False, generator):
            with sampling.seeded_global_rng(generator):
                batch = self.function(batch)
        if self.formatter is not None:
            batch, _ = self.formatter.run(batch, self.formatter.disabled_p, inplace=False)
        return batch, None


def as_batch_transform(transform: Any) -> BatchTransform:
    """Return a transform, or a callable as one.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(transform, BatchTransform):
        return transform
    is_callable = callable(transform) and not isinstance(transform, type)
    ensure_kind(is_callable, "transforms", "callable", transform)
    made = CallableTransform(transform)
    if isinstance(transform, (v2.MixUp, v2.CutMix)) and transform.num_classes:
        getter = transform._labels_getter
        made.formatter = Cutout(p=0.0, num_classes=transform.num_classes, labels_getter=getter)
    return made


def check_transforms(transforms: Any) -> Sequence[Any]:
    """Return a list of at least one transform."""
    ensure(is_list(transforms), "transforms", "a list", type(transforms).__name__, TypeError)
    ensure(len(transforms) > 0, "transforms", "a list of at least one transform", "an empty list")
    return transforms  # type: ignore[no-any-return]


def _choose_one(transforms: Sequence[Any], p: Sequence[float], source: Source) -> tuple[Any, Any]:
    """Sample a transform and return its probability, 0 if none is chosen."""
    point = sampling.sample_uniform((), source)
    for transform, share in zip(transforms, p, strict=True):
        if point < share:
            return transform, transform.p
        point -= share
    # Switched off, a transform of this package still gives labels their format.
    off = next((one for one in transforms if one.options is not None), transforms[0])
    return off, off.disabled_p
