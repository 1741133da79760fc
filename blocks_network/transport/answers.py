"""Where a subscription's answers come from: a request for each, or one request whose answer goes on line by line."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from pubnub.endpoints.pubsub.subscribe import Subscribe
from pubnub.pubnub import PubNub

from blocks_network import jsontext
from blocks_network.backoff import Backoff
from blocks_network.errors import TransportError
from blocks_network.transport.faults import Interruption, TimedOut
from blocks_network.transport.http import POOL
from blocks_network.transport.pubnub import PooledRequestHandler, call, client_of
from blocks_network.transport.responses import Response, StreamedResponse

__all__ = ["FEATURE", "Polled", "Pushed"]

log = logging.getLogger(__name__)

FEATURE = "subscribe-stream"
GIVE_WAY_S = 0.00015
"""After a delivery, before more is read: the threads that now have something to do get the interpreter first. Making a
poll, or reading a line that is there already, takes about as long as what they do, and their peers wait for that."""
FIRST_LINE_S = 4.0
"""The network sends the first line at once. Something on the way gathers answers when it has not come by then."""
FRUITLESS_S, FRUITLESS_MAX = 1.0, 5
"""An answer that ended sooner, and said nothing; and how many of them in a row are taken for that network's way."""
OFF = Backoff(first_s=60, factor=4, cap_s=3_600)
"""How long it is polled instead, the longer the more often: each attempt takes as long as FIRST_LINE_S says."""
_ANSWERS_TO_POLLS_TOO = frozenset({0, 200, 403, 429, 500, 503})
"""What is said to an attempt and would be said to a poll: it is made again. 0 is no answer at all. With anything else
something on the way refuses this kind of request alone."""


class Polled:
    """A poll for each answer. Belongs to one thread, but for `set_token`."""

    def __init__(
        self,
        client: PubNub,
        interruption: Interruption,
        *,
        channels: Sequence[str],
        groups: Sequence[str],
        filter_expression: str | None,
    ) -> None:
        """`interruption` breaks off a request that waits."""
        self._interruption = interruption
        self._channels, self._groups, self._filter = list(channels), list(groups), filter_expression
        self._client = _with_handler(client, PooledRequestHandler(client, interruption))
        self._had_news = False

    def set_token(self, token: str) -> None:
        """The capability token of later requests."""
        self._client.set_token(token)

    def next(self, cursor: int, region: str | None) -> Any:
        """The next answer above the cursor, parsed. TransportError, AccessDeniedError, or ValueError for no JSON."""
        self._give_way()
        answer = call(self._endpoint(Subscribe, self._client, cursor, region))
        self._had_news = _has_news(answer)
        return answer

    def _give_way(self) -> None:
        if self._had_news:
            self._had_news = False
            time.sleep(GIVE_WAY_S)

    def give_up(self) -> None:
        """Breaks off what is waited for: TransportError there. Any thread."""
        self._interruption.break_off()

    def close(self) -> None:
        """Nothing more is read of the last answer."""

    def _endpoint(self, kind: type[Subscribe], client: PubNub, cursor: int, region: str | None) -> Subscribe:
        return kind(
            client,
            channels=self._channels,
            groups=self._groups,
            timetoken=str(cursor),
            region=region,
            filter_expression=self._filter,
        )


