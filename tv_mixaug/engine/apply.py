"""Apply a plan: the one place where samples are blended, pasted into and filled.

There are three ways, and all give the same pixels. Samples on the CPU are mixed one by one, so that
each is read from memory once; boxes of small samples are written at once, as bits. A batch with one
operation for all is mixed in at most two pieces. Everything else goes through the kernels as one
batch: gradients and plans that are not looked at.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad as fw

from tv_mixaug.engine import kernels
from tv_mixaug.engine.plan import BLEND, FILL, PASTE, CompactPlan

Fill = float | Sequence[float] | str | Tensor | None
# Boxes of smaller samples, in bytes, are pasted faster at once than one by one.
SMALL_PASTE = 1 << 12
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Allocate = Callable[[torch.Size, torch.dtype], Tensor]


class LazyStack:
    """B > 0 plain CPU tensors of one shape and dtype to be stacked, or one stacked tensor.

    ``allocate`` makes the memory of the result, by default new memory. ``tv_type`` is the tv_tensor
    class of the samples; None if they are plain.
    """

    is_cpu = True

    def __init__(
        self, samples: Sequence[Tensor] | Tensor, allocate: Allocate | None, tv_type: Any = None
    ) -> None:
        self.samples: Tensor | list[Tensor]
        if isinstance(samples, Tensor):
            self.samples, self.shape, self.dtype = samples, samples.shape, samples.dtype
        else:
            self.samples, self.dtype = list(samples), samples[0].dtype
            self.shape = torch.Size((len(samples), *samples[0].shape))
        self.ndim = len(self.shape)
        self.allocate, self.tv_type = allocate, tv_type

    def empty(self) -> Tensor:
        """Return the uninitialised batch."""
        if self.allocate is None:
            return torch.empty(self.shape, dtype=self.dtype, device="cpu")
        return self.allocate(self.shape, self.dtype)

    def stack(self) -> Tensor:
        """Return the samples stacked, as a plain tensor."""
        held = self.samples
        return held if isinstance(held, Tensor) else torch.stack(held, out=self.empty())

    def wrap(self, batch: Tensor) -> Tensor:
        """Return the finished batch with the type of the samples."""
        return batch if self.tv_type is None else batch.as_subclass(self.tv_type)


def apply_plan(
    source: Tensor | LazyStack,
    plan: CompactPlan,
    fill: Fill = 0.0,
    axes: Sequence[int] | None = None,
    channel_axis: int | None = -3,
    *,
    inplace: bool = False,
) -> Tensor:
    """Apply a plan to a batch; each sample is mixed with the original pixels of its partner.

    Args:
        source: The batch, or its samples.
        plan: The plan.
        fill: What filled boxes take: a number, a value for each index of ``channel_axis``, a tensor
            that broadcasts to the batch, ``"noise"``, ``"color"``, or None to leave them unchanged.
        axes: The axes that boxes cut, slowest first; by default the last ones.
        channel_axis: The axis with a fill value for each index; None if there is none.
        inplace: Whether to write into ``source``, which is returned if nothing is to be done.
    """
    if isinstance(source, LazyStack) and isinstance(source.samples, Tensor):
        # A blend writes every pixel, so that new memory saves a copy.
        inplace = plan.only != BLEND or source.allocate is not None
        source = source.samples
    lazy = isinstance(source, LazyStack)
    if not plan.ops or (fill is None and plan.only == FILL):
        return source.stack() if isinstance(source, LazyStack) else source
    count = source.ndim
    if axes is not None and axes[-1] == count - 1 and axes[0] == count - len(axes):
        axes = None  # the last ones, whose regions are the quickest to build
    job = _Job(plan, fill, axes, channel_axis, count)
    large, noisy = not kernels.is_small(source), plan.only == FILL and isinstance(fill, str)
    alike = plan.only is not None and not noisy  # so that pieces of the batch are mixed at once
    if isinstance(source, Tensor):
        gradients = (source.requires_grad and torch.is_grad_enabled()) or fw._current_level >= 0
        if not plan.known or gradients or not (source.is_cpu or alike):
            mixed = job.mix_tensors(source)
            return source.copy_(mixed) if inplace else mixed
    rolls = plan.only == FILL or plan.shift is not None or not source.is_cpu
    one_box = plan.only != BLEND and not isinstance(plan.boxes, Tensor)
    as_block, together = alike and one_box and rolls and not lazy, plan.only == BLEND and not large
    by_row = lazy or (source.is_cpu and not (as_block or together))
    overwrites = plan.only == BLEND or not (by_row or as_block)
    if isinstance(source, LazyStack):
        out: Tensor = source.empty() if overwrites else source.stack()
        originals: Any = source.samples
    elif not inplace:
        out, originals = torch.empty_like(source) if overwrites else source.clone(), source
    else:
        # Copying all pixels is faster than copying a box of each small sample, with its short rows.
        short = as_block and plan.only == PASTE and not large and source.dtype == torch.uint8
        reads_first = plan.only in (PASTE, FILL) and (as_block or by_row) and not short
        out, originals = source, source if reads_first else source.clone()
    (job.mix_rows if by_row else job.mix_pieces)(out, originals)
    if inplace and out.is_cpu and not out.is_inference():
        torch.autograd.graph.increment_version(out)  # NumPy and OpenCV leave it unchanged
    return out


@dataclass(slots=True)
class _Job:
    """A plan, and how its boxes lie in a batch with ``ndim`` axes."""

    plan: CompactPlan
    fill: Any
    axes: Sequence[int] | None
    channel_axis: int | None
    ndim: int

    # --- The whole batch through the kernels ---

    def mix_tensors(self, images: Tensor) -> Tensor:
        """Mix a batch as a whole, differentiable and without a look at the plan's values."""
        plan, tensors, out = self.plan, self.plan.on(images.device), images
        partners = images[tensors.partner] if plan.mixes else images

        def applied(op: int) -> Any:
            return plan.only == op or (tensors.op == op).view(-1, *[1] * (images.ndim - 1))

        if BLEND in plan.ops and images.dtype in kernels.MIXED_DTYPES:
            mixed = kernels.blend(images, partners, kernels.lam_column(tensors.lam, images))
            out = mixed if plan.only == BLEND else torch.where(applied(BLEND), mixed, out)
        if plan.ops == (BLEND,):
            return out
        inside = kernels.box_mask(images, tensors.boxes, self.axes)
        if PASTE in plan.ops:
            pasted = inside if plan.ops == (PASTE,) else inside & applied(PASTE)
            out = torch.where(pasted, partners, out)
        if FILL not in plan.ops or self.fill is None:
            return out
        if not isinstance(self.fill, str):
            filled = inside if plan.ops == (FILL,) else inside & applied(FILL)
            value = kernels.fill_tensor(self.fill, images, self.channel_axis)
            return torch.where(filled, value, out)
        places = self.noise_places(images)
        for number in range(tensors.boxes.shape[1]):  # each box has its own noise
            filled = kernels.box_mask(images, tensors.boxes[:, number], self.axes) & applied(FILL)
            seeds = (tensors.noise + number).view(-1, *[1] * (images.ndim - 1))
            out = torch.where(filled, kernels.noise(seeds, places, images.dtype), out)
        return out

    def noise_places(self, images: Tensor) -> Tensor:
        """Number the elements of a sample for ``"noise"``, and its channels for ``"color"``."""
        shape = list(images.shape[1:])
        if self.fill == "color":
            channel = None if self.channel_axis is None else self.channel_axis % images.ndim - 1
            shape = [n if axis == channel else 1 for axis, n in enumerate(shape)]
        count = math.prod(shape)
        return torch.arange(count, dtype=torch.int32, device=images.device).view(shape)

    # --- One operation for all samples, in pieces ---

    def mix_pieces(self, out: Tensor, originals: Tensor) -> None:
        """Write a batch in which all samples have one operation."""
        plan, per_sample = self.plan, isinstance(self.plan.boxes, Tensor)
        if plan.only == BLEND:
            lam = plan.lam
            lam = kernels.lam_column(lam, out) if isinstance(lam, Tensor) else lam
            for rows, original, partner, target in self.pieces(originals, out):
                weight = lam[rows] if isinstance(lam, Tensor) else lam
                kernels.blend(original, partner, weight, out=target)
        elif per_sample:
            inside = kernels.box_mask(out, plan.on(out.device).boxes, self.axes)
            if plan.only == FILL:
                value = kernels.fill_tensor(self.fill, out, self.channel_axis)
                torch.where(inside, value, originals, out=out)
                return
            for rows, original, partner, target in self.pieces(originals, out):
                torch.where(inside[rows], partner, original, out=target)
        elif plan.only == FILL:
            value = kernels.fill_tensor(self.fill, out, self.channel_axis)
            value = value.expand_as(out) if value.ndim else value
            for box in plan.boxes:
                region = (slice(None), *self.region(box))
                out[region] = value[region] if value.ndim else value
        else:
            for box in plan.boxes:
                region = (slice(None), *self.region(box))
                source = originals[region].clone() if originals is out else originals[region]
                for _, _, partner, target in self.pieces(source, out[region]):
                    target.copy_(partner)

    def pieces(
        self, originals: Tensor, out: Tensor
    ) -> Iterable[tuple[slice, Tensor, Tensor, Tensor]]:
        """Return rows with their pixels, their partners' and those of the result."""
        shift = self.plan.shift
        if shift is None:
            partners = originals[self.plan.on(out.device).partner]
            return [(slice(None), originals, partners, out)]
        # A small batch is mixed faster as a whole than in two pieces.
        if not shift or (out.is_cpu and out.nbytes <= 2 * kernels.SMALL_SAMPLE):
            partners = originals.roll(shift, 0)
            return [(slice(None), originals, partners, out)]
        sizes, rows = (shift, self.plan.count - shift), (slice(0, shift), slice(shift, None))
        original, target = originals.split_with_sizes(sizes), out.split_with_sizes(sizes)
        partner = originals.split_with_sizes(sizes[::-1])[::-1]
        return zip(rows, original, partner, target, strict=True)

    # --- Sample by sample on the CPU ---

    def mix_rows(self, out: Tensor, originals: Tensor | list[Tensor]) -> None:
        """Write a batch row by row; indexing arrays takes a tenth of the time of tensors."""
        plan, targets = self.plan, _as_array(out)
        at_once = self.axes is None and isinstance(plan.boxes, Tensor) and plan.boxes.shape[2] == 4
        at_once = at_once and out[:1].nbytes <= SMALL_PASTE and out.itemsize in BITS
        at_once = at_once and isinstance(originals, Tensor)
        if plan.mixes:
            partner = plan.of_partners(np.arange(plan.count)).tolist()
            if BLEND in plan.ops:
                self.blend_rows(out, originals, partner)
            if PASTE in plan.ops and at_once:
                change = _as_array(originals)[partner]
                change ^= targets
                self.change_boxes(PASTE, targets, change)
            elif PASTE in plan.ops:
                self.paste_rows(out, originals, partner)
        if FILL in plan.ops and isinstance(self.fill, str):
            self.noise_rows(out)
        elif FILL in plan.ops and self.fill is not None:
            value = kernels.fill_tensor(self.fill, out, self.channel_axis)
            values = _as_array(value.expand_as(out) if value.ndim else value)
            if at_once:
                self.change_boxes(FILL, targets, values ^ targets)
                return
            for row, _, region in self.regions(FILL):
                targets[row][region] = values[row][region] if value.ndim else values

    def change_boxes(self, op: int, targets: Any, change: Any) -> None:
        """Invert the given bits of the pixels in boxes, in half the time of np.where."""
        boxes, masks = self.plan.boxes.numpy(), []
        if self.plan.only is None:
            boxes = boxes * (self.plan.op.numpy() == op)[:, None, None]
        y, x = (np.arange(side) for side in targets.shape[-2:])
        for box in boxes.swapaxes(0, 1):
            x1, y1, x2, y2 = box.T[..., None]
            inside = ((y >= y1) & (y < y2), (x >= x1) & (x < x2))
            rows, columns = (-each.astype(targets.dtype) for each in inside)
            masks.append(rows[:, :, None] & columns[:, None])
        mask = functools.reduce(np.bitwise_or, masks)
        change &= mask.reshape(len(mask), *[1] * (targets.ndim - 3), *mask.shape[1:])
        targets ^= change

    def noise_rows(self, out: Tensor) -> None:
        """Fill boxes with noise, which is generated for several small boxes at once."""
        places, targets = self.noise_places(out).numpy(), _as_array(out)
        places = np.broadcast_to(places, out.shape[1:])
        seeds = [0] * len(out) if self.plan.noise is None else self.plan.noise.tolist()
        cuts = [
            (targets[row], region, seeds[row] + number, places[region])
            for row, number, region in self.regions(FILL)
        ]
        step = max(1, kernels.SMALL_SAMPLE // max(places.size, 1))
        for part in (cuts[start : start + step] for start in range(0, len(cuts), step)):
            counts = [numbers.size for *_, numbers in part]
            flat = np.concatenate([numbers.ravel() for *_, numbers in part])
            each: Any = [seed for *_, seed, _ in part]
            each = torch.from_numpy(np.repeat(each, counts if len(each) > 1 else 1))
            values = kernels.noise(each, torch.from_numpy(flat), out.dtype)
            split = np.split(_as_array(values), np.cumsum(counts)[:-1])
            for (target, region, _, numbers), one in zip(part, split, strict=True):
                target[region] = one.reshape(numbers.shape)

    def paste_rows(self, out: Tensor, originals: Tensor | list[Tensor], partner: list[int]) -> None:
        """Paste row by row; in place, all patches are taken before the first is written."""
        targets, sources, cuts = _as_array(out), _as_array(originals), list(self.regions(PASTE))
        patches = [sources[partner[row]][region] for row, _, region in cuts]
        if originals is out:
            patches = [patch.copy() for patch in patches]
        for (row, _, region), patch in zip(cuts, patches, strict=True):
            targets[row][region] = patch

    def blend_rows(self, out: Tensor, originals: Tensor | list[Tensor], partner: list[int]) -> None:
        """Blend row by row."""
        samples, results, lam = list(originals), list(out), self.plan.lam
        lams = lam.tolist() if isinstance(lam, Tensor) else [lam] * len(samples)
        for row in self.plan.rows(BLEND):
            kernels.blend(samples[row], samples[partner[row]], lams[row], out=results[row])

    def regions(self, op: int) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
        """Yield the row, the number and the region of each box with an operation."""
        boxes: Any = self.plan.boxes
        boxes = boxes.tolist() if isinstance(boxes, Tensor) else [boxes] * self.plan.count
        for row in self.plan.rows(op):
            for number, box in enumerate(boxes[row]):
                if box[-1]:
                    yield row, number, self.region(box)

    def region(self, box: Sequence[int]) -> tuple[Any, ...]:
        """Return the index of a box in a sample."""
        if self.axes is None and len(box) == 4:  # in a third of the time
            return (..., slice(box[1], box[3]), slice(box[0], box[2]))
        dims, index = len(box) // 2, [slice(None)] * (self.ndim - 1)
        for place, axis in enumerate(self.axes or range(-dims, 0), 1):
            index[axis % self.ndim - 1] = slice(box[dims - place], box[-place])
        return tuple(index)


def _as_array(tensor: Tensor | list[Tensor]) -> Any:
    """Return an array over the bits of a tensor, as integers, since NumPy has no bfloat16."""
    if isinstance(tensor, list):
        return list(map(_as_array, tensor))
    return tensor.view(BITS.get(tensor.itemsize, tensor.dtype)).numpy()
