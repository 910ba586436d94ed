"""Carry out a plan on pixels, each sample written once into memory that is given.

The kernels of :mod:`tv_mixaug.functional` say what the result is. This module says how to get it
without a second batch in memory: large samples are blended one by one, small ones all together,
and a cut touches nothing but its box. The plan lies on the host, the pixels anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tv_mixaug.plans import Plan, draw_noise

# A smaller sample, in bytes, costs less than the call that would handle it alone.
SMALL_SAMPLE = 1 << 16
# Small samples are blended in blocks of columns of about this many bytes, to stay in the cache.
BLOCK = 1 << 19
# More steps than this take longer than to copy all samples first.
MOST_STEPS = 32


class Rows:
    """Hold the samples of a batch that has not been stacked yet.

    Args:
        samples: B > 0 plain CPU tensors of one shape and dtype.
        allocate: Makes an uninitialised tensor of the given shape and dtype for the result.
        tv_type: The tv_tensor class of the samples, which the result has to be of; None if plain.
    """

    is_cpu = True

    def __init__(
        self,
        samples: Sequence[Tensor],
        allocate: Callable[[torch.Size, torch.dtype], Tensor],
        tv_type: type[Tensor] | None = None,
    ) -> None:
        self.samples = list(samples)
        self.allocate = allocate
        self.tv_type = tv_type
        self.shape = torch.Size((len(samples), *samples[0].shape))
        self.ndim = len(self.shape)
        self.dtype = samples[0].dtype

    def empty(self) -> Tensor:
        """Return the uninitialised batch."""
        return self.allocate(self.shape, self.dtype)

    def stack(self) -> Tensor:
        """Return the samples stacked."""
        return torch.stack(self.samples, out=self.empty())

    def finish(self, batch: Tensor) -> Tensor:
        """Return the finished batch in the type of the samples."""
        return batch if self.tv_type is None else batch.as_subclass(self.tv_type)


def mixup_batch(source: Tensor | Rows, plan: Plan, *, inplace: bool = False) -> Tensor:
    """Blend a batch by a Mixup plan; see :func:`tv_mixaug.functional.mixup`."""
    small, bytes_on_cpu = _is_small(source), source.is_cpu and source.dtype == torch.uint8
    together = not source.is_cpu or (small and (not bytes_on_cpu or _one_lam(plan)))
    if isinstance(source, Rows):
        if not small:
            out = source.empty()
            blend_rows(source.samples, plan.partner.tolist(), plan.lam.tolist(), out)
            return out
        source, inplace = source.stack(), True
    out = source if inplace else torch.empty_like(source)
    if together:
        _blend_together(source, plan, out, _uint8_lerp(plan) if bytes_on_cpu else _lerp_wide)
    else:
        blend_rows(source, plan.partner.tolist(), plan.lam.tolist(), out)
    return out


def cutmix_batch(
    source: Tensor | Rows, plan: Plan, axes: Sequence[int], *, inplace: bool = False
) -> Tensor:
    """Paste the boxes of a CutMix plan; see :func:`tv_mixaug.functional.cutmix`."""
    out = _own_pixels(source, inplace)
    pieces, shared = roll_pieces(plan.partner), _shared_region(plan, axes, out.ndim)
    if pieces and shared and (_is_small(out) or not out.is_cpu):
        region = out[shared]
        for rows, partners in roll_in_place(region, pieces):
            region[rows] = partners
    elif out.is_cpu:
        _paste_rows(out, plan, axes)
    else:
        inside = inside_boxes(out, plan.boxes, axes)
        out.copy_(torch.where(inside, out[plan.partner.to(out.device, non_blocking=True)], out))
    return out


def cutout_batch(
    source: Tensor | Rows,
    plan: Plan,
    fill: Any,
    axes: Sequence[int],
    channel_axis: int = -3,
    *,
    inplace: bool = False,
) -> Tensor:
    """Fill the boxes of a Cutout plan; see :func:`tv_mixaug.functional.cutout`.

    ``fill`` is a number, a sequence with a value for each index of ``channel_axis``, or "noise".
    """
    out = _own_pixels(source, inplace)
    fill_boxes(out, plan, fill, axes, channel_axis)
    return out


def fill_boxes(
    out: Tensor, plan: Plan, fill: Any, axes: Sequence[int], channel_axis: int = -3
) -> None:
    """Fill the boxes in place."""
    noise = isinstance(fill, str)
    shared = _shared_region(plan, axes, out.ndim)
    if shared and not noise:
        filling = fill_tensor(fill, out, channel_axis).to(out.device, non_blocking=True)
        out[shared] = filling
        return
    value: Any = None if noise else fill_tensor(fill, out, channel_axis)
    # Indexing an array takes a tenth of the time that indexing a tensor takes.
    target: Any = _as_array(out) if out.is_cpu and not noise else out
    if value is not None:
        value = _as_array(value) if out.is_cpu else value.to(out.device, non_blocking=True)
    holes = plan.boxes.reshape(-1, 2 * len(axes)).tolist()
    count = len(holes) // len(out)
    for place, region in enumerate(_regions(holes, axes, out.ndim)):
        if any(holes[place]):
            sample = target[place // count]
            if noise:
                seed = int(plan.noise[place // count]) + place % count
                value = draw_noise(sample[region].shape, seed, out.dtype, out.device)
            sample[region] = value


def fill_tensor(fill: float | Sequence[float], out: Tensor, channel_axis: int) -> Tensor:
    """Return the fill as a host tensor that broadcasts to one sample of ``out``."""
    value = torch.tensor(fill, dtype=out.dtype, device="cpu")
    if value.ndim == 0:
        return value
    shape = [1] * out.ndim
    shape[channel_axis] = -1
    return value.view(shape)[0]


def blend_rows(
    source: Tensor | Sequence[Tensor], partner: list[int], lam: list[float], out: Tensor
) -> None:
    """Blend sample by sample into ``out``, which may be ``source`` itself.

    float16 and bfloat16 are computed in float32 inside ``torch.lerp``; uint8 goes through
    ``cv2.addWeighted``, float32 rounded to nearest.
    """
    if not out.numel():
        return
    in_place = out is source
    if out.dtype == torch.uint8:
        blend: Callable[[Any, Any, float, Any], object] = _uint8_blend()
        if in_place and not out.is_contiguous():
            dense = out.contiguous()
            blend_rows(dense, partner, lam, dense)
            out.copy_(dense)
            return
        target = (
            out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device="cpu")
        )
        rows: Any = _flat_arrays(target)
        samples: Any = rows if in_place else _flat_arrays(source)
    else:
        blend, target = _lerp, out
        rows = out.unbind(0)
        samples = rows if in_place else source.unbind(0) if isinstance(source, Tensor) else source
    copy_row = (lambda row: row.copy()) if out.dtype == torch.uint8 else torch.clone
    for chain in chains(partner):
        is_cycle = len(chain) > 1 and partner[chain[-1]] == chain[0]
        first = copy_row(samples[chain[0]]) if is_cycle and in_place else samples[chain[0]]
        for place, row in enumerate(chain):
            closes = is_cycle and place == len(chain) - 1
            other = first if closes else samples[partner[row]]
            blend(samples[row], other, lam[row], rows[row])
    if target is not out:
        out.copy_(target)


def chains(partner: list[int]) -> list[list[int]]:
    """Order the samples so that each comes before its partner.

    In this order samples can be overwritten in place, and a partner's pixels, just read, are
    still in the cache when its own turn comes.

    Args:
        partner: For each sample the index of its partner.

    Returns:
        Chains that cover every sample once. In each the partner of a sample is the next one; the
        last one's partner either comes in a later chain or is the first of its own, a cycle.

    Example:
        >>> chains([1, 2, 0, 0])
        [[3], [0, 1, 2]]
    """
    users = [0] * len(partner)
    for row, other in enumerate(partner):
        users[other] += other != row
    taken = [False] * len(partner)
    found = []
    for only_unused in (True, False):
        for start in range(len(partner)):
            chain, row = [], start
            while not taken[row] and (users[row] == 0 or not only_unused):
                taken[row] = True
                chain.append(row)
                row = partner[row]
                users[row] -= 1
            if chain:
                found.append(chain)
    return found


def roll_pieces(partner: Tensor) -> list[tuple[slice, slice]] | None:
    """Return the two slices (rows, their partners) of a cyclic shift, or None if it is none."""
    found = partner.numpy()
    count = len(found)
    if count == 0:
        return None
    shift = -int(found[0]) % count
    if not np.array_equal(found, (np.arange(count) - shift) % count):
        return None
    pieces = [
        (slice(shift, count), slice(0, count - shift)),
        (slice(0, shift), slice(count - shift, count)),
    ]
    return [piece for piece in pieces if piece[0].start < piece[0].stop]


def takes_few_steps(pieces: list[tuple[slice, slice]]) -> bool:
    """Tell whether a roll in place is quick: its steps are as long as the shift to one side."""
    shift, count = pieces[0][0].start, pieces[0][0].stop
    return bool(shift == 0 or count <= MOST_STEPS * min(shift, count - shift))


def roll_in_place(
    batch: Tensor, pieces: list[tuple[slice, slice]]
) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows and the pixels of their partners, in an order in which rows can be overwritten.

    Only the rows that would be lost are saved, as many as the shift to whichever side is nearer;
    all of them where that would take too many steps.
    """
    shift, count = pieces[0][0].start, pieces[0][0].stop
    step = min(shift, count - shift)
    if step == 0:
        yield pieces[0][0], batch
    elif not takes_few_steps(pieces):
        saved = batch.clone()
        for rows, partners in pieces:
            yield rows, saved[partners]
    elif step == shift:
        saved = batch[-step:].clone()
        for stop in range(count, step, -step):
            start = max(step, stop - step)
            yield slice(start, stop), batch[start - step : stop - step]
        yield slice(0, step), saved
    else:
        saved = batch[:step].clone()
        for start in range(0, shift, step):
            stop = min(start + step, shift)
            yield slice(start, stop), batch[start + step : stop + step]
        yield slice(shift, count), saved


