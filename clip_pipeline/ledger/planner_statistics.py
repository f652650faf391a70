"""What SQLite's query planner is told about the tables, once and for good.

Without statistics SQLite takes every index for equally selective. Of two that fit it may pick the one on `state`, and
then a statement about one image goes through all files of its state: 100,000 images took an hour to publish, where
they take seconds. Measured statistics would be no better: they know averages only, so that on a ledger whose files are
nearly all `indexed` an index on states counts as useless for the few that failed. A table of rows made for this is
SQLite's own advice: https://www.sqlite.org/optoverview.html#manual_control_of_query_plans_using_sqlite_stat_tables
"""

from sqlalchemy import Connection
from sqlalchemy import text as sql_text

# Ten million rows: a table of which nothing is known, as a temporary one, counts as a million and must be the smaller.
ROWS_BY_INDEX = {
    # index: its rows, then how many of them agree in the first column, in the first two, and so on
    ("files", "sqlite_autoindex_files_1"): "10000000 1",
    ("files", "ix_files_batch"): "10000000 20000",
    ("files", "ix_files_image_id"): "10000000 2",
    ("files", "ix_files_state"): "10000000 200000",
    ("files", "ix_files_job"): "10000000 200000 100000 10000",
    ("files", "ix_files_unplanned"): "1000 500 1",
    ("images", "sqlite_autoindex_images_1"): "10000000 1",
    ("images", "ix_images_batch"): "10000000 20000",
    ("images", "ix_images_state"): "10000000 200000 100000",
    ("job_files", "job_files"): "10000000 200000 1",
    ("job_files", "ix_job_files_file_id"): "10000000 2",
}


def write_planner_statistics(connection: Connection) -> None:
    """Put the statistics into an SQLite ledger, in place of any there are. Other databases measure their own well."""
    if connection.dialect.name != "sqlite":
        return
    connection.execute(sql_text("ANALYZE alembic_version"))  # which makes the table of statistics, of one small table
    connection.execute(sql_text("DELETE FROM sqlite_stat1"))
    connection.execute(
        sql_text("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (:tbl, :idx, :stat)"),
        [{"tbl": table, "idx": index, "stat": stat} for (table, index), stat in ROWS_BY_INDEX.items()],
    )
    connection.execute(sql_text("ANALYZE sqlite_schema"))  # which makes this connection read them
