"""What the network is compared with, on the same listener: an answer that costs nothing, and the smallest relay.

python benchmarks/baselines.py constant | relay      prints its port, serves until its standard input ends
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.parse
from typing import Any

import uvloop

from blocks_network.server.http.listener import App, Listener, bind

__all__ = ["constant", "relay"]


async def _answer(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def constant(scope: Any, receive: Any, send: Any) -> None:
    """Answers everything with what a publish answers."""
    await _answer(send, b'[1,"Sent","17000000000000000"]')


def relay() -> App:
    """One channel: publishes by GET or POST wake whoever waits; one message is kept, nothing is checked or filtered."""
    waiting: list[asyncio.Future[bytes]] = []
    cursor = 17_000_000_000_000_000
    last = b""

    def envelope(channel: str, payload: bytes, timetoken: int) -> bytes:
        message = b'{"a":"1","f":0,"p":{"t":"%d","r":1},"k":"demo","c":%s,"d":%s}'
        return message % (timetoken, json.dumps(channel).encode(), payload)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal cursor, last
        path = scope["path"].split("/")
        if path[1] == "publish":
            payload = urllib.parse.unquote(path[7]).encode() if len(path) > 7 else (await receive())["body"]
            cursor += 1
            last = b'{"t":{"t":"%d","r":1},"m":[%s]}' % (cursor, envelope(path[5], payload, cursor))
            for future in waiting:
                if not future.done():
                    future.set_result(last)
            waiting.clear()
            await _answer(send, b'[1,"Sent","%d"]' % cursor)
        elif path[1] == "v2" and path[2] == "subscribe":
            query = urllib.parse.parse_qs(scope["query_string"].decode())
            asked = int(query.get("tt", ["0"])[0])
            if not asked or asked < cursor:  # a handshake, or a message came between two polls
                await _answer(send, last if asked else b'{"t":{"t":"%d","r":1},"m":[]}' % cursor)
                return
            future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            waiting.append(future)
            await _answer(send, await future)
        else:
            await _answer(send, b'{"status":200,"message":"OK","service":"Presence"}')

    return app


async def _serve(app: App) -> None:
    loop = asyncio.get_running_loop()
    sock = bind("127.0.0.1", 0)
    listener = Listener(app, sock, keep_alive_s=300)
    await listener.start()
    print(sock.getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    listener.refuse()
    await listener.drain(0.1)


if __name__ == "__main__":
    uvloop.run(_serve(constant if sys.argv[1] == "constant" else relay()))
