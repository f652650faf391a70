"""Tests of deploy/: the files themselves, read by the programs that they are for."""
