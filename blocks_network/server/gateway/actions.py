"""Message actions: add, get and remove them, and history that shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from blocks_network.server.access.authorizer import Bits, Need
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.bus import Draft, Kind
from blocks_network.server.bus.actions import Action, NotAdded
from blocks_network.server.gateway.envelope import quoted
from blocks_network.server.gateway.history import MAX_OF_SEVERAL, History, item_of
from blocks_network.server.gateway.reply import Refusal, Reply, bad_request, json_reply
from blocks_network.server.gateway.request import Request

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["MessageActions", "routes"]

SERVICE = "Message Actions"
MAX_ACTIONS = 100
"""In one answer; clients ask for no more."""
TIMETOKEN_DIGITS = 18
REFUSALS = {
    NotAdded.NO_MESSAGE: (404, "The channel has no stored message with this timetoken"),
    NotAdded.REPEATED: (409, "Message action already added"),
    NotAdded.FULL: (400, "The message has too many actions"),
}


def routes(gateway: Gateway) -> None:
    actions = MessageActions(gateway)
    base = "/v1/message-actions/{sub}/channel/{channel}"
    message = f"{base}/message/{{timetoken}}"
    gateway.add("POST", message, actions.add, service=SERVICE, operation="add_action")
    gateway.add("GET", base, actions.get, service=SERVICE, operation="get_actions")
    gateway.add("DELETE", f"{message}/action/{{action}}", actions.remove, service=SERVICE, operation="remove_action")
    history = "/v3/history-with-actions/sub-key/{sub}/channel/{channel}"
    gateway.add("GET", history, actions.history, service="History", operation="history_with_actions")


class MessageActions:
    """The bus keeps them; each change is told to the channel's subscribers, after it is durable."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._bus, self._limits = gateway, gateway.bus, gateway.limits
        self._history = History(gateway)

    async def add(self, request: Request, keyset: Keyset) -> Reply:
        body = await request.body()
        channel = self._gateway.publishing.allow(request, keyset, request.text(4), body)
        message = _timetoken(request.text(6))
        kind, value = self._read(body)
        if not request.uuid:
            raise bad_request("Missing uuid", SERVICE)
        added = await self._bus.actions.add(
            keyset.subscribe_key, channel, message, uuid=request.uuid, kind=kind, value=value
        )
        if isinstance(added, NotAdded):
            raise _refusal(*REFUSALS[added])
        await self._tell(request, keyset, channel, "added", added)
        return json_reply({"status": 200, "data": _shown(added)})

    async def get(self, request: Request, keyset: Keyset) -> Reply:
        """`end <= timetoken < start` of the action, the newest of them."""
        channel = request.text(4)
        self._gateway.authorize(request, keyset, (Need(channel, Bits.READ),))
        start, end = request.number("start"), request.number("end")
        limit = request.number("limit", MAX_ACTIONS, low=1, high=MAX_ACTIONS) or MAX_ACTIONS
        after = end - 1 if end is not None else None
        found = await self._bus.actions.of_channel(
            keyset.subscribe_key, channel, after=after, before=start, limit=limit + 1
        )
        answer: dict[str, Any] = {"status": 200, "data": [_shown(action) for action in found[-limit:]]}
        if len(found) > limit:
            answer["more"] = _more(request, found[-limit].timetoken, {"end": end, "limit": limit})
        return json_reply(answer)

    async def remove(self, request: Request, keyset: Keyset) -> Reply:
        channel = request.text(4)
        self._gateway.authorize(request, keyset, (Need(channel, Bits.DELETE),), await request.body())
        message, action = _timetoken(request.text(6)), _timetoken(request.text(8))
        removed = await self._bus.actions.remove(keyset.subscribe_key, channel, message, action)
        if removed is None:
            raise _refusal(404, "No such message action")
        await self._tell(request, keyset, channel, "removed", removed)
        return json_reply({"status": 200, "data": {}})

    async def history(self, request: Request, keyset: Keyset) -> Reply:
        """Fetch v3 of one channel; with fewer messages than asked for, and `more`, when their actions are too many."""
        channels = self._history.allowed_channels(request, keyset, 5, Bits.READ)
        if len(channels) > 1:
            raise bad_request("One channel with actions", "History")
        limit = request.number("max", MAX_OF_SEVERAL, low=1, high=MAX_OF_SEVERAL) or MAX_OF_SEVERAL
        messages = await self._history.page(request, keyset, channels[0], limit)
        forward = request.flag("reverse")
        wanted = [message.timetoken for message in (messages if forward else reversed(messages))]
        actions = await self._bus.actions.of_messages(
            keyset.subscribe_key, channels[0], wanted, limit=self._limits.actions_per_answer
        )
        items = b",".join(
            _with_actions(item_of(message, request), actions[message.timetoken])
            for message in messages
            if message.timetoken in actions
        )
        fields = b"%b:[%b]" % (quoted(channels[0]), items) if items else b""
        more = b""
        if len(actions) < len(messages):
            last = wanted[len(actions) - 1]
            more = b',"more":' + msgspec.json.encode(_more(request, last, {"max": limit}))
        return Reply(200, b'{"status":200,"error":false,"error_message":"","channels":{%b}%b}' % (fields, more))

    def _read(self, body: bytes) -> tuple[str, str]:
        """The type and the value of an action to add."""
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            raise bad_request("Invalid JSON", SERVICE) from None
        if not isinstance(given, dict):
            raise bad_request("Invalid message action", SERVICE)
        for name, longest in (("type", self._limits.name_bytes), ("value", self._limits.action_value_bytes)):
            text = given.get(name)
            if not isinstance(text, str) or not text:
                raise bad_request(f"Missing {name}", SERVICE)
            if not _fits(text, longest):
                raise bad_request(f"Invalid {name}", SERVICE)
        return given["type"], given["value"]

    async def _tell(self, request: Request, keyset: Keyset, channel: str, event: str, action: Action) -> None:
        told = {"data": _shown(action), "event": event, "source": "actions", "version": "1.0"}
        payload = msgspec.json.encode(told)
        draft = Draft(keyset.subscribe_key, channel, payload, request.uuid, kind=Kind.ACTION, stored=False)
        await self._bus.publish(draft)


