"""Base classes: parse a batch, sample a plan, apply it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from tv_mixaug import _validation as validation
from tv_mixaug._tv_tensors import unwrap
from tv_mixaug._validation import checked, ensure, optional
from tv_mixaug.batch.parser import BatchParser
from tv_mixaug.batch.spec import BatchOptions, LabelsGetter, Mix, ParsedBatch, Role
from tv_mixaug.batch.tree import unflatten
from tv_mixaug.engine import sampling
from tv_mixaug.engine.apply import Allocate
from tv_mixaug.engine.plan import BLEND, PASTE, CompactPlan, Plan, compact
from tv_mixaug.engine.sampling import Source, TracingError, is_traced, leave_graph
from tv_mixaug.targets.detection import BOX_FORMATS, BoxFormat
from tv_mixaug.targets.rules import mix_fields

Mode = Literal["batch", "sample"]
Targets = Literal["soft", "pair"]
Cut = Literal["spatial", "cuboid"]
Masks = Literal["soft", "dominant"]
KindOfLabel = int | Literal["multi", "regression"]
NumClassesArgument = KindOfLabel | Mapping[Any, KindOfLabel] | None


if TYPE_CHECKING:
    Transform = torch.nn.Module  # torchvision has no types, so its class would accept any argument
else:
    Transform = v2.Transform


class BatchTransform(Transform):
    """Transform a batch with a probability, and give its labels one format.

    The abstract base class of rules, of choices between them and of chains.
    """

    fixed: ClassVar[tuple[str, ...]] = ()  # attributes that cannot be set again
    p: Any
    options: Any  # how batches are read and treated; None for transforms of others
    disabled_p: Any = 0.0  # the p that switches the transform off
    has_plan: bool = True  # whether a plan describes all that is done

    @property
    def display_name(self) -> str:
        """A short name."""
        return type(self).__name__

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; ``p`` is checked."""
        if name in self.fixed and name in self.__dict__:
            raise AttributeError(f"{name} cannot be set; make a new {type(self).__name__}.")
        super().__setattr__(name, self.check_p(value) if name == "p" else value)

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments that differ from the defaults of the constructor."""
        kinds = [kind for kind in reversed(type(self).__mro__) if issubclass(kind, BatchTransform)]
        usual = {n: one.default for kind in kinds for n, one in signature(kind).parameters.items()}
        given = {name: getattr(self, name) for name in usual if hasattr(self, name)}
        return {n: v for n, v in given.items() if v is not usual[n] and v != usual[n]}

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({given})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BatchTransform) or type(self) is not type(other):
            return NotImplemented
        try:
            return self._arguments() == other._arguments()
        except (RuntimeError, ValueError):  # from tensors and arrays
            return self is other

    def __hash__(self) -> int:
        return hash(type(self))  # stays when an argument is set

    def check_p(self, p: Any) -> Any:
        """Return a probability in the form of ``p``, checked."""
        return validation.check_probability("p", p)

    def choose(self, p: Any, source: Source) -> tuple[BatchTransform, Any]:
        """Return the transform that is applied to the next batch, and its probability."""
        return self, p

    def run(self, batch: Any, p: Any, **how: Any) -> tuple[Any, CompactPlan | None]:
        """Transform a batch with a checked ``p``; the plan is None if none describes the result.

        ``inplace`` and ``generator`` are those of :meth:`mix`; ``allocate`` makes label memory.
        """
        raise NotImplementedError

    if TYPE_CHECKING:
        # Labels may become PairedLabels, so that their type is Any.
        @overload
        def __call__(self, images: Tensor, /) -> Tensor: ...
        @overload
        def __call__(self, batch: tuple[Tensor, Any], /) -> tuple[Tensor, Any]: ...
        @overload
        def __call__(self, images: Tensor, labels: Any, /) -> tuple[Tensor, Any]: ...
        @overload
        def __call__(self, *batch: Any) -> Any: ...
        def __call__(self, *batch: Any) -> Any:
            """Transform a batch; see :meth:`forward`."""

    @leave_graph
    def forward(self, *inputs: Any) -> Any:
        """Transform a batch.

        Args:
            *inputs: The batch in any nesting of tuples, lists, dicts and namedtuples: images
                (B, C, H, W), videos (B, T, C, H, W), masks (B, H, W) or (B, 1, H, W), labels (B,)
                or (B, K), lists of detection targets. Everything else stays unchanged.

        Returns:
            The batch in the same nesting. The inputs are not changed unless ``inplace``.

        Raises:
            TypeError: If a field of the batch is of the wrong kind.
            ValueError: If shapes or labels are wrong, or a tensor would be left behind unmixed.
        """
        return self.run(inputs if len(inputs) != 1 else inputs[0], self.p)[0]

    @leave_graph
    def mix(
        self,
        batch: Any,
        *,
        p: Any = None,
        inplace: bool | None = None,
        generator: Generator | None = None,
    ) -> tuple[Any, Plan]:
        """Transform a batch, and return the plan with it.

        Args:
            batch: The batch, as in :meth:`forward`.
            p: Probability to use instead of the transform's own.
            inplace: Whether to write into the images, instead of the transform's own choice.
            generator: A CPU generator that all random numbers come from; by default torch's own.

        Returns:
            The transformed batch and its :class:`~tv_mixaug.engine.plan.Plan`.

        Raises:
            TypeError: If an argument or a field of the batch is of the wrong kind.
            ValueError: If an argument, shapes or labels are wrong, or no plan describes what the
                transform does.
        """
        optional("inplace", inplace, validation.check_bool)
        p = self.check_p(self.p if p is None else p)
        mixed, plan = self.run(batch, p, inplace=inplace, generator=generator)
        if plan is None:
            raise self._no_plan("mix()")
        return mixed, plan.plan()

    @leave_graph
    def draw_plan(
        self,
        batch: Any,
        *,
        device: torch.device | str | None = None,
        p: Any = None,
        generator: Generator | None = None,
    ) -> Plan:
        """Sample the plan for a batch, which stays unchanged; ``functional.replay`` applies it.

        Two views, or a student and a teacher, can be mixed by one plan.

        Args:
            batch: The batch, as in :meth:`forward`.
            device: The device on which the plan is sampled; nothing waits for it and nothing is
                copied, unless a rule samples with NumPy. The default is that of ``generator``, or
                the CPU; inside ``torch.compile`` that of the images.
            p: Probability to use instead of the transform's own.
            generator: The generator, on that device; by default torch's own.

        Raises:
            TypeError: If an argument or a field of the batch is of the wrong kind.
            ValueError: If an argument, shapes or labels are wrong, or no plan describes what the
                transform does.

        Example:
            >>> from tv_mixaug import CutMix
            >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
            >>> CutMix(num_classes=4).draw_plan((images, labels)).partner.shape
            torch.Size([4])
        """
        source: Source = generator
        if device is not None:
            wanted = torch.device(device)
            found = wanted if generator is None else generator.device
            ensure(found.type == wanted.type, "generator", f"on {wanted}", f"one on {found}")
            source = wanted if generator is None and wanted.type != "cpu" else generator
        reader, p = self.choose(self.check_p(self.p if p is None else p), source)
        if not isinstance(reader, MixTransform):
            raise reader._no_plan("draw_plan()")
        parsed = reader.parser.parse(batch)
        source = _source_in_graph(parsed, source) if is_traced() else source
        where = torch.device(sampling.sampling_kwargs(source)["device"])
        rule: Any
        rule, p = reader.choose(p, source)
        plan: CompactPlan = rule.sample_plan(parsed, p, source)
        return plan.on(where)

    def _no_plan(self, method: str) -> ValueError:
        return ValueError(f"{method} is not available for {self.display_name}, which has no plan.")


@dataclass(kw_only=True, eq=False, repr=False)
class MixTransform(BatchTransform):
    """Mix a batch by a plan; the abstract base class of rules.

    A rule is a dataclass with its own arguments, ``ops`` and :meth:`sample`. Arguments named
    ``cut``, ``min_visible``, ``fill`` and ``mask_fill`` decide how its boxes are applied.

    Args:
        p: **Everyday:** the probability that the batch (``mode="batch"``) or a sample
            (``mode="sample"``) is transformed, in [0, 1].
        mode: ``"batch"``: one draw for the batch; ``"sample"``: one for each sample.
        num_classes: K > 0 for class indices; ``"multi"`` for (B, K) multi-hot rows,
            ``"regression"`` for real targets, which are mixed linearly; a mapping from label key or
            position to one of these if there are several labels; None if labels are (B, K) rows or
            there are none.
        label_smoothing: Share of each original label spread over all K classes before mixing, in
            [0, 1).
        targets: ``"soft"`` for (B, K) float32 labels, ``"pair"`` for
            :class:`~tv_mixaug.PairedLabels`.
        labels_getter: ``"default"`` finds labels by their key ("labels", "label", "target", ...) or
            by what fits, and raises if several fit; a function of the batch returns them, or a view
            of them; None if there are none.
        masks: **Masks and boxes:** the format of masks in every batch. None or ``"dominant"``:
            class ids, cut as images are; where images are blended, the mask of the larger weight
            with ``"dominant"`` and an error with None. ``"soft"``: (B, K, H, W) float32 planes.
        num_mask_classes: K of ``masks="soft"``.
        ignore_index: Class index of samples, and value of mask pixels, without a label.
        box_format: The format of detection boxes in plain tensors: ``"xyxy"``, ``"xywh"`` or
            ``"cxcywh"`` in pixels, or ``"cxcywh_normalised"`` in shares of width and height;
            ``BoundingBoxes`` have their own.
        layout: **Layout and advanced:** the axes of plain image tensors, B first, for example
            ``"BCDHW"`` for volumes; None for (B, C, H, W) and (B, T, C, H, W).
        passthrough: Keys or positions of fields that stay unchanged.
        inplace: Whether to write the result into the given images.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument has a wrong value.
    """

    fixed = BatchOptions._fields
    ops: ClassVar[tuple[int, ...]] = (BLEND, PASTE)  # operations that its plans may hold
    modes: ClassVar[tuple[str, ...]] = ("batch", "sample")
    parser: ClassVar[Any]  # the BatchParser for the rule's batches, of each instance

    p: float = 1.0
    mode: Mode = "batch"
    num_classes: NumClassesArgument = checked(None, validation.check_num_classes)
    label_smoothing: float = checked(0.0, validation.check_number, "[0, 1)")
    targets: Targets = checked("soft", validation.check_choice, ("soft", "pair"))
    labels_getter: LabelsGetter = checked("default", validation.check_labels_getter)
    masks: Masks | None = checked(None, optional, validation.check_choice, ("soft", "dominant"))
    num_mask_classes: int | None = checked(None, optional, validation.check_integer, 1)
    ignore_index: int | None = checked(None, optional, validation.check_integer)
    box_format: BoxFormat = checked("xyxy", validation.check_choice, BOX_FORMATS)
    layout: str | None = checked(None, validation.check_layout)
    passthrough: Sequence[str | int] = checked((), validation.check_passthrough)
    inplace: bool = checked(False, validation.check_bool)

    def __init_subclass__(cls) -> None:
        """Add the shared arguments to the docstring of a rule that documents its own."""
        own, example, rest = (cls.__doc__ or "").partition("\n    Example:")
        shared = (MixTransform.__doc__ or "").partition("    Args:\n")[2].rstrip()
        if "    Args:\n" in own and "    Raises:\n" not in own:
            cls.__doc__ = f"{own.rstrip()}\n{shared}\n    {example}{rest}"

    def __post_init__(self) -> None:
        self.check_arguments()
        names = (name for name in BatchOptions._fields if hasattr(self, name))
        options = BatchOptions(**{name: getattr(self, name) for name in names})
        self.__dict__["parser"] = BatchParser(options)

    def check_arguments(self) -> None:
        """Raise unless the arguments agree; each one was checked when it was set."""
        validation.check_choice("mode", self.mode, self.modes)
        if self.targets == "pair":
            got = f"{self.label_smoothing}; give it to the criterion instead"
            ensure(not self.label_smoothing, "label_smoothing", "0 with targets='pair'", got)
        kinds: Any = self.num_classes
        kinds = {*kinds.values()} if isinstance(kinds, Mapping) else {kinds}
        smooths = kinds != {"regression"} or not self.label_smoothing
        ensure(smooths, "label_smoothing", "0 for regression targets", self.label_smoothing)
        if isinstance(self.num_classes, Mapping):
            expected = "'default' if num_classes names the labels by their keys"
            ensure(self.labels_getter == "default", "labels_getter", expected, self.labels_getter)
        has_count = self.masks != "soft" or self.num_mask_classes is not None
        ensure(has_count, "num_mask_classes", "given with masks='soft'", None)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set and check an argument; a wrong one leaves the value before."""
        if "_modules" not in self.__dict__:  # a module before its fields, which may be modules
            v2.Transform.__init__(self)
        before, field = self.__dict__.get(name), type(self).__dataclass_fields__.get(name)
        if field and "check" in field.metadata:
            check, options = field.metadata["check"]
            value = check(name, value, *options)
        super().__setattr__(name, value)
        if "parser" in self.__dict__:
            try:
                self.check_arguments()
            except (TypeError, ValueError):
                self.__dict__[name] = before
                raise

    @property
    def options(self) -> BatchOptions:
        """How the rule reads a batch and treats its fields."""
        return self.parser.options  # type: ignore[no-any-return]

    @property
    def no_classes(self) -> str:
        """What an error shows if ``num_classes`` is missing, as in ``CutMix(10)``."""
        alpha = getattr(self, "alpha", None) if self.num_classes is None else None
        meant = f"{alpha:.0f}" if isinstance(alpha, float) and alpha.is_integer() else "1"
        return "None" if meant in "01" else f"None and alpha = {meant}; write num_classes={meant}"

    def sample(self, batch: ParsedBatch, p: float, source: Source) -> CompactPlan | Plan:
        """Sample the plan for a batch.

        Args:
            batch: The parsed batch, with its ``length``, ``size`` and ``labels``.
            p: The probability.
            source: The source of random numbers, as in :mod:`tv_mixaug.engine.sampling`.

        Returns:
            The plan, as :func:`~tv_mixaug.engine.plan.make_plan` builds it, or a
            :class:`~tv_mixaug.engine.plan.Plan` on the CPU.
        """
        raise NotImplementedError

    def sample_plan(self, batch: ParsedBatch, p: Any, source: Source) -> CompactPlan:
        """Sample the plan for a batch."""
        plan = compact(self.sample(batch, p, source))
        plan.size = batch.size
        return plan

    def run(self, batch: Any, p: Any, **how: Any) -> tuple[Any, CompactPlan]:
        """Parse a batch, sample a plan, and apply it; see :class:`BatchTransform`."""
        parsed = self.parser.parse(batch, inplace=how.get("inplace"))
        source = how.pop("generator", None)
        source = _source_in_graph(parsed, source) if is_traced() else source
        mixed, plan = self.mix_parsed(parsed, p, source, **how)
        return unflatten(mixed), plan

    def mix_parsed(
        self,
        batch: ParsedBatch,
        p: Any,
        source: Source,
        inplace: bool | None = None,
        allocate: Allocate | None = None,
    ) -> tuple[ParsedBatch, CompactPlan]:
        """Sample a plan for a parsed batch, and mix its fields."""
        rule: Any
        rule, p = self.choose(p, source)
        plan, options = rule.sample_plan(batch, p, source), rule.parser.options
        inplace = options.inplace if inplace is None else inplace
        return mix_fields(Mix(plan, batch, options, inplace, allocate)), plan


def _source_in_graph(batch: ParsedBatch, source: Source) -> torch.device:
    """Return where a graph and torch.func sample: on the images' device, with its generator."""
    if isinstance(source, torch.device):
        return source
    where = "inside torch.compile and torch.func"
    ensure(source is None, "generator", f"None {where}", "one", TracingError)
    for field in batch.specs:
        mixable = field.role is not Role.DETECTION
        name = f"targets at {field.where}"
        got = "detection targets, whose number changes"
        ensure(mixable, name, f"mixed in the DataLoader and not {where}", got, TracingError)
    image: Any = next(value for field, value in batch.fields() if field.role is Role.IMAGE)
    return unwrap(image[0] if isinstance(image, (list, tuple)) else image).device
