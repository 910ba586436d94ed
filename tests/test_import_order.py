"""The architecture: what each folder imports, no circles, and files of a readable length."""

import ast
import graphlib
from pathlib import Path

import pytest

import tv_mixaug

ROOT = Path(tv_mixaug.__file__).parent
STAGES = ["engine", "batch", "targets", "transforms", "loading"]


def name_of(path):
    """Return the dotted name of a file below ``tv_mixaug``; a package has that of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in FILES.items()}


def find_imports(node, in_functions=True):
    """Yield the dotted names that code imports, except those for type checkers."""
    parts = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        parts = node.orelse
    elif isinstance(node, ast.FunctionDef) and not in_functions:
        parts = ()
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, "relative imports are not followed"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for part in parts:
        yield from find_imports(part, in_functions)


def find_own_imports(module, in_functions=True):
    """Return the names of this package that a module imports, without ``tv_mixaug``."""
    names = find_imports(TREES[module], in_functions)
    return {name.partition(".")[2] for name in names if name.split(".")[0] == "tv_mixaug"}


def folder_of(name):
    return name.partition(".")[0]


@pytest.mark.parametrize("module", FILES)
def test_imports_point_one_way(module):
    """A stage imports only earlier stages; nothing imports cli, and only cli imports extras."""
    folder, found = folder_of(module), {folder_of(name) for name in find_own_imports(module)}
    if folder in STAGES:
        shared = {"_validation", "_opencv" if folder == "engine" else "_tv_tensors"}
        assert found <= {*STAGES[: STAGES.index(folder) + 1], *shared}
    assert "cli" not in found or folder in ("cli", "__main__")
    assert "extras" not in found or folder in ("cli", "extras")


@pytest.mark.parametrize("module", [name for name in FILES if folder_of(name) == "testing"])
def test_testing_imports_public_names_only(module):
    """The kit shares no code with what it judges, except the checks of arguments."""
    for name in find_own_imports(module):
        is_private = any(part.startswith("_") for part in name.split("."))
        assert not is_private or folder_of(name) in ("testing", "_validation"), name


def test_only_the_strategies_import_hypothesis():
    """No module imports the strategies before they are used."""
    names = {module: {*map(folder_of, find_imports(TREES[module]))} for module in FILES}
    assert [module for module in FILES if "hypothesis" in names[module]] == ["testing.strategies"]
    for module in FILES:
        assert not any("strategies" in name for name in find_own_imports(module, False)), module


@pytest.mark.parametrize("in_functions", [False, True], ids=["at import", "in functions too"])
def test_no_modules_import_each_other(in_functions):
    """The imports of modules form no circle."""
    graph = {}
    for module in FILES:
        names = find_own_imports(module, in_functions)
        graph[module] = {name if name in FILES else name.rpartition(".")[0] for name in names}
        graph[module].discard(module)
    assert {*graphlib.TopologicalSorter(graph).static_order()} == {*FILES}


@pytest.mark.parametrize(
    "folder", [name for name, path in FILES.items() if path.name == "__init__.py" and name]
)
def test_each_folder_says_why_it_exists(folder):
    """A sentence says what the folder is for, and another one what may import it."""
    text = (ast.get_docstring(TREES[folder]) or "").replace("\n", " ")
    assert ". " in text
    assert "import" in text


@pytest.mark.parametrize("module", FILES)
def test_no_file_has_more_than_450_lines(module):
    """Each file can be read in one sitting."""
    assert len(FILES[module].read_text("utf-8").splitlines()) <= 450
