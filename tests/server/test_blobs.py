"""Blobs in a directory: whole or not at all, bounded, never in memory; and the signed terms around them."""

from __future__ import annotations

import asyncio
import hashlib
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from blocks_network.server.access.keysets import Keyset, Keysets
from blocks_network.server.blobs import Blob, BlobClash, BlobsFull, BlobTooLarge, new_blob_id
from blocks_network.server.blobs.directory import DirectoryBlobs
from blocks_network.server.blobs.sessions import UnknownUploadSession, UploadSessions, file_folder
from blocks_network.server.blobs.terms import (
    TermsRefused,
    UploadTerms,
    form_path,
    open_seal,
    seal,
    sign_download,
    verify_download,
)
from blocks_network.server.bus.embedded import EmbeddedBus
from blocks_network.server.gateway import files
from blocks_network.server.gateway.app import Gateway
from blocks_network.server.limits import Limits
from blocks_network.server.presence.embedded import EmbeddedPresence

MIB = 1024 * 1024
LATER_S = 2**40


def with_blobs(
    test: Callable[[DirectoryBlobs], Awaitable[None]], path: Path | None = None, capacity_bytes: int | None = None
) -> None:
    async def run() -> None:
        blobs = DirectoryBlobs(path, capacity_bytes=capacity_bytes)
        await blobs.start()
        try:
            await test(blobs)
        finally:
            await blobs.stop()

    asyncio.run(run())


async def put(blobs: DirectoryBlobs, folder: str, data: bytes, blob_id: str | None = None, **attributes: str) -> Blob:
    writer = await blobs.open(folder, blob_id or new_blob_id(), limit_bytes=len(data), attributes=attributes)
    try:
        for start in range(0, len(data), 100_000):
            await writer.write(data[start : start + 100_000])
        return await writer.commit()
    finally:
        await writer.abort()


