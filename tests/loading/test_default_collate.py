"""Compare what samples become with torch's default_collate: the same, unless documented."""

import array
import collections
import enum
import traceback
import types
from collections import ChainMap, OrderedDict, UserDict, UserList, UserString, defaultdict, deque
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from helpers.loading import Sample
from torch.utils.data import DataLoader, default_collate
from torch.utils.data._utils.collate import default_collate_fn_map
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup, make_collate_fn
from tv_mixaug.loading.default_collate import collate_samples

Point = collections.namedtuple("Point", ["x", "y"])
Nothing = collections.namedtuple("Nothing", [])
plain = make_collate_fn(torch.nn.Identity())  # collates, and no more


class Tagged(list):
    """A list with something beside its items, and an argument that it needs."""

    def __init__(self, tag, items=()):
        super().__init__(items)
        self.tag = tag


class Row(tuple):
    """A tuple of a class of its own."""


class Named(dict):
    """A dict with something beside its items, and an argument that it needs."""

    def __init__(self, name, **items):
        super().__init__(**items)
        self.name = name


class Frozen(collections.abc.Mapping):
    """A mapping that nothing can be written to, made from another one."""

    def __init__(self, items):
        self._items = dict(items)

    def __getitem__(self, key):
        return self._items[key]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)


class Sealed(Frozen):
    """A mapping that cannot be made from its items alone."""

    def __init__(self, items, *, seal):
        super().__init__(items)
        self.seal = seal


class Pair(collections.abc.Sequence):
    """A sequence that nothing can be written to, made from another one."""

    def __init__(self, items):
        self.items = tuple(items)

    def __getitem__(self, place):
        return self.items[place]

    def __len__(self):
        return len(self.items)


class Knot(Pair):
    """A sequence that cannot be made from its items."""

    def __init__(self, first, second):
        super().__init__((first, second))


class Level(enum.IntEnum):
    """Whole numbers with names."""

    LOW = 1
    HIGH = 2


class Marked(torch.Tensor):
    """A tensor of a class of its own."""


