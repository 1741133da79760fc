"""The large files of one message: each is brought to the network before the message that speaks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blocks_network.consumer.parts import FileContent

if TYPE_CHECKING:
    from blocks_network.transport.files import Progress

__all__ = ["MessageUploads"]


class MessageUploads:
    """An `Uploader` for one message. The first file names the agent, each further one joins its upload session.

    `identity` holds the credentials as `presigned_upload_flow` takes them.
    """

    def __init__(self, base_url: str, agent_name: str, **identity: Any) -> None:
        self._base_url, self._agent_name, self._identity = base_url, agent_name, identity
        self.session_id: str | None = None
        """The upload session that SendMessage names; None while nothing was uploaded."""

    def __call__(
        self,
        content: FileContent,
        *,
        part_id: str,
        file_name: str,
        mime_type: str,
        on_progress: Progress | None = None,
    ) -> None:
        """FileUploadError when a step fails."""
        from blocks_network.api.files import presigned_upload_flow  # few messages carry a large file

        first = self.session_id is None
        answer = presigned_upload_flow(
            self._base_url,
            content,
            role="consumer-input",
            file_name=file_name,
            mime_type=mime_type,
            part_id=part_id,
            agent_name=self._agent_name if first else None,
            upload_session_id=self.session_id,
            on_progress=on_progress,
            **self._identity,
        )
        if first:
            self.session_id = answer.get("uploadSessionId")
