"""Charts of training: loss and accuracy of the classifier, losses and agreement of refine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.results.table import to_percent
from pipeline.stages.report.chart_parts import (
    Axis,
    Chart,
    Mark,
    Series,
    Table,
    percent_axis,
    round_points,
)

SCORES = {
    "held_back_top1": "top-1 accuracy",
    "held_back_map": "mean average precision",
}
"""What an epoch is judged by, by its name in history.json."""


def draw_training(
    history: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, held_back: int | None
) -> list[Chart]:
    """Return loss and accuracy over the epochs; no chart where nothing was trained.

    Args:
        history: of history.json, a record for each epoch.
        best: the record of the epoch whose weights are kept; None: none.
        held_back: how many images the accuracy is over; None: not known.
    """
    if not history:
        return []
    name = next((name for name in SCORES if name in history[0]), None)
    charts = [_draw_loss(history, best)]
    return charts if name is None else [*charts, _draw_score(history, best, name, held_back)]


def _epochs(history: Sequence[Mapping[str, Any]]) -> Axis:
    """Return the axis of epochs; a single epoch stands in the middle."""
    first, last = history[0]["epoch"], history[-1]["epoch"]
    alone = first == last
    return Axis(label="epoch", low=first - alone, high=last + alone, format="integer")


def _draw_loss(history: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> Chart:
    """Return the mean loss of the steps of each epoch."""
    losses = [record["loss"] for record in history]
    return Chart(
        key="training_loss",
        kind="lines",
        title="Training: loss",
        sentence=(
            f"Mean loss of the steps of each of {_count_epochs(history)} on training images."
            f"{_describe_best(best)}"
        ),
        x=_epochs(history),
        y=Axis(label="loss", low=min(0.0, *losses), high=max(losses), format="number"),
        toggles=[],
        series=[Series(name="loss", keys=[], points=_over_epochs(history, "loss"))],
        marks=_mark_best(best, "loss"),
        table=Table(
            head=["epoch", "loss"],
            rows=[[str(record["epoch"]), f"{record['loss']:.4g}"] for record in history],
        ),
    )


def _draw_score(
    history: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any] | None,
    name: str,
    held_back: int | None,
) -> Chart:
    """Return how good the classification of held-back images is after each epoch."""
    over = "held-back images" if held_back is None else f"{held_back} held-back images"
    return Chart(
        key="training_score",
        kind="lines",
        title=f"Training: {SCORES[name]} on held-back images",
        sentence=(
            f"After each of {_count_epochs(history)}, over {over} that were not trained on and "
            f"are not scored.{_describe_best(best)}"
        ),
        x=_epochs(history),
        y=percent_axis(SCORES[name]),
        toggles=[],
        series=[Series(name=SCORES[name], keys=[], points=_over_epochs(history, name))],
        marks=_mark_best(best, name),
        table=Table(
            head=["epoch", SCORES[name]],
            rows=[[str(record["epoch"]), f"{to_percent(record[name])} %"] for record in history],
        ),
    )


def _over_epochs(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return a point for each epoch."""
    return round_points((record["epoch"], record[name]) for record in history)


def _count_epochs(history: Sequence[Mapping[str, Any]]) -> str:
    """Return how many epochs there are, in words."""
    return f"{len(history)} epoch{'s' if len(history) > 1 else ''}"


def _describe_best(best: Mapping[str, Any] | None) -> str:
    """Return which epoch's weights are kept, in a sentence."""
    return "" if best is None else f" Marked: epoch {best['epoch']}, the best on held-back images."


def _mark_best(best: Mapping[str, Any] | None, name: str) -> list[Mark]:
    """Return the mark of the best epoch."""
    if best is None or name not in best:
        return []
    value = f"{best[name]:.4g}" if name == "loss" else f"{to_percent(best[name])} %"
    text = f"epoch {best['epoch']}: {value}"
    return [Mark(kind="best", keys=[], x=best["epoch"], y=best[name], text=text)]


