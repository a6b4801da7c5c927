"""Images that were read at addresses and are kept: bounded, whole, shared."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipeline.formats import stored
from pipeline.formats.file_cache import VARIABLE, FileCache, current_file_cache, use_file_cache
from tests.data.archive_layouts import write_tar


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_size_is_bounded_and_what_was_used_last_stays(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 40_000)
    fetched: list[int] = []

    def read(number: int) -> bytes:
        def fetch() -> bytes:
            fetched.append(number)
            return bytes([number % 256]) * 1_000

        return cache.read(f"s3://bucket/{number}", fetch)

    first = read(0)
    for number in range(1, 80):
        assert read(number) == bytes([number]) * 1_000
        assert read(0) == first
        assert size_of(tmp_path) <= 40_000
    assert fetched == list(range(80)), "the first was kept, as it was used all the time"
    read(79)
    read(1)
    assert fetched[80:] == [1]


def test_a_file_that_was_cut_off_is_read_anew(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 100_000)
    assert cache.read("a", lambda: b"content") == b"content"
    (path,) = [path for path in tmp_path.glob("*/*") if path.is_file()]
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.read("a", lambda: b"content") == b"content"
    assert cache.read("a", lambda: b"") == b"content"
    assert cache.read("large", lambda: bytes(10_000)) == bytes(10_000)
    assert size_of(tmp_path) < 1_000, "a twentieth of the limit is too large to keep"


def test_many_threads_read_the_same(tmp_path: Path) -> None:
    caches = [FileCache(tmp_path, 50_000) for _ in range(4)]
    jobs = [(caches[n % 4], n % 23) for n in range(600)]
    with ThreadPoolExecutor(16) as threads:
        got = threads.map(lambda j: j[0].read(str(j[1]), lambda: bytes([j[1]]) * 1_500), jobs)
        assert [*got] == [bytes([n]) * 1_500 for _, n in jobs]
    assert not [*tmp_path.rglob(".*.tmp")]


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert current_file_cache() is None
    memory = fsspec.filesystem("memory")
    calls: list[str] = []
    original = type(memory).cat_file

    def cat_file(self: object, path: str, *rest: object, **options: object) -> bytes:
        calls.append(path)
        return bytes(original(self, path, *rest, **options))

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    use_file_cache(tmp_path / "kept", 1_000_000)
    memory.pipe("/kept/a.bin", b"one")
    for _ in range(3):
        assert stored.read_bytes("memory://kept/a.bin") == b"one"
    assert len(calls) == 1
    memory.pipe("/kept/a.bin", b"two")
    assert stored.read_bytes("memory://kept/a.bin") == b"two"
    write_tar(tmp_path / "a.tar", {"x.bin": b"member"})
    memory.pipe("/kept/a.tar", (tmp_path / "a.tar").read_bytes())
    stamp = stored.stamp_of("memory://kept/a.tar")
    member = stored.Member("memory://kept/a.tar", "x.bin", 512, 6, stored.RAW, stamp)
    calls.clear()
    for _ in range(3):
        assert stored.read_bytes(member.to_location()) == b"member"
    assert len(calls) == 1
    (tmp_path / "here.bin").write_bytes(b"local")
    before = size_of(tmp_path / "kept")
    assert stored.read_bytes(tmp_path / "here.bin") == b"local"
    assert size_of(tmp_path / "kept") == before
    use_file_cache(None, 0)
    assert VARIABLE not in os.environ