def alike(one, other):
    """Tell whether two batches agree in structure, types, dtypes, devices and values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        same = (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device)
        if not same or one.requires_grad != other.requires_grad:
            return False
        if one.is_quantized:
            return alike(one.dequantize(), other.dequantize())
        return one.is_meta or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    if isinstance(one, collections.abc.Mapping):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, collections.abc.Sequence) and not isinstance(one, (str, bytes)):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def of_torch(samples):
    """Return what default_collate makes of samples, or the kind of error that it raises."""
    try:
        return default_collate(samples)
    except Exception as error:  # whatever it is
        return error


MADE = {
    "tensors": [torch.arange(3), torch.arange(3) + 1],
    "tensors without axes": [torch.tensor(1.5), torch.tensor(2.5)],
    "empty tensors": [torch.empty(0, 3), torch.empty(0, 3)],
    "transposed tensors": [torch.rand(2, 3).T, torch.rand(3, 2)],
    "expanded tensors": [torch.rand(1, 3).expand(4, 3), torch.rand(4, 3)],
    "conjugated tensors": [torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])],
    "bools": [torch.tensor([True]), torch.tensor([False])],
    "tensors of a class": [torch.rand(2).as_subclass(Marked) for _ in range(2)],
    "tensors on meta": [torch.empty(2, device="meta"), torch.empty(2, device="meta")],
    "tensors with gradients": [torch.rand(2, requires_grad=True), torch.rand(2)],
    "parameters": [torch.nn.Parameter(torch.rand(2)), torch.nn.Parameter(torch.rand(2))],
    "arrays": [np.arange(4, dtype=np.int16), np.arange(4, dtype=np.int16)],
    "arrays without axes": [np.array(1.5), np.array(2.5)],
    "empty arrays": [np.zeros((0, 2)), np.zeros((0, 2))],
    "transposed arrays": [np.arange(6).reshape(2, 3).T, np.arange(6).reshape(3, 2)],
    "complex arrays": [np.array([1j]), np.array([2j])],
    "NumPy scalars": [np.float32(1), np.float32(2)],
    "NumPy integers": [np.int8(1), np.int8(2)],
    "NumPy bools": [np.bool_(True), np.bool_(False)],
    "NumPy strings": [np.str_("a"), np.str_("b")],
    "ints": [1, 2],
    "the largest ints": [2**63 - 1, -(2**63)],
    "ints of too many bits": [1, -(2**63) - 1],
    "floats": [1.0, float("nan")],
    "truths": [True, False],
    "truths and ints": [True, 5],
    "ints and NumPy integers": [1, np.int8(2)],
    "ints and floats": [1, 2.5],
    "floats and ints": [2.5, 1],
    "ints of an enum": [Level.LOW, Level.HIGH],
    "strings": ["a", "bc"],
    "bytes": [b"a", b"bc"],
    "lists": [[1, 2.0], [3, 4.0]],
    "tuples": [(1, "a"), (2, "b")],
    "lists and tuples": [[1, 2], (3, 4)],
    "nothing in lists": [[], []],
    "nothing in tuples": [(), ()],
    "nothing in dicts": [{}, {}],
    "lists of lists": [[[1], [2, 3]], [[4], [5, 6]]],
    "lists of a class": [Tagged("t", [1, 2]), Tagged("u", [3, 4])],
    "tuples of a class": [Row((1, 2)), Row((3, 4))],
    "sizes": [torch.Size([1, 2]), torch.Size([3, 4])],
    "namedtuples": [Point(1, [2]), Point(3, [4])],
    "typed namedtuples": [Sample(torch.rand(2), 1), Sample(torch.rand(2), 2)],
    "namedtuples of nothing": [Nothing(), Nothing()],
    "user lists": [UserList([1, 2]), UserList([3, 4])],
    "deques": [deque([1, 2], maxlen=2), deque([3, 4], maxlen=2)],
    "ranges": [range(3), range(1, 4)],
    "arrays of Python": [array.array("i", [1, 2]), array.array("i", [3, 4])],
    "sequences": [Pair([1, "a"]), Pair([2, "b"])],
    "sequences that cannot be made": [Knot(1, "a"), Knot(2, "b")],
    "memory views": [memoryview(b"ab"), memoryview(b"cd")],
    "dicts": [{"a": 1, 2: "b"}, {"a": 3, 2: "c"}],
    "dicts in another order": [{"a": 1, "b": 2}, {"b": 3, "a": 4}],
    "ordered dicts": [OrderedDict(b=1, a=2), OrderedDict(b=3, a=4)],
    "default dicts": [defaultdict(list, a=1), defaultdict(list, a=2)],
    "counters": [collections.Counter("aab"), collections.Counter("abb")],
    "dicts of a class": [Named("n", a=1), Named("m", a=2)],
    "user dicts": [UserDict(a=1), UserDict(a=2)],
    "chains of dicts": [ChainMap({"a": 1}, {"b": 2}), ChainMap({"a": 3}, {"b": 4})],
    "views of dicts": [types.MappingProxyType({"a": 1}), types.MappingProxyType({"a": 2})],
    "mappings": [Frozen({"a": 1}), Frozen({"a": 2})],
    "mappings that cannot be made": [Sealed({"a": 1}, seal=0), Sealed({"a": 2}, seal=0)],
    "a mixture": [{"a": (1, [b"x", {"c": UserList([np.int64(n)])}])} for n in range(3)],
    "one sample": [({"a": torch.rand(2)}, 1.5, "x")],
    "complex numbers": [1j, 2j],
    "None": [None, None],
    "None inside": [(1, None), (2, None)],
    "sets": [{1}, {2}],
    "objects": [object(), object()],
    "decimals": [Decimal(1), Fraction(1, 2)],
    "strings of a class": [UserString("a"), UserString("b")],
    "generators": [(i for i in ()), (i for i in ())],
    "NumPy complex numbers": [np.complex64(1j), np.complex64(2j)],
    "NumPy times": [np.datetime64("2020"), np.datetime64("2021")],
    "arrays of strings": [np.array(["a"]), np.array(["b"])],
    "arrays of objects": [np.array([None]), np.array([None])],
    "arrays of times": [np.array(["2020"], "M8[D]"), np.array(["2021"], "M8[D]")],
    "arrays of records": [np.zeros(1, [("a", "i4")]), np.zeros(1, [("a", "i4")])],
    "arrays of many bits": [np.zeros(1, np.longdouble), np.zeros(1, np.longdouble)],
    "arrays of another byte order": [np.zeros(1, ">f4"), np.zeros(1, ">f4")],
    "unequal tensors": [torch.rand(2), torch.rand(3)],
    "unequal lists": [[1, 2], [3]],
    "unequal tuples": [(1,), (2, 3)],
    "other devices": [torch.rand(2), torch.empty(2, device="meta")],
    "tensors and None": [torch.rand(2), None],
    "numbers and strings": [1, "a"],
    "a missing key": [{"a": 1, "b": 2}, {"a": 1}],
}  # fmt: skip


def check(samples):
    """Check that samples become torch's batch, or raise one clear error where torch refuses."""
    expected = of_torch(samples)
    if isinstance(expected, Exception):
        for collate in (plain, make_collate_fn(Mixup())):
            with pytest.raises((TypeError, ValueError), match=r"^samples must .*, got "):
                collate(samples)
    else:
        assert alike(plain(samples), expected)
        assert alike(collate_samples(samples), expected)


