"""Every transform of the registry keeps the promises that all transforms share."""

import copy
import pickle

import pytest
import torch
from helpers.coded import DTYPES, SIZES, coded_images, seeded
from helpers.compiling import needs_tracing
from helpers.distributions import stats
from helpers.loading import CLASSES, Pictures, same
from helpers.reference import random_images
from helpers.transforms import MEMBERS, K, check_mix, make, names
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from tv_mixaug import CutMix, PairedLabels, make_collate_fn, testing
from tv_mixaug.engine.plan import BLEND, FILL, NONE

LEVEL = 1e-4
EACH = pytest.mark.parametrize("name", MEMBERS)
PLANNED = pytest.mark.parametrize("name", names(has_plan=True))
BLENDING = pytest.mark.parametrize("name", names(blends=True))
CUTTING = pytest.mark.parametrize("name", names(blends=False, has_plan=True))


def make_batch(count=6, **fields):
    """Return coded images with their labels, and more fields."""
    return {"image": coded_images(count, (12, 16)), "label": torch.arange(count), **fields}


def call_often(mix, *batch):
    """Call a transform until a choice for the batch has applied each of its rules."""
    for _ in range(30):
        mix(*batch)


# --- Labels ---------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("collate", [False, True])
def test_labels_equal_pixels(name, collate):
    """Labels hold the shares of the visible pixels, also if samples are mixed before stacking."""
    report = testing.assert_labels_match_pixels(
        make_collate_fn(make(name), seed=0) if collate else make(name),
        num_classes=K,
        collate=collate,
        erased=MEMBERS[name].erased,
        draws=2,
    )
    assert bool(report.mixed) is MEMBERS[name].mixes


@EACH
@pytest.mark.parametrize("collate", [False, True])
def test_labels_have_one_format(name, collate):
    """Labels have one type, shape and dtype for every p, whether a batch is mixed or not."""

    def pipeline(p):
        return make_collate_fn(make(name, p=p)) if collate else make(name, p=p)

    testing.assert_one_label_format(pipeline, num_classes=K, collate=collate, draws=8)


@EACH
def test_labels_are_mixed_once(name):
    """Transforms refuse paired labels if they mix labels, and keep them otherwise."""
    pairs = PairedLabels(torch.arange(6), torch.arange(6).flip(0), torch.full((6,), 0.5))
    if not MEMBERS[name].mixes:
        assert same(make(name).mix(make_batch(label=pairs))[0]["label"], pairs)
        return
    with pytest.raises(ValueError, match="to be mixed a second time"):
        call_often(make(name), make_batch(label=pairs))


# --- Pixels, labels and plans ---------------------------------------------------------------------

FORMS = {
    "contiguous": lambda images: images,
    "channels last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "with gaps": lambda images: torch.cat([images, images], -1)[..., : images.shape[-1]],
    "transposed": lambda images: images.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda images: images[:, :1].expand(-1, 3, -1, -1),
}
sizes = st.sampled_from([*SIZES, (160, 150)]) | st.tuples(st.integers(1, 24), st.integers(1, 24))


@PLANNED
@given(
    st.integers(0, 9),
    sizes,
    st.sampled_from(DTYPES),
    st.sampled_from(list(FORMS)),
    st.sampled_from([1.0, 0.6]),
    st.integers(0, 2**32),
)
def test_pixels_labels_and_plan_agree(name, count, size, dtype, form, p, seed):
    """Images are what the plan and labels say, in any memory format, in place and out of place."""
    images = coded_images(count, size, dtype) * (25 if dtype == torch.uint8 else 1)
    check_mix(make(name, p=p), FORMS[form](images), seed)


