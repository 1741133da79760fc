"""Filter expressions over the wire: what a subscriber with one hears."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from gateway_harness import GatewayNode, listen


def test_a_waiting_subscriber_hears_what_its_filter_lets_pass(gateway_node: GatewayNode) -> None:
    mine = "meta.instance == 'i-1' || meta.broadcast == \"true\""
    ear = listen(gateway_node.client("agent", filter_expression=mine), ["control"])
    gateway_node.wait_held(1)
    sender = gateway_node.client("network")
    for number, meta in enumerate(({"instance": "i-2"}, {"instance": "i-1"}, None, {"broadcast": "true"})):
        publish = sender.publish().channel("control").message(number).use_post(True)
        (publish.meta(meta) if meta else publish).sync()
    assert [ear.next_message().message, ear.next_message().message] == [1, 3]


def test_a_late_subscriber_gets_past_a_page_that_is_filtered_out(gateway_node: GatewayNode) -> None:
    key, sender = gateway_node.open_keyset.subscribe_key, gateway_node.client("sender")
    first = int(sender.publish().channel("room").message({"n": 0}).sync().result.timetoken)
    for number in range(1, 130):
        sender.publish().channel("room").message({"n": number}).sync()
    wanted = quote("data.n >= 128")
    _, news = gateway_node.ask(f"/v2/subscribe/{key}/room/0?uuid=late&tt={first}&tr=1&filter-expr={wanted}")
    assert [envelope["d"]["n"] for envelope in news["m"]] == [128, 129]


@pytest.mark.parametrize("text", ["meta.a", "meta.a ==", "a" * 3_000, "(" * 40 + "1==1" + ")" * 40])
def test_what_is_no_filter_is_refused(gateway_node: GatewayNode, text: str) -> None:
    key = gateway_node.open_keyset.subscribe_key
    status, body = gateway_node.ask(f"/v2/subscribe/{key}/room/0?uuid=u&tt=0&filter-expr={quote(text)}")
    assert (status, body["status"], body["error"], body["service"]) == (400, 400, True, "Subscribe")


def test_a_message_that_filters_cannot_read_detains_nobody(gateway_node: GatewayNode) -> None:
    keyset = gateway_node.open_keyset
    ear = listen(gateway_node.client("reader", filter_expression="data.ok == 1 || meta.ok == 1"), ["room"])
    gateway_node.wait_held(1)
    path = f"/publish/{keyset.publish_key}/{keyset.subscribe_key}/0/room/0?uuid=u"
    for payload in (b"1" * 5_000, b'{"ok":' + b"[" * 900 + b"]" * 900 + b"}", b'{"ok":' + b"7" * 5_000 + b"}"):
        assert gateway_node.ask(path, method="POST", body=payload)[0] == 200
    assert gateway_node.ask(path, method="POST", body=b'{"ok":1}')[0] == 200
    assert ear.next_message().message == {"ok": 1}
