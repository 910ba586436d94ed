"""Parse a batch: flatten it, infer the spec of its signature once, and check its values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tv_mixaug._validation import ensure
from tv_mixaug.batch import tree
from tv_mixaug.batch.infer import Inference
from tv_mixaug.batch.spec import FIELD_RULES, BatchOptions, ParsedBatch
from tv_mixaug.batch.validate import check_writable
from tv_mixaug.engine.sampling import is_traced

# A loader gives two signatures, of full batches and of the last one.
MAX_SPECS = 64


class BatchParser:
    """Parse batches as the options say; what is known about the latest signatures is kept.

    Args:
        options: How batches are read.
        members: The options of each transform that will be applied; by default ``options`` alone.
    """

    def __init__(self, options: BatchOptions, members: Sequence[BatchOptions] = ()) -> None:
        self.options, self.members = options, tuple(members) or (options,)
        self.known: dict[Any, ParsedBatch] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy without signatures, which may hold types that cannot be pickled."""
        return BatchParser, (self.options, self.members)

    def parse(self, batch: Any, *, inplace: bool | None = None) -> ParsedBatch:
        """Flatten a batch, infer what its fields are, and check them; nothing is changed.

        Raises:
            TypeError: If a field is of the wrong kind, or a container cannot be flattened.
            ValueError: If shapes do not agree, labels are out of range or cannot be found, a field
                would be left behind unmixed, or images must not be written to.
        """
        values: list[Any] = []  # list[Any]() cannot be compiled
        if is_traced():  # once per graph, and without a look at values
            signature = tree.flatten(batch, values)
            returned = self._returned_labels(batch, values)
            return self._infer(batch, signature, values, returned)
        try:
            signature = tree.flatten(batch, values)
        except RuntimeError as error:  # of nested tensors, or of Python's limit of recursion
            expected = "batches must hold tensors that have a shape and not contain themselves"
            got = "a nested tensor or a circular batch; pad with torch.nested.to_padded_tensor()"
            raise TypeError(f"{expected}, got {got}.") from error
        returned = self._returned_labels(batch, values)
        key = signature, returned, len(FIELD_RULES)
        if key not in self.known:
            if len(self.known) >= MAX_SPECS:
                self.known.clear()
            found = self._infer(batch, signature, values, returned)
            self.known[key] = found._replace(values=[], structure=None)
        parsed = self.known[key]._replace(values=values, structure=batch)
        for place, rule in parsed.steps:
            if rule and rule.check:
                rule.check(values[place], parsed.specs[place], parsed, self.options)
        if self.options.inplace if inplace is None else inplace:
            check_writable(parsed.fields())
        return parsed

    def _infer(self, batch: Any, signature: Any, values: list[Any], returned: Any) -> ParsedBatch:
        paths = list(tree.field_paths(batch, signature))
        labels = None if returned is None else returned[0]
        found = Inference(paths, values, self.options, labels).infer(self.members)
        return found._replace(structure=batch, signature=signature)

    def _returned_labels(self, batch: Any, values: list[Any]) -> Any:
        """Put the labels that ``labels_getter`` returns into their field, and return its index."""
        getter, name = self.options.labels_getter, "labels_getter"
        if not callable(getter):
            return None
        found = getter(batch)
        expected = "a function that returns a field of the batch or a view of one"
        ensure(isinstance(found, Tensor), name, expected, type(found).__name__, TypeError)
        places = [(one is not found, i) for i, one in enumerate(values) if _shares(one, found)]
        got = f"a copy of shape {tuple(found.shape)}; compute labels in the data set"
        ensure(bool(places), name, expected, got)
        place = min(places)[1]
        values[place] = found
        return place, found.shape, found.dtype


def _shares(field: Any, found: Tensor) -> bool:
    """Whether a field is a tensor with the memory of another one."""
    if not isinstance(field, Tensor) or not found.layout is field.layout is torch.strided:
        return field is found
    same = found.untyped_storage().data_ptr() == field.untyped_storage().data_ptr()
    return field is found or (found.numel() > 0 and same)
