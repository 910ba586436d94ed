"""Cutout, Mixup and CutMix as transforms of :mod:`torchvision.transforms.v2`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from tv_mixaug import detection as objects
from tv_mixaug import execute as rows
from tv_mixaug import functional, plans
from tv_mixaug import leaves as batches
from tv_mixaug.arguments import (
    check_alpha,
    check_bool,
    check_choice,
    check_count,
    check_fill,
    check_hole_size,
    check_integer,
    check_layout,
    check_num_classes,
    check_number,
    check_pairing,
    check_passthrough,
    check_probability,
    check_visible,
    kind_error,
)
from tv_mixaug.labels import LabelFormat, apply_plan
from tv_mixaug.leaves import Batch, LabelsGetter, Leaf, Reading
from tv_mixaug.plans import Pairing, Plan

ObjectsRule = Callable[[dict[str, Any], int, list[dict[str, Any]]], dict[str, Any]]
NumClassesArgument = int | str | Mapping[Any, int | str] | None


class MixTransform(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Transform a batch by a plan; the abstract base of Cutout, Mixup and CutMix.

    A rule to mix by is a subclass with :meth:`draw`, which draws a :class:`~tv_mixaug.plans.Plan`,
    and ``rules``, which names the method for each role of a leaf.

    Args:
        p: Probability that the batch (``mode="batch"``) or a sample (``mode="sample"``) is
            transformed, in [0, 1].
        mode: ``"batch"``: one draw for the batch; ``"sample"``: one for each sample.
        num_classes: K > 0 for class labels; ``"multi"`` for (B, K) multi-hot labels,
            ``"regression"`` for real targets, which are mixed linearly; a mapping from label key
            (or position) to one of these where there are several; None where labels are (B, K)
            already or there are none.
        label_smoothing: Share of each own label spread over all K classes before mixing, in [0, 1).
        targets: ``"soft"`` for (B, K) float32 labels, ``"pair"`` for
            :class:`~tv_mixaug.labels.PairedLabels`.
        labels_getter: ``"default"`` finds the labels by their key ("labels", "label", "target", …)
            or else takes the first (B,) integer or (B, K) tensor behind the images; a function of
            the batch returns them; None says that there are none.
        ignore_index: Class index of samples, and value of mask pixels, without a label.
        passthrough: Keys or positions of tensors that are to be left as they are.
        layout: The axes of plain image tensors, B first, for example ``"BCDHW"`` for volumes;
            None for (B, C, H, W) and (B, T, C, H, W).
        inplace: Write the result into the images given.
    """

    rules: ClassVar[dict[str, str]]
    cuts = False  # whether boxes are cut, so that all images have to be of one size
    takes_rows = True  # whether samples can be given unstacked
    has_plan = True  # whether the plan says all that was done

    def __init__(
        self,
        *,
        p: float,
        mode: str,
        num_classes: NumClassesArgument,
        label_smoothing: float,
        targets: str,
        labels_getter: LabelsGetter,
        ignore_index: int | None,
        passthrough: Sequence[str | int],
        layout: str | None,
        inplace: bool,
        cut: str = "spatial",
        needs_labels: bool = True,
    ) -> None:
        super().__init__()
        self.p = check_probability("p", p)
        self.mode = check_choice("mode", mode, ("batch", "sample"))
        self.num_classes = check_num_classes(num_classes)
        self.label_smoothing = check_number("label_smoothing", label_smoothing)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}.")
        self.targets = check_choice("targets", targets, ("soft", "pair"))
        if targets == "pair" and label_smoothing:
            raise ValueError(
                "label_smoothing must be 0 with targets='pair', got "
                f"{label_smoothing}; give it to the criterion instead."
            )
        is_default = isinstance(labels_getter, str) and labels_getter == "default"
        if not (labels_getter is None or is_default or callable(labels_getter)):
            raise kind_error("labels_getter", "'default', a callable or None", labels_getter)
        if isinstance(num_classes, Mapping) and labels_getter != "default":
            raise ValueError(
                "labels_getter must be 'default' where num_classes names the labels by their keys, "
                f"got {labels_getter!r}."
            )
        self.labels_getter = labels_getter
        if ignore_index is not None:
            check_integer("ignore_index", ignore_index)
        self.ignore_index = ignore_index
        self.passthrough = check_passthrough(passthrough)
        self.layout = check_layout(layout)
        self.cut = check_choice("cut", cut, ("spatial", "cuboid"))
        self.inplace = check_bool("inplace", inplace)
        self._needs_labels = needs_labels

    @property
    def label_format(self) -> LabelFormat:
        """What the transform makes of labels, the same in every batch."""
        return LabelFormat(self.num_classes, self.targets, self.label_smoothing, self.ignore_index)

    def check(self, leaf: Leaf) -> None:
        """Raise if the rules cannot treat a leaf whose shape and dtype have been checked."""

    def draw(self, batch: Batch, p: float) -> Plan:
        """Draw the plan for a batch that was checked.

        Args:
            batch: The batch, taken apart.
            p: The probability to be used.

        Returns:
            The plan, on the CPU.
        """
        raise NotImplementedError

    def forward(self, *inputs: Any) -> Any:
        """Transform a batch.

        Args:
            *inputs: The batch in any nesting of tuples, lists, dicts and namedtuples: images
                (B, C, H, W), videos (B, T, C, H, W), masks (B, H, W) or (B, 1, H, W), labels (B,)
                or (B, K), lists of detection targets. Everything else passes through.

        Returns:
            The batch in the same nesting. The inputs are not changed unless ``inplace``.

        Raises:
            TypeError: If something in the batch is of the wrong kind.
            ValueError: If shapes or labels are wrong, or a tensor would be left behind unmixed.
        """
        return self.mix(inputs if len(inputs) != 1 else inputs[0])[0]

    def mix(
        self, batch: Any, *, p: float | None = None, inplace: bool | None = None
    ) -> tuple[Any, Plan]:
        """Transform a batch and return the plan with it.

        Args:
            batch: The batch, as in :meth:`forward`.
            p: Probability to be used instead of the transform's own.
            inplace: Whether to write into the images, instead of the transform's own choice.

        Returns:
            The transformed batch, and the :class:`~tv_mixaug.plans.Plan` it was made by.
        """
        inplace = self.inplace if inplace is None else inplace
        read = self._read(batch, inplace)
        plan = self.draw(read, self.p if p is None else p)
        params = {"plan": plan, "size": read.size, "inplace": inplace}
        values: list[Any] = [None] * len(read.leaves)
        # Images come last: nothing is written to if another leaf cannot be mixed.
        for place in sorted(range(len(values)), key=lambda p: read.leaves[p].role == batches.IMAGE):
            values[place] = self.transform(read.leaves[place], params)
        return batches.put_together(values, read.structure), plan

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the parameters for a flat batch: plan, cut size, inplace."""
        read = self._read(flat_inputs, self.inplace)
        return {"plan": self.draw(read, self.p), "size": read.size, "inplace": self.inplace}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply the rule for one leaf: a :class:`~tv_mixaug.leaves.Leaf` or a bare image."""
        leaf = inpt if isinstance(inpt, Leaf) else Leaf(inpt, batches.IMAGE, ())
        if leaf.role == batches.IMAGE:
            return self._transform_image(leaf, params["plan"], params["inplace"])
        if isinstance(leaf.value, rows.Rows):
            return leaf.value.finish(leaf.value.stack())
        rule = self.rules.get(leaf.role)
        if rule is None:
            return leaf.value
        return getattr(self, rule)(leaf, params["plan"], params["size"])

    def mix_images(
        self, images: Tensor | rows.Rows, plan: Plan, inplace: bool, **axes: Any
    ) -> Tensor:
        """Transform one batch of plain image tensors; ``axes`` and ``channel_axis`` say how cut."""
        raise NotImplementedError

    def mix_labels(self, leaf: Leaf, plan: Plan, size: tuple[int, ...]) -> Any:
        """Encode labels and mix them by partner and lam."""
        return apply_plan(leaf.value, plan, leaf.kind, self.label_format)

    def _transform_image(self, leaf: Leaf, plan: Plan, inplace: bool) -> Any:
        value = leaf.value
        untouched = not plan.op.any()
        axes, channel_axis = batches.image_axes(value, self._reading())
        where = {"axes": axes, "channel_axis": channel_axis}
        if isinstance(value, rows.Rows):
            mixed = value.stack() if untouched else self.mix_images(value, plan, True, **where)
            return value.finish(mixed)
        if untouched:
            return value
        if isinstance(value, (list, tuple)):
            plain = [v.as_subclass(Tensor) for v in value]
            mixed = self.mix_images(torch.stack(plain), plan, True, **where)
            if inplace:
                for old, new in zip(plain, mixed, strict=True):
                    old.copy_(new)
                return value
            return type(value)(
                _like(new, old) for new, old in zip(mixed.unbind(0), value, strict=True)
            )
        plain_value = value.as_subclass(Tensor)
        if plain_value.requires_grad and torch.is_grad_enabled():
            mixed = self.mix_with_grad(plain_value, plan, **where)
        else:
            mixed = self.mix_images(plain_value, plan, inplace, **where)
        return value if inplace else _like(mixed, value)

    def _map_objects(self, leaf: Leaf, rule: ObjectsRule) -> Any:
        """Apply a rule to the targets of each image, beside what passes through."""
        bare, passed = batches.split_objects(leaf.value, self.passthrough)
        mixed = [{**rule(own, row, bare), **passed[row]} for row, own in enumerate(bare)]
        return mixed if isinstance(leaf.value, list) else tuple(mixed)

    def _refuse_cuboid_objects(self, leaf: Leaf) -> None:
        if leaf.role == batches.OBJECTS and self.cut == "cuboid":
            raise ValueError(
                f"cut must be 'spatial' to mix the objects at {leaf.where}, got 'cuboid'."
            )

    def mix_with_grad(self, images: Tensor, plan: Plan, **axes: Any) -> Tensor:
        """Transform images through which gradients flow, by the differentiable kernels."""
        fill = getattr(self, "fill", 0.0)
        if fill != "noise":
            fill = rows.fill_tensor(fill, images, axes["channel_axis"])
        return functional.replay(images, plan, fill, axes=axes["axes"])

    def _read(self, batch: Any, inplace: bool) -> Batch:
        read = batches.read_batch(batch, self._reading())
        for leaf in read.leaves:
            self.check(leaf)
            if inplace and leaf.role == batches.IMAGE:
                _check_writable(leaf)
        return read

    def _reading(self) -> Reading:
        return Reading(
            form=self.label_format,
            labels_getter=self.labels_getter,
            layout=self.layout,
            cuboid=self.cut == "cuboid",
            passthrough=self.passthrough,
            need_labels=self._needs_labels,
            one_size=self.cuts,
        )


