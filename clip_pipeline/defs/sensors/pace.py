"""How often the sensors look."""

EVERY_LOOK_S = 4
"""Dagster looks whose turn it is every 5 s: a sensor that asks for 5 misses every other look and ticks every 10 s."""