class Pushed(Polled):
    """One request after another, the answer to each of which goes on (the extension `subscribe-stream`).

    Polls for a while where that turns out not to work: some proxies gather answers, or know no others.
    """

    def __init__(self, client: PubNub, interruption: Interruption, **which: Any) -> None:
        super().__init__(client, interruption, **which)
        self._handler = _LinesHandler(client, interruption)
        self._streamer = _with_handler(client, self._handler)
        self._off_until, self._offs = 0.0, 0
        self._opened_at: float | None = None
        self._bore_fruit, self._fruitless = False, 0
        self._given_up = False

    def set_token(self, token: str) -> None:
        super().set_token(token)
        self._streamer.set_token(token)

    def next(self, cursor: int, region: str | None) -> Any:
        if self._given_up:  # while its last news was delivered, perhaps
            self._given_up = False
            self.close()
        if time.monotonic() >= self._off_until:
            try:
                answer = self._next_line(cursor, region)
            except TimedOut:
                if self._handler.began:
                    raise
                self._turn_off("its first line does not come")
            except TransportError:
                if self._handler.status in _ANSWERS_TO_POLLS_TOO:
                    raise
                self._turn_off(f"HTTP {self._handler.status}")
            else:
                if answer is not None:
                    return answer
        return super().next(cursor, region)

    def give_up(self) -> None:
        self._given_up = True
        super().give_up()

    def close(self) -> None:
        self._opened_at = None
        self._handler.close()

    def _next_line(self, cursor: int, region: str | None) -> Any:
        """None when they always end at once."""
        self._give_way()
        line = self._handler.next_line()
        if line is None:
            if self._ends_at_once():
                return None
            self._opened_at, self._bore_fruit = None, False
            answer = call(self._endpoint(_Stream, self._streamer, cursor, region))
            self._opened_at = time.monotonic()
        else:
            answer, self._offs = jsontext.decode(line), 0
        self._had_news = _has_news(answer)
        self._bore_fruit = self._bore_fruit or self._had_news
        return answer

    def _ends_at_once(self) -> bool:
        """The last answer is over, if there was one."""
        was_short = self._opened_at is not None and time.monotonic() - self._opened_at < FRUITLESS_S
        self._fruitless = self._fruitless + 1 if was_short and not self._bore_fruit else 0
        if self._fruitless < FRUITLESS_MAX:
            return False
        self._fruitless = 0
        self._turn_off("its answers end at once")
        return True

    def _turn_off(self, why: str) -> None:
        self._offs += 1
        off_s = OFF.delay(self._offs)
        self._off_until = time.monotonic() + off_s
        log.info("%s does not work on the way to the network (%s): it is polled for %.0f s", FEATURE, why, off_s)


class _Stream(Subscribe):  # type: ignore[misc]
    """The library's request, to the address where the answer goes on."""

    def build_path(self) -> str:
        path: str = super().build_path()
        return path.replace("/v2/subscribe/", "/v2/stream/", 1)


class _LinesHandler(PooledRequestHandler):
    """Under a request of the library: its answer is the first line, the others follow by `next_line`."""

    def __init__(self, client: PubNub, interruption: Interruption) -> None:
        super().__init__(client, interruption)
        self.status, self.began = 0, False
        """Of the last answer: what it said, and whether its first line came."""
        self._open = ExitStack()
        self._lines: Iterator[bytes] = iter(())

    def next_line(self) -> bytes | None:
        """None: the answer is over, and everything of it was read."""
        line = next(self._lines, None)
        if line is None:
            self.close()
        return line

    def close(self) -> None:
        self._lines = iter(())
        self._open.close()

    def _send(self, platform: Any, options: Any) -> Response:
        self.close()
        self.status, self.began = 0, False
        address, headers = self._request(platform, options)
        answer: StreamedResponse = self._open.enter_context(
            POOL.stream(
                options.method_string,
                address,
                headers=headers,
                connect_timeout_s=options.connect_timeout,
                read_timeout_s=FIRST_LINE_S,
                interruption=self._interruption,
            )
        )
        self.status = answer.status_code
        if self.status != 200:
            said = answer.head()
            self.close()
            return Response(self.status, {}, said, address)
        self._lines = answer.lines()
        first = next(self._lines, b"")
        self.began = True
        answer.set_timeout(options.request_timeout)
        return Response(self.status, {}, first, address)


def _has_news(answer: Any) -> bool:
    return isinstance(answer, dict) and bool(answer.get("m"))


def _with_handler(client: PubNub, handler: PooledRequestHandler) -> PubNub:
    """The same configuration and token under a request handler of its own, whose requests can be broken off."""
    config = client.config
    if config.enable_subscribe:  # a manager of the library's would start threads that nobody needs
        config = copy.copy(config)
        config.__dict__["enable_subscribe"] = False
    twin = client_of(config, client._get_token())
    twin.set_request_handler(handler)
    return twin
