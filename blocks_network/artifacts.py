"""Artifacts: references to them, and their content."""

from blocks_network.api.files import BLOCKS_MAX_UPLOAD_BYTES, presigned_upload_flow
from blocks_network.consumer.downloads import download_artifact
from blocks_network.errors import FileUploadError
from blocks_network.wire.artifacts import (
    ArtifactRef,
    DownloadedArtifact,
    build_artifact_ref,
    decode_inline_artifact,
    should_inline_artifact,
)

__all__ = [
    "ArtifactRef",
    "BLOCKS_MAX_UPLOAD_BYTES",
    "DownloadedArtifact",
    "FileUploadError",
    "build_artifact_ref",
    "decode_inline_artifact",
    "download_artifact",
    "presigned_upload_flow",
    "should_inline_artifact",
]
