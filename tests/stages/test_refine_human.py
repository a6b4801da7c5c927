"""Boxes of a person teach only where they may, and all that learned from them says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from pipeline.data.folder import Folder
from pipeline.engine.human import MIN_OTHERS, select_teaching
from pipeline.engine.images import SplitImages
from pipeline.formats import human_boxes
from pipeline.ops.hashing import hash_file
from pipeline.ops.rle import encode_rle
from pipeline.protocols import DataSet
from pipeline.stages.refine.human_targets import compute_target, cut_box
from pipeline.types import HumanBoxes
from tests.conftest import Cli

RUN = ("+experiment=annotate", "data=folder", "model=small", "train.epochs=1", "data.size=32",
       "saliency@refine.teacher=cam", "refine.steps=2", "refine.batch=8", "annotate.sheet=0",
       "refine.object_class=false", "export.formats=[fiftyone]")  # fmt: skip
TEACH = "annotate.learn_from_human=true"


def drawn(root: Path, id: str, name: str = "", **fields: Any) -> HumanBoxes:
    """A person's box of the square in an image of `folder_of_images`, of the image's class."""
    content = hash_file(root / id)
    pixels = np.asarray(Image.open(root / id)).astype(int)
    rows, columns = np.nonzero((np.abs(pixels - 110) > 60).any(2))
    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    box = np.array([ends], np.float32)
    return HumanBoxes(id, content, (48, 64), box, [name or id.split("/")[1]], **fields)


def latest(name: str) -> Any:
    return json.loads((Path("outputs/latest") / name).read_text(encoding="utf-8"))


def said_everywhere() -> set[str]:
    """What the files of the newest run say of its supervision."""
    info = latest("exported/fiftyone/metadata.json")["info"]
    return {
        latest("predictions.json")["info"]["supervision"],
        *(record["supervision"] for record in latest("metrics.json")),
        info["supervision"],
        "boxes" if "supervision: boxes" in info["model_version"] else "image labels",
        "boxes" if "supervision: boxes" in latest_page() else "image labels",
    }


def latest_page() -> str:
    return (Path("outputs/latest/report/index.html")).read_text(encoding="utf-8")


def test_no_box_of_a_person_teaches_unless_it_may(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs without, with boxes that may not teach, with boxes that may, and without again."""
    run = (*RUN, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    network = Path("outputs/latest/stages/refine").resolve()
    before = (network / "weights.safetensors").read_bytes()
    names = [f"train/red/{n}.png" for n in range(12)]
    images = [drawn(folder_of_images, name, is_random=True) for name in names]
    human_boxes.write(Path("outputs/human_boxes.json"), images)
    assert cli(*run, "annotate.retrain=always") == 0
    assert Path("outputs/latest/stages/refine").resolve() == network
    assert (network / "weights.safetensors").read_bytes() == before
    assert said_everywhere() == {"image labels"}
    assert latest("stages/calibrate/thresholds.json")["source"] == "user"

    capsys.readouterr()
    assert cli(*run, TEACH) == 0
    printed = capsys.readouterr().out
    assert "human boxes teach; results are no longer weakly supervised" in printed
    assert "other boxes of a person teach (annotate.learn_from_human)" in printed
    taught = Path("outputs/latest/stages/refine").resolve()
    card = json.loads((taught / "card.json").read_text(encoding="utf-8"))
    assert taught != network
    assert 2 < card["human"]["boxes"] <= 12
    assert said_everywhere() == {"boxes"}
    assert latest("stages/calibrate/thresholds.json")["source"] != "user"  # they taught

    assert cli(*run, TEACH) == 0  # the network is used again, and is what it was
    assert not Path("outputs/latest/stages/refine").exists()
    assert said_everywhere() == {"boxes"}
    assert cli(*run) == 0
    assert Path("outputs/latest/stages/refine").resolve() == network
    assert said_everywhere() == {"image labels"}


def test_only_training_images_teach_and_the_random_sample_measures(folder_of_images: Path) -> None:
    images = SplitImages(cast(DataSet, Folder(str(folder_of_images))), "train")
    classes = ("blue", "red")
    many = {id: drawn(folder_of_images, id) for id in images.ids}
    assert len(many) > MIN_OTHERS
    human = {id: drawn(folder_of_images, id, is_random=n == 0) for n, id in enumerate(many)}
    human["val/red/0.png"] = drawn(folder_of_images, "val/red/0.png")
    chosen = select_teaching(human, images, classes)
    assert len(chosen.images) == chosen.count == len(many) - 1
    assert len(chosen.notes) == 2
    other = {**human, images.ids[1]: drawn(folder_of_images, images.ids[1], "unknown")}
    assert select_teaching(other, images, classes).count == MIN_OTHERS  # the random one is needed
    few = {id: drawn(folder_of_images, id, is_random=True) for id in images.ids[:3]}
    assert select_teaching(few, images, classes).count == 3
    assert select_teaching(few, images, classes).key != chosen.key
    assert select_teaching({}, images, classes).key is None


def square(side: int = 64) -> np.ndarray:
    image = np.random.default_rng(0).integers(90, 110, (side, side, 3)).astype(np.uint8)
    image[16:48, 24:56] = (220, 30, 30)
    return image


def test_a_target_is_the_object_in_the_box() -> None:
    human = HumanBoxes("a", "a", (640, 320), np.array([[115, 150, 285, 490]], np.float32), ["x"])
    target = compute_target(square(), human)
    assert target is not None
    assert target.shape == (56, 56)
    rows, columns = np.nonzero(target > 0.5)
    assert (
        np.abs([rows.min() - 14, rows.max() - 41, columns.min() - 21, columns.max() - 48]).max()
        <= 1
    )


def test_where_a_cut_does_not_fill_the_box_there_is_no_target() -> None:
    assert cut_box(square(), np.array([0.0, 0, 64, 64])) is None  # no background
    box = np.array([[24, 16, 56, 48], [0, 0, 60, 60]], np.float32)
    assert compute_target(square(), HumanBoxes("a", "a", (64, 64), box[:1], ["x"])) is not None
    assert compute_target(square(), HumanBoxes("a", "a", (64, 64), box, ["x"] * 2)) is None


def test_a_mask_that_a_person_drew_is_the_target() -> None:
    mask = np.zeros((64, 64), bool)
    mask[32:] = True
    human = HumanBoxes("a", "a", (64, 64), np.array([[0, 32, 64, 64]], np.float32), ["x"],
                       masks=[encode_rle(mask, (64, 64))])  # fmt: skip
    target = compute_target(square(), human)
    assert target is not None
    assert target[28:].min() == 1
    assert target[:28].max() == 0
