"""Makes configured pubnub clients, with our HTTP stack under the library's own request builders and parsers.

A client made here has no thread and no connection of its own, so one for each task or token costs microseconds.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pubnub.enums import PNStatusCategory
from pubnub.errors import (
    PNERR_CLIENT_ERROR,
    PNERR_CLIENT_TIMEOUT,
    PNERR_CONNECTION_ERROR,
    PNERR_REQUEST_CANCELLED,
    PNERR_SERVER_ERROR,
)
from pubnub.exceptions import PubNubException
from pubnub.pnconfiguration import PNConfiguration
from pubnub.pubnub import PubNub
from pubnub.request_handlers.base import BaseRequestHandler
from pubnub.structures import Envelope, ResponseInfo

from blocks_network.errors import AccessDeniedError, ConfigurationError, TransportError
from blocks_network.transport.chatter import keep_out_request_lines
from blocks_network.transport.faults import Interrupted, Interruption, TimedOut
from blocks_network.transport.http import POOL
from blocks_network.transport.responses import Response

if TYPE_CHECKING:
    from pubnub.endpoints.endpoint import Endpoint

__all__ = [
    "DEFAULT_ORIGIN",
    "PooledRequestHandler",
    "PubNubKeys",
    "call",
    "client_of",
    "create_pubnub_client",
    "keys_of",
    "make_client",
    "token_lifetime_s",
]

log = logging.getLogger(__name__)

DEFAULT_ORIGIN = "ps.pndsn.com"
PRESENCE_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class PubNubKeys:
    """Where one keyset is served. `origin` is host:port without a scheme; with `pushes` that network announces
    `subscribe-stream`."""

    subscribe_key: str
    publish_key: str | None = None
    origin: str = DEFAULT_ORIGIN
    ssl: bool = True
    pushes: bool = field(default=False, compare=False)


def keys_of(client: PubNub) -> PubNubKeys:
    """Those that a client was made with."""
    config = client.config
    pushes = isinstance(config, _Configuration) and config.pushes
    return PubNubKeys(config.subscribe_key, config.publish_key, config.origin, config.ssl, pushes)


def token_lifetime_s(client: PubNub) -> float | None:
    """How long the client's capability token still holds, in seconds; None without one, or when it cannot be read."""
    token = client._get_token()
    if not token:
        return None
    try:
        parsed = client.parse_token(token)
        return float(parsed["timestamp"]) + 60 * float(parsed["ttl"]) - time.time()
    except (PubNubException, KeyError, TypeError, ValueError) as fault:
        log.debug("the life of a token cannot be read: %s", fault)
        return None


class _Configuration(PNConfiguration):  # type: ignore[misc]
    """The library copies a locked configuration for every client; a locked one never changes, so one serves all."""

    pushes = False
    """See `PubNubKeys`."""

    def __deepcopy__(self, memo: object) -> _Configuration:
        return self


class PooledRequestHandler(BaseRequestHandler):  # type: ignore[misc]
    """The library's request-handler extension point over the process's connection pool.

    Uploads through the library (`send_file`) go to its own handler: they are multipart, and rare.
    """

    def __init__(self, pubnub: PubNub, interruption: Interruption | None = None) -> None:
        """`interruption` breaks off a request that waits."""
        self._pubnub, self._interruption = pubnub, interruption

    def sync_request(self, platform_options: Any, endpoint_call_options: Any) -> Envelope:
        if endpoint_call_options.files is not None:
            return self._library_handler().sync_request(platform_options, endpoint_call_options)
        try:
            response = self._send(platform_options, endpoint_call_options)
        except TransportError as fault:
            return _failed(endpoint_call_options, fault)
        return _answered(endpoint_call_options, response)

    def threaded_request(
        self,
        endpoint_name: str,
        platform_options: Any,
        endpoint_call_options: Any,
        callback: Callable[[Envelope], None],
        cancellation_event: threading.Event | None,
    ) -> None:
        def request() -> None:
            envelope = self.sync_request(platform_options, endpoint_call_options)
            if cancellation_event is None or not cancellation_event.is_set():
                callback(envelope)

        threading.Thread(target=request, name=f"blocks-pubnub-{endpoint_name}", daemon=True).start()

    def async_file_based_operation(
        self,
        func: Callable[[], Any],
        callback: Callable[..., None],
        operation_name: str,
        cancellation_event: Any = None,
    ) -> Any:
        return self._library_handler().async_file_based_operation(func, callback, operation_name, cancellation_event)

    async def async_request(self, options_func: Any, cancellation_event: Any) -> Any:
        raise NotImplementedError("this handler is for the synchronous client")

    def close(self) -> None:
        """Nothing to close: the connections belong to the process."""

    def _library_handler(self) -> Any:
        from pubnub.request_handlers.httpx import HttpxRequestHandler

        return HttpxRequestHandler(self._pubnub)

    def _request(self, platform: Any, options: Any) -> tuple[str, dict[str, str]]:
        """The address and the headers of what the library asks for."""
        base = f"{platform.pn_config.scheme()}://{self._pubnub.base_origin}" if options.use_base_path else ""
        address = f"{base}{options.path}"
        query = options.query_string
        if query:
            address = f"{address}{'&' if '?' in address else '?'}{query}"
        headers = {**(platform.headers or {}), **(options.request_headers or {})}
        headers["Accept-Encoding"] = "identity"  # answers are small, and inflating them costs more than reading them
        return _ascii(address), headers

    def _send(self, platform: Any, options: Any) -> Response:
        address, headers = self._request(platform, options)
        return POOL.request(
            options.method_string,
            address,
            body=options.data,
            headers=headers,
            connect_timeout_s=options.connect_timeout,
            read_timeout_s=options.request_timeout,
            follow_redirects=options.allow_redirects,
            interruption=self._interruption,
        )