@pytest.mark.parametrize("name", MADE)
def test_samples_become_what_torch_makes_of_them(name):
    """Each case gives torch's batch, or one clear error where torch refuses it."""
    check(MADE[name])


UNUSUAL = {
    "sparse": lambda: torch.eye(2).to_sparse(),
    "compressed": lambda: torch.eye(2).to_sparse_csc(),
    "mkldnn": lambda: torch.rand(2).to_mkldnn(),
    "nested": lambda: torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.rand(2)], layout=torch.jagged),
    "quantised": lambda: torch.quantize_per_tensor(torch.rand(2), 0.1, 0, torch.quint8),
    "eight bits": lambda: torch.rand(2).to(torch.float8_e5m2),
    "large and sparse": lambda: torch.rand(3, 160, 160).to_sparse(),
    "large, with gradients": lambda: torch.rand(3, 160, 160, requires_grad=True),
    "large, on meta": lambda: torch.rand(3, 160, 160, device="meta"),
    "large": lambda: torch.rand(3, 160, 160),
    "a large array": lambda: np.ones((3, 160, 160)),
}


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta", "ignore:.*nested tensors")
@pytest.mark.filterwarnings("ignore:.* other quantized tensor creation functions")
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_tensors(name, number):
    """Tensors that are not just numbers in a row: as torch does, alone and beside others."""
    check([UNUSUAL[name]() for _ in range(number)])
    check([{"a": UNUSUAL[name](), "b": number} for _ in range(2)])


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ([np.zeros(2), np.zeros(2, np.float32)], "one dtype, got dtypes float32, float64; convert"),
        ([torch.ones(2), torch.ones(2).half()], "one dtype, got dtypes float16, float32; convert"),
        ([np.zeros(2), np.zeros(3)], r"one shape, got shapes \(2,\), \(3,\); resize them"),
        ([torch.ones(2), torch.empty(2, device="meta")], "one device, got devices cpu, meta"),
        ([torch.ones(2), tv_tensors.Mask(torch.ones(2))], "one type, got types Mask, Tensor; wrap"),
        ([np.array([None])] * 2, r"arrays of numbers .* got dtype object; convert .* array.astype"),
        ([np.array(["a"])] * 2, r"arrays of numbers .* got dtype <U1; convert"),
        ([np.zeros(2), torch.zeros(2)], "one structure, got Tensor and ndarray in the same place"),
        (["a", None], "one structure, got NoneType and str in the same place"),
        ([{"a": 1}, {"a": 1, "b": 2}], "the same keys"),
        ([{"a": 1}, {"b": 1}], "the same keys"),
        ([{"a": 1}, OrderedDict(b=1)], "the same keys"),
        ([{"a": 1}, None], "the same keys"),
        ([(1, 2), {3, 4}], "the same length"),
        ([(1, 2), None], "the same length"),
        ([Point(1, 2), (1, 2, 3)], "the same length"),
    ],
)
def test_what_torch_would_take_by_chance_is_refused_with_advice(samples, text):
    """Samples that differ are refused whichever comes first, with the advice that fits."""
    for order in (samples, [samples[0], *samples]):
        with pytest.raises((TypeError, ValueError), match=text):
            plain(order)


