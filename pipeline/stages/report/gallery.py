"""The gallery of the page: images with their maps and boxes, the best, the median, the worst."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.images import SplitImages
from pipeline.errors import SkippedImage
from pipeline.ops.maps import scale_size, upsample
from pipeline.plotting.boxes import PALETTE
from pipeline.plotting.colours import blend_map
from pipeline.results.boxes import iterate_boxes
from pipeline.results.confidence import load_ranking
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.stages.report.words import MethodResult
from pipeline.types import Boxes, Review, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import UInt8

SIDE = 240  # of a picture, its longer side
MAX_BOXES = 5  # drawn for one image
DARK, TRUE, FOUND = (24, 24, 24), (255, 255, 255), PALETTE[0]  # RGB; TRUE is dashed

Record = Mapping[str, Any]
Colour = tuple[int, int, int]
Line = tuple[Sequence[float], Colour, bool]
"""A box in pixels of the original image, its colour, and whether it is dashed."""


def choose_records(records: Sequence[Record], count: int) -> list[tuple[str, list[Record]]]:
    """Choose images to show: the best, the median and the worst, each image once.

    Args:
        records: Of images.json, best known by their IoU.
        count: Images of each row. Where there are no more than three rows' images, a single row
            shows all, best first; where no image is scored, a single row shows some, evenly chosen.

    Returns:
        Title and records of each row.
    """
    first: dict[int, Record] = {}
    for record in records:
        first.setdefault(record["position"], record)
    images = list(first.values())
    scored = sorted((r for r in images if r["iou"] is not None), key=lambda record: -record["iou"])
    wanted = min(3 * count, len(images))
    if not wanted:
        return []
    if not scored:
        title = "All images" if wanted == len(images) else "A look across the images"
        return [(title, [images[n * len(images) // wanted] for n in range(wanted)])]
    if len(scored) <= 3 * count:
        return [("All, best first", scored)]
    middle = (len(scored) - count) // 2
    return [("Best", scored[:count]), ("Median", scored[middle : middle + count]),
            ("Worst", scored[-count:][::-1])]  # fmt: skip


def choose_for_review(records: Sequence[Record], review: Review, count: int) -> list[int]:
    """Choose images to show in the order of review: the first of it, and the rows of their IoU.

    Args:
        records: of images.json; images of splits that are not scored have none.
        review: the order.
        count: as `choose_records` takes it.

    Returns:
        The positions of the images, in the order of review.
    """
    ranks = review.ranks
    is_scored = any(record["iou"] is not None for record in records)
    rows = choose_records(records, count) if is_scored else []
    chosen = {record["position"] for _, shown in rows for record in shown}
    order = sorted(np.flatnonzero(ranks).tolist(), key=lambda position: int(ranks[position]))
    chosen.update(order[: count if is_scored else 3 * count])
    return [position for position in order if position in chosen]


@dataclass(frozen=True)
class ShownMethod:
    """A method's maps, boxes and IoU of the images that are shown, by position."""

    method: str
    maps: Mapping[tuple[int, int], SaliencyMap]  # position and class
    boxes: Mapping[int, Sequence[Boxes]]
    ious: Mapping[int, float | None]

    @classmethod
    def read(cls, result: MethodResult, ids: Sequence[str], positions: set[int]) -> ShownMethod:
        """Read the maps and boxes of the images at some positions."""
        maps = {
            (position, saliency.explained): saliency
            for shard in list_shards(result.maps)
            for position, saliency in iterate_maps(shard, ids)
            if position in positions
        }
        boxes: dict[int, list[Boxes]] = {}
        confidences = None if result.ranking is None else load_ranking(result.ranking)[0]
        for position, of_class in iterate_boxes(result.boxes, ids, confidences):
            if position in positions:
                boxes.setdefault(position, []).append(of_class)
        ious = {record["position"]: record["iou"] for record in result.images}
        return cls(result.method, maps, boxes, ious)

    def describe(self, position: int, label: int) -> Record | None:
        """Return a record of an image that was not scored, as images.json has it; None: no map.

        Args:
            position: of the image.
            label: its class; -1 where it has none.
        """
        maps = [saliency for (at, _), saliency in self.maps.items() if at == position]
        shown = next((saliency for saliency in maps if saliency.explained == label), None)
        if shown is None:
            if not maps:
                return None
            shown = maps[0]
        boxes = [each for each in self.boxes.get(position, ()) if each.label == shown.explained]
        sure = [each.confidences[0] for each in boxes
                if each.confidences is not None and len(each.confidences)]  # fmt: skip
        return {
            "position": position,
            "id": shown.id,
            "class": shown.explained,
            "predicted": shown.predicted,
            "iou": None,
            "true": [],
            "confidence": float(sure[0]) if sure else None,
        }


