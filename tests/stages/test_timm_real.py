"""timm's EfficientNet-Lite with real weights, from photographs to boxes by cam and best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli

QUICK = ("runtime.device=cpu", "runtime.workers=1", "refine.steps=2", "refine.batch=4",
         "report.images=1")  # fmt: skip


@pytest.mark.parametrize(("experiment", "head"), [("cam", "own"), ("best", "new")])
def test_cam_and_best_run_on_a_timm_network(
    cli: Cli, shared: Path, tmp_path: Path, experiment: str, head: str
) -> None:
    pytest.importorskip("timm")
    weights = shared / "data/weights/tf_efficientnet_lite0_imagenet.pth"
    images = shared / "data/imagenette"
    if not weights.is_file() or not images.is_dir():
        pytest.skip("../shared/data has no imagenette, or no weights of EfficientNet-Lite0")
    for split, count in (("train", 8), ("val", 3)):
        for wnid in ("n03445777", "n03888257"):  # golf ball, parachute
            folder = tmp_path / "few" / split / wnid
            folder.mkdir(parents=True)
            for path in sorted((images / split / wnid).iterdir())[:count]:
                (folder / path.name).symlink_to(path)
    stages = f"train,{'refine,' if experiment == 'best' else ''}explain,localize,evaluate"
    command = (
        f"+experiment={experiment}", "model=timm", "model.name=tf_efficientnet_lite0",
        f"model.weights={weights}", "data=folder", f"data.root={tmp_path / 'few'}",
        "data.size=112", f"train.head={head}", "train.epochs=40", f"stages=[{stages}]", *QUICK,
    )  # fmt: skip
    assert cli(*command) == 0
    latest = Path("outputs/latest")
    scores = json.loads((latest / "metrics.json").read_text())
    names = {score["name"]: score["value"] for score in reversed(scores)}  # of all classes first
    top1 = names["classification_top1"]
    assert top1 > 0.8
    card = json.loads(next(latest.glob("stages/train/card.json")).read_text())
    assert card["head"] == "mean_linear"
