"""Polls that go on: after an answer no other request has to come, the next answer is a line more of the same one.

The extension `subscribe-stream`. A line is what a poll would have been answered, with its cursor, so whenever the
answer ends the reader asks again from where it is. It ends where a poll would be refused (its token has ended), and
when the reader does not keep up: what waits for it waits in the log, not in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from blocks_network.server.gateway.polls import Poll, Polls, Selection
from blocks_network.server.gateway.reply import Reply
from blocks_network.server.gateway.request import Request, Scope, Send
from blocks_network.server.gateway.sending import headers_of
from blocks_network.server.http.answering import Answering, answering_of, head_of

if TYPE_CHECKING:
    from blocks_network.server.access.authorizer import Grant

__all__ = ["Push"]

CONTENT_TYPE = "application/x-ndjson"
_DONE = Reply(200, b"")
_UNBUFFERED = {"X-Accel-Buffering": "no"}
"""A proxy that gathers answers would hold back all but the last line."""


class Push(Poll):
    """One reader. `begin`, then `run`, as the gateway does."""

    __slots__ = ("_answering", "_touch")

    def __init__(
        self,
        polls: Polls,
        keyset: str,
        selection: Selection,
        grant: Grant | None,
        address: str,
        touch: Callable[[], None],
    ) -> None:
        """`touch()`: its client is there, as with each poll that would have come otherwise."""
        super().__init__(polls, keyset, selection, grant, address)
        self._answering: Answering | None = None
        self._touch = touch

    def begin(self, scope: Scope, first: bytes) -> bool:
        """Sends the first line. False where an answer cannot go on: this one is of no use then."""
        answering = answering_of(scope)
        head = head_of(*headers_of(scope, Reply(200, b"", CONTENT_TYPE, _UNBUFFERED)))
        if answering is None or not answering.begin(200, head, _line(first)):
            return False
        self._answering = answering
        return True

    def answer(self, reply: Reply) -> bool:
        """A line more; or the end, where it is a refusal, of which is told who asks again, or one line too many."""
        if self.answered is not None or self._answering is None:
            return False
        if reply.status == 200 and self._answering.more(_line(reply.body)):
            return True
        self._end()
        return False

    def due(self) -> None:
        super().due()
        if self.answered is None:
            self._touch()
            self._polls.hold_on(self)

    def release(self) -> None:
        """With a line in any case: where it is quiet, it says that both are still there."""
        super().release()
        if self._polls.releasing:
            self._end()

    def _end(self) -> None:
        if self._answering is not None and self.answered is None:
            self.answered = _DONE
            self._answering.end()
            self.left()

    async def run(self, request: Request, send: Send) -> None:
        """Returns when the answer has ended, or the client has gone, which is how most of them end."""
        try:
            await request.gone()
        finally:
            self.answered = self.answered or _DONE
            self.left()


def _line(answer: bytes) -> bytes:
    """Payloads go out as they came, and may have line ends between their tokens."""
    return answer.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"
