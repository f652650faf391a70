"""Tests of clip_pipeline.ledger."""
