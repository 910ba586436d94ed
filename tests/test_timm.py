"""timm's names on this engine: the distributions of timm, and labels that equal the pixels."""

import copy
import inspect
import pickle

import numpy as np
import pytest
import torch
from helpers.coded import coded_images, shares
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from tv_mixaug import Chain, CutMix, OneOf, functional, make_collate_fn
from tv_mixaug.engine.plan import BLEND, NONE, PASTE
from tv_mixaug.timm import FastCollateMixup, Mixup

MODES = ("batch", "pair", "elem")
K = 8
SETTINGS = {
    "both": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.7, "switch_prob": 0.4},
    "mixup": {"mixup_alpha": 0.4},
    "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    "sampled lam": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0, "correct_lam": False},
    "minmax": {"mixup_alpha": 0.0, "cutmix_minmax": (0.2, 0.8), "prob": 0.9},
}


def measure(images, labels):
    """Return the label weight, whether it is pasted, and the ends of the box of each sample.

    Pixels of the original hold i + 1 and those of the partner another whole number; blended ones
    hold neither.
    """
    code = torch.arange(1, K + 1).view(-1, 1, 1)
    partner = images[:, 0] == code.flip(0)
    pasted = partner.any((1, 2)) & ((images[:, 0] == code) | partner).all((1, 2))
    ends = []
    for axis in (1, 2):
        line = partner.any(axis).double() * pasted[:, None]
        ends += [line.argmax(1), line.shape[1] - line.flip(1).argmax(1)]
    # Rounded, since equal weights may differ in their last bits in float32 and float64.
    return torch.stack([labels.diagonal().double().round(decimals=4), pasted, *ends], 1).numpy()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("mode", MODES)
