"""Images that searches are asked with: read from a multipart form, put where the decoder can open them."""

import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fastapi import Request
from starlette.datastructures import UploadFile

from clip_pipeline.serving.queries import InvalidFieldError, UploadQuery
from clip_pipeline.serving.request_body import upload_form
from clip_pipeline.settings import Settings

FORM_OVERHEAD_BYTES = 64 * 1024
MAX_FIELDS = 16


@dataclass(frozen=True, slots=True)
class QueryUpload:
    """The image of a search form. fields: the other fields of the form."""

    query: UploadQuery
    fields: Mapping[str, str]
    received: IO[bytes]

    def stored(self) -> UploadQuery:
        """The query, its file written. Blocks."""
        with self.query.file.open("wb") as file:
            shutil.copyfileobj(self.received, file)
        return self.query


@asynccontextmanager
async def query_upload(request: Request, settings: Settings) -> AsyncGenerator[QueryUpload, None]:
    """The form of a request, whose field `file` is an image; both are gone afterwards.

    Raises problems: 400 for what is no form, 413 for one that is too long, 422 for one without the file.
    """
    max_bytes = settings.max_image_bytes + FORM_OVERHEAD_BYTES
    async with upload_form(request, max_bytes=max_bytes, max_fields=MAX_FIELDS) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise InvalidFieldError("file", "expected an image file in the form field `file`")
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        with tempfile.NamedTemporaryFile(prefix="clip-query-") as copy:
            yield QueryUpload(UploadQuery(Path(copy.name), upload.filename), fields, upload.file)
