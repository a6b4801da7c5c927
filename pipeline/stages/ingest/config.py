"""Options of stage ingest."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class IngestOptions:
    """Which images of the file a person has reviewed, and which ingest to take back."""

    reviewed: str | None = option(
        None, "all | FILE: a text of image names, a line each; null: as the tool says"
    )
    undo: str | None = option(
        None, "the folder of an ingest, outputs/runs/ingest/TIME, whose reviews are taken back"
    )
