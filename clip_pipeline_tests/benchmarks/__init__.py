"""Tests of the arithmetic in `benchmarks`; what they measure is not tested."""
