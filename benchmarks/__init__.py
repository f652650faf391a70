"""Measurements of speed, memory, latency and recall, one command each; nothing of the product imports them."""
