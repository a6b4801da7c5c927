"""The tables and the records of thresholds.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.measure.records import Record
from scripts.measure.threshold_scores import (
    AUTO,
    BOXES,
    CENTRE,
    IOUS,
    ORACLE,
    SIZES,
    USED,
    WHOLE,
    Score,
    Scores,
)


@dataclass(frozen=True)
class Block:
    """The scores of a method on the scored images of a set.

    Attributes:
        name: the set, `-mixed` where its images are crops, and the method.
        sample: which images and seeds, in words.
        counts: the images of each size.
        scores: by IoU.
    """

    name: str
    sample: str
    counts: Mapping[str, int]
    scores: Mapping[float, Scores]

    @property
    def kinds(self) -> list[str]:
        """The kinds of thresholds, and the baselines, in the order of the table."""
        scored = list(self.scores[IOUS[0]].of)
        fixed = [kind for kind in scored if kind.startswith("fixed")]
        validation = [f"validation {count}" for count in BOXES]
        order = [USED, *fixed, AUTO, *validation, ORACLE, CENTRE, WHOLE]
        return [kind for kind in order if kind in scored]


def count_sizes(shares: np.ndarray) -> dict[str, int]:
    """Count the images of each size, by the share of the area that their largest object has."""
    return {
        name: int(((shares >= low) & (shares < high)).sum()) for name, (low, high) in SIZES.items()
    }


def format_block(block: Block) -> str:
    """Return the tables of a block: all images, against the centre box, by size of the object.

    A score is percent, points to the oracle and the 95 % interval of these; a comparison is points
    and their standard error.
    """
    head = ["", *(f"@{iou:g}" for iou in IOUS)]
    rows = [
        [kind, *(_format_score(block.scores[iou], kind) for iou in IOUS)] for kind in block.kinds
    ]
    rows += [
        [f"{kind} - {CENTRE}", *(_format_comparison(block.scores[iou], kind) for iou in IOUS)]
        for kind in (USED, AUTO)
    ]
    ious = "/".join(f"{iou:g}" for iou in IOUS)
    sizes = [[f"@{ious} by share", *(f"{name} (n={n})" for name, n in block.counts.items())]]
    sizes += [
        [kind, *("/".join(_percents(block.scores, kind, name)) for name in SIZES)]
        for kind in block.kinds
    ]
    title = f"{block.name}: {block.sample}"
    return "\n".join([title, *align_columns([head, *rows]), *align_columns(sizes)])


def format_summary(blocks: Sequence[Block]) -> str:
    """Return the points to the oracle at IoU 0.5 and 0.7 of all blocks, a line for each."""
    kinds = (USED, AUTO, *(f"validation {count}" for count in BOXES))
    rows = [["points to the oracle @0.5; @0.7", "oracle", *kinds, f"not below {CENTRE}"]]
    for block in blocks:
        tight = (block.scores[0.5], block.scores[0.7])
        cells = ["; ".join(f"{100 * scores.of[ORACLE].accuracy:.1f}" for scores in tight)]
        for kind in kinds:
            known = [scores.of[kind] for scores in tight if kind in scores.of]
            cells.append("; ".join(f"{100 * score.difference:+.1f}" for score in known) or "-")
        missed = [
            f"{kind}@{iou:g}"
            for iou in IOUS
            for kind, comparison in block.scores[iou].against_centre.items()
            if not comparison.holds
        ]
        rows.append([block.name, *cells, "missed: " + ", ".join(missed) if missed else "held"])
    return "\n".join(align_columns(rows))


def list_records(block: Block) -> Iterator[Record]:
    """Yield the numbers of a block: of all images, against the centre box, by size."""
    for iou in IOUS:
        scores = block.scores[iou]
        oracle = scores.of[ORACLE].accuracy
        for kind in block.kinds:
            score, low_high = scores.of[kind], ""
            if kind != ORACLE:
                low, high = (f"{100 * end:.1f}" for end in score.interval)
                low_high = f"{_points(score)} points, 95 %: {low} to {high}; "
            note = f"oracle {_format_thresholds(scores)}; {low_high}{block.sample}"
            yield _record(f"{block.name}:{kind}@{iou:g}", score.accuracy, oracle, note)
        centre = scores.of[CENTRE].accuracy
        for kind, comparison in scores.against_centre.items():
            error = f"standard error {100 * comparison.error:.1f} points; {block.sample}"
            name = f"{block.name}:{kind} - {CENTRE}@{iou:g}"
            yield _record(name, scores.of[kind].accuracy, centre, f"{CENTRE}; {error}")
        for size, count in block.counts.items():
            for kind in block.kinds if count else ():
                name = f"{block.name}:{kind}@{iou:g}, share {size}"
                by_size, best = scores.of[kind].by_size, scores.of[ORACLE].by_size
                note = f"oracle of all sizes, n={count}"
                yield _record(name, by_size[size], best[size], note)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _record(name: str, ours: float, theirs: float, note: str) -> Record:
    return Record(name, ours, theirs, None, "fraction", note)


def _format_score(scores: Scores, kind: str) -> str:
    score = scores.of[kind]
    accuracy = f"{100 * score.accuracy:5.1f}"
    if kind == ORACLE:
        return f"{accuracy}  {_format_thresholds(scores)}"
    low, high = (f"{100 * end:+.1f}" for end in score.interval)
    return f"{accuracy} {_points(score):>6} ({low}, {high})"


def _format_comparison(scores: Scores, kind: str) -> str:
    comparison = scores.against_centre[kind]
    mark = "" if comparison.holds else " below"
    difference = f"{100 * comparison.difference:+.1f}"
    return f"{'':5} {difference:>6} +- {100 * comparison.error:.1f}{mark}"


def _format_thresholds(scores: Scores) -> str:
    """Return the oracle's threshold for each seed."""
    return "@" + ", ".join(f"{at:.3f}" for at in scores.oracle_at)


def _points(score: Score) -> str:
    return f"{100 * score.difference:+.1f}"


def _percents(scores: Mapping[float, Scores], kind: str, size: str) -> list[str]:
    """Return the accuracy on images of a size, at each IoU."""
    values = [scores[iou].of[kind].by_size[size] for iou in IOUS]
    return ["-" if np.isnan(value) else f"{100 * value:.0f}" for value in values]
