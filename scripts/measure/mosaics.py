"""Mosaics: how many of several objects of one class get a box of their own, and how many boxes fit.

Maps of mosaics (pipeline/data/mosaics.py) are segmented with one box a component, and with
components parted into objects. All boxes of all images are sorted by their score; a box fits if its
IoU with an annotated box is at least 0.5 and no box of a higher score has that one already.

    precision   share of the boxes above a score that fit
    recall      share of the annotated boxes that they fit: the highest at a precision of 0.7

The networks are trained on the embedded set, with one object an image, or on mosaics; on labels
alone. The options of the segmenters were chosen on mosaics of seed 1, the table is of seed 0. The
embedded set itself is scored, too: most of its images hold one object, which must stay one.

    ./scripts/accuracy mosaics [seed=0] [mosaics=0] [images=400] [trained=shapes,mosaics] ...
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pipeline.engine.choices import fill_defaults, instantiate, read_choice
from pipeline.engine.run import Run
from pipeline.ops.iou import pairwise_iou
from pipeline.protocols import Segmenter
from pipeline.protocols.data import AnnotatedDataSet
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.types import Boxes, GroundTruth, SaliencyMap
from scripts.measure.records import Record
from scripts.measure.runs import compose

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

MIN_IOU, MIN_PRECISION = 0.5, 0.7
MIN_RECALL = 0.7  # what is aimed at
TRAINED = {
    "shapes": ("data=shapes",),
    # Half the images, as each holds three objects.
    "mosaics": ("data=mosaics", "data.images=1800", "train.epochs=12"),
}
MAPS = {"best": "refined", "cam": "cam"}
SEGMENTERS: dict[str, dict[str, Any]] = {
    "one box": {"choice": {"best": "threshold_refined", "cam": "threshold"}},
    "components": {"choice": {"best": "threshold_refined", "cam": "threshold"},
                   "components": "all", "share": 0.1},
    "parts": {"choice": {"best": "threshold_parts", "cam": "threshold_parts"}},
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """All boxes of a set of images, best score first within an image.

    Attributes:
        scores: of each box.
        fits: whether the box fits.
        objects: how many objects the image of each box has.
        totals: how many annotated boxes images with so many objects have together.
    """

    scores: Float[np.ndarray, n]
    fits: Bool[np.ndarray, n]
    objects: np.ndarray
    totals: Mapping[int, int]

    def recall(self, objects: int | None = None) -> float:
        """Return the highest recall at a precision of MIN_PRECISION over all images.

        Args:
            objects: the recall of images with so many objects, at that score; None: of all.
        """
        order = np.argsort(-self.scores, kind="stable")
        fits = self.fits[order]
        precision = fits.cumsum() / np.arange(1, len(fits) + 1)
        enough = np.flatnonzero(precision >= MIN_PRECISION)
        if len(enough) == 0:
            return 0.0
        kept = fits[: enough[-1] + 1]
        if objects is None:
            return float(kept.sum() / sum(self.totals.values()))
        counted = self.objects[order][: len(kept)] == objects
        return float(kept[counted].sum() / self.totals[objects])


def match(images: Iterable[tuple[Boxes, GroundTruth]]) -> Found:
    """Match the boxes of each image, best score first, with the annotated box that each fits best.

    Args:
        images: the boxes and the annotations of each image.
    """
    scores, fits, objects, totals = [], [], [], dict[int, int]()
    for found, truth in images:
        count = len(truth.boxes)
        totals[count] = totals.get(count, 0) + count
        ious = pairwise_iou(found.boxes, truth.boxes)
        for row, score in zip(ious, found.scores, strict=True):
            best = int(row.argmax())
            fits.append(bool(row[best] >= MIN_IOU))
            if fits[-1]:
                ious[:, best] = 0
            scores.append(float(score))
            objects.append(count)
    return Found(np.array(scores), np.array(fits, bool), np.array(objects), totals)


def run(*arguments: str) -> list[Record]:
    """Return the recall on mosaics of each network, map and segmenter.

    Args:
        arguments: `seed=` of training, `mosaics=` the seed of the mosaics that are scored,
            `images=` how many of them, `trained=shapes,mosaics`, `outputs=DIR`, and overrides of
            the training runs.
    """
    options = dict(argument.split("=", 1) for argument in arguments)
    seed, mosaics = options.pop("seed", "0"), options.pop("mosaics", "0")
    images, trained = options.pop("images", "400"), options.pop("trained", "shapes,mosaics")
    outputs = options.pop("outputs", None)
    overrides = [f"{key}={value}" for key, value in options.items()]
    scored = {
        "mosaics": ("data=mosaics", "data.size=88", f"data.seed={mosaics}"),
        "shapes": ("data=shapes", "data.size=64"),
    }
    records = []
    with tempfile.TemporaryDirectory() as temporary:
        where = f"outputs={outputs or temporary}"
        for name in trained.split(","):
            learn = [*TRAINED[name], f"seed={seed}", "data.seed=0", where, *overrides]
            given = [f"data.val_images={images}", where, f"checkpoint={train(learn)}"]
            for data, chosen in scored.items():
                for maps, saliency in MAPS.items():
                    explained = explain([*chosen, *given], saliency)
                    for segmenter in SEGMENTERS:
                        found = segment(*explained, build_segmenter(segmenter, maps))
                        title = f"{data}: {maps}, {segmenter}, trained on {name}"
                        aim = MIN_RECALL if data == "mosaics" else None
                        records.append(
                            Record(title, found.recall(), aim, None, "recall", _describe(found))
                        )
    return records


def train(overrides: Sequence[str]) -> Path:
    """Train and refine a network on labels alone; return the folder of its checkpoint."""
    prepared = compose("best", *overrides, "stages=[train,refine,explain]")
    prepared.get_or_create("train")
    return prepared.get_or_create("refine")[0]


def explain(
    overrides: Sequence[str], saliency: str
) -> tuple[list[SaliencyMap], Mapping[str, GroundTruth]]:
    """Return the maps of mosaics for their labels, and their annotations."""
    prepared: Run = compose("best", *overrides, "stages=[explain]", f"saliency={saliency}")
    folder, _ = prepared.get_or_create("explain")
    ids = prepared.images().ids
    maps = [one for shard in list_shards(folder) for _, one in iterate_maps(shard, ids)]
    assert isinstance(prepared.data, AnnotatedDataSet)
    return maps, prepared.data.truth("val")


def segment(
    maps: Sequence[SaliencyMap], truth: Mapping[str, GroundTruth], segmenter: Segmenter
) -> Found:
    """Segment all maps and match their boxes."""
    return match((segmenter(saliency, None), truth[saliency.id]) for saliency in maps)


def build_segmenter(name: str, maps: str) -> Segmenter:
    """Build a segmenter of SEGMENTERS for the maps of MAPS."""
    options = dict(SEGMENTERS[name])
    choice = options.pop("choice")[maps]
    node = {**fill_defaults("segmenter", read_choice("segmenter", choice)), **options}
    return cast(Segmenter, instantiate("segmenter", node))


def _describe(found: Found) -> str:
    """Return the recall by number of objects, and the share of all boxes that fit."""
    parts = [f"{count} objects {found.recall(count):.2f}" for count in sorted(found.totals)]
    boxes = f"{len(found.fits)} boxes, {found.fits.mean():.2f} fit"
    return f"{', '.join(parts)}; {boxes} of {sum(found.totals.values())} objects"
