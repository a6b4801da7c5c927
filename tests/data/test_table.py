"""table: each form of a table gives the same images, and bad rows are counted and named."""

from __future__ import annotations

import builtins
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.shapes import Shapes
from pipeline.data.table import Table
from pipeline.data.table_marks import UncertainRule
from pipeline.errors import UserError
from pipeline.protocols import HasSeveralLabels
from tests.data import table_layouts

SHAPES = Shapes(images=40, val_images=12, size=32, held_back=0.2)
NUMBERS = range(12)


@pytest.fixture
def folder(tmp_path: Path, paint) -> Path:
    """Twelve images of 30 x 40 in a folder."""
    for n in NUMBERS:
        paint(tmp_path / f"photos/{n}.png")
    return tmp_path / "photos"


Write = Callable[..., Path]


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes text or bytes as a table beside the images."""

    def save(content: str | bytes, name: str = "labels.csv") -> Path:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
        return folder / name

    return save


def lines(separator: str = ",", header: str = "path,label,split") -> str:
    """A table of the twelve images: six of each class, four of them scored."""
    rows = [header.replace(",", separator)] if header else []
    for n in NUMBERS:
        fields = (f"{n}.png", ("robin", "wren")[n % 2], "train" if n < 8 else "val")
        rows.append(separator.join(fields))
    return "\n".join(rows) + "\n"


def summarize(data: Table) -> dict[str, str]:
    """The split and class of each image."""
    splits: tuple[Any, ...] = ("train", "held_back", "calibration", "val", "test")
    return {
        id: f"{'train' if split == 'held_back' else split}:"
        f"{data.classes[label] if label >= 0 else None}"
        for split in splits
        for id, label in zip(data.ids(split), data.labels(split), strict=True)
    }


EXPECTED = {
    f"{n}.png": f"{'train' if n < 8 else 'val'}:{('robin', 'wren')[n % 2]}" for n in NUMBERS
}


def has_note(data: Table, *parts: str) -> bool:
    return any(all(part in note for part in parts) for note in data.notes())


# -- forms


def test_the_embedded_set_in_a_table_is_the_embedded_set(tmp_path):
    records = table_layouts.shape_records(SHAPES, tmp_path)
    rows = [list(records[0]), *([*[*r.values()][:3], json.dumps(r["xyxy"])] for r in records)]
    table_layouts.write_rows(tmp_path / "all.csv", rows)
    table_layouts.write_rows(tmp_path / "all.tsv", rows, "\t")
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "all.json").write_text(json.dumps(records))
    tables = [Table(str(tmp_path / f"all.{end}"), size=32, held_back=0.2)
              for end in ("csv", "tsv", "jsonl", "json")]  # fmt: skip
    for data in tables:
        assert data.notes() == []
        for split in ("train", "held_back", "val"):
            assert data.ids(split) == list(SHAPES.ids(split))
            labels = [data.classes[label] for label in data.labels(split)]
            assert labels == [SHAPES.classes[label] for label in SHAPES.labels(split)]
        for n in range(3):
            np.testing.assert_array_equal(
                data.example("val", n).image, SHAPES.example("val", n).image
            )
        truth, exact = data.truth("val"), SHAPES.truth("val")
        assert truth.keys() == exact.keys()
        for id, known in truth.items():
            np.testing.assert_array_equal(known.boxes, exact[id].boxes)
            np.testing.assert_array_equal(known.of_label(), exact[id].boxes)
            assert known.size == exact[id].size
        assert data.truth_notes() == []
    assert len({data.fingerprint("train") for data in tables}) == 1
    assert len({data.truth_fingerprint("val") for data in tables}) == 1


def test_parquet_reads_the_same_and_names_pyarrow_where_it_lacks(folder, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = [list(EXPECTED), [("robin", "wren")[n % 2] for n in NUMBERS],
               ["train"] * 8 + ["val"] * 4, [[[1.0, 2.0, 10.0, 20.0]]] * 12]  # fmt: skip
    table = pyarrow.table(dict(zip(("path", "label", "split", "bbox"), columns, strict=True)))
    parquet.write_table(table, folder / "labels.parquet")
    data = Table(str(folder / "labels.parquet"))
    assert summarize(data) == EXPECTED
    assert data.truth("val")["8.png"].boxes.tolist() == [[1, 2, 11, 22]]

    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pyarrow":
            raise ImportError("no module pyarrow")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"Parquet needs pyarrow.*label2box\[parquet\]"):
        _ = Table(str(folder / "labels.parquet")).classes


def test_a_damaged_parquet_file_is_refused(write):
    path = write(b"PAR1 and nothing else", "labels.parquet")
    with pytest.raises(UserError, match="not a Parquet file"):
        _ = Table(str(path)).classes


def test_coco_categories_are_labels_of_images_in_the_order_of_the_file(tmp_path):
    records = table_layouts.shape_records(SHAPES, tmp_path)
    content = table_layouts.coco_labels(records)
    (tmp_path / "labels.json").write_text(json.dumps(content))
    data = Table(str(tmp_path / "labels.json"), held_back=0.2)
    assert data.ids("train") == list(SHAPES.ids("train"))
    assert data.classes == tuple(sorted(SHAPES.classes, reverse=True))
    labels = [data.classes[label] for label in data.labels("val")]
    assert labels == [SHAPES.classes[label] for label in SHAPES.labels("val")]
    assert data.truth("val") == {}

    (content["annotations"][0]["category_id"], content["annotations"][1]["image_id"]) = (99, 999)
    (tmp_path / "labels.json").write_text(json.dumps(content))
    odd = Table(str(tmp_path / "labels.json"))
    assert has_note(odd, "annotations[0]", "with a category_id that no category has")
    assert has_note(odd, "annotations[1]", "with an image_id that no image has")
    assert has_note(odd, "2 images", "without a label")
    assert set(odd.ids("test")) == {records[0]["path"], records[1]["path"]}


def test_coco_boxes_of_a_single_class_measure(folder):
    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in NUMBERS],
        "annotations": [
            {"id": 2 * n + k, "image_id": n, "category_id": n % 2, "bbox": [k, 2, 10, 20]}
            for n in NUMBERS
            for k in range(2)
        ],
        "categories": [{"id": 0, "name": "robin"}, {"id": 1, "name": "wren"}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    data = Table(str(folder / "labels.json"), val=0.3)
    assert not any("named" in note for note in data.notes())
    known = next(iter(data.truth("val").values()))
    assert known.boxes.tolist() == [[0, 2, 10, 22], [1, 2, 11, 22]]


def test_the_imagefolder_of_hugging_face(folder):
    for split, chosen in (("train", range(8)), ("validation", range(8, 12))):
        rows = [{"file_name": f"{n}.png", "label": n % 2} for n in chosen]
        (folder / split).mkdir()
        for n in chosen:
            (folder / f"{n}.png").rename(folder / split / f"{n}.png")
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = Table(str(folder))
    assert data.classes == ("0", "1")
    assert len(data.ids("train")) + len(data.ids("held_back")) == 8
    assert data.ids("val") == [f"validation/{n}.png" for n in range(8, 12)]
    assert data.labels("val").tolist() == [0, 1, 0, 1]


def test_metadata_in_one_folder_and_none_at_all(folder, write, tmp_path):
    write(lines(header="file_name,label,split"), "metadata.csv")
    assert summarize(Table(str(folder))) == EXPECTED
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"without metadata\.csv.*data=folder"):
        _ = Table(str(tmp_path / "empty")).classes


# -- spellings of text


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_separators_and_encodings(write, separator, encoding):
    data = Table(str(write(lines(separator).encode(encoding))))
    assert summarize(data) == EXPECTED
    assert data.notes() == []


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_ends_of_lines_blank_lines_and_the_separator_of_excel(write, end):
    text = "sep=;\n" + lines(";").replace("3.png", "\n \n3.png")
    assert summarize(Table(str(write(text.replace("\n", end))))) == EXPECTED


def test_quotes_hold_separators_and_ends_of_lines(write):
    text = lines(header="path,label,split,remark").replace(",train\n", ',train,"a, b\nc ""d"""\n')
    text = text.replace("robin", '"robin"') + '99.png,"robin",train,""\n'
    data = Table(str(write(text)))
    assert summarize(data) == EXPECTED
    assert has_note(data, "line 22: 99.png", "not there", "data.root=FOLDER")


