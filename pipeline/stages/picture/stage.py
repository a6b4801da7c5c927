"""Picture: each map as pictures to look at, and one sheet for each image with all methods.

    explained/<number>-<image>/sheet.png                    columns: image, methods; rows: classes
    explained/<number>-<image>/<class>/<method>_map.png     what speaks for the class, alone
    explained/<number>-<image>/<class>/<method>_over.png    the same, over the image
    explained/<number>-<image>/<class>/<method>_grey.png    the same, from black to white
    explained/<number>-<image>/<class>/<method>_signed.png  for in red, against in blue, if any is
    explained/<number>-<image>/<class>/<method>_signed_over.png  that over the image in grey
    explained/<number>-<image>/<class>/<method>_colour.png  the gradient as an image, if kept
    explained/overview.png                                  several images below one another

What is there already is not drawn again; one image is in memory for each worker, whatever their
number. How values become colours is in colours.py, how pictures become a sheet in sheet.py.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.engine import runtime, shards
from pipeline.engine.progress import show_progress
from pipeline.engine.run import Run, network_name
from pipeline.errors import SkippedImage, UserError, suggest_choices
from pipeline.formats.arrays import read_rows
from pipeline.formats.files import (
    atomic_write,
    image_file_stem,
    unique_file_names,
    write_json,
)
from pipeline.ops.maps import scale_size
from pipeline.ops.sampling import spread_evenly
from pipeline.ops.text import format_probability, printable
from pipeline.plotting import colours
from pipeline.plotting.sheet import Row, Scale, contact
from pipeline.results.maps import load_skipped
from pipeline.results.shards import list_shards

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

KINDS = ("map", "over", "grey", "signed", "signed_over", "colour")
BLANK = 236  # grey of a panel where a method has no map of a class
ROWS = ("row_class", "row_predicted", "row_score", "row_scale", "row_map", "row_colour")


def cache_key(run: Run) -> dict[str, Any]:
    return {
        "source": run.sources(__name__, "data", drawing=True),
        "explain": [[name, run.for_method(name).key("explain")] for name in run.methods],
        "picture": run.config["picture"],
    }


def check(run: Run) -> None:
    """Raises UserError for a kind of picture that there is not."""
    for kind in run.config["picture"]["kinds"]:
        if kind not in KINDS:
            raise UserError(
                f"picture.kinds: no such picture {kind!r}; {suggest_choices(str(kind), KINDS)}"
            )


def make(run: Run, folder: Path) -> None:
    maps = {name: run.for_method(name).folder("explain") for name in run.methods}
    aside = {p: why for one in maps.values() for p, why in load_skipped(one).items()}
    house = House(run, folder / "explained", unique_file_names(run.classes), network_name(run))

    def one(places: Sequence[Place]) -> tuple[int, str] | None:
        try:
            _picture(Photo(house, places))
        except SkippedImage as problem:
            return places[0].position, str(problem)
        return None

    wanted = spread_evenly(len(run.data.ids(run.split)), run.config["picture"]["images"])
    among = frozenset(wanted)
    drawn = (places for places in by_image(maps) if places[0].position in among)
    with show_progress("picture", len(wanted)) as advance, shards.single_threaded_torch():
        for problem in runtime.map_in_threads(one, drawn, run.workers, 2 * run.workers):
            advance(1)
            aside.update([problem] if problem else [])
    _overview(house, maps, [p for p in wanted if p not in aside])
    write_json(folder / "set_aside.json", [why for _, why in sorted(aside.items())], indent=1)


# -- where maps lie ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where the map of one method, image and class lies."""

    position: int
    method: str
    shard: Path
    row: int


def by_image(maps: Mapping[str, Path]) -> Iterator[list[Place]]:
    """The maps of every image, of all methods, image after image."""

    def places(method: str, folder: Path) -> Iterator[Place]:
        for shard in list_shards(folder):
            positions = read_rows(shard, ["row_image"]).get("row_image", ())
            yield from (Place(int(p), method, shard, row) for row, p in enumerate(positions))

    merged = heapq.merge(*(places(*one) for one in maps.items()), key=lambda one: one.position)
    return (list(group) for _, group in groupby(merged, key=lambda one: one.position))


