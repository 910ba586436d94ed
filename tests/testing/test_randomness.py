"""The checks of p, of sampled values and of switches pass correct pipelines and name faults."""

from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from tv_mixaug import CutMix, Cutout, Mixup, make_collate_fn
from tv_mixaug.testing import (
    UntruthfulError,
    assert_draws_independent,
    assert_probability,
    assert_switch_reaches_workers,
)


def own_boxes(images, labels, *, shared_place=False):
    """Cut a box of its own size into each sample, or all at one share of the room."""
    size = torch.tensor(images.shape[-2:])
    sides = (size * torch.rand(len(images), 1).sqrt()).long()
    place = torch.rand(1 if shared_place else len(images), 2)
    corner = (place * (size - sides)).long()
    out = images.clone()
    for n, (y, x) in enumerate(corner.tolist()):
        h, w = sides[n].tolist()
        out[n, :, y : y + h, x : x + w] = images[n - 1, :, y : y + h, x : x + w]
    return out, labels


def one_lam(images, labels):
    """Blend with a lam from torch's global generator."""
    lam = torch.rand(())
    return (lam * images + (1 - lam) * images.roll(1, 0)).float(), labels


def seeded_again(images, labels):
    """Seed in every call."""
    torch.manual_seed(3)
    return one_lam(images, labels)


def restored(images, labels):
    """Restore the state of the global generator after each call."""
    with torch.random.fork_rng(devices=[]):
        return one_lam(images, labels)


class _Collate:
    """A collate function with a switch that running workers do or do not see."""

    def __init__(self, mix, shared=True):
        self.mix, self.shared = mix, shared
        self.on = torch.ones(()).share_memory_() if shared else torch.ones(())

    def switch(self, on):
        self.on = self.on.fill_(on) if self.shared else torch.tensor(float(on))

    def __call__(self, samples):
        images = torch.stack([image for image, _ in samples])
        labels = torch.tensor([label for _, label in samples])
        return self.mix(images, labels) if self.on else (images, labels)


def persistent(collate):
    """Return a function that makes a loader with a persistent worker."""
    options = {"num_workers": 1, "persistent_workers": True}
    return lambda data: DataLoader(data, 8, collate_fn=collate, **options)


def with_p(p, per="batch"):
    return CutMix(num_classes=2, p=p, mode=per)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_right_probabilities_pass(p, alpha, per):
    """Mixing with probability p passes, also if a small alpha hides mixes."""
    for kind in (Mixup, CutMix):
        mix = kind(alpha, num_classes=2, p=p, mode=per, pairing="shuffle")
        report = assert_probability(mix, p, per=per, draws=100, size=(16, 24))
        assert report.rows == 800
        assert report.mixed <= 800 * p + 120
        assert (report.mixed > 0) == (p > 0)


P_WRONG = {
    "squared": (v2.RandomApply([with_p(0.5)], p=0.5), 0.5, "batch", "p was applied twice"),
    "squared in rows": (v2.RandomApply([with_p(0.5, "sample")], p=0.5), 0.5, "batch", "p² = 0.25"),
    "ignored": (with_p(1.0), 0.3, "batch", "p is ignored: all batches are mixed"),
    "never": (with_p(0.0), 0.3, "sample", "no samples are mixed at all"),
    "inverted": (with_p(0.8), 0.2, "batch", "the share that is not mixed"),
    "another": (with_p(0.5), 0.9, "batch", "does not reach the transform"),
    "other unit": (with_p(0.5, "sample"), 0.5, "batch", "samples are chosen within a batch"),
}


@pytest.mark.parametrize("name", P_WRONG)
def test_wrong_probabilities_fail(name):
    """Another share than p fails, with the rule that gives it."""
    mix, p, per, cause = P_WRONG[name]
    with pytest.raises(UntruthfulError, match=cause):
        assert_probability(mix, p, per=per, draws=200, size=(16, 24))


DRAWS_RIGHT = {
    "by batch": (CutMix(num_classes=2), {}),
    "by sample": (CutMix(num_classes=2, mode="sample"), {"per": "sample"}),
    "blends by sample": (Mixup(0.2, num_classes=2, mode="sample", p=0.6), {"per": "sample"}),
    "by hand": (own_boxes, {"per": "sample"}),
    "erased by sample": (Cutout(num_classes=2), {"per": "sample"}),
    "bytes": (Mixup(num_classes=2), {"dtype": torch.uint8}),
    "in workers": (_Collate(one_lam), {"collate": True}),
    "unseeded": (make_collate_fn(Mixup(num_classes=2)), {"collate": True}),
}


