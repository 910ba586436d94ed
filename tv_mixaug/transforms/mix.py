"""The rules: each says what is its own, and draws the plan of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np

from tv_mixaug.engine import sampling as draws
from tv_mixaug.engine import kernels
from tv_mixaug._validation import (
    check_alpha,
    check_bool,
    check_choice,
    check_count,
    check_fill,
    check_hole_size,
    check_integer,
    check_lam,
    check_pairing,
    check_range,
    check_visible,
)
from tv_mixaug.transforms.base import Cut, MixTransform, Mode
from tv_mixaug.engine.sampling import Pairing, Source
from tv_mixaug.batch.infer import ParsedBatch, FieldSpec, ParseOptions, Role
from tv_mixaug.engine.plan import BLEND, FILL, PASTE, CompactPlan, box_volumes, make_plan

TRIES = 10  # of Random Erasing, before it leaves an image as it is


@dataclass(eq=False, repr=False)
class PairTransform(MixTransform):
    """Mix each sample with a partner; the abstract base of all transforms that do.

    Args:
        alpha: lam is drawn from Beta(alpha, alpha), or for a pair from Beta(a, b); > 0.
        lam: A number in [0, 1] that lam always is, or a pair (low, high) that it is drawn from
            uniformly; in the place of ``alpha``.
        pairing: ``"roll"``: a random cyclic shift, never oneself if B > 1; ``"shuffle"``: a
            uniform permutation, as in the papers; or a function of the labels that returns the
            (B,) int64 partners.

    All other arguments are those of :class:`~tv_mixaug.transforms.base.MixTransform`.
    """

    alpha: float | tuple[float, float] = 1.0
    _: KW_ONLY
    lam: float | tuple[float, float] | None = None
    pairing: Pairing = "roll"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alpha = check_alpha(self.alpha)
        if self.lam is not None:
            self.lam = check_lam(self.lam, self.alpha)
        check_pairing(self.pairing)

    def check(self, leaf: FieldSpec, value: Any) -> None:
        """Refuse paired labels, too."""
        super().check(leaf, value)
        if leaf.role is Role.PAIRED:
            raise ValueError(
                f"the labels at {leaf.where} are PairedLabels, which cannot be mixed a second "
                "time; use targets='soft' in a chain."
            )

    def sample_pairs(self, batch: ParsedBatch, p: float, generator: Source) -> tuple[Any, Any, Any]:
        """Draw which samples are mixed, with whom, and one lam, or one for each sample."""
        each, count = self.mode == "sample", batch.length
        applied = draws.sample_applied(count, p, each, generator)
        labels = batch.labels if callable(self.pairing) else None
        partner = draws.sample_partner(count, self.pairing, labels, generator)
        lam = draws.sample_lam(self.alpha, count if each else None, generator, lam=self.lam)
        return applied, partner, lam


@dataclass(eq=False, repr=False)
class Mixup(PairTransform):
    """Blend each sample with a partner: ``lam * own + (1 - lam) * partner``.

    From "mixup: Beyond Empirical Risk Minimization" (Zhang et al., 2018).

    The arguments are those of :class:`~tv_mixaug.transforms.mix.PairTransform` and
    :class:`~tv_mixaug.transforms.base.MixTransform`.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
        >>> mixed, soft = Mixup(0.2, num_classes=3)(images, labels)
        >>> soft.shape, bool(soft.sum(1).allclose(torch.ones(4)))
        (torch.Size([4, 3]), True)
    """

    def check(self, leaf: FieldSpec, value: Any) -> None:
        """Refuse masks without a rule, too."""
        super().check(leaf, value)
        if leaf.role is Role.MASK and self.masks is None:
            raise ValueError(
                f"masks must be 'soft' or 'dominant' to mix the mask at {leaf.where}, got None; "
                "class ids cannot be blended."
            )

    def draw(self, batch: ParsedBatch, p: float, generator: Source) -> CompactPlan:
        """Draw partner and lam."""
        applied, partner, lam = self.sample_pairs(batch, p, generator)
        return make_plan(BLEND, batch.length, applied, partner=partner, lam=lam)


@dataclass(kw_only=True, eq=False, repr=False)
class CutTransform(MixTransform):
    """Cut boxes; the abstract base of all transforms that do.

    Args:
        cut: ``"spatial"``: a box goes through all frames or slices; ``"cuboid"``: it has a side in
            time or depth too, and label weights are shares of the volume.
        min_visible: Share of a detection object that must stay visible for it to be kept, (0, 1].

    All other arguments are those of :class:`~tv_mixaug.transforms.base.MixTransform`.
    """

    cut: Cut = "spatial"
    min_visible: float = 0.1

    def __post_init__(self) -> None:
        check_choice("cut", self.cut, ("spatial", "cuboid"))
        super().__post_init__()
        self.min_visible = check_visible(self.min_visible)

    def reading(self) -> ParseOptions:
        """Return how batches are to be read: all images of one size, perhaps with a depth."""
        return super().reading()._replace(cuboid=self.cut == "cuboid", one_size=True)

    def check(self, leaf: FieldSpec, value: Any) -> None:
        """Refuse objects where the box is a cuboid."""
        super().check(leaf, value)
        if leaf.role is Role.DETECTION and self.cut == "cuboid":
            raise ValueError(
                f"cut must be 'spatial' to mix the objects at {leaf.where}, got 'cuboid'."
            )


@dataclass(eq=False, repr=False)
class CutMix(PairTransform, CutTransform):
    """Paste a box of a partner; the label weight is the share of pixels left.

    From "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"
    (Yun et al., 2019). The box's share before clipping is 1 - lam. Its centre is uniform over the
    image, its sides are exact, it is clipped at the border, and the label weight is counted from
    the clipped box in whole pixels.

    Args:
        correct_lam: False keeps the drawn lam as the label weight, against the pixels.

    All other arguments are those of :class:`~tv_mixaug.transforms.mix.PairTransform`,
    :class:`~tv_mixaug.transforms.mix.CutTransform` and :class:`~tv_mixaug.transforms.base.MixTransform`.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8)
        >>> mixed, soft = CutMix(num_classes=4)(images, torch.arange(4))
        >>> bool(((mixed == 2).float().mean((1, 2, 3)) == soft[:, 2]).all())
        True
    """

    _: KW_ONLY
    correct_lam: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bool("correct_lam", self.correct_lam)
        if self.sizes == "overlap" and not self.correct_lam:
            raise ValueError("correct_lam must be True with sizes='overlap', got False.")

    def draw(self, batch: ParsedBatch, p: float, generator: Source) -> CompactPlan:
        """Draw partner, lam and boxes."""
        applied, partner, lam = self.sample_pairs(batch, p, generator)
        if batch.layout.sizes:
            shares = np.broadcast_to(lam, batch.length).tolist()
            drawn = map(self.sample_boxes, shares, batch.sizes, [generator] * batch.length)
            boxes = np.stack([*drawn])
        else:
            boxes = self.sample_boxes(lam, batch.size, generator)
        if self.correct_lam:
            lam = 1 - box_volumes(boxes) / math.prod(batch.size)
        boxes = boxes.reshape(-1, 1, boxes.shape[-1])
        return make_plan(PASTE, batch.length, applied, partner=partner, lam=lam, boxes=boxes)

    def sample_boxes(self, lam: Any, size: tuple[int, ...], generator: Source) -> Any:
        """Draw for one lam or for each of (...) a box, (..., 2 d) int64."""
        sides = draws.share_sides((1 - lam) ** (1 / len(size)), size)
        return draws.sample_boxes(sides, size, generator)


@dataclass(eq=False, repr=False)
class FillTransform(CutTransform):
    """Fill boxes; the abstract base of all transforms that do.

    Labels keep their weight. Class indices stay as they are where ``num_classes`` is None.

    Args:
        fill: A number; a value for each channel; ``"noise"``: for each pixel its own, uniform over
            0 to 255 for uint8 and standard normal for floating point; or ``"color"``: the same for
            each box, one random value for each channel.
        mask_fill: What a box makes of a segmentation mask; None leaves masks as they are.
        mode: ``"sample"``: each sample its own boxes; ``"batch"``: the same for all.

    All other arguments are those of :class:`~tv_mixaug.transforms.mix.CutTransform` and
    :class:`~tv_mixaug.transforms.base.MixTransform`.
    """

    _: KW_ONLY
    fill: float | Sequence[float] | Literal["noise", "color"] = 0.0
    mask_fill: int | None = None
    mode: Mode = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fill = check_fill(self.fill)
        if self.mask_fill is not None:
            check_integer("mask_fill", self.mask_fill)
            known = range(self.num_mask_classes or 0)
            if self.masks == "soft" and self.mask_fill not in (*known, self.ignore_index):
                raise ValueError(
                    f"mask_fill must be in [0, {len(known)}) or ignore_index with masks='soft', "
                    f"got {self.mask_fill}."
                )

    def reading(self) -> ParseOptions:
        """Return how batches are to be read: as for any cut, but labels are not needed."""
        return super().reading()._replace(need_labels=False)

    def check(self, leaf: FieldSpec, value: Any) -> None:
        """Refuse a fill that the images or masks cannot hold, too."""
        super().check(leaf, value)
        if leaf.role is Role.MASK and self.mask_fill is not None:
            kernels.check_fits("mask_fill", self.mask_fill, value.dtype)
        if leaf.role is not Role.IMAGE or isinstance(self.fill, str):
            return
        is_list = isinstance(value, (list, tuple))
        one = value[0] if is_list else value
        shape, axis = (len(value), *one.shape) if is_list else tuple(one.shape), leaf.channel_axis
        kernels.check_fits("fill", self.fill, one.dtype)
        if isinstance(self.fill, tuple) and (axis < 0 or shape[axis] != len(self.fill)):
            raise ValueError(
                f"fill must have a value for each channel of the images at {leaf.where}, shape "
                f"{shape}, got {len(self.fill)} values."
            )

    def draw(self, batch: ParsedBatch, p: float, generator: Source) -> CompactPlan:
        """Draw the boxes."""
        each, count = self.mode == "sample", batch.length
        applied = draws.sample_applied(count, p, each, generator)
        if batch.layout.sizes:
            drawn = [self.sample_boxes(1, size, generator) for size in batch.sizes]
            boxes = np.concatenate(drawn)
        else:
            boxes = self.sample_boxes(count if each else 1, batch.size, generator)
        noise = draws.sample_seeds(count, generator) if isinstance(self.fill, str) else None
        return make_plan(FILL, count, applied, boxes=boxes, noise=noise)

    def sample_boxes(self, count: int, size: tuple[int, ...], generator: Source) -> Any:
        """Draw (count, N, 2 d) int64 boxes."""
        raise NotImplementedError


@dataclass(eq=False, repr=False)
class Cutout(FillTransform):
    """Fill holes of one size at random places.

    From "Improved Regularization of Convolutional Neural Networks with Cutout" (DeVries and
    Taylor, 2017). The centre of a hole is uniform over the image, and the hole is clipped at the
    border.

    Args:
        size: Sides of a hole: an int in pixels, a float in (0, 1] as a share of each side of the
            image, or a pair (height, width) of either; with ``cut="cuboid"`` three sides, the time
            or depth first.
        holes: Number of holes in each image, > 0.

    All other arguments are those of :class:`~tv_mixaug.transforms.mix.FillTransform`,
    :class:`~tv_mixaug.transforms.mix.CutTransform` and :class:`~tv_mixaug.transforms.base.MixTransform`.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> images, labels = Cutout(4, num_classes=2)(torch.ones(1, 1, 8, 8), torch.tensor([1]))
        >>> labels.tolist()
        [[0.0, 1.0]]
    """

    size: float | Sequence[float] = 0.5
    _: KW_ONLY
    holes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.size = check_hole_size(self.size, 3 if self.cut == "cuboid" else 2)
        check_count("holes", self.holes)

    def sample_boxes(self, count: int, size: tuple[int, ...], generator: Source) -> Any:
        """Draw (count, N, 2 d) int64 boxes with uniform centres."""
        wanted: Any = self.size  # checked, so one for each side
        sides = [
            s if isinstance(s, int) else round(s * n) for s, n in zip(wanted, size, strict=True)
        ]
        holes = draws.repeat(sides, (count, self.holes, len(size)), generator)
        return draws.sample_boxes(holes, size, generator)


@dataclass(eq=False, repr=False)
class RandomErasing(FillTransform):
    """Fill boxes of random area and shape, each inside the image.

    From "Random Erasing Data Augmentation" (Zhong et al., 2020), by torchvision's and timm's law:
    the share of area is uniform, the aspect ratio log-uniform, the place uniform among those inside
    the image. A box that would be as high or as wide as the image is drawn again; after ten draws
    the image stays as it is. Every sample has a box of its own, unless ``mode="batch"``.

    Args:
        scale: The ends of the share of the image's area that is erased, in [0, 1].
        ratio: The ends of the aspect ratio height / width, > 0.
        count: Number of boxes in each image, > 0, which share the area; or a pair (least, most), of
            which it is drawn, as in timm.

    All other arguments are those of :class:`~tv_mixaug.transforms.mix.FillTransform`,
    :class:`~tv_mixaug.transforms.mix.CutTransform` and :class:`~tv_mixaug.transforms.base.MixTransform`; ``cut``
    is "spatial".

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> erased = RandomErasing(p=1.0)(torch.ones(2, 1, 32, 32))
        >>> shares = (erased == 0).float().mean((1, 2, 3))
        >>> bool((shares > 0.01).all()), bool((shares < 0.34).all())
        (True, True)
    """

    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    _: KW_ONLY
    count: int | tuple[int, int] = 1
    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("cut", self.cut, ("spatial",))
        self.scale, self.ratio = check_range("scale", self.scale), check_range("ratio", self.ratio)
        if self.scale[0] < 0 or self.scale[1] > 1:
            raise ValueError(f"scale must be in [0, 1], got {self.scale}.")
        if self.ratio[0] <= 0:
            raise ValueError(f"ratio must be > 0, got {self.ratio}.")
        counts = self.count if isinstance(self.count, (list, tuple)) else (self.count,) * 2
        if len(counts) != 2 or check_count("count", counts[0]) > check_count("count", counts[1]):
            raise ValueError(f"count must be an int or (least, most), got {self.count}.")

    def sample_boxes(self, count: int, size: tuple[int, ...], generator: Source) -> Any:
        """Draw (count, N, 4) int64 boxes inside the image; empty ones where fewer are wanted."""
        least, most = self.count if isinstance(self.count, (list, tuple)) else (self.count,) * 2
        share, shape, number = draws.sample_uniform((3, count, most, TRIES), generator)
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * share) * math.prod(size)
        low, high = self.ratio
        ratio = low * (high / low) ** shape
        number = least + number[:, :1, :1] * (most - least + 1) // 1
        boxes = draws.sample_inner_boxes(area / number, ratio, size, generator)
        place = draws.repeat(range(most), (1, most), generator)
        return boxes * (place < number[..., 0])[..., None]
