"""The part that data sets share whose images are joined from rows: classes, splits, boxes.

Rows name an image, its labels, perhaps its split, and boxes apart, which only measure.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from pipeline.data.annotations import MatchedAnnotations
from pipeline.data.of_contents import OfContents
from pipeline.data.table_boxes import TableTruth, build_truth
from pipeline.data.table_images import TableBox
from pipeline.data.table_splits import TableContents
from pipeline.formats import coco
from pipeline.ops.hashing import hash_of
from pipeline.types import GroundTruth, Note, Split


class OfRows(OfContents):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of `TableContents`.

    A COCO file of labels gives the order of the classes; numbers are sorted as numbers.
    """

    @property
    @abstractmethod
    def _contents(self) -> TableContents:
        """What the rows say."""

    @property
    @abstractmethod
    def _name(self) -> str:
        """What notes call the rows."""

    # -- annotations: for evaluate and calibrate

    @cached_property
    def _truths(self) -> dict[Split, TableTruth]:
        """Annotations of the splits that were asked for."""
        return {}

    def _get_truth(self, split: Split) -> TableTruth:
        """Return the annotations of a split; read each image's size once."""
        if split not in self._truths:
            contents = self._contents
            self._truths[split] = build_truth(
                contents.splits[split], contents.boxes, contents.class_of, self._name
            )
        return self._truths[split]

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return annotations by image id; images without a box in the table are left out."""
        return self._get_truth(split).truth

    def truth_notes(self) -> list[str]:
        """Return what was unusual about the boxes of scored and calibration images, a line each."""
        contents = self._contents
        if not contents.boxes:
            return list(contents.box_notes)
        splits: tuple[Split, ...] = ("val", "calibration")
        return [
            *contents.box_notes,
            *(note for split in splits for note in self._get_truth(split).notes),
        ]

    def truth_fingerprint(self, split: Split) -> str:
        """Hash the boxes of a split, with their labels, and what is said of those left out.

        Returns:
            The hash; `none` where there are no boxes.
        """
        contents = self._contents
        ids = [id for id in contents.splits[split].ids if id in contents.boxes]
        faults = [(note, *note.names) for note in contents.box_notes if isinstance(note, Note)]
        if not ids and not faults:
            return "none"
        listed = [
            [id, [[*box.box, self._label_of(box)] for box in contents.boxes[id]]] for id in ids
        ]
        return hash_of([list(contents.classes), listed, *([faults] if faults else ())])

    def _label_of(self, box: TableBox) -> str | None:
        """Return the label of a box where it is not that of the image."""
        return box.own_label if self.is_multi_label else box.label

    def _read_drawn(self, file: Path) -> MatchedAnnotations:
        by_name = {name: n for n, name in enumerate(self.classes)}
        every = self.splits.all
        return MatchedAnnotations(
            coco.read(file, self.crowds), every.ids, every, by_name, takes_predictions=False
        )
