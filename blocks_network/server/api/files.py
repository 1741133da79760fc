"""Large files, uploaded by form: a consumer's before its message, a provider's as the output of a running task.

`request-upload` gives out a form of the gateway's and an upload id; both are signed terms, so nothing is stored before
the file is. `confirm-upload` gives the reference, and publishes the artifact event of an output.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.principal import CONSUMER, PROVIDER, Principal
from blocks_network.server.api.bearer import principal_of
from blocks_network.server.api.bodies import choice_field, number_field, read_object, text_field
from blocks_network.server.api.errors import ApiRefusal, bad_request, forbidden, json_answer, not_found
from blocks_network.server.api.services import Services
from blocks_network.server.blobs import Blob, new_blob_id
from blocks_network.server.blobs.sessions import (
    MAX_FILES,
    UnknownUploadSession,
    UploadSession,
    UploadSessions,
    artifact_ref,
    file_folder,
)
from blocks_network.server.blobs.terms import TermsRefused, UploadTerms, form_path, is_file_name, open_seal, seal
from blocks_network.server.bus import BusFull, Draft
from blocks_network.server.store.providers import find_provider
from blocks_network.server.tasks.live import LiveTask
from blocks_network.server.tasks.refusals import TaskRefusal
from blocks_network.wire.artifacts import DEFAULT_MIME_TYPE
from blocks_network.wire.events import artifact_event, event_meta

__all__ = ["routes"]

INPUT, OUTPUT = "consumer-input", "provider-output"
MAX_BODY_BYTES = 32 * 1024
MAX_ID_CHARS = 255
MAX_UPLOAD_ID_CHARS = 4_096


def routes(services: Services) -> list[Route]:
    uploads = Uploads(services)
    return [
        Route("/api/v1/files/request-upload", uploads.request, methods=["POST"]),
        Route("/api/v1/files/confirm-upload", uploads.confirm, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an upload goes, and what is kept beside it."""

    keyset: Keyset
    channel: str
    attributes: Mapping[str, str]
    session: UploadSession | None = None


