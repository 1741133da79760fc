"""Signed requests: each form that clients send is accepted, and nothing that was changed on the way."""

from __future__ import annotations

import base64
import hmac
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pubnub.endpoints.presence.heartbeat import Heartbeat
from pubnub.endpoints.pubsub.subscribe import Subscribe
from pubnub.exceptions import PubNubException
from pubnub.models.consumer.v3.channel import Channel
from pubnub.pnconfiguration import PNConfiguration
from pubnub.pubnub import PubNub

from blocks_network.server.access.authorizer import Authorizer, Denied, Grant
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.tokens import CapabilityTokens
from blocks_network.server.gateway.request import Request
from blocks_network.server.limits import Limits

KEYSET = Keyset("playground", "pub-c-1", "sub-c-1", "sec-c-1")

Seen = tuple[str, str, bytes]


class Recorder:
    """A server that answers every request with the same JSON and keeps what came."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding"):
                    body = zlib.decompress(body)
                recorder.seen.append((self.command, self.path, body))
                answer = b'{"status":200,"m":[],"t":{"t":"1","r":1}}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_DELETE = _serve  # the library's names

            def log_message(self, *args: object) -> None:
                """Requests are kept, not printed."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), name="recorder")
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture(scope="module")
def pubnub(recorder: Recorder) -> Iterator[PubNub]:
    config = PNConfiguration()
    config.publish_key, config.subscribe_key = KEYSET.publish_key, KEYSET.subscribe_key
    config.secret_key = KEYSET.secret_key
    config.uuid = "user 1~(x)/é%"[:9]
    config.origin, config.ssl = f"127.0.0.1:{recorder.server.server_port}", False
    client = PubNub(config)
    yield client
    client.stop()
    client._request_handler._session.close()


def check(seen: Seen, *, keyset: Keyset = KEYSET, now_s: float | None = None) -> Grant:
    method, address, body = seen
    path, _, query = address.partition("?")
    scope = {"method": method, "path": path, "raw_path": path.encode("latin-1"), "query_string": query.encode()}

    async def receive() -> Any:
        raise AssertionError("the body is given")

    request = Request(scope, receive, Limits())
    authorizer = Authorizer(CapabilityTokens(), skew_s=60, clock=lambda: time.time() if now_s is None else now_s)
    return authorizer.check(
        keyset,
        method=method,
        raw_path=request.raw_path,
        raw_query=request.raw_query,
        query=request.query,
        body=body,
        needs=(),
        signature_only=True,
    )


Call = Callable[[PubNub], Any]
ODD = "a b/c~d!e'(f)*[g]é,+&=%41"
NAME = "room/1 ~!*'(é)"

CALLS: dict[str, Call] = {
    "publish": lambda client: client.publish().channel(NAME).message({"x": ODD}).meta({"m": ODD}).should_store(True),
    "publish by post": lambda client: (
        client.publish().channel(NAME).message({"x": ODD}).meta({"m": ODD}).use_post(True)
    ),
    "publish compressed": lambda client: (
        client.publish().channel(NAME).message({"x": ODD}).use_post(True).use_compression(True)
    ),
    "publish with a type": lambda client: client.publish().channel("c").message(1).custom_message_type("a-type_1"),
    "fire": lambda client: client.fire().channel(NAME).message({"x": 1}).meta({"m": "a b/c~d!'(f)"}),
    "signal": lambda client: client.signal().channel(NAME).message("s"),
    "subscribe": lambda client: Subscribe(client).channels([NAME, "d"]).channel_groups([NAME, "g"]),
    "subscribe with a filter": lambda client: (
        Subscribe(client).channels("c").filter_expression("meta.a == '" + ODD + '\' && data.b LIKE "x*"').timetoken(1)
    ),
    "heartbeat with state": lambda client: (
        Heartbeat(client).channels([NAME]).channel_groups(["g 1~!", "h"]).state({NAME: {"n": ODD}})
    ),
    "set state": lambda client: client.set_state().channels([NAME]).state({"n": ODD}),
    "get state": lambda client: client.get_state().channels([NAME]),
    "here now": lambda client: client.here_now().channels([NAME]).include_state(True),
    "here now of a group": lambda client: client.here_now().channels([NAME]).channel_groups([NAME, "g"]),
    "where now": lambda client: client.where_now().uuid(NAME),
    "add to a group": lambda client: client.add_channel_to_channel_group().channels(["a", "b c"]).channel_group(NAME),
    "list a group": lambda client: client.list_channels_in_channel_group().channel_group(NAME),
    "fetch": lambda client: client.fetch_messages().channels([NAME, "d"]).maximum_per_channel(5).include_meta(True),
    "history": lambda client: client.history().channel(NAME).count(3),
    "delete history": lambda client: client.delete_messages().channel(NAME).start(1).end(2),
    "counts": lambda client: client.message_counts().channel(NAME).channel_timetokens([1]),
    "time": lambda client: client.time(),
    "grant": lambda client: client.grant_token().ttl(5).channels([Channel.id(ODD).read()]).meta({"m": ODD}),
    "revoke": lambda client: client.revoke_token("qEF2AkF0-_=="),
    "upload url": lambda client: client._fetch_file_upload_s3_data().channel(NAME).file_name(ODD),
    "file message": lambda client: (
        client.publish_file_message()
        .channel(NAME)
        .message({"x": ODD})
        .meta({"m": ODD})
        .file_id("id")
        .file_name("a b.txt")
        .should_store(True)
        .ttl(5)
    ),
    "file url": lambda client: client.get_file_url().channel(NAME).file_id("id").file_name("a b.txt"),
    "list files": lambda client: client.list_files().channel(NAME),
    "delete file": lambda client: client.delete_file().channel(NAME).file_id("id").file_name("a b.txt"),
}


