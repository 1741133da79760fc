"""Every error of the package, as one tree.

    BlocksError
    |- ConfigurationError (ValueError)       a value is missing or wrong: key, URL, card, option
    |  `- HandlerLoadError                   a handler's module, function or card cannot be loaded
    |- CredentialsMissingError               no API key, token endpoint or token provider where one is needed
    |    (KeyError, RuntimeError)
    |- TransportError (RuntimeError)         the network was not reached, or did not answer in its own language
    |  `- AccessDeniedError                  the network refused a token
    |- ApiError (RuntimeError)               the network answered with an error of its own: `status`, `code`
    |- AgentAuthFatalError (RuntimeError)    the agent's key is revoked or the agent was forced offline
    |- AuthRefreshFailedError (RuntimeError) a consumer's token could not be renewed
    |- AnonTaskAccessDenied                  an anonymous reader may not see this task
    |- RpcError                              a JSON-RPC call was answered with an error: `code`, `data`
    |  `- BillingModeMismatchError           the agent bills otherwise: `expected`, `got`
    |- FileUploadError                       a step of an upload failed: `status_code`
    |- HandlerResultError (TypeError)        a handler returned what cannot become artifacts
    |- HandlerOverdueError (RuntimeError)    a handler goes on long after it was asked to end
    |- TaskEndedError (RuntimeError)         a context was used after its task had ended
    |- TaskEndingError (RuntimeError)        a wait ended because the waiting agent's own task is to end
    |- TaskUnsuccessful (RuntimeError)       a task whose result was asked for has none: `state`, `event`
    |  |- TaskFailed                         its handler, or the network, gave up: `error`, `reason`
    |  `- TaskCanceled                       somebody canceled it: `reason`
    |- WaitTimeoutError (TimeoutError)       a wait was over before what it waited for had come; the task goes on
    |- SessionClosedError (RuntimeError)     a wait ended because its session or client was closed
    `- StreamUnavailableError (RuntimeError) the stream was live only, and its task has ended

The standard bases are those that users of the protocol already catch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "BlocksError",
    "ConfigurationError",
    "HandlerLoadError",
    "CredentialsMissingError",
    "TransportError",
    "AccessDeniedError",
    "ApiError",
    "AgentAuthFatalError",
    "AuthRefreshFailedError",
    "AnonTaskAccessDenied",
    "RpcError",
    "BillingModeMismatchError",
    "FileUploadError",
    "HandlerResultError",
    "HandlerOverdueError",
    "TaskEndedError",
    "TaskEndingError",
    "TaskUnsuccessful",
    "TaskFailed",
    "TaskCanceled",
    "WaitTimeoutError",
    "SessionClosedError",
    "StreamUnavailableError",
]


class BlocksError(Exception):
    """The root. Carries `task_id`, `agent_name` and `hint` (the next step) where they are known."""

    def __init__(
        self, message: str, *, task_id: str | None = None, agent_name: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.task_id, self.agent_name, self.hint = message, task_id, agent_name, hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes, whatever their constructors take."""
        return _revived, (type(self), self.args), self.__dict__


def _revived(kind: type[BlocksError], args: tuple[Any, ...]) -> BlocksError:
    error = kind.__new__(kind)
    error.args = args
    return error


class ConfigurationError(BlocksError, ValueError):
    """A value that the caller chose is missing or wrong. Nothing was sent."""


class HandlerLoadError(ConfigurationError):
    """A handler's module, function, registry file or card cannot be loaded."""


class CredentialsMissingError(BlocksError, KeyError, RuntimeError):
    """A call needs an identity and none was given. Nothing was sent."""


class TransportError(BlocksError, RuntimeError):
    """The network was not reached in time, or what answered does not speak its language."""


