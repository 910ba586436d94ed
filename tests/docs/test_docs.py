"""All Python blocks of the README and of the documentation pages run."""

import re
import warnings
from importlib.util import find_spec

import pytest
import torch
from helpers.scripts import DOCS

ROOT = DOCS.parent
MADE = {"_build", "gallery"}
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not MADE & {*path.relative_to(ROOT).parts}]
PAGES.insert(0, ROOT / "README.md")
# An HTML comment above a block names the packages that it needs.
BLOCK = re.compile(
    r"^(?:<!-- skip: needs (?P<needs>[\w ]+) -->\n+)?```python\n(?P<code>.*?)^```$", re.M | re.S
)


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_blocks_run(path, tmp_path, monkeypatch):
    """The blocks of a page run from top to bottom in one namespace, and no block is missed."""
    if path.name == "device.md" and torch.__version__ < (2, 12):
        pytest.skip("torch 2.12 is the first release that compiles transforms")
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    assert len(re.findall(r"^\s*```\s*(?:python|py|pycon)\b", text, re.M)) == len(found)
    namespace, missing = {"__name__": "__main__"}, set()
    for block in found:
        needs = (block["needs"] or "").split()
        lacking = [package for package in needs if find_spec(package) is None]
        missing.update(lacking)
        if lacking:
            continue
        # Leading blank lines give tracebacks the line numbers of the page.
        lines = "\n" * text.count("\n", 0, block.start("code"))
        code = compile(lines + block["code"], path, "exec")
        with warnings.catch_warnings():
            if needs:
                warnings.simplefilter("ignore")  # of other packages
            exec(code, namespace)  # noqa: S102  # a page of this project
    # Functions of the page refer to its namespace. The garbage collector would delete a loader in
    # such a cycle in no order, and wait ten seconds for its workers.
    namespace.clear()
    if missing:
        pytest.skip(f"all other blocks ran; some need {', '.join(sorted(missing))}")
