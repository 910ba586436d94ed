"""The API reference shows every public name with all its arguments, and no internal name."""

import inspect
import os
import re
import subprocess
import sys
from importlib import import_module

import pytest
from helpers.scripts import DOCS

import tv_mixaug

pytest.importorskip("sphinx", reason="needs the dependency group `docs`")
pytest.importorskip("myst_parser", reason="needs the dependency group `docs`")
pytestmark = pytest.mark.slow

SAMPLERS = "applied partner lam uniform boxes inner_boxes seeds"
# The names of a module's `__all__`, or these.
MODULES = {
    **dict.fromkeys(("functional", "testing", "transforms", "engine", "batch"), ""),
    "batch.spec": "Mix",
    "losses": "MixCriterion",
    "metrics": "mixed_accuracy",
    "timm": "Mixup FastCollateMixup",
    "extras.viz": "draw_batch show",
    "extras.io": "read_image write_image",
    "extras.flowers": "Flower draw_flower draw_flowers write_image_folder",
    "engine.sampling": "join_corners " + " ".join(f"sample_{name}" for name in SAMPLERS.split()),
}
CONSTANTS = {"FILL", "BLEND", "PASTE", "FIELD_RULES"}


def public_objects():
    """Return the public names with their objects; a name of the package stands for its copies."""
    found = {f"tv_mixaug.{name}": getattr(tv_mixaug, name) for name in tv_mixaug.__all__}
    found = {name: value for name, value in found.items() if not inspect.ismodule(value)}
    for module, names in MODULES.items():
        home = import_module(f"tv_mixaug.{module}")
        for name in names.split() or home.__all__:
            value = getattr(home, name)
            if not any(value is other for other in found.values()):
                found[f"{home.__name__}.{name}"] = value
    return found


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Build the API reference; return signature and text of each entry by its full name."""
    out, found = tmp_path_factory.mktemp("reference"), {}
    extensions = "extensions=myst_parser,sphinx.ext.autodoc,sphinx.ext.napoleon"
    options = ["-q", "-c", DOCS, "-D", extensions, "-D", "suppress_warnings=myst.xref_missing"]
    command = [sys.executable, "-m", "sphinx", *options, DOCS / "api", out]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # noqa: S603
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
        wanted = list(getattr(value, "_fields", inspect.signature(value).parameters))
        assert re.findall(r'class="n"><span class="pre">(\w+)</span>', signature) == wanted, place
        described = set(re.findall(r"<strong>\**(\w+)</strong>", text))
        described |= {member.rpartition(".")[2] for member in entries if member.startswith(place)}
        is_short = full_name.split(".")[1] in ("engine", "extras") and "Args:" not in value.__doc__
        if not (is_short or name == "UntruthfulError"):  # whose attributes are described
            assert set(wanted) <= described, place
            described_count += len(wanted)
    assert described_count > 200
