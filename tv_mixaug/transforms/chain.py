"""Chains of transforms whose labels are counted from what is visible at the end."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tv_mixaug._validation import check_bool, check_choice, ensure, ensure_kind
from tv_mixaug.batch.parser import BatchParser
from tv_mixaug.batch.spec import Mix, ParsedBatch, Role, merge_options
from tv_mixaug.batch.tree import unflatten
from tv_mixaug.engine.apply import apply_plan
from tv_mixaug.engine.plan import APPLIED, BLEND, NONE, CompactPlan, Plan, compact
from tv_mixaug.engine.sampling import sample_applied, seeded_global_rng, untraced
from tv_mixaug.targets.detection import shrink_boxes
from tv_mixaug.targets.labels import encode_labels
from tv_mixaug.targets.rules import mix_fields
from tv_mixaug.transforms import containers
from tv_mixaug.transforms.base import BatchTransform, MixTransform
from tv_mixaug.transforms.one_of import PER_RULE, check_transforms

ERASED = ("renormalise", "nobody", "owner")


class Chain(BatchTransform):
    """Apply transforms in a row, and label each image by the visible pixels of each sample.

    Labels that are mixed step by step are wrong as soon as a later step covers or crops what an
    earlier one pasted. A chain carries the number of each pixel's sample through all steps,
    geometric ones of ``torchvision.transforms.v2`` included, and counts the labels at the end.

    Args:
        transforms: Rules of this package with ``targets="soft"`` and one label format, ``layout``,
            ``labels_getter`` and ``passthrough``; and other transforms of v2, except those that
            cannot be followed, such as ``AutoAugment`` and ``FiveCrop``. At least one is a rule;
            rules may stand in a :class:`~tv_mixaug.OneOf` of rules, ``Compose`` or
            ``nn.Sequential``. Pixels that geometric transforms fill belong to no sample. Pixels
            that v2's RandomErasing erases still count for their sample. Where images are
            interpolated, a pixel at the seam of a paste blends several sources and counts for the
            nearest. Other callables get the whole batch; they must not move pixels or change
            labels.
        provenance: False applies the transforms one after the other, and each mixes the labels by
            its own rule, as in ``v2.Compose``.
        erased: How unattributed pixels count: ``"renormalise"``: the weights of the visible pixels
            sum to 1; ``"nobody"``: their share is missing from the sum; ``"owner"``: pixels that
            rules of this package erased count as if they were visible.
        p: Probability that the rules in the chain are applied to a batch, in [0, 1]. Other
            transforms, which resize or normalise, are always applied.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there is no rule, if the rules read batches differently, return pairs, cut
            cuboids, or if a transform cannot be followed.

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

    fixed = ("transforms", "provenance", "erased")
    has_plan = False

    def __init__(
        self,
        transforms: Sequence[Callable[..., Any]],
        *,
        provenance: bool = True,
        erased: Literal["renormalise", "nobody", "owner"] = "renormalise",
        p: float = 1.0,
    ) -> None:
        super().__init__()
        self.transforms = tuple(check_transforms(transforms))
        self.provenance = check_bool("provenance", provenance)
        self.erased = check_choice("erased", erased, ERASED)
        self.p = p
        self.steps = list(containers.open_containers(self.transforms))
        for step in self.steps:
            is_rule = isinstance(step, MixTransform) or getattr(step, "joint", None) is not None
            is_step = callable(step) and (is_rule or not isinstance(step, (BatchTransform, type)))
            ensure_kind(is_step, "transforms", "rules, a OneOf of rules or other callables", step)
            if provenance:
                containers.check_followed(step)
        chosen = [step for step in self.steps if isinstance(step, BatchTransform)]
        self.rules: Any = [r for step in chosen for r in getattr(step, "transforms", (step,))]
        ensure(bool(chosen), "transforms", "a list with at least one rule of tv_mixaug", "none")
        members = [(rule.display_name, rule.options) for rule in self.rules]
        own = (*PER_RULE, "masks", "num_mask_classes", "inplace")
        self.options = options = merge_options(members, per_rule=own)._replace(ops=APPLIED)
        self.parser = BatchParser(options, [options for _, options in members])
        if provenance:
            where = "in a chain with provenance"
            ensure(options.targets == "soft", "targets", f"'soft' {where}", "'pair'")
            ensure(options.cut != "cuboid", "cut", f"'spatial' {where}", "'cuboid'")
            counts = all(getattr(rule, "correct_lam", True) for rule in self.rules)
            ensure(counts, "correct_lam", f"True {where}, which counts pixels", False)

    def run(self, batch: Any, p: Any, **how: Any) -> tuple[Any, CompactPlan]:
        """Apply the chain to a batch; the plan is the identity, as none describes the result."""
        from tv_mixaug.transforms import provenance  # registers kernels with torchvision

        untraced("a Chain")
        inplace, generator = how.get("inplace"), how.get("generator")
        parser = self.parser
        writes = any(rule.inplace for rule in self.rules) if inplace is None else inplace
        parsed = parser.parse(batch, inplace=writes)
        applied = sample_applied(1, p, False, generator)
        if not self.provenance:
            for step in self.steps:
                if isinstance(step, BatchTransform):  # always, to give labels their format
                    step_p = step.p if applied else step.disabled_p
                    batch, _ = step.run(batch, step_p, inplace=inplace, generator=generator)
                else:
                    with seeded_global_rng(generator):
                        batch = step(batch)
            return batch, CompactPlan(parsed.length)
        labels = {
            field.path: encode_labels(value, field, parser.options)
            for field, value in parsed.fields()
            if field.role is Role.LABEL
        }
        pixels, parsed = _number_samples(parsed), _without_labels(parsed)
        shown = provenance.find_objects(parsed, parser.options)  # less what steps will hide
        for step in self.steps:
            if isinstance(step, BatchTransform):
                rule: Any
                rule, step_p = step.choose(step.p if applied else step.disabled_p, generator)
                parsed = provenance.put_objects(parsed, shown, lambda t, m, _: {**t, "masks": m})
                parsed, plan = rule.mix_parsed(parsed, step_p, generator, inplace)
                pixels = self._follow(pixels, plan.plan())
                for field, targets in parsed.fields():
                    if field.path in shown:
                        shown[field.path] = [target.pop("masks") for target in targets]
                continue
            before = provenance.find_objects(parsed, parser.options)
            with seeded_global_rng(generator):
                parsed, moved = provenance.apply(step, parsed, parser)
            parsed = _without_labels(parsed)
            pixels = pixels if moved is None else provenance.carry(pixels, moved)
            after = provenance.find_objects(parsed, parser.options)
            shown = provenance.carry_objects(shown, before, after, moved)
        shrink = functools.partial(shrink_boxes, box_format=parser.options.box_format)
        parsed = provenance.put_objects(parsed, shown, shrink)
        # Masks and targets get their format, too, if no rule was applied.
        rule = next((rule for rule in self.rules if rule.masks == "soft"), self.rules[0])
        parsed = mix_fields(Mix(CompactPlan(parsed.length), parsed, rule.options))
        shares = _count_shares(pixels)
        if self.erased != "nobody":
            shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
        for place, field in enumerate(parsed.specs):
            if field.path in labels:
                rows = labels[field.path]
                mixed = shares @ rows.to(shares.device).double()[:, None].flatten(1)
                device = parsed.values[place].device
                parsed.values[place] = mixed.float().view(rows.shape).to(device)
        return unflatten(parsed), CompactPlan(parsed.length)

    def _follow(self, pixels: Tensor, plan: Plan) -> Tensor:
        """Apply a plan to the numbers and weights of pixels."""
        blended, fill = plan.op == BLEND, None if self.erased == "owner" else 0.0
        cut = plan._replace(op=plan.op.masked_fill(blended, NONE))
        original = apply_plan(pixels, compact(cut), fill)
        if not blended.any():
            return original
        weight = plan.lam.where(blended, 1.0).to(pixels.device).view(-1, 1, 1, 1)
        original, partner = original.clone(), pixels[plan.partner.to(pixels.device)]
        original[:, 1] *= weight
        partner[:, 1] *= 1 - weight
        return torch.cat([original, partner], 2)


