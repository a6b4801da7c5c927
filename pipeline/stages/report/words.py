"""Texts and numbers of the page, from the results of the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.engine.choices import choice_name
from pipeline.engine.stage import find_stage
from pipeline.formats.files import read_json
from pipeline.ops.text import printable
from pipeline.results.confidence import MODELS, load_ranking
from pipeline.results.expectation import describe_apart
from pipeline.results.notes import note_record, unique_notes
from pipeline.results.table import to_percent
from pipeline.stages.report.confidence import describe_confidences, describe_kind
from pipeline.stages.report.measured import Measured
from pipeline.types import Review

RECIPES = {
    "own": "the pretrained network's own head, nothing trained",
    "head": "backbone frozen, a new head trained on image labels",
    "finetune": "the whole network fine-tuned on image labels",
    "scratch": "trained from scratch on image labels",
}
MAX_LISTED = 200  # names of a note


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """The results of the stages for a method of a run.

    Attributes:
        method: what it is called on the page.
        saliency: its name in the run, and so in the files of stage evaluate.
        maps: of stage explain.
        boxes: of stage localize.
        evaluation: of stage evaluate.
        ids: the name of each image of the run, by position.
        ranking: of stage rank, where it ran.
    """

    method: str
    saliency: str
    ids: Sequence[str]
    maps: Path
    boxes: Path
    evaluation: Path
    ranking: Path | None = None

    @cached_property
    def table(self) -> dict[str, Any]:
        """The main numbers, a row each."""
        return dict(read_json(self.evaluation / "table.json"))

    @cached_property
    def images(self) -> list[dict[str, Any]]:
        """A record for each image and class."""
        return list(read_json(self.evaluation / "images.json"))

    @property
    def scored(self) -> int:
        """How many images, or classes of images, were scored."""
        return sum(record["iou"] is not None for record in self.images)

    @cached_property
    def curve(self) -> dict[str, Any]:
        """Accuracy over the threshold."""
        return dict(read_json(self.evaluation / "curve.json"))

    @cached_property
    def measured(self) -> Measured:
        """What stage evaluate measured, read once for charts, verdict and slider."""
        return Measured.read(self)

    @cached_property
    def confidence(self) -> dict[str, Any] | None:
        """The charts of the confidences; None where stage rank did not run, or on few boxes."""
        if self.ranking is None:
            return None
        model = read_json(self.ranking / MODELS)
        return describe_confidences(self.images, model["confidence_kind"], model["examples"])

    @cached_property
    def review(self) -> Review | None:
        """The order in which to look at the images; None where stage rank did not run."""
        return None if self.ranking is None else load_ranking(self.ranking)[1]

    @cached_property
    def confidence_kind(self) -> str:
        """Whether confidences are probabilities, in a sentence; empty without stage rank."""
        if self.ranking is None:
            return ""
        if self.confidence is not None:
            return str(self.confidence["kind"])
        model = read_json(self.ranking / MODELS)
        return describe_kind(model["confidence_kind"], model["examples"])


@dataclass(frozen=True, kw_only=True)
class ImageCounts:
    """How many images there are, were skipped and were scored, and of which split."""

    images: int
    skipped: int
    scored: int
    split: str  # empty where the data set has no splits to speak of

    def describe(self) -> str:
        """Return the counts in words."""
        parts = [f"{self.images} images" + (f" ({self.split})" if self.split else "")]
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        if 0 < self.scored < self.images - self.skipped:
            parts.append(f"{self.scored} scored")
        return ", ".join(parts)


def page_title(name: str, methods: Sequence[str], data: Mapping[str, Any]) -> str:
    """Return experiment, methods and data set in one line; `data` is its configuration."""
    root = data.get("root")
    data_name = Path(root).resolve().name if root else choice_name("data", str(data["_target_"]))
    parts = [*([] if name in methods else [name]), *([", ".join(methods)] if methods else [])]
    return printable(f"{': '.join(parts)} on {data_name}")


def network_name(card: Mapping[str, Any]) -> str:
    """Return the name of a checkpoint's network, or that of its kind."""
    model = card["model"]
    return str(model.get("name", choice_name("model", str(model["_target_"]))))


