"""Draws the pictures of the canary into clip_pipeline/embedding/data/canary; done once, since a picture that changes
by one byte makes every golden vector useless. `python tools/draw_canary.py [FOLDER]`."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).resolve().parents[1] / "clip_pipeline" / "embedding" / "data" / "canary"
SCALE = 3  # drawn so much larger, then made smaller: soft edges


def grain(size: tuple[int, int], *, seed: int, strength: float) -> npt.NDArray[np.float64]:
    """Coarse noise [h, w, 1], so that no area is flat and resizing shows."""
    coarse = np.random.default_rng(seed).normal(0, strength, (size[1] // 6 + 1, size[0] // 6 + 1))
    fine = Image.fromarray(coarse.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(fine, np.float64)[:, :, None]


def gradient(size: tuple[int, int], top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Image.Image:
    """One colour above that becomes another one below."""
    share = np.linspace(0, 1, size[1])[:, None, None]
    rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
    return Image.fromarray(np.broadcast_to(rows, (size[1], size[0], 3)).round().astype(np.uint8))


def drawn(
    size: tuple[int, int], top: tuple[int, int, int], bottom: tuple[int, int, int],
    draw: Callable[[ImageDraw.ImageDraw, int, int], None], *, seed: int,
) -> Image.Image:  # fmt: skip
    """A sky, what `draw` puts before it (given width and height), soft edges and a little grain."""
    large = gradient((size[0] * SCALE, size[1] * SCALE), top, bottom)
    draw(ImageDraw.Draw(large), *large.size)
    small = np.asarray(large.resize(size, Image.Resampling.LANCZOS), np.float64)
    return Image.fromarray(np.clip(small + grain(size, seed=seed, strength=7), 0, 255).round().astype(np.uint8))


def sunset(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    """A sun above the sea, and a boat that shows which side is left."""
    draw.ellipse((w * 0.55, h * 0.3, w * 0.85, h * 0.3 + w * 0.3), fill=(255, 226, 120))
    draw.rectangle((0, h * 0.6, w, h), fill=(38, 62, 110))
    for n in range(9):
        y = h * (0.63 + 0.04 * n)
        draw.line((w * 0.5 - n * 8, y, w * 0.9 + n * 4, y), fill=(235, 170, 90), width=5)
    draw.polygon(
        [(w * 0.12, h * 0.66), (w * 0.36, h * 0.66), (w * 0.31, h * 0.72), (w * 0.17, h * 0.72)], fill=(60, 30, 25)
    )
    draw.polygon([(w * 0.22, h * 0.4), (w * 0.22, h * 0.64), (w * 0.35, h * 0.64)], fill=(240, 240, 235))


def street(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    """A row of houses and a red bus, wide: the crop cuts both ends off."""
    for n, colour in enumerate([(196, 110, 70), (225, 200, 150), (120, 140, 165), (170, 90, 90), (205, 180, 90)]):
        left = w * n / 5
        draw.rectangle((left, h * (0.2 + 0.06 * (n % 3)), left + w / 5 - 6, h * 0.85), fill=colour)
        for row in range(3):
            for column in range(2):
                x, y = left + w * (0.04 + 0.08 * column), h * (0.36 + 0.15 * row)
                draw.rectangle((x, y, x + w * 0.035, y + h * 0.09), fill=(250, 240, 190) if row % 2 else (70, 85, 105))
    draw.rectangle((0, h * 0.85, w, h), fill=(80, 80, 84))
    draw.rounded_rectangle((w * 0.36, h * 0.6, w * 0.62, h * 0.92), 30, fill=(200, 30, 30))
    for n in range(4):
        draw.rectangle((w * (0.38 + 0.06 * n), h * 0.65, w * (0.425 + 0.06 * n), h * 0.76), fill=(205, 230, 245))
    for x in (0.42, 0.56):
        draw.ellipse((w * x - h * 0.07, h * 0.85, w * x + h * 0.07, h * 0.99), fill=(25, 25, 28))


def mountain(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    """Two peaks with snow and firs before them."""
    draw.polygon([(0, h), (w * 0.38, h * 0.18), (w * 0.75, h)], fill=(95, 100, 112))
    draw.polygon(
        [(w * 0.29, h * 0.37), (w * 0.38, h * 0.18), (w * 0.47, h * 0.38), (w * 0.38, h * 0.33)], fill=(250,) * 3
    )
    draw.polygon([(w * 0.45, h), (w * 0.75, h * 0.36), (w, h * 0.86), (w, h)], fill=(66, 70, 82))
    for n in range(7):
        x, y = w * (0.05 + 0.145 * n), h * (0.72 + 0.03 * (n % 2))
        draw.polygon([(x, y), (x - w * 0.05, h * 0.98), (x + w * 0.05, h * 0.98)], fill=(24, 30, 30))


def balloons(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    """Four balloons on their strings."""
    for x, y, colour in [
        (0.2, 0.3, (220, 40, 50)),
        (0.45, 0.18, (250, 200, 40)),
        (0.7, 0.34, (40, 150, 70)),
        (0.42, 0.5, (60, 80, 200)),
    ]:
        draw.line((w * x, h * (y + 0.15), w * 0.5, h * 0.97), fill=(60, 60, 60), width=4)
        draw.ellipse((w * (x - 0.13), h * (y - 0.16), w * (x + 0.13), h * (y + 0.16)), fill=colour)
        draw.ellipse((w * (x - 0.07), h * (y - 0.11), w * (x - 0.02), h * (y - 0.03)), fill=(255, 240, 240))


def flower(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    """A daisy on its stem."""
    draw.line((w * 0.5, h * 0.45, w * 0.46, h), fill=(60, 130, 50), width=24)
    draw.ellipse((w * 0.46, h * 0.68, w * 0.74, h * 0.8), fill=(70, 150, 60))
    for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        x, y = w * (0.5 + 0.2 * np.cos(angle)), h * (0.38 + 0.2 * np.sin(angle))
        draw.ellipse((x - w * 0.09, y - h * 0.09, x + w * 0.09, y + h * 0.09), fill=(250, 245, 250))
    draw.ellipse((w * 0.38, h * 0.26, w * 0.62, h * 0.5), fill=(245, 190, 40))


def moon(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    """A crescent and stars."""
    draw.ellipse((w * 0.25, h * 0.2, w * 0.75, h * 0.7), fill=(245, 245, 245))
    draw.ellipse((w * 0.4, h * 0.14, w * 0.86, h * 0.6), fill=(30, 30, 30))
    for n, (x, y) in enumerate(np.random.default_rng(5).random((40, 2))):
        r = 3 + 5 * (n % 3)
        draw.ellipse((w * x - r, h * y - r, w * x + r, h * y + r), fill=(230, 230, 230))


def fish(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    """An orange fish with white stripes, swimming to the left."""
    draw.polygon([(w * 0.68, h * 0.5), (w * 0.92, h * 0.28), (w * 0.92, h * 0.74)], fill=(230, 100, 20))
    draw.ellipse((w * 0.1, h * 0.28, w * 0.78, h * 0.74), fill=(245, 125, 30))
    for x in (0.34, 0.56):
        draw.polygon(
            [(w * x, h * 0.29), (w * (x + 0.08), h * 0.29), (w * (x + 0.06), h * 0.73), (w * (x - 0.02), h * 0.73)],
            fill=(250,) * 3,
        )
    draw.ellipse((w * 0.18, h * 0.42, w * 0.25, h * 0.5), fill=(15, 15, 20))


def leaf(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    """A green leaf with its veins."""
    draw.polygon(
        [
            (w * 0.1, h * 0.85),
            (w * 0.22, h * 0.35),
            (w * 0.6, h * 0.1),
            (w * 0.9, h * 0.12),
            (w * 0.86, h * 0.5),
            (w * 0.55, h * 0.82),
        ],
        fill=(60, 140, 60),
    )
    draw.line((w * 0.05, h * 0.92, w * 0.85, h * 0.17), fill=(180, 210, 120), width=14)
    for n in range(5):
        x, y = w * (0.22 + 0.12 * n), h * (0.76 - 0.112 * n)
        draw.line((x, y, x + w * 0.02, y - h * 0.2), fill=(150, 195, 110), width=7)
        draw.line((x, y, x + w * 0.19, y + h * 0.0), fill=(150, 195, 110), width=7)


def main(folder: Path) -> None:
    """Write all eight."""
    folder.mkdir(parents=True, exist_ok=True)
    upright = drawn((300, 380), (250, 140, 90), (255, 205, 150), sunset, seed=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: a viewer turns it by a quarter
    upright.rotate(90, expand=True).save(folder / "sunset.jpg", quality=70, exif=exif)
    drawn((560, 250), (150, 190, 235), (225, 235, 245), street, seed=2).save(
        folder / "street.jpg", quality=60, progressive=True, subsampling="4:2:0"
    )
    drawn((320, 280), (150, 170, 200), (235, 238, 242), mountain, seed=3).convert("L").save(
        folder / "mountain.jpg", quality=65
    )
    drawn((200, 230), (190, 220, 245), (245, 248, 250), balloons, seed=4).convert("CMYK").save(
        folder / "balloons.jpg", quality=60
    )
    palette = drawn((180, 200), (95, 150, 205), (150, 190, 120), flower, seed=5).quantize(24)
    palette.save(folder / "flower.png", optimize=True, transparency=0)
    grey = np.asarray(drawn((150, 150), (20, 20, 34), (60, 60, 80), moon, seed=6).convert("L"), np.uint16)
    Image.fromarray((grey // 16 * 16) * 257).save(folder / "moon.png", optimize=True)
    swimming = drawn((170, 140), (30, 110, 160), (20, 60, 120), fish, seed=7).filter(ImageFilter.SMOOTH)
    swimming = Image.fromarray(np.asarray(swimming) // 12 * 12)
    swimming.putalpha(gradient(swimming.size, (255, 255, 255), (90, 90, 90)).convert("L"))
    swimming.save(folder / "fish.png", optimize=True)
    drawn((340, 300), (230, 225, 210), (200, 190, 170), leaf, seed=8).save(folder / "leaf.webp", quality=60)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
