"""The view model of the page: all that it shows, as versioned data.

The page holds it as JSON; the browser draws it, and computes nothing but counts over the images
that are shown. Boxes are xyxy, half-open, in pixels of the original upright image; maps cover
their images.

    version   2; a page of another version is drawn by its own script, which it holds
    images    one entry each, with picture, truth, and for each method the results of each class
    methods   table, cards, curve and the slider of each
    causes    why boxes are wrong, counted over all scored images
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.images import SplitImages
from pipeline.ops.text import count_note
from pipeline.protocols import Segmenter
from pipeline.results.maps import load_classification
from pipeline.results.notes import skipped_note
from pipeline.segmenter.threshold import Threshold
from pipeline.stages.report.causes import describe_links, find_causes, list_causes
from pipeline.stages.report.shown_images import (
    MAX_CLASSES,
    ImagePacker,
    ShownMethod,
    choose_images,
    pack_all,
)
from pipeline.stages.report.steps import (
    STEPS,
    StepBoxes,
    count_causes,
    explain_no_steps,
    measure_steps,
)
from pipeline.stages.report.true_masks import read_true_masks
from pipeline.types import Note

if TYPE_CHECKING:
    from pipeline.stages.report.words import MethodResult

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Which images the page shows, and how.

    Attributes:
        images: of the run.
        segmenters: name and segmenter of each method.
        most: images that are shown; of more, a random sample.
        seed: of the sample.
        names_files: whether the page says where the files are.
        workers: threads.
        ious: at which boxes count as right, for the numbers of the slider.
    """

    images: SplitImages
    segmenters: Sequence[tuple[str, Segmenter]]
    most: int
    seed: int
    names_files: bool
    workers: int
    ious: Sequence[float]

    @property
    def unit(self) -> str:
        """What is counted, in the plural."""
        return "pairs of image and class" if self.images.is_multi_label else "images"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of the images that were explained the page shows.

    Attributes:
        shown: how many.
        total: how many were explained.
        is_sample: whether those that are shown were drawn at random.
        unread: why images that were chosen cannot be read any more.
        without_map: how many of those that were chosen have no map, as they show no class.
        cut: names of images with more classes than the page has.
        with_mask: how many of those shown have annotated masks.
    """

    shown: int
    total: int
    is_sample: bool
    unread: Sequence[str]
    without_map: int
    cut: Sequence[str]
    with_mask: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether every class of every image that has a map is shown."""
        return not (self.is_sample or self.unread or self.cut)

    def describe(self, seed: int) -> dict[str, Any]:
        """Return how many images are shown, and which.

        Args:
            seed: of the sample.
        """
        if self.is_sample:
            sentence = f"{self.shown} of {self.total} images, drawn at random (seed {seed})"
        else:
            sentence = f"all {self.shown} images" if self.shown != 1 else "the only image"
        if self.unread:
            sentence += f"; {len(self.unread)} cannot be read any more"
        if self.without_map:
            sentence += f"; {self.without_map} without a map are not shown"
        if self.cut:
            sentence += f"; of {len(self.cut)} the first {MAX_CLASSES} classes"
        return {
            "shown": self.shown,
            "total": self.total,
            "sentence": sentence,
            "masks": self._describe_masks(),
        }

    def _describe_masks(self) -> str:
        """Return how many of the images that are shown have annotated masks; empty: none has."""
        if not self.with_mask:
            return ""
        are_all = self.with_mask == self.shown
        which = "All of them" if are_all else f"{self.with_mask} of the {self.shown} shown"
        return f"{which} have annotated masks: a layer, off at first."

    def list_notes(self) -> list[Note]:
        """Return what of the images that were chosen is not on the page."""
        notes = skipped_note("report", self.unread, self.total, "are not on the page")
        if self.cut:
            why = f"of {self.total} with more classes than the page has: the first {MAX_CLASSES}"
            notes.append(count_note(self.cut, "image", why, where="report"))
        return notes


