"""Tasks and streams through TaskClient, a network on a directory, and one instance, each in a process of its own.

    python benchmarks/tasks.py [rtt throughput stream memory] [--rounds N] [--against COMMAND] [--json]

- rtt: a task of 1 KiB and its artifact back, one at a time: p50 and p99 in ms.
- throughput: 2,000 such tasks by `TaskClient.map`, 64 in flight, 16 threads at the instance: tasks a second.
- stream: 5,000 chunks of 20 bytes: chunks a second, and ms from the first write to the first chunk.
- memory: resident MiB of each process after 1,000 and after 10,000 tasks.
- `--against` runs a command before each round that prints what peers reach: one JSON object, by name, with
  `rtt.p50_ms`, `throughput.tasks_per_s` and `stream.chunks_per_s`; the ratios are of medians of the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from network import Server, network

from blocks_network import BlocksError, TaskClient, text_part

TEXT = json.dumps({"text": "x" * 1000})
RTT_RUNS, BURST, IN_FLIGHT, THREADS, CHUNKS = 200, 2_000, 64, 16, 5_000


@contextmanager
def agent(server: Server, threads: int = THREADS) -> Iterator[int]:
    """The instance's process id."""
    described = server.described
    arguments = [str(Path(__file__).parent / "agent.py"), described["baseUrl"], described["apiKey"], str(threads)]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "LOG_LEVEL": "error"},
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise SystemExit("the agent did not start")
        yield process.pid
    finally:
        process.communicate(timeout=30)


def ask(client: TaskClient) -> None:
    with client.send_message(agent_name="bench", request_parts=[text_part(TEXT, "request")]) as session:
        end = session.wait_for_terminal(60)
        if end.state != "completed" or not session.list_artifacts():
            raise SystemExit(f"a task ended as {end.state}: {end}")


def measure_rtt(client: TaskClient, pids: dict[str, int]) -> dict[str, float]:
    samples = []
    for number in range(RTT_RUNS + 20):
        began = time.perf_counter()
        ask(client)
        if number >= 20:
            samples.append(time.perf_counter() - began)
    samples.sort()
    return {"p50_ms": round(samples[len(samples) // 2] * 1e3, 3), "p99_ms": round(samples[-3] * 1e3, 3)}


def measure_throughput(client: TaskClient, pids: dict[str, int], tasks: int = BURST) -> dict[str, float]:
    began = time.perf_counter()
    inputs = (text_part(TEXT, "request") for _ in range(tasks))
    for outcome in client.map("bench", inputs, concurrency=IN_FLIGHT):
        if isinstance(outcome, BlocksError) or not outcome.artifacts:
            raise SystemExit(f"a task ended as {outcome!r}")
    return {"tasks_per_s": round(tasks / (time.perf_counter() - began), 1)}


def measure_stream(client: TaskClient, pids: dict[str, int]) -> dict[str, float]:
    _stream_once(client, 10)
    return _stream_once(client, CHUNKS)


def _stream_once(client: TaskClient, chunks: int) -> dict[str, float]:
    parts = [text_part(f"chunks {chunks}", "request")]
    with client.send_message(agent_name="bench", request_parts=parts, stream=True) as session:
        reader = session.wait_for_stream(timeout=10).open()
        received, first = 0, 0.0
        for chunk in reader.bytes():
            first = first or time.time()
            received += len(chunk) // 20
        took = time.time() - first
        began = float(session.result(10).text)
    if received != chunks:
        raise SystemExit(f"{received} of {chunks} chunks arrived")
    return {"chunks_per_s": round(chunks / (took + first - began)), "first_ms": round((first - began) * 1e3, 2)}


def measure_memory(client: TaskClient, pids: dict[str, int]) -> dict[str, Any]:
    found = {}
    done = 0
    for tasks in (1_000, 5_000, 10_000):
        measure_throughput(client, pids, tasks - done)
        done = tasks
        found[str(tasks)] = {name: _resident_mib(pid) for name, pid in pids.items()}
    return {"resident_mib_after_tasks": found, "threads": threading.active_count()}


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return round(int(line.split()[1]) / 1024, 1)


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "rtt": measure_rtt,
    "throughput": measure_throughput,
    "stream": measure_stream,
    "memory": measure_memory,
}


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each number, over equally shaped objects."""
    result: dict[str, Any] = {}
    for key, value in rounds[0].items():
        values = [each[key] for each in rounds]
        if isinstance(value, dict):
            result[key] = medians(values)
        else:
            result[key] = statistics.median(values) if isinstance(value, (int, float)) else value
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", choices=[[], *MEASURES], default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", metavar="COMMAND")
    parser.add_argument("--in-memory", action="store_true", help="the network keeps nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted = options.measures or ["rtt", "throughput", "stream"]
    ours: list[dict[str, Any]] = []
    peers: list[dict[str, Any]] = []
    for _ in range(options.rounds):
        if options.against:
            peers.append(json.loads(subprocess.check_output(shlex.split(options.against), text=True)))
        with network(durable=not options.in_memory) as server, agent(server) as agent_pid:
            pids = {"network": server.pid, "agent": agent_pid, "client": os.getpid()}
            described = server.described
            with TaskClient.create("free", api_key=described["apiKey"], cdm_url=described["cdmUrl"]) as client:
                ours.append({name: MEASURES[name](client, pids) for name in wanted})
    result = {"blocks": medians(ours), **({"peers": medians(peers)} if peers else {})}
    result["ratios"] = {name: ratios(result["blocks"], peer) for name, peer in result.get("peers", {}).items()}
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


def ratios(blocks: dict[str, Any], peer: dict[str, Any]) -> dict[str, float]:
    """Ours divided by theirs: rtt should be small, the rates large."""
    named = {"rtt": "p50_ms", "throughput": "tasks_per_s", "stream": "chunks_per_s"}
    return {
        name: round(blocks[name][number] / peer[name][number], 3)
        for name, number in named.items()
        if name in blocks and name in peer
    }


if __name__ == "__main__":
    main()
