"""The package's own names: all there after a bare import, and none paid for before it is used."""

import pickle
import subprocess
import sys

import pytest

import tv_mixaug

HEAVY = {"torch", "torchvision", "numpy", "cv2", "hypothesis", "torchmetrics"}


def run(code: str) -> str:
    """Run code in a process that has imported nothing."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


def test_a_bare_import_brings_nothing_heavy() -> None:
    """The package alone imports neither torch nor anything else that is slow."""
    loaded = run("import sys, tv_mixaug; print(*sys.modules)").split()
    assert "tv_mixaug" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.slow
def test_every_name_is_reached_after_a_bare_import() -> None:
    """What `dir` shows is what can be had: public names and modules, each from its own home."""
    names = [name for name in dir(tv_mixaug) if name[0] != "_"]
    assert {*tv_mixaug.__all__, "flowers", "io", "losses", "metrics", "plans"} <= set(names)
    run(f"import tv_mixaug\nfor name in {names}: getattr(tv_mixaug, name)")
    assert tv_mixaug.losses.MixCriterion is tv_mixaug.MixCriterion


def test_a_star_import_brings_the_names_of_all() -> None:
    """`from tv_mixaug import *` binds `__all__` and no name of the standard library, such as io."""
    names: dict[str, object] = {}
    exec("from tv_mixaug import *", names)  # noqa: S102
    assert {name for name in names if name[0] != "_"} == set(tv_mixaug.__all__)


def test_names_are_fetched_once_and_pickled_by_their_home() -> None:
    """A name is bound in the package at its first use, and its class pickles."""
    cutmix = tv_mixaug.CutMix
    assert vars(tv_mixaug)["CutMix"] is cutmix
    assert pickle.loads(pickle.dumps(cutmix)) is cutmix  # noqa: S301


def test_unknown_names_are_unknown() -> None:
    """A misspelt name is an AttributeError, and an ImportError where it is imported."""
    with pytest.raises(AttributeError, match="module 'tv_mixaug' has no attribute 'CutMx'"):
        _ = tv_mixaug.CutMx
    with pytest.raises(ImportError, match="cannot import name 'CutMx'"):
        from tv_mixaug import CutMx  # noqa: F401
