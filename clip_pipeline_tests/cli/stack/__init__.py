"""The supervisor with real, small child processes."""
