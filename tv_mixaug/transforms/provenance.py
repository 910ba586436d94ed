"""Apply transforms that are not ours, and learn which pixel came from where.

Beside the images a transform of v2 is given a probe, whose pixels are numbers. Its kernels are
registered with torchvision when this module is imported, which :class:`~tv_mixaug.Chain` does where
it meets the first transform to be followed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from tv_mixaug.batch.infer import ParsedBatch, FieldSpec, BatchParser, Role
from tv_mixaug.batch.tree import unflatten

# All that moves pixels in v2; whatever else is done to images leaves a probe as it is.
GEOMETRIC = (
    *(F.horizontal_flip, F.vertical_flip, F.rotate, F.affine, F.perspective, F.elastic),
    *(F.resize, F.resized_crop, F.crop, F.center_crop, F.pad),
)


def apply(
    step: Callable[..., Any], batch: Any, reader: BatchParser, labels: Collection[FieldSpec], follow: bool
) -> tuple[Any, Tensor | None]:
    """Apply a transform of v2, or any other callable, which gets the batch as it is.

    Returns the batch and (B, H, W) int64, the number from 1 in its sample of the pixel that is now
    there, 0 where it was filled; None where nothing was moved, or is not to be followed.
    """
    name = getattr(step, "__name__", type(step).__name__)
    before, numbers = reader.read(batch), None
    if isinstance(step, v2.Transform):
        batch, numbers = _apply_v2(step, name, before, follow)
    else:
        batch = step(batch)
    if not follow:
        return batch, None
    try:
        after = reader.read(batch)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} left a batch that cannot be read: {error}") from error
    size = before.size if numbers is None else tuple(numbers.shape[-2:])
    if (after.length, after.size) != (before.length, size):
        raise ValueError(
            f"{name} made {after.length} images of size {after.size}, but the pixels that can be "
            f"followed are {before.length} of size {size}; write what moves pixels as a "
            "v2.Transform that calls functionals of v2 for every leaf."
        )
    old, new = ({leaf.path: value for leaf, value in one.pairs()} for one in (before, after))
    for leaf in labels:
        was, now = old[leaf.path], new.get(leaf.path)
        if not isinstance(now, Tensor):
            raise ValueError(f"labels must stay at {leaf.where}, got a batch without them.")
        if now is not was and not (now.shape == was.shape and torch.equal(now.to(was), was)):
            raise ValueError(
                f"{name} changed the labels at {leaf.where}, which a chain sets at its end; do "
                "that before or after it."
            )
    return batch, numbers


def _apply_v2(
    step: v2.Transform, name: str, before: ParsedBatch, follow: bool
) -> tuple[Any, Tensor | None]:
    # A list, since mappings and lists of classes of their own are closed to v2.
    given, leaves = list(before.values), before.layout.leaves
    places = [place for place, leaf in enumerate(leaves) if leaf.role is Role.IMAGE]
    for place in places:
        given[place] = _to_tv(given[place], leaves[place])
    count = len(given)
    if follow and not isinstance(step, v2.ToDtype):  # which refuses types that it was not told of
        given.append(make_probe(given[places[0]]))
    done, numbers = step(given), None
    if (
        not isinstance(done, list)
        or len(done) != len(given)
        or any(getattr(done[place], "ndim", 0) != given[place].ndim for place in places)
    ):
        raise ValueError(f"{name} changed the structure of the batch, which cannot be followed.")
    for probe, moved in zip(given[count:], done[count:], strict=True):
        if moved is probe and len(probe) > 1:  # of one sample it could be written to
            continue
        if (numbers := read_probe(moved, probe)) is None:
            raise ValueError(
                f"{name} did more than move the probe that goes beside the images; say which types "
                "it is for: v2.Lambda(f, tv_tensors.Image), or _transformed_types of a class of "
                "your own."
            )
    for place in places:
        old, new = before.values[place], done[place]
        done[place] = old if new is given[place] else _from_tv(new, old, leaves[place])
    return unflatten(done[:count], before.structure), numbers


def _to_tv(value: Any, leaf: FieldSpec) -> Tensor:
    """Return images as v2 knows them: one tv_tensor (B, ..., C, H, W)."""
    one = value[0] if isinstance(value, (list, tuple)) else value
    images: Tensor = value if one is value else torch.stack(tuple(value))
    images = images if leaf.channel_axis >= 0 else images.unsqueeze(-1)
    images = images.movedim((leaf.channel_axis, *leaf.axes[-2:]), (-3, -2, -1))
    kind: type[Tensor] = tv_tensors.Image if images.ndim == 4 else tv_tensors.Video
    return images.as_subclass(type(one) if isinstance(one, tv_tensors.TVTensor) else kind)


def _from_tv(images: Tensor, old: Any, leaf: FieldSpec) -> Any:
    """Return images in the form of the old ones."""
    one = old[0] if isinstance(old, (list, tuple)) else old
    kind = type(images) if isinstance(one, tv_tensors.TVTensor) else Tensor
    images = images.movedim((-3, -2, -1), (leaf.channel_axis, *leaf.axes[-2:]))
    images = images if leaf.channel_axis >= 0 else images.squeeze(-1)
    if one is old:
        return images.as_subclass(kind)
    return type(old)([image.as_subclass(kind) for image in images.as_subclass(Tensor)])


class Probe(tv_tensors.TVTensor):  # type: ignore[misc]  # torchvision has no types
    """Hold the numbers of an image's pixels, from 1, row by row, as planes of digits: (B, D, H, W).

    It is of the images' dtype, since that decides in which precision torchvision computes where a
    pixel goes. Digits of base 256 are exact in every dtype. A last plane checks the first, so that
    what anything but a move has written is seen: no constant, nor a blend with one, passes. It is
    neither an image nor a mask, so that no fill, dtype or size meant for these reaches it.
    """


def make_probe(images: Tensor) -> Probe:
    """Number the pixels of (B, ..., C, H, W) images; one image's memory serves all."""
    height, width = images.shape[-2:]
    numbers = torch.arange(1, height * width + 1, device=images.device).view(1, height, width)
    planes = _write_digits(numbers, height * width).to(images.dtype)
    return planes.expand(len(images), -1, -1, -1).as_subclass(Probe)


