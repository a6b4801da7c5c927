"""The thresholds that stage calibrate chose, and which of them applies to an image.

With `checkpoint=RUN` and without stage calibrate, as in `+experiment=predict`, a run uses the
thresholds of RUN, which must have been chosen on maps of the same method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.formats.files import read_json
from pipeline.ops.hashing import hash_of, to_plain
from pipeline.ops.renamed import rename_keys

MIN_BOXED_IMAGES = 10  # images with boxes that a threshold is chosen on at least
USED_IOU = 0.5  # segmenter.threshold=validation uses the threshold that was chosen for this IoU


def load_thresholds(folder: Path) -> dict[str, Any]:
    """Return the thresholds that a result of stage calibrate has."""
    return dict(read_json(folder / "thresholds.json"))


def read_cache_key(folder: Path) -> dict[str, Any]:
    """Return what a result was made of; version 0.1.0 called the file made_of.json.

    Keys that an earlier version had under another name have their present names.
    """
    path = folder / "cache_key.json"
    key = dict(read_json(path if path.is_file() else folder / "made_of.json"))
    rename_keys(key)
    return key


def select_thresholds(thresholds: Mapping[str, Any], refines: bool) -> dict[str, Any]:
    """Return the thresholds for refined maps if the segmenter refines maps, else for plain maps."""
    return dict(thresholds["refined"] if refines else thresholds)


def find_thresholds(
    folder: Path,
    saliency: Mapping[str, Any],
    views: Sequence[Any] = (False, [1.0]),
    refining: Mapping[str, Any] | None = None,
) -> Path:
    """Return the result of stage calibrate in a run that chose thresholds for the same maps.

    Its thresholds for images that the run has not seen are under `elsewhere`.

    Args:
        folder: the run's folder.
        saliency: the completed node of the saliency method.
        views: explain.flips and explain.scales.
        refining: the completed node of the segmenter if it refines maps; else None.

    Raises:
        UserError: the run chose no thresholds for such maps.
    """
    subject = f"segmenter.threshold=validation: checkpoint={folder}"
    remedy = "segmenter.threshold=auto needs no boxes"
    results = [path for path in sorted(folder.glob("stages/calibrate*")) if path.is_dir()]
    if not results:
        raise UserError(
            f"{subject} has no stage calibrate, which chooses it; expected the folder of a run "
            f"that has, as outputs/latest after +experiment=cam; {remedy}"
        )
    for result in results:
        maps = result.with_name(result.name.replace("calibrate", "explain", 1))
        key = read_cache_key(maps)
        if key["saliency"] == to_plain(saliency) and key["views"][:2] == to_plain(views):
            break
    else:
        raise UserError(
            f"{subject} chose none for these maps; give the saliency= (and explain.flips, "
            f"explain.scales) of that run; {remedy}"
        )
    key = read_cache_key(result)
    if refining is not None and key.get("segmenter") != without_threshold(refining):
        raise UserError(
            f"{subject} chose none for what this segmenter makes of maps and images; give the "
            f"segmenter= of that run, with its options; {remedy}"
        )
    thresholds = select_thresholds(load_thresholds(result), refining is not None)
    if f"{USED_IOU:g}" not in thresholds["elsewhere"]:
        raise UserError(
            f"{subject} chose none: {thresholds['n']} images had boxes to choose it on, and it "
            f"wants {MIN_BOXED_IMAGES} at least; {remedy}"
        )
    return result


def without_threshold(segmenter: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a segmenter without its threshold, which does not change refined maps."""
    return {key: to_plain(value) for key, value in segmenter.items() if key != "threshold"}


def too_few_boxes_error(count: int, checkpoint: str | None = None) -> UserError:
    """Return the error that too few images have boxes to choose a threshold on.

    Args:
        count: how many images have boxes.
        checkpoint: the run of checkpoint=, whose threshold could be used instead.
    """
    remedy = "" if checkpoint is None else (
        f", stages= without calibrate takes the one that checkpoint={checkpoint} chose"
    )  # fmt: skip
    return UserError(
        f"segmenter.threshold=validation: {count} images have boxes to choose it on, and it wants "
        f"{MIN_BOXED_IMAGES} at least; calibrate.boxes=FILE takes some that you draw{remedy}, "
        "segmenter.threshold=auto needs none"
    )


def fold_of_image(id: str) -> int:
    """Return the half, 0 or 1, that an image belongs to; it depends only on the image's name."""
    return int(hash_of(["fold", id]), 16) & 1


def threshold_for_image(values: Sequence[float], id: str) -> float:
    """Return the threshold of an image: that of its half if there are two, else the only one."""
    return values[fold_of_image(id) if len(values) > 1 else 0]


def validation_threshold_info(values: Sequence[float], source: str) -> dict[str, Any]:
    """Return a validation threshold as metrics.json describes it.

    Args:
        values: the threshold, or that of each half of the images.
        source: the images that it was chosen on.
    """
    value = values[0] if len(values) == 1 else list(values)
    return {"kind": "validation", "value": value, "source": source}
