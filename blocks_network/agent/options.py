"""What `start_agent_instance` is told, and whether it makes sense."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blocks_network.errors import ConfigurationError
from blocks_network.wire.channels import is_agent_name
from blocks_network.wire.control import StartTaskMessage

__all__ = ["AgentInstanceOptions", "Handler", "check_options"]

log = logging.getLogger(__name__)

Handler = Callable[..., Any]
"""`handler(task, ctx)` or `handler(task)`; docs/handlers.md says what it may return."""


@dataclass
class AgentInstanceOptions:
    """Options of one instance. `card` is the agent card, the only required field.

    concurrency: tasks at one time, default 1; 0 is no limit.
    expected_instances, max_pending_backlog, max_running_time_sec: told to the network, which applies them.
    on_start_task(task, pubnub): replaces the whole default processing of a task.
    on_cancel_task(task_id, pubnub): called when a cancel arrives, after the task's cancel_event is set.
    on_error(task_id, exc): after a failed terminal, and for events that could not be delivered.
    startup_timeout_s: how long the start may take until the instance is subscribed and known (default 30).
    cancel_grace_s: how long a handler may go on after its task was asked to end, before it is reported to on_error and
    its slot is told to the network as lost (default 10).
    """

    card: dict[str, Any]
    agent_name: str | None = None
    handler: Handler | None = None
    on_start_task: Callable[[StartTaskMessage, Any], Any] | None = None
    on_cancel_task: Callable[[str, Any], Any] | None = None
    on_error: Callable[[str, BaseException], Any] | None = None
    concurrency: int | None = None
    expected_instances: int | None = None
    max_pending_backlog: int | None = None
    max_running_time_sec: int | None = None
    pubnub: Any = None
    token: str | None = None
    listing: str | None = None
    base_url: str | None = None
    cdm_url: str | None = None
    instance_id: str | None = None
    description: str | None = None
    tags: list[dict[str, Any]] | None = None
    card_ref: dict[str, Any] | None = None
    card_summary: dict[str, Any] | None = None
    user_id: str | None = None
    artifact_base_path: str | None = None
    log_channel: str | None = None
    capabilities: list[str] | None = None
    heartbeat_ms: int | None = None
    api_key: str | None = None
    startup_timeout_s: float = 30.0
    cancel_grace_s: float = 10.0

    def __post_init__(self) -> None:
        without_effect = (
            *("user_id", "artifact_base_path", "log_channel", "heartbeat_ms", "capabilities"),
            *("description", "tags", "card_ref", "card_summary"),  # these stand on the registered card
        )
        given = [name for name in without_effect if getattr(self, name) is not None]
        if given:
            log.debug("options without effect: %s", ", ".join(given))

    @property
    def slots(self) -> int:
        """Tasks at one time; 0 is no limit."""
        return 1 if self.concurrency is None else self.concurrency

    @property
    def running_time_s(self) -> int | None:
        """The longest a task may run: the option, else the card's."""
        return self.cards_running_time_s if self.max_running_time_sec is None else self.max_running_time_sec

    @property
    def cards_running_time_s(self) -> int | None:
        runtime = self.card.get("runtime")
        from_card = runtime.get("maxRunningTimeSec") if isinstance(runtime, dict) else None
        return from_card if isinstance(from_card, int) else None


def check_options(options: AgentInstanceOptions | None) -> AgentInstanceOptions:
    """The options, or ConfigurationError that names the first fault."""
    if options is None:
        raise ConfigurationError("options are required: AgentInstanceOptions(card=..., agent_name=..., handler=...)")
    if not isinstance(options.card, dict) or not options.card:
        raise ConfigurationError("card is required: a dict, the content of agent-card.json")
    if not options.agent_name:
        raise ConfigurationError("agent_name is required")
    if not is_agent_name(options.agent_name):
        raise ConfigurationError(
            f"agent name {options.agent_name!r} is not usable", hint="use letters, digits and underscores only"
        )
    if options.handler is None and options.on_start_task is None:
        raise ConfigurationError("a handler is required", hint="give handler=a_function, or on_start_task")
    if options.handler is not None and not callable(options.handler):
        raise ConfigurationError(f"handler is not callable: {options.handler!r}")
    if options.slots < 0:
        raise ConfigurationError(f"concurrency must be 0 (no limit) or more, not {options.slots}")
    if options.cards_running_time_s not in (None, options.running_time_s):
        log.info("max_running_time_sec=%s beats the card's %s", options.running_time_s, options.cards_running_time_s)
    return options
