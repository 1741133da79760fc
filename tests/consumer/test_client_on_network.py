"""A client and agents on a real network: what a caller does all day."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from blocks_network import ListTasksParams, RpcError, TaskClient, TaskContext, file_part, text_part
from blocks_network.consumer.result import TaskResult
from blocks_network.errors import (
    BillingModeMismatchError,
    BlocksError,
    ConfigurationError,
    TaskCanceled,
    TaskFailed,
    WaitTimeoutError,
)
from blocks_network.testing.network import Network

S = 10.0


def upper(task: Any) -> str:
    return str(task.request_parts[0].text).upper()


def torn(task: Any) -> None:
    raise ValueError("page 3 is torn")


@pytest.fixture
def client(blocks: Network) -> TaskClient:
    return blocks.client()


# --- run ---


def test_one_line_gets_a_result(blocks: Network, client: TaskClient) -> None:
    blocks.agent(upper, name="run_upper")
    assert client.run("run_upper", "hello").text == "HELLO"


def test_a_part_or_a_list_of_parts_is_a_request_too(blocks: Network, client: TaskClient) -> None:
    blocks.agent(lambda task: "+".join(part.part_id or "?" for part in task.request_parts), name="run_parts")
    assert client.run("run_parts", text_part("a", "one"), timeout=S).text == "one"
    assert client.run("run_parts", [text_part("a", "one"), {"text": "b", "part_id": "two"}]).text == "one+two"


def test_what_a_task_gave_is_read_by_output_and_as_json(blocks: Network, client: TaskClient) -> None:
    def handler(task: Any) -> dict[str, Any]:
        return {
            "artifacts": [
                {"data": '{"words": 2}', "mimeType": "application/json", "outputId": "count"},
                {"data": b"\x00\x01", "mimeType": "application/octet-stream", "outputId": "raw"},
            ]
        }

    blocks.agent(handler, name="run_outputs")
    result = client.run("run_outputs", "two words")
    assert result.json() == {"words": 2}
    assert result.download(result.output("raw")).data == b"\x00\x01"
    with pytest.raises(KeyError):
        result.output("nothing")


def test_a_task_that_failed_is_an_error_with_its_reason_agent_and_id(blocks: Network, client: TaskClient) -> None:
    blocks.agent(torn, name="run_torn")
    with pytest.raises(TaskFailed, match="page 3 is torn") as caught:
        client.run("run_torn", "scan")
    assert (caught.value.agent_name, caught.value.error) == ("run_torn", "page 3 is torn")
    assert client.get_task(caught.value.task_id or "").state == "failed"


def test_a_wait_that_is_over_leaves_the_task_running(blocks: Network, client: TaskClient) -> None:
    release = threading.Event()
    blocks.agent(lambda task: release.wait(S) and "late", name="run_slow")
    with pytest.raises(WaitTimeoutError) as caught:
        client.run("run_slow", "x", timeout=0.2)
    release.set()
    with client.connect(caught.value.task_id or "") as session:
        assert session.result(S).text == "late"


def test_a_canceled_task_is_an_error_of_its_own(blocks: Network, client: TaskClient) -> None:
    started = threading.Event()

    def patient(task: Any, ctx: TaskContext) -> None:
        started.set()
        ctx.cancel_event.wait(S)

    blocks.agent(patient, name="run_patient")
    with client.send_message(agent_name="run_patient") as session:
        requested: list[Any] = []
        session.on_cancel_requested(requested.append)
        assert started.wait(S)
        client.cancel_task(session.task_id)
        with pytest.raises(TaskCanceled):
            session.result(S)
        assert len(requested) == 1


# --- sessions ---


def test_a_session_is_iterated_from_the_first_event_to_the_last(blocks: Network, client: TaskClient) -> None:
    def handler(task: Any, ctx: TaskContext) -> str:
        ctx.report_status("half way")
        return "done"

    blocks.agent(handler, name="iterated")
    with client.send_message(agent_name="iterated", request_parts=[text_part("x")]) as session:
        types = [event.type for event in session]
        assert types[0] == "progress"
        assert types[-2:] == ["artifact", "terminal"]
        assert "half way" in [event.message for event in session]


def test_artifacts_are_saved_after_the_session_closed_itself(
    blocks: Network, client: TaskClient, tmp_path: Path
) -> None:
    def handler(task: Any, ctx: TaskContext) -> None:
        for name in ("../escape.txt", "same.txt", "SAME.txt", "nul", ""):
            ctx.publish_artifact(name.encode() or b"-", mime_type="text/plain", file_name=name or None)

    blocks.agent(handler, name="saved")
    session = client.send_message(agent_name="saved")
    session.wait_for_terminal(S)
    paths = session.save_artifacts(tmp_path / "a" / "b")
    assert len({path.lower() for path in paths}) == 5
    assert all(Path(path).parent == (tmp_path / "a" / "b").resolve() for path in paths)
    assert [Path(path).read_bytes() for path in paths] == [b"../escape.txt", b"same.txt", b"SAME.txt", b"nul", b"-"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a"]


def test_the_same_key_gives_the_same_task_and_its_stored_result(blocks: Network, client: TaskClient) -> None:
    runs: list[int] = []

    def handler(task: Any) -> str:
        runs.append(1)
        return f"run {len(runs)}"

    blocks.agent(handler, name="keyed")
    one = client.send_message(agent_name="keyed", request_parts=[text_part("x")], idempotency_key="keyed-1")
    assert one.result(S).text == "run 1"
    again = client.send_message(agent_name="keyed", request_parts=[text_part("x")], idempotency_key="keyed-1")
    assert (again.idempotent, again.task_id, again.result(S).text) == (True, one.task_id, "run 1")
    fresh = client.send_message(agent_name="keyed", request_parts=[text_part("x")], idempotency_key="keyed-2")
    assert fresh.result(S).text == "run 2"


def test_a_large_file_goes_to_the_agent_and_a_large_artifact_comes_back(
    blocks: Network, client: TaskClient, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 400
    path = tmp_path / "big.bin"
    path.write_bytes(content)

    def handler(task: Any, ctx: TaskContext) -> bytes:
        return b"".join(ctx.download_input_artifact(part) for part in task.request_parts)

    blocks.agent(handler, name="files")
    result = client.run("files", [file_part(path, part_id="one"), file_part(content[::-1], part_id="two")], timeout=S)
    assert result.data == content + content[::-1]


def test_tasks_are_found_again(blocks: Network, client: TaskClient) -> None:
    blocks.agent(upper, name="found_again")
    sent = [client.run("found_again", text).task_id for text in "abc"]
    info = client.get_task(sent[0])
    assert (info.agent_name, info.state, info.owner) == ("found_again", "completed", client.get_user_id())
    page = client.list_tasks(ListTasksParams(agent_name="found_again", limit=2))
    rest = client.list_tasks(ListTasksParams(agent_name="found_again", cursor=page.next))
    assert [task.task_id for task in (*page.tasks, *rest.tasks)] == sent[::-1]
    with pytest.raises(RpcError, match="no-such-task"):
        client.get_task("no-such-task")


# --- map ---


def results(outcomes: Any) -> list[Any]:
    return [outcome.text if isinstance(outcome, TaskResult) else type(outcome).__name__ for outcome in outcomes]


def test_map_yields_in_the_order_of_the_inputs_whatever_the_order_of_the_ends(
    blocks: Network, client: TaskClient
) -> None:
    last_is_done = threading.Event()

    def handler(task: Any) -> str:
        text = str(task.request_parts[0].text)
        if text == "a":
            assert last_is_done.wait(S)
        if text == "d":
            last_is_done.set()
        return text.upper()

    blocks.agent(handler, name="mapped_order", concurrency=4)
    assert results(client.map("mapped_order", "abcd", concurrency=4)) == list("ABCD")


def test_map_keeps_to_its_concurrency(blocks: Network, client: TaskClient) -> None:
    lock, running, most = threading.Lock(), [0], [0]

    def handler(task: Any) -> str:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return "ok"

    blocks.agent(handler, name="mapped_bound", concurrency=0)
    assert results(client.map("mapped_bound", [str(n) for n in range(20)], concurrency=3)) == ["ok"] * 20
    assert 1 <= most[0] <= 3


def test_a_failure_is_a_value_of_map_and_a_retry_is_a_new_task(blocks: Network, client: TaskClient) -> None:
    seen: list[str] = []

    def handler(task: Any) -> str:
        text = str(task.request_parts[0].text)
        seen.append(text)
        if text == "never" or (text == "second" and seen.count("second") == 1):
            raise ValueError(text)
        return text

    blocks.agent(handler, name="mapped_retry")
    assert results(client.map("mapped_retry", ["first", "second", "never"], retries=1)) == [
        "first",
        "second",
        "TaskFailed",
    ]
    assert (seen.count("second"), seen.count("never")) == (2, 2)


def test_map_takes_inputs_as_it_needs_them_and_stops_when_it_is_given_up(blocks: Network, client: TaskClient) -> None:
    taken: list[int] = []

    def inputs() -> Any:
        number = 0
        while True:
            taken.append(number)
            yield str(number)
            number += 1

    blocks.agent(upper, name="mapped_endless", concurrency=2)
    outcomes = client.map("mapped_endless", inputs(), concurrency=2)
    assert [next(outcomes).text, next(outcomes).text] == ["0", "1"]  # type: ignore[union-attr]
    outcomes.close()  # type: ignore[attr-defined]
    assert len(taken) <= 6


def test_map_refuses_what_cannot_work(client: TaskClient) -> None:
    with pytest.raises(ConfigurationError):
        client.map("a", [], concurrency=0)
    with pytest.raises(ConfigurationError, match="idempotency_key"):
        client.map("a", ["x"], idempotency_key="k")


def test_an_agent_that_does_not_exist_is_a_value_too(client: TaskClient) -> None:
    (outcome,) = client.map("nobody_at_all", ["x"])
    assert isinstance(outcome, BlocksError)
    assert outcome.agent_name == "nobody_at_all"


# --- agents ---


def card(name: str, description: str, *tags: str) -> dict[str, Any]:
    return {
        "identity": {"agentName": name, "displayName": name.title(), "description": description, "version": "1.0.0"},
        "tags": [{"id": tag, "name": tag} for tag in tags],
    }


def test_agents_are_found_by_tag_and_by_words(blocks: Network, client: TaskClient) -> None:
    blocks.agent(upper, card=card("find_ocr", "Reads scanned pages", "ocr", "pdf"))
    blocks.agent(upper, card=card("find_sum", "Sums columns of pages", "tables"))
    assert [entry.agent_name for entry in client.agents(tag="ocr")] == ["find_ocr"]
    assert {entry.agent_name for entry in client.agents(query="PAGES")} == {"find_ocr", "find_sum"}
    assert [entry.agent_name for entry in client.agents(query="pages tables")] == ["find_sum"]
    assert client.agents(query="pages that nobody wrote") == []
    shown = client.get_agent_card("find_ocr")
    assert shown is not None
    assert shown["identity"]["description"] == "Reads scanned pages"
    assert client.get_agent_card("find_nobody") is None


# --- refusals ---


def test_a_paid_agent_is_not_called_by_a_free_client(blocks: Network, client: TaskClient) -> None:
    blocks.agent(upper, name="priced", billing_mode="paid")
    with pytest.raises(BillingModeMismatchError) as caught:
        client.send_message(agent_name="priced", request_parts=[text_part("x")])
    assert (caught.value.expected, caught.value.got) == ("paid", "free")
    assert blocks.client("paid").run("priced", "x").text == "X"


def test_an_unknown_agent_is_named_with_what_to_do(client: TaskClient) -> None:
    with pytest.raises(RpcError, match="registered") as caught:
        client.run("nobody_at_all", "x")
    assert caught.value.agent_name == "nobody_at_all"


def test_connect_finds_the_keyset_of_a_task_that_is_billed_otherwise(blocks: Network, client: TaskClient) -> None:
    blocks.agent(upper, name="priced_too", billing_mode="paid")
    done = blocks.client("paid").run("priced_too", "x")
    assert client.connect(done.task_id).result(S).text == "X"


def test_an_upload_tells_how_far_it_is_and_ends_when_its_listener_wants(blocks: Network, client: TaskClient) -> None:
    blocks.agent(lambda task, ctx: str(len(ctx.download_input_artifact(task.request_parts[0]))), name="weighs")
    heard: list[tuple[int, int]] = []
    part = file_part(b"x" * 1_000_000, on_progress=lambda sent, size: heard.append((sent, size)))
    assert client.run("weighs", part, timeout=S).text == "1000000"
    assert heard[0] == (0, 1_000_000)
    assert heard[-1] == (1_000_000, 1_000_000)
    assert [sent for sent, _ in heard] == sorted(sent for sent, _ in heard)
    assert len(heard) > 3

    def enough(sent: int, size: int) -> None:
        if sent:
            raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        client.run("weighs", file_part(b"x" * 1_000_000, on_progress=enough), timeout=S)


def test_map_waits_for_room_where_an_agent_has_too_many_waiting(blocks: Network, client: TaskClient) -> None:
    """Two places and a backlog of two against twenty at once, and not one retry spent on it."""
    blocks.agent(upper, name="narrow", concurrency=2, max_pending_backlog=2)
    words = [f"word{number}" for number in range(20)]
    results = client.map("narrow", words, concurrency=20, retries=0, timeout=S)
    assert [result.text if isinstance(result, TaskResult) else result for result in results] == [
        word.upper() for word in words
    ]


def test_map_gives_up_on_room_that_does_not_come(blocks: Network, client: TaskClient) -> None:
    began = threading.Event()

    def sits(task: Any, ctx: Any) -> None:
        began.set()
        ctx.cancel_event.wait(S)

    blocks.agent(sits, name="full", concurrency=1, max_pending_backlog=0)
    first = client.send_message(agent_name="full", request_parts=[text_part("x")])
    assert began.wait(S)
    (refused,) = client.map("full", ["y"], timeout=0.2)
    assert isinstance(refused, RpcError)
    assert (refused.data or {})["code"] == "BacklogFull"
    first.terminate()
    assert first.wait_for_terminal(S).state == "canceled"
