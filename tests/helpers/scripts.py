"""Scripts of the documentation as modules, and the tables that they write."""

import csv
import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def load_script(name):
    """Import a script of the folder docs/benchmarks."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_csv(path):
    """Return the rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