@PLANNED
@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_p_is_the_share_of_mixed_units(name, p):
    """A batch, a pair or a sample is mixed with probability p."""
    mix, unit = make(name, p=p), MEMBERS[name].unit
    batch = make_batch(K)
    plans = [mix.draw_plan(batch) for _ in range(300)]
    mixed = torch.stack([plan.op != NONE for plan in plans])
    assert not any(plan.boxes[plan.op == NONE].any() for plan in plans)
    if unit == "batch":
        assert (mixed == mixed[:, :1]).all()
    if unit == "pair":
        assert (mixed == mixed.flip(1)).all()
    units = mixed[:, : {"batch": 1, "pair": K // 2, "sample": K}[unit]]
    assert stats.binomtest(int(units.sum()), units.numel(), p).pvalue > LEVEL


@PLANNED
def test_units_share_one_draw(name):
    """A batch has one weight and one set of boxes if they are sampled for the batch."""
    plans = [make(name).draw_plan(make_batch(K)) for _ in range(30)]
    rows = [torch.cat([p.lam[:, None], p.boxes.flatten(1)], 1).unique(dim=0) for p in plans]
    least = {"batch": 1, "pair": 2, "sample": 3}[MEMBERS[name].unit]
    choice = name == "one of, batch"  # of rules of which one has boxes for each sample
    assert max(map(len, rows)) >= (3 if choice else least)
    if MEMBERS[name].unit == "batch" and not choice:
        assert all(len(some) == 1 for some in rows)


@PLANNED
def test_a_plan_can_be_sampled_alone(name):
    """draw_plan samples the plain CPU tensors of mix with the same generator, and mixes nothing."""
    mix, batch = make(name), make_batch()
    plan = mix.draw_plan(batch, generator=seeded(2))
    assert plan._fields == ("op", "partner", "lam", "boxes", "noise", "size")
    assert all(type(field) is Tensor and field.is_cpu for field in plan)
    assert same(batch, make_batch())
    assert same(tuple(plan), tuple(mix.mix(batch, generator=seeded(2))[1]))


# --- Inputs and results ---------------------------------------------------------------------------


@EACH
def test_inputs_stay_unchanged(name):
    """Neither a batch nor the samples of a data set are written to."""
    images, labels = coded_images(5, (9, 12)), torch.arange(5)
    testing.assert_inputs_unchanged(make(name), images, labels, calls=8)
    arrays = [(image.numpy(), i) for i, image in enumerate(images.byte())]
    testing.assert_inputs_unchanged(make_collate_fn(make(name)), arrays, calls=8)


@EACH
@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_batch_may_hold_one_image_or_none(name, count, dtype):
    """A batch without partners keeps its labels, in the one format, and its unerased pixels."""
    images = coded_images(count, (4, 4), dtype)
    out, soft = make(name)(images, torch.full((count,), 2))
    assert (out.dtype, out.shape) == (dtype, images.shape)
    assert torch.equal(soft, torch.eye(K)[2].expand(count, K))
    if MEMBERS[name].erased is None:
        assert torch.equal(out, images)


@EACH
def test_p_zero_only_sets_the_label_format(name):
    """With p = 0 images stay unchanged, and labels get their format."""
    out = make(name, p=0.0)(make_batch())
    assert torch.equal(out["image"], make_batch()["image"])
    assert torch.equal(out["label"], torch.eye(K)[:6])


@EACH
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_types_and_memory_formats_are_kept(name, p):
    """Images stay Images, videos stay Videos, and channels last stay channels last."""
    plain, mix = torch.rand(4, 3, 40, 40), make(name, p=p)
    last = plain.contiguous(memory_format=torch.channels_last)
    for images in (tv_tensors.Image(plain), tv_tensors.Video(torch.rand(4, 2, 3, 8, 8)), last):
        out, _ = mix(images, torch.arange(4))
        assert type(out) is type(images)
        assert out.shape == images.shape
    if MEMBERS[name].has_plan:
        assert out.is_contiguous(memory_format=torch.channels_last)


@PLANNED
def test_in_place_keeps_the_type_and_the_labels(name):
    """An Image that is written to stays the same object, and labels are new tensors."""
    images, labels = tv_tensors.Image(coded_images(4)), torch.eye(K)[:4]
    mix = make(name, inplace=True)
    for _ in range(8):
        out, soft = mix(images, labels)
        assert out is images
        assert torch.equal(labels, torch.eye(K)[:4])
        assert soft is not labels
    assert not torch.equal(images, coded_images(4))


@EACH
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda mix: pickle.loads(pickle.dumps(mix))],  # noqa: S301
    ids=["deepcopy", "pickle"],
)
def test_copies_sample_the_same(name, duplicate):
    """A copied or pickled transform does the same with the same generator."""
    mix = make(name)
    first, second = (one.mix(make_batch(), generator=seeded(5)) for one in (mix, duplicate(mix)))
    assert same(first, second)
    others = [mix.mix(make_batch(), generator=seeded(seed)) for seed in range(6, 9)]
    assert not all(same(first, other) for other in others)


