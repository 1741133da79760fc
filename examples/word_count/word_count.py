"""Counts the words of the files and texts that it is sent."""

from __future__ import annotations

import json
import re
from collections import Counter

from blocks_network.types import StartTaskMessage, TaskContext

WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


def word_count(task: StartTaskMessage, ctx: TaskContext) -> dict[str, object]:
    """Answers one JSON artifact: how many words, how many different ones, the most frequent."""
    counted: Counter[str] = Counter()
    for number, part in enumerate(task.request_parts, start=1):
        ctx.report_status(f"reading part {number} of {len(task.request_parts)}")
        text = part.text if part.artifact_ref is None else ctx.download_input_artifact(part).decode("utf-8", "replace")
        counted.update(word.lower() for word in WORD.findall(text or ""))
    result = {"words": counted.total(), "different": len(counted), "most_frequent": counted.most_common(10)}
    return {
        "artifacts": [
            {"data": json.dumps(result, ensure_ascii=False), "mimeType": "application/json", "fileName": "words.json"}
        ]
    }