def describe_facts(card: Mapping[str, Any], counts: ImageCounts, precision: str) -> list[str]:
    """Describe images, classes, network, training, input size and precision, a line each."""
    return [
        counts.describe(),
        f"{len(card['classes'])} classes",
        f"{network_name(card)}, {RECIPES[card['recipe']]}",
        *_describe_localizer(card),
        f"input {card['size'][0]} x {card['size'][1]} pixels (height x width)",
        f"precision {precision}",
    ]


def _describe_localizer(card: Mapping[str, Any]) -> list[str]:
    """Describe the localization head, where stage refine ran."""
    if "refine" not in card:
        return []
    alone = card["branches"]["foreground"]["alone"]
    use = "used alone" if alone else "averaged with its teacher's map"
    count = card["refine"]["learned_from"]
    lines = [f"localizer taught by {count} masks of training images, {use}"]
    if "human" in card:
        lines.append(
            f"{card['human']['boxes']} boxes of a person teach: not weakly supervised "
            "(supervision: boxes)"
        )
    return lines


def command_line(
    *,
    data: Mapping[str, Any],
    segmenter: Mapping[str, Any],
    card: Mapping[str, Any],
    methods: Sequence[str],
    seed: int,
) -> str:
    """Return the run as a command line would say it; without paths, as the page may be sent.

    Args:
        data: the completed node of the data set.
        segmenter: the completed node of the segmenter.
        card: of the network's checkpoint.
        methods: names of the saliency methods.
        seed: of the run.
    """
    arguments = [f"segmenter.{k}={v}" for k, v in segmenter.items() if k != "_target_"]
    parts = [
        f"data={choice_name('data', str(data['_target_']))}",
        f"model={network_name(card)}",
        f"saliency={','.join(methods)}",
        f"segmenter={choice_name('segmenter', str(segmenter['_target_']))}",
        *arguments,
        f"seed={seed}",
    ]
    return " ".join(parts)


def list_files(stages: Sequence[str]) -> list[str]:
    """Return the files that lie beside the page in the run's folder."""
    published = (item for name in stages for item in find_stage(name).publishes)
    files = [
        item.path for item in published if item.path.endswith(".json") and not item.is_optional
    ]
    return [*dict.fromkeys(files), "notes.json", "config.yaml"]


def describe_made(made: Mapping[str, Any]) -> str:
    """Return when and with which versions the page was made, in a sentence.

    Args:
        made: as `pipeline.engine.store.provenance` returns it.
    """
    versions = made["versions"]
    commit = f", commit {made['commit']}" if made["commit"] else ""
    return (
        f"{made['finished'][:16].replace('T', ' ')} by label2box {versions['label2box']}{commit}, "
        f"PyTorch {versions['torch']}, Python {made['python']}."
    )


def to_sentence(text: str) -> str:
    """Return a text with a capital at its beginning, and the rest as it is.

    Args:
        text: of the page.

    Examples:
        >>> to_sentence("all 48 images, by IoU")
        'All 48 images, by IoU'
    """
    return text[:1].upper() + text[1:]


def describe_expected(results: Sequence[MethodResult]) -> list[str]:
    """Return what stage calibrate expects of other images, a sentence or two for each method."""
    sentences = []
    for result in results:
        if not result.table.get("expected"):
            continue
        apart = describe_apart(read_json(result.evaluation / "metrics.json"), result.saliency)
        name = f"{result.method}: " if len(results) > 1 else ""
        sentences.append(f"{name}{to_sentence(result.table['expected'])}.{apart}")
    return sentences


def describe_confidence_kinds(results: Sequence[MethodResult]) -> str:
    """Return whether confidences are probabilities, of each method where they differ."""
    kinds = {result.method: result.confidence_kind for result in results}
    if len(set(kinds.values())) == 1:
        return results[0].confidence_kind
    return " ".join(f"{name}: {kind}" for name, kind in kinds.items() if kind)


