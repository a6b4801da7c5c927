"""Confidences: do they tell right boxes from wrong ones, and are they probabilities?

The sets, recipes and halves are those of thresholds.py: each set as it is and mixed, half of the
photographs held out by hash. No confidence is fitted on the images that it is scored on.

    ./scripts/accuracy confidences sets=imagenette experiment=best half=all outputs=kept
    ./scripts/accuracy confidences experiment=best half=held_out seeds=0,1,2

default       the confidence without boxes, as stage rank computes it
50 boxes      corrected on the boxes of 50 images, the mean of 30 draws: of the other half where the
              held-out half is scored, else of the same images, scored on the other photographs
right         share of boxes with an IoU of at least 0.5
AUC           how often a right box has a higher confidence than a wrong one
error         calibration error minus that of perfectly calibrated boxes with these confidences
least sure    share of wrong boxes among the least sure fifth; a random fifth has as many as all

Numbers are the mean over seeds; intervals are 95 % over photographs (bootstrap, all seeds alike).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.unannotated import with_annotations
from pipeline.engine.methods import is_of_localization_head
from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.metric.confidence import area_under_roc, calibration_error
from pipeline.ops.bootstrap import middle
from pipeline.ops.iou import best_iou
from pipeline.results.boxes import iterate_boxes
from pipeline.segmenter.confidence import RIGHT_IOU, ConfidenceModel, default_model
from pipeline.segmenter.confidence_features import FEATURES
from scripts.measure.mixed_crops import is_held_out, source_of
from scripts.measure.records import Record
from scripts.measure.runs import compose
from scripts.measure.threshold_maps import create_results, crop_scored_images
from scripts.measure.threshold_table import align_columns
from scripts.measure.thresholds import CROPS, SETS, Options, Recipe

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int

BOXES, DRAWS = 50, 30
SHARE = 0.2  # the least sure
SAMPLES, SIMULATED = 500, 100

Number = tuple[float, "tuple[float, float] | None"]
"""A value and its interval, where it has one."""


@dataclass(frozen=True)
class BoxTable:
    """The best-scored box of each image that has boxes of its class, in the order of names.

    Attributes:
        sources: the photograph that each image is, or is a crop of.
        features: as stage localize measures them.
        scores: of the boxes.
        right: whether the IoU is at least 0.5.
    """

    sources: np.ndarray
    features: Float[np.ndarray, "n k"]
    scores: Float[np.ndarray, n]
    right: Bool[np.ndarray, n]

    def __len__(self) -> int:
        return len(self.right)

    def chosen(self, rows: np.ndarray) -> BoxTable:
        """Return some of the rows."""
        return BoxTable(
            self.sources[rows], self.features[rows], self.scores[rows], self.right[rows]
        )


@dataclass(frozen=True)
class Scored:
    """The images of a seed that are scored, and those that boxes are drawn from."""

    scored: BoxTable
    boxed: BoxTable
    default: ConfidenceModel


def run(*arguments: str) -> list[Record]:
    """Print the table of each set, variant and recipe. Returns all numbers.

    Args:
        arguments: those of `thresholds`; `half=all` scores both halves.

    Raises:
        UserError: a set or a half is not known.
        FileNotFoundError: a data set is not on this machine.
    """
    is_whole = "half=all" in arguments
    options = Options.parse([word for word in arguments if word != "half=all"])
    half = "all" if is_whole else "held-out half" if options.is_held_out else "develop half"
    records = []
    with ExitStack() as kept:
        folder = options.outputs or kept.enter_context(tempfile.TemporaryDirectory())
        for recipe in options.recipes:
            for name in options.sets:
                tables = _tabulate_seeds(name, recipe, options, folder)
                for title, seeds in tables.items():
                    scored = [_split(*seed, is_whole, options.is_held_out) for seed in seeds]
                    rows = measure(scored)
                    sample = f"n={len(scored[0].scored)}, {half}, "
                    sample += f"seed {','.join(map(str, options.seeds))}"
                    print(format_rows(f"{title}: {sample}", rows), end="\n\n", flush=True)
                    records += [
                        Record(f"{title}:{row}", value, None, None, "fraction", sample)
                        for row, (value, _) in rows.items()
                    ]
    return records


def _tabulate_seeds(
    name: str, recipe: Recipe, options: Options, outputs: str
) -> Mapping[str, list[tuple[BoxTable, ConfidenceModel]]]:
    """Return the boxes of a set as it is, and mixed, for each seed."""
    plain, mixed = [], []
    for seed in options.seeds:
        overrides = [*SETS[name], *recipe.overrides, *options.overrides]
        trained = compose(recipe.experiment, *overrides, f"seed={seed}", f"outputs={outputs}")
        is_head = is_of_localization_head(trained.saliency())
        default = default_model("head" if is_head else "classifier", False)
        plain.append((tabulate(trained), default))
        mixed.append((tabulate(crop_scored_images(trained, CROPS[name])), default))
    return {f"{name}/{recipe.name}": plain, f"{name}-mixed/{recipe.name}": mixed}


def tabulate(run: Run) -> BoxTable:
    """Tabulate the boxes of all scored images that have boxes of their class.

    An image without a box is the least sure, and wrong.

    Args:
        run: the run; results that are not in its outputs are created.

    Raises:
        UserError: there is no such image.
    """
    _, localized = create_results(run)
    images, truth = run.images(), with_annotations(run.data).truth("val")
    ids, labels = images.ids, images.labels
    boxes = {
        ids[position]: found
        for position, found in iterate_boxes(localized, ids)
        if found.label == labels[position] and len(found.boxes)
    }
    names = sorted(id for id in ids if id in truth and len(truth[id].of_label()))
    if not names:
        raise UserError("no image with boxes of its class, so there is nothing to score")
    features = np.full((len(names), len(FEATURES)), -10.0)
    scores, right = np.full(len(names), -1.0), np.zeros(len(names), bool)
    for n, name in enumerate(names):
        if (found := boxes.get(name)) is not None and found.features is not None:
            features[n], scores[n] = found.features[0], found.scores[0]
            right[n] = best_iou(found.boxes[0], truth[name].of_label()) >= RIGHT_IOU
    return BoxTable(np.array([source_of(name) for name in names]), features, scores, right)


def _split(table: BoxTable, default: ConfidenceModel, is_whole: bool, held_out: bool) -> Scored:
    """Choose the images that are scored, and those that boxes are drawn from."""
    if is_whole:
        return Scored(table, table, default)
    is_other = np.array([is_held_out(source) for source in table.sources])
    develop = table.chosen(~is_other)
    return Scored(table.chosen(is_other) if held_out else develop, develop, default)


def measure(seeds: Sequence[Scored]) -> dict[str, Number]:
    """Return each number and its interval, where it has one, as the mean over seeds.

    Args:
        seeds: the same images for each seed.
    """
    confidences = [seed.default(seed.scored.features) for seed in seeds]
    scores = [seed.scored.scores for seed in seeds]
    classes = [seed.scored.features[:, FEATURES.index("class_logit")] for seed in seeds]
    calibrated = [correct_on_boxes(seed) for seed in seeds]
    rows: dict[str, Number] = {}
    rows["right"] = _with_interval(seeds, confidences, lambda _, right: float(right.mean()))
    for name, values in (("score", scores), ("probability", classes), ("default", confidences)):
        rows[f"AUC, {name}"] = _with_interval(seeds, values, _auc)
    for name, values in (("score", scores), ("default", confidences)):
        rows[f"least sure fifth, {name}"] = _with_interval(seeds, values, share_of_wrong)
    rows["random fifth"] = (1 - rows["right"][0], None)
    for name in ("AUC", "error", "least sure fifth"):
        known = [values[name] for values in calibrated if name in values]
        if known:
            rows[f"{name}, {BOXES} boxes"] = (float(np.mean(known)), None)
    return rows


def correct_on_boxes(seed: Scored) -> dict[str, float]:
    """Return the mean over draws of the numbers of a default corrected on some boxes.

    Returns:
        Nothing where there are not as many boxes.
    """
    rng = np.random.default_rng(BOXES)
    found: dict[str, list[float]] = {"AUC": [], "error": [], "least sure fifth": []}
    for _ in range(DRAWS if len(seed.boxed) > BOXES else 0):
        drawn = rng.choice(len(seed.boxed), BOXES, replace=False)
        model = seed.default.corrected(seed.boxed.features[drawn], seed.boxed.right[drawn])
        others = ~np.isin(seed.scored.sources, seed.boxed.sources[drawn])
        confidences, right = model(seed.scored.features[others]), seed.scored.right[others]
        found["AUC"].append(_auc(confidences, right))
        found["error"].append(excess_error(confidences, right, rng))
        found["least sure fifth"].append(share_of_wrong(confidences, right))
    return {name: float(np.nanmean(values)) for name, values in found.items() if values}


def excess_error(
    confidences: Float64[np.ndarray, n], right: Bool[np.ndarray, n], rng: np.random.Generator
) -> float:
    """Return the calibration error above that of boxes that are right with these probabilities."""
    perfect = [
        calibration_error(confidences, rng.random(len(confidences)) < confidences)
        for _ in range(SIMULATED)
    ]
    return calibration_error(confidences, right) - float(np.mean(perfect))


def share_of_wrong(confidences: Float[np.ndarray, n], right: Bool[np.ndarray, n]) -> float:
    """Return the share of wrong boxes among the least sure fifth."""
    count = max(1, round(SHARE * len(right)))
    return float((~right[np.argsort(confidences, kind="stable")[:count]]).mean())


def format_rows(title: str, rows: Mapping[str, Number]) -> str:
    """Return the table of a set: percent and intervals; the error in fractions of 1."""
    lines = []
    for name, (value, spread) in rows.items():
        scale, digits = (1, 3) if name.startswith("error") else (100, 1)
        ends = "" if spread is None else "({:.1f} to {:.1f})".format(*(100 * e for e in spread))
        lines.append([name, f"{scale * value:.{digits}f}", ends])
    return "\n".join([title, *align_columns(lines)])


def _auc(values: Float[np.ndarray, n], right: Bool[np.ndarray, n]) -> float:
    """Return the area under the curve; NaN where all are right or all are wrong."""
    auc = area_under_roc(values, right)
    return float("nan") if auc is None else auc


def _with_interval(
    seeds: Sequence[Scored],
    values: Sequence[Float[np.ndarray, n]],
    statistic: Callable[[np.ndarray, np.ndarray], float],
) -> Number:
    """Return the mean of a statistic over seeds, and its interval over photographs."""

    def average(rows: Int[np.ndarray, m]) -> float:
        pairs = zip(values, seeds, strict=True)
        return float(np.mean([statistic(of[rows], seed.scored.right[rows]) for of, seed in pairs]))

    sources = seeds[0].scored.sources
    names, number = np.unique(sources, return_inverse=True)
    members = [np.flatnonzero(number == n) for n in range(len(names))]
    rng = np.random.default_rng(0)
    drawn = [
        average(np.concatenate([members[n] for n in rng.integers(0, len(names), len(names))]))
        for _ in range(SAMPLES)
    ]
    known = np.array(drawn)[~np.isnan(drawn)]
    return average(np.arange(len(sources))), middle(known) if len(known) else None
