"""Say what of torchvision a chain can hold, and draw what containers apply as they would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Generator, nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from tv_mixaug.transforms.base import MixTransform
from tv_mixaug.transforms.one_of import CallableTransform, OneOf

# A container is known by what it runs, so a subclass with a run of its own is none.
RULES = {
    v2.Compose.forward: "all",
    v1.Compose.__call__: "all",
    nn.Sequential.forward: "all",
    v2.RandomApply.forward: "apply",
    v2.RandomChoice.forward: "choice",
    v2.RandomOrder.forward: "order",
}
NAMES = "Compose, RandomApply, RandomChoice, RandomOrder or nn.Sequential"
# What of v2 leaves pixels in their places, or moves them by functionals alone, alike for all
# leaves. What is not here, as whatever a later release brings, is refused.
FOLLOWED = frozenset(
    """CenterCrop ClampBoundingBoxes ClampKeyPoints ColorJitter Compose ConvertBoundingBoxFormat
    ConvertImageDtype ElasticTransform GaussianBlur GaussianNoise Grayscale Identity JPEG Lambda
    Normalize PILToTensor Pad RGB RandomAdjustSharpness RandomAffine RandomApply RandomAutocontrast
    RandomChannelPermutation RandomChoice RandomCrop RandomEqualize RandomErasing RandomGrayscale
    RandomHorizontalFlip RandomInvert RandomOrder RandomPerspective RandomPhotometricDistort
    RandomPosterize RandomResize RandomResizedCrop RandomRotation RandomShortestSize RandomSolarize
    RandomVerticalFlip RandomZoomOut Resize ScaleJitter SetClampingMode ToDtype ToImage ToPureTensor
    ToTensor Transform UniformTemporalSubsample""".split()  # noqa: SIM905  # or it fills a page
)


def check_followed(transform: Any, holder: Any) -> None:
    """Raise if what a transform does to pixels cannot be found out; see :func:`look_inside`."""
    # v2's own containers of another run call it for all leaves at once, but Lambda for each.
    shown = isinstance(holder, v2.Transform) and not isinstance(holder, v2.Lambda)
    hidden = isinstance(transform, MixTransform if shown else v2.Transform)
    if holder is not None and hidden:
        raise ValueError(
            f"transforms must not hold {type(transform).__name__} in a {type(holder).__name__}, "
            f"which cannot be followed; use {NAMES}."
        )
    for kind in type(transform).__mro__:
        name = kind.__name__
        if not kind.__module__.startswith("torchvision.transforms.") or name.startswith("_"):
            continue
        if name in FOLLOWED and issubclass(kind, v2.Transform):
            return
        use = f"use v2.{name}" if name in FOLLOWED else "give it to the data set"
        use = "use tv_mixaug's" if kind in (v2.MixUp, v2.CutMix) else use
        raise ValueError(
            f"transforms must not have torchvision's {name}, which cannot be followed; {use}."
        )


def draw(transforms: Iterable[Any], generator: Generator | None) -> Iterator[tuple[Any, Any]]:
    """Yield what is applied this time, in its order, and the probability that ours use.

    It is drawn when it is reached, so that torchvision's own random numbers are drawn.
    """
    for transform in transforms:
        rule, held = _open(transform)
        if rule is None:
            yield transform, getattr(transform, "p", None)
            continue
        if rule == "one":
            chosen, p = transform.choose(transform.p, generator)
            if not isinstance(chosen, CallableTransform):
                yield chosen, p
                continue
            held = [chosen.function] if p else []
        if rule == "apply" and bool(torch.rand(1, generator=generator) >= transform.p):
            continue
        if rule == "choice":
            held = [held[int(torch.multinomial(torch.tensor(transform.p), 1, generator=generator))]]
        if rule == "order":
            held = [held[place] for place in torch.randperm(len(held), generator=generator)]
        yield from draw(held, generator)


def look_inside(transforms: Iterable[Any], holder: Any = None) -> Iterator[tuple[Any, Any]]:
    """Yield every transform that is there, and what runs it by a rule unknown, or else None."""
    for transform in transforms:
        rule, held = _open(transform)
        if rule is None:
            yield transform, holder
        yield from look_inside(held, transform if holder is None and rule is None else holder)


def _open(transform: Any) -> tuple[str | None, list[Any]]:
    """Return the rule of a container, if it is torchvision's, and what it holds."""
    if isinstance(transform, MixTransform):
        return None, []
    if isinstance(transform, OneOf):
        return "one", [t.function if isinstance(t, CallableTransform) else t for t in transform.transforms]
    rule = RULES.get(getattr(type(transform), "forward", type(transform).__call__))
    listed = getattr(transform, "transforms", ())
    held = list(listed) if isinstance(listed, (list, tuple, nn.ModuleList)) else []
    if isinstance(transform, nn.Module) and not held:
        held = list(transform.children())
    return rule, held
