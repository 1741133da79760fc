"""What the fuzz runs send: requests near to valid ones, of every operation of both doors, and what is no request.

A template names an operation; every place in it is filled with a value that holds or with one from the edge of what can
be written. So most requests get past the first check, and something further in has to refuse them.
"""

from __future__ import annotations

import copy
import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fuzz_target import Seeds
from hypothesis import strategies as st

__all__ = ["Request", "torn", "requests"]

CHANNELS = ["room", "a", "b.c", "b.*", "b.c.*", "u.org.t1", "setup.org.t1"]
ODD_NAMES = [
    "", ",", ",,a", "*", "a*b", ".*", "a.b.c.d.*", "room-pnpres", "b.*-pnpres", "-pnpres", "%00", "%0A", "%7F", "%FF",
    "%F0%9F%98%80", "%2F", "%2C", "%252C", "%zz", "%", "a%2Cb", "..", "%2E%2E", "+", "a+b", "x" * 300, "%C3%A9" * 200,
    ",".join(f"c{number}" for number in range(600)), "%ED%A0%80", "'", '"', "{}", "nul%00l", "\x7f",
]  # fmt: skip
ODD_NUMBERS = ["", "-1", "0", "1", "99999999999999999", "1" * 400, "1e9", "0x10", "%D9%A1", "17000000000000000", " 5"]
ODD_TEXTS = ["", "null", "true", "[]", "{}", '"', "\x00", "é", "\U0001f600", "a" * 3000, "%", "&", "=", "\\", "';--"]
ODD_BODIES = [
    b"", b" ", b"nul", b"null", b"[]", b'"x"', b"1e400", b"-", b"[" * 5_000, b'{"a":' * 2_000, b"[" * 500 + b"]" * 500,
    b"\xff\xfe", b'"\\ud800"', b'{"a":"\\ud83d"}', b'{"a":NaN}', b"1" * 5_000, b'{"id":' + b"9" * 400 + b"}",
    b'{"a":1,"a":2}', b"\xef\xbb\xbf{}", b'{"a":"' + b"x" * 40_000 + b'"}', b"x" * 1_100_000, b"\x00" * 100,
]  # fmt: skip
ODD_JSON: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, 10**30, 2**63, -(2**63) - 1, "", "x", "x" * 5_000, "\x00", "\u202e", "\U0001f600",
    "/../..", [], [[]], [None], {}, {"": {}}, {"a": [1, {"b": None}]}, [0] * 200, ["x"] * 200, "1", "true", "é" * 300,
]  # fmt: skip
METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"]
PARAMETERS = {
    "uuid": ["me", "u2", "x" * 300],
    "auth": [],
    "tt": ["0", "1000", "17000000000000000"],
    "tr": ["1", "0", "x"],
    "channel-group": ["g1", "g1,g2", "g1-pnpres", "g1%252Cg2"],
    "filter-expr": ["a == 1", "meta.x == 'y'", "(" * 40 + "1" + ")" * 40, "!", "data.a LIKE '*' && uuid != 'x'", "1/0"],
    "heartbeat": ["20", "0", "300"],
    "state": ["{}", '{"room":{"a":1}}', '{"room":1}', "[" * 200, "[]"],
    "store": ["0", "1", "2"],
    "norep": ["1", "true"],
    "ttl": ["0", "24"],
    "meta": ['{"x":1}', "1", "{", "null"],
    "custom_message_type": ["abc", "a"],
    "max": ["1", "100"],
    "count": ["1", "100"],
    "limit": ["1", "100"],
    "offset": ["0", "5"],
    "start": ["17000000000000000"],
    "end": ["17000000000000000"],
    "reverse": ["true", "false"],
    "include_meta": ["true"],
    "include_uuid": ["true"],
    "include_message_type": ["true"],
    "include_token": ["true"],
    "include_custom_message_type": ["true"],
    "timetoken": ["1", "1,2"],
    "channelsTimetoken": ["1", "1,2", ","],
    "add": ["room,a", "x%2Cy", "room-pnpres", "*"],
    "remove": ["room"],
    "disable_uuids": ["1"],
    "next": ["x", "00000000-0000-0000-0000-000000000000"],
    "signature": ["v2.x", ""],
    "timestamp": ["1700000000"],
    "expires": ["1", "99999999999"],
    "agentName": [],
    "listing": ["public", "private"],
    "tag": ["x"],
    "cursor": ["x", "eyJ9"],
    "include": ["full"],
}
GATEWAY = [
    ("GET", "/publish/{pub}/{sub}/0/{channel}/0/{json}"),
    ("POST", "/publish/{pub}/{sub}/0/{channel}/0"),
    ("GET", "/signal/{pub}/{sub}/0/{channel}/0/{json}"),
    ("GET", "/v2/subscribe/{sub}/{channels}/0"),
    ("GET", "/v2/presence/sub-key/{sub}/channel/{channels}/heartbeat"),
    ("GET", "/v2/presence/sub-key/{sub}/channel/{channels}/leave"),
    ("GET", "/v2/presence/sub-key/{sub}/channel/{channels}/uuid/{uuid}/data"),
    ("GET", "/v2/presence/sub-key/{sub}/channel/{channels}/uuid/{uuid}"),
    ("GET", "/v2/presence/sub-key/{sub}/channel/{channels}"),
    ("GET", "/v2/presence/sub-key/{sub}"),
    ("GET", "/v2/presence/sub-key/{sub}/uuid/{uuid}"),
    ("GET", "/time/0"),
    ("GET", "/v3/history/sub-key/{sub}/channel/{channels}"),
    ("GET", "/v3/history-with-actions/sub-key/{sub}/channel/{channel}"),
    ("GET", "/v3/history/sub-key/{sub}/message-counts/{channels}"),
    ("GET", "/v2/history/sub-key/{sub}/channel/{channel}"),
    ("DELETE", "/v3/history/sub-key/{sub}/channel/{channel}"),
    ("GET", "/v1/channel-registration/sub-key/{sub}/channel-group/{group}"),
    ("GET", "/v1/channel-registration/sub-key/{sub}/channel-group/{group}/remove"),
    ("GET", "/v1/channel-registration/sub-key/{sub}/channel-group"),
    ("POST", "/v1/files/{sub}/channels/{channel}/generate-upload-url"),
    ("POST", "/v1/files/{sub}/upload"),
    ("GET", "/v1/files/publish-file/{pub}/{sub}/0/{channel}/0/{json}"),
    ("GET", "/v1/files/{sub}/channels/{channel}/files/{uuid}/{channel}"),
    ("DELETE", "/v1/files/{sub}/channels/{channel}/files/{uuid}/{channel}"),
    ("GET", "/v1/files/{sub}/channels/{channel}/files"),
    ("GET", "/v1/files/content/{sub}/{channel}/{uuid}/{channel}"),
    ("POST", "/v3/pam/{sub}/grant"),
    ("DELETE", "/v3/pam/{sub}/grant/{token}"),
    ("POST", "/v1/message-actions/{sub}/channel/{channel}/message/{number}"),
    ("GET", "/v1/message-actions/{sub}/channel/{channel}"),
    ("DELETE", "/v1/message-actions/{sub}/channel/{channel}/message/{number}/action/{number}"),
    ("GET", "/v2/objects/{sub}/uuids"),
]
MESSAGES: list[Any] = [
    {"text": "hello"}, "text", 1, None, [1, 2], {"message": {"a": 1}, "file": {"id": "x", "name": "f.txt"}},
]  # fmt: skip
BODIES: list[Any] = [
    *MESSAGES,
    {"name": "f.txt"},
    {"type": "reaction", "value": "smile"},
    {"ttl": 60, "permissions": {"resources": {"channels": {"room": 3}}, "patterns": {"channels": {"^r.*$": 1}}}},
]
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="policy"\r\n\r\nx\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="f.txt"\r\n\r\nhello\r\n--b--\r\n'
)


