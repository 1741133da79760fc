"""Request parts: what a caller gives an agent, and how each part goes onto the wire."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from blocks_network.errors import ConfigurationError
from blocks_network.wire.artifacts import DEFAULT_MIME_TYPE, should_inline_artifact
from blocks_network.wire.parts import RequestPart

if TYPE_CHECKING:
    from blocks_network.transport.files import Progress

__all__ = [
    "FileContent",
    "SendMessageRequestPart",
    "Uploader",
    "file_part",
    "one_request",
    "parts_to_wire",
    "text_part",
]

FileContent = bytes | bytearray | memoryview | Path
"""A file's bytes, or where they are: a path is read when the message is sent."""

_FILE_KEYS = ("file", "fileName", "file_name")
_SNAKE_KEYS = {"part_id": "partId", "content_type": "contentType", "artifact_ref": "artifactRef"}


@dataclass(slots=True)
class SendMessageRequestPart:
    """One part of a request: a text, or a file. When both are given the file wins; a file needs a `part_id`."""

    part_id: str | None = None
    text: str | None = None
    content_type: str | None = None
    file: FileContent | None = None
    file_name: str | None = None
    on_progress: Progress | None = field(default=None, compare=False, repr=False)
    """Told (bytes sent, bytes in all) while a file that is too large for the message is uploaded."""


class Uploader(Protocol):
    """Brings a file that is too large for a message to the network, before the message."""

    def __call__(
        self,
        content: FileContent,
        *,
        part_id: str,
        file_name: str,
        mime_type: str,
        on_progress: Progress | None = None,
    ) -> None: ...


def text_part(text: str, part_id: str = "text") -> SendMessageRequestPart:
    """A text. "" is a text too."""
    return SendMessageRequestPart(part_id=part_id, text=text, content_type="text/plain")


def file_part(
    path_or_data: str | Path | bytes | bytearray | memoryview,
    *,
    part_id: str = "file",
    file_name: str | None = None,
    content_type: str = DEFAULT_MIME_TYPE,
    on_progress: Progress | None = None,
) -> SendMessageRequestPart:
    """A file, from its path or its bytes. `file_name` defaults to the path's last component, "file" for bytes.

    A file that fits into a message is read here; a larger one is streamed from the disk when it is sent. A path that
    cannot be read raises OSError. `on_progress(sent, size)` hears of a large one's upload, in bytes, on the thread
    that sends the message.
    """
    if isinstance(path_or_data, (bytes, bytearray, memoryview)):
        return SendMessageRequestPart(
            part_id, None, content_type, bytes(path_or_data), file_name or "file", on_progress
        )
    if not isinstance(path_or_data, (str, Path)):
        raise TypeError(f"file_part {part_id!r} takes a path or bytes, not {type(path_or_data).__name__}")
    path = Path(path_or_data)
    with path.open("rb") as opened:  # also proves that it can be read
        small = should_inline_artifact(path.stat().st_size)
        content: FileContent = opened.read() if small else path
    return SendMessageRequestPart(part_id, None, content_type, content, file_name or path.name, on_progress)


def one_request(request: object) -> list[Any]:
    """The parts of a request in its short form: a text, a part, or a list of parts; None is a request without parts.

    A text gets no part id, so that an agent with one input takes it, whatever the name of that input.
    """
    if request is None:
        return []
    if isinstance(request, str):
        return [SendMessageRequestPart(text=request, content_type="text/plain")]
    if isinstance(request, (SendMessageRequestPart, RequestPart, Mapping)):
        return [request]
    if isinstance(request, Sequence) and not isinstance(request, (bytes, bytearray, memoryview)):
        return list(request)
    raise TypeError(f"a request is a text, a part or a list of parts, not {type(request).__name__}")


def may_be_slow(parts: Sequence[Any]) -> bool:
    """Whether there is a file among them, which may have to be uploaded before the message."""
    return any(
        (part.get("file") if isinstance(part, Mapping) else getattr(part, "file", None)) is not None for part in parts
    )


def parts_to_wire(parts: object, upload: Uploader) -> list[Any]:
    """The `requestParts` of a message. Large files are uploaded on the way, in order.

    ConfigurationError (ValueError) for a file without part id, TypeError (with the part's id) for a file that is
    neither bytes nor a path.
    """
    if parts is None:
        return []
    if isinstance(parts, (str, SendMessageRequestPart, RequestPart, Mapping)):
        parts = [parts]
    if not isinstance(parts, Sequence):
        raise ConfigurationError(f"request_parts is a list of parts, not {type(parts).__name__}")
    return [_to_wire(part, upload) for part in parts]


def _to_wire(part: object, upload: Uploader) -> Any:
    if isinstance(part, SendMessageRequestPart):
        return _own_part(part, upload)
    if isinstance(part, Mapping):
        return _mapped_part(part, upload)
    if isinstance(part, RequestPart):
        return part.to_dict()
    return part


def _own_part(part: SendMessageRequestPart, upload: Uploader) -> dict[str, Any]:
    wire: dict[str, Any] = {"partId": part.part_id, "text": part.text, "contentType": part.content_type}
    if part.file is not None:
        del wire["text"]
        wire["artifactRef"] = _file_ref(
            part.file, part.part_id, part.file_name, part.content_type, upload, part.on_progress
        )
    return {key: value for key, value in wire.items() if value is not None}


def _mapped_part(part: Mapping[str, Any], upload: Uploader) -> dict[str, Any]:
    """A dict part travels as it is, its known keys in camelCase."""
    wire = {_SNAKE_KEYS.get(key, key): value for key, value in part.items() if key not in _FILE_KEYS}
    content = part.get("file")
    if content is None:
        return wire
    wire.pop("text", None)
    part_id = wire.get("partId")
    file_name = part.get("fileName", part.get("file_name"))
    ref = _file_ref(content, part_id, file_name, wire.get("contentType"), upload)
    if ref is not None:
        wire["artifactRef"] = ref
    return wire


def _file_ref(
    content: object,
    part_id: object,
    file_name: object,
    content_type: object,
    upload: Uploader,
    on_progress: Progress | None = None,
) -> dict[str, Any] | None:
    """The inline reference of a small file; None after the upload of a large one, which the network refers to."""
    if not isinstance(part_id, str) or not part_id:
        raise ConfigurationError(
            "a file part needs a part id", hint="give part_id, as the agent's card names its input"
        )
    name = file_name if isinstance(file_name, str) and file_name else "attachment"
    mime_type = content_type if isinstance(content_type, str) and content_type else DEFAULT_MIME_TYPE
    held = _content(content, part_id)
    size = held.stat().st_size if isinstance(held, Path) else len(held)
    if not should_inline_artifact(size):
        upload(held, part_id=part_id, file_name=name, mime_type=mime_type, on_progress=on_progress)
        return None
    raw = held.read_bytes() if isinstance(held, Path) else held
    return {
        "kind": "inline",
        "mimeType": mime_type,
        "size": len(raw),
        "data": base64.b64encode(raw).decode("ascii"),
        "fileName": name,
    }


def _content(content: object, part_id: str) -> bytes | Path:
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if isinstance(content, (str, Path)):
        return Path(content)
    raise TypeError(f"the file of part {part_id!r} is {type(content).__name__}; bytes or a path are needed")
