"""Tests of clip_pipeline.core."""
