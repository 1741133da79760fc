"""How messages leave a client: made ready, sent alone or together, and each answered with the session of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blocks_network.api import tasks
from blocks_network.api.caller import AuthProvider
from blocks_network.api.tasks import SentTask
from blocks_network.auth.provider import AgentAuth
from blocks_network.consumer.link import Link
from blocks_network.consumer.opening import open_sent
from blocks_network.consumer.params import SendMessageParams
from blocks_network.consumer.parts import parts_to_wire
from blocks_network.consumer.session import TaskSession
from blocks_network.consumer.uploads import MessageUploads
from blocks_network.errors import BlocksError, ConfigurationError, SessionClosedError
from blocks_network.transport.pubnub import PubNubKeys

__all__ = ["Sender"]


class Sender:
    """One client's, as it is now. Safe for threads."""

    def __init__(
        self,
        link: Link,
        keys: PubNubKeys,
        billing_mode: str,
        *,
        owner_id: str,
        agent_auth: AgentAuth | None,
        auth_provider: AuthProvider | None,
    ) -> None:
        """`owner_id` is of messages that name none; the two identities are for uploads."""
        self._link, self._keys, self._billing_mode, self._owner_id = link, keys, billing_mode, owner_id
        self._agent_auth, self._auth_provider = agent_auth, auth_provider

    @property
    def together(self) -> bool:
        """Whether the network takes several messages in one request."""
        return self._link.gathering is not None

    def over(self) -> BlocksError | None:
        """Why nothing should be sent any more."""
        if self._link.destroyed:
            return SessionClosedError("this client was destroyed", hint="make another one")
        return self._link.over()

    def check_process(self) -> None:
        """SessionClosedError in a forked child."""
        self._link.check_process()

    def send(self, message: SendMessageParams) -> TaskSession:
        wire = self.prepare(message)
        sent = tasks.send_message(self._link.ready_caller(), wire, self._link.gathering)
        return self._session_of(sent, message, wire)

    def prepare(self, message: SendMessageParams) -> dict[str, Any]:
        """The `params` of SendMessage, checked; large files are uploaded on the way."""
        if self._link.anonymous:
            raise ConfigurationError(
                "an anonymous client reads tasks, it does not send any", hint="create it with api_key or a token"
            )
        caller = self._link.ready_caller()
        message.check()
        if not message.agent_name:
            raise ConfigurationError("agent_name is required")
        uploads = MessageUploads(
            caller.base_url,
            message.agent_name,
            agent_auth=self._agent_auth,
            auth_provider=self._auth_provider,
        )
        parts = parts_to_wire(message.request_parts, uploads)
        return message.to_wire(
            request_parts=parts,
            owner_id=message.owner_id or self._owner_id,
            billing_mode=self._billing_mode,
            upload_session_id=uploads.session_id,
            reader=self._link.reader_for(self._keys, self._billing_mode),
        )

    def send_all(
        self, messages: Sequence[tuple[SendMessageParams, Mapping[str, Any]]]
    ) -> list[TaskSession | BlocksError]:
        """What became of messages, each given with what `prepare` made of it. When it is over, nothing is sent."""
        over = self.over()
        if over is not None or not messages:
            return [over] * len(messages) if over is not None else []
        try:
            caller = self._link.ready_caller()
        except BlocksError as fault:
            return [fault] * len(messages)
        sent = tasks.send_messages(caller, [wire for _, wire in messages], self._link.gathering)
        return [
            each if isinstance(each, BlocksError) else self._session_of(each, message, wire)
            for each, (message, wire) in zip(sent, messages, strict=True)
        ]

    def _session_of(self, sent: SentTask, message: SendMessageParams, wire: Mapping[str, Any]) -> TaskSession:
        return open_sent(
            self._link,
            sent,
            self._keys,
            agent_name=message.agent_name,
            owner_id=wire["ownerId"],
            auto_drain=message.auto_drain,
            drain_window_s=message.drain_window_s,
        )