def _with_actions(item: bytes, actions: Sequence[Action]) -> bytes:
    """The item of a history with its actions by type and value; as it is when there are none."""
    if not actions:
        return item
    grouped: dict[str, dict[str, list[dict[str, str]]]] = {}
    for action in actions:
        entry = {"uuid": action.uuid, "actionTimetoken": str(action.timetoken)}
        grouped.setdefault(action.type, {}).setdefault(action.value, []).append(entry)
    return b'%b,"actions":%b}' % (item[:-1], msgspec.json.encode(grouped))


def _shown(action: Action) -> dict[str, str]:
    return {
        "messageTimetoken": str(action.message),
        "type": action.type,
        "value": action.value,
        "uuid": action.uuid,
        "actionTimetoken": str(action.timetoken),
    }


def _more(request: Request, start: int, rest: dict[str, int | None]) -> dict[str, Any]:
    """Where to go on: the address and its parameters."""
    more: dict[str, Any] = {"start": str(start)}
    more |= {name: str(value) if name == "end" else value for name, value in rest.items() if value is not None}
    query = "&".join(f"{name}={value}" for name, value in more.items())
    return {"url": f"{request.raw_path}?{query}", **more}


def _timetoken(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= TIMETOKEN_DIGITS):
        raise bad_request("Invalid timetoken", SERVICE)
    return int(text)


def _fits(text: str, longest_bytes: int) -> bool:
    """Also refuses half a surrogate pair, which no answer could hold."""
    try:
        return len(text.encode()) <= longest_bytes
    except UnicodeEncodeError:
        return False


def _refusal(status: int, message: str) -> Refusal:
    body = {"status": status, "error": True, "message": message, "service": SERVICE}
    return Refusal(json_reply(body, status), "refused" if status != 404 else "not_found")
