"""Cutout and Random Erasing: rules that fill boxes."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

from tv_mixaug import _validation as validation
from tv_mixaug._validation import checked, ensure, optional
from tv_mixaug.batch.spec import ParsedBatch
from tv_mixaug.engine import sampling
from tv_mixaug.engine.plan import FILL, CompactPlan, make_plan
from tv_mixaug.engine.sampling import Source
from tv_mixaug.transforms.base import Cut, MixTransform, Mode

TRIES = 10  # of Random Erasing, after which an image stays unchanged
Fill = float | Sequence[float] | Literal["noise", "color"]


def check_mask_fill(rule: Any) -> None:
    """Raise if soft masks have no class ``mask_fill``."""
    known = (None, *range(rule.num_mask_classes or 0), rule.ignore_index)
    expected = f"in [0, {rule.num_mask_classes}) or ignore_index with masks='soft'"
    ensure(rule.masks != "soft" or rule.mask_fill in known, "mask_fill", expected, rule.mask_fill)


def sample_holes(rule: Any, batch: ParsedBatch, p: float, source: Source) -> CompactPlan:
    """Sample the plan of a rule that fills boxes, which its ``sample_boxes`` places."""
    per_sample, count = rule.mode == "sample", batch.length
    applied = sampling.sample_applied(count, p, per_sample, source)
    boxes = rule.sample_boxes(count if per_sample else 1, batch.size, source)
    noise = sampling.sample_seeds(count, source) if isinstance(rule.fill, str) else None
    return make_plan(FILL, count, applied, boxes=boxes, noise=noise)


@dataclass(eq=False, repr=False)
class Cutout(MixTransform):
    """Fill holes of one size at random places; labels keep their weight.

    From "Improved Regularization of Convolutional Neural Networks with Cutout" (DeVries and
    Taylor, 2017). The centre of a hole is uniform over the image, and the hole is clipped at the
    border.

    Args:
        size: Sides of a hole: an int in pixels, a float in (0, 1] as a share of each side of the
            image, or a pair (height, width) of either; with ``cut="cuboid"`` three sides, time or
            depth first.
        holes: Number of holes in each image, > 0.
        fill: A number; a value for each channel; ``"noise"``: a random value for each pixel,
            uniform over 0 to 255 for uint8 and standard normal for floating point; or ``"color"``:
            the same for each box, one value for each channel.
        mask_fill: The class id that holes have in masks; None leaves masks unchanged.
        mode: ``"sample"``: each sample has its own holes; ``"batch"``: all have the same.
        cut: ``"spatial"``: a hole goes through all frames or slices; ``"cuboid"``: it has a side in
            time or depth, too.
        min_visible: Share of a detection object that must stay visible for it to be kept, (0, 1].

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> images, labels = Cutout(4, num_classes=2)(torch.ones(1, 1, 8, 8), torch.tensor([1]))
        >>> labels.tolist()
        [[0.0, 1.0]]
    """

    ops: ClassVar[tuple[int, ...]] = (FILL,)

    size: float | Sequence[float] = checked(0.5, validation.check_hole_size)
    _: KW_ONLY
    holes: int = checked(1, validation.check_integer, 1)
    fill: Fill = checked(0.0, validation.check_fill)
    mask_fill: int | None = checked(None, optional, validation.check_integer)
    mode: Mode = "sample"
    cut: Cut = checked("spatial", validation.check_choice, ("spatial", "cuboid"))
    min_visible: float = checked(0.1, validation.check_number, "(0, 1]")

    def check_arguments(self) -> None:
        """Raise unless the arguments agree."""
        super().check_arguments()
        check_mask_fill(self)
        names = "(height, width)" if self.cut == "spatial" else "(depth, height, width)"
        fits = not isinstance(self.size, tuple) or len(self.size) == names.count(",") + 1
        ensure(fits, "size", f"one side or {names}", repr(self.size))

    sample = sample_holes

    def sample_boxes(self, count: int, size: tuple[int, ...], source: Source) -> Any:
        """Sample N boxes of 2 d ints, or (count, N, 2 d) int64, with uniform centres."""
        wanted: Any = self.size if isinstance(self.size, tuple) else (self.size,) * len(size)
        pairs = zip(wanted, size, strict=True)
        # A hole goes through axes of one pixel.
        sides = [
            side if isinstance(side, int) else round(side * n) if n > 1 else n for side, n in pairs
        ]
        if count == 1 and not sampling.is_on_device(source):
            return [sampling.sample_boxes(sides, size, (), source) for _ in range(self.holes)]
        return sampling.sample_boxes(sides, size, (count, self.holes), source)


@dataclass(eq=False, repr=False)
class RandomErasing(MixTransform):
    """Fill boxes of random area and shape inside the image; labels keep their weight.

    From "Random Erasing Data Augmentation" (Zhong et al., 2020), with the distribution of
    torchvision and timm: the share of area is uniform, the aspect ratio log-uniform, and the place
    uniform inside the image. A box as high or as wide as the image is sampled again; after ten
    tries the image stays unchanged. Each sample has its own boxes, unless ``mode="batch"``.

    Args:
        scale: The ends of the share of the image's area that is erased, in [0, 1].
        ratio: The ends of the aspect ratio height / width, > 0.
        count: Number of boxes in each image, > 0, which share the area.
        p: Probability that a sample, or the batch with ``mode="batch"``, is erased, in [0, 1].
        fill: A number; a value for each channel; ``"noise"``: a random value for each pixel,
            uniform over 0 to 255 for uint8 and standard normal for floating point; or ``"color"``:
            the same for each box, one value for each channel.
        mask_fill: The class id that boxes have in masks; None leaves masks unchanged.
        mode: ``"sample"``: each sample has its own boxes; ``"batch"``: all have the same.
        cut: ``"spatial"``: a box goes through all frames or slices.
        min_visible: Share of a detection object that must stay visible for it to be kept, (0, 1].

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> erased = RandomErasing(p=1.0)(torch.ones(2, 1, 32, 32))
        >>> shares = (erased == 0).float().mean((1, 2, 3))
        >>> bool((shares > 0.01).all()), bool((shares < 0.34).all())
        (True, True)
    """

    ops: ClassVar[tuple[int, ...]] = (FILL,)

    scale: tuple[float, float] = checked((0.02, 0.33), validation.check_range, "[0, 1]")
    ratio: tuple[float, float] = checked((0.3, 3.3), validation.check_range, "(0, inf)")
    _: KW_ONLY
    count: int = checked(1, validation.check_integer, 1)
    p: float = 0.5
    fill: Fill = checked(0.0, validation.check_fill)
    mask_fill: int | None = checked(None, optional, validation.check_integer)
    mode: Mode = "sample"
    cut: Cut = checked("spatial", validation.check_choice, ("spatial",))
    min_visible: float = checked(0.1, validation.check_number, "(0, 1]")

    def check_arguments(self) -> None:
        """Raise unless the arguments agree."""
        super().check_arguments()
        check_mask_fill(self)

    sample = sample_holes

    def sample_boxes(self, count: int, size: tuple[int, ...], source: Source) -> Any:
        """Sample (count, N, 4) int64 boxes inside the image."""
        (low, high), (flat, tall) = self.scale, self.ratio
        share, shape = sampling.sample_uniform((2, count, self.count, TRIES), source)
        areas = (low + (high - low) * share) * (math.prod(size) / self.count)
        return sampling.sample_inner_boxes(areas, flat * (tall / flat) ** shape, size, source)
