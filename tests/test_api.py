"""Boxes for unlabelled images: from the command line and from Python, the same."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import pipeline
from pipeline.api import Predictor
from pipeline.errors import SkippedImage, UserError
from pipeline.segmenter.threshold import Threshold
from tests.conftest import TINY, Cli


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of outputs of a finished run."""
    from pipeline.__main__ import main

    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(sys, "argv", ["pipeline", "+experiment=cam", *TINY])
        main()
    return folder / "outputs"


@pytest.fixture
def trained(finished: Path, cli: Cli, tmp_path: Path) -> Path:
    """A copy of a finished run, in the folder of the test."""
    shutil.copytree(finished, tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs/latest"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    (tmp_path / "photos/sub").mkdir(parents=True)
    for name, size in (("a.png", (60, 90)), ("sub/a.png", (120, 40)), ("b=[1] c.png", (1, 1))):
        image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / name)
    (tmp_path / "photos/bad.jpg").write_text("no image")
    return tmp_path / "photos"


def test_boxes_for_a_folder_of_unlabelled_images(
    cli: Cli, trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained.resolve()
    assert cli("+experiment=predict", f"checkpoint={run}", f"images={photos}") == 0
    assert "1 of 4 images could not be read" in capsys.readouterr().out
    latest = tmp_path / "outputs/latest"
    data_set = json.loads((latest / "predictions.json").read_text())
    names = [image["file_name"] for image in data_set["images"]]
    assert names == ["a.png", "b=[1] c.png", "sub/a.png"]
    assert len(data_set["categories"]) == 10
    assert len(data_set["annotations"]) == 3
    one_pixel = next(image for image in data_set["images"] if image["width"] == 1)
    (box,) = (a["bbox"] for a in data_set["annotations"] if a["image_id"] == one_pixel["id"])
    assert box == [0, 0, 1, 1]
    assert len(list((latest / "pictures").glob("*.jpg"))) == 3
    page = (latest / "report/index.html").read_text()
    (model,) = re.findall(r'id="view-model">(.*?)</script>', page)
    assert [image["id"] for image in json.loads(model)["images"]] == names

    # A run of predict can be predicted from again, and says what it is.
    settings = yaml.safe_load((latest / "config.yaml").read_text())
    assert settings["checkpoint"] == str(run)
    capsys.readouterr()
    assert cli("+experiment=predict", "checkpoint=outputs/latest", f"images={photos}/a.png") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("checkpoint outputs/runs/predict/")
    assert line.endswith("small, 10 classes; maps of cam, boxes segmented at auto")


def predict_both_ways(cli: Cli, latest: Path, photos: Path) -> tuple[Predictor, dict[str, Any]]:
    """Load the newest run, and return its record of a.png from the command line beside it."""
    run = latest.resolve()
    assert cli("+experiment=predict", f"checkpoint={run}", f"images={photos}/a.png",
               "precision=float32") == 0  # fmt: skip
    (record,) = json.loads((latest / "boxes.json").read_text())
    return pipeline.load(run, precision="float32"), record


def test_the_precision_can_be_given(trained: Path, photos: Path) -> None:
    predict = pipeline.load(trained, device="cpu", precision="bf16")
    assert predict.precision == "bf16"
    assert predict(photos / "a.png")[0].boxes.dtype == np.float32
    assert pipeline.load(trained, device="cpu").precision == "float32"
    with pytest.raises(UserError, match="precision='fp16': choices: auto, float32, bf16"):
        pipeline.load(trained, precision="fp16")


def test_from_python_as_from_the_command_line(cli: Cli, trained: Path, photos: Path) -> None:
    predict, record = predict_both_ways(cli, trained, photos)
    (prediction,) = predict(photos / "a.png")
    x0, y0, x1, y1 = prediction.boxes[0].tolist()
    assert record["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=0.02)
    assert record["score"] == pytest.approx(float(prediction.scores[0]), abs=1e-4)
    assert prediction.label in predict.classes

    array = np.asarray(Image.open(photos / "a.png"))
    (same,) = predict(array)
    np.testing.assert_allclose(same.boxes, prediction.boxes, atol=1)
    assert len(predict(array, "top3")) == 3
    assert predict(array, "star")[0].label == "star"


def test_the_network_of_a_run_is_explained_as_any_other(trained: Path, photos: Path) -> None:
    predict = pipeline.load(trained, device="cpu", precision="float32")
    files = [photos / "a.png", photos / "sub/a.png"]
    predictions = predict(files, "top3")
    result = pipeline.explain(predict.network, files, predict.saliency, target="top3")
    boxes = pipeline.localize(result, segmenter=predict.segmenter)
    assert boxes.images == list(map(str, files))
    for mine, theirs in zip(predictions, boxes, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert (one.label, one.probability) == (other.label, other.probability)
            np.testing.assert_array_equal(one.map.values, other.map.values)
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.confidences, other.confidences)
    assert pipeline.show(files[1], result, boxes=boxes).size[0] > 0
    with pytest.raises(UserError, match="last: the network is wrapped already"):
        pipeline.explain(predict.network, files, last="block7")


def test_maps_from_python_are_averaged_over_the_views_of_the_run(
    cli: Cli, photos: Path, tmp_path: Path
) -> None:
    assert cli("+experiment=cam", *TINY, "explain.flips=true") == 0
    predict, record = predict_both_ways(cli, tmp_path / "outputs/latest", photos)
    (prediction,) = predict(photos / "a.png")
    x0, y0, x1, y1 = prediction.boxes[0].tolist()
    assert record["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=0.01)
    predict.saliency = predict.saliency.method  # type: ignore[attr-defined]
    (alone,) = predict(photos / "a.png")
    assert not np.allclose(alone.map.values, prediction.map.values, atol=1e-3)


def test_what_cannot_be_predicted_says_why(trained: Path, photos: Path, tmp_path: Path) -> None:
    predict = pipeline.load(trained)
    with pytest.raises(SkippedImage, match="not an image"):
        predict(photos / "bad.jpg")
    with pytest.raises(UserError, match="target=fish: neither a rule nor a class"):
        predict(photos / "a.png", "fish")
    with pytest.raises(UserError, match="target 10: no such class; the network has 10 classes"):
        predict(photos / "a.png", 10)
    with pytest.raises(UserError, match="target=top20: the network has 10 classes; give top10"):
        predict(photos / "a.png", "top20")
    with pytest.raises(UserError, match="target=true: the images have no labels"):
        predict(photos / "a.png", "true")
    with pytest.raises(UserError, match="no checkpoint there"):
        pipeline.load(tmp_path)
    with pytest.raises(UserError, match="image: floats from 0 to 1 are expected, got 0 to 7"):
        predict(np.linspace(0, 7, 48).reshape(4, 4, 3))
    with pytest.raises(UserError, match="image 2 of the list: expected a path, a PIL image"):
        predict([photos / "a.png", np.zeros((4, 4, 3), int)])
    others: tuple[Any, ...] = (7, None, b"a.png", {"a.png": 1})
    for other in others:
        with pytest.raises(TypeError, match="expected a path, a PIL image, an array"):
            predict(other)
    with pytest.raises(TypeError, match=r"image 1 of the list: expected .*; got int"):
        predict([3])  # type: ignore[list-item]


def test_images_in_memory_give_what_their_file_gives(trained: Path, photos: Path) -> None:
    predict = pipeline.load(trained)
    array = np.asarray(Image.open(photos / "a.png"))
    (expected,) = predict(array)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    opaque = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    forms = (Image.open(photos / "a.png"), array / 255.0, tensor, tensor.float() / 255, opaque)
    for form in forms:
        (prediction,) = predict(form)
        assert prediction.label == expected.label
        assert prediction.probability == expected.probability
        np.testing.assert_array_equal(prediction.boxes, expected.boxes)
    assert predict(array[:, :, 0])[0].boxes.shape[1] == 4


def test_a_list_gives_a_list_for_each_image(trained: Path, photos: Path) -> None:
    predict = pipeline.load(trained)
    predict.precision = "float32"
    array = np.asarray(Image.open(photos / "sub/a.png"))
    images: list[Any] = [
        photos / "a.png",
        array,
        Image.fromarray(array),
        str(photos / "b=[1] c.png"),
    ] * 5
    several = predict(images, "top2")
    assert [len(predictions) for predictions in several] == [2] * 20
    for image, predictions in zip(images[:4], several[16:], strict=True):
        for listed, single in zip(predictions, predict(image, "top2"), strict=True):
            assert listed.label == single.label
            assert listed.probability == pytest.approx(single.probability, abs=1e-5)
            np.testing.assert_allclose(listed.boxes, single.boxes, atol=1e-3)
    assert len(predict(image for image in images[:2])) == 2
    assert predict([]) == []


def test_a_class_by_its_index(trained: Path, photos: Path) -> None:
    predict = pipeline.load(trained)
    assert predict(photos / "a.png", 3)[0].label == predict.classes[3]
    assert predict(photos / "a.png", "3")[0].label == predict.classes[3]


def test_a_class_in_another_unicode_form(trained: Path, photos: Path) -> None:
    predict = pipeline.load(trained)
    name, decomposed = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"
    predict.trained.network.classes = (name, *predict.classes[1:])
    for given in (name, decomposed):
        assert predict(photos / "a.png", given)[0].label == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint=/nowhere", "images=x"], "no checkpoint there"),
        (["images=x", "train.head=new"], "checkpoint is missing: give checkpoint=..."),
        (["checkpoint=outputs/latest", "images=/nowhere/*.jpg"], "no image"),
        (["images=photos"], "checkpoint is missing: model=small has no weights"),
        (["checkpoint=outputs/latest"], "images is missing: give images=..."),
        (["checkpoint=outputs/latest", "images=photos", "explain.target=true"], "no labels"),
    ],
)
def test_wrong_requests_are_refused(
    arguments: list[str], message: str, cli: Cli, trained: Path, photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    capsys.readouterr()
    assert cli("+experiment=predict", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_everything_bad_fails(
    cli: Cli, trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("+experiment=predict", "checkpoint=outputs/latest", f"images={photos}/bad.jpg") == 2
    assert "none of 1 images could be read" in capsys.readouterr().err


def test_evaluation_with_a_checkpoint_from_elsewhere(cli: Cli, trained: Path) -> None:
    run = trained.resolve()
    assert cli("+experiment=cam", *TINY, f"checkpoint={run}",
               "stages=[explain,localize,evaluate,report]", "data.seed=5") == 0  # fmt: skip


def test_predict_makes_and_cuts_maps_as_the_run_did_unless_told_otherwise(
    cli: Cli, trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = (f"checkpoint={trained.resolve()}", f"images={photos}/a.png")
    assert cli("+experiment=cam", *TINY, base[0], "saliency=layercam_below", "explain.flips=true",
               "segmenter.threshold=0.35", "stages=[explain,localize]") == 0  # fmt: skip
    run = (tmp_path / "outputs/latest").resolve()

    def config(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        command = ("+experiment=predict", f"checkpoint={run}", base[1], *arguments)
        assert cli(*command, "--cfg", "job") == 0
        return dict(yaml.safe_load(capsys.readouterr().out))

    by_default = config()
    assert by_default["saliency"]["_target_"].endswith("LayerCAM")
    assert by_default["saliency"]["layers"] == ["below"]
    assert by_default["segmenter"]["threshold"] == 0.35
    assert by_default["explain"]["flips"] is True
    more = config("segmenter.components=all")
    assert more["segmenter"]["threshold"] == 0.35
    assert more["segmenter"]["components"] == "all"
    other = config("saliency=cam")  # the threshold was that of other maps
    assert other["saliency"]["_target_"].endswith(".CAM")
    assert other["explain"]["flips"] is False
    assert other["segmenter"]["threshold"] == "auto"

    # From Python, the same.
    as_run, as_given = pipeline.load(run).segmenter, pipeline.load(run, saliency="cam").segmenter
    assert isinstance(as_run, Threshold)
    assert isinstance(as_given, Threshold)
    assert as_run.threshold == 0.35
    assert as_given.threshold == "auto"

    changed = yaml.safe_load((run / "config.yaml").read_text())
    changed["saliency"] = {"_target_": "subprocess.Popen", "args": ["true"]}
    (run / "config.yaml").write_text(yaml.safe_dump(changed))
    assert cli("+experiment=predict", f"checkpoint={run}", base[1]) == 2
    assert "must not run code" in capsys.readouterr().err
