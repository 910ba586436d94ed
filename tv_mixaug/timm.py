"""timm's Mixup and FastCollateMixup by their own names and arguments, on this package's engine.

They mean what timm means: the arguments, the law of lam and of boxes, the partner from the other
end of the batch. What differs is kept from this package: batches of any length and dtype, uint8
rounded to nearest, nothing is written to, and the switch reaches workers that run.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tv_mixaug.transforms import mix as transforms
from tv_mixaug._validation import check_choice, check_number, check_probability, check_range, ensure
from tv_mixaug.transforms.base import MixTransform
from tv_mixaug.engine.sampling import Source, corners, sample_lam, sample_uniform, is_on_device
from tv_mixaug.batch.infer import ParsedBatch, FieldSpec, ParseOptions
from tv_mixaug.loading.collate import CollateFn
from tv_mixaug.engine.plan import BLEND, NONE, PASTE, Plan, CompactPlan, box_volumes

FIXED = {"mixup_alpha", "cutmix_alpha", "cutmix_minmax", "switch_prob", "mode"}


class Mixup(transforms.Mixup, transforms.CutMix):
    """Mix a stacked batch by Mixup or CutMix, as ``timm.data.Mixup`` does.

    Called as ``mixup_fn(images, labels)``, or with a batch in any nesting, as all transforms here.

    Args:
        mixup_alpha: Mixup is in use if it is > 0, with lam from Beta(mixup_alpha, mixup_alpha).
        cutmix_alpha: The same for CutMix.
        cutmix_minmax: The ends of a box's sides as shares of the image's; CutMix is in use, and
            its boxes have sides drawn from between them and lie inside the image.
        prob: Probability that the batch, pair or element is mixed.
        switch_prob: Probability of CutMix where both are in use.
        mode: ``"batch"``: one draw for the batch; ``"pair"``: one for each pair from both ends;
            ``"elem"``: one for each sample.
        correct_lam: Whether the label weight is counted from the clipped box.
        label_smoothing: Share of a label spread over all classes, in [0, 1).
        num_classes: Number of classes.
        **shared: What timm does not have: any other argument of
            :class:`~tv_mixaug.transforms.base.MixTransform` but ``p``, such as ``passthrough``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value, or neither of both is in use.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> mixup_fn = Mixup(0.8, 1.0, num_classes=10)
        >>> images, labels = mixup_fn(torch.rand(5, 3, 8, 8), torch.arange(5))
        >>> labels.shape, bool(labels.sum(1).allclose(torch.ones(5)))
        (torch.Size([5, 10]), True)
    """

    def __init__(
        self,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: Sequence[float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: str = "batch",
        correct_lam: bool = True,
        label_smoothing: float = 0.1,
        num_classes: int = 1000,
        **shared: Any,
    ) -> None:
        if "p" in shared:
            raise TypeError("p must be given as prob, as timm has it.")
        if unknown := sorted(shared.keys() - MixTransform.__dataclass_fields__.keys()):
            raise TypeError(
                f"{unknown[0]} is no argument of timm's Mixup, nor of all transforms of tv_mixaug."
            )
        if cutmix_minmax is not None:
            cutmix_minmax, cutmix_alpha = check_range("cutmix_minmax", cutmix_minmax, unit=True), 1
        self.mixup_alpha = _check_alpha("mixup_alpha", mixup_alpha)
        self.cutmix_alpha = _check_alpha("cutmix_alpha", cutmix_alpha)
        self.cutmix_minmax = cutmix_minmax
        if not (self.mixup_alpha or self.cutmix_alpha):
            raise ValueError("mixup_alpha or cutmix_alpha must be > 0, got 0 for both.")
        self.switch_prob = check_probability("switch_prob", switch_prob)
        self.drawn_for = check_choice("mode", mode, ("batch", "pair", "elem"))
        self.correct_lam, self.mixup_enabled = correct_lam, True
        super().__init__(
            p=check_probability("prob", prob),
            mode="batch" if mode == "batch" else "sample",
            num_classes=num_classes,
            label_smoothing=label_smoothing,
            **shared,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an argument; those that are timm's alone are set once."""
        if name in FIXED and name in self.__dict__:
            raise AttributeError(f"{name} cannot be changed; make a new {type(self).__name__}.")
        super().__setattr__(name, value)

    @property
    def p(self) -> float:
        """The probability in use: ``prob``, or 0 where ``mixup_enabled`` is off."""
        return check_probability("prob", self.prob) if self.mixup_enabled else 0.0

    @p.setter
    def p(self, p: float) -> None:
        self.prob = p

    def reading(self) -> ParseOptions:
        """Return how batches are to be read: all images of one size where boxes are pasted."""
        return super().reading()._replace(one_size=self.cutmix_alpha > 0)

    def check(self, leaf: FieldSpec, value: Any) -> None:
        """Refuse what the transforms in use refuse."""
        used = transforms.Mixup if self.mixup_alpha else transforms.CutMix
        used.check(self, leaf, value)

    def draw(self, batch: ParsedBatch, p: float, generator: Source) -> CompactPlan:
        """Draw for the batch, the pairs or the samples; the partner is from the other end."""
        if is_on_device(generator):
            raise TypeError(
                "tv_mixaug.timm draws on the host; use OneOf([Mixup(...), CutMix(...)])."
            )
        count, size = batch.length, batch.size
        own: Any = np.arange(count)
        partner = own[::-1]
        places = {"batch": own * 0, "pair": np.minimum(own, partner), "elem": own}
        place, alphas = places[self.drawn_for], (self.mixup_alpha, self.cutmix_alpha)
        number = {"batch": 1, "pair": (count + 1) // 2, "elem": count}[self.drawn_for]
        chosen, switch = sample_uniform((2, number), generator)
        mixup, cutmix = (sample_lam(alpha or 1.0, number, generator) for alpha in alphas)
        cut = switch < (self.switch_prob if all(alphas) else float(not self.mixup_alpha))
        lam = np.where(cut, cutmix, mixup)
        boxes = self._draw_boxes(lam, size, generator)
        if self.correct_lam or self.cutmix_minmax is not None:
            lam = np.where(cut, 1 - box_volumes(boxes) / max(math.prod(size), 1), lam)
        op = np.where(chosen < p, np.where(cut, PASTE, BLEND), NONE)[place]
        op[partner == own] = NONE  # in the middle of an odd batch
        mixed = op != NONE
        fields = (
            op.astype(np.uint8),
            np.where(mixed, partner, own),
            np.where(mixed, lam[place], 1.0).astype(np.float32),
            np.where(op == PASTE, boxes[place].T, 0).T[:, None],
            np.zeros(count, np.int64),
        )
        return CompactPlan.of(Plan(*map(torch.from_numpy, fields)))

    def _draw_boxes(self, lam: Any, size: tuple[int, ...], generator: Source) -> Any:
        """Draw (n, 4) int64 boxes: whole pixels rounded down, as timm's."""
        sizes: Any = np.asarray(size)
        uniform = sample_uniform((2, len(lam), 2), generator)
        if self.cutmix_minmax is None:
            sides = np.floor(np.sqrt(1 - lam)[:, None] * sizes)
            start = np.floor(uniform[0] * sizes) - sides // 2
        else:
            low, high = (np.floor(end * sizes) for end in self.cutmix_minmax)
            sides = low + np.floor(uniform[0] * np.maximum(high - low, 1))
            start = np.floor(uniform[1] * (sizes - sides + 1))
        return corners(np.clip(start, 0, sizes), np.clip(start + sides, 0, sizes))


class FastCollateMixup(CollateFn):
    """Collate samples and mix them, as ``timm.data.FastCollateMixup`` does.

    Args:
        *args: As for :class:`Mixup`.
        seed: As in :func:`~tv_mixaug.make_collate_fn`.
        **named: As for :class:`Mixup`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value.

    Example:
        >>> collate = FastCollateMixup(0.8, 1.0, num_classes=10, seed=0)
        >>> pictures = torch.zeros(3, 3, 8, 8, dtype=torch.uint8).numpy()
        >>> images, labels = collate([(picture, 7) for picture in pictures])
        >>> images.dtype, labels.shape
        (torch.uint8, torch.Size([3, 10]))
    """

    def __init__(self, *args: Any, seed: int | None = None, **named: Any) -> None:
        super().__init__(Mixup(*args, **named), seed=seed)
        self.prob = self.p

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed; what is set reaches workers that run."""
        return bool(self.p)

    @mixup_enabled.setter
    def mixup_enabled(self, on: bool) -> None:
        self.set_p(self.prob if on else 0.0)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Timm's class where timm is in use: its loader passes the switch on to no other."""
        theirs = sys.modules.get("timm.data.mixup")
        return type(self) if theirs is None else theirs.FastCollateMixup

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Let a copy be made although ``__class__`` is not its type."""
        return object.__new__, (type(self),), self.__getstate__()


def _check_alpha(name: str, alpha: Any) -> float:
    ensure(check_number(name, alpha) >= 0, name, ">= 0", alpha)
    return float(alpha)
