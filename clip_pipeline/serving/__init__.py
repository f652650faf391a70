"""The HTTP service: search, stats and health. The only place that imports the web framework."""
