"""Tests of Kafka intake and output."""
