"""Tests of clip_pipeline.wire."""
