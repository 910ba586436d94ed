"""`tv-mixaug check` finds the faults of a user's project, and passes the project without them."""

import subprocess
import sys
import textwrap
from itertools import count
from typing import NamedTuple

import pytest

from tv_mixaug.cli import main as cli

# A user's project, without this package.
PROJECT = """
import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

K, P = 10, 0.6
RATE = torch.distributions.Beta(1.0, 1.0)

def one_hot(labels):
    return torch.nn.functional.one_hot(labels, K).float()

def mix_labels(labels, partner, lam):
    rows = one_hot(labels)
    return lam * rows + (1 - lam) * rows[partner]

def mixup(images, labels):
    lam = RATE.sample()
    partner = torch.randperm(len(images))
    mixed = lam * images + (1 - lam) * images[partner]
    if not images.is_floating_point():
        mixed = mixed.round()
    return mixed.to(images.dtype), mix_labels(labels, partner, lam)

def draw_box(height, width):
    lam = float(RATE.sample())
    y, x = (int(torch.randint(side, ())) for side in (height, width))
    h, w = (int(side * (1 - lam) ** 0.5 / 2) for side in (height, width))
    return max(y - h, 0), min(y + h, height), max(x - w, 0), min(x + w, width), lam

def paste(batch, partner, box):
    y1, y2, x1, x2, _ = box
    out = batch.clone()
    out[..., y1:y2, x1:x2] = batch[partner][..., y1:y2, x1:x2]
    return out

def cutmix(images, labels):
    height, width = images.shape[-2:]
    box = draw_box(height, width)
    partner = torch.randperm(len(images))
    y1, y2, x1, x2, lam = box
    lam = 1 - (y2 - y1) * (x2 - x1) / (height * width)
    return paste(images, partner, box), mix_labels(labels, partner, lam)

def collate(samples):
    images, labels = default_collate(samples)
    if torch.rand(()) < P:
        return cutmix(images, labels)
    return images, one_hot(labels)

def collate_arrays(samples):
    images = torch.stack([torch.from_numpy(image) for image, _ in samples])
    images = images[:, :, :, :]
    labels = torch.tensor([label for _, label in samples])
    return mixup(images, labels)

def mix_masks(batch):
    box = draw_box(*batch["image"].shape[-2:])
    partner = torch.randperm(len(batch["image"]))
    y1, y2, x1, x2, _ = box
    lam = 1 - (y2 - y1) * (x2 - x1) / batch["mask"][0].numel()
    label = mix_labels(batch["label"], partner, lam)
    image, mask = paste(batch["image"], partner, box), paste(batch["mask"], partner, box)
    return {"image": image, "mask": mask, "label": label}

class MixCollate:
    def __call__(self, samples):
        batch = default_collate(samples)
        images, labels = cutmix(batch["image"], batch["label"])
        return {**batch, "image": images, "label": labels}

def seed_worker(number):
    np.random.seed(torch.initial_seed() % 2**32)

def make_loader():
    samples = [{"image": torch.rand(3, 24, 24), "label": n % K, "name": "a"} for n in range(64)]
    options = {"num_workers": 2, "worker_init_fn": seed_worker}
    return DataLoader(samples, 16, collate_fn=MixCollate(), **options)
"""


class Fault(NamedTuple):
    """A line of the project, a wrong one, the function that has it and the cause to be named."""

    line: str
    wrong: str
    target: str
    cause: str
    options: tuple[str, ...] = ()


# fmt: off
FAULTS = {
    "area not corrected": Fault(
        "lam = box\n    lam = 1 - (y2 - y1) * (x2 - x1) / (height * width)", "lam = box",
        "cutmix", "the area was not corrected"),
    "bytes truncated": Fault(
        "mixed.round()", "(lam * images).byte() + ((1 - lam) * images[partner]).byte()",
        "collate_arrays", "truncated integers", ("--arrays", "--dtype", "uint8")),
    "two label formats": Fault(
        "    return images, one_hot(labels)\n", "    return images, labels\n",
        "collate", "the labels of unmixed batches have another format"),
    "inputs written to": Fault(
        "images = images[:, :, :, :]", "for image, _ in samples: image *= 0.5",
        "collate_arrays", "writes into its inputs", ("--arrays",)),
    "mask left behind": Fault(
        'paste(batch["mask"], partner, box)', 'batch["mask"]',
        "mix_masks", "the mask was left behind", ("--keys", "image,label,mask", "--as", "batch")),
    "p applied twice": Fault(
        "if torch.rand(()) < P:", "if torch.rand(()) < P and torch.rand(()) < P:",
        "collate", "p was applied twice", ("--p", "0.6")),
    "seeded in every call": Fault(
        "lam = float(RATE.sample())", "lam = float((torch.manual_seed(0), RATE.sample())[1])",
        "cutmix", "the same random values are used again in every call"),
    "workers repeat each other": Fault(
        "np.random.seed(torch.initial_seed() % 2**32)",
        "torch.manual_seed(torch.initial_seed() - number)",
        "make_loader", "workers have copies of one random generator"),
}
# fmt: on
_numbers = count()


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Return a function that writes a project and checks a part of it, as from its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(text, target, *options):
        module = f"project_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(text))
        argv = ["--num-classes", "10", "--draws", "6", "--size", "16x24", *options]
        code = cli.main(["check", f"{module}:{target}", *argv])
        sys.modules.pop(module, None)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_and_named(check, name):
    """Each fault ends with code 1, its cause and what to do about it."""
    fault = FAULTS[name]
    assert fault.line in PROJECT
    broken = PROJECT.replace(fault.line, fault.wrong)
    code, out, err = check(broken, fault.target, *fault.options)
    assert (code, err) == (1, ""), out + err
    assert "WRONG" in out
    assert fault.cause in " ".join(out.split())
    assert "What to do: " in out


