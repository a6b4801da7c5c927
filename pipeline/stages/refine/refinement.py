"""Refine: a classifier learns from its own best boxes where objects are. Never from a true one.

    target   the teacher's map of a training image for its label, refined by the segmenter
    student  a small head on the classifier's features of several strides, which stay as they are

The teacher (saliency@refine.teacher=...) may be slow, as maps at several scales are, and the cut
(segmenter@refine.cut=...) needs the image; the student needs one forward pass, which gives class
and map. It can be better than its teacher: what is wrong about one image's target is not what is
wrong about another's, and a head of few weights learns what they have in common.

Then the classes are learned once more, by what is on the object
(pipeline/stages/refine/object_class.py). The result is a checkpoint with classifier and localizer:
`saliency=foreground` asks it.
"""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.engine import checkpoint, terminal
from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.stages.refine import localization_head, object_class, pseudo_labels


def refine_classifier(run: Run, folder: Path) -> None:
    from pipeline.model.foreground import pyramid

    started = time.time()
    trained = checkpoint.load(run.classifier, run.device)
    network = trained.network
    layers = pyramid(network, run.size)
    found = pseudo_labels.get_or_create(run, trained, tuple(layers))
    if len(found) == 0:
        raise UserError(
            "refine: there is no image to learn from: no training image could be read, or in none "
            "do colours and the teacher's map agree; another teacher may help, as in "
            "saliency@refine.teacher=ddt"
        )
    learned = localization_head.learn(run, found, tuple(layers), tuple(layers.values()))
    terminal.print_line(f"refine: {learned.told(found.of)}")
    network.branches["foreground"] = learned.head
    knobs = run.config["refine"]
    classes = (
        object_class.learn(run, trained, found, run.cache_key("refine"))
        if knobs["object_class"]
        else None
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
    told = {k: v for k, v in trained.card.items() if k not in checkpoint.DERIVED_FIELDS}
    checkpoint.save(folder, network, trained.card["model"], {**told, "refine": refined})
