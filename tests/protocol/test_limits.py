"""Every bound of the gateway: what is within it passes, what is beyond it gets the protocol's own refusal."""

from __future__ import annotations

import http.client
import json
import re
import socket
import zlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from gateway_harness import DEADLINE_S, GatewayNode, NodeOf, listen

from blocks_network.errors import ConfigurationError
from blocks_network.server.access.authorizer import Bits
from blocks_network.server.bus import Draft
from blocks_network.server.gateway.rates import PublishRates
from blocks_network.server.gateway.reply import Refusal
from blocks_network.server.limits import Limits

DOCUMENT = Path(__file__).parents[2] / "docs" / "limits.md"


def ask(node: GatewayNode, path: str, *, method: str = "GET", **options: Any) -> httpx.Response:
    return httpx.request(method, f"http://{node.origin}{path}", timeout=DEADLINE_S, **options)


def publish_path(node: GatewayNode, channel: str = "room") -> str:
    keyset = node.open_keyset
    return f"/publish/{keyset.publish_key}/{keyset.subscribe_key}/0/{channel}/0"


def poll(node: GatewayNode, query: str) -> socket.socket:
    """A subscribe that waits, sent on a connection of its own."""
    host, _, port = node.origin.partition(":")
    wire = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
    wire.sendall(f"GET {query} HTTP/1.1\r\nhost: t\r\n\r\n".encode())
    return wire


def status_of(wire: socket.socket) -> tuple[int, dict[str, str]]:
    response = http.client.HTTPResponse(wire)
    response.begin()
    response.read()
    response.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}


# -- how much a second, and how many at a time -----------------------------------------------------------------------


def until_refused(once: Callable[[int], httpx.Response]) -> tuple[int, httpx.Response]:
    """How many were taken before the first refusal. On a machine that is busy the rate is refilled meanwhile."""
    for number in range(100):
        answer = once(number)
        if answer.status_code != 200:
            assert answer.status_code == 429
            return number, answer
    raise AssertionError("nothing was refused")


def test_publishes_beyond_a_tokens_rate_are_refused_with_the_time_to_wait(node_of: NodeOf) -> None:
    node = node_of(Limits(publishes_per_s=3))
    path = f"/publish/{node.keyset.publish_key}/{node.keyset.subscribe_key}/0/room/0/1"
    first, other = (node.mint(channels={"room": Bits.WRITE}, ttl_minutes=minutes) for minutes in (5, 6))
    taken, refused = until_refused(lambda number: ask(node, path, params={"auth": first, "uuid": f"u{number}"}))
    assert taken >= 3
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["message"] == "Too many requests"
    assert ask(node, path, params={"auth": other}).status_code == 200  # each token has a rate of its own


def test_without_a_token_the_address_has_the_rate_whatever_its_uuids(node_of: NodeOf) -> None:
    node = node_of(Limits(publishes_per_s=2))
    taken, _ = until_refused(lambda number: ask(node, publish_path(node) + "/1", params={"uuid": f"u{number}"}))
    assert taken >= 2


def test_signals_count_as_publishes(node_of: NodeOf) -> None:
    node = node_of(Limits(publishes_per_s=1))
    path = f"/signal/{node.open_keyset.publish_key}/{node.open_keyset.subscribe_key}/0/room/0/1"
    taken, _ = until_refused(lambda _: ask(node, path))
    assert taken >= 1


def test_a_rate_is_refilled_evenly() -> None:
    now = 100.0
    rates = PublishRates(10, clock=lambda: now)
    for _ in range(10):
        rates.take("token")
    with pytest.raises(Refusal) as refused:
        rates.take("token")
    assert refused.value.reply.headers == {"Retry-After": "1"}
    now += 0.1
    rates.take("token")
    with pytest.raises(Refusal):
        rates.take("token")
    now += 1.0
    for _ in range(10):
        rates.take("token")


def test_an_address_has_so_many_polls_at_a_time(node_of: NodeOf) -> None:
    node = node_of(Limits(polls_per_address=2, hold_s=20))
    path = f"/v2/subscribe/{node.open_keyset.subscribe_key}/room/0?tt={node.bus.now()}&tr=1&uuid="
    held = [poll(node, f"{path}{number}") for number in range(2)]
    node.wait_held(2)
    refused = ask(node, f"{path}3")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    ask(node, publish_path(node) + "/1")  # both are answered
    assert [status_of(wire)[0] for wire in held] == [200, 200]
    again = poll(node, f"/v2/subscribe/{node.open_keyset.subscribe_key}/room/0?tt={node.bus.now()}&tr=1")
    node.wait_held(1)  # there is room again
    for wire in [*held, again]:
        wire.close()


