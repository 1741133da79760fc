"""What the functions of the store do, with real rows, on every database that a network may live in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from databases import Store

from blocks_network.server.store.agents import (
    AgentFilter,
    AgentRow,
    NameTaken,
    TooManyAgents,
    find_agent,
    find_agent_by_id,
    list_agents,
    put_agent,
    remove_agent,
    set_forced_offline,
)
from blocks_network.server.store.instances import note_instance
from blocks_network.server.store.keys import (
    ApiKeyRow,
    SigningKey,
    add_key,
    add_signing_key,
    ensure_key,
    find_key,
    list_keys,
    load_signing_keys,
    revoke_key,
    revoked_since,
)
from blocks_network.server.store.orgs import ensure_org, org_name
from blocks_network.server.store.providers import find_provider, instance_concurrency
from blocks_network.server.store.refresh import (
    FamilyRow,
    add_family,
    find_family,
    forget_families,
    revoke_family,
    turn_family,
)

NOW_MS = 1_750_000_000_000
LATEST_MS = 2**53
"""Instants are 64 bits wide: what a clock says, not what an Integer holds."""
DESCRIPTION = 'Grüße 🧱 𝄞, "quoted" \\ %s :name, line\nbreak'


# --- tenants and keys ---


def key(number: int, **more: Any) -> ApiKeyRow:
    row = ApiKeyRow(f"key{number}", f"{number:064x}", "org1", "user1", "consumer,provider", "", NOW_MS + number)
    return replace(row, **more)


def test_an_org_is_made_once_and_keeps_its_name(store: Store) -> None:
    assert store.write(ensure_org, "org1", NOW_MS, "Grüße GmbH 🧱")
    assert not store.write(ensure_org, "org1", NOW_MS + 1, "another")
    assert store.write(ensure_org, "o" * 64, NOW_MS)
    assert store.read(org_name, "org1") == "Grüße GmbH 🧱"
    assert store.read(org_name, "o" * 64) == "o" * 64
    assert store.read(org_name, "none") is None


def test_api_keys_are_kept_found_listed_and_revoked(store: Store) -> None:
    first = key(1, label="l" * 255, user_id="u" * 64, org_id="o" * 64, created_at_ms=LATEST_MS)
    store.write(add_key, first)
    assert store.write(ensure_key, replace(first, key_id="other", label="other")) == first
    assert store.write(ensure_key, key(2)) == key(2)
    assert store.read(find_key, first.key_hash) == first
    assert store.read(find_key, "no such hash") is None
    assert store.read(list_keys) == [key(2), first]
    assert store.read(list_keys, "org1") == [key(2)]
    assert store.write(revoke_key, "key2", NOW_MS)
    assert not store.write(revoke_key, "key2", NOW_MS + 1)
    assert not store.write(revoke_key, "none", NOW_MS)
    assert store.read(find_key, key(2).key_hash) == key(2, revoked_at_ms=NOW_MS)
    assert store.read(revoked_since, NOW_MS) == ["key2"]
    assert store.read(revoked_since, NOW_MS + 1) == []


def test_signing_keys_go_when_they_are_old(store: Store) -> None:
    made = [SigningKey(f"kid{number}", "HS256", f"secret{number}", NOW_MS + number) for number in range(3)]
    for signing in made:
        store.write(add_signing_key, signing, NOW_MS)
    assert store.read(load_signing_keys) == made
    store.write(add_signing_key, SigningKey("kid9", "HS256", "s", NOW_MS + 9), NOW_MS + 2)
    assert [signing.kid for signing in store.read(load_signing_keys)] == ["kid2", "kid9"]


def test_a_family_of_refresh_tokens_turns_once_for_each_of_its_tokens(store: Store) -> None:
    store.write(add_key, key(1))
    family = FamilyRow("f1", "key1", "provider", "agt1", "i" * 255, "1" * 64, None, NOW_MS, NOW_MS)
    store.write(add_family, family)
    turned = {"current_hash": "2" * 64, "previous_hash": "1" * 64, "at_ms": NOW_MS + 1}
    assert store.write(turn_family, family, **turned)
    assert not store.write(turn_family, family, **turned)
    now = replace(family, current_hash="2" * 64, previous_hash="1" * 64, rotated_at_ms=NOW_MS + 1)
    assert store.read(find_family, "f1") == now
    store.write(revoke_family, "f1", NOW_MS + 2)
    store.write(revoke_family, "f1", NOW_MS + 3)
    assert store.read(find_family, "f1") == replace(now, revoked_at_ms=NOW_MS + 2)
    assert not store.write(turn_family, now, current_hash="3" * 64, previous_hash=None, at_ms=NOW_MS + 4)
    store.write(add_family, replace(family, family_id="f2"))  # the instance has connected again
    assert store.read(find_family, "f1") is None
    consumers = replace(family, family_id="f3", role="consumer", agent_id=None, instance_id=None)
    store.write(add_family, consumers)
    store.write(add_family, replace(consumers, family_id="f4", rotated_at_ms=NOW_MS - 1))
    assert store.write(forget_families, NOW_MS) == 1
    assert [store.read(find_family, name) is None for name in ("f2", "f3", "f4")] == [False, False, True]


# --- the registry ---


def agent(name: str, **more: Any) -> AgentRow:
    row = AgentRow(
        agent_id=f"agt_{name}"[:64],
        agent_name=name,
        org_id="org1",
        user_id="user1",
        card={"identity": {"agentName": name, "description": DESCRIPTION}, "odd": "nul \x00"},
        listing="public",
        billing_mode="free",
        price_per_task=None,
        price_per_minute=None,
        scaling={},
        forced_offline=False,
        registered_at_ms=NOW_MS,
        updated_at_ms=NOW_MS,
    )
    return replace(row, **more)


def put(store: Store, row: AgentRow, *tags: str, most: int = 100) -> tuple[AgentRow, AgentRow | None]:
    return store.write(put_agent, row, tags=tags, agents_per_org=most)


def names(store: Store, reader: str | None = "org1", **wanted: Any) -> list[str]:
    rows, _, total = store.read(list_agents, AgentFilter(reader, **wanted))
    assert total >= len(rows)
    return [row.agent_name for row in rows]


def test_an_agent_is_added_replaced_and_found(store: Store) -> None:
    first = agent("sum", price_per_task=0.1, price_per_minute=1_000_000.0)
    assert put(store, first, "math", "x" * 300) == (first, None)
    assert store.read(find_agent, "sum") == store.read(find_agent_by_id, "agt_sum") == first
    assert (store.read(find_agent, "none"), store.read(find_agent_by_id, "none")) == (None, None)
    later = agent("sum", agent_id="agt_new", listing="private", registered_at_ms=1, updated_at_ms=NOW_MS + 5)
    now, before = put(store, later, "words")
    assert before == first
    assert now == replace(later, agent_id="agt_sum", registered_at_ms=NOW_MS)
    assert names(store, tags=frozenset({"math"})) == []
    assert names(store, tags=frozenset({"words", "nothing"})) == ["sum"]


def test_names_and_places_of_agents_are_bounded(store: Store) -> None:
    put(store, agent("sum"), most=1)
    with pytest.raises(NameTaken):
        put(store, agent("sum", org_id="org2", agent_id="agt_2"))
    with pytest.raises(TooManyAgents):
        put(store, agent("more"), most=1)
    put(store, agent("n" * 255, org_id="org2"), "t" * 300, most=1)
    assert names(store, tags=frozenset({"t" * 300})) == ["n" * 255]


def test_agents_are_listed_by_reader_tag_and_page(store: Store) -> None:
    for name in ("b2", "a1", "d4", "c3"):
        put(store, agent(name, listing="private" if name == "c3" else "public"), name[0], "all")
    put(store, agent("e5", org_id="org2", listing="private"), "all")
    assert names(store) == ["a1", "b2", "c3", "d4"]
    assert names(store, None) == ["a1", "b2", "d4"]
    assert names(store, "org2") == ["a1", "b2", "d4", "e5"]
    assert names(store, "org2", listing="private") == ["e5"]
    assert names(store, "org2", tags=frozenset()) == []
    first, cursor, total = store.read(list_agents, AgentFilter("org1", tags=frozenset({"all"}), limit=3))
    assert ([row.agent_name for row in first], total) == (["a1", "b2", "c3"], 4)
    assert names(store, cursor=cursor, limit=3) == ["d4"]
    for foreign in ("???", "bm9uZQ", "YWZ0ZXI6AA"):  # the last one holds a NUL
        with pytest.raises(ValueError, match="cursor"):
            names(store, cursor=foreign)


def test_an_agent_goes_with_its_tags_and_instances(store: Store) -> None:
    put(store, agent("sum"), "math")
    note(store, "agt_sum", "i1", 1, NOW_MS)
    assert store.write(remove_agent, "sum", "org2") is None
    assert store.write(remove_agent, "none", "org1") is None
    gone = store.write(remove_agent, "sum", "org1")
    assert gone is not None
    assert gone.agent_name == "sum"
    assert store.read(instance_concurrency, "agt_sum", "i1") is None
    put(store, agent("sum"), "words")  # its id is free again, its tag with it
    assert names(store, tags=frozenset({"math"})) == []


def test_an_agent_is_taken_offline_and_providers_show_it(store: Store) -> None:
    put(store, agent("sum", listing="private"))
    assert store.write(set_forced_offline, "sum", True)
    assert not store.write(set_forced_offline, "none", True)
    provider = store.read(find_provider, "sum")
    assert provider is not None
    assert (provider.forced_offline, provider.listing, provider.card) == (True, "private", agent("sum").card)
    assert store.read(find_provider, "none") is None


def note(store: Store, agent_id: str, instance_id: str, concurrency: int, at_ms: int, keep: int = 3) -> bool:
    return store.write(
        note_instance,
        agent_id=agent_id,
        instance_id=instance_id,
        concurrency=concurrency,
        scaling={"concurrency": concurrency},
        at_ms=at_ms,
        keep=keep,
    )


def test_instances_are_remembered_the_latest_of_them(store: Store) -> None:
    put(store, agent("sum"))
    assert not note(store, "agt_none", "i1", 1, NOW_MS)
    for number in range(5):
        assert note(store, "agt_sum", f"i{number}", number, NOW_MS + number)
    assert note(store, "agt_sum", "i2", 1_000_000_000, LATEST_MS)
    known = [store.read(instance_concurrency, "agt_sum", f"i{number}") for number in range(5)]
    assert known == [None, None, 1_000_000_000, 3, 4]
    assert store.read(instance_concurrency, "agt_other", "i3") is None
    provider = store.read(find_provider, "sum")
    assert provider is not None
    assert provider.scaling == {"concurrency": 1_000_000_000}
