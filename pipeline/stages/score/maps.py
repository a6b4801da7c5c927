"""A folder of score maps against wsolevaluation's metadata, streamed: no map outlives its turn.

`protocol=default` measures them as the rest of the project does, `protocol=wsolevaluation` with
that evaluator's habits, at 224x224.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.engine import runtime
from pipeline.engine.progress import show_progress
from pipeline.errors import SkippedImage, UserError
from pipeline.formats import coco, wsolevaluation
from pipeline.formats.files import atomic_write
from pipeline.metric.baselines import Baselines, pyramid
from pipeline.metric.components import (
    THRESHOLDS,
    Curves,
    curves,
    wsolevaluation_boxes,
    wsolevaluation_curves,
)
from pipeline.metric.groups import number_group, size_group
from pipeline.metric.gt_known import Localization
from pipeline.metric.max_box_acc import GtKnownOracle, MaxBoxAcc, MaxBoxAccV2, PyramidOracle
from pipeline.metric.measurement import FRAME, pyramid_curves
from pipeline.metric.pointing import energy_inside, pointing_hit
from pipeline.metric.pxap import PxAP, histograms, pxap
from pipeline.metric.scores import chosen, mean_score
from pipeline.ops.bootstrap import first
from pipeline.ops.maps import boxes_to_image, frame_size, min_max, upsample
from pipeline.ops.text import list_some
from pipeline.results.comparison import Pairs, Place
from pipeline.stages.score.scored import Asked, Grouped, Scored, subsets
from pipeline.types import Score

if TYPE_CHECKING:
    from jaxtyping import Float64, UInt8


@dataclass(frozen=True)
class Measured:
    """One map, measured by a worker. Boxes or masks: an image has one of them."""

    position: int
    curves: Curves | None
    pyramid: Curves | None
    hit: bool
    energy: float
    pixels: np.ndarray | None
    pyramid_pixels: np.ndarray | None
    resized: bool


class ScoredMaps(Scored):
    def __init__(self, metadata: wsolevaluation.Metadata, asked: Asked) -> None:
        self.metadata, self.asked = metadata, asked
        self.classes = [str(one) for one in metadata.classes]
        self._label = {one: n for n, one in enumerate(metadata.classes)}
        self.notes = []
        seed = asked.seed
        self.fixed = Localization(asked.ious, asked.threshold, seed)
        self.oracle = GtKnownOracle(asked.ious, seed)
        self.single, self.multi = MaxBoxAcc((0.5,), seed), MaxBoxAccV2(seed=seed)
        self.pyramid = PyramidOracle(seed=seed)
        self.input_independent_baselines = Baselines(asked.ious, seed)
        self.pixels, self.pyramid_pixels = PxAP(seed=seed), PxAP(seed=seed)
        self.hits: list[bool] = []
        self.energy: list[float] = []
        self.ids: list[str] = []
        self.labels: list[int] = []
        self.sizes: list[str] = []
        self.numbers: list[str] = []
        self.boxed: list[bool] = []  # else masked
        self.cut = int(np.abs(THRESHOLDS - float(asked.threshold["value"])).argmin())

    def add(self, one: Measured) -> dict[str, Any]:
        image = self.metadata.ids[one.position]
        label = self._label.get(self.metadata.labels.get(image, -1), -1)
        self.ids.append(image)
        self.labels.append(label)
        self.hits.append(one.hit)
        self.energy.append(one.energy)
        self.boxed.append(one.curves is not None)
        record = {"position": one.position, "id": image, "class": label, "predicted": label,
                  "score": None, "iou": None, "true": [], "found": []}  # fmt: skip
        if one.curves is None or one.pyramid is None:
            assert one.pixels is not None
            assert one.pyramid_pixels is not None
            self.pixels.append(one.pixels)
            self.pyramid_pixels.append(one.pyramid_pixels)
            self.sizes.append("")
            self.numbers.append("")
            return record
        size, true = self.metadata.sizes[image], self.metadata.half_open(image)
        fit = float(one.curves.largest[self.cut])
        self.fixed.add(label, fit)
        for metric in (self.oracle, self.single, self.multi):
            metric.add(one.curves)
        self.pyramid.add(one.pyramid)
        self.input_independent_baselines.add(true, size)
        self.sizes.append(size_group(true, size))
        self.numbers.append(number_group(true))
        box = one.curves.boxes[self.cut][None]
        if self.asked.protocol == "wsolevaluation":
            box = boxes_to_image(box, FRAME, size)
        found = np.round(box[box[:, 2] > box[:, 0]], 2).tolist()
        return {**record, "iou": round(fit, 5), "true": true.tolist(), "found": found}

    def scores(self, method: str) -> list[Grouped]:
        found: list[Grouped] = []
        boxed = np.array(self.boxed, bool)
        labelled = all(label >= 0 for label in self.labels)
        for part in subsets(self.labels, self.sizes, self.numbers, self.classes):
            select, label = part.select, part.label
            own: list[Score] = []
            if boxed.any():
                own += self._of_boxes(None if select is None else select[boxed], label, labelled)
            own += mean_score("pointing_game", chosen(np.array(self.hits), select),
                              label=label, seed=self.asked.seed)  # fmt: skip
            own += mean_score("energy_pointing_game", chosen(np.array(self.energy), select),
                              label=label, seed=self.asked.seed)  # fmt: skip
            if not boxed.all():
                masked = None if select is None else select[~boxed]
                own += self.pixels.compute(masked, label)
                own += [
                    replace(score, name=f"pyramid_{score.name}")
                    for score in self.pyramid_pixels.compute(masked, label)
                ]
            found += [(replace(score, method=method), part.group) for score in own]
        return found

    def _of_boxes(
        self, select: np.ndarray | None, label: str | None, labelled: bool
    ) -> Iterator[Score]:
        for score in self.fixed.compute(select, label):
            if score.name != "corloc" or labelled:  # a mean over classes needs them
                yield score
        yield from (s for s in self.oracle.compute(select, label) if s.iou is not None)
        yield from self.single.compute(select, label)
        yield from self.multi.compute(select, label)
        yield from self.input_independent_baselines.compute(select, label)
        yield from self.pyramid.compute(select, label)

    def pairs(self) -> dict[Place, Pairs]:
        found: dict[Place, Pairs] = {}
        boxed = [one for one, has in zip(self.ids, self.boxed, strict=True) if has]
        masked = [one for one, has in zip(self.ids, self.boxed, strict=True) if not has]
        if boxed:
            for metric in (self.multi, self.single):
                iou = 0.5 if metric is self.single else None
                found[metric.name, iou, "oracle"] = Pairs(
                    metric.correct, metric.statistic, boxed, "oracle"
                )
            for iou in self.asked.ious:
                kind = str(self.asked.threshold["kind"])
                found["gt_known_loc", iou, ""] = Pairs(self.fixed.iou >= iou, first, boxed, kind)
            found["mean_iou", None, ""] = Pairs(self.fixed.iou, first, boxed)
        if masked:
            found["pxap", None, ""] = Pairs(self.pixels.rows, _pxap, masked)
        found["pointing_game", None, ""] = Pairs(np.array(self.hits), first, self.ids)
        found["energy_pointing_game", None, ""] = Pairs(np.array(self.energy), first, self.ids)
        return found

    def curve(self) -> dict[str, Any]:
        """GT-known Loc over the threshold, a point for every hundredth, as stage evaluate's."""
        n = sum(self.boxed)
        if not n:
            return super().curve()
        lines = [
            {
                "iou": iou,
                "points": [
                    [round(float(t), 3), round(float(c) / n, 4)]
                    for t, c in zip(THRESHOLDS[::10], correct[::10], strict=True)
                ],
            }
            for iou, correct in self.oracle.num_correct.items()
        ]
        return {"fixed": self.asked.threshold["value"], "lines": lines}


