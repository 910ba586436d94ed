"""Cutout, Mixup and CutMix as transforms of :mod:`torchvision.transforms.v2`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator

from tv_mixaug import draws
from tv_mixaug.arguments import (
    check_alpha,
    check_bool,
    check_choice,
    check_count,
    check_fill,
    check_hole_size,
    check_integer,
    check_pairing,
    check_visible,
)
from tv_mixaug.base import Cut, MixTransform, Mode, Rules
from tv_mixaug.draws import Pairing
from tv_mixaug.leaves import Batch, Leaf, Reading, Role
from tv_mixaug.plans import BLEND, FILL, PASTE, Recipe, box_volumes, make_recipe


@dataclass(eq=False, repr=False)
class Mixup(MixTransform):
    """Blend each sample with a partner: ``lam * own + (1 - lam) * partner``.

    From "mixup: Beyond Empirical Risk Minimization" (Zhang et al., 2018).

    Args:
        alpha: lam is drawn from Beta(alpha, alpha); > 0.
        pairing: ``"roll"``: a random cyclic shift, never oneself if B > 1; ``"shuffle"``: a
            uniform permutation, as in the paper; or a function of the labels that returns the
            (B,) int64 partners.
        masks: What becomes of segmentation masks: ``"soft"``: (B, K, H, W) float32 planes;
            ``"dominant"``: the mask of the larger weight; None: masks are refused.
        num_mask_classes: K of ``masks="soft"``.

    All other arguments are those of :class:`~tv_mixaug.base.MixTransform`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
        >>> mixed, soft = Mixup(0.2, num_classes=3)(images, labels)
        >>> soft.shape, bool(soft.sum(1).allclose(torch.ones(4)))
        (torch.Size([4, 3]), True)
    """

    alpha: float = 1.0
    _: KW_ONLY
    pairing: Pairing = "roll"
    masks: Literal["soft", "dominant"] | None = None
    num_mask_classes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alpha = check_alpha(self.alpha)
        check_pairing(self.pairing)
        if self.masks is not None:
            check_choice("masks", self.masks, ("soft", "dominant"))
        if self.num_mask_classes is not None:
            check_count("num_mask_classes", self.num_mask_classes)
        elif self.masks == "soft":
            raise ValueError("num_mask_classes must be given with masks='soft', got None.")
        self._rules = Rules(masks=self.masks, num_mask_classes=self.num_mask_classes)

    def check(self, leaf: Leaf, value: Any) -> None:
        """Refuse paired labels, and masks without a rule."""
        _refuse_pairs(leaf)
        if leaf.role is Role.MASK and self.masks is None:
            raise ValueError(
                f"masks must be 'soft' or 'dominant' to mix the mask at {leaf.where}, got None; "
                "class ids cannot be blended."
            )

    def draw(self, batch: Batch, p: float, generator: Generator | None) -> Recipe:
        """Draw partner and lam."""
        each, count = self.mode == "sample", batch.length
        applied = draws.draw_applied(count, p, each, generator)
        partner = draws.draw_partner(count, self.pairing, batch.labels, generator)
        lam = draws.draw_lam(self.alpha, count if each else 1, generator)
        return make_recipe(BLEND, count, applied, partner=partner, lam=lam if each else lam[0])


@dataclass(kw_only=True, eq=False, repr=False)
class CutTransform(MixTransform):
    """Cut boxes; the abstract base of all transforms that do.

    Args:
        cut: ``"spatial"``: a box goes through all frames or slices; ``"cuboid"``: it has a side in
            time or depth too, and label weights are shares of the volume.
        min_visible: Share of a detection object that must stay visible for it to be kept, (0, 1].

    All other arguments are those of :class:`~tv_mixaug.base.MixTransform`.
    """

    cut: Cut = "spatial"
    min_visible: float = 0.1

    def __post_init__(self) -> None:
        check_choice("cut", self.cut, ("spatial", "cuboid"))
        super().__post_init__()
        self.min_visible = check_visible(self.min_visible)
        self._rules = Rules(min_visible=self.min_visible)

    def reading(self) -> Reading:
        """Return how batches are to be read: all images of one size, perhaps with a depth."""
        return super().reading()._replace(cuboid=self.cut == "cuboid", one_size=True)

    def check(self, leaf: Leaf, value: Any) -> None:
        """Refuse objects where the box is a cuboid."""
        if leaf.role is Role.OBJECTS and self.cut == "cuboid":
            raise ValueError(
                f"cut must be 'spatial' to mix the objects at {leaf.where}, got 'cuboid'."
            )


@dataclass(eq=False, repr=False)
class CutMix(CutTransform):
    """Paste a box of a partner; the label weight is the share of pixels left.

    From "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"
    (Yun et al., 2019). The centre of the box is uniform over the image, its sides are exact, it is
    clipped at the border, and lam is counted from the clipped box in whole pixels.

    Args:
        alpha: The box's share before clipping is 1 - lam, lam from Beta(alpha, alpha); > 0.
        pairing: ``"roll"``, ``"shuffle"`` or a function of the labels; see :class:`Mixup`.
        correct_lam: False keeps the drawn lam as the label weight, against the pixels.

    All other arguments are those of :class:`~tv_mixaug.transforms.CutTransform` and
    :class:`~tv_mixaug.base.MixTransform`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8)
        >>> mixed, soft = CutMix(num_classes=4)(images, torch.arange(4))
        >>> bool(((mixed == 2).float().mean((1, 2, 3)) == soft[:, 2]).all())
        True
    """

    alpha: float = 1.0
    _: KW_ONLY
    pairing: Pairing = "roll"
    correct_lam: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alpha = check_alpha(self.alpha)
        check_pairing(self.pairing)
        check_bool("correct_lam", self.correct_lam)

    def check(self, leaf: Leaf, value: Any) -> None:
        """Refuse paired labels, too."""
        _refuse_pairs(leaf)
        super().check(leaf, value)

    def draw(self, batch: Batch, p: float, generator: Generator | None) -> Recipe:
        """Draw partner and boxes."""
        each, count, size = self.mode == "sample", batch.length, batch.size
        applied = draws.draw_applied(count, p, each, generator)
        partner = draws.draw_partner(count, self.pairing, batch.labels, generator)
        lam = draws.draw_lam(self.alpha, count if each else 1, generator)
        share = (1 - lam[:, None, None]) ** (1 / len(size))
        boxes = draws.draw_boxes(np.rint(share * size), size, generator)
        if self.correct_lam:
            lam = 1 - box_volumes(boxes)[:, 0] / math.prod(size)
        lam = lam if each else lam[0]
        return make_recipe(PASTE, count, applied, partner=partner, lam=lam, boxes=boxes)


@dataclass(eq=False, repr=False)
class Cutout(CutTransform):
    """Fill square holes at random places.

    From "Improved Regularization of Convolutional Neural Networks with Cutout" (DeVries and
    Taylor, 2017). The centre of a hole is uniform over the image, and the hole is clipped at the
    border. Class indices stay as they are where ``num_classes`` is None.

    Args:
        size: Sides of a hole: an int in pixels, a float in (0, 1] as a share of each side of the
            image, or a pair (height, width) of either; with ``cut="cuboid"`` three sides, the time
            or depth first.
        holes: Number of holes in each image, > 0.
        fill: A number, a value for each channel, or ``"noise"``: for each pixel its own, uniform
            over 0 to 255 for uint8 and standard normal for floating point.
        mask_fill: What a hole makes of a segmentation mask; None leaves masks as they are.
        mode: ``"sample"``: each sample its own holes; ``"batch"``: the same for all.

    All other arguments are those of :class:`~tv_mixaug.transforms.CutTransform` and
    :class:`~tv_mixaug.base.MixTransform`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> images, labels = Cutout(4, num_classes=2)(torch.ones(1, 1, 8, 8), torch.tensor([1]))
        >>> labels.tolist()
        [[0.0, 1.0]]
    """

    size: float | Sequence[float] = 0.5
    _: KW_ONLY
    holes: int = 1
    fill: float | Sequence[float] | Literal["noise"] = 0.0
    mask_fill: int | None = None
    mode: Mode = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.size = self._sides = check_hole_size(self.size, 3 if self.cut == "cuboid" else 2)
        check_count("holes", self.holes)
        self.fill = check_fill(self.fill)
        if self.mask_fill is not None:
            check_integer("mask_fill", self.mask_fill)
        self._rules = self._rules._replace(fill=self.fill, mask_fill=self.mask_fill)

    def reading(self) -> Reading:
        """Return how batches are to be read: as for any cut, but labels are not needed."""
        return super().reading()._replace(need_labels=False)

    def check(self, leaf: Leaf, value: Any) -> None:
        """Refuse a fill that the images cannot hold, too."""
        super().check(leaf, value)
        if leaf.role is Role.IMAGE and self.fill != "noise":
            _check_fill_fits(self.fill, leaf, value)

    def draw(self, batch: Batch, p: float, generator: Generator | None) -> Recipe:
        """Draw the holes."""
        each, count, size = self.mode == "sample", batch.length, batch.size
        applied = draws.draw_applied(count, p, each, generator)
        sides = [_side(side, full) for side, full in zip(self._sides, size, strict=True)]
        wanted = np.broadcast_to(sides, (count if each else 1, self.holes, len(size)))
        boxes = draws.draw_boxes(wanted, size, generator)
        noise = draws.draw_seeds(count, generator) if self.fill == "noise" else None
        return make_recipe(FILL, count, applied, boxes=boxes, noise=noise)


def _side(side: float, full: int) -> int:
    return side if isinstance(side, int) else round(side * full)


def _refuse_pairs(leaf: Leaf) -> None:
    if leaf.role is Role.PAIRED:
        raise ValueError(
            f"the labels at {leaf.where} are PairedLabels, which cannot be mixed a second time; "
            "use targets='soft' in a chain."
        )


def _check_fill_fits(fill: Any, leaf: Leaf, value: Any) -> None:
    is_list = isinstance(value, (list, tuple))
    one = value[0] if is_list else value
    shape = (len(value), *one.shape) if is_list else tuple(one.shape)
    values = fill if isinstance(fill, tuple) else (fill,)
    if one.dtype == torch.uint8 and any(v != int(v) or not 0 <= v <= 255 for v in values):
        raise ValueError(f"fill must be integers in [0, 255] for uint8 images, got {fill}.")
    axis = leaf.channel_axis
    if isinstance(fill, tuple) and (axis < 0 or shape[axis] != len(values)):
        raise ValueError(
            f"fill must have a value for each channel of the images at {leaf.where}, shape "
            f"{shape}, got {len(values)} values."
        )