def test_samples_that_contain_themselves_are_refused():
    """A list in itself has no end, and the error says so."""
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="samples must not contain themselves"):
        plain([endless, endless])


@pytest.mark.parametrize("step", [-1, -2])
def test_arrays_that_run_backwards_are_taken(step):
    """An array of negative strides, as a flip makes it, is taken where torch takes none."""
    samples = [np.arange(12.0).reshape(3, 4)[::step, ::step] + n for n in range(2)]
    assert alike(plain(samples), default_collate([sample.copy() for sample in samples]))


def test_fields_of_records_are_taken():
    """A field of packed records, whose steps are no whole numbers of it, is taken too."""
    records = np.array([(1, 2), (3, 4)], [("a", "i1"), ("b", "i4")])
    assert alike(plain([records["b"]] * 2), torch.tensor([[2, 4]] * 2, dtype=torch.int32))


class Lazy(Frozen):
    """A mapping whose values are made when they are asked for."""

    def __contains__(self, key):
        return key in self._items

    def __getitem__(self, key):
        raise KeyError("no such file")


class LazyPair(Pair):
    """A sequence whose items are made when they are asked for."""

    def __getitem__(self, place):
        raise ValueError("no such picture")


@pytest.mark.parametrize("kind", [lambda: Lazy({"a": 1}), lambda: LazyPair([1, 2])])
def test_what_a_sample_raises_is_not_taken_for_a_difference(kind):
    """Samples that are alike, and raise an error of their own when opened, are not explained."""
    with pytest.raises((KeyError, ValueError), match="no such"):
        plain([kind(), kind()])


def test_no_sample_is_asked_for_a_key_that_it_lacks():
    """A defaultdict without a key is refused, and is not given that key."""
    samples = [defaultdict(int, a=1, b=2), defaultdict(int, a=1, c=2)]
    with pytest.raises(ValueError, match="the same keys"):
        plain(samples)
    assert samples == [{"a": 1, "b": 2}, {"a": 1, "c": 2}]


# --- Types that are registered with torch -------------------------------------------------------


@dataclass
class Picture:
    """A picture of a class that torch does not know."""

    image: torch.Tensor
    label: int


class Portrait(Picture):
    """A picture of a subclass."""


def stack_pictures(batch, *, collate_fn_map):
    assert collate_fn_map is default_collate_fn_map
    return torch.stack([one.image for one in batch]), torch.tensor([one.label for one in batch])


@pytest.fixture
def registry(monkeypatch):
    """Return torch's table of functions, which is put back afterwards."""
    before = dict(default_collate_fn_map)
    yield default_collate_fn_map
    default_collate_fn_map.clear()
    default_collate_fn_map.update(before)


@pytest.mark.parametrize("kind", [Picture, Portrait])
@pytest.mark.parametrize("key", [Picture, (str, Picture)])
def test_a_registered_type_is_collated_by_its_function(registry, kind, key):
    """A type that is registered late, alone or with others, counts, and so do its subclasses."""
    samples = [kind(torch.rand(3, 8, 8), n) for n in range(4)]
    mix = make_collate_fn(Cutout(num_classes=5))
    with pytest.raises(TypeError, match=f"got test_default_collate.{kind.__name__}"):
        mix(samples)
    registry[key] = stack_pictures
    assert alike(plain(samples), default_collate(samples))
    images, labels = mix(samples)
    assert images.shape == (4, 3, 8, 8)
    assert labels.argmax(1).tolist() == [0, 1, 2, 3]