def _pxap(means: Float64[np.ndarray, "*b k"]) -> Float64[np.ndarray, "*b"]:
    return pxap(means.reshape(*means.shape[:-1], 2, -1))


def score_maps(
    folder: Path, metadata: wsolevaluation.Metadata, asked: Asked, images: Path
) -> ScoredMaps:
    scored = ScoredMaps(metadata, asked)
    left_out: dict[str, list[str]] = {}
    resized = 0

    def measure(position: int) -> Measured | tuple[str, str] | None:
        one = metadata.ids[position]
        if one not in metadata.boxes and one not in metadata.masks:
            return None  # without annotation: the metadata's notes name it
        try:
            return _measured(position, wsolevaluation.read_map(folder, one), metadata, asked)
        except SkippedImage as problem:
            return str(problem), one

    def records() -> Iterator[dict[str, Any]]:
        nonlocal resized
        places = range(len(metadata.ids))
        with show_progress("score", len(places), unit="maps") as advance:
            for made in runtime.map_in_threads(measure, places, asked.workers):
                advance(1)
                if isinstance(made, Measured):
                    resized += made.resized
                    yield scored.add(made)
                elif made is not None:
                    left_out.setdefault(made[0], []).append(made[1])

    with atomic_write(images) as temporary:
        coco.dump(temporary, records())
    scored.notes += [
        f"{folder.name}: {list_some(which, 'image')} {reason}: not scored"
        for reason, which in left_out.items()
    ]
    if extra := wsolevaluation.strangers(folder, metadata.ids):
        scored.notes.append(
            f"{folder.name}: {list_some(extra, 'map')} are of no image of image_ids.txt: left out"
        )
    if resized:
        scored.notes.append(
            f"{folder.name}: {resized} maps were not 224x224 in [0, 1], and were brought there "
            "(bilinear, then min-max)"
        )
    if not scored.ids:
        raise UserError(
            f"maps={folder}: no map could be scored.\n"
            + "\n".join([*metadata.notes, *scored.notes])
        )
    return scored


