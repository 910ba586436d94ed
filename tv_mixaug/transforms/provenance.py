"""Apply transforms of others, and learn which pixel came from where.

A transform of v2 gets a probe beside the images, whose pixels are numbers. Its kernels are
registered with torchvision when this module is imported, which :class:`~tv_mixaug.Chain` does when
it is first called.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from tv_mixaug._validation import ensure
from tv_mixaug.batch.parser import BatchParser
from tv_mixaug.batch.spec import BatchOptions, FieldSpec, ParsedBatch, Role
from tv_mixaug.batch.tree import unflatten
from tv_mixaug.targets.detection import cover_boxes

Objects = dict[Any, list[Tensor]]  # the pixels of objects, (N, H, W) bool per image, by path
# All functionals of v2 that move pixels; any other leaves a probe unchanged.
GEOMETRIC = (
    *(F.horizontal_flip, F.vertical_flip, F.rotate, F.affine, F.perspective, F.elastic),
    *(F.resize, F.resized_crop, F.crop, F.center_crop, F.pad),
)


def apply(
    step: Callable[..., Any], batch: ParsedBatch, parser: BatchParser
) -> tuple[ParsedBatch, Tensor | None]:
    """Apply a transform of v2, or another callable, which gets the batch as it is.

    Returns the batch and, if pixels were moved, (B, H, W) int64: the number, from 1, in its sample
    of the pixel that is now at each place, 0 where a pixel was filled.
    """
    name = getattr(step, "__name__", type(step).__name__)
    numbers = None
    if isinstance(step, v2.Transform):
        values, numbers = _apply_v2(step, name, batch)
        result = unflatten(batch._replace(values=values))
    else:
        result = step(unflatten(batch))
    try:
        after = parser.parse(result)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} left a batch that cannot be read: {error}") from error
    size = batch.size if numbers is None else tuple(numbers.shape[-2:])
    fits = (after.length, tuple(after.size)) == (batch.length, tuple(size))
    expected = f"a transform that leaves {batch.length} images of size {size}"
    hint = "move pixels in a v2.Transform that calls functionals of v2 for every field"
    ensure(fits, name, expected, f"{after.length} of size {after.size}; {hint}")
    new = {field.path: value for field, value in after.fields()}
    for field, old in batch.fields():
        if field.role is Role.LABEL:
            now = new[field.path]
            same = now is old or (now.shape == old.shape and torch.equal(now.to(old), old))
            expected = "a transform that keeps the labels, which a chain sets at its end"
            ensure(same, name, expected, f"others at {field.where}")
    return after, numbers


def _apply_v2(step: v2.Transform, name: str, batch: ParsedBatch) -> tuple[list[Any], Tensor | None]:
    """Apply a transform of v2 to all fields and a probe."""
    # A list, since v2 does not look into mappings and lists of user classes.
    given, numbers = list(batch.values), None
    places = [place for place, field in enumerate(batch.specs) if field.role is Role.IMAGE]
    for place in places:
        given[place] = _to_tv(given[place], batch.specs[place])
    count = len(given)
    if not isinstance(step, v2.ToDtype):  # which refuses types that it does not know
        given.append(make_probe(given[places[0]]))
    try:
        done = step(given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise type(error)(f"{name} failed: {error}") from error
    kept = isinstance(done, list) and len(done) == len(given)
    kept = kept and all(getattr(done[i], "ndim", 0) == given[i].ndim for i in places)
    ensure(kept, name, "a transform that keeps the structure of a batch", "another structure")
    for probe, moved in zip(given[count:], done[count:], strict=True):
        if moved is probe and len(probe) > 1:  # a single sample's probe may be written to
            continue
        numbers = read_probe(moved, probe)
        expected = "a transform that only moves pixels, or that says which types it is for"
        got = "other changes; use v2.Lambda(f, tv_tensors.Image) or _transformed_types"
        ensure(numbers is not None, name, expected, got)
    for place in places:
        old, new = batch.values[place], done[place]
        done[place] = old if new is given[place] else _from_tv(new, old, batch.specs[place])
    return done[:count], numbers


def _to_tv(value: Any, field: FieldSpec) -> Tensor:
    """Return images as v2 expects them: one tv_tensor (B, ..., C, H, W)."""
    one = value[0] if isinstance(value, (list, tuple)) else value
    images: Tensor = value if one is value else torch.stack(tuple(value))
    if field.channel_axis is None:
        images = images.movedim(field.axes[-2:], (-2, -1)).unsqueeze(-3)
    else:
        images = images.movedim((field.channel_axis, *field.axes[-2:]), (-3, -2, -1))
    kind: type[Tensor] = tv_tensors.Image if images.ndim == 4 else tv_tensors.Video
    return images.as_subclass(type(one) if isinstance(one, tv_tensors.TVTensor) else kind)


def _from_tv(images: Tensor, old: Any, field: FieldSpec) -> Any:
    """Return images in the form of the old ones."""
    one = old[0] if isinstance(old, (list, tuple)) else old
    kind = type(images) if isinstance(one, tv_tensors.TVTensor) else Tensor
    if field.channel_axis is None:
        images = images.squeeze(-3).movedim((-2, -1), field.axes[-2:])
    else:
        images = images.movedim((-3, -2, -1), (field.channel_axis, *field.axes[-2:]))
    if one is old:
        return images.as_subclass(kind)
    return type(old)([image.as_subclass(kind) for image in images.as_subclass(Tensor)])


class Probe(tv_tensors.TVTensor):  # type: ignore[misc]  # torchvision has no types
    """The numbers of an image's pixels, from 1, row by row, as planes of digits: (B, D, H, W).

    A probe has the images' dtype, since that decides in which precision torchvision computes where
    a pixel goes. Digits of base 256 are exact in every dtype. A last plane checks the first, so
    that writes other than moves are detected: no constant and no blend with one passes. It is
    neither an image nor a mask, so that no fill, dtype or size meant for these reaches it.
    """


def make_probe(images: Tensor) -> Probe:
    """Number the pixels of (B, ..., C, H, W) images; all samples share the memory of one."""
    height, width = images.shape[-2:]
    numbers = torch.arange(1, height * width + 1, device=images.device).view(1, height, width)
    planes = _write_digits(numbers, height * width).to(images.dtype)
    return planes.expand(len(images), -1, -1, -1).as_subclass(Probe)


def read_probe(moved: Any, probe: Probe) -> Tensor | None:
    """Return where pixels came from, as :func:`apply` does; None if pixels were not only moved."""
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
    """Move (B, N, ..., H, W) values with their pixels; 0 where no pixel came."""
    flat = torch.nn.functional.pad(values.flatten(-2).flatten(1, -2), (1, 0))
    places = numbers.to(values.device).flatten(1)[:, None].expand(-1, flat.shape[1], -1)
    return flat.gather(2, places).view(*values.shape[:-2], *numbers.shape[1:])


def find_objects(batch: ParsedBatch, options: BatchOptions) -> Objects:
    """Return the pixels of all objects, (N, H, W) bool per image, by the path of their field.

    Targets with masks of their own need none: their masks keep what is hidden.
    """
    shown, form = {}, options.box_format
    for field, targets in batch.fields() if "masks" not in options.passthrough else ():
        if field.role is Role.DETECTION and not any("masks" in target for target in targets):
            shown[field.path] = [cover_boxes(t["boxes"], batch.size, form) for t in targets]
    return shown


def carry_objects(shown: Objects, old: Objects, new: Objects, numbers: Tensor | None) -> Objects:
    """Move the pixels of objects that are still shown with those of their images.

    ``old`` and ``new`` are the pixels of all objects before and after a step. Boxes that the step
    has replaced are taken as they are.
    """
    carried = {}
    for path in new.keys() & shown.keys():
        rows = zip(shown[path], old[path], new[path], strict=True)
        if numbers is None:
            carried[path] = [m if torch.equal(o, n) else n for m, o, n in rows]
            continue
        pairs = zip(shown[path], numbers[:, None], strict=True)
        moved = (carry(masks[None], row)[0] for masks, row in pairs)
        pairs = zip(moved, new[path], strict=True)
        carried[path] = [m if len(m) == len(n) else n for m, n in pairs]
    return carried


def put_objects(batch: ParsedBatch, shown: Objects, put: Callable[..., Any]) -> ParsedBatch:
    """Replace each target by ``put(target, masks, size)``."""
    values = list(batch.values)
    for place, field in enumerate(batch.specs):
        if field.path in shown:
            rows = zip(values[place], shown[field.path], strict=True)
            values[place] = type(values[place])(put(*row, batch.size) for row in rows)
    return batch._replace(values=values)


def _distinct(planes: Tensor) -> Tensor:
    """Return one sample if all share its memory, as they do in a probe that was not moved."""
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
            # torch's "nearest" takes the pixel at the corner, which only suits images resized so.
            corner = getattr(asked, "value", asked) in ("nearest", 0)
            exact = "antialias" in signature.parameters and not corner
            modes = (InterpolationMode.NEAREST, InterpolationMode.NEAREST_EXACT)
            call.arguments["interpolation"] = modes[exact]
        moved: Tensor = functional(*call.args, **call.kwargs)
        return moved.expand(len(probe), -1, -1, -1).as_subclass(Probe)

    F.register_kernel(functional, Probe)(move)


for _functional in GEOMETRIC:
    _register(_functional)