@pytest.mark.parametrize(
    ("target", "options"),
    sorted({("mixup", ()), *((fault.target, fault.options) for fault in FAULTS.values())}),
)
def test_project_without_faults_passes(check, target, options):
    """Without a fault the same check ends with code 0."""
    code, out, err = check(PROJECT, target, *options)
    assert (code, err) == (0, ""), out + err
    assert "WRONG" not in out
    assert out.count(" holds\n") >= 6
    assert out.splitlines()[-1].startswith("Verdict: 0 of ")


KINDS = dict.fromkeys(["mixup", "pair", "module", "holder.inner"], "a batch transform")
KINDS |= dict.fromkeys(["collate", "MixCollate", "made"], "a collate function")
KINDS["make_loader"] = "a DataLoader"
MORE = """
import types

def made(num_classes):
    assert num_classes == K
    return collate

def pair(batch):
    images, labels = batch
    return cutmix(images, labels)

class Module(torch.nn.Module):
    def forward(self, images, labels):
        return mixup(images, labels)

module = Module()
holder = types.SimpleNamespace(inner=module)
"""


@pytest.mark.parametrize("target", KINDS)
def test_kind_of_a_target_is_detected(check, target):
    """Functions, modules, loaders and their factories are told apart without `--as`."""
    options = ["--keys", "image,label"] if target == "MixCollate" else []
    code, out, err = check(PROJECT + MORE, target, "--fixed", *options)
    assert (code, err) == (0, "")
    assert f":{target} is {KINDS[target]}; fed with" in out


CANNOT = {
    "no colon": (("mixing",), "MODULE:NAME, such as train:collate, got 'mixing'"),
    "no module": (("nowhere:mix",), "cannot import 'nowhere': ModuleNotFoundError"),
    "raises": (("raising:mix",), "cannot import 'raising': RuntimeError: no data here"),
    "exits": (("exiting:mix",), "cannot import 'exiting': SystemExit: 3"),
    "no name": (("right:mux",), "'right' has no 'mux'"),
    "a number": (("right:K",), "must be a function, transform or DataLoader"),
    "a class": (("right:Needs",), "missing a required argument: 'path'; name a function"),
    "broken factory": (("right:fails",), "cannot be made: OSError: no disk"),
    "plain": (("right:plain",), "as a batch transform it mixes nothing in 200 batches (is it"),
    "none": (("right:none", "--as", "batch"), "as a batch transform it raises ValueError: the"),
    "no loader": (("right:mix", "--as", "loader"), "is a function, but --as says loader"),
    "is a loader": (("right:loader", "--as", "batch"), "is a DataLoader, but --as says batch"),
    "data set mixes": (("right:bare",), "if its data set mixes, name the function that does"),
    "keys": (("right:plain", "--keys", "image,label"), "say which it is by --as"),
    "classes": (("right:mix", "--num-classes", "8"), "check num_classes"),
    "mean": (("right:mix", "--mean", "0.5,0.5,0.5"), "mean and std must be given together"),
    "draws": (("right:mix", "--draws", "0"), "draws must be >= 1, got 0"),
    "one class": (("right:mix", "--num-classes", "1"), "--num-classes must be >= 2, got 1"),
    "small": (("right:mix", "--size", "4"), "--size must be >= 8, got 4"),
    "std": (("right:mix", "--std", "1,2", "--mean", "0"), "std must have one value per channel"),
    "p": (("right:mix", "--p", "2"), "--p must be in [0, 1], got 2.0"),
}
RIGHT = """
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

K = 10
mixes = v2.CutMix(num_classes=K)

class Needs:
    def __init__(self, path):
        pass

def mix(images, labels):
    return mixes(images, labels)

plain = lambda images, labels: (images, labels)
none = lambda images, labels: None

def fails():
    raise OSError("no disk")

loader = DataLoader([(torch.rand(3, 8, 8), 0)], collate_fn=lambda samples: samples)
bare = DataLoader([(torch.rand(3, 8, 8), 0)])
"""


