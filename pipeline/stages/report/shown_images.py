"""The images of the page: pictures, maps, boxes, truth, causes and the steps of the slider."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.images import SplitImages
from pipeline.errors import SkippedImage
from pipeline.ops.maps import min_max, scale_size, upsample
from pipeline.results.boxes import iterate_boxes
from pipeline.results.confidence import load_ranking
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.segmenter.threshold import Threshold
from pipeline.stages.report.causes import Cause
from pipeline.stages.report.steps import StepBoxes, encode, segment_at_steps
from pipeline.types import Boxes, Rle, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

    from pipeline.stages.report.words import MethodResult

SIDE = 320  # of a picture, its longer side
MAP_SIDE = 56  # of a map in the page, its longer side
MAX_CLASSES = 8  # of an image whose maps the page has
MAX_NAME = 36  # characters of a name below a picture
QUALITY = 80  # of JPEG

Key = tuple[int, int]
"""Position and class."""


def choose_images(records: Iterable[int], most: int, seed: int) -> list[int]:
    """Choose the images that are shown: all, or a random sample where there are too many.

    Args:
        records: positions of the images that have a result, perhaps more than once.
        most: images that are shown.
        seed: of the sample.

    Returns:
        Positions, ascending.
    """
    positions = np.unique(np.fromiter(records, np.int64))
    if len(positions) > most:
        positions = np.sort(np.random.default_rng(seed).choice(positions, most, replace=False))
    return [int(position) for position in positions]


@dataclass(frozen=True)
class ShownMethod:
    """A method's maps, boxes and scores of the images that are shown.

    Attributes:
        method: its name.
        maps: of each image and class.
        boxes: of each image and class.
        records: of images.json, of each image and class that was scored or has a record.
        causes: why boxes are wrong.
    """

    method: str
    maps: Mapping[Key, SaliencyMap]
    boxes: Mapping[Key, Boxes]
    records: Mapping[Key, Mapping[str, Any]]
    causes: Mapping[Key, Cause]

    @classmethod
    def read(
        cls,
        result: MethodResult,
        positions: Mapping[str, int],
        causes: Mapping[Key, Cause],
    ) -> ShownMethod:
        """Read the maps and boxes of the images that are shown.

        Args:
            result: of the stages, for the method.
            positions: of the images that are shown, by their names; in the run whose images are
                shown, which need not be that of the result.
            causes: why boxes are wrong, of all images of the result.
        """
        ids = result.ids
        maps = {
            (positions[saliency.id], saliency.explained): saliency
            for shard in list_shards(result.maps)
            for _, saliency in iterate_maps(shard, ids)
            if saliency.id in positions
        }
        confidences = None if result.ranking is None else load_ranking(result.ranking)[0]
        boxes = {
            (positions[of_class.id], of_class.label): of_class
            for _, of_class in iterate_boxes(result.boxes, ids, confidences)
            if of_class.id in positions
        }
        records = {
            (positions[record["id"]], record["class"]): record
            for record in result.images
            if record["id"] in positions
        }
        shown = {
            (positions[ids[position]], label): cause
            for (position, label), cause in causes.items()
            if ids[position] in positions
        }
        return cls(result.method, maps, boxes, records, shown)

    @cached_property
    def classes(self) -> Mapping[int, Sequence[int]]:
        """The classes with a map of each image, by position."""
        classes: dict[int, list[int]] = {}
        for position, label in self.maps:
            classes.setdefault(position, []).append(label)
        return classes

    def list_classes(self, position: int, labels: Sequence[int]) -> list[int]:
        """Return the classes whose maps are shown: the image's own first, then as explained."""
        classes = self.classes.get(position, ())
        return sorted(classes, key=lambda label: label not in labels)[:MAX_CLASSES]


