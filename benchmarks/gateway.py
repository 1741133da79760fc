"""The gateway against its baselines: medians of several interleaved rounds, as ratios of the same run.

    python benchmarks/gateway.py [--rounds N] [--seconds S] [--json] [publish delivery polls]

- publish: publishes a second with a token that is checked and a log that is on the disk before the answer, over 64
  connections, against the same listener with a constant answer. Wanted: at least 0.25.
- delivery: from `publish().sync()` of one unmodified client to the callback of another, p50, against a relay that
  does nothing else. Wanted: at most 1.3.
- polls: resident memory for each of 5,000 waiting polls (wanted: less than 30 KB), and how long a publish to one of
  them takes to arrive, against 10 waiting (wanted: at most 1.3).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import socket
import statistics
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import load
import uvloop
from network import Server, baseline, network
from pubnub.callbacks import SubscribeCallback
from pubnub.models.consumer.v3.channel import Channel
from pubnub.pnconfiguration import PNConfiguration
from pubnub.pubnub import PubNub

CONNECTIONS = 64
WAITING = 5_000
DELIVERIES = 200


def client(server: Server, *, user: str, token: str | None = None, secret: bool = False) -> PubNub:
    """An unmodified client of the server's first keyset."""
    config = PNConfiguration()
    keys = next(iter(server.described["keysets"].values())) if server.described else {}
    config.publish_key, config.subscribe_key = keys.get("publishKey", "demo"), keys.get("subscribeKey", "demo")
    if secret:
        config.secret_key = keys["secretKey"]
    config.origin, config.ssl, config.user_id = f"127.0.0.1:{server.port}", False, user
    config.enable_subscribe = not secret
    made = PubNub(config)
    if token:
        made.set_token(token)
    return made


def token_for(server: Server, *channels: str, user: str) -> str:
    """A token granted by the network itself, with a signed request."""
    granter = client(server, user="granter", secret=True)
    wanted = [Channel.id(name).read().write() for name in channels]
    granted = granter.grant_token().channels(wanted).ttl(60).authorized_uuid(user).sync()
    return str(granted.result.token)


# --- publish ---


def publish_requests(server: Server) -> Callable[[], bytes]:
    keys = next(iter(server.described["keysets"].values()))
    token = token_for(server, "bench", user="publisher")
    query = urllib.parse.urlencode({"uuid": "publisher", "auth": token, "store": "1"})
    path = f"/publish/{keys['publishKey']}/{keys['subscribeKey']}/0/bench/0"
    numbers = itertools.count()

    def request() -> bytes:
        message = urllib.parse.quote(json.dumps({"n": next(numbers), "text": "x" * 100}))
        return f"GET {path}/{message}?{query} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()

    return request


def measure_publish(rounds: int, seconds: float) -> dict[str, Any]:
    with network() as ours, baseline("constant") as constant:
        request = publish_requests(ours)
        rates: dict[str, list[float]] = {"network": [], "constant": []}
        for _ in range(rounds):
            for name, server in (("network", ours), ("constant", constant)):
                outcome = load.run("127.0.0.1", server.port, connections=CONNECTIONS, seconds=seconds, request=request)
                if outcome.failed:
                    raise SystemExit(f"{outcome.failed} of {outcome.requests} publishes were refused by the {name}")
                rates[name].append(outcome.per_second)
    per_second = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "publishes_per_s": {name: round(value) for name, value in per_second.items()},
        "ratio": round(per_second["network"] / per_second["constant"], 3),
        "wanted": "at least 0.25",
    }


# --- delivery ---


class Delivery:
    """A publisher and a subscriber on one channel of a server. Both clients send a token, whoever looks at it."""

    def __init__(self, server: Server, token: str) -> None:
        self._arrived, self._ready = threading.Event(), threading.Event()
        self._publisher = client(server, user="bench", token=token)
        self._subscriber = client(server, user="bench", token=token)
        delivery = self

        class Listener(SubscribeCallback):
            def message(self, pubnub: PubNub, message: Any) -> None:
                delivery._arrived.set()

            def status(self, pubnub: PubNub, status: Any) -> None:
                delivery._ready.set()

            def presence(self, pubnub: PubNub, presence: Any) -> None: ...

        self._subscriber.add_listener(Listener())
        self._subscriber.subscribe().channels("bench").execute()
        if not self._ready.wait(10):
            raise SystemExit("the subscriber was not connected within 10 s")

    def once(self) -> float:
        """Seconds from the call of publish to the callback."""
        self._arrived.clear()
        began = time.perf_counter()
        self._publisher.publish().channel("bench").message({"text": "x" * 100}).sync()
        if not self._arrived.wait(10):
            raise SystemExit("a message did not arrive within 10 s")
        return time.perf_counter() - began

    def close(self) -> None:
        self._subscriber.unsubscribe_all()
        self._subscriber.stop()
        self._publisher.stop()


