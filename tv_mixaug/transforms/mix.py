"""Mixup and CutMix: rules that mix each sample with a partner."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from tv_mixaug import _validation as validation
from tv_mixaug._validation import checked, ensure, optional
from tv_mixaug.batch.spec import ParsedBatch
from tv_mixaug.engine import sampling
from tv_mixaug.engine.plan import BLEND, PASTE, CompactPlan, box_volumes, make_plan
from tv_mixaug.engine.sampling import Pairing, Source
from tv_mixaug.transforms.base import Cut, MixTransform


def check_one_weight(rule: Any) -> None:
    """Raise if both ``alpha`` and ``lam`` are given."""
    got = f"{rule.alpha} and {rule.lam}"
    ensure(rule.lam is None or rule.alpha == 1, "alpha", "left out if lam is given", got)


def sample_pairs(rule: Any, batch: ParsedBatch, p: float, source: Source) -> tuple[Any, Any, Any]:
    """Sample which samples are mixed, their partners, and one lam, or one for each sample."""
    per_sample, count = rule.mode == "sample", batch.length
    p, lam = (p, rule.lam) if rule.alpha else (0.0, 1.0)  # alpha 0 never mixes, as in timm
    applied = sampling.sample_applied(count, p, per_sample, source)
    labels = batch.labels if callable(rule.pairing) else None
    partner = sampling.sample_partner(count, rule.pairing, labels, source)
    number = count if per_sample else None
    return applied, partner, sampling.sample_lam(rule.alpha, number, source, lam=lam)


@dataclass(eq=False, repr=False)
class Mixup(MixTransform):
    """Blend each sample with a partner: ``lam * original + (1 - lam) * partner``.

    From "mixup: Beyond Empirical Risk Minimization" (Zhang et al., 2018).

    Args:
        alpha: lam is sampled from Beta(alpha, alpha), or from Beta(a, b) for a pair; > 0. With 0
            nothing is mixed.
        lam: A fixed lam in [0, 1], or the ends of a uniform distribution, instead of ``alpha``.
        pairing: ``"roll"``: a random cyclic shift, in which no sample is its own partner if B > 1;
            ``"shuffle"``: a uniform permutation, as in the papers; or a function of the labels that
            returns the (B,) int64 partners.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
        >>> mixed, soft = Mixup(0.2, num_classes=3)(images, labels)
        >>> soft.shape, bool(soft.sum(1).allclose(torch.ones(4)))
        (torch.Size([4, 3]), True)
    """

    ops: ClassVar[tuple[int, ...]] = (BLEND,)

    alpha: float | tuple[float, float] = checked(1.0, validation.check_alpha)
    _: KW_ONLY
    lam: float | tuple[float, float] | None = checked(None, optional, validation.check_lam)
    pairing: Pairing = checked("roll", validation.check_pairing)

    def check_arguments(self) -> None:
        """Raise unless the arguments agree."""
        super().check_arguments()
        check_one_weight(self)

    def sample(self, batch: ParsedBatch, p: float, source: Source) -> CompactPlan:
        """Sample partners and lam."""
        applied, partner, lam = sample_pairs(self, batch, p, source)
        return make_plan(BLEND, batch.length, applied, partner=partner, lam=lam)


@dataclass(eq=False, repr=False)
class CutMix(MixTransform):
    """Paste a box of a partner; the label weight is the share of pixels left.

    From "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"
    (Yun et al., 2019). The box has the share 1 - lam of the image before it is clipped. Its centre
    is uniform over the image and its sides are exact. It is clipped at the border, and the label
    weight counts the pixels of the clipped box.

    Args:
        alpha: lam is sampled from Beta(alpha, alpha), or from Beta(a, b) for a pair; > 0. With 0
            nothing is mixed.
        lam: A fixed lam in [0, 1], or the ends of a uniform distribution, instead of ``alpha``.
        pairing: ``"roll"``: a random cyclic shift, in which no sample is its own partner if B > 1;
            ``"shuffle"``: a uniform permutation, as in the papers; or a function of the labels that
            returns the (B,) int64 partners.
        correct_lam: Whether the label weight counts pixels; False keeps the sampled lam.
        cut: ``"spatial"``: a box cuts all frames or slices; ``"cuboid"``: it has a side in time or
            depth, too, and label weights are shares of the volume.
        min_visible: Share of a detection object that must stay visible for it to be kept, (0, 1].

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8)
        >>> mixed, soft = CutMix(num_classes=4)(images, torch.arange(4))
        >>> bool(((mixed == 2).float().mean((1, 2, 3)) == soft[:, 2]).all())
        True
    """

    ops: ClassVar[tuple[int, ...]] = (PASTE,)

    alpha: float | tuple[float, float] = checked(1.0, validation.check_alpha)
    _: KW_ONLY
    lam: float | tuple[float, float] | None = checked(None, optional, validation.check_lam)
    pairing: Pairing = checked("roll", validation.check_pairing)
    correct_lam: bool = checked(True, validation.check_bool)
    cut: Cut = checked("spatial", validation.check_choice, ("spatial", "cuboid"))
    min_visible: float = checked(0.1, validation.check_number, "(0, 1]")

    def check_arguments(self) -> None:
        """Raise unless the arguments agree."""
        super().check_arguments()
        check_one_weight(self)

    def sample(self, batch: ParsedBatch, p: float, source: Source) -> CompactPlan:
        """Sample partners, lam and boxes."""
        applied, partner, lam = sample_pairs(self, batch, p, source)
        boxes = self.sample_boxes(lam, batch.size, source)
        boxes = [boxes] if isinstance(boxes, list) else boxes.reshape(-1, 1, boxes.shape[-1])
        if self.correct_lam:
            volumes: Any = box_volumes(boxes)
            volume = volumes[0] if isinstance(volumes, list) else volumes[:, 0]
            lam = 1 - volume / math.prod(batch.size)
        return make_plan(PASTE, batch.length, applied, partner=partner, lam=lam, boxes=boxes)

    def sample_boxes(self, lam: Any, size: tuple[int, ...], source: Source) -> Any:
        """Sample a box for one lam, 2 d ints, or for each of (...): (..., 2 d) int64."""
        # A box goes through axes of one pixel, and the others share its area.
        share = (1 - lam) ** (1 / max(1, len(size) - size.count(1)))
        sides = [(share * side + 0.5) // 1 if side > 1 else (share > 0) * 1.0 for side in size]
        return sampling.sample_boxes(sides, size, getattr(lam, "shape", ()), source)
