"""The record of a measurement, its table, and outputs/bench/NAME.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """A measured number beside that of a peer.

    Attributes:
        name: The name of the number.
        ours: Its value.
        theirs: The value of the peer or a limit, if there is one.
        ratio: Above 1 where ours is better; None for accuracy.
        unit: The unit of both values.
        peer: What `theirs` was measured on, or a note.
        low: The lowest ratio of a round, where rounds were measured.
        high: The highest.
    """

    name: str
    ours: float
    theirs: float | None
    ratio: float | None
    unit: str
    peer: str
    low: float | None = None
    high: float | None = None


def write(name: str, records: Sequence[Record], outputs: Path = Path("outputs")) -> Path:
    """Write records to `<outputs>/bench/<name>.json`. Returns the file."""
    path = outputs / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")
    return path


def read(name: str, outputs: Path = Path("outputs")) -> list[Record]:
    """Return the records that `write` wrote."""
    text = (outputs / "bench" / f"{name}.json").read_text(encoding="utf-8")
    return [Record(**row) for row in json.loads(text)]


def table(records: Sequence[Record]) -> str:
    """Return records as the lines of a table with aligned columns."""
    rows = [["", "ours", "theirs", "ratio", "unit", "peer"]]
    rows += [
        [r.name, *map(format_number, (r.ours, r.theirs, r.ratio)), r.unit, r.peer] for r in records
    ]
    widths = [max(len(row[n]) for row in rows) for n in range(6)]
    lines = []
    for name, *numbers, unit, peer in rows:
        cells = [name.ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(numbers, widths[1:4], strict=True)]
        lines.append("  ".join([*cells, unit.ljust(widths[4]), peer]).rstrip())
    return "\n".join(lines)


def format_number(value: float | None) -> str:
    """Return a number as tables show it; "-" where there is none."""
    return "-" if value is None else f"{value:.4g}"
