"""The tables' history: one file a step under `versions`, run at start by `upgrade`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from blocks_network.server.store.schema import metadata

__all__ = ["upgrade"]


def upgrade(engine: Engine) -> None:
    """Brings the database to the newest step, in one transaction. RuntimeError when it is newer than this program."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    steps = ScriptDirectory.from_config(config)
    newest = steps.get_current_head()
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == newest:
            return
        if current is not None and current not in {step.revision for step in steps.walk_revisions()}:
            raise RuntimeError(f"the database is at step {current}, which this version of the program does not know")

        def plan(revision: Any, _context: MigrationContext) -> Any:
            return steps._upgrade_revs(newest or "base", revision)

        with EnvironmentContext(config, steps, fn=plan, destination_rev=newest) as environment:
            environment.configure(connection=connection, target_metadata=metadata)
            environment.run_migrations()
