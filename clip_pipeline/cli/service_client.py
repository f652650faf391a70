"""Searches and analyses asked of the running HTTP service: requests, answers, and problem documents as errors."""

import mimetypes
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import httpx

from clip_pipeline.core.errors import (
    ClipPipelineError,
    ConfigurationError,
    EncoderUnavailableError,
    FingerprintMismatchError,
    NoSpaceError,
    NotFoundError,
    QueryError,
    StackError,
)
from clip_pipeline.core.paths import display_path, path_to_text

Document: TypeAlias = dict[str, Any]

TIMEOUT_S = 180.0
"""A first search waits for the weights of the encoder."""

_ERROR_OF_STATUS: dict[int, type[ClipPipelineError]] = {
    401: ConfigurationError,
    403: ConfigurationError,
    404: NotFoundError,
    409: FingerprintMismatchError,
    413: QueryError,
    415: QueryError,
    422: QueryError,
    507: NoSpaceError,
    503: EncoderUnavailableError,
}
_SEARCH = "/api/v1/search"
_MOST_PAUSES, _LONGEST_RETRY_S = 10, 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 2.0


class ServiceClient:
    """The service at `url`, asked with `api_key` where it needs one. A context manager."""

    def __init__(self, url: str, *, api_key: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        # The service is on this machine: a proxy that the environment names for the world is not for it.
        headers = {"X-API-Key": api_key} if api_key else {}
        self._client = httpx.Client(timeout=timeout_s, trust_env=False, headers=headers)

    def __enter__(self) -> "ServiceClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def search_text(self, text: str, *, k: int) -> Document:
        """The answer to `GET /api/v1/search?q=`. Raises as `_ask` does."""
        return self._ask("GET", _SEARCH, params={"q": text, "k": str(k)})

    def search_indexed(self, image_path: str, *, k: int) -> Document:
        """The answer for an image of the index, by its path in text form. Raises as `_ask` does."""
        return self._ask("POST", _SEARCH, json={"image_path": image_path, "k": k})

    def search_upload(self, image: Path, *, k: int) -> Document:
        """The answer for the image in a file. Raises as `_ask` does, QueryError where the file cannot be read."""
        return self._upload(_SEARCH, image, fields={"k": str(k)})

    def submit_analysis(self, image: Path, *, fields: Mapping[str, str]) -> Document:
        """The answer to `POST /analyze-image` for the image in a file. Raises as `search_upload` does."""
        return self._upload("/analyze-image", image, fields=fields)

    def analysis(self, request_id: str, *, wait_s: float) -> Document:
        """The status of an analysis request, with its predictions once it is completed; waits so long for its end.

        Raises as `_ask` does, though not where the request itself failed: its status says so.
        """
        try:
            return self._ask("GET", f"/result/{request_id}", params={"wait": f"{wait_s:g}"})
        except QueryError:
            return self._ask("GET", f"/status/{request_id}")

    def wait_for_release(self, name: str, *, timeout_s: float) -> None:
        """Return once searches are answered from release `name` or a later one. Raises StackError after the timeout."""
        deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
        while True:
            if self.served_release() >= name:
                return
            if time.monotonic() > deadline:
                raise StackError(f"the service at {self._url} does not serve release {name}; look into its log")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def served_release(self) -> str:
        """The release that is served, as documents name it; empty while there is none."""
        try:
            document = self._client.get(f"{self._url}/health").json()
            return str(document.get("parts", {}).get("index", {}).get("release", ""))
        except (httpx.HTTPError, ValueError, AttributeError):
            return ""

    def _upload(self, path: str, image: Path, *, fields: Mapping[str, str]) -> Document:
        name = display_path(path_to_text(image.name))
        kind = mimetypes.guess_type(image.name)[0] or "application/octet-stream"
        try:
            with image.open("rb") as file:
                return self._ask("POST", path, files={"file": (name, file, kind)}, data=dict(fields))
        except OSError as error:
            raise QueryError(f"the image {name} cannot be read: {error.strerror}") from error

    def _answer(self, method: str, path: str, **request: Any) -> httpx.Response:
        """What the service answers, asked again when it says so for a while where it was asked too often."""
        pauses = 0
        while True:
            response = self._client.request(method, f"{self._url}{path}", **request)
            pause_s = response.headers.get("Retry-After", "1")
            if response.status_code != 429 or not pause_s.isdecimal() or pauses == _MOST_PAUSES:
                return response
            for _, file, _ in request.get("files", {}).values():
                file.seek(0)
            time.sleep(min(float(pause_s), _LONGEST_RETRY_S))
            pauses += 1

    def _ask(self, method: str, path: str, **request: Any) -> Document:
        """Raises StackError where the service does not answer, and the error that its problem document stands for."""
        try:
            response = self._answer(method, path, **request)
            document = response.json()
        except (httpx.HTTPError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise StackError(
                f"the service at {self._url} does not answer ({reason}); start it with `clip-pipeline up`"
            ) from error
        if response.is_success:
            return document
        detail = document.get("detail") or document.get("title") or f"status {response.status_code}"
        if response.status_code in (401, 403):
            detail = f"{detail}; `clip-pipeline keys create NAME` makes a key, CLIP_PIPELINE_API_KEY is where to put it"
        raise _ERROR_OF_STATUS.get(response.status_code, StackError)(str(detail))
