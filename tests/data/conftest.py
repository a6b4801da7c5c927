"""Generated images: a gradient that no turn or mirror leaves as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[3] / "shared"


def painted(height: int = 30, width: int = 40) -> np.ndarray:
    """RGB: red grows to the right, green downwards, blue where the upper left corner is."""
    y, x = np.mgrid[:height, :width]
    red, green = x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1)
    corner = 255 * ((y < height / 2) & (x < width / 2))
    return np.stack([red, green, corner], 2).astype(np.uint8)


@pytest.fixture(name="painted")
def painted_fixture() -> Callable[..., np.ndarray]:
    return painted


@pytest.fixture
def paint() -> Callable[..., Path]:
    """Writes a picture of some size, or any Pillow image, making folders as needed."""

    def write(path: Path, image: Any = None, size: tuple[int, int] = (30, 40), **how: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(painted(*size)) if image is None else image
        image.save(path, **how)
        return path

    return write


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED}/data is not there: real images to measure on")
    return SHARED
