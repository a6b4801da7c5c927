"""The maps of a run, measured once: the IoU of their boxes at each threshold, and of other boxes.

All that the tables of thresholds.py need of a run is in `MeasuredMaps`: a row for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pipeline.data.unannotated import with_annotations
from pipeline.engine import runtime
from pipeline.engine.choices import conf_folder
from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.metric.baselines import FRACTIONS, centre_box
from pipeline.metric.components import curves, threshold_index
from pipeline.metric.measurement import FIXED_THRESHOLD
from pipeline.ops.iou import best_iou, pairwise_iou
from pipeline.ops.maps import frame_size, upsample
from pipeline.results.boxes import iterate_boxes
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.segmenter.threshold import Threshold
from pipeline.types import GroundTruth, SaliencyMap, Size
from scripts.measure.mixed_crops import MixedCrops, is_held_out, source_of

if TYPE_CHECKING:
    from jaxtyping import Float64

STAGES = ("train", "refine", "explain", "calibrate", "localize")
"""The stages up to boxes; calibrate only where the boxes are segmented at its threshold."""


@dataclass(frozen=True)
class MeasuredMaps:
    """Maps of images that have boxes of their class, and how well boxes fit, a row for each image.

    Attributes:
        ids: the name of each image.
        sources: the photograph that each image is, or is a crop of.
        shares: the share of the image's area that its largest annotated box has.
        curve: IoU of the box of the largest component at each of `THRESHOLDS`.
        used: IoU of the best box that stage localize wrote.
        auto: IoU of the box at the threshold that the rule chooses for the map, without boxes.
        auto_at: that threshold.
        centred: IoU of the centred boxes of `FRACTIONS`.
        fixed: the fixed threshold to compare with.
    """

    ids: Sequence[str]
    sources: np.ndarray
    shares: Float64[np.ndarray, n]
    curve: Float64[np.ndarray, "n 1000"]
    used: Float64[np.ndarray, n]
    auto: Float64[np.ndarray, n]
    auto_at: Float64[np.ndarray, n]
    centred: Float64[np.ndarray, "n 20"]
    fixed: float

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, threshold: float) -> Float64[np.ndarray, n]:
        """Return the IoU of each image at the threshold: one of `THRESHOLDS`, or the next of it."""
        return self.curve[:, threshold_index(threshold)]


@dataclass(frozen=True)
class Half:
    """The images that are scored, and what is chosen on others.

    Attributes:
        scored: the images of the half that the table is of.
        boxed: the images that validation thresholds are chosen on. Of the same half, they are not
            scored at the threshold that was chosen on them.
        centred: IoU of the centred boxes with the objects of the other half.
    """

    scored: MeasuredMaps
    boxed: MeasuredMaps
    centred: Float64[np.ndarray, "m 20"]


def crop_scored_images(run: Run, crops: int) -> Run:
    """Return the same run with its scored images replaced by crops (mixed_crops.py).

    Args:
        run: the run over whole photographs, which has trained its networks.
        crops: the crops of each photograph.
    """
    return replace(run, data=MixedCrops(with_annotations(run.data), crops), _keys={})


def measure_half(run: Run, held_out: bool) -> Half:
    """Measure the maps of a half of the scored images.

    Maps of the held-out half are measured only if it is asked for.

    Args:
        run: the run; results that are not in its outputs are created.
        held_out: whether the held-out half is scored, with thresholds chosen on the other half.
    """
    truth = {
        id: known
        for id, known in with_annotations(run.data).truth("val").items()
        if len(known.of_label())
    }
    develop = measure_maps(run, truth, lambda id: not is_held_out(id))
    other = [known for id, known in truth.items() if is_held_out(id) != held_out]
    centred = _fit_centred_boxes(other)
    if not held_out:
        return Half(develop, develop, centred)
    return Half(measure_maps(run, truth, is_held_out), develop, centred)


def measure_maps(
    run: Run, truth: Mapping[str, GroundTruth], is_wanted: Callable[[str], bool]
) -> MeasuredMaps:
    """Measure the maps of some images.

    Args:
        run: the run; results that are not in its outputs are created.
        truth: annotated boxes by image id; images without any are left out.
        is_wanted: whether an image is measured, by its id.

    Raises:
        UserError: there is no such map.
    """
    explained, localized = create_results(run)
    ids, labels = run.images().ids, run.images().labels
    boxes = {
        position: found.boxes
        for position, found in iterate_boxes(localized, ids)
        if found.label == labels[position] and len(found.boxes)
    }
    auto = Threshold()

    def measure(item: tuple[int, SaliencyMap]) -> dict[str, Any]:
        position, saliency = item
        known = truth[saliency.id]
        objects, size = known.of_label(), saliency.size
        scaled = upsample(saliency.raw(), frame_size(size))
        at = auto.choose_fraction(scaled)
        first = boxes.get(position, (None,))[0]
        return {
            "ids": saliency.id,
            "sources": source_of(saliency.id),
            "shares": _share_of_largest(known),
            "curve": curves(scaled, objects, size).largest,
            "used": best_iou(first, objects),
            "auto": best_iou(auto.segment(scaled, saliency, at).boxes[0], objects),
            "auto_at": at,
            "centred": _fit_centred_boxes([known])[0],
        }

    items: Iterator[tuple[int, SaliencyMap]] = (
        (position, saliency)
        for shard in list_shards(explained)
        for position, saliency in iterate_maps(shard, ids)
        if saliency.id in truth
        and is_wanted(saliency.id)
        and saliency.explained == labels[position]
    )
    rows = sorted(runtime.map_in_threads(measure, items, run.workers), key=lambda row: row["ids"])
    if not rows:
        raise UserError("no map of an image with boxes of its class, so there is nothing to score")
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    columns["ids"] = columns["ids"].tolist()
    return MeasuredMaps(**columns, fixed=fixed_threshold(run))


def fixed_threshold(run: Run) -> float:
    """Return the fixed threshold to compare with.

    It is that of segmenter=threshold_refined for the maps of a localization head, and 0.2 for
    others, and where that segmenter has no number.
    """
    if "refine" in run.config["stages"]:
        node = yaml.safe_load((conf_folder() / "segmenter/threshold_refined.yaml").read_text())
        if isinstance(value := node.get("threshold"), float):
            return value
    return FIXED_THRESHOLD


def create_results(run: Run) -> tuple[Path, Path]:
    """Run the stages up to boxes. Returns the folders of the maps and of the boxes."""
    folders = {}
    for stage in STAGES:
        if stage == "calibrate" and not run.uses_validation_threshold:
            continue
        if stage in run.config["stages"]:
            folders[stage], _ = run.get_or_create(stage)
    return folders["explain"], folders["localize"]


def _share_of_largest(truth: GroundTruth) -> float:
    """Return the share of the image's area that the largest box of its class has."""
    boxes = truth.of_label().astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return float(areas.max()) / (truth.size[0] * truth.size[1])


def _fit_centred_boxes(truths: Sequence[GroundTruth]) -> Float64[np.ndarray, "n 20"]:
    """Return the IoU of the centred boxes of `FRACTIONS` with the objects of each image."""

    def fit(objects: np.ndarray, size: Size) -> np.ndarray:
        centred = np.stack([centre_box(size, fraction) for fraction in FRACTIONS])
        return np.asarray(pairwise_iou(centred, objects).max(1))

    rows = [fit(truth.of_label(), truth.size) for truth in truths]
    return np.array(rows).reshape(-1, len(FRACTIONS))
