"""The thresholds that stage calibrate picked: which there are, and which one an image is cut at.

Apart from the stage, so that who cuts or scores at them does not hang on how they are found. With
`checkpoint=RUN` and no stage calibrate of its own, as `+experiment=predict`, a run cuts at what
that run chose, which must have cut the same maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.formats.files import read_json
from pipeline.ops.hashing import hash_of, to_plain

MIN_BOXED_IMAGES = 10  # images with boxes that a threshold may stand on
USED_IOU = 0.5  # whose threshold segmenter.threshold=validation cuts at


def load_thresholds(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / "thresholds.json"))


def read_cache_key(folder: Path) -> dict[str, Any]:
    """Return what a result was made of; version 0.1.0 called the file made_of.json."""
    path = folder / "cache_key.json"
    return dict(read_json(path if path.is_file() else folder / "made_of.json"))


def select_thresholds(picked: Mapping[str, Any], refines: bool) -> dict[str, Any]:
    """Those of what is cut: of the refined maps, where the segmenter makes them."""
    return dict(picked["refined"] if refines else picked)


def find_thresholds(
    folder: Path,
    saliency: Mapping[str, Any],
    views: Sequence[Any] = (False, [1.0]),
    refining: Mapping[str, Any] | None = None,
) -> Path:
    """The stage calibrate of the run in a folder that chose thresholds for such maps; those for
    images that it has not seen stand there under `elsewhere`.

    saliency, refining: the nodes of the method, and of the segmenter where it makes maps of its
    own. views: explain.flips and explain.scales. Raises UserError where that run chose none for
    them.
    """
    told = f"segmenter.threshold=validation: checkpoint={folder}"
    remedy = "segmenter.threshold=auto needs no boxes"
    chose = [one for one in sorted(folder.glob("stages/calibrate*")) if one.is_dir()]
    if not chose:
        raise UserError(
            f"{told} has no stage calibrate, which chooses it; expected the folder of a run that "
            f"has, as outputs/latest after +experiment=cam; {remedy}"
        )
    for place in chose:
        made = read_cache_key(place.with_name(place.name.replace("calibrate", "explain", 1)))
        if made["saliency"] == to_plain(saliency) and made["views"][:2] == to_plain(views):
            break
    else:
        raise UserError(
            f"{told} chose none for these maps; give the saliency= (and explain.flips, "
            f"explain.scales) of that run; {remedy}"
        )
    made = read_cache_key(place)
    if refining is not None and made.get("segmenter") != without_threshold(refining):
        raise UserError(
            f"{told} chose none for what this segmenter makes of maps and images; give the "
            f"segmenter= of that run, with its options; {remedy}"
        )
    picked = select_thresholds(load_thresholds(place), refining is not None)
    if f"{USED_IOU:g}" not in picked["elsewhere"]:
        raise UserError(f"{told} chose none: {picked['n']} images had boxes to choose it on, and "
                      f"it wants {MIN_BOXED_IMAGES} at least; {remedy}")  # fmt: skip
    return place


def without_threshold(segmenter: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a segmenter without its threshold, which has no part in the map that it cuts."""
    return {key: to_plain(value) for key, value in segmenter.items() if key != "threshold"}


def too_few_boxes_error(count: int, checkpoint: str | None = None) -> UserError:
    kept = "" if checkpoint is None else (
        f", stages= without calibrate takes the one that checkpoint={checkpoint} chose"
    )  # fmt: skip
    return UserError(
        f"segmenter.threshold=validation: {count} images have boxes to choose it on, and it wants "
        f"{MIN_BOXED_IMAGES} at least; calibrate.boxes=FILE takes some that you draw{kept}, "
        "segmenter.threshold=auto needs none"
    )


def fold_of_image(id: str) -> int:
    """0 or 1, always the same for a name."""
    return int(hash_of(["fold", id]), 16) & 1


def threshold_for_image(values: Sequence[float], id: str) -> float:
    """The threshold of an image: that of its half, where the halves have each their own."""
    return values[fold_of_image(id) if len(values) > 1 else 0]


def validation_threshold_info(values: Sequence[float], source: str) -> dict[str, Any]:
    """As metrics.json names it."""
    value = values[0] if len(values) == 1 else list(values)
    return {"kind": "validation", "value": value, "source": source}
