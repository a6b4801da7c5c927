"""The elements of lists of a JSON file, in parts of any size, against the json module."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.formats import json_stream
from pipeline.formats.json_stream import iterate_lists

CONTENT = {
    "info": {"a": [1, 2, {"annotations": [9]}], "text": 'quote " ] } \\ é \u2028'},
    "number": 12345,
    "images": [{"id": n, "name": f"ä{n}", "value": 0.1 * n, "none": None} for n in range(30)],
    "empty": [],
    "annotations": [12, 3.5, True, [1, [2]], "x]}", {}, {"a": {"b": [1]}}],
}


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("indent", [None, 2])
def test_elements_are_those_of_the_json_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CONTENT, ensure_ascii=False, indent=indent), encoding="utf-8")
    wanted = ("annotations", "images", "empty")
    found: dict[str, list[object]] = {}
    for name, position, element in iterate_lists(path, wanted):
        assert position == len(found.setdefault(name, []))
        found[name].append(element)
    assert found == {name: CONTENT[name] for name in ("images", "annotations")}
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert [*iterate_lists(path, wanted)] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"a": [1,\n 2', r"line 2, column \d: the file ends early; unpack or download it again"),
     ('{"a": [1,\n {"b": }]}', r"line 2, column 8: not JSON \(Expecting value\)"),
     ('{"a": [1,\n\n 2 3]}', r"line 3, column 4: not JSON \(expected a comma or the end of the"),
     ("[1]", r"line 1, column 1: not JSON \(expected an object\)"),
     ("", r"line 1, column 1: the file ends early"),
     ('{"a" 1}', r"line 1, column 6: not JSON \(expected a colon\)")],
)  # fmt: skip
def test_what_is_no_json_is_named_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=reason):
        [*iterate_lists(path, ["a"])]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        [*iterate_lists(tmp_path / "nothing.json", ["a"])]
    (tmp_path / "latin.json").write_bytes('{"a": ["é"]}'.encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        [*iterate_lists(tmp_path / "latin.json", ["a"])]