def measure_delivery(rounds: int, seconds: float) -> dict[str, Any]:
    with network() as ours, baseline("relay") as stub:
        token = token_for(ours, "bench", user="bench")
        measured = {"network": Delivery(ours, token), "relay": Delivery(stub, token)}
        samples: dict[str, list[float]] = {name: [] for name in measured}
        for delivery in measured.values():
            for _ in range(30):
                delivery.once()
        for _ in range(rounds):
            for name, delivery in measured.items():
                samples[name].append(statistics.median(delivery.once() for _ in range(DELIVERIES)))
        for delivery in measured.values():
            delivery.close()
    p50 = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "p50_ms": {name: round(value * 1e3, 3) for name, value in p50.items()},
        "ratio": round(p50["network"] / p50["relay"], 3),
        "wanted": "at most 1.3",
    }


# --- waiting polls ---


async def wait_polls(server: Server, token_of: Callable[[int], str], count: int, rounds: int) -> tuple[float, float]:
    """Holds `count` polls. Returns bytes of memory for each, and the median seconds from a publish to its poll."""
    keys = next(iter(server.described["keysets"].values()))
    base = f"/v2/subscribe/{keys['subscribeKey']}"

    async def ask(reader: Any, writer: Any, number: int, cursor: str) -> None:
        query = urllib.parse.urlencode({"tt": cursor, "tr": "1", "uuid": "poller", "auth": token_of(number)})
        writer.write(f"GET {base}/poll-{number}/0?{query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    async def answer(reader: Any) -> Any:
        head = await reader.readuntil(b"\r\n\r\n")
        at = head.lower().index(b"content-length:") + 15
        return json.loads(await reader.readexactly(int(head[at : head.index(b"\r", at)])))

    connections = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(count)]
    publisher = await asyncio.open_connection("127.0.0.1", server.port)
    await ask(*connections[0], 0, "0")
    cursor = (await answer(connections[0][0]))["t"]["t"]
    await asyncio.sleep(0.5)
    before = server.resident_bytes()
    for number, connection in enumerate(connections):
        await ask(*connection, number, cursor)
    await asyncio.sleep(2)  # all of them are held
    held_bytes = (server.resident_bytes() - before) / count
    publish = f"/publish/{keys['publishKey']}/{keys['subscribeKey']}/0/poll-%d/0/%%22x%%22?uuid=poller&auth=%s"
    samples = []
    for number in range(min(count, 10) * rounds):
        at = number % min(count, 10)
        began = time.perf_counter()
        publisher[1].write((f"GET {publish % (at, token_of(at))} HTTP/1.1\r\nhost: x\r\n\r\n").encode())
        cursor = (await answer(connections[at][0]))["t"]["t"]
        samples.append(time.perf_counter() - began)
        await answer(publisher[0])
        await ask(*connections[at], at, cursor)
    for _, writer in [*connections, publisher]:
        writer.close()
    return held_bytes, statistics.median(samples)


def measure_polls(rounds: int, seconds: float) -> dict[str, Any]:
    many, few, held = [], [], []
    per_token = 100
    for _ in range(max(1, rounds // 2)):
        with network() as ours:
            tokens = [
                token_for(ours, *(f"poll-{first + i}" for i in range(per_token)), user="poller")
                for first in range(0, WAITING, per_token)
            ]

            def token_of(number: int, tokens: list[str] = tokens) -> str:
                return tokens[number // per_token]

            few.append(uvloop.run(wait_polls(ours, token_of, 10, 30))[1])
            held_bytes, latency_s = uvloop.run(wait_polls(ours, token_of, WAITING, 30))
            held.append(held_bytes)
            many.append(latency_s)
    return {
        "resident_bytes_for_each_poll": round(statistics.median(held)),
        "wanted_bytes": "less than 30000",
        "publish_to_poll_ms": {
            "10": round(statistics.median(few) * 1e3, 3),
            str(WAITING): round(statistics.median(many) * 1e3, 3),
        },
        "ratio": round(statistics.median(many) / statistics.median(few), 3),
        "wanted": "at most 1.3",
    }


MEASURES = {"publish": measure_publish, "delivery": measure_delivery, "polls": measure_polls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", choices=[[], *MEASURES], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one round of publishes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    for name in options.measures or MEASURES:
        results[name] = MEASURES[name](options.rounds, options.seconds)
        if not options.json:
            print(name, json.dumps(results[name]), flush=True)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    socket.setdefaulttimeout(30)
    main()
