"""The methods of both clients about analysis and label sets. How a call is sent is theirs."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from clip_pipeline.wire import analysis_calls
from clip_pipeline.wire.analysis_answers import Analysis, AnalysisStats, CollectionLabels, LabelSet
from clip_pipeline.wire.analysis_exchange import submit_and_wait, wait_for_analysis
from clip_pipeline.wire.calls import AnyPath
from clip_pipeline.wire.exchange import Exchange, perform

Result = TypeVar("Result")


class AnalysisMethods(ABC):
    """What `Client` can ask of the analysis service."""

    @abstractmethod
    def _run(self, exchange: Exchange[Result]) -> Result: ...

    def analyze(
        self,
        image: AnyPath | bytes,
        *,
        filename: str | None = None,
        labels: Sequence[str] | None = None,
        label_set: str | None = None,
        top_k: int | None = None,
        timeout_s: float | None = None,
    ) -> Analysis:
        """What an image, a file of this machine or its bytes, shows: completed with predictions, or failed.

        labels: what it may show; else those of `label_set`, else of the label set in use. top_k: so many predictions.

        Raises:
            AnalysisTimeoutError: neither after `timeout_s`; None waits for ever.
            OSError: the file cannot be read.
        """
        call = analysis_calls.analyze(image, filename=filename, labels=labels, label_set=label_set, top_k=top_k)
        return self._run(submit_and_wait(call, timeout_s=timeout_s))

    def submit_analysis(
        self,
        image: AnyPath | bytes,
        *,
        filename: str | None = None,
        labels: Sequence[str] | None = None,
        label_set: str | None = None,
        top_k: int | None = None,
        idempotency_key: str | None = None,
    ) -> Analysis:
        """As `analyze`, without waiting. idempotency_key: as in `add_images`."""
        call = analysis_calls.analyze(
            image,
            filename=filename,
            labels=labels,
            label_set=label_set,
            top_k=top_k,
            idempotency_key=idempotency_key,
        )
        return self._run(perform(call))

    def wait_for_analysis(self, request_id: str, *, timeout_s: float | None = None) -> Analysis:
        """The request when it is completed or failed; raises as `analyze`."""
        return self._run(wait_for_analysis(request_id, timeout_s=timeout_s))

    def analysis_status(self, request_id: str) -> Analysis:
        """Where one request stands."""
        return self._run(perform(analysis_calls.analysis_status(request_id)))

    def analysis_result(self, request_id: str) -> Analysis:
        """The result of one request, or where it stands; one that failed is an ApiError with the reason."""
        return self._run(perform(analysis_calls.analysis_result(request_id)))

    def delete_analysis(self, request_id: str) -> None:
        """Delete one request, its result and, where no other request has the same, its image."""
        self._run(perform(analysis_calls.delete_analysis(request_id)))

    def analyses(self, *, limit: int = 50) -> tuple[Analysis, ...]:
        """The newest requests, newest first, each with its best predictions."""
        return self._run(perform(analysis_calls.analyses(limit=limit)))

    def analysis_stats(self) -> AnalysisStats:
        """How many requests are in each state."""
        return self._run(perform(analysis_calls.analysis_stats()))

    def label_sets(self) -> tuple[LabelSet, ...]:
        """Every version of every label set, without the labels."""
        return self._run(perform(analysis_calls.label_sets()))

    def label_set(self, name: str, *, version: int | None = None) -> LabelSet:
        """One version of a label set, the newest unless `version` names it."""
        return self._run(perform(analysis_calls.label_set(name, version=version)))

    def create_label_set(self, name: str, labels: Sequence[str], *, templates: Sequence[str] | None = None) -> LabelSet:
        """The next version of a label set, or its newest where that is the same. templates: with {} for the label."""
        return self._run(perform(analysis_calls.create_label_set(name, labels, templates=templates)))

    def use_label_set(self, name: str, *, version: int | None = None) -> LabelSet:
        """Put a label set in use: for requests without labels, and to label the whole collection."""
        return self._run(perform(analysis_calls.use_label_set(name, version=version)))

    def collection_labels(self) -> CollectionLabels:
        """Of how many indexed images each label of the set in use is the best."""
        return self._run(perform(analysis_calls.collection_labels()))


class AsyncAnalysisMethods(ABC):
    """What `AsyncClient` can ask of the analysis service."""

    @abstractmethod
    async def _run(self, exchange: Exchange[Result]) -> Result: ...

    async def analyze(
        self,
        image: AnyPath | bytes,
        *,
        filename: str | None = None,
        labels: Sequence[str] | None = None,
        label_set: str | None = None,
        top_k: int | None = None,
        timeout_s: float | None = None,
    ) -> Analysis:
        """As `Client.analyze`."""
        call = await asyncio.to_thread(
            analysis_calls.analyze, image, filename=filename, labels=labels, label_set=label_set, top_k=top_k
        )
        return await self._run(submit_and_wait(call, timeout_s=timeout_s))

    async def submit_analysis(
        self,
        image: AnyPath | bytes,
        *,
        filename: str | None = None,
        labels: Sequence[str] | None = None,
        label_set: str | None = None,
        top_k: int | None = None,
        idempotency_key: str | None = None,
    ) -> Analysis:
        """As `Client.submit_analysis`."""
        call = await asyncio.to_thread(
            analysis_calls.analyze,
            image,
            filename=filename,
            labels=labels,
            label_set=label_set,
            top_k=top_k,
            idempotency_key=idempotency_key,
        )
        return await self._run(perform(call))

    async def wait_for_analysis(self, request_id: str, *, timeout_s: float | None = None) -> Analysis:
        """As `Client.wait_for_analysis`."""
        return await self._run(wait_for_analysis(request_id, timeout_s=timeout_s))

    async def analysis_status(self, request_id: str) -> Analysis:
        """As `Client.analysis_status`."""
        return await self._run(perform(analysis_calls.analysis_status(request_id)))

    async def analysis_result(self, request_id: str) -> Analysis:
        """As `Client.analysis_result`."""
        return await self._run(perform(analysis_calls.analysis_result(request_id)))

    async def delete_analysis(self, request_id: str) -> None:
        """As `Client.delete_analysis`."""
        await self._run(perform(analysis_calls.delete_analysis(request_id)))

    async def analyses(self, *, limit: int = 50) -> tuple[Analysis, ...]:
        """As `Client.analyses`."""
        return await self._run(perform(analysis_calls.analyses(limit=limit)))

    async def analysis_stats(self) -> AnalysisStats:
        """As `Client.analysis_stats`."""
        return await self._run(perform(analysis_calls.analysis_stats()))

    async def label_sets(self) -> tuple[LabelSet, ...]:
        """As `Client.label_sets`."""
        return await self._run(perform(analysis_calls.label_sets()))

    async def label_set(self, name: str, *, version: int | None = None) -> LabelSet:
        """As `Client.label_set`."""
        return await self._run(perform(analysis_calls.label_set(name, version=version)))

    async def create_label_set(
        self, name: str, labels: Sequence[str], *, templates: Sequence[str] | None = None
    ) -> LabelSet:
        """As `Client.create_label_set`."""
        return await self._run(perform(analysis_calls.create_label_set(name, labels, templates=templates)))

    async def use_label_set(self, name: str, *, version: int | None = None) -> LabelSet:
        """As `Client.use_label_set`."""
        return await self._run(perform(analysis_calls.use_label_set(name, version=version)))

    async def collection_labels(self) -> CollectionLabels:
        """As `Client.collection_labels`."""
        return await self._run(perform(analysis_calls.collection_labels()))
