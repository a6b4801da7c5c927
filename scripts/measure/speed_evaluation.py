"""Maps to localization accuracy: the component tree against a sweep of 1000 thresholds.

Both measure the same 224x224 maps by the same protocol (wsolevaluation's) in one run, one thread,
turn by turn, IoUs included; both must give the same count of correct maps at every threshold. The
maps are those of ../shared/reference, and the counts also the reference evaluator's own; without
it, maps of the two kinds are drawn. Its gradient maps are smoothed: 20 contours a threshold on
average and 80 at most. raw_gradient_*: as a network gives them, with 400 and 3,000; always drawn.

On gradient maps findContours takes a third of the time in OpenCV 4.10, 4.11 and 5.0 of what it
takes in 4.12 and 4.13: the records name the version.

flat_memory and maps_50k_minutes: stage `evaluate` itself, in a process of its own, on a folder of
2,000 and of 20,000 maps.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.metric.components import wsolevaluation_curves
from scripts.measure.records import Record
from scripts.measure.reference_sweep import sweep_any, sweep_largest

if TYPE_CHECKING:
    from pipeline.formats.wsolevaluation import Metadata

REFERENCE = Path("../shared/reference")
ROUNDS = {"cam": 7, "gradient": 3, "raw_gradient": 3}
KEPT = ("cam", "gradient")  # in REFERENCE
IOUS = (0.3, 0.5, 0.7)
FEW, MANY, WANTED = 2_000, 20_000, 50_000


@dataclass(frozen=True)
class Group:
    """Maps with true boxes, and what the reference evaluator says about them."""

    maps: Sequence[np.ndarray]
    boxes: Sequence[np.ndarray]
    answers: dict[str, Any] | None  # the reference evaluator's own, single and multi
    origin: str


def run(*arguments: str) -> list[Record]:
    """`sweep` or `stream` alone measures half."""
    cv2.setNumThreads(1)
    records = []
    if "stream" not in arguments:
        for kind in ROUNDS:
            records += _sweeps(kind)
    if "sweep" not in arguments:
        records += _streamed()
    return records


# -- the tree against the sweep


def _sweeps(kind: str) -> list[Record]:
    group = _group(kind)
    note = (
        f"wsolevaluation's sweep written anew, OpenCV {cv2.__version__}, one thread; "
        f"{len(group.maps)} {group.origin}"
    )
    ways: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
        "single": (
            lambda values, boxes: wsolevaluation_curves(values, boxes, "largest").largest,
            lambda values, boxes: sweep_largest(values, boxes)[0],
        ),
        "multi": (lambda values, boxes: wsolevaluation_curves(values, boxes, "any").any, sweep_any),
    }
    records = []
    for name, (ours, theirs) in ways.items():
        _check(group, name, ours, theirs)  # compiles and warms, too
        rounds = []
        for _ in range(ROUNDS[kind]):
            spent = np.zeros(2)
            for values, boxes in zip(group.maps, group.boxes, strict=True):
                for n, way in enumerate((ours, theirs)):
                    started = time.thread_time()  # not what others on the machine take
                    way(values, boxes)
                    spent[n] += time.thread_time() - started
            rounds.append(spent / len(group.maps) * 1000)
        ours, other = (median(times[n] for times in rounds) for n in (0, 1))
        ratio = median(times[1] / times[0] for times in rounds)
        records.append(Record(f"{kind}_{name}", ours, other, ratio, "ms/map", note))
    return records


def _check(
    group: Group, name: str, ours: Callable[..., np.ndarray], theirs: Callable[..., np.ndarray]
) -> None:
    """Check that IoUs are the same map by map, and the reference's counts where it is here."""
    pairs = list(zip(group.maps, group.boxes, strict=True))
    mine = np.array([ours(*pair) for pair in pairs])
    other = np.array([theirs(*pair) for pair in pairs])
    assert np.array_equal(mine, other), f"{name}: not the sweep's IoUs"
    for iou in IOUS if group.answers is not None else ():
        assert group.answers is not None
        wanted = group.answers[name]["num_correct"][str(round(100 * iou))]
        assert ((mine >= iou).sum(0) == wanted).all(), f"{name}: not the reference's num_correct"


def _group(kind: str) -> Group:
    if kind not in KEPT or not REFERENCE.is_dir():
        draw = {"cam": _cam_like, "gradient": _gradient_like, "raw_gradient": _raw_gradient_like}
        rng = np.random.default_rng(0)
        drawn = [draw[kind](rng) for _ in range(12 if kind in KEPT else 4)]
        boxes = [_box(rng) for _ in drawn]
        return Group(drawn, boxes, None, f"{kind.replace('_', ' ')}-like maps, drawn")
    answers = json.loads((REFERENCE / "wsolevaluation.json").read_text(encoding="utf-8"))
    with np.load(REFERENCE / "wsolevaluation.npz") as content:
        maps = content["maps"]
    group = answers["groups"][kind]
    return Group(
        [maps[i] for i in group["index"]],
        [np.array(answers["boxes"][i]) for i in group["index"]],
        group,
        f"{kind} maps of ../shared/reference, num_correct equal",
    )


