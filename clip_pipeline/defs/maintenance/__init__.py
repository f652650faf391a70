"""Maintenance: plain functions, each safe to kill at any moment, and the scheduled Dagster jobs that call them."""
