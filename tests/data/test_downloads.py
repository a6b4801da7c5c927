"""data.download=true: an archive that a server breaks off is resumed, unpacked and read."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pipeline.data import aircraft
from pipeline.data.published import Archive
from pipeline.errors import UserError
from tests.data import drawn_sets
from tests.formats.test_download import Server, server

__all__ = ["server"]  # the fixture


def pack(folder: Path) -> bytes:
    """A .tar.gz of all that is in a folder."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return content.getvalue()


def test_aircraft(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_sets.aircraft(tmp_path / "made")
    server.content = pack(tmp_path / "made")
    archives = (Archive(server.url, "fgvc-aircraft-2013b.tar.gz"),)
    monkeypatch.setattr(aircraft, "ARCHIVES", archives)
    monkeypatch.setattr("pipeline.formats.download.WAIT", 0.01)
    server.breaks_after = [len(server.content) // 2]
    root = tmp_path / "set"
    data = aircraft.Aircraft(str(root), download=True)
    assert server.ranges == [None, f"bytes={len(server.content) // 2}-"]
    assert len(data.ids("train")) + len(data.ids("held_back")) == 10
    assert data.example("val", 0).image.shape[2] == 3
    again = aircraft.Aircraft(str(root), download=True)
    assert [*again.ids("all")] == [*data.ids("all")]
    assert len(server.ranges) == 2


def test_a_server_without_the_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aircraft, "ARCHIVES", (Archive(server.url, "a.tar.gz"),))
    server.status = 404
    with pytest.raises(UserError, match=r"the server answers 404.*leave data\.download away"):
        aircraft.Aircraft(str(tmp_path / "set"), download=True)
