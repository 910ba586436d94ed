"""Missing packages are reported with what to install: OpenCV with both of its packages."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

IMAGES = "torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2)"
NEEDS_OPENCV = [
    "from tv_mixaug.extras.io import read_image",
    "from tv_mixaug.extras.flowers import draw_flower",
    f"tv_mixaug.Mixup(lam=0.5, num_classes=2)({IMAGES})",
]
TRY = f"""
import torch, tv_mixaug
for code in {NEEDS_OPENCV!r}:
    try:
        exec(code)
    except ImportError as error:
        print(error)
print(tv_mixaug.CutMix(num_classes=2)({IMAGES})[0].sum().item())
"""


def run(folder, code):
    """Run Python where cv2 cannot load a library of the desktop, and hypothesis is missing."""
    broken = "raise ImportError('libGL.so.1: cannot open shared object file')"
    missing = "raise ModuleNotFoundError('No module named hypothesis', name='hypothesis')"
    (folder / "cv2.py").write_text(broken)
    (folder / "hypothesis.py").write_text(missing)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True)  # noqa: S603


def test_whatever_needs_opencv_names_the_library_and_what_to_install(tmp_path):
    """Files, flowers and blends of bytes raise one ImportError; boxes of bytes need no OpenCV."""
    *errors, last = run(tmp_path, TRY).stdout.splitlines()
    assert len(errors) == len(NEEDS_OPENCV)
    for error in errors:
        assert error.startswith("OpenCV cannot be imported (libGL.so.1: cannot open")
        assert "pip uninstall opencv-python, then pip install opencv-python-headless" in error
        assert "apt-get install libgl1" in error
    assert last == "0"


def test_commands_show_the_error_without_a_traceback(tmp_path):
    """The demo ends with exit code 2 and one line."""
    done = run(tmp_path, "from tv_mixaug.cli.main import main; sys.exit(main(['demo']))")
    assert done.returncode == 2
    assert done.stderr.startswith("tv-mixaug: error: OpenCV cannot be imported")
    assert len(done.stderr.splitlines()) == 1


def test_a_strategy_names_hypothesis(tmp_path):
    """Assertions can be imported without hypothesis, and a strategy says what to install."""
    code = "from tv_mixaug.testing import assert_probability, image_batches"
    last = run(tmp_path, code).stderr.splitlines()[-1]
    assert last == "ImportError: image_batches needs hypothesis: pip install hypothesis"