def test_other_separators_short_long_and_unclosed_lines_are_named(write):
    rows = lines().splitlines()
    rows[3] = rows[3].replace(",", ";")  # 2.png
    rows[5] = "4.png,robin"  # no split
    rows[7] += ",,"
    rows[8] += ",of,more"  # 7.png
    rows[2] = '1.png,"wren,train'
    rows[10] = rows[10].replace("wren", '"wren"')
    data = Table(str(write("\n".join(rows))))
    left = {id: text for id, text in EXPECTED.items() if id not in ("1.png", "4.png", "7.png")}
    assert summarize(data) == left
    assert has_note(data, "line 4", "';' between the fields: read so")
    assert has_note(data, "line 6", "fewer than 3 fields")
    assert has_note(data, "without a split", "line 6")
    assert has_note(data, "line 8", "separators at the end")
    assert has_note(data, "line 9", "more than 3 fields", "in quotes")
    assert has_note(data, "line 3", "a quote that is not closed")


def test_names_of_another_code_page(folder, write, paint):
    paint(folder / "é.png")
    text = lines() + "é.png,robin,train\n"
    data = Table(str(write(text.encode("cp1252"))))
    assert summarize(data)["é.png"] == "train:robin"
    assert has_note(data, "1 line ('line 14') is not UTF-8", "Windows-1252")
    mixed = (
        lines().encode() + "é.png,robin,train\n".encode() + "7.png,schön,test\n".encode("cp1252")
    )
    assert summarize(Table(str(write(mixed))))["é.png"] == "train:robin", "line by line"


def test_a_list_without_header(write):
    for separator in (",", " "):
        text = "".join(f"{n}.png{separator}{n % 2}\n" for n in NUMBERS)
        data = Table(str(write(text, "train.txt")))
        assert data.classes == ("0", "1")
        assert len(data.ids("all")) == 12
    path = write("".join(f"{n}.png,{n % 2},x\n" for n in NUMBERS))
    with pytest.raises(UserError, match=r"first line names no columns.*data\.label_column=1"):
        _ = Table(str(path)).classes
    assert len(Table(str(path), label_column="2").ids("all")) == 12


MARKED = ("wren", "Grey kite", "robin")  # in another order than sorted


def write_marks(write, one: str = "1", zero: str = "0", name: str = "labels.csv") -> Path:
    """A table of the twelve images: all have the first class, every second the last, none the kite.

    Beside them are columns that are no class: a number, and a text.
    """
    rows = [f"{n}.png,{60 + n},{one},{zero},{one if n % 2 else zero},x" for n in NUMBERS]
    header = "path,age,wren,Grey kite,robin,view"
    return write("\n".join([header, *rows]) + "\n", name)


def label_names(data: Table) -> dict[str, list[str]]:
    """The names of the classes of each image."""
    splits: tuple[Any, ...] = ("train", "held_back", "val", "test")
    return {
        id: [data.classes[n] for n in np.flatnonzero(row)]
        for split in splits
        for id, row in zip(data.ids(split), data.label_sets(split), strict=True)
    }


