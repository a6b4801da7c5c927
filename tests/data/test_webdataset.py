"""data=webdataset: shards by pattern, labels of three kinds, indexes that are kept, addresses."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from pipeline.data import archive_files, shard_samples
from pipeline.data.shard_names import expand_braces, find_shards, name_shards
from pipeline.data.shard_samples import split_name
from pipeline.data.webdataset import WebDataset
from pipeline.errors import UserError
from pipeline.formats.archives import read_archive
from pipeline.types import Split
from tests.data.archive_layouts import DRAWN, SHARDS, noise, to_bytes, write_shards, write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


PNG = to_bytes(noise(0))
USED: tuple[Split, ...] = ("train", "val", "test")


def shard(path: Path, labels: Mapping[str, Any], ending: str = "cls") -> str:
    files: dict[str, bytes] = {}
    for name, label in labels.items():
        files[f"{name}.png"] = PNG
        if label is not None:
            files[f"{name}.{ending}"] = label if isinstance(label, bytes) else str(label).encode()
    write_tar(path, files)
    return str(path)


def labels_of(data: WebDataset) -> dict[str, str]:
    names = (*data.classes, None)
    return {
        id.rpartition("/")[2]: names[label]
        for id, label in zip(data.ids("all"), data.labels("all"), strict=True)
    }


def test_the_drawn_set_is_read_from_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    data = WebDataset(str(tmp_path), held_back=0)
    assert data.classes == DRAWN.classes
    for split, shards in SHARDS:
        assert [id.partition("/")[0] for id in (data.ids(split)[0], data.ids(split)[-1])] == [
            f"{split}-000", f"{split}-{shards - 1:03d}"]  # fmt: skip
        assert data.labels(split).tolist() == DRAWN.labels(split).tolist()
        for n in range(len(data.ids(split))):
            pixels = DRAWN.example(split, n).image
            np.testing.assert_array_equal(data.example(split, n).image, pixels)
    assert data.ids("test") == ["train-001/nameless.png"]
    assert data.labels("test").tolist() == [-1]
    assert data.path("train", 0) is None
    assert "1 image ('train-001/nameless.png') without a label" in "\n".join(data.notes())


def test_patterns_of_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    text = str(tmp_path)
    for given in (f"{text}/train-{{000..001}}.tar", f"{text}/train-*.tar",
                  [f"{text}/train-000.tar", f"{text}/train-001.tar"]):  # fmt: skip
        data = WebDataset(given, val_shards=f"{text}/val-{{0,00}}0.tar", held_back=0)
        assert data.labels("train").tolist() == DRAWN.labels("train").tolist()
        assert data.labels("val").tolist() == DRAWN.labels("val").tolist()
        assert "1 shard" in data.notes()[0], "val-00.tar is not there"
    alone = WebDataset(shard(tmp_path / "b/x.tar", {f"{n}": n % 2 for n in range(9)}), val=0.5)
    assert 0 < len(alone.ids("val")) < 8
    assert "no shard that is scored" in "\n".join(alone.notes())
    with pytest.raises(UserError, match=r"no shard in '.*gone.*expected a \.tar"):
        WebDataset(f"{text}/gone-*.tar")
    with pytest.raises(UserError, match=r"\{9\.\.1\} is no range"):
        WebDataset(f"{text}/{{9..1}}.tar")
    assert [*expand_braces("a")] == ["a"]
    assert find_shards("shards", [text, f"{text}/val-000.tar"])[0] == sorted(
        map(str, tmp_path.glob("*.tar"))
    )
    assert name_shards(["/a/b1/x.tar", "/a/b2/x.tar"]) == ["b1/x", "b2/x"]
    assert name_shards(["x.tar"]) == ["x"]
    assert name_shards(["s3://a/b/x.tar", "s3://a/b/c/x.tar"]) == ["x", "c/x"]


@pytest.mark.parametrize(("ending", "labels", "expected"), [
    ("cls", {"a": 10, "b": "9"}, {"a": "10", "b": "9"}),
    ("cls", {"a": "cat", "b": " dog\n"}, {"a": "cat", "b": "dog"}),
    ("txt", {"a": "cat", "b": None}, {"a": "cat", "b": None}),
    ("json", {"a": '{"label": "cat"}', "b": '{"label": 3}'}, {"a": "cat", "b": "3"}),
    ("json", {"a": '{"class_name": "cat"}', "b": '"dog"'}, {"a": "cat", "b": "dog"}),
])  # fmt: skip
def test_labels_of_each_kind(
    tmp_path: Path, ending: str, labels: dict[str, Any], expected: dict[str, str]
) -> None:
    data = WebDataset(shard(tmp_path / "a.tar", labels, ending), val=0, held_back=0)
    assert labels_of(data) == {f"{name}.png": label for name, label in expected.items()}
    assert list(data.classes) == sorted({*expected.values()} - {None}, key=lambda n: (len(n), n))


def test_options_name_image_and_label(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {
        "1.seg.png": to_bytes(noise(1)), "1.jpg": to_bytes(noise(2), "JPEG"), "1.cls": b"0",
        "1.meta.json": json.dumps({"species": "robin"}).encode(),
    })  # fmt: skip
    path = str(tmp_path / "a.tar")
    plain = WebDataset(path, val=0, held_back=0)
    assert labels_of(plain) == {"1.jpg": "0"}
    given = WebDataset(path, val=0, held_back=0, image_key="seg.png", label_key="meta.json",
                       label_field="species")  # fmt: skip
    assert labels_of(given) == {"1.seg.png": "robin"}
    np.testing.assert_array_equal(given.example("train", 0).image, noise(1))
    with pytest.raises(UserError, match=r"no file ends in data\.image_key=webp"):
        _ = WebDataset(path, image_key="webp").splits
    with pytest.raises(UserError, match=r"no field 'a' \(has 'species'; data\.label_field\)"):
        _ = WebDataset(path, label_key="meta.json", label_field="a").splits


def test_names_of_numbers(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"a": 1, "b": 2, "c": "cat", "d": 7})
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    data = WebDataset(path, val=0, held_back=0)
    assert data.classes == ("bee", "cat")
    assert labels_of(data) == {"a.png": "bee", "b.png": "cat", "c.png": "cat"}
    (note,) = [note for note in data.notes() if "no class of its list" in note]
    assert "('a/d.png: 7')" in note
    (tmp_path / "other.txt").write_text("1\n2\n3\n4\n5\n6\n7\n8\ncat")
    named = WebDataset(path, val=0, held_back=0, classes_file=str(tmp_path / "other.txt"))
    assert labels_of(named)["d.png"] == "7"
    (tmp_path / "classes.txt").write_text("ant\nant\n")
    with pytest.raises(UserError, match="'ant' is there twice"):
        _ = WebDataset(path).splits


def test_samples_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [
        ("a.png", PNG), ("a.cls", b"0"), ("a.png", PNG), ("b.cls", b"1"), ("c.png", PNG),
        ("c.cls", b"\xff"), ("d.png", PNG), ("d.json", b"{"), ("e.png", PNG), ("e.cls", b"1"),
        (".hidden", b""), ("readme", b""), ("f.png", PNG), ("f.cls", b"0|1"),
    ])  # fmt: skip
    data = WebDataset(str(tmp_path / "a.tar"), val=0, held_back=0, several="leave_out")
    assert labels_of(data) == {"a.png": "0", "e.png": "1"}
    notes = "\n".join(data.notes())
    for expected in (
        "1 sample ('a.tar: a.png') with two files of the same name: the first counts",
        "1 sample ('a.tar: b') without an image: left out",
        "1 sample ('a.tar: c') whose .cls is no UTF-8 text: left out",
        "1 sample ('a.tar: d') whose .json is no JSON: left out",
        "1 image ('a/f.png') of 3 has several labels: left out",
    ):
        assert expected in notes, notes
    with pytest.raises(UserError, match=r"data\.several=leave_out"):
        _ = WebDataset(str(tmp_path / "a.tar")).splits
    kept = WebDataset(str(tmp_path / "a.tar"), val=0, held_back=0, several="keep")
    assert kept.is_multi_label
    assert kept.label_sets("train").tolist() == [[True, False], [False, True], [True, True]]
    assert kept.example("train", 2).labels == (0, 1)


def test_a_shard_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    shard(path, {name: n % 2 for n, name in enumerate("abcd")})
    contents = read_archive(str(path))
    cut = contents.offsets[4] + 100  # in c.png
    path.write_bytes(path.read_bytes()[:cut])
    data = WebDataset(str(path), val=0, held_back=0)
    assert labels_of(data) == {"a.png": "0", "b.png": "1"}
    (note,) = [note for note in data.notes() if "ends early" in note]
    assert f"a.tar: ends early, at byte {cut}: 'c.png'" in note
    assert "4 files before it are good and used" in note


def test_an_index_is_kept_until_its_shard_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path / "a.tar", {"a": 0, "b": 1})
    monkeypatch.setattr(archive_files, "MIN_KEPT", 1)
    first = WebDataset(path, val=0, held_back=0)
    assert first.labels("train").tolist() == [0, 1]
    hashed = first.fingerprint("train")
    monkeypatch.setattr(shard_samples, "read_archive", None)  # it is not read again
    again = WebDataset(path, val=0, held_back=0)
    assert again.labels("train").tolist() == [0, 1]
    assert again.fingerprint("train") == hashed
    np.testing.assert_array_equal(again.example("train", 1).image, noise(0))
    monkeypatch.setattr(shard_samples, "read_archive", read_archive)
    shard(tmp_path / "a.tar", {"a": 1, "b": 0})
    os.utime(path, ns=(1, 1))
    changed = WebDataset(path, val=0, held_back=0)
    assert changed.labels("train").tolist() == [1, 0]
    assert changed.fingerprint("train") != hashed


def test_shards_at_an_address(tmp_path: Path) -> None:
    write_shards(tmp_path)
    memory = fsspec.filesystem("memory")
    for path in tmp_path.glob("*.*"):
        memory.pipe(f"/shards/{path.name}", path.read_bytes())
    local = WebDataset(str(tmp_path), held_back=0)
    listed = [f"memory://shards/{name}.tar" for name in ("train-{000..001}", "val-000")]
    for given in ("memory://shards", "memory://shards/*.tar", listed):
        data = WebDataset(given, held_back=0)
        for split in USED:
            assert data.ids(split) == local.ids(split)
            assert data.labels(split).tolist() == local.labels(split).tolist()
        assert data.classes == local.classes
        np.testing.assert_array_equal(data.example("val", 1).image, local.example("val", 1).image)
    with pytest.raises(UserError, match=r"memory://shards/gone\.tar: cannot be read"):
        _ = WebDataset("memory://shards/gone.tar").splits
    with pytest.raises(UserError, match="no shard in 'memory://nowhere'"):
        WebDataset("memory://nowhere")


def test_boxes_of_a_coco_file_measure(tmp_path: Path) -> None:
    write_shards(tmp_path)
    plain = WebDataset(str(tmp_path))
    assert not plain.truth("val")
    assert plain.truth_fingerprint("val") == "none"
    drawn, ids = DRAWN.truth("val"), plain.ids("val")
    boxes = [drawn[id].boxes[0] for id in DRAWN.ids("val")]
    content = {
        "images": [{"id": n, "file_name": id} for n, id in enumerate(ids)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": int(plain.labels("val")[n]),
             "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]}
            for n, (x0, y0, x1, y1) in enumerate(boxes)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(plain.classes)],
    }  # fmt: skip
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    data = WebDataset(str(tmp_path), boxes=str(tmp_path / "boxes.json"))
    truth = data.truth("val")
    assert list(truth) == ids
    for id, box in zip(ids, boxes, strict=True):
        np.testing.assert_allclose(truth[id].boxes, [box], atol=1e-3)
    with pytest.raises(UserError, match=r"data\.boxes=.*no such file"):
        WebDataset(str(tmp_path), boxes="gone.json")


def test_names_of_samples() -> None:
    assert split_name("a/b.c/1.tar.jpg") == ("a/b.c/1", "tar.jpg")
    assert split_name(".hidden") == ("", "hidden")
