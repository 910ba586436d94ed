"""Check which transforms a Chain can follow, and open containers that apply all of theirs."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from tv_mixaug._validation import ensure
from tv_mixaug.transforms.base import BatchTransform

# A container is known by its call method, so a subclass with its own method is not one.
CONTAINERS = (v2.Compose.forward, v1.Compose.__call__, nn.Sequential.forward)
# Transforms of v2 that leave pixels in place, or move them by functionals alike for all fields.
# Others, such as those of later releases, are refused.
FOLLOWED = frozenset(
    """CenterCrop ClampBoundingBoxes ClampKeyPoints ColorJitter Compose ConvertBoundingBoxFormat
    ConvertImageDtype ElasticTransform GaussianBlur GaussianNoise Grayscale Identity JPEG Lambda
    Normalize PILToTensor Pad RGB RandomAdjustSharpness RandomAffine RandomApply RandomAutocontrast
    RandomChannelPermutation RandomChoice RandomCrop RandomEqualize RandomErasing RandomGrayscale
    RandomHorizontalFlip RandomInvert RandomOrder RandomPerspective RandomPhotometricDistort
    RandomPosterize RandomResize RandomResizedCrop RandomRotation RandomShortestSize RandomSolarize
    RandomVerticalFlip RandomZoomOut Resize ScaleJitter SetClampingMode ToDtype ToImage ToPureTensor
    ToTensor Transform UniformTemporalSubsample""".split()  # noqa: SIM905  # a list fills a page
)


def open_containers(transforms: Iterable[Any]) -> Iterator[Any]:
    """Yield transforms, and those of Compose and nn.Sequential in their place."""
    for transform in transforms:
        call = getattr(type(transform), "forward", type(transform).__call__)
        if call in CONTAINERS:
            yield from open_containers(_held_by(transform))
        else:
            yield transform


def check_followed(transform: Any, holder: Any = None) -> None:
    """Raise if a transform, or one that it holds, moves pixels in a way that cannot be followed."""
    # v2's containers call transforms of v2 with all fields, but Lambda calls them with each.
    shown = isinstance(holder, v2.Transform) and not isinstance(holder, v2.Lambda)
    hidden = isinstance(transform, BatchTransform if shown else v2.Transform)
    expected = "in the list, Compose or nn.Sequential to be followed"
    got = f"{type(transform).__name__} in {type(holder).__name__}"
    ensure(holder is None or not hidden, "transforms", expected, got)
    if isinstance(transform, BatchTransform):
        return
    for kind in type(transform).__mro__:
        name = kind.__name__
        if not kind.__module__.startswith("torchvision.transforms.") or name.startswith("_"):
            continue
        if name in FOLLOWED and issubclass(kind, v2.Transform):
            break
        use = f"use v2.{name}" if name in FOLLOWED else "apply it in the data set"
        use = "use tv_mixaug's" if kind in (v2.MixUp, v2.CutMix) else use
        got = f"torchvision's {name}; {use}"
        raise ValueError(f"transforms must be ones that Chain can follow, got {got}.")
    for inner in _held_by(transform):
        check_followed(inner, transform)


def _held_by(transform: Any) -> list[Any]:
    """Return the transforms that a container or module holds."""
    listed = getattr(transform, "transforms", ())
    if isinstance(listed, (list, tuple, nn.ModuleList)) and len(listed):
        return list(listed)
    modules = transform._modules.values() if isinstance(transform, nn.Module) else ()
    return [module for module in modules if module is not None]