def test_the_error_names_the_columns_of_0_and_1_and_the_option(cli, write, capsys):
    path = write_marks(write)
    with pytest.raises(UserError) as refused:
        _ = Table(str(path)).classes
    said = str(refused.value)
    assert "3 columns ('wren', 'Grey kite', 'robin') have 0 or 1" in said
    option = "'data.label_columns=[wren,Grey kite,robin]'"
    assert option in said
    assert "data.several=keep" in said
    arguments = ("+experiment=check", "data=table", f"data.table={path}", option[1:-1])
    assert cli(*arguments, "data.several=keep") == 1, "an error of check: the images are equal"
    assert "12 images of 2 classes" in capsys.readouterr().out, "the option as the error writes it"
    odd = write('path,true,"a, ""b""",wren\n0.png,1,0,1\n1.png,0,1,1\n', "odd.csv")
    with pytest.raises(UserError) as refused:
        _ = Table(str(odd)).classes
    option = re.search(r"'(data\.label_columns=.*\])'", str(refused.value))[1]
    assert option == r'data.label_columns=["true","a, \"b\"",wren]'
    arguments = ("+experiment=check", "data=table", f"data.table={odd}", option)
    assert cli(*arguments, "data.several=keep") == 1, "an error of check: no image is scored"
    assert "2 images of 3 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("one", "zero"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("1", "")]
)
def test_columns_of_0_and_1_are_a_class_each(write, one, zero):
    path = write_marks(write, one, zero)
    data = Table(str(path), label_columns=MARKED, several="keep")
    assert data.classes == ("wren", "robin"), "in the order of the option"
    assert label_names(data) == {f"{n}.png": ["wren", "robin"][: 1 + n % 2] for n in NUMBERS}
    assert has_note(data, "1 column ('Grey kite')", "without a 1", "not learned")
    assert has_note(data, "18 of 36 fields", "empty, and taken as 0") == (zero == "")
    listed = "".join(f"{n}.png,{'wren|robin' if n % 2 else 'wren'}\n" for n in NUMBERS)
    joined = Table(str(write(f"path,label\n{listed}", "joined.csv")), several="keep")
    assert joined.classes == ("robin", "wren")
    assert label_names(joined) == {id: sorted(names) for id, names in label_names(data).items()}, (
        "as a column of labels gives them"
    )
    with pytest.raises(
        UserError, match=r"6 images .*line 3, 1\.png: wren, robin.*data\.several=keep"
    ):
        _ = Table(str(path), label_columns=MARKED).classes


def test_columns_of_0_and_1_of_parquet_and_json_lines(folder, write):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"path": f"{n}.png", "wren": 1, "robin": [0, 1, None][n % 3]} for n in NUMBERS]
    write("\n".join(map(json.dumps, rows)), "labels.jsonl")
    columns = {
        "path": [row["path"] for row in rows],
        "wren": pyarrow.array([True] * 12),
        "robin": pyarrow.array([row["robin"] for row in rows], pyarrow.float64()),
    }
    parquet.write_table(pyarrow.table(columns), folder / "labels.parquet")
    for end in ("jsonl", "parquet"):
        data = Table(str(folder / f"labels.{end}"), label_columns=["wren", "robin"], several="keep")
        assert label_names(data) == {
            f"{n}.png": ["wren", "robin"] if n % 3 == 1 else ["wren"] for n in NUMBERS
        }
        assert has_note(data, "4 of 24 fields")


def test_uncertain_labels_are_refused_or_what_the_option_says(write):
    rows = [f"{n}.png,1,{('0', '-1', '-1.0', '1')[n % 4]}" for n in NUMBERS]
    path = str(write("path,wren,robin\n" + "\n".join(rows)))
    given: dict[str, Any] = {"label_columns": ["wren", "robin"], "several": "keep"}
    with pytest.raises(
        UserError, match=r"6 lines \('line 3: robin'.* of 12 with -1.*absent takes it as 0"
    ):
        _ = Table(path, **given).classes
    both: dict[UncertainRule, set[int]] = {
        "absent": {3}, "present": {1, 2, 3}, "leave_out": {3}
    }  # fmt: skip
    for rule, remainders in both.items():
        data = Table(path, **given, uncertain=rule)
        used = [n for n in NUMBERS if rule != "leave_out" or n % 4 in (0, 3)]
        assert label_names(data) == {
            f"{n}.png": ["wren", "robin"] if n % 4 in remainders else ["wren"] for n in used
        }
        what = {"absent": "as 0", "present": "as 1", "leave_out": "left out"}[rule]
        assert has_note(data, "6 lines", "with -1, uncertain", what, f"data.uncertain={rule}")
    gone = "\n".join(rows).replace("png,1,-1", "gone,1,-1")
    data = Table(str(write("path,wren,robin\n" + gone)), **given)
    assert len(data.ids("all")) == 6, "of images that are not there nothing is asked"


def test_fields_of_0_and_1_that_are_neither_and_rows_without_a_1(write):
    rows = "0.png,1,0\n1.png,2,0\n2.png,yes,1\n3.png,0,0\n4.png,0,1\n5.png,,\n6.png,1,1\n7.png,0,\n"
    data = Table(str(write(f"path,a,b\n{rows}")), label_columns=["a", "b"], several="keep")
    assert has_note(data, "2 lines ('line 3', 'line 4')", "something else than 0, 1, -1 or nothing")
    assert has_note(data, "3 of 12 fields", "1 line ('line 7') with no field filled in")
    assert has_note(data, "2 images ('line 5', 'line 9') of 6 with no 1 in data.label_columns",
                    "they show no class")  # fmt: skip
    listed = "0.png,a\n3.png,[]\n4.png,b\n5.png,\n6.png,a|b\n7.png,[]\n"
    same = Table(str(write(f"path,label\n{listed}", "same.csv")), several="keep")
    assert label_names(data) == label_names(same)
    for split in ("train", "held_back", "val", "test"):
        assert data.ids(split) == same.ids(split), "as an empty list, or an empty field"
        assert data.backgrounds(split).tolist() == same.backgrounds(split).tolist()
        assert data.fingerprint(split) == same.fingerprint(split)
    assert data.ids("test") == ["5.png"], "nothing says that it is labelled"
    single = Table(str(write(f"path,a,b\n{rows.replace('1,1', '1,0')}")), label_columns=["a", "b"])
    assert sorted(single.ids("test")) == ["3.png", "5.png", "7.png"]