def list_for_review(
    order: Sequence[int],
    records: Sequence[Record],
    review: Review,
    method: ShownMethod,
    labels: Sequence[int],
) -> list[Record]:
    """Return a record of each image that is shown, with its rank.

    Args:
        order: the positions of the images.
        records: of images.json.
        review: the order of review.
        method: the maps and boxes of these images.
        labels: the class of each image by position; -1 where it has none.
    """
    known: dict[int, Record] = {}
    for record in records:
        known.setdefault(record["position"], record)
    shown: list[Record] = []
    for position in order:
        item = known.get(position)
        if item is None:
            item = method.describe(position, labels[position])
        if item is not None:
            rank, is_random = int(review.ranks[position]), bool(review.sampled[position])
            shown.append({**item, "rank": rank, "is_random": is_random})
    return shown


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Draws images with the maps and boxes of all methods.

    Args:
        images: of the split.
        classes: the names of all classes.
        methods: the maps and boxes of each method.
    """

    images: SplitImages
    classes: Sequence[str]
    methods: Sequence[ShownMethod]

    def draw_rows(
        self,
        rows: Sequence[tuple[str, Sequence[Record]]],
        draw_all: Callable[[Callable[[Record], Any], Iterable[Record]], Iterable[Any]],
    ) -> list[dict[str, Any]]:
        """Draw all rows.

        Args:
            rows: Title and records of each row.
            draw_all: A map function, perhaps in several threads.

        Returns:
            `title` and `pictures` of each row, for the page's template.
        """
        return [
            {
                "title": title,
                "pictures": [p for p in draw_all(self._draw, records) if p is not None],
            }
            for title, records in rows
        ]

    def _draw(self, record: Record) -> dict[str, Any] | None:
        """Draw an image and each method's map with its boxes; None if it is no longer readable."""
        position, label = record["position"], record["class"]
        size = self.methods[0].maps[position, label].size
        scale, frame = SIDE / max(size), scale_size(size, SIDE)
        example = self.images.read(position, frame)
        if isinstance(example, SkippedImage):
            return None
        true: list[Line] = [(box, TRUE, True) for box in record["true"]]
        plain, panels = draw_lines(example.image, true, scale), []
        for method in self.methods:
            if (saliency := method.maps.get((position, label))) is None:
                continue
            boxes = self._best_boxes(method, position, label)
            colours = dict(zip(dict.fromkeys(c for c, _, _ in boxes), cycle(PALETTE), strict=False))
            lines = [*true, *((box, colours[c], False) for c, box, _ in reversed(boxes))]
            if len(self.methods) == 1:  # boxes of several methods are drawn on their maps alone
                plain = draw_lines(example.image, lines, scale)
            heat = blend_map(example.image, upsample(saliency.raw(), frame))
            panels.append(
                {
                    "method": method.method,
                    "picture": embed(draw_lines(heat, lines, scale)),
                    "iou": method.ious.get(position),
                    "found": self._legend(boxes, colours),
                }
            )
        return {
            "picture": embed(plain),
            "panels": panels,
            "width": frame[1],
            "height": frame[0],
            "id": record["id"],
            "name": shorten(record["id"].rsplit("/", 1)[-1]),
            "class": self._name(position, label) if self.images.are_labelled else None,
            "predicted": self.classes[record["predicted"]],
            "right": record["predicted"] in (label, *self._others(position)),
            "confidence": record.get("confidence"),
            "rank": record.get("rank"),
            "is_random": record.get("is_random", False),
        }

    def _others(self, position: int) -> Sequence[int]:
        """Return all labels of an image that may have several; none of others."""
        return self.images.classes_of(position) if self.images.is_multi_label else ()

    def _name(self, position: int, label: int) -> str:
        """Return the class whose map is shown, and the other labels of the image."""
        others = [self.classes[n] for n in self._others(position) if n != label]
        return self.classes[label] + (f" (also {', '.join(others)})" if others else "")

    @property
    def _shows_classes(self) -> bool:
        """Whether boxes of all classes are shown, each with the name of its class."""
        return not self.images.are_labelled or self.images.is_multi_label

    def _best_boxes(
        self, method: ShownMethod, position: int, label: int
    ) -> list[tuple[int, list[float], float]]:
        """Return class, box and score of the first boxes; where many are shown, of all classes."""
        return [
            (boxes.label, box, score)
            for boxes in method.boxes.get(position, ())
            if boxes.label == label or self._shows_classes
            for box, score in zip(boxes.boxes.tolist(), boxes.scores.tolist(), strict=True)
        ][:MAX_BOXES]

    def _legend(
        self, boxes: Sequence[tuple[int, list[float], float]], colours: Mapping[int, Colour]
    ) -> list[tuple[str, str, str]]:
        """Return class name, score and colour of each box; none where all are of its label."""
        if not self._shows_classes:
            return []
        return [
            (self.classes[c], f"{score:.2f}", "#{:02x}{:02x}{:02x}".format(*colours[c]))
            for c, _, score in boxes
        ]


