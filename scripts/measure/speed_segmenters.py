"""Map (and image) to box: milliseconds an image at 224 px, and what a fast GrabCut costs.

Maps are LayerCAM's (`layercam_below`) of MobileNetV2 for `images` of CUB-30's test images, chosen
evenly, each scaled to 224x224 with its map. `grabcut_vs_plain_grabcut`: segmenter=grabcut against
cv2.grabCut at full resolution with 5 iterations from the same seeds, one thread each, on the first
images of a random order; `grabcut_accuracy` has MaxBoxAccV2 of the refined maps of both, in the
same average with the map, on all. `grabcut_two_workers`: images a second with two threads against
one; `grabcut_held_up` the time that two threads neither computed nor waited for a core, as part of
what they computed: what they lose to one another, however busy the machine (Linux tells it).
`threshold_ms`, `threshold_auto_ms`: at a fixed threshold and with threshold=auto. Milliseconds are
of processor time. The median over rounds, which alternate in one process.
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
    told = f"{len(timed)} images, OpenCV {cv2.__version__}"
    rounds = [(_ms(ours, timed), _ms(theirs, timed)) for _ in range(ROUNDS)]
    fixed, auto = Threshold(0.2), Threshold("auto")
    plain = [(_ms(fixed, items), _ms(auto, items)) for _ in range(2 * ROUNDS)]
    shared = [(_spread(ours, timed, 2), _spread(ours, timed, 1)) for _ in range(ROUNDS)]
    accuracy = [_accuracy(one, items, true) for one in (ours, theirs)]
    cores = median(two.cores for two, _ in shared)
    found = [
        Record("grabcut_vs_plain_grabcut", median(o for o, _ in rounds),
               median(t for _, t in rounds), median(t / o for o, t in rounds), "ms/image",
               f"cv2.grabCut, 5 iterations at 224 px, same seeds, {told}"),
        Record("grabcut_accuracy", accuracy[0], accuracy[1], None,
               "MaxBoxAccV2", f"of the refined maps, the same cv2.grabCut, {len(items)} images"),
        Record("grabcut_two_workers", median(two.rate for two, _ in shared),
               median(one.rate for _, one in shared),
               median(two.rate / one.rate for two, one in shared),
               "images/s", f"one worker, {told}; the two had {cores:.2f} cores"),
        Record("threshold_ms", median(one for one, _ in plain), None, None, "ms/image",
               f"{len(items)} images"),
        Record("threshold_auto_ms", median(one for _, one in plain), None, None, "ms/image",
               f"{len(items)} images"),
    ]  # fmt: skip
    if sys.platform.startswith("linux"):
        found.append(
            Record("grabcut_held_up", median(two.held_up for two, _ in shared),
                   median(one.held_up for _, one in shared), None, "of the time computed",
                   f"one worker, {told}")
        )  # fmt: skip
    return found


def _ms(cut: Callable[[SaliencyMap, Example], Boxes], items: Sequence[Item]) -> float:
    started = time.thread_time()
    for item in items:
        cut(*item)
    return 1e3 * (time.thread_time() - started) / len(items)


@dataclass(frozen=True)
class _Spread:
    rate: float  # images a second
    cores: float  # that the threads had
    held_up: float


def _spread(
    cut: Callable[[SaliencyMap, Example], Boxes], items: Sequence[Item], threads: int
) -> _Spread:
    """Threads that share the images, as stage localize has them."""
    queue = iter(items)  # each takes the next: threads take turns at `next`

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
    """Seconds that this thread has computed, and that it waited for a core (elsewhere 0)."""
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
