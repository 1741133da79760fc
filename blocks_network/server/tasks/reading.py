"""Tasks shown: to the organisation that sent them, to the one whose agent got them, and to whoever has the fingerprint.

A sender of a task for a public and free agent may send a fingerprint with it. Whoever has it, and the task's id, reads
the task without an identity; without the fingerprint only its state is shown.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from blocks_network.server.access.keysets import Keysets
from blocks_network.server.access.principal import Principal
from blocks_network.server.limits import Limits
from blocks_network.server.store import tasks as store
from blocks_network.server.store.database import Database
from blocks_network.server.store.tasks import TaskRecord
from blocks_network.server.tasks.dispatch import ReadGrant, TaskTokens
from blocks_network.server.tasks.ledger import Ledger
from blocks_network.server.tasks.overseer import Overseer
from blocks_network.server.tasks.refusals import check_storable, invalid_params, task_not_found
from blocks_network.server.tasks.views import anonymous_view, list_filter, next_cursor, task_view
from blocks_network.wire.channels import task_channel

__all__ = ["Reading", "fingerprint_hash", "task_id_of"]


def fingerprint_hash(fingerprint: str) -> str:
    """What a task keeps of the fingerprint that it was sent with."""
    return hashlib.sha256(fingerprint.encode()).hexdigest()


def task_id_of(params: Mapping[str, Any]) -> str:
    """The parameter `taskId`. TaskRefusal when it is missing."""
    task_id = params.get("taskId")
    if not isinstance(task_id, str) or not task_id:
        raise invalid_params("taskId is missing")
    return check_storable("taskId", task_id)


class Reading:
    """Belongs to the loop of the task service. `keeps_streams`: what was kept of a task's streams may be read too."""

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        overseer: Overseer,
        tokens: TaskTokens,
        keysets: Keysets,
        limits: Limits,
        keeps_streams: bool,
    ) -> None:
        self._database, self._ledger, self._overseer = database, ledger, overseer
        self._tokens, self._keysets, self._limits = tokens, keysets, limits
        self._keeps_streams = keeps_streams

    async def get(self, principal: Principal | None, params: Mapping[str, Any]) -> dict[str, Any]:
        """`{"task": ...}`; unknown and foreign tasks are refused alike. Nobody (None) sees little, and of those tasks
        alone that have a fingerprint."""
        task_id = task_id_of(params)
        if principal is not None:
            return {"task": task_view(await self.find(task_id, principal))}
        record = await self._record(task_id)
        if record is None or record.anon_hash is None:
            raise task_not_found(task_id)
        return {"task": anonymous_view(record)}

    async def list(self, principal: Principal, params: Mapping[str, Any]) -> dict[str, Any]:
        """`{"tasks", "next"?, "totalCount"}`, newest first: what the caller's organisation sent, and what its agents
        got."""
        wanted = list_filter(params, principal.org_id, self._limits.tasks_per_page)
        await self._ledger.flush()
        one_more = replace(wanted, limit=wanted.limit + 1 if wanted.limit else 0)  # tells whether there is a next page
        records, total = await self._database.read(partial(store.page, wanted=one_more))
        shown = records[: wanted.limit]
        answer: dict[str, Any] = {"tasks": [task_view(record) for record in shown], "totalCount": total}
        if len(records) > len(shown):
            answer["next"] = next_cursor(shown[-1])
        return answer

    async def read_grant(self, principal: Principal, task_id: str, role: Literal["consumer", "provider"]) -> ReadGrant:
        """A token for a task's channel. TaskRefusal `TaskNotFound`, also when the caller is not what `role` says."""
        record = await self.find(task_id, principal)
        side = record.org_id if role == "consumer" else record.provider_org_id
        if side != principal.org_id:
            raise task_not_found(task_id)
        return self.grant(record)

    async def anonymous_read_grant(self, task_id: str, fingerprint: str) -> ReadGrant | None:
        """A token for a task that was sent with this fingerprint; None for any other, nobody learns which part was
        wrong."""
        record = await self._record(task_id)
        kept = "" if record is None or record.anon_hash is None else record.anon_hash
        if not hmac.compare_digest(kept, fingerprint_hash(fingerprint)):
            return None
        assert record is not None
        return self.grant(record)

    def grant(self, record: TaskRecord, *, with_streams: bool = True) -> ReadGrant:
        """A token for a task that the caller was found to be allowed to read."""
        return self._tokens.read(
            self._keysets.by_name(record.keyset),
            task_channel(record.task_id, record.org_id),
            duration_minutes=record.duration_minutes,
            max_running_s=record.max_running_s,
            streams_of=(record.agent_name, record.task_id) if self._keeps_streams and with_streams else None,
        )

    async def find(self, task_id: str, principal: Principal) -> TaskRecord:
        """TaskRefusal `TaskNotFound` when neither side of the task is the caller's organisation."""
        record = await self._record(task_id)
        if record is None or principal.org_id not in (record.org_id, record.provider_org_id):
            raise task_not_found(task_id)
        return record

    async def _record(self, task_id: str) -> TaskRecord | None:
        known = self._overseer.living.get(task_id) or self._overseer.ended_task(task_id)
        if known is not None:
            return known
        await self._ledger.flush()
        return await self._database.read(partial(store.find, task_id=task_id))