def test_rows_of_0_and_1_that_are_empty_where_their_split_is_named(write):
    rows = "0.png,1,0,train\n1.png,0,1,val\n2.png,,,train\n3.png,0,0,val\n4.png,,,test\n"
    path, columns = str(write(f"path,a,b,split\n{rows}")), ["a", "b"]
    data = Table(path, label_columns=columns, several="keep", held_back=0)
    assert data.ids("train") == ["0.png", "2.png"]
    assert data.backgrounds("train").tolist() == [False, True]
    assert data.backgrounds("val").tolist() == [False, True]
    assert data.ids("test") == ["4.png"]
    assert has_note(data, "1 image ('line 4')", "with no field of data.label_columns filled in: "
                    "taken to show no class")  # fmt: skip
    unlabelled = Table(
        path, label_columns=columns, several="keep", held_back=0, missing="unlabelled"
    )
    assert sorted(unlabelled.ids("test")) == ["2.png", "4.png"]
    assert unlabelled.backgrounds("val").tolist() == [False, True], "0 is filled in"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_columns": ["wren", "label"], "label_column": "label"}, "label_column=label away"),
        ({"label_columns": ["wren"], "label_separator": " "}, "label_separator=  away"),
        ({"label_columns": ["wren", "wren"]}, "'wren' is there twice"),
        ({"label_columns": ["wren", "robbin"]}, "label_columns=robbin.*did you mean 'robin'"),
        ({"label_separator": ""}, "expected what joins several labels"),
        ({"uncertain": "absent"}, r"data\.uncertain=absent: .*data\.label_columns"),
    ],
)
def test_options_of_labels_that_contradict_each_other(write, options, message):
    path = write_marks(write)
    with pytest.raises(UserError, match=message):
        _ = Table(str(path), **options).classes


def test_a_separator_of_labels_that_is_given(write, cli, capsys):
    tags = ["clear primary", "haze, thick", "clear"]
    rows = [f'{n}.png,"{tags[n % 3]}"' for n in NUMBERS]
    path = write("image_name,tags\n" + "\n".join(rows) + "\n")
    data = Table(str(path), label_separator=" ", several="keep")
    assert data.classes == ("clear", "haze,", "primary", "thick"), "the comma joins nothing"
    assert label_names(data)["0.png"] == ["clear", "primary"]
    data = Table(str(path), label_separator=", ", several="keep")
    assert data.classes == ("clear", "clear primary", "haze", "thick")
    assert not has_note(data, "with spaces or commas")
    with pytest.raises(UserError, match=r"8 images .*data\.several=keep"):
        _ = Table(str(path), label_separator=" ").classes
    arguments = ("+experiment=check", "data=table", f"data.table={path}", "data.several=keep")
    assert cli(*arguments, 'data.label_separator=" "') == 1
    assert "12 images of 4 classes" in capsys.readouterr().out


def test_a_separator_of_labels_that_never_occurs_is_noted(write):
    path = str(write("path,tags\n" + "".join(f"{n}.png,{'ab'[n % 2]}|c\n" for n in NUMBERS)))
    data = Table(path, label_separator="/", several="keep")
    assert data.classes == ("a|c", "b|c")
    assert has_note(data, "data.label_separator='/' occurs in none of 2 different fields",
                    "'tags'", "joins several in 2 labels ('a|c', 'b|c'): leave")  # fmt: skip
    assert not has_note(Table(path, label_separator="|", several="keep"), "label_separator")


def test_labels_that_a_space_joins_are_noted_where_no_image_has_several(write):
    rows = "".join(f"{n}.png,{('robin', 'robin wren')[n % 2]}\n" for n in NUMBERS)
    data = Table(str(write(f"path,tags\n{rows}")), several="keep")
    assert data.classes == ("robin", "robin wren")
    assert has_note(data, "1 label ('robin wren') with spaces or commas", "join them by | or ;")
    data = Table(
        str(write(f"path,tags\n{rows}".replace("robin wren", "robin|wren"))), several="keep"
    )
    assert data.classes == ("robin", "wren")
    assert not has_note(data, "with spaces or commas")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"PK\x03\x04rest", "a workbook or an archive"),
        (b"\x1f\x8brest", "gunzip"),
        (b"path,label\na\0b,c\n" + bytes(9000) + b"x", "no text|no image"),
        (b"[1, 2", r"line 1: not JSON"),
        (b"[1, 2]", "that are no objects"),
        (b'{"path": 1}\nno\n', "no column with the label"),
        (b'{"images": [], "annotations": [], "categories": []}', "without images"),
        (b"path,label\n", "it has no rows"),
        (b"path,label\nx.png,a\n", r"line 2: x\.png"),
        (b"path,label\n0.png,\n", "no image with a label"),
    ],
)
def test_what_is_no_table_is_refused(write, content, message):
    with pytest.raises(UserError, match=message):
        _ = Table(str(write(content))).classes


def test_damage_is_named_and_never_a_traceback(write):
    draw, errors = random.Random(0), []
    records = [{"path": f"{n}.png", "label": n % 2, "bbox": [1, 2, 10, 20]} for n in NUMBERS]
    whole = [lines(";"), lines().replace("robin", '"robin"'), "\n".join(map(json.dumps, records)),
             "".join(f"{n}.png {n % 2}\n" for n in NUMBERS)]  # fmt: skip
    marks = (b'"', b",", b"\n", b"\0", b"\xff", b"[", b"}", b"null", b"1e999", b"\\ud800", b"..")
    for _ in range(150):
        data = bytearray(draw.choice(whole).encode())
        for _ in range(draw.choice((1, 2, 6))):
            place = draw.randrange(len(data))
            data[place : place + draw.randrange(4)] = draw.choice(marks)
        try:
            table = Table(str(write(bytes(data))), several="leave_out")
            text = [*table.classes, *table.notes(), *table.truth_notes(), *table.ids("all")]
            assert "\n".join(text).encode()
        except UserError as error:
            errors.append(str(error))
    assert errors
    assert all("labels.csv" in error for error in errors)


# -- columns


@pytest.mark.parametrize(
    "header", ["filename,Class,subset", "Image Path,category_name,set", "file_name,species,SPLIT"]
)
def test_columns_by_name(write, header):
    assert summarize(Table(str(write(lines(header=header))))) == EXPECTED


