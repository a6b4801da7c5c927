"""A sheet of the boxes and masks of each segmenter on the same ten images, and their times.

    ./scripts/accuracy segmenters picture=docs/segmenters.png outputs=outputs

The embedded data set's first image of each class of the split val, and its map of the true class
(`saliency=`, CAM unless another is named). Each choice of conf/segmenter/ segments the same maps:
its mask is bright, its best box green where it reaches IoU 0.5 with the true box (white), else red.
The time is processor time of the segmenter alone at the size of the images, about 144 x 160 pixels,
in one thread: the mean over images, and its median over `rounds`, in which the segmenters
alternate.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.engine.choices import conf_folder, instantiate, list_choices
from pipeline.ops.iou import best_iou
from pipeline.ops.maps import frame_size
from pipeline.plotting.colours import overlay_map, resize_to_frame, scale_positive
from pipeline.plotting.sheet import ContactSheet, Row
from pipeline.protocols import Segmenter
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.types import Boxes, Example, SaliencyMap
from scripts.measure.records import Record
from scripts.measure.runs import compose

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

SIDE = 132  # pixels of a panel
COLOURS = 144  # of the picture file: it stays small
GREEN, RED, WHITE = (20, 200, 60), (230, 20, 20), (255, 255, 255)
Item = tuple[SaliencyMap, Example, "Float32[np.ndarray, 'M 4']"]


def run(picture: str = "picture=outputs/segmenters.png", *arguments: str) -> list[Record]:
    """Write the sheet and return the time and mean IoU of each segmenter.

    Args:
        picture: `picture=FILE`, the file that is written.
        arguments: `outputs=DIR`, `rounds=N`, and overrides of the run.
    """
    given = dict(argument.split("=", 1) for argument in (picture, *arguments))
    path = Path(given.pop("picture", "outputs/segmenters.png"))
    rounds = int(given.pop("rounds", "5"))
    with ExitStack() as kept:
        outputs = given.pop("outputs", None) or kept.enter_context(tempfile.TemporaryDirectory())
        more = [f"{key}={value}" for key, value in given.items()]
        items = _items("data=shapes", *more, f"outputs={outputs}")
    rows = [Row("map", "upsampled, over its image", [_map(*item[:2]) for item in items])]
    records = []
    segmenters = {name: _segmenter(name) for name in list_choices("segmenter")}
    times = _ms(segmenters, items, rounds)
    for name, segmenter in segmenters.items():
        results = [segmenter(saliency, example) for saliency, example, _ in items]
        fits = [
            best_iou(_first(boxes), true)
            for boxes, (_, _, true) in zip(results, items, strict=True)
        ]
        right = sum(fit >= 0.5 for fit in fits)
        reached = f"{right} of {len(items)} right, mean IoU {mean(fits):.2f}"
        note = f"{times[name]:.2g} ms an image, {reached}"
        panels = [_panel(*item, boxes) for item, boxes in zip(items, results, strict=True)]
        rows.append(Row(name, note, panels))
        note_of_images = f"{len(items)} images of shapes val, OpenCV {cv2.__version__}"
        records.append(Record(f"{name}_ms", times[name], None, None, "ms/image", note_of_images))
        records.append(Record(f"{name}_iou", mean(fits), None, None, "mean IoU", note_of_images))
    classes = [saliency.id for saliency, _, _ in items]
    sheet = ContactSheet(
        title="What each segmenter makes of the same ten maps",
        note="bright: what it keeps; white: the true box; green: its box, right at IoU 0.5; red: "
        "wrong",
        columns=classes,
        rows=rows,
        width=SIDE,
        legend=[],
        max_columns=len(items),
    ).draw()
    path.parent.mkdir(parents=True, exist_ok=True)
    few = Image.fromarray(sheet).quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    return records


def _items(*overrides: str) -> list[Item]:
    """Return the first image of each class with map and true boxes; a map's id is its class."""
    run = compose("cam", *overrides)
    for stage in ("train", "explain"):
        run.get_or_create(stage)
    annotated: Any = run.data
    ids, truth = annotated.ids("val"), annotated.truth("val")
    first: dict[int, Item] = {}
    for shard in list_shards(run.folder("explain")):
        for position, saliency in iterate_maps(shard, ids):
            if saliency.explained not in first:
                example = run.data.example("val", position)
                named = replace(saliency, id=run.classes[saliency.explained])
                first[saliency.explained] = named, example, truth[saliency.id].of_label()
    return [first[label] for label in sorted(first)]