def _without_labels(batch: ParsedBatch) -> ParsedBatch:
    """Leave labels out of the steps of a batch, since a chain sets them at its end."""
    specs, steps = batch.specs, batch.steps
    rest = tuple(step for step in steps if specs[step[0]].role is not Role.LABEL)
    return batch._replace(steps=rest)


def _number_samples(batch: ParsedBatch) -> Tensor:
    """Return (B, 2, 1, H, W) float32: the number of each pixel's sample, from 1, and its weight."""
    image = next(value for field, value in batch.fields() if field.role is Role.IMAGE)
    device = (image[0] if isinstance(image, (list, tuple)) else image).device
    numbers = torch.arange(1, batch.length + 1, device=device).view(-1, 1, 1, 1)
    pixels = torch.stack([numbers, torch.ones_like(numbers)], 1).float()
    return pixels.expand(-1, -1, -1, *batch.size).contiguous()


def _count_shares(pixels: Tensor) -> Tensor:
    """Return (B, B) float64: row i holds the shares of image i's pixels from each sample."""
    if pixels.device.type == "mps":  # which has no float64
        pixels = pixels.cpu()
    (numbers, weights), count = pixels.unbind(1), len(pixels)
    rows = torch.arange(count, device=pixels.device).view(-1, 1, 1, 1) * (count + 1)
    shares = torch.zeros(count * (count + 1), dtype=torch.float64, device=pixels.device)
    shares.index_add_(0, (rows + numbers.long()).flatten(), weights.double().flatten())
    return shares.view(count, count + 1)[:, 1:] / max(pixels.shape[-2:].numel(), 1)
