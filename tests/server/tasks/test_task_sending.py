"""SendMessage: every parameter, good and bad; what becomes of it is held against the StartTask and GetTask."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from task_house import Hand, House, Refused, housed

from blocks_network.server.access.permissions import Bits
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.wire.channels import task_channel


async def refusal(house: House, name: str = "worker", key: str | None = None, **params: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await house.call("SendMessage", **{"agentName": name, "billingMode": "free", "key": key, **params})
    return refused.value


async def given(hand: Hand, task: str) -> dict[str, Any]:
    return await hand.wait_told("StartTask", task)


@housed()
async def test_a_plain_task_reaches_its_instance_with_all_that_it_needs(house: House) -> None:
    hand = await house.hand()
    parts = [{"text": "héllo 🙂", "contentType": "text/plain", "priority": 7}, {"partId": "b", "text": ""}]
    answer = await house.call("SendMessage", agentName="worker", billingMode="free", requestParts=parts)
    task_id, blocks = answer["taskId"], answer["extensions"]["blocks"]
    assert answer["state"] == "submitted"
    assert not {"idempotent", "queued", "pushConfigId"} & set(answer)
    assert blocks["streamChannels"] == {"status": task_channel(task_id, "org_local")}
    keys = house.identity.keysets.by_name("playground")
    assert (blocks["subscribeKey"], blocks["publishKey"]) == (keys.subscribe_key, keys.publish_key)
    assert blocks["readToken"]
    start = await given(hand, task_id)
    assert start["requestParts"] == parts
    assert start["callerClaims"] == {"sub": "user_local", "org": "org_local"}
    assert (start["ownerId"], start["orgId"], start["agentName"]) == ("user_local", "org_local", "worker")
    assert (start["taskKind"], start["attempt"]) == ("request", 1)
    assert start["writeToken"] != start["controlToken"]
    assert not {"duration", "durationExpiresAtMs", "hasStream", "consumerPublicKey"} & set(start)


@housed()
async def test_the_cursor_lies_before_all_that_the_network_says_about_the_task(house: House) -> None:
    answer = await house.call("SendMessage", agentName="worker", billingMode="free")
    await house.call("CancelTask", taskId=answer["taskId"])
    await house.ended(answer["taskId"])
    channel, cursor = task_channel(answer["taskId"], "org_local"), int(answer["extensions"]["blocks"]["cursor"])
    keys = house.identity.keysets.by_name("playground")
    after = await house.network.bus.history(keys.subscribe_key, channel, after=cursor, limit=10, newest=False)
    assert [json.loads(message.draft.payload)["type"] for message in after] == ["cancel_requested", "terminal"]


@housed()
async def test_the_tokens_are_for_this_task_alone(house: House) -> None:
    hand = await house.hand(concurrency=0)
    one, two = await house.send(), await house.send()
    await given(hand, one)
    keys = house.identity.keysets.by_name("playground")
    written = CapabilityTokens().verify(keys, (await given(hand, two))["writeToken"])
    mine, others = task_channel(two, "org_local"), task_channel(one, "org_local")
    assert written.bits_on(mine) == Bits.READ | Bits.WRITE
    assert written.bits_on(f"setup.org_local.{two}") == Bits.WRITE
    assert [written.bits_on(channel) for channel in (others, f"setup.org_local.{one}")] == [0, 0]


@housed()
async def test_every_optional_parameter_arrives_where_it_belongs(house: House) -> None:
    await house.register(
        "talker",
        capabilities={"taskKinds": ["request", "pipe"]},
        streams={"_default": {"direction": "outbound", "format": "bytes"}},
    )
    hand = await house.hand("talker", concurrency=0)
    policy = {"maxAttempts": 3, "backoffSec": 1.5, "on": ["failed"]}
    task = await house.send(
        "talker",
        ownerId="user_local",
        retryPolicy=policy,
        unknown={"x": 1},
        extensions={
            "blocks": {"taskKind": "pipe", "duration": 5, "stream": True, "consumerPublicKey": "key", "more": 1},
            "others": 1,
        },
    )
    start = await given(hand, task)
    assert (start["taskKind"], start["duration"], start["hasStream"], start["consumerPublicKey"]) == (
        "pipe",
        5,
        True,
        "key",
    )
    assert start["durationExpiresAtMs"] == int((house.clock() + 300) * 1000)
    shown = await house.get(task)
    assert shown["retryPolicy"] == policy
    assert (shown["duration"], shown["hasStream"], shown["taskKind"]) == (5, True, "pipe")
    streaming = await house.send("talker", extensions={"blocks": {"stream": True}})
    assert (await given(hand, streaming))["hasStream"] is True
    assert "hasStream" not in await given(hand, await house.send("talker"))


@housed()
async def test_null_is_the_same_as_nothing(house: House) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        (
            "requestParts",
            "ownerId",
            "idempotencyKey",
            "uploadSessionId",
            "extensions",
            "pushNotificationConfig",
            "retryPolicy",
        )
    )
    assert await house.send(**nothing)
    blocks = dict.fromkeys(("stream", "taskKind", "duration", "consumerPublicKey"))
    assert await house.send(extensions={"blocks": blocks})
    assert await house.send(extensions={"blocks": None}, pushNotificationConfig={})


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no agent": ({"agentName": ""}, "agentName"),
    "agent no text": ({"agentName": ["worker"]}, "agentName"),
    "agent too long": ({"agentName": "w" * 256}, "agentName"),
    "no mode": ({"billingMode": None}, "billingMode"),
    "another mode": ({"billingMode": "barter"}, "billingMode"),
    "parts no list": ({"requestParts": {"text": "x"}}, "requestParts"),
    "part no object": ({"requestParts": [7]}, "requestParts[0]"),
    "too many parts": ({"requestParts": [{"text": "x"}] * 101}, "at most 100"),
    "part id no text": ({"requestParts": [{}, {"partId": 1}]}, "requestParts[1].partId"),
    "part id too long": ({"requestParts": [{"partId": "p" * 256}]}, "requestParts[0].partId"),
    "text no text": ({"requestParts": [{"text": 5}]}, "requestParts[0].text"),
    "type no text": ({"requestParts": [{"contentType": 5}]}, "requestParts[0].contentType"),
    "ref no object": ({"requestParts": [{"partId": "a", "artifactRef": "x"}]}, "requestParts[0].artifactRef"),
    "text and file": ({"requestParts": [{"partId": "a", "text": "", "artifactRef": {}}]}, "send two parts"),
    "file without id": ({"requestParts": [{"artifactRef": {"kind": "inline"}}]}, "partId"),
    "owner no text": ({"ownerId": 5}, "ownerId"),
    "key no text": ({"idempotencyKey": 5}, "idempotencyKey"),
    "key too long": ({"idempotencyKey": "k" * 256}, "idempotencyKey"),
    "key with a NUL": ({"idempotencyKey": "k\x00"}, "NUL"),
    "agent with a NUL": ({"agentName": "worker\x00"}, "NUL"),
    "upload no text": ({"uploadSessionId": []}, "uploadSessionId"),
    "extensions no object": ({"extensions": []}, "extensions"),
    "blocks no object": ({"extensions": {"blocks": 1}}, "extensions.blocks"),
    "stream no flag": ({"extensions": {"blocks": {"stream": "yes"}}}, "extensions.blocks.stream"),
    "unknown kind": ({"extensions": {"blocks": {"taskKind": "batch"}}}, "extensions.blocks.taskKind"),
    "pipe without duration": ({"extensions": {"blocks": {"taskKind": "pipe"}}}, "duration"),
    "duration of a request": ({"extensions": {"blocks": {"duration": 5}}}, "duration"),
    "duration 0": ({"extensions": {"blocks": {"taskKind": "pipe", "duration": 0}}}, "1..43200"),
    "duration too long": ({"extensions": {"blocks": {"taskKind": "pipe", "duration": 43_201}}}, "1..43200"),
    "duration broken": ({"extensions": {"blocks": {"taskKind": "pipe", "duration": 1.5}}}, "whole number"),
    "duration a flag": ({"extensions": {"blocks": {"taskKind": "pipe", "duration": True}}}, "duration"),
    "public key no text": ({"extensions": {"blocks": {"consumerPublicKey": 5}}}, "consumerPublicKey"),
    "public key too long": ({"extensions": {"blocks": {"consumerPublicKey": "k" * 4_097}}}, "consumerPublicKey"),
    "policy no object": ({"retryPolicy": 3}, "retryPolicy"),
    "no attempt": ({"retryPolicy": {"maxAttempts": 0}}, "retryPolicy.maxAttempts"),
    "too many attempts": ({"retryPolicy": {"maxAttempts": 11}}, "retryPolicy.maxAttempts"),
    "half an attempt": ({"retryPolicy": {"maxAttempts": 1.5}}, "retryPolicy.maxAttempts"),
    "backoff below 0": ({"retryPolicy": {"backoffSec": -1}}, "retryPolicy.backoffSec"),
    "backoff no number": ({"retryPolicy": {"backoffSec": "1"}}, "retryPolicy.backoffSec"),
    "unknown cause": ({"retryPolicy": {"on": ["canceled"]}}, "retryPolicy.on"),
    "causes no list": ({"retryPolicy": {"on": "failed"}}, "retryPolicy.on"),
    "cause no text": ({"retryPolicy": {"on": [["failed"]]}}, "retryPolicy.on"),
    "webhook no object": ({"pushNotificationConfig": "https://example.com"}, "pushNotificationConfig"),
    "webhook a list": ({"pushNotificationConfig": []}, "pushNotificationConfig"),
    "webhook without url": ({"pushNotificationConfig": {"events": ["task.completed"]}}, "url"),
}


@housed()
async def test_a_parameter_that_cannot_be_used_is_named(house: House) -> None:
    for what, (params, named) in BAD.items():
        refused = await refusal(house, **params)
        assert (refused.rpc_code, refused.code) == (-32602, "InvalidParams"), what
        assert named in refused.data["message"], (what, refused.data["message"])
    assert (await house.call("ListTasks"))["totalCount"] == 0


@housed()
async def test_texts_of_every_kind_come_through_unchanged(house: House) -> None:
    hand = await house.hand(concurrency=0)
    for text in ("", "\x00", "\u2028\ufeff", "🙂" * 5_000, '"\\/', "a" * 300_000):
        task = await house.send(requestParts=[{"text": text, "more": text[:3]}])
        assert (await given(hand, task))["requestParts"][0]["text"] == text


@housed()
async def test_half_a_surrogate_is_no_json_and_does_no_harm(house: House) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"agentName":"worker","billingMode":"free",'
    headers = {"Authorization": f"Bearer {house.identity.api_key}", "Content-Type": "application/json"}
    for rest in (b'"requestParts":[{"text":"\\ud800"}]}}', b'"idempotencyKey":"\\udfff"}}'):
        answer = await house.http.post("/api/v1/rpc", content=body + rest, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["error"]["code"] == -32700
    hand = await house.hand()
    assert (await hand.start(await house.send()))["attempt"] == 1


@housed()
async def test_an_agent_must_be_there_for_the_caller(house: House) -> None:
    stranger = await house.key("user_far", "org_far")
    hidden = {"card": {"identity": {"agentName": "hidden", "displayName": "H"}}, "billingMode": "free"}
    await house.post("registry/agents", {**hidden, "listing": "private"})
    assert (await refusal(house, "nobody")).code == "AgentNotFound"
    assert (await refusal(house, "hidden", key=stranger)).code == "AgentNotFound"
    assert await house.send("hidden")


@housed()
async def test_a_kind_that_the_card_does_not_list_is_refused(house: House) -> None:
    await house.register("piper", capabilities={"taskKinds": ["pipe"]})
    pipe = {"blocks": {"taskKind": "pipe", "duration": 1}}
    refused = await refusal(house, extensions=pipe)
    assert refused.code == "TaskKindNotSupported"
    assert refused.data["details"] == {"taskKind": "pipe", "taskKinds": ["request"]}
    assert (await refusal(house, "piper")).data["details"] == {"taskKind": "request", "taskKinds": ["pipe"]}
    assert await house.send("piper", extensions=pipe)


@housed()
async def test_an_agent_that_encrypts_needs_the_callers_key(house: House) -> None:
    await house.register("sealed", security={"encryption": {"consumerKeyRequired": True}})
    assert (await refusal(house, "sealed")).code == "ConsumerKeyRequired"
    assert await house.send("sealed", extensions={"blocks": {"consumerPublicKey": "k"}})


@housed()
async def test_a_stream_that_the_card_does_not_declare_is_a_warning(house: House) -> None:
    task = await house.get(await house.send(extensions={"blocks": {"stream": True}}))
    assert "hasStream" not in task
    assert task["warnings"] == ["stream was asked for, and the agent's card declares none"]


# --- the card's inputs ---

INPUTS = [
    {
        "id": "order",
        "contentType": "application/json",
        "required": True,
        "schema": {"type": "object", "required": ["a", "b"]},
    },
    {"id": "note", "contentType": "text/plain", "required": False},
]
MISFITS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "fits": ([{"partId": "order", "text": '{"a": 1, "b": 2}'}], []),
    "text for JSON": (
        [{"partId": "order", "text": "two and two"}],
        ["requestParts[0] (order): the card declares application/json, and the text is not JSON"],
    ),
    "a list for an object": (
        [{"partId": "order", "text": "[]"}],
        ["requestParts[0] (order): the card's schema wants an object"],
    ),
    "a key is missing": (
        [{"partId": "order", "text": '{"a": 1}'}],
        ["requestParts[0] (order): the card's schema wants b"],
    ),
    "a file is not looked into": ([{"partId": "order", "artifactRef": {"kind": "inline", "data": ""}}], []),
}
FAULTS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "missing": ([], ["input 'order' is required and missing"]),
    "unknown": (
        [{"partId": "order", "text": '{"a":1,"b":2}'}, {"partId": "ordr", "text": ""}],
        ["requestParts[1]: the agent has no input 'ordr', only order, note"],
    ),
    "without id": (
        [{"text": "{}"}],
        [
            "requestParts[0] has no partId, and the agent has inputs order, note",
            "input 'order' is required and missing",
        ],
    ),
}


@housed(backlog_tasks=100)
async def test_inputs_are_taken_leniently_with_warnings(house: House) -> None:
    await house.register("clerk", io={"inputs": INPUTS})
    for what, (parts, warnings) in {**MISFITS, **FAULTS}.items():
        task = await house.get(await house.send("clerk", requestParts=parts))
        assert task.get("warnings", []) == warnings, what


@housed(backlog_tasks=100)
async def test_a_strict_card_refuses_unknown_and_missing_inputs_and_still_takes_misfits(house: House) -> None:
    await house.register("clerk", io={"inputs": INPUTS}, extensions={"blocks": {"strictInputs": True}})
    for what, (parts, warnings) in MISFITS.items():
        task = await house.get(await house.send("clerk", requestParts=parts))
        assert task.get("warnings", []) == warnings, what
    for what, (parts, faults) in FAULTS.items():
        refused = await refusal(house, "clerk", requestParts=parts)
        assert (refused.code, refused.data["details"]) == ("InvalidInput", {"faults": faults}), what


@pytest.mark.parametrize("strict", [False, True])
@housed()
async def test_the_only_input_needs_no_name(house: House, strict: bool) -> None:
    await house.register("one", io={"inputs": INPUTS[:1]}, extensions={"blocks": {"strictInputs": strict}})
    task = await house.get(await house.send("one", requestParts=[{"text": '{"a": 1, "b": 2}'}]))
    assert "warnings" not in task


# --- one key, one task ---


@housed()
async def test_fifty_equal_calls_at_once_are_one_task(house: House) -> None:
    hand = await house.hand()
    call = {"agentName": "worker", "billingMode": "free", "idempotencyKey": "once"}
    answers = await asyncio.gather(*(house.call("SendMessage", **call) for _ in range(50)))
    assert len({answer["taskId"] for answer in answers}) == 1
    assert sum("idempotent" not in answer for answer in answers) == 1
    assert (await house.call("ListTasks"))["totalCount"] == 1
    task = answers[0]["taskId"]
    await hand.start(task)
    await hand.end(task)
    await house.ended(task)
    again = await house.call("SendMessage", **call)
    assert (again["taskId"], again["state"], again["idempotent"]) == (task, "completed", True)
    assert hand.given == [task]


@housed()
async def test_a_key_belongs_to_its_user(house: House) -> None:
    other, far = await house.key("user_other"), await house.key("user_far", "org_far")
    tasks = [await house.send(idempotencyKey="k", key=key) for key in (None, other, far)]
    assert len(set(tasks)) == 3
    assert [await house.send(idempotencyKey="k", key=key) for key in (None, other, far)] == tasks


@housed(backlog_tasks=1)
async def test_a_repeated_call_has_its_task_even_when_a_new_one_would_be_refused(house: House) -> None:
    task = await house.send(idempotencyKey="k")
    assert (await refusal(house)).code == "BacklogFull"
    assert await house.send(idempotencyKey="k") == task  # the first answer was lost, say
    await house.register(io={"inputs": INPUTS}, extensions={"blocks": {"strictInputs": True}})
    assert (await refusal(house)).code == "InvalidInput"
    assert await house.send(idempotencyKey="k") == task
    assert (await refusal(house, idempotencyKey="another")).code == "InvalidInput"


@housed(backlog_tasks=1)
async def test_a_refused_call_does_not_use_its_key_up(house: House) -> None:
    first = await house.send()
    refused = await asyncio.gather(*(refusal(house, idempotencyKey="k") for _ in range(5)))
    assert [refusal.code for refusal in refused] == ["BacklogFull"] * 5
    await house.call("CancelTask", taskId=first)
    await house.ended(first)
    assert await house.send(idempotencyKey="k") not in (first, None)


@housed()
async def test_a_caller_that_goes_does_not_take_the_task_of_equal_calls_with_it(house: House) -> None:
    principal = await house.network.api_keys.verify(house.identity.api_key)
    assert principal is not None
    params = {"agentName": "worker", "billingMode": "free", "idempotencyKey": "k"}
    gone = asyncio.create_task(house.network.tasks.send(principal, params))
    stays = asyncio.create_task(house.network.tasks.send(principal, params))
    await asyncio.sleep(0)
    gone.cancel()
    answer = await stays
    assert answer["idempotent"] is True
    assert (await house.call("ListTasks"))["totalCount"] == 1


@housed(durable=True)
async def test_a_task_that_is_being_stored_is_taken_though_its_caller_has_gone(house: House) -> None:
    principal = await house.network.api_keys.verify(house.identity.api_key)
    assert principal is not None
    hand = await house.hand(concurrency=2)
    await hand.start(await house.send())
    with house.held_database():
        gone = asyncio.create_task(house.network.tasks.send(principal, {"agentName": "worker", "billingMode": "free"}))
        for _ in range(5):  # it waits for the database now
            await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    start = await hand.start()
    assert (await house.call("ListTasks"))["totalCount"] == 2
    await hand.end(start["taskId"])
    await house.ended(start["taskId"])


@housed()
async def test_a_text_is_a_part(house: House) -> None:
    hand = await house.hand()
    start = await given(hand, await house.send(requestParts=["Hello", {"partId": "b", "text": "x"}]))
    assert start["requestParts"] == [{"text": "Hello", "contentType": "text/plain"}, {"partId": "b", "text": "x"}]
    assert (await refusal(house, requestParts=[7])).code == "InvalidParams"


@housed()
async def test_the_same_work_without_a_key_is_another_task(house: House) -> None:
    assert len({await house.send(requestParts=[{"text": "same"}]) for _ in range(5)}) == 5


@housed()
async def test_nothing_stays_of_a_task_that_the_database_had_no_room_for(house: House) -> None:
    hand, database = await house.hand(), house.network.database

    async def room(pages: int) -> None:
        await database.write(lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar())

    await room(1)  # what is taken already stays
    for _ in range(3):
        refused = await refusal(house, requestParts=[{"text": "x" * 300_000}], idempotencyKey="k")
        assert refused.code == "StoreUnavailable"
    await room(1_000_000)
    assert (await house.call("ListTasks"))["totalCount"] == 0
    task = await house.send(idempotencyKey="k")  # its place at the instance, and its key, are free
    assert (await hand.start(task))["taskId"] == task
    assert hand.given == [task]
