"""The speed benchmark runs from end to end; what it measures is not tested."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "benchmarks" / "run.py"


@pytest.mark.filterwarnings("ignore")
def test_the_collate_benchmark_writes_its_table(tmp_path):
    """Toy sizes and few rounds give a table, numbers and a plot."""
    for needed in ("timm", "kornia", "matplotlib", "tqdm"):
        pytest.importorskip(needed)
    spec = importlib.util.spec_from_file_location("benchmark_run", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(["collate", "--tiny", "--rounds", "2", "--threads", "1", "--out", str(tmp_path)])
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".csv", ".svg"}
    assert "tv_mixaug" in (tmp_path / "collate.md").read_text()
