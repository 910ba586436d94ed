"""Each fault that the kit missed or misnamed is found, and each pipeline it accused passes."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate, get_worker_info

from tv_mixaug import CutMix, Mixup, make_collate_fn
from tv_mixaug.testing import (
    UntruthfulError,
    assert_draws_independent,
    assert_labels_match_pixels,
    assert_probability,
)

K = 10
FLAT = CutMix(num_classes=K, targets="pair", pairing="shuffle")
HALF = Mixup(num_classes=K)
FAINT = Mixup(0.2, num_classes=K, targets="pair")


def one_hot(labels):
    return torch.nn.functional.one_hot(labels, K).float()


def blend(images, lam, partner):
    mixed = lam * images.float() + (1 - lam) * images[partner].float()
    return (mixed if images.is_floating_point() else mixed.round()).to(images.dtype)


def blend_anew(images, labels, lam=None):
    """Blend with permuted partners, so that some samples are their own partners."""
    lam = torch.rand(()) if lam is None else lam
    return blend(images, lam, torch.randperm(len(images))), labels


def blend_with_one_lam(images, labels):
    return blend_anew(images, labels, 0.37)


def cut_anew(images, labels, box=None):
    box = torch.randint(1, 20, (4,)).tolist() if box is None else box
    y, x, height, width = box
    out, partner = images.clone(), torch.randperm(len(images))
    pasted = images[partner][..., y : y + height, x : x + width]
    out[..., y : y + height, x : x + width] = pasted
    return out, labels


def cut_one_box(images, labels):
    return cut_anew(images, labels, (4, 6, 16, 13))


def blend_or_cut(images, labels):
    """Choose one of two mixes, of which one has a fixed lam."""
    mix = blend_with_one_lam if torch.rand(()) < 0.5 else cut_anew
    return mix(images, labels)


DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("wrong", "right"),
    [(blend_with_one_lam, blend_anew), (cut_one_box, cut_anew), (blend_or_cut, cut_anew)],
)
def test_values_drawn_once_are_found_although_partners_are_permuted(wrong, right, dtype):
    """One lam or box for all calls fails in every dtype; one for each call passes."""
    assert_draws_independent(right, dtype=dtype)
    with pytest.raises(UntruthfulError, match="used again in every call"):
        assert_draws_independent(wrong, dtype=dtype)


class _NumPyLam:
    """Sample lam with a generator that workers copy, and partners with torch's own."""

    def __init__(self):
        self.numbers = np.random.default_rng(0)

    def __call__(self, samples):
        """Collate and blend."""
        return blend_anew(*default_collate(samples), self.numbers.random())


def collate_anew(samples):
    return blend_anew(*default_collate(samples))


def collate_in_main_process(samples):
    images, labels = default_collate(samples)
    return (images, labels) if get_worker_info() else blend_anew(images, labels)


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [(_NumPyLam(), "workers have copies"), (collate_in_main_process, "and not in workers")],
)
def test_faults_of_workers_are_found_although_partners_are_permuted(wrong, cause):
    """Workers that repeat each other's lam, or mix nothing, fail; workers that sample pass."""
    assert_draws_independent(collate_anew, collate=True)
    with pytest.raises(UntruthfulError, match=cause):
        assert_draws_independent(wrong, collate=True)


