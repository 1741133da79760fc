"""An index of the tasks that live, in place of one of all states: a restart reads no task that has ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LIVING = sa.text("ended_at_ms IS NULL")


def upgrade() -> None:
    op.drop_index(op.f("ix_tasks_state"), table_name="tasks")
    op.create_index("ix_tasks_living", "tasks", ["task_id"], unique=False, sqlite_where=LIVING, postgresql_where=LIVING)
