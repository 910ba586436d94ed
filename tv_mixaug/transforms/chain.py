"""Chains of transforms whose labels are counted from what is visible at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tv_mixaug import functional
from tv_mixaug.transforms import containers
from tv_mixaug.engine import sampling as draws
from tv_mixaug.engine import plan as plans
from tv_mixaug._validation import check_bool, check_choice, check_probability, ensure
from tv_mixaug.transforms.base import BatchTransform, How, MixTransform
from tv_mixaug.targets.labels import LabelFormat, check_one_format, encode_labels
from tv_mixaug.batch.infer import ParsedBatch, FieldSpec, BatchParser, Role
from tv_mixaug.batch.tree import unflatten
from tv_mixaug.engine.plan import Plan, CompactPlan

ERASED = ("renormalise", "nobody", "owner")


class Chain(BatchTransform):
    """Apply transforms in a row and label each image by the pixels that are left of each sample.

    Mixing labels step by step is wrong as soon as a later step covers or crops what an earlier one
    pasted. Here the number of the sample that a pixel comes from goes through all steps, geometric
    ones of ``torchvision.transforms.v2`` included, and the labels are counted at the end.

    Args:
        transforms: Those of ours with ``targets="soft"`` and one label format, layout,
            ``labels_getter`` and ``passthrough``, and other transforms of v2, except those that
            cannot be followed, such as ``AutoAugment`` and ``FiveCrop``; at least one of ours,
            which may stand in a :class:`~tv_mixaug.OneOf`, ``Compose``, ``RandomApply``,
            ``RandomChoice``, ``RandomOrder`` or ``nn.Sequential``, but not in another chain.
            Pixels that geometric transforms fill are nobody's, whatever the fill. What v2's
            RandomErasing erases still counts for its owner. Where images are interpolated, a pixel
            at the seam of a paste is a blend of several sources and counts for the nearest. Other
            callables get the batch as it is; they must not move pixels, nor change labels.
        provenance: False applies the transforms one after the other, and each mixes the labels by
            its own rule, as ``v2.Compose`` would.
        erased: What becomes of the pixels that are nobody's: ``"renormalise"``: the weights of the
            visible ones sum to 1; ``"nobody"``: their share is missing from the sum; ``"owner"``:
            pixels that ours erased count as if they were visible.
        p: Probability that ours in the chain are applied to a batch, in [0, 1]. The others, which
            resize or normalise, always are.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there is no transform of ours, if they read batches differently, make pairs,
            cut cuboids or mix unequal sizes, or if a transform cannot be followed.

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
        steps = list(containers.look_inside(self.transforms))
        for step, holder in steps:
            if not (callable(step) or holder) or isinstance(step, (Chain, type)):
                raise TypeError(
                    f"transforms must be callables other than a Chain, got {type(step).__name__}."
                )
            if provenance:
                containers.check_followed(step, holder)
        self._ours = [t for t, holder in steps if isinstance(t, MixTransform) and holder is None]
        if not self._ours:
            raise ValueError("transforms must have at least one of tv_mixaug, got none.")
        self._agree()

    def _agree(self) -> None:
        """Make what reads batches, or raise where ours differ; again where one was changed."""
        check_one_format([(type(t).__name__, t.label_format) for t in self._ours])
        readings = [t.reading() for t in self._ours]
        for name in ("layout", "labels_getter", "passthrough"):
            values = [getattr(reading, name) for reading in readings]
            ensure(values == values[:1] * len(values), name, "one for all transforms", values)
        if self.provenance:
            where = "in a chain with provenance"
            ensure(self.label_format.targets == "soft", "targets", f"'soft' {where}", "'pair'")
            ensure(not any(r.cuboid for r in readings), "cut", f"'spatial' {where}", "'cuboid'")
            ensure(not any(r.unequal for r in readings), "sizes", f"'equal' {where}", "'overlap'")
        one_size = any(reading.one_size for reading in readings)
        reading = readings[0]._replace(need_labels=True, one_size=one_size)
        self._reader = BatchParser(reading)
        # Whatever became of the labels on the way, their places are known from the batch as given.
        self._later = BatchParser(reading._replace(labels_getter=None))
        self._readings = readings  # now that they agree

    @property
    def label_format(self) -> LabelFormat:
        """What the chain makes of labels, the same in every batch."""
        return self._ours[0].label_format

    def run(self, batch: Any, p: Any, how: How) -> tuple[Any, CompactPlan]:
        """Apply the chain to a batch; its transforms decide themselves whether they write into it.

        Returns:
            The batch, with labels that say what is visible, and the identity plan, since no plan
            says what a chain did.
        """
        from tv_mixaug.transforms import provenance as foreign# registers kernels with torchvision, so only where used

        if torch.compiler.is_compiling():
            raise TypeError(
                "a Chain cannot be compiled, since it looks at what was drawn; compile single "
                "rules or a OneOf, or chain in the loader."
            )
        if self._readings != [t.reading() for t in self._ours]:
            self._agree()
        read, labels = self._reader.read(batch), {}
        for leaf, value in read.pairs():
            if leaf.role is Role.LABEL:
                labels[leaf] = encode_labels(value, leaf.kind, self.label_format)
        pixels, unused = _number_samples(read), list(self._ours)
        applied = draws.sample_applied(1, p, False, how.generator)
        for step, p_own in containers.draw(self.transforms, how.generator):
            if isinstance(step, MixTransform):
                unused = [one for one in unused if one is not step]
                chosen = p_own if applied else step.never
                batch, recipe = step.run(batch, chosen, How(generator=how.generator))
                pixels = self._follow(pixels, recipe.plan()) if self.provenance else pixels
                continue
            with draws.seeded_global_rng(how.generator):
                batch, moved = foreign.apply(step, batch, self._later, labels, self.provenance)
            pixels = pixels if moved is None else foreign.carry(pixels, moved)
        for step in unused:  # what was not drawn still gives labels and masks their format
            batch = step.run(batch, step.never, How())[0]
        if self.provenance:
            batch = self._set_labels(batch, labels, pixels)
        return batch, CompactPlan.of(plans.identity_plan(read.length))

    def _follow(self, pixels: Tensor, plan: Plan) -> Tensor:
        """Do to the numbers and weights what a plan did to the pixels."""
        blended, fill = plan.op == plans.BLEND, None if self.erased == "owner" else 0.0
        cut = plan._replace(op=plan.op.masked_fill(blended, plans.NONE))
        own = functional.replay(pixels, cut, fill)
        if not blended.any():
            return own
        weight = plan.lam.where(blended, 1.0).to(pixels.device).view(-1, 1, 1, 1)
        other = pixels[plan.partner.to(pixels.device)]
        own[:, 1] *= weight
        other[:, 1] *= 1 - weight
        return torch.cat([own, other], 2)

    def _set_labels(self, batch: Any, labels: Mapping[FieldSpec, Tensor], pixels: Tensor) -> Any:
        """Put labels by what is visible into the places of those that were given."""
        shares = _count_shares(pixels)
        if self.erased != "nobody":
            shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
        final = self._later.read(batch)
        places = {leaf.path: place for place, leaf in enumerate(final.layout.leaves)}
        for leaf, rows in labels.items():
            place = places[leaf.path]
            mixed = shares @ rows.to(shares.device).double()[:, None].flatten(1)
            final.values[place] = mixed.float().view(rows.shape).to(final.values[place].device)
        return unflatten(final.values, final.structure)


