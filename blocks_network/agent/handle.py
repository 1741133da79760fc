"""What `start_agent_instance` returns: an instance in the hands of its program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

    from blocks_network.agent.instance import Instance
    from blocks_network.api.cdm import BillingMode, CdmConfig
    from blocks_network.consumer.client import TaskClient

__all__ = ["AgentHandle", "StopReport"]

FLUSH_S = 10.0
"""What a stop waits for what is left to send, while the network is out of reach."""

_MEMBERS = (
    "stop",
    "agent_name",
    "instance_id",
    "task_client",
    "pubnub",
    "publish_terminal",
    "fail_stream",
    "cdm_config",
)


@dataclass(frozen=True, slots=True)
class StopReport:
    """How an instance ended. Each field holds task ids, but `undelivered`, which counts events."""

    finished: tuple[str, ...] = ()
    """Ended by themselves while the instance waited."""
    cancelled: tuple[str, ...] = ()
    """Asked to end when the wait was over, and did."""
    abandoned: tuple[str, ...] = ()
    """Still running: their handlers did not look at cancel_event."""
    undelivered: int = 0
    """Events that the network could not be given."""

    @property
    def clean(self) -> bool:
        return not (self.cancelled or self.abandoned or self.undelivered)


class AgentHandle(Mapping[str, Any]):
    """Members are attributes and keys alike: `handle.stop()`, `handle["stop"]()`."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    @property
    def agent_name(self) -> str:
        return self._instance.agent_name

    @property
    def instance_id(self) -> str:
        return self._instance.instance_id

    @property
    def task_client(self) -> TaskClient | None:
        """A consumer with the agent's own identity, for agent-to-agent calls."""
        return self._instance.task_client()

    @property
    def pubnub(self) -> PubNub:
        """The live control client."""
        return self._instance.connection.link.client

    @property
    def billing_mode(self) -> BillingMode:
        """As the registry has it."""
        return self._instance.identity.billing_mode

    @property
    def cdm_config(self) -> CdmConfig | None:
        return self._instance.identity.cdm

    @property
    def fault(self) -> BaseException | None:
        """Why the instance ended by itself; None while it runs, and after `stop`."""
        return self._instance.fault

    @property
    def running(self) -> bool:
        """False once it has ended, by `stop` or by itself, and in a forked child."""
        return not self._instance.ended.is_set() and not self._instance.forked

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until the instance has ended. True when it has, within `timeout` seconds, and in a forked child."""
        return not self.running or self._instance.ended.wait(timeout)

    def when_ended(self, call: Callable[[], None]) -> None:
        """Calls `call` once the instance has ended, on the thread that ended it; at once when it has already."""
        self._instance.when_ended(call)

    def stop(self, drain_s: float | None = None, *, flush_s: float = FLUSH_S) -> StopReport:
        """Takes no new task, gives running ones `drain_s` seconds (default AGENT_SHUTDOWN_GRACE_SEC), then asks them to
        end, sends what is left to send (for `flush_s` at most, if the network is out of reach), leaves the network and
        joins every thread. Idempotent; never raises. Does nothing in a forked child: the instance is its parent's.
        """
        return self._instance.stop(drain_s, flush_s)

    def replace_handler(self, handler: Callable[..., Any]) -> None:
        """Tasks that come from now on are given to `handler`; those that run end with the one they have.

        ConfigurationError (ValueError) when it cannot be called with a task: nothing is replaced then.
        """
        self._instance.replace_handler(handler)

    def publish_terminal(self, task_id: str, event: Mapping[str, Any]) -> None:
        """Ends a pipe task whose handler has returned: `{"state": "completed" | "failed" | "canceled", ...}`.

        RuntimeError when the task is not open here, ValueError for another state.
        """
        self._instance.publish_terminal(task_id, event)

    def fail_stream(self, stream_id: str, reason: str) -> None:
        """Ends a stream, and every task that is on it, as failed. Unknown streams are ignored."""
        self._instance.fail_stream(stream_id, reason)

    def __getitem__(self, key: str) -> Any:
        if key not in _MEMBERS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(_MEMBERS)

    def __len__(self) -> int:
        return len(_MEMBERS)

    def __repr__(self) -> str:
        return f"<AgentHandle {self.instance_id} {'running' if self.running else 'ended'}>"
