"""Training in several processes: ranks differ, and a second run repeats the first."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "docs" / "integrations" / "torchrun_ddp.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed"),
    pytest.mark.skipif(not SCRIPT.exists(), reason="needs the repository's docs"),
]


def run_ranks():
    """Run the script as two ranks, started as by torchrun, and return their lines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }  # fmt: skip
    ranks = [
        subprocess.Popen(  # noqa: S603  # a script of this repository
            [sys.executable, str(SCRIPT)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    found = []
    try:
        for rank in ranks:
            output, errors = rank.communicate(timeout=180)
            assert rank.returncode == 0, errors
            found.append(output.splitlines())
    finally:
        for rank in ranks:
            rank.kill()
    return found


def records(lines):
    """Return the mixes that a rank printed, by epoch and batch."""
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return {(line.pop("epoch"), line.pop("batch")): line for line in found}


def test_two_ranks_mix_differently_and_a_second_run_repeats_them():
    """Each rank has all of its batches, from two workers, and shares no mix with the other."""
    lines = run_ranks()
    first, second = map(records, lines)
    assert first.keys() == second.keys()
    assert len(first) == 2 * 4
    assert len({str(mix) for mix in [*first.values(), *second.values()]}) == 16
    assert run_ranks() == lines


def test_the_script_runs_alone(capsys, monkeypatch):
    """Started by hand, without torchrun, the script trains as the only rank."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "rank 0 of 1" in capsys.readouterr().out
