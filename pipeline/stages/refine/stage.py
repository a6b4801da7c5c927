"""Stage refine: train a localization head on pseudo-labels from saliency maps.

    target   the teacher's map of a training image for its label, refined by the segmenter
    head     a small localization head on the classifier's features of several strides, which are
             not changed

The teacher (saliency@refine.teacher=...) may be slow, as maps at several scales are, and the
segmenter (segmenter@refine.cut=...) needs the image; the head needs a single forward pass, which
gives class and map. The head can be better than its teacher: the errors of targets differ from
image to image, and a head of few weights learns what they have in common.

Then a second head classifies by features of the object (object_class.py). The result is a
checkpoint with the classifier and its heads, which `saliency=foreground` uses.

Where an image may have several labels, the head has a map for each class, and learns it from the
images that have the class; there the second head is left out, which tells one class of an image.

No box is read, unless `annotate.learn_from_human=true`: boxes of a person then give the targets of
their images (human_targets.py), and the checkpoint and all that it computes say
`supervision: boxes`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint, terminal
from pipeline.engine.choices import instantiate
from pipeline.engine.images import is_multi_label
from pipeline.engine.stage import Stage
from pipeline.errors import UserError
from pipeline.protocols import RefiningSegmenter
from pipeline.results.notes import write_notes
from pipeline.stages.refine.config import RefineOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from jaxtyping import Int

    from pipeline.engine.checkpoint import Checkpoint
    from pipeline.engine.run import Run
    from pipeline.stages.refine.localization_head import HeadFitter
    from pipeline.stages.refine.object_class import FittedClasses
    from pipeline.stages.refine.pseudo_labels import PseudoLabels
    from pipeline.types import Note

UNHASHED = ("teacher", "cut", "images")  # part of the key of the pseudo-labels
PSEUDO_LABELS = "pipeline.stages.refine.pseudo_labels"
OBJECT_CLASS = "pipeline.stages.refine.object_class"
NO_OBJECT_CLASS = (
    "refine: refine.object_class=true has no effect: what is on the object tells one class of an "
    "image, and the classes of this network do not exclude each other: its head predicts them"
)


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
            "human": run.teaching.key,
            "folds": run.config["annotate"]["folds"],
            "refine": {name: value for name, value in options.items() if name not in UNHASHED},
            "seed": run.config["seed"],
        }

    def check(self, run: Run) -> None:
        """Raise UserError if the segmenter refines no map, or the teacher cannot be built."""
        build_segmenter(run.config["refine"]["cut"])
        run.for_teacher().saliency()
        if run.config["annotate"]["learn_from_human"] and is_multi_label(run.data):
            raise UserError(
                "annotate.learn_from_human=true: boxes of a person teach one object class an "
                "image, and an image of this data set may have several; leave it away: the boxes "
                "still replace those that are found, and choose the threshold"
            )

    def run(self, run: Run, folder: Path) -> None:
        """Make pseudo-labels, fit the localization head and perhaps the classes of the object.

        Raises:
            UserError: there is no image to learn from.
        """
        from pipeline.model.foreground import list_pyramid_layers
        from pipeline.stages.refine.localization_head import HeadFitter

        started, options = time.time(), run.options("refine")
        trained = checkpoint.load(run.classifier, run.device)
        layers = list_pyramid_layers(trained.network, run.size)
        labels = self._pseudo_labels(run, trained, tuple(layers))
        if len(labels) == 0:
            raise UserError(
                "refine: there is no image to learn from: no training image could be read, or in "
                "none do colours and the teacher's map agree; another teacher may help, as in "
                "saliency@refine.teacher=ddt"
            )
        fitter = HeadFitter(
            labels=labels,
            layers=tuple(layers.items()),
            options=options,
            compute=run.compute,
            seed=run.config["seed"],
            folder=folder,
            classes=len(trained.classes) if is_multi_label(run.data) else 1,
        )
        fitted = fitter.fit()
        terminal.print_line(f"refine: {fitted.describe(labels.image_count)}")
        trained.network.branches["foreground"] = fitted.head
        described = {
            **self._describe_teaching(run, labels),
            **self._fit_folds(run, trained, fitter, fitted.head.alone),
        }
        several = trained.network.answers == "independent"
        is_fitted = options.object_class and not several
        classes = self._fit_classes(run, trained, labels) if is_fitted else None
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
            "extent": fitted.head.extent is not None,
            "losses": fitted.losses,
            "object_class": classes and classes.record(),
            "seconds": round(time.time() - started, 1),
        }
        unused = describe_unused_extent(options.extent, fitted.head.alone)
        if options.object_class and several:
            unused.append(NO_OBJECT_CLASS)
        write_notes(folder, [*run.teaching.notes, *self._left_out_note(run, labels), *unused])
        _save(folder, trained, refined, described)
        fitter.remove_states()

    def announce(self, result: Path, run_folder: Path) -> Sequence[str]:
        """Return a line that boxes of a person teach, where they do."""
        human = checkpoint.read_card(result).get("human")
        if human is None:
            return []
        return [
            f"{'':<10} {human['boxes']} human boxes teach; results are no longer weakly supervised"
        ]

    def _pseudo_labels(self, run: Run, trained: Checkpoint, reads: tuple[str, ...]) -> PseudoLabels:
        """Return the pseudo-labels, computed now unless they are in the store.

        Images in which a person's boxes teach are all there, with targets from these boxes.
        """
        import numpy as np

        from pipeline.stages.refine.human_targets import HumanTargets
        from pipeline.stages.refine.pseudo_labels import PseudoLabels, choose_positions

        images, taught = run.images("train"), run.teaching.images
        most = run.config["refine"]["images"]
        labelled = images.label_sets if images.is_multi_label else images.labels
        chosen = choose_positions(labelled, run.negatives, most)
        if len(chosen) < (objects := len(choose_positions(labelled, run.negatives, len(images)))):
            terminal.print_line(
                f"refine: the teacher is asked for {len(chosen)} of {objects} training images, "
                f"evenly of all classes (refine.images={most})"
            )
        more = np.setdiff1d(sorted(taught), chosen).astype(int)
        key = {**self._pseudo_labels_key(run), "reads": list(reads)}
        folders = [self._label(run, trained, reads, chosen, key)]
        if len(more):
            key["positions"] = more.tolist()
            folders.append(self._label(run, trained, reads, more, key))
        labels = PseudoLabels.read(folders, len(reads))
        if not taught:
            return labels
        return labels.with_targets(HumanTargets(images=images, workers=run.workers).compute(taught))

    def _label(
        self,
        run: Run,
        trained: Checkpoint,
        reads: tuple[str, ...],
        positions: Int[np.ndarray, m],
        key: Mapping[str, Any],
    ) -> Path:
        """Return the folder of the pseudo-labels of some images."""
        from pipeline.stages.refine.pseudo_labels import PseudoLabeler

        def write(folder: Path) -> None:
            labeler = PseudoLabeler(
                trained=trained,
                images=run.images("train"),
                compute=run.compute,
                teacher=run.for_teacher().prepared_method(trained),
                segmenter=build_segmenter(run.config["refine"]["cut"]),
                reads=reads,
                negatives=run.negatives,
            )
            labeler.write(folder, positions)

        return run.store.get_or_create("pseudo_labels", key, write)[0]

    def _fit_folds(
        self, run: Run, trained: Checkpoint, fitter: HeadFitter, alone: bool
    ) -> dict[str, Any]:
        """Fit a head without the images of each fold, and return what the card says of folds."""
        import numpy as np

        from pipeline.engine.folds import branch_name, describe_folds, fold_of
        from pipeline.engine.images import image_source
        from pipeline.results.human import image_content

        count, labels = run.config["annotate"]["folds"], fitter.labels
        if count == 1:
            return {}
        source = image_source(run.data, "train")
        content = [image_content(source, position) for position in labels.positions.tolist()]
        folds = np.array([fold_of(each, count) for each in content])
        for fold in range(count):
            rest = labels.select(folds != fold)
            if len(rest) == 0:
                raise UserError(
                    f"annotate.folds={count}: without the images of a fold none is left to learn "
                    f"from, of {len(labels)}; give annotate.folds=1"
                )
            fitted = replace(fitter, labels=rest, name=f"fold{fold}_").fit()
            fitted.head.set_alone(alone)
            trained.network.branches[branch_name(fold)] = fitted.head
            terminal.print_line(
                f"refine: fold {fold + 1} of {count}: {fitted.describe(labels.image_count)}"
            )
        return describe_folds(count, content)

    def _describe_teaching(self, run: Run, labels: PseudoLabels) -> dict[str, Any]:
        """Return what the card says of boxes of a person; nothing where none may teach."""
        selected = run.teaching
        if not selected.images:
            return {}
        taught = labels.replaced_positions
        human = {
            "images": len(taught),
            "boxes": sum(len(selected.images[position].boxes) for position in taught),
            "key": selected.key,
            "content": selected.content,
        }
        return {"supervision": "boxes", "human": human}

    def _left_out_note(self, run: Run, labels: PseudoLabels) -> list[Note]:
        """Return a note on images that are not learned from, as a person's box has no target."""
        from pipeline.ops.text import count_note

        ids = run.images("train").ids
        left_out = sorted(set(run.teaching.images) - set(labels.replaced_positions))
        why = (
            "are not learned from, as colours do not tell the object in a person's box from what "
            "is around it"
        )
        remedy = "draw their outlines, if they are to teach"
        names = [ids[position] for position in left_out]
        where = "annotate.learn_from_human"
        return [count_note(names, "image", why, where=where, remedy=remedy)] if names else []

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
            max_images=run.config["refine"]["class_images"],
            store=run.store,
            cache_key=key,
        )
        classes = fitter.fit(labels)
        terminal.print_line(f"refine: {classes.describe()}")
        if classes.kept:
            trained.network.branches["object_class"] = classes.head
        return classes


def describe_unused_extent(is_wanted: bool, is_alone: bool) -> list[str]:
    """Return a note that refine.extent has no effect; none where it has, or is not wanted.

    Args:
        is_wanted: refine.extent.
        is_alone: whether the localization head is used alone.
    """
    if not is_wanted or is_alone:
        return []
    return [
        "refine: refine.extent=true has no effect: masks of training images agree too little with "
        "predictions of them to learn boxes from; more images, or another teacher "
        "(saliency@refine.teacher=ddt), may help"
    ]


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


def _save(
    folder: Path, trained: Checkpoint, refined: Mapping[str, Any], described: Mapping[str, Any]
) -> None:
    """Write the checkpoint with its new heads.

    Args:
        folder: of the checkpoint.
        trained: the network.
        refined: describes the heads on the card.
        described: what else the card says, of boxes of a person and of folds.
    """
    card = {k: v for k, v in trained.card.items() if k not in checkpoint.DERIVED_FIELDS}
    card |= {"refine": refined, **described}
    checkpoint.save(folder, trained.network, trained.card["model"], card)
