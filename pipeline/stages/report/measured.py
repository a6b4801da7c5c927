"""What stage evaluate measured of a method, as the charts of the page need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.files import read_json
from pipeline.results.comparison import FILE, MAIN_ROWS, Measurement

if TYPE_CHECKING:
    from jaxtyping import Float

    from pipeline.stages.report.words import MethodResult


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The numbers of a method of which boxes were scored.

    Attributes:
        method: its name.
        saliency: the name of the method in the records.
        ious: the IoUs that boxes must reach.
        iou: of the best-scored box of each unit; 0 where there is none.
        threshold: that the boxes were cut at, as metrics.json describes it; None: none.
        records: of metrics.json.
        curve: curve.json.
        classes: the table of classes of table.json; None: there is none.
    """

    method: str
    saliency: str
    ious: tuple[float, ...]
    iou: Float[np.ndarray, n]
    threshold: Mapping[str, Any] | None
    records: Sequence[Mapping[str, Any]]
    curve: Mapping[str, Any]
    classes: Mapping[str, Any] | None

    @classmethod
    def read(cls, result: MethodResult) -> Measured:
        """Read what stage evaluate left of a method."""
        rows = Measurement.read(result.evaluation / FILE, result.method)
        return cls(
            method=result.method,
            saliency=result.saliency,
            ious=rows.ious,
            iou=np.asarray(rows.arrays.get(MAIN_ROWS, ()), np.float64),
            threshold=rows.threshold,
            records=read_json(result.evaluation / "metrics.json"),
            curve=result.curve,
            classes=result.table["classes"],
        )

    @property
    def count(self) -> int:
        """How many units were scored."""
        return len(self.iou)

    @property
    def threshold_text(self) -> str:
        """The threshold of the boxes: its kind, its rule, and its value if it is one."""
        if self.threshold is None:
            return ""
        value, rule = self.threshold.get("value"), self.threshold.get("rule")
        shown = f"{value:g}" if isinstance(value, float) else None
        return " ".join(filter(None, [str(self.threshold["kind"]), rule, shown]))

    def overall(self, name: str) -> list[Mapping[str, Any]]:
        """Return the records of a number over all images, of the maps as the method made them."""
        return [
            record
            for record in self.records
            if record["name"] == name
            and record["group"] is None
            and record["method"] == self.saliency
        ]

    @property
    def has_refined_maps(self) -> bool:
        """Whether the segmenter made maps of its own, whose numbers have a name of their own."""
        return any(record["method"] not in (None, self.saliency) for record in self.records)

    def of_groups(self, name: str, group: str) -> list[Mapping[str, Any]]:
        """Return the records of a number in the groups of a kind, at the threshold of the boxes."""
        kind = None if self.threshold is None else self.threshold["kind"]
        return [
            record
            for record in self.records
            if record["name"] == name
            and record["group"] == group
            and (record["threshold"] or {}).get("kind") == kind
        ]