def build_images(gallery: Gallery, results: Sequence[MethodResult]) -> dict[str, Any]:
    """Return the parts of the view model that depend on images: gallery, slider and causes.

    Args:
        gallery: which images are shown.
        results: of the stages, for each method.

    Returns:
        `images`, `gallery`, `causes`, and `sliders`, one for each method.
    """
    from pipeline.engine.spread_items import map_items

    images = gallery.images
    causes = {each.method: find_causes(each.images, images.is_multi_label) for each in results}
    # Of all splits, where explain.split=all: images.json has records of those that are scored.
    explained = set(load_classification(results[0].maps).image.tolist())
    positions = choose_images(explained, gallery.most, gallery.seed)
    by_name = {images.ids[position]: position for position in positions}
    methods = [ShownMethod.read(each, by_name, causes[each.method]) for each in results]
    there = [n for n in positions if any(n in method.classes for method in methods)]
    why = [explain_no_steps(segmenter, name) for name, segmenter in gallery.segmenters]
    packer = ImagePacker(
        images=images,
        methods=methods,
        segmenters=[
            segmenter if reason is None and isinstance(segmenter, Threshold) else None
            for (_, segmenter), reason in zip(gallery.segmenters, why, strict=True)
        ],
        true_masks=read_true_masks(results[0].evaluation, by_name),
        names_files=gallery.names_files,
    )
    described, steps, unread = pack_all(
        packer, there, lambda draw, items: map_items(draw, items, gallery.workers)
    )
    _add_review(described, results[0])
    choice = Choice(
        shown=len(described),
        total=len(explained),
        is_sample=len(positions) < len(explained),
        unread=unread,
        without_map=len(positions) - len(there),
        cut=[image["id"] for image in described if image["classes_left_out"]],
        with_mask=sum(bool(image["true_masks"]) for image in described),
    )
    sliders: list[dict[str, Any]] = []
    for n, (_, segmenter) in enumerate(gallery.segmenters):
        info = results[n].measured.threshold or segmenter.threshold_info
        if why[n] is not None:
            sliders.append({"steps": [], "why": why[n], "told": describe_cut(info)})
            continue
        ious = [each["iou"] for image in described for each in image["results"][n]]
        used = _measure_used(ious, gallery.ious)
        sliders.append({**_describe_slider(gallery, info, steps[n], choice), "used": used})
    return {
        "images": described,
        "gallery": choice.describe(gallery.seed),
        "left_out": choice.list_notes(),
        "causes": describe_links(
            list_causes(
                causes,
                {each.method: each.scored for each in results},
                gallery.unit,
                {cause for slider in sliders for cause in slider.get("causes", ())},
            ),
            [each.method for each in results],
            described,
            len(explained),
        ),
        "sliders": sliders,
    }


def _add_review(described: Sequence[dict[str, Any]], result: MethodResult) -> None:
    """Add the rank of review to each image; None where stage rank did not run."""
    review = result.review
    for image in described:
        rank = 0 if review is None else int(review.ranks[image["position"]])
        image["rank"] = rank or None
        image["is_random"] = review is not None and bool(review.sampled[image["position"]])


def _describe_slider(
    gallery: Gallery, info: Mapping[str, Any], steps: Sequence[StepBoxes], choice: Choice
) -> dict[str, Any]:
    """Return the slider of a method: its steps, and the share of right images at each."""
    scored = sum(each.ious is not None for each in steps)
    keys = "segmenter.threshold={threshold}"
    return {
        "steps": list(STEPS),
        "at": _find_step(info),
        "kind": info["kind"],
        "told": describe_cut(info),
        "why": None,
        "accuracy": measure_steps(steps, gallery.ious),
        "causes": count_causes(steps),
        "n": scored,
        "of": f"all {scored} scored {gallery.unit}"
        if choice.is_whole
        else f"the {scored} scored {gallery.unit} of this page",
        "command": f"{keys} segmenter.threshold_source=oracle" if scored else keys,
        "warning": "Chosen by looking at scored images: every number at it is of kind oracle on "
        "these images, and optimistic."
        if scored
        else "",
    }


def describe_cut(info: Mapping[str, Any]) -> str:
    """Describe at which threshold the boxes of the run are cut.

    Args:
        info: of the threshold, as metrics.json has it.
    """
    kind, value = info["kind"], info["value"]
    if isinstance(value, (int, float)):
        return f"{value:.2f} ({kind})" if abs(100 * value % 1) < 1e-6 else f"{value:.3g} ({kind})"
    if isinstance(value, (list, tuple)):
        values = " or ".join(f"{one:.3g}" for one in value)
        return f"{values} ({kind}, by half of the images)"
    return f"each map's own ({kind})" if kind == "auto" else str(kind)


def _measure_used(
    measured: Sequence[float | None], ious: Sequence[float]
) -> dict[str, float] | None:
    """Return the share of right boxes as they were segmented, for each IoU; None: not scored."""
    scored = np.array([iou for iou in measured if iou is not None])
    if not len(scored):
        return None
    return {f"{iou:g}": round(float((scored >= iou).mean()), 4) for iou in ious}


def _find_step(info: Mapping[str, Any]) -> int | None:
    """Return the step of the threshold that was used; None where it is none of them, or many."""
    value = info["value"]
    if not isinstance(value, (int, float)):
        return None
    step = round(100 * value)
    return step if abs(STEPS[step] - value) < 1e-9 else None


def describe_stages(
    stages: Sequence[tuple[str, Mapping[str, Any] | None, int | None]],
) -> list[dict[str, Any]]:
    """Return what each stage took.

    Args:
        stages: name, DONE of its result, and images that it went over where it goes over images.
    """
    described = []
    for name, done, count in stages:
        seconds = None if done is None else done.get("seconds")
        rate = count / seconds if count and seconds else None
        described.append(
            {
                "name": name,
                "seconds": None if seconds is None else round(seconds, 1),
                "images_per_second": None if rate is None else round(rate, 1),
            }
        )
    return described
