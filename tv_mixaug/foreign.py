"""Apply transforms that are not ours, and learn which pixel came from where.

Beside the images a transform of v2 is given a probe, whose pixels are numbers. Its kernels are
registered with torchvision when this module is imported, which :class:`~tv_mixaug.Chain` does where
it meets the first transform to be followed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from tv_mixaug.leaves import Batch, Reading, Role, put_together, read_batch

# All that moves pixels in v2; whatever else is done to images leaves a probe as it is.
GEOMETRIC = (
    "horizontal_flip",
    "vertical_flip",
    "resize",
    "affine",
    "rotate",
    "pad",
    "crop",
    "center_crop",
    "resized_crop",
    "perspective",
    "elastic",
)


def apply(
    step: Callable[..., Any], batch: Any, reading: Reading, *, follow: bool
) -> tuple[Any, Tensor | None]:
    """Apply a transform of v2 or any other callable to a batch.

    Args:
        step: The transform. One of v2 gets all images as tv_tensors with the channels in front,
            whatever they are in the batch; a callable gets the batch as it is.
        batch: The batch.
        reading: How it is to be read.
        follow: Whether to find out where pixels came from.

    Returns:
        The batch in its own structure, and (B, H, W) int64, the number from 1 in its sample of the
        pixel that is there now, 0 where it was filled; None where nothing was moved.

    Raises:
        TypeError: If the batch cannot be read, before or afterwards.
        ValueError: If it cannot be read, or changed in a way that cannot be followed.
    """
    name = getattr(step, "__name__", type(step).__name__)
    reading = reading._replace(labels_getter=None)  # labels are of no interest here
    before = read_batch(batch, reading)
    numbers: Tensor | None = None
    if isinstance(step, v2.Transform):
        batch, after, numbers = _apply_v2(step, name, before, reading, follow)
    else:
        batch = step(batch)
        after = _read_again(batch, reading, name) if follow else before
    size = before.size if numbers is None else tuple(numbers.shape[-2:])
    if follow and (after.length, after.size) != (before.length, size):
        raise ValueError(
            f"{name} made {after.length} images of size {after.size}, but the pixels that can be "
            f"followed are {before.length} of size {size}; write what moves pixels as a "
            "v2.Transform that calls functionals of v2 for every leaf."
        )
    return batch, numbers


def _apply_v2(
    step: v2.Transform, name: str, before: Batch, reading: Reading, follow: bool
) -> tuple[Any, Batch, Tensor | None]:
    values = list(before.values)
    places = [p for p, leaf in enumerate(before.layout.leaves) if leaf.role is Role.IMAGE]
    for place in places:
        values[place] = _to_tv(values[place], reading.layout)
    given = put_together(values, before.structure)
    # Mappings and lists of classes of their own are closed to v2: it gets a list of what they hold.
    seen = set(map(id, pytree.tree_leaves(given)))
    closed = any(id(values[place]) not in seen for place in places)
    given = values if closed else given
    probe = moved = None
    if follow and not isinstance(step, v2.ToDtype):  # which refuses types that it was not told of
        probe = make_probe(values[places[0]])
        given, moved = step((given, probe))
    else:
        given = step(given)
    given = put_together(given, before.structure) if closed else given
    after = _read_again(given, reading._replace(layout=None), name)
    if [x.path for x in after.layout.leaves] != [x.path for x in before.layout.leaves]:
        raise ValueError(f"{name} changed the structure of the batch, which cannot be followed.")
    numbers = None if probe is None or moved is probe else read_probe(moved, probe)
    if moved is not probe and numbers is None:
        raise ValueError(
            f"{name} did more than move the probe that goes beside the images; say which types it "
            "is for: v2.Lambda(f, tv_tensors.Image), or _transformed_types of a class of your own."
        )
    changed = list(after.values)
    for place in places:
        old = before.values[place]
        same = changed[place] is values[place]
        changed[place] = old if same else _from_tv(changed[place], old, reading.layout)
    return put_together(changed, after.structure), after, numbers


def _read_again(batch: Any, reading: Reading, name: str) -> Batch:
    try:
        return read_batch(batch, reading)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} left a batch that cannot be read: {error}") from error


def _to_tv(value: Any, layout: str | None) -> Tensor:
    """Return images as v2 knows them: one tv_tensor (B, ..., C, H, W)."""
    one = value[0] if isinstance(value, (list, tuple)) else value
    images: Tensor = value if one is value else torch.stack(tuple(value))
    if isinstance(one, tv_tensors.TVTensor):
        return images if one is value else images.as_subclass(type(one))
    if layout is not None:
        images = images.permute(_order(layout))
        images = images if "C" in layout else images.unsqueeze(-3)
    kind: type[Tensor] = tv_tensors.Image if images.ndim == 4 else tv_tensors.Video
    return images.as_subclass(kind)


def _from_tv(images: Tensor, old: Any, layout: str | None) -> Any:
    """Return images in the form of the old ones."""
    one = old[0] if isinstance(old, (list, tuple)) else old
    kept = isinstance(one, tv_tensors.TVTensor)
    if not kept:
        images = images.as_subclass(Tensor)
    if not kept and layout is not None:
        images = images if "C" in layout else images.squeeze(-3)
        order = _order(layout)
        images = images.permute([order.index(axis) for axis in range(len(order))])
    if one is old:
        return images
    kind = type(images)
    return type(old)([image.as_subclass(kind) for image in images])


def _order(layout: str) -> list[int]:
    return [layout.index(axis) for axis in "BTDCHW" if axis in layout]


class Probe(tv_tensors.TVTensor):  # type: ignore[misc]  # torchvision has no types
    """Hold the numbers of an image's pixels as planes of digits.

    It is of the images' dtype, since that decides in which precision torchvision computes where a
    pixel goes. Digits of base 256 are exact in every dtype. A last plane checks the first, so that
    what anything but a move has written is seen: no constant, nor a blend with one, passes. It is
    neither an image nor a mask, so that no fill, dtype or size meant for these reaches it.
    """


def make_probe(images: Tensor) -> Probe:
    """Number the pixels of each image from 1, row by row.

    Args:
        images: (B, ..., C, H, W) of any dtype.

    Returns:
        (B, D, H, W) of their dtype and on their device; one image's memory serves all.

    Example:
        >>> probe = make_probe(torch.zeros(1, 3, 2, 2))
        >>> read_probe(F.horizontal_flip(probe), probe).tolist()
        [[[2, 1], [4, 3]]]
    """
    height, width = images.shape[-2:]
    numbers = torch.arange(1, height * width + 1, device=images.device).view(1, height, width)
    planes = _write_digits(numbers, height * width).to(images.dtype)
    return planes.expand(len(images), -1, -1, -1).as_subclass(Probe)


def read_probe(moved: Any, probe: Probe) -> Tensor | None:
    """Return where the pixels came from after a transform.

    Args:
        moved: What the transform returned for the probe.
        probe: The probe.

    Returns:
        (B, H', W') int64, the number in the same sample of the pixel that is there now, 0 where it
        was filled; None if something else than a move was done.
    """
    if not isinstance(moved, Tensor) or moved.ndim != 4 or moved.shape[:2] != probe.shape[:2]:
        return None
    planes, count = _distinct(moved.as_subclass(Tensor)), probe.shape[-2:].numel()
    digits = planes[:, :-1].long()
    scale = 256 ** torch.arange(digits.shape[1], device=digits.device)
    numbers = (digits * scale.view(-1, 1, 1)).sum(1)
    expected = _write_digits(numbers, count).to(planes.dtype)
    valid = torch.equal(expected, planes) and not bool((numbers > count).any())
    return numbers.expand(len(moved), -1, -1) if valid else None


def carry(values: Tensor, numbers: Tensor) -> Tensor:
    """Take values along with their pixels.

    Args:
        values: (B, L, H, W).
        numbers: (B, H', W') int64, the number from 1 of the pixel to come there, 0 for none.

    Returns:
        (B, L, H', W'), 0 where no pixel came.

    Example:
        >>> carry(torch.tensor([[[[5, 6]]]]), torch.tensor([[[2, 0, 2]]])).tolist()
        [[[[6, 0, 6]]]]
    """
    flat = torch.nn.functional.pad(values.flatten(2), (1, 0))
    places = numbers.to(values.device).flatten(1)[:, None].expand(-1, values.shape[1], -1)
    return flat.gather(2, places).view(*values.shape[:2], *numbers.shape[1:])


def _distinct(planes: Tensor) -> Tensor:
    """Return one sample where all share its memory, as they do in what torchvision was given."""
    return planes[:1] if len(planes) and planes.stride(0) == 0 else planes


def _write_digits(numbers: Tensor, largest: int) -> Tensor:
    digits = [numbers >> shift & 255 for shift in range(0, largest.bit_length(), 8)]
    check = torch.where(numbers > 0, 255 - digits[0], 0)
    return torch.stack([*digits, check], 1)


def _register(functional: Any) -> None:
    """Let a functional of torchvision move probes as it moves images: to the nearest, fill 0."""
    signature = inspect.signature(functional)

    def move(probe: Probe, *args: Any, **kwargs: Any) -> Probe:
        planes = _distinct(probe.as_subclass(Tensor))
        call = signature.bind(planes, *args, **kwargs)
        if "fill" in signature.parameters:
            call.arguments["fill"] = None
        if "interpolation" in signature.parameters:
            asked = call.arguments.get("interpolation")
            # "nearest" of torch takes the pixel at the corner, which suits only images resized so.
            exact = "antialias" in signature.parameters and getattr(asked, "value", asked) not in (
                "nearest",
                0,
            )
            call.arguments["interpolation"] = (
                InterpolationMode.NEAREST_EXACT if exact else InterpolationMode.NEAREST
            )
        moved = functional(*call.args, **call.kwargs)
        if len(planes) != len(probe):
            moved = moved.expand(len(probe), -1, -1, -1)
        result: Probe = moved.as_subclass(Probe)
        return result

    F.register_kernel(functional, Probe)(move)


for _name in GEOMETRIC:
    _register(getattr(F, _name))
