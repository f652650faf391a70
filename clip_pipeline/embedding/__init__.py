"""Encoders, image decoding and the embedding loop: the only place that imports torch."""
