"""Files of a channel: an upload by form, its announcement, signed addresses, listing and deletion.

A client asks for a form, posts the file with it, and announces the file on the channel: three requests that know of
each other through signed terms alone. Content goes to the blobs and comes from them in pieces.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mimetypes
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import quote
from xml.sax.saxutils import escape

from blocks_network.server.access.authorizer import Bits, Need
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.blobs import Blob, BlobClash, Blobs, BlobsFull, BlobTooLarge, BlobWriter, new_blob_id
from blocks_network.server.blobs.sessions import file_folder
from blocks_network.server.blobs.terms import (
    TermsRefused,
    UploadTerms,
    form_path,
    is_file_name,
    sign_download,
    verify_download,
)
from blocks_network.server.bus import Draft, Kind
from blocks_network.server.gateway.form import Form, MalformedForm
from blocks_network.server.gateway.reply import JSON, Refusal, Reply, bad_request, json_reply, not_found
from blocks_network.server.gateway.request import Request
from blocks_network.server.gateway.sending import Streamed

if TYPE_CHECKING:
    from blocks_network.server.gateway.app import Gateway

__all__ = ["Files", "routes"]

log = logging.getLogger(__name__)

PAGE = 100
"""Files in one answer, at most; also when a client does not say."""
FORM_SPARE_BYTES = 1024 * 1024
"""What a form's body may have beside its file: fields, headers, boundaries."""
SERVICE = "Files"


def routes(gateway: Gateway, blobs: Blobs) -> None:
    files = Files(gateway, blobs)
    channel = "/v1/files/{sub}/channels/{channel}"
    add = gateway.add
    add("POST", f"{channel}/generate-upload-url", files.upload_url, service=SERVICE, operation="file_upload_url")
    add("POST", form_path("{sub}"), files.upload, service=SERVICE, operation="file_upload")
    announce = "/v1/files/publish-file/{pub}/{sub}/0/{channel}/0/{json}"
    add("GET", announce, files.announce, service=SERVICE, operation="file_publish")
    add("GET", f"{channel}/files", files.list, service=SERVICE, operation="file_list")
    add("GET", f"{channel}/files/{{id}}/{{name}}", files.url, service=SERVICE, operation="file_url")
    add("DELETE", f"{channel}/files/{{id}}/{{name}}", files.delete, service=SERVICE, operation="file_delete")
    content = "/v1/files/content/{sub}/{channel}/{id}/{name}"
    add("GET", content, files.content, service=SERVICE, operation="file_download")


