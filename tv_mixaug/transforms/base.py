"""The way of a batch: read once, a plan drawn once, carried out leaf by leaf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast, overload

import torch
from torch import Generator, Tensor
from torch.compiler import assume_constant_result, is_compiling
from torchvision.transforms import v2

from tv_mixaug.targets import detection
from tv_mixaug.batch.aliases import check_writable
from tv_mixaug._validation import (
    check_bool,
    check_choice,
    check_count,
    check_integer,
    check_layout,
    check_num_classes,
    check_number,
    check_passthrough,
    check_probability,
    kind_error,
)
from tv_mixaug.engine.sampling import Source, is_on_device, origin
from tv_mixaug.engine.apply import Allocate, Fill, LazyStack, apply_plan, apply_plan_ragged
from tv_mixaug.targets.labels import LabelFormat, mix_targets
from tv_mixaug.batch.infer import (
    FIELD_RULES,
    ParsedBatch,
    LabelsGetter,
    FieldSpec,
    BatchParser,
    ParseOptions,
    Role,
    rewrap,
    split_objects,
    unwrap,
)
from tv_mixaug.targets.masks import check_classes, mix_masks
from tv_mixaug.batch.tree import unflatten
from tv_mixaug.engine.plan import Plan, CompactPlan, fit_plan

Mode = Literal["batch", "sample"]
Targets = Literal["soft", "pair"]
Cut = Literal["spatial", "cuboid"]
Masks = Literal["soft", "dominant"]
Sizes = Literal["equal", "overlap"]
KindOfLabel = int | Literal["multi", "regression"]
NumClassesArgument = KindOfLabel | Mapping[Any, KindOfLabel] | None
T = TypeVar("T")


class How(NamedTuple):
    """Say how a batch is transformed, beside what is done.

    Attributes:
        inplace: Whether to write into the images; None is the transform's own choice.
        generator: A CPU generator that all random numbers come from; None is torch's own.
        allocate: Makes the memory of soft labels from their shape and dtype.
    """

    inplace: bool | None = None
    generator: Generator | None = None
    allocate: Allocate | None = None


class BatchTransform(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Transform a batch with a probability, and make one label format of its labels.

    The abstract base of rules, of choices between them and of chains.
    """

    p: Any
    label_format: Any
    never: Any = 0.0  # the p with which nothing is done
    recordable: bool = True  # whether a plan says all that is done

    @property
    def title(self) -> str:
        """A short name."""
        return type(self).__name__

    def check_p(self, p: Any) -> Any:
        """Return a probability in the form of ``p``, checked.

        Raises:
            TypeError: If it is of the wrong kind.
            ValueError: If it is out of range.
        """
        return check_probability("p", p)

    def choose(self, p: Any, generator: Source) -> tuple[BatchTransform, Any]:
        """Return what is to be applied to a batch, and with which probability."""
        return self, p

    def run(self, batch: Any, p: Any, how: How) -> tuple[Any, CompactPlan | None]:
        """Transform a batch and return what was drawn for it.

        Args:
            batch: The batch, as in :meth:`forward`.
            p: A probability that was checked.
            how: How it is done.

        Returns:
            The transformed batch, and what was drawn; None where that cannot be told.
        """
        raise NotImplementedError

    if TYPE_CHECKING:

        @overload
        def __call__(self, batch: T, /) -> T: ...
        @overload
        def __call__(self, *batch: Any) -> tuple[Any, ...]: ...
        def __call__(self, *batch: Any) -> Any:
            """Transform a batch; see :meth:`forward`."""

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
        return self.run(inputs if len(inputs) != 1 else inputs[0], self.p, How())[0]

    def mix(
        self,
        batch: T,
        *,
        p: Any = None,
        inplace: bool | None = None,
        generator: Generator | None = None,
    ) -> tuple[T, Plan]:
        """Transform a batch and return the plan with it, as tensors.

        Args:
            batch: The batch, as in :meth:`forward`.
            p: Probability to be used instead of the transform's own.
            inplace: Whether to write into the images, instead of the transform's own choice.
            generator: A CPU generator that all random numbers come from; torch's own by default.

        Returns:
            The transformed batch, and the :class:`~tv_mixaug.engine.plan.Plan` it was made by; from a
            :class:`~tv_mixaug.Chain`, which no plan can describe, the one that does nothing.

        Raises:
            TypeError: If an argument or something in the batch is of the wrong kind.
            ValueError: If an argument, shapes or labels are wrong, or there is no plan that could
                say what is done.
        """
        if inplace is not None:
            check_bool("inplace", inplace)
        chosen = self.p if p is None else self.check_p(p)
        mixed, recipe = self.run(batch, chosen, How(inplace, generator))
        if recipe is None:
            raise ValueError(f"mix() needs a transform that has a plan, got {self.title}.")
        return mixed, recipe.plan()

    def draw_plan(
        self,
        batch: Any,
        *,
        device: torch.device | str | None = None,
        p: Any = None,
        generator: Generator | None = None,
    ) -> Plan:
        """Draw the plan for a batch and leave the batch alone; ``functional.replay`` uses it.

        So two views, or a student and a teacher, are mixed by one plan.

        Args:
            batch: The batch, as in :meth:`forward`.
            device: Where the plan is drawn and lies. On a device nothing waits and nothing is
                copied, unless a rule draws with NumPy. By default that of ``generator``, or the
                host; inside ``torch.compile`` that of the images.
            p: Probability to be used instead of the transform's own.
            generator: Where random numbers come from, on that device; torch's own by default.

        Raises:
            TypeError: If an argument or something in the batch is of the wrong kind.
            ValueError: If an argument, shapes or labels are wrong.

        Example:
            >>> from tv_mixaug import CutMix
            >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
            >>> CutMix(num_classes=4).draw_plan((images, labels)).partner.shape
            torch.Size([4])
        """
        source: Source = generator
        if device is not None:
            wanted = torch.device(device)
            if generator is not None and generator.device.type != wanted.type:
                raise ValueError(f"generator must be on {wanted}, got one on {generator.device}.")
            if generator is None and wanted.type != "cpu":
                source = wanted
        rule, chosen = self.choose(self.p if p is None else self.check_p(p), source)
        if not isinstance(rule, MixTransform):
            raise ValueError(f"draw_plan() needs a transform that has a plan, got {rule.title}.")
        read = rule._read(batch, False)
        source = _source_in_graph(read, source) if is_compiling() else source
        recipe = rule._draw(read, chosen, source)
        if is_on_device(source) and recipe.unknown is None:  # the rule draws on the host
            return recipe.on(origin(source)["device"])
        return recipe.plan()


