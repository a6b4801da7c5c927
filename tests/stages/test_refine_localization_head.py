"""The student: what it learns, and that it knows whether it can stand alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.formats.arrays import write_arrays
from pipeline.stages.refine import localization_head
from pipeline.stages.refine.pseudo_labels import Lessons

KNOBS = {"width": 8, "lr": 0.01, "steps": 30, "batch": 16, "map_share": None}


def run(**knobs: Any) -> Any:
    config = {"refine": {**KNOBS, **knobs}, "seed": 0}
    return SimpleNamespace(config=config, device=torch.device("cpu"), precision="float32")


def lessons(folder: Path, rule: bool, count: int = 60) -> Lessons:
    """Features in which a square stands out, and masks of it; or of another place."""
    random = np.random.default_rng(0)
    features = random.normal(0, 1, (count, 6, 14, 14)).astype(np.float16)
    mask = np.zeros((count, 28, 28), np.float16)
    for n in range(count):
        y, x = random.integers(0, 7, 2)
        features[n, 2, y : y + 7, x : x + 7] += 5
        if not rule:
            y, x = random.integers(0, 7, 2)
        mask[n, 2 * y : 2 * y + 14, 2 * x : 2 * x + 14] = 1
    for number, part in enumerate(np.array_split(np.arange(count), 3)):
        write_arrays(
            folder / f"shard-{number:06d}.safetensors",
            {"plain0": features[part], "mirrored0": features[part][..., ::-1],
             "map": mask[part] / 2, "mask": mask[part], "sure": part % 4 != 3},
        )  # fmt: skip
    return Lessons.read(folder, 1)


def test_masks_that_follow_a_rule_are_learned_and_it_stands_alone(tmp_path: Path) -> None:
    found = lessons(tmp_path, rule=True)
    assert (found.of, len(found)) == (60, 45)
    learned = localization_head.learn(run(), found, ("last",), (6,))
    assert learned.agreement is not None
    assert learned.agreement > localization_head.FORETOLD
    assert learned.head.alone
    assert learned.share == 0
    assert learned.lessons == pytest.approx(0.7 * len(found), abs=2)
    assert learned.losses[-1] < learned.losses[0]


def test_masks_of_chance_are_not_and_the_teacher_has_its_say(tmp_path: Path) -> None:
    learned = localization_head.learn(run(), lessons(tmp_path, rule=False), ("last",), (6,))
    assert learned.agreement is not None
    assert learned.agreement < localization_head.FORETOLD
    assert not learned.head.alone
    assert learned.share == localization_head.MAP_SHARE
    assert learned.lessons == 45
    assert (
        localization_head.learn(run(map_share=0.1), lessons(tmp_path, False), ("last",), (6,)).share
        == 0.1
    )


def test_few_lessons_tell_nothing(tmp_path: Path) -> None:
    learned = localization_head.learn(run(), lessons(tmp_path, rule=True, count=4), ("last",), (6,))
    assert learned.agreement is None
    assert not learned.head.alone


def test_the_same_seed_gives_the_same_student(tmp_path: Path) -> None:
    found = lessons(tmp_path, rule=True)
    one, other = (localization_head.learn(run(), found, ("last",), (6,)).head for _ in range(2))
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_targets_are_mask_and_map_in_their_shares(tmp_path: Path) -> None:
    found = lessons(tmp_path, rule=True)
    chosen = np.array([40, 3])
    mask, mixed = found.target(chosen, 0.0), found.target(chosen, 0.7)
    assert np.array_equal(mask, found.take("mask", chosen).astype(np.float32))
    assert mixed.max() == 1  # 0.7 * 0.5 + 0.3, scaled
    half = found.features(chosen, mirrored=True)[0]
    assert torch.equal(half, found.features(chosen, mirrored=False)[0].flip(3))
