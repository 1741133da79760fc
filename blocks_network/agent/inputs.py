"""The content of a request's file parts, as handlers read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blocks_network.errors import ConfigurationError
from blocks_network.wire.artifacts import ArtifactRef, decode_inline_artifact
from blocks_network.wire.parts import RequestPart

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["download_input_artifact"]


def download_input_artifact(part: RequestPart | ArtifactRef | Mapping[str, Any], client: PubNub) -> bytes:
    """The bytes of a part, whether they came inside the message or lie with the network as a file.

    ConfigurationError (ValueError) when the part has no file or a malformed one; TransportError when the network does
    not give it out.
    """
    ref = _ref_of(part)
    if ref.kind == "inline":
        return decode_inline_artifact(ref).data
    if ref.kind != "file":
        raise ConfigurationError(f"artifact of unknown kind {ref.kind!r}")
    from blocks_network.transport.files import download_file  # rare, and not free to import

    return download_file(client, ref)


def _ref_of(part: RequestPart | ArtifactRef | Mapping[str, Any]) -> ArtifactRef:
    if isinstance(part, ArtifactRef):
        return part
    ref: Any
    if isinstance(part, RequestPart):
        ref = part.artifact_ref
    else:
        ref = part.get("artifactRef", part.get("artifact_ref")) if isinstance(part, Mapping) else None
    if isinstance(ref, ArtifactRef):
        return ref
    if not isinstance(ref, Mapping):
        raise ConfigurationError("the part has no file", hint="look at part.text instead")
    return ArtifactRef.from_dict(ref)
