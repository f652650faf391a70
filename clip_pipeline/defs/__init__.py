"""Dagster definitions, thin: partitions, assets, checks, sensors, jobs, resources."""
