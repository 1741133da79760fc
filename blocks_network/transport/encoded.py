"""Publishes a message that is JSON text already: the library would serialise it a second time."""

from __future__ import annotations

from collections.abc import Mapping

from pubnub.endpoints.pubsub.publish import Publish
from pubnub.pubnub import PubNub

from blocks_network.transport.pubnub import call

__all__ = ["publish_text"]


class _PublishText(Publish):  # type: ignore[misc]
    def build_data(self) -> str:
        return str(self._message)


def publish_text(client: PubNub, channel: str, text: str, meta: Mapping[str, str], *, store: bool) -> None:
    """One POST publish of `text`. AccessDeniedError or TransportError as `transport.pubnub.call` says."""
    call(_PublishText(client, channel=channel, message=text, should_store=store, use_post=True, meta=dict(meta)))