def test_what_a_registered_function_returns_is_not_written_to(registry):
    """It may be the data set's own memory."""
    kept = torch.rand(4, 3, 8, 8)
    before = kept.clone()
    registry[Picture] = lambda batch, **_: (kept, torch.arange(4))
    samples = [Picture(kept[n], n) for n in range(4)]
    for transform in (Cutout(), Mixup(num_classes=4)):
        images, _ = make_collate_fn(transform, seed=0)(samples)
        assert not torch.equal(images, before)
        assert torch.equal(kept, before)


@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray, int, str, dict, list])
def test_functions_of_torch_may_be_replaced(registry, kind):
    """Where a function of torch is replaced, or a container gets one, that is called."""
    registry[kind] = lambda batch, **_: ("mine", len(batch))
    for samples in MADE.values():
        expected = of_torch(samples)
        if not isinstance(expected, Exception) and len(set(map(type, samples))) == 1:
            assert alike(plain(samples), expected)


def test_a_registered_subclass_goes_before_the_class(registry):
    """tv_tensors, for which a function is registered, are its business."""
    registry[tv_tensors.BoundingBoxes] = lambda batch, **_: list(batch)
    boxes = tv_tensors.BoundingBoxes([[0, 0, 1, 1]], format="XYXY", canvas_size=(4, 4))
    assert alike(plain([(boxes, 1)] * 2), [[boxes, boxes], torch.tensor([1, 1])])


# --- Random samples -----------------------------------------------------------------------------

NUMBERS = st.integers(-9, 9)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
DTYPES = ("bool", "uint8", "int16", "int64", "float16", "float32", "float64", "complex64")
KEYS = st.sampled_from(["image", "name", 3, None, (1, 2)])


def filled(shape, dtype):
    """Return a strategy for arrays of a shape and dtype."""
    return st.integers(0, 99).map(lambda n: np.full(shape, n % 100).astype(dtype))


def in_tensor(array):
    return array.map(torch.as_tensor)


# Each strategy gives strategies of samples of one structure.
LEAVES = st.one_of(
    st.builds(filled, SHAPES, st.sampled_from(DTYPES)),
    st.builds(filled, SHAPES, st.sampled_from(DTYPES)).map(in_tensor),
    st.sampled_from([NUMBERS, NUMBERS.map(float), st.booleans(), st.text(), st.binary()]),
    st.sampled_from([NUMBERS.map(np.int32), NUMBERS.map(np.float16), NUMBERS.map(np.bool_)]),
)
SEQUENCES = [list, tuple, UserList, deque, Pair, Row, lambda items: Tagged("t", items)]
MAPPINGS = [dict, OrderedDict, UserDict, Frozen, types.MappingProxyType, ChainMap]


def nest(parts):
    """Put strategies of samples into containers."""
    return st.one_of(
        st.builds(
            lambda items, kind: st.tuples(*items).map(kind),
            st.lists(parts, max_size=3),
            st.sampled_from(SEQUENCES),
        ),
        st.tuples(parts, parts).map(lambda both: st.builds(Point, *both)),
        st.builds(
            lambda items, kind: st.fixed_dictionaries(items).map(kind),
            st.dictionaries(KEYS, parts, max_size=3),
            st.sampled_from(MAPPINGS),
        ),
    )


@given(st.data())
def test_random_samples_become_what_torch_makes_of_them(data):
    """Nested samples of any structure: structure, types, dtypes and values are torch's."""
    structure = data.draw(st.recursive(LEAVES, nest, max_leaves=6))
    samples = data.draw(st.lists(structure, min_size=1, max_size=4))
    expected = default_collate(samples)
    assert alike(plain(samples), expected)
    assert alike(collate_samples(samples), expected)


