"""Networks and agents as processes of their own, which a test can kill, stop and start again."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["DEADLINE_S", "AgentProcess", "NetworkProcess", "free_port"]

DEADLINE_S = 60.0
"""For what takes a second or two when the machine is idle."""
HERE = Path(__file__).parent


class Process:
    """A Python process. The lines that it prints are JSON objects and wait to be taken; its standard error is kept."""

    def __init__(self, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BLOCKS_")}
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_lines, name="stdout-of-a-process", daemon=True),
            threading.Thread(target=self._read_errors, name="stderr-of-a-process", daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def errors(self) -> str:
        """What it has written to standard error until now."""
        return "".join(self._errors)

    def next(self, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """The next object that it says."""
        line = self._lines.get(timeout=deadline_s)
        assert line is not None, f"the process has ended with {self._process.wait(DEADLINE_S)}: {self.errors}"
        return dict(json.loads(line))

    def tell(self, **what: Any) -> None:
        """Writes an object to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """As a lost machine would be: nothing of it gets a chance to do anything more."""
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(DEADLINE_S)

    def close(self) -> None:
        """Frees everything, whatever has become of it."""
        self.kill()
        for reader in self._readers:
            reader.join(DEADLINE_S)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:  # what was told to a process that is gone
                continue

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)


class NetworkProcess:
    """A network on a port and a directory that stay the same over its restarts."""

    def __init__(self, data: Path, *options: str, script: Path | None = None) -> None:
        """`script` runs in place of the command, with the same arguments."""
        self.data, self.port = data, free_port()
        self._program = [str(script)] if script is not None else ["-m", "blocks_network.cli.network"]
        self.options = options
        self.process: Process
        self.said: dict[str, Any] = {}
        self._closers: list[Callable[[], None]] = []

    def start(self) -> NetworkProcess:
        """Returns when it accepts."""
        self.process = Process(
            *self._program, "dev", "--port", str(self.port), "--data", str(self.data), "--json", *self.options
        )
        self._closers.append(self.process.close)
        self.said = self.process.next()
        return self

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> int:
        """Asks it to end in order; its exit code."""
        self.process.signal(signal.SIGTERM)
        return self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def close(self) -> None:
        for close in self._closers:
            close()

    @property
    def cdm_url(self) -> str:
        return str(self.said["cdmUrl"])

    @property
    def base_url(self) -> str:
        return str(self.said["baseUrl"])

    @property
    def api_key(self) -> str:
        return str(self.said["apiKey"])


class AgentProcess(Process):
    """Instances in a process: one for each `name=handler` of agent_program.py. Returns when they all listen."""

    def __init__(
        self,
        network: NetworkProcess,
        *instances: str,
        concurrency: int = 8,
        backlog: int = 1_000,
        cdm_url: str | None = None,
    ) -> None:
        super().__init__(
            str(HERE / "agent_program.py"),
            cdm_url or network.cdm_url,
            network.api_key,
            str(concurrency),
            str(backlog),
            *instances,
        )
        ready = self.next()
        assert ready == {"said": "ready"}, ready


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
