"""Go through torchvision's containers of transforms, and draw what they apply as they would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Generator, nn
from torchvision import transforms as v1
from torchvision.transforms import v2

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


def walk(
    transforms: Iterable[Any], *, drawn: bool, generator: Generator | None = None
) -> Iterator[Any]:
    """Yield the transforms in containers, however nested.

    Args:
        transforms: Transforms and containers.
        drawn: Whether to yield what is applied this time, in its order. It is drawn when it is
            reached, between the draws of the transforms, so that torchvision's own random numbers
            are drawn. Otherwise all are yielded.
        generator: Where they come from; None is torch's own.

    Yields:
        What is no container of torchvision.

    Example:
        >>> flip, blur = v2.RandomHorizontalFlip(), v2.GaussianBlur(3)
        >>> steps = [v2.RandomApply([v2.Compose([flip])], p=0.0), blur]
        >>> len(list(walk(steps, drawn=True))), len(list(walk(steps, drawn=False)))
        (1, 2)
    """
    for transform in transforms:
        rule = RULES.get(getattr(type(transform), "forward", type(transform).__call__))
        if rule is None:
            yield transform
            continue
        held = list(transform if isinstance(transform, nn.Sequential) else transform.transforms)
        if drawn and rule == "apply" and bool(torch.rand(1, generator=generator) >= transform.p):
            continue
        if drawn and rule == "choice":
            held = [held[int(torch.multinomial(torch.tensor(transform.p), 1, generator=generator))]]
        if drawn and rule == "order":
            held = [held[place] for place in torch.randperm(len(held), generator=generator)]
        yield from walk(held, drawn=drawn, generator=generator)


def look_inside(transform: Any) -> Iterator[Any]:
    """Yield a transform and all that it holds, in its list ``transforms`` or as modules."""
    yield transform
    listed = getattr(transform, "transforms", ())
    modules = list(transform.children()) if isinstance(transform, nn.Module) else []
    for held in [*modules, *(listed if isinstance(listed, (list, tuple)) else ())]:
        yield from look_inside(held)
