"""The view model of a page without boxes: a run that has stages check, audit or inspect alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pipeline.engine.choices import list_choices
from pipeline.engine.stage import list_stages
from pipeline.stages.report.sections import SECTIONS
from pipeline.stages.report.view_model import VERSION
from pipeline.stages.report.words import ImageCounts, describe_facts

BOXES = ("explain", "localize", "evaluate")  # stages that boxes, and what is said of them, need


def describe_sections_only(parts: Mapping[str, Any], missing: str) -> dict[str, Any]:
    """Return the view model of a page that has sections alone.

    Args:
        parts: title, facts, sections, notes and others that do not depend on boxes.
        missing: what the page does not show, and the command that adds it.
    """
    nothing: dict[str, Any] = {
        key: [] for key in ("verdict", "advice", "expected", "methods", "images", "causes", "ious")
    }
    return {
        "version": VERSION,
        **parts,
        **nothing,
        "words": (),
        "differences": [],
        "comparison": None,
        "charts": None,
        "is_labelled": bool(parts["classes"]),
        "is_multi_label": False,
        "is_ranked": False,
        "is_scored": False,
        "unmeasured": missing,
        "marking": None,
    }


def describe_data_and_network(
    card: Mapping[str, Any] | None, counts: ImageCounts, classes: Collection[str], precision: str
) -> list[str]:
    """Return a line each on images, classes and the network, where the run has one.

    Args:
        card: of the network's checkpoint; None: the run has no network.
        counts: of the images.
        classes: of the data set.
        precision: that the network runs in.
    """
    if card is not None:
        return describe_facts(card, counts, precision)
    return [counts.describe(), f"{len(classes)} classes"]


def explain_missing(experiment: str, stages: Collection[str], has_checkpoint: bool) -> str:
    """Explain that a page shows no boxes, and which stages add them.

    Args:
        experiment: the name of the run, mostly that of an experiment.
        stages: of the run.
        has_checkpoint: whether the run explains the network of another one.
    """
    shown = " and ".join(name for name in SECTIONS if name in stages)
    added = {*stages, *BOXES, *(() if has_checkpoint else ("train",))}
    wanted = ",".join(name for name in list_stages() if name in added)
    named = f" +experiment={experiment}" if experiment in list_choices("experiment") else ""
    return (
        f"This run has no boxes, so the page has no numbers, charts and images: it shows what stage"
        f"{'s' * (' and ' in shown)} {shown} found. To add them: python -m pipeline{named} "
        f"'stages=[{wanted}]', with the other arguments of this run's command; what is there "
        "already is not computed again."
    )
