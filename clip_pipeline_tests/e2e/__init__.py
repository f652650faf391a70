"""End to end: the real stack, real processes, real HTTP."""