class Files:
    """The operations on files. Nothing is remembered between requests."""

    def __init__(self, gateway: Gateway, blobs: Blobs) -> None:
        self._gateway, self._blobs, self._limits = gateway, blobs, gateway.limits

    # -- in ----------------------------------------------------------------------------------------------------------

    async def upload_url(self, request: Request, keyset: Keyset) -> Reply:
        """Gives out a form that takes one file, once, for a short time."""
        body = await request.body()
        channel = self._channel(request, 4)
        self._gateway.authorize(request, keyset, [Need(channel, Bits.WRITE)], body)
        terms = UploadTerms(
            channel=channel,
            blob_id=new_blob_id(),
            name=(name := self._wanted_name(body)),
            content_type=_content_type(name),
            max_bytes=self._limits.upload_bytes,
            expires_at_s=int(time.time()) + self._limits.upload_form_s,
        )
        fields = terms.form_fields(keyset.subscribe_key, keyset.secret_key)
        form = {
            "url": self._gateway.base_of(request) + form_path(keyset.subscribe_key),
            "method": "POST",
            "expiration_date": _iso(terms.expires_at_s),
            "form_fields": [{"key": key, "value": value} for key, value in fields],
        }
        answer = {"status": 200, "data": {"id": terms.blob_id, "name": name}, "file_upload_request": form}
        return json_reply(answer, content_type=JSON)

    def _wanted_name(self, body: bytes) -> str:
        try:
            wanted = json.loads(body)
        except (ValueError, RecursionError):
            raise bad_request("Invalid JSON", SERVICE) from None
        name = wanted.get("name") if isinstance(wanted, dict) else None
        if not isinstance(name, str) or not is_file_name(name, self._limits.name_bytes):
            raise bad_request("Invalid file name", SERVICE)
        return name

    async def upload(self, request: Request, keyset: Keyset) -> Reply:
        """Takes a form with its file to the blobs. What it may hold is in its signed terms, who sends it does not
        matter. Refusals are XML, as clients of such forms expect."""
        try:
            form = Form(request.header("content-type"), _in_time(request.chunks(), self._limits.upload_idle_s))
            await form.head()
            terms = UploadTerms.opened(
                keyset.secret_key, form.fields.get("policy", ""), form.fields.get("signature", "")
            )
            declared = request.header("content-length")
            if declared.isdigit() and int(declared[:20]) > terms.max_bytes + FORM_SPARE_BYTES:
                raise BlobTooLarge("the body says that it is too large")
            blob = await self._take(form, terms, keyset)
        except TermsRefused as fault:
            raise _refused(403, "AccessDenied", f"Invalid according to Policy: Policy {fault}.") from None
        except MalformedForm as fault:
            raise _refused(400, "MalformedPOSTRequest", str(fault)) from None
        except BlobTooLarge:
            raise _refused(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size") from None
        except BlobClash:
            raise _refused(409, "Conflict", "The form was used before, with another file") from None
        except BlobsFull as full:
            log.error("an upload is refused: %s", full)
            raise _refused(507, "InsufficientStorage", "The network cannot store files at the moment") from None
        except asyncio.TimeoutError:
            raise _refused(408, "RequestTimeout", "The upload was silent for too long") from None
        return Reply(204, b"", "application/xml", {"ETag": f'"{blob.sha256}"'})

    async def _take(self, form: Form, terms: UploadTerms, keyset: Keyset) -> Blob:
        writer = await self._blobs.open(
            file_folder(keyset, terms.channel),
            terms.blob_id,
            limit_bytes=terms.max_bytes,
            attributes=terms.blob_attributes(),
        )
        try:
            return await self._write(form, terms, writer)
        finally:
            await writer.abort()  # nothing after a commit

    async def _write(self, form: Form, terms: UploadTerms, writer: BlobWriter) -> Blob:
        size = 0
        async for piece in form.content():
            size += len(piece)
            await writer.write(piece)
        if terms.exact and size != terms.max_bytes:
            raise MalformedForm(f"the file has {size} bytes in place of {terms.max_bytes}")
        return await writer.commit()

    async def announce(self, request: Request, keyset: Keyset) -> Reply:
        """Publishes the message that tells of a file; it is an envelope of a kind of its own."""
        publishing = self._gateway.publishing
        channel, payload, options = publishing.from_path(request, keyset, self._limits.message_bytes, at=(3, 6, 8))
        draft = Draft(
            keyset.subscribe_key,
            channel,
            payload,
            request.uuid,
            None if options.meta == b"null" else options.meta,
            kind=Kind.FILE,
            custom_type=options.custom_type,
            stored=options.stored,
            ttl_hours=options.ttl_hours or None,  # clients send 0 for none
        )
        return await publishing.deliver(draft)

    # -- out ---------------------------------------------------------------------------------------------------------

    async def url(self, request: Request, keyset: Keyset) -> Reply:
        """Redirects to a signed address of the content, which needs no token."""
        channel = self._channel(request, 4)
        self._gateway.authorize(request, keyset, [Need(channel, Bits.READ)])
        blob = await self._find(request, keyset, channel)
        name = blob.attributes["name"]
        expires_at_s = int(time.time()) + self._limits.download_link_s
        signature = sign_download(keyset.secret_key, channel, blob.blob_id, name, expires_at_s)
        path = "/".join(quote(part, safe="") for part in (keyset.subscribe_key, channel, blob.blob_id, name))
        location = f"/v1/files/content/{path}?expires={expires_at_s}&signature={signature}"
        headers = {
            "Location": self._gateway.base_of(request) + location,
            "Cache-Control": f"private, max-age={self._limits.download_link_s // 2}",
        }
        return Reply(307, b"", headers=headers)

    async def content(self, request: Request, keyset: Keyset) -> Streamed:
        """The file behind a signed address."""
        channel = request.text(4)
        signature, expires = request.query.get("signature", ""), request.query.get("expires", "")
        try:
            verify_download(keyset.secret_key, channel, request.text(5), request.text(6), expires, signature)
        except TermsRefused as fault:
            raise _refused(403, "AccessDenied", f"The address is {fault}") from None
        blob = await self._blobs.find(file_folder(keyset, channel), request.text(5))
        if blob is None:
            raise not_found()
        chunks = self._blobs.read(blob)
        try:
            first = await anext(chunks, b"")
        except LookupError:  # deleted a moment ago
            raise not_found() from None
        headers = {
            "ETag": f'"{blob.sha256}"',
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(blob.attributes['name'], safe='')}",
            "X-Content-Type-Options": "nosniff",
        }
        kind = blob.attributes.get("contentType", "application/octet-stream")
        return Streamed(200, _while_heard(request, first, chunks), kind, blob.size, headers)

    async def list(self, request: Request, keyset: Keyset) -> Reply:
        """The files of a channel, from old to new, by pages."""
        channel = self._channel(request, 4)
        self._gateway.authorize(request, keyset, [Need(channel, Bits.READ)])
        limit = request.number("limit", PAGE, low=1, high=PAGE) or PAGE
        found = await self._blobs.list(
            file_folder(keyset, channel), limit=limit + 1, after=request.query.get("next") or None
        )
        page = found[:limit]
        data = [
            {
                "name": blob.attributes["name"],
                "id": blob.blob_id,
                "size": blob.size,
                "created": _iso(blob.created_at_ms // 1000),
            }
            for blob in page
        ]
        more = page[-1].blob_id if len(found) > limit else None
        return json_reply({"status": 200, "data": data, "next": more, "count": len(data)}, content_type=JSON)

    async def delete(self, request: Request, keyset: Keyset) -> Reply:
        """Removes a file for good. Downloads under way go on to their end."""
        channel = self._channel(request, 4)
        self._gateway.authorize(request, keyset, [Need(channel, Bits.DELETE)])
        blob = await self._find(request, keyset, channel)
        if not await self._blobs.delete(blob.folder, blob.blob_id):
            raise not_found()
        return json_reply({"status": 200}, content_type=JSON)

    # -- what requests name ------------------------------------------------------------------------------------------

    def _channel(self, request: Request, at: int) -> str:
        names = request.names(at)
        if len(names) != 1:
            raise bad_request("Invalid Channel", SERVICE)
        return names[0]

    async def _find(self, request: Request, keyset: Keyset, channel: str) -> Blob:
        """The blob of the path's id, when it has the path's name. 404."""
        blob = await self._blobs.find(file_folder(keyset, channel), request.text(6))
        # a client puts the name into the path as it is: a name that looks encoded must not be decoded then
        if blob is None or blob.attributes.get("name") not in (request.text(7), _raw(request.pieces[7])):
            raise not_found()
        return blob


async def _in_time(chunks: AsyncIterator[bytes], idle_s: float) -> AsyncIterator[bytes]:
    """The chunks; TimeoutError when the next one takes longer."""
    while True:
        chunk = await asyncio.wait_for(anext(chunks, None), idle_s)
        if chunk is None:
            return
        yield chunk


async def _while_heard(request: Request, first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The content, as long as somebody takes it. ConnectionError when the client has gone."""
    left = asyncio.ensure_future(request.gone())
    try:
        yield first
        async for chunk in chunks:
            if left.done():
                raise ConnectionError("the client left within a download")
            yield chunk
    finally:
        left.cancel()


def _refused(status: int, code: str, message: str) -> Refusal:
    error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{error}'
    return Refusal(Reply(status, body.encode("utf-8", "replace"), "application/xml"), code)


def _content_type(name: str) -> str:
    kind, encoding = mimetypes.guess_type(name, strict=False)
    if kind is None or encoding is not None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def _iso(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))


def _raw(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
