"""s3:// against moto's server on 127.0.0.1: training and boxes from shards, archives and folders.

The server runs in a thread of this process and ends with the module. No request leaves the machine:
the endpoint is in the environment, as the credentials are. gs:// has no such server here: tested is
what is said without its package.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from pipeline.data.folder import Folder
from pipeline.data.images import Images
from pipeline.data.webdataset import WebDataset
from pipeline.errors import UserError
from pipeline.formats import stored
from pipeline.types import Split
from tests.conftest import Cli
from tests.data.archive_layouts import shape_files, write_shards, write_tar, write_zip
from tests.s3_server import KEY, SECRET, serve, set_environment

pytest.importorskip("moto", reason="moto comes with the extra test")
s3fs = pytest.importorskip("s3fs", reason="s3fs comes with the extra test")

SPLITS: tuple[Split, ...] = ("train", "held_back", "val")
QUICK = ("model=small", "train.epochs=1", "runtime.workers=2", "data.size=32")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    for server in serve():
        yield server.endpoint


@pytest.fixture(autouse=True)
def environment(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    set_environment(endpoint, tmp_path, monkeypatch)
    s3fs.S3FileSystem.clear_instance_cache()  # instances keep the credentials that they found
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the same images as shards, in a zip, in a tar, and loose; and its copy."""
    root = tmp_path / "bucket"
    write_shards(root / "shards")
    parts = shape_files()
    files = {f"{part}/{name}": data for part in parts for name, data in parts[part].items()}
    write_zip(root / "a.zip", files)
    write_tar(root / "a.tar", files)
    for name, data in files.items():
        (root / "loose" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "loose" / name).write_bytes(data)
    remote = fsspec.filesystem("s3")
    if not remote.exists("photos"):
        remote.mkdir("photos")
        remote.pipe({
            f"photos/{path.relative_to(root).as_posix()}": path.read_bytes()
            for path in root.rglob("*") if path.is_file()
        })  # fmt: skip
    return root


def load(name: str) -> Any:
    return json.loads(Path("outputs/latest", name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "loose"])
def test_folders_and_archives_are_as_here(here: Path, name: str) -> None:
    near, far = Folder(str(here / name)), Folder(f"s3://photos/{name}")
    assert far.classes == near.classes
    for split in SPLITS:
        assert far.ids(split) == near.ids(split)
        assert far.labels(split).tolist() == near.labels(split).tolist()
        np.testing.assert_array_equal(far.example(split, 0).image, near.example(split, 0).image)
    assert Images(f"s3://photos/{name}").ids("val") == Images(str(here / name)).ids("val")


def test_shards_are_trained_on_and_images_get_boxes(
    cli: Cli, here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for shards, more in (("s3://photos/shards/", ",evaluate,report"), (here / "shards", "")):
        code = cli("+experiment=cam", "data=webdataset", f"data.shards={shards}", *QUICK,
                   f"stages=[train,explain,localize{more}]")  # fmt: skip
        assert code == 0
        found[str(shards)] = load("predictions.json")["annotations"]
    first, second = found.values()
    assert first == second
    assert len(first) >= 4
    given = (f"checkpoint={Path('outputs/latest').resolve()}", "runtime.workers=2",
             "stages=[explain,localize]")  # fmt: skip
    predicted = []
    for images in ("s3://photos/a.zip", here / "a.zip"):
        assert cli("+experiment=predict", f"images={images}", *given) == 0
        predicted.append(load("predictions.json")["annotations"])
    assert predicted[0] == predicted[1]
    said = "".join(capfd.readouterr())
    for secret in (KEY, SECRET):
        assert secret not in said
        for path in (*tmp_path.rglob("outputs/**/*"), *tmp_path.rglob("cache/**/*")):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    assert "s3://photos/shards/" in "".join(
        path.read_text(encoding="utf-8") for path in tmp_path.rglob("outputs/**/config.yaml")
    ), "what is searched for secrets has the address"


@pytest.mark.parametrize("address", ["gone/a.zip", "gone/folder", "photos/gone.zip"])
def test_a_bucket_or_file_that_is_not_there(here: Path, address: str) -> None:
    with pytest.raises(UserError, match=f"s3://{address}: .*(see whether bucket|no image found)"):
        _ = Folder(f"s3://{address}").splits
    if address == "gone/folder":
        for end in ("", "/", "/*.tar", "/a.tar"):
            with pytest.raises(UserError, match=r"s3://gone/.*see whether bucket and path"):
                _ = WebDataset(f"s3://{address}{end}").splits


def test_without_credentials(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    expected = "Unable to locate credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    for root in ("a.zip", "loose"):
        with pytest.raises(UserError, match=f"s3://photos/{root}: cannot be .*{expected}"):
            _ = Folder(f"s3://photos/{root}").splits
    for shards in ("shards/", "shards/train-000.tar"):
        with pytest.raises(UserError, match=expected):
            _ = WebDataset(f"s3://photos/{shards}").splits
    with pytest.raises(OSError, match=f"not read in 1 attempt .*{expected}"):
        stored.read_bytes("s3://photos/a.zip")


def test_a_public_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("s3").chmod("photos/a.zip", "public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    conf: dict[str, Any] = {}
    fsspec.config.set_conf_env(conf, {"FSSPEC_S3_ANON": "true"})
    monkeypatch.setitem(fsspec.config.conf, "s3", conf["s3"])
    s3fs.S3FileSystem.clear_instance_cache()
    assert len(Folder("s3://photos/a.zip").ids("train")) > 4
    with pytest.raises(UserError, match=r"a\.tar: .*PermissionError.*may not read it: see AWS_ACC"):
        _ = Folder("s3://photos/a.tar").splits


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"s3://photos/a.zip: .*AWS_ENDPOINT_URL"):
        _ = Folder("s3://photos/a.zip").splits


@pytest.mark.parametrize(("protocol", "module"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_file_system_that_is_not_installed(
    protocol: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, protocol, False)
    for open_it in (Folder, WebDataset):
        with pytest.raises(UserError, match=rf"{protocol}://.*{module}.*label2box\[remote\]"):
            _ = open_it(f"{protocol}://photos/loose").splits