class Mixup(MixTransform):
    """Blend each sample with a partner: ``lam * own + (1 - lam) * partner``.

    From "mixup: Beyond Empirical Risk Minimization" (Zhang et al., 2018).

    Args:
        alpha: lam is drawn from Beta(alpha, alpha); > 0.
        num_classes: K, "multi", "regression", a mapping from label key to one of these, or None.
        p: Probability that a batch, or with ``mode="sample"`` a sample, is mixed.
        mode: ``"batch"``: one lam for the batch; ``"sample"``: each sample its own.
        pairing: ``"roll"``: a random cyclic shift, never oneself if B > 1; ``"shuffle"``: a
            uniform permutation, as in the paper; or a function of the labels that returns the
            (B,) int64 partners.
        masks: What becomes of segmentation masks: ``"soft"``: (B, K, H, W) float32 planes;
            ``"dominant"``: the mask of the larger weight; None: masks are refused.
        num_mask_classes: K of ``masks="soft"``.
        label_smoothing: See :class:`MixTransform`, which describes all other arguments.
        targets: ``"soft"`` or ``"pair"``.
        labels_getter: ``"default"``, a function, or None.
        ignore_index: Index of samples and value of mask pixels without a label.
        passthrough: Keys or positions of tensors to be left as they are.
        layout: Axes of plain image tensors.
        inplace: Write the result into the images given.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
        >>> mixed, soft = Mixup(0.2, num_classes=3)(images, labels)
        >>> soft.shape, bool(soft.sum(1).allclose(torch.ones(4)))
        (torch.Size([4, 3]), True)
    """

    rules: ClassVar[dict[str, str]] = {
        batches.MASK: "mix_masks",
        batches.OBJECTS: "mix_objects",
        batches.LABEL: "mix_labels",
    }

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        num_classes: NumClassesArgument = None,
        p: float = 1.0,
        mode: str = "batch",
        pairing: Pairing = "roll",
        masks: str | None = None,
        num_mask_classes: int | None = None,
        label_smoothing: float = 0.0,
        targets: str = "soft",
        labels_getter: LabelsGetter = "default",
        ignore_index: int | None = None,
        passthrough: Sequence[str | int] = (),
        layout: str | None = None,
        inplace: bool = False,
    ) -> None:
        self_alpha, self_pairing = check_alpha(alpha), check_pairing(pairing)
        if masks is not None:
            check_choice("masks", masks, ("soft", "dominant"))
        if num_mask_classes is not None:
            check_count("num_mask_classes", num_mask_classes)
        if masks == "soft" and num_mask_classes is None:
            raise ValueError("num_mask_classes must be given with masks='soft', got None.")
        super().__init__(
            p=p,
            mode=mode,
            num_classes=num_classes,
            label_smoothing=label_smoothing,
            targets=targets,
            labels_getter=labels_getter,
            ignore_index=ignore_index,
            passthrough=passthrough,
            layout=layout,
            inplace=inplace,
        )
        self.alpha, self.pairing = self_alpha, self_pairing
        self.masks, self.num_mask_classes = masks, num_mask_classes

    def check(self, leaf: Leaf) -> None:
        """Refuse paired labels, and masks without a rule or with an unknown class."""
        _refuse_pairs(leaf)
        if leaf.role != batches.MASK:
            return
        if self.masks is None:
            raise ValueError(
                f"masks must be 'soft' or 'dominant' to mix the mask at {leaf.where}, got None; "
                "class ids cannot be blended."
            )
        masks = leaf.value.as_subclass(Tensor)
        if self.masks == "soft" and masks.is_cpu and not masks.is_floating_point():
            wrong = (masks < 0) | (masks >= self.num_mask_classes)
            if self.ignore_index is not None:
                wrong &= masks != self.ignore_index
            if bool(wrong.any()):
                raise ValueError(
                    f"masks at {leaf.where} must be in [0, {self.num_mask_classes}), got "
                    f"{int(masks[wrong][0])}; name the value of unlabelled pixels with "
                    "ignore_index=."
                )

    def draw(self, batch: Batch, p: float) -> Plan:
        """Draw partner and lam."""
        partner = plans.draw_partner(batch.length, self.pairing, batch.labels)
        applied = plans.draw_applied(batch.length, p, self.mode == "sample")
        if not applied.any():
            return plans.identity_plan(batch.length)
        return plans.draw_mixup(batch.length, applied, self.alpha, self.mode == "sample", partner)

    def mix_images(
        self, images: Tensor | rows.Rows, plan: Plan, inplace: bool, **axes: Any
    ) -> Tensor:
        """Blend."""
        return rows.mixup_batch(images, plan, inplace=inplace)

    def mix_masks(self, leaf: Leaf, plan: Plan, size: tuple[int, ...]) -> Tensor:
        """Mix masks as planes, or keep the mask of the larger weight."""
        masks = leaf.value.as_subclass(Tensor)
        partner = plan.partner.to(masks.device, non_blocking=True)
        if self.masks == "dominant":
            own = (plan.lam >= 0.5).view(-1, *[1] * (masks.ndim - 1))
            mixed = torch.where(own.to(masks.device, non_blocking=True), masks, masks[partner])
        else:
            mixed = functional.mix_labels(self._mask_planes(masks), plan.partner, plan.lam)
        return _like(mixed, leaf.value)

    def mix_objects(self, leaf: Leaf, plan: Plan, size: tuple[int, ...]) -> Any:
        """Join both images' objects, with their weights."""
        partner, lam = plan.partner.tolist(), plan.lam.tolist()
        return self._map_objects(
            leaf, lambda own, row, all_: objects.mixup_objects(own, all_[partner[row]], lam[row])
        )

    def _mask_planes(self, masks: Tensor) -> Tensor:
        """Return (B, K, ...) float32 planes; a pixel without a label is 0 in all of them."""
        if masks.is_floating_point():
            return masks  # planes already, from a mix before
        index = masks if masks.ndim == 4 and masks.shape[1] == 1 else masks[:, None]
        classes = torch.arange(int(self.num_mask_classes or 0), device=masks.device)
        return (index == classes.view(1, -1, *[1] * (index.ndim - 2))).float()


