"""Sessions against a network whose every event the test publishes itself, through a real gateway."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest
from published_tasks import (
    CANCEL_REQUESTED,
    CANCELED,
    DONE,
    FAILED,
    READ_TOKEN,
    RPC,
    S,
    World,
    announced,
    artifact,
    messages,
    rpc,
    said,
)

from blocks_network import TaskClient
from blocks_network.consumer.delivery import CallbackErrorContext
from blocks_network.consumer.subscribe import TaskEventCallbacks, subscribe_to_task
from blocks_network.errors import (
    AnonTaskAccessDenied,
    SessionClosedError,
    StreamUnavailableError,
    TaskCanceled,
    TaskFailed,
    WaitTimeoutError,
)
from blocks_network.testing.network import Network
from blocks_network.transport.pubnub import create_pubnub_client

# --- how a session begins ---


@pytest.mark.parametrize("cursor", [True, False])
def test_nothing_is_lost_whenever_it_was_published(world: World, cursor: bool) -> None:
    session = world.send(before=(said("a"), said("b")), cursor=cursor)
    world.tell(session.task_id, said("c"), artifact("x", "out"), DONE)
    ended = session.wait_for_terminal(S)
    assert (ended.state, session.state) == ("completed", "completed")
    assert messages(session.list_events()) == ["a", "b", "c"]
    late: list[Any] = []
    session.on_progress(late.append)
    assert messages(late) == ["a", "b", "c"]
    assert session.result(S).text == "x"


def test_a_task_that_was_over_before_we_listened_is_terminal_and_not_closed(world: World) -> None:
    session = world.send(before=(said("a"), artifact("x"), DONE))
    assert (session.state, session.is_closed) == ("completed", False)
    assert session.wait_for_terminal(0).state == "completed"
    assert session.download_artifact(session.list_artifacts()[0]).data == b"x"
    session.close()
    assert session.is_closed


def test_an_idempotent_hit_on_an_ended_task_gives_its_result_and_reads_it_when_asked(world: World) -> None:
    session = world.send(before=(artifact("stored"), FAILED), idempotent=True, state="failed")
    assert (session.idempotent, session.is_closed, session.state) == (True, True, "failed")
    with pytest.raises(TaskFailed, match="page 3 is torn") as caught:
        session.result(S)
    assert (caught.value.error, caught.value.task_id, caught.value.agent_name) == (
        "page 3 is torn",
        session.task_id,
        "writer",
    )
    assert [session.download_artifact(ref).data for ref in session.list_artifacts()] == [b"stored"]
    with pytest.raises(RuntimeError, match="closed"):
        session.wait_for_stream(timeout=S)


def test_an_idempotent_hit_on_a_running_task_is_followed(world: World) -> None:
    session = world.send(before=(said("a"),), idempotent=True, state="running")
    assert (session.idempotent, session.is_closed) == (True, False)
    world.tell(session.task_id, DONE)
    session.wait_for_terminal(S)
    assert messages(session.list_events()) == ["a"]


def test_the_answers_fields_are_the_sessions(world: World) -> None:
    session = world.send(cursor=True, queued=True, pushConfigId="push-1")
    assert (session.queued, session.push_config_id, session.owner_id) == (True, "push-1", "ada")
    assert session.status_channel == f"u.org.{session.task_id}"
    assert session.read_token
    assert session.state is None


def test_an_answer_without_channel_does_not_hide_the_task(world: World) -> None:
    world.knows("task-a")
    session = world.send(task_id="task-a", before=(said("a"),), blocks={"streamChannels": {}})
    assert session.task_id == "task-a"
    world.tell("task-a", DONE)
    session.wait_for_terminal(S)
    assert messages(session.list_events()) == ["a"]


def test_an_answer_without_channel_or_read_token_still_names_the_task(world: World) -> None:
    world.platform.answer(READ_TOKEN, (403, {"error": "not yours"}))
    session = world.send(task_id="task-b", blocks={"streamChannels": {}, "readToken": None})
    assert session.task_id == "task-b"
    with pytest.raises(SessionClosedError, match="not yours"):
        session.wait_for_terminal(S)


def test_a_task_on_another_keyset_is_followed_there(world: World) -> None:
    other = world.gateway.open_keyset
    session = world.send(cursor=True, blocks={"subscribeKey": other.subscribe_key, "publishKey": other.publish_key})
    publisher = world.gateway.client("elsewhere", keyset=other)
    publisher.publish().channel(session.status_channel).message(DONE).sync()
    assert session.wait_for_terminal(S).state == "completed"


def test_connect_reads_what_happened_and_goes_on(world: World) -> None:
    session = world.connect(said("a"), artifact("x"), announced("s-1", declared="words"))
    assert (session.state, session.owner_id, session.agent_name) == ("running", "ada", "writer")
    assert messages(session.list_events()) == ["a"]
    assert [ref.descriptor.declared_stream for ref in session.list_streams()] == ["words"]
    world.tell(session.task_id, said("b"), DONE)
    session.wait_for_terminal(S)
    assert messages(session.list_events()) == ["a", "b"]


def test_a_terminal_in_history_beats_a_state_that_lags_behind(world: World) -> None:
    session = world.connect(said("a"), CANCELED, state="running")
    assert (session.state, session.is_closed) == ("canceled", False)
    with pytest.raises(TaskCanceled, match="user"):
        session.result(0)


def test_a_terminal_state_without_history_is_terminal_too(world: World) -> None:
    session = world.connect(state="failed")
    assert session.wait_for_terminal(0).state == "failed"
    seen: list[Any] = []
    session.on_terminal(seen.append)
    assert json.dumps(seen[0].raw)


@pytest.mark.parametrize("count", [99, 100, 250])
def test_a_history_of_any_length_is_read_in_order(world: World, count: int) -> None:
    session = world.connect(*(said(str(n)) for n in range(count)))
    assert messages(session.list_events()) == [str(n) for n in range(count)]


def test_a_stranger_may_not_connect(world: World) -> None:
    world.knows("task-d")
    world.platform.answer(READ_TOKEN, (403, {"error": "not yours"}))
    with pytest.raises(RuntimeError, match=r"403.*not yours"):
        world.client.connect("task-d")


def test_an_anonymous_reader_reads_with_its_fingerprint(world: World) -> None:
    world.knows("task-d")
    world.tell("task-d", said("a"), DONE)
    route = "/api/v1/auth/anon-task-read-token"
    world.platform.answers[route] = world.platform.answers[READ_TOKEN]
    with TaskClient.create("free", world.document, anon_fingerprint="finger") as client:
        assert messages(client.connect("task-d").list_events()) == ["a"]
        (asked,) = world.platform.to(route)
        assert asked.body == {"taskId": "task-d", "fingerprint": "finger"}
        assert asked.headers["Authorization"] is None
        world.platform.answer(route, (403, {"error": "private"}))
        with pytest.raises(AnonTaskAccessDenied, match="403"):
            client.connect("task-d")


def test_a_read_token_that_has_ended_is_renewed_without_a_gap(world: World) -> None:
    task_id = "task-c"
    world.knows(task_id)
    elsewhere = world.token("u.org.somewhere-else")
    session = world.send(task_id=task_id, cursor=True, before=(said("a"),), blocks={"readToken": elsewhere})
    world.tell(task_id, said("b"), DONE)
    session.wait_for_terminal(S)
    assert messages(session.list_events()) == ["a", "b"]
    assert session.read_token not in (None, elsewhere)


def test_a_read_token_that_is_refused_for_good_ends_the_wait_and_says_why(world: World) -> None:
    world.platform.answer(READ_TOKEN, (403, {"error": "no longer yours"}))
    session = world.send(cursor=True, blocks={"readToken": world.token("u.org.somewhere-else")})
    with pytest.raises(SessionClosedError, match="no longer yours"):
        session.wait_for_terminal(S)


# --- the end ---


def test_the_first_terminal_is_the_only_one(world: World) -> None:
    session = world.send(cursor=True)
    ends: list[Any] = []
    states: list[Any] = []
    session.on_terminal(ends.append)
    session.on_terminal(lambda event: states.append(session.state))
    world.tell(session.task_id, CANCELED, DONE)
    session.wait_for_terminal(S)
    session.on_terminal(ends.append)
    assert ([event.state for event in ends], states) == (["canceled", "canceled"], ["canceled"])
    assert ends[0].get("reason") == "user"


def test_a_cancel_request_is_told_once_and_never_after_the_end(world: World) -> None:
    session = world.send(cursor=True)
    told: list[Any] = []
    session.on_cancel_requested(told.append)
    world.tell(session.task_id, CANCEL_REQUESTED, CANCEL_REQUESTED, CANCELED, CANCEL_REQUESTED)
    session.wait_for_terminal(S)
    assert len(told) == 1
    session.on_cancel_requested(told.append)
    assert len(told) == 1


def test_a_session_closes_itself_after_the_terminal_was_told(world: World) -> None:
    session = world.send(cursor=True)
    closed_inside: list[bool] = []
    session.on_terminal(lambda event: closed_inside.append(session.is_closed))
    world.tell(session.task_id, DONE)
    session.wait_for_terminal(S)
    assert closed_inside == [False]
    assert session.is_closed


def test_close_in_the_terminals_callback_is_fine(world: World) -> None:
    session = world.send(cursor=True)
    told = threading.Event()
    session.on_terminal(lambda event: (session.close(), told.set()))
    world.tell(session.task_id, DONE)
    assert told.wait(S)
    assert session.is_closed
    assert session.state == "completed"


@pytest.mark.parametrize("end", ["close", "destroy"])
def test_who_waits_is_woken_when_session_or_client_ends(world: World, end: str) -> None:
    session = world.send(cursor=True)
    faults: list[BaseException] = []
    waiting = threading.Barrier(2)

    def wait(for_what: Any) -> None:
        waiting.wait(S)
        try:
            for_what()
        except SessionClosedError as fault:
            faults.append(fault)

    for call in (session.wait_for_terminal, session.wait_for_stream):
        thread = threading.Thread(target=wait, args=(call,))
        thread.start()
        waiting.wait(S)
        if end == "close":
            session.close()
        else:
            world.client.destroy()
        thread.join(S)
        assert not thread.is_alive()
    assert len(faults) == 2


def test_a_destroyed_client_does_not_send_what_nobody_may_wait_for(blocks: Network) -> None:
    blocks.agent(lambda task: "done", name="late_caller")
    client = blocks.client()
    assert client.run("late_caller", "x").text == "done"
    client.destroy()
    with pytest.raises(SessionClosedError, match="this client was destroyed"):
        client.run("late_caller", "x")
    with blocks.client() as another:
        assert sum(task.agent_name == "late_caller" for task in another.list_tasks().tasks) == 1


def test_a_wait_that_is_over_says_for_which_task(world: World) -> None:
    session = world.send(cursor=True)
    with pytest.raises(TimeoutError, match=session.task_id) as caught:
        session.wait_for_terminal(0.01)
    assert isinstance(caught.value, WaitTimeoutError)
    assert (caught.value.task_id, caught.value.agent_name) == (session.task_id, "writer")


def test_what_was_received_is_readable_after_close(world: World) -> None:
    session = world.send(before=(said("a"), artifact("x")))
    session.close()
    session.close()
    assert messages(session.list_events()) == ["a"]
    assert session.download_artifact(session.list_artifacts()[0]).data == b"x"


# --- callbacks ---


def test_an_event_reaches_on_event_first_then_its_own_kind_in_the_order_of_registration(world: World) -> None:
    session = world.send(cursor=True)
    seen: list[str] = []
    session.on_progress(lambda event: seen.append(f"progress {event.message}"))
    session.on_event(lambda event: seen.append(f"event {event.type}"))
    session.on_progress(lambda event: seen.append(f"again {event.message}"))
    world.tell(session.task_id, said("a"), {"type": "system", "status": "paused"}, DONE)
    session.wait_for_terminal(S)
    assert seen == ["event progress", "progress a", "again a", "event system", "event terminal"]


def test_a_late_artifact_callback_gets_the_event_as_it_came(world: World) -> None:
    session = world.send(before=(artifact("x", "summary"),))
    seen: list[Any] = []
    session.on_artifact(seen.append)
    assert [event["outputId"] for event in seen] == ["summary"]
    assert seen[0].artifact_ref.size == 1


def test_a_callback_that_was_taken_back_is_not_called(world: World) -> None:
    session = world.send(cursor=True)
    seen: list[Any] = []
    take_back = session.on_event(seen.append)
    take_back()
    take_back()
    world.tell(session.task_id, DONE)
    session.wait_for_terminal(S)
    assert not seen


def test_a_fault_in_a_callback_goes_to_on_error_and_stops_nothing(world: World) -> None:
    session = world.send(cursor=True)
    faults: list[tuple[Exception, CallbackErrorContext]] = []
    seen: list[Any] = []

    def torn(event: Any) -> None:
        raise LookupError("mine")

    def worse(fault: Exception, context: CallbackErrorContext) -> None:
        raise RuntimeError("on_error itself")

    session.on_error(worse)
    session.on_error(lambda fault, context: faults.append((fault, context)))
    session.on_progress(torn)
    session.on_progress(seen.append)
    world.tell(session.task_id, said("a"), DONE)
    session.wait_for_terminal(S)
    assert messages(seen) == ["a"]
    ((fault, context),) = faults
    assert str(fault) == "mine"
    assert (context.entry_point, context.callback_type, context.event) == ("taskSession", "onProgress", seen[0])


def test_a_fault_without_on_error_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    session = world.send(cursor=True)
    session.on_progress(lambda event: 1 / 0)
    with caplog.at_level(logging.WARNING):
        world.tell(session.task_id, said("a"), DONE)
        session.wait_for_terminal(S)
    assert any("division" in record.getMessage() for record in caplog.records)


def test_a_slow_callback_of_one_session_does_not_hold_up_another(world: World) -> None:
    slow, quick = world.send(cursor=True), world.send(cursor=True)
    entered, release = threading.Event(), threading.Event()
    slow.on_event(lambda event: (entered.set(), release.wait(S)))
    world.tell(slow.task_id, DONE)
    assert entered.wait(S)
    world.tell(quick.task_id, DONE)
    assert quick.wait_for_terminal(S).state == "completed"
    release.set()
    slow.wait_for_terminal(S)


def test_a_callback_may_wait_for_the_terminal_itself(world: World) -> None:
    session = world.send(cursor=True)
    states: list[Any] = []
    session.on_progress(lambda event: states.append(session.wait_for_terminal(S).state))
    world.tell(session.task_id, said("a"), DONE)
    session.wait_for_terminal(S)
    assert states == ["completed"]


def test_what_is_no_event_is_passed_over(world: World) -> None:
    session = world.send(cursor=True)
    publisher = world.gateway.client("noise", secret=True)
    for noise in ("text", 7, ["type"], {"no": "type"}, {"type": 7}, {"type": "terminal", "state": "maybe"}):
        publisher.publish().channel(session.status_channel).message(noise).sync()
    world.tell(session.task_id, DONE)
    session.wait_for_terminal(S)
    assert [event.type for event in session.list_events()] == ["terminal"]


# --- iterating ---


def test_a_session_is_an_iteration_over_its_events(world: World) -> None:
    session = world.send(before=(said("a"),))
    events = iter(session)
    assert next(events).message == "a"
    world.tell(session.task_id, said("b"), DONE)
    assert [event.type for event in events] == ["progress", "terminal"]
    assert [event.type for event in session] == ["progress", "progress", "terminal"]


def test_an_iteration_ends_with_an_error_when_the_session_is_closed(world: World) -> None:
    session = world.send(before=(said("a"),))
    events = iter(session)
    next(events)
    session.close()
    with pytest.raises(SessionClosedError):
        next(events)


# --- streams ---


def test_streams_are_found_by_declared_name_then_by_id(world: World) -> None:
    session = world.send(before=(announced("s-1", declared="words"), announced("s-2")))
    assert session.wait_for_stream("words", S).descriptor.stream_id == "s-1"
    assert session.wait_for_stream("s-2", S).descriptor.stream_id == "s-2"
    with pytest.raises(RuntimeError, match="wait_for_stream_where"):
        session.wait_for_stream(timeout=S)
    with pytest.raises(TimeoutError):
        session.wait_for_stream("nothing", timeout=0.01)


def test_a_stream_is_announced_once_to_callbacks_and_waiters(world: World) -> None:
    session = world.send(cursor=True)
    refs: list[Any] = []
    session.on_stream(refs.append)
    world.tell(session.task_id, announced("s-1"), announced("s-1", "s-2"))
    found = session.wait_for_stream_where(lambda ref: bool(ref.descriptor.stream_id == "s-2"), S)
    late: list[Any] = []
    session.on_stream(late.append)
    world.tell(session.task_id, DONE)
    session.wait_for_terminal(S)
    assert [ref.descriptor.stream_id for ref in refs] == ["s-1", "s-2"]
    assert late == refs
    assert found is refs[1]


def test_a_predicate_that_raises_says_no_and_is_reported(world: World) -> None:
    session = world.send(before=(announced("s-1"),))
    reported: list[str] = []
    session.on_error(lambda fault, context: reported.append(context.callback_type))
    with pytest.raises(TimeoutError):
        session.wait_for_stream_where(lambda ref: 1 / 0 > 1, 0.01)
    assert reported == ["streamPredicate"]


def test_the_end_of_a_task_ends_the_wait_for_a_stream_that_never_came(world: World) -> None:
    session = world.send(cursor=True)
    faults: list[BaseException] = []

    def wait() -> None:
        try:
            session.wait_for_stream(timeout=S)
        except RuntimeError as fault:
            faults.append(fault)

    thread = threading.Thread(target=wait)
    thread.start()
    world.tell(session.task_id, DONE)
    thread.join(S)
    assert len(faults) == 1


def test_an_announcement_that_cannot_be_used_spoils_nothing(world: World) -> None:
    session = world.send(before=(announced("s-1", direction="sideways"), announced("s-2")))
    assert [ref.descriptor.stream_id for ref in session.list_streams()] == ["s-2"]


def test_a_stream_of_a_task_whose_end_we_know_is_gone(world: World) -> None:
    session = world.send(cursor=True)
    world.tell(session.task_id, announced("s-1"), DONE)
    session.wait_for_terminal(S)
    (ref,) = session.list_streams()
    with pytest.raises(StreamUnavailableError):
        ref.open()
    assert session.open_all_streams() == []


# --- subscribe_to_task ---


def test_a_plain_subscription_tells_what_is_kept_and_what_comes(world: World) -> None:
    world.knows("task-e")
    world.tell("task-e", said("a"))
    seen: list[tuple[str, Any]] = []
    done = threading.Event()

    def note(name: str) -> Any:
        return lambda event: seen.append((name, event["type"]))

    def on_terminal(event: dict[str, Any]) -> None:
        seen.append(("terminal", event["state"]))
        done.set()

    callbacks = TaskEventCallbacks(
        note("progress"), note("artifact"), on_terminal, note("cancel"), on_event=note("any")
    )
    subscription = world.client.subscribe_to_task("task-e", "org", callbacks)
    world.tell("task-e", CANCEL_REQUESTED, CANCEL_REQUESTED, DONE, FAILED, CANCEL_REQUESTED, said("after"))
    assert done.wait(S)
    subscription.unsubscribe()
    subscription.unsubscribe()
    assert seen[:6] == [
        ("any", "progress"),
        ("progress", "progress"),
        ("any", "cancel_requested"),
        ("cancel", "cancel_requested"),
        ("any", "terminal"),
        ("terminal", "completed"),
    ]
    assert [name for name, _ in seen].count("terminal") == 1


def test_a_plain_subscription_takes_a_pubnub_object_and_leaves_it_alone(world: World) -> None:
    keyset = world.gateway.keyset
    theirs = create_pubnub_client(
        user_id="mine", subscribe_key=keyset.subscribe_key, origin=world.gateway.origin, ssl=False
    )
    theirs.set_token(world.token("u.org.task-f"))
    world.tell("task-f", said("a"))
    faults: list[tuple[str, str]] = []
    reported = threading.Event()

    def on_error(fault: Exception, context: CallbackErrorContext) -> None:
        faults.append((context.entry_point, context.callback_type))
        reported.set()

    subscription = subscribe_to_task(
        theirs, "task-f", "org", TaskEventCallbacks(on_progress=lambda event: event["nothing"], on_error=on_error)
    )
    assert reported.wait(S)
    subscription.unsubscribe()
    assert faults == [("subscribeToTask", "onProgress")]
    theirs.stop()


# --- control ---


def test_cancel_goes_with_the_newest_token_and_the_clients_headers(world: World) -> None:
    session = world.send(cursor=True)

    def only_the_second(call: Any) -> Any:
        return rpc({}) if call.headers["Authorization"] == "Bearer t-2" else (401, {"error": "ended"})

    world.platform.answer(RPC, only_the_second)
    from blocks_network.auth import keeper

    before, keeper.FRESH_S = keeper.FRESH_S, 0.0
    try:
        session.cancel()
    finally:
        keeper.FRESH_S = before
    last = world.platform.to(RPC)[-1]
    assert (last.body["method"], last.body["params"]) == ("CancelTask", {"taskId": session.task_id})
    session.terminate()
    assert world.platform.to(RPC)[-1].body["method"] == "TerminateTask"
