"""mnist: the four files as torchvision lays them out, and errors where they are missing."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import mnist
from pipeline.data.mnist import Mnist
from pipeline.errors import UserError
from pipeline.types import Split
from tests.formats.test_download import Server, server

__all__ = ["server"]  # the fixture


def write(raw: Path, name: str, values: np.ndarray) -> None:
    """Write a file of the IDX format: magic number, sizes, bytes."""
    raw.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    (raw / f"{name}-ubyte").write_bytes(header + values.tobytes())


def write_digits(root: Path) -> None:
    rng = np.random.default_rng(0)
    for pool, count in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        write(root / "MNIST/raw", f"{pool}-images-idx3", images)
        write(root / "MNIST/raw", f"{pool}-labels-idx1", np.arange(count, dtype=np.uint8) % 10)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_digits(tmp_path)
    return tmp_path


def test_splits_ids_and_labels(root: Path) -> None:
    data = Mnist(str(root), held_back=0.2)
    assert data.classes == tuple("0123456789")
    assert data.size == (28, 28)
    train, held_back = list(data.ids("train")), list(data.ids("held_back"))
    assert sorted(train + held_back) == [f"train/{n:05d}-{n % 10}.png" for n in range(60)]
    assert held_back
    assert data.ids("val")[17] == "test/00017-7.png"
    assert data.labels("val").tolist() == [n % 10 for n in range(20)]
    assert data.ids("calibration") == []
    assert len(data.ids("all")) == 80
    assert data.truth("val") == {}
    assert data.coco_names("val").category_ids == range(1, 11)
    assert list(Mnist(str(root), held_back=0).ids("held_back")) == []


def test_an_image_has_the_bytes_of_the_file_in_all_channels(root: Path) -> None:
    data = Mnist(str(root))
    stored = (root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    image = np.frombuffer(stored, np.uint8).reshape(-1, 28, 28)[3]
    example = data.example("val", 3)
    assert (example.id, example.label, example.size) == ("test/00003-3.png", 3, (28, 28))
    for colour in range(3):
        np.testing.assert_array_equal(example.image[..., colour], image)
    larger = data.example("val", 3, at=(56, 40))
    assert larger.image.shape == (56, 40, 3)
    assert larger.size == (28, 28)
    assert data.example("val", 3, at_least=(20, 20)).image.shape == (28, 28, 3)
    assert data.example("val", 3, at_least=(20, 42)).image.shape == (42, 42, 3)


def test_the_fingerprint_is_of_pixels_labels_and_split(root: Path) -> None:
    splits: tuple[Split, ...] = ("train", "val")
    before = {split: Mnist(str(root)).fingerprint(split) for split in splits}
    assert before == {split: Mnist(str(root), size=32).fingerprint(split) for split in before}
    assert Mnist(str(root), held_back=0.5).fingerprint("train") != before["train"]
    path = root / "MNIST/raw/t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert Mnist(str(root)).fingerprint("val") != before["val"]
    assert Mnist(str(root)).fingerprint("train") == before["train"]


def test_wrong_options(root: Path) -> None:
    for wrong in ({"held_back": 1.0}, {"size": 3}):
        with pytest.raises(UserError, match=f"data.{next(iter(wrong))}="):
            Mnist(str(root), **wrong)


def test_files_that_are_not_whole(root: Path) -> None:
    path = root / "MNIST/raw/train-labels-idx1-ubyte"
    content = path.read_bytes()
    for broken in (content[:-9], content[:5], b"", content[:8] + bytes([11]) * 60):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"cannot be read as MNIST's .*remove that folder"):
            Mnist(str(root)).ids("train")
    write(path.parent, "train-labels-idx1", np.zeros(59, np.uint8))
    with pytest.raises(UserError, match=r"60 images, 59 labels"):
        Mnist(str(root)).ids("train")


@pytest.fixture
def packed(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The four files as a server gives them; data=mnist knows their MD5."""
    write_digits(tmp_path / "made")
    files = {name: gzip.compress((tmp_path / "made/MNIST/raw" / name).read_bytes())
             for name in mnist.FILES}  # fmt: skip
    monkeypatch.setattr(
        mnist, "FILES", {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    )
    monkeypatch.setattr(mnist, "SERVER", server.url.removesuffix("set.tar.gz"))
    monkeypatch.setattr("pipeline.formats.download.WAIT", 0.001)
    server.contents = {f"/{name}.gz": data for name, data in files.items()}
    return files


def test_what_is_not_there_is_downloaded_once_and_resumed(
    tmp_path: Path, server: Server, packed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "new"
    server.breaks_after = [20_000, 0, 0, 0, 0, 0]
    with pytest.raises(UserError, match=r"closed after 20000 of .*goes on from there"):
        Mnist(str(root)).ids("train")
    server.breaks_after, server.ranges = [], []
    assert len(Mnist(str(root)).ids("val")) == 20
    assert server.ranges == ["bytes=20000-", None, None, None]
    raw, made = root / "MNIST/raw", tmp_path / "made/MNIST/raw"
    names = [path.name for path in raw.iterdir() if path.name[0] != "."]
    assert sorted(names) == sorted(mnist.FILES), "nothing else is left"
    assert all((raw / name).read_bytes() == (made / name).read_bytes() for name in names)
    assert len(Mnist(str(root)).ids("val")) == 20
    assert len(server.ranges) == 4
    (raw / names[0]).unlink()
    assert len(Mnist(str(root)).ids("val")) == 20
    assert len(server.ranges) == 5, "the missing one alone"


def test_packed_files_are_unpacked_and_kept(
    tmp_path: Path, server: Server, packed: dict[str, bytes]
) -> None:
    raw = tmp_path / "new/MNIST/raw"
    raw.mkdir(parents=True)
    for name, content in packed.items():
        (raw / f"{name}.gz").write_bytes(content)
    assert len(Mnist(str(tmp_path / "new")).ids("val")) == 20
    assert server.ranges == []
    assert all((raw / f"{name}.gz").is_file() for name in packed)


def test_another_file_than_mnists_is_refused(
    tmp_path: Path, server: Server, packed: dict[str, bytes]
) -> None:
    server.contents = dict.fromkeys(server.contents, b"a page that says no")
    with pytest.raises(UserError, match=r"no MNIST there.*its MD5 is \w+ and not"):
        Mnist(str(tmp_path / "new")).ids("train")


def test_where_it_cannot_be_downloaded_the_error_names_layout_and_remedy(
    tmp_path: Path, server: Server, packed: dict[str, bytes]
) -> None:
    server.status = 404
    with pytest.raises(UserError) as refused:
        Mnist(str(tmp_path / "new")).ids("train")
    said = str(refused.value)
    assert f"data=mnist data.root={tmp_path / 'new'}: no MNIST there" in said
    assert "the server answers 404" in said
    assert all(name in said for name in packed)
    assert "into MNIST/raw/" in said
    assert "data.root=FOLDER" in said


def test_the_shared_digits(shared: Path) -> None:
    root = shared / "data/mnist"
    if not (root / "MNIST").is_dir():
        pytest.skip("no MNIST in ../shared: no digits to read")
    data = Mnist(str(root))
    assert len(data.ids("train")) + len(data.ids("held_back")) == 8000
    assert np.bincount(data.labels("val")).min() > 150
    assert data.example("val", 0).image.max() > 200
