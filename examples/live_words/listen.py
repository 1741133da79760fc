"""Sends live_words a text, and prints the words as they come. The environment says on which network."""

from __future__ import annotations

import sys

from blocks_network import create_task_client, text_part


def main(text: str) -> None:
    with (
        create_task_client() as client,
        client.send_message(agent_name="live_words", request_parts=[text_part(text)], stream=True) as session,
    ):
        for chunk in session.wait_for_stream("words", timeout=10).open().bytes():
            print(chunk.decode(), end="", flush=True)
        print()
        print(session.wait_for_terminal(timeout=10).state)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "each word by itself")
