"""Localize: maps -> scored boxes, in shards; then the two files that detection tools load.

A map is cut where the segmenter says; with segmenter.threshold=validation at the threshold that
stage calibrate chose on other images.

boxes.json        a COCO results file: image_id, category_id, bbox, score
predictions.json  a whole COCO data set: images, categories, annotations with scores
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline import ranks, runtime, shards, show, store
from pipeline.data import coco
from pipeline.records import Boxes, CocoNames, Problem, SaliencyMap, Segmenter, SetAside
from pipeline.run import Run
from pipeline.segmenter.frame import frame_size
from pipeline.stages import explain, picks


def made_of(run: Run) -> dict[str, Any]:
    names = run.coco_names()
    numbers = repr((list(names.image_ids), list(names.file_names), list(names.category_ids)))
    return {
        "source": run.sources("localize", "segmenter"),
        "explain": run.key("explain"),
        "segmenter": run.config["segmenter"],
        "names": hashlib.sha256(numbers.encode()).hexdigest()[:16],
        **_cut_at(run),
    }


def _cut_at(run: Run) -> dict[str, Any]:
    """What stands for the threshold that was chosen, where one was."""
    if not picks.is_used(run):
        return {}
    if picks.is_own(run):
        return {"calibrate": run.key("calibrate")}
    return {"chosen": picks.used(run)["thresholds"]}


def check(run: Run) -> None:
    """Raises Problem for a threshold that nothing would choose."""
    stages = run.config["stages"]
    if not picks.is_used(run):
        return
    if not picks.is_own(run):
        for name in run.methods:
            picks.used(run.for_method(name))
    elif "calibrate" not in stages and "explain" in stages and run.config["checkpoint"] is None:
        raise Problem(
            f"segmenter.threshold=validation: stage calibrate chooses it, and it is not among "
            f"stages={[*stages]}; add it after explain, or give segmenter.threshold=auto, which "
            "needs no boxes"
        )


def make(run: Run, folder: Path) -> None:
    maps, segmenter_for = run.folder("explain"), _segmenters(run)
    ids = run.data.ids(run.split)
    of_maps = shards.written(maps)

    # Where an image takes milliseconds, the workers share the images of a shard; where a map alone
    # is cut, handing it over would cost more than cutting it, and they share the shards.
    outer, inner = (0, run.workers) if run.segmenter().needs_image else (run.workers, 0)

    def one(item: tuple[int, SaliencyMap]) -> tuple[int, Boxes | SetAside]:
        position, saliency = item
        return position, _cut(run, segmenter_for(saliency.id), position, saliency)

    def cut(numbers: range) -> tuple[list[tuple[int, Boxes]], shards.Aside]:
        found: list[tuple[int, Boxes]] = []
        aside: shards.Aside = []
        items = (item for number in numbers for item in explain.maps_in(of_maps[number], ids))
        for position, boxes in runtime.stream(one, items, inner):
            if isinstance(boxes, SetAside):
                aside.append((position, str(boxes)))
            else:
                found.append((position, boxes))
        return found, aside

    def flow(pieces: Iterator[range]) -> Iterator[tuple[list[tuple[int, Boxes]], shards.Aside]]:
        return runtime.stream(cut, pieces, outer, run.workers + 1)

    plan = store.read_json(maps / "plan.json")
    shards.over(
        folder, "localize", len(of_maps), 1, 1, flow, lambda parts: _arrays(*parts[0]), plan
    )
    if ranks.world().rank > 0:
        return  # rank 0 puts the shards together
    told = _told(folder, ids)
    for line in told:
        show.line(f"localize: {line}")
    store.write_json(folder / "notes.json", told)
    names = run.coco_names()
    with store.whole_file(folder / "boxes.json") as path:
        coco.dump(path, results(folder, ids, names))
    with store.whole_file(folder / "predictions.json") as path:
        _data_set(path, run, folder, explain.classification(maps), names)


def _segmenters(run: Run) -> Callable[[str], Segmenter]:
    """The segmenter of each image: with validation thresholds one for each half of them."""
    segmenter = run.segmenter()
    if not picks.is_used(run):
        return lambda _: segmenter
    values = picks.used(run)["thresholds"][f"{picks.USED_IOU:g}"]
    cut_at = {value: at_value(segmenter, value) for value in values}
    return lambda id: cut_at[picks.value_for(values, id)]


def at_value(segmenter: Segmenter, value: float) -> Segmenter:
    """The same segmenter with a number for its threshold."""
    cut: Segmenter = cast(Any, segmenter).with_threshold(value)
    return cut


def _cut(run: Run, segmenter: Segmenter, position: int, saliency: SaliencyMap) -> Boxes | SetAside:
    if not segmenter.needs_image:
        return segmenter(saliency, None)
    frame = frame_size(saliency.size, segmenter.needs_image)
    example = shards.read_image(run, run.split, position, frame)
    return example if isinstance(example, SetAside) else segmenter(saliency, example)


def _arrays(
    found: Sequence[tuple[int, Boxes]], aside: shards.Aside
) -> tuple[shards.Arrays, shards.Aside]:
    """Boxes of many images as flat arrays, `count` of them for each image and class."""
    every = [boxes for _, boxes in found]
    arrays = {
        "row_image": np.array([position for position, _ in found], np.int32),
        "row_class": np.array([boxes.label for boxes in every], np.int32),
        "row_size": np.array([boxes.size for boxes in every], np.int32).reshape(-1, 2),
        "count": np.array([len(boxes.boxes) for boxes in every], np.int32),
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(b.boxes for b in every)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(b.scores for b in every)]),
    }
    masks = [boxes.masks for boxes in every]
    if any(one is not None for one in masks):
        text = json.dumps(masks).encode()
        arrays["masks"] = np.frombuffer(text, np.uint8)
    reasons = [boxes.fell_back for boxes in every]
    if any(reasons):
        arrays["fell_back"] = np.frombuffer(json.dumps(reasons).encode(), np.uint8)
    return arrays, aside


def _told(folder: Path, ids: Sequence[str]) -> list[str]:
    """How often the segmenter fell back, by reason, a line each."""
    reasons: dict[str, int] = {}
    count = 0
    for _, boxes in boxes_of(folder, ids):
        count += 1
        if boxes.fell_back is not None:
            reasons[boxes.fell_back] = reasons.get(boxes.fell_back, 0) + 1
    return [
        f"{number} of {count} maps were cut alone, without the image: {reason}"
        for reason, number in sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
    ]


def notes(folder: Path) -> list[str]:
    """What is to be said about how boxes were cut."""
    return list(store.read_json(folder / "notes.json"))


# -- reading what was made -----------------------------------------------------------------------


def boxes_of(folder: Path, ids: Sequence[str]) -> Iterator[tuple[int, Boxes]]:
    """Every Boxes with the position of its image, streamed from the shards."""
    for shard in shards.written(folder):
        arrays, _ = store.read_arrays(shard)
        ends = np.cumsum(arrays["count"])
        masks = json.loads(arrays["masks"].tobytes()) if "masks" in arrays else None
        reasons = json.loads(arrays["fell_back"].tobytes()) if "fell_back" in arrays else None
        for n, (position, label) in enumerate(
            zip(arrays["row_image"].tolist(), arrays["row_class"].tolist(), strict=True)
        ):
            own = slice(int(ends[n] - arrays["count"][n]), int(ends[n]))
            height, width = arrays["row_size"][n].tolist()
            yield (
                position,
                Boxes(
                    ids[position],
                    label,
                    arrays["boxes"][own],
                    arrays["scores"][own],
                    (height, width),
                    None if masks is None else masks[n],
                    None if reasons is None else reasons[n],
                ),
            )


def results(folder: Path, ids: Sequence[str], names: CocoNames) -> Iterator[dict[str, Any]]:
    """The records of a COCO results file."""
    for position, found in boxes_of(folder, ids):
        for n, (box, score) in enumerate(zip(found.boxes, found.scores.tolist(), strict=True)):
            record = {
                "image_id": int(names.image_ids[position]),
                "category_id": int(names.category_ids[found.label]),
                "bbox": coco.xywh(box),
                "score": round(score, 5),
            }
            if found.masks is not None:
                record["segmentation"] = found.masks[n]
            yield record


def _data_set(
    path: Path, run: Run, folder: Path, seen: explain.Classification, names: CocoNames
) -> None:
    """Written a record a line as it comes: a data set of any size fits."""
    images = (
        {
            "id": int(names.image_ids[position]),
            "file_name": names.file_names[position],
            "width": width,
            "height": height,
        }
        for position, (height, width) in zip(seen.image.tolist(), seen.size.tolist(), strict=True)
    )
    categories = (
        {"id": int(number), "name": name}
        for number, name in zip(names.category_ids, run.classes, strict=True)
    )
    annotations = (
        {
            "id": n,
            **record,
            "area": round(record["bbox"][2] * record["bbox"][3], 2),
            "iscrowd": 0,
        }
        for n, record in enumerate(results(folder, run.data.ids(run.split), names), 1)
    )
    info = {"description": "Boxes found by label2box"}
    coco.dump_data_set(path, info, images, categories, annotations)