@dataclass(frozen=True, kw_only=True)
class ImagePacker:
    """Describes images with the results of all methods, as the page reads them.

    Args:
        images: of the split.
        methods: the maps and boxes of each method.
        segmenters: of each method where the page has a slider for it, else None.
        true_masks: the annotated masks of images, by position.
        names_files: whether the page says where the files are.
    """

    images: SplitImages
    methods: Sequence[ShownMethod]
    segmenters: Sequence[Threshold | None]
    true_masks: Mapping[int, Sequence[Sequence[Any]]]
    names_files: bool

    def pack(self, position: int) -> tuple[dict[str, Any], list[list[StepBoxes]]] | SkippedImage:
        """Return the description of an image, and its steps by method, for the counts of all.

        Args:
            position: of the image.
        """
        size = self._size(position)
        example = self.images.read(position, scale_size(size, SIDE) if max(size) > SIDE else size)
        if isinstance(example, SkippedImage):
            return example
        labels = self.images.classes_of(position)
        results, steps = [], []
        for method, segmenter in zip(self.methods, self.segmenters, strict=True):
            packed = [
                self._pack_result(method, segmenter, position, label)
                for label in method.list_classes(position, labels)
            ]
            results.append([result for result, _ in packed])
            steps.append([step for _, step in packed if step is not None])
        first = self._first_map(position)
        id, height, width = self.images.ids[position], *example.image.shape[:2]
        described = {
            "position": position,
            "id": id,
            "name": shorten(id.rsplit("/", 1)[-1]),
            "file": self._file(position),
            "width": size[1],
            "height": size[0],
            "picture": embed(example.image),
            "picture_width": width,
            "picture_height": height,
            "labels": list(labels),
            "predicted": first.predicted,
            "is_class_right": first.predicted in labels if labels else None,
            "true": self._true(position),
            "true_masks": self.true_masks.get(position, ()),
            "results": results,
            "classes_left_out": max(
                len(method.classes.get(position, ())) - len(of_method)
                for method, of_method in zip(self.methods, results, strict=True)
            ),
            "spread": spread_of(results),
        }
        return described, steps

    def _first_map(self, position: int) -> SaliencyMap:
        """Return a map of an image, by any method."""
        method = next(each for each in self.methods if position in each.classes)
        return method.maps[position, method.classes[position][0]]

    def _size(self, position: int) -> tuple[int, int]:
        """Return height and width of an image in pixels."""
        return self._first_map(position).size

    def _file(self, position: int) -> str | None:
        """Return the address of an image's file; None where it has none that a browser opens."""
        if not (self.names_files and self.images.has_files):
            return None
        location = self.images.location(position)
        if "\0" in location or "://" in location:  # a member of an archive, or a remote address
            return None
        return Path(location).absolute().as_uri()

    def _true(self, position: int) -> list[list[float]]:
        """Return class and corners of the annotated boxes that the image was scored against."""
        true = {
            key[1]: record["true"]
            for method in self.methods
            for key in ((position, label) for label in method.classes.get(position, ()))
            if (record := method.records.get(key)) is not None
        }
        return [[label, *box] for label, boxes in true.items() for box in boxes]

    def _pack_result(
        self, method: ShownMethod, segmenter: Threshold | None, position: int, label: int
    ) -> tuple[dict[str, Any], StepBoxes | None]:
        """Return a method's result for a class of an image, and its steps."""
        saliency, boxes = method.maps[position, label], method.boxes.get((position, label))
        record = method.records.get((position, label), {})
        iou = record.get("iou")
        true = None if iou is None else np.array(record["true"], np.float64).reshape(-1, 4)
        is_right = self.images.is_multi_label or record.get("predicted") == label
        steps = (
            None
            if segmenter is None
            else segment_at_steps(segmenter, saliency, true, is_class_right=is_right)
        )
        listed = [] if boxes is None else list_boxes(boxes)
        result = {
            "label": label,
            "score": round(saliency.score, 4),
            "map": pack_map(saliency.raw(), saliency.size),
            "boxes": listed,
            "masks": None if boxes is None else pack_masks(boxes),
            "iou": iou,
            "confidence": listed[0][5] if listed else None,
            "is_human": boxes is not None and boxes.is_human,
            "cause": method.causes.get((position, label)),
            "steps": None if steps is None else steps.pack(saliency.size),
        }
        return result, steps


