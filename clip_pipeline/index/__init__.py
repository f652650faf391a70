"""Index releases: build, merge, search, verify. The only place that imports FAISS."""