def test_columns_as_given_and_missing_ones(write):
    path = str(write(lines(header="where,bird,part")))
    given: dict[str, Any] = {"path_column": "where", "label_column": "bird", "split_column": "part"}
    assert summarize(Table(path, **given)) == EXPECTED
    with pytest.raises(UserError, match=r"data\.path_column=NAME; .*choices: bird, part, where"):
        _ = Table(path).classes
    with pytest.raises(UserError, match=r"label_column=brid: .*did you mean 'bird'"):
        _ = Table(path, **{**given, "label_column": "brid"}).classes


def test_columns_with_other_names_are_named_by_their_values(write):
    path = str(write(lines(";", header="Pfad,Klasse,Aufteilung").replace("train", "Training")))
    with pytest.raises(UserError) as caught:
        _ = Table(path).classes
    message = str(caught.value)
    assert "the path of an image" in message
    assert "the label of an image" in message, "all that is missing, in one error"
    assert (
        "by their values: 'data.path_column=Pfad' 'data.label_column=Klasse' "
        "'data.split_column=Aufteilung'"
    ) in message
    data = Table(path, path_column="Pfad", label_column="Klasse")
    assert has_note(data, "column 'Aufteilung' holds names of splits (Training, val)", "not read")
    read = Table(path, path_column="Pfad", label_column="Klasse", split_column="Aufteilung")
    assert summarize(read) == EXPECTED
    assert not has_note(read, "names of splits")


def test_odd_lines_are_counted_once_where_columns_are_looked_at(write):
    rows = lines(header="path,label,part").replace("train", "x") + "1.png\n"
    assert has_note(Table(str(write(rows))), "1 line ('line 14') with fewer than 3 fields")


def test_all_label_columns_that_are_missing_are_named_in_one_error(write):
    path = str(write("bild,Edema,Fracture\n0.png,1,0\n1.png,0,1\n"))
    with pytest.raises(UserError) as caught:
        _ = Table(path, label_columns=["Edma", "Edema", "Fractur"]).classes
    message = str(caught.value)
    assert "the path of an image" in message
    assert re.findall(r"label_columns=(\w+): .*did you mean '(\w+)'", message) == [
        ("Edma", "Edema"), ("Fractur", "Fracture"),
    ]  # fmt: skip
    assert "by their values: 'data.path_column=bild'" in message


def test_no_column_with_labels(write):
    with pytest.raises(UserError, match=r"the label of an image.*images="):
        _ = Table(str(write("path,note\n0.png,a\n"))).classes


def test_names_of_classes_go_before_their_numbers(write):
    rows = ["path,label,class_name", *(f"{n}.png,{n % 2},{'ab'[n % 2]}" for n in NUMBERS)]
    data = Table(str(write("\n".join(rows))))
    assert data.classes == ("a", "b")
    assert has_note(data, "column 'class_name', not from 'label'", "data.label_column=NAME")
    assert Table(data.table, label_column="label").classes == ("0", "1")


# -- paths


def test_paths_of_other_machines_backslashes_and_missing_endings(folder, write):
    forms = ("{}.png", "./{}.png", "C:\\old\\photos\\{}.png", "/home/ann/photos/{}.png",
             "s3://bucket/{}.png", "{}", "photos/{}.png", "sub\\..\\{}.png",
             f"file://{folder}/{{}}.png", f"{folder}/{{}}.png")  # fmt: skip
    rows = [f"{form.format(n)},{'ab'[n % 2]}" for n, form in enumerate(forms)]
    data = Table(str(write("path,label\n" + "\n".join(rows))))
    assert set(data.ids("all")) == {f"{n}.png" for n in range(len(forms))}
    assert has_note(data, "found by its end below data.root", "4 lines")
    assert has_note(data, "without the ending", "1 line ('line 7: 5')")


def test_a_relative_path_loses_no_folder(folder, write, paint):
    paint(folder / "val/1.png")
    rows = "train/1.png,a\nval/1.png,b\n/old/val/3.png,b\n0.png,a\n2.png,b"
    data = Table(str(write(f"path,label\n{rows}")))
    assert set(data.ids("all")) == {"val/1.png", "0.png", "2.png"}
    assert has_note(data, "line 2: train/1.png", "line 4: /old/val/3.png", "not there")


def test_root_is_where_paths_begin(folder, write, tmp_path):
    table = tmp_path / "elsewhere/labels.csv"
    table.parent.mkdir()
    write(lines()).rename(table)
    with pytest.raises(UserError, match=r"data\.root=FOLDER"):
        _ = Table(str(table)).classes
    assert summarize(Table(str(table), root=str(folder))) == EXPECTED
    with pytest.raises(UserError, match="no such folder"):
        Table(str(table), root=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"a file \(unpack an archive first"):
        Table(str(table), root=str(table))
    with pytest.raises(UserError, match="no such file"):
        Table(str(tmp_path / "nowhere.csv"))


# -- labels


def test_whole_numbers_are_sorted_as_numbers(write):
    rows = [f"{n}.png,{label}" for n, label in enumerate(("10", "9", "2") * 4)]
    assert Table(str(write("path,label\n" + "\n".join(rows)))).classes == ("2", "9", "10")
    rows = [f"{n}.png,{label}" for n, label in enumerate(("10.0", "9.0", "") * 4)]
    data = Table(str(write("path,label\n" + "\n".join(rows))))
    assert data.classes == ("9", "10")
    assert len(data.ids("test")) == 4
    assert set(data.labels("test").tolist()) == {-1}
    assert has_note(data, "4 images", "without a label: neither trained on nor scored")


def test_rows_that_repeat_and_contradict(write):
    text = lines() + "0.png,robin,train\n1.png,robin,train\n2.png,robin,val\n"
    data = Table(str(write(text)))
    summary = summarize(data)
    assert "1.png" not in summary
    assert summary["2.png"] == "val:robin", "what is scored is not learned from"
    assert has_note(data, "counted once", "line 14: 0.png")
    contradictory = "'line 3 and line 15, 1.png: wren, robin'"
    assert has_note(data, contradictory, "another label in another row: left out")
    assert has_note(data, "several splits", "'line 4 and line 16, 2.png: train, val'")


