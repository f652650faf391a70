"""Resources: the settings, the store and the ledger, opened when a run or a tick first asks for them."""

from functools import lru_cache

import dagster as dg

from clip_pipeline.core.encoder import Encoder
from clip_pipeline.core.store import Store
from clip_pipeline.defs.logs import forget_run, log_for_run
from clip_pipeline.ledger.database import LONG_PATIENCE_S, Ledger, open_ledger
from clip_pipeline.settings import Settings


class PipelineResource(dg.ConfigurableResource[None]):
    """Where this deployment keeps its state, from `CLIP_PIPELINE_*`; nothing is read before a method is called."""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Called by Dagster before each run and each tick: what they log carries the ids of the run."""
        log_for_run(context.run)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Called by Dagster after them."""
        forget_run(context.run)

    def settings(self) -> Settings:
        """The settings as the environment of this process gives them."""
        return Settings()

    def store(self) -> Store:
        """The store below the home."""
        return self.settings().store

    def ledger(self) -> Ledger:
        """The ledger, one connection pool for each process."""
        return _open_once(self.settings().ledger_location)


class EncoderResource(dg.ConfigurableResource[None]):
    """The pinned encoder of the store, loaded when a run first asks for it; the first run of all pins one."""

    def load(self, settings: Settings) -> Encoder:
        """The encoder on the configured device.

        Raises:
            EncoderUnavailableError: its weights cannot be found or fail their digest.
            FingerprintMismatchError: the store is pinned to another one.
        """
        # torch and the weights: only a run pays for them, never the loading of the code location.
        from clip_pipeline.embedding.registry import ensure_pinned  # noqa: PLC0415

        pinned = ensure_pinned(
            settings.store, settings.encoder, device=settings.device, backend=settings.backend,
            cache_dir=settings.home_path / "cache",
        )  # fmt: skip
        return pinned.encoder


@lru_cache(maxsize=8)
def _open_once(url: str) -> Ledger:
    # Runs and ticks outlive a restart of the database: nobody waits for their answer, and a failed run starts anew.
    return open_ledger(url, patience_s=LONG_PATIENCE_S)
