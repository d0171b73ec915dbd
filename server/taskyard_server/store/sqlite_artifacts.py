"""References to parts in the control database: see `artifacts.ArtifactStore`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from taskyard_server.store.artifacts import ArtifactRecord, Totals
from taskyard_server.store.database import Database
from taskyard_server.store.tables import artifacts


class SqliteArtifacts:
    """Each verb is one operation on the tables; a task's artifacts go with its row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note_sent(self, digest: str, account: str, now: float) -> None:
        await self._database.write(lambda connection: artifacts.note_sent(connection, digest, account, now))

    async def sent_by(self, account: str, digests: Collection[str]) -> set[str]:
        return await self._database.read(lambda connection: artifacts.sent_by(connection, account, digests))

    async def attach(self, records: Sequence[ArtifactRecord]) -> None:
        await self._database.write(lambda connection: artifacts.attach(connection, records))

    async def artifacts(self, run_id: str) -> list[ArtifactRecord]:
        return await self._database.read(lambda connection: artifacts.of_run(connection, run_id))

    async def artifact(self, run_id: str, name: str) -> ArtifactRecord:
        return await self._database.read(lambda connection: artifacts.get(connection, run_id, name))

    async def totals(self, run_id: str, *, besides: Collection[str]) -> Totals:
        return await self._database.read(lambda connection: artifacts.totals(connection, run_id, besides))

    async def referenced(self, digests: Collection[str]) -> set[str]:
        return await self._database.read(lambda connection: artifacts.referenced(connection, digests))

    async def forget_task(self, task_id: str) -> None:
        await self._database.write(lambda connection: artifacts.forget_task(connection, task_id))

    async def forget_unused(self, before: float, now: float) -> int:
        return await self._database.write(lambda connection: artifacts.forget_unused(connection, before, now))

    async def folder_id(self, own: str | None) -> str | None:
        return await self._database.write(lambda connection: artifacts.folder_id(connection, own))
