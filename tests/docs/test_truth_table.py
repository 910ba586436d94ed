"""The truth table runs from end to end, and what is published has a case for every accusation."""

import csv
import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("ignore")
def test_the_script_writes_its_table(tmp_path):
    """Few draws of one system give a row with every question, version and date."""
    spec = importlib.util.spec_from_file_location("truth_table", FOLDER / "truth_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(["--draws", "2", "--only", "Chain", "--out", str(tmp_path)])
    rows = read(tmp_path / "truth_table.csv")
    assert [row["question"] for row in rows] == [q.title for q in script.QUESTIONS.values()]
    assert {row["verdict"] for row in rows} == {"holds"}
    page = (tmp_path / "truth_table.md").read_text(encoding="utf-8")
    assert f"{rows[0]['version']}, {rows[0]['date']}" in page


def test_every_accusation_has_its_case():
    """In the published table each wrong cell has its smallest case, cause, version and date."""
    rows = read(FOLDER / "truth_table.csv")
    wrong = [row for row in rows if row["verdict"] == "wrong"]
    assert len(wrong) > 30
    for row in wrong:
        assert row["case"], row
        assert row["cause"], row
    for row in rows:
        assert row["version"].split()[1][0].isdigit(), row
        assert len(row["date"]) == 10, row
    chain = {row["verdict"] for row in rows if "Chain" in row["system"]}
    assert chain == {"holds"}
