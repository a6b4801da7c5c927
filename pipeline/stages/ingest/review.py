"""Tell from a tool's file which images a person reviewed, and compare their boxes with ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import suggest_classes
from pipeline.formats.coco_boxes import clip
from pipeline.formats.coco_names import NameIndex
from pipeline.formats.odd_records import BadRecord
from pipeline.ops.iou import best_iou, pairwise_iou
from pipeline.ops.text import count_notes, fold_name, to_nfc
from pipeline.ops.wilson import wilson_interval
from pipeline.types import CorrectedImage, HumanBoxes, ImageBoxes, Note, WrongMark

if TYPE_CHECKING:
    from jaxtyping import Float32

RIGHT_IOU = 0.5
SAME_IOU = 0.99  # a box that equals ours: tools round coordinates
MAX_PIXEL_DIFFERENCE = 0.51  # of a coordinate of an unchanged box


@dataclass
class Sorted:
    """The images of a file, by what becomes of them.

    Attributes:
        human: boxes of a person by image id.
        wrong: images whose boxes a person called wrong, or to be corrected.
        to_correct: the names of those among them that were called to be corrected.
        not_reviewed: images that no person is known to have reviewed, and their number of boxes.
        unknown: names that are of no image of the run.
        ambiguous: names that are of several images.
        twice: names of images that the file has again.
        other_size: images whose size in the file is another.
        classes: boxes of classes that the run does not have.
        unknown_classes: the names of these classes, and what the run has instead.
        renamed: boxes whose class the file calls by its folder, which has another name.
        clipped: boxes that stuck out of their image.
        empty: boxes that lie outside of their image.
    """

    human: dict[str, HumanBoxes] = field(default_factory=dict)
    wrong: dict[str, WrongMark] = field(default_factory=dict)
    to_correct: list[str] = field(default_factory=list)
    not_reviewed: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    other_size: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    unknown_classes: dict[str, Sequence[str]] = field(default_factory=dict)
    renamed: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def notes(self, where: str) -> list[Note]:
        """Return a note on each kind of image or box that is not used as it is.

        Args:
            where: the name of the file.
        """
        own = sum(self.not_reviewed.values())
        remedy = "correct the boxes in a tool (to_correct.txt has the names), and ingest its file"
        images = (
            ([id for id in self.wrong if id not in set(self.to_correct)],
             "marked as wrong: no truth", remedy),
            (self.to_correct, "marked as to be corrected: no truth", remedy),
            (list(self.not_reviewed), f"without a person's review ({own} boxes): no truth",
             "submit or accept them in the tool, or give ingest.reviewed=all or =FILE"),
            (self.unknown, "of the file that the run does not have: left out", ""),
            (self.ambiguous, "whose name is of several images: left out",
             "keep the folders in their names"),
            (self.twice, "that the file has again: the later one is used", ""),
            (self.other_size, "of another size in the file: left out",
             "boxes must be in pixels of the upright image"),
            (self.unread, "with a box or shape that cannot be used: left out as a whole, its found "
             "boxes stay", "correct or remove what the notes above name, and ingest again"),
        )  # fmt: skip
        boxes = (
            (self.classes, "of a class that the run does not have: kept for a run that has "
             "it, and in no export of this one", self._suggest_classes()),
            (self.renamed, "of a class that the file calls by its folder: taken as the class that "
             "classes.txt names so", ""),
            (self.clipped, "beyond the edge of its image: clipped", ""),
            (self.empty, "outside of its image: left out", ""),
        )  # fmt: skip
        return [
            *count_notes(images, "image", where=where),
            *count_notes(boxes, "box", where=where),
        ]

    def _suggest_classes(self) -> str:
        """Return what names of unknown classes may mean, and the classes of the run."""
        known = next(iter(self.unknown_classes.values()), ())
        return suggest_classes(self.unknown_classes, known)


@dataclass(frozen=True)
class Known:
    """What is known of the images of the run.

    Attributes:
        boxes: of each explained image by id.
        classes: the names of the classes.
        folders: the folder of each class; empty: the classes are no folders.
        sampled: whether an image was drawn at random.
        content: returns the hash of an image's file by its id.
        file_size: returns its bytes.
    """

    boxes: Mapping[str, ImageBoxes]
    classes: Sequence[str]
    sampled: Callable[[str], bool]
    content: Callable[[str], str]
    file_size: Callable[[str], int]
    folders: Sequence[str] = ()

    @cached_property
    def spelling(self) -> dict[str, str]:
        """The name of each class by its forms in files, also by its folder."""
        folders = zip(self.folders, self.classes, strict=bool(self.folders))
        forms = {key(folder): name for folder, name in folders for key in (fold_name, to_nfc)}
        names = {key(name): name for key in (fold_name, to_nfc) for name in self.classes}
        return forms | names

    @cached_property
    def folder_of(self) -> dict[str, str]:
        """The folder of each class by its name; empty where the classes are no folders."""
        return dict(zip(self.classes, self.folders, strict=bool(self.folders)))

    def find_class(self, name: str) -> str:
        """Return the name of the class that a file means; the file's own where there is none.

        Args:
            name: as the file has it.
        """
        return self.spelling.get(to_nfc(name)) or self.spelling.get(fold_name(name), name)

    def find_folders(self, classes: Sequence[str]) -> list[str]:
        """Return the folder of the class of each box; an empty list where it is known of none.

        Args:
            classes: the name of the class of each box.
        """
        folders = [self.folder_of.get(name, "") for name in classes]
        return folders if any(folders) else []


@dataclass(frozen=True)
class Origin:
    """What boxes are recorded to come from.

    Attributes:
        source: format and name of the file.
        ingested: when it was read, in ISO 8601.
    """

    source: str
    ingested: str


def sort_images(
    images: Sequence[CorrectedImage],
    known: Known,
    is_reviewed: Callable[[CorrectedImage, str], bool],
    source: str,
    now: str,
) -> Sorted:
    """Match the images of a file with those of the run, and take over those that were reviewed.

    Args:
        images: of the file.
        known: of the run.
        is_reviewed: tells from an image of the file and its id whether a person reviewed it.
        source: what the boxes are recorded to come from.
        now: the time, in ISO 8601.
    """
    result, index = Sorted(), NameIndex(list(known.boxes))
    origin = Origin(source, now)
    seen: set[str] = set()
    for image in images:
        if image.mark:
            _take_mark(image, known, origin, result)
            continue
        ids = index.find(image.name).ids
        if len(ids) != 1:
            (result.ambiguous if ids else result.unknown).append(image.name)
            continue
        id = ids[0]
        size = known.boxes[id].size
        if image.size is not None and image.size != size:
            result.other_size.append(id)
            continue
        if not is_reviewed(image, id):
            result.not_reviewed[id] = len(image.boxes)
            continue
        if image.unread:
            result.unread.append(id)
            continue
        if id in seen:
            result.twice.append(id)
        seen.add(id)
        result.human[id] = _take_boxes(image, id, known, origin, result)
    for id in result.human:
        result.not_reviewed.pop(id, None)
    return result


def _take_boxes(
    image: CorrectedImage, id: str, known: Known, origin: Origin, result: Sorted
) -> HumanBoxes:
    """Return the boxes of a reviewed image in pixels, with the classes as the run names them."""
    size = known.boxes[id].size
    boxes, rows = _to_pixels(image, size, id, result)
    classes = [known.find_class(image.classes[n]) for n in rows]
    unknown = [name for name in classes if name not in known.classes]
    result.classes += [f"{id}: {name}" for name in unknown]
    result.unknown_classes |= dict.fromkeys(unknown, known.classes)
    result.renamed += [
        f"{id}: {image.classes[n]}, now {name}"
        for n, name in zip(rows, classes, strict=True)
        if name in known.classes and fold_name(name) != fold_name(image.classes[n])
    ]
    return HumanBoxes(
        id=id,
        content=known.content(id),
        size=size,
        boxes=boxes,
        classes=classes,
        masks=None if image.masks is None else [image.masks[n] for n in rows],
        is_random=known.sampled(id) and not image.chosen_by_doubt,
        date=image.date or "",
        author=image.author or "",
        file_size=known.file_size(id),
        folders=known.find_folders(classes),
        **vars(origin),
    )


def _take_mark(image: CorrectedImage, known: Known, origin: Origin, result: Sorted) -> None:
    """Take over a mark of our page: the boxes of the run as they are, or that they are wrong.

    Boxes that are to be corrected are not right as they are: they wait like wrong ones.
    """
    id, date = image.name, image.date or ""
    content, is_random = known.content(id), known.sampled(id)
    if image.mark in ("wrong", "to_correct"):
        if image.mark == "to_correct":
            result.to_correct.append(id)
        result.wrong[id] = WrongMark(
            id=id, content=content, is_random=is_random, date=date, **vars(origin)
        )
        return
    boxes = known.boxes[id].boxes
    masks = [box.mask for box in boxes]
    classes = [known.classes[box.label] for box in boxes]
    result.human[id] = HumanBoxes(
        id=id,
        content=content,
        size=known.boxes[id].size,
        boxes=np.array([box.box for box in boxes], np.float32).reshape(-1, 4),
        classes=classes,
        masks=masks if any(masks) else None,
        is_random=is_random,
        date=date,
        file_size=known.file_size(id),
        folders=known.find_folders(classes),
        **vars(origin),
    )


def _to_pixels(
    image: CorrectedImage, size: tuple[int, int], id: str, result: Sorted
) -> tuple[Float32[np.ndarray, "n 4"], list[int]]:
    """Return the boxes in pixels, clipped to the image, and which boxes of the file they are."""
    height, width = size
    scale = np.array([width, height] * 2 if image.are_fractions else [1] * 4, np.float64)
    boxes, rows = [], []
    for n, corners in enumerate((image.boxes.astype(np.float64) * scale).tolist()):
        try:
            box, was_clipped = clip((corners[0], corners[1], corners[2], corners[3]), size)
        except BadRecord:
            result.empty.append(f"{id}: box {n + 1}")
            continue
        if was_clipped:
            result.clipped.append(f"{id}: box {n + 1}")
        boxes.append(box)
        rows.append(n)
    return np.array(boxes, np.float32).reshape(-1, 4), rows


@dataclass(frozen=True)
class Change:
    """How a person's boxes of an image differ from ours.

    Attributes:
        id: the name of the image.
        iou: of our best-scored box with the person's box of its class that fits best.
        is_unchanged: whether all boxes and classes are as they were.
        is_relabelled: whether none of the person's boxes has the class of our best-scored box.
        is_random: whether the image was drawn at random.
    """

    id: str
    iou: float
    is_unchanged: bool
    is_relabelled: bool
    is_random: bool


def compare(human: HumanBoxes, found: ImageBoxes, classes: Sequence[str]) -> Change:
    """Compare the boxes of a person with ours.

    Args:
        human: the boxes of a person.
        found: ours in the same image.
        classes: the names of the classes.
    """
    best = found.boxes[0] if found.boxes else None
    same_class = [n for n, name in enumerate(human.classes)
                  if best is not None and name == classes[best.label]]  # fmt: skip
    iou = 0.0 if best is None else best_iou(np.array(best.box), human.boxes[same_class])
    return Change(
        human.id,
        iou,
        _are_same(human, found, classes),
        best is not None and len(human.boxes) > 0 and not same_class,
        human.is_random,
    )


def _are_same(human: HumanBoxes, found: ImageBoxes, classes: Sequence[str]) -> bool:
    """Return whether a person left all boxes and their classes as they were."""
    if len(human.boxes) != len(found.boxes):
        return False
    left = list(range(len(human.boxes)))
    for ours in found.boxes:
        box = np.array(ours.box)
        equal = [
            n for n in left
            if human.classes[n] == classes[ours.label]
            and (np.abs(human.boxes[n] - box).max() <= MAX_PIXEL_DIFFERENCE
                 or pairwise_iou(human.boxes[n][None], box[None])[0, 0] >= SAME_IOU)
        ]  # fmt: skip
        if not equal:
            return False
        left.remove(equal[0])
    return True


def summarise(
    changes: Sequence[Change], wrong: Sequence[WrongMark] | None = None, to_correct: int = 0
) -> dict[str, Any]:
    """Return counts, and of the random images the share whose best-scored box was right.

    Args:
        changes: of the reviewed images.
        wrong: the images that were marked as wrong or to be corrected, where the file holds marks;
            None: the boxes
            of a tool, which are compared with ours.
        to_correct: how many of `wrong` were marked as to be corrected.
    """
    marked = wrong or ()
    random = [change for change in changes if change.is_random]
    doubtful = [change for change in changes if not change.is_random]
    # A mark says itself that the boxes are right, also that there are rightly none.
    right = len(random) if wrong is not None else _count_right(random)
    doubtful_right = len(doubtful) if wrong is not None else _count_right(doubtful)
    random_count = len(random) + sum(mark.is_random for mark in marked)
    return {
        "reviewed": len(changes) + len(marked),
        "unchanged": sum(change.is_unchanged for change in changes),
        "corrected": sum(not change.is_unchanged for change in changes),
        "relabelled": sum(change.is_relabelled for change in changes),
        "marked_wrong": len(marked) - to_correct,
        "marked_to_correct": to_correct,
        "random": random_count,
        "random_right": right,
        "right_share": right / random_count if random_count else None,
        "right_interval": list(wilson_interval(right, random_count)) if random_count else None,
        "iou": None if wrong is not None else RIGHT_IOU,
        "doubtful": len(changes) + len(marked) - random_count,
        "doubtful_right": doubtful_right,
    }


def _count_right(changes: Sequence[Change]) -> int:
    return sum(change.iou >= RIGHT_IOU for change in changes)


def _describe_none(waiting: int) -> list[str]:
    """Return the lines for a file without a review; `waiting`: its images that nobody submitted."""
    lines = ["no image was reviewed by a person: no box is kept, and nothing is measured"]
    if waiting:
        lines.append(
            f"{waiting} images have boxes that nobody submitted or accepted: do so in the tool, or "
            "say that you looked at them: ingest.reviewed=all, or =FILE with an image a line"
        )
    return lines


def describe(summary: Mapping[str, Any]) -> list[str]:
    """Return the lines that the terminal shows.

    Args:
        summary: as `summarise` returns it.
    """
    if not summary["reviewed"]:
        return _describe_none(summary.get("not_reviewed", 0))
    lines = [
        f"{summary['reviewed']} images reviewed by a person: {summary['unchanged']} left as they "
        f"were, {summary['corrected']} corrected"
        + (f" ({summary['relabelled']} of another class)" if summary["relabelled"] else "")
        + (f", {summary['marked_wrong']} marked as wrong" if summary["marked_wrong"] else "")
        + (f", {count} as to be corrected" if (count := summary.get("marked_to_correct")) else "")
    ]
    if summary["random"]:
        low, high = summary["right_interval"]
        meaning = "by a person's mark" if summary["iou"] is None else f"IoU of at least {RIGHT_IOU}"
        lines.append(
            f"of {summary['random']} images drawn at random {100 * summary['right_share']:.0f} % "
            f"were right ({meaning}), {100 * low:.0f} to {100 * high:.0f} "
            "(95 %): expect this of the images that nobody reviewed"
        )
    else:
        lines.append(
            "none of them was drawn at random: they correct their images, and measure nothing; "
            "images with review_sample do"
        )
    if summary["doubtful"]:
        lines.append(
            f"of {summary['doubtful']} images chosen otherwise {summary['doubtful_right']} were "
            "right: not a measure of the whole set"
        )
    return lines
