"""timm's Mixup and FastCollateMixup, by their own names and arguments, on this package's engine.

The arguments, the distributions of lam and boxes, and the partner from the other end of the batch
are timm's. Batches may have any length and dtype, uint8 is rounded to nearest, and inputs are never
written to. ``mode="half"``, which drops half of the batch, is left out.
"""

import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tv_mixaug import _validation as validation
from tv_mixaug.batch.spec import ParsedBatch
from tv_mixaug.engine.plan import BLEND, NONE, PASTE, CompactPlan, box_volumes
from tv_mixaug.engine.sampling import Source, join_corners, sample_lam, sample_uniform, untraced
from tv_mixaug.loading.collate import CollateFn
from tv_mixaug.loading.shared_value import SharedValue
from tv_mixaug.transforms.base import MixTransform


class Mixup(MixTransform):
    """Mix a stacked batch by Mixup or CutMix, as ``timm.data.Mixup`` does.

    It is called as ``mixup_fn(images, labels)``, or with a batch in any nesting.

    Args:
        mixup_alpha: Mixup is used if it is > 0, with lam from Beta(mixup_alpha, mixup_alpha).
        cutmix_alpha: The same for CutMix.
        cutmix_minmax: The ends of a box's sides as shares of the image's sides; CutMix is used, and
            its boxes lie inside the image.
        prob: Probability that the batch, pair or element is mixed.
        switch_prob: Probability of CutMix if both are used.
        mode: ``"batch"``: one draw for the batch; ``"pair"``: one for each pair from both ends;
            ``"elem"``: one for each sample.
        correct_lam: Whether the label weight counts the pixels of the clipped box.
        label_smoothing: Share of a label spread over all classes, in [0, 1).
        num_classes: Number of classes.
        multi_label: Whether labels are (B, K) multi-hot rows, each entry smoothed towards 0.5.
        **shared: Other arguments of :class:`~tv_mixaug.transforms.MixTransform`, such as
            ``passthrough``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value, or neither Mixup nor CutMix is used.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> mixup_fn = Mixup(0.8, 1.0, num_classes=10)
        >>> images, labels = mixup_fn(torch.rand(5, 3, 8, 8), torch.arange(5))
        >>> labels.shape, bool(labels.sum(1).allclose(torch.ones(5)))
        (torch.Size([5, 10]), True)
    """

    modes: ClassVar[tuple[str, ...]] = ("batch", "pair", "elem")
    cut, min_visible = "spatial", 0.1

    def __init__(
        self,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: Sequence[float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: Literal["batch", "pair", "elem"] = "batch",
        correct_lam: bool = True,
        label_smoothing: float = 0.1,
        num_classes: int = 1000,
        multi_label: bool = False,
        **shared: Any,
    ) -> None:
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha if cutmix_minmax is None else 1.0
        self.cutmix_minmax, self.switch_prob = cutmix_minmax, switch_prob
        self.correct_lam, self.multi_label = correct_lam, multi_label
        given = {"num_classes": num_classes, "label_smoothing": label_smoothing, **shared}
        self._enabled = SharedValue(True, "b")
        super().__init__(p=validation.check_probability("prob", prob), mode=mode, **given)  # type: ignore[arg-type]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an argument or attribute of timm's Mixup; others are refused."""
        if "parser" in self.__dict__ and not (name.startswith("_") or hasattr(self, name)):
            raise AttributeError(f"{name} is not an attribute of timm's Mixup.")
        super().__setattr__(name, value)

    def check_arguments(self) -> None:
        """Raise unless the arguments agree."""
        super().check_arguments()
        validation.optional("cutmix_minmax", self.cutmix_minmax, validation.check_range, "[0, 1]")
        for name in ("mixup_alpha", "cutmix_alpha"):
            validation.check_number(name, getattr(self, name), "[0, inf)")
        used = bool(self.mixup_alpha or self.cutmix_alpha)
        validation.ensure(used, "mixup_alpha or cutmix_alpha", "> 0", "0 for both")
        for name in ("switch_prob", "mix_prob"):
            validation.check_probability(name, getattr(self, name))
        for name in ("correct_lam", "multi_label"):
            validation.check_bool(name, getattr(self, name))

    @property
    def p(self) -> float:
        """The probability in use: ``mix_prob``, or 0 if ``mixup_enabled`` is off."""
        return self.mix_prob if self.mixup_enabled else 0.0

    @p.setter
    def p(self, p: float) -> None:
        self.mix_prob = p

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed; a change reaches running workers."""
        untraced("tv_mixaug.timm")  # a graph cannot read shared memory
        return bool(self._enabled.get())

    @mixup_enabled.setter
    def mixup_enabled(self, on: bool) -> None:
        self._enabled.set(bool(on))

    def sample(self, batch: ParsedBatch, p: float, source: Source) -> CompactPlan:
        """Sample for the batch, the pairs or the samples; partners are at the other end."""
        untraced("tv_mixaug.timm", source)
        count, p = batch.length, p if self.mixup_enabled else 0.0
        size = torch.tensor(batch.size, dtype=torch.float64, device="cpu")
        original = torch.arange(count, device="cpu")
        partner = original.flip(0)
        alphas = (self.mixup_alpha, self.cutmix_alpha)
        places = {"batch": original * 0, "pair": original.minimum(partner), "elem": original}
        place = places[self.mode]
        chosen, switch = torch.from_numpy(sample_uniform((2, count), source))
        mixup, cutmix = (torch.from_numpy(sample_lam(a or 1.0, count, source)) for a in alphas)
        cut = switch < (self.switch_prob if all(alphas) else float(not self.mixup_alpha))
        lam = torch.where(cut, cutmix, mixup)
        boxes = self._sample_boxes(lam, size, source)
        if self.correct_lam or self.cutmix_minmax is not None:
            lam = torch.where(cut, 1 - box_volumes(boxes) / size.prod().clamp(min=1), lam)
        op = ((chosen < p) * torch.where(cut, PASTE, BLEND))[place] * (partner != original)
        mixed = op != NONE
        lam = torch.where(mixed, lam[place], 1.0).to(torch.float32)
        boxes = (boxes[place] * (op == PASTE)[:, None])[:, None]
        partner = torch.where(mixed, partner, original)
        return CompactPlan(count, op.to(torch.uint8), partner, lam, boxes)

    def _sample_boxes(self, lam: Tensor, full: Tensor, source: Source) -> Tensor:
        """Sample (n, 4) int64 boxes with sides rounded down, as timm does."""
        uniform = torch.from_numpy(sample_uniform((2, len(lam), 2), source))
        if self.cutmix_minmax is None:
            sides = ((1 - lam).sqrt()[:, None] * full).floor()
            start = (uniform[0] * full).floor() - sides // 2
        else:
            low, high = ((full * end).floor() for end in self.cutmix_minmax)
            sides = low + (uniform[0] * (high - low).clamp(min=1)).floor()
            start = (uniform[1] * (full - sides + 1)).floor()
        ends = (torch.minimum(x.clamp(min=0), full).unbind(-1) for x in (start, start + sides))
        boxes: Tensor = join_corners(*ends)
        return boxes


class FastCollateMixup(CollateFn):
    """Collate samples and mix them, as ``timm.data.FastCollateMixup`` does.

    Args:
        *args: As for :class:`Mixup`.
        seed: As for :func:`~tv_mixaug.make_collate_fn`.
        **named: As for :class:`Mixup`.

    Example:
        >>> import torch
        >>> collate = FastCollateMixup(0.8, 1.0, num_classes=10, seed=0)
        >>> pictures = torch.zeros(3, 3, 8, 8, dtype=torch.uint8).numpy()
        >>> images, labels = collate([(picture, 7) for picture in pictures])
        >>> images.dtype, labels.shape
        (torch.uint8, torch.Size([3, 10]))
    """

    def __init__(self, *args: Any, seed: int | None = None, **named: Any) -> None:
        super().__init__(Mixup(*args, **named), None, None, seed, None, False, None)

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed; a change reaches running workers."""
        return bool(self.transform.mixup_enabled)

    @mixup_enabled.setter
    def mixup_enabled(self, on: bool) -> None:
        self.transform.mixup_enabled = on

    @property
    def mix_prob(self) -> float:
        """The probability while ``mixup_enabled`` is on; a change reaches running workers."""
        return float(self.p)  # type: ignore[arg-type]

    @mix_prob.setter
    def mix_prob(self, p: float) -> None:
        self.set_p(p)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of timm if it is imported: its PrefetchLoader passes the switch to no other."""
        theirs = sys.modules.get("timm.data.mixup")
        return type(self) if theirs is None else theirs.FastCollateMixup

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copy an object whose ``__class__`` is not its type."""
        return object.__new__, (type(self),), self.__getstate__()
