"""The names of the package: complete after a bare import, and imported at their first use."""

import pickle
import subprocess
import sys

import pytest
from torchvision.transforms import v2

import tv_mixaug

HEAVY = {"torch", "torchvision", "numpy", "cv2", "hypothesis", "torchmetrics"}


def run(code):
    """Run code in a process that has imported nothing."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


def test_a_bare_import_is_fast():
    """The package alone imports neither torch nor another slow module."""
    loaded = run("import sys, tv_mixaug; print(*sys.modules)").split()
    assert "tv_mixaug" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.slow
def test_every_name_is_reached_after_a_bare_import():
    """Each name that ``dir`` lists is imported from its module."""
    names = [name for name in dir(tv_mixaug) if name[0] != "_"]
    assert {*tv_mixaug.__all__} == {*names}
    run(f"import tv_mixaug\nfor name in {names}: getattr(tv_mixaug, name)")
    assert tv_mixaug.losses.MixCriterion is tv_mixaug.MixCriterion


def test_a_star_import_binds_the_names_of_all():
    """``from tv_mixaug import *`` binds no other name, such as io."""
    names = {}
    exec("from tv_mixaug import *", names)  # noqa: S102
    assert {name for name in names if name[0] != "_"} == set(tv_mixaug.__all__)


def test_names_are_bound_at_their_first_use():
    """Each class pickles, and transforms are those of torchvision's v2."""
    cutmix = tv_mixaug.CutMix
    assert vars(tv_mixaug)["CutMix"] is cutmix
    assert pickle.loads(pickle.dumps(cutmix)) is cutmix  # noqa: S301
    assert issubclass(cutmix, v2.Transform)


def test_a_misspelt_name_is_an_attribute_error():
    """In an import statement it is an ImportError."""
    with pytest.raises(AttributeError, match="module 'tv_mixaug' has no attribute 'CutMx'"):
        _ = tv_mixaug.CutMx
    with pytest.raises(ImportError, match="cannot import name 'CutMx'"):
        from tv_mixaug import CutMx  # noqa: F401
