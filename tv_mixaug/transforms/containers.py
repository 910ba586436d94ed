"""Find the transforms inside torchvision's containers, and sample which of them are applied."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Generator, nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from tv_mixaug._validation import ensure
from tv_mixaug.engine.sampling import sampling_kwargs
from tv_mixaug.transforms.base import MixTransform
from tv_mixaug.transforms.one_of import CallableTransform, OneOf

# A container is known by its call method, so a subclass with its own method is not one.
CONTAINERS = {
    v2.Compose.forward: "all",
    v1.Compose.__call__: "all",
    nn.Sequential.forward: "all",
    v2.RandomApply.forward: "apply",
    v2.RandomChoice.forward: "choice",
    v2.RandomOrder.forward: "order",
}
NAMES = "Compose, RandomApply, RandomChoice, RandomOrder or nn.Sequential"
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


def check_followed(transform: Any, holder: Any) -> None:
    """Raise if a transform moves pixels in a way that cannot be followed; see `look_inside`."""
    # v2's other containers call a rule once for all fields, but Lambda calls it for each.
    shown = isinstance(holder, v2.Transform) and not isinstance(holder, v2.Lambda)
    hidden = isinstance(transform, MixTransform if shown else v2.Transform)
    got = f"{type(transform).__name__} in {type(holder).__name__}"
    ensure(holder is None or not hidden, "transforms", f"in {NAMES} to be followed", got)
    for kind in type(transform).__mro__:
        name = kind.__name__
        if not kind.__module__.startswith("torchvision.transforms.") or name.startswith("_"):
            continue
        if name in FOLLOWED and issubclass(kind, v2.Transform):
            return
        use = f"use v2.{name}" if name in FOLLOWED else "apply it in the data set"
        use = "use tv_mixaug's" if kind in (v2.MixUp, v2.CutMix) else use
        got = f"torchvision's {name}; {use}"
        raise ValueError(f"transforms must be ones that Chain can follow, got {got}.")


def sample_steps(
    transforms: Iterable[Any], applied: bool, generator: Generator | None
) -> Iterator[tuple[Any, Any]]:
    """Yield the transforms of a batch in order, and the probability of rules if they are applied.

    Each is sampled when it is reached, in the order in which torchvision samples.
    """
    source = sampling_kwargs(generator)
    for transform in transforms:
        kind, held = _open(transform)
        p = getattr(transform, "p", None)
        if kind == "one":
            transform, p = transform.choose(p, generator)
            foreign = isinstance(transform, CallableTransform)
            kind, held = ("one", [transform.function] * bool(p)) if foreign else (None, [])
        if kind is None:
            is_rule = isinstance(transform, MixTransform) and not applied
            yield transform, transform.disabled_p if is_rule else p
            continue
        if kind == "apply" and bool(torch.rand(1, **source) >= transform.p):
            continue
        if kind == "choice":
            weights = torch.tensor(transform.p, device="cpu")
            held = [held[int(torch.multinomial(weights, 1, generator=generator))]]
        if kind == "order":
            held = [held[place] for place in torch.randperm(len(held), **source)]
        yield from sample_steps(held, applied, generator)


def look_inside(transforms: Iterable[Any], holder: Any = None) -> Iterator[tuple[Any, Any]]:
    """Yield every transform, and the unknown container that calls it, or None."""
    for transform in transforms:
        kind, held = _open(transform)
        if kind is None:
            yield transform, holder
        yield from look_inside(held, transform if holder is None and kind is None else holder)


def _open(transform: Any) -> tuple[str | None, list[Any]]:
    """Return the kind of a container, if it is known, and what it holds."""
    if isinstance(transform, MixTransform):
        return None, []
    if isinstance(transform, OneOf):
        inner = transform.transforms
        return "one", [t.function if isinstance(t, CallableTransform) else t for t in inner]
    kind = CONTAINERS.get(getattr(type(transform), "forward", type(transform).__call__))
    listed = getattr(transform, "transforms", ())
    held = list(listed) if isinstance(listed, (list, tuple, nn.ModuleList)) else []
    if isinstance(transform, nn.Module) and not held:
        # Not children(), which lists equal modules once.
        held = [module for module in transform._modules.values() if module is not None]
    return kind, held
