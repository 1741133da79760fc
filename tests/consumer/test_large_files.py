"""Large artifacts and large requests: brought in pieces, so that memory stays flat whatever their size.

64 MB in every run, 200 MB where BLOCKS_CI is 1. The client runs in a process of its own, whose peak is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from blocks_network import TaskContext
from blocks_network.testing.network import Network

MB = 1024 * 1024
SIZE = (200 if os.environ.get("BLOCKS_CI") == "1" else 64) * MB
MAY_GROW = 16 * MB
"""A quarter of the smaller size: pieces, buffers and what the allocator keeps."""

MEASURED = """
import json, resource, sys
from pathlib import Path
from blocks_network import TaskClient, file_part
UNIT = 1 if sys.platform == "darwin" else 1024

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT

cdm_url, api_key, work, target = sys.argv[1:]
with TaskClient.create("free", cdm_url, api_key=api_key) as client:
    client.run("large_files", "warm up", timeout=30)
    before = peak()
    if work == "save":
        with client.send_message(agent_name="large_files", request_parts=[{"partId": "p", "text": "large"}]) as session:
            session.wait_for_terminal(60)
            (said,) = session.save_artifacts(target)
    else:
        said = client.run("large_files", file_part(Path(target)), timeout=60).text
    print(json.dumps({"grown": peak() - before, "said": said}))
"""


def measured(blocks: Network, work: str, target: Path) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, blocks.cdm_url, blocks.api_key, work, str(target)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def large_file(path: Path) -> str:
    """Its hash. The bytes differ from block to block, so that a lost or doubled one shows."""
    digest = hashlib.sha256()
    with path.open("wb") as target:
        for number in range(SIZE // MB):
            block = number.to_bytes(4, "big") * (MB // 4)
            digest.update(block)
            target.write(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(MB):
            digest.update(block)
    return digest.hexdigest()


def test_a_large_artifact_is_saved_with_flat_memory(blocks: Network, tmp_path: Path) -> None:
    source = tmp_path / "large.bin"
    expected = large_file(source)

    def handler(task: Any, ctx: TaskContext) -> str | None:
        if task.request_parts[0].text != "large":
            return "warm"
        ctx.publish_artifact(source.read_bytes(), mime_type="application/octet-stream", file_name="large.bin")
        return None

    blocks.agent(handler, name="large_files")
    answer = measured(blocks, "save", tmp_path / "saved")
    saved = Path(answer["said"])
    assert (saved.name, saved.stat().st_size) == ("large.bin", SIZE)
    assert sha256(saved) == expected
    assert answer["grown"] < MAY_GROW


def test_a_large_request_is_sent_with_flat_memory(blocks: Network, tmp_path: Path) -> None:
    source = tmp_path / "large.bin"
    large_file(source)

    def handler(task: Any) -> str:
        ref = task.request_parts[0].artifact_ref
        return "warm" if ref is None else str(ref["size"] if isinstance(ref, dict) else ref.size)

    blocks.agent(handler, name="large_files")
    answer = measured(blocks, "send", source)
    assert answer["said"] == str(SIZE)
    assert answer["grown"] < MAY_GROW
