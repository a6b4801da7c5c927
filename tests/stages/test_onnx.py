"""onnx: the file computes what the network computes, and runs without this project."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.extent import ExtentHead
from pipeline.model.foreground import (
    ForegroundHead,
    build_foreground_head,
    list_pyramid_layers,
)
from pipeline.model.second_order import SecondOrderHead
from pipeline.model.small import Small
from pipeline.ops.maps import upsample
from pipeline.segmenter.threshold import Threshold
from pipeline.stages.onnx.export import check_installed, write_onnx
from pipeline.stages.onnx.graph import ExportedNetwork, GraphOptions, MapKind, find_mask_box
from pipeline.types import SaliencyMap
from scripts.pages.commands import blocks
from tests.conftest import ROOT, TINY, Cli

pytestmark = pytest.mark.usefixtures("shared_results")

SIDE = 32
CLASSES = ("arrow", "ring", "star")


def small_network(refined: bool) -> Classifier:
    torch.manual_seed(0)
    builder = Small(width=4)
    body, channels = builder.body()
    network = Classifier(body, MeanLinear(channels, 3), CLASSES, builder.last, builder.below)
    if refined:
        foreground = build_foreground_head(network, (SIDE, SIDE), 8)
        foreground.set_extent(ExtentHead(8))
        network.branches["foreground"] = foreground
        reads = ("last", builder.below, "foreground")
        network.branches["object_class"] = head = SecondOrderHead(reads, channels, channels, 3)
        torch.nn.init.normal_(head.get_buffer("axes"))
    return network.eval().requires_grad_(False)


def exported(kind: MapKind, threshold: float | None) -> ExportedNetwork:
    builder = Small()
    options = GraphOptions((SIDE, SIDE), builder.mean, builder.std, kind, threshold)
    return ExportedNetwork(small_network(kind == "foreground"), options).eval()


def pixels(count: int) -> np.ndarray:
    """Images with a bright square, so that maps are not noise."""
    images = np.random.default_rng(count).integers(0, 90, (count, SIDE, SIDE, 3), np.uint8)
    for n, image in enumerate(images):
        image[4 : 16 + n, 8:24] = (250, 40, 200)
    return images


@pytest.fixture(scope="module", params=[("cam", 0.3), ("foreground", None)], ids=str)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExportedNetwork, Path]:
    network = exported(*request.param)
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    write_onnx(path, network, 20, {"classes": json.dumps(CLASSES)})
    return network, path


@pytest.mark.parametrize("kind", ["cam", "foreground"])
def test_each_class_of_images_that_may_have_several(kind: MapKind, tmp_path: Path) -> None:
    """Of each class the box that the file of its map alone has, and the sigmoid of its logit."""
    trained, builder = small_network(False), Small()
    trained.answers = "independent"
    if kind == "foreground":
        layers = list_pyramid_layers(trained, (SIDE, SIDE))
        head = ForegroundHead(tuple(layers), tuple(layers.values()), 8, classes=3)
        trained.branches["foreground"] = head.eval().requires_grad_(False)
    options = GraphOptions((SIDE, SIDE), builder.mean, builder.std, kind, 0.3, True)
    network = ExportedNetwork(trained, options).eval()
    write_onnx(tmp_path / "network.onnx", network, 20, {})
    session = onnxruntime.InferenceSession(
        str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [o.name for o in session.get_outputs()] == ["logits", "maps", "boxes", "scores"]
    for count in (1, 3):
        logits, maps, boxes, scores = session.run(None, {"images": pixels(count)})
        with torch.no_grad():
            for theirs, ours in zip(
                (logits, maps, boxes, scores), network(torch.from_numpy(pixels(count))), strict=True
            ):
                np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4, rtol=1e-4)
        assert boxes.shape == (count, 3, 4)
        for label in range(3):
            box, mean = network.find_box(torch.from_numpy(maps[:, label]))
            np.testing.assert_allclose(boxes[:, label], box, atol=1e-4)
            sigmoid = 1 / (1 + np.exp(-logits[:, label]))
            np.testing.assert_allclose(scores[:, label], mean.numpy() * sigmoid, atol=1e-4)
        assert np.ptp(maps, axis=1).max() > 1e-4, "classes have maps of their own"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_file_computes_what_the_network_computes(
    pair: tuple[ExportedNetwork, Path], count: int
) -> None:
    network, path = pair
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(network.options.outputs)
    images = pixels(count)
    found = session.run(None, {"images": images})
    with torch.no_grad():
        expected = network(torch.from_numpy(images))
    for theirs, ours in zip(found, expected, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4, rtol=1e-4)
        assert len(theirs) == count
    assert np.ptp(expected[1].numpy()) > 1e-3, "the map is not constant"


def test_the_file_is_whole_and_names_the_classes(pair: tuple[ExportedNetwork, Path]) -> None:
    _, path = pair
    model = onnx.load(str(path), load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key: entry.value for entry in model.metadata_props}["classes"] == json.dumps(
        CLASSES
    )
    assert [file.name for file in path.parent.iterdir()] == ["network.onnx"], "one file"


def test_cams_are_those_of_the_class_weights() -> None:
    network = exported("cam", 0.3)
    with torch.no_grad():
        logits, chosen, _, _, maps = network(torch.from_numpy(pixels(3)))
    bias = network.network.gap.bias
    torch.testing.assert_close(maps.mean((2, 3)) + bias, logits)
    for n, label in enumerate(logits.argmax(1).tolist()):
        assert torch.equal(maps[n, label], chosen[n])
    assert not torch.equal(exported("cam_positive", 0.3)(torch.from_numpy(pixels(3)))[4], maps)


@pytest.mark.parametrize("threshold", [0.3, None])
def test_box_and_score_are_those_of_the_segmenter(threshold: float | None) -> None:
    """A map with one peak has one component: the box is that of segmenter=threshold."""
    network = exported("foreground", threshold)
    segmenter = Threshold("size" if threshold is None else threshold)
    for place in ((0, 0), (3, 5), (7, 7)):
        distance = np.abs(np.add.outer(np.arange(8) - place[0], 1j * (np.arange(8) - place[1])))
        values = np.exp(-((distance / 2) ** 2)).astype(np.float16)
        saliency = SaliencyMap("x", 0, 0, 0.5, values, 1.0, (SIDE, SIDE))
        expected = segmenter(saliency)
        box, mean = network.find_box(torch.from_numpy(saliency.raw()[None]))
        np.testing.assert_allclose(box[0] * SIDE, expected.boxes[0], atol=1e-4)
        assert float(mean[0]) * 0.5 == pytest.approx(float(expected.scores[0]), abs=1e-3)
        assert upsample(saliency.raw(), (SIDE, SIDE)).max() == 1


def test_a_constant_map_gives_the_whole_image() -> None:
    box, mean = exported("foreground", 0.3).find_box(torch.full((1, 8, 8), 0.4))
    assert box.tolist() == [[0, 0, 1, 1]]
    assert mean.tolist() == [0]


def test_box_of_a_mask_is_tight_and_half_open() -> None:
    mask = torch.zeros(2, 10, 20, dtype=torch.bool)
    mask[0, 2:5, 3] = True
    mask[1, 9, 19] = mask[1, 0, 0] = True
    expected = [[3 / 20, 2 / 10, 4 / 20, 5 / 10], [0, 0, 1, 1]]
    torch.testing.assert_close(find_mask_box(mask), torch.tensor(expected))


def test_missing_packages_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(UserError, match=r"not installed: onnx; pip install 'label2box\[onnx\]'"):
        check_installed()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def load_records(folder: Path) -> tuple[dict[str, Any], list[str]]:
    record = json.loads((folder / "onnx.json").read_text(encoding="utf-8"))
    notes = json.loads((folder / "notes.json").read_text(encoding="utf-8"))
    return record, [note["text"] for note in notes if note["stage"] == "onnx"]


def test_a_refined_run_is_exported_by_its_name(cli: Cli, tmp_path: Path) -> None:
    quick = ("refine.steps=4", "refine.batch=8")
    assert cli("+experiment=best", *TINY, *quick, "stages=[train,refine,explain,localize]") == 0
    run = os.readlink("outputs/latest")
    assert cli("+experiment=onnx", "run=outputs/latest") == 0
    record, notes = load_records(Path("outputs/latest"))
    assert (record["map"], record["threshold"]) == ("foreground", "size")
    assert len(record["classes"]) == 10
    assert record["compared_images"] == 8
    assert max(record["difference_to_pytorch"].values()) < 1e-4
    assert any("second pass" in note or "teacher" in note for note in notes)
    assert cli("+experiment=onnx", f"run=outputs/{run}", "onnx.threshold=0.4") == 0
    assert load_records(Path("outputs/latest"))[0]["threshold"] == 0.4


def test_a_run_exports_its_cam_and_the_page_runs_it(cli: Cli, tmp_path: Path) -> None:
    """The example of docs/onnx.md runs where neither this project nor PyTorch can be imported."""
    stages = "stages=[train,explain,localize,onnx]"
    assert cli("+experiment=cam", *TINY, stages, "saliency=gradcam") == 0
    record, notes = load_records(Path("outputs/latest"))
    assert (record["map"], record["threshold"]) == ("cam", 0.2)
    assert any("the CAM, not that of saliency=gradcam" in note for note in notes)
    assert any("cut at 0.2" in note and "auto" in note for note in notes)
    examples = [b.text for b in blocks(ROOT / "docs/onnx.md") if b.language == "python"]
    assert len(examples) == 1
    assert len(examples[0].splitlines()) <= 20
    Image.fromarray(np.full((120, 200, 3), 90, np.uint8)).save("photo.jpg")
    os.link(Path("outputs/latest/network.onnx").resolve(), "network.onnx")
    forbid = "import sys; sys.modules['torch'] = sys.modules['pipeline'] = None\n"
    Path("example.py").write_text(forbid + examples[0], encoding="utf-8")
    done = subprocess.run([sys.executable, "example.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in record["classes"]
