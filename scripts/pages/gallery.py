"""Make the pictures of the documentation again, each by the command above it.

    ./scripts/docs gallery                     all of them
    ./scripts/docs gallery cat boxes           those whose file is called so
    ./scripts/docs gallery at=DIR ...          run in DIR, so that the next call reuses its results

The line above a picture on a page names the file of a run that it is made from; several files are
shown side by side. Commands run in a separate folder that contains docs/. A browser takes the
picture of a report.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from scripts.pages.commands import blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("gallery.md", "classics.md")
MADE = re.compile(
    r"^(?P<sources>`outputs/latest/[^\n]+)\n\n!\[[^\]]*\]\((?P<picture>[^)]+)\)", re.M
)
WIDEST = 1400  # pixels
LARGEST = 100_000  # bytes
BROWSER = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
           "--window-size=1280,1500")  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """A picture of a page, the commands that make it, and the files that it is made from."""

    picture: Path
    commands: Sequence[Sequence[str]]
    sources: Sequence[str]


def shots(page: Path) -> Iterator[Shot]:
    """Yield the pictures of a page."""
    text = page.read_text(encoding="utf-8")
    fences = [block for block in blocks(page) if len(block.commands) and block.text.count("\n")]
    for made in MADE.finditer(text):
        line = text.count("\n", 0, made.start()) + 1
        above = [block for block in fences if block.line < line][-1]
        sources = re.findall(r"`([^`]+)`", made["sources"])
        yield Shot(page.parent / made["picture"], above.commands, sources)


def main(*arguments: str) -> int:
    """Make the pictures that are named, or all. Returns the exit code."""
    all_shots = [shot for page in PAGES for shot in shots(ROOT / "docs" / page)]
    kept = next((argument[3:] for argument in arguments if argument.startswith("at=")), None)
    wanted = [argument for argument in arguments if not argument.startswith("at=")]
    names = [shot.picture.stem for shot in all_shots]
    if unknown := sorted(set(wanted) - set(names)):
        print(f"no picture {unknown[0]}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(kept or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "docs").exists():
            (folder / "docs").symlink_to(ROOT / "docs")
        for shot in all_shots:
            if not wanted or shot.picture.stem in wanted:
                make(shot, folder)
    return 0


def make(shot: Shot, folder: Path) -> None:
    """Run the commands of a picture in a folder, and write the picture.

    Raises:
        FileNotFoundError: The commands did not make the files that the picture is made from.
    """
    for words in shot.commands:
        subprocess.run([sys.executable, *words[1:]], cwd=folder, check=True)
    files = [path for source in shot.sources for path in sorted(folder.glob(source))]
    if not files:
        raise FileNotFoundError(2, "the commands made no such file", str(shot.sources))
    picture = beside([read(path, folder) for path in files])
    write(shot.picture, picture)
    size = shot.picture.stat().st_size // 1000
    print(f"{shot.picture.relative_to(ROOT)}  {picture.shape[1]} x {picture.shape[0]}, {size} kB")


def read(path: Path, folder: Path) -> np.ndarray:
    """Read an image, or a page as a browser shows it, uint8 BGR [H, W, 3]."""
    if path.suffix == ".html":
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser is None:
            raise FileNotFoundError(
                2, "a browser is needed to take a picture of a page", "chromium"
            )
        page, path = path, folder / "page.png"
        asked = (f"--user-data-dir={folder / 'browser'}", f"--screenshot={path}")
        address = page.resolve().as_uri()
        subprocess.run([browser, *BROWSER, *asked, address], check=True, capture_output=True)
    image = cv2.imread(str(path))
    assert image is not None, path
    return np.asarray(image)


def beside(images: Sequence[np.ndarray]) -> np.ndarray:
    """Join images side by side on white, scaled to the lowest height, at most WIDEST together."""
    height = min(len(image) for image in images)
    panels = [scaled(image, height / len(image)) for image in images]
    gap = np.full((height, 8, 3), 255, np.uint8)
    row = np.hstack([part for panel in panels for part in (gap, panel)][1:])
    return scaled(row, min(1.0, WIDEST / row.shape[1]))


def scaled(image: np.ndarray, by: float) -> np.ndarray:
    """Return an image scaled down by a factor; a factor of 1 or more changes nothing."""
    size = (max(1, round(image.shape[1] * by)), max(1, round(len(image) * by)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)) if by < 1 else image


def write(path: Path, image: np.ndarray) -> None:
    """Write an image: as PNG, or as JPEG at the best quality whose file is small enough.

    Below a quality of 52 text is hard to read: then the picture is made smaller instead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for quality in range(92, 48, -4):
        whole, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert whole
        if path.suffix == ".png" or len(data) <= LARGEST:
            path.write_bytes(data.tobytes())
            return
    write(path, scaled(image, 0.9))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
