"""What is known about a batch: options, roles, the spec of each field, and the rules for fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug.engine import plan as plans
from tv_mixaug.engine.apply import Allocate
from tv_mixaug.engine.plan import BLEND, FILL, PASTE, CompactPlan

NumClasses = int | Literal["multi", "regression"] | None
LabelsGetter = Callable[[Any], Any] | Literal["default"] | None
Path = tuple[Any, ...]
# Names, in lower case, of labels and of fields that depend on the pixels.
LABEL_NAMES = ("label", "labels", "target", "targets", "y")
MASK_NAME = re.compile(
    r"(masks?|seg(m|ments?|mentations?|maps?)?|trimaps?|panoptic|\bgts?)(?![a-z])|label|annotation"
)
BOX_NAME = re.compile(r"(b?box(es)?|keypoints?)(?![a-z])")


class PairedLabels(NamedTuple):
    """Mixed labels as two class indices and a weight, for tasks with many classes.

    Attributes:
        labels: (B,) class indices, or (B, K) label rows, of the originals.
        partner_labels: The same of the partners.
        lam: (B,) float32 in [0, 1], the weight of ``labels``; ``partner_labels`` has ``1 - lam``.
    """

    labels: Tensor
    partner_labels: Tensor
    lam: Tensor

    def __repr__(self) -> str:
        return plans.summarize(self)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> PairedLabels:
        """Move the three tensors to a device, as ``Tensor.to`` does."""
        return PairedLabels(*(x.to(device=device, non_blocking=non_blocking) for x in self))


plans.accept_iterable(PairedLabels)


class Role(Enum):
    """What a field is, which decides the rule that mixes it; text names the fields with checks."""

    IMAGE = "images"
    MASK = "masks"
    DETECTION = "targets"
    LABEL = "labels"
    PAIRED = 1  # labels that were mixed before
    CUSTOM = 2  # of a type with a rule of the user
    PASSTHROUGH = 3  # unchanged, as the user asked
    OTHER = 4


# The role that follows from a type; plain tensors have none yet.
TYPE_ROLES = {
    PairedLabels: Role.PAIRED,
    tv_tensors.Mask: Role.MASK,
    tv_tensors.Image: Role.IMAGE,
    tv_tensors.Video: Role.IMAGE,
}


class BatchOptions(NamedTuple):
    """How a transform reads a batch and treats its fields.

    ``ops`` are the operations that its plans may hold. The others are arguments of transforms by
    their names; ``cut`` is None if no boxes are cut.
    """

    num_classes: Any = None
    targets: str = "soft"
    label_smoothing: float = 0.0
    multi_label: bool = False  # smooth each entry towards 0.5, as timm does
    ignore_index: int | None = None
    labels_getter: LabelsGetter = "default"
    passthrough: tuple[str | int, ...] = ()
    layout: str | None = None
    box_format: Any = "xyxy"
    masks: Any = None
    num_mask_classes: int | None = None
    inplace: bool = False
    no_classes: str = "None"  # what an error shows if num_classes is missing
    ops: tuple[int, ...] = ()
    fill: Any = 0.0
    mask_fill: int | None = None
    cut: str | None = None
    min_visible: float = 0.1

    @property
    def mixes(self) -> bool:
        """Whether partners are mixed in, so that labels are needed."""
        return BLEND in self.ops or PASTE in self.ops

    def uses(self, option: str) -> bool:
        """Whether an option has an effect."""
        if option in ("cut", "min_visible"):
            return self.cut is not None
        has_fill = FILL in self.ops or option not in ("fill", "mask_fill")
        return has_fill and option != "no_classes"


def merge_options(
    members: Sequence[tuple[str, BatchOptions]], *, per_rule: Sequence[str] = ()
) -> BatchOptions:
    """Merge the options of named transforms, as strict as the strictest, or raise.

    Options listed in ``per_rule`` may differ, since each transform applies its own.
    """
    first, merged = members[0]
    for name, options in members[1:]:
        before = merged
        for option in BatchOptions._fields:
            old, new = getattr(before, option), getattr(options, option)
            if old == new or option in per_rule or not options.uses(option):
                continue
            if option == "ops":
                new = tuple(op for op in plans.APPLIED if op in old or op in new)
            elif option == "masks" and "soft" not in (old, new):
                new = "dominant"
            elif before.uses(option):
                got = f"{old!r} of {first} and {new!r} of {name}"
                raise ValueError(f"transforms must agree on {option}, got {got}.")
            merged = merged._replace(**{option: new})
    return merged


class FieldSpec(NamedTuple):
    """What is known about one field of all batches with one signature.

    Attributes:
        role: What it is.
        path: The keys and positions that lead to it.
        where: The path as text, such as ``[0]['image']``.
        type: Its class; for a list of images, the class of the images.
        shape: Its shape, for a list of images that of the stack; () if it has none.
        dtype: Its dtype, or None.
        kind: For labels, what they are encoded to: K, "multi", "regression" or None.
        indices: For labels, whether they are class indices.
        axes: For images and masks, the axes that boxes cut, slowest first.
        channel_axis: For images and masks, the axis of the channels; None if there is none.
        is_list: Whether it is a list of images or of detection targets.
    """

    role: Role
    path: Path
    where: str = ""
    type: type = object
    shape: tuple[int, ...] = ()
    dtype: Any = None
    kind: NumClasses = None
    indices: bool = False
    axes: tuple[int, ...] = ()
    channel_axis: int | None = None
    is_list: bool = False

    @property
    def channels(self) -> int:
        """The number of channels."""
        return 1 if self.channel_axis is None else self.shape[self.channel_axis]

    @property
    def name(self) -> str:
        """The nearest key that is text, in lower case; an empty string if there is none."""
        keys = (key.lower() for key in reversed(self.path) if isinstance(key, str))
        return next(keys, "")

    @property
    def has_label_name(self) -> bool:
        """Whether the nearest key that is text is a usual name for labels."""
        return self.name in LABEL_NAMES

    @property
    def is_called_label(self) -> bool:
        """Whether its own key is a name for labels."""
        named = bool(self.path) and isinstance(self.path[-1], str)
        return named and ("label" in self.name or self.has_label_name)

    @property
    def is_plain(self) -> bool:
        """Whether it is a tensor of no tv_tensor class."""
        return issubclass(self.type, Tensor) and not issubclass(self.type, tv_tensors.TVTensor)

    def __str__(self) -> str:
        """Return what it is and where, for errors."""
        dtype = str(self.dtype).removeprefix("torch.")
        traits = "" if self.dtype is None else f" of shape {self.shape} and dtype {dtype}"
        listed = " (listed in passthrough)" * (self.role is Role.PASSTHROUGH)
        return f"a {self.type.__name__}{traits} at {self.where}{listed}"


class ParsedBatch(NamedTuple):
    """A batch as flat fields, and what is known about all batches with its signature.

    Attributes:
        values: The fields in order: tensors, lists of images or of targets, or anything else.
        specs: The spec of each field.
        steps: The index and the rule of each field that is mixed, images last: no image is written
            to if another field cannot be mixed. Samples that are only stacked have no rule.
        length: B.
        size: The sides in pixels that boxes cut: (H, W), perhaps with the time or depth first.
        structure: The batch as given, whose nesting the result has.
        signature: The signature of the batch.
    """

    values: list[Any]
    specs: tuple[FieldSpec, ...]
    steps: tuple[tuple[int, Any], ...]
    length: int
    size: tuple[int, ...]
    structure: Any = None
    signature: Any = None

    @property
    def labels(self) -> Tensor | None:
        """The first labels; None if there are none."""
        return next((value for field, value in self.fields() if field.role is Role.LABEL), None)

    def fields(self) -> Iterator[tuple[FieldSpec, Any]]:
        """Return the spec and the value of each field."""
        return zip(self.specs, self.values, strict=True)


class Mix(NamedTuple):
    """One plan that is applied to one batch.

    Attributes:
        compact: The plan in the form that it is applied in.
        batch: The batch.
        options: The options of the transform.
        inplace: Whether images are written to.
        allocate: Makes the memory of soft labels from their shape and dtype; None for new memory.
    """

    compact: CompactPlan
    batch: ParsedBatch
    options: BatchOptions
    inplace: bool = False
    allocate: Allocate | None = None


class FieldRule(NamedTuple):
    """What is done to one kind of field.

    Attributes:
        mix: Applies a plan to a field: ``mix(value, field, mix) -> value``.
        check: Checks the values of a field in every batch; None if there is nothing to check.
    """

    mix: Callable[[Any, FieldSpec, Mix], Any]
    check: Callable[[Any, FieldSpec, ParsedBatch, BatchOptions], None] | None = None


# The rule for each role, and for each type of field that a user adds.
FIELD_RULES: dict[Role | type, FieldRule] = {}