def _ascii(address: str) -> str:
    """The library leaves uuids and file names as they are; http.client takes only encoded ones."""
    if address.isascii() and " " not in address:
        return address
    return "".join(c if c.isascii() and c != " " else "".join(f"%{b:02X}" for b in c.encode()) for c in address)


def _failed(options: Any, fault: TransportError) -> Envelope:
    if isinstance(fault, TimedOut):
        category, word = PNStatusCategory.PNTimeoutCategory, PNERR_CLIENT_TIMEOUT
    elif isinstance(fault, Interrupted):
        category, word = PNStatusCategory.PNCancelledCategory, PNERR_REQUEST_CANCELLED
    else:
        category, word = PNStatusCategory.PNUnexpectedDisconnectCategory, PNERR_CONNECTION_ERROR
    exception = PubNubException(pn_error=word, errormsg=str(fault))
    exception.__cause__ = fault
    return Envelope(
        result=None,
        status=options.create_status(category=category, response=None, response_info=None, exception=exception),
    )


def _answered(options: Any, response: Response) -> Envelope:
    status_code = response.status_code
    info = ResponseInfo(
        status_code=status_code,
        tls_enabled=response.url.startswith("https:"),
        origin=response.url.split("/")[2],
        uuid=None,
        auth_key=None,
        client_request=None,
        client_response=response,
    )
    category, exception, parsed, result = PNStatusCategory.PNAcknowledgmentCategory, None, None, None
    if status_code in (200, 204, 307):
        try:
            parsed = response if options.non_json_response else response.json()
            result = options.create_response(parsed)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as fault:
            category = PNStatusCategory.PNMalformedResponseCategory
            exception = PubNubException(pn_error=PNERR_SERVER_ERROR, errormsg=response.text, status_code=status_code)
            exception.__cause__ = fault
    else:
        category = {
            400: PNStatusCategory.PNBadRequestCategory,
            403: PNStatusCategory.PNAccessDeniedCategory,
        }.get(status_code, PNStatusCategory.PNUnknownCategory)
        word = PNERR_SERVER_ERROR if status_code >= 500 else PNERR_CLIENT_ERROR
        exception = PubNubException(pn_error=word, errormsg=response.text, status_code=status_code)
        try:
            parsed = response.json()
        except ValueError:
            parsed = None
    return Envelope(
        result=result,
        status=options.create_status(category=category, response=parsed, response_info=info, exception=exception),
    )


