"""How messages go out: one publish each, or several in one request where the network offers that."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from pubnub.pubnub import PubNub

from blocks_network.errors import AccessDeniedError, TransportError
from blocks_network.jsontext import encode_plain
from blocks_network.transport.faults import ConnectFailed
from blocks_network.transport.http import POOL
from blocks_network.transport.pubnub import PubNubKeys, call, keys_of

__all__ = ["BatchSender", "Outgoing", "Refused", "Sender", "SingleSender", "Skipped", "is_final"]

log = logging.getLogger(__name__)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
FINAL_STATUSES = (400, 404, 413, 414)
"""Answers that say that this very message will never be taken."""
BATCH_MAX = 100
BATCH_BYTES = 512 * 1024
"""Networks take bodies of 1 MiB; one message has at most 32 KiB."""


class Refused(TransportError):
    """The network will never take this message."""


class Skipped(TransportError):
    """A message before it, on the same channel, was refused; this one was not looked at."""


def is_final(fault: TransportError) -> bool:
    """Whether trying again is in vain."""
    return isinstance(fault, (Refused, AccessDeniedError)) and not isinstance(fault, ConnectFailed)


@dataclass(slots=True)
class Outgoing:
    """One message. Those of one `key` (a task's id) go out in their order, each after the one before was taken."""

    key: str
    client: PubNub
    channel: str
    message: Any
    meta: dict[str, str]
    store: bool = True
    sent: Callable[[], None] | None = None
    """Called on the publisher's thread when the network has taken it."""
    lost: Callable[[TransportError], None] | None = None
    """Called on the publisher's thread when it never will."""
    attempts: int = field(default=0, init=False)


class Sender(Protocol):
    """Sends what a publisher gathered. Blocks, on the publisher's thread."""

    most: int
    """Messages that it takes at once."""

    def together(self, one: Outgoing, other: Outgoing) -> bool:
        """Whether both may be in one call of `send`."""

    def send(self, batch: Sequence[Outgoing]) -> list[TransportError | None]:
        """What became of each: None when the network has it. Messages of one key are in their order."""


class SingleSender:
    """A publish for each message, as the protocol has it."""

    most = 1

    def together(self, one: Outgoing, other: Outgoing) -> bool:
        return False

    def send(self, batch: Sequence[Outgoing]) -> list[TransportError | None]:
        return [self._send(outgoing) for outgoing in batch]

    def _send(self, outgoing: Outgoing) -> TransportError | None:
        try:
            call(
                outgoing.client.publish()
                .channel(outgoing.channel)
                .message(outgoing.message)
                .meta(outgoing.meta)
                .should_store(outgoing.store)
                .use_post(True)
            )
        except ConnectFailed as fault:
            return fault
        except TransportError as fault:
            status = getattr(fault.__cause__, "get_status_code", lambda: 0)()
            return Refused(str(fault)) if status in FINAL_STATUSES else fault
        except Exception as fault:  # what the library raises over a message that it cannot encode
            log.exception("a message for %s cannot be sent", outgoing.channel)
            return Refused(f"the message cannot be sent ({fault})")
        return None


class BatchSender:
    """Requests of the extension `batch-publish`: each message under its own token, all answers at once."""

    most = BATCH_MAX

    def __init__(self) -> None:
        self._singles = SingleSender()
        self._address: tuple[PubNubKeys, str, str] | None = None

    def together(self, one: Outgoing, other: Outgoing) -> bool:
        """Of one keyset; the publisher's name is the same for all of an instance."""
        if one.client.config is other.client.config:
            return True
        return keys_of(one.client) == keys_of(other.client)

    def send(self, batch: Sequence[Outgoing]) -> list[TransportError | None]:
        results: list[TransportError | None] = []
        pieces: list[bytes] = []
        first = size = 0
        for index, outgoing in enumerate(batch):
            piece = _encoded(outgoing)
            if piece is None or size + len(piece) > BATCH_BYTES:
                results += self._request(batch[first:index], pieces)
                first, pieces, size = index, [], 0
            if piece is None:
                results += self._singles.send(batch[index : index + 1])  # it has the words for what is wrong
                first = index + 1
            else:
                pieces.append(piece)
                size += len(piece)
        return results + self._request(batch[first:], pieces)

    def _request(self, batch: Sequence[Outgoing], pieces: Sequence[bytes]) -> list[TransportError | None]:
        if not batch:
            return []
        try:
            response = POOL.request(
                "POST",
                self._address_for(batch[0].client),
                body=b'{"messages":[%b]}' % b",".join(pieces),
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                connect_timeout_s=batch[0].client.config.connect_timeout,
                read_timeout_s=batch[0].client.config.non_subscribe_request_timeout,
            )
        except TransportError as fault:
            return [fault] * len(batch)
        if response.status_code in (400, 404, 413):  # one of them spoils the rest, or the network takes none after all
            log.debug("a batch is refused with %d; its messages go one by one", response.status_code)
            return self._one_by_one(batch)
        if response.status_code != 200:
            return [TransportError(f"HTTP {response.status_code} to a batch of messages")] * len(batch)
        try:
            results = response.json()["results"]
            return [_fault(result) for result in results[: len(batch)]]
        except (ValueError, KeyError, TypeError) as fault:
            wrong = TransportError("the answer to a batch of messages makes no sense")
            wrong.__cause__ = fault
            return [wrong] * len(batch)

    def _one_by_one(self, batch: Sequence[Outgoing]) -> list[TransportError | None]:
        """In order for each key: behind one that failed, the rest of its key waits."""
        held: set[str] = set()
        results: list[TransportError | None] = []
        for outgoing in batch:
            if outgoing.key in held:
                results.append(Skipped("a message before it was not taken"))
                continue
            fault = self._singles.send((outgoing,))[0]
            if fault is not None:
                held.add(outgoing.key)
            results.append(fault)
        return results

    def _address_for(self, client: PubNub) -> str:
        keys, user_id = keys_of(client), client.uuid
        if self._address is None or self._address[:2] != (keys, user_id):
            scheme = "https" if keys.ssl else "http"
            path = f"/v1/publish-batch/{quote(keys.publish_key or '', safe='')}/{quote(keys.subscribe_key, safe='')}"
            self._address = (keys, user_id, f"{scheme}://{keys.origin}{path}?{urlencode({'uuid': user_id})}")
        return self._address[2]


def _encoded(outgoing: Outgoing) -> bytes | None:
    """The item's JSON; None when the message is none."""
    item = {
        "channel": outgoing.channel,
        "message": outgoing.message,
        "meta": outgoing.meta,
        "store": outgoing.store,
        "auth": outgoing.client._get_token() or "",
    }
    plain = encode_plain(item)
    if plain is not None:
        return plain
    try:
        return _encode(item).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError):
        return None


def _fault(result: dict[str, Any]) -> TransportError | None:
    status = int(result["status"])
    if status == 200:
        return None
    said = f"HTTP {status}: {result.get('message', '')}"
    if status == 424:
        return Skipped(said)
    if status == 403:
        return AccessDeniedError(said, body=str(result.get("message", "")))
    return Refused(said) if status in FINAL_STATUSES else TransportError(said)
