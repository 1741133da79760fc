"""Results, events and errors that leave their process: pickled whole, and a fork that says what cannot go with it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from blocks_network import TaskEvent, errors
from blocks_network.consumer.downloads import ArtifactNotSaved
from blocks_network.consumer.result import TaskResult
from blocks_network.errors import BlocksError, SessionClosedError
from blocks_network.stream.errors import StreamEndedError, StreamError
from blocks_network.testing.network import Network

S = 10.0
EVENT = {"type": "terminal", "state": "failed", "error": "page 3 is torn"}

EXAMPLES: dict[str, BlocksError] = {
    "BlocksError": BlocksError("m", task_id="t", agent_name="a", hint="h"),
    "ConfigurationError": errors.ConfigurationError("m", hint="h"),
    "HandlerLoadError": errors.HandlerLoadError("m"),
    "CredentialsMissingError": errors.CredentialsMissingError("m", hint="h"),
    "TransportError": errors.TransportError("m"),
    "AccessDeniedError": errors.AccessDeniedError("m", body="b"),
    "ApiError": errors.ApiError("m", status=409, code="C", details={"d": 1}),
    "AgentAuthFatalError": errors.AgentAuthFatalError("m", code="C"),
    "AuthRefreshFailedError": errors.AuthRefreshFailedError("m"),
    "AnonTaskAccessDenied": errors.AnonTaskAccessDenied("m (403)"),
    "RpcError": errors.RpcError("m", -32000, {"code": "X"}, task_id="t"),
    "BillingModeMismatchError": errors.BillingModeMismatchError("paid", "free", code=1, data={"code": "X"}),
    "FileUploadError": errors.FileUploadError("m", 413),
    "HandlerResultError": errors.HandlerResultError("m"),
    "HandlerOverdueError": errors.HandlerOverdueError("m"),
    "TaskEndedError": errors.TaskEndedError("m", task_id="t"),
    "TaskEndingError": errors.TaskEndingError("m", task_id="t"),
    "TaskUnsuccessful": errors.TaskUnsuccessful("t", EVENT, agent_name="a"),
    "TaskFailed": errors.TaskFailed("t", EVENT, agent_name="a"),
    "TaskCanceled": errors.TaskCanceled("t", {**EVENT, "state": "canceled"}),
    "WaitTimeoutError": errors.WaitTimeoutError("m", task_id="t"),
    "SessionClosedError": errors.SessionClosedError("m", task_id="t"),
    "StreamUnavailableError": errors.StreamUnavailableError("t", "s", "completed", "words"),
    "ArtifactNotSaved": ArtifactNotSaved("m", ["/a"]),
    "StreamEndedError": StreamEndedError("m", task_id="t"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_error_arrives_as_it_was(name: str) -> None:
    error = EXAMPLES[name]
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert (str(arrived), arrived.args, vars(arrived)) == (str(error), error.args, vars(error))


def test_every_error_of_the_package_is_among_them() -> None:
    assert set(errors.__all__) <= set(EXAMPLES)


def test_a_streams_error_arrives_too() -> None:
    error = StreamError("frames_lost", "frames 3 to 4 did not come", "stream.a.s")
    arrived = pickle.loads(pickle.dumps(error))
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


def test_an_event_arrives_as_it_was() -> None:
    arrived = pickle.loads(pickle.dumps(TaskEvent(EVENT)))
    assert (arrived.raw, arrived.state) == (EVENT, "failed")


def test_a_result_arrives_with_its_small_artifacts_and_says_what_it_left_behind(blocks: Network) -> None:
    def handler(task: Any) -> dict[str, Any]:
        small = {"data": '{"words": 2}', "mimeType": "application/json", "outputId": "count"}
        return {"artifacts": [small, {"data": bytes(40_000), "mimeType": "x/y", "outputId": "raw"}]}

    blocks.agent(handler, name="travelled")
    result = blocks.client().run("travelled", "x", timeout=S)
    arrived: TaskResult = pickle.loads(pickle.dumps(result))
    assert (arrived.task_id, arrived.event.raw) == (result.task_id, result.event.raw)
    assert arrived.artifacts == result.artifacts
    assert arrived.json() == {"words": 2}
    assert arrived.download(arrived.output("count")).data == b'{"words": 2}'
    with pytest.raises(SessionClosedError, match="connect") as caught:
        arrived.download(arrived.output("raw"))
    assert caught.value.task_id == result.task_id
    assert pickle.loads(pickle.dumps(arrived)).text == '{"words": 2}'


def _ask(cdm_url: str, api_key: str, text: str) -> TaskResult:
    from blocks_network import TaskClient

    with TaskClient.create("free", cdm_url, api_key=api_key) as client:
        return client.run("asked_elsewhere", text, timeout=S)


def test_results_and_failures_come_back_from_a_pool_of_processes(blocks: Network) -> None:
    def handler(task: Any) -> str:
        if task.request_parts[0].text == "torn":
            raise ValueError("page 3 is torn")
        return str(task.request_parts[0].text).upper()

    blocks.agent(handler, name="asked_elsewhere")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        good, bad = (pool.submit(_ask, blocks.cdm_url, blocks.api_key, text) for text in ("fine", "torn"))
        assert good.result(4 * S).text == "FINE"
        with pytest.raises(errors.TaskFailed, match="page 3 is torn") as caught:
            bad.result(4 * S)
        assert caught.value.agent_name == "asked_elsewhere"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_session_in_a_forked_child_says_so_and_the_parents_goes_on(blocks: Network) -> None:
    blocks.agent(lambda task: "done", name="forked")
    session = blocks.client().send_message(agent_name="forked")
    for use in (session.wait_for_terminal, session.list_events, session.cancel, lambda: session.on_event(print)):
        said = _in_a_child(use)
        assert said.startswith("SessionClosedError")
        assert "after the fork" in said
    assert _in_a_child(session.close) == "no error"
    assert session.result(S).text == "done"


def _in_a_child(use: Callable[[], object]) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            use()
            said = "no error"
        except BaseException as fault:  # noqa: BLE001 - a child must not run on into pytest
            said = f"{type(fault).__name__}: {fault}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
