"""Telling clients what changes: one watch for all, one bounded queue for each listener."""
