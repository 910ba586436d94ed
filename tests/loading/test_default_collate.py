"""Collated samples equal those of torch's default_collate, unless documented otherwise."""

import array
import collections
import enum
import traceback
import types
from collections import ChainMap, OrderedDict, UserDict, UserList, defaultdict, deque
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.loading import Sample, same
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, default_collate
from torch.utils.data._utils.collate import default_collate_fn_map
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup, make_collate_fn
from tv_mixaug.loading.default_collate import collate_samples

Point = collections.namedtuple("Point", ["x", "y"])
Nothing = collections.namedtuple("Nothing", [])
plain = make_collate_fn(torch.nn.Identity())  # collates, and no more


class Row(tuple):
    """A tuple of a class of its own."""


class Marked(torch.Tensor):
    """A tensor of a class of its own."""


class Pair(collections.abc.Sequence):
    """An immutable sequence that is made from another one."""

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
    """Integers with names."""

    LOW = 1
    HIGH = 2


def of_torch(samples):
    """Return what default_collate makes of samples, or the error that it raises."""
    try:
        return default_collate(samples)
    except Exception as error:  # of any type
        return error


TENSORS = [
    [torch.arange(3), torch.arange(3) + 1], [torch.tensor(1.5), torch.tensor(2.5)],
    [torch.empty(0, 3), torch.empty(0, 3)], [torch.rand(2, 3).T, torch.rand(3, 2)],
    [torch.rand(1, 3).expand(4, 3), torch.rand(4, 3)],
    [torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])], [np.array([1j]), np.array([2j])],
    [np.arange(4, dtype=np.int16), np.arange(4, dtype=np.int16)], [np.array(1.5), np.array(2.5)],
    [np.zeros((0, 2)), np.zeros((0, 2))],
    [np.arange(6).reshape(2, 3).T, np.arange(6).reshape(3, 2)],
    [np.float32(1), np.float32(2)], [np.int8(1), np.int8(2)], [np.bool_(True), np.bool_(False)],
]  # fmt: skip
UNUSUAL_TENSORS = [
    [torch.rand(2).as_subclass(Marked) for _ in range(2)],
    [torch.empty(2, device="meta"), torch.empty(2, device="meta")],
    [torch.rand(2, requires_grad=True), torch.rand(2)],
    [torch.nn.Parameter(torch.rand(2)), torch.nn.Parameter(torch.rand(2))],
]
NUMBERS_AND_TEXT = [
    [1, 2], [2**63 - 1, -(2**63)], [1.0, float("nan")], [True, False], [True, 5], [1, np.int8(2)],
    [1, 2.5], [2.5, 1], [Level.LOW, Level.HIGH], ["a", "bc"], [b"a", b"bc"],
    [np.str_("a"), np.str_("b")],
]  # fmt: skip
SEQUENCES = [list, tuple, UserList, deque, Pair, Row]
MAPPINGS = [dict, OrderedDict, UserDict, types.MappingProxyType, ChainMap]
CONTAINERS = [
    *[[kind([1, "a"]), kind([2, "b"])] for kind in SEQUENCES],
    *[[kind({"a": 1, "b": 2.0}), kind({"a": 3, "b": 4.0})] for kind in MAPPINGS],
    [defaultdict(list, a=1), defaultdict(list, a=2)],
    [[], []], [(), ()], [{}, {}], [Nothing(), Nothing()], [[1, 2], (3, 4)],
    [[[1], [2, 3]], [[4], [5, 6]]], [torch.Size([1, 2]), torch.Size([3, 4])],
    [Point(1, [2]), Point(3, [4])], [Sample(torch.rand(2), 1), Sample(torch.rand(2), 2)],
    [deque([1, 2], maxlen=2), deque([3, 4], maxlen=2)], [range(3), range(1, 4)],
    [array.array("i", [1, 2]), array.array("i", [3, 4])], [memoryview(b"ab"), memoryview(b"cd")],
    [Knot(1, "a"), Knot(2, "b")],
    [{"a": 1, 2: "b"}, {"a": 3, 2: "c"}], [{"a": 1, "b": 2}, {"b": 3, "a": 4}],
    [collections.Counter("aab"), collections.Counter("abb")],
    [ChainMap({"a": 1}, {"b": 2}), ChainMap({"a": 3}, {"b": 4})],
    [{"a": (1, [b"x", {"c": UserList([np.int64(n)])}])} for n in range(3)],
    [({"a": torch.rand(2)}, 1.5, "x")],
]  # fmt: skip
REFUSED = [
    [1j, 2j], [None, None], [(1, None), (2, None)], [{1}, {2}],
    [object(), object()], [Decimal(1), Fraction(1, 2)],
    [(i for i in ()), (i for i in ())], [np.complex64(1j), np.complex64(2j)],
    [np.datetime64("2020"), np.datetime64("2021")], [np.array(["a"]), np.array(["b"])],
    [np.array([None]), np.array([None])], [np.zeros(1, [("a", "i4")]), np.zeros(1, [("a", "i4")])],
    [np.array(["2020"], "M8[D]"), np.array(["2021"], "M8[D]")],
    [np.zeros(1, np.longdouble), np.zeros(1, np.longdouble)],
    [np.zeros(1, ">f4"), np.zeros(1, ">f4")], [torch.rand(2), torch.rand(3)],
    [torch.rand(2), torch.empty(2, device="meta")], [torch.rand(2), None], [[1, 2], [3]],
    [(1,), (2, 3)], [1, "a"], [{"a": 1, "b": 2}, {"a": 1}],
]  # fmt: skip
CASES = [*TENSORS, *UNUSUAL_TENSORS, *NUMBERS_AND_TEXT, *CONTAINERS, *REFUSED]


