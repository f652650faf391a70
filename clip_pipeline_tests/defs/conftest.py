"""Fixtures for the Dagster tests."""

from clip_pipeline_tests.defs.pipeline import pipeline

__all__ = ["pipeline"]
