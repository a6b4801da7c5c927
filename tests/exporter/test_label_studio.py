"""label_studio: tasks that Label Studio imports, and gives back with scores as they were."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from pipeline.exporter.label_studio import LabelStudio
from pipeline.formats.corrections import read_corrections
from pipeline.formats.label_studio_brush import decode_brush
from pipeline.types import FoundBoxes, ImageBoxes
from tests.exporter.subjects import (
    CLASSES,
    HUMAN,
    IDS,
    SIZES,
    boxes_of,
    drawn_source,
    found_boxes,
    image_source,
    without_review,
    write_images,
)
from tests.formats.corrections.roundtrip import by_name, check_image

LABEL_STUDIO = "LABEL2BOX_LABEL_STUDIO"
START_SECONDS = 500
TOKEN = "0123456789abcdef0123456789abcdef01234567"
CANNOT = f"{LABEL_STUDIO} names no program label-studio"


@pytest.fixture
def found(tmp_path: Path) -> FoundBoxes:
    write_images(tmp_path / "images")
    return found_boxes(masks=True, source=image_source(tmp_path / "images"))


def export(found: FoundBoxes, folder: Path, **options: Any) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    LabelStudio(**options)(found, folder)
    tasks: list[dict[str, Any]] = json.loads((folder / "tasks.json").read_text("utf-8"))
    return tasks


def regions(task: dict[str, Any], kind: str = "rectanglelabels") -> list[dict[str, Any]]:
    """Return the regions of a kind, of predictions and annotations."""
    sources = [*task.get("predictions", []), *task.get("annotations", [])]
    return [each for source in sources for each in source["result"] if each["type"] == kind]


def to_box(region: dict[str, Any]) -> list[float]:
    """Return half-open xyxy in pixels."""
    value, width, height = (
        region["value"], region["original_width"] / 100, region["original_height"] / 100,
    )  # fmt: skip
    x, y = value["x"] * width, value["y"] * height
    return [x, y, x + value["width"] * width, y + value["height"] * height]


def check_tasks(tasks: list[dict[str, Any]], model_version: str) -> None:
    """Check boxes to 0.01 pixel, classes, scores, and who found them."""
    assert len(tasks) == len(IDS)
    for task in tasks:
        position = IDS.index(task["data"]["image_id"])
        given = boxes_of(position, masks=True)
        boxes = regions(task)
        assert np.reshape([to_box(box) for box in boxes], (-1, 4)) == pytest.approx(
            given.boxes, abs=0.01
        )
        assert [box["value"]["rectanglelabels"] for box in boxes] == (
            [[CLASSES[given.label]]] * len(given.boxes)
        )
        if position == HUMAN:
            assert task["predictions"] == []
            assert len(task["annotations"]) == 1
            continue
        assert task["annotations"] == []
        assert len(task["predictions"]) == bool(len(given.boxes))
        for prediction in task["predictions"]:
            assert prediction["model_version"] == model_version
            assert prediction["score"] == pytest.approx(float(given.confidences[0]))
            assert [box["score"] for box in boxes] == pytest.approx(given.confidences.tolist())


def test_tasks_hold_boxes_scores_and_version(found: FoundBoxes, tmp_path: Path) -> None:
    tasks = export(found, tmp_path / "out")
    check_tasks([{"predictions": [], "annotations": [], **task} for task in tasks],
                found.model_version)  # fmt: skip
    ids = [[each["id"] for each in task["predictions"][0]["result"]] for task in tasks[:2]]
    assert all(len(set(each)) == len(each) for each in ids)


def test_the_data_manager_can_sort_by_doubt(found: FoundBoxes, tmp_path: Path) -> None:
    first, second, third, _ = (task["data"] for task in export(found, tmp_path / "out"))
    assert (first["review_rank"], first["review_sample"], first["confidence"]) == (2, False, 0.8125)
    assert (second["review_rank"], second["review_sample"]) == (1, True)
    assert "confidence" not in third
    plain = export(without_review(found), tmp_path / "plain")
    assert set(plain[0]["data"]) == {"image", "image_id"}
    assert plain[0]["predictions"][0]["score"] == pytest.approx(0.9)


@pytest.mark.parametrize("outlines", ["rle", "polygon"])
def test_masks_are_children_of_their_box(outlines: str, found: FoundBoxes, tmp_path: Path) -> None:
    task = export(found, tmp_path / "out", outlines=outlines)[0]
    kind = "brushlabels" if outlines == "rle" else "polygonlabels"
    masks = regions(task, kind)
    assert [mask["parentID"] for mask in masks] == [box["id"] for box in regions(task)]
    expected = boxes_of(0, masks=True).masks[0]
    if outlines == "rle":
        mask = decode_brush(masks[0]["value"]["rle"], SIZES[0])
        assert (coco_mask.decode(mask) == coco_mask.decode(expected)).all()
    else:
        points = np.array(masks[0]["value"]["points"]) * [SIZES[0][1] / 100, SIZES[0][0] / 100]
        assert points.min(0) == pytest.approx([1, 2], abs=1e-4)
        assert points.max(0) == pytest.approx([30, 20], abs=1e-4)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("outlines", ["rle", "polygon"])
def test_the_configuration_has_every_class_as_it_is(
    outlines: str, masks: bool, tmp_path: Path
) -> None:
    export(found_boxes(masks=masks), tmp_path, outlines=outlines)
    root = ElementTree.parse(tmp_path / "label_config.xml").getroot()
    outline = {"rle": "BrushLabels", "polygon": "PolygonLabels"}[outlines]
    expected = ["RectangleLabels", outline] if masks else ["RectangleLabels"]
    assert [child.tag for child in root] == ["Image", *expected]
    for control in root[1:]:
        assert [label.get("value") for label in control] == list(CLASSES)


def test_local_paths_lead_to_files_below_the_document_root(
    found: FoundBoxes, tmp_path: Path
) -> None:
    for root in (None, str(tmp_path.parent)):
        for task in export(found, tmp_path / "out", document_root=root):
            address = urlsplit(task["data"]["image"])
            (path,) = parse_qs(address.query)["d"]
            assert address.path == "/data/local-files/"
            file = Path(root or tmp_path) / path
            assert os.path.samefile(file, tmp_path / "images" / task["data"]["image_id"])
    steps = (tmp_path / "out/README.txt").read_text("utf-8")
    assert f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={tmp_path.parent}" in steps
    assert "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true" in steps
    with pytest.raises(UserError, match=r"is not below document_root=/nowhere"):
        export(found, tmp_path / "out", document_root="/nowhere")


def test_images_can_be_embedded_named_or_at_an_address(found: FoundBoxes, tmp_path: Path) -> None:
    embedded = export(found, tmp_path / "a", image_paths="embed")[0]["data"]["image"]
    kind, _, content = embedded.partition(";base64,")
    assert kind == "data:image/jpeg"
    assert base64.b64decode(content) == (tmp_path / "images" / IDS[0]).read_bytes()
    named = export(found, tmp_path / "b", image_paths="name")
    assert [task["data"]["image"] for task in named] == IDS
    task = export(found, tmp_path / "c", image_paths="https://host/x/")[0]
    assert task["data"]["image"] == "https://host/x/val/robin/a%20b.jpg"
    with pytest.raises(UserError, match=r"export.image_paths=other: expected local, embed, name"):
        LabelStudio(image_paths="other")


def test_images_that_are_no_files_are_embedded_and_counted(tmp_path: Path) -> None:
    notes = LabelStudio()(found_boxes(source=drawn_source()), tmp_path)
    assert any("4 images" in note and "no files" in note for note in notes)
    task = json.loads((tmp_path / "tasks.json").read_text("utf-8"))[0]
    content = base64.b64decode(task["data"]["image"].partition(",")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (SIZES[0][1], SIZES[0][0])
    (note,) = LabelStudio()(found_boxes(), tmp_path)
    assert "cannot show" in note


def test_scores_that_are_refused_are_clipped_and_counted(tmp_path: Path) -> None:
    found = without_review(found_boxes(source=drawn_source()))

    class Odd(FoundBoxes):
        def images(self) -> Iterator[ImageBoxes]:
            for image in found.images():
                boxes = [replace(each, score=each.score * 3) for each in image.boxes]
                yield replace(image, boxes=boxes)

    notes = LabelStudio()(Odd(**vars(found)), tmp_path)
    assert any("2 images" in note and "clipped" in note for note in notes)
    task = json.loads((tmp_path / "tasks.json").read_text("utf-8"))[0]
    assert task["predictions"][0]["score"] == 1


def test_many_tasks_are_split_into_files(found: FoundBoxes, tmp_path: Path) -> None:
    export(found, tmp_path / "out", tasks_per_file=3)
    files = sorted((tmp_path / "out").glob("tasks*.json"))
    assert [len(json.loads(path.read_text("utf-8"))) for path in files] == [1, 3]
    assert "tasks.json, tasks-2.json" in (tmp_path / "out/README.txt").read_text("utf-8")


# -- a real Label Studio, in an environment of its own, which ./scripts/test tools makes


def call(address: str, method: str, path: str, body: Any = None) -> Any:
    """Return the answer of Label Studio's API."""
    request = urllib.request.Request(
        address + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {path}: {error} {error.read()[:2000]!r}") from error


@contextmanager
def run_label_studio(folder: Path, document_root: Path) -> Iterator[str]:
    """Yield the address of a Label Studio with a user of its own, on this machine alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "false", "COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(document_root),
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                os.environ[LABEL_STUDIO], "start", "--no-browser", "--internal-host", "127.0.0.1",
                "--port", str(port), "--data-dir", str(folder / "data"), "--username", "a@host.org",
                "--password", "a-password-12", "--user-token", TOKEN, "--enable-legacy-api-token",
            ],
            stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_it_answers(address, process, folder / "log")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            call(address, "GET", "/api/projects")
        except (OSError, AssertionError):
            time.sleep(1)
        else:
            return
    pytest.fail(f"Label Studio did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.mark.skipif(LABEL_STUDIO not in os.environ, reason=CANNOT)
def test_label_studio_imports_shows_and_exports(found: FoundBoxes, tmp_path: Path) -> None:
    out, images = tmp_path / "out", tmp_path / "images"
    with run_label_studio(tmp_path, tmp_path) as address:
        for outlines in ("rle", "polygon"):
            tasks = export(found, out, outlines=outlines)
            config = (out / "label_config.xml").read_text("utf-8")
            body = {"title": f"with {outlines}", "label_config": config}
            project = call(address, "POST", "/api/projects", body)["id"]
            storage = {"project": project, "path": str(images), "use_blob_urls": True}
            call(address, "POST", "/api/storages/localfiles", storage)
            imported = call(address, "POST", f"/api/projects/{project}/import", tasks)
            assert (imported["task_count"], imported["prediction_count"]) == (4, 2)
            assert imported["annotation_count"] == 1
            query = f"/api/tasks?project={project}&fields=all&page_size=100"
            stored = call(address, "GET", query)["tasks"]
            check_tasks(stored, found.model_version)
            check_images_are_served(address, stored, images)
            check_corrections(address, project, stored, tmp_path)


def check_images_are_served(address: str, stored: list[dict[str, Any]], images: Path) -> None:
    for task in stored:
        request = urllib.request.Request(
            address + task["data"]["image"], headers={"Authorization": f"Token {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.read() == (images / task["data"]["image_id"]).read_bytes()


def check_corrections(
    address: str, project: int, stored: list[dict[str, Any]], folder: Path
) -> None:
    """Accept the prediction of the first image, skip the second, find nothing in the third."""
    for task, is_skipped in ((stored[0], False), (stored[1], True), (stored[2], False)):
        result = [each for each in task["predictions"] for each in each["result"]]
        body = {"result": result, "was_cancelled": is_skipped}
        call(address, "POST", f"/api/tasks/{task['id']}/annotations", body)
    for kind in ("JSON", "JSON_MIN"):
        query = f"/api/projects/{project}/export?exportType={kind}&download_all_tasks=true"
        path = folder / f"{kind}.json"
        path.write_text(json.dumps(call(address, "GET", query)), encoding="utf-8")
        file = read_corrections(path)
        reviewed = {name: image for name, image in by_name(file).items() if image.is_reviewed}
        assert set(reviewed) == {IDS[0], IDS[2], IDS[HUMAN]}
        assert file.notes == []
        for position in (0, 2, HUMAN):
            check_image(reviewed[IDS[position]], position, masks=True)
        assert reviewed[IDS[0]].author == "1"
