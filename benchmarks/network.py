"""Processes that a benchmark measures: the network and its baselines, each on a free port, ended with the `with`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Server", "baseline", "network"]

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Server:
    """A running process. `described` is what `blocks-network dev --json` says; empty for a baseline."""

    port: int
    pid: int
    described: dict[str, Any]

    def resident_bytes(self) -> int:
        """What the process holds in memory now (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


@contextmanager
def network(*, durable: bool = True) -> Iterator[Server]:
    """`blocks-network dev`, on a directory of its own or in memory."""
    with tempfile.TemporaryDirectory(prefix="blocks-bench-") as directory:
        arguments = [sys.executable, "-m", "blocks_network.cli.network", "dev", "--json", "--port", "0"]
        arguments += ["--log-level", "error", *(["--data", directory] if durable else [])]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            described = json.loads(process.stdout.readline())
            yield Server(int(described["origin"].rpartition(":")[2]), process.pid, described)
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def baseline(name: str) -> Iterator[Server]:
    """`constant` or `relay` of baselines.py."""
    arguments = [sys.executable, str(HERE / "baselines.py"), name]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Server(int(process.stdout.readline()), process.pid, {})
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        process.wait(10)
