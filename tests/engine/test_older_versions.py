"""What version 0.1.0 left on disk is read: a run, its networks, thresholds; old names answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.engine.choices import instantiate
from pipeline.errors import UserError
from pipeline.formats.files import read_json
from pipeline.ops import renamed
from tests.conftest import Cli

RUN = Path(__file__).parents[1] / "fixtures" / "run_0_1_0"
"""`+experiment=best` of 0.1.0 on the embedded set, with a network of two channels and
segmenter.threshold=validation: config.yaml, the refined checkpoint, thresholds, their keys."""


EXPECTED = {
    "image_id": 1,
    "category_id": 4,
    "bbox": [0.0, 0.0, 128.0, 96.0],
    "score": 0.08166,
}


def photo() -> np.ndarray:
    random = np.random.default_rng(0)
    image = random.integers(90, 130, (96, 128, 3)).astype(np.uint8)
    image[30:70, 40:90] = (220, 30, 30)
    return image


def test_predict_with_a_run_of_0_1_0_gives_its_boxes(cli: Cli, tmp_path: Path) -> None:
    """The boxes are those that 0.1.0 itself predicted with this run."""
    shutil.copytree(RUN, tmp_path / "run")
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo()).save(tmp_path / "photos" / "a.png")
    command = ("+experiment=predict", "checkpoint=run", "images=photos", "precision=float32")
    assert cli(*command) == 0
    (box,) = read_json(Path("outputs/latest/boxes.json"))
    added = {"probability", "confidence", "review_rank"}
    assert set(box) == {*EXPECTED, *added}
    assert {key: box[key] for key in EXPECTED} == EXPECTED


def test_a_renamed_stage_names_its_successor(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("stages=[score]") == 2
    assert "'score'; renamed to evaluate" in capsys.readouterr().err


@pytest.mark.parametrize("old", renamed.CLASSES)
def test_a_renamed_class_names_its_successor(old: str) -> None:
    with pytest.raises(UserError, match="renamed to pipeline"):
        instantiate("data", {"_target_": f"{old}.Thing"})


@pytest.mark.parametrize("old", renamed.KEYS)
def test_a_renamed_key_names_its_successor(
    old: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("+experiment=best", f"{old}=1") == 2
    assert f"renamed to {renamed.KEYS[old]}" in capsys.readouterr().err
