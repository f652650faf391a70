"""The service from Python: `Client`, and `AsyncClient` with the same methods as coroutines.

    with Client() as client:
        job = client.wait(client.add_images(["/data/photos/a.jpg"]).job_id)
        for hit in client.search(text="a red bicycle", k=5).results:
            print(hit.score, hit.path)

Both hold connections open until closed, and both may be shared: the first by threads, the second by tasks of one
event loop. What is safe to send again is, after connections that fail and answers such as 429 and 503.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from clip_pipeline.wire import calls
from clip_pipeline.wire.analysis_exchange import AnalysisTimeoutError
from clip_pipeline.wire.analysis_methods import AnalysisMethods, AsyncAnalysisMethods
from clip_pipeline.wire.answers import Document, Health, Image, Job, Jobs, SearchResults, Stats, Submission
from clip_pipeline.wire.calls import AnyPath, Call, Question
from clip_pipeline.wire.exchange import ApiError, Exchange, Outcome, Send, WaitTimeoutError, perform, wait_for_job

__all__ = ["AnalysisTimeoutError", "ApiError", "AsyncClient", "Client", "WaitTimeoutError"]

Result = TypeVar("Result")

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 120.0
"""A first search waits for the weights of the encoder."""
CONNECT_TIMEOUT_S = 10.0
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Client(AnalysisMethods):
    """The service at `base_url`. A context manager. timeout_s: how long one request may take.

    Every method raises ApiError where the service refuses or does not answer.
    """

    def __init__(
        self, base_url: str = DEFAULT_URL, api_key: str | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._http = httpx.Client(**_connection(base_url, api_key, timeout_s=timeout_s))

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def add_images(
        self,
        paths: Iterable[AnyPath] = (),
        *,
        priority: int = 0,
        recursive_dirs: Iterable[AnyPath] = (),
        idempotency_key: str | None = None,
    ) -> Submission:
        """Submit absolute paths, at most 100,000, as the service sees them, and folders with all below them.

        idempotency_key: under the same one the same request gives the same job; one is made up where none is given.
        """
        call = calls.add_images(
            paths, priority=priority, recursive_dirs=recursive_dirs, idempotency_key=idempotency_key
        )
        return self._run(perform(call))

    def job(self, job_id: str) -> Job:
        """Where one job stands."""
        return self._run(perform(calls.job(job_id)))

    def jobs(self) -> Jobs:
        """The jobs that are open and the newest ones."""
        return self._run(perform(calls.jobs()))

    def wait(
        self, job_id: str, *, on_progress: Callable[[Job], object] | None = None, timeout_s: float | None = None
    ) -> Job:
        """The job when it is completed, failed or canceled; `on_progress` is given it whenever its counts change.

        Raises:
            WaitTimeoutError: none of these after `timeout_s`; None waits for ever.
        """
        return self._run(wait_for_job(job_id, on_progress=on_progress, timeout_s=timeout_s))

    def retry_failed(self, job_id: str) -> Submission:
        """Try the failed images of a job again, as a new job."""
        return self._run(perform(calls.retry_failed(job_id)))

    def cancel(self, job_id: str) -> Document:
        """Cancel a job; returns what the service says of it."""
        return self._run(perform(calls.cancel(job_id)))

    def delete_images(self, paths: Iterable[AnyPath]) -> Document:
        """Remove images from the index, their files stay; returns what the service says of it."""
        return self._run(perform(calls.delete_images(paths)))

    def image(self, path: AnyPath) -> Image:
        """Where one path is and why."""
        return self._run(perform(calls.image(path)))

    def search(
        self,
        *,
        text: str | None = None,
        file: AnyPath | None = None,
        image_path: AnyPath | None = None,
        vector: Sequence[float] | None = None,
        fingerprint: str | None = None,
        k: int = 10,
        min_score: float | None = None,
        filter: Mapping[str, object] | None = None,
    ) -> SearchResults:
        """The k best images for one of: a text, a file of this machine, an image of the index, a vector.

        filter: such as `{"path_prefix": "/data/photos/2024/", "format": "JPEG"}`; fingerprint: of the encoder that
        made the vector, so that one of another encoder is refused.

        Raises:
            ValueError: not exactly one of the four.
            OSError: the file cannot be read.
        """
        question = Question(text, file, image_path, vector, fingerprint)
        return self._run(perform(calls.search(question, k=k, min_score=min_score, filter=filter)))

    def stats(self) -> Stats:
        """What the index holds."""
        return self._run(perform(calls.stats()))

    def health(self) -> Health:
        """Whether all is well, and if not, what is wrong."""
        return self._run(perform(calls.health()))

    def _run(self, exchange: Exchange[Result]) -> Result:
        outcome: Outcome = None
        while True:
            try:
                step = exchange.send(outcome)
            except StopIteration as end:
                return end.value
            if isinstance(step, Send):
                outcome = self._send(step.call)
            else:
                outcome = None
                time.sleep(step.seconds)

    def _send(self, call: Call[Any]) -> httpx.Response | httpx.TransportError:
        try:
            return self._http.request(call.method, call.path, **call.content)
        except httpx.TransportError as error:
            return error


class AsyncClient(AsyncAnalysisMethods):
    """The service at `base_url` for programs built on asyncio. An asynchronous context manager; else as `Client`."""

    def __init__(
        self, base_url: str = DEFAULT_URL, api_key: str | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._http = httpx.AsyncClient(**_connection(base_url, api_key, timeout_s=timeout_s))

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def add_images(
        self,
        paths: Iterable[AnyPath] = (),
        *,
        priority: int = 0,
        recursive_dirs: Iterable[AnyPath] = (),
        idempotency_key: str | None = None,
    ) -> Submission:
        """As `Client.add_images`."""
        call = calls.add_images(
            paths, priority=priority, recursive_dirs=recursive_dirs, idempotency_key=idempotency_key
        )
        return await self._run(perform(call))

    async def job(self, job_id: str) -> Job:
        """As `Client.job`."""
        return await self._run(perform(calls.job(job_id)))

    async def jobs(self) -> Jobs:
        """As `Client.jobs`."""
        return await self._run(perform(calls.jobs()))

    async def wait(
        self, job_id: str, *, on_progress: Callable[[Job], object] | None = None, timeout_s: float | None = None
    ) -> Job:
        """As `Client.wait`; `on_progress` is a plain function."""
        return await self._run(wait_for_job(job_id, on_progress=on_progress, timeout_s=timeout_s))

    async def retry_failed(self, job_id: str) -> Submission:
        """As `Client.retry_failed`."""
        return await self._run(perform(calls.retry_failed(job_id)))

    async def cancel(self, job_id: str) -> Document:
        """As `Client.cancel`."""
        return await self._run(perform(calls.cancel(job_id)))

    async def delete_images(self, paths: Iterable[AnyPath]) -> Document:
        """As `Client.delete_images`."""
        return await self._run(perform(calls.delete_images(paths)))

    async def image(self, path: AnyPath) -> Image:
        """As `Client.image`."""
        return await self._run(perform(calls.image(path)))

    async def search(
        self,
        *,
        text: str | None = None,
        file: AnyPath | None = None,
        image_path: AnyPath | None = None,
        vector: Sequence[float] | None = None,
        fingerprint: str | None = None,
        k: int = 10,
        min_score: float | None = None,
        filter: Mapping[str, object] | None = None,
    ) -> SearchResults:
        """As `Client.search`."""
        question = Question(text, file, image_path, vector, fingerprint)
        call = await asyncio.to_thread(calls.search, question, k=k, min_score=min_score, filter=filter)
        return await self._run(perform(call))

    async def stats(self) -> Stats:
        """As `Client.stats`."""
        return await self._run(perform(calls.stats()))

    async def health(self) -> Health:
        """As `Client.health`."""
        return await self._run(perform(calls.health()))

    async def _run(self, exchange: Exchange[Result]) -> Result:
        outcome: Outcome = None
        while True:
            try:
                step = exchange.send(outcome)
            except StopIteration as end:
                return end.value
            if isinstance(step, Send):
                outcome = await self._send(step.call)
            else:
                outcome = None
                await asyncio.sleep(step.seconds)

    async def _send(self, call: Call[Any]) -> httpx.Response | httpx.TransportError:
        try:
            return await self._http.request(call.method, call.path, **call.content)
        except httpx.TransportError as error:
            return error


def _connection(base_url: str, api_key: str | None, *, timeout_s: float) -> dict[str, Any]:
    """What both of httpx's clients are made with."""
    url = httpx.URL(base_url)
    return {
        "base_url": url,
        "headers": {} if api_key is None else {"Authorization": f"Bearer {api_key}"},
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
        # A proxy that the environment names for the world is not for this machine.
        "trust_env": url.host not in _LOOPBACK,
    }