@given(st.data())
def test_random_samples_beside_an_image_are_torchs(data):
    """What stands beside a mixed image is what torch makes of it, though the batch was opened."""
    structure = data.draw(st.recursive(LEAVES, nest, max_leaves=4))
    image = st.just(tv_tensors.Image(torch.rand(3, 8, 8)))
    samples = data.draw(st.lists(st.tuples(image, structure), min_size=1, max_size=3))
    images, beside = make_collate_fn(Cutout(labels_getter=None), seed=0)(samples)
    assert alike(beside, default_collate(samples)[1])
    assert type(images) is tv_tensors.Image


class Cases:
    """The cases of this page as samples."""

    names = tuple(
        name for name, samples in MADE.items()
        if not isinstance(of_torch(samples), Exception)
        and not any(word in name for word in ("meta", "gradients", "parameters", "class", "views"))
    )  # fmt: skip

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return MADE[self.names[index]]


def collate_one(batch):
    return plain(batch[0])


def test_workers_make_the_same():
    """In a worker, where batches lie in shared memory, each case becomes the same."""
    found = list(DataLoader(Cases(), 1, collate_fn=collate_one, num_workers=1, timeout=60))
    assert len(found) > 40
    for name, batch in zip(Cases.names, found, strict=True):
        assert alike(batch, default_collate(MADE[name])), name


# --- What differs on purpose --------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 160])
@pytest.mark.parametrize("kind", [tv_tensors.Image, tv_tensors.Video, tv_tensors.Mask])
def test_tv_tensors_keep_their_types_where_torch_drops_them(kind, size):
    """The values are torch's, the type is the samples'; small and large, mixed or not."""
    samples = [(kind(torch.rand(2, 3, size, size)), n) for n in range(3)]
    batch, expected = plain(samples)[0], default_collate(samples)[0]
    assert (type(batch), type(expected)) == (kind, torch.Tensor)
    assert alike(batch.as_subclass(torch.Tensor), expected)
    if kind is not tv_tensors.Mask:
        mixed, _ = make_collate_fn(Mixup(num_classes=3), p=0.0)(samples)
        assert type(mixed) is kind
        assert alike(mixed.as_subclass(torch.Tensor), expected)


@pytest.mark.parametrize("transform", [Mixup(num_classes=3), CutMix(num_classes=3), Cutout()])
@pytest.mark.parametrize("size", [8, 160])
def test_a_batch_lies_in_the_order_of_its_axes(transform, size):
    """Frames with the channels last are dense afterwards, here as in a worker, mixed or not."""
    frames = torch.rand(3, 2, 3, size, size)
    frames = [one.to(memory_format=torch.channels_last) for one in frames]
    for p in (0.0, 1.0):
        videos, _ = make_collate_fn(transform, p)([(one, 1) for one in frames])
        assert videos.is_contiguous()


def test_images_that_require_gradients_are_mixed_with_them():
    """In the main process a batch of such samples is differentiable, as torch's is."""
    for size in (8, 160):
        samples = [(torch.rand(3, size, size, requires_grad=True), n) for n in range(3)]
        images, _ = make_collate_fn(Mixup(num_classes=3), seed=0)(samples)
        images.sum().backward()
        assert sum(float(image.grad.sum()) for image, _ in samples) == pytest.approx(9 * size**2)


class Wanting(Cases):
    """Samples that require gradients."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.rand(3, 8, 8, requires_grad=True)


def test_workers_refuse_gradients():
    """A worker cannot send them, and says what to do, as torch's refuses them too."""
    loader = DataLoader(Wanting(), 2, collate_fn=plain, num_workers=1, timeout=60)
    with pytest.raises(
        ValueError, match=r"that require gradients; convert or detach\(\) them"
    ) as error:
        list(loader)
    traceback.clear_frames(error.tb)
