"""The truth table can be written, and the published one has a case for each failure."""

import pytest
from helpers.scripts import DOCS, load_script, read_csv


@pytest.mark.filterwarnings("ignore")
def test_the_script_writes_its_table(tmp_path):
    """A run for one system writes a row with every question, version and date."""
    script = load_script("truth_table")
    script.main(["--draws", "2", "--only", "Chain", "--out", str(tmp_path)])
    rows = read_csv(tmp_path / "truth_table.csv")
    assert [row["question"] for row in rows] == [q.title for q in script.QUESTIONS.values()]
    assert {row["verdict"] for row in rows} == {"holds"}
    page = (tmp_path / "truth_table.md").read_text(encoding="utf-8")
    assert f"{rows[0]['version']}, {rows[0]['date']}" in page


def test_every_published_failure_has_its_case():
    """Each wrong cell has its smallest case and cause, and each cell has a version and a date."""
    rows = read_csv(DOCS / "benchmarks" / "truth_table.csv")
    wrong = [row for row in rows if row["verdict"] == "wrong"]
    assert len(wrong) > 30
    for row in wrong:
        assert row["case"], row
        assert row["cause"], row
    for row in rows:
        assert row["version"].split()[1][0].isdigit(), row
        assert len(row["date"]) == 10, row
    assert {row["verdict"] for row in rows if "Chain" in row["system"]} == {"holds"}
