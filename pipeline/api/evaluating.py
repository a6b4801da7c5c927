"""Boxes against annotations, with the numbers of `+experiment=evaluate boxes= annotations=`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any, get_args

from pipeline.api.explaining import Explained
from pipeline.api.localizing import Localized
from pipeline.engine.metrics import list_numbers, load_metrics
from pipeline.errors import UserError, suggest_choices
from pipeline.formats import coco
from pipeline.formats.coco_records import CrowdRule
from pipeline.formats.files import write_json
from pipeline.results.computed import Computed
from pipeline.results.table import format_table
from pipeline.stages.evaluate.not_found import Missing
from pipeline.stages.evaluate.others import Named
from pipeline.stages.evaluate.outcome import score_source
from pipeline.types import Score

UNKNOWN_SHOWN = 5  # names in an error


@dataclass(frozen=True)
class Scores(Mapping[str, float]):
    """The numbers of an evaluation: `scores["gt_known_loc"]` is that at IoU 0.5 over all images.

    Attributes:
        all: every number, as metrics.json has it: per IoU, class, size, with intervals.
        table: the table that the command line prints.
        notes: what was left out, and why.
    """

    all: Sequence[Score]
    table: str
    notes: Sequence[str]

    def _headlines(self) -> dict[str, float]:
        overall = [score for score in self.all if score.group is None]
        return {score.name: score.value for score in overall if score.iou in (None, 0.5)}

    def __getitem__(self, name: str) -> float:
        numbers = self._headlines()
        if name not in numbers:
            raise KeyError(f"{name}: no such number; {suggest_choices(str(name), numbers)}")
        return numbers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headlines())

    def __len__(self) -> int:
        return len(self._headlines())

    def __str__(self) -> str:
        return "\n".join([self.table, *self.notes])


def evaluate(
    boxes: Localized | str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    *,
    ious: Sequence[float] = (0.3, 0.5, 0.7),
    seed: int = 0,
    crowds: CrowdRule = "ignore",
    missing: Missing = "not_found",
) -> Scores:
    """Score boxes against annotated boxes: the numbers of the command line.

    Args:
        boxes: what `localize` returned, or a COCO results file (JSON) of any code. Images are
            matched by the path of their file, classes by name.
        annotations: a COCO data set (JSON).
        ious: the IoUs that a box must reach.
        seed: of the bootstrap.
        crowds: what annotations marked `iscrowd` are.
        missing: `not_found`: an annotated image that was not explained counts as not found, as one
            without a box does; `skip`: only the images that were explained are scored. Of a results
            file these are the images that have a box there. A note counts what is left out.

    Raises:
        UserError: a file cannot be read, no image or class is that of an annotation, or an option
            has another value.
        TypeError: `boxes` or `annotations` are of another type.
    """
    _check_types(boxes, annotations)
    if missing not in get_args(Missing):
        raise UserError(f"missing={missing!r}: choices: {', '.join(get_args(Missing))}")
    named = Named(annotations=str(annotations), ious=tuple(ious), seed=seed, crowds=crowds,
                  missing=missing)  # fmt: skip
    if not isinstance(boxes, Localized):
        return _evaluate(replace(named, boxes=str(Path(boxes))))
    with TemporaryDirectory() as folder:
        results = Path(folder) / "boxes.json"
        records, images = _list_results(boxes, Path(annotations), crowds)
        write_json(results, records)
        return _evaluate(replace(named, boxes=str(results), images=images))


def _check_types(boxes: Any, annotations: Any) -> None:
    """Raise TypeError unless they are boxes, or a file of them, and a file of annotations."""
    if isinstance(boxes, Explained):
        raise TypeError("boxes: these are maps; evaluate(localize(result), annotations)")
    if not isinstance(boxes, Localized | str | os.PathLike):
        raise TypeError(
            "boxes: expected what localize returned, or the path of a COCO results file, got "
            f"{type(boxes).__name__}"
        )
    if not isinstance(annotations, str | os.PathLike):
        raise TypeError(
            "annotations: expected the path of a COCO data set (JSON), got "
            f"{type(annotations).__name__}; a dictionary is written with json.dump"
        )


def _evaluate(named: Named) -> Scores:
    named.check()
    sources, notes = named.open_sources(workers=0)
    metrics = load_metrics()
    with TemporaryDirectory() as folder:
        outcome = score_source(sources[0], metrics, Path(folder) / "images.json", Computed())
    table = format_table(outcome.source.name, outcome.table(list_numbers(metrics.values())))
    return Scores(tuple(outcome.scores), table, (*notes, *outcome.notes()))


def _list_results(
    boxes: Localized, annotations: Path, crowds: CrowdRule
) -> tuple[list[dict[str, Any]], frozenset[int]]:
    """Return boxes as records of a COCO results file for a data set, and the ids of their images.

    Raises:
        UserError: an image is not in the data set, or no class is one of its categories.
    """
    file = coco.read(annotations, crowds, "crowds")
    images = _match_images(
        boxes.images, {image.file_name: key for key, image in file.image_keys.items()}, annotations
    )
    categories = {file.categories[number]: key for key, number in file.category_keys.items()}
    predictions = [(image, p) for image, of in zip(images, boxes, strict=True) for p in of]
    unknown = sorted({p.label for _, p in predictions if p.label not in categories})
    if unknown and len(unknown) == len({p.label for _, p in predictions}):
        raise UserError(
            f"{annotations}: none of its categories "
            f"({', '.join(list(categories)[:UNKNOWN_SHOWN])}) is a class that was localized "
            f"({', '.join(unknown[:UNKNOWN_SHOWN])}); name the network's classes: "
            "explain(..., classes=[...])"
        )
    records = [
        {
            "image_id": image,
            "category_id": categories[p.label],
            "bbox": [float(x0), float(y0), float(x1) - float(x0), float(y1) - float(y0)],
            "score": float(score),
            **({} if p.masks is None else {"segmentation": dict(p.masks[n])}),
        }
        for image, p in predictions
        if p.label in categories
        for n, ((x0, y0, x1, y1), score) in enumerate(zip(p.boxes, p.scores, strict=True))
    ]
    return records, frozenset(file.image_keys[key].id for key in images)


def _match_images(names: Sequence[str], known: Mapping[str, Any], annotations: Path) -> list[Any]:
    """Return what stands for each image in a data set, matched by the end of its path.

    Raises:
        UserError: an image matches none, or several.
    """
    matched = []
    for name in names:
        parts = PurePath(name).parts
        ends = ["/".join(parts[n:]) for n in range(len(parts))]
        found_name = next((end for end in ends if end in known), None)
        if found_name is None:
            raise UserError(
                f"{name}: not among the {len(known)} images of {annotations}, as "
                f"{next(iter(known), 'none')}; explain paths whose ends are its file names"
            )
        matched.append(known[found_name])
    return matched
