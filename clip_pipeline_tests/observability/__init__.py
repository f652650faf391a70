"""Tests of clip_pipeline.observability."""
