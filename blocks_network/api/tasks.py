"""Tasks over JSON-RPC: one typed function a method."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from blocks_network.api.caller import Answer, Caller
from blocks_network.api.gathering import Gathering
from blocks_network.backoff import Backoff
from blocks_network.errors import BillingModeMismatchError, BlocksError, RpcError, TransportError
from blocks_network.transport.faults import ConnectFailed
from blocks_network.wire.rpc import EMBEDDED_JWT_CODES, error_code, request_envelope

__all__ = [
    "ListTasksParams",
    "ListTasksResult",
    "SentTask",
    "TaskInfo",
    "get_task",
    "list_tasks",
    "send_message",
    "send_messages",
    "task_control",
]

T = TypeVar("T")

PATH = "/api/v1/rpc"
RETRY = Backoff(first_s=0.5, factor=2, cap_s=5)
TRIES = 3
_TASK_FIELDS = ("taskId", "agentName", "owner", "state", "createdTime", "updatedTime")


@dataclass(slots=True)  # a frozen one takes twice as long to make
class SentTask:
    """The network's answer to SendMessage. `cursor` is the timetoken just before StartTask, where offered."""

    task_id: str
    state: str | None = None
    idempotent: bool = False
    queued: bool = False
    push_config_id: str | None = None
    read_token: str | None = None
    status_channel: str | None = None
    subscribe_key: str | None = None
    publish_key: str | None = None
    cursor: int | None = None
    session_group: str | None = None
    """The channel group in which the network delivers the task's events too."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task as the network stores it; every other field is in `extra`."""

    task_id: str
    agent_name: str = ""
    owner: str = ""
    state: str = ""
    created_time: Any = None
    updated_time: Any = None
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> TaskInfo:
        return cls(
            task_id=str(wire.get("taskId", "")),
            agent_name=str(wire.get("agentName") or ""),
            owner=str(wire.get("owner") or ""),
            state=str(wire.get("state") or ""),
            created_time=wire.get("createdTime"),
            updated_time=wire.get("updatedTime"),
            extra={key: value for key, value in wire.items() if key not in _TASK_FIELDS},
        )


@dataclass(frozen=True, slots=True)
class ListTasksParams:
    """What to list; what is None is not asked for."""

    owner_id: str | None = None
    agent_name: str | None = None
    state: str | None = None
    limit: int | None = None
    cursor: str | None = None

    def to_dict(self) -> dict[str, Any]:
        pairs = {
            "ownerId": self.owner_id,
            "agentName": self.agent_name,
            "state": self.state,
            "limit": self.limit,
            "cursor": self.cursor,
        }
        return {key: value for key, value in pairs.items() if value is not None and value != ""}


@dataclass(frozen=True, slots=True)
class ListTasksResult:
    tasks: list[TaskInfo]
    next: str | None = None
    total_count: int | None = None


def send_message(caller: Caller, params: Mapping[str, Any], gathering: Gathering | None = None) -> SentTask:
    """Creates a task, or finds the one with the same idempotency key.

    With `gathering`, together with others that are sent at the same time.
    """
    if not params.get("idempotencyKey"):
        gathering = None  # it may not be made twice
    return _sent_task(_call(caller, "SendMessage", params, agent_name=params.get("agentName"), gathering=gathering))


def send_messages(
    caller: Caller, messages: Sequence[Mapping[str, Any]], gathering: Gathering | None
) -> list[SentTask | BlocksError]:
    """Several tasks with an idempotency key each, together where the network takes it. What became of each, in order:
    a refused one refuses no other."""
    if gathering is None or len(messages) == 1:
        return [_outcome(lambda params=params: send_message(caller, params)) for params in messages]  # type: ignore[misc]
    envelopes = [_envelope("SendMessage", params) for params in messages]

    def exchange() -> list[Answer | None]:
        return _tried(lambda: Gathering.together(caller, PATH, envelopes), "SendMessage", repeatable=True)

    try:
        answers = exchange()
        if any(map(_is_outdated, answers)) and caller.auth is not None and caller.auth.on_auth_failure():
            answers = exchange()
    except BlocksError as fault:
        return [fault] * len(messages)

    def sent(envelope: Mapping[str, Any], answer: Answer | None) -> SentTask:
        agent_name = envelope["params"].get("agentName")
        return _sent_task(_settled(caller, envelope, "SendMessage", answer, agent_name=agent_name))

    return [
        _outcome(lambda envelope=envelope, answer=answer: sent(envelope, answer))  # type: ignore[misc]
        for envelope, answer in zip(envelopes, answers, strict=True)
    ]


def _is_outdated(answer: Answer | None) -> bool:
    """The platform had let the bearer in, but found the identity in it out of date."""
    return answer is not None and error_code(_error_of(answer)) in EMBEDDED_JWT_CODES


def _outcome(send: Callable[[], SentTask]) -> SentTask | BlocksError:
    try:
        return send()
    except BlocksError as fault:
        return fault


