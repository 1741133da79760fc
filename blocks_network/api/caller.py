"""One call to a network's platform: headers, version, write affinity, errors, one refresh and one retry."""

from __future__ import annotations

import copy
import json
import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, runtime_checkable

from blocks_network.backoff import Backoff
from blocks_network.errors import ApiError, TransportError
from blocks_network.jsontext import encode_plain
from blocks_network.transport.http import POOL
from blocks_network.transport.responses import Response
from blocks_network.wire.versions import PROTOCOL_VERSION, PROTOCOL_VERSION_HEADER

__all__ = ["AFFINITY", "Answer", "AuthProvider", "Caller", "WriteAffinity", "api_error", "post_json"]

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 30.0
_encode = json.JSONEncoder(separators=(",", ":")).encode
LATER = Backoff(first_s=0.5, factor=2, cap_s=5)
"""Between tries of a call that the network has no time for, where it does not say itself when to come back."""
MAX_TRIES = 8
NOT_TAKEN, UNDECIDED = frozenset({429, 503}), frozenset({502, 504})
"""Statuses that say that nothing was done; and those after which only a repeatable call may be made again."""
_OWN_HEADERS = frozenset({"authorization", "content-type", "blocks-protocol-version", "x-write-affinity"})


@runtime_checkable
class AuthProvider(Protocol):
    """Who calls. Two methods are demanded; `ensure_ready()` and `get_last_auth_error()` are used where they exist."""

    def get_auth_header(self) -> str | None:
        """The Authorization header's value ("Bearer ..."), None when there is no identity."""

    def on_auth_failure(self) -> bool:
        """After a 401: True when a retry is worth it."""


class WriteAffinity:
    """The network's last X-Write-Affinity, echoed while it is ahead of now: a caller reads its own writes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until_s = 0.0
        self._text = ""

    def note(self, value: str | None) -> None:
        """Takes an answer's header; older, malformed and non-finite values change nothing."""
        try:
            until = float(value or "")
        except ValueError:
            return
        if not math.isfinite(until):
            return
        with self._lock:
            if until > self._until_s:
                self._until_s, self._text = until, value or ""

    def header(self) -> dict[str, str]:
        with self._lock:
            return {"X-Write-Affinity": self._text} if self._until_s > time.time() else {}


AFFINITY = WriteAffinity()
"""One for the process, as the protocol has it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status and the parsed JSON body ({} when it was empty). `retry_after_s`: when to come back, if told."""

    status: int
    body: Any
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def code(self) -> str | None:
        value = self.body.get("code") if isinstance(self.body, dict) else None
        return value if isinstance(value, str) else None

    @property
    def error(self) -> str:
        """The network's own words for what went wrong."""
        if isinstance(self.body, dict):
            text = self.body.get("error") or self.body.get("message")
            if isinstance(text, str):
                return text
            if isinstance(text, dict) and isinstance(text.get("message"), str):
                return str(text["message"])
        return f"HTTP {self.status}"