class Uploads:
    """The two calls. Only confirmations under way are remembered."""

    def __init__(self, services: Services) -> None:
        self._services, self._limits = services, services.limits
        self._sessions = UploadSessions(blobs=services.blobs, keysets=services.keysets)
        self._confirming: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """So that a repeated confirmation does not publish an event twice."""

    # -- request-upload ------------------------------------------------------------------------------------------------

    async def request(self, request: Request) -> Response:
        principal = await principal_of(request, self._services)
        body = await read_object(request, MAX_BODY_BYTES)
        role = choice_field(body, "role", (INPUT, OUTPUT))
        name = self._name(body)
        size = self._size(body)
        kind = text_field(body, "mimeType", max_bytes=self._limits.name_bytes) or DEFAULT_MIME_TYPE
        if not kind.isascii():
            raise bad_request("mimeType must be ASCII")
        place = await (self._input(body, principal) if role == INPUT else self._output(body, principal))
        now_s = int(time.time())
        terms = UploadTerms(
            channel=place.channel,
            blob_id=new_blob_id(),
            name=name,
            content_type=kind,
            max_bytes=size,
            expires_at_s=now_s + self._limits.platform_upload_form_s,
            exact=True,
            attributes=place.attributes,
        )
        fields = terms.form_fields(place.keyset.subscribe_key, place.keyset.secret_key)
        scheme = "https" if self._services.ssl else "http"
        answer = {
            "uploadId": self._upload_id(role, place, terms, principal, now_s + self._limits.upload_confirm_s),
            "uploadUrl": f"{scheme}://{self._services.origin}{form_path(place.keyset.subscribe_key)}",
            "formFields": [{"key": key, "value": value} for key, value in fields],
        }
        if place.session is not None:
            answer["uploadSessionId"] = place.session.session_id
        return json_answer(answer)

    def _name(self, body: Mapping[str, Any]) -> str:
        name = text_field(body, "fileName", max_bytes=self._limits.name_bytes, required=True)
        assert name is not None
        if not is_file_name(name, self._limits.name_bytes):
            raise bad_request("fileName must be one plain name, without slashes and invisible characters")
        return name

    def _size(self, body: Mapping[str, Any]) -> int:
        size = number_field(body, "fileSize", low=0, high=2**53)
        if size is None:
            raise bad_request("fileSize is required")
        if size > self._limits.upload_bytes:
            raise ApiRefusal(413, "FILE_TOO_LARGE", f"a file may have {self._limits.upload_bytes} bytes here")
        return size

    async def _input(self, body: Mapping[str, Any], principal: Principal) -> Place:
        if not principal.may(CONSUMER):
            raise forbidden(f"this identity lacks the scope {CONSUMER!r}", "SCOPE_MISSING")
        part_id = text_field(body, "partId", max_bytes=MAX_ID_CHARS, required=True)
        session_id = text_field(body, "uploadSessionId", max_bytes=MAX_ID_CHARS)
        session = await (
            self._new_session(body, principal) if session_id is None else self._known_session(session_id, principal)
        )
        return Place(session.keyset, session.channel, {"partId": part_id or ""}, session)

    async def _new_session(self, body: Mapping[str, Any], principal: Principal) -> UploadSession:
        agent_name = text_field(body, "agentName", max_bytes=MAX_ID_CHARS, required=True) or ""
        provider = await self._services.database.read(partial(find_provider, agent_name=agent_name))
        if provider is None or (provider.listing == "private" and provider.org_id != principal.org_id):
            raise not_found(f"there is no agent {agent_name!r}", "AGENT_NOT_FOUND")
        keyset = self._services.keysets.for_billing("paid" if provider.billing_mode == "paid" else "free")
        return self._sessions.begin(keyset, org_id=principal.org_id, agent_name=agent_name)

    async def _known_session(self, session_id: str, principal: Principal) -> UploadSession:
        try:
            session = self._sessions.open(session_id, org_id=principal.org_id)
        except UnknownUploadSession as fault:
            raise not_found(str(fault), "UPLOAD_SESSION_UNKNOWN") from None
        if len(await self._sessions.files(session)) >= MAX_FILES:
            raise ApiRefusal(422, "TOO_MANY_FILES", f"an upload session holds at most {MAX_FILES} files")
        return session

    async def _output(self, body: Mapping[str, Any], principal: Principal) -> Place:
        if not principal.may(PROVIDER):
            raise forbidden(f"this identity lacks the scope {PROVIDER!r}", "SCOPE_MISSING")
        task_id = text_field(body, "taskId", max_bytes=MAX_ID_CHARS, required=True) or ""
        output_id = text_field(body, "outputId", max_bytes=MAX_ID_CHARS)
        task = self._running(principal, task_id)
        attributes = {"taskId": task_id} if output_id is None else {"taskId": task_id, "outputId": output_id}
        return Place(task.keys, task.channel, attributes)

    def _running(self, principal: Principal, task_id: str) -> LiveTask:
        try:
            return self._services.tasks.running_for(principal, task_id)
        except TaskRefusal as fault:
            if fault.code == "TaskNotFound":
                raise not_found(f"no task {task_id!r} is running at this organisation", "TASK_NOT_FOUND") from None
            raise ApiRefusal(409, "TASK_ENDED", fault.message) from None

    # -- confirm-upload ------------------------------------------------------------------------------------------------

    async def confirm(self, request: Request) -> Response:
        principal = await principal_of(request, self._services)
        body = await read_object(request, MAX_BODY_BYTES)
        upload_id = text_field(body, "uploadId", max_bytes=MAX_UPLOAD_ID_CHARS, required=True) or ""
        keyset, said = self._opened(upload_id)
        if said["org"] != principal.org_id:
            raise _unknown_upload()
        blob = await self._services.blobs.find(file_folder(keyset, said["channel"]), said["blob"])
        if blob is None:
            raise ApiRefusal(409, "UPLOAD_MISSING", "the file was not uploaded, or not to its end; post the form again")
        if said["role"] == OUTPUT:
            await self._announce(principal, keyset, blob)
        return json_answer({"uploadId": upload_id, "artifactRef": artifact_ref(blob)})

    async def _announce(self, principal: Principal, keyset: Keyset, blob: Blob) -> None:
        """Publishes the artifact event, once; twice only when the network dies within the call and it is repeated."""
        lock = self._confirming.setdefault(blob.blob_id, asyncio.Lock())
        done = f"confirmed {keyset.subscribe_key}"
        async with lock:
            if await self._services.blobs.find(done, blob.blob_id) is not None:
                return
            task = self._running(principal, blob.attributes["taskId"])
            event = artifact_event(task.task_id, artifact_ref(blob), blob.attributes.get("outputId"))
            draft = Draft(
                keyset=keyset.subscribe_key,
                channel=task.channel,
                payload=msgspec.json.encode(event),
                meta=msgspec.json.encode(event_meta(task.agent_name, task.task_id)),
            )
            try:
                await self._services.bus.publish(draft)
            except BusFull as full:
                raise ApiRefusal(503, "NETWORK_BUSY", "the network cannot store events at the moment") from full
            await self._note(done, blob.blob_id)

    async def _note(self, folder: str, blob_id: str) -> None:
        """Leaves an empty blob as the mark of what was done; also after a restart, and for every node."""
        writer = await self._services.blobs.open(folder, blob_id, limit_bytes=0)
        try:
            await writer.commit()
        finally:
            await writer.abort()

    # -- upload ids ----------------------------------------------------------------------------------------------------

    def _upload_id(self, role: str, place: Place, terms: UploadTerms, principal: Principal, expires_at_s: int) -> str:
        said = {
            "role": role,
            "org": principal.org_id,
            "channel": terms.channel,
            "blob": terms.blob_id,
            "expires_at_s": expires_at_s,
        }
        return ".".join((place.keyset.name, *seal(place.keyset.secret_key, "confirm", said)))

    def _opened(self, upload_id: str) -> tuple[Keyset, dict[str, Any]]:
        name, _, rest = upload_id.partition(".")
        text, _, signature = rest.partition(".")
        keyset = next((each for each in self._services.keysets if each.name == name), None)
        if keyset is None:
            raise _unknown_upload()
        try:
            return keyset, open_seal(keyset.secret_key, "confirm", text, signature)
        except TermsRefused:
            raise _unknown_upload() from None


def _unknown_upload() -> ApiRefusal:
    return not_found("this upload is unknown, or too old to be confirmed", "UPLOAD_UNKNOWN")
