"""Odd tensors and containers: what cannot be mixed is refused in words, what can be is mixed."""

import collections
import contextlib
import copy
import gc

import pytest
import torch
from helpers.refusals import refused
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup, functional, make_collate_fn

COUNT, K = 4, 3
ALL = (Mixup, CutMix, Cutout)
X, Y = torch.rand(COUNT, 3, 8, 8), torch.tensor([0, 1, 2, 1])
ROWS, MASKS = torch.eye(K)[Y], torch.randint(K, (COUNT, 8, 8))


def soft_masks(kind):
    return {"masks": "soft", "num_mask_classes": K} if kind is Mixup else {}


# --- Tensors of another make --------------------------------------------------------------------

MAKES = {
    "sparse": lambda x: x.to_sparse(),
    "mkldnn": lambda x: x.float().to_mkldnn(),
    "quantised": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
    "jagged": lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
}


@pytest.mark.filterwarnings("ignore")  # torch warns of what it makes here
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("place", ["images", "labels", "masks"])
def test_tensors_without_dense_memory_are_refused(kind, make, place):
    """Each make in each place is an error that says what to do, also after dense ones."""
    transform = kind(num_classes=K, **soft_masks(kind))
    batch = {"images": X, "labels": ROWS, "masks": tv_tensors.Mask(MASKS)}
    assert transform(batch)["labels"].shape == (COUNT, K)
    batch[place] = MAKES[make](batch[place].as_subclass(torch.Tensor))
    if place == "masks" and make in ("sparse", "mkldnn", "jagged"):
        # Of these torchvision makes no Mask.
        refused(lambda: transform(batch), "left behind")
        return
    if place == "masks":
        batch[place] = batch[place].as_subclass(tv_tensors.Mask)
    word = "to_padded_tensor" if make in ("nested", "jagged") else place
    refused(lambda: transform(batch), word, kind=TypeError)


# --- Empty batches, gradients, devices ----------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("targets", ["soft", "pair"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_empty_batches_are_in_the_one_format(kind, mode, targets, dtype):
    """With B = 0 every leaf has the type, dtype and shape of other batches, but for B."""
    images = tv_tensors.Image((X * 255).to(dtype))
    masks = {"thin": tv_tensors.Mask(MASKS), "deep": tv_tensors.Mask(MASKS[:, None])}
    rules = [{"masks": "dominant"}, soft_masks(kind)] if kind is Mixup else [{"min_visible": 0.5}]
    for rule in rules:
        transform = kind(num_classes=K, mode=mode, targets=targets, **rule)
        for labels in (Y, Y[:, None], ROWS, ROWS.long()):
            batch = {"image": images, "view": images, "label": labels, **masks}
            full = transform(batch)
            empty = transform(
                {
                    k: tv_tensors.wrap(v[:0], like=v) if k != "label" else v[:0]
                    for k, v in batch.items()
                }
            )
            for one, other in zip(*map(tree_leaves, (full, empty)), strict=True):
                assert type(one) is type(other)
                assert (one.dtype, one.shape[1:]) == (other.dtype, other.shape[1:])
                assert len(other) == 0


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("form", ["tensor", "list", "samples"])
@pytest.mark.parametrize("enabled", [True, False])
def test_images_that_require_gradients_are_mixed(kind, mode, form, enabled):
    """Their values are those of plain images, and gradients flow where torch records them."""
    transform = kind(num_classes=K, mode=mode)
    call = make_collate_fn(transform) if form == "samples" else transform

    def mixed(images, labels):
        torch.manual_seed(3)
        if form == "samples":
            return call(list(zip(images, labels.argmax(1).tolist(), strict=True)))[0]
        out = call(images if form == "tensor" else list(images), labels)[0]
        return out if form == "tensor" else torch.stack(out)

    images, labels = X.clone().requires_grad_(), ROWS.clone().requires_grad_()
    with torch.set_grad_enabled(enabled):
        found = mixed(images, labels)
    torch.testing.assert_close(found.detach(), mixed(X, ROWS), atol=1e-6, rtol=1e-6)
    assert found.requires_grad == enabled
    if enabled:
        (slope,) = torch.autograd.grad(found.sum(), images)
        share = 64 * 3 * COUNT if kind is not Cutout else int((found != 0).sum())
        assert float(slope.sum()) == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("mode", ["batch", "sample"])
@pytest.mark.parametrize("moved", ["image", "view", "label", "rows", "mask"])
def test_leaves_on_several_devices_each_stay_on_theirs(kind, mode, moved):
    """Images on one device and labels or masks on another are all mixed, where they are."""
    transform = kind(num_classes={"label": K, "rows": K}, mode=mode, **soft_masks(kind))
    batch = {
        "image": tv_tensors.Image(X), "view": tv_tensors.Image(X), "label": Y, "rows": ROWS,
        "mask": tv_tensors.Mask(MASKS),
    }  # fmt: skip
    plain = batch[moved].as_subclass(torch.Tensor).to("meta")
    batch[moved] = plain.as_subclass(type(batch[moved]))
    for key, value in transform(batch).items():
        assert value.device.type == ("meta" if key == moved else "cpu")
        assert type(value) is type(batch[key])


@pytest.mark.parametrize("kind", ALL)
def test_a_list_of_images_on_two_devices_is_refused(kind):
    """One stack cannot be on two devices; the error says so, also where it was on one before."""
    transform, images = kind(num_classes=K), list(X)
    assert len(transform(images, Y)[0]) == COUNT
    images[1] = images[1].to("meta")
    refused(lambda: transform(images, Y), "images at [0]", "one device")