class Caller:
    """Calls one platform as one identity. Stateless but for what its AuthProvider keeps; safe for threads.

    With `patience_s`, a call that the network has no time for (429, 502, 503, 504) is made again, for so long.
    """

    def __init__(
        self,
        base_url: str,
        auth: AuthProvider | None = None,
        *,
        extra_headers: Mapping[str, str] | None = None,
        patience_s: float = 0.0,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.auth = auth
        self._patience_s = patience_s
        self._ending: threading.Event | None = None
        self._extra = {k: v for k, v in (extra_headers or {}).items() if k.lower() not in _OWN_HEADERS}

    def patient_until(self, ending: threading.Event) -> Caller:
        """The same caller, which makes no call again once `ending` is set."""
        twin = copy.copy(self)
        twin._ending = ending
        return twin

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        bearer: str | None = None,
        anonymous: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        repeatable: bool = False,
    ) -> Answer:
        """Sends JSON, returns the answer whatever its status. `bearer` beats the provider; `anonymous` sends neither.

        A 401 is answered by the provider's refresh and one retry. TransportError when no platform answered.
        `repeatable`: doing it twice is as good as once, as with every GET.
        """
        provider = None if anonymous or bearer is not None else self.auth
        again = NOT_TAKEN | UNDECIDED if repeatable or method == "GET" else NOT_TAKEN
        waited, attempt = 0.0, 0
        while True:
            if provider is None:
                answer = self._once(method, path, body, f"Bearer {bearer}" if bearer is not None else None, timeout_s)
            else:
                answer = self._identified(method, path, body, provider, timeout_s)
            attempt += 1
            pause = LATER.delay(attempt) if answer.retry_after_s is None else answer.retry_after_s
            if answer.status not in again or attempt == MAX_TRIES or waited + pause > self._patience_s:
                return answer
            log.info("%s %s was answered with HTTP %d; again in %.1f s", method, path, answer.status, pause)
            if self._ending is None:
                time.sleep(pause)
            elif self._ending.wait(pause):
                return answer
            waited += pause

    def _identified(self, method: str, path: str, body: Any, provider: AuthProvider, timeout_s: float) -> Answer:
        """A refusal of what is no longer the newest bearer is no reason to renew: somebody else just did."""
        sent = provider.get_auth_header()
        answer = self._once(method, path, body, sent, timeout_s)
        newest = provider.get_auth_header() if answer.status == 401 else sent
        if newest not in (sent, None):
            answer = self._once(method, path, body, newest, timeout_s)
        if answer.status == 401 and provider.on_auth_failure():
            answer = self._once(method, path, body, provider.get_auth_header(), timeout_s)
        return answer

    def _once(self, method: str, path: str, body: Any, authorization: str | None, timeout_s: float) -> Answer:
        headers = {**self._extra, PROTOCOL_VERSION_HEADER: PROTOCOL_VERSION, **AFFINITY.header()}
        if authorization:
            headers["Authorization"] = authorization
        response = send_json(method, f"{self.base_url}{path}", body, headers, timeout_s)
        AFFINITY.note(response.headers.get("X-Write-Affinity"))
        return parsed(response)


def post_json(
    url: str, body: Any, *, headers: Mapping[str, str] | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Answer:
    """A POST outside the platform's conventions: a customer's token endpoint. No version, no affinity, no identity."""
    return parsed(send_json("POST", url, body, dict(headers or {}), timeout_s))


def send_json(method: str, url: str, body: Any, headers: dict[str, str], timeout_s: float) -> Response:
    payload = None if body is None else encode_plain(body) or _encode(body).encode()
    if not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json"
    return POOL.request(method, url, body=payload, headers=headers, read_timeout_s=timeout_s)


def parsed(response: Response) -> Answer:
    """TransportError when the body is not JSON: something else than a platform answered."""
    later = retry_after_s(response.headers.get("Retry-After"))
    if not response.content.strip():
        return Answer(response.status_code, {}, later)
    try:
        return Answer(response.status_code, response.json(), later)
    except ValueError as fault:
        if response.status_code in NOT_TAKEN | UNDECIDED:  # a proxy's own page
            return Answer(response.status_code, {}, later)
        kind = response.headers.get("Content-Type", "nothing known").partition(";")[0]
        raise TransportError(
            f"{response.url.partition('?')[0]} answered HTTP {response.status_code} with {kind}, not with JSON",
            hint="check the base URL: this is not a Blocks network",
        ) from fault


def retry_after_s(value: str | None) -> float | None:
    """A Retry-After header: seconds, or an HTTP date. None when there is none, or nothing usable."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        at = at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)
        seconds = (at - datetime.now(timezone.utc)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def api_error(answer: Answer, what: str, *, agent_name: str | None = None) -> ApiError:
    """The error to raise for an answer that is none of the expected ones."""
    details = answer.body.get("details") if isinstance(answer.body, dict) else None
    return ApiError(
        f"{what}: {answer.error}",
        status=answer.status,
        code=answer.code,
        details=details,
        agent_name=agent_name,
        hint=_SCOPE_HINT if answer.code == "SCOPE_MISSING" else None,
    )


_SCOPE_HINT = "use a key that has it; `blocks-network keys create --scope ...` makes one"
