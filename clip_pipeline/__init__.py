"""A growing pile of images, turned into a searchable, verified CLIP index by Dagster runs."""

__version__ = "0.1.0"
