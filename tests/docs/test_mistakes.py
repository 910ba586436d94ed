"""Test that the page of common mistakes says what the library says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "mistakes.md"
FENCE = re.compile(
    r"^```(?P<kind>python|text|\{code-block\} python)\n(?P<text>.*?)^```$", re.M | re.S
)
FENCES = [(fence["kind"], fence["text"]) for fence in FENCE.finditer(PAGE.read_text("utf-8"))]


def one_line(text):
    return " ".join(text.split())


def test_each_mistake_says_what_the_page_says(capsys):
    """Run from top to bottom, each block prints the text below it, and no other prints."""
    namespace, answered = {"__name__": "__main__"}, 0
    for (kind, code), (next_kind, expected) in zip(FENCES, [*FENCES[1:], ("", "")], strict=True):
        if kind != "python":
            continue
        exec(code, namespace)  # noqa: S102  # our own page
        said = one_line(capsys.readouterr().out)
        wanted = one_line(expected) if next_kind == "text" else ""
        assert re.fullmatch(re.escape(wanted).replace("…", ".*"), said), f"{code}\n{said}"
        answered += next_kind == "text"
    assert answered == 10
    namespace.clear()


@pytest.mark.slow
def test_without_a_guard_python_says_what_the_page_says(tmp_path):
    """The script without a guard fails with the sentence shown, and with one it runs."""
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