@pytest.mark.parametrize("both", ["robin|wren", "robin; wren", '"[\'robin\', \'wren\']"',
                                  '"robin, wren"'])  # fmt: skip
def test_several_labels_are_refused_or_left_out(write, both):
    path = str(write(lines().replace("3.png,wren", f"3.png,{both}")))
    with pytest.raises(UserError, match=r"line 5, 3.png: robin, wren.*data\.several=leave_out"):
        _ = Table(path).classes
    data = Table(path, several="leave_out")
    assert summarize(data) == {id: text for id, text in EXPECTED.items() if id != "3.png"}
    assert has_note(data, "1 image", "has several labels: left out")


def test_several_labels_are_kept(write):
    text = lines().replace("3.png,wren", "3.png,wren|robin").replace("9.png,wren", "9.png,crow")
    path = write(text + "8.png,wren,val\n8.png,crow,val\n")
    data = Table(str(path), several="keep")
    assert isinstance(data, HasSeveralLabels)
    assert data.is_multi_label
    assert data.classes == ("crow", "robin", "wren")
    sets = {
        id: row.astype(int).tolist()
        for split in ("train", "held_back", "val")
        for id, row in zip(data.ids(split), data.label_sets(split), strict=True)
    }
    assert [sets[f"{n}.png"] for n in (3, 8, 9)] == [[0, 1, 1], [1, 1, 1], [1, 0, 0]]
    position = data.ids("val").index("8.png")
    example = data.example("val", position)
    assert example.labels == (0, 1, 2)
    assert example.label == data.labels("val")[position] == 0
    fewer = Table(str(write(text + "8.png,wren,val\n")), several="keep")
    assert fewer.fingerprint("val") != data.fingerprint("val"), "all labels are part of it"
    assert fewer.fingerprint("train") == data.fingerprint("train")


def test_single_labels_are_the_same_whatever_several_says(write):
    path = str(write(lines()))
    plain, kept = Table(path), Table(path, several="keep")
    assert plain.splits.train.others is None
    assert not plain.is_multi_label
    assert plain.fingerprint("val") == Table(path, several="leave_out").fingerprint("val")
    assert plain.label_sets("val").tolist() == kept.label_sets("val").tolist()
    assert plain.label_sets("calibration").shape == (0, 2)
    assert summarize(plain) == summarize(kept)


def test_images_of_no_class(write):
    """An empty list says so; an empty field does where a column names the split."""
    text = lines().replace("3.png,wren", "3.png,[]").replace("9.png,wren", "9.png,")
    text = text.replace("4.png,robin", "4.png,").replace("4.png,wren", "4.png,")
    data = Table(str(write(text)), several="keep", held_back=0)
    named = {
        split: [
            id for id, none in zip(data.ids(split), data.backgrounds(split), strict=True) if none
        ]
        for split in ("train", "val", "test")
    }
    assert named == {"train": ["3.png", "4.png"], "val": ["9.png"], "test": []}
    assert has_note(data, "1 image", "with an empty list of labels: they show no class")
    assert has_note(data, "2 images", "with an empty label: taken to show no class",
                    "data.missing=unlabelled")  # fmt: skip
    unlabelled = Table(str(write(text)), several="keep", held_back=0, missing="unlabelled")
    assert sorted(unlabelled.ids("test")) == ["4.png", "9.png"]
    assert unlabelled.backgrounds("train").sum() == 1
    single = Table(str(write(text)), held_back=0)
    assert sorted(single.ids("test")) == ["3.png", "4.png", "9.png"], "as it was"
    assert not single.backgrounds("all").any()
    assert single.splits.train.background is None
    unsorted = "\n".join(line.rpartition(",")[0] for line in text.splitlines())
    alone = Table(str(write(unsorted)), several="keep", held_back=0, val=0)
    assert sorted(alone.ids("test")) == ["4.png", "9.png"], "nothing says that they are labelled"
    assert has_note(alone, "2 images", "without a label", "data.missing=none")
    taken = Table(str(write(unsorted)), several="keep", held_back=0, val=0, missing="none")
    assert taken.backgrounds("train").sum() == 3


def test_images_of_a_coco_file_without_annotation_show_no_class(write):
    def record(n, category):
        return {"id": n, "image_id": n, "category_id": category}

    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in (1, 2, 3, 4)],
        "categories": [{"id": 1, "name": "robin"}, {"id": 2, "name": "wren"}],
        "annotations": [record(1, 1), record(2, 2), record(3, 9)],
    }
    path = write(json.dumps(content), "labels.json")
    data = Table(str(path), several="keep", held_back=0, val=0)
    assert data.backgrounds("train").tolist() == [False, False, True]
    assert data.ids("train")[-1] == "4.png"
    assert data.ids("test") == ["3.png"], "its annotation is of no category: it may show any"


def test_boxes_of_several_classes_have_the_label_of_their_row(write):
    rows = ["file,label,split,xmin,ymin,xmax,ymax"]
    for n in NUMBERS:
        split = "train" if n < 8 else "val"
        rows += [f"{n}.png,{'ab'[k % 2]},{split},{k},1,{k + 9},9" for k in range(1 + n % 3)]
    rows.append("10.png,b,val,0,1,9,9")
    data = Table(str(write("\n".join(rows))), several="keep")
    truth = data.truth("val")
    assert truth["8.png"].of_class(0).tolist() == [[0, 1, 9, 9], [2, 1, 11, 9]]
    assert truth["8.png"].of_class(1).tolist() == [[1, 1, 10, 9]]
    assert truth["10.png"].classes.tolist() == [0, 1, 1], "the same box, of another class"
    path = write(
        "\n".join(
            [
                "file,label,split,bbox",
                *(f'{n}.png,a|b,{"train" if n < 8 else "val"},"1,1,5,5"' for n in NUMBERS),
            ]
        )
    )
    unclear = Table(str(path), several="keep", box_format="xywh")
    assert unclear.truth("val")["8.png"].classes.tolist() == [-1]
    assert any("without a label of its own" in note for note in unclear.truth_notes())


