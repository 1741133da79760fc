"""Asks the network for a stream: one publish on the task's set-up channel, which it answers."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from blocks_network.backoff import Backoff
from blocks_network.errors import AccessDeniedError, TransportError
from blocks_network.transport.pubnub import call
from blocks_network.wire.channels import setup_channel
from blocks_network.wire.setup import SetupAnswer, SetupFault, StreamSetup, read_answer

if TYPE_CHECKING:
    from pubnub.pubnub import PubNub

__all__ = ["request_setup"]

log = logging.getLogger(__name__)

ATTEMPTS = 4
RETRY = Backoff(first_s=0.1, factor=2, cap_s=1)


def request_setup(client: PubNub, setup: StreamSetup) -> SetupAnswer:
    """The network's grant. `client` publishes with the task's write token.

    Transport faults are tried again, a few times. RuntimeError with code and message when the network refuses, when
    it denies the token, when it answers with something else, or when nobody answered in its place.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            call(
                client.publish()
                .channel(setup_channel(setup.task_id, setup.org_id))
                .message(setup.to_wire())
                .should_store(False)
                .use_post(True)
            )
        except AccessDeniedError as denied:
            return _granted(setup, denied)
        except TransportError as fault:
            if attempt == ATTEMPTS:
                raise
            log.warning("the set-up of stream %s is tried again: %s", setup.stream_id, fault)
            time.sleep(RETRY.delay(attempt))
            continue
        raise TransportError(
            f"the network delivered the set-up of stream {setup.stream_id} instead of answering it",
            task_id=setup.task_id,
            hint="this network does not offer streams",
        )
    raise AssertionError("not reached")


def _granted(setup: StreamSetup, denied: AccessDeniedError) -> SetupAnswer:
    answer = read_answer(denied.body)
    if isinstance(answer, SetupFault):
        raise RuntimeError(f"the network refused stream {setup.stream_id}: {answer.code}: {answer}") from denied
    if answer is None:
        raise denied
    if (answer.task_id, answer.stream_id) != (setup.task_id, setup.stream_id):
        raise RuntimeError(f"the network answered for another stream than {setup.stream_id}")
    if setup.phase != "activate" and answer.token is None:
        raise RuntimeError(f"the network granted stream {setup.stream_id} without a token")
    return answer