@pytest.mark.parametrize("size", [(8, 8), (32, 32)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_mixes_without_a_trace_are_allowed_for(kind, dtype, size):
    """A small alpha passes in few pixels and narrow dtypes; another p than stated fails."""
    options = {"dtype": dtype, "size": size, "draws": 100}
    for per in ("batch", "sample"):
        for p in (1.0, 0.5):
            assert_probability(kind(0.2, num_classes=2, mode=per, p=p), p, per=per, **options)
        with pytest.raises(UntruthfulError, match="The share of mixed"):
            assert_probability(kind(num_classes=2, mode=per, p=0.2), 0.8, per=per, **options)


def narrow(images, labels, dtype, *, swapped=False):
    images, rows = HALF(images, labels)
    return images, (rows.flip(0) if swapped else rows).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_labels_in_half_precision_are_compared_to_their_precision(dtype):
    """Labels rounded to their own dtype pass; those of other samples, or truncated, fail."""
    few = {"num_classes": K, "batch_sizes": (8,), "sizes": ((8, 8),)}
    assert_labels_match_pixels(lambda i, y: narrow(i, y, dtype), **few)
    assert_labels_match_pixels(lambda i, y: pair_of(FLAT, i, y, dtype), **few)
    with pytest.raises(UntruthfulError, match="paired with different samples"):
        assert_labels_match_pixels(lambda i, y: narrow(i, y, dtype, swapped=True), **few)
    with pytest.raises(UntruthfulError, match="Labels differ from the pixels"):
        assert_labels_match_pixels(
            lambda i, y: pair_of(FLAT, i, y, dtype, shift=0.05), **few, channels=3
        )
    with pytest.raises(UntruthfulError, match="Labels differ from the pixels"):
        assert_labels_match_pixels(lambda i, y: rounded_rows(i, y, dtype), **few)


def pair_of(mix, images, labels, dtype, shift=0.0):
    images, (first, second, lam) = mix(images, labels)
    return images, (first, second, ((1 - shift) * lam).to(dtype))


def rounded_rows(images, labels, dtype):
    """Round labels to a dtype and return float32, whose precision they do not have."""
    images, rows = narrow(images, labels, dtype)
    return images, rows.float()


def flat(images, labels, *, swapped=False):
    """Return the four values that mixing scripts return."""
    images, (first, second, lam) = FLAT(images, labels)
    return (images, second, first, lam) if swapped else (images, first, second, lam)


def test_a_flat_tuple_of_four_is_read_as_a_pair_of_labels():
    """Images, both labels and lam in one tuple pass, and fail if lam is the partner's."""
    assert assert_labels_match_pixels(flat, num_classes=K).mixed > 0
    assert_probability(flat, 1.0, draws=100)
    assert_draws_independent(flat)
    with pytest.raises(UntruthfulError, match="the weights are swapped"):
        assert_labels_match_pixels(lambda i, y: flat(i, y, swapped=True), num_classes=K)


def permuted_separately(images, labels):
    lam, rows = torch.rand(()), one_hot(labels)
    first, second = (torch.randperm(len(images)) for _ in range(2))
    return blend(images, lam, first), lam * rows + (1 - lam) * rows[second]


def clipped_in_labels(images, labels, low=0.1):
    images, (first, second, lam) = FAINT(images, labels)
    return images, (first, second, lam.clamp(low, 1 - low))


@pytest.mark.parametrize("seed", range(0, 5000, 1000))
@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (permuted_separately, "paired with different samples"),
        (clipped_in_labels, "blended with different values of lam"),
    ],
)
def test_causes_are_judged_where_faults_do_not_look_alike(wrong, cause, seed):
    """The default batches, of which the small ones suggest other causes, give the right one."""
    with pytest.raises(UntruthfulError, match=cause):
        assert_labels_match_pixels(wrong, num_classes=K, seed=seed)


def test_zero_switches_a_list_of_transforms_off():
    """`set_p(0)` and `OneOf.p = 0` mean none of the transforms; another number is refused."""
    collate = make_collate_fn([Mixup(num_classes=K), CutMix(num_classes=K)])
    for zero in (0, 0.0):
        collate.set_p(zero)
        assert collate.p == [0.0, 0.0]
    batch = [(torch.rand(3, 8, 8), n) for n in range(4)]
    assert torch.equal(collate(batch)[1], one_hot(torch.arange(4)))
    for other in (1, 0.5, False):
        with pytest.raises(TypeError, match="p must be a list"):
            collate.set_p(other)
