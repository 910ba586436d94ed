"""Chains of transforms whose labels are counted from what is visible at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from tv_mixaug import containers, draws, functional, plans
from tv_mixaug.arguments import check_bool, check_choice, check_probability
from tv_mixaug.base import Allocate, BatchTransform, MixTransform
from tv_mixaug.labels import LabelFormat, check_one_format, encode_labels
from tv_mixaug.leaves import Batch, Reading, Role, put_together, read_batch
from tv_mixaug.plans import Plan, Recipe
from tv_mixaug.transforms import CutTransform

ERASED = ("renormalise", "nobody", "owner")
MIXES = (v2.MixUp, v2.CutMix)
HIDES = (v2.AutoAugment, v2.RandAugment, v2.TrivialAugmentWide, v2.AugMix)


class Pixels(NamedTuple):
    """Say of every pixel whose it is; a blend has a layer for each of the two blended.

    Attributes:
        sources: (B, L, H, W) int64, the number of the sample, from 1 to B; 0 for nobody.
        weights: (B, L, H, W) float32, the weight of the layer at the pixel.
    """

    sources: Tensor
    weights: Tensor


class Chain(BatchTransform):
    """Apply transforms in a row and label each image by the pixels that are left of each sample.

    Mixing labels step by step is wrong as soon as a later step covers or crops what an earlier one
    pasted. Here the number of the sample that a pixel comes from goes through all steps, geometric
    ones of ``torchvision.transforms.v2`` included, and the labels are counted at the end.

    Args:
        transforms: Mixup, CutMix and Cutout with ``targets="soft"`` and one label format, and any
            other transforms of v2; at least one of ours, which may stand in ``Compose``,
            ``RandomApply``, ``RandomChoice``, ``RandomOrder`` or ``nn.Sequential``. Pixels that
            geometric transforms fill are nobody's, whatever the fill. What v2's RandomErasing
            erases still counts for its owner. Where images are interpolated, a pixel at the seam of
            a paste is a blend of two sources and counts for the nearest. Other callables get the
            batch as it is, and must not move pixels.
        provenance: False applies the transforms one after the other, and each mixes the labels by
            its own rule, as ``v2.Compose`` would.
        erased: What becomes of the pixels that are nobody's: ``"renormalise"``: the weights of the
            visible ones sum to 1; ``"nobody"``: their share is missing from the sum; ``"owner"``:
            pixels erased by Cutout count as if they were visible.
        p: Probability that ours in the chain are applied to a batch, in [0, 1]. The others, which
            resize or normalise, always are.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there is no transform of ours, if they differ in label format or layout, make
            pairs or cut cuboids, or if a transform cannot be followed.

    Example:
        >>> from tv_mixaug import CutMix
        >>> _ = torch.manual_seed(0)
        >>> images = torch.arange(4.0).view(4, 1, 1, 1).repeat(1, 1, 16, 16)
        >>> chain = Chain([CutMix(num_classes=4), CutMix(num_classes=4)])
        >>> mixed, labels = chain(images, torch.arange(4))
        >>> share = torch.stack([(mixed == i).float().mean((1, 2, 3)) for i in range(4)], 1)
        >>> bool(torch.allclose(labels, share, atol=1e-6))
        True
    """

    recordable = False

    def __init__(
        self,
        transforms: Sequence[Callable[..., Any]],
        *,
        provenance: bool = True,
        erased: str = "renormalise",
        p: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(transforms, Sequence) or isinstance(transforms, str):
            raise TypeError(f"transforms must be a list, got {type(transforms).__name__}.")
        self.transforms = tuple(transforms)
        self.provenance = check_bool("provenance", provenance)
        self.erased = check_choice("erased", erased, ERASED)
        self.p = check_probability("p", p)
        steps = list(containers.walk(self.transforms, drawn=False))
        for step in steps:
            _check_step(step, provenance)
        self._ours = tuple(step for step in steps if isinstance(step, MixTransform))
        if not self._ours:
            raise ValueError("transforms must have at least one of tv_mixaug, got none.")
        check_one_format([(type(t).__name__, t.label_format) for t in self._ours])
        if len({t.layout for t in self._ours}) > 1:
            raise ValueError(f"layout must be one, got {[t.layout for t in self._ours]}.")
        if provenance and self._ours[0].targets != "soft":
            raise ValueError("targets must be 'soft' in a chain with provenance, got 'pair'.")
        if provenance and any(
            isinstance(t, CutTransform) and t.cut != "spatial" for t in self._ours
        ):
            raise ValueError("cut must be 'spatial' in a chain with provenance, got 'cuboid'.")

    @property
    def label_format(self) -> LabelFormat:
        """What the chain makes of labels, the same in every batch."""
        return self._ours[0].label_format

    def check_p(self, p: Any) -> float:
        """Return a probability, checked."""
        return check_probability("p", p)

    def run(
        self,
        batch: Any,
        p: Any,
        *,
        inplace: bool | None = None,
        generator: Generator | None = None,
        allocate: Allocate | None = None,
    ) -> tuple[Any, Recipe]:
        """Apply the chain to a batch; ours are asked themselves whether they write into it.

        Returns:
            The batch, with labels that say what is visible, and the identity plan, since no plan
            says what a chain did.
        """
        from tv_mixaug import foreign  # registers kernels with torchvision, so only where used

        read, pixels = read_batch(batch, self._reading()), None
        if self.provenance:
            image = next(v for leaf, v in read.pairs() if leaf.role is Role.IMAGE)
            device = image[0].device if isinstance(image, (list, tuple)) else image.device
            numbers = torch.arange(1, read.length + 1, device=device).view(-1, 1, 1, 1)
            sources = numbers.repeat(1, 1, *read.size)
            pixels = Pixels(sources, torch.ones_like(sources, dtype=torch.float32))
        applied = draws.draw_applied(1, p, False, generator)
        unused = list(self._ours)
        for step in containers.walk(self.transforms, drawn=True, generator=generator):
            if not isinstance(step, MixTransform):
                with draws.fenced(generator):
                    batch, moved = foreign.apply(
                        step, batch, self._reading(), follow=self.provenance
                    )
                if pixels is not None and moved is not None:
                    pixels = Pixels(*(foreign.carry(values, moved) for values in pixels))
                continue
            unused = [one for one in unused if one is not step]
            batch, plan = step.mix(batch, p=None if applied else 0.0, generator=generator)
            pixels = pixels and self._follow_plan(pixels, plan)
        for step in unused:  # what was not drawn still gives labels and masks their format
            batch = step.mix(batch, p=0.0)[0]
        if pixels is not None:
            batch = self._set_labels(batch, read, pixels)
        return batch, Recipe.of(plans.identity_plan(read.length))

    def _reading(self) -> Reading:
        one_size = any(isinstance(t, CutTransform) for t in self._ours)
        return self._ours[0].reading()._replace(need_labels=True, one_size=one_size)

    def _follow_plan(self, pixels: Pixels, plan: Plan) -> Pixels:
        """Do to the sources what a plan did to the pixels: M * own + (1 - M) * other."""
        sources, weights = pixels
        device, partner = sources.device, plan.partner.to(sources.device)
        op, lam = (field.to(device).view(-1, 1, 1, 1) for field in (plan.op, plan.lam))
        other = Pixels(torch.where(op == plans.FILL, 0, sources[partner]), weights[partner])
        mine = functional.cutout(torch.ones_like(weights[:, :1]), plan.boxes, 0.0)
        mine = torch.where(op == plans.BLEND, lam, mine)
        left = (op == plans.NONE) | ((op == plans.FILL) & (self.erased == "owner"))
        mine = torch.where(left, 1.0, mine)
        if bool((plan.op == plans.BLEND).any()):
            faded = weights * mine, other.weights * (1 - mine)
            return Pixels(torch.cat([sources, other.sources], 1), torch.cat(faded, 1))
        kept = mine == 1
        return Pixels(*(torch.where(kept, a, b) for a, b in zip(pixels, other, strict=True)))

    def _set_labels(self, batch: Any, read: Batch, pixels: Pixels) -> Any:
        """Put labels by what is visible into the places of those that were given."""
        shares = count_shares(*pixels)
        if self.erased != "nobody":
            shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
        final = read_batch(batch, self._reading()._replace(labels_getter=None))
        places = {leaf.path: place for place, leaf in enumerate(final.layout.leaves)}
        values = list(final.values)
        for leaf, labels in read.pairs():
            if leaf.role is not Role.LABEL:
                continue
            if leaf.path not in places:
                raise ValueError(f"labels must stay at {leaf.where}, got a batch without them.")
            rows = encode_labels(labels, leaf.kind, self.label_format)
            flat = rows.double()[:, None].flatten(1)
            mixed = (shares.to(flat.device) @ flat).float().view(rows.shape)
            values[places[leaf.path]] = mixed
        return put_together(values, final.structure)


def _check_step(step: Any, provenance: bool) -> None:
    """Refuse what is no transform, or cannot be followed."""
    if not callable(step) or isinstance(step, (Chain, type)):
        raise TypeError(
            f"transforms must be callables other than a Chain, got {type(step).__name__}."
        )
    if not provenance or isinstance(step, MixTransform):
        return
    name = type(step).__name__
    for one in containers.look_inside(step):
        if isinstance(one, MIXES):
            raise ValueError(
                f"transforms must not have torchvision's {type(one).__name__}, whose draws cannot "
                "be followed; use tv_mixaug's."
            )
        if isinstance(one, HIDES):
            raise ValueError(
                f"transforms must not have {type(one).__name__}, which moves the images alone and "
                "cannot be followed; give it to the data set."
            )
        if isinstance(one, (MixTransform, Chain)):
            raise ValueError(
                f"transforms must not hold {type(one).__name__} in a {name}, which cannot be "
                f"followed; use {containers.NAMES}."
            )


def count_shares(sources: Tensor, weights: Tensor) -> Tensor:
    """Count the share of each image's pixels that comes from each sample.

    Args:
        sources: (B, L, H, W) int64, the number of the sample, from 1 to B, of each pixel in each of
            L layers; 0 for nobody.
        weights: (B, L, H, W) float, the weight of the layer at the pixel.

    Returns:
        (B, B) float64, row i the shares in image i.

    Example:
        >>> count_shares(torch.tensor([[[[1, 0]]]]), torch.ones(1, 1, 1, 2)).tolist()
        [[0.5]]
    """
    if sources.device.type == "mps":  # which has no float64
        sources, weights = sources.cpu(), weights.cpu()
    count, pixels = len(sources), sources.shape[-2:].numel()
    rows = torch.arange(count, device=sources.device).view(-1, 1, 1, 1) * (count + 1)
    shares = torch.zeros(count * (count + 1), dtype=torch.float64, device=sources.device)
    shares.index_add_(0, (rows + sources).flatten(), weights.double().flatten())
    return shares.view(count, count + 1)[:, 1:] / max(pixels, 1)