def shorten(name: str, most: int = 36) -> str:
    """Shorten a long name in its middle: names of a camera's images differ in the last digits."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def draw_lines(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Sequence[Line],
    scale: float,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw boxes with dark edges on a copy of a picture, dashed boxes on top.

    Args:
        image: The picture.
        boxes: xyxy, half-open, in pixels of the original image, with colours.
        scale: Of the picture to the original image.
    """
    import cv2

    canvas = np.array(image)
    height, width = canvas.shape[:2]
    y, x = np.indices((height, width))
    dashes = ((x + y) % 12 < 7)[..., None]
    for box, colour, dashed in sorted(boxes, key=lambda line: line[2]):
        x0, y0, x1, y1 = (round(v * scale) for v in box)
        # A line on the picture's border is moved inside, where its full width is visible.
        corners = (max(2, x0), max(2, y0)), (min(width - 2, x1) - 1, min(height - 2, y1) - 1)
        lines = np.array(canvas)
        cv2.rectangle(lines, *corners, DARK, 4)
        cv2.rectangle(lines, *corners, colour, 2)
        canvas = np.where(dashes, lines, canvas) if dashed else lines
    return canvas


def legend_key(colour: Colour, dashed: bool) -> str:
    """Return the picture of a box for the legend, on a gradient, as a data URI."""
    ground = np.linspace(70, 225, 64, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)
    return embed(draw_lines(ground, [((8, 7, 56, 25), colour, dashed)], 1))


def embed(image: UInt8[np.ndarray, "H W 3"]) -> str:
    """Return a picture as the data URI of a JPEG."""
    import cv2

    # Without chroma subsampling, which would turn thin lines grey.
    how = [cv2.IMWRITE_JPEG_QUALITY, 82,
           cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]  # fmt: skip
    encoded, data = cv2.imencode(".jpg", image[..., ::-1], how)
    assert encoded
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
