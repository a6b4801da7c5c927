"""`python -m scripts.measure bench NAME` and `python -m scripts.measure accuracy NAME`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from pipeline.errors import UserError
from scripts.measure import (
    accuracy,
    annotate,
    bench_all,
    confidences,
    detector,
    mosaics,
    picture_segmenters,
    precision,
    records,
    teacher,
    thresholds,
)

STUDIES = {
    "annotate": annotate.run,
    "confidences": confidences.run,
    "thresholds": thresholds.run,
    "precision": precision.run,
    "segmenters": picture_segmenters.run,
    "mosaics": mosaics.run,
    "detector": detector.run,
    "teacher": teacher.run,
}
PRINT_THEMSELVES = {"annotate", "confidences", "teacher", "thresholds"}
"""Studies that print a table of their own."""
SPEED = sorted(path.stem[6:] for path in Path(__file__).parent.glob("speed_*.py"))


def main(kind: str, *arguments: str) -> int:
    """Run a measurement, print its table and write it. Returns the exit code.

    Args:
        kind: `bench` or `accuracy`.
        arguments: The name of the measurement, then its arguments.
    """
    names = ["all", *SPEED] if kind == "bench" else sorted({*accuracy.SETS, *STUDIES})
    if not arguments or arguments[0] not in names:
        print(f"usage: scripts/{kind} NAME; names: {', '.join(names)}", file=sys.stderr)
        return 2
    name, *rest = arguments
    if (kind, name) == ("bench", "all"):
        return bench_all.run(*rest)
    try:
        if kind == "bench":
            measured = import_module(f"scripts.measure.speed_{name}").run(*rest)
        elif name in STUDIES:
            measured = STUDIES[name](*rest)
        else:
            measured = accuracy.run(name, *rest)
    except FileNotFoundError as error:
        print(f"{name}: {error.filename} does not exist, so nothing was measured", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    if name not in PRINT_THEMSELVES:
        print(records.table(measured))
    print(f"written to {records.write(name, measured)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
