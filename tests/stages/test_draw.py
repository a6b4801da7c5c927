"""draw: where a mask ends, on a canvas of another size; and what predict says at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.ops.rle import encode_rle
from pipeline.plotting.boxes import draw_outline
from tests.conftest import Cli


def test_the_outline_of_a_mask_lies_where_it_ends() -> None:
    mask = np.zeros((100, 200), bool)
    mask[20:60, 40:120] = True
    canvas = np.full((50, 100, 3), 200, np.uint8)  # half the size
    draw_outline(canvas, encode_rle(mask, (100, 200)), (255, 0, 0), 2)
    red = (canvas == (255, 0, 0)).all(-1)
    ys, xs = np.nonzero(red)
    assert abs(ys.min() - 10) <= 2
    assert abs(ys.max() - 29) <= 2
    assert abs(xs.min() - 20) <= 2
    assert abs(xs.max() - 59) <= 2
    assert (canvas[14:25, 25:54] == 200).all()  # the inside stays to be seen
    assert (canvas[40:, 70:] == 200).all()


def test_an_empty_mask_draws_nothing() -> None:
    canvas = np.full((50, 100, 3), 200, np.uint8)
    draw_outline(canvas, encode_rle(np.zeros((10, 20), bool), (100, 200)), (255, 0, 0), 2)
    assert (canvas == 200).all()


def test_predict_ends_with_its_counts_and_names_the_checkpoint_that_was_given(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=32",
             "train.epochs=1", "train.batch=8", "stages=[train]")  # fmt: skip
    assert cli(*train) == 0
    trained = next(Path("outputs/runs/cam").iterdir())
    predict = ("+experiment=predict", f"images={folder_of_images / 'val/red'}", "report.images=2")

    def read(name: str) -> Any:
        return json.loads(Path(f"outputs/latest/{name}").read_text())

    assert cli(*predict, "checkpoint=outputs/latest") == 0
    boxes = read("predictions.json")["annotations"]
    with_box = len({box["image_id"] for box in boxes})
    mean = np.mean([box["confidence"] for box in boxes])
    *_, counts, files, notes, _ = capsys.readouterr().out.splitlines()
    assert counts == (
        f"boxes      4 images: {with_box} with {len(boxes)} box{'es' * (len(boxes) != 1)}, "
        f"{4 - with_box} without a box; mean confidence of a box {mean:.2f} (not calibrated)"
    )
    latest = Path("outputs/latest").resolve().relative_to(Path.cwd())
    assert files.strip() == f"{latest}/pictures/, {latest}/predictions.json"
    assert notes.startswith("notes ")

    assert cli(*predict, f"checkpoint={trained}") == 0  # all is kept
    texts = [note["text"] for note in read("notes.json") if note["stage"] == "rank"]
    assert any(f"those of checkpoint={trained} do not exist" in text for text in texts)
    assert not any("outputs/latest" in text for text in texts)

    Path("outputs").rename("elsewhere")  # the message names the run of the folder that is given
    assert cli(*predict, "checkpoint=outputs/latest", "outputs=elsewhere") == 2
    remedy = "the newest run of outputs=elsewhere that has one: checkpoint=elsewhere/runs/"
    assert remedy in capsys.readouterr().err
    Path("elsewhere").rename("outputs")

    assert cli("+experiment=export", "run=outputs/latest", "export.formats=[yolo]") == 0
    exported = Path("outputs/latest/exported/yolo")
    assert (
        len(list((exported / "labels/train").glob("*.txt"))) == 4
    )  # images to train a detector on
    assert yaml.safe_load((exported / "data.yaml").read_text())["val"] == "images/train"
