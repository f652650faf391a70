"""Tests of clip_pipeline.embedding."""
