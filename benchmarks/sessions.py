"""Threads, sockets and memory of a client with 1, 100 and 1,000 open sessions, and of an agent that has their tasks.

    python benchmarks/sessions.py [--json]

Neither is to grow with them: one poll follows all sessions of a client, and a task costs its agent no connection of its
own. Tasks beyond the agent's places wait at the network.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from pathlib import Path
from typing import Any

from network import network
from tasks import agent

from blocks_network import TaskClient, text_part


def held(pid: int) -> dict[str, Any]:
    """What the process holds now (Linux)."""
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        if ":" in line
    )
    sockets = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets += os.readlink(descriptor).startswith("socket:")
        except FileNotFoundError:
            continue
    return {
        "threads": int(status["Threads"]),
        "sockets": sockets,
        "resident_mib": round(int(status["VmRSS"].split()[0]) / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with network() as server, agent(server, threads=4) as agent_pid:
        described = server.described
        with TaskClient.create("free", api_key=described["apiKey"], cdm_url=described["cdmUrl"]) as client:
            ended = threading.Semaphore(0)
            sessions = []
            for wanted in (1, 100, 1_000):
                while len(sessions) < wanted:
                    session = client.send_message(agent_name="bench", request_parts=[text_part("wait 20", "request")])
                    session.on_terminal(lambda event: ended.release())
                    sessions.append(session)
                found[str(wanted)] = {
                    "client": held(os.getpid()),
                    "agent": held(agent_pid),
                    "network": held(server.pid),
                }
                if not options.json:
                    print(wanted, json.dumps(found[str(wanted)]), flush=True)
            for session in sessions:
                session.terminate()
            for _ in sessions:
                ended.acquire(timeout=60)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
