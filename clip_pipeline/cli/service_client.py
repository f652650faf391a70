"""Searches asked of the running HTTP service: requests, answers, and problem documents as errors."""

import mimetypes
import time
from pathlib import Path
from typing import Any, TypeAlias

import httpx

from clip_pipeline.core.errors import (
    ClipPipelineError,
    ConfigurationError,
    EncoderUnavailableError,
    FingerprintMismatchError,
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
    503: EncoderUnavailableError,
}
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
        return self._ask("GET", params={"q": text, "k": str(k)})

    def search_indexed(self, image_path: str, *, k: int) -> Document:
        """The answer for an image of the index, by its path in text form. Raises as `_ask` does."""
        return self._ask("POST", json={"image_path": image_path, "k": k})

    def search_upload(self, image: Path, *, k: int) -> Document:
        """The answer for the image in a file. Raises as `_ask` does, QueryError where the file cannot be read."""
        name = display_path(path_to_text(image.name))
        kind = mimetypes.guess_type(image.name)[0] or "application/octet-stream"
        try:
            with image.open("rb") as file:
                return self._ask("POST", files={"file": (name, file, kind)}, data={"k": str(k)})
        except OSError as error:
            raise QueryError(f"the query image {name} cannot be read: {error.strerror}") from error

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

    def _ask(self, method: str, **request: Any) -> Document:
        """Raises StackError where the service does not answer, and the error that its problem document stands for."""
        try:
            response = self._client.request(method, f"{self._url}/api/v1/search", **request)
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
