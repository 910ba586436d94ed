"""Hypothesis strategies for batches, samples, plans and transforms.

They follow hypothesis's own conventions: plural nouns, options by keyword, wrong arguments refused
at once, and examples that shrink to few samples, small sides and simple values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torchvision import tv_tensors

from tv_mixaug.engine.plan import BLEND, NONE, OP_NAMES, PASTE, Plan, box_volumes
from tv_mixaug.transforms import CutMix, Cutout, Mixup

DTYPES = (torch.float32, torch.uint8, torch.float64, torch.float16, torch.bfloat16)
LABEL_KINDS = ("index", "onehot", "multihot", "soft")


def image_batches(
    *,
    min_size: int = 1,
    max_size: int = 8,
    min_side: int = 1,
    max_side: int = 16,
    channels: Sequence[int] = (3, 1),
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> SearchStrategy[Tensor]:
    """Generate batches of images.

    Args:
        min_size: fewest images in a batch, >= 0.
        max_size: most images in a batch.
        min_side: smallest height and width in pixels, >= 1.
        max_side: largest height and width in pixels.
        channels: numbers of channels to choose from, the simplest first.
        dtypes: dtypes to choose from, the simplest first.

    Returns:
        A strategy for (B, C, H, W) tensors: uint8 in [0, 255], floating point in [0, 1].

    Raises:
        hypothesis.errors.InvalidArgument: an argument is out of range.

    Example:
        >>> from hypothesis import find
        >>> find(image_batches(), lambda images: True).shape
        torch.Size([1, 3, 1, 1])
    """
    _check_range("size", min_size, max_size, least=0)
    _check_range("side", min_side, max_side, least=1)
    _check_choices("dtypes", dtypes, DTYPES)
    if not channels or min(channels) < 1:
        raise InvalidArgument(f"channels must be numbers >= 1, got {channels!r}.")
    sides = st.integers(min_side, max_side)
    shapes = st.tuples(st.integers(min_size, max_size), st.sampled_from(channels), sides, sides)
    return st.builds(_draw_pixels, shapes, st.sampled_from(dtypes), _seeds())


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
        min_size: fewest labels in a batch, >= 0.
        max_size: most labels in a batch.
        kinds: kinds to choose from: "index" (B,) of any integer dtype, "onehot" (B, K) int64,
            "multihot" (B, K) bool, "soft" (B, K) float32 with rows that sum to 1.

    Returns:
        A strategy for label tensors.

    Raises:
        hypothesis.errors.InvalidArgument: an argument is out of range.

    Example:
        >>> from hypothesis import find
        >>> find(label_batches(num_classes=3, kinds=["index"]), lambda labels: True)
        tensor([0])
    """
    _check_range("size", min_size, max_size, least=0)
    _check_at_least("num_classes", num_classes, 1)
    _check_choices("kinds", kinds, LABEL_KINDS)
    sizes = st.integers(min_size, max_size)
    shapes = st.tuples(sizes, st.sampled_from(kinds))
    return shapes.flatmap(lambda shape: _labels_of_kind(shape[1], shape[0], num_classes))


