"""The registry over real sockets: who may register, see and remove which agents, and what happens to their tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from platform_node import AGENTS, LIMITS, PlatformNode, card, refused
from sqlalchemy import Connection

from blocks_network.agent_registry import fetch_agents_by_tag, get_agent, remove_agent
from blocks_network.api.registry import register_agent
from blocks_network.errors import ApiError
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.permissions import Bits
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.store.database import Database
from blocks_network.server.store.schema import metadata


@pytest.fixture
def net(tmp_path: Path) -> Iterator[PlatformNode]:
    net = PlatformNode(tmp_path)
    try:
        yield net
    finally:
        net.close()


def names(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [entry["agentName"] for entry in answer.json()["agents"]]


# --- registering ---


def test_a_registered_agent_is_read_as_its_card_says_without_its_runtime(net: PlatformNode) -> None:
    sections = {
        "tags": [{"id": "math", "name": "Mathematics"}],
        "capabilities": {"taskKinds": ["request", "pipe"]},
        "runtime": {"handler": "secret/path.py", "concurrency": 3},
    }
    made = register_agent(net.node.base_url, net.own, card("sum", **sections), listing="public")
    read = get_agent("sum", net.node.base_url)
    assert read == made
    assert (read.name, read.listing, read.billing_mode) == ("The sum", "public", "free")
    assert (read.scaling, read.tags) == ({"concurrency": 3}, [{"id": "math", "name": "Mathematics"}])
    assert (read.card_summary or {})["taskKinds"] == ["request", "pipe"]
    assert "secret/path.py" not in net.ask("GET", f"{AGENTS}?agentName=sum").text
    assert read.created_at.endswith("Z")


def test_registering_again_changes_the_card_and_keeps_the_agent(net: PlatformNode) -> None:
    first = net.register("sum")
    agent_id = net.connect("sum", "i1", concurrency=7).json()["agentId"]
    second = net.register("sum", sections={"identity": {"agentName": "sum", "displayName": "Sum 2"}}, listing="public")
    assert (first.status_code, second.status_code) == (201, 200)
    entry = second.json()["agent"]
    assert (entry["name"], entry["listing"]) == ("Sum 2", "public")
    assert entry["registeredAt"] == first.json()["agent"]["registeredAt"]
    assert entry["scaling"] == {"concurrency": 7}
    assert net.connect("sum", "i1").json()["agentId"] == agent_id


def test_all_faults_of_a_card_are_told_at_once(net: PlatformNode) -> None:
    bad = {"identity": {"agentName": "a-b"}, "io": {"inputs": [{"id": "x"}]}, "runtime": {"concurrency": -1}}
    with pytest.raises(ApiError) as caught:
        register_agent(net.node.base_url, net.own, bad)
    paths = [fault["path"] for fault in caught.value.details]
    assert paths == ["identity.agentName", "runtime.concurrency", "io.inputs[0].contentType"]
    assert all(fault["what"] and fault["why"] for fault in caught.value.details)
    assert (caught.value.status, caught.value.code) == (422, "CARD_INVALID")
    assert names(net.ask("GET", AGENTS, bearer=net.own)) == []


@pytest.mark.parametrize(
    ("terms", "status", "path"),
    [
        ({"billingMode": "paid"}, 422, "pricePerTask"),
        ({"billingMode": "paid", "pricePerTask": 0}, 422, "pricePerTask"),
        ({"billingMode": "free", "pricePerMinute": 1}, 422, "pricePerMinute"),
        ({"billingMode": "free", "pricePerTask": 0}, 201, None),
        ({"billingMode": "paid", "pricePerMinute": 0.5}, 201, None),
        ({"card": None}, 422, ""),
        ({"card": []}, 422, ""),
        ({"billingMode": None}, 400, None),
        ({"listing": "secret"}, 400, None),
        ({"pricePerTask": -1}, 400, None),
        ({"pricePerTask": True}, 400, None),
        ({"pricePerTask": "1"}, 400, None),
        ({"pricePerTask": 10**400}, 400, None),
    ],
)
def test_terms_have_to_fit_together(net: PlatformNode, terms: dict[str, Any], status: int, path: str | None) -> None:
    answer = net.register("sum", **terms)
    assert answer.status_code == status, answer.text
    if path is not None:
        assert [fault["path"] for fault in answer.json()["faults"]] == [path]


def test_a_name_belongs_to_who_registered_it_first(net: PlatformNode) -> None:
    net.register("sum")  # private: others do not see it, and still cannot have its name
    assert refused(net.register("sum", bearer=net.other)) == (409, "AGENT_NAME_TAKEN")
    assert net.ask("DELETE", f"{AGENTS}?agentName=sum", bearer=net.own).status_code == 200
    assert net.register("sum", bearer=net.other).status_code == 201


def test_an_old_card_is_taken_with_a_warning(net: PlatformNode) -> None:
    answer = net.register("old", sections={"skills": [{"id": "math", "name": "x"}]})
    assert (answer.status_code, len(answer.json()["warnings"])) == (201, 1)
    assert answer.json()["agent"]["tags"] == [{"id": "math", "name": "x"}]
    assert "warnings" not in net.register("new").json()


def test_a_card_has_a_bound_and_so_has_an_organisation(net: PlatformNode) -> None:
    large = {"x": "x" * LIMITS.card_bytes * 2}
    assert refused(net.register("large", sections=large)) == (413, "BODY_TOO_LARGE")
    for number in range(LIMITS.agents_per_org):
        assert net.register(f"agent_{number}").status_code == 201
    assert refused(net.register("one_more")) == (422, "TOO_MANY_AGENTS")
    assert net.register("agent_1").status_code == 200
    assert net.register("one_more", bearer=net.other).status_code == 201


# --- finding ---


def test_private_agents_are_for_their_own_organisation(net: PlatformNode) -> None:
    net.register("open_one", listing="public")
    net.register("closed_one")
    for bearer, seen in (
        (None, ["open_one"]),
        (net.other, ["open_one"]),
        ("bk_unknown", ["open_one"]),
        ("no.token.atall", ["open_one"]),
        (net.own, ["closed_one", "open_one"]),
        (net.consumer_token(net.own).json()["accessToken"], ["closed_one", "open_one"]),
    ):
        listed = net.ask("GET", AGENTS, bearer=bearer)
        assert (names(listed), listed.json()["totalCount"]) == (seen, len(seen))
        one = net.ask("GET", f"{AGENTS}?agentName=closed_one", bearer=bearer)
        if "closed_one" in seen:
            assert one.status_code == 200
        else:
            unknown = net.ask("GET", f"{AGENTS}?agentName=nobodys_1", bearer=bearer)
            assert refused(one) == refused(unknown) == (404, "AGENT_NOT_FOUND")
            assert names(net.ask("GET", f"{AGENTS}?listing=private", bearer=bearer)) == []


def test_agents_are_found_by_their_tags_in_any_spelling(net: PlatformNode) -> None:
    net.register("sum", sections={"tags": [{"id": "Data-Science", "name": "Daten & Zahlen"}]}, listing="public")
    net.register("kanji", sections={"tags": [{"id": "日本", "name": "x"}]}, listing="public")
    for tag, found in (
        ("Data-Science", ["sum"]),
        ("data_science", ["sum"]),
        ("daten & zahlen", ["sum"]),
        ("日本", ["kanji"]),
        ("data", []),
        ("%", []),
    ):
        result = fetch_agents_by_tag(tag, base_url=net.node.base_url)
        assert ([entry.agent_name for entry in result.agents], result.total_count) == (found, len(found))
    net.register("sum", sections={"tags": []}, listing="public")
    assert fetch_agents_by_tag("data_science", base_url=net.node.base_url).agents == []


def test_pages_lead_to_every_agent_once(net: PlatformNode) -> None:
    wanted = sorted(f"agent_{number}" for number in range(12))
    for name in wanted:
        net.register(name)
    found, cursor, pages = [], "", 0
    while pages == 0 or cursor:
        page = net.ask("GET", f"{AGENTS}?limit=100&cursor={cursor}", bearer=net.own)
        assert page.json()["totalCount"] == 12
        found += names(page)
        cursor, pages = page.json().get("next", ""), pages + 1
    assert (found, pages) == (wanted, 3)  # five a page, whatever is asked for
    assert len(names(net.ask("GET", f"{AGENTS}?limit=2", bearer=net.own))) == 2


def test_a_list_has_cards_when_it_is_asked_for_them(net: PlatformNode) -> None:
    net.register("sum", listing="public")
    assert "card" not in net.ask("GET", AGENTS).json()["agents"][0]
    full = net.ask("GET", f"{AGENTS}?include=full").json()["agents"][0]
    assert full["card"]["identity"]["agentName"] == "sum"
    assert "runtime" not in full["card"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "limit=%C2%B2", f"limit=000001{'9' * 5000}", "listing=x", "cursor=x"]
)
def test_a_query_that_cannot_be_read_is_refused(net: PlatformNode, query: str) -> None:
    assert refused(net.ask("GET", f"{AGENTS}?{query}")) == (400, "INVALID_REQUEST")


# --- removing ---


def test_an_agent_is_removed_by_its_owner_alone(net: PlatformNode, monkeypatch: pytest.MonkeyPatch) -> None:
    net.register("sum", listing="public")
    net.register("closed_one")
    path = f"{AGENTS}?agentName="
    assert refused(net.ask("DELETE", f"{path}sum", bearer=net.other)) == (403, "FORBIDDEN")
    assert refused(net.ask("DELETE", f"{path}closed_one", bearer=net.other)) == (404, "AGENT_NOT_FOUND")
    assert refused(net.ask("DELETE", path, bearer=net.own)) == (400, "INVALID_REQUEST")
    assert refused(net.ask("DELETE", f"{path}sum", {"reason": 7}, bearer=net.own)) == (400, "INVALID_REQUEST")
    monkeypatch.setenv("BLOCKS_API_KEY", net.own)
    assert remove_agent("sum", net.node.base_url, reason="retired")
    assert not remove_agent("sum", net.node.base_url, reason="retired")
    assert get_agent("sum", net.node.base_url) is None


def test_what_waits_for_a_removed_agent_fails_with_the_reason(net: PlatformNode) -> None:
    net.register("sum")
    net.register("other_agent")
    kept = net.send("other_agent")["taskId"]
    waiting = net.send("sum")
    assert waiting["state"] == "queued"
    net.ask("DELETE", f"{AGENTS}?agentName=sum", bearer=net.own)
    assert terminal_of(net, waiting)["error"] == "agent sum was removed from the network"
    shown = net.call("GetTask", {"taskId": waiting["taskId"]})["result"]["task"]
    assert (shown["state"], shown["reason"]) == ("failed", "agent_left")
    assert net.call("GetTask", {"taskId": kept})["result"]["task"]["state"] == "queued"
    params = {"agentName": "sum", "billingMode": "free"}
    assert net.call("SendMessage", params)["error"]["data"]["code"] == "AgentNotFound"


# --- telling ---


def poll(net: PlatformNode, keyset: Keyset, channel: str, token: str, cursor: str) -> tuple[list[Any], str]:
    """What is new on a channel, as soon as there is something, and the cursor after it."""
    query = {"tt": cursor, "uuid": "reader", "auth": token}
    answer = net.http.get(f"/v2/subscribe/{keyset.subscribe_key}/{channel}/0", params=query)
    assert answer.status_code == 200, answer.text
    return [message["d"] for message in answer.json()["m"]], answer.json()["t"]["t"]


def terminal_of(net: PlatformNode, sent: dict[str, Any]) -> dict[str, Any]:
    """The terminal event of a task, from the answer of its SendMessage."""
    blocks, cursor = sent["extensions"]["blocks"], "1000"
    keyset = net.node.keysets.by_subscribe_key(blocks["subscribeKey"])
    assert keyset is not None
    while True:
        events, cursor = poll(net, keyset, blocks["streamChannels"]["status"], blocks["readToken"], cursor)
        for event in events:
            if event["type"] == "terminal":
                assert isinstance(event, dict)
                return event


def test_what_happens_to_an_agent_is_told_to_who_has_a_grant(net: PlatformNode) -> None:
    keyset = net.node.keysets.by_name("network")
    channels = ["registry.all", "registry.public", "registry.private", "registry.log", "registry.tag.math"]
    token = CapabilityTokens().mint(keyset, ttl_minutes=5, channels=dict.fromkeys(channels, Bits.READ))
    cursors = {channel: poll(net, keyset, channel, token, "0")[1] for channel in channels}
    net.register("sum", sections={"tags": [{"id": "Math", "name": "x"}]}, listing="public")
    net.register("sum", sections={"tags": [{"id": "Math", "name": "x"}]}, listing="public")
    net.ask("DELETE", f"{AGENTS}?agentName=sum", {"reason": "retired"}, bearer=net.own)
    net.register("closed_one")
    for channel, expected in (
        ("registry.all", ["registered", "updated", "removed", "registered"]),
        ("registry.log", ["registered", "updated", "removed", "registered"]),
        ("registry.public", ["registered", "updated", "removed"]),
        ("registry.tag.math", ["registered", "updated", "removed"]),
        ("registry.private", ["registered"]),
    ):
        events, _ = poll(net, keyset, channel, token, cursors[channel])
        assert [event["type"] for event in events] == expected
        assert events[-1]["agentName"] == ("sum" if events[-1]["listing"] == "public" else "closed_one")
    events, _ = poll(net, keyset, "registry.public", token, cursors["registry.public"])
    assert (events[2]["reason"], events[2]["ts"] > 0) == ("retired", True)


def test_another_billing_mode_moves_the_instances_and_ends_what_waits(net: PlatformNode) -> None:
    free, paid = net.node.keysets.by_name("playground"), net.node.keysets.by_name("network")
    net.register("sum")
    connected = net.connect("sum", "i1").json()
    channel = connected["controlChannel"]
    _, cursor = poll(net, free, channel, connected["pamToken"], "0")
    waiting = net.send("sum")
    assert net.register("sum", billingMode="paid", pricePerTask=1).status_code == 200
    messages, _ = poll(net, free, channel, connected["pamToken"], cursor)
    switch = next(message for message in messages if message["type"] == "SwitchEnvironment")
    assert (switch["environment"], switch["protocolVersion"]) == ("network", "2026-05-01")
    poll(net, paid, channel, switch["pamToken"], "0")  # the token holds there
    assert "bills in mode 'paid'" in terminal_of(net, waiting)["error"]
    assert refused(net.connect("sum", "i1")) == (409, "BILLING_MODE_MISMATCH")
    assert net.connect("sum", "i1", billingMode="paid").status_code == 200


# --- on the disk ---


def test_the_migrations_build_the_tables_of_the_schema(net: PlatformNode) -> None:
    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async def compare(database: Database) -> list[Any]:
        return await database.write(differences)

    assert net.operate(compare) == []
