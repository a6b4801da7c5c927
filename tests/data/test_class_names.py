"""class_names: classes.txt in each form that people write, read as its author meant."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from pipeline.data.class_names import ClassNames, read_class_names
from pipeline.errors import UserError

NFD = unicodedata.normalize("NFD", "Café")


def read(tmp_path: Path, text: str, *folders: str) -> ClassNames:
    path = tmp_path / "classes.txt"
    path.write_bytes(text.encode())
    return read_class_names(path, folders)


def test_no_file_names_nothing(tmp_path: Path) -> None:
    assert read_class_names(tmp_path / "classes.txt", ["a"]) == ClassNames({}, ())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        # folder, then name
        ("n01 tench\nn02 English springer\n", {"n01": "tench", "n02": "English springer"}),
        ("n01\ttench\nn02\tdog, a\n", {"n01": "tench", "n02": "dog, a"}),
        ("n01: tench\nn02 : dog\n", {"n01": "tench", "n02": "dog"}),
        ("n01,tench\nn02, dog\n", {"n01": "tench", "n02": "dog"}),
        ("n01 tench, Tinca tinca\nn02\n", {"n01": "tench, Tinca tinca", "n02": "n02"}),
        # names alone, in any order, as other tools save them: BOM, CRLF, blank lines
        ("\ufeffn02\r\n\r\nn01\r\n", {"n01": "n01", "n02": "n02"}),
        ("N02\nn01\n", {"n01": "n01", "n02": "N02"}),
        # number, then either of them
        ("0 n01\n1 n02\n", {"n01": "n01", "n02": "n02"}),
        ("0: n01\n1: n02\n", {"n01": "n01", "n02": "n02"}),
        ("1,n01,tench\n2,n02,dog\n", {"n01": "tench", "n02": "dog"}),
    ],
)
def test_the_forms(tmp_path: Path, text: str, names: dict[str, str]) -> None:
    assert read(tmp_path, text, "n01", "n02") == ClassNames(names, [])


def test_names_alone_with_spaces(tmp_path: Path) -> None:
    text = "English Springer\ngolden retriever\nperson\n"
    result = read(tmp_path, text, "english_springer", "golden-retriever")
    assert result.names == {
        "english_springer": "English Springer",
        "golden-retriever": "golden retriever",
    }
    assert result.notes == ["classes.txt: 1 line ('person') without a folder of images, not used"]


def test_folders_with_spaces(tmp_path: Path) -> None:
    result = read(tmp_path, "golden retriever Goldie\ngolden Gold\n", "golden", "golden retriever")
    assert result.names == {"golden": "Gold", "golden retriever": "Goldie"}


def test_numbers_that_are_folders(tmp_path: Path) -> None:
    assert read(tmp_path, "0 zero\n1 one\n", "0", "1").names == {"0": "zero", "1": "one"}


def test_unicode_forms_are_the_same(tmp_path: Path) -> None:
    assert read(tmp_path, f"{NFD}\nthé\n", "Café", "thé").names == {"Café": "Café", "thé": "thé"}


def test_a_name_that_begins_with_the_name_of_a_folder(tmp_path: Path) -> None:
    """`sea lion` in a file of names is no name for the folder `sea`."""
    result = read(tmp_path, "cat\ndog\nsea lion\n", "cat", "dog", "sea")
    assert result.names == {"cat": "cat", "dog": "dog"}
    assert result.notes == [
        "classes.txt: 1 class folder ('sea') without a line, named after the folder",
        "classes.txt: 1 line ('sea lion') without a folder of images, not used; a name for a "
        "folder is to stand after a tab: folder<TAB>name",
    ]
    assert read(tmp_path, "cat\ndog\nsea\tlion\n", "cat", "dog", "sea").names["sea"] == "lion"
    assert read(tmp_path, "cat\ncat toy\n", "cat").names == {"cat": "cat"}


def test_the_exact_name_comes_before_a_similar_name(tmp_path: Path) -> None:
    result = read(tmp_path, "Cat\ncat\n", "cat")
    assert result.names == {"cat": "cat"}
    assert result.notes == ["classes.txt: 1 line ('Cat') without a folder of images, not used"]
    assert read(tmp_path, "cat\nCat\n", "cat", "Cat").names == {"cat": "cat", "Cat": "Cat"}


def test_no_line_fits(tmp_path: Path) -> None:
    result = read(tmp_path, "tench\ndog\n", "n01", "n02")
    assert result.names == {}
    assert result.notes == [
        "classes.txt: 2 class folders ('n01', 'n02') without a line, named after the folder",
        "classes.txt: 2 lines ('tench', 'dog') without a folder of images, not used; expected "
        "names of folders, such as 'n01', or folder<TAB>name",
    ]


def test_two_lines_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 3: the folder 'n01' is there twice, first in"):
        read(tmp_path, "n01 tench\n\nn01 fish\n", "n01")
