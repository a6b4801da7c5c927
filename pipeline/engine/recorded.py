"""The results of the run that `run=` names."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.formats.files import read_json


def find_recorded(run: str | None, stage: str, method: str | None) -> Path | None:
    """Return the folder of a stage's result; None where the run has none.

    Args:
        run: the folder of the run; None: no run is named.
        stage: the stage.
        method: the saliency method; None: the main method, or the stage has a result for all.
    """
    if run is None:
        return None
    link = Path(run) / "stages" / (stage if method is None else f"{stage}-{method}")
    return link.resolve() if link.exists() else None


def check_same_images(run: str, explained: Path, fingerprint: str, split: str) -> None:
    """Check that images are as they were when a run explained them.

    Args:
        run: the folder of the run.
        explained: its result of stage explain.
        fingerprint: of the images now.
        split: that was explained.

    Raises:
        UserError: images were added, removed or changed since.
    """
    if read_json(explained / "cache_key.json")["data"] != fingerprint:
        raise UserError(
            f"run={run}: images of split {split} were added, removed or changed since, or "
            "classes.txt gave their classes other names; give the command of that run again, then "
            "name its new folder. Reviews that are in human_boxes.json stay, and a tool's file may "
            "name classes by their folders"
        )
