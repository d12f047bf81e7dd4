"""How the picture that ships with perdure was made: a landscape in whole numbers, 61×47, with fine detail and colour."""

from __future__ import annotations

WIDTH, HEIGHT = 61, 47
MASK = 2**64 - 1


def noise(x: int, y: int, channel: int) -> int:
    """0 to 15, by the finaliser of SplitMix64."""
    z = (channel * HEIGHT + y) * WIDTH + x + 1
    z = z * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return (z ^ z >> 31) & 15


def colour(x: int, y: int) -> tuple[int, int, int]:
    """A sky with a sun, mountains in front of it, a striped field, and a red house with a checked roof."""
    if 38 <= x < 52 and 28 <= y < 42:
        return (235, 235, 225) if y < 33 and (x + y) % 2 else (40, 30, 35) if y < 33 else (205, 35 + x, 30)
    if y >= 36:
        return (60 + 2 * x, 150 - y, 30) if (x + 2 * y) % 6 < 3 else (30, 95 + x, 45)
    ridge = 14 + abs((x * 7) % 40 - 20)
    if y >= ridge:
        return (90 - y, 80 + x // 2, 110 + y)
    if (x - 12) ** 2 + (y - 9) ** 2 <= 36:
        return (255, 225, 90)
    return (110 + 2 * y, 160 + y, 250 - x)


def pixels() -> bytes:
    """The picture's values, 47×61×3."""
    return bytes(
        max(0, min(255, value + noise(x, y, channel) - 8))
        for y in range(HEIGHT)
        for x in range(WIDTH)
        for channel, value in enumerate(colour(x, y))
    )


if __name__ == "__main__":
    from pathlib import Path

    from PIL import Image

    folder = Path(__file__).parents[1] / "src" / "perdure" / "images"
    image = Image.frombytes("RGB", (WIDTH, HEIGHT), pixels())
    image.save(folder / "picture.png", optimize=True)
    image.save(folder / "picture.jpg", quality=85, subsampling="4:2:0", optimize=True)
