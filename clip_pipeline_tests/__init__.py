"""Tests, mirroring the package: one folder for each of its packages."""
