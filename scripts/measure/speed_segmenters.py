"""Time from map (and image) to box at 224 px, and speed and accuracy of the fast GrabCut.

The maps are LayerCAM's (`layercam_below`) of MobileNetV2, for `images` of CUB-30's test images,
evenly spaced; each image is scaled to 224x224 with its map.

    grabcut_vs_plain_grabcut  segmenter=grabcut and cv2.grabCut at full resolution with 5 iterations
                              from the same seeds, in one thread, on 30 images in random order
    grabcut_accuracy          MaxBoxAccV2 of the refined maps of both, averaged with the map in the
                              same way, on all images
    grabcut_two_workers       images per second with two threads and with one
    grabcut_held_up           time in which two threads neither computed nor waited for a core, as a
                              share of the time computed: what they lose by waiting for each
                              other, however busy the machine is (only on Linux)
    threshold_ms              at a fixed threshold
    threshold_auto_ms         with threshold=auto

Milliseconds are of processor time. Numbers are medians over rounds, which alternate in the same
process.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from pipeline.metric.max_box_acc import MaxBoxAccV2, map_curves
from pipeline.results.maps import iterate_maps
from pipeline.results.shards import list_shards
from pipeline.segmenter.grabcut import GrabCut
from pipeline.segmenter.threshold import Threshold
from pipeline.types import Boxes, Example, SaliencyMap
from scripts.measure.records import Record
from scripts.measure.runs import CUB, compose

ROUNDS = 3
TIMED = 30  # of the images
SIZE = (224, 224)
Item = tuple[SaliencyMap, Example]


def run(images: str = "200") -> list[Record]:
    """Return the records of all measurements on so many images."""
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
    """Return maps and images at SIZE, and the true boxes in its pixels, xyxy."""
    run = compose("cam", *CUB, "saliency=layercam_below", f"outputs={outputs}")
    for stage in ("train", "explain"):
        run.get_or_create(stage)
    annotated: Any = run.data
    ids, truth = annotated.ids("val"), annotated.truth("val")
    wanted = {round(n * len(ids) / count) for n in range(count)}
    items, true = [], []
    for shard in list_shards(run.folder("explain")):
        for position, saliency in iterate_maps(shard, ids):
            if position not in wanted:
                continue
            image = run.data.example("val", position, at=SIZE).image
            scale = np.array([SIZE[1] / saliency.size[1], SIZE[0] / saliency.size[0]] * 2)
            true.append(truth[saliency.id].of_label() * scale)
            items.append((replace(saliency, size=SIZE), Example(saliency.id, image, -1, SIZE)))
    return items, true


def _records(items: Sequence[Item], true: Sequence[np.ndarray]) -> list[Record]:
    ours, theirs = GrabCut(), GrabCut(longer_side=max(SIZE), iterations=5, colours=None)
    order = np.random.default_rng(0).permutation(len(items))[:TIMED]
    timed = [items[n] for n in order]
    note = f"{len(timed)} images, OpenCV {cv2.__version__}"
    rounds = [(_ms(ours, timed), _ms(theirs, timed)) for _ in range(ROUNDS)]
    fixed, auto = Threshold(0.2), Threshold("auto")
    plain = [(_ms(fixed, items), _ms(auto, items)) for _ in range(2 * ROUNDS)]
    shared = [(_spread(ours, timed, 2), _spread(ours, timed, 1)) for _ in range(ROUNDS)]
    accuracy = [_accuracy(segmenter, items, true) for segmenter in (ours, theirs)]
    cores = median(two.cores for two, _ in shared)
    records = [
        Record("grabcut_vs_plain_grabcut", median(o for o, _ in rounds),
               median(t for _, t in rounds), median(t / o for o, t in rounds), "ms/image",
               f"cv2.grabCut, 5 iterations at 224 px, same seeds, {note}"),
        Record("grabcut_accuracy", accuracy[0], accuracy[1], None,
               "MaxBoxAccV2", f"of the refined maps, the same cv2.grabCut, {len(items)} images"),
        Record("grabcut_two_workers", median(two.rate for two, _ in shared),
               median(single.rate for _, single in shared),
               median(two.rate / single.rate for two, single in shared),
               "images/s", f"one worker, {note}; the two had {cores:.2f} cores"),
        Record("threshold_ms", median(ms for ms, _ in plain), None, None, "ms/image",
               f"{len(items)} images"),
        Record("threshold_auto_ms", median(ms for _, ms in plain), None, None, "ms/image",
               f"{len(items)} images"),
    ]  # fmt: skip
    if sys.platform.startswith("linux"):
        records.append(
            Record("grabcut_held_up", median(two.held_up for two, _ in shared),
                   median(single.held_up for _, single in shared), None, "of the time computed",
                   f"one worker, {note}")
        )  # fmt: skip
    return records


def _ms(cut: Callable[[SaliencyMap, Example], Boxes], items: Sequence[Item]) -> float:
    started = time.thread_time()
    for item in items:
        cut(*item)
    return 1e3 * (time.thread_time() - started) / len(items)


@dataclass(frozen=True)
class _Spread:
    rate: float  # images a second
    cores: float  # processor time of all threads per second
    held_up: float  # time neither computing nor waiting for a core, per time computed


def _spread(
    cut: Callable[[SaliencyMap, Example], Boxes], items: Sequence[Item], threads: int
) -> _Spread:
    """Segment images in several threads, as stage localize does, and measure their times."""
    queue = iter(items)  # shared: each thread takes the next item

    def work(_: int) -> tuple[float, float, float]:
        started, before = time.perf_counter(), _scheduled()
        for item in queue:
            cut(*item)
        now = _scheduled()
        return time.perf_counter() - started, now[0] - before[0], now[1] - before[1]

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        each = np.array(list(pool.map(work, range(threads))))
        elapsed = time.perf_counter() - started
    took, computed, waited = each.sum(0)
    return _Spread(len(items) / elapsed, computed / elapsed, (took - waited) / computed - 1)


def _scheduled() -> tuple[float, float]:
    """Return seconds that this thread computed, and waited for a core (0 except on Linux)."""
    if not sys.platform.startswith("linux"):
        return time.thread_time(), 0.0
    text = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text()
    computed, waited, _ = text.split()
    return int(computed) / 1e9, int(waited) / 1e9


def _accuracy(cut: GrabCut, items: Sequence[Item], true: Sequence[np.ndarray]) -> float:
    metric = MaxBoxAccV2()
    for item, boxes in zip(items, true, strict=True):
        metric.add(map_curves(cut.refined(*item)[0], boxes, SIZE))
    return metric.compute()[0].value
