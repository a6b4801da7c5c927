"""Images of 12 bits from training to prediction: new images are scaled as the training images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import pipeline
from pipeline.engine import checkpoint
from pipeline.errors import UserError
from pipeline.formats import photo
from tests.conftest import Cli

pytestmark = pytest.mark.usefixtures("shared_results")

TRAIN = ("+experiment=cam", "data=folder", "data.root=set", "data.size=32", "train.epochs=1",
         "runtime.device=cpu")  # fmt: skip


def frame(brightness: float, seed: int, dtype: Any = np.uint16) -> np.ndarray:
    """A 12-bit frame: ground from 400 to 600, an object of 3500."""
    rng = np.random.default_rng(seed)
    pixels = 400 + rng.integers(0, 200, (48, 64)).astype(np.float64)
    y, x = rng.integers(0, 24), rng.integers(0, 40)
    pixels[y : y + 24, x : x + 24] = 3500
    return (pixels * brightness).astype(dtype)


@pytest.fixture
def trained(tmp_path: Path, cli: Cli) -> Path:
    """The run of a classifier of 12-bit images; `new` has darker ones."""
    for split, count in (("train", 8), ("val", 3)):
        for label, name in enumerate("ab"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for n in range(count):
                image = Image.fromarray(frame(1 - 0.3 * label, n))
                image.save(tmp_path / "set" / split / name / f"{n}.png")
    (tmp_path / "new").mkdir()
    for n in range(3):
        Image.fromarray(frame(0.4, 50 + n)).save(tmp_path / f"new/{n}.png")
    assert cli(*TRAIN) == 0
    return (tmp_path / "outputs/latest").resolve()


def test_new_images_are_scaled_by_the_range_of_the_checkpoint(
    trained: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = checkpoint.read_card(checkpoint.find(trained))
    low, high = card["intensity"]["range"]["integer"]
    assert 270 <= low <= 300
    assert 3490 <= high <= 3500
    latest = tmp_path / "outputs/latest"

    predict = ("+experiment=predict", f"checkpoint={trained}", "images=new")
    assert cli(*predict) == 0
    settings = yaml.safe_load((latest / "config.yaml").read_text())
    assert settings["data"]["range"] == {"integer": [low, high]}
    assert "as data.range or the checkpoint has it" in (latest / "report/index.html").read_text()
    of_checkpoint = json.loads((latest / "boxes.json").read_text())

    assert cli(*predict, f"data.range=[{low},{high}]") == 0
    assert json.loads((latest / "boxes.json").read_text()) == of_checkpoint
    # Of their own range they would be as bright as the training images.
    assert cli(*predict, "data.range=null") == 0
    assert json.loads((latest / "boxes.json").read_text()) != of_checkpoint

    # What the network of pipeline.load gets.
    seen: list[np.ndarray] = []
    read = photo.read

    def record(*arguments: Any, **options: Any) -> Any:
        seen.append(read(*arguments, **options).pixels)
        return read(*arguments, **options)

    monkeypatch.setattr(photo, "read", record)
    pipeline.load(trained)(tmp_path / "new/0.png")
    assert abs(int(seen[0].max()) - 255 * (1400 - low) / (high - low)) <= 2

    predictor = pipeline.load(trained)
    of_file = predictor(tmp_path / "new/0.png")[0]
    image = Image.open(tmp_path / "new/0.png")
    pixels = np.asarray(image)
    for form in (image, pixels, pixels.astype(np.int32), torch.from_numpy(pixels.astype(int))):
        result = predictor(form)[0]
        assert (result.label, result.probability) == (of_file.label, of_file.probability)
        np.testing.assert_array_equal(result.boxes, of_file.boxes)


def test_an_evaluation_with_a_checkpoint_uses_its_range(
    trained: Path, cli: Cli, tmp_path: Path
) -> None:
    assert cli(*TRAIN, f"checkpoint={trained}", "stages=[explain,audit,localize]") == 0
    settings = yaml.safe_load((tmp_path / "outputs/latest/config.yaml").read_text())
    card = checkpoint.read_card(checkpoint.find(trained))
    assert settings["data"]["range"] == card["intensity"]["range"]


def test_a_card_with_a_wrong_range_is_refused(trained: Path) -> None:
    path = checkpoint.find(trained) / checkpoint.CARD
    card = json.loads(path.read_text())
    for wrong in ({"integer": [5, 1]}, {"integer": [1]}, {"whole": [0.0, 1.0]}, 7):
        path.write_text(json.dumps({**card, "intensity": {"range": wrong}}))
        with pytest.raises(UserError, match="intensity"):
            checkpoint.read_card(path.parent)
