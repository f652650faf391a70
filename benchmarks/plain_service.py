"""What one would write first: a FastAPI route that asks the database about each path and inserts those it lacks.

One transaction, in a thread of the framework's, bare sqlite3, no job, no look at the files. Started by
`benchmarks.service` to compare with: `python -m benchmarks.plain_service DATABASE PORT`.
"""

import sqlite3
import sys
from contextlib import closing

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Paths(BaseModel):
    """The body."""

    image_paths: list[str]


def app_on(database: str) -> FastAPI:
    """The service on the `files` table of a ledger."""
    app = FastAPI()

    @app.post("/api/v1/index/add-images", status_code=202)
    def add_images(body: Paths) -> dict[str, int]:
        with closing(sqlite3.connect(database)) as connection, connection:
            job_id = connection.execute("SELECT job_id FROM jobs LIMIT 1").fetchone()[0]
            new = 0
            for path in body.image_paths:
                if connection.execute("SELECT 1 FROM files WHERE path = ?", (path,)).fetchone() is None:
                    new += 1
                    connection.execute(
                        "INSERT INTO files (path, size_bytes, mtime_ns, job_id, state, updated_at) "
                        "VALUES (?, 0, 0, ?, 'registered', '')",
                        (path, job_id),
                    )
            return {"new_images_count": new}

    @app.get("/health")
    def health() -> dict[str, int]:
        with closing(sqlite3.connect(database)) as connection:
            return {"images": connection.execute("SELECT count(*) FROM images").fetchone()[0]}

    return app


if __name__ == "__main__":
    uvicorn.run(app_on(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