@dataclass(frozen=True, slots=True)
class Request:
    """`data` is all that goes to the socket; it is one whole request."""

    method: str
    data: bytes

    def __repr__(self) -> str:
        return f"Request({self.method!r}, {self.data[:2000]!r})"


def _rpc_bodies(seeds: Seeds) -> list[Any]:
    parts = [{"partId": "request", "text": "hello", "contentType": "text/plain"}]
    send = {
        "agentName": seeds.agent_name, "billingMode": "free", "requestParts": parts, "taskKind": "request",
        "idempotencyKey": "k", "retryPolicy": {"maxAttempts": 2},
        "pushNotificationConfig": {"url": "http://127.0.0.1:1/x", "secret": "whsec_eA==", "events": ["terminal"]},
        "extensions": {"blocks": {"stream": True, "duration": 5, "consumerPublicKey": "x"}},
    }  # fmt: skip
    listed = {"limit": 5, "cursor": "x", "states": ["running"], "agentName": seeds.agent_name}
    about = {"taskId": seeds.task_id, "reason": "r"}
    methods = ["GetTask", "CancelTask", "PauseTask", "ResumeTask", "RetryTask", "TerminateTask", "NoSuchMethod"]
    calls = [("SendMessage", send), ("ListTasks", listed), *((method, about) for method in methods)]
    return [{"jsonrpc": "2.0", "id": 1, "method": method, "params": params} for method, params in calls]


