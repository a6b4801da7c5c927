"""The maps that a segmenter makes of map and image before it segments them, as a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.engine.spread_items import map_items
from pipeline.errors import SkippedImage
from pipeline.metric.measurement import refine_map
from pipeline.protocols import RefiningSegmenter
from pipeline.stages.evaluate.explained import Explained, Unit
from pipeline.stages.evaluate.maps import MapScale, MeasuredMap
from pipeline.stages.evaluate.not_found import boxes_not_found
from pipeline.stages.evaluate.source import PLACES, Blocks, Item, Offer
from pipeline.types import (
    EvaluationSettings,
    Evidence,
    Example,
    GroundTruth,
    Ranking,
    SaliencyMap,
)


@dataclass
class RefinedMaps:
    """The maps that a segmenter makes of map and image before it segments them, scored as maps.

    At the threshold used its boxes themselves are scored, by OwnRun. `read_image` reads an image
    at the size that the segmenter wants.
    """

    name: str
    explained: Explained
    settings: EvaluationSettings
    scale: MapScale
    segmenter: RefiningSegmenter
    read_image: Callable[[int, SaliencyMap], Example | SkippedImage]

    unit = "images"
    first_compared: Sequence[str] = ()

    @property
    def blocks(self) -> Blocks:
        """Return what the evidence has; where images have several classes, no Top-k Loc."""
        ranking = [] if self.explained.is_multi_label else [Offer("ranking")]
        return [[*ranking, Offer("cuts"), Offer("curves")]]

    @property
    def total(self) -> int:
        """Return how many images, or classes of images, the split that is scored has."""
        return self.explained.total

    def items(self) -> Iterator[Item]:
        """Yield the evidence of each image whose map could be refined, and of the unread ones."""
        top = self.explained.predicted()

        def of_map(item: tuple[int, SaliencyMap]) -> Evidence | None:
            return self._evidence(*item, top[item[0]])

        maps = self.explained.iterate_maps()
        for evidence in map_items(of_map, maps, self.explained.workers):
            if evidence is not None:
                yield Item(evidence)
        if self.explained.missing == "not_found":
            for position in self.explained.unread():
                for unit in self.explained.units(position):
                    known = self.explained.known_of(unit)
                    if known is not None and len(known.of_label()):
                        yield Item(self._not_found(unit, known, ()))

    def _not_found(self, unit: Unit, known: GroundTruth, top: Sequence[int]) -> Evidence:
        """Return the evidence of an image that could not be read."""
        fields = boxes_not_found(known.of_label(), known.size, self.scale)
        return self._measured(unit, known, top, MeasuredMap(fields["curves"], fields["cuts"]))

    def _measured(
        self, unit: Unit, known: GroundTruth, top: Sequence[int], measured: MeasuredMap
    ) -> Evidence:
        """Return the evidence of a map; `top`: the classes predicted for the image."""
        ranking = None if self.explained.is_multi_label else Ranking(top, PLACES)
        return Evidence(
            id=unit.id, image=unit.image, label=unit.label, size=known.size,
            ranking=ranking, curves=measured.curves, cuts=measured.cuts,
        )  # fmt: skip

    def _evidence(
        self, position: int, saliency: SaliencyMap, top: Sequence[int]
    ) -> Evidence | None:
        """Return the evidence of a map of a class that the image has; None of another class."""
        units = self.explained.units(position)
        unit = next((each for each in units if each.label == saliency.explained), None)
        known = None if unit is None else self.explained.known_of(unit)
        if unit is None or known is None or not len(known.of_label()):
            return None
        example = self.read_image(position, saliency)
        if isinstance(example, SkippedImage):
            skips = self.explained.missing == "skip"
            return None if skips else self._not_found(unit, known, top)
        scaled = refine_map(self.segmenter, saliency, example, self.scale.protocol)
        measured = self.scale.measure(scaled, known.of_label(), known.size, known.id)
        return self._measured(unit, known, top, measured)

    def notes(self, of_metrics: Sequence[str]) -> list[str]:
        """Return nothing: images that could not be read are named where boxes are cut."""
        return []
