"""The way of a batch: read once, a plan drawn once, carried out leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from tv_mixaug import detection
from tv_mixaug.aliases import check_writable
from tv_mixaug.arguments import (
    check_bool,
    check_choice,
    check_integer,
    check_layout,
    check_num_classes,
    check_number,
    check_passthrough,
    check_probability,
    kind_error,
)
from tv_mixaug.execute import Fill, Samples, carry_out
from tv_mixaug.labels import LabelFormat, mix_targets
from tv_mixaug.leaves import (
    LEAF_RULES,
    Batch,
    LabelsGetter,
    Leaf,
    Reader,
    Reading,
    Role,
    put_together,
    rewrap,
    split_objects,
)
from tv_mixaug.masks import check_classes, mix_masks
from tv_mixaug.plans import Plan, Recipe

Mode = Literal["batch", "sample"]
Targets = Literal["soft", "pair"]
Cut = Literal["spatial", "cuboid"]
KindOfLabel = int | Literal["multi", "regression"]
NumClassesArgument = KindOfLabel | Mapping[Any, KindOfLabel] | None
Allocate = Callable[[torch.Size, torch.dtype], Tensor]


class Rules(NamedTuple):
    """Say what the rules of the leaves need to know beside the plan.

    Attributes:
        fill: What filled boxes take in images.
        mask_fill: What they take in masks; None leaves masks as they are.
        masks: What blending makes of masks: "soft", "dominant" or None.
        num_mask_classes: K of soft masks.
        min_visible: Share of a detection object that must stay visible for it to be kept.
    """

    fill: Fill = 0.0
    mask_fill: int | None = None
    masks: str | None = None
    num_mask_classes: int | None = None
    min_visible: float = 0.1


@dataclass(kw_only=True, eq=False, repr=False)
class MixTransform(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Transform a batch by a plan; the abstract base of all transforms here.

    A rule to mix by is a subclass with :meth:`draw`, which draws a :class:`~tv_mixaug.plans.Plan`.

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

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value.
    """

    p: float = 1.0
    mode: Mode = "batch"
    num_classes: NumClassesArgument = None
    label_smoothing: float = 0.0
    targets: Targets = "soft"
    labels_getter: LabelsGetter = "default"
    ignore_index: int | None = None
    passthrough: Sequence[str | int] = ()
    layout: str | None = None
    inplace: bool = False

    def __new__(cls, *_: Any, **__: Any) -> MixTransform:
        """Make a module before its fields are set, so that a field may be a module too."""
        self = super().__new__(cls)
        v2.Transform.__init__(self)
        return self  # type: ignore[no-any-return]

    def __post_init__(self) -> None:
        self.p = check_probability("p", self.p)
        check_choice("mode", self.mode, ("batch", "sample"))
        self.num_classes = check_num_classes(self.num_classes)
        self.label_smoothing = check_number("label_smoothing", self.label_smoothing)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}.")
        check_choice("targets", self.targets, ("soft", "pair"))
        if self.targets == "pair" and self.label_smoothing:
            raise ValueError(
                "label_smoothing must be 0 with targets='pair', got "
                f"{self.label_smoothing}; give it to the criterion instead."
            )
        getter = self.labels_getter
        is_default = isinstance(getter, str) and getter == "default"
        if not (getter is None or is_default or callable(getter)):
            raise kind_error("labels_getter", "'default', a callable or None", getter)
        if isinstance(self.num_classes, Mapping) and not is_default:
            raise ValueError(
                "labels_getter must be 'default' where num_classes names the labels by their keys, "
                f"got {getter!r}."
            )
        if self.ignore_index is not None:
            check_integer("ignore_index", self.ignore_index)
        self.passthrough = check_passthrough(self.passthrough)
        self.layout = check_layout(self.layout)
        check_bool("inplace", self.inplace)
        self._rules = Rules()
        self.reader = Reader(self.reading())

    @property
    def label_format(self) -> LabelFormat:
        """What the transform makes of labels, the same in every batch."""
        return LabelFormat(self.num_classes, self.targets, self.label_smoothing, self.ignore_index)

    def reading(self) -> Reading:
        """Return how batches are to be read: here, as by whoever blends whole images."""
        return Reading(
            form=self.label_format,
            labels_getter=self.labels_getter,
            layout=self.layout,
            cuboid=False,
            passthrough=tuple(self.passthrough),
            need_labels=True,
            one_size=False,
        )

    def check(self, leaf: Leaf, value: Any) -> None:
        """Raise if the rules cannot treat a leaf of this type, shape and dtype."""

    def draw(self, batch: Batch, p: float, generator: Generator | None) -> Recipe | Plan:
        """Draw the plan for a batch that was checked.

        Args:
            batch: The batch, with its ``length``, ``size`` and ``labels``.
            p: The probability to be used.
            generator: Where all random numbers come from; None is torch's own.

        Returns:
            What was drawn, as :func:`~tv_mixaug.plans.make_recipe` makes it, or a plan on the CPU.
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
        return self.run(inputs if len(inputs) != 1 else inputs[0], self.p, self.inplace)[0]

    def mix(
        self,
        batch: Any,
        *,
        p: float | None = None,
        inplace: bool | None = None,
        generator: Generator | None = None,
    ) -> tuple[Any, Plan]:
        """Transform a batch and return the plan with it, as tensors.

        Args:
            batch: The batch, as in :meth:`forward`.
            p: Probability to be used instead of the transform's own.
            inplace: Whether to write into the images, instead of the transform's own choice.
            generator: A CPU generator that all random numbers come from; torch's own by default.

        Returns:
            The transformed batch, and the :class:`~tv_mixaug.plans.Plan` it was made by.

        Raises:
            TypeError: If an argument or something in the batch is of the wrong kind.
            ValueError: If an argument, shapes or labels are wrong.
        """
        p = self.p if p is None else check_probability("p", p)
        inplace = self.inplace if inplace is None else check_bool("inplace", inplace)
        mixed, recipe = self.run(batch, p, inplace, generator)
        return mixed, recipe.plan()

    def run(
        self,
        batch: Any,
        p: float,
        inplace: bool,
        generator: Generator | None = None,
        allocate: Allocate | None = None,
    ) -> tuple[Any, Recipe]:
        """Transform a batch and return what was drawn for it; see :meth:`mix`.

        ``allocate`` makes the memory of soft labels from their shape and dtype.
        """
        read = self._read(batch, inplace)
        recipe = self._draw(read, p, generator)
        return self._carry_out(read, recipe, inplace, allocate), recipe

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the parameters for a flat batch: the plan."""
        read = self._read(flat_inputs, self.inplace)
        return {"plan": self._draw(read, self.p, None).plan()}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Transform one image tensor by the parameters drawn."""
        read = Reader(self.reading()._replace(labels_getter=None)).read(inpt, self.check)
        return self._carry_out(read, Recipe.of(params["plan"]), self.inplace)

    def _draw(self, batch: Batch, p: float, generator: Generator | None) -> Recipe:
        drawn = self.draw(batch, p, generator)
        return Recipe.of(drawn) if isinstance(drawn, Plan) else drawn

    def _read(self, batch: Any, inplace: bool) -> Batch:
        read = self.reader.read(batch, self.check)
        if inplace:
            check_writable(read)
        for leaf, value in read.pairs():
            match leaf.role:  # what a signature cannot tell
                case Role.MASK if self._rules.masks == "soft":
                    count = int(self._rules.num_mask_classes or 0)
                    check_classes(value, count, self.ignore_index, leaf.where)
                case Role.OBJECTS:
                    bare, _ = split_objects(value, self.reader.reading.passthrough)
                    height, width = read.size[-2:]
                    detection.check_objects(bare, (height, width), leaf.where)
        return read

    def _carry_out(
        self, batch: Batch, recipe: Recipe, inplace: bool, allocate: Allocate | None = None
    ) -> Any:
        leaves, values = batch.layout.leaves, batch.values.copy()
        for place in batch.layout.steps:
            values[place] = self._mix_leaf(
                leaves[place], values[place], recipe, batch.size, inplace, allocate
            )
        return put_together(values, batch.structure)

    def _mix_leaf(
        self,
        leaf: Leaf,
        value: Any,
        recipe: Recipe,
        size: tuple[int, ...],
        inplace: bool,
        allocate: Allocate | None,
    ) -> Any:
        """Mix one leaf by the rule of its role."""
        rules = self._rules
        match leaf.role:
            case Role.IMAGE:
                return _mix_images(leaf, value, recipe, rules.fill, inplace)
            case Role.LABEL:
                form = self.reader.reading.form
                return mix_targets(
                    value, recipe, leaf.kind, form, indices=leaf.indices, allocate=allocate
                )
            case Role.MASK:
                plain = value.as_subclass(Tensor)
                mixed = mix_masks(
                    plain, recipe, rules.masks, rules.num_mask_classes, rules.mask_fill
                )
                return value if mixed is plain else rewrap(mixed, value)
            case Role.OBJECTS:
                bare, passed = split_objects(value, self.reader.reading.passthrough)
                objects = detection.mix_objects(bare, recipe.plan(), size[-2:], rules.min_visible)
                joined = [{**own, **rest} for own, rest in zip(objects, passed, strict=True)]
                return joined if isinstance(value, list) else tuple(joined)
            case Role.OWN:
                return LEAF_RULES[type(value)](value, recipe.plan())
        return value.finish(value.stack()) if isinstance(value, Samples) else value


def _mix_images(leaf: Leaf, value: Any, recipe: Recipe, fill: Fill, inplace: bool) -> Any:
    """Mix a tensor, a list of tensors, or samples that are not stacked yet."""
    how = (recipe, fill, leaf.axes, leaf.channel_axis)
    if isinstance(value, Samples):
        return value.finish(carry_out(value, *how))
    if not recipe.ops:
        return value
    if isinstance(value, Tensor):
        plain = value.as_subclass(Tensor) if type(value) is not Tensor else value
        mixed = carry_out(plain, *how, inplace=inplace)
        return value if inplace else rewrap(mixed, value)
    plain_list = [one.as_subclass(Tensor) for one in value]
    mixed = carry_out(torch.stack(plain_list), *how, inplace=True)
    if inplace:
        for old, new in zip(plain_list, mixed, strict=True):
            old.copy_(new)
        return value
    return type(value)(rewrap(new, old) for new, old in zip(mixed.unbind(0), value, strict=True))