def test_a_comma_may_be_part_of_a_name(write):
    data = Table(str(write(lines().replace("wren", '"wren, small"'))))
    assert data.classes == ("robin", "wren, small")


def test_classes_that_are_alike_or_in_one_split_only(write):
    text = lines().replace("9.png,wren", "9.png,Robin").replace("10.png,robin", "10.png,crow")
    data = Table(str(write(text)))
    assert has_note(data, "'Robin' and 'robin' differ by case")
    spaced = lines().replace("wren", '"wren, small"').replace("1.png,", "1.png,'", 1)
    spaced = spaced.replace("'\"wren, small", '"wren ,small')
    assert has_note(Table(str(write(spaced))), "'wren ,small' and 'wren, small' differ by case")
    assert has_note(data, "2 classes ('Robin', 'crow')", "not learned")


def test_negatives(write):
    data = Table(str(write(lines())), negatives=["wren"])
    assert data.negative_classes() == ("wren",)


# -- splits


def test_without_splits_a_share_is_scored_by_hash(write):
    text = "\n".join(line.rpartition(",")[0] for line in lines().splitlines())
    data = Table(str(write(text)), val=0.3)
    more = Table(str(write(text + "\n")), val=0.3)
    assert 0 < len(data.ids("val")) < 9
    assert has_note(data, f"{len(data.ids('val'))} of 12 images", "data.val=0.3")
    assert data.ids("val") == more.ids("val")


def test_names_of_splits(write):
    text = lines().replace("11.png,wren,val", "11.png,wren,test")
    text = text.replace("\n0.png,robin,train", "\n0.png,robin,trian")
    text = text.replace("2.png,robin,train", "2.png,robin,unused")
    data = Table(str(write(text)))
    assert summarize(data)["11.png"] == "test:wren"
    assert "0.png" not in summarize(data)
    assert has_note(data, "line 2", "of split 'trian'", "did you mean 'train'?")
    assert has_note(data, "line 4", "of split 'unused'", "data.val_split=unused")
    scored = Table(str(write(text)), val_split="test")
    assert scored.ids("val") == ["11.png"]
    assert "9.png" in scored.ids("test")
    text = text.replace("11.png,wren,test", "11.png,owl,test")
    strange = Table(str(write(text)))
    assert summarize(strange)["11.png"] == "test:None"
    assert has_note(strange, "1 class ('owl')", "without label there")
    with pytest.raises(UserError, match=r"data\.val_split=tset: .*did you mean 'test'"):
        _ = Table(str(write(text)), val_split="tset").classes


def test_the_test_is_scored_where_nothing_else_is(write):
    data = Table(str(write(lines().replace(",val", ",Test"))))
    assert data.ids("val") == [f"{n}.png" for n in range(8, 12)]


def test_folds(write):
    rows = [f"{n}.png,{'ab'[n % 2]},{n % 3}" for n in NUMBERS]
    path = str(write("path,label,fold\n" + "\n".join(rows)))
    data = Table(path, val_split=1, held_back=0)
    assert data.ids("val") == [f"{n}.png" for n in (1, 4, 7, 10)]
    assert len(data.ids("train")) == 8
    with pytest.raises(UserError, match=r"data\.val_split=0 scores these"):
        _ = Table(path).classes


def test_a_split_that_only_chooses_a_threshold(write):
    rows = lines(header="path,label,split,bbox").splitlines()
    rows[3:5] = ["2.png,robin,tune,1 2 10 20", "3.png,wren,tune,"]
    data = Table(str(write("\n".join(rows))), calibration="tune")
    assert data.ids("calibration") == ["2.png", "3.png"]
    assert data.truth("calibration")["2.png"].boxes.tolist() == [[1, 2, 11, 22]]
    assert list(data.truth("calibration")) == ["2.png"]
    assert not {"2.png", "3.png"} & {*data.ids("train"), *data.ids("held_back"), *data.ids("val")}
    with pytest.raises(UserError, match=r"data\.calibration=val: the split that is scored"):
        _ = Table(data.table, calibration="val", val_split="val").classes
    with pytest.raises(UserError, match=r"data\.calibration=x: no row"):
        _ = Table(data.table, calibration="x").classes


# -- boxes


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        ("bbox", '"[1, 2, 10, 20]"'),
        ("bbox", "1 2 10 20"),
        ("xyxy", '"[[1, 2, 11, 22]]"'),
        ("xmin,ymin,xmax,ymax", "1,2,11,22"),
        ("x1,y1,x2,y2", "1.0,2.0,11.0,22.0"),
        ("x,y,w,h", "1,2,10,20"),
        ("bbox_x,bbox_y,bbox_width,bbox_height", "1,2,10,20"),
        ("width,height,xmin,ymin,xmax,ymax", "40,30,1,2,11,22"),
    ],
)
def test_boxes_by_the_names_of_their_columns(write, header, fields):
    rows = [f"file,label,split,{header}"]
    rows += [f"{n}.png,{'ab'[n % 2]},{'train' if n < 8 else 'val'},{fields}" for n in NUMBERS]
    data = Table(str(write("\n".join(rows))))
    assert [known.boxes.tolist() for known in data.truth("val").values()] == [[[1, 2, 11, 22]]] * 4
    assert data.truth_notes() == []


def test_the_format_of_boxes_that_the_name_does_not_say(write):
    rows = ["file,label,boxes", *(f'{n}.png,{"ab"[n % 2]},"[1, 2, 11, 22]"' for n in NUMBERS)]
    path = str(write("\n".join(rows)))
    with pytest.raises(UserError, match=r"data\.box_format=xywh .*data\.box_format=xyxy"):
        _ = Table(path).classes
    data = Table(path, box_format="xyxy", val=0.3)
    assert next(iter(data.truth("val").values())).boxes.tolist() == [[1, 2, 11, 22]]
    other = Table(path, box_format="xywh", val=0.3)
    assert data.truth_fingerprint("val") != other.truth_fingerprint("val")
    assert data.fingerprint("val") == other.fingerprint("val")