def check(samples):
    """Check that samples become torch's batch, or raise one clear error if torch refuses them."""
    expected = of_torch(samples)
    if isinstance(expected, Exception):
        for collate in (plain, make_collate_fn(Mixup())):
            with pytest.raises((TypeError, ValueError), match=r"^samples must .*, got "):
                collate(samples)
    else:
        assert same(plain(samples), expected)
        assert same(collate_samples(samples), expected)


@pytest.mark.parametrize("samples", CASES, ids=lambda samples: type(samples[0]).__name__)
def test_samples_become_what_torch_makes_of_them(samples):
    """Each case gives torch's batch, or one clear error if torch refuses it."""
    check(samples)


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
    """Tensors of other layouts are treated as by torch, alone and beside other fields."""
    check([UNUSUAL[name]() for _ in range(number)])
    check([{"a": UNUSUAL[name](), "b": number} for _ in range(2)])


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ([np.zeros(2), np.zeros(2, np.float32)], "one kind, got .*float32 and .*float64; convert"),
        ([torch.ones(2), torch.ones(2).half()], "one kind, got .*float16 and .*float32; convert"),
        ([np.zeros(2), np.zeros(3)], r"got \[2\] at .* \[3\] at .*; resize.* that pads"),
        ([torch.ones(2), torch.ones(2, device="meta")], "stacked, got others .*meta.*; .* convert"),
        ([torch.ones(2), tv_tensors.Mask(torch.ones(2))], "one kind, got Mask of .* and Tensor of"),
        ([np.array([None])] * 2, r"arrays of numbers, got dtype object; use astype"),
        ([np.array(["a"])] * 2, r"arrays of numbers, got dtype <U1; use astype"),
        ([np.zeros(2), torch.zeros(2)], "one structure, got Tensor and ndarray in the same place"),
        (["a", None], "one structure, got NoneType and str in the same place"),
        ([{"a": 1}, {"a": 1, "b": 2}], "the same keys"),
        ([{"a": 1}, {"b": 1}], "the same keys"),
        ([{"a": 1}, OrderedDict(b=1)], "the same keys"),
        ([{"a": 1}, None], "one structure, got NoneType and dict in the same place"),
        ([(1, 2), {3, 4}], "one structure, got set and tuple in the same place"),
        ([(1, 2), None], "one structure, got NoneType and tuple in the same place"),
        ([Point(1, 2), (1, 2, 3)], "the same length"),
    ],
)
def test_samples_that_differ_are_refused_with_advice(samples, text):
    """Samples that torch may accept by chance are refused, whichever of them comes first."""
    for order in (samples, [samples[0], *samples]):
        with pytest.raises((TypeError, ValueError), match=text):
            plain(order)