def plans(
    *,
    image_size: tuple[int, int],
    min_size: int = 1,
    max_size: int = 8,
    ops: Sequence[str] = OP_NAMES,
) -> SearchStrategy[Plan]:
    """Generate valid plans, in which each sample has its own operation, partner and box.

    Args:
        image_size: (height, width) of the images in pixels.
        min_size: fewest samples, >= 0.
        max_size: most samples.
        ops: operations to choose from: "none", "fill", "blend", "paste".

    Returns:
        A strategy for :class:`~tv_mixaug.engine.plan.Plan`, boxes (B, 1, 4), the weights of cut samples
        counted from their boxes.

    Raises:
        hypothesis.errors.InvalidArgument: an argument is out of range.

    Example:
        >>> from hypothesis import find
        >>> find(plans(image_size=(4, 4)), lambda plan: True).lam
        tensor([1.])
    """
    _check_range("size", min_size, max_size, least=0)
    _check_choices("ops", ops, OP_NAMES)
    if len(image_size) != 2 or min(image_size) < 1:
        raise InvalidArgument(f"image_size must be (height, width), both >= 1, got {image_size!r}.")
    codes = [OP_NAMES.index(op) for op in ops]
    return _plans(codes, image_size, st.integers(min_size, max_size))


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
    """Generate lists of samples, as a data set hands them to a collate function.

    Args:
        num_classes: number of classes, >= 1.
        min_size: fewest samples, >= 1.
        max_size: most samples.
        min_side: smallest height and width in pixels, >= 1.
        max_side: largest height and width in pixels.
        dtypes: dtypes of the images to choose from.
        layouts: "tuple": `(image, label)` with a plain tensor; "dict": `{"image", "label", "name"}`
            with an `Image`.

    Returns:
        A strategy for lists of samples, all images of one shape and dtype, labels as ints.

    Raises:
        hypothesis.errors.InvalidArgument: an argument is out of range.

    Example:
        >>> from hypothesis import find
        >>> (image, label), = find(samples(num_classes=3), lambda samples: True)
        >>> image.shape, label
        (torch.Size([3, 1, 1]), 0)
    """
    _check_range("size", min_size, max_size, least=1)
    _check_at_least("num_classes", num_classes, 1)
    _check_choices("layouts", layouts, ("tuple", "dict"))
    batches = image_batches(
        min_size=min_size, max_size=max_size, min_side=min_side, max_side=max_side, dtypes=dtypes
    )
    return batches.flatmap(
        lambda images: st.builds(
            _sample_list,
            st.just(images),
            st.lists(st.integers(0, num_classes - 1), min_size=len(images), max_size=len(images)),
            st.sampled_from(layouts),
        )
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
        A strategy for transforms that take uint8 and floating-point images and do not write into
        them.

    Raises:
        hypothesis.errors.InvalidArgument: an argument is out of range.

    Example:
        >>> from hypothesis import find
        >>> find(transforms(num_classes=3), lambda transform: True).p
        1.0
    """
    _check_at_least("num_classes", num_classes, 1)
    _check_choices("kinds", kinds, (Mixup, CutMix, Cutout))
    _check_choices("targets", targets, ("soft", "pair"))
    if not 0 <= max_smoothing < 1:
        raise InvalidArgument(f"max_smoothing must be in [0, 1), got {max_smoothing!r}.")

    # The simplest value comes first: that is where a failing example shrinks to.
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
    built: list[SearchStrategy[Any]] = []
    for target, kind in product(targets, kinds):
        smoothing = st.floats(0, max_smoothing)
        if target == "pair":  # takes none, but drawing less would make pairs the simpler example
            smoothing = smoothing.map(lambda _: 0.0)
        labels = {"targets": st.just(target), "label_smoothing": smoothing}
        options = holes if kind is Cutout else mixing
        built.append(st.builds(kind, **shared, **labels, **options))
    return st.one_of(built)


def _seeds() -> SearchStrategy[int]:
    return st.integers(0, 2**32 - 1)


def _draw_pixels(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    # Pixels come from one drawn seed: drawing them one by one would be slow, and show no more.
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator).to(dtype)
    return torch.randint(256, shape, generator=generator, dtype=dtype)


def _labels_of_kind(kind: str, size: int, num_classes: int) -> SearchStrategy[Tensor]:
    if kind == "index":
        # A dtype must be able to hold the classes.
        fitting = [d for d in _INDEX_DTYPES if torch.iinfo(d).max >= num_classes - 1]
        classes = st.lists(st.integers(0, num_classes - 1), min_size=size, max_size=size)
        return st.builds(
            lambda values, dtype: torch.tensor(values, dtype=dtype),
            classes,
            st.sampled_from(fitting),
        )
    shape = (size, num_classes)
    return st.builds(_LABEL_MAKERS[kind], st.just(shape), _seeds())


_INDEX_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def _onehot(shape: tuple[int, int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(shape[1], shape[:1], generator=generator)
    return torch.nn.functional.one_hot(classes, shape[1])


def _multihot(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def _soft(shape: tuple[int, int], seed: int) -> Tensor:
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 1e-3
    return weights / weights.sum(1, keepdim=True)


_LABEL_MAKERS = {"onehot": _onehot, "multihot": _multihot, "soft": _soft}


@st.composite
def _plans(
    draw: st.DrawFn, codes: list[int], image_size: tuple[int, int], sizes: SearchStrategy[int]
) -> Plan:
    size, (height, width) = draw(sizes), image_size

    def column(values: SearchStrategy[int]) -> Tensor:
        drawn = draw(st.lists(values, min_size=size, max_size=size))
        return torch.tensor(drawn, dtype=torch.int64)

    op = column(st.sampled_from(codes)).to(torch.uint8)
    partner = column(st.integers(0, max(0, size - 1)))
    lam = 1 - column(st.integers(0, 64)).to(torch.float32) / 64
    xs, ys = (
        torch.stack([column(st.integers(0, side)) for _ in range(2)]).sort(0).values
        for side in (width, height)
    )
    boxes = torch.stack([xs[0], ys[0], xs[1], ys[1]], 1)
    # What an operation does not use is as the transforms leave it.
    boxes = torch.where(((op != NONE) & (op != BLEND))[:, None], boxes, 0)
    area = box_volumes(boxes).to(torch.float32) / (height * width)
    return Plan(
        op=op,
        partner=torch.where((op == BLEND) | (op == PASTE), partner, torch.arange(size)),
        lam=torch.where(op == BLEND, lam, torch.where(op == PASTE, 1 - area, 1.0)),
        boxes=boxes[:, None],
        noise=draw(_seeds()) + torch.arange(size),
    )


def _sample_list(images: Tensor, classes: list[int], layout: str) -> list[Any]:
    if layout == "tuple":
        return list(zip(images, classes, strict=True))
    return [
        {"image": tv_tensors.Image(image), "label": label, "name": f"sample {n}"}
        for n, (image, label) in enumerate(zip(images, classes, strict=True))
    ]


def _check_at_least(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{name} must be an int >= {least}, got {value!r}.")


def _check_range(name: str, low: Any, high: Any, *, least: int) -> None:
    _check_at_least(f"min_{name}", low, least)
    _check_at_least(f"max_{name}", high, least)
    if low > high:
        raise InvalidArgument(f"max_{name} must be >= min_{name} = {low}, got {high}.")


def _check_choices(name: str, values: Iterable[Any], allowed: Sequence[Any]) -> None:
    values = list(values)
    if not values or any(value not in allowed for value in values):
        raise InvalidArgument(f"{name} must be chosen from {list(allowed)}, got {values}.")
