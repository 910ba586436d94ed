"""Run the tests on the oldest and the newest releases: `nox`.

`nox -s "tests-3.10(oldest)"` runs one session; `nox -- -k mixup -n 2` passes arguments to pytest.
Interpreters that are not installed are skipped. Each environment has its own PyTorch of several GB;
`nox -R` reuses existing environments.
"""

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests"]

# The lower bounds of pyproject.toml; "newest" installs what the index has for that Python.
OLDEST = ["torch==2.6.0", "torchvision==0.21.0"]
# These have no wheels for later versions of Python.
PINNED = ("numpy==1.24.4", "opencv-python==4.9.0.80", "pillow==10.1.0")
OLDEST += [f"{name}; python_version < '3.11'" for name in PINNED]
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
    """Run the example scripts for Lightning, Accelerate and other libraries."""
    session.install("-e", ".[test,integrations]")
    session.run("pytest", "-rs", "-m", "", "tests/docs/test_integrations.py", *session.posargs)
