"""The examples, run as their pages say, on a real network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blocks_network.agent.loading import from_card, from_reference
from blocks_network.testing.network import Network

EXAMPLES = Path(__file__).parent.parent / "examples"
WAIT_S = 20


def start(blocks: Network, card: Path) -> None:
    loaded = from_card(card)
    blocks.agent(loaded.function, card=loaded.card, concurrency=loaded.concurrency)


def environment(blocks: Network) -> dict[str, str]:
    return {**os.environ, "BLOCKS_CDM_URL": blocks.cdm_url, "BLOCKS_API_KEY": blocks.api_key}


def test_word_count(blocks: Network) -> None:
    start(blocks, EXAMPLES / "word_count" / "agent-card.json")
    with blocks.client() as client:
        assert client.run("word_count", "one two two", timeout=WAIT_S).json()["words"] == 3


def test_live_words_arrive_one_by_one(blocks: Network, tmp_path: Path) -> None:
    start(blocks, EXAMPLES / "live_words" / "agent-card.json")
    listened = subprocess.run(
        [sys.executable, str(EXAMPLES / "live_words" / "listen.py"), "the", "quick", "brown", "fox"],
        cwd=tmp_path,
        env=environment(blocks),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert listened.stdout == "the quick brown fox \ncompleted\n", listened.stderr


def test_live_words_are_gathered_where_nobody_listens(blocks: Network) -> None:
    start(blocks, EXAMPLES / "live_words" / "agent-card.json")
    with blocks.client() as client:
        assert client.run("live_words", "the quick brown fox", timeout=WAIT_S).text == "the quick brown fox "


def test_a_pipeline_asks_another_agent(blocks: Network) -> None:
    start(blocks, EXAMPLES / "word_count" / "agent-card.json")
    loaded = from_reference(f"{EXAMPLES / 'pipeline' / 'pipeline.py'}:pipeline")
    blocks.agent(loaded.function, card=loaded.card)
    with blocks.client() as client:
        answer: dict[str, Any] = client.run("pipeline", "one two\n\nthree\n", timeout=WAIT_S).json()
    assert answer == {"words_by_line": [2, 1], "failed": 0}


@pytest.mark.parametrize("page", sorted(EXAMPLES.glob("*/README.md")), ids=lambda page: page.parent.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    for word in page.read_text(encoding="utf-8").split():
        name = word.strip("`.,").partition(":")[0]
        if name.startswith("examples/"):
            assert (EXAMPLES.parent / name).exists(), name
    card = page.parent / "agent-card.json"
    if card.exists():
        assert (page.parent / json.loads(card.read_text())["runtime"]["handler"]).is_file()