@pytest.mark.parametrize("name", [*MEMBERS, "a pairing function"])
@pytest.mark.parametrize("default", [d for d in DTYPES if d.is_floating_point], ids=str)
def test_random_numbers_come_from_one_generator(name, default):
    """A generator decides everything, under any default dtype, and otherwise torch.manual_seed.

    A pairing function draws from the global generator, which is seeded for it and then restored.
    """
    pair = CutMix(num_classes=K, pairing=lambda labels: torch.randperm(len(labels)))
    mix = make(name) if name in MEMBERS else pair
    if name == "chain":  # torchvision samples flips in the default dtype
        default = torch.float32
    for kind in (torch.uint8, torch.float32):
        batch, found, seen = make_batch(image=random_images((6, 3, 12, 16), kind)), [], []
        for seed, dtype in ((1, torch.float32), (2, default)):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            try:
                torch.set_default_dtype(dtype)
                found.append(mix.mix(batch, generator=seeded(3)))
            finally:
                torch.set_default_dtype(torch.float32)
            assert torch.equal(torch.get_rng_state(), state)
            torch.manual_seed(3)
            seen.append(mix(batch))
            assert not torch.equal(torch.get_rng_state(), state)
        assert same(*found)
        assert same(*seen)


@EACH
def test_a_seed_gives_the_same_for_every_number_of_workers(name):
    """Batches and plans of a loader depend only on the seed."""
    mix = make(name, num_classes=CLASSES, passthrough=(2,))
    record = MEMBERS[name].has_plan

    def make_loader(workers):
        collate_fn = make_collate_fn(mix, seed=3, record=record)
        return DataLoader(Pictures(), 8, num_workers=workers, collate_fn=collate_fn)

    testing.assert_reproducible(make_loader, num_workers=(0, 2))


@PLANNED
def test_the_default_device_does_not_move_a_batch(name):
    """Plans and results stay on the CPU, whatever device torch creates new tensors on."""
    images, labels, mix = coded_images(4), torch.arange(4), make(name)
    with torch.device("meta"):
        (mixed, soft), plan = mix.mix((images, labels))
        samples = list(zip(images, labels, strict=True))
        collated = make_collate_fn(mix, seed=1)(samples)
    assert {tensor.device.type for tensor in (mixed, soft, *plan, *collated)} == {"cpu"}


# --- Other fields ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "masks"),
    [(n, m) for n in MEMBERS for m in (None, "dominant", "soft") if m or not MEMBERS[n].blends],
)
@pytest.mark.parametrize("collate", [False, True])
def test_masks_follow_their_images(name, masks, collate):
    """Each pixel of a mask has the classes that its image shows, in one format for any p."""
    erases, formats = MEMBERS[name].erased is not None, set()
    options = {"masks": masks, "num_mask_classes": K, "labels_getter": None}
    mix = make(name, p=0.8, **options, **({"mask_fill": 0} if erases else {}))
    call = make_collate_fn(mix) if collate else mix

    def pipeline(*batch):
        out = call(*batch)
        formats.add((out[1].ndim, out[1].dtype))
        return out

    testing.assert_targets_follow_images(
        pipeline,
        kind="masks",
        collate=collate,
        num_classes=K,
        erased=erases,
        mask_fill=0 if erases else None,
        draws=1 if collate else 2,
        batch_sizes=(1, 2, 5),
    )
    assert formats == {(4, torch.float32) if masks == "soft" else (3, torch.uint8)}


