"""Upload sessions: the files that a consumer uploads for one message, kept until the message names them.

A session is a channel of the sender's org on the keyset of the agent's tasks; its files are blobs of that channel, so
nothing but its id need be remembered. Whoever binds a session to a task lets the task's token read the channel that
the references name.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocks_network.server.blobs import Blob, Blobs

if TYPE_CHECKING:
    from blocks_network.server.access.keysets import Keyset, Keysets
    from blocks_network.server.access.principal import Principal

__all__ = ["MAX_FILES", "UnknownUploadSession", "UploadSession", "UploadSessions", "artifact_ref", "file_folder"]

MAX_FILES = 200
"""Files of one session: twice as many as a message has parts, since an upload may be repeated."""
_ID = re.compile(r"us_([A-Za-z0-9-]{1,32})_([0-9a-f]{32})_([0-9a-f]{32})\Z")


class UnknownUploadSession(Exception):
    """No session of this org has this id, or it belongs to another keyset than it is used with."""


@dataclass(frozen=True, slots=True)
class UploadSession:
    """An open session. `channel` is where its files lie."""

    session_id: str
    keyset: Keyset
    channel: str


class UploadSessions:
    """Makes sessions and finds what was uploaded in them. Sessions of another org do not exist for a caller."""

    def __init__(self, *, blobs: Blobs, keysets: Keysets) -> None:
        self._blobs = blobs
        self._keysets = {keyset.name: keyset for keyset in keysets}

    def begin(self, keyset: Keyset, org_id: str) -> UploadSession:
        """A new session without files."""
        name = secrets.token_hex(16)
        return self.open(f"us_{keyset.name}_{name}_{_mark(keyset, org_id, name)}", org_id)

    def open(self, session_id: str, org_id: str) -> UploadSession:
        """The session of this org. UnknownUploadSession."""
        found = _ID.match(session_id)
        keyset = self._keysets.get(found[1]) if found else None
        if found is None or keyset is None or not hmac.compare_digest(_mark(keyset, org_id, found[2]), found[3]):
            raise UnknownUploadSession("the upload session is unknown; request an upload without uploadSessionId first")
        return UploadSession(session_id, keyset, f"upload.{org_id}.{found[2]}")

    async def files(self, session: UploadSession) -> Sequence[Blob]:
        """What has been uploaded, in the order in which it was asked for."""
        return await self._blobs.list(file_folder(session.keyset, session.channel), limit=MAX_FILES + 1)

    async def artifact_refs(
        self, session_id: str, principal: Principal, *, keyset_name: str | None = None
    ) -> dict[str, dict[str, Any]]:
        """The wire form of each uploaded file's ArtifactRef by its part id; the last upload of a part counts.

        All lie on one channel, `ref["channel"]`, which the task's token must be allowed to read. `keyset_name` is
        that of the task: files of a session that was opened for another one cannot be read there.
        UnknownUploadSession; empty for a session into which nothing was uploaded.
        """
        session = self.open(session_id, principal.org_id)
        if keyset_name is not None and session.keyset.name != keyset_name:
            raise UnknownUploadSession("the upload session was opened for an agent with another billing mode")
        return {blob.attributes.get("partId", ""): artifact_ref(blob) for blob in await self.files(session)}


def file_folder(keyset: Keyset, channel: str) -> str:
    """The folder of the blobs that are a channel's files."""
    return f"{keyset.subscribe_key}/{channel}"


def artifact_ref(blob: Blob) -> dict[str, Any]:
    """The wire form of the reference to a file."""
    return {
        "kind": "file",
        "mimeType": blob.attributes["contentType"],
        "size": blob.size,
        "hash": f"sha256:{blob.sha256}",
        "fileName": blob.attributes["name"],
        "channel": blob.attributes["channel"],
        "fileId": blob.blob_id,
    }


def _mark(keyset: Keyset, org_id: str, name: str) -> str:
    """Tells a session that was made here, for this org, from a made-up one."""
    said = f"upload session {keyset.name} {org_id} {name}"
    return hmac.digest(keyset.secret_key.encode(), said.encode(), hashlib.sha256).hex()[:32]
