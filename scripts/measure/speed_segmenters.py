"""Map (and image) to box: milliseconds an image at 224 px, and what a fast GrabCut costs.

Maps are LayerCAM's (`layercam_below`) of MobileNetV2 for `images` of CUB-30's test images, chosen
evenly, each scaled to 224x224 with its map. `grabcut_vs_plain_grabcut`: segmenter=grabcut against
cv2.grabCut at full resolution with 5 iterations from the same seeds, one thread each;
`grabcut_accuracy` has MaxBoxAccV2 of the refined maps of both, in the same average with the map.
`grabcut_two_workers`: images a second with two threads against one. `threshold_ms`: the default
threshold. The median over rounds, which alternate in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median

import cv2
import numpy as np

from pipeline import shards
from pipeline.metric.max_box_acc import MaxBoxAccV2, map_curves
from pipeline.records import Boxes, Example, SaliencyMap
from pipeline.segmenter.grabcut import GrabCut
from pipeline.segmenter.threshold import Threshold
from pipeline.stages import explain
from scripts.measure.records import Record
from scripts.measure.runs import CUB, compose

SIZE = (224, 224)
ROUNDS = 3
Item = tuple[SaliencyMap, Example]


def run(images: str = "40") -> list[Record]:
    import tempfile

    with tempfile.TemporaryDirectory() as outputs:
        items, true = _items(int(images), outputs)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return _records(items, true)
    finally:
        cv2.setNumThreads(threads)


def _items(count: int, outputs: str) -> tuple[list[Item], list[np.ndarray]]:
    """Maps and images at SIZE, and the true boxes there."""
    run = compose("cam", *CUB, "saliency=layercam_below", f"outputs={outputs}")
    for stage in ("train", "explain"):
        run.obtain(stage)
    ids, truth = run.data.ids("val"), run.data.truth("val")
    wanted = {round(n * len(ids) / count) for n in range(count)}
    items, true = [], []
    for shard in shards.written(run.folder("explain")):
        for position, saliency in explain.maps_in(shard, ids):
            if position not in wanted:
                continue
            image = run.data.example("val", position, at=SIZE).image
            scale = np.array([SIZE[1] / saliency.size[1], SIZE[0] / saliency.size[0]] * 2)
            true.append(truth[saliency.id].of_label() * scale)
            items.append((replace(saliency, size=SIZE), Example(saliency.id, image, -1, SIZE)))
    return items, true


def _records(items: Sequence[Item], true: Sequence[np.ndarray]) -> list[Record]:
    ours, theirs = GrabCut(), GrabCut(longer_side=max(SIZE), iterations=5)
    threshold = Threshold()
    told = f"{len(items)} images, OpenCV {cv2.__version__}"
    rounds = [(_ms(ours, items), _ms(theirs, items)) for _ in range(ROUNDS)]
    plain = [_ms(threshold, items) for _ in range(2 * ROUNDS)]
    spread = [(_rate(ours, items, 2), _rate(ours, items, 1)) for _ in range(ROUNDS)]
    accuracy = [_accuracy(one, items, true) for one in (ours, theirs)]
    return [
        Record("grabcut_vs_plain_grabcut", median(o for o, _ in rounds),
               median(t for _, t in rounds), median(t / o for o, t in rounds), "ms/image",
               f"cv2.grabCut, 5 iterations at 224 px, same seeds, {told}"),
        Record("grabcut_accuracy", accuracy[0], accuracy[1], accuracy[0] / accuracy[1],
               "MaxBoxAccV2", f"of the refined maps, the same cv2.grabCut, {told}"),
        Record("grabcut_two_workers", median(two for two, _ in spread),
               median(one for _, one in spread), median(two / one for two, one in spread),
               "images/s", f"one worker, {told}"),
        Record("threshold_ms", median(plain), None, None, "ms/image", told),
    ]  # fmt: skip


def _ms(cut: Callable[[SaliencyMap, Example], Boxes], items: Sequence[Item]) -> float:
    started = time.perf_counter()
    for item in items:
        cut(*item)
    return 1e3 * (time.perf_counter() - started) / len(items)


def _rate(cut: Callable[[SaliencyMap, Example], Boxes], items: Sequence[Item], n: int) -> float:
    """Images a second with n threads, as stage localize has them."""
    with ThreadPoolExecutor(n) as pool:
        started = time.perf_counter()
        list(pool.map(lambda item: cut(*item), items))
        return len(items) / (time.perf_counter() - started)


def _accuracy(cut: GrabCut, items: Sequence[Item], true: Sequence[np.ndarray]) -> float:
    metric = MaxBoxAccV2()
    for item, boxes in zip(items, true, strict=True):
        metric.add(map_curves(cut.refined(*item)[0], boxes, SIZE))
    return metric.compute()[0].value
