"""A token while a client listens with it: what it opens, and how its end, by time or by revocation, is felt."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from gateway_harness import GatewayNode
from pubnub.enums import PNStatusCategory
from talkers import FullEar, Refused, SyncTalker, TalkerFactory

from blocks_network.server.access.authorizer import Bits
from blocks_network.server.access.tokens import CapabilityTokens


def token_for(node: GatewayNode, seconds: float, **grants: Any) -> str:
    """A token with so much time left. Tokens count in whole seconds, so it is up to one less."""
    early = CapabilityTokens(clock=lambda: time.time() - 60 + seconds, limits=node.limits)
    return early.mint(node.keyset, ttl_minutes=1, **grants)


def say(client: Any, channel: str, message: Any = "hello") -> int:
    return int(client.do(lambda it: it.publish().channel(channel).message(message)).timetoken)


def refusal(client: Any, build: Any) -> int | None:
    with pytest.raises(Refused) as refused:
        client.do(build)
    return refused.value.status


def refused_poll(node: GatewayNode, token: str, *, channel: str = "room", uuid: str = "u1") -> tuple[int, Any]:
    """What a poll that waits with this token is told at its end."""
    now = int(time.time() * 1e7)
    return node.ask(f"/v2/subscribe/{node.keyset.subscribe_key}/{channel}/0?uuid={uuid}&auth={token}&tt={now}&tr=1")


# -- the end by time ---------------------------------------------------------------------------------------------------


def test_a_waiting_poll_ends_with_its_token(gateway_node: GatewayNode) -> None:
    token = token_for(gateway_node, 2.0, channels={"room": Bits.READ})
    status, body = refused_poll(gateway_node, token)
    assert (status, body["status"], body["service"]) == (403, 403, "Access Manager")
    assert "expired" in body["message"]


def test_the_sync_client_hears_of_its_tokens_end_and_goes_on_with_a_new_one(gateway_node: GatewayNode) -> None:
    room = {"room": Bits.READ | Bits.WRITE}
    client = SyncTalker(gateway_node, "u1", token=token_for(gateway_node, 2.0, channels=room))
    ear = client.listen(["room"])
    assert ear.wait_status(PNStatusCategory.PNAccessDeniedCategory).status_code == 403
    ear.wait_told()  # that client then unsubscribes, and a subscription of ours must come after
    assert refusal(client, lambda it: it.publish().channel("room").message("late")) == 403
    client.use(gateway_node.mint(channels=room, uuid="u1"))
    again = client.listen(["room"])
    say(client, "room", "renewed")
    assert again.next_message().message == "renewed"


def test_a_token_renewed_in_time_is_never_felt(talker: TalkerFactory, gateway_node: GatewayNode) -> None:
    room = {"room": Bits.READ | Bits.WRITE}
    client = talker("u1", token=token_for(gateway_node, 3.0, channels=room))
    ear = client.listen(["room"])
    gateway_node.wait_held(1)
    client.use(gateway_node.mint(channels=room))
    say(client, "room", 1)  # ends the poll with the old token; the next one has the new
    assert ear.next_message().message == 1
    gateway_node.wait_held(1)
    (poll,) = gateway_node.call(lambda: list(gateway_node.gateway.polls._all))
    assert poll.grant is not None
    assert poll.grant.expires_at_s > time.time() + 3000


# -- the end by revocation ---------------------------------------------------------------------------------------------


def test_a_revocation_ends_a_waiting_poll_at_once(gateway_node: GatewayNode) -> None:
    token = gateway_node.mint(channels={"room": Bits.READ})
    answers: list[tuple[int, Any]] = []
    waiting = threading.Thread(target=lambda: answers.append(refused_poll(gateway_node, token)))
    waiting.start()
    gateway_node.wait_held(1)
    begun = time.monotonic()
    SyncTalker(gateway_node, "admin", secret=True).do(lambda it: it.revoke_token(token))
    waiting.join()
    assert time.monotonic() - begun < 1
    ((status, body),) = answers
    assert (status, body["message"]) == (403, "Token is revoked")


def test_the_asyncio_client_comes_back_with_a_new_token_and_loses_nothing(
    gateway_node: GatewayNode, async_talker: TalkerFactory
) -> None:
    room = {"room": Bits.READ}
    token = gateway_node.mint(channels=room)
    admin = SyncTalker(gateway_node, "admin", secret=True)
    client = async_talker("u1", token=token)
    ear = client.listen(["room"])
    gateway_node.wait_held(1)
    admin.do(lambda it: it.revoke_token(token))
    say(admin, "room", "meanwhile")
    client.use(gateway_node.mint(channels=room, meta={"new": True}))
    assert ear.next_message().message == "meanwhile"


# -- what it opens -----------------------------------------------------------------------------------------------------


def heard_after(ear: FullEar, admin: Any, *channels: str) -> list[str]:
    for channel in channels:
        say(admin, channel, channel)
    return [ear.next_message().message for _ in channels]


def test_patterns_open_channels_groups_and_wildcards(talker: TalkerFactory, gateway_node: GatewayNode) -> None:
    admin = talker("admin", secret=True)
    admin.do(lambda it: it.add_channel_to_channel_group().channels(["hidden"]).channel_group("team-1"))
    token = gateway_node.mint(
        patterns={r"^task\.[a-z0-9]+$": Bits.READ, r"^news\.\*$": Bits.READ, r"^hall-pnpres$": Bits.READ},
        group_patterns={r"^team-[0-9]$": Bits.READ},
        channels={"hall": Bits.READ},
    )
    client = talker("u1", token=token)
    ear = client.listen(["task.a1", "news.*", "hall"], ["team-1"])
    assert heard_after(ear, admin, "task.a1", "news.today", "hidden", "hall") == [
        "task.a1",
        "news.today",
        "hidden",
        "hall",
    ]


@pytest.mark.parametrize(
    ("channels", "groups"),
    [
        (["task.A"], []),
        (["task.a1", "task.a1.x"], []),
        (["task.*"], []),
        (["task.a1-pnpres"], []),
        (["task.a1"], ["team"]),
        ([], ["task.a1"]),
    ],
    ids=str,
)
def test_a_subscription_beyond_the_patterns_is_refused_whole(
    gateway_node: GatewayNode, channels: list[str], groups: list[str]
) -> None:
    token = gateway_node.mint(patterns={r"^task\.[a-z0-9]+$": 255})
    ear = SyncTalker(gateway_node, "u1", token=token).listen(channels, groups, wait=False)
    assert ear.wait_status(PNStatusCategory.PNAccessDeniedCategory).status_code == 403
    assert len(gateway_node.gateway.polls) == 0


def test_a_token_bound_to_a_uuid_is_of_no_use_to_another(talker: TalkerFactory, gateway_node: GatewayNode) -> None:
    token = gateway_node.mint(channels={"room": Bits.READ | Bits.WRITE | Bits.DELETE}, uuid="u1")
    thief = talker("u2", token=token)
    for call in (
        lambda it: it.publish().channel("room").message("m"),
        lambda it: it.publish().channel("room").message("m").use_post(True),
        lambda it: it.signal().channel("room").message("m"),
        lambda it: it.fetch_messages().channels(["room"]),
        lambda it: it.delete_messages().channel("room"),
        lambda it: it.here_now().channels(["room"]),
    ):
        assert refusal(thief, call) == 403
    status, body = refused_poll(gateway_node, token, uuid="u2")
    assert (status, body["service"]) == (403, "Access Manager")
    assert say(talker("u1", token=token), "room") > 0


def test_no_token_and_nonsense_open_nothing(talker: TalkerFactory, gateway_node: GatewayNode) -> None:
    token = gateway_node.mint(channels={"room": 255})
    foreign = gateway_node.tokens.mint(gateway_node.open_keyset, ttl_minutes=5, channels={"room": 255})
    for given in ("", "nonsense", token[:-4] + "AAA=", foreign):
        client = talker("u1", token=token)
        client.use(given)
        assert refusal(client, lambda it: it.publish().channel("room").message("m")) == 403
        assert int(client.do(lambda it: it.time())) > 0