@pytest.mark.parametrize("step", [-1, -2])
def test_arrays_that_torch_cannot_share_are_copied(step):
    """Arrays with negative strides, as after a flip, and fields of packed records are accepted."""
    samples = [np.arange(12.0).reshape(3, 4)[::step, ::step] + n for n in range(2)]
    assert same(plain(samples), default_collate([sample.copy() for sample in samples]))
    records = np.array([(1, 2), (3, 4)], [("a", "i1"), ("b", "i4")])
    assert same(plain([records["b"]] * 2), torch.tensor([[2, 4]] * 2, dtype=torch.int32))


class Lazy(UserDict):
    """A mapping whose values are made when they are asked for."""

    def __getitem__(self, key):
        raise KeyError("no such file")


def test_an_error_of_a_sample_is_not_replaced():
    """If samples are alike and raise an error of their own, that error reaches the user."""
    with pytest.raises(KeyError, match="no such file"):
        plain([Lazy({"a": 1}), Lazy({"a": 2})])


def test_no_sample_is_asked_for_a_key_that_it_lacks():
    """A defaultdict without a key is refused, and does not get that key."""
    samples = [defaultdict(int, a=1, b=2), defaultdict(int, a=1, c=2)]
    with pytest.raises(ValueError, match="the same keys"):
        plain(samples)
    assert samples == [{"a": 1, "b": 2}, {"a": 1, "c": 2}]


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
def registry():
    """Return torch's table of functions, which is restored afterwards."""
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
    with pytest.raises(TypeError, match=rf"got <class '{__name__}.{kind.__name__}'>; turn"):
        mix(samples)
    registry[key] = stack_pictures
    assert same(plain(samples), default_collate(samples))
    images, labels = mix(samples)
    assert images.shape == (4, 3, 8, 8)
    assert labels.argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray, int, str, dict, list])
def test_functions_of_torch_may_be_replaced(registry, kind):
    """A function that replaces one of torch's, or that is registered for a container, is called."""
    registry[kind] = lambda batch, **_: ("mine", len(batch))
    for samples in CASES:
        expected = of_torch(samples)
        if not isinstance(expected, Exception) and len(set(map(type, samples))) == 1:
            assert same(plain(samples), expected)


def test_a_registered_tv_tensor_is_accepted_outside_targets(registry):
    """Boxes of their own are refused, but not if a function is registered for them."""
    boxes = tv_tensors.BoundingBoxes([[0, 0, 1, 1]], format="XYXY", canvas_size=(4, 4))
    with pytest.raises(ValueError, match="must hold BoundingBoxes in dicts with 'boxes'"):
        plain([(boxes, 1)] * 2)
    registry[tv_tensors.BoundingBoxes] = lambda batch, **_: list(batch)
    assert same(plain([(boxes, 1)] * 2), [[boxes, boxes], torch.tensor([1, 1])])


NUMBERS = st.integers(-9, 9)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
DTYPES = ("bool", "uint8", "int16", "int64", "float16", "float32", "float64", "complex64")
KEYS = st.sampled_from(["image", "name", 3, None, (1, 2)])


def filled(shape, dtype):
    """Return a strategy for arrays of a shape and dtype."""
    return st.integers(0, 99).map(lambda n: np.full(shape, n % 100).astype(dtype))


# Each strategy gives strategies of samples of one structure.
FIELDS = st.one_of(
    st.builds(filled, SHAPES, st.sampled_from(DTYPES)),
    st.builds(filled, SHAPES, st.sampled_from(DTYPES)).map(lambda a: a.map(torch.as_tensor)),
    st.sampled_from([NUMBERS, NUMBERS.map(float), st.booleans(), st.text(), st.binary()]),
    st.sampled_from([NUMBERS.map(np.int32), NUMBERS.map(np.float16), NUMBERS.map(np.bool_)]),
)