@BLENDING
def test_masks_that_would_be_blended_need_a_rule(name):
    """Class ids are not blended: a transform that may blend them asks for a rule."""
    mask = tv_tensors.Mask(torch.zeros(6, 12, 16, dtype=torch.uint8))
    batch = make_batch(mask=mask, image=tv_tensors.Image(coded_images(6, (12, 16))))
    with pytest.raises(ValueError, match="masks must be 'soft' or 'dominant'"):
        call_often(make(name), batch)


@CUTTING
def test_boxes_follow_their_images(name):
    """Boxes enclose the visible pixels of their objects, and both images' objects are kept."""
    testing.assert_targets_follow_images(
        make(name, labels_getter=None), kind="boxes", draws=1, min_visible=0.1
    )


@BLENDING
def test_objects_of_blended_images_are_joined(name):
    """Blended images have the objects of both, and other images only objects of these two."""
    torch.manual_seed(0)
    mix, box = make(name, labels_getter=None), torch.tensor([[2.0, 2, 14, 10]])
    for _ in range(6):
        targets = [{"boxes": box, "labels": torch.tensor([i])} for i in range(6)]
        batch = {"image": tv_tensors.Image(coded_images(6, (12, 16))), "target": targets}
        out, plan = mix.mix(batch)
        for row, target in enumerate(out["target"]):
            found, both = set(target["labels"].tolist()), {row, int(plan.partner[row])}
            assert found == both if plan.op[row] == BLEND else found <= both
            assert len(target["boxes"]) <= (1 if plan.op[row] == FILL else 2)


@EACH
def test_a_second_view_is_mixed_alike(name):
    """Two images of a sample are mixed by one plan; images of two sizes cannot be cut alike."""
    first, second = (tv_tensors.Image(coded_images(6, (12, 16)) * factor) for factor in (1, 2))
    torch.manual_seed(0)
    one, two, _ = make(name)(first, second, torch.arange(6))
    if MEMBERS[name].erased == "noise":
        erased = one != first
        assert torch.equal(two.where(~erased, 0), second.where(~erased, 0))
    else:
        torch.testing.assert_close(two.as_subclass(Tensor), 2 * one.as_subclass(Tensor))
    if not name.startswith("mixup"):
        with pytest.raises(ValueError, match="must be of one size"):
            call_often(make(name), first, tv_tensors.Image(second[..., :8, :8]), torch.arange(6))


# --- The compiled step ----------------------------------------------------------------------------

COMPILED = [  # each takes seconds; "one of, sample" has rules of every kind
    pytest.param(name, marks=[] if name == "one of, sample" else pytest.mark.slow)
    for name in names(has_plan=True)
    if not name.startswith("timm")
]


@needs_tracing
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_step_is_one_graph(name):
    """A compiled step samples, mixes and labels in one graph, and its labels equal the pixels."""
    torch.manual_seed(0)
    torch.compiler.reset()  # graphs of other tests count towards a limit
    mix = make(name)
    compiled = torch.compile(lambda *batch: mix(*batch), fullgraph=True, backend="aot_eager")
    report = testing.assert_labels_match_pixels(
        compiled,
        num_classes=K,
        erased=MEMBERS[name].erased,
        batch_sizes=(5,),
        sizes=((9, 12),),
        draws=12,
    )
    assert bool(report.mixed) is MEMBERS[name].mixes
