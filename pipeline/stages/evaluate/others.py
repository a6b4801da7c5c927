"""What others made as sources, by what the configuration names: boxes= or maps=, and against=."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.formats import coco, wsolevaluation
from pipeline.metric.measurement import FIXED_THRESHOLD
from pipeline.ops.hashing import hash_file
from pipeline.results.thresholds import MIN_BOXED_IMAGES
from pipeline.stages.evaluate.coco_results import Annotations, CocoResults
from pipeline.stages.evaluate.map_folder import MapFolder
from pipeline.stages.evaluate.maps import MapScale, list_cuts
from pipeline.stages.evaluate.source import Source
from pipeline.types import EvaluationSettings


def are_named(config: Mapping[str, Any]) -> bool:
    """Return whether the configuration names something that others made."""
    return config["boxes"] is not None or config["maps"] is not None


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError for what cannot be scored, before anything is computed."""
    boxes, maps = config["boxes"], config["maps"]
    if boxes is not None and maps is not None:
        raise UserError(
            f"boxes={boxes}, maps={maps}: one of them is scored in a run; leave one away"
        )
    if boxes is not None:
        _check_boxes(config)
        return
    _refuse(config, "annotations", "it belongs to boxes=; maps= wants metadata=FOLDER")
    for key in ("maps", "metadata", "against"):
        if config[key] is not None and not Path(config[key]).is_dir():
            raise UserError(f"{key}={config[key]}: no such folder")
    wsolevaluation.check(_metadata_folder(config))


def _check_boxes(config: Mapping[str, Any]) -> None:
    if config["annotations"] is None:
        raise UserError(
            f"boxes={config['boxes']}: nothing to score them against; give "
            "annotations=INSTANCES.json, a COCO data set"
        )
    _refuse(config, "metadata", "it belongs to maps=; boxes= wants annotations=")
    if config["protocol"] != "default":
        raise UserError(
            f"protocol={config['protocol']}: it measures maps, boxes= has none; leave it away"
        )
    for key in ("boxes", "annotations", "against"):
        if config[key] is not None and not Path(config[key]).is_file():
            raise UserError(f"{key}={config[key]}: no such file; expected a COCO file (JSON)")


def _refuse(config: Mapping[str, Any], key: str, why: str) -> None:
    if config[key] is not None:
        raise UserError(f"{key}={config[key]}: {why}; leave it away")


def _metadata_folder(config: Mapping[str, Any]) -> Path:
    return Path(config["maps"] if config["metadata"] is None else config["metadata"])


def cache_key(config: Mapping[str, Any], threshold: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands for the files in the key of the result.

    `threshold`: that of the segmenter, which maps are cut at if it is fixed.
    """
    key = {
        "names": names(config),
        "evaluate": config["evaluate"],
        "seed": config["seed"],
    }
    if config["boxes"] is not None:
        return key | {
            name: None if config[name] is None else hash_file(Path(config[name]))
            for name in ("boxes", "against", "annotations")
        }
    return key | {
        "maps": wsolevaluation.fingerprint_maps(Path(config["maps"])),
        "against": None
        if config["against"] is None
        else wsolevaluation.fingerprint_maps(Path(config["against"])),
        "metadata": wsolevaluation.fingerprint(_metadata_folder(config)),
        "protocol": config["protocol"],
        "threshold": fixed_threshold(threshold),
    }


def fixed_threshold(threshold: Mapping[str, Any]) -> dict[str, Any]:
    """Return the threshold of a segmenter if it is fixed, else the usual one."""
    if threshold["kind"] == "fixed":
        return dict(threshold)
    return {"kind": "fixed", "value": FIXED_THRESHOLD}


def names(config: Mapping[str, Any]) -> list[str]:
    """Return what the table calls those that are scored: as little of their paths as tells them
    apart."""
    given = [config["boxes"] or config["maps"], config["against"]]
    parts = [Path(path).absolute().parts for path in given if path is not None]
    if len(parts) == 2 and parts[0] == parts[1]:
        return [parts[0][-1], f"{parts[1][-1]} (against)"]
    length = 1
    while len(parts) == 2 and parts[0][-length:] == parts[1][-length:]:
        length += 1
    return ["/".join(part[-length:]).lstrip("/") for part in parts]


def open_sources(
    config: Mapping[str, Any], threshold: Mapping[str, Any], workers: int
) -> tuple[list[Source], list[str]]:
    """Return one source, or two to compare, and notes about what both are scored against."""
    ious, seed = tuple(config["evaluate"]["ious"]), config["seed"]
    if config["boxes"] is not None:
        known = Annotations(coco.read(Path(config["annotations"])))
        settings = EvaluationSettings(
            ious=ious, seed=seed, classes=known.classes, category_ids=known.numbers
        )
        files = [Path(config[key]) for key in ("boxes", "against") if config[key] is not None]
        return [
            CocoResults(path, name, known, settings)
            for path, name in zip(files, names(config), strict=True)
        ], known.notes
    metadata = wsolevaluation.read(_metadata_folder(config))
    settings = map_settings(metadata, fixed_threshold(threshold), ious, seed)
    scale = MapScale(config["protocol"], settings.cuts)
    folders = [Path(config[key]) for key in ("maps", "against") if config[key] is not None]
    return [
        MapFolder(folder, name, metadata, settings, scale, workers)
        for folder, name in zip(folders, names(config), strict=True)
    ], list(metadata.notes)


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
