"""Find the boxes of a person that are of images of a data set, and those that may teach."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.engine.images import SplitImages, image_source
from pipeline.errors import UserError
from pipeline.ops.text import count_note, to_nfc
from pipeline.protocols import DataSet, HasClassFolders
from pipeline.results.human import FILE, follow_renaming, hash_boxes, load, match_images
from pipeline.types import HumanBoxes, Note, Split

NONE, AUTO = "none", "auto"
MIN_OTHERS = 20
"""Images with which the random sample need not teach."""
WHERE = "annotate.learn_from_human"


def find_human_boxes(
    chosen: str, outputs: Path, data: DataSet, split: Split
) -> tuple[dict[str, HumanBoxes], list[Note]]:
    """Return the boxes of a person in images of a split, and notes on those that are not used.

    Args:
        chosen: `none`, `auto` for human_boxes.json in the folder of outputs, or a file.
        outputs: the folder of outputs.
        data: the data set.
        split: the split.

    Raises:
        UserError: the file is missing or damaged.
    """
    if chosen == NONE:
        return {}, []
    path = outputs / FILE if chosen == AUTO else Path(chosen)
    if chosen != AUTO and not path.is_file():
        raise UserError(f"human_boxes={chosen}: no such file; +experiment=ingest writes it")
    images, wrong = load(path)
    if not images:
        return {}, []
    human, notes = match_images(images, wrong, data.ids(split), image_source(data, split))
    human, renamed = follow_renaming(human, data.classes, list_class_folders(data))
    return human, [*notes, *renamed]


def list_class_folders(data: DataSet) -> Sequence[str]:
    """Return the folder of each class of a data set; none where its classes are no folders."""
    return data.class_folders() if isinstance(data, HasClassFolders) else ()


@dataclass(frozen=True)
class Teaching:
    """Boxes of a person that teach a localization head: what learns from them says so.

    Attributes:
        images: by position in the training images, each with its boxes of the image's class alone.
        notes: on boxes that do not teach.
    """

    images: Mapping[int, HumanBoxes] = field(default_factory=dict)
    notes: Sequence[Note] = ()

    @property
    def key(self) -> str | None:
        """A hash of the boxes, whichever of them are random; None where there are none."""
        images = [replace(image, is_random=False) for image in self.images.values()]
        return hash_boxes({image.content: image for image in images})

    @property
    def count(self) -> int:
        """How many boxes there are."""
        return sum(len(image.boxes) for image in self.images.values())

    @property
    def content(self) -> list[str]:
        """The hash of each image's file: these images cannot measure what learned from them."""
        return sorted({image.content for image in self.images.values()})


def select_teaching(
    human: Mapping[str, HumanBoxes],
    images: SplitImages,
    classes: Sequence[str],
    negatives: Collection[int] = (),
) -> Teaching:
    """Select the boxes of a person that may teach: of the class of a training image.

    The random sample measures. It teaches only where fewer than `MIN_OTHERS` other images do.

    Args:
        human: by image id, of all splits.
        images: the training images.
        classes: the names of the classes.
        negatives: the classes without an object: no box of their images teaches.
    """
    labels, position = images.labels, {id: n for n, id in enumerate(images.ids)}
    others: list[str] = []
    without: list[str] = []
    chosen: dict[int, HumanBoxes] = {}
    for id, image in human.items():
        if id not in position:
            others.append(id)
            continue
        label = int(labels[position[id]])
        name = to_nfc(classes[label])
        rows = [n for n, known in enumerate(image.classes) if to_nfc(known) == name]
        if not rows or label in negatives:
            without.append(id)
            continue
        chosen[position[id]] = _select_boxes(image, rows)
    by_doubt = {n: image for n, image in chosen.items() if not image.is_random}
    measuring: list[str] = []
    if len(by_doubt) >= MIN_OTHERS:
        measuring = [image.id for image in chosen.values() if image.is_random]
        chosen = by_doubt
    whys = (
        (others, "have boxes of a person, but are held back or scored: they do not teach"),
        (without, "have no box of a person of the class of their folder: they do not teach"),
        (
            measuring,
            "have boxes of a person in the random sample, which measures: they do not teach",
        ),
    )
    return Teaching(
        chosen, [count_note(ids, "image", why, where=WHERE) for ids, why in whys if ids]
    )


def _select_boxes(image: HumanBoxes, rows: Sequence[int]) -> HumanBoxes:
    """Return some of the boxes of an image."""
    return replace(
        image,
        boxes=image.boxes[list(rows)],
        classes=[image.classes[n] for n in rows],
        masks=None if image.masks is None else [image.masks[n] for n in rows],
        folders=[image.folders[n] for n in rows] if image.folders else (),
    )