async def whole(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def files_below(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if each.is_file()]


# -- what is written comes back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 3 * MIB])
def test_content_comes_back_whole_and_in_ranges(size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]

    async def test(blobs: DirectoryBlobs) -> None:
        blob = await put(blobs, "folder", data, name="ä")
        assert (blob.size, blob.sha256, blob.attributes) == (size, hashlib.sha256(data).hexdigest(), {"name": "ä"})
        assert await blobs.find("folder", blob.blob_id) == blob
        assert await whole(blobs.read(blob)) == data
        assert await whole(blobs.read(blob, start=5, length=7)) == data[5:12]
        assert await whole(blobs.read(blob, start=size)) == b""

    with_blobs(test)


def test_blobs_outlive_the_process_and_unended_uploads_do_not(tmp_path: Path) -> None:
    kept: list[Blob] = []

    async def first(blobs: DirectoryBlobs) -> None:
        kept.append(await put(blobs, "folder", b"content"))
        writer = await blobs.open("folder", new_blob_id(), limit_bytes=MIB)
        await writer.write(b"x" * MIB)  # and never ended

    async def second(blobs: DirectoryBlobs) -> None:
        assert list(await blobs.list("folder", limit=10)) == kept
        assert len(files_below(tmp_path)) == 1
        assert blobs.used_bytes == files_below(tmp_path)[0].stat().st_size

    with_blobs(first, tmp_path)
    with_blobs(second, tmp_path)


def test_nothing_is_seen_before_the_commit() -> None:
    async def test(blobs: DirectoryBlobs) -> None:
        blob_id = new_blob_id()
        writer = await blobs.open("folder", blob_id, limit_bytes=10)
        await writer.write(b"content")
        assert await blobs.find("folder", blob_id) is None
        assert list(await blobs.list("folder", limit=10)) == []
        await writer.commit()
        assert await blobs.find("folder", blob_id) is not None

    with_blobs(test)


def test_a_blob_never_changes() -> None:
    async def test(blobs: DirectoryBlobs) -> None:
        blob_id = new_blob_id()
        first = await put(blobs, "folder", b"content", blob_id)
        used = blobs.used_bytes
        assert await put(blobs, "folder", b"content", blob_id) == first
        with pytest.raises(BlobClash):
            await put(blobs, "folder", b"another", blob_id)
        assert await whole(blobs.read(first)) == b"content"
        assert blobs.used_bytes == used

    with_blobs(test)


def test_folders_are_apart_whatever_they_are_called(tmp_path: Path) -> None:
    async def test(blobs: DirectoryBlobs) -> None:
        blob_id = new_blob_id()
        folders = ["a", "a/b", "../../escape", "", "\0", "x" * 5000, "\ud800"]
        for folder in folders:
            await put(blobs, folder, folder.encode("utf-8", "replace"), blob_id)
        for folder in folders:
            (blob,) = await blobs.list(folder, limit=10)
            assert await whole(blobs.read(blob)) == folder.encode("utf-8", "replace")
        assert await blobs.find("a", "../" + blob_id) is None

    with_blobs(test, tmp_path / "inside")
    assert [each.name for each in tmp_path.iterdir()] == ["inside"]


def test_lists_go_from_old_to_new() -> None:
    async def test(blobs: DirectoryBlobs) -> None:
        ids = [(await put(blobs, "folder", b"x", f"01900000-000{n}-7000-8000-000000000000")).blob_id for n in range(5)]
        assert [blob.blob_id for blob in await blobs.list("folder", limit=3)] == ids[:3]
        assert [blob.blob_id for blob in await blobs.list("folder", limit=9, after=ids[2])] == ids[3:]

    with_blobs(test)


def test_a_reader_goes_on_when_the_blob_is_deleted() -> None:
    async def test(blobs: DirectoryBlobs) -> None:
        blob = await put(blobs, "folder", b"x" * MIB)
        reading = blobs.read(blob)
        first = await anext(reading)
        assert await blobs.delete("folder", blob.blob_id)
        assert not await blobs.delete("folder", blob.blob_id)
        assert first + await whole(reading) == b"x" * MIB
        with pytest.raises(LookupError):
            await whole(blobs.read(blob))
        assert blobs.used_bytes == 0

    with_blobs(test)


# -- bounds --------------------------------------------------------------------------------------------------------


def test_a_writer_takes_no_more_than_it_may(tmp_path: Path) -> None:
    async def test(blobs: DirectoryBlobs) -> None:
        writer = await blobs.open("folder", new_blob_id(), limit_bytes=10)
        await writer.write(b"x" * 10)
        with pytest.raises(BlobTooLarge):
            await writer.write(b"x")
        await writer.abort()
        await writer.abort()
        assert blobs.used_bytes == 0
        assert files_below(tmp_path) == []

    with_blobs(test, tmp_path)


def test_all_blobs_together_are_bounded_and_room_comes_back(tmp_path: Path) -> None:
    async def test(blobs: DirectoryBlobs) -> None:
        blob = await put(blobs, "folder", b"x" * 50_000)
        with pytest.raises(BlobsFull):
            await put(blobs, "folder", b"x" * 60_000)
        await blobs.delete("folder", blob.blob_id)
        await put(blobs, "folder", b"x" * 60_000)

    with_blobs(test, tmp_path, capacity_bytes=100_000)


def test_a_cancelled_upload_leaves_nothing(tmp_path: Path) -> None:
    async def test(blobs: DirectoryBlobs) -> None:
        begun = asyncio.Event()

        async def upload() -> None:
            writer = await blobs.open("folder", new_blob_id(), limit_bytes=100 * MIB)
            try:
                while True:
                    await writer.write(b"x" * MIB)
                    begun.set()
            finally:
                await writer.abort()

        task = asyncio.create_task(upload())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert blobs.used_bytes == 0
        assert files_below(tmp_path) == []

    with_blobs(test, tmp_path)


def test_a_damaged_file_is_no_blob(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(blobs: DirectoryBlobs) -> None:
        blob = await put(blobs, "folder", b"content")
        (file,) = files_below(tmp_path)
        file.write_bytes(file.read_bytes()[:-1])
        assert await blobs.find("folder", blob.blob_id) is None
        assert list(await blobs.list("folder", limit=10)) == []

    with_blobs(test, tmp_path)
    assert "damaged" in caplog.text


# -- signed terms --------------------------------------------------------------------------------------------------


def test_terms_hold_for_what_was_signed_alone() -> None:
    terms = UploadTerms("room", new_blob_id(), "ä.txt", "text/plain", 10, LATER_S, attributes={"partId": "p"})
    policy, signature = terms.sealed("secret")
    assert UploadTerms.opened("secret", policy, signature) == terms
    for secret, text, mark in (
        ("other", policy, signature),
        ("secret", policy[:-2] + "AA", signature),
        ("secret", policy, signature[:-2] + "AA"),
        ("secret", "", ""),
        ("secret", "ä", "ä"),
        ("secret", policy, "\ud800"),
        ("secret", *seal("secret", "confirm", {"expires_at_s": LATER_S})),  # another purpose
    ):
        with pytest.raises(TermsRefused, match="altered"):
            UploadTerms.opened(secret, text, mark)


def test_terms_end() -> None:
    with pytest.raises(TermsRefused, match="expired"):
        open_seal("secret", "upload", *seal("secret", "upload", {"expires_at_s": int(time.time())}))
    now_s = int(time.time())
    with pytest.raises(TermsRefused, match="expired"):
        verify_download("s", "c", "id", "n", str(now_s), sign_download("s", "c", "id", "n", now_s))


def test_a_download_signature_covers_every_field() -> None:
    signature = sign_download("s", "c", "id", "n", LATER_S)
    verify_download("s", "c", "id", "n", str(LATER_S)[:11], sign_download("s", "c", "id", "n", int(str(LATER_S)[:11])))
    for arguments in (
        ("x", "c", "id", "n", "99999999999"),
        ("s", "x", "id", "n", "99999999999"),
        ("s", "c", "x", "n", "99999999999"),
        ("s", "c", "id", "x", "99999999999"),
        ("s", "c", "id", "n", "99999999998"),
        ("s", "c", "id", "n", "-1"),
        ("s", "c", "id", "n", "٣"),
        ("s", "c", "id", "n", ""),
    ):
        with pytest.raises(TermsRefused, match="altered"):
            verify_download(*arguments, signature)


# -- upload sessions -----------------------------------------------------------------------------------------------


def test_a_session_belongs_to_its_org_and_agent() -> None:
    keyset = Keyset.generate("playground")

    async def test(blobs: DirectoryBlobs) -> None:
        sessions = UploadSessions(blobs=blobs, keysets=Keysets([keyset]))
        session = sessions.begin(keyset, org_id="org1", agent_name="echo")
        for part, data in (("a", b"old"), ("b", b"other"), ("a", b"new")):
            terms = UploadTerms(session.channel, new_blob_id(), f"{part}.txt", "text/plain", 10, LATER_S)
            attributes = {**terms.blob_attributes(), "partId": part}
            await put(blobs, file_folder(keyset, session.channel), data, terms.blob_id, **attributes)
            await asyncio.sleep(0.002)  # ids sort by the millisecond of their birth
        refs = await sessions.take(session.session_id, org_id="org1", agent_name="echo")
        assert {part: ref["size"] for part, ref in refs.items()} == {"a": 3, "b": 5}
        assert refs["a"]["hash"] == f"sha256:{hashlib.sha256(b'new').hexdigest()}"
        assert {ref["channel"] for ref in refs.values()} == {session.channel}
        tampered = session.session_id[:-1] + ("0" if session.session_id[-1] != "0" else "1")
        for session_id, org_id, agent_name in (
            (session.session_id, "org2", "echo"),
            (session.session_id, "org1", "other"),
            (tampered, "org1", "echo"),
            ("us_unknown", "org1", "echo"),
        ):
            with pytest.raises(UnknownUploadSession):
                await sessions.take(session_id, org_id=org_id, agent_name=agent_name)

    with_blobs(test)


# -- memory --------------------------------------------------------------------------------------------------------


def test_files_pass_through_without_being_held(tmp_path: Path) -> None:
    """32 MiB in and out of the gateway, while the process takes a few hundred KiB for it."""
    size, piece = 32 * MIB, 64 * 1024
    keyset = Keyset("open", "pub", "sub", "secret", access_control=False)

    async def test(blobs: DirectoryBlobs) -> None:
        limits = Limits()
        bus, presence = EmbeddedBus(None, limits), EmbeddedPresence()
        gateway = Gateway(
            keysets=Keysets([keyset]),
            bus=bus,
            presence=presence,
            authorizer=None,
            limits=limits,
            public_base="http://h",
        )
        files.routes(gateway, blobs)
        terms = UploadTerms("room", new_blob_id(), "a", "x/y", size, LATER_S)
        tracemalloc.start()
        try:
            upload = body_of(terms.form_fields("sub", "secret"), size, piece)
            assert await ask(gateway, "POST", form_path("sub"), upload) == (204, 0)
            signature = sign_download("secret", "room", terms.blob_id, "a", 2**33)
            path = f"/v1/files/content/sub/room/{terms.blob_id}/a"
            assert await ask(gateway, "GET", path, iter([b""]), f"expires={2**33}&signature={signature}") == (200, size)
            assert tracemalloc.get_traced_memory()[1] < 4 * MIB
        finally:
            tracemalloc.stop()

    with_blobs(test, tmp_path)


def body_of(fields: list[tuple[str, str]], size: int, piece: int) -> Any:
    for name, value in fields:
        yield f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for _ in range(size // piece):
        yield b"\r\n-x" * (piece // 4)  # looks like the beginning of a boundary again and again
    yield b"\r\n--b--\r\n"


async def ask(gateway: Gateway, method: str, path: str, body: Any, query: str = "") -> tuple[int, int]:
    """One request straight to the gateway: the answer's status and size."""
    pieces = iter(body)
    status = size = 0
    over = asyncio.Event()

    async def receive() -> MutableMapping[str, Any]:
        chunk = next(pieces, None)
        if chunk is not None:
            return {"type": "http.request", "body": chunk, "more_body": True}
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal status, size
        status = message.get("status", status)
        size += len(message.get("body", b""))

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers}
    await gateway(scope, receive, send)
    over.set()
    return status, size
