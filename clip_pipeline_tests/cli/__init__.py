"""Tests of clip_pipeline.cli."""
