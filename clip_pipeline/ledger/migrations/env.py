"""Alembic's entry: runs the migrations on the connection that `ledger.database` hands over."""

from alembic import context

from clip_pipeline.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # The caller's transaction is the one that holds the write lock and commits.
    transactional_ddl=False,
    render_as_batch=True,
)
context.run_migrations()
