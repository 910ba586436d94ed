"""Every Python block of the README and of the documentation pages runs as it is printed."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(
        path
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if not {"_build", "gallery", "generated"} & set(path.relative_to(ROOT).parts)
    ),
]
# An HTML comment above a block, which readers do not see, says what the block needs.
BLOCK = re.compile(
    r"^(?:<!-- skip: needs (?P<needs>[\w ]+) -->\n+)?```python\n(?P<code>.*?)^```$", re.M | re.S
)


def blocks(path: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(path.read_text(encoding="utf-8")))


def is_missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None


EACH_PAGE = pytest.mark.parametrize("path", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])


@EACH_PAGE
def test_blocks_run(path, tmp_path, monkeypatch):
    """The blocks of a page run from top to bottom in one namespace, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    namespace = {"__name__": "__main__"}
    missing = set()
    for block in blocks(path):
        needs = (block["needs"] or "").split()
        if any(map(is_missing, needs)):
            missing.update(filter(is_missing, needs))
            continue
        # Blank lines in front make a traceback point at the line of the page.
        lines = "\n" * text.count("\n", 0, block.start("code"))
        code = compile(lines + block["code"], path, "exec")
        with warnings.catch_warnings():
            if needs:
                warnings.simplefilter("ignore")  # what other packages warn of is not ours to mend
            exec(code, namespace)  # noqa: S102  # our own pages
    # Functions of the page hold its namespace. A loader in such a cycle would be found by the
    # garbage collector, in no order, and wait ten seconds for its workers.
    namespace.clear()
    if missing:
        pytest.skip(f"all blocks ran but those that need {', '.join(sorted(missing))}")


@EACH_PAGE
def test_no_block_escapes(path):
    """Every fence that opens as Python is one that the test above finds and runs."""
    text = path.read_text(encoding="utf-8")
    assert len(re.findall(r"^\s*```\s*(?:python|py|pycon)\b", text, re.M)) == len(blocks(path))
