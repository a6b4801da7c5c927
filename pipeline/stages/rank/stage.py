"""Stage rank: the confidence of each box, and the order in which to look at images.

    boxes.json        as of stage localize, with confidence and review_rank
    predictions.json  likewise; images with review_rank, and the random sample with review_sample
    confidence.json   the model, what it was fitted on, and whether it is calibrated
    sample.json       the names of the images of the random sample

A confidence is the probability that a box has an IoU of at least 0.5 with a true one
(pipeline/segmenter/confidence.py). It is fitted on the boxes that stage calibrate compared with
annotated ones, where there are at least 20, and never on an image that it is used for (ranking.py).
With `checkpoint=RUN` and without stage calibrate it is that of RUN. Else it is a fixed one.

With rank.grabcut=true each map is segmented by GrabCut, too (segmenter=grabcut_mask), and a box
that agrees with GrabCut's has a higher confidence. The boxes themselves stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.earlier_network import find_source
from pipeline.engine.found_boxes import open_found_boxes
from pipeline.engine.stage import Published, Stage
from pipeline.formats.files import write_json
from pipeline.results.boxes import iterate_boxes
from pipeline.results.confidence import (
    MODELS,
    ConfidenceModels,
    Examples,
    describe_maps,
    find_models,
    load_examples,
    no_examples,
    write_ranking,
)
from pipeline.results.human import hash_boxes, replace_by_human
from pipeline.results.maps import load_classification
from pipeline.results.negatives import find_without_object
from pipeline.results.notes import load_notes, write_notes
from pipeline.results.thresholds import MIN_BOXED_IMAGES
from pipeline.segmenter.confidence import AGREEMENT, GRABCUT, MIN_EXAMPLES
from pipeline.segmenter.confidence_features import FEATURES
from pipeline.stages.rank.config import RankOptions
from pipeline.stages.rank.earlier_sample import FILE as SAMPLE
from pipeline.stages.rank.earlier_sample import Draw, describe_changed_sample
from pipeline.types import Review

if TYPE_CHECKING:
    from pipeline.engine.run import Run
    from pipeline.segmenter.confidence import MapKind
    from pipeline.stages.rank.ranking import BestBoxes


class Rank(Stage):
    """How sure each box is, and which images to look at first."""

    name = "rank"
    after = ("localize", "calibrate")
    needs = ("explain", "localize")
    per_method = True
    options = RankOptions
    publishes = (
        Published("boxes.json"),
        Published("predictions.json"),
        Published("confidence.json"),
    )

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        methods = [run.for_method(name) for name in run.methods]
        calibrates = "calibrate" in run.config["stages"]
        checked = self._grabcut_run(run)
        models = self._checkpoint_models(run)
        return {
            "source": run.sources(__name__),
            "explain": run.key("explain"),
            "localize": run.key("localize"),
            "grabcut": None if checked is None else checked.key("localize"),
            "methods": [method.key("localize") for method in methods],
            "calibrate": [method.key("calibrate") for method in methods] if calibrates else None,
            "checkpoint": None if models is None else models.used.record(),
            "made_for": self._made_for(run),
            "human": hash_boxes(run.human[0]),
            "rank": run.config["rank"],
            "seed": run.config["seed"],
        }

    def run(self, run: Run, folder: Path) -> None:
        """Fit the model, and write the confidences, the order and the boxes with both."""
        from pipeline.exporter.coco import Coco
        from pipeline.segmenter.confidence import default_model
        from pipeline.stages.rank import ranking

        others = [run.for_method(name) for name in run.methods if name != run.method]
        examples = self._examples(run)
        of_others = [self._examples(other) for other in others]
        models = self._checkpoint_models(run)
        given = examples if models is None else no_examples()
        maps = self._map_kind(run)
        checked = self._grabcut_run(run)
        of_grabcut = None
        if checked is not None:
            if "calibrate" in run.config["stages"]:
                checked.get_or_create("calibrate")
            of_grabcut = self._examples(checked)
        if models is None:
            models = ranking.fit_models(maps, examples, of_others, of_grabcut)
        ids = run.images().ids
        best = [_best_boxes(other.folder("localize"), ids) for other in others]
        grabcut = None
        if checked is not None:
            grabcut = _best_boxes(checked.get_or_create("localize")[0], ids)
        images = run.images()
        sets = images.label_sets if images.is_multi_label and "true" in run.targets() else None
        boxes = iterate_boxes(run.folder("localize"), ids)
        table = ranking.tabulate(boxes, best, grabcut, has_sets=images.is_multi_label)
        rows = ranking.add_agreement(given, of_others, of_grabcut)
        default = default_model(maps, bool(others), checked is not None)
        folds = ranking.fit_folds(models.used, default, given, rows) if len(given.ids) else []
        confidences = ranking.compute_confidences(
            table, ids, models.used, folds, frozenset(given.ids)
        )
        explained = load_classification(run.folder("explain")).image.tolist()
        empty = find_without_object(run.folder("explain"), run.images().labels, run.negatives)
        empty |= run.images().list_backgrounds()
        ranks, sampled = ranking.order_review(
            table, explained, confidences, ids, run.config["rank"]["sample"], run.config["seed"],
            frozenset(run.human[0]), empty, sets,
        )  # fmt: skip
        write_ranking(folder, confidences, Review(ranks, sampled, models.used.kind))
        write_json(folder / SAMPLE, [ids[n] for n in sampled.nonzero()[0].tolist()])
        models.write(folder, self._made_for(run))
        found = open_found_boxes(run, ranking=folder)
        found, unknown = replace_by_human(found, run.human[0])
        write_notes(
            folder, [*self._describe_kind(run, models, len(examples.ids)), *run.human[1], *unknown]
        )
        Coco()(found, folder)

    def notes(self, run: Run, result: Path) -> Sequence[str]:
        """Return what is not calibrated, and how the random sample changed since an earlier run."""
        notes: list[str] = [*load_notes(result)]
        if not self._calibrates(run):  # named as this command names the checkpoint
            checkpoint = run.config["checkpoint"]
            has_models = any(Path(checkpoint).glob(f"stages/rank*/{MODELS}"))
            models = self._checkpoint_models(run)
            notes += describe_checkpoint_kind(models, checkpoint, has_models)
        if run.method == next(iter(run.methods)):  # the sample is the same for all methods
            source, count = find_source(run.config["data"]), run.config["rank"]["sample"]
            draw = Draw(source, run.split, count, run.config["seed"])
            notes += describe_changed_sample(run.outputs, draw, result, run.images().ids)
        return notes

    def _calibrates(self, run: Run) -> bool:
        """Return whether confidences are fitted in this run, or at least without a checkpoint."""
        return run.config["checkpoint"] is None or "calibrate" in run.config["stages"]

    def _examples(self, run: Run) -> Examples:
        """Return the boxes that stage calibrate compared with annotated ones, if it ran."""
        if "calibrate" not in run.config["stages"]:
            return no_examples()
        return load_examples(run.folder("calibrate"))

    def _grabcut_run(self, run: Run) -> Run | None:
        """Return the same run with GrabCut for its segmenter, where boxes are compared with it."""
        return run.for_segmenter("grabcut_mask") if run.config["rank"]["grabcut"] else None

    def _checkpoint_models(self, run: Run) -> ConfidenceModels | None:
        """Return the models of the run that checkpoint= names, where this run fits none."""
        if self._calibrates(run):
            return None
        models = find_models(Path(run.config["checkpoint"]), self._made_for(run))
        wanted = [AGREEMENT] * (len(run.methods) > 1) + [GRABCUT] * run.config["rank"]["grabcut"]
        if models is None or models.used.features != (*FEATURES, *wanted):
            return None
        return models

    def _describe_kind(self, run: Run, models: ConfidenceModels, examples: int) -> Sequence[str]:
        """Return a note that confidences are not calibrated, and why; none where they are.

        Those of a checkpoint are for `notes`.
        """
        if not self._calibrates(run):
            return []
        sampled = [image.is_random for image in run.human[0].values()]
        several = run.images().is_multi_label
        return describe_kind(models, examples, len(sampled), sum(sampled), several)

    def _made_for(self, run: Run) -> dict[str, Any]:
        """Return what the models are made for."""
        views = [run.config["explain"][name] for name in ("flips", "scales")]
        return describe_maps(run.methods[run.method], views, run.config["segmenter"])

    def _map_kind(self, run: Run) -> MapKind:
        """Return what the maps of the run are of."""
        from pipeline.engine.methods import is_of_localization_head

        return "head" if is_of_localization_head(run.saliency()) else "classifier"


def _best_boxes(folder: Path, ids: Sequence[str]) -> BestBoxes:
    """Return the best-scored box of each image and class in a result of stage localize."""
    return {
        (position, boxes.label): boxes.boxes[0]
        for position, boxes in iterate_boxes(folder, ids)
        if len(boxes.boxes)
    }


def describe_kind(
    models: ConfidenceModels,
    examples: int,
    reviewed: int = 0,
    sampled: int = 0,
    is_multi_label: bool = False,
) -> Sequence[str]:
    """Return a note that confidences are not calibrated, and why; none where they are.

    Args:
        models: of the run.
        examples: how many annotated boxes they could have been fitted on.
        reviewed: how many images of the run a person reviewed.
        sampled: how many of these are of the random sample.
        is_multi_label: whether an image may have several classes, with a box of each.
    """
    if models.used.kind == "calibrated":
        return []
    what = "pairs of an image and one of its classes" if is_multi_label else "images"
    why = f"{examples} {what} have boxes to fit them on, and {MIN_EXAMPLES} are needed"
    if reviewed:
        why += (
            f"; of {reviewed} images that a person reviewed {sampled} are of the random sample "
            f"and measure, and these count from {MIN_BOXED_IMAGES} on"
        )
    return [
        f"rank: confidences are not calibrated: {why}. They are no probabilities and only rank "
        "boxes, how well is known where boxes are scored (confidence AUC: 50 % is chance). Review "
        "the random sample, images of review_rank 1 to 50, and ingest it; or draw boxes on these "
        "and give calibrate.boxes=FILE, in a run with stage calibrate"
    ]


def describe_checkpoint_kind(
    models: ConfidenceModels | None, checkpoint: str, has_models: bool
) -> Sequence[str]:
    """Return a note that a run without stage calibrate has no calibrated confidences, and why.

    Args:
        models: of the run that `checkpoint` names, for maps as these; None: it has none.
        checkpoint: the run.
        has_models: whether it has models for other maps.
    """
    if models is not None and models.used.kind == "calibrated":
        return []
    if models is not None:
        why = "were not calibrated there, either"
        remedy = "calibrate them there, with boxes of a person on its images, and predict again"
    elif has_models:
        why = (
            "are for other maps or boxes: this run has another saliency=, segmenter=, option of "
            "these, explain.flips or explain.scales, other explain.methods or rank.grabcut"
        )
        remedy = "leave these away, and this run does as that one"
    else:
        why = "do not exist, as it had no stage rank"
        remedy = "name a run with stages calibrate and rank, as of +experiment=annotate"
    return [
        f"rank: confidences are not calibrated: those of checkpoint={checkpoint} {why}. They only "
        f"rank boxes; {remedy}"
    ]
