"""Plans: what is mixed with what, how much and where, as tensors to keep and as numbers to use."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NONE, FILL, BLEND, PASTE = range(4)
APPLIED = (BLEND, PASTE, FILL)  # in the order in which a batch goes through them
OP_NAMES = ("none", "fill", "blend", "paste")


class Plan(NamedTuple):
    """Hold one batch's mix as plain tensors, so that it can be pinned, moved, stored and replayed.

    Attributes:
        op: (B,) uint8, what was done to each sample: 0 nothing, 1 boxes filled, 2 blended with the
            partner, 3 boxes pasted from the partner (names in ``OP_NAMES``).
        partner: (B,) int64, index in the batch of the sample mixed in; oneself where there is none.
        lam: (B,) float32 in [0, 1], the label weight of the sample's own image; the partner has
            ``1 - lam``.
        boxes: (B, N, 2 d) int64 pixels, N boxes for each sample in d = 2 or 3 axes: x1, y1, x2, y2
            or x1, y1, z1, x2, y2, z2, half-open and clipped to the image, all zeros where empty.
        noise: (B,) int64, the seeds from which ``fill="noise"`` is generated.
    """

    op: Tensor
    partner: Tensor
    lam: Tensor
    boxes: Tensor
    noise: Tensor

    def __repr__(self) -> str:
        return describe(self)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Plan:
        """Move all fields to a device, as ``Tensor.to`` does."""
        return Plan(*(x.to(device=device, non_blocking=non_blocking) for x in self))


def describe(items: Any) -> str:
    """Return what a plan or paired labels are printed as: counts, ranges and shapes, no numbers."""
    parts = []
    for name, item in zip(items._fields, items, strict=True):
        text = repr(item)
        if isinstance(item, Tensor):
            text = f"{tuple(item.shape)} {str(item.dtype).removeprefix('torch.')}"
            # Of tensors that stand for others, as while compiling, there are no values.
            known = type(item) is Tensor and not item.is_meta and item.numel() > 0
            if known and name == "op":
                counts = sorted(Counter(item.flatten().tolist()).items())
                names = dict(enumerate(OP_NAMES))
                text = f"[{', '.join(f'{n} {names.get(op, op)}' for op, n in counts)}]"
            elif known and name == "lam":
                text = f"[{float(item.min()):.2f} to {float(item.max()):.2f}]"
        parts.append(f"{name}={text}")
    return f"{type(items).__name__}({', '.join(parts)})"


def take_items(kind: type[Any]) -> None:
    """Let a namedtuple be made from one iterable of its fields too, and be loaded as weights.

    Hugging Face's Trainer and fastai rebuild what they move between devices as
    ``type(x)(generator)``, and ``torch.load`` opens only what it was told to be harmless.
    """
    make = kind.__new__

    def new(cls: type[Any], *items: Any, **named: Any) -> Any:
        if len(items) == 1 and not named and not isinstance(items[0], Tensor):
            items = tuple(items[0])
        return make(cls, *items, **named)

    kind.__new__ = new  # type: ignore  # a NamedTuple has no place to write one of its own
    torch.serialization.add_safe_globals([kind])


take_items(Plan)


@dataclass(slots=True)
class CompactPlan:
    """Hold a plan as the numbers and arrays that it is carried out by.

    What is the same for all samples is one number: that decides how a batch is treated, so it is
    kept from the draw on, or found once where a plan of tensors is given.

    Attributes:
        count: B.
        op: The operation of all samples, or (B,) uint8.
        partner: A cyclic shift, by which the partner of sample i is i - shift, or (B,) int64.
        lam: The weight of all samples, in float32, or (B,) float32.
        boxes: (1, N, 2 d) int64 for all samples, or (B, N, 2 d).
        noise: (B,) int64 seeds, or None.
        unknown: The plan itself where its values cannot be looked at: on a device, or while
            compiling. Of the fields above only ``op`` then says something, if it is a number.
        among: The operations that may be in an unknown plan.
        only: The operation that all samples have, or None where they differ.
        ops: The operations to be carried out; all that there are where the plan is unknown.
        shift: The cyclic shift that gives every partner, or None.
        mixes: Whether anything of a partner comes in.
    """

    count: int
    op: Any = NONE
    partner: Any = 0
    lam: Any = 1.0
    boxes: Any = None
    noise: Any = None
    unknown: Plan | None = None
    among: tuple[int, ...] = APPLIED
    only: int | None = field(init=False)
    ops: tuple[int, ...] = field(init=False)
    shift: int | None = field(init=False)
    mixes: bool = field(init=False)
    _moved: Plan | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.unknown is None and not self.count:
            self.op = NONE
        self.only = self.op if isinstance(self.op, int) else None
        known = self.unknown is None
        self.shift = self.partner if known and isinstance(self.partner, int) else None
        if self.only is not None:
            self.ops = (self.only,) if self.only else ()
        else:
            self.ops = tuple(op for op in self.among if not known or op in self.op)
        self.mixes = BLEND in self.ops or PASTE in self.ops

    @classmethod
    def of(cls, plan: Plan, among: tuple[int, ...] = APPLIED) -> CompactPlan:
        """Find out what the samples of a plan share."""
        if torch.compiler.is_compiling() or not plan.op.is_cpu:
            return cls(len(plan.op), None, unknown=plan, among=among)
        op, partner, lam, boxes, noise = (field.numpy() for field in plan)
        count = len(op)
        shift = (count - int(partner[0])) % count if count else 0
        is_roll = np.array_equal(partner, _rolled(np.arange(count), shift))
        return cls(
            count,
            int(op[0]) if _is_one(op) else op,
            shift if is_roll else partner,
            float(lam[0]) if _is_one(lam) else lam,
            boxes[:1] if _is_one(boxes) else boxes,
            noise,
        )

    def rows(self, op: int) -> Any:
        """Return the samples that have an operation."""
        return range(self.count) if self.only == op else np.flatnonzero(self.op == op).tolist()

    def of_partners(self, values: Any) -> Any:
        """Return an array with the partner's entry in the place of each sample's own."""
        return values[self.partner] if self.shift is None else _rolled(values, self.shift)

    def partners(self) -> Any:
        """Return the (B,) int64 partners, an array."""
        return self.of_partners(np.arange(self.count))

    def weights(self) -> list[float]:
        """Return the weight of each sample."""
        if isinstance(self.lam, float):
            return [self.lam] * self.count
        weights: list[float] = self.lam.tolist()
        return weights

    def seeds(self) -> list[int]:
        """Return the seed of each sample's noise, 0 where none was drawn."""
        seeds: list[int] = [0] * self.count if self.noise is None else self.noise.tolist()
        return seeds

    def regions(self) -> list[list[list[int]]]:
        """Return the boxes of each sample."""
        boxes: list[list[list[int]]] = self.boxes.tolist()
        return boxes * self.count if len(boxes) == 1 else boxes

    def plan(self) -> Plan:
        """Return the plan as tensors of its own on the CPU."""
        if self.unknown is not None:
            return self.unknown
        size = (self.count,)
        boxes = np.broadcast_to(self.boxes, (self.count, *self.boxes.shape[1:]))
        noise = np.zeros(size, np.int64) if self.noise is None else self.noise.copy()
        fields = (
            np.broadcast_to(np.asarray(self.op, np.uint8), size).copy(),
            self.partners().copy(),
            np.broadcast_to(np.asarray(self.lam, np.float32), size).copy(),
            boxes.copy(),
            noise,
        )
        return Plan(*map(torch.from_numpy, fields))

    def on(self, device: torch.device) -> Plan:
        """Return the plan on a device, brought there once for all leaves, in two copies."""
        if self._moved is None or self._moved.op.device != device:
            plan = self.plan()
            if plan.op.device != device:
                numbers = [x.view(self.count, -1) for x in (plan.op, plan.partner, plan.noise)]
                moved = torch.cat([*numbers, plan.boxes.flatten(1)], 1)
                moved = moved.to(device, non_blocking=True)
                lam, boxes = plan.lam.to(device, non_blocking=True), moved[:, 3:]
                boxes = boxes.view(plan.boxes.shape)
                plan = Plan(moved[:, 0], moved[:, 1], lam, boxes, moved[:, 2])
            self._moved = plan
        return self._moved


