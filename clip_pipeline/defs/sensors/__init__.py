"""Sensors: each looks, decides with a pure function, and tells. One launches a given kind of work, never two."""
