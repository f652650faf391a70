"""Announcements of changes, on PostgreSQL: triggers that NOTIFY when the transaction commits

A payload says which topic to look at. Equal ones of one transaction are sent once, so that a bulk change costs its
listeners one look.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Name, table, event, condition on the row, topic. Renewed leases and noted uses of keys are nobody's news.
TRIGGERS = (
    ("announce_job", "jobs", "INSERT OR UPDATE OR DELETE", "true", "jobs"),
    ("announce_batch", "batches", "INSERT OR UPDATE OR DELETE", "true", "jobs"),
    ("announce_analysis", "analysis_requests", "INSERT", "true", "analyses"),
    ("announce_analysis_change", "analysis_requests", "UPDATE", "OLD.updated_at <> NEW.updated_at", "analyses"),
    ("announce_key", "api_keys", "INSERT OR DELETE", "true", "keys"),
    ("announce_key_change", "api_keys", "UPDATE",
     "(OLD.revoked_at, OLD.expires_at, OLD.scope) IS DISTINCT FROM (NEW.revoked_at, NEW.expires_at, NEW.scope)",
     "keys"),
)  # fmt: skip


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        "CREATE FUNCTION clip_announce() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_notify('clip_pipeline', TG_ARGV[0]); RETURN NULL; END $$"
    )
    for name, table, event, condition, topic in TRIGGERS:
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW WHEN ({condition}) "
            f"EXECUTE FUNCTION clip_announce('{topic}')"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for name, table, *_ in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON {table}")
    op.execute("DROP FUNCTION clip_announce()")
