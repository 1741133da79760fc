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
from blocks_network.wire.channels import upload_channel

if TYPE_CHECKING:
    from blocks_network.server.access.keysets import Keyset, Keysets

__all__ = ["MAX_FILES", "UnknownUploadSession", "UploadSession", "UploadSessions", "artifact_ref", "file_folder"]

MAX_FILES = 200
"""Files of one session: twice as many as a message has parts, since an upload may be repeated."""
_ID = re.compile(r"us_([A-Za-z0-9-]{1,32})_([0-9a-f]{16})_([0-9a-f]{32})_([0-9a-f]{32})\Z")


class UnknownUploadSession(LookupError):
    """No session of this org has this id, or it was opened for another agent."""


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

    def begin(self, keyset: Keyset, *, org_id: str, agent_name: str) -> UploadSession:
        """A new session without files."""
        name, agent = secrets.token_hex(16), _digest(agent_name)
        mark = _mark(keyset, org_id, agent, name)
        return self.open(f"us_{keyset.name}_{agent}_{name}_{mark}", org_id=org_id)

    def open(self, session_id: str, *, org_id: str, agent_name: str | None = None) -> UploadSession:
        """The session of this org, and of this agent where one is given. UnknownUploadSession."""
        found = _ID.match(session_id)
        keyset = self._keysets.get(found[1]) if found else None
        if (
            found is None
            or keyset is None
            or not hmac.compare_digest(_mark(keyset, org_id, found[2], found[3]), found[4])
            or (agent_name is not None and _digest(agent_name) != found[2])
        ):
            raise UnknownUploadSession("the upload session is unknown; request an upload without uploadSessionId first")
        return UploadSession(session_id, keyset, upload_channel(org_id, found[3]))

    async def files(self, session: UploadSession) -> Sequence[Blob]:
        """What has been uploaded, in the order in which it was asked for."""
        return await self._blobs.list(file_folder(session.keyset, session.channel), limit=MAX_FILES + 1)

    async def take(self, session_id: str, *, org_id: str, agent_name: str) -> dict[str, dict[str, Any]]:
        """The wire form of each uploaded file's ArtifactRef by its part id; the last upload of a part counts.

        All lie on one channel, which the task's instance must be allowed to read. UnknownUploadSession; empty for a
        session into which nothing was uploaded.
        """
        session = self.open(session_id, org_id=org_id, agent_name=agent_name)
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


def _digest(agent_name: str) -> str:
    return hashlib.sha256(agent_name.encode()).hexdigest()[:16]


def _mark(keyset: Keyset, org_id: str, agent: str, name: str) -> str:
    """Tells a session that was made here, for this org and agent, from a made-up one."""
    said = f"upload session {keyset.name} {org_id} {agent} {name}"
    return hmac.digest(keyset.secret_key.encode(), said.encode(), hashlib.sha256).hex()[:32]
