"""Images on disk and boxes in them, with names that tools find difficult, for all exporters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.ops.rle import encode_rle
from pipeline.types import Boxes, CocoIds, FoundBoxes, ImageSource, Part, Review, Size

SIZES: list[Size] = [(40, 60), (60, 40), (1, 1), (48, 32)]
"""(height, width) upright. The file of the last one is 48 wide and 32 high, turned by its EXIF."""
IDS = ["val/robin/a b.jpg", "val/Zaunkönig/1.png", "x.webp", 'train/"it\'s"/1.jpg']
CLASSES = ("robin <&> co", "Zaunkönig", '"it\'s"', "nul, 100 %")
PARTS: list[Part] = ["val", "val", "train", "train"]
LABELS = [0, 1, -1, 2]
HUMAN = 3
"""The position of the image whose boxes a person drew."""


def boxes_of(position: int, masks: bool) -> Boxes:
    """Two boxes in the first image, one in the second, none in the third, one in the last."""
    size = SIZES[position]
    corners = [[1.5, 2, 30.25, 20], [0, 0, size[1], size[0]]]
    kept = corners[: 1 if position == HUMAN else max(0, 2 - position)]
    found = np.array(kept, np.float32).reshape(-1, 4)
    drawn = [_mask(size, box) for box in found] if masks else None
    scores = np.array([0.9, 0.1][: len(found)], np.float32)
    if position == HUMAN:
        return Boxes(IDS[position], 2, found, np.ones(1, np.float32), size, drawn, is_human=True)
    confidences = np.array([0.8125, 0.25][: len(found)], np.float32)
    return Boxes(
        IDS[position], position % 2, found, scores, size, drawn,
        probability=0.75, confidences=confidences,
    )  # fmt: skip


def _mask(size: Size, box: np.ndarray) -> dict[str, object]:
    mask = np.zeros(size, np.uint8)
    x0, y0, x1, y1 = box.astype(int)
    mask[y0:y1, x0:x1] = 1
    return encode_rle(mask, size)


def write_images(root: Path) -> None:
    """Write the image files below a folder."""
    for position, (id, (height, width)) in enumerate(zip(IDS, SIZES, strict=True)):
        path = root / id
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((height, width, 3), 40 * position + 30, np.uint8)
        pixels[: height // 2, : width // 2] = 200
        image = Image.fromarray(pixels)
        if position == HUMAN:
            image = image.transpose(Image.Transpose.ROTATE_90)
            exif = Image.Exif()
            exif[0x0112] = 6  # a reader turns it clockwise by a quarter
            image.save(path, exif=exif)
        else:
            image.save(path)


def image_source(root: Path) -> ImageSource:
    """Return where the images of `write_images` are."""

    def read(position: int) -> np.ndarray:
        with Image.open(root / IDS[position]) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))

    return ImageSource(root, lambda n: root / IDS[n], lambda n: PARTS[n], lambda n: LABELS[n], read)


def drawn_source() -> ImageSource:
    """Return images that have no files, as those of the embedded data set."""

    def read(position: int) -> np.ndarray:
        return np.full((*SIZES[position], 3), 90, np.uint8)

    return ImageSource(None, lambda n: None, lambda n: PARTS[n], lambda n: LABELS[n], read)


def found_boxes(
    count: int = 4, masks: bool = False, source: ImageSource | None = None
) -> FoundBoxes:
    """Return the boxes of the first `count` images."""

    def boxes() -> Iterator[tuple[int, Boxes]]:
        yield from ((position, boxes_of(position, masks)) for position in range(count))

    def sizes() -> Iterator[tuple[int, Size]]:
        yield from enumerate(SIZES[:count])

    ranks: Sequence[int] = [2, 1, 4, 3][:count]
    sampled = [False, True, False, False][:count]
    return FoundBoxes(
        boxes=boxes, sizes=sizes, ids=IDS[:count], classes=CLASSES,
        coco=CocoIds([7, 3, 9, 4][:count], IDS[:count], [10, 20, 30, 40]),
        review=Review(np.array(ranks, np.int32), np.array(sampled), "calibrated"),
        source=source, model_version="label2box 0.0 test 0123456789abcdef",
    )  # fmt: skip


def without_review(found: FoundBoxes) -> FoundBoxes:
    """Return the same boxes where stage rank did not run: no confidence, no order."""

    def boxes() -> Iterator[tuple[int, Boxes]]:
        for position, item in found.boxes():
            yield position, replace(item, confidences=None, probability=None)

    return replace(found, boxes=boxes, review=None)
