"""A folder of score maps with wsolevaluation's metadata as a source, whoever made it.

`protocol=default` measures maps as the rest of the project does, `protocol=wsolevaluation` with
that evaluator's habits, at 224x224. The boxes are those of the largest component at a fixed
threshold; other thresholds are scored beside it. An annotated image whose map is missing or cannot
be used counts as not found; `missing=skip` leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.engine.progress import show_progress
from pipeline.engine.spread_items import map_items
from pipeline.engine.spreading import NeededPath
from pipeline.errors import SkippedImage, UserError
from pipeline.formats import map_files, mask_files, wsolevaluation
from pipeline.metric.baselines import pyramid
from pipeline.metric.components import THRESHOLDS
from pipeline.metric.measurement import FRAME, pyramid_curves
from pipeline.metric.pointing import energy_inside, peak_distance
from pipeline.metric.pxap import histograms
from pipeline.ops.maps import boxes_to_image, frame_size, min_max, upsample
from pipeline.ops.text import count_note
from pipeline.results.thresholds import fold_of_image
from pipeline.stages.evaluate.maps import MapScale
from pipeline.stages.evaluate.not_found import MISS, Missing, boxes_not_found, pixels_not_found
from pipeline.stages.evaluate.source import Blocks, Item, Offer
from pipeline.types import Curves, EvaluationSettings, Evidence, Size

if TYPE_CHECKING:
    from jaxtyping import Float, Float64


CONSTANT = "have a map with the same value everywhere, which shows no object: scored as it is"
TRANSPOSED = "have a map of the shape of the transposed image: scored stretched to the image"
ODDITY_REMEDIES = {
    CONSTANT: "see whether the method failed there",
    TRANSPOSED: "write maps as [height, width], if they are [width, height]",
}
SAME_ASPECT = 0.02  # of the logarithm: shapes that differ by rounding only


@dataclass(frozen=True)
class Measured:
    """The evidence of an annotated image.

    `was_resized`: whether its map had to be brought to the evaluator's frame. `fault`: why it has
    no usable map; None: it has one. `oddity`: what is odd about a map that is scored.
    """

    position: int
    evidence: Evidence
    was_resized: bool = False
    fault: str | None = None
    oddity: str | None = None


class MapFolder:
    """The source: maps against annotated boxes or masks; an image has one of them."""

    unit = "images"
    first_compared: Sequence[str] = ("max_box_acc_v2", "max_box_acc")

    def __init__(
        self,
        folder: Path,
        name: str,
        metadata: wsolevaluation.Metadata,
        settings: EvaluationSettings,
        scale: MapScale,
        workers: int,
        missing: Missing = "not_found",
    ) -> None:
        self.folder, self.name, self.metadata, self.settings = folder, name, metadata, settings
        self.scale, self.workers, self.missing = scale, workers, missing
        self._label = {number: n for n, number in enumerate(metadata.classes)}
        assert settings.threshold is not None
        self._at = int(np.abs(THRESHOLDS - float(settings.threshold["value"])).argmin())
        self._left_out: dict[str, list[str]] = {}  # annotations that cannot be used
        self._without_map: dict[str, list[str]] = {}
        self._odd_maps: dict[str, list[str]] = {}
        self._resized = 0
        self._usable = 0  # maps that were scored
        self._boxed = 0  # images with boxes that are scored

    @property
    def total(self) -> int:
        """Return how many images image_ids.txt names."""
        return len(self.metadata.ids)

    @property
    def blocks(self) -> Blocks:
        """Return what the evidence has: of images with boxes, of all, and of those with masks."""
        return [[
            Offer("box"), Offer("cuts"), Offer("curves"), Offer("true"), Offer("pyramid"),
            Offer("pointing"), Offer("pixels"), Offer("pyramid_pixels"),
        ]]  # fmt: skip

    def items(self) -> Iterator[Item]:
        """Yield the evidence of each annotated image; with missing=skip, of those with a map.

        Raises UserError where no map could be scored.
        """
        places = range(len(self.metadata.ids))
        with show_progress("evaluate", len(places), unit="maps") as advance:
            for result in map_items(self._measure, places, self.workers, needed=self._needed()):
                advance(1)
                if isinstance(result, Measured):
                    self._resized += result.was_resized
                    self._usable += result.fault is None
                    if result.oddity is not None:
                        self._odd_maps.setdefault(result.oddity, []).append(result.evidence.id)
                    if result.fault is not None:
                        self._without_map.setdefault(result.fault, []).append(result.evidence.id)
                    if result.fault is None or self.missing == "not_found":
                        self._boxed += result.evidence.curves is not None
                        yield Item(result.evidence, [self._record(result)])
                elif result is not None:
                    id, reason = result
                    self._left_out.setdefault(reason, []).append(id)
        if not self._usable:
            hint = map_files.describe_expected_maps(self.folder, self.metadata.ids)
            raise UserError(
                f"{self.folder}: no map could be scored{hint}\n"
                + "\n".join([*self.metadata.notes, *self.notes(())])
            )

    def _needed(self) -> list[NeededPath]:
        """Return the folders that `_measure` reads, which workers of a runner need."""
        paths = [("maps", self.folder)]
        paths += [
            ("metadata", path) for m in [*self.metadata.masks.values()][:1] for path in m.objects
        ]
        return [NeededPath.of(option, path) for option, path in paths]

    def _measure(self, position: int) -> Measured | tuple[str, str] | None:
        """Measure the map of an image.

        Returns:
            The image and the reason where its annotation cannot be used; None without annotation,
            which the metadata's notes name.
        """
        id = self.metadata.ids[position]
        if id not in self.metadata.boxes and id not in self.metadata.masks:
            return None
        try:
            values = wsolevaluation.read_map(self.folder, id)
        except SkippedImage as problem:
            values, fault = None, str(problem)
        try:
            if values is None:
                return Measured(position, self._not_found(id), fault=fault)
            if id in self.metadata.masks:
                return self._against_masks(position, values)
            return self._against_boxes(position, values)
        except SkippedImage as problem:
            return id, str(problem)

    def _not_found(self, id: str) -> Evidence:
        """Return the evidence of an annotated image without a usable map."""
        if id in self.metadata.masks:
            whole = mask_files.read_masks(self.metadata.masks[id])
            frame = self.scale.choose_frame((whole.shape[0], whole.shape[1]))
            mask = mask_files.read_masks(self.metadata.masks[id], frame)
            return self._evidence(id, pointing=MISS, **pixels_not_found(mask))
        size, true = self.metadata.sizes[id], self.metadata.get_half_open_boxes(id)
        fields = boxes_not_found(self._exact(id, true), size, self.scale)
        return self._evidence(id, size=size, true=true, **fields)

    def _exact(self, id: str, true: np.ndarray) -> np.ndarray:
        """Return the boxes as they are measured: that evaluator neither clips nor rounds them."""
        return true if self._is_default else self.metadata.boxes[id] + (0, 0, 1, 1)

    def _against_boxes(self, position: int, values: np.ndarray) -> Measured:
        id = self.metadata.ids[position]
        size, true = self.metadata.sizes[id], self.metadata.get_half_open_boxes(id)
        scaled, was_resized = self._scaled(values, size)
        exact = self._exact(id, true)
        measured = self.scale.measure(scaled, exact, size, id)
        evidence = self._evidence(
            id,
            size=size,
            true=true,
            iou=float(measured.curves.largest[self._at]),
            cuts=measured.cuts,
            curves=measured.curves,
            pyramid=pyramid_curves(exact, size, self.scale.protocol),
            pointing=(peak_distance(scaled, true, size), energy_inside(scaled, true, size)),
        )
        return Measured(position, evidence, was_resized, oddity=find_oddity(values, size))

    def _against_masks(self, position: int, values: np.ndarray) -> Measured:
        id = self.metadata.ids[position]
        whole = mask_files.read_masks(self.metadata.masks[id])
        size = whole.shape[0], whole.shape[1]
        scaled, was_resized = self._scaled(values, size)
        frame = scaled.shape[0], scaled.shape[1]
        mask = mask_files.read_masks(self.metadata.masks[id], frame)
        nothing = np.zeros((0, 4))
        counted = np.where(mask == mask_files.IGNORE, 0, scaled)
        evidence = self._evidence(
            id,
            pointing=(
                peak_distance(scaled, nothing, size, mask=whole == 1),
                energy_inside(counted, nothing, size, mask=mask == 1),
            ),
            pixels=histograms(scaled, mask),
            pyramid_pixels=histograms(pyramid(frame), mask),
        )
        return Measured(position, evidence, was_resized, oddity=find_oddity(values, size))

    def _evidence(self, id: str, **fields: Any) -> Evidence:
        label = self._label.get(self.metadata.labels.get(id, -1), -1)
        return Evidence(id=id, image=id, label=label, fold=fold_of_image(id), **fields)

    @property
    def _is_default(self) -> bool:
        return self.scale.protocol == "default"

    def _scaled(self, values: np.ndarray, size: Size) -> tuple[Float[np.ndarray, "h w"], bool]:
        """Return a map in [0, 1] as it is measured, and whether it had to be brought to 224x224."""
        if self._is_default:
            return upsample(values.astype(np.float32), frame_size(size)), False
        return to_reference_frame(values)

    def _record(self, result: Measured) -> dict[str, Any]:
        """Return the record of a map in images.json."""
        evidence = result.evidence
        record = {
            "position": result.position, "id": evidence.id, "class": evidence.label,
            "predicted": evidence.label, "score": None, "iou": None, "true": [], "found": [],
        }  # fmt: skip
        if evidence.iou is None or evidence.true is None or evidence.curves is None:
            return record
        found = self._box(evidence.curves, self.metadata.sizes[evidence.id])
        return {
            **record, "iou": round(evidence.iou, 5), "true": evidence.true.tolist(), "found": found,
        }  # fmt: skip

    def _box(self, curves: Curves, size: Size) -> list[list[float]]:
        """Return the box of the largest component at the fixed threshold, if there is one."""
        box = curves.boxes[self._at][None]
        if not self._is_default:
            box = boxes_to_image(box, FRAME, size)
        return list(np.round(box[box[:, 2] > box[:, 0]], 2).tolist())

    def notes(self, of_metrics: Sequence[str]) -> list[str]:
        """Return which images have no usable map, and what was left out."""
        name = self.name
        counts = self.missing == "not_found"
        told = ": counted as not found" if counts else ": not scored (missing=skip)"
        remedy = "missing=skip leaves them out" if counts else "missing=not_found counts them"
        if not self._usable:  # neither helps
            told = remedy = ""
        notes: list[str] = [
            count_note(which, "image", f"{reason}{told}", where=name, remedy=remedy)
            for reason, which in self._without_map.items()
        ]
        notes += [
            count_note(which, "image", f"{reason}: not scored", where="localization.txt",
                       remedy="give them masks that can be read")
            for reason, which in self._left_out.items()
        ]  # fmt: skip
        notes += [
            count_note(which, "image", f"of {self.total} {oddity}", where=name,
                       remedy=ODDITY_REMEDIES[oddity])
            for oddity, which in self._odd_maps.items()
        ]  # fmt: skip
        if extra := map_files.find_unknown_maps(self.folder, self.metadata.ids):
            notes.append(
                count_note(extra, "map", "are of no image of image_ids.txt: left out", where=name)
            )
        others = map_files.find_other_files(self.folder, self.metadata)
        notes += [
            count_note(which, f"{ending} file", "not read: maps are .npy files", where=name,
                       remedy="save each with numpy.save")
            for ending, which in others.items()
        ]  # fmt: skip
        least = self.settings.min_two_fold or 0
        if 0 < self._boxed < least:
            notes.append(
                f"{name}: no number at a validation threshold: it is chosen where at least {least} "
                f"images with boxes are scored, and {self._boxed} are"
            )
        if self._resized:
            notes.append(
                f"{name}: {self._resized} maps were not 224x224 in [0, 1], and were brought there "
                "(bilinear, then min-max)"
            )
        return [*notes, *of_metrics]


def find_oddity(values: np.ndarray, size: Size) -> str | None:
    """Return what is odd about a map that can be scored: it is constant, or seems transposed.

    Args:
        values: the map [h, w], as in its file.
        size: (height, width) of the image.
    """
    if values.min() == values.max():
        return CONSTANT
    stretch = values.shape[0] / values.shape[1] * size[0] / size[1]  # 1: the image's, transposed
    is_oblong = abs(math.log(size[0] / size[1])) > SAME_ASPECT
    return TRANSPOSED if is_oblong and abs(math.log(stretch)) < SAME_ASPECT else None


def to_reference_frame(values: np.ndarray) -> tuple[Float64[np.ndarray, "224 224"], bool]:
    """Bring a map to the frame of wsolevaluation, and return whether it had to be changed.

    A map that is 224x224 in [0, 1] stays as it is.
    """
    if values.shape == FRAME and values.min() >= 0 and values.max() <= 1:
        return values.astype(np.float64), False
    large = cv2.resize(values.astype(np.float32), FRAME[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(min_max(large), np.float64), True