def _platform(seeds: Seeds) -> list[tuple[str, str, list[Any]]]:
    """Method, path, and bodies that would hold there."""
    name = {"agentName": seeds.agent_name}
    card = {
        "identity": {"agentName": "fuzzed_card", "displayName": "x", "description": "x", "tags": ["a", "B c"]},
        "io": {"inputs": [{"id": "request", "contentType": "text/plain", "required": True}], "outputs": []},
        "capabilities": {"streaming": True}, "runtime": {"concurrency": 1},
    }  # fmt: skip
    terms = {"billingMode": "free", "listing": "public", "pricePerTask": 0}
    connect = {**name, "instanceId": "i2", "billingMode": "free", "protocolVersions": ["1.0"], "concurrency": 2}
    upload = {
        **name,
        "role": "input",
        "fileName": "f.txt",
        "fileSize": 5,
        "partId": "request",
        "mimeType": "text/plain",
    }
    return [
        ("POST", "/api/v1/rpc", _rpc_bodies(seeds)),
        ("POST", "/api/v1/registry/agents", [{"card": card, **terms}]),
        ("GET", "/api/v1/registry/agents", [None]),
        ("DELETE", "/api/v1/registry/agents", [{"reason": "x"}]),
        ("POST", "/api/v1/auth/agent/connect", [connect]),
        ("POST", "/api/v1/auth/agent/refresh", [{"refreshToken": seeds.refresh_token}, {"refreshToken": "brt_x"}]),
        ("POST", "/api/v1/auth/agent/consumer-token", [{"apiKey": seeds.api_key}]),
        ("POST", "/api/v1/auth/task-read-token", [{"taskId": seeds.task_id, "role": "consumer"}]),
        ("POST", "/api/v1/auth/anon-task-read-token", [{"taskId": seeds.task_id, "fingerprint": "x"}]),
        ("POST", "/api/v1/files/request-upload", [upload, {**upload, "role": "output", "taskId": seeds.task_id}]),
        ("POST", "/api/v1/files/confirm-upload", [{"uploadId": "x", "taskId": seeds.task_id}]),
        ("GET", "/config.json", [None]),
        ("GET", "/healthz", [None]),
        ("GET", "/metrics", [None]),
        ("GET", "/api/v1/nothing", [None]),
    ]


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every place of a JSON value, the root last."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in _places(one, (*at, key))] + [at]


