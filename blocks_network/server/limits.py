"""Every bound of the network, with its unit and its reason. Configurable; docs/limits.md has what each refusal says."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from blocks_network.errors import ConfigurationError

__all__ = ["Limits"]

MAY_BE_ZERO = frozenset({"history_ttl_hours", "backlog_tasks", "cancel_grace_s", "expire_grace_s", "token_skew_s"})


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults suit one node on a small machine. Sizes are bytes of what arrives, after any decompression."""

    message_bytes: int = 32 * 1024
    """The protocol's own bound for a publish."""
    signal_bytes: int = 64
    calls_per_request: int = 100
    """JSON-RPC calls in one request; `body_bytes` bounds them together."""
    messages_per_batch: int = 200
    """Messages in one request of the batch extension; `body_bytes` bounds them together."""
    body_bytes: int = 1024 * 1024
    """A request body of any kind but a file."""
    body_idle_s: float = 90.0
    """Silence within a request's body that ends its connection."""
    upload_bytes: int = 1024 * 1024 * 1024
    """One file."""
    blobs_bytes: int = 64 * 1024 * 1024 * 1024
    """All files together; a full disk refuses earlier."""
    upload_form_s: int = 60
    """How long an upload form of the PubNub protocol may be used; it counts until the upload begins."""
    platform_upload_form_s: int = 15 * 60
    """The same for the platform's uploads: clients retry these."""
    upload_confirm_s: int = 24 * 60 * 60
    """How long an upload of the platform may be confirmed."""
    upload_idle_s: float = 60.0
    """Silence within an upload that ends it."""
    download_link_s: int = 10 * 60
    """How long the address of a file's content may be used; it counts until the download begins."""
    address_bytes: int = 64 * 1024
    """Path and query; clients refuse more by themselves."""
    channels_per_request: int = 500
    groups_per_request: int = 25
    channels_per_group: int = 2_000
    name_bytes: int = 255
    """A channel, group, uuid or file name."""
    state_bytes: int = 32 * 1024
    filter_chars: int = 2_048
    polls_per_address: int = 10_000
    polls_per_token: int = 256
    publishes_per_s: int = 20_000
    """For each token (without one: each address), refilled evenly; a second's worth may come at once."""
    messages_per_answer: int = 100
    actions_per_message: int = 1_000
    action_value_bytes: int = 2_048
    """The value of one message action."""
    actions_per_answer: int = 1_000
    """With the messages of one history answer; one message's are always given whole."""
    hold_s: float = 280.0
    """How long a poll without news is held; clients read for 310 s."""
    tail_messages: int = 100
    tail_s: float = 16 * 60
    tails_bytes: int = 256 * 1024 * 1024
    """All tails together; the channels idle for longest give theirs up first."""
    memory_log_bytes: int = 256 * 1024 * 1024
    """The history of a network that keeps nothing on disk; the oldest messages go first."""
    log_bytes: int = 16 * 1024 * 1024 * 1024
    """The history of a network with a data directory; the oldest messages go first."""
    history_ttl_hours: int = 24 * 30
    """How long a stored message without a ttl of its own is kept; 0 keeps it for ever."""
    token_skew_s: int = 60
    """How far a signed request's clock may be off."""
    token_chars: int = 32 * 1024
    """A capability token's text: what fits into an address beside the rest."""
    tokens_cached_chars: int = 16 * 1024 * 1024
    """Texts of verified tokens kept, so that a request with a known token costs a look-up."""
    patterns_per_token: int = 100
    pattern_chars: int = 512
    """One expression of a token."""
    pattern_steps_per_token: int = 10_000
    """Size of all its expressions, compiled; a name is matched once, in at most this many steps for each character."""
    backlog_tasks: int = 10
    """Tasks that may wait for one agent when neither its card nor its instances say otherwise."""
    living_tasks: int = 100_000
    """Tasks of all agents together that have not ended; they are kept in memory."""
    request_parts: int = 100
    cancel_grace_s: float = 30.0
    """How long a handler may take to end when that was asked for; then the network ends its task."""
    expire_grace_s: float = 10.0
    """The same at the end of a pipe task's time."""
    tasks_per_page: int = 100
    presence_records: int = 1_000_000
    """Each is one uuid on one channel, about a kilobyte."""
    presence_timeout_s: int = 3_600
    """The longest timeout that a client can ask for."""
    here_now_names: int = 100_000
    """Names in one here-now answer, all its channels together; the numbers stay exact beyond."""
    filter_depth: int = 32
    """Parentheses and signs within each other in a filter expression."""
    channels_per_registration: int = 200
    """Channels added to or removed from a group with one request."""
    groups_per_keyset: int = 100_000
    resources_per_token: int = 1_000
    """Names and patterns in one grant."""
    agents_per_org: int = 1_000
    agents_per_page: int = 100
    card_bytes: int = 128 * 1024
    """One agent card; a page of the registry holds a hundred of them."""
    instances_per_agent: int = 10_000
    """Instances that are remembered, those that connected last; a start of a program makes a new one."""
    webhooks_at_once: int = 64
    """Webhook calls under way, of all organisations together."""
    webhooks_at_once_per_org: int = 16
    """So that one whose receivers are slow does not hold up the others."""
    webhook_timeout_s: float = 15.0
    """For one call, from the look-up of the name to the head of the answer."""
    webhook_answer_bytes: int = 16 * 1024
    """Read of a receiver's answer, and thrown away: its status says all."""
    webhook_retry_first_s: float = 5.0
    """Before the second call; each later pause is three times as long, up to the next bound."""
    webhook_retry_cap_s: float = 2 * 60 * 60
    webhook_keep_trying_s: float = 24 * 60 * 60
    webhook_log_s: float = 30 * 24 * 60 * 60
    """How long deliveries that have ended can be read about."""
    webhook_artifacts_per_task: int = 1_000
    """Artifacts that a task's webhook is told of; its end is always told."""

    def __post_init__(self) -> None:
        """ConfigurationError for a bound that would refuse everything, or nothing."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0 or (value == 0 and field.name not in MAY_BE_ZERO):
                raise ConfigurationError(
                    f"the limit {field.name} is {value}", hint="limits are positive; leave it out for its default"
                )

    def changed(self, assignments: Iterable[str]) -> Limits:
        """These limits with some set anew, each written as NAME=NUMBER. ConfigurationError says what is wrong."""
        given: dict[str, float] = {}
        for assignment in assignments:
            name, _, text = (part.strip() for part in assignment.partition("="))
            if name not in _KINDS:
                near = difflib.get_close_matches(name, _KINDS, n=1)
                hint = f"did you mean {near[0]}?" if near else "docs/limits.md lists them all"
                raise ConfigurationError(f"there is no limit {name!r}", hint=hint)
            try:
                given[name] = _KINDS[name](text.replace("_", ""))
            except ValueError:
                kind = "a whole number" if _KINDS[name] is int else "a number"
                raise ConfigurationError(f"the limit {name} is {kind}, not {text!r}", hint=f"as {name}=100") from None
        return replace(self, **given)  # type: ignore[arg-type]


_KINDS: dict[str, type[int] | type[float]] = {
    field.name: float if field.type == "float" else int for field in fields(Limits)
}
