"""The thresholds that stage calibrate picked: which there are, and which one an image is cut at.

Apart from the stage, so that who cuts or scores at them does not hang on how they are found. With
`checkpoint=RUN` and no stage calibrate of its own, as `+experiment=predict`, a run cuts at what
that run chose, which must have cut the same maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.config import plain
from pipeline.records import Problem, Refining
from pipeline.run import Run

FEWEST = 10  # images with boxes that a threshold may stand on
USED_IOU = 0.5  # whose threshold segmenter.threshold=validation cuts at


def read(folder: Path) -> dict[str, Any]:
    return dict(store.read_json(folder / "thresholds.json"))


def is_used(run: Run) -> bool:
    """Whether the maps are cut at the threshold that is chosen here."""
    return str(run.segmenter().stands_on["kind"]) == "validation"


def is_own(run: Run) -> bool:
    """Whether this run's stage calibrate chooses it, and not the run that checkpoint= names."""
    if run.config["checkpoint"] is None or "calibrate" in run.config["stages"]:
        return True
    folder = store.Store(run.outputs).folder("calibrate", run.made_of("calibrate"))
    return store.is_done(folder) and read(folder)["source"] is not None


def used(run: Run) -> dict[str, Any]:
    """What boxes are cut at: `source`, the `images` not to be scored, `thresholds` by IoU.

    Raises Problem where nothing was chosen.
    """
    if is_own(run):
        picked = for_boxes(read(run.folder("calibrate")), isinstance(run.segmenter(), Refining))
        if picked["source"] is None:
            raise too_few(picked["n"])
        return picked
    picked = for_boxes(read(elsewhere(run)), isinstance(run.segmenter(), Refining))
    alone = {iou: [value] for iou, value in picked["elsewhere"].items()}
    return {**picked, "source": "checkpoint", "thresholds": alone}


def elsewhere(run: Run) -> Path:
    """The folder of stage calibrate of the run that checkpoint= names."""
    views = [run.config["explain"][name] for name in ("flips", "scales")]
    node = run.config["segmenter"] if isinstance(run.segmenter(), Refining) else None
    return of_run(Path(run.config["checkpoint"]), run.methods[run.method], views, node)


def for_boxes(picked: Mapping[str, Any], refines: bool) -> dict[str, Any]:
    """Those of what is cut: of the refined maps, where the segmenter makes them."""
    return dict(picked["refined"] if refines else picked)


def of_run(
    folder: Path,
    saliency: Mapping[str, Any],
    views: Sequence[Any] = (False, [1.0]),
    refining: Mapping[str, Any] | None = None,
) -> Path:
    """The stage calibrate of the run in a folder that chose thresholds for such maps; those for
    images that it has not seen stand there under `elsewhere`.

    saliency, refining: the nodes of the method, and of the segmenter where it makes maps of its
    own. views: explain.flips and explain.scales. Raises Problem where that run chose none for them.
    """
    told = f"segmenter.threshold=validation: checkpoint={folder}"
    remedy = "segmenter.threshold=auto needs no boxes"
    chose = [one for one in sorted(folder.glob("stages/calibrate*")) if one.is_dir()]
    if not chose:
        raise Problem(
            f"{told} has no stage calibrate, which chooses it; expected the folder of a run that "
            f"has, as outputs/latest after +experiment=cam; {remedy}"
        )
    for place in chose:
        made = store.read_json(place.with_name(place.name.replace("calibrate", "explain", 1))
                               / "made_of.json")  # fmt: skip
        if made["saliency"] == plain(saliency) and made["views"][:2] == plain(views):
            break
    else:
        raise Problem(
            f"{told} chose none for these maps; give the saliency= (and explain.flips, "
            f"explain.scales) of that run; {remedy}"
        )
    made = store.read_json(place / "made_of.json")
    if refining is not None and made.get("segmenter") != but_threshold(refining):
        raise Problem(
            f"{told} chose none for what this segmenter makes of maps and images; give the "
            f"segmenter= of that run, with its options; {remedy}"
        )
    picked = for_boxes(read(place), refining is not None)
    if f"{USED_IOU:g}" not in picked["elsewhere"]:
        raise Problem(f"{told} chose none: {picked['n']} images had boxes to choose it on, and it "
                      f"wants {FEWEST} at least; {remedy}")  # fmt: skip
    return place


def but_threshold(segmenter: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a segmenter without its threshold, which has no part in the map that it cuts."""
    return {key: plain(value) for key, value in segmenter.items() if key != "threshold"}


def too_few(count: int, checkpoint: str | None = None) -> Problem:
    kept = "" if checkpoint is None else (
        f", stages= without calibrate takes the one that checkpoint={checkpoint} chose"
    )  # fmt: skip
    return Problem(
        f"segmenter.threshold=validation: {count} images have boxes to choose it on, and it wants "
        f"{FEWEST} at least; calibrate.boxes=FILE takes some that you draw{kept}, "
        "segmenter.threshold=auto needs none"
    )


def fold_of(id: str) -> int:
    """0 or 1, always the same for a name."""
    return int(store.hash_of(["fold", id]), 16) & 1


def value_for(values: Sequence[float], id: str) -> float:
    """The threshold of an image: that of its half, where the halves have each their own."""
    return values[fold_of(id) if len(values) > 1 else 0]


def told(values: Sequence[float], source: str) -> dict[str, Any]:
    """As metrics.json names it."""
    value = values[0] if len(values) == 1 else list(values)
    return {"kind": "validation", "value": value, "source": source}