def _number_samples(batch: ParsedBatch) -> Tensor:
    """Return (B, 2, 1, H, W) float32: the number from 1 of each pixel's sample, and its weight."""
    image = next(value for leaf, value in batch.pairs() if leaf.role is Role.IMAGE)
    device = (image[0] if isinstance(image, (list, tuple)) else image).device
    numbers = torch.arange(1, batch.length + 1, device=device).view(-1, 1, 1, 1)
    pixels = torch.stack([numbers, torch.ones_like(numbers)], 1).float()
    return pixels.expand(-1, -1, -1, *batch.size).contiguous()


def _count_shares(pixels: Tensor) -> Tensor:
    """Return (B, B) float64, row i the shares of image i's pixels that come from each sample."""
    if pixels.device.type == "mps":  # which has no float64
        pixels = pixels.cpu()
    (numbers, weights), count = pixels.unbind(1), len(pixels)
    rows = torch.arange(count, device=pixels.device).view(-1, 1, 1, 1) * (count + 1)
    shares = torch.zeros(count * (count + 1), dtype=torch.float64, device=pixels.device)
    shares.index_add_(0, (rows + numbers.long()).flatten(), weights.double().flatten())
    return shares.view(count, count + 1)[:, 1:] / max(pixels.shape[-2:].numel(), 1)
