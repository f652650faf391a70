"""Tests of the analysis lane."""
