"""Nothing is lost, repeated or out of order: under broken connections, and with many who publish at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cutting_proxy import CuttingProxy
from gateway_harness import GatewayNode
from talkers import FullEar, SyncTalker, TalkerFactory

CUTS = 3


class Load:
    """Publishes 0, 1, 2, ... to a channel until it is asked to end; `told` has what the network has taken, in order."""

    def __init__(self, gateway: GatewayNode, channel: str, *, stored: bool) -> None:
        client = gateway.client("writer")
        self._publish = lambda number: client.publish().channel(channel).message(number).should_store(stored).sync()
        self._ending = threading.Event()
        self.told: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._run, name="load")

    def _run(self) -> None:
        for number in itertools.count():
            if self._ending.wait(0.005):  # some hundred a second: polls wait, and every cut meets news
                return
            self.told.append((number, int(self._publish(number).result.timetoken)))

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._ending.set()
            self._thread.join()


def collect(ear: FullEar, upto: int) -> list[tuple[int, int]]:
    """What was heard until a message says `upto` or more."""
    heard = []
    while not heard or heard[-1][0] < upto:
        message = ear.next_message()
        heard.append((message.message, int(message.timetoken)))
    return heard


def cut_at_once(proxy: CuttingProxy) -> None:
    proxy.cut()


def cut_within_an_answer(proxy: CuttingProxy) -> None:
    proxy.cut_answer_after(700)


def broken(gateway: GatewayNode, make: Callable[[str], Any], cut: Callable[[CuttingProxy], None]) -> tuple[Any, Any]:
    """What was published while the reader's connections broke, and what the reader heard."""
    with CuttingProxy(gateway.origin) as proxy:
        ear = make(proxy.origin).listen(["room"])
        load, heard = Load(gateway, "room", stored=False), []
        with load.running():
            for _ in range(CUTS):
                heard += collect(ear, heard[-1][0] + 30 if heard else 30)
                cut(proxy)
                heard += collect(ear, load.told[-1][0] + 5)  # the reader is back, and further than at the cut
        if heard[-1][0] < load.told[-1][0]:
            heard += collect(ear, load.told[-1][0])
        while not ear.messages.empty():
            heard += collect(ear, 0)
        return load.told, heard


@pytest.mark.parametrize("cut", [cut_at_once, cut_within_an_answer])
def test_the_sync_client_loses_and_repeats_nothing(
    gateway_node: GatewayNode, cut: Callable[[CuttingProxy], None]
) -> None:
    told, heard = broken(gateway_node, lambda origin: SyncTalker(gateway_node, "reader", origin=origin), cut)
    assert len(told) > 30 * CUTS
    assert heard == told


@pytest.mark.parametrize("cut", [cut_at_once, cut_within_an_answer])
def test_the_asyncio_client_loses_nothing(
    gateway_node: GatewayNode, async_talker: TalkerFactory, cut: Callable[[CuttingProxy], None]
) -> None:
    """After a failure it hands out an answer and then asks for the same once more, so it repeats by itself.

    (`ReceiveReconnectEffect` keeps the old cursor.) What it repeats has the same timetokens and comes in order.
    """
    told, heard = broken(gateway_node, lambda origin: async_talker("reader", origin=origin), cut)
    assert list(dict.fromkeys(heard)) == told
    steps_back = sum(later <= earlier for (_, earlier), (_, later) in itertools.pairwise(heard))
    assert steps_back <= CUTS


def test_a_reader_that_comes_late_gets_all_since_its_cursor(talker: TalkerFactory) -> None:
    writer, reader = talker("writer"), talker("reader")
    sent = [
        int(
            writer.do(
                lambda it, number=number: it.publish().channel("room").message(number).should_store(False)
            ).timetoken
        )
        for number in range(250)
    ]
    ear = reader.listen(["room"], since=sent[9])
    heard = [(message.message, int(message.timetoken)) for message in (ear.next_message() for _ in range(240))]
    assert heard == list(enumerate(sent))[10:]


def test_all_readers_hear_many_publishers_in_one_order(talker: TalkerFactory, gateway_node: GatewayNode) -> None:
    publishers, each = 8, 60
    ears = [talker(f"reader-{number}").listen(["room", "hall"]) for number in range(2)]
    told: list[list[int]] = [[] for _ in range(publishers)]

    def publish(publisher: int) -> None:
        client = gateway_node.client(f"p{publisher}")
        for number in range(each):
            channel = "room" if number % 2 else "hall"
            sent = client.publish().channel(channel).message([publisher, number]).should_store(number % 3 == 0).sync()
            told[publisher].append(int(sent.result.timetoken))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(publishers)]
    for thread in threads:
        thread.start()
    heard = [
        [(message.message[0], message.message[1], int(message.timetoken)) for message in iter_messages(ear, 480)]
        for ear in ears
    ]
    for thread in threads:
        thread.join()
    assert heard[0] == heard[1]
    timetokens = [timetoken for *_, timetoken in heard[0]]
    assert timetokens == sorted(set(timetokens))
    for publisher in range(publishers):
        own = [(number, timetoken) for who, number, timetoken in heard[0] if who == publisher]
        assert own == list(enumerate(told[publisher]))


def iter_messages(ear: FullEar, count: int) -> Iterator[Any]:
    for _ in range(count):
        yield ear.next_message()
