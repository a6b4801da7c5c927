"""Stage calibrate: choose the threshold on boxes that are never scored (calibration.py).

The result is a threshold for each IoU (two where each half has its threshold), and the accuracy
that is to be expected of other images; no box leaves this stage. With
`segmenter.threshold=validation` maps are segmented at the threshold for IoU 0.5. A segmenter that
refines maps by their images (GrabCut) segments the refined maps: their thresholds are under
`refined`.

The boxes that the segmenter finds in these images are kept with whether they are right
(examples.py): stage rank fits confidences to them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.unannotated import with_annotations
from pipeline.engine.checkpoint import read_card
from pipeline.engine.stage import Stage, find_stage
from pipeline.errors import UserError
from pipeline.formats.files import write_json
from pipeline.ops.hashing import hash_file
from pipeline.ops.text import count_note
from pipeline.protocols import RefiningSegmenter, Segmenter
from pipeline.results.confidence import Examples, no_examples
from pipeline.results.human import hash_boxes
from pipeline.results.notes import write_notes
from pipeline.results.thresholds import (
    MIN_BOXED_IMAGES,
    USED_IOU,
    load_thresholds,
    select_thresholds,
    threshold_for_image,
    too_few_boxes_error,
)
from pipeline.segmenter.confidence import MIN_EXAMPLES
from pipeline.stages.calibrate.config import CalibrateOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run
    from pipeline.stages.calibrate.calibration import BoxedSplit, MeasuredImage
    from pipeline.types import HumanBoxes

    Measure = Callable[[RefiningSegmenter | None], dict[str, MeasuredImage]]


class Calibrate(Stage):
    """Thresholds chosen on boxes that are not scored."""

    name = "calibrate"
    after = ("explain", "picture")
    needs = ("explain",)
    per_method = True
    options = CalibrateOptions

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        from pipeline.stages.calibrate.calibration import APART

        data = with_annotations(run.data)
        drawn = run.config["calibrate"]["boxes"]
        return {
            "source": run.sources(__name__, "data", "segmenter"),
            "explain": run.key("explain"),
            "apart": [run.for_split(split).key("explain") for split in APART],
            "truth": [data.truth_fingerprint(split) for split in ("val", *APART)],
            "drawn": drawn and [hash_file(Path(drawn)), sorted(self._taught(run))],
            "human": None if drawn else hash_boxes(self._random_human(run)),
            "ious": run.config["evaluate"]["ious"],
            "protocol": run.config["protocol"],
            "segmenter": run.config["segmenter"],
        }

    def check(self, run: Run) -> None:
        """Check the boxes that a threshold would be chosen on.

        Raises:
            UserError: drawn boxes cannot be used, or there are too few to choose a threshold.
        """
        from pipeline.stages.calibrate.calibration import count_boxed

        if run.config["calibrate"]["boxes"] is None and not run.uses_validation_threshold:
            return
        if self.is_finished(run):
            return
        boxed = self._boxed(run)
        count = count_boxed(boxed.truth, run.images().is_multi_label)
        if boxed.source != "user" and count < MIN_BOXED_IMAGES:
            raise too_few_boxes_error(count, run.config["checkpoint"])

    def run(self, run: Run, folder: Path) -> None:
        """Measure the maps of images with boxes, and write the best thresholds.

        Raises:
            UserError: too few of the images with drawn boxes could be read.
        """
        from pipeline.stages.calibrate.calibration import choose_thresholds
        from pipeline.stages.calibrate.examples import measure_delivered

        boxed = self._boxed(run)
        measure = self._measure(run, boxed)
        ious = sorted({*run.config["evaluate"]["ious"], USED_IOU})
        segmenter = run.segmenter()
        measured, refined = measure(None), None
        if isinstance(segmenter, RefiningSegmenter):
            refined = measure(segmenter)
        predictions = _leave_out_predictions(measured, refined) if boxed.source == "user" else []
        if boxed.source == "user" and len(measured) < MIN_BOXED_IMAGES:
            raise UserError(
                f"calibrate.boxes={run.config['calibrate']['boxes']}: {len(measured)} images of "
                "the data set have boxes of their class there, without boxes that a program found; "
                f"a threshold wants {MIN_BOXED_IMAGES} at least, and 50 serve well"
            )
        result = {**choose_thresholds(measured, ious, boxed.source), "refined": None}
        if refined is not None:
            result["refined"] = choose_thresholds(refined, ious, boxed.source)
        examples = self._collect_examples(run, boxed, measured, result)
        examples.write(folder)
        if not run.uses_validation_threshold:
            doubtful = [id for id, image in measured.items() if image.chosen_by_doubt]
            info = segmenter.threshold_info
            result["delivered"] = measure_delivered(examples, info, doubtful)
        notes = _notes(boxed, result["source"], len(measured), predictions)
        if examples.labels is not None and len(examples.ids) >= MIN_EXAMPLES:
            notes.append(
                f"calibrate: confidences are fitted on {len(examples.ids)} pairs of an image and "
                f"one of its classes, of {len({*examples.ids})} images"
            )
        if boxed.source != "two_fold":  # a split whose maps no other stage of the run tells of
            explained, maps = self._explained(run, boxed)
            notes += find_stage("explain").notes(explained, maps)
        write_notes(folder, notes)
        write_json(folder / "thresholds.json", result, indent=1)

    def announce(self, result: Path, run_folder: Path) -> Sequence[str]:
        """Return a line with the accuracy that is to be expected of other images.

        Args:
            result: the folder of the stage's result.
            run_folder: the run's folder.
        """
        from pipeline.results.expectation import describe_expected, expected_records

        thresholds = load_thresholds(result)
        sentence = describe_expected(
            expected_records(thresholds.get("refined") or thresholds, self.name),
            thresholds.get("delivered"),
        )
        return [] if sentence is None else [f"calibrate: {sentence}"]

    def _collect_examples(
        self,
        run: Run,
        boxed: BoxedSplit,
        measured: Collection[str],
        result: Mapping[str, Any],
    ) -> Examples:
        """Return the boxes of the measured images as stage localize segments them."""
        from pipeline.stages.calibrate.examples import collect_examples

        explained, maps = self._explained(run, boxed)
        segmenter = run.segmenter()
        by_value: dict[float, Segmenter] = {}
        values: Sequence[float] = ()
        if run.uses_validation_threshold:
            chosen = select_thresholds(result, isinstance(segmenter, RefiningSegmenter))
            if chosen["source"] is None:
                return no_examples()
            values = chosen["thresholds"][f"{USED_IOU:g}"]
            by_value = {value: segmenter.with_threshold(value) for value in values}

        def segmenter_of(id: str) -> Segmenter:
            return by_value[threshold_for_image(values, id)] if by_value else segmenter

        images = explained.images()
        truth = {id: known for id, known in boxed.truth.items() if id in measured}
        return collect_examples(images, maps, truth, segmenter_of, run.workers, boxed.source)

    def _boxed(self, run: Run) -> BoxedSplit:
        """Return the boxes that the threshold is chosen on: of classes with an object."""
        boxed = self._find_boxes(run)
        truth = {id: known for id, known in boxed.truth.items() if known.label not in run.negatives}
        return replace(boxed, truth=truth)

    def _find_boxes(self, run: Run) -> BoxedSplit:
        """Return all boxes that the threshold may be chosen on."""
        from pipeline.stages.calibrate.calibration import (
            count_boxed,
            find_boxed_images,
            read_drawn_boxes,
            read_human_boxes,
        )

        drawn = run.config["calibrate"]["boxes"]
        if drawn is not None:
            boxed = read_drawn_boxes(run.data, Path(drawn))
            return _leave_out_taught(boxed, self._taught(run))
        human = read_human_boxes(self._random_human(run), run.data, run.classes)
        if count_boxed(human.truth, run.images().is_multi_label) >= MIN_BOXED_IMAGES:
            return human
        return find_boxed_images(with_annotations(run.data))

    def _random_human(self, run: Run) -> dict[str, HumanBoxes]:
        """Return the boxes of a person in images that were drawn at random: only these measure.

        Images that taught the network cannot measure it.
        """
        human, _ = run.for_split("all").human
        taught = self._taught(run)
        return {id: image for id, image in human.items() if image.is_random and id not in taught}

    def _taught(self, run: Run) -> frozenset[str]:
        """Return the names of the images whose boxes taught the network."""
        content = {*run.teaching.content}
        if run.config["checkpoint"] is not None:
            content |= {*read_card(run.classifier).get("human", {}).get("content", ())}
        if not content:
            return frozenset()
        human, _ = run.for_split("all").human
        return frozenset(id for id, image in human.items() if image.content in content)

    def _explained(self, run: Run, boxed: BoxedSplit) -> tuple[Run, Path]:
        """Return the run over the images with boxes, and the folder of their maps."""
        if boxed.source == "two_fold":
            return run, run.folder("explain")
        explained = run.for_split(boxed.split)
        return explained, explained.get_or_create("explain")[0]

    def _measure(self, run: Run, boxed: BoxedSplit) -> Measure:
        """Return a function that measures the maps of images with boxes, plain or refined."""
        from pipeline.stages.calibrate.calibration import measure_maps

        explained, maps = self._explained(run, boxed)
        images, protocol = explained.images(), run.config["protocol"]
        return lambda refining: measure_maps(
            images, maps, boxed.truth, protocol, run.workers, refining
        )


def _leave_out_taught(boxed: BoxedSplit, taught: Collection[str]) -> BoxedSplit:
    """Leave out images whose boxes taught the network, and count them.

    Args:
        boxed: boxes that a person drew.
        taught: names of images.
    """
    names = sorted(boxed.truth.keys() & taught)
    if not names:
        return boxed
    why = (
        "taught the localization head (annotate.learn_from_human), and cannot measure it: left out"
    )
    truth = {id: known for id, known in boxed.truth.items() if id not in taught}
    note = count_note(names, "image", why, where="calibrate.boxes")
    return replace(boxed, truth=truth, notes=[*boxed.notes, note])


def _leave_out_predictions(*measured: dict[str, MeasuredImage] | None) -> list[str]:
    """Leave out images with a box of our own, written by an earlier run; return their names.

    Args:
        measured: plain maps, and refined ones where there are some; both lose the same images.
    """
    given = [images for images in measured if images is not None]
    names = {id for images in given for id, image in images.items() if image.is_own_prediction}
    for images in given:
        for id in names:
            images.pop(id, None)
    return sorted(names)


def _notes(
    boxed: BoxedSplit, source: str | None, count: int, predictions: Sequence[str]
) -> list[str]:
    """Return what was odd about drawn boxes, and that there are too few of any.

    Args:
        boxed: The boxes that a threshold would be chosen on.
        source: Where the threshold came from; None: there is none.
        count: How many images with boxes were measured.
        predictions: Images that were left out, as their boxes are our own.
    """
    notes = list(boxed.notes)
    if predictions:
        why = (
            "have a box that equals, to the last digit, one that this program finds in its map: "
            "left out, as it is no truth to choose a threshold on"
        )
        remedy = 'look at them, and set "reviewed": true on their images'
        notes.append(count_note(predictions, "image", why, where="calibrate.boxes", remedy=remedy))
    if source is None and count:  # without any box there is nothing to say
        notes.append(
            f"calibrate: {count} images with boxes are too few for a validation threshold, "
            f"which wants {MIN_BOXED_IMAGES}; calibrate.boxes=FILE takes a COCO file of some "
            "that you draw"
        )
    return notes