def send(recorder: Recorder, call: Any) -> Seen:
    """The last request that the call made; what it makes of the answer does not matter here."""
    before = len(recorder.seen)
    try:
        call.sync()
    except (PubNubException, KeyError, TypeError, IndexError, AttributeError, AssertionError, UnicodeError):
        assert len(recorder.seen) > before
    return recorder.seen[-1]


@pytest.mark.parametrize("name", CALLS)
def test_the_client_s_signature_is_accepted_and_covers_the_request(
    recorder: Recorder, pubnub: PubNub, name: str
) -> None:
    method, address, body = seen = send(recorder, CALLS[name](pubnub))
    assert check(seen) == Grant(signed=True)
    with pytest.raises(Denied, match="Signature"):
        check((method, address.replace("?", "?extra=1&"), body))
    with pytest.raises(Denied, match="Signature"):
        check((method, address.replace("/", "/x", 2), body))
    with pytest.raises(Denied, match="Signature"):
        check(seen, keyset=Keyset("other", KEYSET.publish_key, KEYSET.subscribe_key, "sec-c-2"))
    if body and name not in ("publish by post", "publish compressed"):  # that client signs those without their body
        with pytest.raises(Denied, match="Signature"):
            check((method, address, body + b" "))


@pytest.mark.parametrize(("off_s", "accepted"), [(-61, False), (-58, True), (58, True), (61, False)])
def test_the_clock_of_a_signed_request_may_be_a_minute_off(
    recorder: Recorder, pubnub: PubNub, off_s: int, accepted: bool
) -> None:
    seen = send(recorder, pubnub.time())
    signed_s = int(seen[1].partition("timestamp=")[2].partition("&")[0])
    if accepted:
        assert check(seen, now_s=signed_s + off_s).signed
    else:
        with pytest.raises(Denied, match="Timestamp"):
            check(seen, now_s=signed_s + off_s)


def _javascript_post(body: bytes = b'{"x":1}') -> Seen:
    """POST publish as the JavaScript client signs it: as a GET and without its body."""
    query = f"pnsdk=PubNub-JS-Nodejs%2F8.2&timestamp={int(time.time())}&uuid=u~1"
    path = "/publish/pub-c-1/sub-c-1/0/c/0"
    text = f"GET\npub-c-1\n{path}\n{query.replace('~', '%7E')}\n"
    digest = hmac.digest(KEYSET.secret_key.encode(), text.encode(), "sha256")
    signature = "v2." + base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return "POST", f"{path}?{query}&signature={signature}", body


def test_a_javascript_post_is_accepted() -> None:
    assert check(_javascript_post()).signed


@pytest.mark.parametrize("signature", ["", "v2.", "v2.é", "x" * 44, "v1.abc", "v2." + "A" * 43])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_signature_that_is_none_is_refused(method: str, signature: str) -> None:
    address = f"/publish/pub-c-1/sub-c-1/0/c/0?timestamp={int(time.time())}&signature={signature}"
    with pytest.raises(Denied, match="Signature"):
        check((method, address, b""))


@pytest.mark.parametrize("timestamp", ["", "abc", "-1", "9" * 30, "1e9"])
def test_a_time_that_is_none_is_refused(timestamp: str) -> None:
    with pytest.raises(Denied, match="Timestamp"):
        check(("GET", f"/time/0?timestamp={timestamp}&signature=v2.x", b""))