def draw_refine(refined: Mapping[str, Any], is_alone: bool) -> list[Chart]:
    """Return losses and agreement of stage refine, as the card of its checkpoint has them.

    Args:
        refined: `refine` of the card.
        is_alone: whether the localization head is used alone.
    """
    charts = [_draw_refine_loss(refined)] if refined.get("losses") else []
    agreement = _draw_agreement(refined, is_alone)
    return charts if agreement is None else [*charts, agreement]


def _draw_refine_loss(refined: Mapping[str, Any]) -> Chart:
    """Return the mean loss of each part of the steps of the localization head."""
    losses, count = refined["losses"], len(refined["losses"])
    points = [((n + 1) / count, loss) for n, loss in enumerate(losses)]
    return Chart(
        key="refine_loss",
        kind="lines",
        title="Localization head: loss",
        sentence=(
            f"Mean loss of each of {count} equal parts of the training of the localization head, "
            f"on the masks of {refined['learned_from']} training images; no annotated box is used."
        ),
        x=Axis(label="steps done, percent", low=0, high=1, format="percent"),
        y=Axis(label="loss", low=0, high=max(losses), format="number"),
        toggles=[],
        series=[Series(name="loss", keys=[], points=round_points(points))],
        table=Table(
            head=["steps done", "loss"],
            rows=[[f"{to_percent(x)} %", f"{loss:.4g}"] for x, loss in points],
        ),
    )


def _draw_agreement(refined: Mapping[str, Any], is_alone: bool) -> Chart | None:
    """Return how well a first head predicts held-out masks; None where too few were held out."""
    shown = [
        ("whole images", refined["agreement"]),
        ("with crops", refined.get("cropped_agreement")),
    ]
    shown = [(name, value) for name, value in shown if value is not None]
    if not shown:
        return None
    use = "used alone" if is_alone else "averaged with its teacher's map"
    crops = (
        ""
        if len(shown) == 1
        else " With crops: a head that learns from crops, too; "
        f"{'it is kept' if refined.get('learned_crops') else 'it is not kept'}."
    )
    return Chart(
        key="refine_agreement",
        kind="categories",
        title="Localization head: agreement with held-out masks",
        sentence=(
            "Mean IoU of the map of a head, trained on four fifths of the masks of "
            f"{refined['images']} training images, with the masks of the other fifth; no annotated "
            f"box is used. Masks that agree are consistent: the localization head is {use}.{crops}"
        ),
        x=Axis(
            label="what the head learns from", low=-0.5, high=len(shown) - 0.5, format="integer"
        ),
        y=Axis(label="mean IoU with held-out masks", low=0, high=1, format="fraction"),
        toggles=[],
        series=[
            Series(
                name="agreement",
                keys=[],
                points=round_points((n, value) for n, (_, value) in enumerate(shown)),
            )
        ],
        categories=[name for name, _ in shown],
        table=Table(
            head=["learns from", "mean IoU"], rows=[[name, f"{v:.3f}"] for name, v in shown]
        ),
    )


def draw_object_class(classes: Mapping[str, Any]) -> Chart:
    """Return top-1 accuracies of the classifier's head and of the head for the object.

    Args:
        classes: `object_class` of the card's `refine`.
    """
    shown = [("classifier's head", classes["by_head"]), ("object's head", classes["by_object"])]
    kept = "kept" if classes["kept"] else "not kept"
    return Chart(
        key="refine_object_class",
        kind="categories",
        title="Class of the object: accuracy on held-back images",
        sentence=(
            f"Top-1 accuracy over {classes['held_back']} held-back images. The standard error of "
            f"the difference is {to_percent(classes['error'])} points. The object's head is {kept}."
        ),
        x=Axis(label="who predicts the class", low=-0.5, high=1.5, format="integer"),
        y=percent_axis("top-1 accuracy"),
        toggles=[],
        series=[
            Series(
                name="top-1 accuracy",
                keys=[],
                points=round_points((n, value) for n, (_, value) in enumerate(shown)),
            )
        ],
        categories=[name for name, _ in shown],
        table=Table(
            head=["who predicts", "top-1"],
            rows=[[name, f"{to_percent(value)} %"] for name, value in shown],
        ),
    )
