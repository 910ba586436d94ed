"""assert_labels_match_pixels passes true labels, explains false ones, and refuses the rest."""

import random
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from tv_mixaug import CutMix, Cutout, Mixup, make_collate_fn
from tv_mixaug.testing import UntruthfulError, assert_labels_match_pixels

K = 10
FEW = {"batch_sizes": (1, 4), "sizes": ((8, 12),), "draws": 5}
ALL_DTYPES = (torch.float32, torch.uint8, torch.float64, torch.float16, torch.bfloat16)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
BYTES = {"dtypes": (torch.uint8,)}


def check(pipeline, **options):
    """Check labels with ten classes and few draws."""
    return assert_labels_match_pixels(pipeline, **{"num_classes": K, **FEW, **options})


def explain(pipeline, **options):
    """Return the text of a failure that must occur."""
    with pytest.raises(UntruthfulError) as caught:
        check(pipeline, **options)
    return str(caught.value)


def flat(images, pair):
    """Return the four values that mixing scripts return."""
    return images, *pair


def cut_by_hand(images, labels, *, extra=0):
    """Paste a 3 × 4 box from the next sample; the labels count `extra` pixels more."""
    images, area = images.clone(), images[0, 0].numel()
    images[:, :, 2:5, 1:5] = images.roll(-1, 0)[:, :, 2:5, 1:5]
    rows, share = one_hot(labels, K).float(), (12 + extra) / area
    return images, (1 - share) * rows + share * rows.roll(-1, 0)


cutmix, mixup, cutout = CutMix(num_classes=K), Mixup(num_classes=K), Cutout(num_classes=K)
pairs = CutMix(num_classes=K, targets="pair", pairing="shuffle")
uncorrected = CutMix(num_classes=K, correct_lam=False)
smoothed = CutMix(num_classes=K, label_smoothing=0.1)
normalise, to_float = v2.Normalize(MEAN, STD), v2.ToDtype(torch.float32, scale=True)
NORMALISED = {"mean": MEAN, "std": STD}
RIGHT = {
    "nothing": (lambda i, y: (i, y), {}),
    "by hand": (cut_by_hand, {}),
    "torchvision CutMix": (v2.CutMix(num_classes=K), {}),
    "torchvision MixUp": (v2.MixUp(num_classes=K), {"dtypes": (torch.float32, torch.bfloat16)}),
    "soft labels in": (mixup, {"label_format": "soft"}),
    "pair labels out": (pairs, {}),
    "pair in a flat tuple": (lambda i, y: flat(*pairs(i, y)), {}),
    "smoothed": (smoothed, {"label_smoothing": 0.1}),
    "two blends": (v2.Compose([mixup, mixup]), {"dtypes": ALL_DTYPES, "roundings": 2}),
    "blend, then cut": (v2.Compose([mixup, cutmix]), {}),
    "a choice of torchvision": (v2.RandomChoice([mixup, cutmix]), {}),
    "normalised": (v2.Compose([cutmix, v2.RandomHorizontalFlip(), normalise]), NORMALISED),
    "bytes to floats": (v2.Compose([mixup, to_float]), BYTES),
    "erased after normalising": (v2.Compose([normalise, cutout]), NORMALISED | {"erased": 0.0}),
    "erased bytes": (Cutout(num_classes=K, fill=(0, 8, 255)), BYTES | {"erased": (0, 8, 255)}),
    "erased by zeros": (cutout, {"erased": 0.0}),
    "erased by noise": (Cutout(num_classes=K, fill="noise"), {"erased": "noise"}),
    "wholly erased": (Cutout(1.0, holes=9, num_classes=K), {"erased": 0.0}),
    "collate function, soft": (make_collate_fn(mixup), {"collate": True, "label_format": "soft"}),
    "one channel": (cutmix, {"channels": 1}),
    "many classes": (CutMix(num_classes=1000), {"num_classes": 1000}),
    "fewer classes than samples": (Mixup(num_classes=2), {"num_classes": 2}),
    "more rows than samples": (lambda i, y: (torch.cat([i, i]), torch.cat([y, y])), {}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_pipelines_pass(name):
    """Pipelines with true labels pass, in every format that the arguments describe."""
    pipeline, options = RIGHT[name]
    report = check(pipeline, **options)
    assert report.rows > 0
    assert report.mixed or "erased" in name or name in ("nothing", "more rows than samples")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["ours", "our blend", "pair labels out", "smoothed", "erased by zeros", "erased by noise"],
)
def test_no_false_alarm_in_200_runs(name):
    """Right transforms pass 200 checks with different seeds, in every dtype."""
    pipeline, options = {"ours": (cutmix, {}), "our blend": (mixup, {}), **RIGHT}[name]
    for run in range(200):
        few = {"batch_sizes": (5,), "sizes": ((9, 14),), "draws": 2, "seed": 1000 * run}
        few["dtypes"] = (ALL_DTYPES[run % 5],)
        assert check(pipeline, **{**options, **few}).rows == 10


def test_erased_pixels_may_be_counted_or_not():
    """Labels that sum to the visible share pass only if that is stated."""

    def shares_of_all_pixels(images, labels):
        images = images.clone()
        images[:, :, :4] = 0
        return images, 0.5 * one_hot(labels, K)

    check(shares_of_all_pixels, erased=0.0, renormalized=False)
    assert "sum to 0.5" in explain(shares_of_all_pixels, erased=0.0)


def test_report_counts_rows_and_mixes():
    """The report counts every row of every call, and those with a mixed label."""
    assert check(cut_by_hand, batch_sizes=(2, 3), draws=2).rows == (2 + 3) * 2
    assert check(lambda images, labels: (images, labels)).mixed == 0
    assert check(cut_by_hand, batch_sizes=(3,), seed=0, draws=1).mixed == 3


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (17, 224)])
def test_one_column_of_the_box_matters(size):
    """A weight that counts one column of three pixels too many is found in images of any size."""
    check(cut_by_hand, sizes=(size,))
    text = explain(lambda i, y: cut_by_hand(i, y, extra=3), sizes=(size,))
    assert "the area of the 3 × 4 box is off by one column" in text or "4 × 4 pixels" in text


