"""The API reference shows every public name with all its arguments, and no internal name."""

import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import tv_mixaug

pytest.importorskip("sphinx", reason="needs the extra `docs`")
pytest.importorskip("myst_parser", reason="needs the extra `docs`")
pytest.importorskip("torchmetrics", reason="needs the extra `docs`")
pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
MODULES = ("functional", "losses", "metrics", "timm", "testing", "transforms", "extras.viz")
MODULES += ("extras.io", "extras.flowers", "engine", "batch", "engine.sampling")
# Names without a module's `__all__`: the public functions of files, and what rules need.
LISTED = {
    "losses": ["MixCriterion"],
    "timm": ["Mixup", "FastCollateMixup"],
    "extras.viz": ["draw_batch", "show"],
    "extras.io": ["read_image", "write_image"],
    "extras.flowers": ["Flower", "draw_flower", "draw_flowers", "write_image_folder"],
    "engine.sampling": ["sample_applied", "sample_partner", "sample_lam", "sample_uniform"],
}
LISTED["engine.sampling"] += ["sample_boxes", "sample_inner_boxes", "sample_seeds", "join_corners"]
CONSTANTS = {"FILL", "BLEND", "PASTE", "FIELD_RULES"}


def public_objects():
    """Return the public names with their objects; a name of the package stands for its copies."""
    found = {f"tv_mixaug.{name}": getattr(tv_mixaug, name) for name in tv_mixaug.__all__}
    found = {name: value for name, value in found.items() if not inspect.ismodule(value)}
    for module in MODULES:
        home = import_module(f"tv_mixaug.{module}")
        for name in LISTED.get(module) or home.__all__:
            value = getattr(home, name)
            if not any(value is other for other in found.values()):
                found[f"{home.__name__}.{name}"] = value
    return found


def argument_names(value):
    fields = getattr(value, "_fields", None)
    return list(fields or inspect.signature(value).parameters)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """The signature and the text of each entry of the built reference, by its full name."""
    out = tmp_path_factory.mktemp("reference")
    extensions = "extensions=myst_parser,sphinx.ext.autodoc,sphinx.ext.napoleon"
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-c", DOCS, "-D", extensions]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, DOCS / "api", out], check=True, env=environment)  # noqa: S603
    found = {}
    for page in out.glob("*.html"):
        parts = re.split(r'<dt class="sig sig-object py" id="([\w.]+)">', page.read_text("utf-8"))
        for name, part in zip(parts[1::2], parts[2::2], strict=True):
            found[name] = part.partition("</dt>")[::2]
    return found


def test_every_public_name_has_an_entry_and_no_other_has_one(entries):
    """The entries, apart from members of classes, are exactly the public names."""
    members = {name for name in entries if name.rpartition(".")[0] in entries}
    shown = {name.rpartition(".")[2]: name for name in entries.keys() - members}
    names = {name.rpartition(".")[2] for name in public_objects()}
    assert shown.keys() == names | CONSTANTS | {"CollateFn"}
    assert {name for name in dir(tv_mixaug) if name[0].isupper()} <= names


def test_every_argument_is_in_a_signature_and_described(entries):
    """Each signature has all arguments; all are described but those of short helpers."""
    described_count = 0
    for full_name, value in public_objects().items():
        name = full_name.rpartition(".")[2]
        if not callable(value) or name in ("Role", "BatchTransform"):
            continue
        copies = (place for place in entries if place.endswith(f".{name}"))
        place = full_name if full_name in entries else next(copies)
        signature, text = entries[place]
        wanted = argument_names(value)
        assert re.findall(r'class="n"><span class="pre">(\w+)</span>', signature) == wanted, place
        described = set(re.findall(r"<strong>\**(\w+)</strong>", text))
        described |= {member.rpartition(".")[2] for member in entries if member.startswith(place)}
        is_short = full_name.split(".")[1] in ("engine", "extras") and "Args:" not in value.__doc__
        if not (is_short or name == "UntruthfulError"):  # whose attributes are described
            assert set(wanted) <= described, place
            described_count += len(wanted)
    assert described_count > 200
