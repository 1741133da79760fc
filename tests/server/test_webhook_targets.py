"""Where webhooks may go, and that the way there cannot be bent: names, addresses, certificates, slow receivers."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from blocks_network.server.limits import Limits
from blocks_network.server.store.database import Database
from blocks_network.server.store.tasks import TaskRecord, insert_all, snapshot
from blocks_network.server.store.webhooks import Delivery, DeliveryFilter, NewDelivery, page, put_deliveries
from blocks_network.server.webhooks.config import Webhook
from blocks_network.server.webhooks.deliverer import Deliverer
from blocks_network.server.webhooks.sender import Sender
from blocks_network.server.webhooks.targets import addresses_of, is_public

DEADLINE_S = 20
PUBLIC = "93.184.216.34"


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_may_be_called(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:db8::1",
    ],
)
def test_addresses_of_nobody_or_of_the_inside_may_not(address: str) -> None:
    assert not is_public(address)


@asynccontextmanager
async def answering(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def test_a_name_is_looked_up_once_and_the_connection_goes_there() -> None:
    """DNS rebinding: the second answer would be the inside. There is no second question."""
    asked: list[str] = []
    heads: list[bytes] = []

    async def receiver(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await _read_request(reader))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    async def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async def deliver() -> None:
        async with answering(receiver) as port:
            sender = Sender(Limits(), allow_private=True, resolve=look_up)
            outcome = await sender.post(f"http://hooks.example:{port}/a?b=c", {"x-one": "1"}, b"{}")
            assert outcome.arrived
            await sender.close()
        assert heads[0].startswith(b"POST /a?b=c HTTP/1.1\r\n")
        assert f"host: hooks.example:{port}".encode() in heads[0].lower()

    asyncio.run(deliver())
    assert asked == ["hooks.example"]


def test_a_name_with_private_addresses_alone_is_refused_for_good() -> None:
    async def look_up(host: str, port: int) -> list[str]:
        return ["10.0.0.7", "::1"]

    async def deliver() -> None:
        outcome = await Sender(Limits(), allow_private=False, resolve=look_up).post("http://a.example/", {}, b"{}")
        assert outcome.final
        assert "10.0.0.7" not in (outcome.error or "")  # nobody learns what our resolver knows

    asyncio.run(deliver())


def test_a_private_address_beside_a_public_one_is_left_out() -> None:
    async def look_up(host: str, port: int) -> list[str]:
        return ["127.0.0.1", PUBLIC, "fe80::1"]

    assert asyncio.run(addresses_of("a.example", 80, allow_private=False, resolve=look_up)) == [PUBLIC]


def test_the_certificate_is_asked_for_by_name_and_checked() -> None:
    """The receiver has no certificate: what counts is that it hears the name, and that nothing is sent without one."""
    asked: list[str | None] = []
    sent: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)

    async def receiver(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(await reader.read())

    async def look_up(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def deliver() -> None:
        server = await asyncio.start_server(receiver, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        sender = Sender(Limits(), allow_private=True, resolve=look_up)
        outcome = await sender.post(f"https://hooks.example:{port}/", {}, b"{}")
        assert (outcome.status, outcome.final) == (None, False)
        await sender.close()
        server.close()
        await server.wait_closed()

    asyncio.run(deliver())
    assert asked == ["hooks.example"]
    assert sent == []


def test_an_answer_without_end_counts_by_its_status() -> None:
    async def receiver(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
        except ConnectionError:
            writer.close()

    async def deliver() -> None:
        async with answering(receiver) as port:
            sender = Sender(Limits(), allow_private=True)
            outcome = await asyncio.wait_for(sender.post(f"http://127.0.0.1:{port}/", {}, b"{}"), DEADLINE_S)
            await sender.close()
        assert outcome.arrived

    asyncio.run(deliver())


def test_what_is_no_http_is_a_failure_that_is_tried_again() -> None:
    async def receiver(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        await writer.drain()
        writer.close()

    async def deliver() -> None:
        async with answering(receiver) as port:
            outcome = await Sender(Limits(), allow_private=True).post(f"http://127.0.0.1:{port}/", {}, b"{}")
        assert (outcome.status, outcome.final) == (None, False)
        assert "not reached" in (outcome.error or "")

    asyncio.run(deliver())


def _task(org_id: str, url: str) -> TaskRecord:
    webhook = Webhook.from_wire({"url": url}, allow_private=True)
    return TaskRecord(
        task_id=f"task-{org_id}",
        org_id=org_id,
        owner_id="user",
        agent_id="agt_1",
        agent_name="a",
        provider_org_id=org_id,
        keyset="playground",
        billing_mode="free",
        task_kind="request",
        request="{}",
        created_at_ms=1,
        updated_at_ms=1,
        webhook=webhook.to_text(),
    )


async def _put(database: Database, org_id: str, url: str, how_many: int, at_ms: int) -> None:
    task = _task(org_id, url)
    rows = [
        NewDelivery(f"msg_{org_id}_{number}", task.task_id, org_id, "task.completed", "{}", at_ms)
        for number in range(how_many)
    ]

    def put(connection: object) -> None:
        insert_all(connection, [snapshot(task)])  # type: ignore[arg-type]
        put_deliveries(connection, rows)  # type: ignore[arg-type]

    await database.write(put)


def test_slow_receivers_of_one_org_do_not_hold_up_another() -> None:
    """One org has 40 deliveries that hang, due first; the other's 5 arrive all the same."""
    limits = Limits(webhooks_at_once=8, webhooks_at_once_per_org=4, webhook_timeout_s=DEADLINE_S)
    under_way: Counter[str] = Counter()
    most: Counter[str] = Counter()
    quick_done = asyncio.Event()

    async def receiver(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        who = "slow" if b"/slow" in await _read_request(reader) else "quick"
        under_way[who] += 1
        most[who] = max(most[who], under_way[who])
        if who == "slow":
            await quick_done.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
        under_way[who] -= 1

    async def all_of(database: Database, org_id: str, how_many: int) -> None:
        def found(connection: object) -> list[Delivery]:
            return page(connection, DeliveryFilter(org_id, state="delivered", limit=100))  # type: ignore[arg-type]

        while len(await database.read(found)) < how_many:
            await asyncio.sleep(0.01)

    async def deliver() -> None:
        database = Database()
        await database.start()
        async with answering(receiver) as port:
            deliverer = Deliverer(database, limits, allow_private=True)
            await _put(database, "org_slow", f"http://127.0.0.1:{port}/slow", 40, at_ms=1)
            await deliverer.start()
            await _put(database, "org_quick", f"http://127.0.0.1:{port}/quick", 5, at_ms=2)
            deliverer.wake()
            await asyncio.wait_for(all_of(database, "org_quick", 5), DEADLINE_S)
            quick_done.set()
            await asyncio.wait_for(all_of(database, "org_slow", 40), DEADLINE_S)
            await deliverer.stop()
        await database.stop()

    # the deliveries were made in 1970: only their orders matter, and a day of trying is over after one attempt
    asyncio.run(deliver())
    assert most["slow"] == 4


def test_what_was_under_way_at_a_stop_is_due_at_the_next_start() -> None:
    arrived = asyncio.Event()
    answers = [False, True]

    async def receiver(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        arrived.set()
        if answers.pop(0):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
        else:
            await reader.read()
        writer.close()

    async def deliver() -> None:
        database = Database()
        await database.start()
        async with answering(receiver) as port:
            await _put(database, "org_one", f"http://127.0.0.1:{port}/", 1, at_ms=1)
            for _ in range(2):
                arrived.clear()
                deliverer = Deliverer(database, Limits(), allow_private=True)
                await deliverer.start()
                await asyncio.wait_for(arrived.wait(), DEADLINE_S)
                await deliverer.stop()
        await database.stop()

    asyncio.run(deliver())
    assert answers == []