def twice(images, labels):
    """Cut twice, the second time over a part of the first, with labels mixed twice."""
    rows = one_hot(labels, K).float()
    for shift, columns in ((1, 3), (2, 1)):
        images = torch.cat([images.roll(shift, 0)[..., :columns], images[..., columns:]], -1)
        share = columns / images.shape[-1]
        rows = (1 - share) * rows + share * rows.roll(shift, 0)
    return images, rows


def two_lams(images, labels):
    return 0.7 * images + 0.3 * images.flip(0), (labels, labels.flip(0), torch.full((1,), 0.6))


def swapped(images, labels):
    images, (first, second, lam) = pairs(images, labels)
    return images, second, first, lam


WRONG = {
    "other pixels": (lambda i, y: cut_by_hand(i, y, extra=1), {}, "other pixels were counted"),
    "a cut over a cut": (v2.Compose([cutmix, cutmix]), {"seed": 1}, "a later operation covered"),
    "a cut over a cut by hand": (twice, {"batch_sizes": (5,)}, "a later operation covered"),
    "NaN": (lambda i, y: (i, torch.full((len(y), K), torch.nan)), {}, "NaN"),
    "black": (lambda i, y: (torch.zeros_like(i), y), {}, "the images are black"),
    "normalised": (lambda i, y: (normalise(i), y), {}, "pass `mean=` and `std=`"),
    "erased": (cutout, {}, r"pixels were erased \(`erased=`\)"),
    "erased after a cut": (v2.Compose([cutmix, cutout]), {"erased": 0.0}, "still counts pixels"),
    "other lam": (two_lams, {}, "blended with different values of lam"),
    "partner alone": (lambda i, y: (two_lams(i, y)[0], y.flip(0)), {}, "the partner's alone"),
    "flat and swapped": (swapped, {}, "the weights are swapped"),
    "wrong sum": (lambda i, y: (i, 1.1 * one_hot(y, K)), {}, r"sum to 1\.1"),
    # A failure is shown on the smallest batch and image that show it.
    "of any size": (
        uncorrected,
        {"batch_sizes": (8,), "sizes": ((32, 32),)},
        "Smallest case found: batch of 2, 4 × 4 pixels, torch.float32",
    ),
    "from five samples on": (
        lambda i, y: (i, y if len(y) < 5 else y.roll(1)),
        {"batch_sizes": (8,)},
        "Smallest case found: batch of 5",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pipelines_are_explained(name):
    """Each kind of wrong label fails with its cause in the text."""
    pipeline, options, text = WRONG[name]
    with pytest.raises(UntruthfulError, match=text):
        check(pipeline, **options)


def narrow(dtype, change=torch.clone, mix=mixup):
    """Return a pipeline whose labels or weights are changed and rounded to a dtype."""

    def pipeline(images, labels):
        images, mixed = mix(images, labels)
        if mix is pairs:
            return images, (*mixed[:2], change(mixed[2]).to(dtype))
        return images, change(mixed).to(dtype)

    return pipeline


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_labels_in_half_precision_are_compared_to_their_precision(dtype):
    """Labels rounded to their own dtype pass; those of other samples, or truncated, fail."""
    few = {"batch_sizes": (8,), "sizes": ((8, 8),), "draws": 20}
    check(narrow(dtype), **few)
    check(narrow(dtype, mix=pairs), **few)
    assert "paired with different" in explain(narrow(dtype, lambda rows: rows.flip(0)), **few)
    explain(narrow(dtype, lambda lam: 0.95 * lam, pairs), **few)
    explain(narrow(torch.float32, lambda rows: rows.to(dtype)), **few)


def permuted_separately(images, labels):
    lam, rows = torch.rand(()), one_hot(labels, K)
    first, second = (torch.randperm(len(images)) for _ in range(2))
    return lam * images + (1 - lam) * images[first], lam * rows + (1 - lam) * rows[second]


def clipped_in_labels(images, labels):
    images, (first, second, lam) = Mixup(0.2, targets="pair")(images, labels)
    return images, (first, second, lam.clamp(0.1, 0.9))


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


def test_private_randomness_is_named():
    """A fault that comes and goes under one seed is reported as unrepeatable."""
    calls = iter([True] + [False] * 1000)
    text = explain(lambda images, labels: (images, (labels + next(calls)) % K))
    assert "a source of randomness besides torch" in text


def test_seed_repeats_a_failure_and_random_states_are_restored():
    """One seed gives the same text, and the numbers of torch, numpy and random stay the same."""
    assert explain(uncorrected, seed=5) == explain(uncorrected, seed=5)

    def numbers_after(check):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(1)
        check()
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    assert numbers_after(lambda: check(cutmix)) == numbers_after(lambda: None)


def test_exceptions_come_through():
    """An exception of the pipeline is not a failed check, and names the batch."""

    def refuses(images, labels):
        raise RuntimeError("no odd batches")

    with pytest.raises(RuntimeError, match="no odd batches") as caught:
        check(refuses)
    if sys.version_info >= (3, 11):
        assert "batch of 1, 8 × 12 pixels" in caught.value.__notes__[0]


def never(images, labels):
    raise AssertionError("called")


BAD = [
    ({"pipeline": lambda i, y: None}, TypeError, "must return a pair .* got NoneType"),
    ({"pipeline": lambda i, y: (i, y, y)}, TypeError, r"got tuple\[\(1, 3, 8, 12\) torch.float32"),
    ({"pipeline": lambda i, y: (y, y)}, TypeError, r"images \(B, C, H, W\) and"),
    ({"pipeline": lambda i, y: (i, None)}, TypeError, "label tensor"),
    ({"pipeline": lambda i, y: (i, torch.ones(len(y), 3))}, ValueError, "check num_classes"),
    ({"pipeline": lambda i, y: (i, y[:0])}, ValueError, "images but 0 labels"),
    ({"num_classes": 1}, ValueError, "num_classes must be >= 2, got 1"),
    ({"num_classes": 2.0}, TypeError, "num_classes must be an int"),
    ({"mean": MEAN}, ValueError, "mean and std must be given together"),
    ({"mean": (0.5,), "std": (0.5,)}, ValueError, "mean must have one value per channel"),
    ({"label_smoothing": 1.0}, ValueError, "label_smoothing must be in"),
    ({"label_format": "pair"}, ValueError, "label_format must be one of"),
    ({"erased": "black"}, ValueError, "erased must be one of"),
    ({"roundings": -1}, ValueError, "roundings must be >= 0"),
    ({"batch_sizes": (0,)}, ValueError, "batch_sizes must be >= 1"),
    ({"batch_sizes": ()}, ValueError, "must not be empty"),
    ({"sizes": ((0, 4),)}, ValueError, "sizes must be >= 1"),
    ({"dtypes": (torch.int32,)}, ValueError, "dtypes must be floating-point types"),
    ({"draws": 0}, ValueError, "draws must be >= 1"),
    ({"channels": 0}, ValueError, "channels must be >= 1"),
    ({"pipeline": None}, TypeError, "pipeline must be a callable, got NoneType"),
]


@pytest.mark.parametrize(("options", "kind", "text"), BAD)
def test_bad_arguments_and_results_are_named(options, kind, text):
    """A wrong argument is refused before the pipeline is called, and a wrong result as it is."""
    with pytest.raises(kind, match=text):
        check(**{"pipeline": never, **options})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_class_numbers_above_256_survive_narrow_images(dtype):
    """Labels that passed through the images' dtype fail, and are named; ours pass."""

    def rounds(images, labels):
        images, (labels, partners, lam) = CutMix(targets="pair")(images, labels)
        return images, (labels.to(dtype).long(), partners.to(dtype).long(), lam)

    options = {"num_classes": 5000, "dtypes": (dtype,)}
    check(CutMix(num_classes=5000), **options)
    assert f"class numbers were rounded: {dtype}" in explain(rounds, **options)
    check(rounds, num_classes=256, dtypes=(dtype,))


def test_a_failure_has_all_of_its_parts():
    """The error carries counts, case, cause and images, and its text has a table."""
    with pytest.raises(UntruthfulError) as caught:
        check(uncorrected)
    error = caught.value
    lines = str(error).splitlines()
    assert lines[0] == f"Labels differ from the pixels in {error.wrong} of {error.rows} rows."
    assert lines[1].startswith("Smallest case found: batch of 2, 4 × 4 pixels")
    assert lines[2].split() == ["class", "pixels", "hold", "label", "says"]
    assert lines[3].split()[1:3] == ["(its", "own)"]
    assert lines[-2] == f"Probable cause: {error.cause}"
    assert lines[-1].startswith("What to do: ")
    assert error.case.startswith(lines[1].removeprefix("Smallest case found: ").rstrip("."))
    pictures = error.evidence
    assert len(pictures.images) == len(pictures.said) == len(pictures.held) > 0
    torch.testing.assert_close(pictures.held.sum(1), torch.ones(len(pictures.held)).double())
    assert not torch.allclose(pictures.held, pictures.said)


def test_a_failure_points_at_the_users_line(tmp_path, capfd):
    """In pytest's report the last frame is the user's, and the table is shown line by line."""
    file = tmp_path / "test_mine.py"
    file.write_text(
        "from tv_mixaug import CutMix\n"
        "from tv_mixaug.testing import assert_labels_match_pixels\n"
        "def test_mine():\n"
        "    mix = CutMix(num_classes=10, correct_lam=False)\n"
        "    assert_labels_match_pixels(mix, num_classes=10, draws=2)\n"
    )
    (tmp_path / "pytest.ini").touch()
    assert pytest.main(["-p", "no:cacheprovider", "-p", "no:hypothesispytest", str(file)]) == 1
    out = capfd.readouterr().out
    assert "test_mine.py:5: UntruthfulError" in out
    assert "labels.py" not in out
    assert "_runner.py" not in out
    assert "\nE       Probable cause: the area was not corrected" in out
