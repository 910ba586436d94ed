"""Every Python block of the README and of the documentation pages runs as it is printed."""

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


def runs() -> list:
    """One run of each page, and one more for each package that some of its blocks need."""
    return [
        pytest.param(path, needs, id=f"{path.relative_to(ROOT)}{f'-{needs}' if needs else ''}")
        for path in PAGES
        for needs in sorted({block["needs"] or "" for block in blocks(path)})
    ]


@pytest.mark.parametrize(("path", "needs"), runs())
def test_blocks_run(path, needs, tmp_path, monkeypatch):
    """The blocks of a page run from top to bottom in one namespace, as a reader would type them."""
    for name in needs.split():
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    namespace = {"__name__": "__main__"}
    with warnings.catch_warnings():
        if needs:
            warnings.simplefilter("ignore")  # what other packages warn of is not ours to mend
        for block in blocks(path):
            if block["needs"] in (None, needs):
                # Blank lines in front make a traceback point at the line of the page.
                lines = "\n" * text.count("\n", 0, block.start("code"))
                code = compile(lines + block["code"], path, "exec")
                exec(code, namespace)  # noqa: S102  # our own pages


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_no_block_escapes(path):
    """Every fence that opens as Python is one that the test above finds and runs."""
    text = path.read_text(encoding="utf-8")
    assert len(re.findall(r"^\s*```\s*(?:python|py|pycon)\b", text, re.M)) == len(blocks(path))
