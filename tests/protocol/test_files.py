"""Files over a real socket: the unmodified `pubnub` clients send, list, download and delete them."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import random
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from gateway_harness import DEADLINE_S, GatewayNode
from pubnub.exceptions import PubNubException
from pubnub.pnconfiguration import PNConfiguration
from pubnub.pubnub import PubNub
from pubnub.pubnub_asyncio import PubNubAsyncio

from blocks_network.errors import AccessDeniedError, TransportError
from blocks_network.server.access.authorizer import Bits
from blocks_network.server.blobs.terms import UploadTerms, form_path
from blocks_network.server.limits import Limits
from blocks_network.transport import files as transport
from blocks_network.transport.pubnub import PubNubKeys, make_client
from blocks_network.wire.artifacts import ArtifactRef

MIB = 1024 * 1024
ALL = Bits.READ | Bits.WRITE | Bits.DELETE


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture
def sender(gateway_node: GatewayNode) -> PubNub:
    """May do everything in `room`, by token."""
    return gateway_node.client("u1", token=gateway_node.mint(channels={"room": ALL}))


def send(client: PubNub, name: str, data: Any, channel: str = "room", message: Any = None) -> Any:
    builder = client.send_file().channel(channel).file_name(name).file_object(data).message(message)
    return builder.should_store(True).sync().result


def download(client: PubNub, file_id: str, name: str, channel: str = "room") -> bytes:
    data = client.download_file().channel(channel).file_id(file_id).file_name(name).sync().result.data
    assert isinstance(data, bytes)
    return data


def names_in(client: PubNub, channel: str = "room") -> list[str]:
    return [each["name"] for each in client.list_files().channel(channel).sync().result.data]


# -- the round -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 20 * MIB])
def test_a_file_comes_back_as_it_went(sender: PubNub, size: int, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(content_of(size))
    with path.open("rb") as opened:
        sent = send(sender, "data.bin", opened)
    assert sent.timestamp
    (listed,) = sender.list_files().channel("room").sync().result.data
    assert (listed["id"], listed["name"], listed["size"]) == (sent.file_id, "data.bin", size)
    got = download(sender, sent.file_id, "data.bin")
    assert hashlib.sha256(got).digest() == hashlib.sha256(path.read_bytes()).digest()
    deleted = sender.delete_file().channel("room").file_id(sent.file_id).file_name("data.bin").sync()
    assert deleted.result.status == 200
    assert names_in(sender) == []
    with pytest.raises(PubNubException) as caught:
        download(sender, sent.file_id, "data.bin")
    assert caught.value.get_status_code() == 404


def test_signed_requests_work_without_a_token(gateway_node: GatewayNode) -> None:
    owner = gateway_node.client("owner", secret=True)
    for name in ("plain.txt", "with space.txt", "grüße.txt"):
        sent = send(owner, name, b"content", message={"text": "a b"})
        assert download(owner, sent.file_id, name) == b"content"
        owner.delete_file().channel("room").file_id(sent.file_id).file_name(name).sync()


@pytest.mark.parametrize(
    "name", ["a b.txt", "grüße 日本.txt", "50%.txt", "a%20b.txt", 'quo"te.txt', "plus+and&.txt", "x" * 255]
)
def test_names_survive(sender: PubNub, name: str) -> None:
    sent = send(sender, name, b"content")
    assert names_in(sender) == [name]
    assert download(sender, sent.file_id, name) == b"content"


def test_the_asyncio_client(gateway_node: GatewayNode) -> None:
    config = PNConfiguration()
    config.publish_key = gateway_node.open_keyset.publish_key
    config.subscribe_key = gateway_node.open_keyset.subscribe_key
    config.uuid, config.origin, config.ssl = "u1", gateway_node.origin, False

    async def both_ways() -> str:
        client = PubNubAsyncio(config)
        try:
            sent = await client.send_file().channel("room").file_name("a.txt").file_object(b"content").future()
            got = await client.download_file().channel("room").file_id(sent.result.file_id).file_name("a.txt").future()
            assert got.status.status_code == 200
            return str(sent.result.file_id)
        finally:
            await client.stop()
            client._subscription_manager.loop.close()  # made by the library, and left open

    file_id = asyncio.run(both_ways())
    assert download(gateway_node.client("u2"), file_id, "a.txt") == b"content"  # that client itself hands out no bytes


def test_subscribers_and_history_hear_of_it(gateway_node: GatewayNode, sender: PubNub) -> None:
    # asked without the client's listeners: a file message ends their thread in the library itself
    token = gateway_node.mint(channels={"room": Bits.READ})
    poll = f"/v2/subscribe/{gateway_node.keyset.subscribe_key}/room/0?uuid=u2&auth={token}"
    _, hello = gateway_node.ask(f"{poll}&tt=0")
    sent = send(sender, "a.txt", b"content", message={"note": "look"})
    _, news = gateway_node.ask(f"{poll}&tt={hello['t']['t']}&tr=1")
    (heard,) = news["m"]
    told = {"message": {"note": "look"}, "file": {"id": sent.file_id, "name": "a.txt"}}
    assert (heard["e"], heard["i"], heard["d"]) == (4, "u1", told)
    assert "u" not in heard  # clients send the meta "null" for none
    reader = gateway_node.client("u2", token=token)
    (kept,) = reader.fetch_messages().channels(["room"]).include_message_type(True).sync().result.channels["room"]
    assert (kept.message, kept.message_type) == (told, 4)


def test_a_list_goes_by_pages_from_old_to_new(sender: PubNub) -> None:
    for number in range(5):
        send(sender, f"{number}.txt", b"x")
    seen: list[str] = []
    token: str | None = None
    for expected in (2, 2, 1):
        builder = sender.list_files().channel("room").limit(2)
        page = (builder.next(token) if token else builder).sync().result
        assert page.count == len(page.data) == expected
        seen += [each["name"] for each in page.data]
        token = page.next
    assert token is None
    assert seen == [f"{number}.txt" for number in range(5)]


# -- what is refused -----------------------------------------------------------------------------------------------


def test_each_operation_needs_its_permission(gateway_node: GatewayNode, sender: PubNub) -> None:
    sent = send(sender, "a.txt", b"content")
    reader = gateway_node.client("u2", token=gateway_node.mint(channels={"room": Bits.READ}))
    writer = gateway_node.client("u3", token=gateway_node.mint(channels={"room": Bits.WRITE}))
    here = {"file_id": sent.file_id, "name": "a.txt"}
    for call in (
        lambda: send(reader, "b.txt", b"x"),
        lambda: download(writer, **here),
        lambda: names_in(writer),
        lambda: reader.delete_file().channel("room").file_id(sent.file_id).file_name("a.txt").sync(),
        lambda: download(reader, **here, channel="other"),
    ):
        with pytest.raises(PubNubException) as caught:
            call()
        assert caught.value.get_status_code() == 403
    assert download(reader, **here) == b"content"


@pytest.mark.parametrize("name", ["", "..", "a/b.txt", "new\nline", "x" * 256])
def test_a_name_that_is_no_file_name_is_refused(gateway_node: GatewayNode, name: str) -> None:
    path = f"/v1/files/{gateway_node.open_keyset.subscribe_key}/channels/room/generate-upload-url?uuid=u1"
    status, answer = gateway_node.ask(path, method="POST", body=json.dumps({"name": name}).encode())
    assert (status, answer["message"]) == (400, "Invalid file name")


def test_a_download_address_holds_for_its_file_alone(gateway_node: GatewayNode, sender: PubNub) -> None:
    first, second = send(sender, "a.txt", b"one"), send(sender, "b.txt", b"two")
    address = urlsplit(
        sender.get_file_url().channel("room").file_id(first.file_id).file_name("a.txt").sync().result.file_url
    )
    assert raw(gateway_node, "GET", f"{address.path}?{address.query}")[::2] == (200, b"one")
    other = address.path.replace(first.file_id, second.file_id).replace("a.txt", "b.txt")
    expires = next(pair for pair in address.query.split("&") if pair.startswith("expires="))
    later = f"expires={int(expires[8:]) + 1000}"
    for path, query in (
        (other, address.query),
        (address.path, address.query.replace(expires, later)),
        (address.path, ""),
    ):
        status, headers, body = raw(gateway_node, "GET", f"{path}?{query}")
        assert status == 403
        assert b"AccessDenied" in body
        assert headers["content-type"] == "application/xml"


def test_content_comes_as_an_attachment_of_known_length(gateway_node: GatewayNode, sender: PubNub) -> None:
    sent = send(sender, "päge.html", b"<script>")
    address = urlsplit(
        sender.get_file_url().channel("room").file_id(sent.file_id).file_name("päge.html").sync().result.file_url
    )
    _, headers, _ = raw(gateway_node, "GET", f"{address.path}?{address.query}")
    assert headers["content-length"] == "8"
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''p%C3%A4ge.html"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["etag"] == f'"{hashlib.sha256(b"<script>").hexdigest()}"'


# -- forms ---------------------------------------------------------------------------------------------------------


def raw(
    node: GatewayNode, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(node.origin, timeout=DEADLINE_S)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def terms_of(
    node: GatewayNode, *, max_bytes: int = 10, expires_at_s: int = 2**40, exact: bool = False
) -> dict[str, str]:
    blob_id = "01900000-0000-7000-8000-000000000001"
    terms = UploadTerms("room", blob_id, "a.txt", "text/plain", max_bytes, expires_at_s, exact)
    return dict(terms.form_fields(node.open_keyset.subscribe_key, node.open_keyset.secret_key))


def post(node: GatewayNode, fields: dict[str, str], data: bytes) -> tuple[int, bytes]:
    pieces = [f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = b"".join(pieces) + head + data + b"\r\n--b--\r\n"
    path = form_path(node.open_keyset.subscribe_key)
    status, _, said = raw(node, "POST", path, body, Content_Type="multipart/form-data; boundary=b")
    return status, said


def test_a_form_takes_its_file_once(gateway_node: GatewayNode) -> None:
    fields = terms_of(gateway_node)
    assert post(gateway_node, fields, b"0123456789")[0] == 204
    assert post(gateway_node, fields, b"0123456789")[0] == 204  # a client that did not hear the first answer
    assert post(gateway_node, fields, b"other")[0] == 409
    client = gateway_node.client("u1")
    assert download(client, "01900000-0000-7000-8000-000000000001", "a.txt") == b"0123456789"


@pytest.mark.parametrize(
    ("change", "data", "status", "word"),
    [
        ({}, b"x" * 11, 400, b"EntityTooLarge"),
        ({"exact": True}, b"x" * 9, 400, b"MalformedPOSTRequest"),
        ({"expires_at_s": 1}, b"x", 403, b"AccessDenied"),
        ({"max_bytes": 10, "altered": True}, b"x", 403, b"AccessDenied"),
    ],
)
def test_a_form_beyond_its_terms_leaves_nothing(
    gateway_node: GatewayNode, change: dict[str, Any], data: bytes, status: int, word: bytes
) -> None:
    altered = change.pop("altered", False)
    fields = terms_of(gateway_node, **change)
    if altered:
        fields["policy"] = fields["policy"][:-4] + "AAAA"
    got, said = post(gateway_node, fields, data)
    assert (got, word in said) == (status, True)
    assert names_in(gateway_node.client("u1")) == []


def test_what_is_no_form_is_refused(gateway_node: GatewayNode) -> None:
    path = form_path(gateway_node.open_keyset.subscribe_key)
    for kind, body in (
        ("text/plain", b"x"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"nonsense" * 1000),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * MIB),
    ):
        status, _, said = raw(gateway_node, "POST", path, body, Content_Type=kind)
        assert (status, b"MalformedPOSTRequest" in said) == (400, True)


def test_the_python_client_hears_why_a_file_is_too_large() -> None:
    node = GatewayNode(Limits(upload_bytes=1000)).start()
    try:
        client = node.client("u1")
        for size in (1001, 5 * MIB):  # the larger one is refused before it is sent to its end
            with pytest.raises(PubNubException, match="EntityTooLarge") as caught:
                send(client, "a.bin", b"x" * size)
            assert caught.value.get_status_code() == 400
        send(client, "a.bin", b"x" * 1000)
        assert names_in(client) == ["a.bin"]
    finally:
        node.stop()


def test_silence_ends_an_upload() -> None:
    node = GatewayNode(Limits(upload_idle_s=0.05)).start()
    connection = http.client.HTTPConnection(node.origin, timeout=DEADLINE_S)
    try:
        connection.putrequest("POST", form_path(node.open_keyset.subscribe_key))
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"--b\r\n")
        assert connection.getresponse().status == 408
    finally:
        connection.close()
        node.stop()


# -- our own transport ---------------------------------------------------------------------------------------------


@pytest.fixture
def ours(gateway_node: GatewayNode) -> PubNub:
    keyset = gateway_node.keyset
    keys = PubNubKeys(keyset.subscribe_key, keyset.publish_key, gateway_node.origin, ssl=False)
    return make_client(keys, user_id="u9", token=gateway_node.mint(channels={"room": ALL}))


@pytest.mark.parametrize("name", ["a b.txt", "grüße.txt", "50%25.txt", "what?.txt", "#1.txt"])
def test_our_download_takes_any_name(sender: PubNub, ours: PubNub, name: str) -> None:
    sent = send(sender, name, b"content")
    assert (
        transport.download_file(ours, ArtifactRef("file", channel="room", file_id=sent.file_id, file_name=name))
        == b"content"
    )


def test_our_download_checks_what_it_was_promised(sender: PubNub, ours: PubNub) -> None:
    data = content_of(3 * MIB)
    sent = send(sender, "a.bin", data)
    good = ArtifactRef("file", size=len(data), hash=f"sha256:{hashlib.sha256(data).hexdigest()}", file_name="a.bin")
    good.channel, good.file_id = "room", sent.file_id
    assert transport.download_file(ours, good) == data
    for field, value in (("size", 10), ("size", len(data) + 1), ("hash", "sha256:" + "0" * 64), ("file_name", "b.bin")):
        bad = ArtifactRef.from_dict(good.to_dict())
        setattr(bad, field, value)
        with pytest.raises(TransportError):
            transport.download_file(ours, bad)
    good.channel = "other"
    with pytest.raises(AccessDeniedError):
        transport.download_file(ours, good)


def test_a_target_that_fails_says_so_itself(sender: PubNub, ours: PubNub) -> None:
    sent = send(sender, "a.bin", content_of(3 * MIB))

    class Full:
        def write(self, piece: bytes) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        transport.download_to(ours, "room", sent.file_id, "a.bin", Full())


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
def test_our_upload_streams_from_the_disk(gateway_node: GatewayNode, tmp_path: Path, size: int) -> None:
    data = content_of(size)
    path = tmp_path / "data"
    path.write_bytes(data)
    url = f"http://{gateway_node.origin}{form_path(gateway_node.open_keyset.subscribe_key)}"
    fields = list(terms_of(gateway_node, max_bytes=size, exact=True).items())
    for content in (path, data, memoryview(data)):
        assert transport.post_form(url, fields, content, file_name='a"\r\nb', mime_type="x/y\r\nz")[0] == 204
    client = gateway_node.client("u1")
    assert download(client, "01900000-0000-7000-8000-000000000001", "a.txt") == data


def test_our_upload_hears_an_early_refusal(gateway_node: GatewayNode) -> None:
    url = f"http://{gateway_node.origin}{form_path(gateway_node.open_keyset.subscribe_key)}"
    fields = list(terms_of(gateway_node).items())
    status, said = transport.post_form(url, fields, b"x" * 20 * MIB, file_name="a", mime_type="x/y")
    assert (status, "EntityTooLarge" in said) == (400, True)
