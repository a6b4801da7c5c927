"""Generated photographs for measurements of speed: as large as real ones, and as slow to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (375, 500)  # height and width, those of most photographs of CUB-200-2011 and ImageNet
CLASSES = 10
MAX_UNIQUE = 400  # files, some 25 MB; more images are links to them
QUALITY = 90


def write_photographs(root: Path, count: int, size: tuple[int, int] = SIZE) -> Path:
    """Write JPEG files into ten folders of classes.

    Each is a coarse and a fine random pattern, so that a file has about as many bytes for each
    pixel as a photograph has.

    Args:
        root: The folder of the classes.
        count: Images; above MAX_UNIQUE they repeat, as links.
        size: Height and width.

    Returns:
        The folder.
    """
    height, width = size
    rng = np.random.default_rng(0)
    files: list[Path] = []
    for number in range(count):
        path = root / f"class{number % CLASSES}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number >= MAX_UNIQUE:
            path.symlink_to(files[number % MAX_UNIQUE].resolve())
            continue
        coarse = _scale(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), size)
        fine = _scale(rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8), size)
        pixels = (0.75 * coarse + 0.25 * fine).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=QUALITY)
        files.append(path)
    return root


def _scale(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)
