"""Localize: maps -> scored boxes, in shards; then the two files that detection tools load.

A map is cut where the segmenter says; with segmenter.threshold=validation at the threshold that
stage calibrate chose on other images.

boxes.json        a COCO results file: image_id, category_id, bbox, score
predictions.json  a whole COCO data set: images, categories, annotations with scores
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.engine import ranks, runtime, shards, terminal
from pipeline.engine.images import segment_map
from pipeline.engine.run import Run
from pipeline.engine.thresholds import (
    used_thresholds,
    uses_validation_threshold,
)
from pipeline.errors import SkippedImage
from pipeline.exporter.coco import iterate_results, write_data_set
from pipeline.formats import coco
from pipeline.formats.files import atomic_write, read_json, write_json
from pipeline.protocols import Segmenter
from pipeline.results.boxes import describe_fallbacks, iterate_boxes, pack_boxes
from pipeline.results.maps import iterate_maps, load_classification
from pipeline.results.shards import list_shards
from pipeline.results.thresholds import USED_IOU, threshold_for_image
from pipeline.types import Boxes, SaliencyMap


def segment_maps(run: Run, folder: Path) -> None:
    maps, segmenter_for = run.folder("explain"), _segmenters(run)
    ids = run.data.ids(run.split)
    of_maps = list_shards(maps)

    # Where an image takes milliseconds, the workers share the images of a shard; where a map alone
    # is cut, handing it over would cost more than cutting it, and they share the shards.
    outer, inner = (0, run.workers) if run.segmenter().needs_image else (run.workers, 0)

    def one(item: tuple[int, SaliencyMap]) -> tuple[int, Boxes | SkippedImage]:
        position, saliency = item
        return position, segment_map(run, segmenter_for(saliency.id), position, saliency)

    def cut(numbers: range) -> tuple[list[tuple[int, Boxes]], shards.Skipped]:
        found: list[tuple[int, Boxes]] = []
        aside: shards.Skipped = []
        items = (item for number in numbers for item in iterate_maps(of_maps[number], ids))
        for position, boxes in runtime.map_in_threads(one, items, inner):
            if isinstance(boxes, SkippedImage):
                aside.append((position, str(boxes)))
            else:
                found.append((position, boxes))
        return found, aside

    def flow(pieces: Iterator[range]) -> Iterator[tuple[list[tuple[int, Boxes]], shards.Skipped]]:
        return runtime.map_in_threads(cut, pieces, outer, run.workers + 1)

    plan = read_json(maps / "plan.json")
    shards.write_shards(
        folder, "localize", len(of_maps), 1, 1, flow, lambda parts: pack_boxes(*parts[0]), plan
    )
    if ranks.current_world().rank > 0:
        return  # rank 0 puts the shards together
    told = describe_fallbacks(folder, ids)
    for line in told:
        terminal.print_line(f"localize: {line}")
    write_json(folder / "notes.json", told)
    names = run.coco_names()
    with atomic_write(folder / "boxes.json") as path:
        coco.dump(path, iterate_results(iterate_boxes(folder, ids), names))
    with atomic_write(folder / "predictions.json") as path:
        seen = load_classification(maps)
        sizes = zip(seen.image.tolist(), map(tuple, seen.size.tolist()), strict=True)
        write_data_set(path, iterate_boxes(folder, ids), sizes, run.classes, names)


def _segmenters(run: Run) -> Callable[[str], Segmenter]:
    """The segmenter of each image: with validation thresholds one for each half of them."""
    segmenter = run.segmenter()
    if not uses_validation_threshold(run):
        return lambda _: segmenter
    values = used_thresholds(run)["thresholds"][f"{USED_IOU:g}"]
    cut_at = {value: segmenter.with_threshold(value) for value in values}
    return lambda id: cut_at[threshold_for_image(values, id)]