class CutMix(MixTransform):
    """Paste a box of a partner; the label weight is the share of pixels left.

    From "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features"
    (Yun et al., 2019). The centre of the box is uniform over the image, its sides are exact, it is
    clipped at the border, and lam is counted from the clipped box in whole pixels.

    Args:
        alpha: The box's share before clipping is 1 - lam, lam from Beta(alpha, alpha); > 0.
        num_classes: K, "multi", "regression", a mapping from label key to one of these, or None.
        p: Probability that a batch, or with ``mode="sample"`` a sample, is mixed.
        mode: ``"batch"``: one box for the batch; ``"sample"``: each sample its own.
        pairing: ``"roll"``, ``"shuffle"`` or a function of the labels; see :class:`Mixup`.
        cut: ``"spatial"``: the box goes through all frames or slices; ``"cuboid"``: it is cut in
            time or depth too, and the label weight is the share of the volume.
        correct_lam: False keeps the drawn lam as the label weight, against the pixels.
        min_visible: Share of a detection object that must stay visible for it to be kept, (0, 1].
        label_smoothing: See :class:`MixTransform`, which describes all other arguments.
        targets: ``"soft"`` or ``"pair"``.
        labels_getter: ``"default"``, a function, or None.
        ignore_index: Index of samples without a label.
        passthrough: Keys or positions of tensors to be left as they are.
        layout: Axes of plain image tensors.
        inplace: Write the result into the images given.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8)
        >>> mixed, soft = CutMix(num_classes=4)(images, torch.arange(4))
        >>> bool(((mixed == 2).float().mean((1, 2, 3)) == soft[:, 2]).all())
        True
    """

    rules: ClassVar[dict[str, str]] = {
        batches.MASK: "mix_masks",
        batches.OBJECTS: "mix_objects",
        batches.LABEL: "mix_labels",
    }
    cuts = True

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        num_classes: NumClassesArgument = None,
        p: float = 1.0,
        mode: str = "batch",
        pairing: Pairing = "roll",
        cut: str = "spatial",
        correct_lam: bool = True,
        min_visible: float = 0.1,
        label_smoothing: float = 0.0,
        targets: str = "soft",
        labels_getter: LabelsGetter = "default",
        ignore_index: int | None = None,
        passthrough: Sequence[str | int] = (),
        layout: str | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(
            p=p,
            mode=mode,
            num_classes=num_classes,
            label_smoothing=label_smoothing,
            targets=targets,
            labels_getter=labels_getter,
            ignore_index=ignore_index,
            passthrough=passthrough,
            layout=layout,
            inplace=inplace,
            cut=cut,
        )
        self.alpha, self.pairing = check_alpha(alpha), check_pairing(pairing)
        self.correct_lam = check_bool("correct_lam", correct_lam)
        self.min_visible = check_visible(min_visible)

    def check(self, leaf: Leaf) -> None:
        """Refuse paired labels, and objects where the box is a cuboid."""
        _refuse_pairs(leaf)
        self._refuse_cuboid_objects(leaf)

    def draw(self, batch: Batch, p: float) -> Plan:
        """Draw partner and boxes."""
        partner = plans.draw_partner(batch.length, self.pairing, batch.labels)
        applied = plans.draw_applied(batch.length, p, self.mode == "sample")
        if not applied.any():
            return plans.identity_plan(batch.length, len(batch.size))
        return plans.draw_cutmix(
            batch.length,
            applied,
            self.alpha,
            self.mode == "sample",
            partner,
            batch.size,
            self.correct_lam,
        )

    def mix_images(
        self, images: Tensor | rows.Rows, plan: Plan, inplace: bool, **axes: Any
    ) -> Tensor:
        """Paste."""
        return rows.cutmix_batch(images, plan, axes["axes"], inplace=inplace)

    def mix_masks(self, leaf: Leaf, plan: Plan, size: tuple[int, ...]) -> Tensor:
        """Paste the partner's mask at the same place."""
        masks = leaf.value.as_subclass(Tensor)
        axes = rows.cut_axes(masks.ndim, plan.boxes, None)
        return _like(rows.cutmix_batch(masks, plan, axes), leaf.value)

    def mix_objects(self, leaf: Leaf, plan: Plan, size: tuple[int, ...]) -> Any:
        """Cut the partner's objects to the box and hide what lies under it."""
        partner, canvas = plan.partner.tolist(), (size[-2], size[-1])
        return self._map_objects(
            leaf,
            lambda own, row, all_: objects.cutmix_objects(
                own, all_[partner[row]], plan.boxes[row], canvas, self.min_visible
            ),
        )


