"""Every bound of the network, with its unit and its reason. Configurable; docs/limits.md has what each refusal says."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults suit one node on a small machine. Sizes are bytes of what arrives, after any decompression."""

    message_bytes: int = 32 * 1024
    """The protocol's own bound for a publish."""
    signal_bytes: int = 64
    body_bytes: int = 1024 * 1024
    """A request body of any kind but a file."""
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
    """For each token, refilled evenly; a second's worth may come at once."""
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