def cut_axes(ndim: int, boxes: Tensor, axes: Sequence[int] | None) -> tuple[int, ...]:
    """Return the axes that boxes cut, slowest first: as given, or the last ones."""
    dims = boxes.shape[-1] // 2
    return tuple(range(ndim - dims, ndim)) if axes is None else tuple(a % ndim for a in axes)


def inside_boxes(images: Tensor, boxes: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the bool mask of (B, 2 d) boxes, broadcastable to ``images``."""
    boxes = boxes.to(images.device, non_blocking=True)
    dims = len(axes)
    inside = torch.ones((), dtype=torch.bool, device=images.device)
    for place, axis in enumerate(axes):
        column = dims - 1 - place  # the axes run from slow to fast, the columns start with x
        at = torch.arange(images.shape[axis], device=images.device)
        on_axis = (at >= boxes[:, column, None]) & (at < boxes[:, dims + column, None])
        shape = [1] * images.ndim
        shape[0], shape[axis] = -1, images.shape[axis]
        inside = inside & on_axis.view(shape)
    return inside


def _is_small(batch: Tensor | Rows) -> bool:
    return batch.shape[1:].numel() * batch.dtype.itemsize < SMALL_SAMPLE


def _own_pixels(source: Tensor | Rows, inplace: bool) -> Tensor:
    if isinstance(source, Rows):
        return source.stack()
    return source if inplace else source.clone()


def _shared_region(plan: Plan, axes: Sequence[int], ndim: int) -> tuple[Any, ...] | None:
    """Return the index of the box in the batch if all samples have one and the same, else None."""
    boxes = plan.boxes
    if boxes.ndim != 2 or len(boxes) == 0 or not (boxes.numpy() == boxes[0].numpy()).all():
        return None
    return (slice(None), *_regions(boxes[:1].tolist(), axes, ndim)[0])


def _one_lam(plan: Plan) -> bool:
    lam = plan.lam.numpy()
    return len(lam) > 0 and bool((lam == lam[0]).all())


def _regions(boxes: Sequence[Sequence[int]], axes: Sequence[int], ndim: int) -> list[Any]:
    """Return the index of each box in a sample of a batch of ``ndim`` axes."""
    dims = len(axes)
    columns = list(zip(*boxes, strict=True))
    index: list[Any] = [itertools.repeat(slice(None))] * (ndim - 1)
    for place, axis in enumerate(axes, 1):
        index[axis - 1] = map(slice, columns[dims - place], columns[-place])
    return list(zip(*index, strict=False)) if boxes else []


def _lerp_wide(own: Tensor, partner: Tensor, weight: Tensor, out: Tensor) -> None:
    """Interpolate with a weight for each row, in float32 or wider, rounding integers."""
    if own.dtype == weight.dtype:
        torch.lerp(own, partner, weight, out=out)
        return
    mixed = own.to(weight.dtype).lerp_(partner.to(weight.dtype), weight)
    out.copy_(mixed if out.dtype.is_floating_point else mixed.round_())


def _blend_together(
    source: Tensor,
    plan: Plan,
    out: Tensor,
    lerp: Callable[[Tensor, Tensor, Tensor, Tensor], None] = _lerp_wide,
) -> None:
    """Blend all samples at once: a roll in large pieces, else block by block of columns."""
    wide = torch.float64 if source.dtype == torch.float64 else torch.float32
    weight = (1 - plan.lam.to(wide)).to(source.device, non_blocking=True)
    pieces, in_place = roll_pieces(plan.partner), out is source
    in_rows = lerp is _lerp_wide or (source.is_contiguous() and out.is_contiguous())
    if pieces and in_rows and (not in_place or takes_few_steps(pieces)):
        steps = (
            roll_in_place(out, pieces)
            if in_place
            else [(rows, source[partners]) for rows, partners in pieces]
        )
        column = weight.view(-1, *[1] * (source.ndim - 1))
        for rows, other in steps:
            lerp(source[rows], other, column[rows], out[rows])
        return
    partner = plan.partner.to(source.device, non_blocking=True)
    flat = source.reshape(len(source), -1)
    result = out.view(len(out), -1) if out.is_contiguous() else torch.empty_like(flat)
    width = BLOCK // max(1, len(flat) * source.dtype.itemsize)
    step = max(256, width) if source.is_cpu else max(1, flat.shape[1])
    for start in range(0, flat.shape[1], step):
        block = flat[:, start : start + step]
        # On the CPU index_select copies whole rows, and indexing goes pixel by pixel.
        other = block.index_select(0, partner) if block.is_cpu else block[partner]
        lerp(block, other, weight[:, None], result[:, start : start + step])
    if result.data_ptr() != out.data_ptr():
        out.copy_(result.view(out.shape))


def _uint8_lerp(plan: Plan) -> Callable[[Tensor, Tensor, Tensor, Tensor], None]:
    """Return what blends uint8 rows that have one lam; all axes but the first are contiguous."""
    blend, lam = _uint8_blend(), float(plan.lam[0])

    def lerp(own: Tensor, partner: Tensor, weight: Tensor, out: Tensor) -> None:
        planes = [tensor.flatten(1).numpy() for tensor in (own, partner, out)]
        blend(planes[0], planes[1], lam, planes[2])

    return lerp


def _paste_rows(out: Tensor, plan: Plan, axes: Sequence[int]) -> None:
    """Paste box by box, in place; a cycle of partners needs one patch saved."""
    samples, partner = list(_as_array(out)), plan.partner.tolist()
    regions = _regions(plan.boxes.tolist(), axes, out.ndim)
    for chain in chains(partner):
        last = chain[-1]
        theirs = samples[partner[last]][regions[last]]
        is_cycle = len(chain) > 1 and partner[last] == chain[0]
        saved = theirs.copy() if is_cycle else theirs
        for row in chain[:-1]:
            samples[row][regions[row]] = samples[partner[row]][regions[row]]
        samples[last][regions[last]] = saved


def _lerp(own: Tensor, partner: Tensor, lam: float, out: Tensor) -> None:
    torch.lerp(own, partner, 1 - lam, out=out)


def _uint8_blend() -> Callable[[Any, Any, float, Any], object]:
    from cv2 import addWeighted  # slow to import, and only uint8 needs it

    return lambda own, partner, lam, out: addWeighted(own, lam, partner, 1 - lam, 0.0, out)


def _flat_arrays(batch: Tensor | Sequence[Tensor]) -> list[Any]:
    """Return each sample as a contiguous (1, N) array, sharing memory where it can."""
    if isinstance(batch, Tensor):
        return list(batch.reshape(len(batch), 1, -1).numpy())
    return [sample.contiguous().view(1, -1).numpy() for sample in batch]


def _as_array(tensor: Tensor) -> Any:
    """Return the tensor's memory as an array; the bits of bfloat16, which NumPy lacks."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
