"""Tests of clip_pipeline.index."""
