"""The agents of these tests, run as a program: CDM_URL API_KEY CONCURRENCY BACKLOG NAME=HANDLER...

Says one JSON object a line: that it is ready, and what its handlers do.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from blocks_network import start_agent_instance
from blocks_network.agent.loading import derive_card
from blocks_network.types import AgentInstanceOptions

_saying = threading.Lock()


def say(**what: Any) -> None:
    with _saying:
        print(json.dumps(what), flush=True)


def text_of(task: Any) -> str:
    return str(task.request_parts[0].text)


def counting(task: Any, ctx: Any) -> str:
    """Gives the numbers from 0 to the one before that of the request, each as an artifact and, where the pace of
    status reports allows, as a report."""
    total = int(text_of(task))
    for number in range(total):
        ctx.report_status(str(number))
        ctx.publish_artifact(str(number), output_id="number")
    return str(total)


def waiting(task: Any, ctx: Any) -> str:
    """Says that it has begun, and ends when the task is to end: the tests kill it before."""
    say(said="began", task=task.task_id, text=text_of(task))
    ctx.cancel_event.wait()
    return "never"


def quick(task: Any, ctx: Any) -> str:
    say(said="ran", task=task.task_id, text=text_of(task))
    return "done"


def dying(task: Any, ctx: Any) -> str:
    """Is gone with its process at some point between its return and the network's answer to its terminal."""
    say(said="ran", task=task.task_id, text=text_of(task))
    delay_s = float(text_of(task))
    threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return "done"


def flaky(task: Any, ctx: Any) -> str:
    """Fails at its first run of each task."""
    say(said="ran", task=task.task_id, text=text_of(task))
    if task.task_id not in _failed:
        _failed.add(task.task_id)
        raise RuntimeError("the first time it does not work")
    return "done"


def stubborn(task: Any, ctx: Any) -> str:
    """Says that it has begun, and does not look whether it is to end."""
    say(said="began", task=task.task_id, text=text_of(task))
    threading.Event().wait()
    return "never"


_failed: set[str] = set()
HANDLERS: dict[str, Callable[..., Any]] = {
    one.__name__: one for one in (counting, waiting, quick, dying, flaky, stubborn)
}


def main(cdm_url: str, api_key: str, concurrency: str, backlog: str, *instances: str) -> None:
    for instance in instances:
        name, _, handler = instance.partition("=")
        start_agent_instance(
            AgentInstanceOptions(
                card=derive_card(name, None, None, None),
                agent_name=name,
                handler=HANDLERS[handler],
                cdm_url=cdm_url,
                api_key=api_key,
                concurrency=int(concurrency),
                max_pending_backlog=int(backlog),
            )
        )
    say(said="ready")
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