def make_plan(
    op: int,
    count: int,
    applied: Any,
    *,
    partner: Any = 0,
    lam: Any = 1.0,
    boxes: Any = None,
    noise: Any = None,
) -> CompactPlan:
    """Do to the samples chosen what was drawn, and nothing to the others.

    Args:
        op: What is done.
        count: B.
        applied: Whether it is done to all samples, or (B,) bool.
        partner: A cyclic shift or (B,) int64.
        lam: The label weight of all samples or (B,) of each.
        boxes: (1, N, 2 d) or (B, N, 2 d) int64; none by default.
        noise: (B,) int64 seeds, or None.
    """
    drawn = next((x for x in (boxes, lam, partner, applied) if isinstance(x, Tensor)), None)
    if drawn is not None:
        return _make_unknown(op, count, applied, partner, lam, boxes, noise, drawn.device)
    if torch.compiler.is_compiling():
        raise TypeError(
            "draw() must draw tensors on the device of its generator inside torch.compile, got "
            "arrays or numbers of the host; use tv_mixaug.engine.sampling, or mix in the loader."
        )
    boxes = np.zeros((1, 1, 4), np.int64) if boxes is None else boxes
    if isinstance(applied, bool) and not applied:
        return CompactPlan(count, boxes=np.zeros((1, *boxes.shape[1:]), np.int64))
    if not isinstance(applied, bool):
        own = np.arange(count)
        other = _rolled(own, partner) if isinstance(partner, int) else partner
        partner, lam = np.where(applied, other, own), np.where(applied, lam, 1.0)
        boxes = np.where(applied[:, None, None], boxes, 0)
    ops = op if isinstance(applied, bool) else applied * np.uint8(op)
    lam = lam.astype(np.float32) if getattr(lam, "ndim", 0) else float(np.float32(lam))
    return CompactPlan(count, ops, partner, lam, boxes, noise)