def describe_method(result: MethodResult) -> dict[str, Any]:
    """Return the numbers of a method for the page.

    Args:
        result: of the stages, for the method.
    """
    cards = [judge_card(card) for card in result.table["cards"]]
    return {
        "name": result.method,
        "table": {**result.table, "cards": cards},
        "confidence": result.confidence,
    }


def judge_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card with whether it is above its baseline, and where that is; None: it has none.

    Args:
        card: of table.json.
    """
    if card["baseline"] is None:
        return {**card, "is_above": None, "mark": None}
    mark = float(card["baseline"][1].split(" ")[0])
    return {**card, "is_above": float(card["value"]) > mark, "mark": mark}


def compare_methods(results: Sequence[MethodResult]) -> dict[str, Any]:
    """Return a row for each method, a column for each number, and a curve for each at IoU 0.5."""
    cards = [[judge_card(c) for c in result.table["cards"] if c["of_boxes"]] for result in results]
    best = [max(c["number"] for c in column) for column in zip(*cards, strict=True)]
    lines = [
        {"name": result.method, "points": line["points"]}
        for result in results
        for line in result.curve["lines"]
        if line["iou"] == 0.5
    ]
    rows = [
        (result.method, [(c, c["number"] > b - 1e-9) for c, b in zip(row, best, strict=True)])
        for result, row in zip(results, cards, strict=True)
    ]
    return {"columns": cards[0], "rows": rows, "lines": lines}


def describe_differences(comparisons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a section for each pair of stage compare: sentences, and a row for each number."""
    return [
        {
            "title": f"{pair['b']} against {pair['a']}",
            "sentences": pair["sentences"],
            "notes": pair["notes"],
            "test": pair["test"],
            "corrected_for": pair["corrected_for"],
            "rows": [_difference_row(difference) for difference in pair["differences"]],
        }
        for pair in comparisons
    ]


def _difference_row(difference: Mapping[str, Any]) -> list[str]:
    """Return name, difference, interval, p value and number of images as texts."""
    record = difference["record"]
    kind = (record["threshold"] or {}).get("kind")
    name = difference["title"]
    at = "" if record["iou"] is None else f" @{record['iou']:g}"
    low, high = record["interval"]
    return [f"{name}{at}{f' ({kind})' if kind else ''}", to_percent(record["value"]),
            f"{to_percent(low)} to {to_percent(high)}", f"{record['p_value']:.2g}",
            str(record["n"])]  # fmt: skip


def explain_unmeasured(result: MethodResult, are_labelled: bool, takes_boxes: bool) -> str | None:
    """Explain why no box was measured, and what to do; None where some were.

    Args:
        result: Of the first method.
        are_labelled: Whether the data set has labels.
        takes_boxes: Whether the data set has an option for a file of boxes.
    """
    if any(record["iou"] is not None for record in result.images):
        return None
    if not are_labelled:
        return (
            "These images have no labels: boxes are shown for what the classifier takes them for, "
            "and nothing is measured."
        )
    if not result.images:
        return (
            "No box was measured: only images of the split val are scored, at maps of their own "
            "class; see explain.split and explain.target."
        )
    if result.table["has_annotations"]:
        return "No box was measured: no image has an annotated box of its own class; see the notes."
    remedy = (
        " To measure them, give data.boxes=FILE (COCO JSON), or put instances_val.json into "
        "data.root, and run the same command again: nothing is trained anew."
    )
    return f"No box was measured, as these images have no annotations.{remedy * takes_boxes}"


def show_notes(notes: Sequence[str]) -> list[dict[str, Any]]:
    """Return each note for the page: its text, the first names that it counts, how many more."""
    shown = []
    for record in map(note_record, unique_notes(notes)):
        text, names = record["text"], record["names"][:MAX_LISTED]
        if all(name in text for name in names):
            names = []
        shown.append({"text": text, "names": names, "more": record["count"] - len(names)})
    return shown
