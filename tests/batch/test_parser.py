"""The parser: specs are cached per signature, values are checked each time, getters are found."""

import copy
import gc
import weakref

import pytest
import torch
from helpers.coded import coded_images, shares
from helpers.refusals import refused
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup
from tv_mixaug.batch.parser import MAX_SPECS, BatchParser

COUNT = 5
ALL = pytest.mark.parametrize("kind", [Mixup, CutMix, Cutout])
X, LABELS, IDS = coded_images(COUNT), torch.arange(COUNT), torch.arange(100, 100 + COUNT)


def test_a_spec_is_inferred_once_for_a_signature(monkeypatch):
    """Batches of one signature are inferred once, and their values are checked every time."""
    calls, infer = [], BatchParser._infer
    monkeypatch.setattr(BatchParser, "_infer", lambda *args: calls.append(1) or infer(*args))
    mix = CutMix(num_classes=4)
    for count in (6, 6, 6, 5, 6, 5):
        mix({"image": torch.rand(count, 3, 9, 9), "label": torch.arange(count) % 4})
    assert len(calls) == 2
    batch = {"image": torch.rand(6, 3, 9, 9), "label": torch.full((6,), 4)}
    refused(lambda: mix(batch), "in [0, 4)")
    assert len(calls) == 2


def test_the_number_of_cached_specs_is_bounded():
    """Few signatures are kept, however many come."""
    mix = Mixup(labels_getter=None)
    for side in range(1, 3 * MAX_SPECS):
        mix(torch.zeros(1, 1, 1, side))
    assert len(mix.parser.known) <= MAX_SPECS


@ALL
def test_a_batch_is_released_at_once(kind):
    """No cache and no reference cycle keeps a batch or its result in memory."""
    transform = kind(num_classes=COUNT)
    gc.disable()
    try:
        for _ in range(3):
            batch = {"a": [X.clone(), {"view": X.clone()}], "label": LABELS.clone()}
            out = transform(batch)
            seen = [weakref.ref(b["a"][0]) for b in (batch, out)]
            seen += [weakref.ref(b["label"]) for b in (batch, out)]
            del batch, out
            assert not any(one() is not None for one in seen)
    finally:
        gc.enable()


@ALL
@pytest.mark.parametrize(
    "getter",
    [
        lambda batch: batch["code"],
        lambda batch: batch["code"].view(-1),
        lambda batch: batch["code"][:],
        lambda batch: batch["both"][:, 0],
    ],
    ids=["field", "view", "slice", "column"],
)
def test_a_labels_getter_may_return_a_view(kind, getter):
    """The labels, or a view of a field, replace the field in the batch."""
    batch = {"image": X, "id": IDS, "code": LABELS, "both": torch.stack([LABELS, IDS], 1)}
    out = kind(num_classes=COUNT, labels_getter=getter)(batch)
    key = "code" if out["code"] is not batch["code"] else "both"
    assert all(out[k] is batch[k] for k in batch if k not in ("image", key))
    assert out[key].shape == (COUNT, COUNT)
    if kind is CutMix:
        torch.testing.assert_close(out[key].double(), shares(out["image"]), atol=1e-6, rtol=0)


def test_other_answers_of_a_labels_getter_are_refused():
    """A copy has no place in the batch, and a view needs an entry for each sample."""
    batch, copied = (
        {"image": X, "id": IDS, "label": LABELS},
        "a field of the batch or a view of one",
    )
    for getter, text in (
        (lambda batch: batch["label"] % COUNT, copied),
        (lambda batch: batch["label"].clone(), copied),
        (
            lambda batch: batch["label"][1:],
            "labels at ['label'] must be of the batch's length 5, got (4,)",
        ),
    ):
        transform = CutMix(num_classes=COUNT, labels_getter=getter)
        refused(lambda: transform(batch), text)  # noqa: B023


@ALL
@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("targets", ["soft", "pair"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_empty_batches_have_the_same_format(kind, mode, targets, dtype):
    """With B = 0 every field has the type, dtype and shape of other batches, except for B."""
    images, masks = tv_tensors.Image(X.to(dtype)), torch.randint(3, (COUNT, 8, 8))
    fields = {"thin": tv_tensors.Mask(masks), "deep": tv_tensors.Mask(masks[:, None])}
    rules = [{"masks": "dominant"}, {"masks": "soft", "num_mask_classes": 3}]
    rows = torch.eye(COUNT)
    for rule in rules if kind is Mixup else [{"min_visible": 0.5}]:
        transform = kind(num_classes=COUNT, mode=mode, targets=targets, **rule)
        for labels in (LABELS, LABELS[:, None], rows, rows.long()):
            batch = {"image": images, "view": images, "label": labels, **fields}
            none = {k: v[:0].as_subclass(type(v)) for k, v in batch.items()}
            leaves = map(tree_leaves, (transform(batch), transform(none)))
            for one, other in zip(*leaves, strict=True):
                assert type(one) is type(other)
                assert (one.dtype, one.shape[1:]) == (other.dtype, other.shape[1:])
                assert len(other) == 0


def test_a_copied_parser_has_not_parsed_a_batch():
    """A copy has the options of the parser, and no fields, whose types may not be picklable."""
    transform = CutMix(num_classes=COUNT)
    parser = BatchParser(transform.options)
    parser.parse((X, LABELS))
    other = copy.deepcopy(parser)
    assert len(parser.known) == 1
    assert (other.options, other.members, other.known) == (parser.options, parser.members, {})
