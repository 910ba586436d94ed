"""Parse a batch: flatten it, infer the spec of its signature once, and check its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tv_mixaug.batch import tree
from tv_mixaug.batch.infer import infer_spec
from tv_mixaug.batch.spec import FIELD_RULES, BatchOptions, BatchSpec, ParsedBatch, rule_of
from tv_mixaug.batch.validate import check_writable

# A loader gives two signatures, of full batches and of the last one.
MAX_SPECS = 64


class BatchParser:
    """Parse batches as the options say; the specs of the latest signatures are kept.

    Args:
        options: How batches are read.
        members: The options of each transform that will be applied; by default ``options`` alone.
    """

    def __init__(self, options: BatchOptions, members: Sequence[BatchOptions] = ()) -> None:
        self.options, self.members = options, tuple(members) or (options,)
        self.specs: dict[Any, BatchSpec] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy without specs, whose keys may be types that cannot be pickled."""
        return BatchParser, (self.options, self.members)

    def parse(self, batch: Any, *, inplace: bool | None = None) -> ParsedBatch:
        """Flatten a batch, infer what its fields are, and check them; nothing is changed.

        Args:
            batch: The batch.
            inplace: Whether its images will be written to; None as the options say.

        Raises:
            TypeError: If a field is of the wrong kind, or a container cannot be flattened.
            ValueError: If shapes do not agree, labels are out of range or cannot be found, a field
                would be left behind unmixed, or images must not be written to.
        """
        values: list[Any] = []  # list[Any]() cannot be compiled
        if torch.compiler.is_compiling():  # once per graph, and without a look at values
            signature = tree.flatten(batch, values)
            returned = self._returned_labels(batch, values)
            return ParsedBatch(
                values, self._infer(batch, signature, values, returned), batch, signature
            )
        try:
            signature = tree.flatten(batch, values)
        except RecursionError:
            raise ValueError("batches must not contain themselves, got one that does.") from None
        except RuntimeError as error:  # raised by torch for nested tensors
            raise TypeError(
                "batches must hold tensors that have a shape, got a nested one; pad it with "
                "torch.nested.to_padded_tensor()."
            ) from error
        returned = self._returned_labels(batch, values)
        key = signature, returned, len(FIELD_RULES)
        spec = self.specs.get(key)
        if spec is None:
            spec = self._infer(batch, signature, values, returned)
            if len(self.specs) >= MAX_SPECS:
                self.specs.clear()
            self.specs[key] = spec
        parsed = ParsedBatch(values, spec, batch, signature)
        for place in spec.steps:
            rule = rule_of(spec.fields[place])
            if rule and rule.check:
                rule.check(values[place], spec.fields[place], parsed, self.options)
        if self.options.inplace if inplace is None else inplace:
            check_writable(parsed.fields())
        return parsed

    def _infer(self, batch: Any, signature: Any, values: list[Any], returned: Any) -> BatchSpec:
        place = None if returned is None else returned[0]
        return infer_spec(batch, signature, values, self.options, self.members, place)

    def _returned_labels(self, batch: Any, values: list[Any]) -> Any:
        """Put the labels that ``labels_getter`` returns into their field, and return its index."""
        getter = self.options.labels_getter
        if not callable(getter):
            return None
        found = getter(batch)
        if not isinstance(found, Tensor):
            raise TypeError(f"labels_getter must return a tensor, got {type(found).__name__}.")
        places = [i for i, value in enumerate(values) if value is found]
        places = places or [i for i, value in enumerate(values) if _is_view(found, value)]
        if not places:
            raise ValueError(
                "labels_getter must return a field of the batch or a view of one, got a tensor of "
                f"shape {tuple(found.shape)} that is neither; compute labels in the data set."
            )
        values[places[0]] = found
        return places[0], found.shape, found.dtype


def _is_view(found: Tensor, field: Any) -> bool:
    if not isinstance(field, Tensor) or not found.layout is field.layout is torch.strided:
        return False
    memory = found.untyped_storage().data_ptr()
    return found.numel() > 0 and memory == field.untyped_storage().data_ptr()