@dataclass(kw_only=True, eq=False, repr=False)
class MixTransform(BatchTransform):
    """Transform a batch by a plan; the abstract base of all rules here.

    A rule to mix by is a subclass with :meth:`draw`, which draws a :class:`~tv_mixaug.engine.plan.Plan`.

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
            :class:`~tv_mixaug.targets.labels.PairedLabels`.
        labels_getter: ``"default"`` finds the labels by their key ("labels", "label", "target", …)
            or else by what fits, where several that fit are an error; a function of
            the batch returns them; None says that there are none.
        ignore_index: Class index of samples, and value of mask pixels, without a label.
        masks: What becomes of segmentation masks, in every batch: None or ``"dominant"``: class
            ids, cut as the images are and, where images are blended, the mask of the larger weight
            with ``"dominant"`` and an error with None; ``"soft"``: (B, K, H, W) float32 planes.
        num_mask_classes: K of ``masks="soft"``.
        passthrough: Keys or positions of tensors that are to be left as they are.
        layout: The axes of plain image tensors, B first, for example ``"BCDHW"`` for volumes;
            None for (B, C, H, W) and (B, T, C, H, W).
        sizes: ``"equal"``: all images of a list have one size; ``"overlap"``: they may differ. They
            then lie with their upper left corners on each other, keep their sizes and are mixed
            where both have pixels; labels count the pixels of the own image. Boxes are drawn for
            each image then, with ``mode="batch"`` too.
        box_format: How the boxes of detection targets are written in plain tensors: ``"xyxy"``,
            ``"xywh"`` or ``"cxcywh"`` in pixels, or ``"cxcywh_normalised"`` in shares of the width
            and height, as the DETR family has them; ``BoundingBoxes`` know their format.
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
    masks: Masks | None = None
    num_mask_classes: int | None = None
    passthrough: Sequence[str | int] = ()
    layout: str | None = None
    sizes: Sizes = "equal"
    box_format: detection.BoxFormat = "xyxy"
    inplace: bool = False
    # What filled boxes take, and what of an object has to be seen: arguments where boxes are cut.
    fill = cast(Any, 0.0)
    mask_fill = cast(Any, None)
    min_visible = cast(Any, 0.1)

    def __new__(cls, *_: Any, **__: Any) -> MixTransform:
        """Make a module before its fields are set, so that a field may be a module too."""
        self = super().__new__(cls)
        v2.Transform.__init__(self)
        return self  # type: ignore[no-any-return]

    def __post_init__(self) -> None:
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
        if self.masks is not None:
            check_choice("masks", self.masks, ("soft", "dominant"))
        if self.num_mask_classes is not None:
            check_count("num_mask_classes", self.num_mask_classes)
        elif self.masks == "soft":
            raise ValueError("num_mask_classes must be given with masks='soft', got None.")
        self.passthrough = check_passthrough(self.passthrough)
        self.layout = check_layout(self.layout)
        check_choice("sizes", self.sizes, ("equal", "overlap"))
        check_choice("box_format", self.box_format, detection.BOX_FORMATS)
        check_bool("inplace", self.inplace)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an argument; before the next batch all are checked again and reach every rule.

        ``p``, which may change from epoch to epoch, is checked at once and concerns no other.
        """
        if name == "p":
            super().__setattr__(name, self.check_p(value))
        else:
            super().__setattr__(name, value)
            self.__dict__.pop("_reader", None)

    @property
    def reader(self) -> BatchParser:
        """What reads batches as the arguments say; made once."""
        self._make_reader()
        reader: BatchParser = self.__dict__["_reader"]
        return reader

    # It runs as it is while a graph is traced, and is no part of it. torch has no type for that.
    @assume_constant_result  # type: ignore[untyped-decorator]
    def _make_reader(self) -> None:
        if "_reader" not in self.__dict__:
            self.__post_init__()
            self.__dict__["_reader"] = BatchParser(self.reading())

    @property
    def label_format(self) -> LabelFormat:
        """What the transform makes of labels, the same in every batch."""
        return LabelFormat(self.num_classes, self.targets, self.label_smoothing, self.ignore_index)

    def reading(self) -> ParseOptions:
        """Return how batches are to be read: here, as by whoever blends whole images."""
        return ParseOptions(
            form=self.label_format,
            labels_getter=self.labels_getter,
            layout=self.layout,
            cuboid=False,
            passthrough=tuple(self.passthrough),
            need_labels=True,
            one_size=False,
            unequal=self.sizes == "overlap",
        )

    def check(self, leaf: FieldSpec, value: Any) -> None:
        """Raise if the rules cannot treat a leaf of this type, shape and dtype."""

    def draw(self, batch: ParsedBatch, p: float, generator: Source) -> CompactPlan | Plan:
        """Draw the plan for a batch that was checked.

        Args:
            batch: The batch, with its ``length``, ``size`` and ``labels``.
            p: The probability to be used.
            generator: Where all random numbers come from; None is torch's own. A device, or a
                generator of one, asks for tensors there.

        Returns:
            What was drawn, as :func:`~tv_mixaug.engine.plan.make_plan` makes it, or a plan on the CPU.
        """
        raise NotImplementedError

    def run(self, batch: Any, p: Any, how: How) -> tuple[Any, CompactPlan]:
        """Transform a batch and return what was drawn for it; see :class:`BatchTransform`."""
        inplace = self.inplace if how.inplace is None else how.inplace
        read = self._read(batch, inplace)
        source = _source_in_graph(read, how.generator) if is_compiling() else how.generator
        recipe = self._draw(read, p, source)
        return self._carry_out(read, recipe, inplace, how.allocate), recipe

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the parameters for a flat batch: the plan."""
        read = self._read(flat_inputs, self.inplace)
        return {"plan": self._draw(read, self.p, None).plan()}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Transform one image tensor by the parameters drawn."""
        read = BatchParser(self.reading()._replace(labels_getter=None)).read(inpt, self.check)
        return self._carry_out(read, CompactPlan.of(params["plan"]), self.inplace)

    def _draw(self, batch: ParsedBatch, p: Any, generator: Source) -> CompactPlan:
        drawn = self.draw(batch, p, generator)
        recipe = CompactPlan.of(drawn) if isinstance(drawn, Plan) else drawn
        if batch.layout.sizes:
            return CompactPlan.of(fit_plan(recipe.plan(), batch.sizes))
        return recipe

    def _read(self, batch: Any, inplace: bool) -> ParsedBatch:
        read = self.reader.read(batch, self.check)
        if inplace and not is_compiling():
            check_writable(read)
        for place in read.layout.valued:
            leaf, value = read.layout.leaves[place], read.values[place]
            match leaf.role:
                case Role.MASK if self.masks == "soft" and not is_compiling():
                    count = int(self.num_mask_classes or 0)
                    check_classes(value, count, self.ignore_index, leaf.where)
                case Role.DETECTION if not is_compiling():
                    bare, _ = split_objects(value, self.passthrough)
                    detection.check_objects(bare, read.sizes, leaf.where, self.box_format)
        return read

    def _carry_out(
        self, batch: ParsedBatch, recipe: CompactPlan, inplace: bool, allocate: Allocate | None = None
    ) -> Any:
        """Mix each leaf by the rule of its role."""
        values, form = batch.values, self.reader.reading.form
        for place in batch.layout.steps:
            leaf, value = batch.layout.leaves[place], values[place]
            match leaf.role:
                case Role.IMAGE:
                    mixed = _mix_images(leaf, value, recipe, self.fill, inplace)
                case Role.LABEL:
                    given = value, recipe, leaf.kind, form
                    mixed = mix_targets(*given, indices=leaf.indices, allocate=allocate)
                case Role.MASK:
                    plain, count = unwrap(value), self.num_mask_classes
                    new = mix_masks(plain, recipe, self.masks, count, self.mask_fill)
                    mixed = value if new is plain else rewrap(new, value)
                case Role.DETECTION:
                    bare, passed = split_objects(value, self.passthrough)
                    plan, sizes, least = recipe.plan(), batch.sizes, self.min_visible
                    objects = detection.mix_objects(bare, plan, sizes, least, self.box_format)
                    joined = [{**own, **rest} for own, rest in zip(objects, passed, strict=True)]
                    mixed = joined if isinstance(value, list) else tuple(joined)
                case Role.CUSTOM:
                    mixed = FIELD_RULES[type(value)](value, recipe.plan())
                case _:  # samples of something else, which were not stacked yet
                    mixed = value.finish(value.stack())
            values[place] = mixed
        return unflatten(values, batch.structure)