def _measured(
    position: int, values: np.ndarray, metadata: wsolevaluation.Metadata, asked: Asked
) -> Measured:
    one = metadata.ids[position]
    theirs = asked.protocol == "wsolevaluation"
    if one in metadata.masks:
        return _against_masks(position, values, metadata.masks[one], theirs)
    size, true = metadata.sizes[one], metadata.half_open(one)
    if not theirs:
        scaled = upsample(values.astype(np.float32), frame_size(size))
        found = curves(scaled, true, size)
        bare = pyramid_curves(true, size, "default")
        resized = False
    else:
        scaled, resized = as_theirs(values)
        inclusive = wsolevaluation_boxes(metadata.boxes[one] + (0, 0, 1, 1), size, FRAME)
        found = wsolevaluation_curves(scaled, inclusive)
        bare = wsolevaluation_curves(PYRAMID, inclusive)
    hit, energy = pointing_hit(scaled, true, size), energy_inside(scaled, true, size)
    return Measured(position, found, bare, hit, energy, None, None, resized)


PYRAMID = pyramid(FRAME)


def as_theirs(values: np.ndarray) -> tuple[Float64[np.ndarray, "224 224"], bool]:
    """A map as that evaluator takes it; and whether it had to be brought there. One that is
    224x224 in [0, 1] stays as it is."""
    if values.shape == FRAME and values.min() >= 0 and values.max() <= 1:
        return values.astype(np.float64), False
    large = cv2.resize(values.astype(np.float32), FRAME[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(min_max(large), np.float64), True


def _against_masks(
    position: int, values: np.ndarray, masks: wsolevaluation.Masks, theirs: bool
) -> Measured:
    whole = wsolevaluation.read_masks(masks)
    size = whole.shape[0], whole.shape[1]
    resized = False
    if theirs:
        scaled, resized = as_theirs(values)
    else:
        scaled = upsample(values.astype(np.float32), frame_size(size))
    frame = scaled.shape[0], scaled.shape[1]
    mask: UInt8[np.ndarray, "h w"] = wsolevaluation.read_masks(masks, frame)
    nothing = np.zeros((0, 4))
    return Measured(
        position,
        None,
        None,
        pointing_hit(scaled, nothing, size, mask=whole == 1),
        energy_inside(
            np.where(mask == wsolevaluation.IGNORE, 0, scaled), nothing, size, mask=mask == 1
        ),
        histograms(scaled, mask),
        histograms(pyramid(frame), mask),
        resized,
    )
