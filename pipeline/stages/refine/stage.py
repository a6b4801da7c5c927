"""Stage refine: train a localization head on pseudo-labels from saliency maps. No box is read.

    target   the teacher's map of a training image for its label, refined by the segmenter
    head     a small localization head on the classifier's features of several strides, which are
             not changed

The teacher (saliency@refine.teacher=...) may be slow, as maps at several scales are, and the
segmenter (segmenter@refine.cut=...) needs the image; the head needs a single forward pass, which
gives class and map. The head can be better than its teacher: the errors of targets differ from
image to image, and a head of few weights learns what they have in common.

Then a second head classifies by features of the object (object_class.py). The result is a
checkpoint with the classifier and its heads, which `saliency=foreground` uses.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint, terminal
from pipeline.engine.choices import instantiate
from pipeline.engine.stage import Stage
from pipeline.errors import UserError
from pipeline.protocols import RefiningSegmenter
from pipeline.stages.refine.config import RefineOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.engine.checkpoint import Checkpoint
    from pipeline.engine.run import Run
    from pipeline.stages.refine.object_class import FittedClasses
    from pipeline.stages.refine.pseudo_labels import PseudoLabels

UNHASHED = ("teacher", "cut", "images")  # part of the key of the pseudo-labels
PSEUDO_LABELS = "pipeline.stages.refine.pseudo_labels"
OBJECT_CLASS = "pipeline.stages.refine.object_class"


class Refine(Stage):
    """A localization head learns from pseudo-labels."""

    name = "refine"
    after = ("train",)
    needs = ("train",)
    options = RefineOptions

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        options = run.config["refine"]
        return {
            "source": run.sources(__name__),
            "pseudo_labels": self._pseudo_labels_key(run),
            "refine": {name: value for name, value in options.items() if name not in UNHASHED},
            "seed": run.config["seed"],
        }

    def check(self, run: Run) -> None:
        """Raise UserError if the segmenter refines no map, or the teacher cannot be built."""
        build_segmenter(run.config["refine"]["cut"])
        run.for_teacher().saliency()

    def run(self, run: Run, folder: Path) -> None:
        """Make pseudo-labels, fit the localization head and perhaps the classes of the object."""
        from pipeline.model.foreground import list_pyramid_layers
        from pipeline.stages.refine.localization_head import HeadFitter

        started, options = time.time(), run.options("refine")
        trained = checkpoint.load(run.classifier, run.device)
        layers = list_pyramid_layers(trained.network, run.size)
        labels = self._pseudo_labels(run, trained, tuple(layers))
        fitter = HeadFitter(
            labels=labels,
            layers=tuple(layers.items()),
            options=options,
            compute=run.compute,
            seed=run.config["seed"],
            folder=folder,
        )
        fitted = fitter.fit()
        terminal.print_line(f"refine: {fitted.describe(labels.image_count)}")
        trained.network.branches["foreground"] = fitted.head
        classes = self._fit_classes(run, trained, labels) if options.object_class else None
        refined = {
            "teacher": options.teacher,
            "cut": options.cut,
            "images": labels.image_count,
            "sure": len(labels),
            "learned_from": fitted.count,
            "agreement": fitted.agreement,
            "cropped_agreement": fitted.cropped_agreement,
            "learned_crops": fitted.learned_crops,
            "map_share": fitted.share,
            "losses": fitted.losses,
            "object_class": classes and classes.record(),
            "seconds": round(time.time() - started, 1),
        }
        _save(folder, trained, refined)
        fitter.remove_states()

    def _pseudo_labels(self, run: Run, trained: Checkpoint, reads: tuple[str, ...]) -> PseudoLabels:
        """Return the pseudo-labels, computed now unless they are in the store."""
        from pipeline.stages.refine.pseudo_labels import PseudoLabeler, PseudoLabels

        options = run.options("refine")

        def write(folder: Path) -> None:
            labeler = PseudoLabeler(
                trained=trained,
                images=run.images("train"),
                compute=run.compute,
                teacher=run.for_teacher().prepared_method(trained),
                segmenter=build_segmenter(options.cut),
                reads=reads,
                negatives=run.negatives,
            )
            labeler.write(folder, options.images)

        key = {**self._pseudo_labels_key(run), "reads": list(reads)}
        folder, _ = run.store.get_or_create("pseudo_labels", key, write)
        labels = PseudoLabels.read(folder, len(reads))
        if len(labels) == 0:
            raise UserError(
                "refine: there is no image to learn from: no training image could be read, or in "
                "none do colours and the teacher's map agree; another teacher may help, as in "
                "saliency@refine.teacher=ddt"
            )
        return labels

    def _pseudo_labels_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the pseudo-labels."""
        options = run.config["refine"]
        return {
            "source": run.sources(PSEUDO_LABELS, "data", "refine.teacher", "refine.cut"),
            "checkpoint": checkpoint.fingerprint(run.classifier),
            "teacher": options["teacher"],
            "fitted_on": run.for_teacher().cache_key("explain")["fitted_on"],
            "cut": options["cut"],
            "negatives": sorted(run.negatives),
            "images": options["images"],
            "data": run.data.fingerprint("train"),
            "size": run.size,
            "precision": run.precision,
        }

    def _fit_classes(self, run: Run, trained: Checkpoint, labels: PseudoLabels) -> FittedClasses:
        """Fit the head for classes of the object, and add it to the network where it is kept."""
        from pipeline.stages.refine.object_class import ClassFitter

        key = {"source": run.sources(OBJECT_CLASS, "data"), "refine": run.cache_key("refine")}
        fitter = ClassFitter(
            trained=trained,
            images=run.images("train"),
            held_back=run.images("held_back"),
            compute=run.compute,
            seed=run.config["seed"],
            max_images=run.config["refine"]["images"],
            store=run.store,
            cache_key=key,
        )
        classes = fitter.fit(labels)
        terminal.print_line(f"refine: {classes.describe()}")
        if classes.kept:
            trained.network.branches["object_class"] = classes.head
        return classes


def build_segmenter(node: Mapping[str, Any]) -> RefiningSegmenter:
    """Build the segmenter that refines the teacher's maps.

    Args:
        node: refine.cut of the configuration.

    Raises:
        UserError: It cannot be built, or cannot refine a map.
    """
    segmenter = instantiate("refine.cut", node)
    if not isinstance(segmenter, RefiningSegmenter):
        raise UserError(
            "segmenter@refine.cut: a segmenter is needed that makes a better map of a map and its "
            "image, as grabcut"
        )
    return segmenter


def _save(folder: Path, trained: Checkpoint, refined: Mapping[str, Any]) -> None:
    """Write the checkpoint with its new heads; `refined` describes them on its card."""
    card = {k: v for k, v in trained.card.items() if k not in checkpoint.DERIVED_FIELDS}
    card["refine"] = refined
    checkpoint.save(folder, trained.network, trained.card["model"], card)
