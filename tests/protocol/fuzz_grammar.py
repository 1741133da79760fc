"""What the fuzz runs send: requests near to valid ones, of every operation of both doors, and what is no request.

A template names an operation; every place in it is filled with a value that holds or with one from the edge of what can
be written. So most requests get past the first check, and something further in has to refuse them.
"""

from __future__ import annotations

import base64
import copy
import gzip
import hmac
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from fuzz_target import Seeds
from hypothesis import strategies as st

from blocks_network.server.access.keysets import Keyset
from blocks_network.wire.versions import PROTOCOL_VERSION

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
    "auth": ["x"],
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
MEANT_FOR = {
    "/v2/subscribe": ["tt", "tr", "channel-group", "filter-expr", "heartbeat", "state"],
    "/v2/presence": ["channel-group", "heartbeat", "state", "limit", "offset", "disable_uuids"],
    "/publish": ["store", "norep", "ttl", "meta", "custom_message_type"],
    "/v1/files": ["store", "ttl", "meta", "limit", "next", "expires"],
    "/v3/history": [
        "max", "start", "end", "reverse", "include_meta", "include_uuid", "include_message_type", "timetoken",
        "include_custom_message_type", "channelsTimetoken",
    ],
    "/v2/history": ["count", "start", "end", "reverse", "include_token", "include_meta"],
    "/v1/channel-registration": ["add", "remove"],
    "/v1/message-actions": ["limit", "start", "end"],
    "/api/v1/registry": ["agentName", "listing", "tag", "limit", "cursor", "include"],
}  # fmt: skip
"""Parameters that an operation reads, by the beginning of its path."""
GATEWAY = [
    ("GET", "/publish/{pub}/{sub}/0/{channel}/0/{json}"),
    ("POST", "/publish/{pub}/{sub}/0/{channel}/0"),
    ("POST", "/v1/publish-batch/{pub}/{sub}"),
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
RESOURCES = {"channels": {"room": 3}, "groups": {"g1": 5}, "uuids": {}, "users": {}, "spaces": {"room": 3}}
BODY_OF: dict[str, Any] = {
    "generate-upload-url": {"name": "f.txt"},
    "{pub}/{sub}": {
        "messages": [
            {"channel": "room", "message": {"a": 1}, "meta": {"b": 2}, "store": True},
            {"channel": "a", "message": 1},
        ]
    },
    "{number}": {"type": "reaction", "value": "smile"},
    "grant": {
        "ttl": 60,
        "permissions": {"resources": RESOURCES, "patterns": {"channels": {"^r.*$": 1}}, "meta": {"a": 1}, "uuid": "me"},
    },
}
"""What operations expect whose path ends so."""
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
    connect = {
        **name,
        "instanceId": "i2",
        "billingMode": "free",
        "protocolVersions": [PROTOCOL_VERSION],
        "concurrency": 2,
    }
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
        (
            "POST",
            "/api/v1/files/request-upload",
            [upload, {**upload, "role": "provider-output", "taskId": seeds.task_id}],
        ),
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
def near(draw: st.DrawFn, templates: Sequence[Any], changes: Sequence[int] = (0, 1, 1, 2, 3)) -> Any:
    """A value near to one of these: some of its places filled with something odd, or gone."""
    value = copy.deepcopy(draw(st.sampled_from(templates)))
    for _ in range(draw(st.sampled_from(changes))):
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
def bodies(draw: st.DrawFn, templates: Sequence[Any], oddness: int) -> bytes:
    """JSON; as `oddness` grows, now and then torn, or no JSON at all."""
    how = draw(st.sampled_from(["whole"] * (20 - oddness) + ["odd", "any", "torn"] * oddness))
    if how == "odd":
        return draw(st.sampled_from(ODD_BODIES))
    if how == "any":
        return draw(st.binary(max_size=60))
    value = draw(near(templates)) if oddness else draw(near(templates, [0, 0, 1]))
    text = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    return text[: draw(st.integers(0, len(text)))] if how == "torn" else text


def _text(good: Sequence[str], odd: Sequence[str], oddness: int) -> st.SearchStrategy[str]:
    """What holds; as `oddness` goes from 0 to 9, more often something odd, seldom anything at all."""
    anything = st.binary(max_size=20).map(lambda raw: quote(raw, safe="%"))
    kinds = [st.sampled_from(good)] * (10 - oddness) + [st.sampled_from(odd)] * oddness + [anything] * (oddness // 2)
    return st.sampled_from(kinds).flatmap(lambda kind: kind)


def _slots(seeds: Seeds, keyset: Keyset, oddness: int) -> dict[str, st.SearchStrategy[str]]:
    good = near(MESSAGES, changes=[0] if not oddness else [0, 1, 2]).map(
        lambda value: quote(json.dumps(value), safe="")
    )
    broken = st.sampled_from(["%7B", "1e400", "NaN", "%22%5Cud800%22", "", "%FF", "1" * 3_000, "%5B" * 2_000])
    names = _text(CHANNELS, ODD_NAMES, oddness)
    return {
        "pub": _text([keyset.publish_key], ["pub-c-x", "", "0"], oddness // 2),
        "sub": _text([keyset.subscribe_key], ["sub-c-x", "", "%FF"], oddness // 2),
        "channel": names,
        "channels": st.lists(names, min_size=1, max_size=3).map(",".join),
        "group": _text(["g1", "g2"], ODD_NAMES, oddness),
        "uuid": _text(["me", "u2"], ODD_NAMES, oddness),
        "number": _text(["17000000000000000"], ODD_NUMBERS, oddness),
        "token": _text([seeds.expired, seeds.spare], ["x", "qEF2", "A" * 200], oddness),
        "json": st.sampled_from([good] * (10 - oddness) + [broken] * oddness).flatmap(lambda kind: kind),
    }


@st.composite
def _queries(draw: st.DrawFn, seeds: Seeds, path: str, oddness: int) -> str:
    good = {**PARAMETERS, "agentName": [seeds.agent_name]}
    meant = next((names for begin, names in MEANT_FOR.items() if path.startswith(begin)), ["uuid"])
    names = draw(st.lists(st.sampled_from(meant), max_size=5, unique=True))
    if oddness:
        names += draw(st.lists(st.sampled_from([*good, "", "%FF", "l_pub"]), max_size=3))
    pairs = [
        f"{name}={draw(_text([quote(value, safe='%') for value in good.get(name, ['1'])], _QUOTED_ODD, oddness // 2))}"
        for name in names
        if name not in ("auth", "signature", "timestamp") or oddness > 4
    ]
    bad = [seeds.expired, seeds.token[:-2], "x", "", "qEF2" * 9_000]
    pairs += [f"auth={draw(_text([seeds.token], bad, oddness // 2))}", "uuid=me"]
    if oddness > 6:
        pairs.append(draw(st.sampled_from(["&&&", "=", "a", "%", "auth", "tt=1&tt=2", "x=" + "y" * 30_000])))
    return "&".join(pair for pair in pairs if not pair.startswith("auth=%"))


def _signed(keyset: Keyset, method: str, path: str, query: str, body: bytes) -> str:
    """The query with a signature of version 2; only what the grammar's good values write is encoded right."""
    pairs = dict(pair.partition("=")[::2] for pair in query.split("&") if pair and not pair.startswith("auth="))
    pairs["timestamp"] = str(int(time.time()))
    text = "&".join(f"{name}={quote(unquote(value), safe='-_.')}" for name, value in sorted(pairs.items()))
    what = f"{method}\n{keyset.publish_key}\n{path}\n{text}\n".encode() + body
    digest = hmac.new(keyset.secret_key.encode(), what, "sha256").digest()
    return f"{text}&signature=v2.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


_QUOTED_ODD = [quote(text) for text in [*ODD_NUMBERS, *ODD_TEXTS]]


@st.composite
def _encoded(draw: st.DrawFn, body: bytes) -> tuple[bytes, list[str]]:
    """The body as it travels, and the headers that say so, which need not be true."""
    how = draw(st.sampled_from([0, 1, 2, 3] + [4] * 12))
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
    """One whole request, as bytes. How odd it is goes from not at all to beyond recognition."""
    oddness = draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, 9]))
    asked = _gateway_request(seeds, oddness) if draw(st.booleans()) else _platform_request(seeds, oddness)
    method, target, headers, body = draw(asked)
    if oddness and draw(st.integers(0, 19)) == 19:
        method = draw(st.sampled_from(METHODS))
    body, said = draw(_encoded(body)) if body and oddness else (body, [])
    head = f"{method} {quote(target, safe=_AS_IT_IS)} HTTP/1.1\r\n" + "\r\n".join(["host: t", *headers, *said])
    return Request(method, draw(_framed(head.encode("latin-1", "replace"), method, body)))


Parts = tuple[str, str, list[str], bytes]
"""Method, target, headers, body."""


@st.composite
def _gateway_request(draw: st.DrawFn, seeds: Seeds, oddness: int) -> Parts:
    method, template = draw(st.sampled_from(GATEWAY))
    keyset = draw(st.sampled_from([seeds.keyset, seeds.playground]))
    slots = _slots(seeds, keyset, oddness)
    path = "/".join(draw(slots[piece[1:-1]]) if piece.startswith("{") else piece for piece in template.split("/"))
    body, headers = b"", []
    if method == "POST":
        fitting = [body for ending, body in BODY_OF.items() if template.endswith(ending)]
        body = draw(bodies(fitting or MESSAGES, oddness))
    if template.endswith("/upload"):
        body = FORM[: draw(st.integers(0, len(FORM)))] if oddness else FORM
        headers.append("content-type: multipart/form-data; boundary=b")
    query = draw(_queries(seeds, template, oddness))
    if draw(st.integers(0, 3)) == 3 or "pam" in template:
        query = _signed(keyset, method, path, query, body)
    return method, f"{path or '/'}?{query}", headers, body


@st.composite
def _platform_request(draw: st.DrawFn, seeds: Seeds, oddness: int) -> Parts:
    method, path, templates = draw(st.sampled_from(_platform(seeds)))
    body = b"" if templates == [None] else draw(bodies(templates, oddness))
    good = [seeds.access_token, seeds.api_key] if path.endswith("rpc") else [seeds.api_key]
    credential = draw(_text(good, ["bk_x", "ey.x.y", "", "x" * 3_000, seeds.access_token], oddness // 2))
    headers = [f"authorization: Bearer {credential}"]
    if oddness:
        headers += draw(st.lists(st.sampled_from(_PLATFORM_HEADERS), max_size=1))
    query = draw(_queries(seeds, path, oddness)) if method != "POST" or oddness > 4 else ""
    return method, f"{path}?{query}" if query else path, headers, body


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
    keyset = seeds.keyset
    start = b"POST /publish/%b/%b/0/a/0" % (keyset.publish_key.encode(), keyset.subscribe_key.encode())
    malformed = [
        b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 50, b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"FOO /time/0 HTTP/1.1\r\n\r\n",
        b"GET /time/0 HTTP/1.0\r\n\r\n", b"GET /time/0\r\n\r\n", b"GET http://x/time/0 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET * HTTP/1.1\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nhost: t\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 140_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 30_000 + b"\r\n", b"GET //time/0 HTTP/1.1\r\nhost: t\r\n\r\n",
        start + b" HTTP/1.1\r\ncontent-length: -1\r\n\r\n", start + b" HTTP/1.1\r\ncontent-length: 9\r\n\r\n1",
        start + b" HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n11",
        start + b" HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        start + b" HTTP/1.1\r\ntransfer-encoding: x\r\n\r\n",
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