class AccessDeniedError(TransportError):
    """The network refused a capability token (HTTP 403). Carries the answer's body in `body`."""

    def __init__(self, message: str, *, body: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.body = body


class ApiError(BlocksError, RuntimeError):
    """The network answered with an error of its own.

    `status` is the HTTP status; `code` the network's word for the cause, when it gave one; `details` its data.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        details: Any = None,
        agent_name: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, agent_name=agent_name, hint=hint)
        self.status, self.code, self.details = status, code, details


class AgentAuthFatalError(BlocksError, RuntimeError):
    """The network will not take this agent back: its key is revoked, or it was forced offline. `code` says which."""

    def __init__(self, message: str, *, code: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class AuthRefreshFailedError(BlocksError, RuntimeError):
    """A consumer's token could not be renewed; the first cause is `__cause__`."""


class AnonTaskAccessDenied(BlocksError):
    """An anonymous reader may not see this task (HTTP 403)."""


class RpcError(BlocksError):
    """A JSON-RPC call failed: `code` is the JSON-RPC code or the HTTP status, `data` the error's data object."""

    def __init__(
        self,
        rpc_message: str,
        code: int = 0,
        data: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        agent_name: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(rpc_message, task_id=task_id, agent_name=agent_name, hint=hint)
        self.rpc_message, self.code, self.data = rpc_message, code, data


class BillingModeMismatchError(RpcError):
    """The agent bills in mode `expected`, the call said `got`. Never corrected automatically: it is about money."""

    def __init__(
        self,
        expected: str,
        got: str,
        *,
        code: int = 0,
        data: Mapping[str, Any] | None = None,
        message: str | None = None,
    ) -> None:
        super().__init__(
            message or f"the agent bills in mode {expected!r}, the call said {got!r}",
            code,
            data,
            hint=f"create the client with billing_mode={expected!r}",
        )
        self.expected, self.got = expected, got


class FileUploadError(BlocksError):
    """A step of a file upload failed; `status_code` is its HTTP status, None when there was no answer."""

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


class HandlerResultError(BlocksError, TypeError):
    """A handler returned what cannot become artifacts; the text names the entry and its type."""


class HandlerOverdueError(BlocksError, RuntimeError):
    """Told to `on_error`: a handler was asked to end and does not. Its slot takes no other task until it returns."""


class TaskEndedError(BlocksError, RuntimeError):
    """A task's context was asked to publish after the task had ended."""


class TaskEndingError(BlocksError, RuntimeError):
    """A handler waited with `ctx.task_client` for another agent when its own task was asked to end. Let it pass: the
    task then ends as it was asked to. The task that was waited for goes on."""


class TaskUnsuccessful(BlocksError, RuntimeError):
    """A task ended without completing. `event` is its terminal event as the network sent it; artifacts that came
    before stay readable through the session."""

    def __init__(self, task_id: str, event: Mapping[str, Any], *, agent_name: str | None = None) -> None:
        self.event = dict(event)
        self.state = str(event.get("state") or "")
        self.error = event.get("error") if isinstance(event.get("error"), str) else None
        self.reason = event.get("reason") if isinstance(event.get("reason"), str) else None
        why = self.error or self.reason
        whose = f" of agent {agent_name}" if agent_name else ""
        super().__init__(
            f"task {task_id}{whose} {'was canceled' if self.state == 'canceled' else self.state or 'failed'}"
            + (f": {why}" if why else ""),
            task_id=task_id,
            agent_name=agent_name,
        )


class TaskFailed(TaskUnsuccessful):
    """The task's handler raised, or the network gave the task up: `error` and `reason` say why."""


class TaskCanceled(TaskUnsuccessful):
    """The task was canceled; `reason` says by what, when the network told."""


class WaitTimeoutError(BlocksError, TimeoutError):
    """A wait was over before what it waited for had come. The task goes on."""


class SessionClosedError(BlocksError, RuntimeError):
    """A wait ended because its session, or the client that made it, was closed."""


class StreamUnavailableError(BlocksError, RuntimeError):
    """The stream was live only, and its task has ended; the task's artifacts are still readable."""

    def __init__(self, task_id: str, stream_id: str, terminal_state: str, declared_stream: str | None = None) -> None:
        super().__init__(
            f"stream {declared_stream or stream_id} of task {task_id} is over (the task is {terminal_state}): "
            "its data was live only",
            task_id=task_id,
            hint="read session.list_artifacts() and session.state, or ref.descriptor for the stream's description",
        )
        self.stream_id, self.declared_stream, self.terminal_state = stream_id, declared_stream, terminal_state
