"""The part that data sets share whose images lie in shards: classes, splits, boxes of COCO."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data import hashed_splits, listing
from pipeline.data.annotations import MatchedAnnotations
from pipeline.data.archive_files import to_columns, to_table
from pipeline.data.file_table import FileTable
from pipeline.data.listing import Listing, Splits
from pipeline.data.of_contents import OfContents
from pipeline.data.shard_labels import ShardLabels
from pipeline.data.shard_samples import Shard
from pipeline.data.table_splits import refuse_negatives
from pipeline.errors import UserError
from pipeline.formats import coco
from pipeline.formats.files import content_hash, find_spelling
from pipeline.ops.text import count_note
from pipeline.types import GroundTruth, Split

if TYPE_CHECKING:
    from jaxtyping import Bool


@dataclass(frozen=True)
class ShardContents:
    """What is in the shards.

    Attributes:
        classes: The class names.
        splits: The listings.
    """

    classes: tuple[str, ...]
    splits: Splits


class OfShards(OfContents):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of images in shards.

    Attributes:
        boxes: COCO JSON with boxes of the scored images, by their ids; None: no boxes.
        val: Share of the images that is scored where no shard is.
        held_back: Share of the train images that selects the best epoch.
    """

    boxes: str | None
    val: float
    held_back: float

    def _check_options(self) -> None:
        """Check the options that all such data sets have. Raise UserError if one is wrong."""
        self._parse_image_options()
        listing.check_share("val", self.val)
        listing.check_share("held_back", self.held_back)
        refuse_negatives(self.several, self.negatives)
        if self.boxes is not None and not find_spelling(Path(self.boxes)).is_file():
            raise UserError(f"data.boxes={self.boxes}: no such file; expected COCO JSON")

    @property
    @abstractmethod
    def _contents(self) -> ShardContents:
        """What is in the shards."""

    @property
    @abstractmethod
    def _given(self) -> str:
        """The option that names the shards, with its value, for messages."""

    # -- images and labels

    def _sort(
        self,
        shards: Sequence[Shard],
        prefixes: Sequence[str],
        splits: Sequence[Split],
        names: Sequence[str],
        notes: Sequence[str],
    ) -> ShardContents:
        """Sort the images of shards into classes and splits.

        Args:
            shards: The shards.
            prefixes: What the ids of the images of each begin with.
            splits: The split of each.
            names: Class names by the numbers that labels are; may be empty.
            notes: What was unusual before.
        """
        rows = [range(len(shard.labels)) for shard in shards]
        table = to_table(to_columns([shard.files for shard in shards], prefixes, rows))
        labels = ShardLabels.number(shards, names, self.is_multi_label)
        of_image = np.repeat(np.array(splits), [len(each) for each in rows])
        all_notes = [*notes, *self._check_labels(table, labels)]
        keep = self.is_multi_label
        is_usable = labels.counts > 0 if keep else labels.counts == 1
        train, val, calibration = (
            labels.select(table, (of_image == split) & is_usable, keep)
            for split in ("train", "val", "calibration")
        )
        is_test = (labels.counts == 0) | ((of_image == "test") & is_usable)
        test = labels.select(table, is_test, keep)
        return ShardContents(labels.classes, self._split(train, val, calibration, test, all_notes))

    def _check_labels(self, table: FileTable, labels: ShardLabels) -> list[str]:
        """Return notes on images that cannot be used as they are labelled.

        Raises:
            UserError: No image has a label, or some have several and that is not allowed.
        """
        ids, notes = table.list_ids(), list[str]()
        several, without, unknown = (
            [ids[n] for n in np.flatnonzero(chosen).tolist()]
            for chosen in (labels.counts > 1, labels.counts == 0, labels.counts < 0)
        )
        if unknown:
            why = "with a label that is no class of its list: left out"
            remedy = "correct the list of classes"
            named = [f"{id}: {labels.shown(n)}" for id, n in _zip_chosen(ids, labels.counts < 0)]
            notes.append(count_note(named, "image", why, remedy=remedy))
        if several and not self.is_multi_label:
            why = f"of {len(ids)} have several labels"
            if self.several == "refuse":
                remedy = (
                    "data.several=keep learns each of them as an image of all its classes, "
                    "data.several=leave_out leaves them out"
                )
                text = count_note(several, "image", why, remedy=remedy)
                raise UserError(f"{self._given}: {text}")
            notes.append(count_note(several, "image", f"{why}: left out"))
        if without:
            why = "without a label: neither trained on nor scored"
            remedy = "explain.split=all gives boxes to all images, explain.split=test to these"
            notes.append(count_note(without, "image", why, remedy=remedy))
        if not (labels.counts > 0).any():
            lines = "".join(f"\n  {note}" for note in notes)
            raise UserError(
                f"{self._given}: no image has a label; images without labels are given by "
                f"images=PATH{lines}"
            )
        return notes

    def _split(
        self,
        train: Listing,
        val: Listing,
        calibration: Listing,
        test: Listing,
        notes: Sequence[str],
    ) -> Splits:
        """Return the splits; where nothing is scored, a share of the train images is."""
        if not len(val.files):
            total = len(train.files)
            train, val = hashed_splits.set_apart(train, self.val, "val")
            if len(val.files):
                scored = f"{len(val.files)} of {total} images, chosen by hash of their names,"
                notes = [
                    *notes,
                    f"no shard that is scored: {scored} are scored and not trained on "
                    f"(data.val={self.val:g})",
                ]
            remedy = "name shards that are scored, or ask for more"
            few = hashed_splits.describe_few(len(val.files), total, self.val, remedy)
            notes = [*notes, *few]
        kept, held_back = hashed_splits.set_apart(train, self.held_back, "held_back")
        return Splits(kept, held_back, val, notes, calibration, test)

    # -- annotations: for evaluate and calibrate

    @cached_property
    def _scored_boxes(self) -> MatchedAnnotations | None:
        if self.boxes is None:
            return None
        return self._match(find_spelling(Path(self.boxes)), self.ids("val"), True)

    def _match(self, file: Path, ids: Sequence[str], takes_predictions: bool) -> MatchedAnnotations:
        """Read a COCO file and match it with the images and classes."""
        by_name = {name: n for n, name in enumerate(self.classes)}
        content = coco.read(file, self.crowds)
        return MatchedAnnotations(
            content, ids, self.splits.all, by_name, takes_predictions=takes_predictions
        )

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return the annotations of `data.boxes` by image id; none where it is not given."""
        if self._scored_boxes is None:
            return {}
        ids = {*self.ids(split)}
        return {id: known for id, known in self._scored_boxes.truth.items() if id in ids}

    def truth_notes(self) -> list[str]:
        """Return what was unusual about the annotations, a line each."""
        return [] if self._scored_boxes is None else list(self._scored_boxes.notes)

    def truth_fingerprint(self, split: Split) -> str:
        """Hash the file of annotations; `none` where there is none."""
        if self.boxes is None:
            return "none"
        hashed = content_hash(find_spelling(Path(self.boxes)))
        return hashed + ("" if self.crowds == "ignore" else f"-{self.crowds}")

    def _read_drawn(self, file: Path) -> MatchedAnnotations:
        return self._match(file, self.splits.all.ids, False)


def _zip_chosen(ids: Sequence[str], chosen: Bool[np.ndarray, n]) -> list[tuple[str, int]]:
    """Return the ids that are chosen, with their positions."""
    return [(ids[n], n) for n in np.flatnonzero(chosen).tolist()]
