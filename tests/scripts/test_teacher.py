"""The comparison of teachers: paired differences, maps that are kept, and a whole run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.saliency.cam import CAM
from pipeline.types import GroundTruth
from scripts.measure import teacher
from scripts.measure.teacher import IOUS, KeptMaps, Options, Scored, compare, find_right


def scored(right: np.ndarray) -> Scored:
    head: Any = None
    return Scored(head, len(right), right)


def test_the_accuracy_is_the_mean_of_the_best_thresholds() -> None:
    truth = GroundTruth("a", 0, (20, 20), np.array([[5, 5, 15, 15]], np.float32))
    values = np.zeros((20, 20), np.float32)
    values[5:15, 5:12] = 1  # IoU 0.7
    values[5:15, 12:15] = 0.4
    right = find_right(values, truth).reshape(len(IOUS), -1)
    assert right[:, 1:401].all()  # the whole object
    assert right[:2, 401:].all()
    assert not find_right(np.roll(values, 9, 1), truth).reshape(len(IOUS), -1)[1, 500]
    means = np.zeros((2, 3, 1000))  # of two seeds
    means[:, :, 7], means[:, :, 9] = 0.3, 0.6
    means[1, 2, 500] = 0.9
    assert teacher.compute_accuracy(means.reshape(-1)) == pytest.approx(0.65)


def test_the_difference_is_paired_and_over_seeds() -> None:
    rng = np.random.default_rng(0)
    base = np.repeat(rng.random((200, 1)) < 0.5, 3000, axis=1)
    worse = base.copy()
    worse[np.flatnonzero(base[:, 0])[:20]] = False
    difference, (low, high) = compare([scored(base)] * 2, [scored(base), scored(worse)])
    assert difference == pytest.approx(-0.05)  # 20 of 200 images, in one of two seeds
    assert low < -0.05 < high < 0
    assert compare([scored(base)], [scored(base)]) == (0.0, (0.0, 0.0))


def _always(chosen: Any, logits: Any) -> Any:
    return chosen


def test_the_map_of_a_view_is_computed_once() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
    network, asked = Classifier(body, MeanLinear(4, 3), "abc").eval(), []
    images, classes = torch.randn(4, 3, 8, 8), torch.tensor([[0], [1], [2], [0]])

    class Counted(CAM):
        def __call__(self, network: Any, images: Any, choose: Any) -> Any:
            asked.append(len(images))
            return super().__call__(network, images, choose)

    kept = KeptMaps(Counted())
    wanted = CAM()(network, images, lambda _: classes).maps
    for part in (slice(0, 4), slice(1, 3), slice(3, 4)):
        chosen = classes[part]
        maps = kept(network, images[part], partial(_always, chosen)).maps
        torch.testing.assert_close(maps, wanted[part])
    assert asked == [4]
    kept(network, images, lambda _: (classes + 1) % 3)
    assert asked == [4, 4]


def test_unknown_sets_are_refused() -> None:
    with pytest.raises(UserError, match="sets=mars"):
        Options.parse(["sets=mars"])
    options = Options.parse(["images=10,20", "seeds=3", "precision=bf16"])
    assert (options.images, options.seeds, options.overrides) == ([10, 20], [3], ["precision=bf16"])


def test_a_whole_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(teacher, "TIMED_IMAGES", 4)
    monkeypatch.setattr(teacher, "REPETITIONS", 1)
    records = teacher.run(
        "sets=shapes", "teachers=cam,layercam_below", "images=20,10", "seeds=0", "train.epochs=1",
        "data.images=40", "data.val_images=12", "refine.steps=2", f"outputs={tmp_path}",
    )  # fmt: skip
    lines = [line for line in capsys.readouterr().out.splitlines() if "cost" in line]
    assert len(lines) == 4
    assert [line.split()[1] for line in lines] == ["cam:"] * 2 + ["layercam_below:"] * 2
    has_difference = ["(" in line.split(";")[0] for line in lines]
    assert has_difference == [False, True, True, True], "to the first teacher with most images"
    differences = [record for record in records if record.name.endswith("difference")]
    assert len(differences) == 3
    assert all(record.ours > 0 for record in records if record.name.endswith("cost"))
