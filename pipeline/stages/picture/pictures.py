"""The pictures of one image: a file for each map, and a sheet with all methods.

How values become pictures is in plotting/map_pictures.py, how pictures become a sheet in
plotting/sheet.py.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.engine.images import SplitImages
from pipeline.errors import SkippedImage
from pipeline.formats.arrays import read_rows
from pipeline.formats.files import (
    atomic_write,
    image_file_stem,
)
from pipeline.ops.maps import scale_size
from pipeline.ops.text import format_probability, printable
from pipeline.plotting import colours
from pipeline.plotting.map_pictures import choose_kind, draw_map, is_signed, list_scales
from pipeline.plotting.sheet import ContactSheet, Row
from pipeline.results.shards import list_shards
from pipeline.stages.picture.config import PictureOptions

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

BLANK = 236  # grey of a panel where a method has no map of a class
ROWS = ("row_class", "row_predicted", "row_score", "row_scale", "row_map", "row_colour")


# -- where maps lie ------------------------------------------------------------------------------


@dataclass(frozen=True)
class MapPlace:
    """The shard and row of the map of a method, image and class."""

    position: int
    method: str
    shard: Path
    row: int


def group_by_image(maps: Mapping[str, Path]) -> Iterator[list[MapPlace]]:
    """Yield the maps of each image, of all methods.

    Args:
        maps: The result of stage explain, by method.
    """

    def iterate_places(method: str, folder: Path) -> Iterator[MapPlace]:
        for shard in list_shards(folder):
            positions = read_rows(shard, ["row_image"]).get("row_image", ())
            yield from (MapPlace(int(p), method, shard, row) for row, p in enumerate(positions))

    merged = heapq.merge(
        *(iterate_places(method, folder) for method, folder in maps.items()), key=_position
    )
    return (list(group) for _, group in groupby(merged, key=_position))


def _position(place: MapPlace) -> int:
    return place.position


@dataclass(frozen=True)
class ClassMap:
    """A method's map of a class in an image."""

    method: str
    label: int
    predicted: int
    score: float
    values: Float32[np.ndarray, "h w"]
    channels: Float32[np.ndarray, "h w 3"] | None

    @classmethod
    def read(cls, place: MapPlace) -> ClassMap:
        """Read the map at a place."""
        rows = read_rows(place.shard, ROWS, slice(place.row, place.row + 1))
        row = {name: array[0] for name, array in rows.items()}
        channels = row.get("row_colour")
        return cls(
            place.method,
            int(row["row_class"]),
            int(row["row_predicted"]),
            float(row["row_score"]),
            row["row_map"].astype(np.float32) * row["row_scale"],
            None if channels is None else np.moveaxis(channels.astype(np.float32), 0, 2),
        )

    @property
    def signed(self) -> bool:
        """Whether the map has evidence against the class: negative values."""
        return is_signed(self.values)

    def has(self, kind: str) -> bool:
        """Return whether the map has a picture of this kind."""
        if kind in ("signed", "signed_over"):
            return self.signed
        return kind != "colour" or self.channels is not None

    def draw(
        self, kind: str, image: UInt8[np.ndarray, "H W 3"], clip: float
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Draw a picture of a kind at the size of the image.

        Args:
            kind: A choice of picture.kinds that the map has.
            image: The image.
            clip: The percentile of the map that is brightest.
        """
        if kind == "colour" and self.channels is not None:
            frame = image.shape[:2]
            return colours.colour_channels(colours.resize_to_frame(self.channels, frame), clip)
        return draw_map(self.values, kind, image, clip)


# -- one image -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The arguments that the pictures of all images share.

    Args:
        images: of the split.
        folder: where the pictures are written.
        classes: names of classes, printable.
        class_folders: a folder's name for each class.
        methods: the saliency methods in the order of a sheet's columns.
        network: its name, for titles.
        options: of stage picture.
        min_probability: of a class that is predicted, where classes do not exclude each other;
            None: the most probable one alone is.
    """

    images: SplitImages
    folder: Path
    classes: Sequence[str]
    class_folders: Sequence[str]
    methods: Sequence[str]
    network: str
    options: PictureOptions
    min_probability: float | None = None

    def is_predicted(self, shown: ClassMap) -> bool:
        """Return whether the network predicts the class of a map."""
        if shown.label == shown.predicted:
            return True
        return self.min_probability is not None and shown.score >= self.min_probability

    def kind_shown(self, shown: ClassMap) -> str:
        """Return the kind of picture on a sheet: the one that is wanted, if the map has it."""
        wanted = self.options.shown
        if wanted != "auto" and shown.has(wanted):
            return wanted
        return choose_kind(shown.values, self.images.size[0])


@dataclass(frozen=True)
class ImageMaps:
    """An image and its maps, read on first access; SkippedImage if the image cannot be read."""

    drawing: Drawing
    places: Sequence[MapPlace]

    @property
    def position(self) -> int:
        """The image's position in its split."""
        return self.places[0].position

    @property
    def id(self) -> str:
        """The image's name."""
        return self.drawing.images.ids[self.position]

    @property
    def folder(self) -> Path:
        """The folder of the image's pictures."""
        return self.drawing.folder / f"{self.position + 1:06d}-{image_file_stem(self.id)}"

    @cached_property
    def maps(self) -> list[ClassMap]:
        """All maps, those of the first class first."""
        return [ClassMap.read(place) for place in self.places]

    @cached_property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        """The image at the size of a picture; small images are enlarged."""
        place = self.places[0]
        rows = read_rows(place.shard, ["row_size"], slice(place.row, place.row + 1))
        height, width = rows["row_size"][0].tolist()
        frame = scale_size((height, width), self.drawing.options.side)
        example = self.drawing.images.read(self.position, frame)
        if isinstance(example, SkippedImage):
            raise example
        return example.image

    @cached_property
    def small(self) -> UInt8[np.ndarray, "h w 3"]:
        """The image at the size that it has on a sheet."""
        height, width = scale_size(self.image.shape[:2], self.drawing.options.panel)
        return np.asarray(cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA))

    @property
    def by_class(self) -> dict[int, dict[str, ClassMap]]:
        """The maps of each class in the order of explain.target, by method."""
        grouped: dict[int, dict[str, ClassMap]] = {}
        for class_map in self.maps:
            grouped.setdefault(class_map.label, {})[class_map.method] = class_map
        return grouped

    def row(self, label: int, name: str) -> tuple[Row, set[str]]:
        """Draw the row of a class on a sheet; return it with the kinds of its pictures."""
        by_method, clip = self.by_class[label], self.drawing.options.clip
        panels, kinds = [self.small], set()
        for method in self.drawing.methods:
            shown = by_method.get(method)
            if shown is None:
                panels.append(np.full_like(self.small, BLANK))
                continue
            kind = self.drawing.kind_shown(shown)
            kinds.add(kind)
            panels.append(shown.draw(kind, self.small, clip))
        return Row(name, self.note(label), panels), kinds

    def note(self, label: int) -> str:
        """Return the probability of a class, and whether it is predicted or the label."""
        first = next(iter(self.by_class[label].values()))
        parts = [format_probability(first.score)]
        parts += ["predicted"] if self.drawing.is_predicted(first) else []
        parts += ["its label"] if label in self.labels else []
        return ", ".join(parts)

    @cached_property
    def labels(self) -> Sequence[int]:
        """The image's classes; none where it has none."""
        images = self.drawing.images
        return images.classes_of(self.position) if images.are_labelled else ()