def pack_all(
    packer: ImagePacker,
    positions: Sequence[int],
    draw_all: Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]],
) -> tuple[list[dict[str, Any]], list[list[StepBoxes]], list[str]]:
    """Describe images in several threads.

    Args:
        packer: describes one of them.
        positions: of the images.
        draw_all: a map function, perhaps in several threads.

    Returns:
        The description of each image; for each method the steps of its maps; and why images are
        left out.
    """
    described: list[dict[str, Any]] = []
    steps: list[list[StepBoxes]] = [[] for _ in packer.methods]
    unread = []
    for packed in draw_all(packer.pack, positions):
        if isinstance(packed, SkippedImage):
            unread.append(str(packed))
            continue
        described.append(packed[0])
        for of_method, of_image in zip(steps, packed[1], strict=True):
            of_method.extend(of_image)
    return described, steps, unread


def spread_of(results: Sequence[Sequence[Mapping[str, Any]]]) -> float | None:
    """Return how far the IoUs of the methods lie apart in an image; None: fewer than two have one.

    Args:
        results: of each method, for each class.
    """
    by_class: dict[int, list[float]] = {}
    for result in (each for of_method in results for each in of_method):
        if result["iou"] is not None:
            by_class.setdefault(result["label"], []).append(result["iou"])
    spreads = [max(ious) - min(ious) for ious in by_class.values() if len(ious) > 1]
    return round(max(spreads), 5) if spreads else None


def list_boxes(boxes: Boxes) -> list[list[float | None]]:
    """Return corners, score and confidence of each box."""
    count = len(boxes.boxes)
    sure = [None] * count if boxes.confidences is None else boxes.confidences.tolist()
    return [
        [*np.round(box, 2).tolist(), round(float(score), 4), None if c is None else round(c, 4)]
        for box, score, c in zip(boxes.boxes.astype(float), boxes.scores, sure, strict=True)
    ]


def pack_map(raw: Float32[np.ndarray, "h w"], size: tuple[int, int]) -> dict[str, Any]:
    """Return a map for the page: in [0, 1] in 256 steps, of at most 56 pixels a side.

    Args:
        raw: the values of the map.
        size: height and width of the image in pixels.
    """
    if max(raw.shape) > MAP_SIDE:
        scaled = upsample(raw, scale_size(size, MAP_SIDE))
    else:
        finite = np.isfinite(raw)
        lowest = raw[finite].min() if finite.any() else 0
        scaled = min_max(np.where(finite, raw, lowest).astype(np.float32))
    return _pack_bytes(np.round(scaled * 255).astype(np.uint8))


def pack_masks(boxes: Boxes) -> list[dict[str, Any]] | None:
    """Return the masks of boxes for the page, of at most 56 pixels a side; None: it has none."""
    if boxes.masks is None or not boxes.masks:
        return None
    return [_pack_bytes(_shrink(mask, boxes.size)) for mask in boxes.masks]


def _shrink(mask: Rle, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Return a mask of 0 and 255, shrunk by averages."""
    import cv2
    from pycocotools import mask as coco_mask

    height, width = scale_size(size, MAP_SIDE)
    full = coco_mask.decode(mask) * np.uint8(255)
    return np.asarray(cv2.resize(full, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _pack_bytes(values: UInt8[np.ndarray, "h w"]) -> dict[str, Any]:
    """Return height, width and bytes of an array."""
    return {"height": values.shape[0], "width": values.shape[1], "data": encode(values)}


def shorten(name: str, most: int = MAX_NAME) -> str:
    """Shorten a long name in its middle: names of a camera's images differ in the last digits.

    Args:
        name: of an image.
        most: characters of the result.
    """
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def embed(image: UInt8[np.ndarray, "H W 3"]) -> str:
    """Return a picture as the data URI of a JPEG.

    Args:
        image: RGB.
    """
    import cv2

    encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert encoded
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
