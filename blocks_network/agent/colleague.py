"""The instance's own TaskClient, with which its handlers give work to other agents."""

from __future__ import annotations

from typing import Literal

from blocks_network.agent.identity import InstanceIdentity
from blocks_network.agent.tasks import TaskRun
from blocks_network.auth.consumer import ConsumerAuth
from blocks_network.consumer.client import TaskClient
from blocks_network.consumer.errand import Errand, lend
from blocks_network.errors import TaskEndingError
from blocks_network.transport.pubnub import PubNubKeys

__all__ = ["Colleague"]


class Colleague:
    """A consumer under the provider's API key; its token is acquired at the first call."""

    def __init__(
        self, identity: InstanceIdentity, keys: PubNubKeys, environment: Literal["playground", "network"]
    ) -> None:
        self._auth = ConsumerAuth(api_key=identity.auth.get_api_key(), base_url=identity.base_url)
        self.client = TaskClient(
            keys.subscribe_key,
            "free" if environment == "playground" else "paid",
            publish_key=keys.publish_key,
            base_url=identity.base_url,
            auth_provider=self._auth,
            origin=keys.origin,
            ssl=keys.ssl,
            features=identity.cdm.features if identity.cdm is not None else (),
        )

    def lend(self, run: TaskRun) -> TaskClient:
        """For one task: what its handler waits for with it ends when the task is to end."""
        text = f"task {run.task_id} is to end, and with it its handler's wait for another task"
        errand = Errand(run.ending, lambda: TaskEndingError(text, task_id=run.task_id))
        run.when_ending(errand.wake)
        return lend(self.client, errand)

    def close(self) -> None:
        self.client.destroy()
        self._auth.destroy()
