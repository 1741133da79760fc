"""An agent that says a text word by word, live, and gives the whole at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def live_words(task: Any, ctx: Any) -> Iterator[str]:
    """What a generator yields goes to the task's stream where its consumer asked for one, else into its artifact."""
    for word in task.request_parts[0].text.split():
        ctx.checkpoint()  # ends here when the task is cancelled, waits here while it is paused
        yield f"{word} "
