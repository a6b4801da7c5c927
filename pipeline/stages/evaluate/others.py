"""What others made as sources, by what the configuration names: boxes= or maps=, and against=."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.formats import coco, wsolevaluation
from pipeline.formats.coco_records import CrowdRule
from pipeline.metric.max_box_acc import Protocol
from pipeline.metric.measurement import FIXED_THRESHOLD
from pipeline.ops.hashing import hash_file
from pipeline.results.thresholds import MIN_BOXED_IMAGES
from pipeline.stages.evaluate.coco_results import Annotations, CocoResults
from pipeline.stages.evaluate.map_folder import MapFolder
from pipeline.stages.evaluate.maps import MapScale, list_cuts
from pipeline.stages.evaluate.not_found import Missing
from pipeline.stages.evaluate.source import Source
from pipeline.types import EvaluationSettings


@dataclass(frozen=True, kw_only=True)
class Named:
    """What the configuration names that others made: paths, and how they are scored.

    Attributes:
        boxes, maps: what is scored, one of them.
        annotations: what boxes are scored against.
        metadata: what maps are scored against; None: it lies with the maps.
        against: what the result is compared with.
        protocol: how maps are measured.
        missing: whether an annotated image without a box or a usable map counts as not found.
        images: ids of the images that `boxes` are of; None: it does not say, those with a box.
        ious: the IoUs that a box must reach.
        seed: of the bootstrap.
        threshold: that of the segmenter, which maps are cut at if it is fixed.
        crowds: what annotations marked `iscrowd` are.
    """

    boxes: str | None = None
    maps: str | None = None
    annotations: str | None = None
    metadata: str | None = None
    against: str | None = None
    protocol: Protocol = "default"
    missing: Missing = "not_found"
    images: frozenset[int] | None = None
    ious: tuple[float, ...] = (0.3, 0.5, 0.7)
    seed: int = 0
    threshold: Mapping[str, Any] = field(default_factory=dict)
    crowds: CrowdRule = "ignore"

    @property
    def metadata_folder(self) -> Path:
        """Return the folder of what maps are scored against."""
        return Path(str(self.maps if self.metadata is None else self.metadata))

    def check(self) -> None:
        """Raise UserError for what cannot be scored, before anything is computed."""
        if self.boxes is not None and self.maps is not None:
            raise UserError(
                f"boxes={self.boxes}, maps={self.maps}: one of them is scored in a run; leave one "
                "away"
            )
        if self.boxes is not None:
            self._check_boxes()
            return
        why = "it belongs to boxes=; maps= wants metadata=FOLDER"
        _refuse("annotations", self.annotations, why)
        _refuse("evaluate.crowds", None if self.crowds == "ignore" else self.crowds, why)
        for key, value in (
            ("maps", self.maps), ("metadata", self.metadata), ("against", self.against)
        ):  # fmt: skip
            if value is not None and not Path(value).is_dir():
                raise UserError(f"{key}={value}: no such folder")
        wsolevaluation.check(self.metadata_folder)

    def _check_boxes(self) -> None:
        if self.annotations is None:
            raise UserError(
                f"boxes={self.boxes}: nothing to score them against; give "
                "annotations=INSTANCES.json, a COCO data set"
            )
        _refuse("metadata", self.metadata, "it belongs to maps=; boxes= wants annotations=")
        if self.protocol != "default":
            raise UserError(
                f"protocol={self.protocol}: it measures maps, boxes= has none; leave it away"
            )
        for key, value in (
            ("boxes", self.boxes), ("annotations", self.annotations), ("against", self.against)
        ):  # fmt: skip
            if value is not None and not Path(value).is_file():
                raise UserError(f"{key}={value}: no such file; expected a COCO file (JSON)")

    def cache_key(self) -> dict[str, Any]:
        """Return what stands for the files, and how they are scored, in the key of the result."""
        key: dict[str, Any] = {
            "names": self.names(),
            "ious": list(self.ious),
            "seed": self.seed,
        }
        if self.boxes is not None:
            files = (("boxes", self.boxes), ("annotations", self.annotations))
            compared = None if self.against is None else hash_file(Path(self.against))
            key |= {"against": compared, "crowds": self.crowds, "missing": self.missing}
            return {**key, **{n: hash_file(Path(str(f))) for n, f in files}}
        folders = (("maps", self.maps), ("against", self.against))
        return {
            **key,
            **{
                name: None if folder is None else wsolevaluation.fingerprint_maps(Path(folder))
                for name, folder in folders
            },
            "metadata": wsolevaluation.fingerprint(self.metadata_folder),
            "protocol": self.protocol,
            "missing": self.missing,
            "threshold": fixed_threshold(self.threshold),
        }

    def names(self) -> list[str]:
        """Name those that are scored by the shortest part of their paths that is different."""
        given = [self.boxes or self.maps, self.against]
        parts = [Path(path).absolute().parts for path in given if path is not None]
        if len(parts) == 2 and parts[0] == parts[1]:
            return [parts[0][-1], f"{parts[1][-1]} (against)"]
        length = 1
        while len(parts) == 2 and parts[0][-length:] == parts[1][-length:]:
            length += 1
        return ["/".join(part[-length:]).lstrip("/") for part in parts]

    def open_sources(self, workers: int) -> tuple[list[Source], list[str]]:
        """Return one source, or two to compare, and notes about what both are scored against."""
        given = [path for path in (self.boxes or self.maps, self.against) if path is not None]
        paths = list(zip(map(Path, given), self.names(), strict=True))
        if self.boxes is not None:
            file = coco.read(
                Path(str(self.annotations)), self.crowds, "evaluate.crowds", with_records=True
            )
            known = Annotations(file)
            settings = EvaluationSettings(
                ious=self.ious, seed=self.seed, classes=known.classes, category_ids=known.numbers
            )
            sources = [
                CocoResults(path, name, known, settings, self.missing, self.images)
                for path, name in paths
            ]
            return list(sources), known.notes if self.missing == "not_found" else file.notes
        metadata = wsolevaluation.read(self.metadata_folder)
        settings = map_settings(metadata, fixed_threshold(self.threshold), self.ious, self.seed)
        scale = MapScale(self.protocol, settings.cuts)
        return [
            MapFolder(path, name, metadata, settings, scale, workers, self.missing)
            for path, name in paths
        ], list(metadata.notes)


def _refuse(key: str, value: str | None, why: str) -> None:
    """Raise UserError where a key is given."""
    if value is not None:
        raise UserError(f"{key}={value}: {why}; leave it away")


def fixed_threshold(threshold: Mapping[str, Any]) -> dict[str, Any]:
    """Return the threshold of a segmenter if it is fixed, else the usual one."""
    if threshold["kind"] == "fixed":
        return dict(threshold)
    return {"kind": "fixed", "value": FIXED_THRESHOLD}


def map_settings(
    metadata: wsolevaluation.Metadata,
    threshold: Mapping[str, Any],
    ious: tuple[float, ...],
    seed: int,
) -> EvaluationSettings:
    """Return what the metrics are told of a folder of maps, whose boxes are cut at `threshold`.

    Beside it the maps are scored at the threshold of the rule `auto`, and at validation thresholds,
    which each half of the images chooses for the other.
    """
    return EvaluationSettings(
        ious=ious,
        seed=seed,
        threshold=threshold,
        cuts=tuple(list_cuts(str(threshold["kind"]), ious, None)),
        min_two_fold=MIN_BOXED_IMAGES,
        classes=[str(number) for number in metadata.classes],
    )
