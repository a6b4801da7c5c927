"""Training, maps and boxes from archives and shards are those from the loose files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Cli
from tests.data.archive_layouts import write_tar, write_zip

MODEL = ("model=small", "train.epochs=1", "runtime.workers=2", "stages=[train,explain,localize]")


def read_files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.png"))
    }


def load(name: str) -> Any:
    return json.loads(Path("outputs/latest", name).read_text())


def boxes_by_name() -> dict[str, list[list[float]]]:
    content = load("predictions.json")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    boxes: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for each in content["annotations"]:
        boxes[names[each["image_id"]]].append([*each["bbox"], each["score"]])
    return boxes


def test_boxes_are_the_same_from_every_place(
    cli: Cli, folder_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = read_files(folder_of_images)
    write_zip(tmp_path / "a.zip", files)
    write_tar(tmp_path / "a.tar", files)
    fsspec.filesystem("memory").pipe("/boxes/a.tar", (tmp_path / "a.tar").read_bytes())
    found = {}
    for root in (folder_of_images, tmp_path / "a.zip", "memory://boxes/a.tar"):
        assert cli("+experiment=cam", "data=folder", f"data.root={root}", *MODEL) == 0
        found[str(root)] = load("boxes.json")
    first, *others = found.values()
    assert len(first) >= 8
    assert all(each == first for each in others)
    checkpoint = f"checkpoint={Path('outputs/latest').resolve()}"
    predicted = []
    for images in (folder_of_images / "val", tmp_path / "val.tar"):
        if images.suffix:
            below = {name[4:]: data for name, data in files.items() if name.startswith("val/")}
            write_tar(images, below)
        assert cli("+experiment=predict", checkpoint, f"images={images}", "runtime.workers=2",
                   "stages=[explain,localize]") == 0  # fmt: skip
        predicted.append(load("predictions.json"))
    assert predicted[0] == predicted[1]


def test_a_network_is_trained_on_shards(cli: Cli, folder_of_images: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        shard: dict[str, bytes] = {}
        for name, data in read_files(folder_of_images / part).items():
            key = name.replace("/", "-").removesuffix(".png")
            shard[f"{key}.png"] = data
            shard[f"{key}.cls"] = name.split("/")[0].encode()
        write_tar(tmp_path / f"shards/{part}-0.tar", shard)
    assert cli("+experiment=cam", "data=webdataset", f"data.shards={tmp_path}/shards", *MODEL) == 0
    boxes = load("predictions.json")
    assert boxes["images"][0]["file_name"] == "val-0/blue-0.png"
    assert {category["name"] for category in boxes["categories"]} == {"red", "blue"}
    assert len(boxes["annotations"]) >= 8


def test_results_of_images_are_found_again_by_their_bytes(
    cli: Cli, folder_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an archive that changed, unchanged images alone are taken over."""
    files = {name: data for name, data in read_files(folder_of_images).items() if "val" in name}
    write_tar(tmp_path / "a.tar", files)
    assert cli("+experiment=cam", "data=folder", f"data.root={folder_of_images}", *MODEL) == 0
    checkpoint = f"checkpoint={Path('outputs/latest').resolve()}"
    predict = ("+experiment=predict", checkpoint, f"images={tmp_path}/a.tar", "runtime.workers=1",
               "stages=[explain,localize]")  # fmt: skip
    assert cli(*predict) == 0
    first, second = list(files)[:2]
    files[first], files[second] = files[second], files[first]  # names stay, contents change places
    write_tar(tmp_path / "a.tar", files)
    capsys.readouterr()
    assert cli(*predict) == 0
    taken = boxes_by_name()
    for stage in ("explain", "localize"):
        shutil.rmtree(Path("outputs", stage))
    assert cli(*predict) == 0
    assert boxes_by_name() == taken


def test_check_finds_the_same_in_an_archive(
    cli: Cli, folder_of_images: Path, tmp_path: Path
) -> None:
    """Bits and modes of the pixels are those of the files, not of what they are decoded to."""
    root = tmp_path / "photos"
    shutil.copytree(folder_of_images, root)
    for path in sorted((root / "train").rglob("*.png"))[::2]:
        values = np.asarray(Image.open(path).convert("L"), np.uint16)
        Image.fromarray(values * 256).save(path)
    write_zip(tmp_path / "a.zip", read_files(root))
    checked = []
    for place in (root, tmp_path / "a.zip"):
        cli("+experiment=check", "data=folder", f"data.root={place}")
        newest = max(Path("outputs/runs/check").iterdir())
        checked.append(json.loads((newest / "check.json").read_text()))
    assert {mode["name"] for mode in checked[0]["modes"]} == {"RGB", "I;16, more than 8 bits"}
    assert checked[0] == checked[1]