@pytest.mark.parametrize("name", CANNOT)
def test_targets_that_cannot_be_checked_are_explained(name, tmp_path, monkeypatch, capsys):
    """The exit code is 2, and one sentence says why; no traceback is printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "raising.py").write_text("raise RuntimeError('no data here')")
    (tmp_path / "exiting.py").write_text("raise SystemExit(3)")
    (target, *options), text = CANNOT[name]
    assert cli.main(["check", target, "--num-classes", "10", "--draws", "2", *options]) == 2
    for module in ("right", "raising", "exiting"):
        sys.modules.pop(module, None)
    error = capsys.readouterr().err
    assert error.startswith("tv-mixaug: error: ")
    assert text in error
    assert len(error.splitlines()) == 1


def test_refusals_are_no_faults(check):
    """An error of the pipeline is printed and does not count as wrong."""
    even = 'assert len(images) % 2 == 0, "even batches only"\n    lam = RATE.sample()'
    project = PROJECT.replace("lam = RATE.sample()", even)
    code, out, _ = check(project, "mixup", "--dtype", "float32", "--dtype", "uint8")
    assert code == 0
    assert out.count("refuses\n") == 2  # batches of 5 and 1
    assert "AssertionError: even batches only." in out


def test_loader_is_fed_as_its_data_set_does(check):
    """Samples keep their other fields, and masks are checked if the data set has them."""
    project = """
        import torch
        from torch.utils.data import DataLoader
        from torchvision import tv_tensors
        from tv_mixaug import CutMix, make_collate_fn

        MASK = tv_tensors.Mask(torch.zeros(16, 20, dtype=torch.uint8))
        SAMPLE = {"name": "a", "label": 3, "mask": MASK, "image": torch.rand(3, 16, 20)}
        mix = make_collate_fn(CutMix(num_classes=10), seed=3)

        def collate(samples):
            assert all(sample["name"] == "a" for sample in samples)
            return mix(samples)

        def make():
            return DataLoader([SAMPLE] * 4, collate_fn=collate)
    """
    code, out, err = check(project, "make", "--fixed")
    assert (code, err) == (0, "")
    assert "masks follow images" in out


@pytest.mark.slow
def test_command_runs_by_itself(tmp_path):
    """As a program it finds a module in the current folder and ends with code 1."""
    (tmp_path / "mine.py").write_text(
        "def mix(images, labels):\n    return images.roll(1, 0), labels\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tv_mixaug", "check", "mine:mix", "--num-classes", "3", "--fixed"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "WRONG" in done.stdout
    assert done.stderr == ""


OPTIONS = """
import torch
from tv_mixaug import CutMix, Mixup, make_collate_fn

K = 10
cutmix, pairs = CutMix(num_classes=K), CutMix(targets="pair", pairing="shuffle")
listed = make_collate_fn([Mixup(num_classes=K), cutmix], [0.3, 0.3])
faint = make_collate_fn(Mixup(0.2, num_classes=K), 1.0)

def flat(images, labels):
    images, (first, second, lam) = pairs(images, labels)
    return images, first, second, lam

def swapped(images, labels):
    images, first, second, lam = flat(images, labels)
    return images, second, first, lam

calls = []

def falters(images, labels):
    calls.append(len(images))
    if len(calls) > 100:
        raise RuntimeError("too late")
    return cutmix(images, labels)

def rare(images, labels):
    images, rows = cutmix(images, labels)
    return images, rows.flip(1) if torch.initial_seed() % 100 == 30 else rows
"""
NARROW = ("--dtype", "bfloat16", "--p", "1")
FALTERS, SEEDS = ("--p", "0.5", "--fixed"), ("--seed", "10", "--draws", "10")
ASKED = {
    "faint mixes": ("faint", NARROW, 0, "each batch is mixed with probability p  holds"),
    "p that cannot be asked": ("falters", FALTERS, 2, "with probability p: RuntimeError: too late"),
    "another p": ("listed", ("--p", "0.95"), 1, "does not reach the transform"),
    "four values": ("flat", (), 0, "labels equal pixels, float32            holds"),
    "four values, swapped": ("swapped", (), 1, "the weights are swapped"),
    "rare, with more seeds": ("rare", SEEDS, 1, "batch of 5         WRONG"),
}


@pytest.mark.parametrize("name", ASKED)
def test_options_are_answered_or_the_command_fails(check, name):
    """Sound pipelines end with 0, faults with 1, and a question that is refused with 2."""
    target, options, expected, text = ASKED[name]
    code, out, err = check(OPTIONS, target, *options)
    assert code == expected, out + err
    assert text in (err if code == 2 else out)
    assert err == "" or code == 2