def read_probe(moved: Any, probe: Probe) -> Tensor | None:
    """Return where pixels came from, as :func:`apply`; None if something else than a move was done.

    Example:
        >>> probe = make_probe(torch.zeros(1, 3, 2, 2))
        >>> read_probe(F.horizontal_flip(probe), probe).tolist()
        [[[2, 1], [4, 3]]]
    """
    if not isinstance(moved, Tensor) or moved.ndim != 4 or moved.shape[:2] != probe.shape[:2]:
        return None
    planes, count = _distinct(moved), probe.shape[-2:].numel()
    digits = planes[:, :-1].long()
    scale = 256 ** torch.arange(digits.shape[1], device=digits.device)
    numbers = (digits * scale.view(-1, 1, 1)).sum(1)
    valid = torch.equal(_write_digits(numbers, count).to(planes.dtype), planes)
    if not valid or bool((numbers > count).any()):
        return None
    return numbers.expand(len(moved), -1, -1)


def carry(values: Tensor, numbers: Tensor) -> Tensor:
    """Take (B, N, ..., H, W) values along with their pixels; 0 where none came.

    Example:
        >>> carry(torch.tensor([[[[5, 6]]]]), torch.tensor([[[2, 0, 2]]])).tolist()
        [[[[6, 0, 6]]]]
    """
    flat = torch.nn.functional.pad(values.flatten(-2).flatten(1, -2), (1, 0))
    places = numbers.to(values.device).flatten(1)[:, None].expand(-1, flat.shape[1], -1)
    return flat.gather(2, places).view(*values.shape[:-2], *numbers.shape[1:])


def _distinct(planes: Tensor) -> Tensor:
    """Return one sample where all share its memory, as they do in what torchvision was given."""
    planes = planes.as_subclass(Tensor)
    return planes[:1] if len(planes) and planes.stride(0) == 0 else planes


def _write_digits(numbers: Tensor, largest: int) -> Tensor:
    digits = [numbers >> shift & 255 for shift in range(0, largest.bit_length(), 8)]
    check = torch.where(numbers > 0, 255 - digits[0], 0)
    return torch.stack([*digits, check], 1)


def _register(functional: Any) -> None:
    """Let a functional of torchvision move probes as it moves images: to the nearest, fill 0."""
    signature = inspect.signature(functional)

    def move(probe: Probe, *args: Any, **kwargs: Any) -> Probe:
        planes = _distinct(probe)
        call = signature.bind(planes, *args, **kwargs)
        if "fill" in signature.parameters:
            call.arguments["fill"] = None
        if "interpolation" in signature.parameters:
            asked = call.arguments.get("interpolation")
            # "nearest" of torch takes the pixel at the corner, which suits only images resized so.
            corner = getattr(asked, "value", asked) in ("nearest", 0)
            exact = "antialias" in signature.parameters and not corner
            modes = (InterpolationMode.NEAREST, InterpolationMode.NEAREST_EXACT)
            call.arguments["interpolation"] = modes[exact]
        moved: Probe = functional(*call.args, **call.kwargs).as_subclass(Probe)
        return moved if len(planes) == len(probe) else moved.expand(len(probe), -1, -1, -1)

    F.register_kernel(functional, Probe)(move)


for _functional in GEOMETRIC:
    _register(_functional)
