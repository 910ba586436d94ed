"""Chains of transforms whose labels are counted from what is visible at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import functional, plans
from tv_mixaug import leaves as batches
from tv_mixaug.arguments import check_choice
from tv_mixaug.base import MixTransform
from tv_mixaug.labels import check_one_format, encode_labels
from tv_mixaug.leaves import Batch
from tv_mixaug.plans import Plan

ERASED = ("renormalise", "nobody", "owner")


class Chain(MixTransform):
    """Apply transforms in a row and label each image by the pixels that are left of each sample.

    Mixing labels step by step is wrong as soon as a later step covers or crops what an earlier one
    pasted. Here a mask that says which sample a pixel comes from goes through all steps, geometric
    ones of ``torchvision.transforms.v2`` included, and the labels are counted from it.

    Args:
        transforms: Mixup, CutMix and Cutout with ``targets="soft"`` and one label format, and any
            other transforms of v2; at least one of ours. Pixels that v2's geometric transforms fill
            are nobody's. What v2's RandomErasing erases still counts for its owner. Resizing
            takes the nearest source for each pixel: where images are interpolated, a pixel at the
            seam of a paste is a blend of two sources and counts for one.
        provenance: False applies the transforms one after the other, and each mixes the labels by
            its own rule, as ``v2.Compose`` would.
        erased: What becomes of the pixels that are nobody's: ``"renormalise"``: the weights of the
            visible ones sum to 1; ``"nobody"``: their share is missing from the sum; ``"owner"``:
            pixels erased by Cutout count as if they were visible.
        p: Probability that the chain is applied to a batch, in [0, 1].

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there is no transform of ours, if they differ in label format, make pairs or
            cut cuboids, or if torchvision's MixUp or CutMix is among them.

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

    takes_rows = False
    has_plan = False

    def __init__(
        self,
        transforms: Sequence[Callable[..., Any]],
        *,
        provenance: bool = True,
        erased: str = "renormalise",
        p: float = 1.0,
    ) -> None:
        if not isinstance(transforms, Sequence) or isinstance(transforms, str):
            raise TypeError(f"transforms must be a list, got {type(transforms).__name__}.")
        for transform in transforms:
            if not callable(transform) or isinstance(transform, Chain):
                raise TypeError(
                    "transforms must be callables other than a Chain, got "
                    f"{type(transform).__name__}."
                )
            if provenance and isinstance(transform, (v2.MixUp, v2.CutMix)):
                raise ValueError(
                    f"transforms must not have torchvision's {type(transform).__name__}, whose "
                    "draws cannot be followed; use tv_mixaug's."
                )
        ours = [t for t in transforms if isinstance(t, MixTransform)]
        if not ours:
            raise ValueError("transforms must have at least one of tv_mixaug, got none.")
        check_one_format([(type(t).__name__, t.label_format) for t in ours])
        if provenance and ours[0].targets != "soft":
            raise ValueError("targets must be 'soft' in a chain with provenance, got 'pair'.")
        if provenance and any(t.cut != "spatial" for t in ours):
            raise ValueError("cut must be 'spatial' in a chain with provenance, got 'cuboid'.")
        if not isinstance(provenance, bool):
            raise TypeError(f"provenance must be a bool, got {type(provenance).__name__}.")
        first = ours[0]
        super().__init__(
            p=p,
            mode="batch",
            num_classes=first.num_classes,
            label_smoothing=first.label_smoothing,
            targets=first.targets,
            labels_getter=first.labels_getter,
            ignore_index=first.ignore_index,
            passthrough=first.passthrough,
            layout=first.layout,
            inplace=False,
        )
        self.transforms = tuple(transforms)
        self.provenance = provenance
        self.erased = check_choice("erased", erased, ERASED)

    def mix(
        self, batch: Any, *, p: float | None = None, inplace: bool | None = None
    ) -> tuple[Any, Plan]:
        """Apply the chain to a batch; see :meth:`forward`. The plan returned is the identity."""
        read = self._read(batch, False)
        identity = plans.identity_plan(read.length)
        if not plans.draw_applied(1, self.p if p is None else p, False).all():
            first = next(t for t in self.transforms if isinstance(t, MixTransform))
            return first.mix(batch, p=0.0)[0], identity
        if not self.provenance:
            for transform in self.transforms:
                batch = transform(batch)
            return batch, identity
        return self._follow(batch, read), identity

    def _follow(self, batch: Any, read: Batch) -> Any:
        """Apply the transforms, follow the pixels, and set the labels at the end."""
        # Number 0 is nobody: that is what geometric transforms fill masks with.
        numbers = torch.arange(1, read.length + 1, device="cpu").view(-1, 1, 1, 1)
        sources = numbers.repeat(1, 1, *read.size)
        weights = torch.ones(sources.shape, device="cpu")
        for transform in self.transforms:
            if isinstance(transform, MixTransform):
                batch, plan = transform.mix(batch)
                sources, weights = self._follow_plan(sources, weights, plan)
            else:
                batch, sources, weights = self._apply_other(transform, batch, sources, weights)
        shares = count_shares(sources, weights)
        if self.erased != "nobody":
            shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
        final = batches.read_batch(batch, self._reading())
        places = [place for place, leaf in enumerate(read.leaves) if leaf.role == batches.LABEL]
        values = [leaf.value for leaf in final.leaves]
        for place in places:
            leaf = read.leaves[place]
            rows = encode_labels(leaf.value, leaf.kind, self.label_format)
            shares_there = shares.to(rows.device)
            values[place] = (shares_there @ rows.double().flatten(1)).float().view(rows.shape)
        return batches.put_together(values, final.structure)

    def _follow_plan(self, sources: Tensor, weights: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """Do to the pixels' sources what a plan did to the pixels; Mixup adds a layer for each."""
        op = int(plan.op.max()) if len(plan.op) else plans.NONE
        if op == plans.MIXUP:
            lam = plan.lam.view(-1, 1, 1, 1)
            other = weights[plan.partner] * (1 - lam)
            return (
                torch.cat([sources, sources[plan.partner]], 1),
                torch.cat([weights * lam, other], 1),
            )
        if op == plans.CUTMIX:
            cut = (plan.partner, plan.boxes)
            return functional.cutmix(sources, *cut), functional.cutmix(weights, *cut)
        if op == plans.CUTOUT and self.erased != "owner":
            sources = functional.cutout(sources, plan.boxes, 0)
        return sources, weights

    def _apply_other(
        self, transform: Callable[..., Any], batch: Any, sources: Tensor, weights: Tensor
    ) -> tuple[Any, Tensor, Tensor]:
        """Apply a transform of v2 to the batch and to the masks at once, so with the same draws."""
        read = batches.read_batch(batch, self._reading())
        plain = [
            place
            for place, leaf in enumerate(read.leaves)
            if leaf.role == batches.IMAGE and type(leaf.value) is Tensor
        ]
        values = [leaf.value for leaf in read.leaves]
        for place in plain:  # beside a mask v2 leaves plain tensors alone
            kind = tv_tensors.Image if values[place].ndim == 4 else tv_tensors.Video
            values[place] = kind(values[place])
        masks = [tv_tensors.Mask(sources), tv_tensors.Mask(weights)]
        values, (sources, weights) = transform((values, masks))
        for place in plain:
            values[place] = values[place].as_subclass(Tensor)
        plain_masks = sources.as_subclass(Tensor), weights.as_subclass(Tensor)
        return batches.put_together(values, read.structure), *plain_masks


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
    count, pixels = len(sources), sources.shape[-2:].numel()
    rows = torch.arange(count, device=sources.device).view(-1, 1, 1, 1) * (count + 1)
    shares = torch.zeros(count * (count + 1), dtype=torch.float64, device=sources.device)
    shares.index_add_(0, (rows + sources).flatten(), weights.double().flatten())
    return shares.view(count, count + 1)[:, 1:] / max(pixels, 1)
