"""The documentation's examples do what it says: each is run on a real network, and prints what stands below it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blocks_network import TaskContext
from blocks_network.testing.network import Network

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
S = 10.0


@dataclass(frozen=True)
class Example:
    """One block of a page, and what it prints (None: the page does not say)."""

    page: str
    line: int
    code: str
    prints: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def examples(page: str) -> list[Example]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Example(page, text[: found.start()].count("\n") + 1, found[1], found[2]) for found in BLOCK.finditer(text)]


# --- the agents that docs/consumer.md speaks of ---


def upper(task: Any) -> str:
    return str(task.request_parts[0].text).upper()


def statistics(task: Any) -> dict[str, Any]:
    text = str(task.request_parts[0].text)
    count = {"data": json.dumps({"words": len(text.split())}), "mimeType": "application/json", "outputId": "count"}
    return {"artifacts": [count, {"data": text.encode(), "mimeType": "text/plain", "outputId": "raw"}]}


def sizes(task: Any, ctx: TaskContext) -> str:
    part = task.request_parts[1]
    return f"{part.part_id}.bin: {len(ctx.download_input_artifact(part))}"


def picky(task: Any) -> str:
    text = str(task.request_parts[0].text)
    if text == "bad":
        raise ValueError("I do not like bad")
    return text.upper()


def baker(task: Any, ctx: TaskContext) -> str:
    ctx.report_status("kneading")
    return f"one {task.request_parts[0].text}"


def counter(task: Any, ctx: TaskContext) -> str:
    stream = ctx.create_stream(declared_stream="numbers")
    for number in range(int(task.request_parts[0].text)):
        stream.write({"n": number})
    return f"counted to {task.request_parts[0].text}"


def sleeper(task: Any, ctx: TaskContext) -> None:
    ctx.cancel_event.wait(S)


@pytest.fixture
def with_agents(blocks: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Network:
    """A network with those agents, found through the environment as a reader would."""
    for handler in (upper, statistics, sizes, picky, baker, sleeper):
        blocks.agent(handler)
    identity = {"agentName": "counter", "displayName": "Counter", "description": "counts", "version": "1.0.0"}
    streams = {"numbers": {"direction": "outbound", "format": "events"}}
    blocks.agent(counter, card={"identity": identity, "capabilities": {"streaming": True}, "streams": streams})
    for name in ("BACKEND_URL", "SUBSCRIBE_KEY", "PUBLISH_KEY"):
        monkeypatch.delenv(f"BLOCKS_{name}", raising=False)
    monkeypatch.setenv("BLOCKS_CDM_URL", blocks.cdm_url)
    monkeypatch.setenv("BLOCKS_API_KEY", blocks.api_key)
    monkeypatch.chdir(tmp_path)
    return blocks


@pytest.fixture
def token_endpoint(blocks: Network) -> Iterator[str]:
    """A server of a user's own, which keeps the key and gives tokens."""
    lender = blocks.client()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            trusted = self.headers["X-Session"] == "of the signed-in user" and asked == {}
            given = {"token": token_of(lender), "expiresIn": 600, "userId": lender.get_user_id()}
            body = json.dumps(given if trusted else {"error": "who are you?"}).encode()
            self.send_response(200 if trusted else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests have their own words."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/blocks-token"
    server.shutdown()
    server.server_close()
    thread.join()


def token_of(client: Any) -> str:
    return str(client._consumer_auth.get_auth_header()).removeprefix("Bearer ")


@pytest.mark.parametrize("example", examples("consumer.md"), ids=str)
def test_an_example_of_the_consumers_guide_prints_what_it_says(
    example: Example, with_agents: Network, token_endpoint: str, tmp_path: Path
) -> None:
    client = with_agents.client()
    code = example.code.replace("https://app.example.com/blocks-token", token_endpoint)
    known = {
        "__name__": "__main__",
        "client": client,
        "read_token_from_the_vault": lambda: token_of(client),
    }
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(DOCS / str(example)), "exec"), known)
    said = re.sub(r"task-[0-9a-f]{20,}", "{TASK}", printed.getvalue().replace(str(tmp_path.resolve()), "{CWD}"))
    assert example.prints is not None, "say below the example what it prints"
    assert said == example.prints


def test_every_page_is_linked_from_the_index_and_every_link_leads_somewhere() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in DOCS.glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"({page})" not in index} == set()
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (DOCS / target).exists(), f"{page.name} links {target}"
