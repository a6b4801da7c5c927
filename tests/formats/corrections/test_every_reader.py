"""The format of corrections is found by content; what has none is refused with the choices."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.exporter.cvat import Cvat
from pipeline.exporter.label_studio import LabelStudio
from pipeline.exporter.labelme import Labelme
from pipeline.formats.corrections import READERS, read_corrections
from pipeline.protocols import Exporter
from tests.exporter.subjects import drawn_source, found_boxes

WRITTEN: dict[str, tuple[Exporter, str]] = {
    "label_studio": (LabelStudio(), "tasks.json"),
    "cvat": (Cvat(), "annotations.xml"),
    "labelme": (Labelme(), "."),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_each_format_is_that_of_one_reader(name: str, tmp_path: Path) -> None:
    exporter, file = WRITTEN[name]
    exporter(found_boxes(source=drawn_source()), tmp_path)
    matching = [reader.__name__ for reader in READERS if reader.matches(tmp_path / file)]
    assert [each.rpartition(".")[2] for each in matching] == [name]
    assert read_corrections(tmp_path / file).format == name


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_what_is_no_file_of_a_tool_matches_nothing(reader, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    contents = {"a.json": "[]", "b.json": "{", "c.json": "3", "d.xml": "<", "e.txt": "a", "f": ""}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    for path in tmp_path.iterdir():
        assert not reader.matches(path), path
    assert not reader.matches(tmp_path / "missing.json")


def test_refusals_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing: no such file or folder; expected an export"):
        read_corrections(tmp_path / "missing")
    (tmp_path / "a.zip").touch()
    with pytest.raises(UserError, match=r"a\.zip: an archive; unpack it"):
        read_corrections(tmp_path / "a.zip")
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"a file of no format.*label_studio, cvat.*docs/tools"):
        read_corrections(tmp_path / "a.txt")


ODD_VALUES: tuple[Any, ...] = (
    None,
    7,
    -1.5,
    1e400,
    True,
    "",
    "text",
    [],
    {},
    [[]],
    [{}],
    {"a": []},
    ["x", 3],
)


def mutate(content: Any, random: Random) -> Any:
    """Return JSON in which one value, anywhere, is another or missing."""
    node, path = content, []
    while isinstance(node, dict | list) and node and random.random() < 0.85:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        path.append((node, random.choice(keys)))
        node = node[path[-1][1]]
    if not path:
        return random.choice(ODD_VALUES)
    parent, key = path[-1]
    if random.random() < 0.3:
        del parent[key]
    else:
        parent[key] = random.choice(ODD_VALUES)
    return content


@pytest.mark.parametrize("name", ["label_studio", "labelme"])
@pytest.mark.parametrize("outlines", ["rle", "polygon"])
def test_odd_json_is_read_counted_or_refused(name: str, outlines: str, tmp_path: Path) -> None:
    exporter: Any = {"label_studio": LabelStudio, "labelme": Labelme}[name](outlines=outlines)
    exporter(found_boxes(masks=True, source=drawn_source()), tmp_path)
    (path, *_) = sorted(tmp_path.rglob("*.json"))
    original, random = path.read_text("utf-8"), Random(0)
    read = 0
    for _ in range(400):
        content = json.loads(original)
        if name == "label_studio":  # a person submitted what was predicted
            content[0]["annotations"] = [*content[0]["predictions"]]
        for _ in range(random.randint(1, 3)):
            content = mutate(content, random)
        path.write_text(json.dumps(content))
        try:
            read_corrections(path)
            read += 1
        except UserError:
            pass
    assert read > 200


def test_odd_xml_is_read_counted_or_refused(tmp_path: Path) -> None:
    random, read = Random(0), 0
    for outlines in ("rle", "polygon"):
        Cvat(outlines=outlines)(found_boxes(masks=True), tmp_path)
        path = tmp_path / "annotations.xml"
        original = path.read_text("utf-8")
        values = [match.span(1) for match in re.finditer(r'="([^"]*)"', original)]
        for _ in range(300):
            start, end = random.choice(values)
            odd = random.choice(["", "x", "-1", "1e9", "nan", "inf", "0", "1,2", ",", "9" * 30])
            path.write_text(original[:start] + odd + original[end:], "utf-8")
            try:
                read_corrections(path)
                read += 1
            except UserError:
                pass
    assert read > 400