@dataclass(frozen=True)
class Seen:
    """One method's map of one class in an image."""

    method: str
    label: int
    predicted: int
    score: float
    values: Float32[np.ndarray, "h w"]
    channels: Float32[np.ndarray, "h w 3"] | None

    @classmethod
    def at(cls, place: Place) -> Seen:
        found = read_rows(place.shard, ROWS, slice(place.row, place.row + 1))
        one = {name: array[0] for name, array in found.items()}
        channels = one.get("row_colour")
        return cls(
            place.method,
            int(one["row_class"]),
            int(one["row_predicted"]),
            float(one["row_score"]),
            one["row_map"].astype(np.float32) * one["row_scale"],
            None if channels is None else np.moveaxis(channels.astype(np.float32), 0, 2),
        )

    @property
    def signed(self) -> bool:
        return bool((self.values < 0).any())

    def has(self, kind: str) -> bool:
        if kind in ("signed", "signed_over"):
            return self.signed
        return kind != "colour" or self.channels is not None

    def picture(
        self, kind: str, image: UInt8[np.ndarray, "H W 3"], clip: float
    ) -> UInt8[np.ndarray, "H W 3"]:
        """At the size of the image."""
        frame = image.shape[:2]
        if kind == "colour" and self.channels is not None:
            return colours.in_colour(colours.at_frame(self.channels, frame), clip)
        values = colours.at_frame(self.values, frame)
        if kind == "signed":
            return colours.diverging(colours.balanced(values, clip))
        if kind == "signed_over":
            return colours.signed_over(image, colours.balanced(values, clip))
        unit = colours.for_class(values, clip)
        if kind == "over":
            return colours.laid_over(image, unit)
        return colours.grey(unit) if kind == "grey" else colours.sequential(unit)


# -- one image -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class House:
    """What all images share."""

    run: Run
    folder: Path
    folders: Sequence[str]  # a file's name for each class
    network: str

    @property
    def knobs(self) -> Mapping[str, Any]:
        knobs: Mapping[str, Any] = self.run.config["picture"]
        return knobs

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return tuple(printable(name) for name in self.run.classes)

    def kind_shown(self, seen: Seen) -> str:
        """What a sheet shows of a map: a coarse one over the image, a fine one alone."""
        wanted = str(self.knobs["shown"])
        if wanted != "auto" and seen.has(wanted):
            return wanted
        if 2 * seen.values.shape[0] < self.run.size[0]:
            return "over"
        return "signed" if seen.signed else "map"


@dataclass(frozen=True)
class Photo:
    """An image and its maps, read when they are first asked for."""

    house: House
    places: Sequence[Place]

    @property
    def position(self) -> int:
        return self.places[0].position

    @property
    def id(self) -> str:
        return self.house.run.data.ids(self.house.run.split)[self.position]

    @property
    def folder(self) -> Path:
        return self.house.folder / f"{self.position + 1:06d}-{image_file_stem(self.id)}"

    @cached_property
    def seen(self) -> list[Seen]:
        return [Seen.at(place) for place in self.places]

    @cached_property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        """Of the size of a picture: small images are enlarged, so that their maps can be seen."""
        height, width = read_rows(
            self.places[0].shard, ["row_size"], slice(self.places[0].row, self.places[0].row + 1)
        )["row_size"][0].tolist()
        frame = scale_size((height, width), self.house.knobs["side"])
        run = self.house.run
        return run.data.example(run.split, self.position, at=frame).image

    @cached_property
    def small(self) -> UInt8[np.ndarray, "h w 3"]:
        """Of the size that it has on a sheet."""
        height, width = scale_size(self.image.shape[:2], self.house.knobs["panel"])
        return np.asarray(cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA))

    @property
    def of_class(self) -> dict[int, dict[str, Seen]]:
        """The maps of each class that was asked for, in that order, by method."""
        found: dict[int, dict[str, Seen]] = {}
        for seen in self.seen:
            found.setdefault(seen.label, {})[seen.method] = seen
        return found

    def row(self, label: int, name: str) -> tuple[Row, set[str]]:
        """The row of a class on a sheet, and which kinds of pictures are in it."""
        by_method, clip = self.of_class[label], self.house.knobs["clip"]
        panels, kinds = [self.small], set()
        for method in self.house.run.methods:
            seen = by_method.get(method)
            if seen is None:
                panels.append(np.full_like(self.small, BLANK))
                continue
            kind = self.house.kind_shown(seen)
            kinds.add(kind)
            panels.append(seen.picture(kind, self.small, clip))
        return Row(name, self.note(label), panels), kinds

    def note(self, label: int) -> str:
        """How probable the class is to the network, and what else is to be said of it."""
        first = next(iter(self.of_class[label].values()))
        told = [format_probability(first.score)]
        told += ["predicted"] if label == first.predicted else []
        told += ["its label"] if label == self.labelled else []
        return ", ".join(told)

    @property
    def labelled(self) -> int:
        run = self.house.run
        return int(run.data.labels(run.split)[self.position]) if run.data.classes else -1


