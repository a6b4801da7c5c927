"""Say how the random sample differs from that of an earlier run, which somebody may be reviewing.

The sample is drawn by the hash of names (ranking.py): of many images a new one takes the place of
another. What a person has reviewed of the earlier sample, and not ingested yet, measures only where
it is still in the sample.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.completion import read_run_config
from pipeline.engine.earlier_network import find_source
from pipeline.formats.files import find_below, read_json
from pipeline.ops.text import count_note
from pipeline.types import Note

FILE = "sample.json"
"""In a result of stage rank: the names of the images that were drawn at random."""
MAX_RUNS = 50  # newest ones, whose configurations are read


@dataclass(frozen=True)
class Draw:
    """What a random sample depends on, besides the names of the images.

    Attributes:
        source: the data set, as `find_source` names it.
        split: the split.
        count: how many images are drawn.
        seed: of the draw.
    """

    source: tuple[Any, Path | None]
    split: str
    count: int
    seed: int


def describe_changed_sample(
    outputs: Path, draw: Draw, result: Path, ids: Collection[str]
) -> list[Note]:
    """Return a note where images left the random sample since the newest earlier run.

    Args:
        outputs: the folder of outputs.
        draw: of this run.
        result: its result of stage rank.
        ids: the names of its images.
    """
    for earlier, sample in _find_earlier(outputs, result):
        if _read_draw(earlier) != draw:
            continue
        now, before = {*read_json(result / FILE)}, {*read_json(sample)}
        left = sorted((before - now).intersection(ids))
        if not left:
            return []
        why = (
            f"left the random sample of {len(before)} since {earlier}, and {len(now - before)} "
            "others came, as images were added or removed: a review of those that left measures "
            "only if it was ingested before, and else corrects its own image alone"
        )
        remedy = "go on with review_sample of this run"
        return [count_note(left, "image", why, where="rank", remedy=remedy)]
    return []


def _find_earlier(outputs: Path, result: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the newest runs with another result of stage rank, and the file of its sample."""
    samples = find_below(outputs, f"runs/*/[!.]*/stages/rank/{FILE}")
    runs = sorted(samples, key=lambda path: path.parents[2].name, reverse=True)
    for sample in runs[:MAX_RUNS]:
        if sample.parent.resolve() != result.resolve():
            yield sample.parents[2], sample


def _read_draw(run: Path) -> Draw | None:
    """Return what the sample of a run depends on; None where it has no configuration."""
    recorded = read_run_config(run)
    if not recorded:
        return None
    split, count = recorded["explain"]["split"], recorded["rank"]["sample"]
    return Draw(find_source(recorded["data"]), split, count, recorded["seed"])