class Cutout(MixTransform):
    """Fill square holes at random places.

    From "Improved Regularization of Convolutional Neural Networks with Cutout" (DeVries and
    Taylor, 2017). The centre of a hole is uniform over the image, and the hole is clipped at the
    border.

    Args:
        size: Sides of a hole: an int in pixels, a float in (0, 1] as a share of each side of the
            image, or a pair (height, width) of either; with ``cut="cuboid"`` three sides, the time
            or depth first.
        holes: Number of holes in each image, > 0.
        fill: A number, a value for each channel, or ``"noise"``: for each pixel its own, uniform
            over 0 to 255 for uint8 and standard normal for floating point.
        cut: ``"spatial"``: a hole goes through all frames or slices; ``"cuboid"``: it has a side in
            time or depth too.
        mask_fill: What a hole makes of a segmentation mask; None leaves masks as they are.
        p: Probability that a sample, or with ``mode="batch"`` a batch, is transformed.
        mode: ``"sample"``: each sample its own holes; ``"batch"``: the same for all.
        num_classes: K, "multi", "regression", a mapping or None; class indices stay as they are
            if it is None.
        min_visible: Share of a detection object that must stay visible for it to be kept, (0, 1].
        label_smoothing: See :class:`MixTransform`, which describes all other arguments.
        targets: ``"soft"`` or ``"pair"``.
        labels_getter: ``"default"``, a function, or None.
        ignore_index: Index of samples without a label.
        passthrough: Keys or positions of tensors to be left as they are.
        layout: Axes of plain image tensors.
        inplace: Write the result into the images given.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> images, labels = Cutout(4, num_classes=2)(torch.ones(1, 1, 8, 8), torch.tensor([1]))
        >>> labels.tolist()
        [[0.0, 1.0]]
    """

    rules: ClassVar[dict[str, str]] = {
        batches.MASK: "fill_masks",
        batches.OBJECTS: "hide_objects",
        batches.LABEL: "mix_labels",
    }
    cuts = True

    def __init__(
        self,
        size: float | Sequence[float] = 0.5,
        *,
        holes: int = 1,
        fill: float | Sequence[float] | str = 0.0,
        cut: str = "spatial",
        mask_fill: int | None = None,
        p: float = 1.0,
        mode: str = "sample",
        num_classes: NumClassesArgument = None,
        min_visible: float = 0.1,
        label_smoothing: float = 0.0,
        targets: str = "soft",
        labels_getter: LabelsGetter = "default",
        ignore_index: int | None = None,
        passthrough: Sequence[str | int] = (),
        layout: str | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(
            p=p,
            mode=mode,
            num_classes=num_classes,
            label_smoothing=label_smoothing,
            targets=targets,
            labels_getter=labels_getter,
            ignore_index=ignore_index,
            passthrough=passthrough,
            layout=layout,
            inplace=inplace,
            cut=cut,
            needs_labels=False,
        )
        self.size = check_hole_size(size, 3 if cut == "cuboid" else 2)
        self.holes = check_count("holes", holes)
        self.fill = check_fill(fill)
        if mask_fill is not None:
            check_integer("mask_fill", mask_fill)
        self.mask_fill = mask_fill
        self.min_visible = check_visible(min_visible)

    def check(self, leaf: Leaf) -> None:
        """Refuse a fill that the images cannot hold."""
        self._refuse_cuboid_objects(leaf)
        if leaf.role != batches.IMAGE or self.fill == "noise":
            return
        one = leaf.value[0] if isinstance(leaf.value, (list, tuple)) else leaf.value
        values = self.fill if isinstance(self.fill, tuple) else (self.fill,)
        if one.dtype == torch.uint8 and any(v != int(v) or not 0 <= v <= 255 for v in values):
            raise ValueError(
                f"fill must be integers in [0, 255] for uint8 images, got {self.fill}."
            )
        _, axis = batches.image_axes(leaf.value, self._reading())
        shape = (
            (len(leaf.value), *one.shape) if isinstance(leaf.value, (list, tuple)) else one.shape
        )
        if isinstance(self.fill, tuple) and (axis < 0 or shape[axis] != len(values)):
            raise ValueError(
                f"fill must have a value for each channel of the images at {leaf.where}, shape "
                f"{tuple(shape)}, got {len(values)} values."
            )

    def draw(self, batch: Batch, p: float) -> Plan:
        """Draw the holes."""
        applied = plans.draw_applied(batch.length, p, self.mode == "sample")
        if not applied.any():
            return plans.identity_plan(batch.length, len(batch.size), self.holes)
        return plans.draw_cutout(
            batch.length,
            applied,
            [_side(s, full) for s, full in zip(self.size, batch.size, strict=True)],
            self.holes,
            self.mode == "sample",
            batch.size,
            self.fill == "noise",
        )

    def mix_images(
        self, images: Tensor | rows.Rows, plan: Plan, inplace: bool, **axes: Any
    ) -> Tensor:
        """Fill the holes."""
        return rows.cutout_batch(images, plan, self.fill, inplace=inplace, **axes)

    def fill_masks(self, leaf: Leaf, plan: Plan, size: tuple[int, ...]) -> Tensor:
        """Fill the holes of a mask with ``mask_fill``."""
        if self.mask_fill is None:
            return leaf.value  # type: ignore[no-any-return]
        masks = leaf.value.as_subclass(Tensor)
        axes = rows.cut_axes(masks.ndim, plan.boxes, None)
        return _like(rows.cutout_batch(masks, plan, self.mask_fill, axes), leaf.value)

    def hide_objects(self, leaf: Leaf, plan: Plan, size: tuple[int, ...]) -> Any:
        """Hide what lies in the holes."""
        holes, canvas = plan.boxes.reshape(len(leaf.value), -1, 4), (size[-2], size[-1])
        return self._map_objects(
            leaf,
            lambda own, row, _: objects.cutout_objects(own, holes[row], canvas, self.min_visible),
        )


def _like(new: Tensor, old: Any) -> Tensor:
    wrapped: Tensor = (
        tv_tensors.wrap(new, like=old) if isinstance(old, tv_tensors.TVTensor) else new
    )
    return wrapped


def _side(side: float, full: int) -> int:
    return side if isinstance(side, int) else round(side * full)


def _refuse_pairs(leaf: Leaf) -> None:
    if leaf.role == batches.PAIRED:
        raise ValueError(
            f"the labels at {leaf.where} are PairedLabels, which cannot be mixed a second time; "
            "use targets='soft' in a chain."
        )


def _check_writable(leaf: Leaf) -> None:
    for tensor in leaf.value if isinstance(leaf.value, (list, tuple)) else [leaf.value]:
        if not isinstance(tensor, Tensor):
            continue
        if tensor.requires_grad:
            raise ValueError(
                f"inplace must be False for the images at {leaf.where}, which require gradients."
            )
        if tensor.numel() and any(
            n > 1 and s == 0 for n, s in zip(tensor.shape, tensor.stride(), strict=True)
        ):
            raise ValueError(
                f"inplace must be False for the images at {leaf.where}, whose samples share memory "
                "(an expanded tensor)."
            )
