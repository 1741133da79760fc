"""Reading channels through outages."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from blocks_network.errors import TransportError
from blocks_network.transport import subscription as module
from blocks_network.transport.pubnub import PubNubKeys, make_client
from blocks_network.transport.subscription import Received, Subscription

WAIT_S = 20


class Ears:
    """Notes what the subscription tells."""

    def __init__(self) -> None:
        self.down = threading.Semaphore(0)

    def received(self, message: Received) -> None: ...

    def connected(self) -> None: ...

    def disconnected(self, fault: TransportError) -> None:
        self.down.release()

    def denied(self, fault: Any) -> bool:
        return True


class Endless:
    """Pauses that nobody would sit through."""

    def delay(self, failures: int) -> float:
        return 3_600.0


@pytest.fixture
def listener() -> Any:
    """A port on which the test decides what becomes of each poll."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        yield server


def test_a_pause_after_a_fault_ends_when_somebody_knows_better(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECONNECT", Endless())
    origin = f"127.0.0.1:{listener.getsockname()[1]}"
    ears = Ears()
    client = make_client(PubNubKeys("sub-c-x", "pub-c-x", origin, ssl=False), user_id="me")
    reader = Subscription(client, ["news"], ears, name="test")
    reader.start()

    listener.accept()[0].close()
    assert ears.down.acquire(timeout=WAIT_S)
    reader.reconnect()
    listener.accept()[0].close()  # it asks again, an hour early
    reader.stop()
    assert reader.join(WAIT_S), "a pause outlived its subscription"