def test_a_token_has_so_many_polls_at_a_time(node_of: NodeOf) -> None:
    node = node_of(Limits(polls_per_token=1, hold_s=20))
    tokens = [node.mint(channels={"room": Bits.READ}, ttl_minutes=minutes) for minutes in (5, 6)]
    path = f"/v2/subscribe/{node.keyset.subscribe_key}/room/0?tt={node.bus.now()}&tr=1&auth="
    held = [poll(node, path + tokens[0])]
    node.wait_held(1)
    assert ask(node, path + tokens[0]).status_code == 429
    held.append(poll(node, path + tokens[1]))
    node.wait_held(2)
    for wire in held:
        wire.close()


def test_who_signs_is_counted_by_address_alone(node_of: NodeOf) -> None:
    node = node_of(Limits(polls_per_token=1, hold_s=20))
    for uuid in ("one", "other"):
        listen(node.client(uuid, secret=True), ["room"])
    node.wait_held(2)


# -- how large -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_message_has_so_many_bytes(node_of: NodeOf, method: str) -> None:
    node = node_of(Limits(message_bytes=50))

    def send(text: str) -> httpx.Response:
        message = json.dumps(text)
        if method == "POST":
            return ask(node, publish_path(node), method="POST", content=message)
        return ask(node, f"{publish_path(node)}/{quote(message)}")

    assert send("x" * 48).status_code == 200
    refused = send("x" * 49)
    assert refused.status_code == 413
    assert refused.json()[:2] == [0, "Message Too Large"]


def test_a_compressed_message_counts_inflated(node_of: NodeOf) -> None:
    node = node_of(Limits(message_bytes=1_000))
    bomb = zlib.compress(b'"' + b"x" * 50_000_000 + b'"')[:900]
    answer = ask(node, publish_path(node), method="POST", content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413


def test_a_signal_has_so_many_bytes(node_of: NodeOf) -> None:
    node = node_of(Limits(signal_bytes=10))
    path = f"/signal/{node.open_keyset.publish_key}/{node.open_keyset.subscribe_key}/0/room/0"
    assert ask(node, f"{path}/{'1' * 10}").status_code == 200
    assert ask(node, f"{path}/{'1' * 11}").status_code == 413


def test_a_body_has_so_many_bytes_and_its_connection_goes_on(node_of: NodeOf) -> None:
    node = node_of(Limits(body_bytes=1_000))
    path = f"/v1/files/{node.open_keyset.subscribe_key}/channels/room/generate-upload-url"
    with httpx.Client(base_url=f"http://{node.origin}") as client:
        refused = client.post(path, content=b" " * 500_000)
        assert refused.status_code == 413
        assert refused.json()["message"] == "Request Entity Too Large"
        assert client.get("/time/0").status_code == 200


def test_an_address_has_so_many_bytes(node_of: NodeOf) -> None:
    node = node_of(Limits(address_bytes=500))
    assert ask(node, "/time/0?x=" + "y" * 400).status_code == 200
    refused = ask(node, "/time/0?x=" + "y" * 500)
    assert (refused.status_code, refused.json()["message"]) == (414, "Request URI Too Long")


def test_names_have_so_many_bytes(node_of: NodeOf) -> None:
    node = node_of(Limits(name_bytes=10))
    key = node.open_keyset.subscribe_key
    fits, too_long = quote("é" * 5), quote("é" * 6)  # two bytes each
    assert ask(node, publish_path(node, fits) + "/1").status_code == 200
    assert ask(node, publish_path(node, too_long) + "/1").status_code == 400
    assert ask(node, f"{publish_path(node)}/1?uuid={fits}").status_code == 200
    assert ask(node, f"{publish_path(node)}/1?uuid={too_long}").status_code == 400  # it is kept with the message
    assert ask(node, f"/v2/subscribe/{key}/{too_long}/0").status_code == 400
    assert ask(node, f"/v3/history/sub-key/{key}/channel/{too_long}").status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/v2/subscribe/{key}/{channels}/0",
        "/v2/presence/sub-key/{key}/channel/{channels}/heartbeat",
        "/v2/presence/sub-key/{key}/channel/{channels}",
        "/v3/history/sub-key/{key}/channel/{channels}",
        "/v3/history/sub-key/{key}/message-counts/{channels}",
    ],
)
def test_a_request_names_so_many_channels(node_of: NodeOf, path: str) -> None:
    node = node_of(Limits(channels_per_request=3))
    key = node.open_keyset.subscribe_key
    query = {"uuid": "me", "timetoken": "1"}
    assert ask(node, path.format(key=key, channels="a,b,c"), params=query).status_code == 200
    refused = ask(node, path.format(key=key, channels="a,b,c,d"), params=query)
    assert (refused.status_code, refused.json()["message"]) == (400, "Too many channels")