def test_a_row_for_each_box(write):
    rows = ["file,label,split,xmin,ymin,xmax,ymax"]
    for n in NUMBERS:
        for k in range(2):
            split = "train" if n < 8 else "val"
            rows.append(f"{n}.png,{'ab'[n % 2]},{split},{k},1,{k + 9},9")
    data = Table(str(write("\n".join(rows))))
    assert data.truth("val")["8.png"].boxes.tolist() == [[0, 1, 9, 9], [1, 1, 10, 9]]
    assert data.notes() == []
    twice = Table(str(write("\n".join([*rows, rows[-1]]))))
    assert len(twice.truth("val")["11.png"].boxes) == 2
    assert any("line 26" in note and "another row has" in note for note in twice.truth_notes())
    rows.append("0.png,b,train,1,1,5,5")
    with pytest.raises(UserError, match="has several labels"):
        _ = Table(str(write("\n".join(rows)))).classes


def test_boxes_with_a_score_are_named(write):
    rows = ["path,class,part,x0,y0,x1,y1,score"]
    rows += [f"{n}.png,a,{'train' if n < 6 else 'val'},1,2,11,22,0.9" for n in NUMBERS]
    data = Table(str(write("\n".join(rows))))
    assert has_note(data, "column 'score' gives boxes a score", "as if they were true")
    assert len(data.truth("val")) == 6


def test_boxes_that_cannot_be_right(write):
    rows = ["file,label,split,xmin,ymin,xmax,ymax"]
    rows += [f"{n}.png,{'ab'[n % 2]},{'train' if n < 6 else 'val'},1,2,11,22" for n in NUMBERS]
    rows[7] = "6.png,a,val,11,2,1,22"
    rows[8] = "7.png,b,val,100,100,120,120"
    rows[9] = "8.png,a,val,30,2,60,22"
    rows[10] = "9.png,b,val,1,2,x,22"
    rows[11] = "10.png,a,val,,,,"
    data = Table(str(write("\n".join(rows))))
    assert len(data.ids("val")) == 6, "the label of a row stays, whatever its box is"
    assert {id: known.boxes.tolist() for id, known in data.truth("val").items()} == {
        "8.png": [[30, 2, 40, 22]],
        "11.png": [[1, 2, 11, 22]],
    }
    notes = data.truth_notes()
    for part in ("line 8", "negative width"), ("line 9", "outside its image"), \
                ("line 10", "clipped"), ("line 11", "not four numbers"):  # fmt: skip
        assert any(all(text in note for text in part) for note in notes), part


def write_corners(write: Write, separator: str, first: str) -> Table:
    """A table whose boxes begin at x = `first`."""
    rows = [separator.join(("path", "label", "split", "xmin", "ymin", "xmax", "ymax"))]
    quoted = f'"{first}"' if separator in first else first
    for n in NUMBERS:
        split = "train" if n < 8 else "val"
        rows.append(separator.join((f"{n}.png", "ab"[n % 2], split, quoted, "2", "11", "22")))
    return Table(str(write("\n".join(rows))))


def test_decimal_commas_are_read_between_semicolons_and_named_elsewhere(write):
    data = write_corners(write, ";", "1,5")
    assert data.truth("val")["8.png"].boxes.tolist() == [[1.5, 2, 11, 22]]
    assert has_note(data, "12 lines", "decimal commas in the box: read as numbers")
    assert not data.truth_notes()
    other = write_corners(write, ",", "1,5")
    assert not other.truth("val")
    (note,) = other.truth_notes()
    assert "'line 2: 1,5; 2; 11; 22'" in note
    assert "decimal commas, where a point is to be" in note


def test_the_fingerprint_of_boxes_has_those_that_cannot_be_read(write):
    without = Table(str(write(lines()))).truth_fingerprint("val")
    prints = {write_corners(write, ",", x).truth_fingerprint("val") for x in ("1", "a", "b", "1,5")}
    assert without == "none"
    assert len(prints | {without}) == 5


def test_fractions_of_an_image_are_refused(write):
    rows = ["file,label,xmin,ymin,xmax,ymax", *(f"{n}.png,a,0.1,0.2,0.6,0.7" for n in NUMBERS)]
    with pytest.raises(UserError, match="all 12 boxes lie within 0 to 1"):
        _ = Table(str(write("\n".join(rows)))).classes


def test_objects_with_their_own_categories(folder):
    records = [
        {"file_name": f"{n}.png", "label": "ab"[n % 2],
         "objects": {"bbox": [[1, 2, 10, 20], [0, 0, 5, 5], [1, 1, 3, 3]],
                     "categories": ["a", "b", "dog"]}}
        for n in NUMBERS
    ]  # fmt: skip
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, records)))
    data = Table(str(folder / "labels.jsonl"), val=0.3)
    for known in data.truth("val").values():
        assert known.classes is not None
        assert known.classes.tolist() == [0, 1, -1]
        assert len(known.of_label()) == 1
    assert any("dog" in note and "no class" in note for note in data.truth_notes())


def test_drawn_boxes_are_read_for_all_images(folder, write):
    data = Table(str(write(lines())))
    content = {"images": [{"id": 1, "file_name": "3.png"}],
               "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
               "categories": [{"id": 1, "name": "wren"}]}  # fmt: skip
    (folder / "drawn.json").write_text(json.dumps(content))
    (known,) = data.drawn(folder / "drawn.json").values()
    assert known.boxes.tolist() == [[1, 2, 4, 6]]
    assert data.drawn_notes(folder / "drawn.json") == []


# -- a run


@pytest.mark.parametrize("options", [("data.label_column=bird",), ("data.label_column=brid",)])
def test_from_the_command_line(cli, write, capsys, options):
    path = write(lines(header="path,bird,split"))
    arguments = ("+experiment=cam", "data=table", f"data.table={path}", "data.size=32",
                 "model=small", "train.epochs=1", "train.batch=4", *options)  # fmt: skip
    code = cli(*arguments)
    if options[0].endswith("bird"):
        assert code == 0
    else:
        assert code == 2
        assert "did you mean 'bird'" in capsys.readouterr().err
