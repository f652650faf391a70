"""The stack on one machine: its processes, how they are started, watched, restarted and stopped together."""