def test_a_request_names_so_many_groups(node_of: NodeOf) -> None:
    node = node_of(Limits(groups_per_request=2))
    path = f"/v2/subscribe/{node.open_keyset.subscribe_key}/,/0?channel-group="
    assert ask(node, path + "a,b").status_code == 200
    assert ask(node, path + "a,b,c").status_code == 400


def test_a_state_has_so_many_bytes(node_of: NodeOf) -> None:
    node = node_of(Limits(state_bytes=20))
    path = f"/v2/presence/sub-key/{node.open_keyset.subscribe_key}/channel/room/uuid/me/data"
    assert ask(node, path, params={"state": '{"a":"' + "x" * 12 + '"}'}).status_code == 200
    refused = ask(node, path, params={"state": '{"a":"' + "x" * 13 + '"}'})
    assert (refused.status_code, refused.json()["message"]) == (400, "State too large")


def test_a_filter_has_so_many_characters_and_levels(node_of: NodeOf) -> None:
    node = node_of(Limits(filter_chars=30, filter_depth=4))
    path = f"/v2/subscribe/{node.open_keyset.subscribe_key}/room/0"

    def status(text: str) -> int:
        return ask(node, path, params={"filter-expr": text}).status_code

    assert status("meta.a == 'xxxxxxxxxxxxxxxxxx'") == 200
    assert status("meta.a == 'xxxxxxxxxxxxxxxxxxx'") == 400
    assert status("(((data.a == 1)))") == 200
    assert status("((((((data.a == 1))))))") == 400


def test_all_tails_together_have_so_many_bytes(node_of: NodeOf) -> None:
    node = node_of(Limits(tails_bytes=50_000))
    key = node.open_keyset.subscribe_key
    payload = b'"' + b"x" * 1_000 + b'"'

    async def fill() -> None:
        for number in range(300):
            draft = Draft(key, f"room{number % 7}", payload, publisher="p" * 200, stored=False)
            await node.bus.publish(draft)
            assert node.bus.tails_bytes <= 50_000

    node.run(fill)
    kept = ask(node, f"/v2/subscribe/{key}/room5/0?tt=1000").json()["m"]
    assert 0 < len(kept) < 40  # the newest are there
    assert ask(node, f"/v2/subscribe/{key}/room0/0?tt={node.bus.now()}").json()["m"] == []


# -- how they are set ------------------------------------------------------------------------------------------------


def test_limits_are_set_by_name() -> None:
    limits = Limits().changed(["publishes_per_s=100", "hold_s = 2.5", "body_bytes=2_000"])
    assert (limits.publishes_per_s, limits.hold_s, limits.body_bytes) == (100, 2.5, 2000)
    assert limits.signal_bytes == Limits().signal_bytes


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("publish_per_s=1", "there is no limit 'publish_per_s'"),
        ("hold_s", "hold_s is a number, not ''"),
        ("body_bytes=1.5", "body_bytes is a whole number"),
        ("body_bytes=0", "body_bytes is 0"),
        ("hold_s=nan", "hold_s is nan"),
        ("polls_per_token=-1", "polls_per_token is -1"),
    ],
)
def test_a_limit_that_cannot_be_set_is_said(assignment: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as fault:
        Limits().changed([assignment])
    assert fault.value.hint


def test_every_limit_is_documented_with_its_default() -> None:
    units = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "s": 1, "min": 60, "h": 3600, "d": 86_400}
    rows = re.findall(r"^\| `(\w+)` \| ([\d,.]+) ?(\w*) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name: float(number.replace(",", "")) * units[unit] for name, number, unit in rows}
    assert documented == {field.name: getattr(Limits(), field.name) for field in fields(Limits)}
