"""Every table of the network. Portable SQL only: SQLite here, PostgreSQL for scale.

Instants are Unix milliseconds. JSON is kept as text that the code above reads: the database never looks inside.
The migrations build the same tables step by step; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

__all__ = [
    "agent_tags",
    "agents",
    "api_keys",
    "cursors",
    "idempotency",
    "instances",
    "metadata",
    "orgs",
    "outbox",
    "refresh_families",
    "signing_keys",
    "tasks",
    "webhook_deliveries",
]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

orgs = Table(
    "orgs",
    metadata,
    Column("org_id", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)
"""Tenants. One sees nothing of another."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("key_hash", String(64), nullable=False, unique=True),
    Column("org_id", String(64), ForeignKey("orgs.org_id"), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("scopes", String(255), nullable=False),
    Column("label", String(255), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger),
    Index(None, "org_id"),
)
"""API keys by their SHA-256 (hex). `scopes` is a comma-separated list."""

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String(64), primary_key=True),
    Column("algorithm", String(16), nullable=False),
    Column("secret", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)
"""What access tokens are signed with; the newest signs, the others still verify."""

refresh_families = Table(
    "refresh_families",
    metadata,
    Column("family_id", String(64), primary_key=True),
    Column("key_id", String(64), ForeignKey("api_keys.key_id"), nullable=False),
    Column("role", String(16), nullable=False),
    Column("agent_id", String(64)),
    Column("instance_id", String(255)),
    Column("current_hash", String(64), nullable=False),
    Column("previous_hash", String(64)),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("rotated_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger),
    Index(None, "rotated_at_ms"),
)
"""One row a chain of rotating refresh tokens. A token that was already replaced ends its whole family."""

agents = Table(
    "agents",
    metadata,
    Column("agent_id", String(64), primary_key=True),
    Column("agent_name", String(255), nullable=False, unique=True),
    Column("org_id", String(64), ForeignKey("orgs.org_id"), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("card", Text, nullable=False),
    Column("listing", String(16), nullable=False),
    Column("billing_mode", String(16), nullable=False),
    Column("price_per_task", Float),
    Column("price_per_minute", Float),
    Column("scaling", Text, nullable=False),
    Column("forced_offline", Boolean, nullable=False),
    Column("registered_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Index(None, "org_id"),
)
"""The registry. `scaling` is what the agent's instances said last at their connect."""

agent_tags = Table(
    "agent_tags",
    metadata,
    Column("agent_id", String(64), ForeignKey("agents.agent_id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(255), primary_key=True),
    Index(None, "tag"),
)
"""What agents are found by: the ids and names of their cards' tags, in the spellings that are looked for."""

instances = Table(
    "instances",
    metadata,
    Column("agent_id", String(64), ForeignKey("agents.agent_id", ondelete="CASCADE"), primary_key=True),
    Column("instance_id", String(255), primary_key=True),
    Column("concurrency", Integer, nullable=False),
    Column("connected_at_ms", BigInteger, nullable=False),
    Index(None, "agent_id", "connected_at_ms"),
)
"""Who has connected: the only uuids on a control channel that may get work. Two agents may have one id each."""

LIVING = text("ended_at_ms IS NULL")
"""Written out: a database uses an index of some rows where a query says which in the same words."""

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", String(64), primary_key=True),
    Column("org_id", String(64), nullable=False),
    Column("owner_id", String(255), nullable=False),
    Column("agent_id", String(64), nullable=False),
    Column("agent_name", String(255), nullable=False),
    Column("provider_org_id", String(64), nullable=False),
    Column("keyset", String(64), nullable=False),
    Column("billing_mode", String(16), nullable=False),
    Column("task_kind", String(16), nullable=False),
    Column("request", Text, nullable=False),
    Column("duration_minutes", Integer),
    Column("max_running_s", Integer),
    Column("has_stream", Boolean, nullable=False),
    Column("consumer_public_key", Text),
    Column("retry_policy", Text),
    Column("warnings", Text),
    Column("anon_hash", String(64)),
    Column("reader", String(64)),
    Column("webhook", Text),
    Column("created_at_ms", BigInteger, nullable=False),
    # what changes while it lives
    Column("state", String(16), nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("instance_id", String(255)),
    Column("not_before_ms", BigInteger),
    Column("expires_at_ms", BigInteger),
    Column("started_at_ms", BigInteger),
    Column("ending", String(16)),
    Column("ending_at_ms", BigInteger),
    Column("ended_at_ms", BigInteger),
    Column("error", Text),
    Column("reason", String(255)),
    Column("completion_reason", String(255)),
    Index(None, "org_id", "task_id"),
    Index(None, "provider_org_id", "task_id"),
    Index("ix_tasks_living", "task_id", sqlite_where=LIVING, postgresql_where=LIVING),
)
"""Every task ever accepted. No foreign key to agents: a task outlives the entry of its agent."""

idempotency = Table(
    "idempotency",
    metadata,
    Column("org_id", String(64), primary_key=True),
    Column("user_id", String(64), primary_key=True),
    Column("idempotency_key", String(255), primary_key=True),
    Column("task_id", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)
"""The first task that a user sent under a key. Users are their organisation's: two may have one of the same id."""

outbox = Table(
    "outbox",
    metadata,
    Column("message_id", String(64), primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("keyset", String(64), nullable=False),
    Column("channel", String(255), nullable=False),
    Column("payload", Text, nullable=False),
    Column("meta", Text),
    Column("stored", Boolean, nullable=False),
    Index(None, "position"),
)
"""Messages that were decided together with a task's state and still have to reach the bus."""

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("delivery_id", String(64), primary_key=True),
    Column("task_id", String(64), ForeignKey("tasks.task_id"), nullable=False),
    Column("org_id", String(64), nullable=False),
    Column("event", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at_ms", BigInteger, nullable=False),
    Column("ended_at_ms", BigInteger),
    Column("log", Text, nullable=False),
    Index(None, "state", "next_at_ms"),
    Index(None, "org_id", "created_at_ms"),
    Index(None, "task_id"),
    Index(None, "ended_at_ms"),
)
"""What a task's webhook is told, made together with the task's change; `log` has one entry an attempt."""

cursors = Table(
    "cursors",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("timetoken", BigInteger, nullable=False),
)
"""How far a reader of the bus has come; what lies behind it is in the tables."""