@pytest.mark.parametrize("kind", [list, dict, collections.UserDict, collections.OrderedDict])
def test_containers_that_hold_themselves_are_refused(kind):
    """A batch that leads back to itself is an error in words, however it is nested."""
    for deep in (False, True):
        batch = kind([X, Y]) if kind is list else kind(x=X, label=Y)
        inner = [("a", batch)] if deep else batch
        batch.append(inner) if kind is list else batch.update(me=inner)
        refused(lambda: CutMix(num_classes=K)(batch), "must not contain themselves")  # noqa: B023
    gc.collect()


# --- Shared memory ------------------------------------------------------------------------------


def of_base(make):
    return lambda: make(torch.rand(COUNT, 6, 16, 16))


SHARED = {
    "one tensor twice": of_base(lambda b: {"a": b, "b": b}),
    "a view of all": of_base(lambda b: {"a": b, "b": b[:]}),
    "a view of some channels": of_base(lambda b: {"a": b, "b": b[:, 2:4]}),
    "views that overlap": of_base(lambda b: {"a": b[:, :4], "b": b[:, 3:]}),
    "a flipped copy of the same": of_base(lambda b: {"a": b, "b": b.transpose(2, 3)}),
    "an Image and its tensor": of_base(
        lambda b: {"a": tv_tensors.Image(b), "b": tv_tensors.Image(b)}
    ),
    "expanded": of_base(lambda b: {"a": b[:1].expand(COUNT, 6, 16, 16)}),
    "windows that overlap": of_base(lambda b: {"a": b.unfold(0, 2, 1)[..., 0]})
    and of_base(lambda b: {"a": b.flatten().as_strided((COUNT, 3, 8, 8), (100, 64, 8, 1))}),
    "one image twice in a list": of_base(lambda b: {"a": [b[0], b[1], b[0], b[2]]}),
    "a list and its stack": of_base(lambda b: {"a": b, "b": list(b)}),
    "a leaf that is left alone": of_base(lambda b: {"a": b, "kept": b}),
    "rows of an image": of_base(lambda b: {"a": b, "kept": b[:, 0, 0]}),
    "halves that lie in one another": of_base(lambda b: {"a": b[:, :3], "b": b[:, 3:]}),
    "rows that cross": of_base(
        lambda b: {"a": b.flatten().as_strided((COUNT, 3, 2, 3), (64, 20, 3, 2))}
    ),
}
APART = {
    "two tensors": of_base(lambda b: {"a": b, "b": b.clone()}),
    "channels last": of_base(lambda b: {"a": b.contiguous(memory_format=torch.channels_last)}),
    "transposed": of_base(lambda b: {"a": b.transpose(2, 3)}),
    "a list of views": of_base(lambda b: {"a": list(b)}),
    "parts one after the other": of_base(lambda b: {"a": b[:2], "b": b[2:]}),
}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("row", SHARED)
def test_images_that_share_memory_are_not_written_to(kind, row):
    """In place, what another leaf or sample also sees is refused before anything is drawn."""
    batch = SHARED[row]()
    before = copy.deepcopy(batch)
    transform = kind(labels_getter=None, inplace=True, passthrough=("kept",))
    refused(lambda: transform(batch), "inplace must be False", "['a']", "share memory")
    assert all(map(torch.equal, tree_leaves(before), tree_leaves(batch)))
    kind(labels_getter=None, passthrough=("kept",))(batch)
    assert all(map(torch.equal, tree_leaves(before), tree_leaves(batch)))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("row", APART)
def test_images_that_lie_apart_are_written_to(kind, row):
    """Views of one storage, one after the other, are mixed in place as they are out of place."""
    batch = APART[row]()
    fresh = copy.deepcopy(batch)
    transform = kind(labels_getter=None, passthrough=("kept",))
    expected, _ = transform.mix(batch, generator=torch.Generator().manual_seed(1))
    assert all(map(torch.equal, *map(tree_leaves, (batch, fresh))))
    transform.mix(batch, inplace=True, generator=torch.Generator().manual_seed(1))
    for one, other in zip(*map(tree_leaves, (batch, expected)), strict=True):
        assert torch.equal(one, other)


views = st.tuples(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 9)] * 4),
    st.integers(0, 20),
)


@given(views, views)
def test_any_two_views_are_written_to_only_if_no_element_is_shared(one, other):
    """Against a count of the addresses: all views that share one are refused."""
    base = torch.arange(256.0)
    tensors = [base.as_strided(*view) for view in (one, other)]
    count = min(map(len, tensors))
    tensors = [tensor[:count] for tensor in tensors]
    addresses = torch.cat([tensor.flatten() for tensor in tensors])
    shared = len(addresses.unique()) < len(addresses)
    transform = Mixup(labels_getter=None, inplace=True)
    if shared:
        refused(lambda: transform(tensors), "share memory")
        return
    with contextlib.suppress(ValueError):  # views that lie in one another are refused, too
        assert transform(tensors)[0] is tensors[0]


def test_an_image_in_the_graph_is_written_to_as_torch_would():
    """A leaf that requires gradients, or a view of one, is refused; what was computed is not."""
    images = X.clone().requires_grad_()
    transform = CutMix(labels_getter=None, inplace=True)
    for given_images in (images, images[:], list(images)):
        refused(lambda: transform(given_images), "require gradients")  # noqa: B023
    computed = images * 2
    out, plan = transform.mix(computed)
    assert out is computed
    torch.testing.assert_close(out, functional.replay(images * 2, plan))
    (slope,) = torch.autograd.grad(out.sum(), images)
    assert float(slope.sum()) == pytest.approx(2 * images.numel())