def _sent_task(result: Mapping[str, Any]) -> SentTask:
    task_id = result.get("taskId")
    if not isinstance(task_id, str) or not task_id:
        raise RpcError("the network's answer to SendMessage names no task")
    blocks = _object(_object(result.get("extensions")).get("blocks"))
    cursor = blocks.get("cursor")
    return SentTask(
        task_id=task_id,
        state=result.get("state"),
        idempotent=bool(result.get("idempotent")),
        queued=bool(result.get("queued")),
        push_config_id=result.get("pushConfigId"),
        read_token=blocks.get("readToken"),
        status_channel=_object(blocks.get("streamChannels")).get("status"),
        subscribe_key=blocks.get("subscribeKey"),
        publish_key=blocks.get("publishKey"),
        cursor=int(cursor) if isinstance(cursor, str) and cursor.isdigit() else None,
        session_group=blocks.get("sessionGroup"),
    )


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def get_task(caller: Caller, task_id: str, *, anonymous: bool = False) -> TaskInfo:
    result = _call(caller, "GetTask", {"taskId": task_id}, task_id=task_id, anonymous=anonymous)
    task = result.get("task", result)
    if not isinstance(task, Mapping):
        raise RpcError("the network's answer to GetTask holds no task", task_id=task_id)
    return TaskInfo.from_dict(task)


def list_tasks(caller: Caller, params: ListTasksParams | None = None) -> ListTasksResult:
    result = _call(caller, "ListTasks", (params or ListTasksParams()).to_dict())
    tasks = [TaskInfo.from_dict(task) for task in result.get("tasks") or [] if isinstance(task, Mapping)]
    return ListTasksResult(tasks, result.get("next"), result.get("totalCount"))


def task_control(caller: Caller, method: str, task_id: str) -> None:
    """CancelTask, PauseTask, ResumeTask, RetryTask or TerminateTask."""
    _call(caller, method, {"taskId": task_id}, task_id=task_id)


def _call(
    caller: Caller,
    method: str,
    params: Mapping[str, Any],
    *,
    task_id: str | None = None,
    agent_name: str | None = None,
    anonymous: bool = False,
    gathering: Gathering | None = None,
) -> dict[str, Any]:
    """The result object. RpcError for errors of any kind, with what the network said."""
    envelope = _envelope(method, params)
    answer = _sent(caller, envelope, method, anonymous, gathering)
    return _settled(caller, envelope, method, answer, task_id=task_id, agent_name=agent_name, anonymous=anonymous)


def _envelope(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return request_envelope(f"rpc-{int(time.time() * 1000)}-{secrets.token_hex(4)}", method, params)


def _settled(
    caller: Caller,
    envelope: Mapping[str, Any],
    method: str,
    answer: Answer | None,
    *,
    task_id: str | None = None,
    agent_name: str | None = None,
    anonymous: bool = False,
) -> dict[str, Any]:
    """What an answer says; without one the call is made, alone."""
    if answer is None:
        answer = _sent(caller, envelope, method, anonymous)
    provider = None if anonymous else caller.auth
    if _is_outdated(answer) and provider is not None and provider.on_auth_failure():
        answer = _sent(caller, envelope, method, anonymous)
    error = _error_of(answer)
    if error is not None:
        raise _rpc_error(error, answer, task_id, agent_name)
    result = answer.body.get("result") if isinstance(answer.body, dict) else None
    if not answer.ok or not isinstance(result, dict):
        raise RpcError(f"{method}: {answer.error}", answer.status, task_id=task_id, agent_name=agent_name)
    return result


def _sent(
    caller: Caller, envelope: Mapping[str, Any], method: str, anonymous: bool, gathering: Gathering | None = None
) -> Answer:
    """Retries faults in which nothing was sent, and any transport fault of calls that may be repeated."""
    repeatable = method != "SendMessage" or bool(envelope["params"].get("idempotencyKey"))

    def send() -> Answer:
        if gathering is not None:
            return gathering.call(caller, PATH, envelope)
        return caller.call("POST", PATH, envelope, anonymous=anonymous, repeatable=repeatable)

    return _tried(send, method, repeatable=repeatable)


def _tried(send: Callable[[], T], method: str, *, repeatable: bool) -> T:
    for attempt in range(1, TRIES + 1):
        try:
            return send()
        except TransportError as fault:
            if attempt == TRIES or not (repeatable or isinstance(fault, ConnectFailed)):
                raise RpcError(
                    f"{method}: {fault}", 0, hint="check that the network is up and the base URL is right"
                ) from fault
            time.sleep(RETRY.delay(attempt))
    raise AssertionError("unreachable")


def _error_of(answer: Answer) -> Mapping[str, Any] | None:
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    return error if isinstance(error, Mapping) else None


def _rpc_error(error: Mapping[str, Any], answer: Answer, task_id: str | None, agent_name: str | None) -> RpcError:
    data = error.get("data") if isinstance(error.get("data"), Mapping) else None
    text = str((data or {}).get("message") or error.get("message") or "the call failed")
    code = error.get("code")
    number = code if isinstance(code, int) else answer.status
    details = (data or {}).get("details")
    if (data or {}).get("code") == "BillingModeMismatch" and isinstance(details, Mapping):
        expected, got = details.get("expected"), details.get("got")
        if isinstance(expected, str) and isinstance(got, str):
            return BillingModeMismatchError(expected, got, code=number, data=data, message=text)
    return RpcError(text, number, data, task_id=task_id, agent_name=agent_name)
