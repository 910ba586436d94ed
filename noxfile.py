"""Run the tests on the oldest and the newest releases: `nox`.

`nox -s "tests(3.10-oldest)"` runs one session; `nox -- -k mixup -n 2` passes arguments to pytest.
Interpreters that are not installed are skipped. Each environment has its own PyTorch of several GB;
`nox -R` reuses existing environments.
"""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests"]

PROJECT = nox.project.load_toml("pyproject.toml")
REQUIRED = PROJECT["project"]["dependencies"]
TESTING = PROJECT["project"]["optional-dependencies"]["test"]
# "oldest" and "lowest" install the bounds of pyproject.toml, "lowest" also those of the test tools;
# "newest" installs what the index has for that Python.
RELEASES = {
    "oldest": [name.replace(">=", "==") for name in REQUIRED],
    "lowest": [name.replace(">=", "==") for name in REQUIRED + TESTING],
    "newest": [],
}
MATRIX = [("3.10", "oldest"), ("3.11", "lowest"), ("3.10", "newest")]
MATRIX += [(python, "newest") for python in ("3.11", "3.12", "3.13", "3.14")]
VERSIONS = "import torch, torchvision; print(torch.__version__, torchvision.__version__)"


@nox.session
@nox.parametrize("python, release", MATRIX, ids=list(map("-".join, MATRIX)))
def tests(session: nox.Session, release: str) -> None:
    """Run the tests with one release of torch and torchvision."""
    session.install("-e", ".[test]", *RELEASES[release])
    session.run("python", "-c", VERSIONS)
    session.run("pytest", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(python="3.13")
def coverage(session: nox.Session) -> None:
    """Run all tests and report the lines that none of them runs."""
    session.install("-e", ".[test]", *nox.project.dependency_groups(PROJECT, "coverage"))
    session.run("pytest", "-m", "", "--cov", "--cov-report=term-missing", *session.posargs)


@nox.session(python="3.13")
def integrations(session: nox.Session) -> None:
    """Run the example scripts for Lightning, Accelerate and other libraries."""
    session.install("-e", ".[test]", *nox.project.dependency_groups(PROJECT, "integrations"))
    session.run("pytest", "-rs", "-m", "", "tests/docs/test_integrations.py", *session.posargs)