def _segmenter(name: str) -> Segmenter:
    """Return a choice of conf/segmenter/, with masks if they are an option."""
    text = (conf_folder() / "segmenter" / f"{name}.yaml").read_text(encoding="utf-8")
    made: Any = instantiate("segmenter", yaml.safe_load(text))
    return cast(Segmenter, replace(made, masks=True) if hasattr(made, "masks") else made)


def _ms(segmenters: Mapping[str, Segmenter], items: list[Item], rounds: int) -> dict[str, float]:
    """Return the milliseconds per image of each segmenter, without masks if they are an option."""
    bare: dict[str, Any] = {
        name: replace(cast(Any, each), masks=False) if hasattr(each, "masks") else each
        for name, each in segmenters.items()
    }
    small = {name: [_as_read(each, *item[:2]) for item in items] for name, each in bare.items()}
    took: dict[str, list[float]] = {name: [] for name in bare}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for _ in range(rounds):
            for name, segmenter in bare.items():
                started = time.process_time()
                for item in small[name]:
                    segmenter(*item)
                took[name].append(1e3 * (time.process_time() - started) / len(items))
    finally:
        cv2.setNumThreads(threads)
    return {name: median(times) for name, times in took.items()}


def _as_read(
    segmenter: Segmenter, saliency: SaliencyMap, example: Example
) -> tuple[SaliencyMap, Example]:
    """Return the map, and the image at the size at which stage localize reads it."""
    if not segmenter.needs_image:
        return saliency, example
    height, width = frame_size(saliency.size, segmenter.needs_image)
    image = np.asarray(cv2.resize(example.image, (width, height), interpolation=cv2.INTER_AREA))
    return saliency, replace(example, image=image)


def _first(boxes: Boxes) -> np.ndarray | None:
    return boxes.boxes[0] if len(boxes.boxes) else None


# -- panels --------------------------------------------------------------------------------------


def _map(saliency: SaliencyMap, example: Example) -> UInt8[np.ndarray, "h w 3"]:
    values = scale_positive(resize_to_frame(saliency.raw(), saliency.size), 100.0)
    return _framed(np.asarray(overlay_map(example.image, values)))


def _panel(
    saliency: SaliencyMap, example: Example, true: Float32[np.ndarray, "M 4"], predicted: Boxes
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw an image with its mask bright and the rest pale, the true boxes and the best box."""
    kept = np.zeros(saliency.size, bool)
    for mask in predicted.masks or ():
        kept |= coco_mask.decode(mask).astype(bool)
    pale = 0.22 * example.image + 0.78 * np.full(3, 60.0)
    shown = _framed(np.where(kept[..., None], example.image, pale).astype(np.uint8))
    shrink = SIDE / max(saliency.size)
    left, top = ((SIDE - round(side * shrink)) // 2 for side in reversed(saliency.size))

    def outline(box: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
        x0, y0, x1, y1 = (box * shrink + (left, top, left, top)).round().astype(int).tolist()
        cv2.rectangle(shown, (x0, y0), (x1 - 1, y1 - 1), colour, thickness)

    for box in true:
        outline(box, WHITE, 1)
    best = _first(predicted)
    if best is not None:
        outline(best, GREEN if best_iou(best, true) >= 0.5 else RED, 2)
    return shown


def _framed(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
    """Return an image scaled to SIDE at its longer side, on a white square."""
    height, width = image.shape[:2]
    shrink = SIDE / max(height, width)
    h, w = round(height * shrink), round(width * shrink)
    square = np.full((SIDE, SIDE, 3), 255, np.uint8)
    top, left = (SIDE - h) // 2, (SIDE - w) // 2
    square[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    return square