def _make_unknown(
    op: int,
    count: int,
    applied: Any,
    partner: Any,
    lam: Any,
    boxes: Any,
    noise: Any,
    device: torch.device,
) -> CompactPlan:
    """Do the same with what was drawn on a device."""
    holes, sides = (1, 4) if boxes is None else boxes.shape[1:]
    plan = identity_plan(count, sides // 2, holes, device=device)
    if isinstance(applied, bool) and not applied:
        return CompactPlan(count, NONE, unknown=plan)
    partner = plan.partner if isinstance(partner, int) else partner  # a shift of 0
    boxes = plan.boxes if boxes is None else boxes.expand(count, holes, sides)
    lam = lam.to(torch.float32).expand(count) if isinstance(lam, Tensor) else plan.lam * lam
    noise = plan.noise if noise is None else noise
    if isinstance(applied, bool):
        made = Plan(plan.op + op, partner, lam, boxes, noise)
        return CompactPlan(count, op, unknown=made)
    made = Plan(
        (applied * op).to(torch.uint8),
        torch.where(applied, partner, plan.partner),
        torch.where(applied, lam, 1.0),
        torch.where(applied[:, None, None], boxes, 0),
        noise,
    )
    return CompactPlan(count, None, unknown=made, among=(op,))


def choose_plans(plans: Sequence[Plan], chosen: Tensor) -> Plan:
    """Give each sample its entry of the plan that was chosen for it.

    Args:
        plans: Plans of one batch. Where they differ in the number of boxes, N is the largest;
            those without boxes may have fewer axes than the others.
        chosen: (B,) int64, the place in ``plans`` of each sample's; -1 leaves the sample as it is.

    Example:
        >>> one = identity_plan(2)._replace(lam=torch.tensor([0.25, 0.75]))
        >>> choose_plans([one], torch.tensor([-1, 0])).lam.tolist()
        [1.0, 0.75]
    """
    count, sides = len(chosen), max(plan.boxes.shape[2] for plan in plans)
    holes = max(plan.boxes.shape[1] for plan in plans)
    every = [*plans, identity_plan(count, sides // 2, holes, device=chosen.device)]
    boxes = [
        F.pad(b, (0, sides - b.shape[2], 0, holes - b.shape[1])) for b in (p.boxes for p in every)
    ]
    padded = [plan._replace(boxes=b) for plan, b in zip(every, boxes, strict=True)]
    rows = torch.arange(count, device=chosen.device)
    return Plan(*(torch.stack(fields)[chosen, rows] for fields in zip(*padded, strict=True)))


def identity_plan(
    batch_size: int, dims: int = 2, holes: int = 1, *, device: torch.device | str = "cpu"
) -> Plan:
    """Return the plan that changes nothing.

    Args:
        batch_size: B, at least 0.
        dims: Axes of a box: 2, or 3 for a cuboid.
        holes: N, the number of boxes for each sample.
        device: Where its tensors lie.

    Returns:
        A :class:`Plan` with every sample on its own, ``lam`` 1 and empty boxes.

    Example:
        >>> identity_plan(2).lam.tolist()
        [1.0, 1.0]
    """
    return Plan(
        op=torch.zeros(batch_size, dtype=torch.uint8, device=device),
        partner=torch.arange(batch_size, device=device),
        lam=torch.ones(batch_size, dtype=torch.float32, device=device),
        boxes=torch.zeros(batch_size, holes, 2 * dims, dtype=torch.int64, device=device),
        noise=torch.zeros(batch_size, dtype=torch.int64, device=device),
    )


def fit_plan(plan: Plan, sizes: Sequence[Sequence[int]]) -> Plan:
    """Cut a plan down to the pixels that both images of a pair have, and count its weights anew.

    Images of different sizes lie with their upper left corners on each other. What lies beyond the
    partner stays own, so the own weight is the mean over all pixels of the own image.

    Args:
        plan: The plan, on the CPU, whose boxes lie in the own image.
        sizes: Height and width of each image.

    Returns:
        The plan with boxes of partners that are clipped to both, and ``lam`` for the whole image.

    Example:
        >>> plan = identity_plan(2)._replace(
        ...     op=torch.tensor([PASTE, BLEND]).byte(),
        ...     partner=torch.tensor([1, 0]),
        ...     lam=torch.tensor([0.0, 0.5]),
        ...     boxes=torch.tensor([[[0, 0, 10, 10]], [[0, 0, 0, 0]]]),
        ... )
        >>> fit_plan(plan, [(10, 10), (5, 20)]).lam.tolist()
        [0.5, 0.75]
    """
    lam, boxes = plan.lam.clone(), plan.boxes.clone()
    rows = zip(plan.op.tolist(), plan.partner.tolist(), plan.lam.tolist(), sizes, strict=True)
    for row, (op, other, own, size) in enumerate(rows):
        height, width = map(min, size, size if op == FILL else sizes[other])
        boxes[row].clamp_(max=torch.tensor([width, height] * 2, device="cpu"))
        boxes[row] *= (box_volumes(boxes[row]) > 0)[:, None]
        if op == PASTE:
            inside = torch.zeros(height, width, dtype=torch.bool, device="cpu")
            for x1, y1, x2, y2 in boxes[row].tolist():
                inside[y1:y2, x1:x2] = True
            lam[row] = 1 - int(inside.count_nonzero()) / math.prod(size)
        elif op == BLEND and tuple(size) != tuple(sizes[other]):
            lam[row] = 1 - (1 - own) * (height * width) / math.prod(size)
    return plan._replace(lam=lam, boxes=boxes)


def inner_lam(lam: float, size: Sequence[int], other: Sequence[int]) -> float:
    """Return the weight of the own pixels under a partner that is blended in, from the image's."""
    if tuple(size) == tuple(other):
        return lam
    shared = math.prod(map(min, size, other))
    return max(0.0, 1 - (1 - lam) * math.prod(size) / shared)


def box_volumes(boxes: Any) -> Any:
    """Count the pixels of (..., 2 d) boxes, a tensor or an array: (...,) int64."""
    dims = boxes.shape[-1] // 2
    return (boxes[..., dims:] - boxes[..., :dims]).prod(-1)


def _rolled(values: Any, shift: int) -> Any:
    """Return an array with each entry moved up by a cyclic shift; what falls out comes first."""
    return np.concatenate((values[len(values) - shift :], values[: len(values) - shift]))


def _is_one(values: Any) -> bool:
    """Tell whether all samples have one value."""
    return len(values) > 0 and bool((values == values[:1]).all())