def write_pictures(maps: ImageMaps) -> None:
    """Write the pictures and the sheet of an image, unless they exist."""
    drawing, options = maps.drawing, maps.drawing.options
    for shown in maps.maps:
        for kind in options.kinds:
            name = f"{shown.method}_{kind}.png"
            path = maps.folder / drawing.class_folders[shown.label] / name
            if shown.has(kind) and not path.is_file():
                write_png(path, shown.draw(kind, maps.image, options.clip))
    if not (maps.folder / "sheet.png").is_file():
        write_png(maps.folder / "sheet.png", draw_sheet(maps))


def draw_sheet(maps: ImageMaps) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the sheet of an image: columns are the image and the methods, rows the classes."""
    drawing = maps.drawing
    rows = [maps.row(label, drawing.classes[label]) for label in maps.by_class]
    predicted = drawing.classes[maps.maps[0].predicted]
    heading = f"{drawing.network} takes it for {predicted}"
    if drawing.min_probability is not None:
        heading = f"most probable to {drawing.network}: {predicted}"
    if maps.labels:
        names = ", ".join(drawing.classes[label] for label in maps.labels)
        heading += f", its label{' says' if len(maps.labels) == 1 else 's say'} {names}"
    sheet = ContactSheet(
        title=printable(maps.id),
        note=heading,
        columns=["image", *drawing.methods],
        rows=[row for row, _ in rows],
        width=maps.small.shape[1],
        legend=list_scales({kind for _, kinds in rows for kind in kinds}, drawing.options.clip),
        max_columns=drawing.options.columns,
    )
    return sheet.draw()


def draw_overview_row(maps: ImageMaps) -> tuple[Row, set[str]] | None:
    """Draw the row of an image on the overview: its first class; None if it is not readable."""
    label = maps.maps[0].label
    try:
        row, kinds = maps.row(label, printable(maps.id))
    except SkippedImage:
        return None
    return Row(row.name, f"{maps.drawing.classes[label]}, {row.note}", row.panels), kinds


def draw_overview(
    drawing: Drawing, rows: Sequence[tuple[Row, set[str]]], wanted: int, count: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the overview, with a row for each image.

    Args:
        drawing: Of all pictures.
        rows: The rows and their kinds of pictures.
        wanted: How many images were chosen.
        count: Of how many.
    """
    title = f"{wanted} of {count} images" if wanted < count else f"{wanted} images"
    if drawing.images.is_multi_label:
        title += ", each with its first class"
    sheet = ContactSheet(
        title=title,
        note=drawing.network,
        columns=["image", *drawing.methods],
        rows=[row for row, _ in rows],
        width=max(row.panels[0].shape[1] for row, _ in rows),
        legend=list_scales({kind for _, kinds in rows for kind in kinds}, drawing.options.clip),
        max_columns=drawing.options.columns,
    )
    return sheet.draw()


def write_png(path: Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write a picture as PNG, by an atomic write."""
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    assert encoded
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())
