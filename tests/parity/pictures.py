"""Images that preprocessing is tried on: two photographs, and generated ones of every mode and of awkward sizes."""

import numpy as np
from PIL import Image

MODES = ("RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr", "HSV", "PA")
_AWKWARD = (
    (1, 1),
    (1, 2),
    (2, 1),
    (1, 9),
    (9, 1),
    (1, 37),
    (37, 1),
    (3, 3),
    (7, 211),
    (211, 7),
    (5, 64),
    (64, 5),
    (2, 90),
)
_SEED = 20


def photographs() -> list[Image.Image]:
    """Return scikit-learn's two photographs, 640 × 427 pixels each."""
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(photograph) for photograph in load_sample_images().images]


def generated(n_images: int = 200) -> list[Image.Image]:
    """Return images in all modes in turn: waves, noise and edges, of odd sizes, of one pixel's side, and of extreme ratios."""
    random = np.random.default_rng(_SEED)
    sizes = [(int(height), int(width)) for height, width in random.integers(3, 280, (n_images, 2)) | 1]
    sizes[: 2 * len(_AWKWARD) : 2] = _AWKWARD[: (n_images + 1) // 2]
    return [_generated(random, size, MODES[number * 7 // 2 % len(MODES)]) for number, size in enumerate(sizes)]


def _generated(random: np.random.Generator, size: tuple[int, int], mode: str) -> Image.Image:
    height, width = size
    rows, columns = np.mgrid[:height, :width][..., None] / (8 + 40 * random.random(3))
    waves = 127.5 + 127.5 * np.sin(rows * 3) * np.cos(columns * 5)
    noise = random.integers(0, 256, (height, width, 3))
    share = random.choice([0.0, 0.2, 1.0])
    picture = Image.fromarray(np.uint8((1 - share) * waves + share * noise))
    if mode in ("LA", "RGBA", "PA"):
        colours = picture.convert({"LA": "L", "RGBA": "RGB", "PA": "P"}[mode]).convert(mode)
        colours.putalpha(
            Image.fromarray(np.uint8(255 * (waves[..., 0] > 100)) // random.integers(1, 4, dtype=np.uint8))
        )
        return colours
    return picture.convert(mode)
