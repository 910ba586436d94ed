"""Carry out a plan: the one place where samples are blended, pasted into and filled.

The kernels say what the result is. This module says how to get it without a second batch in
memory: large samples one by one, small ones all together, and a cut touches nothing but its boxes.
The plan lies on the host, the pixels anywhere. Where the values of a plan cannot be known, on a
device or while compiling, or where gradients flow, whole batches go through the kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tv_mixaug.engine import kernels
from tv_mixaug._validation import check_fill
from tv_mixaug.engine.sampling import sample_noise
from tv_mixaug.engine.plan import BLEND, FILL, NONE, PASTE, Plan, CompactPlan, inner_lam

# A smaller sample, in bytes, costs less than the call that would handle it alone.
SMALL_SAMPLE = 1 << 16

Fill = float | Sequence[float] | str | Tensor | None
Allocate = Callable[[torch.Size, torch.dtype], Tensor]


class LazyStack:
    """Hold the samples of a batch in memory that may be written to, or not stacked yet.

    Args:
        samples: B > 0 plain CPU tensors of one shape and dtype, or all of them stacked.
        allocate: Makes an uninitialised tensor of the given shape and dtype for the result; None
            for fresh memory.
        tv_type: The tv_tensor class of the samples; None if they are plain.
    """

    is_cpu = True

    def __init__(
        self,
        samples: Sequence[Tensor] | Tensor,
        allocate: Allocate | None,
        tv_type: type[Tensor] | None = None,
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
        """Return the samples stacked, plain."""
        held = self.samples
        return held if isinstance(held, Tensor) else torch.stack(held, out=self.empty())

    def finish(self, batch: Tensor) -> Tensor:
        """Return the finished batch in the type of the samples."""
        return batch if self.tv_type is None else batch.as_subclass(self.tv_type)


def apply_plan(
    source: Tensor | LazyStack,
    recipe: CompactPlan,
    fill: Fill = 0.0,
    axes: Sequence[int] | None = None,
    channel_axis: int = -3,
    *,
    inplace: bool = False,
) -> Tensor:
    """Do to a batch what a plan says, each sample with its partner's original pixels.

    Args:
        source: The batch, or its samples.
        recipe: The plan.
        fill: What filled boxes take: a number, a value for each index of ``channel_axis``, a tensor
            that broadcasts to the batch, ``"noise"``, ``"color"``, or None to leave them as they
            are.
        axes: The axes that boxes cut, slowest first; by default the last ones.
        channel_axis: The axis that has a fill for each index.
        inplace: Whether to write into ``source``.

    Returns:
        The batch: ``source`` itself where nothing is to be done to it.
    """
    if not recipe.ops or (fill is None and recipe.only == FILL):
        return source if isinstance(source, Tensor) else source.stack()
    if isinstance(source, Tensor) and _goes_at_once(source, recipe):
        done = _at_once(source, recipe, fill, axes, channel_axis)
        return source.copy_(done) if inplace else done
    out, originals = _prepare(source, recipe, fill, inplace)
    for op in recipe.ops:
        if op == BLEND:
            _blend(out, originals, recipe)
        elif op == PASTE:
            _paste(out, originals, recipe, kernels.cut_axes(source.ndim, recipe.boxes, axes))
        elif fill is not None:
            places = kernels.cut_axes(source.ndim, recipe.boxes, axes)
            _fill(out, originals, recipe, fill, places, channel_axis)
    return out


def apply_plan_ragged(
    images: Sequence[Tensor], recipe: CompactPlan, fill: Fill, axes: Sequence[int], channel_axis: int
) -> list[Tensor]:
    """Do to images of different sizes what a plan says, where an image and its partner overlap.

    Args:
        images: B tensors (C, H, W), of which height and width may differ.
        recipe: The plan, fitted to them by :func:`~tv_mixaug.engine.plan.fit_plan`.
        fill: As in :func:`apply_plan`, like the axes, which count the batch's.
        axes: The axes that boxes cut.
        channel_axis: The axis that has a fill for each index.

    Returns:
        New tensors in the sizes of the images.
    """
    plan, mixed = recipe.plan(), [image.clone() for image in images]
    sizes = [[image.shape[axis - 1] for axis in axes] for image in images]
    rows = zip(plan.op.tolist(), plan.partner.tolist(), plan.lam.tolist(), strict=True)
    for row, (op, other, lam) in enumerate(rows):
        if op == NONE:
            continue
        other = row if op == FILL else other
        own, partner = images[row], images[other]
        region = tuple(slice(min(pair)) for pair in zip(own.shape, partner.shape, strict=True))
        # The pair is a batch of its own, whose second image stays as it is.
        weight = inner_lam(lam, sizes[row], sizes[other])
        one = Plan(
            op=torch.tensor([op, NONE], dtype=torch.uint8, device="cpu"),
            partner=torch.tensor([1, 1], device="cpu"),
            lam=torch.tensor([weight, 1.0], dtype=torch.float32, device="cpu"),
            boxes=plan.boxes[[row, row]],
            noise=plan.noise[[row, row]],
        )
        pair = torch.stack([own[region], partner[region]])
        mixed[row][region] = apply_plan(pair, CompactPlan.of(one), fill, axes, channel_axis)[0]
    return mixed


def replay(
    images: Tensor,
    plan: Plan,
    fill: Fill = 0.0,
    *,
    axes: Sequence[int] | None = None,
) -> Tensor:
    """Do to another tensor what a recorded plan did to the batch.

    Args:
        images: (B, ...) tensor that belongs to the same samples: a second view, features, a depth
            map. For cut plans its last axes are those of the images, in the same size.
        plan: The recorded plan, on any device.
        fill: What filled boxes take: a number, a value for each channel, a tensor that broadcasts
            to ``images``, ``"noise"`` or ``"color"`` by the plan's seeds, or None to leave them as
            they are.
        axes: The axes that boxes cut; by default the last 2 or 3.

    Returns:
        A new tensor, bit for bit what the transform makes of the same values on the same device.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If shapes do not agree.

    Example:
        >>> from tv_mixaug.engine import plan as plans
        >>> replay(torch.eye(2), plans.identity_plan(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be a Plan, got {type(plan).__name__}.")
    if not (fill is None or isinstance(fill, Tensor)):
        fill = check_fill(fill)
    kernels.check_batch(images, plan.partner, "plan.partner")
    for name in Plan._fields:  # not by zip, which torch 2.6 cannot compile
        rows = getattr(plan, name)
        wanted = 3 if name == "boxes" else 1
        if not isinstance(rows, Tensor) or rows.ndim != wanted or len(rows) != len(images):
            shape = f"({len(images)}, N, 2 d)" if name == "boxes" else f"({len(images)},)"
            got = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(f"plan.{name} must be a tensor of shape {shape}, got {got}.")
    recipe = CompactPlan.of(plan)
    if recipe.unknown is None and BLEND in recipe.ops:
        kernels.check_blend(images)
    if PASTE in recipe.ops or FILL in recipe.ops:
        kernels.check_boxes(images, plan.boxes, axes)
    if isinstance(fill, Tensor):
        kernels.check_broadcast(fill, images)
    done = apply_plan(images, recipe, fill, axes)
    return images.clone() if done is images else done


def region_mask(plan: Plan, size: Sequence[int]) -> Tensor:
    """Return M of a plan, ``out = M * own + (1 - M) * other``, the weight of the own pixels.

    Args:
        plan: The :class:`~tv_mixaug.engine.plan.Plan`.
        size: (height, width) in pixels, or (depth, height, width) for cuboids.

    Returns:
        (B, 1, H, W) or (B, 1, D, H, W) float32 in [0, 1] on the plan's device. Its mean is the
        label weight where the other is a partner.

    Raises:
        ValueError: If the size has not the axes of the plan's boxes.

    Example:
        >>> from tv_mixaug.engine import plan as plans
        >>> region_mask(plans.identity_plan(2), (4, 4)).mean((1, 2, 3)).tolist()
        [1.0, 1.0]
    """
    dims = plan.boxes.shape[-1] // 2
    if len(size) != dims:
        raise ValueError(f"size must have the {dims} sides that boxes cut, got {tuple(size)}.")
    ones = torch.ones(len(plan.op), 1, *size, dtype=torch.float32, device=plan.op.device)
    op, lam = (field.view(-1, *[1] * (dims + 1)) for field in (plan.op, plan.lam))
    cut = (op == FILL) | (op == PASTE)
    mine = torch.where(op == BLEND, lam.to(torch.float32), ones)
    return torch.where(kernels.inside_boxes(ones, plan.boxes) & cut, 0.0, mine)


# --- How it is done -----------------------------------------------------------------------------


def _is_small(batch: Tensor | LazyStack) -> bool:
    return batch.shape[1:].numel() * batch.dtype.itemsize < SMALL_SAMPLE


def _goes_at_once(source: Tensor, recipe: CompactPlan) -> bool:
    """Tell what has to go through the kernels as a whole batch."""
    if recipe.unknown is not None or (source.requires_grad and torch.is_grad_enabled()):
        return True
    return not source.is_cpu and recipe.only is None


def _overwrites(recipe: CompactPlan, fill: Fill, on_cpu: bool) -> bool:
    """Tell whether the operation writes every pixel, so that none has to be copied before."""
    if recipe.only is None or recipe.only == BLEND:
        return recipe.only == BLEND
    return not on_cpu and len(recipe.boxes) > 1 and not isinstance(fill, str)


def _prepare(
    source: Tensor | LazyStack, recipe: CompactPlan, fill: Fill, inplace: bool
) -> tuple[Tensor, Tensor | list[Tensor]]:
    """Return the memory of the result, and the pixels that were there before it is written to."""
    whole = _overwrites(recipe, fill, source.is_cpu)
    if isinstance(source, LazyStack):
        held = source.samples
        if whole:
            return source.empty(), held
        out = source.stack()
        # All bytes are copied in less time than a box of them in each small sample, whose rows are
        # a few bytes long.
        is_kept = recipe.only is None or (recipe.only == PASTE and out.dtype == torch.uint8)
        return out, held.clone() if held is out and is_kept else held
    if not inplace:
        return torch.empty_like(source) if whole else source.clone(), source
    # A box is pasted in place if it is taken before any is written, a large sample is blended in
    # place if it is kept until all that need it have read it.
    alone = recipe.only in (PASTE, FILL) and not whole
    large = recipe.only == BLEND and source.is_cpu and not _is_small(source)
    return source, source if alone or large else source.clone()


def _pieces(originals: Any, out: Any, recipe: CompactPlan) -> list[tuple[slice, Any, Any, Any]]:
    """Return rows with their own, partners' and result's pixels; a roll is in two pieces.

    The pixels are tensors, or arrays for those who need them: to cut these costs a tenth.
    """
    shift, other = recipe.shift, originals
    if shift is None:
        is_tensor = isinstance(originals, Tensor)
        other = originals[recipe.on(out.device).partner if is_tensor else recipe.partners()]
    if not shift:
        return [(slice(None), originals, other, out)]
    rest = recipe.count - shift
    own, target = _halve(originals, shift, rest), _halve(out, shift, rest)
    other = _halve(originals, rest, shift)[::-1]
    return [*zip((slice(0, shift), slice(shift, None)), own, other, target, strict=True)]


def _halve(pixels: Any, *counts: int) -> Sequence[Any]:
    if isinstance(pixels, Tensor):  # one call, where slices are two
        return pixels.split_with_sizes(counts)
    return pixels[: counts[0]], pixels[counts[0] :]


def _blend(out: Tensor, originals: Tensor | list[Tensor], recipe: CompactPlan) -> None:
    """Blend: small samples all together, large ones row by row."""
    is_bytes, one_weight = out.is_cpu and out.dtype == torch.uint8, isinstance(recipe.lam, float)
    dense = out.contiguous() if is_bytes else out  # as OpenCV wants it
    by_row = recipe.only is None or (out.is_cpu and not _is_small(out))
    if by_row or not isinstance(originals, Tensor) or (is_bytes and not one_weight):
        _blend_rows(dense, originals, recipe, is_bytes, inplace=originals is out)
    elif is_bytes:
        for _, own, other, target in _pieces(originals.numpy(), dense.numpy(), recipe):
            kernels.blend_bytes(own, other, recipe.lam, target)
    else:
        column = None if one_weight else kernels.column(recipe.on(out.device).lam, out)
        for rows, own, other, target in _pieces(originals, out, recipe):
            weight = 1 - recipe.lam if column is None else column[rows]
            kernels.blend(own, other, weight, out=target)
    if dense is not out:
        out.copy_(dense)


def _blend_rows(
    out: Tensor, originals: Tensor | list[Tensor], recipe: CompactPlan, is_bytes: bool, *, inplace: bool
) -> None:
    """Blend row by row; in place, what is still needed of the originals is kept."""
    samples: list[Any] = list(originals)
    results: list[Any] = list(out)
    blend: Callable[..., object] = _lerp
    if is_bytes:
        samples, results = (list(map(_as_array, tensors)) for tensors in (samples, results))
        blend = kernels.blend_bytes
    partner, weights, rows = recipe.partners().tolist(), recipe.weights(), recipe.rows(BLEND)
    readers, kept = Counter(partner[row] for row in rows if partner[row] != row), dict[int, Any]()
    for row in _by_partner(rows, partner):
        other = partner[row]
        readers[other] -= 1
        if inplace and readers[row] > 0:
            kept[row] = np.copy(samples[row]) if is_bytes else samples[row].clone()
        blend(samples[row], kept.get(other, samples[other]), weights[row], results[row])


def _by_partner(rows: Sequence[int], partner: list[int]) -> Iterator[int]:
    """Order samples so that a partner's pixels, just read, are in the cache when its turn comes.

    In place this is also the order in which the fewest have to be kept: one of each cycle.
    """
    left = dict.fromkeys(rows)
    while left:
        row = next(iter(left))
        while row in left:
            del left[row]
            yield row
            row = partner[row]


def _lerp(own: Tensor, other: Tensor, lam: float, out: Tensor) -> None:
    torch.lerp(own, other, 1 - lam, out=out)


def _paste(
    out: Tensor, originals: Tensor | list[Tensor], recipe: CompactPlan, axes: Sequence[int]
) -> None:
    """Paste: one box for all as a block, else box by box on the host, by a mask on a device."""
    one_box = recipe.only and recipe.shift is not None and len(recipe.boxes) == 1
    if one_box and isinstance(originals, Tensor):
        for box in recipe.regions()[0]:
            region = (slice(None), *_index(box, axes, out.ndim))
            theirs = originals[region].clone() if originals is out else originals[region]
            for _, _, other, target in _pieces(theirs, out[region], recipe):
                target.copy_(other)
    elif out.is_cpu:
        targets, sources = _as_array(out), list(map(_as_array, originals))
        partner, boxes = recipe.partners().tolist(), recipe.regions()
        cuts = [
            (row, _index(box, axes, out.ndim))
            for row in recipe.rows(PASTE)
            for box in filter(any, boxes[row])
        ]
        patches = [sources[partner[row]][region] for row, region in cuts]
        if originals is out:
            patches = [patch.copy() for patch in patches]
        for (row, region), patch in zip(cuts, patches, strict=True):
            targets[row][region] = patch
    elif isinstance(originals, Tensor):
        inside = kernels.inside_boxes(out, recipe.on(out.device).boxes, axes)
        for rows, own, other, target in _pieces(originals, out, recipe):
            torch.where(inside[rows], other, own, out=target)


def _fill(
    out: Tensor,
    originals: Tensor | list[Tensor],
    recipe: CompactPlan,
    fill: float | Sequence[float] | str | Tensor,
    axes: Sequence[int],
    channel_axis: int,
) -> None:
    """Fill: boxes that all share as a block, else box by box on the host, by a mask on a device."""
    if isinstance(fill, str):
        _fill_noise(out, recipe, fill, axes, channel_axis)
        return
    value = _value(fill, out, channel_axis)
    if recipe.only and len(recipe.boxes) == 1:
        value = value.expand_as(out) if value.ndim else value
        for box in recipe.regions()[0]:
            region = (slice(None), *_index(box, axes, out.ndim))
            out[region] = value[region] if value.ndim else value
    elif out.is_cpu:
        # Indexing an array takes a tenth of the time that indexing a tensor takes.
        targets, values = _as_array(out), _as_array(value.expand_as(out))
        boxes = recipe.regions()
        for row in recipe.rows(FILL):
            for box in filter(any, boxes[row]):
                region = _index(box, axes, out.ndim)
                targets[row][region] = values[row][region]
    elif isinstance(originals, Tensor):
        inside = kernels.inside_boxes(out, recipe.on(out.device).boxes, axes)
        torch.where(inside, value, originals, out=out)


def _value(fill: Any, images: Tensor, channel_axis: int) -> Tensor:
    """Return a fill as a tensor of the images' kind, to be broadcast."""
    value = fill if isinstance(fill, Tensor) else kernels.fill_tensor(fill, images, channel_axis)
    return value.to(images.device, images.dtype, non_blocking=True)


def _fill_noise(
    out: Tensor, recipe: CompactPlan, fill: str, axes: Sequence[int], channel_axis: int
) -> None:
    """Fill with noise, of which each box has its own: box by box on the host, else all at once."""
    if out.is_cpu and recipe.unknown is None:
        boxes, seeds = recipe.regions(), recipe.seeds()
        for row in recipe.rows(FILL):
            for place, box in enumerate(boxes[row]):
                if any(box):
                    target = out[row][_index(box, axes, out.ndim)]
                    shape = list(target.shape)
                    if fill == "color":
                        channels = channel_axis % out.ndim - 1
                        shape = [n if a == channels else 1 for a, n in enumerate(shape)]
                    target.copy_(sample_noise(shape, seeds[row] + place, out.dtype))
        return
    plan = recipe.on(out.device)
    filled = (plan.op == FILL)[:, None, None]
    for place in range(plan.boxes.shape[1]):
        inside = kernels.inside_boxes(out, plan.boxes[:, place : place + 1] * filled, axes)
        value = kernels.noise(plan.noise + place, out, fill, channel_axis)
        out.copy_(torch.where(inside, value, out))


def _at_once(
    images: Tensor, recipe: CompactPlan, fill: Fill, axes: Sequence[int] | None, channel_axis: int
) -> Tensor:
    """Put a batch through the kernels as a whole, differentiable and without a look at values."""
    plan, ops, out = recipe.on(images.device), recipe.ops, images
    other = images[plan.partner] if recipe.mixes else images

    def done(op: int) -> Tensor:
        return (plan.op == op).view(-1, *[1] * (images.ndim - 1))

    if BLEND in ops and images.dtype in kernels.MIXED_DTYPES:
        mixed = kernels.blend(images, other, kernels.column(plan.lam, images))
        out = mixed if recipe.only == BLEND else torch.where(done(BLEND), mixed, out)
    if ops == (BLEND,):
        return out
    inside = kernels.inside_boxes(images, plan.boxes, axes)
    if PASTE in ops:
        pasted = inside if ops == (PASTE,) else inside & done(PASTE)
        out = torch.where(pasted, other, out)
    if FILL in ops and isinstance(fill, str):
        out = out.clone()
        places = kernels.cut_axes(images.ndim, plan.boxes, axes)
        _fill_noise(out, recipe, fill, places, channel_axis)
    elif FILL in ops and fill is not None:
        filled = inside if ops == (FILL,) else inside & done(FILL)
        out = torch.where(filled, _value(fill, images, channel_axis), out)
    return out


def _index(box: Sequence[int], axes: Sequence[int], ndim: int) -> tuple[slice, ...]:
    """Return the index of a box in a sample of a batch of ``ndim`` axes."""
    index, dims = [slice(None)] * (ndim - 1), len(axes)
    for place, axis in enumerate(axes, 1):
        index[axis - 1] = slice(box[dims - place], box[-place])
    return tuple(index)


def _as_array(tensor: Tensor) -> Any:
    """Return the tensor's memory as an array; the bits of bfloat16, which NumPy lacks."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