def _picture(photo: Photo) -> None:
    """Every file of an image that is not there yet."""
    house, folder = photo.house, photo.folder
    clip = house.knobs["clip"]
    for seen in photo.seen:
        for kind in house.knobs["kinds"]:
            path = folder / house.folders[seen.label] / f"{seen.method}_{kind}.png"
            if seen.has(kind) and not path.is_file():
                _write(path, seen.picture(kind, photo.image, clip))
    if not (folder / "sheet.png").is_file():
        _write(folder / "sheet.png", _sheet(photo))


def _sheet(photo: Photo) -> UInt8[np.ndarray, "H W 3"]:
    house = photo.house
    rows = [photo.row(label, house.classes[label]) for label in photo.of_class]
    told = f"{house.network} takes it for {house.classes[photo.seen[0].predicted]}"
    if photo.labelled >= 0:
        told += f", its label says {house.classes[photo.labelled]}"
    return contact(
        printable(photo.id),
        told,
        ["image", *house.run.methods],
        [row for row, _ in rows],
        photo.small.shape[1],
        legend({kind for _, kinds in rows for kind in kinds}, house.knobs["clip"]),
        house.knobs["columns"],
    )


def _overview(house: House, maps: Mapping[str, Path], positions: Sequence[int]) -> None:
    """Several images below one another, each with the first of its classes."""
    path, wanted = house.folder / "overview.png", min(house.knobs["overview"], len(positions))
    if path.is_file() or len(positions) < 2 or not wanted:
        return
    chosen = {positions[n * len(positions) // wanted] for n in range(wanted)}
    photos = (Photo(house, places) for places in by_image(maps) if places[0].position in chosen)

    def row(photo: Photo) -> tuple[Row, set[str]] | None:
        label = photo.seen[0].label
        try:
            made, kinds = photo.row(label, printable(photo.id))
        except SkippedImage:  # gone since it was drawn
            return None
        return Row(made.name, f"{house.classes[label]}, {made.note}", made.panels), kinds

    made = runtime.map_in_threads(row, photos, house.run.workers, 2 * house.run.workers)
    rows = [one for one in made if one is not None]
    if not rows:
        return
    sheet = contact(
        f"{wanted} of {len(positions)} images" if wanted < len(positions) else f"{wanted} images",
        house.network,
        ["image", *house.run.methods],
        [row for row, _ in rows],
        max(row.panels[0].shape[1] for row, _ in rows),
        legend({kind for _, kinds in rows for kind in kinds}, house.knobs["clip"]),
        house.knobs["columns"],
    )
    _write(path, sheet)


def legend(kinds: set[str], clip: float) -> list[Scale]:
    """Bars for the colours that are on a sheet."""
    up = np.linspace(0, 1, 120, dtype=np.float32)[None]
    high = f"brightest {100 - clip:g} % of a map" if clip < 100 else "a map's maximum"
    scales = []
    if kinds & {"map", "over"}:
        scales.append(Scale(colours.sequential(up), "0", high))
    if "grey" in kinds:
        scales.append(Scale(colours.grey(up), "0", high))
    if kinds & {"signed", "signed_over"}:
        scales.append(Scale(colours.diverging(2 * up - 1), "against", "for the class"))
    return scales


def _write(path: Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    whole, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    assert whole
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())
