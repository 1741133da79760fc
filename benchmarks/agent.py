"""The agent that benchmarks/tasks.py measures, in a process of its own: echoes, and streams chunks on request.

python benchmarks/agent.py BASE_URL API_KEY CONCURRENCY      prints a line when it listens
"""

from __future__ import annotations

import sys
import time
from typing import Any

from blocks_network import AgentInstanceOptions, register_agent, start_agent_instance

CHUNK = b"x" * 20
CARD = {
    "identity": {"agentName": "bench", "displayName": "Bench", "version": "1.0.0"},
    "capabilities": {"taskKinds": ["request", "pipe"], "streaming": True},
    "streams": {"chunks": {"direction": "outbound", "format": "bytes"}},
    "io": {"inputs": [{"id": "request", "contentType": "text/plain", "required": True}], "outputs": []},
    "runtime": {"maxPendingBacklog": 100_000},
}


def handle(task: Any, context: Any) -> Any:
    """Echoes its text; "wait S" waits for its end; "chunks N" streams N chunks, and says when it wrote the first."""
    text = task.request_parts[0].text
    if text.startswith("wait "):
        context.cancel_event.wait(float(text.split()[1]))
        return None
    if not text.startswith("chunks "):
        return {"artifacts": [{"data": text, "mimeType": "text/plain"}]}
    stream = context.create_stream(declared_stream="chunks")
    time.sleep(0.3)  # the reader is there: what is measured is the stream, not its announcement
    began = time.time()
    for _ in range(int(text.split()[1])):
        stream.write(CHUNK)
    stream.end()
    return {"artifacts": [{"data": repr(began), "mimeType": "text/plain"}]}


def main() -> None:
    base_url, api_key, concurrency = sys.argv[1:]
    register_agent(base_url, api_key, CARD)
    instance = start_agent_instance(
        AgentInstanceOptions(
            card=CARD,
            agent_name="bench",
            handler=handle,
            cdm_url=f"{base_url}/config.json",
            api_key=api_key,
            concurrency=int(concurrency),
            max_pending_backlog=100_000,
        )
    )
    print("ready", flush=True)
    sys.stdin.read()
    instance.stop(0)


if __name__ == "__main__":
    main()
