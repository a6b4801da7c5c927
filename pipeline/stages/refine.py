"""Refine: a classifier learns from its own best boxes where objects are. Never from a true one.

    target   the teacher's map of a training image for its label, refined by the segmenter
    student  a small head on the classifier's features of several strides, which stay as they are

The teacher (saliency@refine.teacher=...) may be slow, as maps at several scales are, and the cut
(segmenter@refine.cut=...) needs the image; the student needs one forward pass, which gives class
and map. It can be better than its teacher: what is wrong about one image's target is not what is
wrong about another's, and a head of few weights learns what they have in common.

Then the classes are learned once more, by what is on the object (pipeline/stages/object_class.py).
The result is a checkpoint with classifier and localizer: `saliency=foreground` asks it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pipeline import checkpoint, show
from pipeline.records import Problem
from pipeline.run import Run
from pipeline.stages import explain, lessons, object_class, student

UNHASHED = ("teacher", "cut", "images")  # they stand in the lessons


def made_of(run: Run) -> dict[str, Any]:
    knobs = run.config["refine"]
    return {
        "source": run.sources("refine"),
        "lessons": lessons.made_of(run),
        "refine": {name: value for name, value in knobs.items() if name not in UNHASHED},
        "seed": run.config["seed"],
    }


def check(run: Run) -> None:
    """Raises Problem for a cut that makes no better map, and for a teacher that cannot be."""
    lessons.cutter(run)
    explain.method_of(run.for_teacher())


def make(run: Run, folder: Path) -> None:
    from pipeline.model.foreground import pyramid

    started = time.time()
    trained = checkpoint.load(run.classifier, run.device)
    network = trained.network
    layers = pyramid(network, run.size)
    found = lessons.obtain(run, trained, tuple(layers))
    if len(found) == 0:
        raise Problem(
            "refine: there is no image to learn from: no training image could be read, or in none "
            "do colours and the teacher's map agree; another teacher may help, as in "
            "saliency@refine.teacher=ddt"
        )
    learned = student.learn(run, found, tuple(layers), tuple(layers.values()))
    show.line(f"refine: {learned.told(found.of)}")
    network.branches["foreground"] = learned.head
    knobs = run.config["refine"]
    classes = (
        object_class.learn(run, trained, found, made_of(run)) if knobs["object_class"] else None
    )
    if classes is not None and classes.kept:
        network.branches["object_class"] = classes.head
    refined = {
        "teacher": knobs["teacher"],
        "cut": knobs["cut"],
        "images": found.of,
        "sure": len(found),
        "learned_from": learned.lessons,
        "agreement": learned.agreement,
        "map_share": learned.share,
        "losses": learned.losses,
        "object_class": classes and classes.recorded(),
        "seconds": round(time.time() - started, 1),
    }
    told = {k: v for k, v in trained.card.items() if k not in checkpoint.OWN_FIELDS}
    checkpoint.save(folder, network, trained.card["model"], {**told, "refine": refined})
