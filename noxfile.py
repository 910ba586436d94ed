"""Run the tests on the oldest and the newest releases: `nox`.

One part of it: `nox -s "tests-3.10(oldest)"`; with arguments for pytest: `nox -- -k mixup -n 2`.
An interpreter that is not on this machine is skipped. Each environment holds its own PyTorch, which
takes several GB; `nox -R` uses those that are there again.
"""

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests"]

# The lower bounds of pyproject.toml, so that what it promises is what is tested. Newest: whatever
# the index has for that Python.
# The oldest NumPy and OpenCV have no wheels for a Python that came later.
OLDEST = ["torch==2.6.0", "torchvision==0.21.0"]
OLDEST += [
    f"{name}; python_version < '3.11'" for name in ("numpy==1.24.4", "opencv-python==4.9.0.80")
]
RELEASES = {"oldest": OLDEST, "newest": []}
VERSIONS = "import torch, torchvision; print(torch.__version__, torchvision.__version__)"


@nox.session(python=["3.10", "3.13"])
@nox.parametrize("release", list(RELEASES), ids=list(RELEASES))
def tests(session: nox.Session, release: str) -> None:
    """Run the tests with one release of torch and torchvision."""
    session.install("-e", ".[test]", *RELEASES[release])
    session.run("python", "-c", VERSIONS)
    session.run("pytest", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(python=["3.13"])
def integrations(session: nox.Session) -> None:
    """Run the scripts that show the package beside Lightning, Accelerate and others."""
    session.install("-e", ".[test,integrations]")
    session.run("pytest", "-rs", "tests/test_integrations.py", *session.posargs)