def make_client(
    keys: PubNubKeys,
    *,
    user_id: str,
    token: str | None = None,
    presence_timeout_s: int | None = None,
    filter_expression: str | None = None,
    own_subscriptions: bool = False,
    subscribe_timeout_s: int = 310,
) -> PubNub:
    """A client of one keyset under one user id, with `token` set.

    `own_subscriptions` switches on the library's subscription manager (a thread of its own), for programs that want
    to call `subscribe()` on the client itself; ours read through `transport.subscription`.
    """
    if not keys.subscribe_key:
        raise ConfigurationError("subscribe_key is required")
    config = _Configuration()
    config.subscribe_key, config.publish_key = keys.subscribe_key, keys.publish_key
    config.uuid = user_id
    config.origin, config.ssl, config.pushes = keys.origin, keys.ssl, keys.pushes
    config.filter_expression = filter_expression
    config.subscribe_request_timeout = subscribe_timeout_s
    config.enable_subscribe = own_subscriptions
    config.daemon = True
    config.maximum_reconnection_retries, config.maximum_reconnection_interval = 43_200, 60
    if presence_timeout_s is not None:
        # presence_timeout has no setter, and without the second line the library sends no heartbeat at all
        config.set_presence_timeout(presence_timeout_s)
        config.enable_presence_heartbeat = True
    config.disable_config_locking = False
    keep_out_request_lines(keys.origin)
    return client_of(config, token)


def client_of(config: PNConfiguration, token: str | None) -> PubNub:
    """A client with this very configuration, over the process's connections."""
    client = PubNub(config, custom_request_handler=PooledRequestHandler)
    if not config.enable_subscribe:
        client._subscription_manager = _NoSubscriptions()
    if token:
        client.set_token(token)
    return client


class _NoSubscriptions:
    """Where the library keeps its subscriptions: its endpoints ask for parameters there, whether it has any."""

    def get_custom_params(self) -> dict[str, str]:
        return {}

    def adapt_state_builder(self, operation: object) -> None: ...

    def stop(self) -> None: ...


def create_pubnub_client(
    *,
    user_id: str | None = None,
    publish_key: str | None = None,
    subscribe_key: str | None = None,
    presence_timeout: int | None = None,
    subscribe_retry_unbounded: bool = True,
    on_retry: Callable[[str, str], None] | None = None,
    origin: str = DEFAULT_ORIGIN,
    ssl: bool = True,
) -> PubNub:
    """A full client for the caller's own use, with the library's subscription manager.

    `presence_timeout` is in seconds and switches heartbeats on. `subscribe_retry_unbounded` keeps reconnecting for
    30 days; False leaves the library's own few minutes. `on_retry(category, text)` hears `retry`, `recovered` and
    `failed`. `origin` is host:port of the network.
    """
    client = make_client(
        PubNubKeys(subscribe_key or "", publish_key, origin, ssl),
        user_id=user_id or "blocks-agent",
        presence_timeout_s=presence_timeout,
        own_subscriptions=True,
    )
    if not subscribe_retry_unbounded:
        client.config.__dict__.update(maximum_reconnection_retries=None, maximum_reconnection_interval=None)
    if on_retry is not None:
        client.add_listener(_retry_listener(on_retry))
    return client


def _retry_listener(on_retry: Callable[[str, str], None]) -> Any:
    from pubnub.callbacks import SubscribeCallback

    class Listener(SubscribeCallback):  # type: ignore[misc]
        def status(self, pubnub: PubNub, status: Any) -> None:
            if status.category is PNStatusCategory.PNReconnectedCategory:
                on_retry("recovered", "the network answers again")
            elif status.category is PNStatusCategory.PNDisconnectedCategory:
                on_retry("failed", "gave up reconnecting")
            elif status.is_error():
                on_retry("retry", str(status.error_data.exception) if status.error_data else "connection lost")

    return Listener()


def call(endpoint: Endpoint) -> Any:
    """Runs an endpoint and returns its result, with the library's errors as ours.

    AccessDeniedError on 403 (`body` is the answer), TransportError otherwise, its cause the library's exception.
    """
    try:
        return endpoint.sync().result
    except PubNubException as fault:
        if isinstance(fault.__cause__, TransportError):  # ours, on its way through the library
            raise fault.__cause__ from fault.__cause__.__cause__
        raise _translated(fault) from fault


def _translated(fault: PubNubException) -> TransportError:
    status, body = fault.get_status_code(), str(fault._errormsg)
    if status == 403:
        return AccessDeniedError(f"the network refused the token ({_word(body)})", body=body)
    return TransportError(f"the network answered {status}: {_word(body)}")


def _word(body: str) -> str:
    """The message of an error body, or the head of what came instead."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return body[:200]
    if isinstance(parsed, dict):
        return str(parsed.get("message", parsed))[:200]
    return str(parsed)[:200]