@st.composite
def near(draw: st.DrawFn, templates: Sequence[Any]) -> Any:
    """A value near to one of these: some of its places filled with something odd, or gone."""
    value = copy.deepcopy(draw(st.sampled_from(templates)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        place = draw(st.sampled_from(_places(value)))
        odd = copy.deepcopy(draw(st.sampled_from(ODD_JSON)))
        if not place:
            return odd
        holder = value
        for key in place[:-1]:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.integers(0, 3)) == 0:
            del holder[place[-1]]
        else:
            holder[place[-1]] = odd
    return value


@st.composite
def bodies(draw: st.DrawFn, templates: Sequence[Any]) -> bytes:
    """JSON, now and then torn, or no JSON at all."""
    how = draw(st.integers(0, 11))
    if how == 0:
        return draw(st.sampled_from(ODD_BODIES))
    if how == 1:
        return draw(st.binary(max_size=60))
    text = json.dumps(draw(near(templates)), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    return text[: draw(st.integers(0, len(text)))] if how == 2 else text


def _text(good: Sequence[str], odd: Sequence[str]) -> st.SearchStrategy[str]:
    """Mostly what holds, else something odd, seldom anything; percent-encoded where it has to be."""
    anything = st.binary(max_size=20).map(lambda raw: quote(raw, safe="%"))
    return st.integers(0, 9).flatmap(
        lambda die: st.sampled_from(good) if die < 7 else st.sampled_from(odd) if die < 9 else anything
    )


def _slots(seeds: Seeds) -> dict[str, st.SearchStrategy[str]]:
    messages = st.one_of(
        near(MESSAGES).map(lambda value: quote(json.dumps(value), safe="")),
        st.sampled_from(["%7B", "1e400", "NaN", "%22%5Cud800%22", "", "%FF", "1" * 3_000, "%5B" * 2_000]),
    )
    names = _text(CHANNELS, ODD_NAMES)
    return {
        "pub": _text([seeds.keyset.publish_key], ["pub-c-x", "", "0"]),
        "sub": _text([seeds.keyset.subscribe_key, seeds.open_key], ["sub-c-x", "", "%FF"]),
        "channel": names,
        "channels": st.lists(names, min_size=1, max_size=3).map(",".join),
        "group": _text(["g1", "g2"], ODD_NAMES),
        "uuid": _text(["me", "u2"], ODD_NAMES),
        "number": _text(["17000000000000000"], ODD_NUMBERS),
        "token": _text([seeds.expired], ["x", "qEF2", "A" * 200]),
        "json": messages,
    }


@st.composite
def _queries(draw: st.DrawFn, seeds: Seeds) -> str:
    good = {**PARAMETERS, "agentName": [seeds.agent_name]}
    names = draw(st.lists(st.sampled_from([*good, "", "%FF", "l_pub"]), max_size=5))
    pairs = []
    for name in names:
        if name != "auth":
            values = good.get(name, ["1"])
            pairs.append(f"{name}={draw(_text([quote(value, safe='%') for value in values], _QUOTED_ODD))}")
    if draw(st.integers(0, 7)):
        auth = draw(st.sampled_from([seeds.token] * 8 + [seeds.expired, seeds.token[:-2], "x", "", "qEF2" * 9_000]))
        pairs += [f"auth={auth}", "uuid=me"]
    if draw(st.integers(0, 15)) == 0:
        pairs.append(draw(st.sampled_from(["&&&", "=", "a", "%", "auth", "tt=1&tt=2", "x=" + "y" * 30_000])))
    return "&".join(pairs)


_QUOTED_ODD = [quote(text) for text in [*ODD_NUMBERS, *ODD_TEXTS]]


@st.composite
def _encoded(draw: st.DrawFn, body: bytes) -> tuple[bytes, list[str]]:
    """The body as it travels, and the headers that say so, which need not be true."""
    how = draw(st.integers(0, 19))
    if how == 0:
        return gzip.compress(body), ["content-encoding: gzip"]
    if how == 1:
        return zlib.compress(body), ["content-encoding: gzip"]
    if how == 2:
        return body, ["content-encoding: deflate"]
    if how == 3:
        return zlib.compress(b"0" * 5_000_000), ["content-encoding: gzip"]
    return body, []


@st.composite
def requests(draw: st.DrawFn, seeds: Seeds) -> Request:
    """One whole request, as bytes."""
    headers = ["host: t"]
    if draw(st.booleans()):
        method, template = draw(st.sampled_from(GATEWAY))
        slots = _slots(seeds)
        path = "/".join(draw(slots[piece[1:-1]]) if piece.startswith("{") else piece for piece in template.split("/"))
        body = draw(bodies(BODIES)) if method == "POST" else b""
        if "upload" in template and draw(st.booleans()):
            body = FORM[: draw(st.integers(0, len(FORM)))] if draw(st.booleans()) else FORM
            headers.append("content-type: multipart/form-data; boundary=b")
    else:
        method, path, templates = draw(st.sampled_from(_platform(seeds)))
        body = b"" if templates == [None] else draw(bodies(templates))
        credentials = [seeds.api_key] * 6 + [seeds.access_token] * 3 + ["bk_x", "ey.x.y", "", "x" * 3_000]
        if draw(st.integers(0, 9)):
            headers.append(f"authorization: Bearer {draw(st.sampled_from(credentials))}")
        headers += draw(st.lists(st.sampled_from(_PLATFORM_HEADERS), max_size=1))
    if draw(st.integers(0, 19)) == 0:
        method = draw(st.sampled_from(METHODS))
    query = draw(_queries(seeds)) if draw(st.integers(0, 9)) else ""
    body, said = draw(_encoded(body)) if body else (body, [])
    target = (path or "/") + (f"?{query}" if query else "")
    head = f"{method} {quote(target, safe=_AS_IT_IS)} HTTP/1.1\r\n" + "\r\n".join([*headers, *said])
    return Request(method, draw(_framed(head.encode("latin-1", "replace"), method, body)))


_AS_IT_IS = "/%?&=,+*!'()[]{}:;@$~#\"\\|^<>`"
_PLATFORM_HEADERS = [
    "x-blocks-protocol-version: 9.9", "blocks-protocol-version: x", "content-type: text/plain", "expect: 100-continue",
    "content-type: multipart/form-data", "accept-encoding: gzip", "origin: http://x", "x-forwarded-for: 1.2.3.4",
]  # fmt: skip


@st.composite
def _framed(draw: st.DrawFn, head: bytes, method: str, body: bytes) -> bytes:
    """With a length, or in chunks."""
    if not body and method in ("GET", "HEAD", "OPTIONS", "DELETE"):
        return head + b"\r\n\r\n"
    if draw(st.integers(0, 5)) == 0:
        cut = draw(st.integers(0, len(body)))
        pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return head + b"\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return head + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def torn(seeds: Seeds) -> st.SearchStrategy[bytes]:
    """What is no whole request: cut short, malformed, or beyond what a head may be."""
    whole = requests(seeds).map(lambda request: request.data)
    start = b"POST /publish/%b/%b/0/a/0" % (seeds.keyset.publish_key.encode(), seeds.open_key.encode())
    malformed = [
        b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 50, b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"FOO /time/0 HTTP/1.1\r\n\r\n",
        b"GET /time/0 HTTP/1.0\r\n\r\n", b"GET /time/0\r\n\r\n", b"GET http://x/time/0 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET * HTTP/1.1\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nhost: t\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 140_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 30_000 + b"\r\n", b"GET //time/0 HTTP/1.1\r\nhost: t\r\n\r\n",
        start + b" HTTP/1.1\r\ncontent-length: -1\r\n\r\n", start + b" HTTP/1.1\r\ncontent-length: 9\r\n\r\n1",
        start + b" HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n11",
        start + b" HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", start + b" HTTP/1.1\r\ntransfer-encoding: x\r\n\r\n",
        start + b" HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n1",
        b"GET /time/0 HTTP/1.1\r\nhost: t\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-key: eA==\r\nsec-websocket-version: 13\r\n\r\n",
        b"GET /time/0 HTTP/1.1\r\nhost: t\r\n\r\n" * 50,
    ]  # fmt: skip
    return st.one_of(
        st.sampled_from(malformed),
        st.binary(max_size=100),
        st.tuples(whole, st.floats(0, 1)).map(lambda pair: pair[0][: int(len(pair[0]) * pair[1])]),
    )
