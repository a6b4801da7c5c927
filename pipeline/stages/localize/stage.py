"""Stage localize: maps -> scored boxes in shards, and two files that detection tools load.

A map is segmented at the segmenter's threshold; with segmenter.threshold=validation, at the
threshold that stage calibrate chose on other images.

    boxes.json        a COCO results file: image_id, category_id, bbox, score
    predictions.json  a whole COCO data set: images, categories, annotations with scores
                      Stage rank writes both again, with a person's boxes in place of these.
    notes.json        how often the segmenter fell back to a simpler segmentation, and why
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.found_boxes import open_found_boxes
from pipeline.engine.stage import Published, Stage
from pipeline.errors import UserError
from pipeline.exporter.coco import Coco
from pipeline.ops.text import count_note
from pipeline.protocols import HashesCocoNames
from pipeline.results.boxes import describe_fallbacks
from pipeline.results.human import FILE
from pipeline.results.maps import load_skipped
from pipeline.results.negatives import find_without_object
from pipeline.results.notes import load_notes, skipped_note, write_notes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.engine.reuse_boxes import EarlierBoxes
    from pipeline.engine.run import Run
    from pipeline.types import Note


class Localize(Stage):
    """From maps to boxes."""

    name = "localize"
    after = ("explain", "calibrate")
    needs = ("explain",)
    per_method = True
    distributed = True
    publishes = (Published("boxes.json"), Published("predictions.json"))

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        return {
            "source": run.sources(__name__, "segmenter"),
            "explain": run.key("explain"),
            "segmenter": run.config["segmenter"],
            "names": self._names_key(run),
            **self._threshold_key(run),
        }

    def _names_key(self, run: Run) -> Any:
        """Return what changes where COCO files name an image or a class in another way."""
        if isinstance(run.data, HashesCocoNames):
            return [run.data.coco_names_fingerprint(run.split), len(run.classes)]
        names = run.coco_names()
        numbers = repr((list(names.image_ids), list(names.file_names), list(names.category_ids)))
        return hashlib.sha256(numbers.encode()).hexdigest()[:16]

    def check(self, run: Run) -> None:
        """Raise UserError for a validation threshold that no stage would choose."""
        stages = run.config["stages"]
        if not run.uses_validation_threshold:
            return
        if not run.chooses_own_threshold():
            for name in run.methods:
                run.for_method(name).chosen_thresholds()
        elif "calibrate" not in stages and "explain" in stages and run.config["checkpoint"] is None:
            raise UserError(
                f"segmenter.threshold=validation: stage calibrate chooses it, and it is not among "
                f"stages={[*stages]}; add it after explain, or give segmenter.threshold=auto, "
                "which needs no boxes"
            )

    def run(self, run: Run, folder: Path) -> None:
        """Segment the maps, and write the boxes and where the segmenter fell back."""
        from pipeline.engine import ranks
        from pipeline.stages.localize.segmentation import MapSegmenter

        maps = run.folder("explain")
        thresholds = run.chosen_thresholds() if run.uses_validation_threshold else None
        segmenter = MapSegmenter(
            images=run.images(),
            segmenter=run.segmenter(),
            thresholds=thresholds,
            workers=run.workers,
            earlier=self._earlier(run, folder, maps, thresholds),
        )
        segmenter.write(maps, folder)
        if ranks.current_world().rank > 0:
            return  # rank 0 merges the shards
        ids = run.images().ids
        reasons = [why for _, why in sorted(load_skipped(folder).items())]
        unread = skipped_note("localize", reasons, len(ids), "have no box")
        empty = find_without_object(maps, run.images().labels, run.negatives)
        without = _describe_negatives([ids[n] for n in sorted(empty)], len(ids))
        write_notes(folder, [*describe_fallbacks(folder, ids), *unread, *without])
        Coco()(open_found_boxes(run, localized=folder), folder)

    def notes(self, run: Run, result: Path) -> Sequence[str]:
        """Return how maps were segmented, and that only stage rank puts a person's boxes in."""
        notes: list[str] = [*load_notes(result)]
        file = run.outputs / FILE
        if "rank" not in run.config["stages"] and file.is_file():
            notes.append(
                f"localize: boxes.json and predictions.json hold what was found, without the boxes "
                f"of {file}: only stage rank puts a person's boxes in; add it to stages"
            )
        return notes

    def _earlier(
        self, run: Run, folder: Path, maps: Path, thresholds: Mapping[str, Any] | None
    ) -> EarlierBoxes | None:
        """Return the boxes of the same images that an earlier run segmented in the same way."""
        from pipeline.engine import ranks, terminal
        from pipeline.engine.reuse_boxes import find_earlier_boxes

        values = None if thresholds is None else thresholds["thresholds"]
        # Halves by hash of the name: an image that was renamed may be in the other half.
        has_halves = any(len(each) > 1 for each in (values or {}).values())
        made_for = {
            "source": run.sources(__name__, "segmenter"),
            "segmenter": run.config["segmenter"],
            "thresholds": values,
        }
        earlier = ranks.broadcast_value(
            lambda: find_earlier_boxes(folder, maps, made_for, by_name=has_halves)
        )
        if earlier is not None:
            terminal.print_line(
                f"localize: the boxes of {earlier.count} of {len(run.images())} images are taken "
                f"over from {earlier.folder}"
            )
        return earlier

    def _threshold_key(self, run: Run) -> dict[str, Any]:
        """Return the part of the key for a validation threshold; empty for any other."""
        if not run.uses_validation_threshold:
            return {}
        if run.chooses_own_threshold():
            return {"calibrate": run.key("calibrate")}
        return {"chosen": run.chosen_thresholds()["thresholds"]}


def _describe_negatives(names: Sequence[str], count: int) -> list[Note]:
    """Return a note on images without an object; none where there are none.

    Args:
        names: of these images.
        count: of all images.
    """
    if not names:
        return []
    why = (
        f"of {count} without an object, as their label or, where they have none, the predicted "
        "class is one of data.negatives: no box"
    )
    return [count_note(names, "image", why, where="localize")]
