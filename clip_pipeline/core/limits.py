"""How much of this machine one image may cost."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Checked before an image is decoded; an image beyond them is failed with a reason, never decoded.

    max_bytes: size of the file. max_pixels: width times height as stated in its header (a decompression bomb states
    them truthfully: the decoder allocates by it). timeout_s: wall time for reading and decoding one image.
    """

    max_bytes: int = 256 * 1024**2
    max_pixels: int = 150_000_000
    timeout_s: float = 60.0