def test_the_distributions_are_those_of_timm(mode, name):
    """Weights, choice, sides and places of boxes do not differ by two-sample tests at 1e-4."""
    stats = pytest.importorskip("scipy.stats")
    original = pytest.importorskip("timm.data.mixup")
    options = {**SETTINGS[name], "mode": mode, "label_smoothing": 0.0, "num_classes": K}
    batches, independent = (1000, 1) if mode == "batch" else (400, K if mode == "elem" else K // 2)
    torch.manual_seed(0)
    np.random.seed(0)  # the source of timm
    images, columns = coded_images(K, (13, 10), channels=1), []
    for mix in (Mixup(**options), original.Mixup(**options)):
        rows = [
            measure(*mix(images.clone(), torch.arange(K)))[:independent] for _ in range(batches)
        ]
        found = np.concatenate(rows).T
        columns.append([*found, found[3] - found[2], found[5] - found[4]])
    for pair in zip(*columns, strict=True):
        assert stats.ks_2samp(*pair, method="asymp").pvalue > 1e-4


@pytest.mark.parametrize("count", [4, 5])
@pytest.mark.parametrize("mode", MODES)
def test_partners_come_from_the_other_end(mode, count):
    """Mixed samples have the partner at the other end of the batch, and a pair one draw."""
    mix, other = (
        Mixup(**SETTINGS["both"], mode=mode, num_classes=count),
        torch.arange(count).flip(0),
    )
    for _ in range(20):
        plan = mix.draw_plan((coded_images(count, (9, 12)), torch.arange(count)))
        assert torch.equal(plan.partner[plan.op != NONE], other[plan.op != NONE])
        if mode == "pair":
            assert all(torch.equal(x, x.flip(0)) for x in (plan.op, plan.lam, plan.boxes))


@pytest.mark.parametrize("switch", ["collate function", "loader of timm", "transform"])
def test_the_switch_reaches_running_workers(switch):
    """With mixup_enabled = False persistent workers mix nothing from the next epoch on."""
    options = {"num_classes": 4, "label_smoothing": 0.0}
    collate, mix = FastCollateMixup(1.0, seed=0, **options), Mixup(1.0, **options)
    collate = make_collate_fn(mix, seed=0) if switch == "transform" else collate
    data = [(np.full((3, 8, 8), 10 * (i + 1), np.uint8), i % 4) for i in range(16)]
    loader = DataLoader(data, 8, num_workers=2, collate_fn=collate, persistent_workers=True)
    if switch == "loader of timm":
        module = pytest.importorskip("timm.data.loader")
        loader = module.PrefetchLoader(loader, device=torch.device("cpu"))
    one = {"collate function": collate, "loader of timm": loader, "transform": mix}[switch]
    for epoch, on in enumerate((True, False, True)):
        one.mixup_enabled = on
        assert one.mixup_enabled == on
        collate.set_epoch(epoch)
        labels = torch.cat([labels for _, labels in loader])
        assert bool(((labels > 0).sum(1) > 1).any()) == on


def test_set_attributes_are_checked_and_copies_mix_alike():
    """A wrong value is refused when it is set, and copies of the collate function are of it."""
    mix = Mixup(0.8, 1.0, num_classes=4)
    for name, value in (("switch_prob", 2), ("mixup_alpha", -1), ("mode", "half"), ("mix_prob", 2)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            setattr(mix, name, value)
    samples = [(image, i) for i, image in enumerate(coded_images(4))]
    collate = FastCollateMixup(0.8, num_classes=4, seed=3)
    others = [copy.deepcopy(collate), pickle.loads(pickle.dumps(collate))]  # noqa: S301
    assert all(type(other) is FastCollateMixup for other in others)
    batches = [one(samples) for one in (collate, *others)]
    for other in batches[1:]:
        assert all(map(torch.equal, batches[0], other))
    assert "Mixup" in repr(collate)


@pytest.mark.parametrize("mode", MODES)
def test_in_a_chain_labels_are_counted_at_its_end(mode):
    """Labels include what a later cut covers or a pad adds."""
    mix = Mixup(0.0, 1.0, mode=mode, label_smoothing=0.0, num_classes=K)
    steps = [mix, CutMix(num_classes=K, mode="sample"), v2.Pad(1), mix]
    for seed in range(5):
        torch.manual_seed(seed)
        images, labels = Chain(steps, erased="nobody")(coded_images(K, (9, 12)), torch.arange(K))
        torch.testing.assert_close(labels.double(), shares(images, K), atol=1e-6, rtol=0)


def test_it_can_be_chosen_for_each_sample():
    """In a OneOf with CutMix, blended samples have the partners of timm."""
    torch.manual_seed(0)
    options = {"label_smoothing": 0.0, "num_classes": 64}
    either = OneOf([Mixup(0.8, **options), CutMix(**options)], mode="sample")
    (images, labels), plan = either.mix((coded_images(64), torch.arange(64)))
    assert set(plan.op.tolist()) == {BLEND, PASTE}
    other = torch.arange(64).flip(0)
    assert torch.equal(plan.partner[plan.op == BLEND], other[plan.op == BLEND])
    assert torch.equal(images, functional.replay(coded_images(64), plan))
    torch.testing.assert_close(labels, functional.mix_labels(torch.eye(64), *plan[1:3]))


def test_boxes_with_a_fixed_share_have_it():
    """If both ends of cutmix_minmax are equal, every box has that share of each side."""
    mix = Mixup(0.0, cutmix_minmax=(0.5, 0.5), mode="elem", num_classes=K)
    boxes = mix.draw_plan((coded_images(K, (8, 12)), torch.arange(K))).boxes[:, 0]
    assert (boxes[:, 2:] - boxes[:, :2]).tolist() == [[6, 4]] * K


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"mixup_alpha": -1}, ValueError, "mixup_alpha must be >= 0"),
        ({"mixup_alpha": 0}, ValueError, "must be > 0, got 0 for both"),
        ({"cutmix_alpha": "1"}, TypeError, "cutmix_alpha must be a number"),
        ({"cutmix_minmax": (0.8, 0.2)}, ValueError, "cutmix_minmax must be a pair"),
        ({"cutmix_minmax": (0.2, 1.2)}, ValueError, "cutmix_minmax must be in"),
        ({"prob": 2}, ValueError, "prob must be in"),
        ({"p": 0.5}, TypeError, "multiple values for keyword argument 'p'"),
        ({"lam": 0.5}, TypeError, "unexpected keyword argument 'lam'"),
        ({"pairing": "shuffle"}, TypeError, "unexpected keyword argument 'pairing'"),
        ({"alpha": 0.5}, TypeError, "unexpected keyword argument 'alpha'"),
        ({"cut": "cuboid"}, TypeError, "unexpected keyword argument 'cut'"),
        ({"switch_prob": -1}, ValueError, "switch_prob must be in"),
        ({"mode": "half"}, ValueError, "mode must be one of"),
        ({"correct_lam": 1}, TypeError, "correct_lam must be a bool"),
        ({"label_smoothing": 1.0}, ValueError, "label_smoothing must be in"),
        ({"num_classes": 0}, ValueError, "num_classes must be >= 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, kind, text):
    """Each wrong argument raises at once, with its name and what was expected."""
    for factory in (Mixup, FastCollateMixup):
        with pytest.raises(kind, match=text):
            factory(**arguments)


def test_arguments_and_attributes_are_those_of_the_installed_timm():
    """Each argument has timm's name, order and default, and each attribute can be set."""
    theirs = pytest.importorskip("timm.data.mixup", exc_type=ImportError).Mixup
    ours = list(inspect.signature(Mixup).parameters.values())
    for mine, other in zip(ours, inspect.signature(theirs).parameters.values(), strict=False):
        assert (mine.name, mine.default) == (other.name, other.default)
    mix = Mixup(num_classes=K)
    for name, value in vars(theirs(num_classes=K)).items():
        assert getattr(mix, name) == value
        if name not in mix.fixed:
            setattr(mix, name, value)
    with pytest.raises(AttributeError, match="probability is not an attribute of timm's Mixup"):
        mix.probability = 0.0


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_are_smoothed_as_by_timm(multi_label):
    """Smoothed indices and multi-hot rows of a batch with both operations are those of timm."""
    module = pytest.importorskip("timm.data.mixup", exc_type=ImportError)
    mix = Mixup(0.8, 1.0, mode="elem", prob=0.8, num_classes=64, multi_label=multi_label)
    labels = (torch.rand(64, 64) > 0.5).float() if multi_label else torch.arange(64)
    (_, mixed), plan = mix.mix((coded_images(64), labels))
    assert set(plan.op.tolist()) == {NONE, BLEND, PASTE}
    options = {"smoothing": 0.1, "multi_label": multi_label}
    expected = module.mixup_target(labels, 64, plan.lam[:, None], **options)
    torch.testing.assert_close(mixed, expected)


def test_switches_reach_the_collate_function():
    """``mixup_enabled`` of the transform and ``mix_prob`` of the collate function have effect."""
    mix, samples = Mixup(num_classes=4), [(image, i) for i, image in enumerate(coded_images(4))]
    collate, fast = make_collate_fn(mix), FastCollateMixup(num_classes=4, seed=0)
    mix.mixup_enabled, fast.mix_prob = False, 0.0
    fast.mixup_enabled = True
    for function in (collate, fast, lambda samples: mix(coded_images(4), torch.arange(4))):
        images, labels = function(samples)
        assert torch.equal(images, coded_images(4))
        torch.testing.assert_close(labels, torch.eye(4) * 0.9 + 0.025)
    fast.mixup_enabled, fast.mix_prob = False, 1.0
    torch.testing.assert_close(fast(samples)[1], torch.eye(4) * 0.9 + 0.025)
    fast.mixup_enabled = True
    assert (fast(samples)[1] > 0.03).sum() > 4
