"""Plans: which samples are mixed, how much and where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tv_mixaug._validation import ensure
from tv_mixaug.engine.sampling import TracingError, constants, is_traced

NONE, FILL, BLEND, PASTE = range(4)
APPLIED = (BLEND, PASTE, FILL)  # the order in which operations are applied to a batch
OP_NAMES = ("none", "fill", "blend", "paste")


class Plan(NamedTuple):
    """The mix of one batch as plain tensors, which can be pinned, moved, stored and replayed.

    Attributes:
        op: (B,) uint8, the operation on each sample: 0 none, 1 fill boxes, 2 blend with the
            partner, 3 paste boxes of the partner (the names are in ``OP_NAMES``).
        partner: (B,) int64, index in the batch of each sample's partner; its own index if it has
            none.
        lam: (B,) float32 in [0, 1], the label weight of the original; the partner has ``1 - lam``.
        boxes: (B, N, 2 d) int64 pixels, N boxes per sample in d = 2 or 3 axes: x1, y1, x2, y2 or
            x1, y1, z1, x2, y2, z2, half-open and clipped to the image. Unused boxes are all zeros.
        noise: (B,) int64, the seeds that ``fill="noise"`` and ``fill="color"`` are generated from.
        size: (B, d) int64, the sides in pixels that the boxes cut, slowest axis first; zeros if
            they are unknown.
    """

    op: Tensor
    partner: Tensor
    lam: Tensor
    boxes: Tensor
    noise: Tensor
    size: Tensor | None = None

    def __repr__(self) -> str:
        return summarize(self)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Plan:
        """Move all fields to a device, as ``Tensor.to`` does."""
        moved = (x if x is None else x.to(device=device, non_blocking=non_blocking) for x in self)
        return Plan(*moved)  # type: ignore[arg-type]


def summarize(items: Any) -> str:
    """Return the repr of a namedtuple of tensors: shapes and dtypes, but no values."""
    texts = (
        f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" if isinstance(x, Tensor) else x
        for x in items
    )
    parts = (f"{name}={text}" for name, text in zip(items._fields, texts, strict=True))
    return f"{type(items).__name__}({', '.join(parts)})"


def accept_iterable(kind: type[Any]) -> None:
    """Let a namedtuple of tensors also be built from one iterable, and be loaded as weights.

    Hugging Face's Trainer and fastai rebuild what they move between devices as
    ``type(x)(generator)``, and ``torch.load`` opens only registered classes.
    """
    make = kind.__new__

    def new(cls: type[Any], *items: Any, **named: Any) -> Any:
        if len(items) == 1 and not named and not isinstance(items[0], Tensor):
            items = tuple(items[0])
        return make(cls, *items, **named)

    kind.__new__ = new  # type: ignore  # a NamedTuple cannot define it in its body
    torch.serialization.add_safe_globals([kind])


accept_iterable(Plan)


@dataclass(slots=True)
class CompactPlan:
    """A plan whose batch-wide values are stored once.

    A batch that is mixed by one shift, one weight and one box needs no loop over samples, so values
    that all samples share stay numbers from sampling on.

    Attributes:
        count: B.
        op: The operation of all samples, or (B,) uint8.
        partner: The cyclic shift s by which sample i has the partner i - s, or (B,) int64.
        lam: The label weight of all originals, rounded to float32, or (B,) float32.
        boxes: N lists of 2 d ints for all samples, or (B, N, 2 d) int64.
        noise: (B,) int64 seeds, or None.
        size: The sides that the boxes cut, or (B, d) int64; None if they are unknown.
        ops: The operations that may occur, in the order in which they are applied.
        known: Whether values may be looked at; they may not on a device and in a traced graph.
        only: The operation of all samples; None if they may differ.
    """

    count: int
    op: Any = NONE
    partner: Any = 0
    lam: Any = 1.0
    boxes: Any = ((0, 0, 0, 0),)
    noise: Tensor | None = None
    size: Any = None
    ops: tuple[int, ...] = APPLIED
    known: bool = True
    only: int | None = field(init=False)
    _moved: Plan | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.count and self.known:
            self.op = NONE
        self.only = self.op if isinstance(self.op, int) else None
        if self.only is not None:
            self.ops = (self.only,) if self.only else ()
        elif self.known:
            self.ops = tuple(op for op in APPLIED if bool((self.op == op).any()))

    @property
    def shift(self) -> int | None:
        """The cyclic shift that gives every partner; None if there is none."""
        return self.partner if self.known and isinstance(self.partner, int) else None

    @property
    def mixes(self) -> bool:
        """Whether pixels of partners are used."""
        return BLEND in self.ops or PASTE in self.ops

    def rows(self, op: int) -> Sequence[int]:
        """Return the indices of the samples with an operation."""
        if self.only == op:
            return range(self.count)
        rows: list[int] = np.flatnonzero(self.op.numpy() == op).tolist()
        return rows

    def partners(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the (B,) int64 partners."""
        if isinstance(self.partner, Tensor):
            return self.partner
        rows = torch.arange(self.count, device=device)
        return (rows - int(self.partner)) % max(self.count, 1)

    def of_partners(self, values: Any) -> Any:
        """Return a one-dimensional array in which each sample has its partner's entry."""
        if isinstance(self.partner, Tensor):
            return values[self.partner.numpy()]
        cut = len(values) - self.partner  # np.roll takes ten times as long
        return np.concatenate((values[cut:], values[:cut]))

    def plan(self, device: torch.device | str = "cpu") -> Plan:
        """Return the plan as tensors; ``device`` is that of values that are not tensors yet."""
        count, op, lam, boxes, noise = self.count, self.op, self.lam, self.boxes, self.noise
        if not isinstance(op, Tensor):
            op = torch.full((count,), op, dtype=torch.uint8, device=device)
        if not isinstance(lam, Tensor):
            lam = torch.full((count,), lam, dtype=torch.float32, device=device)
        if not isinstance(boxes, Tensor):
            corners = [corner for box in boxes for corner in box]
            boxes = constants(corners, torch.int64, device).view(1, len(boxes), -1)
        boxes = boxes.expand(count, *boxes.shape[1:]).contiguous()
        if noise is None:
            noise = torch.zeros(count, dtype=torch.int64, device=device)
        size = self.size
        if not isinstance(size, Tensor):
            size = constants(size or [0] * (boxes.shape[2] // 2), torch.int64, device)
            size = size.expand(count, -1).contiguous()
        return Plan(op, self.partners(device), lam.expand(count), boxes, noise, size)

    def on(self, device: torch.device) -> Plan:
        """Return the plan on a device; one on the host is copied there once."""
        if self._moved is None or self._moved.op.device != device:
            plan = self.plan("cpu" if self.known else device)
            self._moved = plan.to(device, non_blocking=True)
        return self._moved


def compact(plan: Plan | CompactPlan, ops: tuple[int, ...] = APPLIED) -> CompactPlan:
    """Return a plan with its batch-wide values stored once; ``ops`` may occur if it is unknown."""
    if isinstance(plan, CompactPlan):
        return plan
    count = len(plan.op)
    if is_traced() or not plan.op.is_cpu:
        return CompactPlan(count, *plan, ops=ops, known=False)
    op, partner, lam, boxes = (x.numpy() for x in plan[:4])
    shift = -int(partner[0]) % count if count else 0
    is_roll = np.array_equal(partner, (np.arange(count) - shift) % max(count, 1))
    return CompactPlan(
        count,
        int(op[0]) if _is_constant(op) else plan.op,
        shift if is_roll else plan.partner,
        float(lam[0]) if _is_constant(lam) else plan.lam,
        boxes[0].tolist() if _is_constant(boxes) else plan.boxes,
        plan.noise,
        plan.size,
    )


def make_plan(
    op: int,
    count: int,
    applied: Any,
    *,
    partner: Any = 0,
    lam: Any = 1.0,
    boxes: Any = ((0, 0, 0, 0),),
    noise: Any = None,
) -> CompactPlan:
    """Build the plan that applies one operation to the chosen samples.

    Values are numbers, arrays or tensors, as :mod:`tv_mixaug.engine.sampling` returns them.

    Args:
        op: The operation.
        count: B.
        applied: Whether it is applied to all samples, or (B,) bool.
        partner: A cyclic shift, or (B,) int64.
        lam: The label weight of all originals, or (B,).
        boxes: N boxes of 2 d ints for all samples, or (1, N, 2 d) or (B, N, 2 d) int64.
        noise: (B,) int64 seeds, or None.

    Raises:
        TracingError: If numbers of the host are given while a graph is traced.
    """
    applied, partner, lam, boxes, noise = (
        torch.from_numpy(x) if isinstance(x, np.ndarray) else x
        for x in (applied, partner, lam, boxes, noise)
    )
    sampled = [x for x in (applied, partner, lam, boxes) if isinstance(x, Tensor)]
    known = not is_traced() and all(x.is_cpu for x in sampled)
    if not (known or sampled):
        raise TracingError(
            "sample() must return tensors inside torch.compile and torch.func, got numbers of the "
            "host; sample with tv_mixaug.engine.sampling, or mix in the DataLoader."
        )
    if known and isinstance(boxes, Tensor) and len(boxes) == 1:
        boxes = boxes[0].tolist()
    lam = lam.to(torch.float32) if isinstance(lam, Tensor) else float(np.float32(lam))
    plan = CompactPlan(count, op, partner, lam, boxes, noise, known=known)
    if applied is True:
        return plan
    if applied is False:
        empty = boxes * 0 if isinstance(boxes, Tensor) else [[0] * len(box) for box in boxes]
        return CompactPlan(count, boxes=empty, known=known)
    full = plan.plan(applied.device)
    return CompactPlan(
        count,
        applied.to(torch.uint8) * op,
        torch.where(applied, full.partner, torch.arange(count, device=applied.device)),
        torch.where(applied, full.lam, 1.0),
        full.boxes * applied[:, None, None],
        noise,
        ops=(op,),
        known=known,
    )


def choose_plans(plans: Sequence[Plan], chosen: Tensor) -> Plan:
    """Give each sample its row of the plan chosen for it: (B,) indices, -1 for no plan.

    N is the largest number of boxes; plans without boxes may have fewer axes than the others.
    """
    count, sides = len(chosen), max(plan.boxes.shape[2] for plan in plans)
    number = max(plan.boxes.shape[1] for plan in plans)
    rows = torch.arange(count, device=chosen.device)
    padded = []
    for plan in (*plans, identity_plan(count, sides // 2, number, device=chosen.device)):
        pads = (0, sides - plan.boxes.shape[2], 0, number - plan.boxes.shape[1])
        padded.append(plan._replace(boxes=F.pad(plan.boxes, pads)))
    columns = zip(*(plan[:5] for plan in padded), strict=True)
    return Plan(*(torch.stack(column)[chosen, rows] for column in columns))


def resize_plan(plan: Plan, size: Sequence[int]) -> Plan:
    """Scale the boxes of a plan to images of another size, or raise if that is not exact.

    The values of a plan on a GPU are not checked; boxes are rounded down there.
    """
    if plan.size is None or 2 * plan.size.shape[1] != plan.boxes.shape[2]:
        return plan
    known = plan.size.is_cpu and not is_traced()
    new = constants(tuple(size), torch.int64, plan.size.device).expand_as(plan.size)
    if known and (torch.equal(new, plan.size) or not plan.size.any()):
        return plan
    old, sides = (x.flip(1).repeat(1, 2)[:, None] for x in (plan.size, new))
    old, sides = old.clamp(min=1), sides.where(old > 0, 1)
    scaled = plan.boxes * sides
    exact = not known or not (scaled % old).any()
    expected = "of the size {} that the plan was sampled for, or one that scales its boxes exactly"
    sampled = tuple(plan.size[0].tolist()) if known else ()
    ensure(exact, "images", expected, tuple(size), ValueError, sampled)
    return plan._replace(boxes=scaled // old, size=new)


def identity_plan(
    batch_size: int, dims: int = 2, boxes: int = 1, *, device: torch.device | str = "cpu"
) -> Plan:
    """Return the plan that changes nothing.

    Args:
        batch_size: B, at least 0.
        dims: Axes of a box: 2, or 3 for cuboids.
        boxes: N, the number of boxes per sample.
        device: The device of its tensors.
    """
    return CompactPlan(batch_size, boxes=[[0] * 2 * dims] * boxes).plan(device)


def box_volumes(boxes: Any) -> Any:
    """Count the pixels of (..., 2 d) boxes, or of each box in a list of lists."""
    if isinstance(boxes, (list, tuple)):
        halves = ((box[: len(box) // 2], box[len(box) // 2 :]) for box in boxes)
        return [math.prod(high - low for low, high in zip(*half, strict=True)) for half in halves]
    dims = boxes.shape[-1] // 2
    return (boxes[..., dims:] - boxes[..., :dims]).prod(-1)


def _is_constant(values: Any) -> bool:
    return len(values) > 0 and bool((values == values[:1]).all())