def _mix_images(leaf: FieldSpec, value: Any, recipe: CompactPlan, fill: Fill, inplace: bool) -> Any:
    """Mix a tensor, a list of tensors, or samples that are not stacked yet."""
    how = (recipe, fill, leaf.axes, leaf.channel_axis)
    if isinstance(value, LazyStack):
        return value.finish(apply_plan(value, *how))
    if not recipe.ops:
        return value
    if isinstance(value, Tensor):
        mixed = apply_plan(unwrap(value), *how, inplace=inplace)
        return value if inplace else rewrap(mixed, value)
    plain_list = [unwrap(one) for one in value]
    if len({one.shape for one in plain_list}) > 1:
        parts = apply_plan_ragged(plain_list, *how)
    else:
        parts = list(apply_plan(torch.stack(plain_list), *how, inplace=True).unbind(0))
    if inplace:
        for old, new in zip(plain_list, parts, strict=True):
            old.copy_(new)
        return value
    return type(value)(rewrap(new, old) for new, old in zip(parts, value, strict=True))


def _source_in_graph(batch: ParsedBatch, source: Source) -> torch.device:
    """Return where a compiled graph draws: on the images' device, from its own stream."""
    if isinstance(source, torch.device):
        return source
    if source is not None:
        raise ValueError("generator must be None inside torch.compile, which has its own stream.")
    leaf = next((leaf for leaf in batch.layout.leaves if leaf.role is Role.DETECTION), None)
    if leaf is not None:
        raise TypeError(
            f"the detection targets at {leaf.where} cannot be mixed inside torch.compile, since "
            "their number changes; mix them in the loader."
        )
    if batch.layout.sizes:
        raise TypeError("images of unequal size cannot be mixed inside torch.compile.")
    image: Any = next(value for leaf, value in batch.pairs() if leaf.role is Role.IMAGE)
    return unwrap(image[0] if isinstance(image, (list, tuple)) else image).device
