"""The random sample as images are added: what somebody is reviewing is named where it changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Cli

RUN = ("+experiment=cam", "data=folder", "data.size=32", "model=small", "train.epochs=1",
       "train.batch=8", "explain.split=all", "rank.sample=6",
       "stages=[train,explain,localize,rank]")  # fmt: skip


def read_sample() -> set[str]:
    return {*json.loads(Path("outputs/latest/stages/rank/sample.json").read_text())}


def find_notes(output: str) -> list[str]:
    return [line for line in output.splitlines() if "left the random sample" in line]


def test_images_that_left_the_random_sample_are_named(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (*RUN, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    first, before = Path("outputs/latest").resolve(), read_sample()
    assert len(before) == 6
    predictions = json.loads(Path("outputs/latest/predictions.json").read_text())
    sampled = {image["file_name"] for image in predictions["images"] if "review_sample" in image}
    assert sampled == before
    assert cli(*run, "segmenter.threshold=0.3") == 0  # other boxes, the same sample
    assert not find_notes(capsys.readouterr().out)

    pixels = np.random.default_rng(3).integers(0, 255, (20, 48, 64, 3)).astype(np.uint8)
    for n, image in enumerate(pixels):
        Image.fromarray(image).save(folder_of_images / f"val/red/new{n}.png")
    assert cli(*run, "rank.sample=5") == 0  # another draw is nobody's surprise
    assert not find_notes(capsys.readouterr().out)
    assert cli(*run) == 0
    left = before - read_sample()
    assert left
    (note,) = find_notes(capsys.readouterr().out)
    assert f"rank: {len(left)} image" in note
    assert f"left the random sample of 6 since outputs/runs/cam/{first.name}"[:60] in note
    assert f"and {len(left)} others came" in note
    records = json.loads(Path("outputs/latest/notes.json").read_text())
    (record,) = [record for record in records if "left the random sample" in record["text"]]
    assert {*record["names"]} == left
