"""The analysis lane: what a run of `analyze_images` does from its start until no request came for a while."""