def nest(parts):
    """Put strategies of samples into containers."""
    sequences = st.builds(
        lambda items, kind: st.tuples(*items).map(kind),
        st.lists(parts, max_size=3),
        st.sampled_from(SEQUENCES),
    )
    mappings = st.builds(
        lambda items, kind: st.fixed_dictionaries(items).map(kind),
        st.dictionaries(KEYS, parts, max_size=3),
        st.sampled_from(MAPPINGS),
    )
    points = st.tuples(parts, parts).map(lambda both: st.builds(Point, *both))
    return st.one_of(sequences, points, mappings)


@given(st.data())
def test_random_samples_become_what_torch_makes_of_them(data):
    """Nested samples of any structure have torch's structure, types, dtypes and values."""
    structure = data.draw(st.recursive(FIELDS, nest, max_leaves=6))
    samples = data.draw(st.lists(structure, min_size=1, max_size=4))
    expected = default_collate(samples)
    assert same(plain(samples), expected)
    assert same(collate_samples(samples), expected)


SENT = [*TENSORS, *NUMBERS_AND_TEXT, *CONTAINERS]
SENT = [samples for samples in SENT if not {*map(type, samples)} & {types.MappingProxyType}]


def collate_one(batch):
    return plain(batch[0])


def test_workers_make_the_same():
    """In a worker, where batches lie in shared memory, each case becomes the same."""
    found = list(DataLoader(SENT, 1, collate_fn=collate_one, num_workers=1, timeout=60))
    for samples, batch in zip(SENT, found, strict=True):
        assert same(batch, default_collate(samples)), samples


@pytest.mark.parametrize("size", [2, 160])
@pytest.mark.parametrize("kind", [tv_tensors.Image, tv_tensors.Video, tv_tensors.Mask])
def test_tv_tensors_keep_the_types_that_torch_drops(kind, size):
    """Types are those of the samples, mixed or not, and values are torch's before mixing."""
    samples = [(kind(torch.rand(2, 3, size, size)), n) for n in range(3)]
    batch, expected = plain(samples)[0], default_collate(samples)[0]
    assert (type(batch), type(expected)) == (kind, torch.Tensor)
    assert same(batch.as_subclass(torch.Tensor), expected)
    for p in (0.0, 1.0) if kind is not tv_tensors.Mask else ():
        mixed, _ = make_collate_fn(Mixup(num_classes=3), p)(samples)
        assert type(mixed) is kind
        assert same(mixed.as_subclass(torch.Tensor), expected) == (p == 0)


@pytest.mark.parametrize("transform", [Mixup(num_classes=3), CutMix(num_classes=3), Cutout()])
@pytest.mark.parametrize("size", [8, 160])
def test_a_batch_lies_in_the_order_of_its_axes(transform, size):
    """Videos with the channels last are contiguous afterwards, mixed or not."""
    videos = torch.rand(3, 2, 3, size, size)
    videos = [one.to(memory_format=torch.channels_last) for one in videos]
    for p in (0.0, 1.0):
        batch, _ = make_collate_fn(transform, p)([(one, 1) for one in videos])
        assert batch.is_contiguous()


@pytest.mark.parametrize("size", [8, 160])
def test_images_that_require_gradients_are_mixed_differentiably(size):
    """In the main process gradients reach such samples, as with torch."""
    samples = [(torch.rand(3, size, size, requires_grad=True), n) for n in range(3)]
    images, _ = make_collate_fn(Mixup(num_classes=3), seed=0)(samples)
    images.sum().backward()
    assert sum(float(image.grad.sum()) for image, _ in samples) == pytest.approx(9 * size**2)


def test_workers_refuse_gradients():
    """A worker cannot send them, as with torch, and says what to do."""
    samples = [torch.rand(3, 8, 8, requires_grad=True) for _ in range(2)]
    loader = DataLoader(samples, 2, collate_fn=plain, num_workers=1, timeout=60)
    with pytest.raises(ValueError, match=r"requires grad.*detach\(\) them") as error:
        list(loader)
    traceback.clear_frames(error.tb)
