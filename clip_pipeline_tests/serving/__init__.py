"""Tests of clip_pipeline.serving."""
