"""One attempt: a POST to the address that was looked at, with an answer in time or without one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from blocks_network.server.limits import Limits
from blocks_network.server.webhooks.targets import Resolve, TargetRefused, addresses_of, look_up

__all__ = ["Outcome", "Sender"]

DRAIN_S = 2.0
"""How long the rest of an answer is read: its status says all, but a receiver should get to finish its sentence."""
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is the receiver's answer, else `error` says why there is none. `final`: trying again is of no use."""

    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None
    final: bool = False

    @property
    def arrived(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """Belongs to one event loop. A connection serves one attempt: one that was checked for a host serves no other.

    No proxy, no redirect, no cookie: a POST goes where `resolve` says, or nowhere.
    """

    def __init__(self, limits: Limits, *, allow_private: bool, resolve: Resolve = look_up) -> None:
        self._limits, self._allow_private, self._resolve = limits, allow_private, resolve
        self._client: httpx.AsyncClient | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Never raises for what the other side does. Takes at most `webhook_timeout_s`, and a little to drain."""
        timeout_s = self._limits.webhook_timeout_s
        try:
            response = await asyncio.wait_for(self._answer(httpx.URL(url), headers, body), timeout_s)
        except (TimeoutError, asyncio.TimeoutError, httpx.TimeoutException):
            return Outcome(error=f"no answer within {timeout_s:g} s")
        except TargetRefused as refused:
            return Outcome(error=str(refused), final=True)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as fault:
            return Outcome(error=f"not reached: {str(fault) or type(fault).__name__}"[:500])
        try:
            await asyncio.wait_for(self._drain(response), DRAIN_S)
        except (TimeoutError, asyncio.TimeoutError, httpx.HTTPError):
            return _outcome(response)  # it has answered, however its body ends
        finally:
            await response.aclose()
        return _outcome(response)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _answer(self, target: httpx.URL, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        """The head of the answer, from the first address that takes the connection."""
        port = target.port or PORTS[target.scheme]
        addresses = await addresses_of(target.host, port, allow_private=self._allow_private, resolve=self._resolve)
        fault: Exception = OSError(f"{target.host} has no address")
        for address in addresses:
            request = self._opened().build_request(
                "POST",
                target.copy_with(host=address),
                headers={"Host": target.netloc.decode("ascii"), **headers},
                content=body,
                extensions={"sni_hostname": target.host},  # the certificate must be the host's, not the address's
            )
            try:
                return await self._opened().send(request, stream=True)
            except httpx.ConnectError as refused:
                fault = refused
        raise fault

    async def _drain(self, response: httpx.Response) -> None:
        size = 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > self._limits.webhook_answer_bytes:
                return

    def _opened(self) -> httpx.AsyncClient:
        """Made at the first attempt: its certificates take a while to load."""
        if self._client is None:
            self._client = httpx.AsyncClient(
                follow_redirects=False,
                trust_env=False,
                timeout=self._limits.webhook_timeout_s,
                limits=httpx.Limits(max_connections=self._limits.webhooks_at_once, max_keepalive_connections=0),
            )
        return self._client


def _outcome(response: httpx.Response) -> Outcome:
    status = response.status_code
    if 300 <= status < 400:
        return Outcome(status, "the receiver redirects; redirects are not followed")
    if status == 410:
        return Outcome(status, "the receiver says that it is gone for good", final=True)
    return Outcome(status, retry_after_s=_seconds(response.headers.get("retry-after")))


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None  # a date, or nothing: our own schedule holds
    return seconds if math.isfinite(seconds) and seconds > 0 else None
