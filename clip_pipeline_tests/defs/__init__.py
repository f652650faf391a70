"""Tests of clip_pipeline.defs."""
