"""Stage evaluate: boxes and maps against annotations, classification against labels.

    python -m pipeline +experiment=cam                                        this run itself
    python -m pipeline +experiment=evaluate boxes=theirs.json annotations=instances.json
    python -m pipeline +experiment=evaluate maps=theirs/ metadata=metadata/val
    ... against=others.json      the same images scored again, and whether the difference is luck

    metrics.json      all numbers with their thresholds; `group` says of which images
    images.json       the boxes of each image and their IoU; images_against.json: of against=
    table.json, table.txt  the main numbers
    true_masks.json   outlines of annotated masks, where there are some (true_masks.py)
    curve.json        accuracy over the threshold, precision over recall
    notes.json        what was left out, counted and named
    rows.safetensors  of a run, a row for each scored image: what stage compare takes
    comparison.json   of boxes= or maps= with against=: each difference, its interval, p, a sentence

A source gives evidence, image by image (own_run.py, coco_results.py, map_folder.py); the evaluator
feeds it to the metrics of conf/metric/; the table and the comparison follow from what these say of
their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.unannotated import with_annotations
from pipeline.engine.images import SplitImages, is_multi_label
from pipeline.engine.metrics import check_outside_metrics, load_metrics, metrics_key
from pipeline.engine.stage import Published, Stage
from pipeline.engine.store import list_versions
from pipeline.errors import UserError
from pipeline.protocols import AnnotatedDataSet, RefiningSegmenter
from pipeline.results.computed import Computed
from pipeline.results.confidence import load_ranking
from pipeline.results.human import FILE as REVIEWS
from pipeline.results.notes import load_notes
from pipeline.results.thresholds import (
    USED_IOU,
    load_thresholds,
    select_thresholds,
    validation_threshold_info,
)
from pipeline.stages.evaluate.config import EvaluateOptions
from pipeline.types import EvaluationSettings

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

    from pipeline.engine.run import Run
    from pipeline.stages.evaluate.explained import Explained
    from pipeline.stages.evaluate.others import Named
    from pipeline.stages.evaluate.own_run import OwnRun
    from pipeline.stages.evaluate.refined_maps import RefinedMaps

Thresholds = Mapping[str, Any]
MAKES_BOXES = {"train", "explain", "localize"}


class Evaluate(Stage):
    """Boxes and maps against annotations."""

    name = "evaluate"
    after = ("localize", "rank")
    needs = ("explain", "localize")
    per_method = True
    options = EvaluateOptions
    reads = ("boxes", "annotations", "maps", "metadata", "against")
    publishes = (
        Published("metrics.json", how="append"),
        Published("comparison.json", is_optional=True),  # of what others made, with against=
    )
    prints = "table.txt"

    def reads_key(self, key: str, stages: Sequence[str]) -> bool:
        """Return whether it reads a key: a run that makes maps and boxes scores its own."""
        return key == "against" or (key in self.reads and not MAKES_BOXES & set(stages))

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return all that can change the numbers."""
        metrics = metrics_key()
        if (named := self._named(run)) is not None:
            return {"source": run.sources(__name__), "metrics": metrics, **named.cache_key()}
        calibrates = "calibrate" in run.config["stages"]
        return {
            "source": run.sources(__name__, "data"),
            "metrics": metrics,
            "localize": run.key("localize"),
            "explain": run.key("explain"),
            "rank": run.key("rank") if "rank" in run.config["stages"] else None,
            "calibrate": run.key("calibrate") if calibrates else None,
            **self._expectation_key(run),
            "truth": self._data(run).truth_fingerprint("val"),
            "evaluate": {"ious": run.config["evaluate"]["ious"]},
            "protocol": run.config["protocol"],
            "missing": run.config["missing"],
            "seed": run.config["seed"],
        }

    def check(self, run: Run) -> None:
        """Refuse unreadable annotations and nothing to score before anything is computed.

        Raises:
            UserError: annotations cannot be read, or there is nothing to score.
        """
        check_outside_metrics()
        if (named := self._named(run)) is not None:
            named.check()
            return
        if (crowds := run.config["evaluate"]["crowds"]) != "ignore":
            raise UserError(
                f"evaluate.crowds={crowds}: it says what iscrowd means in annotations=, which is "
                f"not given; the boxes of a data set take data.crowds={crowds}"
            )
        if run.config["stages"] == [self.name]:
            try:
                run.folder("localize")
            except UserError as problem:
                raise UserError(
                    "boxes=null, maps=null: nothing to score; give boxes=RESULTS.json "
                    "annotations=INSTANCES.json, or maps=FOLDER; or for a run of our own:\n"
                    f"{problem}"
                ) from None
        if not self.is_finished(run):
            self._data(run).truth("val")

    def run(self, run: Run, folder: Path) -> None:
        """Score what the configuration names: what others made, or this run."""
        from pipeline.stages.evaluate import outcome

        metrics = load_metrics()
        if (named := self._named(run)) is not None:
            sources, notes = named.open_sources(run.workers)
            outcome.write_others(
                folder, sources, metrics, notes, Computed(versions=list_versions())
            )
            return
        chosen = self._thresholds(run)
        source, refined = self._own_run(run, chosen), self._refined_maps(run, chosen)
        computed = Computed.read(run.folder("explain"))
        expected = [] if chosen is None else self._expected(run, chosen)
        own = None if run.uses_validation_threshold else chosen
        delivered = None if own is None else own.get("delivered")
        settings = outcome.RunSettings(run.config["protocol"], computed, expected, delivered)
        outcome.write_run(folder, source, metrics, refined, settings)

    def _expected(self, run: Run, chosen: Thresholds) -> list[dict[str, Any]]:
        """Return the records of the accuracy that stage calibrate expects of other images."""
        from pipeline.results.expectation import expected_records

        refines = isinstance(run.segmenter(), RefiningSegmenter)
        own = not run.uses_validation_threshold  # then `chosen` is for plain and for refined maps
        return expected_records(select_thresholds(chosen, refines) if own else chosen, run.method)

    def _expectation_key(self, run: Run) -> dict[str, Any]:
        """Return the part of the key for what the run of checkpoint= expects; else empty."""
        if run.uses_validation_threshold and not run.chooses_own_threshold():
            return {"expected": run.chosen_thresholds().get("expected")}
        return {}

    def _named(self, run: Run) -> Named | None:
        """Return what the configuration names that others made; None: this run is scored."""
        config = run.config
        if config["boxes"] is None and config["maps"] is None:
            return None
        from pipeline.stages.evaluate.others import Named

        keys = (
            "boxes",
            "maps",
            "annotations",
            "metadata",
            "against",
            "protocol",
            "missing",
            "seed",
        )
        return Named(
            **{key: config[key] for key in keys},
            ious=tuple(config["evaluate"]["ious"]),
            crowds=config["evaluate"]["crowds"],
            threshold=run.segmenter().threshold_info,
        )

    def _data(self, run: Run) -> AnnotatedDataSet:
        """Return the data set with the annotations that it may have."""
        return with_annotations(run.data)

    def _thresholds(self, run: Run) -> Thresholds | None:
        """Return the thresholds of stage calibrate, or those of the boxes, if any."""
        if run.uses_validation_threshold:
            return run.chosen_thresholds()
        if "calibrate" in run.config["stages"]:
            return load_thresholds(run.folder("calibrate"))
        return None

    def _explained(self, run: Run, chosen: Thresholds | None) -> Explained:
        """Return this run's images without those drawn to choose the threshold."""
        from pipeline.stages.evaluate.explained import Explained, add_backgrounds

        drawn = frozenset(() if chosen is None else chosen["images"])
        images, maps = run.images(), run.folder("explain")
        backgrounds = images.list_backgrounds()
        truth = add_backgrounds(self._data(run).truth("val"), images.ids, maps, backgrounds)
        return Explained(
            ids=images.ids,
            labels=images.labels.tolist(),
            scored=frozenset(run.images("val").ids),
            truth={id: known for id, known in truth.items() if id not in drawn},
            maps=maps,
            workers=run.workers,
            missing=run.config["missing"],
            drawn=drawn,
            drawn_in=self._name_drawn(run),
            negatives=run.negatives,
            label_sets=_list_label_sets(images),
            classes=run.classes,
            backgrounds=backgrounds,
        )

    def _name_drawn(self, run: Run) -> str:
        """Return where the boxes are from that chose a threshold, if a person drew them."""
        if run.config["calibrate"]["boxes"] is not None:
            return "calibrate.boxes"
        if run.uses_validation_threshold and not run.chooses_own_threshold():
            return "by the run of checkpoint="
        return REVIEWS

    def _settings(
        self, run: Run, chosen: Thresholds | None, validation: Thresholds | None
    ) -> EvaluationSettings:
        """Return what the metrics are told; `validation`: the thresholds of what is scored."""
        from pipeline.stages.evaluate.maps import list_cuts

        info = run.segmenter().threshold_info
        uses_validation = run.uses_validation_threshold
        if uses_validation and chosen is not None and chosen["source"] is not None:
            values = chosen["thresholds"][f"{USED_IOU:g}"]
            info = validation_threshold_info(values, chosen["source"])
        ious = tuple(run.config["evaluate"]["ious"])
        # Boxes that were segmented at the validation threshold are measured themselves.
        cuts = list_cuts(info["kind"], ious, None if uses_validation else validation)
        return EvaluationSettings(
            ious=ious,
            seed=run.config["seed"],
            threshold=info,
            cuts=tuple(cuts),
            classes=run.classes,
            is_multi_label=is_multi_label(run.data),
        )

    def _own_run(self, run: Run, chosen: Thresholds | None) -> OwnRun:
        """Return this run as a source."""
        from pipeline.stages.evaluate.maps import MapScale
        from pipeline.stages.evaluate.own_run import OwnRun
        from pipeline.stages.evaluate.source import guesses_have_boxes

        settings, boxes = self._settings(run, chosen, chosen), run.folder("localize")
        return OwnRun(
            run.method,
            self._explained(run, chosen),
            boxes,
            settings,
            MapScale(run.config["protocol"], settings.cuts),
            guesses_have_boxes(run.targets(), run.classes),
            self._data(run).truth_notes(),
            load_notes(boxes),
            self._confidences(run),
        )

    def _confidences(self, run: Run) -> Float32[np.ndarray, n] | None:
        """Return the confidences of all boxes, where stage rank ran."""
        if "rank" not in run.config["stages"]:
            return None
        return load_ranking(run.folder("rank"))[0]

    def _refined_maps(self, run: Run, chosen: Thresholds | None) -> RefinedMaps | None:
        """Return what the segmenter makes of the maps as a source; None where it makes nothing."""
        from pipeline.engine.images import read_for_segmenter
        from pipeline.stages.evaluate.maps import MapScale
        from pipeline.stages.evaluate.refined_maps import RefinedMaps

        segmenter = run.segmenter()
        if not isinstance(segmenter, RefiningSegmenter):
            return None
        own = chosen is not None and not run.uses_validation_threshold
        settings = self._settings(run, chosen, chosen["refined"] if own and chosen else None)
        return RefinedMaps(
            f"{run.method}+{run.config['segmenter']['_target_'].split('.')[-2]}",
            self._explained(run, chosen),
            settings,
            MapScale(run.config["protocol"], settings.cuts),
            segmenter,
            partial(read_for_segmenter, run.images(), segmenter.needs_image),
        )


def _list_label_sets(images: SplitImages) -> list[tuple[int, ...]] | None:
    """Return all classes of each image; None: it has one class at most."""
    if not images.is_multi_label:
        return None
    return [tuple(row.nonzero()[0].tolist()) for row in images.label_sets]
