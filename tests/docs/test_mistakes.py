"""The page of common mistakes quotes the outputs of the package."""

import re
import subprocess
import sys

import pytest
from helpers.scripts import DOCS

FENCE = re.compile(
    r"^```(?P<kind>python|text|\{code-block\} python)\n(?P<text>.*?)^```$", re.M | re.S
)
PAGE = (DOCS / "guide" / "mistakes.md").read_text("utf-8")
FENCES = [(fence["kind"], fence["text"]) for fence in FENCE.finditer(PAGE)]


def one_line(text):
    return " ".join(text.split())


def test_each_block_prints_the_text_below_it(capsys):
    """Run from top to bottom, blocks print the quoted texts, and blocks without one print none."""
    namespace, quoted = {"__name__": "__main__"}, 0
    for (kind, code), (next_kind, expected) in zip(FENCES, [*FENCES[1:], ("", "")], strict=True):
        if kind != "python":
            continue
        exec(code, namespace)  # noqa: S102  # a page of this project
        printed = one_line(capsys.readouterr().out)
        wanted = one_line(expected) if next_kind == "text" else ""
        assert re.fullmatch(re.escape(wanted).replace("…", ".*"), printed), f"{code}\n{printed}"
        quoted += next_kind == "text"
    assert quoted == 10
    namespace.clear()


@pytest.mark.slow
def test_a_script_without_a_guard_fails_as_quoted(tmp_path):
    """The script without a guard raises the quoted error, and with a guard it runs."""
    script, guard = (text for kind, text in FENCES if kind.startswith("{"))
    expected = next(text for kind, text in FENCES if kind == "text" and "bootstrapping" in text)
    head = "\n".join(line for line in FENCES[0][1].splitlines() if "import" in line) + "\n"
    body = "".join(f"    {line}\n" for line in script.splitlines())
    file = tmp_path / "script.py"
    run = {"args": [sys.executable, file], "capture_output": True, "text": True, "timeout": 300}
    file.write_text(head + script)
    unguarded = subprocess.run(**run, check=False)
    assert unguarded.returncode
    assert one_line(expected) in one_line(unguarded.stderr)
    file.write_text(f"{head}def main():\n{body}\n{guard}")
    guarded = subprocess.run(**run, check=True)
    assert guarded.stdout.count("torch.Size([16, 3, 32, 32])") == 4
