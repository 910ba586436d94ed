"""Hypothesis strategies for batches, samples, plans and transforms.

As in hypothesis, options are keywords, wrong arguments raise `hypothesis.errors.InvalidArgument` at
once, and examples shrink to few samples, small sides and simple values.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug import CutMix, Cutout, Mixup, Plan

DTYPES = (torch.float32, torch.uint8, torch.float64, torch.float16, torch.bfloat16)
INDEX_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
LABEL_KINDS = ("index", "onehot", "multihot", "soft")
OPS = ("none", "fill", "blend", "paste")
SEEDS = st.integers(0, 2**32 - 1)


def image_batches(
    *,
    min_size: int = 1,
    max_size: int = 8,
    min_side: int = 1,
    max_side: int = 16,
    channels: Sequence[int] = (3, 1),
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> SearchStrategy[Tensor]:
    """Generate (B, C, H, W) images: uint8 in [0, 255], or floating point in [0, 1].

    Args:
        min_size: smallest number of images in a batch, >= 0.
        max_size: largest number of images in a batch.
        min_side: smallest height and width in pixels, >= 1.
        max_side: largest height and width in pixels.
        channels: numbers of channels to choose from, the simplest first.
        dtypes: dtypes to choose from, the simplest first.

    Example:
        >>> from hypothesis import find
        >>> find(image_batches(), lambda images: True).shape
        torch.Size([1, 3, 1, 1])
    """
    if not channels or min(channels) < 1:
        raise InvalidArgument(f"channels must be numbers >= 1, got {channels!r}.")
    sizes = _integers("size", min_size, max_size, least=0)
    sides = _integers("side", min_side, max_side, least=1)
    shapes = st.tuples(sizes, st.sampled_from(channels), sides, sides)
    return st.builds(_make_pixels, shapes, _choices("dtypes", dtypes, DTYPES), SEEDS)


def label_batches(
    *,
    num_classes: int,
    min_size: int = 1,
    max_size: int = 8,
    kinds: Sequence[str] = LABEL_KINDS,
) -> SearchStrategy[Tensor]:
    """Generate batches of labels.

    Args:
        num_classes: number of classes K, >= 1.
        min_size: smallest number of labels in a batch, >= 0.
        max_size: largest number of labels in a batch.
        kinds: kinds to choose from: "index" (B,) of any integer dtype, "onehot" (B, K) int64,
            "multihot" (B, K) bool, "soft" (B, K) float32 with rows that sum to 1.

    Example:
        >>> from hypothesis import find
        >>> find(label_batches(num_classes=3, kinds=["index"]), lambda labels: True)
        tensor([0])
    """
    _check_integer("num_classes", num_classes, 1)
    fitting = [dtype for dtype in INDEX_DTYPES if torch.iinfo(dtype).max >= num_classes - 1]

    def labels(size: int, kind: str) -> SearchStrategy[Tensor]:
        if kind == "index":
            indices = _lists(st.integers(0, num_classes - 1), size)
            return st.builds(torch.tensor, indices, dtype=st.sampled_from(fitting))
        return SEEDS.map(lambda seed: _make_rows(kind, (size, num_classes), seed))

    sizes = _integers("size", min_size, max_size, least=0)
    shapes = st.tuples(sizes, _choices("kinds", kinds, LABEL_KINDS))
    return shapes.flatmap(lambda shape: labels(*shape))


def plans(
    *,
    image_size: tuple[int, int],
    min_size: int = 1,
    max_size: int = 8,
    ops: Sequence[str] = OPS,
) -> SearchStrategy[Plan]:
    """Generate valid plans, in which each sample has its own operation, partner and box.

    Args:
        image_size: (height, width) of the images in pixels.
        min_size: smallest number of samples, >= 0.
        max_size: largest number of samples.
        ops: operations to choose from: "none", "fill", "blend", "paste".

    Returns:
        A strategy for :class:`~tv_mixaug.Plan`, boxes (B, 1, 4), whose weights fit the boxes.

    Example:
        >>> from hypothesis import find
        >>> find(plans(image_size=(4, 4)), lambda plan: True).lam
        tensor([1.])
    """
    if len(image_size) != 2 or min(image_size) < 1:
        raise InvalidArgument(f"image_size must be (height, width), both >= 1, got {image_size!r}.")
    codes = _choices("ops", ops, OPS).map(OPS.index)
    sizes = _integers("size", min_size, max_size, least=0)
    height, width = image_size

    @st.composite
    def build(draw: st.DrawFn) -> Plan:
        size = draw(sizes)

        def column(values: SearchStrategy[int]) -> Tensor:
            return torch.tensor(draw(_lists(values, size)), dtype=torch.int64)

        op = column(codes).to(torch.uint8)
        fills, blends, pastes = (op == OPS.index(name) for name in ("fill", "blend", "paste"))
        partner = column(st.integers(0, max(0, size - 1)))
        lam = 1 - column(st.integers(0, 64)) / 64
        x1, x2 = torch.stack([column(st.integers(0, width)) for _ in range(2)]).sort(0).values
        y1, y2 = torch.stack([column(st.integers(0, height)) for _ in range(2)]).sort(0).values
        boxes = torch.stack([x1, y1, x2, y2], 1)
        area = (x2 - x1) * (y2 - y1) / (height * width)
        return Plan(  # fields that an operation does not use are as in the transforms' own plans
            op=op,
            partner=torch.where(blends | pastes, partner, torch.arange(size)),
            lam=torch.where(blends, lam, torch.where(pastes, 1 - area, 1.0)),
            boxes=torch.where((fills | pastes)[:, None], boxes, 0)[:, None],
            noise=draw(SEEDS) + torch.arange(size),
            size=torch.tensor([[height, width]]).repeat(size, 1),
        )

    return build()


def samples(
    *,
    num_classes: int,
    min_size: int = 1,
    max_size: int = 8,
    min_side: int = 1,
    max_side: int = 16,
    dtypes: Sequence[torch.dtype] = DTYPES,
    layouts: Sequence[str] = ("tuple", "dict"),
) -> SearchStrategy[list[Any]]:
    """Generate lists of samples, as a data set passes them to a collate function.

    Args:
        num_classes: number of classes, >= 1.
        min_size: smallest number of samples, >= 1.
        max_size: largest number of samples.
        min_side: smallest height and width in pixels, >= 1.
        max_side: largest height and width in pixels.
        dtypes: dtypes of the images to choose from.
        layouts: "tuple": `(image, label)` with a plain tensor; "dict": `{"image", "label", "name"}`
            with an `Image`.

    Returns:
        A strategy for lists of samples, all images of one shape and dtype, labels as ints.

    Example:
        >>> from hypothesis import find
        >>> (image, label), = find(samples(num_classes=3), lambda samples: True)
        >>> image.shape, label
        (torch.Size([3, 1, 1]), 0)
    """
    _check_integer("num_classes", num_classes, 1)
    _check_integer("min_size", min_size, 1)
    chosen = _choices("layouts", layouts, ("tuple", "dict"))
    batches = image_batches(
        min_size=min_size, max_size=max_size, min_side=min_side, max_side=max_side, dtypes=dtypes
    )

    def make(images: Tensor, classes: list[int], layout: str) -> list[Any]:
        if layout == "tuple":
            return list(zip(images, classes, strict=True))
        return [
            {"image": tv_tensors.Image(image), "label": label, "name": f"sample {n}"}
            for n, (image, label) in enumerate(zip(images, classes, strict=True))
        ]

    classes = st.integers(0, num_classes - 1)
    return batches.flatmap(
        lambda images: st.builds(make, st.just(images), _lists(classes, len(images)), chosen)
    )


def transforms(
    *,
    num_classes: int,
    kinds: Sequence[type[Mixup] | type[CutMix] | type[Cutout]] = (Mixup, CutMix, Cutout),
    targets: Sequence[str] = ("soft", "pair"),
    max_smoothing: float = 0.5,
) -> SearchStrategy[Mixup | CutMix | Cutout]:
    """Generate valid configurations of the transforms, for image classification.

    Args:
        num_classes: number of classes, >= 1.
        kinds: classes to choose from.
        targets: label formats to choose from, "soft" and "pair".
        max_smoothing: largest label smoothing, in [0, 1).

    Returns:
        A strategy for transforms of uint8 and floating-point images, which are not written to.

    Example:
        >>> from hypothesis import find
        >>> find(transforms(num_classes=3), lambda transform: True).p
        1.0
    """
    _check_integer("num_classes", num_classes, 1)
    _choices("kinds", kinds, (Mixup, CutMix, Cutout))
    _choices("targets", targets, ("soft", "pair"))
    if not 0 <= max_smoothing < 1:
        raise InvalidArgument(f"max_smoothing must be in [0, 1), got {max_smoothing!r}.")

    # The simplest value comes first: failing examples shrink to it.
    shared: dict[str, SearchStrategy[Any]] = {
        "num_classes": st.just(num_classes),
        "p": st.just(1.0) | st.floats(0, 1),
        "mode": st.sampled_from(["batch", "sample"]),
    }
    mixing: dict[str, SearchStrategy[Any]] = {
        "alpha": st.just(1.0) | st.floats(0.01, 1000),
        "pairing": st.sampled_from(["roll", "shuffle"]),
    }
    sides = st.integers(1, 16) | st.floats(0.01, 1)
    holes: dict[str, SearchStrategy[Any]] = {
        "size": sides | st.tuples(sides, sides),
        "holes": st.integers(1, 3),
        "fill": st.integers(0, 255) | st.just("noise"),
    }
    smoothings = {"soft": st.floats(0, max_smoothing)}
    # Pairs take no smoothing, but sampling less would make pairs the simpler example.
    smoothings["pair"] = smoothings["soft"].map(lambda _: 0.0)
    built: list[SearchStrategy[Any]] = []
    for target, kind in product(targets, kinds):
        labels = {"targets": st.just(target), "label_smoothing": smoothings[target]}
        built.append(st.builds(kind, **shared, **labels, **(holes if kind is Cutout else mixing)))
    return st.one_of(built)


def _make_pixels(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    # One seed for all pixels: to sample each pixel by itself would be slow and show nothing more.
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator).to(dtype)
    return torch.randint(256, shape, generator=generator, dtype=dtype)


def _make_rows(kind: str, shape: tuple[int, int], seed: int) -> Tensor:
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 1e-3
    if kind == "onehot":
        return torch.nn.functional.one_hot(weights.argmax(1), shape[1])
    return weights < 0.5 if kind == "multihot" else weights / weights.sum(1, keepdim=True)


def _lists(values: SearchStrategy[int], size: int) -> SearchStrategy[list[int]]:
    return st.lists(values, min_size=size, max_size=size)


def _check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{name} must be an int >= {least}, got {value!r}.")


def _integers(name: str, low: int, high: int, *, least: int) -> SearchStrategy[int]:
    """Generate integers between the arguments `min_<name>` and `max_<name>`."""
    _check_integer(f"min_{name}", low, least)
    _check_integer(f"max_{name}", high, least)
    if low > high:
        raise InvalidArgument(f"max_{name} must be >= min_{name} = {low}, got {high}.")
    return st.integers(low, high)


def _choices(name: str, values: Sequence[Any], allowed: Sequence[Any]) -> SearchStrategy[Any]:
    """Generate one of the values, all of which must be allowed."""
    if not values or any(value not in allowed for value in values):
        raise InvalidArgument(f"{name} must be chosen from {list(allowed)}, got {list(values)}.")
    return st.sampled_from(values)
