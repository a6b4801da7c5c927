"""What scripts/accuracy prints: the numbers of metrics.json, each under a name of its own."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.measure import accuracy
from tests.conftest import TINY, Cli


def test_a_segmenter_that_refines_has_its_numbers_beside_those_of_the_maps(
    cli: Cli, tmp_path: Path
) -> None:
    """What is kept with outputs= is not made again."""
    kept = str(tmp_path / "kept")
    arguments = (*TINY, "data.images=240", f"outputs={kept}", "seed=0")
    found = {}
    for segmenter in ("threshold", "grabcut"):
        assert cli("+experiment=cam", *arguments, f"segmenter={segmenter}") == 0
        records = json.loads((tmp_path / "kept/latest/metrics.json").read_text())
        found[segmenter] = accuracy.headline(records)
    alone, refined = found["threshold"], found["grabcut"]
    assert len(list((tmp_path / "kept/train").iterdir())) == 1
    assert not any(key.startswith("refined:") for key in alone)
    for kind in ("fixed", "auto", "validation", "oracle"):
        for iou in ("0.3", "0.5", "0.7"):
            assert f"gt_known_loc@{iou}:{kind}" in alone
            assert f"refined:gt_known_loc@{iou}:{kind}" in refined
    for one in (alone, refined):
        mean = sum(one[f"max_box_acc_v2@{iou}:oracle"] for iou in ("0.3", "0.5", "0.7")) / 3
        assert abs(one["max_box_acc_v2"] - mean) < 1e-9
    assert refined["max_box_acc_v2"] == alone["max_box_acc_v2"]
    assert "refined:max_box_acc_v2" in refined
    best = max(refined[f"refined:gt_known_loc@0.5:{kind}"] for kind in ("fixed", "auto"))
    assert best <= refined["refined:gt_known_loc@0.5:oracle"] + 0.05
