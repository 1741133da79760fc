"""Large files to the network: ask for a form, post the file with it, confirm. Downloads are the transport's."""

from __future__ import annotations

import html
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from blocks_network.api.caller import Answer, AuthProvider, Caller
from blocks_network.backoff import Backoff
from blocks_network.errors import ConfigurationError, FileUploadError, TransportError
from blocks_network.transport.faults import ConnectFailed
from blocks_network.transport.files import Content, Progress, download_to, post_form, size_of
from blocks_network.wire.artifacts import DEFAULT_MIME_TYPE

__all__ = ["BLOCKS_MAX_UPLOAD_BYTES", "Role", "download_to", "presigned_upload_flow"]

log = logging.getLogger(__name__)
T = TypeVar("T")

BLOCKS_MAX_UPLOAD_BYTES = 1024 * 1024 * 1024
"""The protocol's ceiling for one file."""
PATH = "/api/v1/files"
TRIES = 4
RETRY = Backoff(first_s=0.5, factor=2, cap_s=5)
BUSY = frozenset({502, 503, 504})
"""What a network says while it starts or stops."""

Role = Literal["consumer-input", "provider-output"]


def presigned_upload_flow(
    base_url: str | None,
    file_data: Content,
    *,
    role: Role,
    file_name: str,
    mime_type: str = DEFAULT_MIME_TYPE,
    agent_name: str | None = None,
    task_id: str | None = None,
    part_id: str | None = None,
    output_id: str | None = None,
    upload_session_id: str | None = None,
    agent_auth: AuthProvider | None = None,
    auth_provider: AuthProvider | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Uploads a file, streamed. `{"uploadId", "uploadSessionId"?, "artifactRef"?}`.

    An input needs `part_id`, and `agent_name` with the first file of a message or `upload_session_id` with the others;
    an output needs `task_id`, and the network publishes its artifact event before this returns. `agent_auth` beats
    `auth_provider`. `on_progress(sent, size)` is told in bytes as the file leaves; it begins again when a try is
    repeated, and what it raises ends the upload. FileUploadError when a step fails, ConfigurationError (ValueError)
    without a base URL.
    """
    if not base_url:
        raise ConfigurationError("a file of this size is uploaded to the network, and there is no base URL for it")
    size = size_of(file_data)
    if size > BLOCKS_MAX_UPLOAD_BYTES:
        raise FileUploadError(
            f"{file_name} has {size} bytes; a file may have {BLOCKS_MAX_UPLOAD_BYTES}, so it was not sent"
        )
    caller = Caller(base_url, agent_auth if agent_auth is not None else auth_provider)
    wanted = {
        "role": role,
        "fileName": file_name,
        "fileSize": size,
        "mimeType": mime_type,
        "agentName": agent_name if upload_session_id is None else None,
        "taskId": task_id,
        "partId": part_id,
        "outputId": output_id,
        "uploadSessionId": upload_session_id,
    }
    asked = {key: value for key, value in wanted.items() if value is not None}
    granted = _call(caller, "request-upload", asked, file_name)
    url, fields = _form_of(granted)
    _post(url, fields, file_data, file_name, mime_type, on_progress)
    upload_id = _text(granted, "uploadId")
    confirmed = _call(caller, "confirm-upload", {"uploadId": upload_id}, file_name)
    answer: dict[str, Any] = {"uploadId": upload_id}
    if isinstance(granted.get("uploadSessionId"), str):
        answer["uploadSessionId"] = granted["uploadSessionId"]
    if isinstance(confirmed.get("artifactRef"), dict):
        answer["artifactRef"] = confirmed["artifactRef"]
    return answer


def _call(caller: Caller, step: str, body: dict[str, Any], file_name: str) -> dict[str, Any]:
    def once() -> Answer:
        return caller.call("POST", f"{PATH}/{step}", body)

    # what reached the network may have been done: that is tried again only after a plain "not now"
    answer = _tried(once, f"{step} of {file_name}", again_after=ConnectFailed, status_of=lambda each: each.status)
    if not answer.ok or not isinstance(answer.body, dict):
        raise FileUploadError(f"{step} of {file_name} failed: {answer.error}", answer.status)
    return answer.body


def _post(
    url: str,
    fields: list[tuple[str, str]],
    content: Content,
    file_name: str,
    mime_type: str,
    on_progress: Progress | None,
) -> None:
    def once() -> tuple[int, str]:
        return post_form(url, fields, content, file_name=file_name, mime_type=mime_type, on_progress=on_progress)

    # the same form may be posted again: the network keeps one file for it
    status, said = _tried(once, f"upload of {file_name}", again_after=TransportError, status_of=lambda each: each[0])
    if status not in (200, 204):
        raise FileUploadError(f"upload of {file_name} failed: {_message(said) or f'HTTP {status}'}", status)


def _tried(once: Callable[[], T], what: str, *, again_after: type[TransportError], status_of: Callable[[T], int]) -> T:
    """The step's answer, after some tries where the network was away for a moment."""
    for attempt in range(TRIES):
        last = attempt == TRIES - 1
        try:
            answer = once()
            if last or status_of(answer) not in BUSY:
                return answer
            log.info("%s was answered with HTTP %d, trying again", what, status_of(answer))
        except TransportError as fault:
            if last or not isinstance(fault, again_after):
                raise FileUploadError(f"{what} failed: {fault}") from fault
            log.info("%s: %s, trying again", what, fault)
        time.sleep(RETRY.delay(attempt + 1))
    raise AssertionError("unreachable")


def _form_of(granted: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """Where to post, and the fields to post in their order."""
    fields = granted.get("formFields")
    if not isinstance(fields, list) or not all(isinstance(each, dict) for each in fields):
        raise FileUploadError("the network's answer to request-upload has no form")
    return _text(granted, "uploadUrl"), [(_text(each, "key"), str(each.get("value", ""))) for each in fields]


def _text(answer: dict[str, Any], key: str) -> str:
    value = answer.get(key)
    if not isinstance(value, str) or not value:
        raise FileUploadError(f"the network's answer to request-upload has no {key}")
    return value


def _message(said: str) -> str | None:
    """What a refusal of the form says: stores answer in XML."""
    found = re.search(r"<Message>(.*?)</Message>", said, re.DOTALL)
    return html.unescape(found[1]) if found else said.strip()[:200] or None