def _cam_like(rng: np.random.Generator) -> np.ndarray:
    smooth = cv2.resize(rng.random((7, 7)).astype(np.float32) ** 2, (224, 224))
    return _spread(smooth)


def _gradient_like(rng: np.random.Generator) -> np.ndarray:
    """As rough as the reference's: 22 contours a threshold."""
    return _spread(cv2.GaussianBlur(_raw_gradient_like(rng), (0, 0), 1.2))


def _raw_gradient_like(rng: np.random.Generator) -> np.ndarray:
    """Make a map with the statistics of the largest |gradient| of the three channels.

    MobileNetV2 has on photographs of 224x224 (in brackets: six of Imagenette): mean 0.05 (0.05),
    deviation 0.07 (0.06), step between neighbours 0.53 (0.60) deviations, contours a threshold 440
    (380).
    """
    noise = np.abs(cv2.GaussianBlur(rng.normal(size=(224, 224, 3)), (0, 0), 0.4)).max(2)
    where = cv2.resize(rng.random((7, 7)), (224, 224), interpolation=cv2.INTER_CUBIC).clip(0)
    return _spread((noise * (0.1 + where) ** 2) ** 1.5)


def _spread(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.min()) / np.ptp(values), np.float32)


def _box(rng: np.random.Generator) -> np.ndarray:
    x0, y0 = rng.integers(0, 112, 2)
    return np.array([[x0, y0, x0 + 90, y0 + 90]])


# -- many maps, streamed


def _streamed() -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        _write_maps(Path(folder), MANY)
        few, many = (_apart(folder, count) for count in (FEW, MANY))
    more = many["peak_mb"] - few["peak_mb"]
    note = (
        f"peak {few['peak_mb']:.0f} MB at {FEW:,} maps, {many['peak_mb']:.0f} MB at {MANY:,}; "
        f"the maps themselves would be {(MANY - FEW) * 224 * 224 * 4 / 1e6:,.0f} MB more"
    )
    minutes = many["seconds"] / MANY * WANTED / 60
    how = (
        f"extrapolated from {MANY:,} maps really scored in {many['seconds']:.0f} s: stage "
        "evaluate, CAM-like .npy files of 14x14, images of 224x224, every metric and interval, "
        "two threads"
    )
    return [
        Record("flat_memory", more, None, None, "MB", note),
        Record("maps_50k_minutes", minutes, None, None, "minutes", how),
    ]


def _write_maps(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    ids = [f"{n // 1000}/{n}.jpg" for n in range(count)]
    for n, id in enumerate(ids):
        path = folder / f"{id}.npy"
        if n % 1000 == 0:
            path.parent.mkdir()
        np.save(path, rng.random((14, 14), np.float32) ** 3)
    boxes = [_box(rng)[0] for _ in ids]
    lines = {
        "image_ids": ids,
        "class_labels": [f"{id},{n % 10}" for n, id in enumerate(ids)],
        "image_sizes": [f"{id},224,224" for id in ids],
        "localization": [
            ",".join([id, *map(str, box)]) for id, box in zip(ids, boxes, strict=True)
        ],
    }
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")


def _apart(folder: str, count: int) -> dict[str, float]:
    """Score the first `count` maps in a process of its own: peaks do not come down again."""
    command = [sys.executable, "-m", "scripts.measure.speed_evaluation", folder, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _score(folder: Path, count: int) -> dict[str, float]:
    from pipeline.formats import wsolevaluation

    cv2.setNumThreads(1)
    _evaluated(wsolevaluation.read(folder, max_images=20), folder)  # compiles and warms
    started = time.perf_counter()
    assert _evaluated(wsolevaluation.read(folder, max_images=count), folder) == count
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_mb": peak / (1e6 if sys.platform == "darwin" else 1e3), "seconds": seconds}


def _evaluated(metadata: Metadata, folder: Path) -> int:
    """Evaluate a folder of maps as the stage does. Returns how many maps the numbers are of."""
    from pipeline.engine.metrics import load_metrics
    from pipeline.results.computed import Computed
    from pipeline.stages.evaluate.map_folder import MapFolder
    from pipeline.stages.evaluate.maps import MapScale
    from pipeline.stages.evaluate.others import map_settings
    from pipeline.stages.evaluate.outcome import score_source

    settings = map_settings(metadata, {"kind": "fixed", "value": 0.2}, (0.3, 0.5, 0.7), 0)
    scale = MapScale("default", settings.cuts)
    source = MapFolder(folder, "maps", metadata, settings, scale, workers=2)
    with tempfile.TemporaryDirectory() as made:
        return (
            score_source(source, load_metrics(), Path(made) / "images.json", Computed()).scores[0].n
        )


if __name__ == "__main__":
    print(json.dumps(_score(Path(sys.argv[1]), int(sys.argv[2]))))