@pytest.mark.parametrize("name", DRAWS_RIGHT)
def test_right_draws_pass(name):
    """Values that are sampled for each batch or sample, worker and epoch pass."""
    mix, options = DRAWS_RIGHT[name]
    assert_draws_independent(mix, **options)


def test_epochs_of_a_seed_differ_if_the_epoch_is_set():
    """A seeded collate function repeats its mixes unless the epoch is set."""
    collate = make_collate_fn(CutMix(num_classes=2), seed=0)
    with pytest.raises(UntruthfulError, match="every epoch starts with the same seed"):
        assert_draws_independent(collate, collate=True)
    assert_draws_independent(collate, collate=True, set_epoch=collate.set_epoch)


DRAWS_WRONG = {
    "once": (seeded_again, {}, "the same random values are used again in every call"),
    "restored": (restored, {}, "the same random values are used again in every call"),
    "shared lam": (one_lam, {"per": "sample"}, "all samples of a batch share one lam"),
    "shared lam of boxes": (CutMix(num_classes=2), {"per": "sample"}, "share one lam"),
    "shared place": (partial(own_boxes, shared_place=True), {"per": "sample"}, "share one place"),
    "in a loader": (persistent(_Collate(seeded_again)), {"loader": True}, "values are used again"),
}


@pytest.mark.parametrize("name", DRAWS_WRONG)
def test_draws_that_are_used_again_fail(name):
    """Values shared by calls, samples, workers or epochs fail and are named."""
    mix, options, cause = DRAWS_WRONG[name]
    with pytest.raises(UntruthfulError, match=cause):
        assert_draws_independent(mix, **options)


def test_switch_in_shared_memory_reaches_workers():
    """A switch that running workers see passes, ours and one by hand."""
    ours, own = make_collate_fn(CutMix(num_classes=2)), _Collate(one_lam)
    assert_switch_reaches_workers(persistent(ours), lambda _, on: ours.set_p(float(on)))
    assert_switch_reaches_workers(persistent(own), lambda _, on: own.switch(on))


def test_switch_in_the_main_process_fails():
    """A switch that is set on the main process's copy fails; so does one that never goes on."""
    lost, stuck = _Collate(one_lam, shared=False), _Collate(one_lam)
    with pytest.raises(UntruthfulError, match="4 of 4 batches of the next epoch are still mixed"):
        assert_switch_reaches_workers(persistent(lost), lambda _, on: lost.switch(on))
    with pytest.raises(UntruthfulError, match="Switched on again, none of 4 batches"):
        assert_switch_reaches_workers(
            persistent(stuck), lambda _, on: stuck.switch(on and stuck.on)
        )


plain = v2.Identity()
normalised = v2.Compose([v2.MixUp(num_classes=2), v2.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.2))])
P, DRAWS, SWITCH = assert_probability, assert_draws_independent, assert_switch_reaches_workers
BAD = [
    (P, (plain, 1.5), {}, ValueError, r"p must be in \[0, 1\], got 1.5"),
    (P, (plain, 0.5), {"draws": 10}, ValueError, "draws must be >= 50, got 10"),
    (P, (plain, 0.5), {"per": "row"}, ValueError, "per must be one of"),
    (P, (plain, 0.5), {"dtype": torch.int32}, ValueError, "dtypes must be floating-point types"),
    (P, (lambda i, y: (torch.cat([i, i]), y), 0.5), {}, ValueError, "mix must return 8 images"),
    (P, (None, 0.5), {}, TypeError, "mix must be a callable, got NoneType"),
    (DRAWS, (None,), {}, TypeError, "mix must be a callable, got NoneType"),
    (DRAWS, (plain,), {}, ValueError, "must mix at least 10 of 60 batches to be checked, got 0"),
    (DRAWS, (normalised,), {}, ValueError, "do not normalise"),
    (DRAWS, (persistent(_Collate(normalised)),), {"loader": True}, ValueError, "do not normalise"),
    (DRAWS, (persistent(None),), {"loader": True}, ValueError, "that mixes four batches or more"),
    (SWITCH, (None, None), {}, TypeError, "make_loader must be a callable, got NoneType"),
    (SWITCH, (persistent(None), print), {}, ValueError, "switched on, got 4 plain batches"),
    (SWITCH, (DataLoader, print), {}, ValueError, "persistent_workers=True, got 0 workers"),
]


@pytest.mark.parametrize(("check", "args", "options", "error", "text"), BAD)
def test_questions_that_cannot_be_asked_are_refused(check, args, options, error, text):
    """Wrong arguments and pipelines that show too little are refused with the reason."""
    with pytest.raises(error, match=text):
        check(*args, **options)
